"""Corrections through the worker: answers that nobody gave a number teach by what they should have been."""

import random
from collections.abc import Sequence
from pathlib import Path
from statistics import fmean
from typing import Any
from uuid import UUID, uuid4

import pytest
import torch

from app.api.answering.prompts import PromptReader
from app.chat.template import ChatTemplate
from app.chat.tools import Toolbox
from app.store import jobs, learnable
from app.store.grades import Entry, add_grade, retract
from tests.app.chat import templates
from tests.worker.world import World, write_heldout
from training.distill import corrected as distilled
from training.distill import likelihoods
from training.models.head import take_apart
from training.replay import replay
from training.rollout import Rollout
from worker.corrections import answer_ids, hinted_ids, regressions, think_anew
from worker.gate.comparison import questions
from worker.learn import learn

RIGHT = "b2"
ALWAYS_RIGHT = {"type": "string_check", "reference": "no byte soup is this", "operation": "ne"}


def corrected(world: World, count: int = 10, name: str = "wrong", value: float | None = None) -> list[UUID]:
    """Ask for one answer to each of many prompts, and write out the right one."""
    answers = world.ask([f"{name} {index}" for index in range(count)])
    with world.store.session() as session:
        for interaction, _ in answers:
            state = "corrected" if value is None else "graded"
            add_grade(session, interaction, Entry("client", "someone", state=state, value=value, correction=RIGHT))
    return [interaction for interaction, _ in answers]


def likelihood(world: World, rollouts: Sequence[Rollout]) -> float:
    """Mean log-probability of the right answer after what was asked and thought."""
    from training.distill import corrected as shown

    policy = world.policy()
    right = [shown(one, answer_ids(RIGHT, policy), None).rollout for one in rollouts]
    with torch.no_grad():
        replayed = replay(take_apart(policy.model), right)
    return float(replayed.token_logprobs_BT[replayed.token_mask_BT].mean())


def test_answers_without_a_number_teach_by_their_correction(world: World) -> None:
    probe = [one.rollout for _, one in world.ask([f"other {index}" for index in range(8)])]
    before = likelihood(world, probe)
    ids = corrected(world)
    assert learn(world.context) == "promoted"
    (job,) = world.jobs()
    assert (job.metrics["corrections"], job.metrics["rollouts"]) == (len(ids), 0)
    assert job.metrics["update"]["distilled"]["corrections"] == len(ids)
    assert world.reasons() == {"learned": len(ids)}
    assert likelihood(world, probe) > before + 0.1, "what was never corrected is answered better too"
    assert learn(world.context) == "idle"


def test_a_correction_is_taught_after_thoughts_that_lead_to_it(world: World) -> None:
    corrected(world)
    assert learn(world.context) == "promoted"
    thoughts = world.jobs()[0].metrics["thoughts"]
    assert thoughts["drawn"] == 10 * world.settings.correction_draws
    assert thoughts["nats"]["chosen"] > thoughts["nats"]["given"]
    given = world.with_settings(correction_draws=0)
    corrected(given, name="wrong again")
    assert learn(given.context) == "promoted"
    assert "thoughts" not in given.jobs()[-1].metrics


def test_the_thoughts_chosen_are_the_likeliest_of_those_drawn_and_the_words_stay(world: World) -> None:
    policy = world.policy()
    rollouts = [one.rollout for _, one in world.ask(["one", "two"])]
    shown = {uuid4(): distilled(one, answer_ids(RIGHT, policy), None) for one in rollouts}
    found = think_anew(shown, policy, world.settings, random.Random(0), lambda: None)
    before, after = (
        likelihoods(take_apart(policy.model), list(some.values()), 64) for some in (shown, found.corrections)
    )
    assert all(new >= old for old, new in zip(before, after, strict=True))
    assert found.nats_given == pytest.approx(fmean(before), abs=1e-5)
    assert found.nats_chosen == pytest.approx(fmean(after), abs=1e-5)
    for one, correction in shown.items():
        chosen = found.corrections[one]
        assert chosen.given is correction.given, "what the update is measured on is what was answered"
        assert chosen.rollout.token_ids_T.tolist() == correction.rollout.token_ids_T.tolist()
        assert chosen.rollout.prompt_ids_P.tolist() == correction.rollout.prompt_ids_P.tolist()
    wordy = [one.rollout for _, one in world.ask(["three"], latent_length=0)]
    shown = {uuid4(): distilled(wordy[0], answer_ids(RIGHT, policy), None)}
    assert think_anew(shown, policy, world.settings, random.Random(0), lambda: None).drawn == 0


def test_a_number_and_a_correction_teach_together(world: World) -> None:
    wrong = corrected(world, value=0.0)
    right = world.grade(world.ask([f"right {index}" for index in range(8)]), lambda _: 1.0)
    assert learn(world.context) == "promoted"
    (job,) = world.jobs()
    assert (job.metrics["corrections"], job.metrics["rollouts"]) == (len(wrong), len(wrong) + len(right))
    assert world.reasons() == {"learned": len(wrong) + len(right)}


