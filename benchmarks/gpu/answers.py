"""Answers on the device: by graphs, by the same operations without them, and by the reference sampler.

In float64 and float32 they must be the same, id by id; in bfloat16 rounding turns a draw now and then, so what is
compared there is the log-probabilities of the steps that agree. A graph must replay what the same shapes give, bit for
bit, in every dtype. Replay is held against what was recorded.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from app.engine.config import Packing
from app.engine.engine import Engine
from app.engine.graphs import Bucket, StepGraphs
from app.engine.request import Request
from benchmarks.gpu import small
from benchmarks.gpu.runner import Note
from benchmarks.gpu.setup import Setup, engine_of, policy_of
from benchmarks.load import equal_asks, requests
from benchmarks.shapes import SHAPES
from training.models.head import take_apart
from training.models.policy import Policy
from training.replay import ReplayConfig, replay
from training.rollout import Rollout
from training.sample import sample

_AS_SAMPLED = ReplayConfig(latent_temperature="sampling")


@dataclass(frozen=True, slots=True)
class Bound:
    """What is asked in one dtype."""

    dtype: torch.dtype
    latents: int  # the most of a request: each amplifies the last bit
    gap: float  # nats between answers by different operations
    replayed: float  # nats between replay and record
    identical: bool  # whether every answer must be the same
    families: Mapping[str, Sequence[Packing]]  # asked of these, and by which forwards: "off" is the stock one


_QUICK: Sequence[Packing] = ("auto",)
_BOTH: Sequence[Packing] = ("auto", "off")
_STOCK: Sequence[Packing] = ("off",)
IN_FLOAT32 = Bound(
    torch.float32, 2, 5e-4, 1e-4, True, {"qwen2": _BOTH, "mistral": _BOTH, "llama": _QUICK, "qwen3": _QUICK}
)
IN_BFLOAT16 = Bound(torch.bfloat16, 2, 0.5, 0.3, False, {"qwen2": _BOTH, "qwen3": _QUICK})
IN_FLOAT64 = Bound(torch.float64, 8, 2e-5, 1e-5, True, {"qwen2": _STOCK, "mistral": _STOCK})


class WithoutGraphs(StepGraphs):
    """Runs the very shapes that a graph would, one operation after another."""

    def run(self, bucket: Bucket) -> tuple[Tensor, Tensor] | None:
        """Step all rows of a bucket."""
        return self.eager(bucket)


def check_small(note: Note, setup: Setup, bound: Bound) -> None:
    """Small models of some families in one dtype, by the quicker forward and by the stock one."""
    families = list(bound.families.items())
    for family, forwards in families if setup.cuda else families[:2]:
        policy = small.policy(family, bound.dtype, setup.device)
        asked = small.mixed_requests(14, most_latents=bound.latents)
        expected = [sample(policy, one.prompt_ids, one.sampling, one.max_new) for one in asked]
        note.tell(f"{family}: reference sampled")
        for packing in forwards if setup.cuda else forwards[:1]:
            name = f"{family}, {'stock' if packing == 'off' else 'quick'} forward"
            _check_forward(note, name, setup, bound, policy, packing, asked, expected)


def check_shape(note: Note, setup: Setup, name: str) -> None:
    """Check a real shape in float32: a vocabulary and heads as they are served, and a batch that fills a bucket."""
    shape = SHAPES[name]
    policy = policy_of(shape, setup, torch.float32)
    asked = requests(equal_asks(shape, 4, 40, 12, seed=5), 5, latents=2)
    expected = [sample(policy, one.prompt_ids, one.sampling, one.max_new, ignore_eos=True) for one in asked]
    note.tell("reference sampled")
    _check_forward(note, f"{name}, float32", setup, IN_FLOAT32, policy, "auto", asked, expected)


def _check_forward(
    note: Note,
    name: str,
    setup: Setup,
    bound: Bound,
    policy: Policy,
    packing: Packing,
    asked: list[Request],
    expected: list[Rollout],
) -> None:
    answers: dict[str, list[Rollout]] = {}

    def answered(way: str) -> list[Rollout]:
        engine = engine_of(policy, 5, 128, packing, prefill_chunk=16)
        graphs = _set_way(engine, way)
        answers[way] = [choices[0].rollout for choices in engine.generate(asked)]
        if graphs is not None and not (graphs.captures and graphs.captured):
            raise RuntimeError("no graph was captured: see the warning in the log")
        return answers[way]

    def against_reference(way: str) -> Callable[[], tuple[bool, Mapping[str, Any]]]:
        def judge() -> tuple[bool, Mapping[str, Any]]:
            found = small.apart(answered(way), expected)
            return found["gap"] <= bound.gap and (not bound.identical or found["same"] == found["answers"]), found

        return judge

    def same_bits() -> tuple[bool, Mapping[str, Any]]:
        found = small.apart(answers["graphs"], answered("shapes"))
        return found["gap"] == 0 and found["same"] == found["answers"], found

    def replayed() -> tuple[bool, Mapping[str, Any]]:
        gap = replay_gap(policy, answers[ways[0]])
        return gap <= bound.replayed, {"gap": gap}

    ways = ("graphs", "eager") if setup.cuda else ("eager",)
    for way in ways:
        note.check(f"{name}: {way} against the reference", against_reference(way))
    if setup.cuda:
        note.check(f"{name}: a graph replays what its shapes give, bit for bit", same_bits)
    note.check(f"{name}: replay against the record", replayed)


def _set_way(engine: Engine, way: str) -> StepGraphs | None:
    """Make an engine step by graphs, by their shapes, or as it would without; returns the graphs to be looked at."""
    lane = engine._lanes.serving
    if way == "graphs":
        return lane._graphs
    lane._graphs = WithoutGraphs(lane.rows) if way == "shapes" else None
    return None


@torch.no_grad()
def replay_gap(policy: Policy, rollouts: Sequence[Rollout]) -> float:
    """Largest difference, in nats, between replayed and recorded log-probabilities, latent and token steps both."""
    replayed = replay(take_apart(policy.model), rollouts, _AS_SAMPLED)
    gaps = [torch.zeros(1)]
    for row, rollout in enumerate(rollouts):
        latents, tokens, width = rollout.latent_length, rollout.answer_length, rollout.latent_ids_LK.shape[1]
        recorded_LK = rollout.latent_logprobs_LK + rollout.latent_log_mass_L[:, None]
        now_LK = replayed.latent_logprobs_BLK[row, :latents, :width].cpu()
        gaps.append((now_LK - recorded_LK)[recorded_LK.isfinite()].abs().flatten())
        gaps.append((replayed.token_logprobs_BT[row, :tokens].cpu() - rollout.token_logprobs_T).abs())
    return float(torch.cat([gap.double() for gap in gaps]).max())
