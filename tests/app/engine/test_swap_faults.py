"""What goes wrong in a swap costs the swap: the engine goes on with what it served, and says why."""

import shutil
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch

from app.engine import stage
from app.engine.config import EngineConfig
from app.engine.engine import Engine
from app.engine.lane import Lane
from app.engine.lanes import Lanes
from app.engine.request import Finished, Request
from app.engine.stage import StageFailed
from tests.app.engine.conftest import Listener, running
from tests.older import as_first_format
from training.models import shards
from training.models.policy import Policy, fingerprint
from training.sample import sample
from training.sampling import Sampling

Cold = Callable[[int], Policy]
PROMPT = tuple(range(40, 75))
SECONDS = 120.0
FULL = torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")


def answered(engine: Engine, seed: int = 1) -> Finished:
    request = Request(PROMPT, Sampling(latent_length=2, seed=seed), max_new=12, ignore_eos=True)
    return engine.generate([request])[0][0]


def same(one: Finished, other: Finished) -> bool:
    return torch.equal(one.rollout.token_logprobs_T, other.rollout.token_logprobs_T)


def test_prompts_under_way_when_weights_change_in_place_are_computed_anew_and_kept_apart(
    cold: Cold, checkpoints: Mapping[int, Path]
) -> None:
    """A long prompt whose prefix was cached is done before a shorter one; both begin again, and wait for slots."""
    long, short = tuple(range(10, 210)), tuple(range(100, 200))
    engine = Engine(cold(3), EngineConfig(slots=3, max_length=256, swap_mode="in_place", prefill_chunk=16))
    engine.generate([Request(long[:190], Sampling(seed=9), max_new=1)])
    first, second = Listener(), Listener()
    engine.submit(Request(short, Sampling(seed=1), max_new=24, choices=2, ignore_eos=True), first)
    engine.submit(Request(long, Sampling(seed=2), max_new=40, choices=5, ignore_eos=True), second)
    while not engine.stats().running:
        engine._turn()
    swap = engine.swap(checkpoints[4], 4)
    while not (swap.done() and sum(map(ended, (first, second))) == 7):
        engine._turn()
    swap.result(0)
    for prompt, listener in ((short, first), (long, second)):
        for event in listener.events:
            if isinstance(event, Finished) and len(event.version_spans) == 1:
                assert event.version_spans == ((4, 0),)
                expected = sample(cold(4), prompt, event.rollout.sampling, event.rollout.answer_length, ignore_eos=True)
                assert event.rollout.token_ids_T.tolist() == expected.token_ids_T.tolist()
    spans = [event.version_spans for event in second.events if isinstance(event, Finished)]
    assert any(len(one) == 2 for one in spans), "answers that were under way say so, too"
    engine.close(0.0)


def ended(listener: Listener) -> int:
    return sum(isinstance(event, Finished) for event in listener.events)


def refusing(monkeypatch: pytest.MonkeyPatch, where: str, times: int = 1) -> None:
    """Let one of a swap's steps find too little memory, the first times that it is taken."""
    owner, name = {
        "reading": (stage, "prove_weights"),
        "a second lane": (Lanes, "copy_of_policy"),
        "copying": (stage, "pour"),
        "the canary": (stage, "canary"),
        "the lane's proof": (Lane, "prove"),
    }[where]
    done, left = getattr(owner, name), [FULL] * times

    def full(*given: Any, **named: Any) -> Any:
        if left:
            if where == "copying":  # half of it is there
                _, places, _ = given
                next(iter(places.values())).detach().zero_()
            raise left.pop()
        return done(*given, **named)

    monkeypatch.setattr(owner, name, full)


@pytest.mark.parametrize(
    ("mode", "where"),
    [
        *(("two_versions", where) for where in ("reading", "a second lane", "copying", "the lane's proof")),
        *((mode, where) for mode in ("drain", "in_place") for where in ("reading", "copying", "the canary")),
    ],
)
def test_a_stage_that_finds_too_little_memory_fails_one_swap(
    cold: Cold, checkpoints: Mapping[int, Path], monkeypatch: pytest.MonkeyPatch, mode: str, where: str
) -> None:
    with running(cold(3), swap_mode=mode, prefix_cache_tokens=0) as engine:
        refusing(monkeypatch, where)
        before, held = answered(engine), fingerprint(engine._lanes.serving.policy.model)
        with pytest.raises(StageFailed, match="too little memory"):
            engine.swap(checkpoints[4], 4).result(SECONDS)
        assert engine.version == 3
        assert same(answered(engine), before)
        assert fingerprint(engine._lanes.serving.policy.model) == held
        assert engine.swap(checkpoints[4], 4).result(SECONDS).to_version == 4
        assert not same(answered(engine), before)


