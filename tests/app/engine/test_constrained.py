"""Constrained answers: their text is a word of the language, they end right, and replay gives their record again."""

import contextlib
import json
import math
import re
import time
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch
from transformers import PreTrainedTokenizerFast

from app.engine.config import EngineConfig
from app.engine.constraint import Constraint
from app.engine.engine import Engine
from app.engine.grammar import KEPT, MOST_WAITING, InvalidConstraint
from app.engine.request import Finished, Request
from tests.app.conftest import configurations, made
from training.allowed import drawn_as_allowed
from training.codec import decode, encode
from training.models.head import take_apart
from training.models.policy import Policy
from training.optimization.health import HealthConfig
from training.optimization.optimizer import OptimizerConfig
from training.placement import Placement
from training.replay import ReplayConfig, Replayed, replay
from training.rollout import Rollout
from training.sampling import Sampling
from training.update import Learner, UpdateConfig

from .conftest import Listener, running

FREE = HealthConfig(max_kl=math.inf, explosion_norm=math.inf)
AS_SAMPLED = ReplayConfig(latent_temperature="sampling")
WORD = Constraint("regex", "(yes|no|maybe so)")
NUMBERS = Constraint(
    "json_schema",
    json.dumps(
        {
            "type": "object",
            "properties": {"name": {"type": "string", "maxLength": 5}, "size": {"enum": [1, 20, 300]}},
            "required": ["name", "size"],
            "additionalProperties": False,
        }
    ),
)
PROMPT = (5, 9, 13, 40, 41, 42)


def asked(constraint: Constraint | None, seed: int, max_new: int = 120, choices: int = 2, **draw: Any) -> Request:
    settings: dict[str, Any] = {"latent_length": 3, "top_p": 1.0, "top_k": 64, "seed": seed, **draw}
    return Request(PROMPT, Sampling(**settings), max_new, choices=choices, constraint=constraint)


def answered(policy: Policy, requests: Sequence[Request], **settings: Any) -> list[list[Finished]]:
    return Engine(policy, EngineConfig(**{"slots": 6, "max_length": 256, **settings})).generate(requests)


def gap(replayed: Replayed, rollouts: Sequence[Rollout]) -> float:
    """Largest difference to a recorded log-probability, latent and token steps both."""
    gaps = []
    for row, rollout in enumerate(rollouts):
        latents, tokens, width = rollout.latent_length, rollout.answer_length, rollout.latent_ids_LK.shape[1]
        recorded_LK = rollout.latent_logprobs_LK + rollout.latent_log_mass_L[:, None]
        now_LK = replayed.latent_logprobs_BLK[row, :latents, :width]
        gaps.append((now_LK - recorded_LK)[recorded_LK.isfinite()].abs().flatten())
        gaps.append((replayed.token_logprobs_BT[row, :tokens] - rollout.token_logprobs_T).abs())
    return float(torch.cat(gaps).max())


@pytest.mark.parametrize("constraint", [WORD, NUMBERS])
def test_an_answer_is_a_word_of_its_language_or_was_cut_short(policy: Policy, constraint: Constraint) -> None:
    stopped = 0
    for one in (one for choices in answered(policy, [asked(constraint, seed) for seed in range(8)]) for one in choices):
        if one.reason == "length":
            continue
        stopped += 1
        if constraint is WORD:
            assert re.fullmatch(constraint.text, one.text)
        else:
            assert set(json.loads(one.text)) == {"name", "size"}
    assert stopped >= 8


def test_a_budget_that_is_too_small_ends_by_length(policy: Policy) -> None:
    [[one]] = answered(policy, [asked(NUMBERS, 1, max_new=6, choices=1)])
    assert (one.reason, one.rollout.answer_length) == ("length", 3)


