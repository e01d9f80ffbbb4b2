"""A micro-batch that memory does not hold is done in halves: the step is the whole's, and nothing is done twice."""

import json
import math
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, cast

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from transformers import PreTrainedModel

from training.distill import corrected
from training.distributed.ranks import Ranks
from training.models.lora import Adapted, LoraSettings
from training.objective import ObjectiveConfig
from training.optimization.health import HealthConfig
from training.optimization.optimizer import OptimizerConfig
from training.update import Learner, UpdateConfig, UpdateReport

from .rollouts import mixed_batch, relative_difference, tiny

ADVANTAGES = [1.0, -1.0, 0.5, -0.5, 2.0, -2.0, 0.3]
CONFIG = UpdateConfig(
    optimizer=OptimizerConfig(learning_rate=1e-3),
    objective=ObjectiveConfig(normalization="bnpo"),
    health=HealthConfig(max_kl=math.inf, explosion_norm=math.inf),
)
REFUSALS: dict[str, Callable[[], BaseException]] = {
    "cuda": lambda: torch.OutOfMemoryError("CUDA out of memory."),
    "cpu": lambda: RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 4096 bytes."),
    "python": MemoryError,
}


@dataclass(eq=False)
class Tight:
    """Lets no more than a few rollouts through a model that learns; refuses at one place of forward or backward."""

    rows: int  # that fit
    where: str  # forward, or the parameter at whose gradient the backward pass fails
    refusal: Callable[[], BaseException] = REFUSALS["cuda"]
    seen: list[int] = field(default_factory=list)  # rows of every pass that learns
    _handles: list[Any] = field(default_factory=list)

    def watch(self, model: PreTrainedModel) -> None:
        """Stand in the way."""
        first = cast("Any", model).model.layers[0]
        self._handles.append(first.register_forward_pre_hook(self._look))
        if self.where != "forward":
            self._handles.append(model.get_parameter(self.where).register_hook(self._refuse))  # type: ignore[no-untyped-call]

    def _look(self, _: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        if torch.is_grad_enabled():
            self.seen.append(len(inputs[0]))
            if self.where == "forward":
                self._refuse(None)

    def _refuse(self, _: Tensor | None) -> None:
        if self.seen[-1] > self.rows:
            raise self.refusal()


def learned(
    config: UpdateConfig, dtype: torch.dtype, tight: Tight | None = None
) -> tuple[UpdateReport, dict[str, Tensor]]:
    """Learn from one batch; the weights' way."""
    model = tiny(dtype=dtype)
    learner = Learner(model, config)
    if tight is not None:
        tight.watch(model)
    report = learner.update(mixed_batch(dtype=dtype), ADVANTAGES)
    moments = {name: one for name, one in learner.state().items() if name.startswith("exp_avg.")}
    assert all(one.requires_grad for one in model.parameters())
    return report, moments


MIDDLE = "model.layers.1.self_attn.q_proj.weight"  # later layers, and the head, have their gradient by then
LAST = "model.layers.0.input_layernorm.weight"


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
@pytest.mark.parametrize("where", ["forward", MIDDLE, LAST])
@pytest.mark.parametrize("rows", [1, 3])
def test_halves_give_the_gradient_of_the_whole(rows: int, where: str, dtype: torch.dtype) -> None:
    whole, expected = learned(CONFIG, dtype)
    tight = Tight(rows, where)
    report, moments = learned(CONFIG, dtype, tight)
    assert (whole.halved, whole.micro_batches) == (0, 1)
    assert report.halved == sum(one > rows for one in tight.seen) > 0
    assert tight.seen[0] == 7
    exact = dtype == torch.float64
    assert report.loss == pytest.approx(whole.loss, rel=1e-9 if exact else 1e-2)
    assert report.gradient_norm == pytest.approx(whole.gradient_norm, rel=1e-9 if exact else 1e-2)
    assert report.objective.token_steps == whole.objective.token_steps
    assert relative_difference(moments, expected) < (1e-6 if exact else 0.05)


@pytest.mark.parametrize("refusal", REFUSALS)
def test_a_shortage_is_known_in_whose_words_ever(refusal: str) -> None:
    report, _ = learned(CONFIG, torch.float32, Tight(3, LAST, REFUSALS[refusal]))
    assert report.halved == 2  # 7, and its half of 4


def test_memory_that_really_runs_out_is_lived_with(tmp_path: Path) -> None:
    """A process that may have no more address space than half a micro-batch takes."""
    told = []
    for spare in ("0", "160"):
        command = [sys.executable, "-m", "tests.training.short_learner", spare, str(tmp_path / spare)]
        ran = subprocess.run(
            command,
            env=os.environ | {"OMP_NUM_THREADS": "1"},
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        assert ran.returncode == 0, ran.stderr
        told.append(json.loads(ran.stdout.splitlines()[-1]))
    whole, tight = told
    assert whole["halved"] == 0
    assert tight["halved"] > 0
    assert tight["loss"] == pytest.approx(whole["loss"], rel=1e-5)
    assert tight["gradient_norm"] == pytest.approx(whole["gradient_norm"], rel=1e-5)
    assert relative_difference(load_file(tmp_path / "160"), load_file(tmp_path / "0")) < 1e-4


def test_what_was_done_is_not_done_again() -> None:
    """Micro-batches before the one that fails are not run a second time; nor is the half that fits."""
    config = replace(CONFIG, micro_batch_positions=30)
    roomy, tight = Tight(7, MIDDLE), Tight(2, MIDDLE)
    learned(config, torch.float32, roomy)
    learned(config, torch.float32, tight)
    assert sorted(roomy.seen) == [2, 2, 3]
    assert sum(one for one in tight.seen if one <= 2) == 7
    assert sorted(tight.seen) == [1, 2, 2, 2, 3]


def test_recomputed_layers_and_adapters_are_halved_too() -> None:
    steps = []
    for rows in (7, 2):
        served = tiny()
        twin = Adapted(served, LoraSettings(2, 4.0), "tiny")
        config = replace(CONFIG, activation_checkpointing=True)
        learner = Learner(twin.model, config, follower=twin)
        name = next(name for name, _ in twin.model.named_parameters() if "layers.0" in name and "lora_B" in name)
        Tight(rows, name).watch(twin.model)
        report = learner.update(mixed_batch(), ADVANTAGES)
        assert (report.halved > 0) == (rows == 2)
        steps.append({key: one for key, one in learner.state().items() if key.startswith("exp_avg.")})
    assert relative_difference(*steps) < 1e-4


def test_corrections_are_halved_too() -> None:
    rollouts = mixed_batch()
    corrections = [corrected(one, torch.tensor([7, 8, 1]), None) for one in rollouts[:4]]
    ends = []
    for rows in (4, 1):
        model = tiny()
        learner, tight = Learner(model, CONFIG), Tight(rows, MIDDLE)
        tight.watch(model)
        report = learner.update([], [], corrections)
        assert tight.seen[0] == 4
        assert report.halved == (0 if rows == 4 else 3)
        ends.append((report.distilled.loss, {key: one for key, one in learner.state().items() if "exp_avg." in key}))
    assert ends[1][0] == pytest.approx(ends[0][0], rel=1e-5)
    assert relative_difference(ends[1][1], ends[0][1]) < 1e-4


def test_one_rollout_that_does_not_fit_is_an_error_and_leaves_no_trace() -> None:
    model = tiny()
    learner = Learner(model, CONFIG)
    before = {name: one.detach().clone() for name, one in model.named_parameters()}
    Tight(0, MIDDLE).watch(model)
    with pytest.raises(torch.OutOfMemoryError):
        learner.update(mixed_batch(), ADVANTAGES)
    assert all(torch.equal(one, before[name]) and one.requires_grad for name, one in model.named_parameters())
    assert all(one.grad is None for one in model.parameters())


def test_other_errors_are_not_tried_again() -> None:
    tight = Tight(1, MIDDLE, lambda: RuntimeError("mat1 and mat2 shapes cannot be multiplied"))
    with pytest.raises(RuntimeError, match="cannot be multiplied"):
        learned(CONFIG, torch.float32, tight)
    assert len(tight.seen) == 1


def test_several_processes_do_not_go_back_alone() -> None:
    model = tiny()
    learner, tight = Learner(model, CONFIG, ranks=Ranks(0, 2)), Tight(1, MIDDLE)
    tight.watch(model)
    with pytest.raises(torch.OutOfMemoryError):
        learner.update(mixed_batch(), ADVANTAGES)
    assert len(tight.seen) == 1
