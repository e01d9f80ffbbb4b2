"""Quantised checkpoints are unpacked to the values they stand for, or refused before they are read."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, GptOssConfig, PreTrainedTokenizerFast

from tests.tiny import SHAPE
from training.models.checkpoint import publish
from training.models.policy import fingerprint, load_policy

FP4 = torch.tensor([0, 0.5, 1, 1.5, 2, 3, 4, 6, -0.0, -0.5, -1, -1.5, -2, -3, -4, -6])


def says_quantised(directory: Path, method: dict[str, Any]) -> None:
    path = directory / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"quantization_config": method}))


def unpacked(blocks: torch.Tensor, scales: torch.Tensor) -> torch.Tensor:
    """OCP MX: 32 values of 4 bits share a power of two; the low half of a byte comes first."""
    pairs = torch.stack((FP4[(blocks & 15).long()], FP4[(blocks >> 4).long()]), dim=-1).flatten(-2)
    return (pairs * 2.0 ** (scales.float()[..., None] - 127)).flatten(-2)


def test_mxfp4_experts_are_unpacked(tokenizer: PreTrainedTokenizerFast, tmp_path: Path) -> None:
    config = GptOssConfig(**SHAPE, num_local_experts=4, num_experts_per_tok=2)
    torch.manual_seed(3)
    AutoModelForCausalLM.from_config(config).save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    tensors = load_file(tmp_path / "model.safetensors")
    expected = {}
    for name in [one for one in tensors if one.endswith(("gate_up_proj", "down_proj"))]:
        experts, inputs, outputs = tensors.pop(name).shape
        blocks = torch.randint(0, 256, (experts, outputs, inputs // 32, 16), dtype=torch.uint8)
        scales = torch.randint(122, 128, (experts, outputs, inputs // 32), dtype=torch.uint8)
        tensors |= {f"{name}_blocks": blocks, f"{name}_scales": scales}
        expected[name] = unpacked(blocks, scales).transpose(1, 2)
    assert len(expected) == 4
    save_file(tensors, tmp_path / "model.safetensors", metadata={"format": "pt"})
    says_quantised(tmp_path, {"quant_method": "mxfp4"})
    policy = load_policy(tmp_path, version=0, dtype=torch.float32, device="cpu")
    for name, values in expected.items():
        assert torch.equal(policy.model.get_parameter(name), values)
    made = publish(
        policy, tmp_path / "out", version=0, parent_version=None, training={}, created="2026-01-01T00:00:00Z"
    )
    again = load_policy(made, version=0, dtype=torch.float32, device="cpu")
    assert fingerprint(again.model) == fingerprint(policy.model)


@pytest.mark.parametrize("method", ["gptq", "awq", "fp8", "bitsandbytes"])
def test_what_is_not_unpacked_is_refused(method: str, tokenizer: PreTrainedTokenizerFast, tmp_path: Path) -> None:
    GptOssConfig(**SHAPE).save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    says_quantised(tmp_path, {"quant_method": method, "bits": 4})
    with pytest.raises(ValueError, match=rf"quantised \({method}\): packed weights cannot learn"):
        load_policy(tmp_path, version=0, dtype=torch.float32, device="cpu")
