"""Models that cannot be served through slots are refused at load, with a reason."""

from typing import Any

import pytest
import torch
from transformers import (
    Gemma2Config,
    Llama4TextConfig,
    MambaConfig,
    PreTrainedConfig,
    PreTrainedTokenizerFast,
    Qwen2Config,
)

from app.decoder.anatomy import UnsupportedModel, examine
from app.engine.config import EngineConfig
from app.engine.engine import Engine
from app.engine.request import Request
from tests.app.conftest import made
from tests.tiny import SHAPE
from training.policy import Policy
from training.sample import sample
from training.sampling import Sampling


def test_anatomy_is_read_off_the_model(policy: Policy) -> None:
    anatomy = examine(policy)
    assert len(anatomy.layers) == 2
    assert {(layer.keys.heads, layer.keys.size, layer.keys.dtype) for layer in anatomy.layers} == {
        (2, 8, torch.float32)
    }
    assert anatomy.kinds == {"full_attention"}
    assert anatomy.window is None
    assert anatomy.positions == 512


def test_a_slot_is_never_longer_than_the_model(policy: Policy) -> None:
    assert Engine(policy, EngineConfig(slots=1, max_length=4096)).max_length == 512


@pytest.mark.parametrize(
    "config",
    [
        MambaConfig(vocab_size=320, hidden_size=32, num_hidden_layers=2, state_size=4, eos_token_id=1),
        Llama4TextConfig(
            **SHAPE, num_local_experts=2, attention_chunk_size=8, intermediate_size_mlp=32, num_experts_per_tok=1
        ),
    ],
    ids=["recurrent", "chunked"],
)
def test_what_keeps_more_than_keys_and_values_is_refused(
    config: PreTrainedConfig, tokenizer: PreTrainedTokenizerFast
) -> None:
    with pytest.raises(UnsupportedModel, match="choose a decoder"):
        Engine(made(config, 1, tokenizer, 0, attention="eager"), EngineConfig(slots=1, max_length=64))


def test_a_model_that_hides_state_between_positions_is_found_out(tokenizer: PreTrainedTokenizerFast) -> None:
    """A decoder that looks served but sums over positions: its logits through slots differ from a plain forward's."""
    policy = made(Qwen2Config(**SHAPE), 1, tokenizer, 0)

    def leak(_module: Any, _inputs: Any, output: torch.Tensor) -> torch.Tensor:
        return output + output.cumsum(1)

    policy.model.get_submodule("model.layers.0.mlp").register_forward_hook(leak)
    with pytest.raises(UnsupportedModel, match="other logits through slots"):
        Engine(policy, EngineConfig(slots=1, max_length=64))


def test_attention_with_a_soft_cap_is_served_where_it_is_computed(tokenizer: PreTrainedTokenizerFast) -> None:
    """Gemma 2 caps attention scores, which SDPA cannot: `load_policy` gives such a model eager attention."""
    config = Gemma2Config(**SHAPE, sliding_window=6, query_pre_attn_scalar=8)
    policy = made(config, 1, tokenizer, 0, attention="eager")
    request = Request(tuple(range(5, 30)), Sampling(latent_length=2, seed=1), max_new=12)
    ((finished,),) = Engine(policy, EngineConfig(slots=1, max_length=64)).generate([request])
    expected = sample(policy, request.prompt_ids, request.sampling, 12)
    assert finished.rollout.token_ids_T.tolist() == expected.token_ids_T.tolist()
