"""`lepo model check`: what it says of a model is what loading it shows, byte for byte where it can be."""

import json
import shutil
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import pytest
import torch
from click.testing import CliRunner
from transformers import (
    AutoModelForCausalLM,
    BertConfig,
    Llama4TextConfig,
    LlamaConfig,
    MambaConfig,
    PreTrainedConfig,
    PreTrainedTokenizerFast,
    Qwen2Config,
)

from app.cli import build
from app.engine.config import EngineConfig
from app.engine.engine import Engine
from app.models import memory
from app.models.learning import adapters, learning_of, plan_of
from app.models.memory import Need
from app.models.outline import Outline, made, outline
from app.models.report import report
from app.settings import Settings
from tests.app.families import ROOM, families, save
from tests.ggufs import write_gguf
from tests.tiny import SHAPE
from training.memory.footprint import activations_of
from training.models.lora import Adapted, LoraSettings
from training.models.policy import load_policy
from training.sample import sample
from training.sampling import Sampling
from training.update import Learner, UpdateConfig

FAMILIES = tuple(families())
SMALL: dict[str, Any] = {"device": "cpu", "slots": 3, "max_length": 128, "prefix_cache_tokens": 64}


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory, tokenizer: PreTrainedTokenizerFast) -> Mapping[str, Path]:
    root = tmp_path_factory.mktemp("families")
    return {family: save(config, tokenizer, root / family) for family, config in families().items()}


def needs(found: list[Need]) -> dict[str, int]:
    return {need.what.partition(": ")[2] or need.what: need.bytes for need in found}


def outlined(directory: Path) -> Outline:
    return outline(str(directory), None)


@pytest.mark.parametrize("family", FAMILIES)
def test_what_is_promised_of_a_family_is_what_a_server_holds(saved: Mapping[str, Path], family: str) -> None:
    settings = Settings(**SMALL)
    found = outlined(saved[family])
    verdicts = {one.what: one.works for one in report(str(saved[family]), settings).verdicts}
    assert verdicts == {"model": True, "engine": True, "replay": True, "LoRA": True, "swap": True, "chat": False}
    policy = load_policy(saved[family], version=0, dtype=torch.float32, device="cpu")
    engine = Engine(policy, EngineConfig.from_settings(settings))
    lane: Any = engine._lanes.serving
    assert found.anatomy is not None
    assert engine.max_length == min(128, found.anatomy.positions or 128)
    said = needs(memory.serving(found, found.anatomy, settings))
    assert said["weights"] == 2 * sum(one.numel() * 4 for one in policy.model.parameters())
    assert said["keys and values"] == sum(one.numel() * 4 for one in lane.rows.cache.pool.planes)


@pytest.mark.parametrize("rank", [0, 4])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_what_is_said_of_learning_is_what_a_learner_holds(saved: Mapping[str, Path], dtype: str, rank: int) -> None:
    settings = Settings(**SMALL, dtype=cast("Any", dtype))
    policy = load_policy(saved["qwen3"], version=0, dtype=getattr(torch, dtype), device="cpu")
    rollout = sample(policy, [5, 6, 7], Sampling(seed=1), 8)
    twin = Adapted(policy.model, LoraSettings(rank, 8.0), "x") if rank else None
    learner = Learner(policy.model if twin is None else twin.model, UpdateConfig(undo=False), follower=twin)
    for advantages in ([1.0, -1.0], [1.0, -0.5]):  # half of each adapter has its first gradient in the second update
        learner.update([rollout, rollout], advantages)
    optimizer: Any = learner._optimizer
    moments = [one for name, one in optimizer.moments().items() if not name.startswith("step")]
    masters = list(optimizer._masters.values()) if optimizer.mixed else []
    optimizer.begin()
    gradients = [one.grad for one in optimizer._masters.values()]
    own = sum(one.nbytes for one in optimizer._parameters.values()) if optimizer.mixed else 0  # of a micro-batch
    said = needs(memory.learning(outlined(saved["qwen3"]), settings, rank=rank))
    assert said["optimizer"] == own + sum(one.nbytes for one in [*moments, *masters, *gradients])
    stored = {one.data_ptr(): one for one in policy.model.parameters()}
    if twin is not None:
        stored |= {one.data_ptr(): one for one in twin.model.parameters()}
    assert said["weights"] == sum(one.numel() * one.element_size() for one in stored.values())
    told = learner.plan(settings.max_length)
    assert told.held == plan_of(outlined(saved["qwen3"]), replace(learning_of(settings), rank=rank), 0).held


