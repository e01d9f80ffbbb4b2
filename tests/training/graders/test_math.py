"""math: right, wrong, no grade and failed are told apart, from any thread, and nothing outlives its deadline."""

import os
import signal
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from training.graders.children import Children
from training.graders.grader import Grader
from training.graders.math_answer import MAX_ANSWER
from training.graders.parse import parse_grader
from training.graders.verdict import Failed, Graded, NoGrade, Verdict

ENDLESS = "$9^{9^{9^{9}}}$"  # math-verify tries to write it out
TWO = "4/2"  # equal to 2, and not letter for letter: a child must say so
SECONDS = 20.0  # generous: these verdicts take milliseconds on an idle machine


@pytest.fixture(scope="module")
def children() -> Iterator[Children]:
    pool = Children(size=2)
    yield pool
    pool.close()


def math(reference: str, children: Children) -> Grader:
    return parse_grader({"type": "math", "reference": reference}, children=children)


def graded(verdict: Verdict) -> float:
    assert isinstance(verdict, Graded), verdict
    return verdict.value


@pytest.mark.parametrize(
    ("reference", "answer", "expected"),
    [
        ("54", "53 45 54 Answer: 54", 1.0),
        ("54", "Answer: 53", 0.0),
        ("\\frac{1}{2}", "so it is 0.5", 1.0),
        ("$\\frac{1}{2}$", "\\boxed{\\frac{2}{4}}", 1.0),
        ("x + 1", "$1 + x$", 1.0),
        ("x + 1", "1", 0.0),
        ("54", "I do not know", 0.0),
        ("54", "", 0.0),
    ],
)
def test_equal_in_mathematics(reference: str, answer: str, expected: float, children: Children) -> None:
    assert graded(math(reference, children).grade(answer, SECONDS)) == expected


def test_the_gold_goes_first(children: Children) -> None:
    """An interval answers a task whose gold is a relation; a relation does not answer one whose gold is an interval."""
    interval, relation = "$(1,2)$", "$1 < x < 2$"
    assert graded(math(relation, children).grade(interval, SECONDS)) == 1.0
    assert graded(math(interval, children).grade(relation, SECONDS)) == 0.0


def test_a_gold_that_cannot_be_parsed_is_the_tasks_error_and_not_a_zero(children: Children) -> None:
    verdict = math("\\frac{", children).grade("5", SECONDS)
    assert isinstance(verdict, Failed)
    assert "reference" in verdict.reason


def test_an_endless_comparison_is_killed_at_its_deadline_and_the_next_one_works(children: Children) -> None:
    grader = math("2", children)
    assert graded(grader.grade(TWO, SECONDS)) == 1.0
    began = time.monotonic()
    verdict = grader.grade(ENDLESS, 0.5)
    assert isinstance(verdict, Failed)
    assert "0.5 s" in verdict.reason
    assert time.monotonic() - began < 5.0
    assert graded(grader.grade(TWO, SECONDS)) == 1.0


def test_when_every_child_is_busy_a_grading_waits_no_longer_than_its_deadline() -> None:
    children = Children(size=1)
    grader = math("2", children)
    assert graded(grader.grade(TWO, SECONDS)) == 1.0
    busy = threading.Thread(target=grader.grade, args=(ENDLESS, 2.0))
    busy.start()
    time.sleep(0.2)
    began = time.monotonic()
    assert isinstance(grader.grade(TWO, 0.3), Failed)
    assert time.monotonic() - began < 1.5
    busy.join()
    children.close()


def test_threads_get_the_verdicts_of_their_own_answers(children: Children) -> None:
    def right(number: int) -> bool:
        grader = math(str(number), children)
        return graded(grader.grade(f"{number}.0", SECONDS)) == 1.0 and graded(grader.grade("-1", SECONDS)) == 0.0

    with ThreadPoolExecutor(8) as threads:
        assert all(threads.map(right, range(40)))


def test_the_parents_alarm_is_left_alone(children: Children) -> None:
    before = signal.getsignal(signal.SIGALRM)
    assert graded(math("2", children).grade(TWO, SECONDS)) == 1.0
    assert signal.getsignal(signal.SIGALRM) is before


def test_a_child_that_dies_is_a_failure_and_is_replaced() -> None:
    children = Children(size=1)
    grader = math("2", children)
    assert graded(grader.grade(TWO, SECONDS)) == 1.0
    [pid] = children.pids()
    threading.Timer(0.3, os.kill, (pid, signal.SIGKILL)).start()
    verdict = grader.grade(ENDLESS, SECONDS)
    assert verdict == Failed("the grader's process ended before it had a verdict", overran=True)
    assert graded(grader.grade(TWO, SECONDS)) == 1.0
    children.close()


def test_close_ends_the_processes() -> None:
    children = Children(size=1)
    assert graded(math("2", children).grade(TWO, SECONDS)) == 1.0
    [pid] = children.pids()
    children.close()
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


def test_an_answer_beyond_bounds_gets_no_grade(children: Children) -> None:
    assert isinstance(math("2", children).grade("2" * (MAX_ANSWER + 1), SECONDS), NoGrade)
