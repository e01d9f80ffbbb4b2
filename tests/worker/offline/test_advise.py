"""Whether latent steps pay is measured on a model, decided by intervals, and what was kept is what a service takes."""

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from app.advice import NAME, keep_advice
from app.cli import build
from app.errors import BadRequest
from app.settings import read_settings
from training.tasks.jsonl import write_problems
from training.tasks.problem import Problem
from worker.offline.advise import PLACES, TOKENS, Findings, Look, Way, best_of, ways_of
from worker.offline.models import open_model
from worker.offline.scores import Estimate

VOWELS = {"type": "string_check", "reference": "a", "operation": "ilike"}  # a random model writes one now and then
SMALL = ("--prompts", "3", "--group", "4", "--max-tokens", "6", "--latent-length", "2", "--k", "4", "--threads", "1")


@pytest.fixture
def data(tmp_path: Path) -> Path:
    write_problems(tmp_path / "data.jsonl", [Problem(f"question {i}", "a", VOWELS, "", 0) for i in range(40)])
    return tmp_path / "data.jsonl"


def run(data: Path, model: Path, *more: str) -> str:
    found = CliRunner().invoke(build(), ["model", "advise", str(model), "--data", str(data), *SMALL, *more])
    assert found.exit_code == 0, found.output
    return str(found.stdout)


def test_both_ways_are_learned_and_asked_again(data: Path, model_dir: Path) -> None:
    report = json.loads(run(data, model_dir, "--updates", "2", "--placement", "answer", "--json"))
    assert set(report["before"]) == {"tokens alone", "2 latent steps, answer"}
    assert [report[one]["way"] for one in ("tokens", "latents")] == ["tokens alone", "2 latent steps, answer"]
    assert [len(report[one]["rewards"]) for one in ("tokens", "latents")] == [2, 2]
    gain = report["tokens"]["after"]["avg"]["value"] - report["before"]["tokens alone"]["avg"]["value"]
    assert report["tokens"]["gain"] == pytest.approx(gain)
    assert report["tokens"]["after"]["avg"]["problems"] == 4  # a tenth of the data was set aside
    difference = report["latents"]["after"]["avg"]["value"] - report["tokens"]["after"]["avg"]["value"]
    assert report["difference"]["value"] == pytest.approx(difference)
    again = json.loads(run(data, model_dir, "--updates", "2", "--placement", "answer", "--json"))
    assert again["tokens"]["rewards"] == report["tokens"]["rewards"]
    assert again["difference"] == report["difference"]


def test_a_table_is_for_people_and_names_the_settings(data: Path, model_dir: Path) -> None:
    said = run(data, model_dir, "--updates", "0")
    assert "tokens alone" in said
    assert "2 latent steps, answer" in said
    assert "before learning:" in said
    assert "LEPO_LATENT_LENGTH=" in said


def test_what_is_kept_is_what_a_service_on_that_model_takes(
    data: Path, model_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LEPO_VAR_DIR", str(tmp_path / "var"))
    monkeypatch.setenv("LEPO_MODEL", str(model_dir))
    assert read_settings().latent_length == 4
    run(data, model_dir, "--updates", "0", "--save")
    kept = json.loads((tmp_path / "var" / NAME).read_text())
    assert read_settings().latent_length == kept["settings"]["latent_length"] != 4
    monkeypatch.setenv("LEPO_LATENT_LENGTH", "7")
    assert read_settings().latent_length == 7
    monkeypatch.delenv("LEPO_LATENT_LENGTH")
    monkeypatch.setenv("LEPO_MODEL", "demo")
    assert read_settings().latent_length == 4


def test_advice_reaches_every_setting_it_names_and_no_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LEPO_VAR_DIR", str(tmp_path))
    advised: dict[str, Any] = {
        "latent_length": 9,
        "latent_placement": "preamble",
        "latent_tau": 0.3,
        "latent_draws": 4,
        "port": 1,
    }
    keep_advice(tmp_path, "demo", advised, {})
    found = read_settings()
    assert (found.latent_length, found.latent_placement, found.latent_tau, found.latent_draws) == (
        9,
        "preamble",
        0.3,
        4,
    )
    assert found.port == 8000


@pytest.mark.parametrize("text", ["{", "[]", '{"settings": {}}', '{"model": "demo", "settings": 3}'])
def test_a_file_of_advice_that_cannot_be_read_says_what_to_do(
    text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / NAME).write_text(text)
    monkeypatch.setenv("LEPO_VAR_DIR", str(tmp_path))
    with pytest.raises(BadRequest, match="run lepo model advise again"):
        read_settings()
    found = CliRunner().invoke(build(), ["settings"])
    assert found.exit_code != 0
    assert "run lepo model advise again" in found.output


def looked(average: float) -> Look:
    one = Estimate(average, average, average, 4)
    return Look(one, one, (average,) * 4, 0.1)


@pytest.mark.parametrize(
    ("difference", "advised", "said"),
    [
        ((0.1, 0.02, 0.2), Way(8, "answer"), "they pay"),
        ((0.1, -0.02, 0.2), TOKENS, "no difference was seen"),
        ((-0.1, -0.2, -0.01), TOKENS, "answer by tokens"),
    ],
)
def test_latent_steps_are_advised_where_they_are_better_beyond_chance(
    difference: tuple[float, float, float], advised: Way, said: str
) -> None:
    looks = {TOKENS: looked(0.9), Way(4, "answer"): looked(0.2), Way(8, "answer"): looked(0.4)}
    findings = Findings(looks, None, None, difference)
    assert best_of(looks) == Way(8, "answer")
    assert findings.advised == advised
    assert said in findings.words


def test_ways_are_where_the_model_has_a_place(model_dir: Path) -> None:
    policy = open_model(str(model_dir), version=0, dtype="float32", device="cpu")
    for template, expected in (
        (None, {"answer"}),
        ("{% for one in messages %}{{ one.content }}{% endfor %}", {"preamble", "answer"}),
    ):
        policy.tokenizer.chat_template = template
        ways = ways_of(policy, (2, 4), PLACES)
        assert {way.placement for way in ways} == expected
        assert {way.latent_length for way in ways} == {2, 4}


def test_a_place_that_a_model_does_not_have_is_refused(data: Path, model_dir: Path) -> None:
    more = ["--placement", "thinking"]
    found = CliRunner().invoke(build(), ["model", "advise", str(model_dir), "--data", str(data), *SMALL, *more])
    assert found.exit_code == 2
    assert "this model has no such place" in found.output