@pytest.mark.parametrize("family", ["llama", "qwen3_moe", "mixtral"])
def test_the_adapters_that_are_counted_are_those_that_learn(saved: Mapping[str, Path], family: str) -> None:
    policy = load_policy(saved[family], version=0, dtype=torch.float32, device="cpu")
    twin = Adapted(policy.model, LoraSettings(4, 8.0), "x")
    learned = sum(one.numel() for name, one in twin.model.named_parameters() if "lora_" in name)
    assert adapters(outlined(saved[family]), 4) == learned


@pytest.mark.parametrize("family", ["qwen2", "llama", "gemma3", "phi3", "olmo2", "qwen3_moe", "gpt_oss"])
def test_activations_are_estimated_within_half(family: str) -> None:
    """Of a shape whose layers are large beside what a tiny one keeps in norms and masks."""
    config = families()[family]
    for name, value in {"hidden_size": 256, "intermediate_size": 640, "num_attention_heads": 8}.items():
        setattr(config, name, value)
    config.head_dim = 32
    if hasattr(config, "moe_intermediate_size"):
        config.moe_intermediate_size = 320
    found = made(config, held=None, files="", template=None)
    model: Any = AutoModelForCausalLM.from_config(config, attn_implementation=found.attention).eval()
    weights = {one.untyped_storage().data_ptr() for one in model.parameters()}
    kept: dict[int, torch.Tensor] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        place = tensor.untyped_storage().data_ptr()
        if place not in weights:
            kept[place] = tensor
        return tensor

    inputs = model.get_input_embeddings()(torch.arange(256).view(2, 128) % 300).detach()
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        model.base_model(inputs_embeds=inputs, use_cache=False)
    truth = sum(one.untyped_storage().nbytes() for one in kept.values())
    each = activations_of(found.model, recomputed=False, chunk_elements=1, item=4)
    assert 2 / 3 < 256 * (each.position + 128 * each.pair) / truth < 3 / 2


def test_settings_have_their_effect_on_what_is_needed() -> None:
    deep = families()["llama"]
    deep.num_hidden_layers = 12
    found = made(deep, held=None, files="", template=None)
    assert found.anatomy is not None

    def total(**changes: Any) -> int:
        assert found.anatomy is not None
        return memory.serving(found, found.anatomy, Settings(**SMALL | changes))[-1].bytes

    def learning(rank: int = 0, free: int = 2**40, **changes: Any) -> int:
        return memory.learning(found, Settings(**SMALL | changes), rank=rank, free=lambda _: free)[-1].bytes

    usual = total()
    assert total(dtype="bfloat16") < usual
    assert total(swap_mode="drain") < usual
    assert total(packing="off") < usual
    assert total(slots=30) > usual
    assert total(max_length=256) > usual
    assert total(prefix_cache_tokens=6400) > usual
    assert total(cache_tokens=256) < usual
    assert learning(kl_beta=0.1) == learning() + found.parameters * 4
    assert learning(activation_checkpointing=True) < learning()
    assert learning(micro_batch_tokens=128) < learning()
    assert learning(free=2**20) < learning() == learning(micro_batch_tokens=16_384)
    assert learning(rank=4) < learning()


@pytest.mark.parametrize(
    ("config", "slots", "gigabytes"),
    [
        (
            Qwen2Config(
                vocab_size=151_936,
                hidden_size=2048,
                intermediate_size=11_008,
                num_hidden_layers=36,
                num_attention_heads=16,
                num_key_value_heads=2,
                tie_word_embeddings=True,
            ),
            16,
            24,
        ),
        (
            LlamaConfig(
                vocab_size=128_256,
                hidden_size=4096,
                intermediate_size=14_336,
                num_hidden_layers=32,
                num_attention_heads=32,
                num_key_value_heads=8,
            ),
            16,
            48,
        ),
    ],
    ids=["3B", "8B"],
)
def test_real_models_serve_and_swap_on_one_card(config: Any, slots: int, gigabytes: int) -> None:
    """E8: Qwen2.5-3B took 23 GB and Llama-3.1-8B 71 GB before anything else."""
    config.max_position_embeddings = 32_768
    found = made(config, held=None, files="", template=None)
    assert found.anatomy is not None
    settings = Settings(device="cuda", dtype="bfloat16", slots=slots, max_length=2048)
    total = next(one.bytes for one in memory.serving(found, found.anatomy, settings) if one.total)
    assert total < gigabytes * 10**9
    longer = Settings(device="cuda", dtype="bfloat16", slots=slots, max_length=32_768, cache_tokens=16 * 2048 + 32_768)
    assert next(one.bytes for one in memory.serving(found, found.anatomy, longer) if one.total) < gigabytes * 10**9


