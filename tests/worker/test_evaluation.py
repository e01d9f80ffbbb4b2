"""Marks: a grader that fails leaves a question out of the pair, and the same policy sits the same exam the same way."""

from pathlib import Path

import pytest
from worker.exam import Marks, pairs, question_request, sampling_of, sit
from worker.heldout import Question, read_heldout

from app.settings import Settings
from tests.worker.world import World, write_heldout
from worker.learn import gate
from worker.run import GateRefused, Run
from worker.watch import Watch

NE = {"type": "string_check", "reference": "no byte soup is this", "operation": "ne"}
BROKEN = {"type": "math", "reference": "\\frac{1}{"}


def test_a_question_that_could_not_be_marked_is_left_out_of_the_pair() -> None:
    before = Marks((1.0, None, 0.0, 1.0), {})
    after = Marks((0.0, 1.0, 1.0, None), {})
    assert pairs(before, after) == ([1.0, 0.0], [0.0, 1.0])
    assert (before.marked, before.correct) == ([1.0, 0.0, 1.0], 2)


def test_a_failed_grader_marks_nothing_and_never_zero(world: World, tmp_path: Path) -> None:
    held = write_heldout(tmp_path / "held.jsonl", ["one", "two"], NE)
    broken = write_heldout(tmp_path / "broken.jsonl", ["three"], BROKEN)
    held.write_text(held.read_text() + broken.read_text())
    policy = world.policy()
    questions = read_heldout(held, 9, policy.tokenizer)
    assert sit(policy, questions, world.settings).outcomes == (1.0, 1.0, None)


def test_the_same_policy_sits_the_same_exam_the_same_way(world: World, tmp_path: Path) -> None:
    letter = {"type": "string_check", "reference": "a", "operation": "ilike"}
    held = write_heldout(tmp_path / "held.jsonl", [f"question {index}" for index in range(40)], letter)
    policy = world.policy()
    questions = read_heldout(held, 40, policy.tokenizer)
    first = sit(policy, questions, world.settings)
    few_slots = world.with_settings(slots=3).settings
    assert sit(policy, questions, few_slots).outcomes == first.outcomes
    assert 0 < first.correct < 40


def test_progress_can_end_an_exam(world: World, tmp_path: Path) -> None:
    held = write_heldout(tmp_path / "held.jsonl", ["one", "two"], NE)
    policy = world.policy()

    def stop(_: int) -> None:
        raise InterruptedError

    with pytest.raises(InterruptedError):
        sit(policy, read_heldout(held, 9, policy.tokenizer), world.settings, stop)


def test_an_exam_asks_as_a_client_does_who_sets_nothing() -> None:
    sampling = sampling_of(Settings(latent_draws=4, latent_tau=0.7))
    assert (sampling.draws, sampling.tau) == (4, 0.7)


def test_a_question_too_long_for_the_engine_is_named() -> None:
    question = Question("long", tuple(range(63)), NE)
    with pytest.raises(ValueError, match="question 3 has 63 tokens"):
        question_request(question, 2, Settings(max_length=64, latent_length=4))


@pytest.mark.parametrize(
    ("before", "after", "no_signal", "serve"),
    [
        ([1.0] * 50, [1.0] * 50, "hold", True),
        ([0.0] * 50, [0.0] * 50, "hold", False),
        ([0.0] * 50, [0.0] * 50, "promote", True),
        ([0.0] * 25 + [1.0] * 25, [1.0] * 50, "hold", True),
    ],
)
def test_what_the_gate_lets_through(
    before: list[float], after: list[float], no_signal: str, serve: bool, noting: Run
) -> None:
    settings = Settings.model_validate({"gate_no_signal": no_signal})
    assert gate(noting, settings, Marks(tuple(before), {}), Marks(tuple(after), {})) is serve


def test_the_margin_decides_over_a_small_fall(noting: Run) -> None:
    before, after = Marks((1.0,) * 100, {}), Marks((1.0,) * 97 + (0.0,) * 3, {})
    wide, narrow = Settings(gate_margin=0.2), Settings(gate_margin=0.02)
    tie = Marks((1.0,) * 99 + (0.0,), {})
    assert gate(noting, wide, before, tie)
    with pytest.raises(GateRefused, match=r"1\.000 before, 0\.970 after on 100"):
        gate(noting, narrow, before, after)
    assert noting.metrics["gate"]["left_out"] == 0


@pytest.fixture
def noting(world: World) -> Run:
    """A running job that can take notes."""
    from app.store import jobs

    with world.store.session() as session:
        jobs.request(session, trigger="admin", requested_by="someone")
        job = jobs.start(session, "this worker")
        assert job is not None
        assert job.fence is not None
    return Run(world.store, job.id, job.fence, Watch(lambda: False, lambda *_: None, limit_s=60))
