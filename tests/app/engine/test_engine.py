"""The engine as its callers meet it: queue, priorities, cancel, deadlines, failure, and the end.

Nothing may leak: after any load no row, prompt or queue place is held, and every choice was finished once.
"""

import dataclasses
import gc
import random
import threading
import time
import weakref
from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch

from app.engine.config import EngineConfig
from app.engine.engine import Engine
from app.engine.request import Crashed, EngineClosed, Event, Finished, QueueFull, Request
from app.engine.ticket import Ticket
from app.settings import Settings
from tests.app.engine.conftest import Listener, running
from tests.tiny import VOCABULARY
from training.models.policy import Policy
from training.sampling import Sampling

PROMPT = tuple(range(40, 60))
SECONDS = 120.0


def request(max_new: int = 200, *, seed: int = 1, **fields: object) -> Request:
    return Request(PROMPT, Sampling(seed=seed), max_new=max_new, ignore_eos=True, **fields)  # type: ignore[arg-type]


def wait_for(condition: Callable[[], bool]) -> None:
    until = time.monotonic() + SECONDS
    while not condition():
        assert time.monotonic() < until, "it did not come to pass"
        time.sleep(0.002)


def finished(listener: Listener) -> list[Finished]:
    return [event for event in listener.events if isinstance(event, Finished)]


def test_no_request_waits_for_a_compiler(policy: Policy, monkeypatch: pytest.MonkeyPatch) -> None:
    prepared: list[torch.device] = []
    monkeypatch.setattr("app.engine.engine.prepare", prepared.append)
    Engine(policy, EngineConfig(slots=2, max_length=64))
    assert prepared == [policy.device]


def assert_nothing_is_held(engine: Engine) -> None:
    stats = engine.stats()
    assert (stats.running, stats.waiting, stats.cache_tokens) == (0, 0, 0)
    assert engine._live == {}
    assert len(engine._waiting) == 0
    for lane in engine._lanes:
        assert lane.idle
        assert not lane.prefill.prompts
        assert all(row is None for row in lane.running)
    assert engine._lanes.blocks.held == 0


def test_two_thousand_random_answers_leave_nothing_behind(policy: Policy) -> None:
    """Short requests of every kind, some cancelled at any time, some late: each choice ends once."""
    draw = random.Random(7)
    with running(policy, slots=5, max_waiting=10_000, prefill_chunk=32, prefix_cache_tokens=256) as engine:
        listeners: list[tuple[Request, Listener]] = []
        for seed in range(700):
            asked = Request(
                tuple(draw.randrange(3, VOCABULARY) for _ in range(draw.choice([1, 2, 17, 40]))),
                Sampling(latent_length=draw.choice([0, 0, 2]), seed=seed),
                max_new=draw.randrange(3, 7),
                choices=draw.choice([1, 1, 1, 2, 9]),
                priority=draw.randrange(3),
                stop=draw.choice([(), ("a",)]),
                logit_bias=draw.choice([{}, {}, {5: 3.0}]),
                min_tokens=draw.choice([0, 0, 2]),
                deadline_s=draw.choice([None, None, None, 0.05, 100.0]),
            )
            listener = Listener()
            ticket = engine.submit(asked, listener)
            listeners.append((asked, listener))
            if draw.random() < 0.2:
                ticket.cancel()
            if draw.random() < 0.05:
                threading.Timer(0.01, ticket.cancel).start()
        wait_for(lambda: not engine.stats().running and not engine.stats().waiting)
        wait_for(lambda: engine._live == {})
        assert_nothing_is_held(engine)
        asked_for = sum(asked.choices for asked, _ in listeners)
        assert engine.stats().finished == asked_for
    for asked, listener in listeners:
        ends = finished(listener)
        assert sorted(event.choice for event in ends) == list(range(asked.choices))
        assert {event.reason for event in ends} <= {"stop", "length", "cancelled", "deadline"}


def test_cancelling_frees_the_slot_within_one_step(policy: Policy) -> None:
    engine = Engine(policy, EngineConfig(slots=2, max_length=256))
    cancelled, other = Listener(), Listener()
    ticket = engine.submit(request(), cancelled)
    engine.submit(request(), other)
    for _ in range(6):
        engine._turn()
    assert engine.stats().running == 2
    ticket.cancel()
    engine._turn()
    assert engine.stats().running == 1
    (end,) = finished(cancelled)
    assert end.reason == "cancelled"
    assert end.rollout.stop_reason == "cancelled"
    drawn = end.rollout.answer_length
    assert drawn == 6
    told = sum(len(event.tokens) for event in cancelled.events if hasattr(event, "tokens"))
    assert told == drawn
    ticket.cancel()  # again: nothing happens
    engine._turn()
    assert len(finished(cancelled)) == 1


