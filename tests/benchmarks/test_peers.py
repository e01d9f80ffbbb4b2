"""The comparison is fair: every peer answers the same asks in full, by the same sampling settings, on one model."""

from collections.abc import Callable, Sequence

import pytest
import torch

from benchmarks.bare import BareForward
from benchmarks.driving import answer, engine_for, steps_per_second
from benchmarks.load import TEMPERATURE, TOP_K, TOP_P, Ask, ragged_asks, requests
from benchmarks.peers import CACHES, continuous_batching, generate, generate_in_batches, left_padded
from benchmarks.shapes import SHAPES, build_policy
from training.models.policy import Policy

MICRO = SHAPES["micro"]
Peer = Callable[[Policy, Sequence[Ask]], list[list[int]]]


@pytest.fixture(scope="module")
def policy() -> Policy:
    return build_policy(MICRO, seed=0, version=0, dtype=torch.float32, device="cpu")


@pytest.fixture(scope="module")
def asks() -> list[Ask]:
    return ragged_asks(MICRO, 6, range(4, 20), range(3, 12), seed=5)


def by_engine(policy: Policy, asks: Sequence[Ask]) -> list[list[int]]:
    engine = engine_for(policy, 2, 64)
    answers = answer(engine, asks, seed=1)
    engine.close(0)
    return answers


def by_continuous_batching(policy: Policy, asks: Sequence[Ask]) -> list[list[int]]:
    with continuous_batching(policy, 2, 64) as batching:
        return batching.answer(asks)


def by_batches(policy: Policy, asks: Sequence[Ask]) -> list[list[int]]:
    return generate_in_batches(policy, asks, 4, "dynamic")


def by_static_cache(policy: Policy, asks: Sequence[Ask]) -> list[list[int]]:
    return generate(policy, asks, "static")


PEERS: list[Peer] = [by_engine, by_continuous_batching, by_batches, by_static_cache]


@pytest.mark.parametrize("peer", PEERS)
def test_answers_are_as_long_as_asked_and_drawn_from_the_shared_support(
    peer: Peer, policy: Policy, asks: list[Ask]
) -> None:
    """A peer that stopped early, or that skipped top-k, top-p or the left padding, would fail here."""
    answers = peer(policy, asks)
    assert [len(one) for one in answers] == [ask.answer_length for ask in asks]
    for ask, tokens in zip(asks, answers, strict=True):
        assert outside_support(policy, ask.prompt_ids, tokens) == 0


def test_answers_without_the_shared_settings_are_noticed(policy: Policy, asks: list[Ask]) -> None:
    """The check above can fail: uniform tokens lie outside of the support."""
    generator = torch.Generator().manual_seed(0)
    tokens = torch.randint(2, MICRO.vocabulary, (12,), generator=generator).tolist()
    assert outside_support(policy, asks[0].prompt_ids, tokens) > 6


def outside_support(policy: Policy, prompt: Sequence[int], tokens: Sequence[int]) -> int:
    """How many tokens neither top-k nor top-p would have left, by a plain forward over the whole answer."""
    ids = torch.tensor([[*prompt, *tokens]])
    with torch.no_grad():
        logits_TV = policy.model(input_ids=ids).logits[0, len(prompt) - 1 : -1]
    top = (logits_TV / TEMPERATURE).topk(TOP_K, dim=-1)
    weights_TK = top.values.softmax(-1)
    before_TK = weights_TK.cumsum(-1) - weights_TK
    drawn_TK = top.indices == torch.tensor(tokens)[:, None]
    return int((~(drawn_TK & (before_TK < TOP_P + 1e-4)).any(-1)).sum())


def test_no_prompt_is_asked_twice_and_seeds_decide_it() -> None:
    """Repeats ask fresh prompts, or a prefix cache would answer; the same repeat asks every peer the same."""
    first, again, other = (ragged_asks(MICRO, 5, range(4, 9), range(2, 5), seed) for seed in (1, 1, 2))
    assert first == again
    assert not {ask.prompt_ids for ask in first} & {ask.prompt_ids for ask in other}


def test_left_padding_keeps_every_prompt_at_the_right_end(asks: list[Ask]) -> None:
    ids_BP, mask_BP = left_padded(asks)
    for row, ask in enumerate(asks):
        assert tuple(ids_BP[row][mask_BP[row].bool()].tolist()) == ask.prompt_ids
        assert mask_BP[row, -1] == 1


def test_the_model_has_no_ending_for_generate_to_look_for(policy: Policy) -> None:
    assert policy.model.generation_config is not None
    assert policy.model.generation_config.eos_token_id is None
    assert set(CACHES) == {"dynamic", "static"}


def test_steps_are_counted_while_all_rows_run(policy: Policy) -> None:
    asks = ragged_asks(MICRO, 3, range(4, 5), range(24, 25), seed=1)
    engine = engine_for(policy, 3, 32)
    engine.start()
    assert steps_per_second(engine, requests(asks, 1)) > 0
    engine.close(0)
    assert BareForward(policy, 3, 4, 20).steps_per_second() > 0
