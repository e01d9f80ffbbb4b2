"""math: right, wrong, no grade and failed are told apart, from any thread, and nothing outlives its deadline."""

import os
import signal
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from training.graders.children import ENVIRONMENT, Children
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
        # what stands around a number
        ("54", '"54"', 1.0),
        ("54", "[54]", 1.0),
        ("54", "`54`", 1.0),
        ("54", "=54", 1.0),
        ("54", "<answer>54</answer>", 1.0),
        ("54", "54 m", 1.0),
        ("54", "+54", 1.0),
        ("-54", "-0054", 1.0),
        ("-54", "\N{MINUS SIGN}54", 1.0),
        ("-3", "The answer is \N{EN DASH}3.", 1.0),
        # a sum or product that is left to do is no number, though it has one: the question itself would be right
        ("18", "95 - 77", 0.0),
        ("18", "The answer is 95 - 77.", 0.0),
        ("18", "To find the solution of the arithmetic problem 95 - 77, we", 0.0),
        ("18", "$95 - 77$", 0.0),
        ("18", "\\boxed{95-77}", 0.0),
        ("18", "x = 95 - 77", 0.0),
        ("18", "3 * 6", 0.0),
        ("18", "3\\times 6", 0.0),
        ("-9", "-4 - 5", 0.0),
        ("5.5", "5 + 1/2", 0.0),
        ("18", "95 - 77 = 18", 1.0),
        ("18", "36/2", 1.0),
        ("8", "$2^3$", 1.0),
        ("1800", "1.8 \\times 10^3", 1.0),
        ("95 - 77", "18", 1.0),
        ("1+\\sqrt{2}", "\\sqrt{2} + 1", 1.0),
        # several numbers are not one, and one is not several
        ("12", "1, 2", 0.0),
        ("12", "1,2", 0.0),
        ("12", "1 2", 0.0),
        ("2", "(1, 2)", 0.0),
        ("2", "1, 2", 0.0),
        ("2", "2x", 0.0),
        ("1", "x^2 + 1", 0.0),
        ("3, 5, 7", "3,5,7", 1.0),
        ("(100,200)", "(100,201)", 0.0),
        # letter for letter, and without delimiters
        ("(1, 2)", "(1, 2)", 1.0),
        ("\\sqrt{2}", "\\sqrt{2}", 1.0),
        ("\\sqrt{2}", "sqrt(2)", 1.0),
        ("A", "A", 1.0),
        ("A", "B", 0.0),
        ("\\text{Evelyn}", "Evelyn", 1.0),
        ("1, 2", "1, 2", 1.0),
        ("2\\sqrt{3}", "Answer: 2\\sqrt{3}", 1.0),
        ("-6*x**3 + 2*x", "2 x - 6 x^3", 1.0),
        ("x**10", "$x^{10}$", 1.0),
        ("$\\exists x 3$", "$\\exists x 3$", 1.0),
        # very small numbers
        ("0.000000001", "0.000000002", 0.0),
        ("0.000000001", "1e-9", 1.0),
        ("0.000000001", "0", 0.0),
        ("10^{-9}", "2\\cdot 10^{-9}", 0.0),
        ("0.000333", "1/3000", 1.0),
        ("1/3", "0.333333", 1.0),
        # a number in a formula that cannot be read is not its value; one beside it may be
        ("3", "$\\exists x 3$", 0.0),
        ("3", "\\log_2 3", 0.0),
        ("5", "so $x \\foo$ is 5", 1.0),
        # money and mixed numbers
        ("5", "\\$5", 1.0),
        ("\\$5.50", "5.5", 1.0),
        ("1234", "\\$1{,}234", 1.0),
        ("12", "$12", 1.0),
        ("1.5", "1\\frac{1}{2}", 1.0),
        ("1.5", "1 1/2", 1.0),
        ("1 1/2", "3/2", 1.0),
        ("0.5", "1 1/2", 0.0),
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


def test_a_reference_that_is_read_for_its_number_alone_is_the_tasks_error(children: Children) -> None:
    for answer in ("$\\forall y 3$", "3"):
        assert isinstance(math("$\\exists x 3$", children).grade(answer, SECONDS), Failed)


def test_a_child_sees_no_secrets(children: Children) -> None:
    assert graded(math("2", children).grade(TWO, SECONDS)) == 1.0
    assert {line.partition("=")[0] for line in environment_of(children)} == set(ENVIRONMENT)


def environment_of(children: Children) -> list[str]:
    text = Path(f"/proc/{children.pids()[0]}/environ").read_text()
    return [line for line in text.split("\0") if line]


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
    busy = threading.Thread(target=grader.grade, args=(ENDLESS, 5.0))
    busy.start()
    time.sleep(0.2)
    began = time.monotonic()
    assert isinstance(grader.grade(TWO, 0.3), Failed)
    assert time.monotonic() - began < 4.0
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
