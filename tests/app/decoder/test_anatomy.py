"""Models that cannot be served through slots are refused at load, with a reason."""

from typing import Any

import pytest
import torch
from transformers import (
    Gemma2Config,
    Llama4TextConfig,
    MambaConfig,
    Phi3Config,
    PreTrainedConfig,
    PreTrainedTokenizerFast,
    Qwen2Config,
)

from app.decoder.anatomy import UnsupportedModel, examine, positions_of
from app.engine.config import EngineConfig
from app.engine.engine import Engine
from app.engine.request import Request
from tests.app.conftest import made
from tests.tiny import SHAPE
from training.models.policy import Policy
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


LONG = {"rope_type": "longrope", "rope_theta": 1e4, "short_factor": [1.0] * 4, "long_factor": [4.0] * 4}


@pytest.mark.parametrize(
    ("rope", "expected"),
    [
        ({"rope_type": "default", "rope_theta": 1e4}, 512),
        ({"rope_type": "longrope", "original_max_position_embeddings": 64}, 64),
        ({"full_attention": {"rope_type": "longrope", "original_max_position_embeddings": 64}}, 64),
        ({"rope_type": "longrope", "original_max_position_embeddings": 4096}, 512),
    ],
)
def test_the_longest_sequence_is_that_of_one_set_of_factors(rope: dict[str, Any], expected: int) -> None:
    config = Qwen2Config(**SHAPE)
    config.rope_parameters = rope
    assert positions_of(config) == expected


def test_a_slot_ends_where_the_positions_of_all_would_change(tokenizer: PreTrainedTokenizerFast) -> None:
    """LongRoPE: beyond the first length an answer would depend on the longest row beside it."""
    policy = made(Phi3Config(**SHAPE, rope_parameters=LONG, original_max_position_embeddings=48), 1, tokenizer, 0)
    ids = torch.arange(5, 45)
    with torch.no_grad():
        alone = policy.model(ids[None]).logits[0]
        beside = policy.model(torch.cat([ids, torch.zeros(20, dtype=torch.long)])[None]).logits[0, :40]
    assert float((alone - beside).abs().max()) > 0.1, "otherwise there is nothing to guard against"
    engine = Engine(policy, EngineConfig(slots=2, max_length=512))
    assert engine.max_length == 48
    with pytest.raises(ValueError, match="48"):
        engine.generate([Request(tuple(range(5, 45)), Sampling(seed=1), max_new=20)])
    request = Request(tuple(range(5, 30)), Sampling(latent_length=2, seed=1), max_new=12)
    ((finished,),) = Engine(policy, EngineConfig(slots=2, max_length=512)).generate([request])
    expected = sample(policy, request.prompt_ids, request.sampling, 12)
    assert finished.rollout.token_ids_T.tolist() == expected.token_ids_T.tolist()
