"""The scenes: problems that never meet, settings that exist and reach every process, and what is promised."""

import importlib.util
from collections import Counter
from dataclasses import replace
from pathlib import Path

import click
import pytest

from app.demo.command import scene_of
from app.demo.scene import Claims, Scene
from app.demo.scenes import REAL, TOY
from app.demo.staging import make_afresh, problems_of
from app.demo.summary import Summary
from app.settings import named
from app.stack.stack import EVERY_PART, Stack
from training.graders.parse import parse_grader
from training.graders.verdict import Graded
from training.tasks.problem import Problem
from training.tasks.splits import Split

WITHOUT_GYM = importlib.util.find_spec("reasoning_gym") is None

scenes = pytest.mark.parametrize("scene", [TOY, REAL], ids=["toy", "real"])
with_problems = pytest.mark.parametrize(
    "scene",
    [
        pytest.param(TOY, id="toy"),
        pytest.param(
            REAL,
            id="real",
            marks=pytest.mark.skipif(WITHOUT_GYM, reason="reasoning-gym is not here: pip install 'lepo-service[gym]'"),
        ),
    ],
)


def grade(problem: Problem, answer: str) -> float:
    verdict = parse_grader(dict(problem.grader)).grade(answer, 5.0)
    assert isinstance(verdict, Graded)
    return verdict.value


@with_problems
def test_training_gate_and_exam_share_no_question(scene: Scene) -> None:
    short = replace(scene, train_problems=200, gate_problems=60, exam_problems=60)
    parts = [{problem.prompt for problem in part} for part in problems_of(short)]
    assert [len(part) for part in parts[1:]] == [60, 60], "every question of an exam is another one"
    assert len(set.union(*parts)) == sum(map(len, parts))


@with_problems
def test_problems_are_the_same_at_every_call(scene: Scene) -> None:
    assert scene.problems(Split.TEST, 40) == scene.problems(Split.TEST, 40)
    assert len(scene.problems(Split.TRAIN, 200)) == 200


@pytest.mark.skipif(WITHOUT_GYM, reason="reasoning-gym is not here: pip install 'lepo-service[gym]'")
def test_a_sum_is_right_when_its_last_number_is() -> None:
    for problem in REAL.problems(Split.TEST, 20):
        assert problem.prompt.startswith("State the final answer to the following arithmetic problem: ")
        right = int(problem.answer)
        assert right == eval(problem.prompt.rpartition(": ")[2].rstrip("= ")), "two numbers, added or subtracted"
        assert grade(problem, problem.answer) == 1.0
        assert grade(problem, f"3 and 4 make 7, so the answer is {right}.") == 1.0
        assert grade(problem, f"{right}. No, {right + 1}") == 0.0
        assert grade(problem, "I do not know.") == 0.0


@scenes
def test_settings_of_a_scene_exist_and_reach_every_process(scene: Scene, tmp_path: Path) -> None:
    environment = scene.environment
    assert set(environment) <= set(named()), "a setting that does not exist has no effect, and nobody says so"
    stack = Stack(tmp_path, environment)
    settings = stack.settings
    assert settings.latent_length == scene.latent_length
    assert settings.latent_placement == scene.placement
    assert settings.model == scene.model
    assert settings.heldout_size == scene.gate_problems
    assert settings.min_grades % scene.choices == 0, "an update takes whole groups"
    assert settings.slots >= scene.users * scene.choices, "no user waits for another"
    for part in EVERY_PART:
        assert environment.items() - stack.child(part).env.items() == {("LEPO_PORT", "0")}, "a free port is found"


@scenes
def test_what_a_caller_asks_for_goes_before_the_scene(scene: Scene) -> None:
    assert scene_of(scene, None, None, None, None) == scene
    asked = scene_of(scene, 30.0, 2, 50, Path("elsewhere"))
    assert (asked.learn_s, asked.users, asked.exam_problems, asked.directory) == (30.0, 2, 50, Path("elsewhere"))
    assert replace(asked, learn_s=scene.learn_s, users=scene.users) == replace(
        scene, exam_problems=50, directory=Path("elsewhere")
    )


def test_the_scenes_do_not_disturb_each_other() -> None:
    assert TOY.directory != REAL.directory
    assert REAL.directory == Path("var/demo-real")
    assert REAL.exam_problems >= 200


def summary(*, after: float = 0.5, swaps: int = 5, failed: int = 0) -> Summary:
    return Summary(
        model="demo",
        accuracy_before=0.3,
        accuracy_before_interval=(0.25, 0.35),
        accuracy_after=after,
        accuracy_after_interval=(0.45, 0.55),
        exam_prompts=200,
        updates=5,
        updates_refused=0,
        swaps=swaps,
        requests=300,
        answers=2400,
        failed=failed,
        grades=2000,
        grades_by_clients=1000,
        grades_by_server=1000,
        learned=1900,
        skipped={},
        policy_version=5,
        latent_length=4,
        latent_placement="preamble",
        seconds=100.0,
    )


def test_a_claim_that_does_not_hold_is_named() -> None:
    claims = Claims(gain=0.15, swaps=3)
    assert summary(after=0.46).shortfalls(claims) == []
    assert summary(after=0.44).shortfalls(claims) == ["accuracy rose by 14.0%, wanted 15% or more"]
    assert summary(swaps=2, failed=1).shortfalls(claims) == ["2 swaps, wanted 3 or more", "1 calls failed, wanted none"]


def test_a_directory_of_somebody_else_is_left_alone(tmp_path: Path) -> None:
    make_afresh(tmp_path / "demo")
    (tmp_path / "demo" / "old.txt").touch()
    make_afresh(tmp_path / "demo")
    assert not (tmp_path / "demo" / "old.txt").exists()
    (tmp_path / "mine.txt").touch()
    with pytest.raises(click.UsageError, match="choose another --directory"):
        make_afresh(tmp_path)
    assert (tmp_path / "mine.txt").exists()


@pytest.mark.skipif(WITHOUT_GYM, reason="reasoning-gym is not here: pip install 'lepo-service[gym]'")
def test_sums_of_one_digit_are_a_quarter_of_what_users_ask() -> None:
    """Distinct sums alone would be nearly all of two digits, in which the base is hardly ever right."""
    asked = [problem.prompt.partition(": ")[2] for problem in REAL.problems(Split.TRAIN, 800)]
    sizes = Counter((len(one.split()) // 2, max(len(word) for word in one.split())) for one in asked)
    assert set(sizes) == {(2, 1), (2, 2)}
    assert abs(sizes[2, 1] - 200) < 20