@pytest.mark.parametrize("turns", [0, 1, 3])
def test_a_cancel_reaches_choices_wherever_they_are(policy: Policy, turns: int) -> None:
    """Waiting, prompt under way, or partly running: all five choices end, with what they had."""
    engine = Engine(policy, EngineConfig(slots=2, max_length=256, prefill_chunk=8))
    listener = Listener()
    ticket = engine.submit(request(choices=5), listener)
    for _ in range(turns):
        engine._turn()
    ticket.cancel()
    engine._turn()
    assert sorted(event.choice for event in finished(listener)) == [0, 1, 2, 3, 4]
    assert all(event.reason == "cancelled" for event in finished(listener))
    assert_nothing_is_held(engine)


def test_whoever_submits_does_none_of_the_engines_work(policy: Policy) -> None:
    """E7: a request of 128 choices kept the event loop for 6 to 29 ms."""
    engine = Engine(policy, EngineConfig(slots=2, max_length=256, max_waiting=200))
    ticket = engine.submit(request(choices=128), Listener())
    assert not {"answers", "prompt_P"} & vars(ticket).keys()
    engine._turn()
    assert len(ticket.answers) == 128


def test_the_background_takes_no_place_in_the_queue_from_those_who_wait(policy: Policy) -> None:
    engine = Engine(policy, EngineConfig(slots=2, max_length=64, max_waiting=0))
    engine._state = "ready"
    engine.submit(request(30, background=True), Listener())
    engine._turn()
    engine.submit(request(30, background=True), Listener())
    with pytest.raises(QueueFull):
        engine.submit(request(30, background=True), Listener())
    live = Listener()
    engine.submit(request(2, choices=2), live)
    with pytest.raises(QueueFull):
        engine.submit(request(2), Listener())
    for _ in range(20):
        engine._turn()
    assert [event.reason for event in finished(live)] == ["length", "length"]


def test_what_was_answered_is_not_kept_until_its_deadline(policy: Policy) -> None:
    """A busy server answers thousands of requests within a deadline: each would hold its prompt and its answer."""
    tickets: list[weakref.ref[Ticket]] = []
    with running(policy, slots=4, max_length=64) as engine:
        for number in range(40):
            listener = Listener()
            tickets.append(weakref.ref(engine.submit(request(2, seed=number, deadline_s=300.0), listener)))
            wait_for(lambda listener=listener: bool(finished(listener)))  # type: ignore[misc]
        engine.generate([request(1)])  # a turn later, so that the last one is forgotten too
        gc.collect()
        assert sum(ticket() is not None for ticket in tickets) <= 1


def test_deadlines_end_the_running_and_the_waiting(policy: Policy) -> None:
    with running(policy, slots=1, max_length=512) as engine:
        blocker, late, waiting = Listener(), Listener(), Listener()
        ticket = engine.submit(request(480), blocker)
        engine.submit(request(480, deadline_s=0.05), waiting)
        wait_for(lambda: bool(finished(waiting)))
        ticket.cancel()
        engine.submit(request(480, deadline_s=0.1), late)
        wait_for(lambda: bool(finished(late)))
    (in_queue,), (under_way,) = finished(waiting), finished(late)
    assert in_queue.reason == under_way.reason == "deadline"
    assert in_queue.rollout.answer_length == 0
    assert in_queue.first_token_s is None
    assert 0.05 <= in_queue.queued_s < 5
    assert 0 < under_way.rollout.answer_length < 480
    assert under_way.first_token_s is not None


def test_the_queue_is_bounded_in_choices_and_says_when_to_come_back(policy: Policy) -> None:
    engine = Engine(policy, EngineConfig(slots=2, max_length=256, max_waiting=3))
    engine.submit(request(choices=2), Listener())
    engine.submit(request(choices=3), Listener())
    with pytest.raises(QueueFull) as full:
        engine.submit(request(), Listener())
    assert full.value.retry_after_s >= 1
    assert engine.stats().refused == 1
    engine._turn()  # two choices have slots now, three wait
    with pytest.raises(QueueFull):
        engine.submit(request(), Listener())
    assert engine.stats().waiting == 3


def test_without_a_queue_free_slots_still_take_requests(policy: Policy) -> None:
    engine = Engine(policy, EngineConfig(slots=2, max_length=256, max_waiting=0))
    engine.submit(request(), Listener())
    engine.submit(request(), Listener())
    with pytest.raises(QueueFull):
        engine.submit(request(), Listener())


