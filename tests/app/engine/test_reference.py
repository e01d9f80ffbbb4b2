"""The engine draws what the reference sampler draws: whatever else is in the batch, however the prompt got there.

The argument: noise is a function of (seed, step, token id) and a row attends to itself alone, so the batch can only
enter through rounding. In float64 rounding is too small to turn a draw, so answers must agree token for token over many
latent steps; in float32 they agree too, as long as latents do not amplify the last bit, so fewer are used there.
"""

import copy
import dataclasses
import random
from collections.abc import Mapping
from typing import Any

import pytest
import torch

from app.engine.answer import Reader, answers_of
from app.engine.config import EngineConfig
from app.engine.engine import Engine
from app.engine.request import Event, Finished, Request
from app.engine.rows import Trace
from tests.app.conftest import configurations
from tests.tiny import VOCABULARY
from training.models.policy import Policy
from training.noise import choice_seed
from training.placement import ANSWER, Placement
from training.rollout import Rollout
from training.sample import sample
from training.sampling import Sampling

FAMILIES = tuple(configurations())


def cast(policy: Policy, dtype: torch.dtype) -> Policy:
    model = copy.deepcopy(policy.model)
    torch.nn.Module.to(model, dtype)
    return dataclasses.replace(policy, model=model)


def in_double(policy: Policy) -> Policy:
    return cast(policy, torch.float64)


def mixed_requests(count: int, *, most_latents: int = 8, seed: int = 1) -> list[Request]:
    """Requests that differ in everything that belongs to one request."""
    draw = random.Random(seed)
    requests = []
    for index in range(count):
        sampling = Sampling(
            latent_length=draw.choice([0, 1, most_latents]),
            tau=draw.choice([0.3, 0.5, 1.0]),
            temperature=draw.choice([0.0, 0.7, 1.0]),
            top_k=draw.choice([1, 5, 30, 40]),
            top_p=draw.choice([0.5, 0.95, 1.0]),
            seed=100 + index,
            draws=draw.choice([1, 1, 3, 5]),
        )
        prompt = tuple(draw.randrange(3, VOCABULARY) for _ in range(draw.randrange(1, 60)))
        requests.append(Request(prompt, sampling, max_new=draw.randrange(most_latents + 1, 40)))
    return requests


def assert_same(got: Rollout, expected: Rollout, tolerance: float) -> None:
    assert got.token_ids_T.tolist() == expected.token_ids_T.tolist()
    assert got.latent_ids_LK.tolist() == expected.latent_ids_LK.tolist()
    for name in (
        "latent_weights_LK",
        "latent_logprobs_LK",
        "latent_log_mass_L",
        "token_logprobs_T",
        "token_log_mass_T",
    ):
        torch.testing.assert_close(getattr(got, name), getattr(expected, name), rtol=0, atol=tolerance)
    assert got.prompt_ids_P.tolist() == expected.prompt_ids_P.tolist()
    assert got.sampling == expected.sampling
    assert got.policy_version == expected.policy_version
    assert got.stop_reason == expected.stop_reason
    assert not got.altered


PREAMBLE = Placement("preamble", (7, 11), (5, 13, 9))
THINKING = Placement("thinking", (), (21,))


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_latent_steps_are_placed_as_the_reference_places_them(policy: Policy, dtype: torch.dtype) -> None:
    policy = cast(policy, dtype)
    placements = (PREAMBLE, ANSWER, THINKING)
    requests = [
        dataclasses.replace(request, placement=placements[index % 3], choices=1 + index % 2)
        for index, request in enumerate(mixed_requests(15, most_latents=3))
    ]
    engine = Engine(policy, EngineConfig(slots=5, max_length=128, prefill_chunk=16))
    answers = engine.generate(requests)
    placed = 0
    for request, (finished, *_) in zip(requests, answers, strict=True):
        own, rollout = request.sampling, finished.rollout
        expected = sample(policy, request.prompt_ids, own, request.max_new, placement=request.placement)
        assert_same(rollout, expected, 1e-5 if dtype == torch.float64 else 2e-4)
        assert (rollout.placement, rollout.lead_in) == (expected.placement, expected.lead_in)
        assert rollout.lead_out_ids_O.tolist() == expected.lead_out_ids_O.tolist()
        assert rollout.asked_ids_P.tolist() == list(request.prompt_ids)
        placed += len(rollout.lead_out_ids_O)
    assert placed > 5
    stats = engine.stats()
    drawn = [one.rollout for choices in answers for one in choices]
    assert stats.tokens == sum(one.answer_length for one in drawn)
    assert stats.latents == sum(one.latent_length for one in drawn)


def test_an_answer_ended_within_its_lead_out_says_what_was_executed(policy: Policy) -> None:
    request = Request((4, 8), Sampling(latent_length=2, seed=1), max_new=20, placement=PREAMBLE)
    (answer,) = answers_of(request, Reader(str, None, policy.eos_ids), telling=False)
    answer.spans.append((3, 0))
    given = []
    for _ in range(4):  # two latent steps and two of the lead-out's three
        assert answer.take((30.0, -1.0, 0.0), (), 0.0, []) is None
        given.append(answer.given_id)
    assert given == [None, None, 5, 13]
    trace = Trace(torch.ones(2, 1, dtype=torch.int32), torch.ones(2, 1), torch.zeros(2, 1))
    events: list[Event] = []
    answer.finish("cancelled", trace, torch.tensor([4, 8, 7, 11], dtype=torch.int32), (0.0, None, None, None), events)
    (finished,) = events
    assert isinstance(finished, Finished)
    assert (finished.rollout.latent_length, finished.rollout.answer_length) == (2, 0)
    assert finished.rollout.lead_out_ids_O.tolist() == [5, 13]
    assert finished.text == "[]"


