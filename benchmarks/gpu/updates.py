"""An update on the device gives the CPU's: loss, norm, and every weight after the step.

In float64 all of it must agree, but for the stock norms, which work in float32; in float32 Adam's first step is nearly
a sign, so weights whose gradient is nothing but rounding may go the other way, and what is bounded is how many.
bfloat16 runs through float32 masters.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from benchmarks.gpu import small
from benchmarks.gpu.runner import Note
from benchmarks.gpu.setup import Setup
from training.models.policy import Policy
from training.objective import ObjectiveConfig
from training.optimization.optimizer import OptimizerConfig
from training.replay import ReplayConfig
from training.rollout import Rollout
from training.sample import sample
from training.sampling import Sampling
from training.update import Learner, UpdateConfig, UpdateReport

_RATE = 1e-3
_HEAD_CHUNK = small.VOCABULARY * 40  # 40 positions: the head is read in several chunks


def check(note: Note, setup: Setup) -> None:
    """One update of every weight, on rollouts with latents, in every dtype."""
    start = small.policy("qwen2", torch.float64, "cpu")
    rollouts = [_rollout(start, index) for index in range(8)]
    advantages = [1.0, -1.0, 0.5, -0.5, 0.0, 1.0, -1.0, 0.25]
    note.tell("rollouts sampled")
    here = _updated(start, UpdateConfig(optimizer=OptimizerConfig(_RATE)), rollouts, advantages)
    variants = {
        "float64": (torch.float64, {}, 1e-5, 1e-4),
        "float64, recomputed, head in chunks": (
            torch.float64,
            {
                "activation_checkpointing": True,
                "micro_batch_positions": 120,
                "replay": ReplayConfig(chunk_elements=_HEAD_CHUNK),
            },
            1e-5,
            1e-4,
        ),
        "float32": (torch.float32, {}, 1e-3, 0.02),
        "bfloat16": (torch.bfloat16, {}, 0.1, 1.0),
    }
    for name, (dtype, settings, close, share) in variants.items():

        def judge(
            dtype: torch.dtype = dtype, settings: dict[str, Any] = settings, close: float = close, share: float = share
        ) -> tuple[bool, Mapping[str, Any]]:
            config = UpdateConfig(optimizer=OptimizerConfig(_RATE), **settings)
            there = _updated(small.elsewhere(start, setup.device, dtype), config, rollouts, advantages)
            return _compared(here, there, close, share)

        note.check(name, judge)
    note.check("float32, KL to a reference, twice", lambda: _with_reference(setup, start, rollouts, advantages))


def _rollout(policy: Policy, index: int) -> Rollout:
    prompt = range(3 + 5 * index, 20 + 7 * index)
    sampling = Sampling(latent_length=index % 4, seed=index, draws=1 + index % 3)
    return sample(policy, list(prompt), sampling, 8 + 3 * index, ignore_eos=True)


Result = tuple[UpdateReport, Policy]


def _updated(start: Policy, config: UpdateConfig, rollouts: Sequence[Rollout], advantages: Sequence[float]) -> Result:
    policy = small.elsewhere(start, str(start.device))
    policy.model.requires_grad_(requires_grad=True)
    return Learner(policy.model, config).update(rollouts, advantages), policy


def _compared(here: Result, there: Result, close: float, share: float) -> tuple[bool, Mapping[str, Any]]:
    """Relative differences of loss and norm within `close`; weights apart by half a step at most `share` of all."""
    far = total = 0
    for mine, theirs in zip(here[1].model.parameters(), there[1].model.parameters(), strict=True):
        far += int(((mine.detach().double() - theirs.detach().cpu().double()).abs() > _RATE / 2).sum())
        total += mine.numel()
    figures = {
        "loss": _apart(here[0].loss, there[0].loss),
        "norm": _apart(here[0].gradient_norm, there[0].gradient_norm),
        "sampler_kl": there[0].objective.sampler_kl,
        "kl_apart": _apart(here[0].kl, there[0].kl),
        "share_of_weights_apart": far / total,
    }
    return figures["loss"] <= close and figures["norm"] <= close and far / total <= share, figures


def _with_reference(
    setup: Setup, start: Policy, rollouts: Sequence[Rollout], advantages: Sequence[float]
) -> tuple[bool, Mapping[str, Any]]:
    """Two updates with a KL term, on the device and on the CPU; the second one starts from the first one's moments."""
    losses: dict[str, list[float]] = {}
    for device in ("cpu", setup.device):
        policy = small.elsewhere(start, device, torch.float32)
        policy.model.requires_grad_(requires_grad=True)
        config = UpdateConfig(
            optimizer=OptimizerConfig(1e-4), objective=ObjectiveConfig(beta=0.05), epochs=2, minibatches=2
        )
        learner = Learner(policy.model, config, small.elsewhere(start, device, torch.float32).model)
        reports = [learner.update(rollouts, advantages) for _ in range(2)]
        losses[device] = [report.loss for report in reports] + [report.objective.reference_kl for report in reports]
    gaps = [_apart(one, other) for one, other in zip(*losses.values(), strict=True)] if len(losses) == 2 else [0.0]
    return max(gaps) <= 2e-2, {"gaps": gaps, "losses": losses}


def _apart(here: float, there: float) -> float:
    return abs(here - there) / max(abs(here), 1e-3)
