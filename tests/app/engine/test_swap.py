"""New weights while answering: nobody is aborted, every rollout is of one version, a bad checkpoint changes nothing.

The oracle of a rollout's version is the reference sampler on a cold load of that version's checkpoint.
"""

import functools
import hashlib
import json
import shutil
import threading
import time
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from app.engine import stage
from app.engine.config import EngineConfig
from app.engine.engine import Engine
from app.engine.request import EngineClosed, Finished, Request
from app.engine.stage import StageFailed
from app.engine.swap import Superseded, SwapReport
from tests.app.engine.conftest import Listener, running
from tests.tiny import VOCABULARY
from training.models.checkpoint import FORMAT_VERSION, verify
from training.models.policy import Policy, fingerprint
from training.models.seal import content
from training.sample import sample
from training.sampling import Sampling

Cold = Callable[[int], Policy]
PROMPT = tuple(range(40, 75))
SECONDS = 120.0


def request(seed: int, max_new: int = 24, *, prompt: tuple[int, ...] = PROMPT) -> Request:
    return Request(prompt, Sampling(latent_length=2, seed=seed), max_new=max_new, ignore_eos=True)


def long_request(seed: int = 1) -> Request:
    return request(seed, max_new=200)


def one_by_one(engine: Engine, requests: list[Request]) -> list[Finished]:
    """Answers that ran alone, so that no batch mate enters their last bit."""
    return [engine.generate([request])[0][0] for request in requests]


def wait_for(condition: Callable[[], bool]) -> None:
    until = time.monotonic() + SECONDS
    while not condition():
        assert time.monotonic() < until, "it did not come to pass"
        time.sleep(0.002)


def longer(listeners: list[tuple[int, Listener]], count: int) -> bool:
    return len(listeners) > count


def finished_of(listener: Listener) -> Finished:
    wait_for(lambda: any(isinstance(event, Finished) for event in listener.events))
    (finished,) = [event for event in listener.events if isinstance(event, Finished)]
    return finished


def swapped(engine: Engine, checkpoints: Mapping[int, Path], version: int) -> SwapReport:
    return engine.swap(checkpoints[version], version).result(SECONDS)


def test_after_a_swap_answers_equal_a_cold_start_bit_for_bit(cold: Cold, checkpoints: Mapping[int, Path]) -> None:
    requests = [request(seed, prompt=tuple(range(seed, seed + 30))) for seed in range(3, 9)]
    with running(cold(3)) as warm:
        before = one_by_one(warm, requests)
        report = swapped(warm, checkpoints, 4)
        after = one_by_one(warm, requests)
        held = fingerprint(warm._lanes.serving.policy.model)
    with running(cold(4)) as fresh:
        expected = one_by_one(fresh, requests)
    assert (report.from_version, report.to_version) == (3, 4)
    assert report.fingerprint == verify(checkpoints[4]).fingerprint == held
    for old, new, one in zip(before, after, expected, strict=True):
        assert new.rollout.token_ids_T.tolist() == one.rollout.token_ids_T.tolist()
        for name in ("token_logprobs_T", "latent_weights_LK", "latent_logprobs_LK", "token_log_mass_T"):
            assert torch.equal(getattr(new.rollout, name), getattr(one.rollout, name))
        assert new.rollout.policy_version == 4
        assert old.rollout.token_logprobs_T.tolist() != new.rollout.token_logprobs_T.tolist()


