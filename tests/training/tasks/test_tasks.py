"""Problems are right, the same for the same seed, and in splits that never meet; files give errors with their line."""

import json
import random
from pathlib import Path

import pytest

from training.graders.parse import parse_grader
from training.graders.verdict import Graded
from training.tasks.chained_arithmetic import NAME, Chain, chain_problem, draw_chain
from training.tasks.countdown import countdown_problem
from training.tasks.families import FAMILIES, find_family, generate
from training.tasks.graph_path import DIFFICULTIES, HOPS, Graph, draw_graph, path_problem
from training.tasks.jsonl import ProblemFileError, read_problems, write_problems
from training.tasks.problem import Problem
from training.tasks.reachability import Forest, draw_forest, reachability_problem
from training.tasks.splits import Split, split_of


@pytest.mark.parametrize("family", FAMILIES)
def test_every_problem_is_solved_by_its_own_answer_and_by_no_other(family: str) -> None:
    for problem in generate(family, Split.TRAIN, 200, seed=1):
        grader = parse_grader(problem.grader)
        verdict = grader.grade(f"so Answer: {problem.answer}", 5.0)
        assert isinstance(verdict, Graded)
        assert verdict.value == 1.0
        wrong = grader.grade(f"Answer: {problem.answer} no, Answer: {problem.answer}1", 5.0)
        assert isinstance(wrong, Graded)
        assert wrong.value == 0.0


@pytest.mark.parametrize("family", FAMILIES)
def test_splits_never_meet_whatever_the_seed(family: str) -> None:
    canonical = find_family(family).canonical
    drawn = {
        split: {canonical(problem) for seed in range(3) for problem in generate(family, split, 300, seed=seed)}
        for split in Split
    }
    assert not drawn[Split.TRAIN] & drawn[Split.VALIDATION]
    assert not drawn[Split.TRAIN] & drawn[Split.TEST]
    assert not drawn[Split.VALIDATION] & drawn[Split.TEST]


@pytest.mark.parametrize("family", FAMILIES)
def test_a_seed_names_its_problems(family: str) -> None:
    assert generate(family, Split.TEST, 50, seed=3) == generate(family, Split.TEST, 50, seed=3)
    assert generate(family, Split.TEST, 50, seed=3) != generate(family, Split.TEST, 50, seed=4)
    assert len({problem.prompt for problem in generate(family, Split.TEST, 300, seed=3)}) == 300


def test_splits_have_the_shares_they_promise() -> None:
    counts = dict.fromkeys(Split, 0)
    for number in range(20_000):
        counts[split_of(NAME, str(number))] += 1
    assert counts[Split.TRAIN] == pytest.approx(16_000, abs=300)  # five standard deviations
    assert counts[Split.TEST] == pytest.approx(2_000, abs=220)


def test_a_chain_is_worth_what_python_says_and_stays_within_two_digits() -> None:
    rng = random.Random(0)
    for _ in range(2_000):
        chain = draw_chain(rng, rng.randrange(1, 9))
        assert eval(chain.expression()) == chain.value()
        partial = chain.start
        for term in chain.terms:
            partial += term
            assert 0 <= partial <= 99


def test_a_chain_is_worded_as_documented() -> None:
    problem = chain_problem(Chain(47, (6, -8, 9)))
    assert problem.prompt == "Work out 47 + 6 - 8 + 9 step by step."
    assert (problem.answer, problem.family, problem.difficulty) == ("54", NAME, 3)
    assert find_family(NAME).canonical(problem) == "47 + 6 - 8 + 9"


def test_countdown_is_worded_as_documented_and_the_order_of_numbers_is_no_other_problem() -> None:
    problem = countdown_problem(Chain(47, (6, -8, 9)))
    assert problem.prompt == "Reach 54 from 47 6 8 9."
    assert (problem.answer, problem.family, problem.difficulty) == ("47 + 6 - 8 + 9", "countdown", 3)
    canonical = find_family("countdown").canonical
    assert canonical(problem) == "54 from 6 8 9 47" == canonical(countdown_problem(Chain(47, (9, 6, -8))))
    assert canonical(problem) != canonical(countdown_problem(Chain(47, (9, 8, -6))))
    assert grade(problem, "Answer: 9 - 8 + 47 + 6") == 1.0


def test_a_graph_is_worded_as_documented_and_the_order_of_edges_is_no_other_problem() -> None:
    problem = path_problem(Graph(("BC", "AD", "AB", "DC"), "A", "C", "ABC"), 1)
    assert problem.prompt == "Walk BC AD AB DC from A to C."
    assert (problem.answer, problem.family, problem.difficulty) == ("A B C", "graph_path", 1)
    canonical = find_family("graph_path").canonical
    assert canonical(problem) == canonical(path_problem(Graph(("AB", "BC", "AD", "DC"), "A", "C", "ADC"), 1))
    assert canonical(problem) != canonical(path_problem(Graph(("AB", "BC", "AD", "DC"), "D", "C", "DC"), 1))
    assert grade(problem, "Answer: A D C") == 1.0


