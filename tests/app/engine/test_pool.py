"""Answers share one pool: nothing is copied, nobody waits behind anybody, and who gave way goes on as before."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import pytest
import torch

from app.decoder.cache import BLOCK
from app.engine.config import EngineConfig
from app.engine.engine import Engine
from app.engine.request import Crashed, Event, Finished, Request
from app.engine.room import blocks_of_pool, blocks_wanted
from tests.app.engine.conftest import Listener
from tests.app.engine.test_engine import assert_nothing_is_held
from tests.app.engine.test_reference import PREAMBLE, assert_same, cast, in_double, mixed_requests
from training.models.policy import Policy
from training.noise import choice_seed
from training.placement import ANSWER
from training.sample import sample
from training.sampling import Sampling

LONG = tuple(range(3, 203))
SHORT = (7, 8, 9)


def first_token_turns(engine: Engine, request: Request, most: int = 200) -> int:
    """Turns until a request has its first token."""
    heard: list[Event] = []
    engine.submit(request, heard.extend)
    for turn in range(1, most):
        engine._turn()
        if heard:
            return turn
    raise AssertionError("it never had one")


def asked(prompt: Sequence[int], max_new: int, seed: int = 1, **fields: object) -> Request:
    return Request(tuple(prompt), Sampling(seed=seed), max_new=max_new, ignore_eos=True, **fields)  # type: ignore[arg-type]


@pytest.mark.parametrize("family", ["qwen2", "qwen2_mixed", "gemma3"])
def test_who_gives_way_goes_on_from_where_it_was(policies: Mapping[str, Policy], family: str) -> None:
    """A pool for about three answers under six: latents, lead-outs and tokens are computed again, and drawn once."""
    policy = in_double(policies[family])
    requests = [
        dataclasses.replace(request, max_new=60, ignore_eos=True, placement=PREAMBLE if index % 3 == 0 else ANSWER)
        for index, request in enumerate(mixed_requests(10))
    ]
    engine = Engine(policy, EngineConfig(slots=6, max_length=128, prefill_chunk=16, cache_tokens=256))
    answers = engine.generate(requests)
    assert engine.stats().preempted > 3
    for request, (finished,) in zip(requests, answers, strict=True):
        expected = sample(
            policy, request.prompt_ids, request.sampling, 60, placement=request.placement, ignore_eos=True
        )
        assert_same(finished.rollout, expected, 1e-5)
    engine._turn()
    assert_nothing_is_held(engine)


def test_one_that_gave_way_can_be_cancelled(policy: Policy) -> None:
    engine = Engine(policy, EngineConfig(slots=4, max_length=128, cache_tokens=144))
    listeners = [Listener() for _ in range(4)]
    tickets = [engine.submit(asked(range(3, 40), 80, seed), one) for seed, one in enumerate(listeners)]
    while not any(prompt.resumed for prompt in engine._lanes.serving.prefill.prompts):
        engine._turn()
    (gone, *_) = [prompt.ticket for prompt in engine._lanes.serving.prefill.prompts if prompt.resumed]
    had = gone.answers[0].steps
    gone.cancel()
    engine._turn()
    (end,) = [event for event in listeners[tickets.index(gone)].events if isinstance(event, Finished)]
    assert (end.reason, end.rollout.answer_length) == ("cancelled", had)
    for ticket in tickets:
        ticket.cancel()
    engine._turn()
    engine._turn()
    assert_nothing_is_held(engine)


def test_choices_share_the_blocks_of_their_prompt(policy: Policy) -> None:
    engine = Engine(policy, EngineConfig(slots=8, max_length=256, prefill_chunk=512))
    engine.submit(asked(LONG, 8, choices=8), Listener())
    engine._turn()
    assert engine.stats().running == 8
    whole = (len(LONG) - 1) // BLOCK
    assert engine._lanes.blocks.held == whole + 8, "the full ones once, and one of its own for each"


@pytest.mark.parametrize("length", [BLOCK, BLOCK + 1, 2 * BLOCK + 1, 40])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_no_choice_writes_what_another_reads(policy: Policy, length: int, dtype: torch.dtype) -> None:
    """At every place of the prompt's end within a block."""
    policy = cast(policy, dtype)
    prompt, sampling = tuple(range(5, 5 + length)), Sampling(seed=9)
    engine = Engine(policy, EngineConfig(slots=3, max_length=128))
    (choices,) = engine.generate([Request(prompt, sampling, max_new=24, choices=7)])
    for finished in choices:
        own = dataclasses.replace(sampling, seed=choice_seed(9, finished.choice))
        assert_same(finished.rollout, sample(policy, prompt, own, 24), 1e-5 if dtype == torch.float64 else 2e-4)