def test_an_end_is_drawn_only_where_the_grammar_accepts(policy: Policy) -> None:
    """`a+` may end after any letter: by the end of sequence, which is the rollout's last token then."""
    ended = answered(policy, [asked(Constraint("regex", "a{3,9}"), seed, choices=6) for seed in range(3)])
    texts = [one.text for choices in ended for one in choices]
    assert all(re.fullmatch("a{3,9}", text) for text in texts)
    assert len({len(text) for text in texts}) > 1
    assert any(int(one.rollout.token_ids_T[-1]) in policy.eos_ids for choices in ended for one in choices)


@pytest.mark.parametrize("shared", [False, True])
@pytest.mark.parametrize(
    "draw", [{}, {"temperature": 0.7}, {"temperature": 1.3, "top_k": 5, "top_p": 0.9}, {"min_p": 0.2}]
)
def test_replay_gives_the_record_after_engine_and_codec(policy: Policy, draw: dict[str, Any], *, shared: bool) -> None:
    requests = [
        asked(NUMBERS, 1, **draw),
        asked(None, 2, 20, **draw),
        asked(WORD, 3, **draw),
        asked(NUMBERS, 4, **draw),
    ]
    given = [one.rollout for choices in answered(policy, requests) for one in choices]
    rollouts = [decode(encode(rollout)) for rollout in given]
    assert all(torch.equal(ours.masks_MQ, theirs.masks_MQ) for ours, theirs in zip(given, rollouts, strict=True))
    assert all(drawn_as_allowed(rollout) for rollout in rollouts)
    causal = take_apart(policy.model)
    causal = causal if shared else replace(causal, sharing=None)
    with torch.no_grad():
        replayed = replay(causal, rollouts, AS_SAMPLED, positions=4096 if shared else 0)
        assert gap(replayed, rollouts) < 2e-5  # some units in the last place of logits this large
        bare = [replace(one, masks_MQ=one.masks_MQ[:0], mask_S=one.mask_S[:0]) for one in rollouts]
        assert gap(replay(causal, bare, AS_SAMPLED), rollouts) > 0.1  # the masks are what makes it so


