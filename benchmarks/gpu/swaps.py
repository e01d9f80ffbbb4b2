"""A swap proves what it says: after A gave way to B, answers are those of a cold start on B.

Every way of swapping, with graphs captured before and after it, rows under way during it, and fingerprints of the live
weights. Leaves out how long it takes (`figures`).
"""

import time
from collections.abc import Callable, Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch

from app.engine.config import SwapMode
from app.engine.request import Event, Finished, Request
from benchmarks.gpu import small
from benchmarks.gpu.answers import replay_gap
from benchmarks.gpu.runner import Note
from benchmarks.gpu.setup import Setup, engine_of
from training.models.checkpoint import publish, verify
from training.models.policy import Policy, fingerprint, load_policy
from training.rollout import Rollout
from training.sampling import Sampling

_PATIENCE_S = 60.0
_REPLAYED = {torch.float32: 1e-4, torch.bfloat16: 0.3}
_COLD = 5e-5  # nats; other storage may bring another kernel, and the report says whether it was bit for bit


def check(note: Note, setup: Setup) -> None:
    """All modes in float32, the usual one in bfloat16 too."""
    cases: list[tuple[torch.dtype, SwapMode]] = [
        (torch.float32, "two_versions"),
        (torch.bfloat16, "two_versions"),
        (torch.float32, "in_place"),
        (torch.float32, "drain"),
    ]
    with TemporaryDirectory(dir=setup.scratch, prefix="lepo-gpu-") as directory:
        for dtype, mode in cases:
            name = f"{mode}, {str(dtype).removeprefix('torch.')}"
            note.check(name, _case(setup, Path(directory) / name.replace(", ", "-"), dtype, mode))


def _case(
    setup: Setup, directory: Path, dtype: torch.dtype, mode: SwapMode
) -> Callable[[], tuple[bool, Mapping[str, Any]]]:
    def judge() -> tuple[bool, Mapping[str, Any]]:
        old = small.policy("qwen2", dtype, setup.device, seed=11, version=1)
        new = small.policy("qwen2", dtype, setup.device, seed=12, version=2)
        published = publish(new, directory, version=2, parent_version=1, training={}, created="now")
        asked = [_request(seed) for seed in range(6)]
        cold = _one_by_one(load_policy(published, version=2, dtype=dtype, device=setup.device), asked)
        under_way: list[Event] = []
        engine = engine_of(old, 4, 256, swap_mode=mode)
        engine.start()
        try:
            before = _one_by_one_on(engine, asked)
            engine.submit(_request(99, 160), under_way.extend)
            report = engine.swap(published, 2).result(_PATIENCE_S)
            _wait_for(under_way)
            after = _one_by_one_on(engine, asked)
            live = fingerprint(engine._lanes.serving.policy.model)
        finally:
            engine.close(_PATIENCE_S)
        finished = [event for event in under_way if isinstance(event, Finished)]
        warm = small.apart(after, cold)
        found = {
            "fingerprint": report.fingerprint == verify(published).fingerprint == live,
            "cold_start": warm["same"] == warm["answers"] and warm["gap"] <= _COLD,
            "changed": small.apart(before, after)["same"] < len(asked),
            "under_way_finished": len(finished) == 1 and finished[0].rollout.answer_length == 158,
            "versions": all(one.policy_version == 2 for one in after),
        }
        figures: dict[str, Any] = {
            "bit_for_bit": warm["gap"] == 0,
            "warm": warm,
            "staged_s": report.staged_s,
            "pause_ms": 1000 * report.pause_s,
        }
        if mode != "in_place":  # there the row under way is of two versions, and says so
            gap = replay_gap(old if mode == "two_versions" else new, _replayable(mode, finished, after))
            found["replayed"] = gap <= _REPLAYED[dtype]
            figures["gap"] = gap
        else:
            found["spans"] = [version for version, _ in finished[0].version_spans] == [1, 2]
        return all(found.values()), found | figures

    return judge


def _wait_for(events: list[Event]) -> None:
    """Wait for the end of the answer under way, so that the next ones run alone."""
    until = time.monotonic() + _PATIENCE_S
    while not any(isinstance(event, Finished) for event in events):
        if time.monotonic() > until:
            raise RuntimeError("the answer under way did not finish")
        time.sleep(0.01)


def _replayable(mode: SwapMode, finished: list[Finished], after: list[Rollout]) -> list[Rollout]:
    """Rollouts of the weights that are at hand: of the old ones where those stay, else of the new ones."""
    return [finished[0].rollout] if mode == "two_versions" else after


def _request(seed: int, max_new: int = 24) -> Request:
    prompt = tuple(range(5 + seed, 40 + seed))
    return Request(prompt, Sampling(latent_length=2, seed=seed), max_new=max_new, ignore_eos=True)


def _one_by_one(policy: Policy, asked: list[Request]) -> list[Rollout]:
    return _one_by_one_on(engine_of(policy, 4, 256), asked)


def _one_by_one_on(engine: Any, asked: list[Request]) -> list[Rollout]:
    """Answers that ran alone, so that no neighbour enters their last bit."""
    return [engine.generate([one])[0][0].rollout for one in asked]
