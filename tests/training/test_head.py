"""A model taken apart gives the logits of the model whole, or is refused."""

from typing import Any, cast

import pytest
import torch
from transformers import (
    CohereConfig,
    CohereForCausalLM,
    Gemma2Config,
    Gemma2ForCausalLM,
    GraniteConfig,
    GraniteForCausalLM,
    Qwen2ForCausalLM,
)

from training.models.head import take_apart

from .rollouts import SHAPE, tiny

POST_PROCESSING: dict[str, tuple[Any, Any, dict[str, Any], float, float | None]] = {
    "softcap": (Gemma2ForCausalLM, Gemma2Config, {"final_logit_softcapping": 3.0, "head_dim": 8}, 1.0, 3.0),
    "multiplied": (CohereForCausalLM, CohereConfig, {"logit_scale": 0.0625}, 0.0625, None),
    "divided": (GraniteForCausalLM, GraniteConfig, {"logits_scaling": 8.0}, 0.125, None),
}


@pytest.mark.parametrize("name", POST_PROCESSING)
def test_post_processing_is_found_and_reproduced(name: str) -> None:
    kind, config, options, scale, softcap = POST_PROCESSING[name]
    torch.manual_seed(0)
    model = kind(config(**(SHAPE | options)))
    model.train(mode=False)
    parts = take_apart(model)
    assert parts.scale == pytest.approx(scale)
    assert parts.softcap == softcap
    ids_BS = torch.tensor([[5, 6, 7, 30, 31], [9, 3, 3, 20, 4]])
    with torch.no_grad():
        logits = parts.logits(parts.hidden(parts.embedding(ids_BS)))
        torch.testing.assert_close(logits, model(ids_BS).logits, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", ["qwen2", "qwen3", "llama"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_a_plain_head_is_plain(name: str, dtype: torch.dtype) -> None:
    parts = take_apart(tiny(name, dtype))
    assert (parts.scale, parts.softcap, parts.vocabulary) == (1.0, None, SHAPE["vocab_size"])


class Doubled(Qwen2ForCausalLM):
    """A model whose forward does something to its logits that no configuration tells."""

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        output = super().forward(*args, **kwargs)
        output.logits = output.logits * 2.0
        return output


def test_unknown_post_processing_is_refused() -> None:
    model = Doubled(cast("Any", tiny().config))
    with pytest.raises(ValueError, match="post-processes its logits"):
        take_apart(model)


def test_a_model_without_a_head_is_refused() -> None:
    with pytest.raises(ValueError, match="output layer"):
        take_apart(cast("Any", tiny()).model)
