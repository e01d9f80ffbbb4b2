"""Two versions answer side by side, a resident one serves at once, and a rollback waits for nobody.

The oracle of an answer's version is the reference sampler on a cold load of that version's checkpoint.
"""

import shutil
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from app.engine import stage
from app.engine.engine import Engine
from app.engine.request import Finished, QueueFull, Request
from app.engine.stage import StageFailed
from app.engine.swap import Superseded
from tests.app.engine.conftest import Listener, running
from training.models.policy import Policy
from training.sample import sample
from training.sampling import Sampling

Cold = Callable[[int], Policy]
PROMPT = tuple(range(40, 75))
SECONDS = 120.0


def request(seed: int, version: int | None = None, max_new: int = 24) -> Request:
    return Request(PROMPT, Sampling(latent_length=2, seed=seed), max_new=max_new, ignore_eos=True, version=version)


def wait_for(condition: Callable[[], bool]) -> None:
    until = time.monotonic() + SECONDS
    while not condition():
        assert time.monotonic() < until, "it did not come to pass"
        time.sleep(0.001)


def answered(listener: Listener) -> Finished:
    wait_for(lambda: any(isinstance(event, Finished) for event in listener.events))
    return next(event for event in listener.events if isinstance(event, Finished))


def submitted(engine: Engine, asked: Request) -> Listener:
    listener = Listener()
    engine.submit(asked, listener)
    return listener


def version_of(engine: Engine, seed: int, version: int | None) -> int:
    return answered(submitted(engine, request(seed, version))).rollout.policy_version


def hold(engine: Engine, checkpoints: Mapping[int, Path], version: int) -> None:
    engine.hold(checkpoints[version], version).result(SECONDS)


def under_way(engine: Engine, version: int | None = None, seed: int = 1) -> Listener:
    """A long answer that has begun."""
    listener = submitted(engine, request(seed, version, max_new=200))
    wait_for(lambda: len(listener.events) > 3)
    return listener