@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_answers_as_the_reference_does(policies: Mapping[str, Policy], family: str) -> None:
    policy = in_double(policies[family])
    requests = mixed_requests(14)
    engine = Engine(policy, EngineConfig(slots=4, max_length=128, prefill_chunk=16))
    for request, (finished,) in zip(requests, engine.generate(requests), strict=True):
        assert_same(finished.rollout, sample(policy, request.prompt_ids, request.sampling, request.max_new), 1e-5)
        assert finished.version_spans == ((3, 0),)


def test_float32_agrees_token_for_token(policy: Policy) -> None:
    requests = mixed_requests(16, most_latents=2)
    engine = Engine(policy, EngineConfig(slots=5, max_length=128, prefill_chunk=16))
    for request, (finished,) in zip(requests, engine.generate(requests), strict=True):
        assert_same(finished.rollout, sample(policy, request.prompt_ids, request.sampling, request.max_new), 2e-4)


@pytest.mark.parametrize(
    "settings",
    [
        {"slots": 1},
        {"slots": 12},
        {"prefill_chunk": 8},
        {"prefill_chunk": 512},
        {"prefix_cache_tokens": 0},
        {"prefix_cache_tokens": 48},
        {"max_top_k": 40},
    ],
)
def test_no_setting_of_the_engine_changes_an_answer(policy: Policy, settings: dict[str, Any]) -> None:
    policy = in_double(policy)
    requests = mixed_requests(10)
    plain = Engine(policy, EngineConfig(slots=4, max_length=128)).generate(requests)
    other = Engine(policy, EngineConfig(**{"slots": 4, "max_length": 128, **settings})).generate(requests)
    for (before,), (after,) in zip(plain, other, strict=True):
        assert_same(after.rollout, before.rollout, 1e-5)
        assert after.text == before.text


def test_arrival_order_does_not_change_an_answer(policy: Policy) -> None:
    policy = in_double(policy)
    requests = mixed_requests(12)
    order = list(range(len(requests)))
    random.Random(5).shuffle(order)
    first = Engine(policy, EngineConfig(slots=5, max_length=128)).generate(requests)
    second = Engine(policy, EngineConfig(slots=5, max_length=128)).generate([requests[index] for index in order])
    for place, index in enumerate(order):
        assert_same(second[place][0].rollout, first[index][0].rollout, 1e-5)


def test_choices_are_the_answers_of_their_own_seeds(policy: Policy) -> None:
    policy = in_double(policy)
    (prompt, sampling) = (tuple(range(5, 40)), Sampling(latent_length=3, seed=42))
    engine = Engine(policy, EngineConfig(slots=4, max_length=128, prefix_cache_tokens=0))
    (choices,) = engine.generate([Request(prompt, sampling, max_new=20, choices=11)])
    assert [finished.choice for finished in choices] == list(range(11))
    for finished in choices:
        own = dataclasses.replace(sampling, seed=choice_seed(42, finished.choice))
        assert_same(finished.rollout, sample(policy, prompt, own, 20), 1e-5)
    assert engine.stats().prefill_tokens == len(prompt) - 1  # once for all choices
    assert len({tuple(finished.rollout.token_ids_T.tolist()) for finished in choices}) > 1


def test_a_repeated_prompt_is_taken_from_the_prefix_cache(policy: Policy) -> None:
    policy = in_double(policy)
    engine = Engine(policy, EngineConfig(slots=2, max_length=128))
    prompt = tuple(range(3, 90))
    cold = engine.generate([Request(prompt, Sampling(latent_length=4, seed=1), max_new=12)])
    assert engine.stats().prefix_hit_tokens == 0
    warm = engine.generate([Request(prompt, Sampling(latent_length=4, seed=1), max_new=12)])
    assert engine.stats().prefix_hit_tokens == 80  # whole blocks of the 86 tokens before the last
    assert_same(warm[0][0].rollout, cold[0][0].rollout, 1e-5)
    longer = engine.generate([Request((*prompt[:40], 7, 8, 9), Sampling(seed=1), max_new=12)])
    assert engine.stats().prefix_hit_tokens == 80 + 32
    assert_same(longer[0][0].rollout, sample(policy, (*prompt[:40], 7, 8, 9), Sampling(seed=1), 12), 1e-5)


def test_the_prefix_cache_never_holds_a_generated_position(policy: Policy) -> None:
    engine = Engine(policy, EngineConfig(slots=2, max_length=128))
    engine.generate([Request(tuple(range(3, 25)), Sampling(latent_length=30, seed=1), max_new=60)])
    assert engine.stats().prefix_tokens == 16  # the one whole block of 21 prompt positions; 60 were generated


def test_bfloat16_answers_stay_close(policy: Policy) -> None:
    """In bfloat16 logits carry 8 bits: draws may turn, but the first step's log-probability is near."""
    low = cast(policy, torch.bfloat16)
    requests = [dataclasses.replace(request, ignore_eos=True) for request in mixed_requests(8, most_latents=2)]
    alone = Engine(low, EngineConfig(slots=1, max_length=128))
    together = Engine(low, EngineConfig(slots=8, max_length=128))
    pairs = list(zip(alone.generate(requests), together.generate(requests), strict=True))
    agreeing = sum(a.rollout.token_ids_T[:1].tolist() == b.rollout.token_ids_T[:1].tolist() for (a,), (b,) in pairs)
    assert agreeing >= 6
    assert all(torch.isfinite(b.rollout.token_logprobs_T).all() for _, (b,) in pairs)
