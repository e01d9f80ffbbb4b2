"""GGUF files through the door: the model they hold, or a refusal that names what would have been passed over."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, LlamaConfig, PreTrainedTokenizerFast

from tests.ggufs import write_gguf
from tests.tiny import SHAPE
from training.models.checkpoint import publish, verify
from training.models.policy import Policy, fingerprint, load_policy
from training.sample import sample
from training.sampling import Sampling

PRE = {"llama": "gpt-2", "qwen2": "qwen2", "qwen3": "qwen2"}
IDS = torch.arange(3, 40)[None]
pytestmark = pytest.mark.filterwarnings("ignore:The given NumPy array is not writable:UserWarning")


def opened(path: Path, dtype: torch.dtype = torch.float32) -> Policy:
    return load_policy(str(path), version=0, dtype=dtype, device="cpu")


def logits(policy: Policy) -> torch.Tensor:
    with torch.inference_mode():
        out: torch.Tensor = policy.model(input_ids=IDS).logits
    return out


@pytest.mark.parametrize("family", PRE)
def test_a_file_holds_the_model_it_was_made_of(
    family: str, model_dirs: Mapping[str, Path], tokenizer: PreTrainedTokenizerFast, tmp_path: Path
) -> None:
    plain = opened(model_dirs[family])
    packed = opened(write_gguf(model_dirs[family], tmp_path / "model.gguf", tokenizer, pre=PRE[family]))
    torch.testing.assert_close(logits(packed), logits(plain), rtol=0, atol=2e-5)
    its_rule = opened(model_dirs["llama" if family == "llama" else "qwen2"]).tokenizer
    for text in ("What is 17 - 9?\n\n  ok", "<|im_end|>", "ä€漢"):
        assert packed.tokenizer.encode(text) == its_rule.encode(text)
    assert packed.eos_ids == plain.eos_ids


def test_blocks_are_unpacked_to_the_values_they_stand_for(
    model_dirs: Mapping[str, Path], tokenizer: PreTrainedTokenizerFast, tmp_path: Path
) -> None:
    path = write_gguf(model_dirs["llama"], tmp_path / "m.gguf", tokenizer, blocks=gguf.GGMLQuantizationType.Q8_0)
    weight = AutoModelForCausalLM.from_pretrained(model_dirs["llama"]).model.layers[1].mlp.up_proj.weight
    stored = gguf.quants.quantize(weight.detach().numpy(), gguf.GGMLQuantizationType.Q8_0)
    expected = torch.tensor(gguf.quants.dequantize(stored, gguf.GGMLQuantizationType.Q8_0))
    assert not torch.equal(expected, weight)
    for dtype in (torch.float32, torch.bfloat16):
        loaded = opened(path, dtype).model.get_parameter("model.layers.1.mlp.up_proj.weight")
        assert torch.equal(loaded, expected.to(dtype))


def test_what_was_unpacked_is_published_as_safetensors_and_learns(
    model_dirs: Mapping[str, Path], tokenizer: PreTrainedTokenizerFast, tmp_path: Path
) -> None:
    path = write_gguf(model_dirs["llama"], tmp_path / "m.gguf", tokenizer, blocks=gguf.GGMLQuantizationType.Q8_0)
    policy = opened(path)
    made = publish(
        policy, tmp_path / "out", version=0, parent_version=None, training={}, created="2026-01-01T00:00:00Z"
    )
    again = opened(made)
    assert verify(made).fingerprint == fingerprint(again.model) == fingerprint(policy.model)
    assert "quantization_config" not in (made / "config.json").read_text()
    assert again.tokenizer.encode("17 - 9") == policy.tokenizer.encode("17 - 9")
    assert all(parameter.requires_grad for parameter in again.model.parameters())
    rollout = sample(again, [5, 6, 7], Sampling(latent_length=2, seed=1), 8)
    assert torch.isfinite(rollout.token_logprobs_T).all()


def test_every_end_that_the_file_names_ends_an_answer(
    model_dirs: Mapping[str, Path], tokenizer: PreTrainedTokenizerFast, tmp_path: Path
) -> None:
    more = {"tokenizer.ggml.eot_token_id": 7, "tokenizer.ggml.eom_token_id": 9}
    policy = opened(write_gguf(model_dirs["llama"], tmp_path / "m.gguf", tokenizer, more=more))
    assert policy.eos_ids == {1, 7, 9}
    made = publish(
        policy, tmp_path / "out", version=0, parent_version=None, training={}, created="2026-01-01T00:00:00Z"
    )
    assert opened(made).eos_ids == {1, 7, 9}, "a published checkpoint ends where the file did"


@pytest.mark.parametrize(
    ("more", "pre", "says"),
    [
        ({"{}.rope.scaling.factor": 4.0}, "gpt-2", r"rope\.scaling\.factor = 4"),
        ({"{}.attention.sliding_window": 64}, "gpt-2", r"attention\.sliding_window = 64"),
        ({"{}.final_logit_softcapping": 30.0}, "gpt-2", r"final_logit_softcapping = 30"),
        ({"{}.expert_used_count": 2}, "gpt-2", "expert_used_count = 2"),
        ({}, "rule-of-nobody", "splits text by the rule 'rule-of-nobody'"),
        ({"split.count": 3}, "gpt-2", "one of 3 parts"),
    ],
)
def test_what_transformers_passes_over_is_refused(
    more: dict[str, Any],
    pre: str,
    says: str,
    model_dirs: Mapping[str, Path],
    tokenizer: PreTrainedTokenizerFast,
    tmp_path: Path,
) -> None:
    path = write_gguf(model_dirs["llama"], tmp_path / "m.gguf", tokenizer, more=more, pre=pre)
    with pytest.raises(ValueError, match=says):
        opened(path)


def test_a_rule_that_publishing_would_change_is_refused(
    model_dirs: Mapping[str, Path], tokenizer: PreTrainedTokenizerFast, tmp_path: Path
) -> None:
    """transformers gives every Qwen2 model Qwen2's rule, whatever its saved tokenizer says."""
    path = write_gguf(model_dirs["qwen2"], tmp_path / "m.gguf", tokenizer, pre="gpt-2")
    with pytest.raises(ValueError, match="rule 'gpt-2', and the tokenizer of a qwen2 model by another"):
        opened(path)