def test_the_thread_that_staged_ends_with_its_team_of_cores(
    cold: Cold, checkpoints: Mapping[int, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    staged: list[threading.Thread] = []
    read = stage.read

    def noting(directory: Path, version: int, model: torch.nn.Module) -> stage.Weights:
        staged.append(threading.current_thread())
        return read(directory, version, model)

    monkeypatch.setattr(stage, "read", noting)
    with running(cold(3)) as engine:
        for version in (4, 5, 6):
            swapped(engine, checkpoints, version)
        for thread in staged:
            thread.join(SECONDS)
        assert len(set(staged)) == 3
        assert not any(thread.is_alive() for thread in staged), "the engine still runs, and they do not"


def test_swaps_under_load_leave_every_rollout_with_one_version(cold: Cold, checkpoints: Mapping[int, Path]) -> None:
    """Requests keep coming with one shared prompt, so a stale prefix hit or a mixed row would show in the numbers."""
    policies = {version: cold(version) for version in (3, 4, 5)}
    with running(cold(3), slots=4) as engine:
        stop = threading.Event()
        listeners: list[tuple[int, Listener]] = []

        def feed() -> None:
            seed = 0
            while not stop.is_set():
                if engine.stats().waiting < 6:
                    listener = Listener()
                    engine.submit(request(seed), listener)
                    listeners.append((seed, listener))
                    seed += 1
                time.sleep(0.001)

        feeder = threading.Thread(target=feed)
        feeder.start()
        for version in (4, 5, 4, 3, 5):
            swapped(engine, checkpoints, version)
            assert engine.version == version
            seen = len(listeners)
            wait_for(functools.partial(longer, listeners, seen + 6))
        stop.set()
        feeder.join()
        answers = {seed: finished_of(listener) for seed, listener in listeners}
        assert engine.stats().swaps == 5
        assert engine.stats().prefix_hit_tokens > 0
    assert {finished.rollout.policy_version for finished in answers.values()} == {3, 4, 5}
    for seed, finished in answers.items():
        version = finished.rollout.policy_version
        assert finished.version_spans == ((version, 0),)
        assert finished.reason == "length"
        expected = sample(policies[version], PROMPT, Sampling(latent_length=2, seed=seed), 24, ignore_eos=True)
        assert finished.rollout.token_ids_T.tolist() == expected.token_ids_T.tolist()
        torch.testing.assert_close(finished.rollout.token_logprobs_T, expected.token_logprobs_T, rtol=0, atol=1e-3)


def test_an_answer_under_way_finishes_on_its_own_weights(cold: Cold, checkpoints: Mapping[int, Path]) -> None:
    with running(cold(3)) as engine:
        old = Listener()
        engine.submit(long_request(), old)
        wait_for(lambda: len(old.events) > 5)
        swapped(engine, checkpoints, 4)
        assert engine.stats().running == 1  # it was not hurried
        new = Listener()
        engine.submit(request(2), new)
        assert finished_of(new).rollout.policy_version == 4
        assert finished_of(old).rollout.policy_version == 3
    expected = sample(cold(3), PROMPT, long_request().sampling, 200, ignore_eos=True)
    assert finished_of(old).rollout.token_ids_T.tolist() == expected.token_ids_T.tolist()


def test_a_third_version_waits_for_a_free_lane_and_a_newer_order_supersedes(
    cold: Cold, checkpoints: Mapping[int, Path]
) -> None:
    with running(cold(3)) as engine:
        old = Listener()
        ticket = engine.submit(Request(PROMPT, Sampling(), max_new=220, ignore_eos=True), old)
        wait_for(lambda: engine.stats().running == 1)
        swapped(engine, checkpoints, 4)
        fifth, sixth = engine.swap(checkpoints[5], 5), engine.swap(checkpoints[6], 6)
        with pytest.raises(Superseded, match="version 6 was asked for after version 5"):
            fifth.result(SECONDS)
        if not any(isinstance(event, Finished) for event in old.events):
            assert engine.version == 4
        ticket.cancel()
        assert sixth.result(SECONDS).from_version == 4
        assert engine.version == 6
        assert set(engine.stats().versions) == {4, 6}


def test_rolling_back_to_a_resident_version_copies_nothing(cold: Cold, checkpoints: Mapping[int, Path]) -> None:
    with running(cold(3)) as engine:
        lane = engine._lanes.serving
        swapped(engine, checkpoints, 4)
        report = swapped(engine, checkpoints, 3)
        assert engine._lanes.serving is lane
        assert report.to_version == engine.version == 3
        assert report.fingerprint == verify(checkpoints[3]).fingerprint
        ((finished,),) = engine.generate([request(1)])
        assert finished.rollout.policy_version == 3


def test_what_a_swap_leaves_in_the_heap_is_given_back_once_it_is_over(
    cold: Cold, checkpoints: Mapping[int, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[str] = []
    monkeypatch.setattr("app.engine.swap.give_back", lambda _: told.append(threading.current_thread().name))
    with running(cold(3)) as engine:
        swapped(engine, checkpoints, 4)
        deadline = time.monotonic() + SECONDS
        while not told:
            assert time.monotonic() < deadline
            time.sleep(0.01)
        swapped(engine, checkpoints, 3)  # resident: nothing is read
        time.sleep(0.2)
    assert len(told) == 1
    assert told[0].startswith("engine-stage")


def test_a_version_resident_with_other_weights_is_not_taken_for_the_checkpoint(
    policies: Mapping[str, Policy], cold: Cold, checkpoints: Mapping[int, Path]
) -> None:
    impostor = Policy(cold(5).model, policies["qwen2"].tokenizer, 3, frozenset({1}))
    with running(impostor) as engine:
        swapped(engine, checkpoints, 4)
        with pytest.raises(StageFailed, match="resident with other weights"):
            swapped(engine, checkpoints, 3)
        assert engine.version == 4


def tampered(source: Path, target: Path, change: Callable[[dict[str, torch.Tensor]], None], *, resign: bool) -> Path:
    """Copy a checkpoint with other tensors; with its manifest made to fit when `resign`."""
    shutil.copytree(source, target)
    tensors = load_file(target / "model.safetensors")
    change(tensors)
    save_file(tensors, target / "model.safetensors", metadata={"format": "pt"})
    if resign:
        listed = asdict(content(target / "model.safetensors", FORMAT_VERSION))
        resigned(target, lambda manifest: manifest["files"].update({"model.safetensors": listed}))
    return target


def resigned(directory: Path, change: Callable[[dict[str, Any]], None]) -> None:
    """Rewrite a manifest, its digest of itself included: what only one who may publish could do."""
    manifest = json.loads((directory / "manifest.json").read_text())
    del manifest["sha256"]
    change(manifest)
    manifest["sha256"] = hashlib.sha256(json.dumps(manifest, sort_keys=True).encode()).hexdigest()
    (directory / "manifest.json").write_text(json.dumps(manifest))


def poison(tensors: dict[str, torch.Tensor]) -> None:
    tensors["model.norm.weight"][3] = float("nan")


def reshape(tensors: dict[str, torch.Tensor]) -> None:
    tensors["model.norm.weight"] = torch.ones(33)


def nudge(tensors: dict[str, torch.Tensor]) -> None:
    tensors["model.norm.weight"][3] += 1


def lose(tensors: dict[str, torch.Tensor]) -> None:
    del tensors["model.norm.weight"]


def invent(tensors: dict[str, torch.Tensor]) -> None:
    tensors["model.extra.weight"] = torch.ones(3)


@pytest.mark.parametrize("mode", ["two_versions", "drain", "in_place"])
@pytest.mark.parametrize(
    ("change", "resign", "reason"),
    [
        (nudge, False, "does not verify"),
        (nudge, True, "not those its manifest names"),
        (poison, True, "not finite"),
        (reshape, True, "has shape"),
        (lose, True, "missing"),
        (invent, True, "unknown"),
    ],
)
def test_a_bad_checkpoint_leaves_the_old_version_serving(
    cold: Cold,
    checkpoints: Mapping[int, Path],
    tmp_path: Path,
    mode: str,
    change: Callable[[dict[str, torch.Tensor]], None],
    resign: bool,
    reason: str,
) -> None:
    bad = tampered(checkpoints[4], tmp_path / "bad", change, resign=resign)
    with running(cold(3), swap_mode=mode, prefix_cache_tokens=0) as engine:
        before = engine.generate([request(1)])
        with pytest.raises(StageFailed, match=reason):
            engine.swap(bad, 4).result(SECONDS)
        assert engine.version == 3
        assert engine.stats().failed_swaps == 1
        after = engine.generate([request(1)])
        assert after[0][0].rollout.token_logprobs_T.tolist() == before[0][0].rollout.token_logprobs_T.tolist()
        assert after[0][0].version_spans == ((3, 0),)
        swapped(engine, checkpoints, 4)  # and a good one still gets in
        assert engine.version == 4


def test_a_missing_or_misnamed_checkpoint_is_refused(cold: Cold, checkpoints: Mapping[int, Path]) -> None:
    with running(cold(3)) as engine:
        with pytest.raises(StageFailed, match="does not verify"):
            engine.swap(checkpoints[4].parent / "nowhere", 4).result(SECONDS)
        with pytest.raises(StageFailed, match="holds version 4, not 5"):
            engine.swap(checkpoints[4], 5).result(SECONDS)


@pytest.mark.parametrize("mode", ["two_versions", "drain", "in_place"])
def test_weights_that_fail_the_canary_are_refused(
    cold: Cold, checkpoints: Mapping[int, Path], tmp_path: Path, mode: str
) -> None:
    """Finite weights whose logits are not: only a forward shows it."""

    def explode(tensors: dict[str, torch.Tensor]) -> None:
        tensors["model.layers.0.mlp.down_proj.weight"].fill_(1e38)

    bad = tampered(checkpoints[4], tmp_path / "bad", explode, resign=True)
    exploded = cold(4)
    with torch.no_grad():
        exploded.model.get_parameter("model.layers.0.mlp.down_proj.weight").fill_(1e38)
    resigned(bad, lambda manifest: manifest.update(fingerprint=fingerprint(exploded.model)))
    with running(cold(3), swap_mode=mode, prefix_cache_tokens=0) as engine:
        before = engine.generate([request(1)])
        with pytest.raises(StageFailed, match="canary"):
            engine.swap(bad, 4).result(SECONDS)
        after = engine.generate([request(1)])
        assert engine.version == 3
        assert after[0][0].rollout.token_logprobs_T.tolist() == before[0][0].rollout.token_logprobs_T.tolist()
        if mode == "two_versions":
            swapped(engine, checkpoints, 5)  # the half-written lane is used again, under its new name
            assert set(engine.stats().versions) == {3, 5}


def test_drain_lets_rows_finish_and_requests_wait(cold: Cold, checkpoints: Mapping[int, Path]) -> None:
    with running(cold(3), swap_mode="drain", slots=2) as engine:
        listeners = [Listener() for _ in range(6)]
        engine.submit(long_request(), listeners[0])
        wait_for(lambda: engine.stats().running == 1)
        swap = engine.swap(checkpoints[4], 4)
        for seed, listener in enumerate(listeners[1:]):
            engine.submit(request(seed), listener)
        assert swap.result(SECONDS).to_version == 4
        answers = [finished_of(listener) for listener in listeners]
        assert engine.stats().versions == (4,)
    assert all(len(finished.version_spans) == 1 for finished in answers)
    assert all(finished.reason == "length" for finished in answers)
    assert answers[0].rollout.policy_version == 3
    assert answers[-1].rollout.policy_version == 4
    expected = sample(cold(4), PROMPT, request(4).sampling, 24, ignore_eos=True)
    assert answers[-1].rollout.token_ids_T.tolist() == expected.token_ids_T.tolist()


def test_in_place_goes_on_and_says_which_step_ran_on_which_version(cold: Cold, checkpoints: Mapping[int, Path]) -> None:
    with running(cold(3), swap_mode="in_place") as engine:
        listener = Listener()
        engine.submit(long_request(), listener)
        wait_for(lambda: len(listener.events) > 5)
        swapped(engine, checkpoints, 4)
        finished = finished_of(listener)
        ((new,),) = engine.generate([request(1)])
    (first, second) = finished.version_spans
    assert first == (3, 0)
    assert second[0] == 4
    at = second[1]
    assert 0 < at < 200
    assert finished.rollout.answer_length == 198
    expected = sample(cold(3), PROMPT, long_request().sampling, at, ignore_eos=True)
    assert finished.rollout.token_ids_T[: at - 2].tolist() == expected.token_ids_T.tolist()
    assert new.version_spans == ((4, 0),)
    fresh = sample(cold(4), PROMPT, request(1).sampling, 24, ignore_eos=True)
    assert new.rollout.token_ids_T.tolist() == fresh.token_ids_T.tolist()


def test_a_swap_still_pending_at_close_is_told(cold: Cold, checkpoints: Mapping[int, Path]) -> None:
    engine = Engine(cold(3), EngineConfig(slots=2, max_length=256, swap_mode="drain"))
    engine.start()
    engine.submit(Request(PROMPT, Sampling(), max_new=220, ignore_eos=True), Listener())
    wait_for(lambda: engine.stats().running == 1)
    future: Future[SwapReport] = engine.swap(checkpoints[4], 4)
    engine.close(0.0)
    try:
        assert future.result(SECONDS).to_version == 4  # it was quick enough
    except EngineClosed:
        assert engine.version == 3
    with pytest.raises(EngineClosed):
        engine.swap(checkpoints[4], 4)


def test_the_vocabulary_of_the_prompts_is_the_models() -> None:
    assert max(PROMPT) < VOCABULARY