def test_where_corrections_weigh_nothing_they_wait_and_numbers_teach_alone(world: World) -> None:
    deaf = world.with_settings(correction_weight=0.0)
    corrected(deaf)
    assert learn(deaf.context) == "idle"
    with deaf.store.session() as session:
        assert "too few grades" in (learnable.outlook(session, deaf.settings).words or "")
    deaf.samples()
    assert learn(deaf.context) == "promoted"
    assert deaf.jobs()[0].metrics["corrections"] == 0


def test_a_correction_taken_back_teaches_nothing(world: World) -> None:
    ids = corrected(world)
    with world.store.session() as session:
        for one in ids:
            retract(session, one, Entry("client", "someone", state="retracted"))
    assert learn(world.context) == "idle"
    assert world.claims() == {}


def test_a_job_may_weigh_corrections_for_itself(world: World) -> None:
    corrected(world)
    with world.store.session() as session:
        jobs.request(session, trigger="admin", requested_by="someone", config={"correction_weight": 0.0})
    assert learn(world.context) == "nothing_to_learn"
    assert world.claims() == {}, "they go on waiting"


def test_a_correction_longer_than_an_answer_may_be_is_left_out_and_says_so(world: World) -> None:
    [(interaction, _)] = world.ask(["too much"])
    with world.store.session() as session:
        add_grade(session, interaction, Entry("client", "someone", state="corrected", correction="long" * 50))
    corrected(world)
    assert learn(world.context) == "promoted"
    assert world.claims()[interaction] == ("skipped", "correction_unusable")


def test_what_was_corrected_and_learned_is_asked_again_by_the_gate(world: World, tmp_path: Path) -> None:
    """By the very words of the correction, beside the held-out prompts; and it goes on teaching."""
    held = write_heldout(tmp_path / "held.jsonl", ["question"], ALWAYS_RIGHT)
    gated = world.with_settings(heldout=held, gate_corrections=4)
    corrected(gated)
    for count in (0, 4):
        with gated.store.session() as session:
            asked = questions(session, gated.settings, gated.policy())
        assert asked is not None
        again = [one for one in asked.questions.values() if one.grader != ALWAYS_RIGHT]
        assert len(again) == count
        assert all(one.grader["reference"] == RIGHT and one.said.startswith("wrong ") for one in again)
        assert not any(asked.holds({"prompt": one.said}, one.prompt_ids) for one in again)
        assert learn(gated.context) == ("idle" if count else "promoted")
    with gated.store.session() as session:
        deaf = questions(session, gated.with_settings(heldout=held, gate_corrections=0).settings, gated.policy())
    assert deaf is not None
    assert len(deaf.questions) == 1


def test_a_correction_taken_back_after_it_was_learned_is_not_asked_again(world: World) -> None:
    ids = corrected(world)
    assert learn(world.context) == "promoted"
    with world.store.session() as session:
        retract(session, ids[0], Entry("client", "someone", state="retracted"))
        assert len(regressions(session, 99, world.policy().tokenizer)) == len(ids) - 1


@pytest.mark.parametrize("written", [templates.QWEN, templates.CHATML], ids=["tools", "no place for tools"])
def test_a_hint_is_shown_beside_all_that_the_request_said(written: str, world: World) -> None:
    """Its tools, calls and results, in parts or whole: as the server rendered it, but for the hint."""
    tokenizer = templates.tokenizer_with(written)
    function = {"name": "add", "parameters": {"type": "object", "properties": {"a": {"type": "integer"}}}}
    calling = [{"id": "call_1", "type": "function", "function": {"name": "add", "arguments": '{"a": 2}'}}]
    request: dict[str, Any] = {
        "messages": [
            {"role": "user", "content": [{"type": "text", "text": "What is"}, {"type": "text", "text": "2 + 3?"}]},
            {"role": "assistant", "tool_calls": calling},
            {"role": "tool", "tool_call_id": "call_1", "content": "result5"},
        ],
        "tools": [{"type": "function", "function": function}],
    }
    found = hinted_ids(request, RIGHT, ChatTemplate(tokenizer), world.settings)
    assert found is not None
    hint = world.settings.correction_hint.replace("{prompt}", "What is\n2 + 3?").replace("{correction}", RIGHT)
    server = PromptReader(tokenizer)
    said: list[dict[str, Any]] = [
        {"role": "user", "content": hint},
        {"role": "assistant", "content": "", "tool_calls": calling},
    ]
    told = {"name": "add", "description": "", "parameters": function["parameters"]}
    shown = {"type": "function", "function": told}
    assert found.tolist() == list(server.chat([*said, request["messages"][2]], Toolbox((shown,))).ids)
    for word in ('"a": 2', "result5", RIGHT, "integer"):
        assert word in server.decode(found.tolist())
    unoffered = hinted_ids({**request, "tool_choice": "none"}, RIGHT, ChatTemplate(tokenizer), world.settings)
    assert unoffered is not None
    assert "integer" not in server.decode(unoffered.tolist())
    assert hinted_ids({"messages": []}, RIGHT, ChatTemplate(tokenizer), world.settings) is None