def test_priorities_go_first_and_equals_in_order(policy: Policy) -> None:
    engine = Engine(policy, EngineConfig(slots=1, max_length=256))
    order: list[str] = []

    def noting(name: str) -> Callable[[Sequence[Event]], None]:
        def sink(events: Sequence[Event]) -> None:
            order.extend(name for event in events if isinstance(event, Finished))

        return sink

    for name, priority in (("b1", 1), ("c", 2), ("a", 0), ("b2", 1)):
        engine.submit(request(2, priority=priority), noting(name))
    engine.generate([request(2, priority=9)])
    assert order == ["a", "b1", "b2", "c"]


def test_long_prompts_do_not_stall_running_answers(policy: Policy) -> None:
    """While a prompt of 200 is computed in chunks of 8, a running answer draws a token at every turn."""
    engine = Engine(policy, EngineConfig(slots=2, max_length=256, prefill_chunk=8, prefix_cache_tokens=0))
    engine.submit(request(), Listener())
    engine._turn()
    engine._turn()
    engine._turn()
    engine.submit(Request(tuple(range(3, 203)), Sampling(), max_new=4, ignore_eos=True), Listener())
    for _ in range(24):
        before = engine.stats()
        engine._turn()
        after = engine.stats()
        assert after.tokens == before.tokens + 1
        assert after.prefill_tokens <= before.prefill_tokens + 8
    assert engine.stats().running == 1
    engine._turn()
    assert engine.stats().running == 2


def test_a_failure_reaches_everyone_and_nothing_hangs(policy: Policy, monkeypatch: pytest.MonkeyPatch) -> None:
    with running(policy, slots=1, max_length=512) as engine:
        under_way, waiting = Listener(), Listener()
        engine.submit(request(480), under_way)
        engine.submit(request(480), waiting)
        wait_for(lambda: engine.stats().running == 1)

        def explode(*_: object, **__: object) -> None:
            raise RuntimeError("the device is gone")

        monkeypatch.setattr(engine._lanes.serving.rows, "step", explode)
        wait_for(lambda: any(isinstance(event, Crashed) for event in waiting.events))
        assert any(isinstance(event, Crashed) for event in under_way.events)
        assert engine.stats().state == "crashed"
        assert engine.stats().failure == "RuntimeError: the device is gone"
        assert isinstance(engine.failure, RuntimeError)
        with pytest.raises(EngineClosed, match="failed"):
            engine.submit(request(), Listener())


def test_logits_that_are_not_numbers_fail_their_request_alone(policy: Policy, monkeypatch: pytest.MonkeyPatch) -> None:
    """E5: one such row crashed the service."""
    engine = Engine(policy, EngineConfig(slots=6, max_length=256))
    broken, sound = Listener(), Listener()
    engine.submit(request(20, choices=3), broken)
    engine.submit(request(20, seed=2, choices=2), sound)
    rows = engine._lanes.serving.rows
    forward = rows.forward

    def poisoned(*given: Any, **named: Any) -> torch.Tensor:
        logits_BV = forward(*given, **named)
        logits_BV[0] = float("nan")
        return logits_BV

    for _ in range(4):
        engine._turn()
    monkeypatch.setattr(rows, "forward", poisoned)
    engine._turn()
    monkeypatch.undo()
    assert [type(event) for event in broken.events][-1] is Crashed
    assert not finished(broken)
    for _ in range(30):
        engine._turn()
    assert [end.reason for end in finished(sound)] == ["length", "length"]
    assert (engine.stats().state, engine.stats().not_finite) == ("ready", 1)
    assert engine.stats().by_version[0].not_finite == 1
    assert_nothing_is_held(engine)


def test_a_sink_whose_loop_is_closed_counts_as_a_cancel(policy: Policy) -> None:
    def deaf(_: Sequence[Event]) -> None:
        raise RuntimeError("Event loop is closed")

    with running(policy, max_length=512) as engine:
        engine.submit(request(480), deaf)
        ((other,),) = engine.generate([request(20)])
        assert other.reason == "length"
        wait_for(lambda: engine._live == {})
        assert_nothing_is_held(engine)


