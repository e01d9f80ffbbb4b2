"""What a request may ask for itself, and what it may not: endings, bias, log-probabilities, text, refusals."""

import dataclasses
import math
from typing import Any

import pytest
import torch

from app.engine.config import EngineConfig
from app.engine.engine import Engine
from app.engine.request import Delta, Finished, Reasoned, Request, RequestTooLong
from app.engine.text import decoder
from tests.app.engine.conftest import Listener
from training.models.policy import Policy
from training.sampling import Sampling

PROMPT = tuple(range(5, 25))


def answer(policy: Policy, request: Request) -> Finished:
    ((finished,),) = Engine(policy, EngineConfig(slots=2, max_length=256)).generate([request])
    return finished


def listened(policy: Policy, *requests: Request) -> list[Listener]:
    """Answer with deltas, on this thread."""
    engine = Engine(policy, EngineConfig(slots=8, max_length=256))
    listeners = [Listener() for _ in requests]
    for request, listener in zip(requests, listeners, strict=True):
        engine.submit(request, listener)
    engine.generate([Request(PROMPT, Sampling(), max_new=1)])
    while engine.stats().running or engine.stats().waiting:
        engine.generate([Request(PROMPT, Sampling(), max_new=1)])
    return listeners


def asked(seed: int = 1, latents: int = 0, max_new: int = 40, **fields: Any) -> Request:
    return Request(PROMPT, Sampling(latent_length=latents, seed=seed), max_new=max_new, **fields)


def test_an_answer_ends_at_the_end_of_sequence_and_may_ignore_it(policy: Policy) -> None:
    ended = next(
        finished for seed in range(200) if (finished := answer(policy, asked(seed, max_new=60))).reason == "stop"
    )
    assert int(ended.rollout.token_ids_T[-1]) in policy.eos_ids
    assert "<|im_end|>" not in ended.text
    onward = answer(policy, asked(ended.rollout.sampling.seed, max_new=60, ignore_eos=True))
    assert onward.reason == "length"
    assert onward.rollout.answer_length == 60
    count = ended.rollout.answer_length
    assert onward.rollout.token_ids_T[:count].tolist() == ended.rollout.token_ids_T.tolist()


def test_a_stop_id_ends_the_answer_and_stays_out_of_its_text(policy: Policy) -> None:
    whole = answer(policy, asked(ignore_eos=True))
    stop_id = int(whole.rollout.token_ids_T[10])
    first = whole.rollout.token_ids_T.tolist().index(stop_id)
    stopped = answer(policy, asked(ignore_eos=True, stop_ids=(stop_id,)))
    assert stopped.reason == "stop"
    assert stopped.rollout.token_ids_T.tolist() == whole.rollout.token_ids_T[: first + 1].tolist()
    assert stopped.text == decoder(policy.tokenizer)(whole.rollout.token_ids_T[:first].tolist())


def test_latent_steps_neither_end_an_answer_nor_enter_its_text(policy: Policy) -> None:
    """Every token id ends an answer: the first answer token does, and no latent step before it."""
    everything = tuple(range(320))
    (listener,) = listened(policy, asked(latents=9, stop_ids=everything))
    reasoned, ending, finished = listener.events
    assert isinstance(reasoned, Reasoned)
    assert isinstance(ending, Delta)
    assert isinstance(finished, Finished)
    assert (ending.text, [token.token_id for token in ending.tokens]) == ("", finished.rollout.token_ids_T.tolist())
    assert (finished.rollout.latent_length, finished.rollout.answer_length, finished.text) == (9, 1, "")
    assert reasoned.reading_ids == tuple(finished.rollout.reading_L.tolist())
    assert reasoned.reading == decoder(policy.tokenizer)(list(reasoned.reading_ids))


@pytest.mark.parametrize("seed", range(12))
def test_a_stop_string_is_found_across_token_borders(policy: Policy, seed: int) -> None:
    whole = answer(policy, asked(seed, latents=2, ignore_eos=True))
    if len(whole.text) < 9:
        whole = answer(policy, asked(seed + 100, latents=2, ignore_eos=True))
        seed += 100
    stop = whole.text[4:8]
    request = asked(seed, latents=2, ignore_eos=True, stop=("never seen here", stop))
    (listener,) = listened(policy, request)
    finished = listener.events[-1]
    assert isinstance(finished, Finished)
    assert finished.reason == "stop"
    assert finished.text == whole.text[: whole.text.index(stop)]
    told = "".join(event.text for event in listener.events if isinstance(event, Delta))
    assert told == finished.text  # nothing of the stop string was given out on the way
    count = finished.rollout.answer_length
    assert finished.rollout.token_ids_T.tolist() == whole.rollout.token_ids_T[:count].tolist()


def test_deltas_add_up_to_the_text_and_are_sent_once_per_step(policy: Policy) -> None:
    requests = [asked(seed, latents=3, choices=2) for seed in range(4)]
    for request, listener in zip(requests, listened(policy, *requests), strict=True):
        for choice in range(request.choices):
            deltas = [event for event in listener.events if isinstance(event, Delta) and event.choice == choice]
            (finished,) = [e for e in listener.events if isinstance(e, Finished) and e.choice == choice]
            drawn = finished.rollout.token_ids_T.tolist()
            told = [info.token_id for delta in deltas for info in delta.tokens]
            assert told == drawn
            assert "".join(delta.text for delta in deltas) == finished.text
            assert finished.text == decoder(policy.tokenizer)(told)
        told_by = [
            [event.choice for event in call if isinstance(event, Delta) and event.tokens] for call in listener.calls
        ]
        assert all(len(set(choices)) == len(choices) for choices in told_by)
        assert any(len(choices) > 1 for choices in told_by), "choices of one step are told of together"