def test_a_graph_is_two_trees_that_meet_in_one_node() -> None:
    rng = random.Random(0)
    for _ in range(500):
        decoys = rng.choice(DIFFICULTIES)
        graph = draw_graph(rng, decoys)
        assert len(set(graph.edges)) == len(graph.edges)
        assert len(graph.path) == HOPS + 1
        assert all(edge in graph.edges for edge in map("".join, zip(graph.path, graph.path[1:], strict=False)))
        assert (graph.path[0], graph.path[-1]) == (graph.start, graph.goal)
        walks = graph.walks()
        assert [walk for walk in walks if walk[-1] == graph.goal] == [graph.path]
        assert len(walks) == decoys + 1  # the other leaves of the start's tree lead nowhere
        roots = {edge[0] for edge in graph.edges if not graph.before(edge[0])}
        assert len(roots - {graph.start}) == decoys  # and from nowhere those of the goal's
        assert graph.after(graph.goal) == []


def test_reachability_is_worded_as_documented_and_the_order_of_edges_is_no_other_problem() -> None:
    edges = ("BC", "AD", "AB", "DG", "BE", "HI", "DF", "HJ", "KL", "IM", "IN", "JO")
    problem = reachability_problem(Forest(edges, "A", ("E", "F", "M")))
    assert problem.prompt == "Follow BC AD AB DG BE HI DF HJ KL IM IN JO from A to which of E F M."
    assert (problem.answer, problem.family, problem.difficulty) == ("E F", "reachability", 3)
    canonical = find_family("reachability").canonical
    assert canonical(problem) == canonical(reachability_problem(Forest(edges[::-1], "A", ("E", "F", "M"))))
    assert canonical(problem) != canonical(reachability_problem(Forest(edges, "H", ("E", "F", "M"))))
    assert canonical(problem) != canonical(reachability_problem(Forest(edges, "A", ("E", "F", "N"))))
    assert [grade(problem, f"Answer: {said}") for said in ("E F", "F E", "E", "E F M")] == [1.0, 0.0, 0.0, 0.0]


def test_a_forest_is_two_trees_and_some_of_what_is_asked_is_reached() -> None:
    rng = random.Random(0)
    seen = set()
    for _ in range(500):
        asked = rng.choice((2, 3, 4))
        forest = draw_forest(rng, asked)
        assert len(set(forest.edges)) == len(forest.edges) == 12
        assert len(forest.asked) == asked
        assert list(forest.asked) == sorted(forest.asked)
        leaves = {edge[1] for edge in forest.edges} - {edge[0] for edge in forest.edges}
        assert set(forest.asked) <= leaves
        reached, under_way = set(), [forest.start]
        while under_way:
            node = under_way.pop()
            reached.add(node)
            under_way += [edge[1] for edge in forest.edges if edge[0] == node]
        assert forest.reached() == tuple(node for node in forest.asked if node in reached)
        seen.add((asked, len(forest.reached())))
    assert seen == {(2, 1), (3, 1), (3, 2), (4, 1), (4, 2), (4, 3)}


def grade(problem: Problem, answer: str) -> float:
    verdict = parse_grader(problem.grader).grade(answer, 5.0)
    assert isinstance(verdict, Graded)
    return verdict.value


def test_asking_too_much_says_so() -> None:
    with pytest.raises(ValueError, match="distinct test problems"):
        generate(NAME, Split.TEST, 500, seed=0, difficulties=(1,))
    with pytest.raises(ValueError, match="choose one of chained_arithmetic"):
        generate("sudoku", Split.TEST, 1, seed=0)


def test_a_file_gives_back_what_was_written(tmp_path: Path) -> None:
    problems = generate(NAME, Split.VALIDATION, 20, seed=0)
    write_problems(tmp_path / "problems.jsonl", problems)
    assert read_problems(tmp_path / "problems.jsonl") == problems


def test_a_line_without_a_grader_is_graded_by_math(tmp_path: Path) -> None:
    path = tmp_path / "problems.jsonl"
    path.write_text('{"prompt": "What is half of one?", "answer": "1/2"}\n\n', encoding="utf-8")
    [problem] = read_problems(path)
    assert problem.grader == {"type": "math", "reference": "1/2"}


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("{", "is not JSON"),
        ("[]", "must be an object"),
        (json.dumps({"prompt": "p"}), "answer must be"),
        (json.dumps({"prompt": " ", "answer": "a"}), "prompt must be"),
        (json.dumps({"prompt": "p", "answer": 5}), "answer must be"),
        (json.dumps({"prompt": "p", "answer": "a", "grader": {"type": "magic"}}), "grader.type must be one of"),
        (json.dumps({"prompt": "p", "answer": "a", "grader": None}), "grader must be an object"),
        (json.dumps({"prompt": "p", "answer": "a", "difficulty": -1}), "difficulty must be"),
        (json.dumps({"prompt": "p", "answer": "a", "family": 3}), "family must be"),
        (json.dumps({"prompt": "p", "answer": "a", "solution": "s"}), "solution is not a field"),
    ],
)
def test_a_wrong_line_is_named(line: str, says: str, tmp_path: Path) -> None:
    path = tmp_path / "problems.jsonl"
    path.write_text(json.dumps({"prompt": "p", "answer": "a"}) + f"\n\n{line}\n", encoding="utf-8")
    with pytest.raises(ProblemFileError, match=r"problems\.jsonl:3: ") as caught:
        read_problems(path)
    assert caught.value.line == 3
    assert says in str(caught.value)