def test_a_prompt_that_goes_on_from_an_answer_finds_its_blocks(policy: Policy) -> None:
    """The next turn of a conversation computes what is new in it."""
    policy = in_double(policy)
    engine = Engine(policy, EngineConfig(slots=2, max_length=256))
    [[first]] = engine.generate([asked(LONG[:40], 40)])
    turn = (*LONG[:40], *first.rollout.token_ids_T.tolist(), 5, 6, 7)
    before = engine.stats()
    [[second]] = engine.generate([Request(turn, Sampling(seed=2), max_new=10)])
    assert engine.stats().prefix_hit_tokens - before.prefix_hit_tokens == 79 // BLOCK * BLOCK
    assert engine.stats().prefill_tokens - before.prefill_tokens == len(turn) - 1 - 79 // BLOCK * BLOCK
    assert_same(second.rollout, sample(policy, turn, Sampling(seed=2), 10), 1e-5)


def test_a_short_prompt_waits_for_no_long_one(policy: Policy) -> None:
    """E6: three tokens behind four hundred waited fifty turns, six slots free."""
    engine = Engine(policy, EngineConfig(slots=6, max_length=512, prefill_chunk=16, prefix_cache_tokens=0))
    for seed in range(3):
        engine.submit(asked(LONG * 2, 8, seed), Listener())
    engine._turn()
    assert first_token_turns(engine, asked(SHORT, 4)) <= 3
    behind = engine._lanes.serving.prefill.prompts[0]
    left = behind.left
    engine._turn()
    assert behind.left < left, "the oldest goes on too"


def test_one_that_wants_more_rows_than_there_are_lets_others_in(policy: Policy) -> None:
    """E6: a request with n above the slots blocked everyone."""
    engine = Engine(policy, EngineConfig(slots=2, max_length=128))
    many = Listener()
    engine.submit(asked(SHORT, 6, choices=12), many)
    engine._turn()
    other = Listener()
    engine.submit(asked(SHORT, 6, seed=5), other)
    for _ in range(15):
        engine._turn()
    assert [type(event) for event in other.events][-1] is Finished
    assert sum(isinstance(event, Finished) for event in many.events) < 12
    for _ in range(40):
        engine._turn()
    assert sum(isinstance(event, Finished) for event in many.events) == 12


def test_one_for_whom_there_are_no_blocks_is_passed_by_and_not_for_ever(policy: Policy) -> None:
    engine = Engine(policy, EngineConfig(slots=4, max_length=256, cache_tokens=288, prefix_cache_tokens=0))
    engine.submit(asked(range(3, 150), 90), Listener())
    engine._turn()
    large, small = Listener(), Listener()
    engine.submit(asked(range(3, 203), 20, seed=2), large)
    engine.submit(asked(SHORT, 4, seed=3), small)
    for _ in range(6):
        engine._turn()
    assert any(isinstance(event, Finished) for event in small.events)
    assert not large.events
    for number in range(400):
        engine.submit(asked(SHORT, 4, seed=number), Listener())
        engine._turn()
        if large.events:
            break
    assert large.events, "sixty-four have passed it, then all wait for it"


def test_a_long_answer_costs_its_own_blocks_only(policy: Policy) -> None:
    engine = Engine(policy, EngineConfig(slots=4, max_length=512))
    engine.submit(asked(LONG * 2, 20), Listener())
    for seed in range(3):
        engine.submit(asked(SHORT, 20, seed=seed), Listener())
    for _ in range(8):
        engine._turn()
    assert engine._lanes.blocks.held <= (len(LONG) * 2 + 20) // BLOCK + 1 + 3 * 2


