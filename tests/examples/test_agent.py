"""The example that newcomers copy, run as they run it: real processes, a real update; the short form claims nothing."""

import importlib.util
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLE = Path(__file__).parents[2] / "examples" / "agent.py"

needs_agents = pytest.mark.skipif(
    importlib.util.find_spec("agents") is None, reason="needs openai-agents: pip install 'lepo-service[clients]'"
)


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, str(EXAMPLE), *arguments], capture_output=True, text=True, check=False, cwd=EXAMPLE.parents[1]
    )


@needs_agents
@pytest.mark.timeout(600)
def test_graded_episodes_are_learned_from_and_served() -> None:
    ended = run("--short", "--exam", "8", "--seconds", "400")
    assert ended.returncode == 0, ended.stderr
    versions = [int(version) for version in re.findall(r"version (\d+)  \d+ episodes", ended.stdout)]
    assert versions, ended.stdout
    assert versions[-1] >= 1, "a version that was learned serves"
    marks = re.findall(r"^(Before|After): +\d+ of 8 right", ended.stdout, re.MULTILINE)
    assert marks == ["Before", "After"]


@needs_agents
def test_what_is_missing_is_said() -> None:
    ended = run("--url", "http://127.0.0.1:1")
    assert ended.returncode == 2
    assert "--url needs --key" in ended.stderr


def test_the_pupil_is_what_its_recipe_makes() -> None:
    """Lessons and tasks fit the committed model: every word of the shop is a token of its vocabulary."""
    source = "import shop, pupil; print(len(pupil.build_tokenizer(9, (*pupil.WORDS, *pupil.SHOP_WORDS)).get_vocab()))"
    source += "; print({one.part for one in shop.tasks('asked', 50)})"
    made = subprocess.run(
        [sys.executable, "-c", source], capture_output=True, text=True, check=True, cwd=EXAMPLE.parent
    ).stdout.splitlines()
    config = json.loads((EXAMPLE.parent / "pupil_weights" / "config.json").read_text())
    assert made == [str(config["vocab_size"]), "{'asked'}"]
