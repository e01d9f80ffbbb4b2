"""reasoning_gym: the package's own scores, of the problem that was asked, from a process that can do no harm."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from training.graders.children import Children
from training.graders.gym import JUDGES, Dataset, gym_children, installed
from training.graders.parse import parse_grader
from training.graders.verdict import Failed, Graded, Verdict

SECONDS = 60.0
EVALUATED = (
    *("countdown", "puzzle24", "polynomial_multiplication", "simple_integration", "intermediate_integration"),
    *("string_insertion", "spiral_matrix", "binary_matrix", "n_queens"),
)


def entry(dataset: str, index: int = 0, **config: Any) -> dict[str, Any]:
    """Have the package make an entry."""
    named = Dataset(dataset, config, 7, 500).named
    reply = gym_children().ask({"judge": "entries", **named, "first": index, "last": index + 1}, SECONDS)
    found: dict[str, Any] = reply["entries"][0]
    return found


def grade(dataset: str, answer: str, deadline_s: float = SECONDS, **spec: Any) -> Verdict:
    asked = {"type": "reasoning_gym", "dataset": dataset, "seed": 7, "index": 0, **spec}
    return parse_grader(asked).grade(answer, deadline_s)


def value(dataset: str, answer: str, **spec: Any) -> float:
    verdict = grade(dataset, answer, **spec)
    assert isinstance(verdict, Graded), verdict
    return verdict.value


@pytest.mark.parametrize(
    "dataset", [*EVALUATED, "chain_sum", "gsm_symbolic", "shortest_path", "zebra_puzzles", "rearc"]
)
def test_the_oracle_is_right_however_it_is_given_and_nonsense_is_not(dataset: str) -> None:
    made = entry(dataset)
    for reply in (made["answer"], f"I think so.\n<answer>{made['answer']}</answer>"):
        assert value(dataset, reply, digest=made["digest"]) == 1.0
    assert value(dataset, "I do not know", digest=made["digest"]) < 0.1


def test_partial_scores_stay_as_they_are_and_the_spec_says_what_is_scored() -> None:
    right = entry("chain_sum")["answer"]
    reply = f"It is {right}!"
    assert value("chain_sum", reply) == pytest.approx(len(right) / len(reply))
    assert value("chain_sum", reply, extract="last_number") == 1.0
    assert value("chain_sum", f"The answer is {right}.") == 1.0
    assert value("chain_sum", f"The answer is {right}.", extract="whole") < 1.0
    assert value("chain_sum", f"so = {right}", extract="after_marker", marker="=") == 1.0
    assert value("chain_sum", "nothing", extract="last_number") == 0.0


def test_configuration_size_and_index_name_the_entry() -> None:
    base = entry("chain_sum")["digest"]
    assert entry("chain_sum", 1)["digest"] != base
    assert entry("chain_sum", min_terms=5)["digest"] != base
    answer = entry("chain_sum", 1, min_terms=5)["answer"]
    assert value("chain_sum", answer, index=1, config={"min_terms": 5}) == 1.0
    assert value("chain_sum", answer, index=1) < 1.0
    mixed = entry("basic_arithmetic", operators=["+"])
    assert set("*/").isdisjoint(mixed["question"].partition("\n")[0])


def test_another_entry_than_the_one_that_was_asked_is_a_failure() -> None:
    verdict = grade("chain_sum", "5", digest="0" * 16)
    assert isinstance(verdict, Failed)
    assert "install the release of reasoning-gym" in verdict.reason


@pytest.mark.parametrize(
    ("dataset", "config", "words"),
    [
        ("chain_sun", {}, "choose one of ab, acre,"),
        ("composite", {}, "choose one of"),
        ("chain_sum", {"terms": 1}, "choose from min_terms, max_terms"),
        ("chain_sum", {"min_terms": 0}, "min_terms must be positive"),
        ("chain_sum", {"min_terms": "many"}, "chain_sum refuses"),
        ("spell_backward", {"data_file": "../../../../../../../../../../etc/passwd"}, "is not for graders"),
    ],
)
def test_what_cannot_be_made_is_a_failure_in_words(dataset: str, config: dict[str, Any], words: str) -> None:
    verdict = grade(dataset, "5", config=config)
    assert isinstance(verdict, Failed)
    assert words in verdict.reason


@pytest.mark.parametrize("dataset", EVALUATED)
def test_an_answer_is_read_and_never_run(dataset: str, tmp_path: Path) -> None:
    """Their scorers evaluate answers as Python: here, what an answer would do does not happen."""
    file = tmp_path / "written"
    call = f"__import__('pathlib').Path({str(file)!r}).touch()"
    for answer in (call, f"[{call}]", f"[[{call}]]", f"1 + {call}", f"x*{call}", f"(lambda: {call})()"):
        assert value(dataset, f"<answer>{answer}</answer>") < 0.1
    assert not file.exists()


@pytest.mark.parametrize(
    "text",
    [
        "open({file!r}, 'w')",
        "open('/etc/passwd')",
        "__import__('os').system('touch ' + {file!r})",
        "__import__('os').listdir('/') and __import__('os').remove({file!r})",
        "__import__('subprocess').run(['touch', {file!r}])",
        "__import__('socket').create_connection(('127.0.0.1', 1))",
        "__import__('ctypes').CDLL(None)",
    ],
)
def test_where_an_evaluator_was_overlooked_the_child_still_does_no_harm(text: str, tmp_path: Path) -> None:
    judges = tmp_path / "judges.py"
    judges.write_text(
        "import runpy\n"
        f"module = runpy.run_path({str(JUDGES)!r})\n"
        "def evaluate(request):\n"
        "    try:\n        return {'value': repr(eval(request['answer']))}\n"
        "    except PermissionError as error:\n        return {'refused': str(error)}\n"
        "def judges():\n    module['seal']()\n    return {'evaluate': evaluate}\n"
    )
    children = Children(1, judges)
    try:
        assert children.ask({"judge": "evaluate", "answer": "1 + 1"}, SECONDS) == {"value": "2"}
        answer = text.format(file=str(tmp_path / "written"))
        assert "is not for graders" in children.ask({"judge": "evaluate", "answer": answer}, SECONDS)["refused"]
    finally:
        children.close()
    assert not (tmp_path / "written").exists()


def test_an_answer_without_end_is_ended_at_its_deadline_and_the_next_one_works() -> None:
    assert value("countdown", "1 + 1") < 0.1
    verdict = grade("countdown", "9**9**9**9**9", 1.0)
    assert isinstance(verdict, Failed)
    assert verdict.overran
    assert value("countdown", entry("countdown")["answer"]) == 1.0


@pytest.mark.parametrize(
    ("dataset", "answer"), [("prime_factorization", "I do not know"), ("boxnet", "12"), ("game_of_life", "{}")]
)
def test_an_answer_the_scorer_stumbles_over_is_wrong(dataset: str, answer: str) -> None:
    verdict = grade(dataset, answer)
    assert isinstance(verdict, Graded)
    assert (verdict.value, "raised" in verdict.detail) == (0.0, True)


def test_a_score_beyond_one_by_rounding_is_one() -> None:
    """spell_backward adds up shares of a point: nine ninths are more than 1."""
    right = next(made["answer"] for index in range(40) if len((made := entry("spell_backward", index))["answer"]) == 9)
    index = next(index for index in range(40) if entry("spell_backward", index)["answer"] == right)
    assert value("spell_backward", f"{right}x", index=index) == 1.0


def test_without_the_package_the_spec_says_what_to_install() -> None:
    program = (
        "import sys\nsys.modules['reasoning_gym'] = None\n"
        "from training.graders.parse import parse_grader\n"
        "try:\n    parse_grader({'type': 'reasoning_gym', 'dataset': 'chain_sum', 'seed': 1, 'index': 0})\n"
        "except ValueError as error:\n    print(error)\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, env=os.environ)
    assert "pip install 'lepo-service[gym]'" in done.stdout
    assert installed()