def test_kl_and_entropy_are_of_what_could_be_drawn(policy: Policy, tokenizer: PreTrainedTokenizerFast) -> None:
    """Against the definition, over the allowed tokens alone; and their gradients are numbers."""
    [[one]] = answered(policy, [asked(WORD, 3, choices=1)])
    rollout = one.rollout
    other = take_apart(made(configurations()["qwen2"], 12, tokenizer, 0).model)
    policy.model.zero_grad()
    replayed = replay(take_apart(policy.model), [rollout], AS_SAMPLED, other)
    first = int(rollout.mask_S[rollout.latent_length])
    bits = rollout.masks_MQ[first].numpy()
    allowed = [token for token in range(8 * len(bits)) if bits[token // 8] >> (token % 8) & 1]
    assert len(allowed) < 20
    assert float(replayed.token_entropy_BT[0, 0]) <= torch.tensor(float(len(allowed))).log() + 1e-5
    assert float(replayed.token_kl_BT[0].detach().min()) > -1e-6
    assert float(replayed.token_kl_BT[0, 0].detach()) > 1e-4
    (replayed.token_kl_BT.sum() + replayed.token_logprobs_BT.sum()).backward()  # type: ignore[no-untyped-call]
    assert all(bool(p.grad.isfinite().all()) for p in policy.model.parameters() if p.grad is not None)
    policy.model.zero_grad()


def test_the_unconstrained_beside_it_are_untouched(policy: Policy) -> None:
    alone = answered(policy, [asked(None, 7, 20)])[0]
    beside, _ = answered(policy, [asked(None, 7, 20), asked(NUMBERS, 8, 20)])
    for ours, theirs in zip(alone, beside, strict=True):
        assert torch.equal(ours.rollout.token_ids_T, theirs.rollout.token_ids_T)
        assert torch.equal(ours.rollout.latent_weights_LK, theirs.rollout.latent_weights_LK)
        assert len(theirs.rollout.masks_MQ) == 0
        torch.testing.assert_close(ours.rollout.token_logprobs_T, theirs.rollout.token_logprobs_T, rtol=0, atol=1e-6)


def test_latent_steps_are_masked_where_they_begin_the_answer(policy: Policy) -> None:
    elsewhere = replace(asked(WORD, 3, choices=1), placement=Placement("preamble", (3, 4), (5,)))
    [[here], [there]] = answered(policy, [asked(WORD, 3, choices=1), elsewhere])
    assert (here.rollout.mask_S[:3] == 0).all()
    assert (there.rollout.mask_S[:3] == -1).all()
    assert (there.rollout.mask_S[3:] >= 0).all()
    bits = here.rollout.masks_MQ[0]
    ids_LK = here.rollout.latent_ids_LK.long()
    open_LK = (bits[ids_LK // 8].int() >> (ids_LK % 8).int()) & 1 == 1
    assert open_LK[here.rollout.latent_logprobs_LK > -torch.inf].all()
    assert here.rollout.latent_ids_LK.shape[1] < there.rollout.latent_ids_LK.shape[1]


def test_an_update_on_constrained_answers_moves_towards_reward(tokenizer: PreTrainedTokenizerFast) -> None:
    """Of three words one is rewarded: after a few updates it is said more often."""
    own_policy = made(configurations()["qwen2"], 11, tokenizer, 3)

    def answers(seed: int) -> list[Finished]:
        request = Request(
            PROMPT, Sampling(latent_length=2, top_p=1.0, top_k=64, seed=seed), 40, choices=16, constraint=WORD
        )
        return answered(own_policy, [request], slots=16)[0]

    def said(finished: list[Finished]) -> float:
        return sum(one.text == "no" for one in finished) / len(finished)

    learner = Learner(own_policy.model, UpdateConfig(optimizer=OptimizerConfig(learning_rate=3e-3), health=FREE))
    before = said([one for seed in (101, 102) for one in answers(seed)])
    for step in range(6):
        finished = answers(step)
        rewards = torch.tensor([1.0 if one.text == "no" else 0.0 for one in finished])
        rollouts = [decode(encode(one.rollout)) for one in finished]
        learner.update(rollouts, (rewards - rewards.mean()).tolist())
    after = said([one for seed in (101, 102) for one in answers(seed)])
    assert after > before + 0.2


def test_streamed_candidates_are_those_that_could_be_drawn(policy: Policy) -> None:
    listener = Listener()
    with running(policy) as engine:
        ticket = engine.submit(replace(asked(WORD, 3, choices=1), top_logprobs=20), listener)
        while ticket.unfinished:
            pass
    tops = [token.top for event in listener.events if hasattr(event, "tokens") for token in event.tokens]
    assert tops
    assert all(value > -100 for top in tops for _, value in top)


@pytest.mark.parametrize(
    ("constraint", "says"),
    [
        (Constraint("json_schema", '{"type": "object", "properties": {"a": {"not": {}}}}'), "not"),
        (Constraint("json_schema", "[]"), "."),
        (Constraint("json_schema", '{"$ref": "http://127.0.0.1/x"}'), "retrieve"),
        (Constraint("regex", "("), "parenthes|group"),
        (Constraint("lark", "start: nothing"), "nothing"),
        (Constraint("regex", "a" * 70_000), "shorten"),
    ],
)
def test_what_cannot_be_served_is_refused_by_name(policy: Policy, constraint: Constraint, says: str) -> None:
    engine = Engine(policy, EngineConfig(slots=2, max_length=64))
    for _ in range(2):  # what was refused once is refused again, from memory
        with pytest.raises(InvalidConstraint, match=says):
            engine.grammars.of(constraint)


def nested(depth: int) -> dict[str, Any]:
    return {"type": "object", "properties": {"a": nested(depth - 1)}} if depth else {"type": "string"}


def doubling(depth: int) -> dict[str, Any]:
    """Small as text, twice as large at every reference."""
    defs: dict[str, Any] = {
        f"d{at}": {"anyOf": [{"$ref": f"#/$defs/d{at + 1}"}, {"allOf": [{"$ref": f"#/$defs/d{at + 1}"}] * 2}]}
        for at in range(depth)
    }
    return {"$defs": {**defs, f"d{depth}": nested(1)}, "$ref": "#/$defs/d0"}


HOSTILE = {
    "nested": Constraint("json_schema", json.dumps(nested(90))),
    "doubling": Constraint("json_schema", json.dumps(doubling(20))),
    "both": Constraint(
        "json_schema", json.dumps({"allOf": [{"anyOf": [nested(1), {"required": [f"q{at}"]}]} for at in range(20)]})
    ),
    "properties": Constraint("json_schema", json.dumps({"properties": {f"p{at}": {} for at in range(2000)}})),
    "long": Constraint("json_schema", json.dumps({"type": "string", "minLength": 10**5, "maxLength": 10**6})),
    "exponential": Constraint("regex", "(a|b)*a(a|b){30}"),
    "repeated": Constraint("regex", "((((a{1,100}){1,100}){1,100}){1,100})"),
    "negated": Constraint("lark", "start: A\nA: ~/(.*a.{12})/ & /[ab]*b.{14}/"),
    "ambiguous": Constraint("lark", 'start: a\na: a a | "x" | ""'),
    "loop": Constraint("lark", "start: start"),
    "brackets": Constraint("lark", "start: " + "(" * 5000 + '"x"' + ")" * 5000),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_constraint_is_refused_or_served_and_stops_nobody(policy: Policy, name: str) -> None:
    """Seconds at most to compile, a fraction of one for a step, and the answer beside it is complete."""
    engine = Engine(policy, EngineConfig(slots=4, max_length=128))
    began = time.monotonic()
    requests = [asked(None, 1, 24, choices=1)]
    with contextlib.suppress(InvalidConstraint):
        engine.grammars.of(HOSTILE[name])
        requests.append(asked(HOSTILE[name], 2, 24, choices=2))
    [free], *hostile = engine.generate(requests)
    assert free.reason in {"stop", "length"}
    assert free.rollout.answer_length + free.rollout.latent_length > 3
    assert {one.reason for choices in hostile for one in choices} <= {"stop", "length", "deadline"}
    assert all(drawn_as_allowed(one.rollout) for choices in hostile for one in choices)
    assert time.monotonic() - began < 30


def test_a_grammar_beyond_its_bounds_ends_its_answer_like_a_deadline(policy: Policy) -> None:
    """A thousand ways to go on at once: more than are followed."""
    wide = Constraint(
        "lark",
        "start: "
        + " | ".join(f'"x" a{at}' for at in range(1200))
        + "\n"
        + "\n".join(f'a{at}: "x" "{at}"' for at in range(1200)),
    )
    [[one]] = answered(policy, [asked(wide, 1, choices=1)])
    assert (one.reason, one.text) == ("deadline", "x")
    assert drawn_as_allowed(one.rollout)


def test_many_that_wait_are_refused_and_what_was_compiled_is_at_hand(policy: Policy) -> None:
    grammars = Engine(policy, EngineConfig(slots=4, max_length=128)).grammars
    grammars.of(WORD)
    with grammars._compiling:  # a compilation that takes its time
        waiting = [grammars.prepare(Constraint("regex", f"a{{{at}}}")) for at in range(1, 60)]
        assert waiting.count(None) == 59 - MOST_WAITING
        ready = grammars.prepare(WORD)
        assert ready is not None
        assert ready.done()
    assert all(one.result(30) for one in waiting if one is not None)
    assert grammars.prepare(Constraint("regex", "b+")) is not None


def test_only_the_latest_grammars_are_kept(policy: Policy) -> None:
    grammars = Engine(policy, EngineConfig(slots=4, max_length=128)).grammars
    for at in range(1, KEPT + 20):
        grammars.of(Constraint("regex", f"a{{{at}}}"))
    assert len(grammars._kept) == KEPT