def test_closing_lets_answers_finish_within_the_drain(policy: Policy) -> None:
    engine = Engine(policy, EngineConfig(slots=1, max_length=256))
    engine.start()
    first, second = Listener(), Listener()
    engine.submit(request(30), first)
    engine.submit(request(30), second)
    engine.close(SECONDS)
    assert [end.reason for end in (*finished(first), *finished(second))] == ["length", "length"]
    assert engine.stats().state == "closed"
    with pytest.raises(EngineClosed):
        engine.submit(request(), Listener())
    engine.close(SECONDS)  # again: nothing happens


def test_closing_cancels_what_the_drain_does_not_cover(policy: Policy) -> None:
    engine = Engine(policy, EngineConfig(slots=1, max_length=512))
    engine.start()
    under_way, waiting = Listener(), Listener()
    engine.submit(request(480), under_way)
    engine.submit(request(480), waiting)
    wait_for(lambda: engine.stats().running == 1)
    began = time.monotonic()
    engine.close(0.01)
    assert time.monotonic() - began < 5
    assert [end.reason for end in (*finished(under_way), *finished(waiting))] == ["cancelled", "cancelled"]
    assert_nothing_is_held(engine)


def test_an_engine_that_never_started_closes_too(policy: Policy) -> None:
    engine = Engine(policy, EngineConfig(slots=1, max_length=256))
    listener = Listener()
    engine.submit(request(), listener)
    engine.close(0.0)
    assert [end.reason for end in finished(listener)] == ["cancelled"]


@pytest.mark.parametrize("started", [False, True])
def test_a_closed_engine_lets_go_of_its_caches_at_once(policy: Policy, started: bool) -> None:
    """Not when Python next looks for cycles: by then a learner would have made several engines, and run out."""
    gc.collect()
    gc.disable()
    try:
        engine = Engine(policy, EngineConfig(slots=4, max_length=64))
        if started:
            engine.start()
        engine.generate([request(8, seed=seed) for seed in range(3)])
        engine.close(5.0)
        serving = engine._lanes.serving
        held = [weakref.ref(one) for one in (engine, serving, serving.rows.cache.pool, serving.prefill)]
        del engine, serving
        assert [one() for one in held] == [None] * 4
    finally:
        gc.enable()


def test_generate_reports_progress_on_its_own_thread_and_on_the_engines(policy: Policy) -> None:
    requests = [request(5, seed=seed, choices=2) for seed in range(6)]
    own: list[int] = []
    alone = Engine(policy, EngineConfig(slots=3, max_length=256)).generate(requests, own.append)
    assert own[-1] == 12
    assert own == sorted(set(own))
    with running(policy, slots=3, max_waiting=0) as engine:  # the queue's bound does not apply
        theirs: list[int] = []
        started = engine.generate(requests, theirs.append)
    assert theirs[-1] == 12
    tokens = [[end.rollout.token_ids_T.tolist() for end in choices] for choices in alone]
    assert tokens == [[end.rollout.token_ids_T.tolist() for end in choices] for choices in started]


@pytest.mark.parametrize("threads", [1, 3])
def test_the_engines_thread_alone_has_the_cores_it_was_given(policy: Policy, threads: int) -> None:
    mine = torch.get_num_threads()
    heard: list[int] = []
    with running(policy, threads=threads) as engine:
        ticket = engine.submit(request(5), lambda _: heard.append(torch.get_num_threads()))
        wait_for(lambda: not ticket.unfinished)
    assert set(heard) == {threads}
    assert torch.get_num_threads() == mine
    with running(policy) as engine:
        ticket = engine.submit(request(5), lambda _: heard.append(torch.get_num_threads()))
        wait_for(lambda: not ticket.unfinished)
    assert heard[-1] == mine, "not said, it has as many as who made it"


def test_settings_reach_the_engine() -> None:
    settings = Settings(slots=3, max_length=99, max_top_k=12, prefill_chunk=16, max_waiting=7, swap_mode="drain")
    settings = settings.model_copy(update={"packing": "off", "threads": 5, "cache_tokens": 480})
    config = EngineConfig.from_settings(settings)
    assert config == EngineConfig(
        slots=3,
        max_length=99,
        max_top_k=12,
        prefill_chunk=16,
        cache_tokens=480,
        prefix_cache_tokens=settings.prefix_cache_tokens,
        max_waiting=7,
        swap_mode="drain",
        packing="off",
        threads=5,
    )


@pytest.mark.parametrize("field", ["slots", "max_length", "max_top_k", "prefill_chunk", "max_waiting", "threads"])
def test_settings_out_of_range_are_refused_by_name(field: str) -> None:
    with pytest.raises(ValueError, match=field):
        dataclasses.replace(EngineConfig(), **{field: -1})  # type: ignore[arg-type]