def test_what_the_host_cannot_hold_meanwhile_is_not_exchanged(
    cold: Cold, checkpoints: Mapping[int, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    with running(cold(3), swap_mode="in_place") as engine:
        before = answered(engine)
        with monkeypatch.context() as patched:
            patched.setattr(torch.Tensor, "to", raising(MemoryError()))
            with pytest.raises(StageFailed, match="too little memory"):
                engine.swap(checkpoints[4], 4).result(SECONDS)
        assert same(answered(engine), before)


def raising(error: BaseException) -> Callable[..., Any]:
    """Stand for copies to the host, on the engine's thread."""
    to = torch.Tensor.to

    def now(tensor: torch.Tensor, *given: Any, **named: Any) -> torch.Tensor:
        if named.get("copy"):
            raise error
        return to(tensor, *given, **named)

    return now


@pytest.mark.parametrize("mode", ["drain", "in_place"])
def test_weights_change_in_place_without_a_second_copy_on_the_device(
    cold: Cold, checkpoints: Mapping[int, Path], monkeypatch: pytest.MonkeyPatch, mode: str
) -> None:
    """Nothing as large as a tensor is made while the new weights come, but what the host holds of the old ones."""
    seen: list[str] = []

    class Watching(torch.overrides.TorchFunctionMode):
        def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            seen.append(getattr(function, "__name__", str(function)))
            return function(*args, **(kwargs or {}))

    poured = shards.pour

    def watched(*given: Any) -> None:
        with Watching():
            poured(*given)

    monkeypatch.setattr(stage, "pour", watched)
    with running(cold(3), swap_mode=mode) as engine:
        engine.swap(checkpoints[4], 4).result(SECONDS)
    assert seen
    assert not {"to", "cuda", "clone", "empty_like", "equal", "isfinite"} & set(seen)


def test_a_rollback_to_a_resident_version_takes_no_time_though_its_files_are_gone(
    cold: Cold, checkpoints: Mapping[int, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    places = {version: Path(shutil.copytree(checkpoints[version], tmp_path / str(version))) for version in (3, 4)}
    with running(cold(3)) as engine:
        engine.swap(places[4], 4).result(SECONDS)
        monkeypatch.setattr(stage, "read", forbidden)
        for directory in (places[3], tmp_path / "gone"):
            began = time.monotonic()
            engine.swap(directory, 3, urgent=True).result(SECONDS)
            assert time.monotonic() - began < 0.1
            assert engine.version == 3
            engine.swap(places[4], 4).result(SECONDS)


def forbidden(*_: object) -> None:
    raise AssertionError("what is resident is not read")


def test_a_checkpoint_of_the_first_format_is_served_and_rolled_back_to(
    cold: Cold, checkpoints: Mapping[int, Path], tmp_path: Path
) -> None:
    older = Path(shutil.copytree(checkpoints[4], tmp_path / "older"))
    as_first_format(older)
    with running(cold(3)) as engine:
        report = engine.swap(older, 4).result(SECONDS)
        assert report.fingerprint == stage.named(older, 4)
        new = answered(engine)
        engine.swap(checkpoints[3], 3).result(SECONDS)
        assert engine.swap(older, 4).result(SECONDS).staged_s == 0
        assert same(answered(engine), new)
    with running(cold(4)) as engine:
        assert same(answered(engine), new)
        engine.swap(checkpoints[5], 5).result(SECONDS)
        assert engine.swap(older, 4).result(SECONDS).fingerprint == report.fingerprint, "known by its other digest"


def test_servers_read_weights_twice_and_nothing_of_the_trainers(
    cold: Cold, checkpoints: Mapping[int, Path], reads: dict[str, int]
) -> None:
    with running(cold(3)) as engine:
        engine.swap(checkpoints[4], 4).result(SECONDS)
        weights = sum(one.nbytes for one in engine._lanes.serving.policy.model.parameters())
    assert reads == {"model.safetensors": 2 * weights}


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> dict[str, int]:
    """Bytes that were read of tensors in files, by the file's name."""
    found: dict[str, int] = {}
    fill, lock = shards._fill, threading.Lock()

    def counting(file: int, one: shards.Stored, first: int, into: Any) -> None:
        with lock:
            found[one.path.name] = found.get(one.path.name, 0) + into.nbytes
        fill(file, one, first, into)

    monkeypatch.setattr(shards, "_fill", counting)
    return found