@pytest.mark.parametrize("tokens", [0, 300, 16])
def test_the_pool_is_as_large_as_asked_or_as_could_be_needed(policy: Policy, tokens: int) -> None:
    config = EngineConfig(slots=3, max_length=100, cache_tokens=tokens, prefix_cache_tokens=64)
    engine = Engine(policy, config)
    wanted = {0: 3 * (7 + 1) + 4, 300: 19, 16: 8}[tokens]  # one answer of the longest kind always fits
    assert engine.stats().cache_room == wanted * BLOCK
    assert blocks_wanted(config, 100) == 1 + 3 * 8 + 4
    assert f"{wanted} blocks of 16 positions" in engine.memory
    assert f"{wanted // 7} answers of 100 positions" in engine.memory


def test_where_memory_is_short_the_pool_is_smaller_and_where_nothing_fits_it_says_so(
    policy: Policy, monkeypatch: pytest.MonkeyPatch
) -> None:
    anatomy = Engine(policy, EngineConfig(slots=1, max_length=64))._lanes.anatomy
    config = EngineConfig(slots=64, max_length=128, swap_mode="in_place")
    monkeypatch.setattr("app.engine.room.free", lambda _device: 400_000)
    short = blocks_of_pool(policy, anatomy, config, 128)
    assert 10 <= short < blocks_wanted(config, 128)
    monkeypatch.setattr("app.engine.room.free", lambda _device: 1000)
    with pytest.raises(MemoryError, match="LEPO_MAX_LENGTH"):
        blocks_of_pool(policy, anatomy, config, 128)


class Short:
    """A forward that runs out of memory when it is given more than so many positions."""

    def __init__(self, forward: Any, most: int) -> None:
        self.forward, self.most, self.refused = forward, most, 0

    def __call__(self, **given: Any) -> Any:
        if given["inputs_embeds"].shape[:2].numel() > self.most:
            self.refused += 1
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return self.forward(**given)


def test_where_memory_is_short_for_prompts_they_go_on_by_smaller_pieces(policy: Policy) -> None:
    engine = Engine(in_double(policy), EngineConfig(slots=2, max_length=256, prefill_chunk=128))
    prefill = engine._lanes.serving.prefill
    prefill._model = short = Short(prefill._model, most=20)
    [[finished]] = engine.generate([asked(LONG, 10)])
    assert short.refused == 3
    assert_same(finished.rollout, sample(in_double(policy), LONG, Sampling(seed=1), 10, ignore_eos=True), 1e-5)


def test_a_prompt_for_which_there_is_no_memory_at_all_fails_alone(policy: Policy) -> None:
    engine = Engine(policy, EngineConfig(slots=2, max_length=256))
    prefill = engine._lanes.serving.prefill
    prefill._model, sound = Short(prefill._model, most=0), prefill._model
    listener = Listener()
    engine.submit(asked(SHORT, 10), listener)
    for _ in range(12):
        engine._turn()
    (crashed,) = listener.events
    assert isinstance(crashed, Crashed)
    assert "memory" in crashed.message
    prefill._model = sound
    assert engine.generate([asked(SHORT[:1], 4)])[0][0].reason == "length"


def test_where_memory_is_short_for_a_step_the_youngest_goes_on_later(policy: Policy) -> None:
    policy = in_double(policy)
    engine = Engine(policy, EngineConfig(slots=4, max_length=128))
    rows = engine._lanes.serving.rows
    rows.model = short = Short(rows.model, most=2)
    requests = [asked(SHORT, 12, seed) for seed in range(4)]
    for request, [finished] in zip(requests, engine.generate(requests), strict=True):
        assert_same(finished.rollout, sample(policy, SHORT, request.sampling, 12, ignore_eos=True), 1e-5)
    assert short.refused
    assert engine.stats().preempted