@pytest.fixture
def no_reading(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """Once called, reading or hashing weights fails the test."""

    def forbid() -> None:
        def never(*_: object) -> None:
            raise AssertionError("a resident version was read again")

        monkeypatch.setattr(stage, "read", never)
        monkeypatch.setattr("app.engine.swap.fingerprint", never)

    return forbid


def test_two_versions_answer_one_shared_prompt_side_by_side(cold: Cold, checkpoints: Mapping[int, Path]) -> None:
    """All prompts are one, so a prefix that leaked from one version to the other would show in the numbers."""
    policies = {version: cold(version) for version in (3, 4)}
    with running(cold(3), slots=4) as engine:
        hold(engine, checkpoints, 4)
        assert (engine.version, engine.candidate) == (3, 4)
        asked = {seed: 4 if seed % 3 == 0 else None for seed in range(30)}
        listeners = {seed: submitted(engine, request(seed, version)) for seed, version in asked.items()}
        found = {seed: answered(listener) for seed, listener in listeners.items()}
        stats = engine.stats()
        assert stats.prefix_hit_tokens > 0
    for seed, finished in found.items():
        wanted = asked[seed] or 3
        assert finished.version_spans == ((wanted, 0),)
        assert finished.rollout.policy_version == wanted
        expected = sample(policies[wanted], PROMPT, Sampling(latent_length=2, seed=seed), 24, ignore_eos=True)
        assert finished.rollout.token_ids_T.tolist() == expected.token_ids_T.tolist()
        torch.testing.assert_close(finished.rollout.token_logprobs_T, expected.token_logprobs_T, rtol=0, atol=1e-3)
    by_version = {one.version: one for one in stats.by_version}
    assert {version: (one.role, one.finished) for version, one in by_version.items()} == {
        3: ("serving", 20),
        4: ("candidate", 10),
    }
    assert sum(one.tokens for one in stats.by_version) == stats.tokens == 30 * 22


def test_a_request_for_a_version_that_is_no_candidate_is_answered_by_what_serves(
    cold: Cold, checkpoints: Mapping[int, Path]
) -> None:
    with running(cold(3)) as engine:
        assert version_of(engine, 1, 4) == 3
        hold(engine, checkpoints, 4)
        assert version_of(engine, 1, 4) == 4
        assert version_of(engine, 1, 5) == 3
        engine.release(4)
        assert version_of(engine, 1, 4) == 3
        assert engine.candidate is None


def test_a_candidate_is_promoted_and_rolled_back_between_two_steps(
    cold: Cold, checkpoints: Mapping[int, Path], tmp_path: Path, no_reading: Callable[[], None]
) -> None:
    """Nothing is read, though the files are gone, and a long answer on the other version holds nothing up."""
    places = {version: shutil.copytree(checkpoints[version], tmp_path / str(version)) for version in (3, 4)}
    with running(cold(3)) as engine:
        hold(engine, places, 4)
        old = under_way(engine)
        for place in places.values():
            shutil.rmtree(place)
        no_reading()
        began = time.monotonic()
        promoted = engine.swap(places[4], 4).result(SECONDS)
        assert time.monotonic() - began < 1.0
        new = under_way(engine)
        rolled_back = engine.swap(places[3], 3).result(SECONDS)
        assert engine.stats().running == 2, "both answers are still under way"
        assert (promoted.staged_s, rolled_back.staged_s) == (0.0, 0.0)
        assert [one.to_version for one in (promoted, rolled_back)] == [4, 3]
        assert version_of(engine, 2, None) == 3
        assert [answered(one).rollout.policy_version for one in (old, new)] == [3, 4]
        assert [answered(one).reason for one in (old, new)] == ["length", "length"]


def test_a_candidate_gives_way_to_what_is_to_serve(cold: Cold, checkpoints: Mapping[int, Path]) -> None:
    with running(cold(3)) as engine:
        hold(engine, checkpoints, 4)
        assert engine.swap(checkpoints[5], 5).result(SECONDS).to_version == 5
        assert engine.candidate is None
        assert version_of(engine, 1, 4) == 5
        hold(engine, checkpoints, 4)
        assert set(engine.stats().versions) == {4, 5}


def test_a_rollback_waits_for_a_long_answer_no_longer_than_it_may(cold: Cold, checkpoints: Mapping[int, Path]) -> None:
    """Both lanes are busy with other versions: the answer on the earlier one ends early, the serving one's goes on."""
    with running(cold(3), swap_patience_s=0.05) as engine:
        oldest = under_way(engine)
        engine.swap(checkpoints[4], 4).result(SECONDS)
        serving = under_way(engine, seed=2)
        engine.swap(checkpoints[5], 5, urgent=True).result(SECONDS)
        assert not any(isinstance(event, Finished) for event in serving.events)
        assert answered(oldest).reason == "deadline"
        assert answered(serving).reason == "length"
        assert answered(serving).rollout.policy_version == 4


def test_a_resident_version_serves_while_another_is_being_read(
    cold: Cold, checkpoints: Mapping[int, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    go = threading.Event()
    read = stage.read

    def slowly(directory: Path, version: int, model: torch.nn.Module) -> stage.Weights:
        go.wait(SECONDS)
        return read(directory, version, model)

    with running(cold(3)) as engine:
        engine.swap(checkpoints[4], 4).result(SECONDS)
        monkeypatch.setattr(stage, "read", slowly)
        coming = engine.swap(checkpoints[5], 5)
        assert engine.swap(checkpoints[3], 3).result(SECONDS).to_version == 3
        with pytest.raises(Superseded, match="version 3 was asked for after version 5"):
            coming.result(SECONDS)
        held = engine.hold(checkpoints[6], 6)
        assert engine.swap(checkpoints[4], 4).result(SECONDS).to_version == 4
        go.set()
        held.result(SECONDS)
        assert (engine.version, engine.candidate) == (4, 6)
        assert {version_of(engine, seed, 6) for seed in range(3)} == {6}


def test_what_is_released_while_it_is_read_is_never_held(
    cold: Cold, checkpoints: Mapping[int, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    go = threading.Event()
    read = stage.read

    def slowly(directory: Path, version: int, model: torch.nn.Module) -> stage.Weights:
        go.wait(SECONDS)
        return read(directory, version, model)

    monkeypatch.setattr(stage, "read", slowly)
    with running(cold(3)) as engine:
        held = engine.hold(checkpoints[4], 4)
        engine.release(4)
        go.set()
        with pytest.raises(Superseded, match="no candidate any more"):
            held.result(SECONDS)
        assert version_of(engine, 1, 4) == 3
        hold(engine, checkpoints, 5)
        assert engine.candidate == 5


def test_a_damaged_candidate_is_refused_and_everybody_is_served(
    cold: Cold, checkpoints: Mapping[int, Path], tmp_path: Path
) -> None:
    bad = shutil.copytree(checkpoints[4], tmp_path / "bad")
    with (bad / "model.safetensors").open("r+b") as weights:
        weights.seek(-4, 2)
        weights.write(b"\x01\x02\x03\x04")
    with running(cold(3)) as engine:
        with pytest.raises(StageFailed, match="does not verify"):
            engine.hold(bad, 4).result(SECONDS)
        assert engine.candidate is None
        assert version_of(engine, 1, 4) == 3


@pytest.mark.parametrize("mode", ["drain", "in_place"])
def test_there_is_no_candidate_where_memory_holds_one_version(
    cold: Cold, checkpoints: Mapping[int, Path], mode: str
) -> None:
    with running(cold(3), swap_mode=mode) as engine, pytest.raises(ValueError, match=f"swap_mode is {mode}"):
        engine.hold(checkpoints[4], 4)


def test_a_burst_for_one_version_does_not_hold_up_the_other(cold: Cold, checkpoints: Mapping[int, Path]) -> None:
    """Every slot is asked for by both versions, in turn; each request ends, and in its own lane."""
    with running(cold(3), slots=2, prefill_chunk=8, prefix_cache_tokens=0) as engine:
        hold(engine, checkpoints, 4)
        wanted = [4 if index % 2 else None for index in range(40)]
        listeners = [submitted(engine, request(seed, version, 4)) for seed, version in enumerate(wanted)]
        found = [answered(listener).rollout.policy_version for listener in listeners]
    assert found == [version or 3 for version in wanted]


def test_the_background_takes_free_slots_only_and_gives_them_up(cold: Cold, checkpoints: Mapping[int, Path]) -> None:
    with running(cold(3), slots=2) as engine:
        hold(engine, checkpoints, 4)
        shadow = Listener()
        engine.submit(replace(request(1, 4, 200), background=True), shadow)
        wait_for(lambda: engine.stats().running == 1)
        first = under_way(engine, seed=2)
        second = submitted(engine, request(3))
        assert answered(second).reason == "length"
        assert answered(shadow).reason == "cancelled"
        wait_for(lambda: engine.stats().running == 0)
        both = submitted(engine, replace(request(4, max_new=200), choices=2))
        wait_for(lambda: engine.stats().running == 2)
        with pytest.raises(QueueFull):
            engine.submit(replace(request(5, 4), background=True), Listener())
        assert {answered(one).reason for one in (first, both)} == {"length"}