def test_min_tokens_forbids_endings_until_then_and_marks_the_rollout(policy: Policy) -> None:
    everything_but_one = tuple(range(319))  # id 319 alone may be drawn while endings are forbidden
    finished = answer(policy, asked(latents=3, stop_ids=everything_but_one, min_tokens=5))
    assert finished.rollout.token_ids_T[:5].tolist() == [319] * 5
    assert finished.rollout.answer_length >= 6
    assert finished.reason == "stop"
    assert finished.rollout.altered


def test_logit_bias_bends_its_own_row_alone(policy: Policy) -> None:
    plain = answer(policy, asked(2, latents=2))
    bent, beside = listened(policy, asked(1, latents=2, logit_bias={77: 100.0}), asked(2, latents=2))
    forced = bent.events[-1]
    assert isinstance(forced, Finished)
    assert set(forced.rollout.token_ids_T.tolist()) == {77}
    assert forced.rollout.altered
    untouched = beside.events[-1]
    assert isinstance(untouched, Finished)
    assert untouched.rollout.token_ids_T.tolist() == plain.rollout.token_ids_T.tolist()
    assert not untouched.rollout.altered


@pytest.mark.parametrize("temperature", [0.0, 0.7, 1.0])
def test_logprobs_are_the_models_own(policy: Policy, temperature: float) -> None:
    """At each answer token: log-softmax over the whole vocabulary at the temperature, by a plain forward."""
    sampling = Sampling(temperature=temperature, top_k=5, top_p=0.9, seed=3)
    (listener,) = listened(policy, Request(PROMPT, sampling, max_new=12, ignore_eos=True, top_logprobs=4))
    infos = [info for event in listener.events if isinstance(event, Delta) for info in event.tokens]
    assert len(infos) == 12
    ids = [*PROMPT, *(info.token_id for info in infos)]
    with torch.no_grad():
        logits_TV = policy.model(input_ids=torch.tensor([ids])).logits[0, len(PROMPT) - 1 : -1]
    logprobs_TV = (logits_TV / (temperature or 1.0)).log_softmax(-1)
    for info, logprobs_V in zip(infos, logprobs_TV, strict=True):
        assert math.isclose(info.logprob, float(logprobs_V[info.token_id]), abs_tol=1e-3)
        best = logprobs_V.topk(4)
        assert [token for token, _ in info.top] == best.indices.tolist()
        torch.testing.assert_close(torch.tensor([value for _, value in info.top]), best.values, atol=1e-3, rtol=0)


def test_greedy_takes_the_likeliest_token(policy: Policy) -> None:
    sampling = Sampling(temperature=0.0)
    (listener,) = listened(policy, Request(PROMPT, sampling, max_new=12, ignore_eos=True, top_logprobs=1))
    infos = [info for event in listener.events if isinstance(event, Delta) for info in event.tokens]
    assert [info.token_id for info in infos] == [info.top[0][0] for info in infos]


@pytest.mark.parametrize(
    ("field", "request_"),
    [
        ("prompt", Request((), Sampling(), max_new=4)),
        ("prompt", Request((5, 320), Sampling(), max_new=4)),
        ("prompt", Request((5, -1), Sampling(), max_new=4)),
        ("stop_ids", asked(stop_ids=(320,))),
        ("logit_bias", asked(logit_bias={400: 1.0})),
        ("logit_bias", asked(logit_bias={4: math.nan})),
        ("logit_bias", asked(logit_bias={4: 101.0})),
        ("top_k", Request(PROMPT, Sampling(top_k=65), max_new=4)),
        ("max_new", asked(latents=8, max_new=8)),
        ("choices", asked(choices=0)),
        ("choices", asked(choices=10**6)),
        ("min_tokens", asked(min_tokens=-1)),
        ("stop", asked(stop=("",))),
        ("top_logprobs", asked(top_logprobs=21)),
        ("deadline_s", asked(deadline_s=0.0)),
    ],
)
def test_what_is_out_of_range_is_refused_by_name(policy: Policy, field: str, request_: Request) -> None:
    engine = Engine(policy, EngineConfig(slots=2, max_length=64))
    with pytest.raises(ValueError, match=f"^(the )?{field}"):
        engine.submit(request_, Listener())


def test_what_does_not_fit_a_slot_is_refused_with_its_field(policy: Policy) -> None:
    engine = Engine(policy, EngineConfig(slots=2, max_length=64))
    with pytest.raises(RequestTooLong) as too_long:
        engine.submit(Request(tuple([5] * 64), Sampling(), max_new=1), Listener())
    assert too_long.value.param == "prompt"
    with pytest.raises(RequestTooLong) as too_many:
        engine.submit(Request(tuple([5] * 60), Sampling(), max_new=5), Listener())
    assert too_many.value.param == "max_new"
    ((finished,),) = engine.generate([Request(tuple([5] * 60), Sampling(), max_new=4, ignore_eos=True)])
    assert finished.rollout.answer_length == 4  # the last position of a slot can be used


def test_a_request_is_not_changed_by_its_answers(policy: Policy) -> None:
    request = asked(latents=2, choices=3)
    before = dataclasses.replace(request)
    Engine(policy, EngineConfig(slots=2, max_length=256)).generate([request])
    assert request == before