@pytest.mark.parametrize(
    ("config", "says"),
    [
        (MambaConfig(vocab_size=320, hidden_size=32, num_hidden_layers=2, state_size=4), "linear_attention"),
        (
            Llama4TextConfig(**SHAPE, num_local_experts=2, attention_chunk_size=8, num_experts_per_tok=1),
            "chunked_attention",
        ),
    ],
    ids=["recurrent", "chunked"],
)
def test_what_the_engine_would_refuse_is_refused_here(
    config: PreTrainedConfig, says: str, tokenizer: PreTrainedTokenizerFast, tmp_path: Path
) -> None:
    result = CliRunner().invoke(build(), ["model", "check", str(save(config, tokenizer, tmp_path))])
    assert result.exit_code == 1, result.output
    assert "engine" in result.output
    told = report(str(tmp_path), Settings(**SMALL))
    (engine,) = [one for one in told.verdicts if one.what == "engine"]
    assert not engine.works
    assert says in engine.words
    assert not told.needs


def test_the_table_shows_what_a_model_does_and_needs(saved: Mapping[str, Path]) -> None:
    env = {"COLUMNS": "200", "LEPO_MODEL": str(saved["phi3_long"]), "LEPO_SLOTS": "7"}
    result = CliRunner(env=env).invoke(build(), ["model", "check"])
    assert result.exit_code == 0, result.output
    for words in (
        "Phi3ForCausalLM",
        f"up to {ROOM} positions",
        "LEPO_SLOTS=7",
        "a server, at most",
        "no chat template",
    ):
        assert words in result.output


def test_a_gguf_file_is_looked_at_without_unpacking_it(
    saved: Mapping[str, Path], tokenizer: PreTrainedTokenizerFast, tmp_path: Path
) -> None:
    found = outline(str(write_gguf(saved["llama"], tmp_path / "m.gguf", tokenizer)), None)
    assert found.held == found.parameters == outlined(saved["llama"]).parameters
    assert found.files.startswith("GGUF (llama)")


@pytest.mark.parametrize(
    "fault", ["lacks weights", "contradicts itself", "cut short", "no weights", "encoder", "quantised", "nothing there"]
)
def test_what_the_door_would_refuse_is_said_in_a_line(fault: str, saved: Mapping[str, Path], tmp_path: Path) -> None:
    directory = tmp_path / "model"
    shutil.copytree(saved["qwen3"], directory)
    weights, config = directory / "model.safetensors", directory / "config.json"
    if fault == "lacks weights":
        config.write_text(json.dumps(json.loads(config.read_text()) | {"num_hidden_layers": 3, "layer_types": None}))
    elif fault == "contradicts itself":
        config.write_text(json.dumps(json.loads(config.read_text()) | {"num_hidden_layers": 3}))
    elif fault == "cut short":
        weights.write_bytes(weights.read_bytes()[:-100])
    elif fault == "no weights":
        weights.unlink()
    elif fault == "encoder":
        BertConfig().save_pretrained(directory)
    elif fault == "quantised":
        config.write_text(json.dumps(json.loads(config.read_text()) | {"quantization_config": {"quant_method": "awq"}}))
    else:
        shutil.rmtree(directory)
    says = {
        "lacks weights": "fetch them again",
        "contradicts itself": "num_hidden_layers",
        "cut short": "is cut short",
        "no weights": "no safetensors weights",
        "encoder": "encoder model",
        "quantised": "is quantised (awq)",
        "nothing there": "no model directory",
    }
    result = CliRunner().invoke(build(), ["model", "check", str(directory)])
    assert result.exit_code == 1
    assert result.output.startswith("Error: ")
    assert says[fault] in result.output


def test_a_model_that_is_not_here_says_how_to_have_it(tmp_path: Path) -> None:
    result = CliRunner(env={"LEPO_VAR_DIR": str(tmp_path)}).invoke(build(), ["model", "check", "smollm2"])
    if result.exit_code:  # its package is not installed
        assert "lepo model fetch smollm2" in result.output
