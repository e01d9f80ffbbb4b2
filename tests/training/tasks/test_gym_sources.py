"""Sources of reasoning-gym: read with errors that say what to write, the same for the same seed, split for good."""

import re
import subprocess
import sys

import pytest

from training.graders.parse import parse_grader
from training.graders.verdict import Graded
from training.tasks.gym import GymSource, first_of, is_gym, make_problems, parse_source
from training.tasks.splits import Split


def test_a_source_is_read_with_its_own_keys_and_the_datasets() -> None:
    source = parse_source(
        "reasoning_gym:basic_arithmetic:operators=[+,-],min_terms=3,allow_negation=true,x=none,size=7,seed=2",
        Split.TEST,
    )
    config = '{"allow_negation": true, "min_terms": 3, "operators": ["+", "-"], "x": "none"}'
    assert source == GymSource("basic_arithmetic", config, 7, 2, Split.TEST, "answer")
    assert parse_source("reasoning_gym:gcd", Split.TRAIN) == GymSource("gcd")
    named = parse_source("reasoning_gym:gcd:split=validation,extract=last_number", Split.TRAIN)
    assert (named.split, named.extract) == (Split.VALIDATION, "last_number")
    assert first_of(named, 20).size == 20
    assert first_of(named, 20_000) == named
    assert not is_gym("reasoning_gym.jsonl")


@pytest.mark.parametrize(
    ("source", "says"),
    [
        ("reasoning_gym:", "names no dataset: write reasoning_gym:NAME"),
        ("reasoning_gym:gcd:size", "'size' in 'reasoning_gym:gcd:size' is no key=value"),
        ("reasoning_gym:gcd:size=", "is no key=value"),
        ("reasoning_gym:gcd:size=1,size=2", "gives size twice"),
        ("reasoning_gym:gcd:size=0", "size=0 must be a whole number from 1"),
        ("reasoning_gym:gcd:size=many", "size=many must be a whole number"),
        ("reasoning_gym:gcd:seed=-1", "seed=-1 must be a whole number from 0"),
        ("reasoning_gym:gcd:split=dev", "split=dev must be one of train, validation, test"),
        ("reasoning_gym:gcd:extract=after_marker", "extract=after_marker must be one of whole, last_number, answer"),
    ],
)
def test_a_source_that_is_none_says_what_to_write(source: str, says: str) -> None:
    with pytest.raises(ValueError, match=re.escape(says)):
        parse_source(source, Split.TRAIN)


@pytest.mark.parametrize(
    ("source", "says"),
    [
        ("reasoning_gym:gcf", "choose one of ab, acre"),
        ("reasoning_gym:gcd:numbers=3", "choose from min_numbers, max_numbers"),
        ("reasoning_gym:gcd:min_numbers=1", "gcd refuses"),
        ("reasoning_gym:coin_flip:min_trials=3,max_trials=3,size=400", "ask for fewer (size="),
    ],
)
def test_what_cannot_be_made_says_why(source: str, says: str) -> None:
    with pytest.raises(ValueError, match=re.escape(says)):
        make_problems(parse_source(source, Split.TEST))


def test_every_problem_is_solved_by_its_own_answer() -> None:
    for problem in make_problems(GymSource("chain_sum", size=20)):
        verdict = parse_grader(problem.grader).grade(f"The answer is {problem.answer}.", 20.0)
        assert isinstance(verdict, Graded)
        assert verdict.value == 1.0


@pytest.mark.parametrize("dataset", ["chain_sum", "word_sorting", "letter_counting"])
def test_splits_never_meet_whatever_the_seed_or_the_configuration(dataset: str) -> None:
    config = '{"max_terms": 3}' if dataset == "chain_sum" else "{}"
    drawn = {
        split: {
            problem.prompt
            for seed in (0, 1)
            for each in ("{}", config)
            for problem in make_problems(GymSource(dataset, each, 60, seed, split))
        }
        for split in Split
    }
    assert all(len(prompts) >= 60 for prompts in drawn.values())
    assert not drawn[Split.TRAIN] & drawn[Split.VALIDATION]
    assert not drawn[Split.TRAIN] & drawn[Split.TEST]
    assert not drawn[Split.VALIDATION] & drawn[Split.TEST]


def test_a_seed_names_its_problems_and_the_longer_source_begins_with_the_shorter() -> None:
    make_problems.cache_clear()
    first = make_problems(GymSource("chain_sum", size=30, seed=3))
    make_problems.cache_clear()
    assert make_problems(GymSource("chain_sum", size=30, seed=3)) == first
    assert make_problems(GymSource("chain_sum", size=40, seed=3))[:30] == first
    other = make_problems(GymSource("chain_sum", size=30, seed=4))
    assert not {problem.prompt for problem in first} & {problem.prompt for problem in other}
    assert len({problem.prompt for problem in first}) == 30


def test_a_problem_without_one_right_answer_has_none() -> None:
    [problem] = make_problems(GymSource("graph_color", size=1))
    assert problem.answer == ""
    assert problem.family == "reasoning_gym:graph_color"


def test_without_the_package_a_source_says_what_to_install() -> None:
    program = (
        "import sys\nsys.modules['reasoning_gym'] = None\n"
        "from training.tasks.gym import GymSource, make_problems\n"
        "try:\n    make_problems(GymSource('gcd'))\nexcept ValueError as error:\n    print(error)\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip().endswith("pip install 'lepo-service[gym]'")