def test_a_tensor_that_nothing_reads_is_refused(
    model_dirs: Mapping[str, Path], tokenizer: PreTrainedTokenizerFast, tmp_path: Path
) -> None:
    extra = {"blk.0.attn_sinks.weight": np.ones(4, np.float32)}
    path = write_gguf(model_dirs["llama"], tmp_path / "m.gguf", tokenizer, tensors=extra)
    with pytest.raises(ValueError, match="does not read all of it"):
        opened(path)
    factors = {"rope_factors_long.weight": np.ones(4, np.float32)}
    path = write_gguf(model_dirs["llama"], tmp_path / "n.gguf", tokenizer, tensors=factors)
    with pytest.raises(ValueError, match="rope_factors_long"):
        opened(path)


def test_llama_3s_positions_are_read_off_their_divisors(tokenizer: PreTrainedTokenizerFast, tmp_path: Path) -> None:
    """llama.cpp keeps only the divisors; the rule behind them is found, and anything else is refused."""
    rope = {
        "rope_type": "llama3",
        "rope_theta": 500000.0,
        "factor": 32.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 8192,
    }
    shape = SHAPE | {"head_dim": 16}  # enough frequencies that some are scaled, some not, some in part
    torch.manual_seed(5)
    source = tmp_path / "source"
    scaled = AutoModelForCausalLM.from_config(LlamaConfig(**shape, rope_parameters=rope))
    scaled.save_pretrained(source)
    tokenizer.save_pretrained(source)
    plain_X = 500000.0 ** -(torch.arange(0, 16, 2) / 16)
    divisors = (plain_X / scaled.model.rotary_emb.inv_freq).numpy()
    assert len({round(float(one), 3) for one in divisors}) > 2
    path = write_gguf(source, tmp_path / "m.gguf", tokenizer, tensors={"rope_freqs.weight": divisors})
    torch.testing.assert_close(logits(opened(path)), logits(opened(source)), rtol=0, atol=2e-5)
    other = {"rope_freqs.weight": np.linspace(1, 8, 8, dtype=np.float32)}
    with pytest.raises(ValueError, match="not Llama 3's"):
        opened(write_gguf(source, tmp_path / "n.gguf", tokenizer, tensors=other))


def test_digits_stand_apart_where_the_file_says_so(
    model_dirs: Mapping[str, Path], tokenizer: PreTrainedTokenizerFast, tmp_path: Path
) -> None:
    policy = opened(write_gguf(model_dirs["llama"], tmp_path / "m.gguf", tokenizer, pre="smollm"))
    tokenizer_of: Any = policy.tokenizer
    split = tokenizer_of.backend_tokenizer.pre_tokenizer.pre_tokenize_str("a 1234b")
    assert [piece for piece, _ in split] == ["a", "Ġ", "1", "2", "3", "4", "b"]


def test_what_is_no_whole_file_is_refused(
    model_dirs: Mapping[str, Path],
    tokenizer: PreTrainedTokenizerFast,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with pytest.raises(ValueError, match="no model file"):
        opened(tmp_path / "none.gguf")
    path = tmp_path / "m.gguf"
    path.write_bytes(b"not a model at all" * 10)
    with pytest.raises(ValueError, match="no GGUF file"):
        opened(path)
    whole = write_gguf(model_dirs["llama"], path, tokenizer).read_bytes()
    for length, says in ((20, "no GGUF file"), (3000, "no GGUF file"), (len(whole) - 4000, "cut short")):
        path.write_bytes(whole[:length])
        with pytest.raises(ValueError, match=says):
            opened(path)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ValueError, match=r"lepo-service\[gguf\]"):
        opened(path)
