"""The example that newcomers copy, run as they run it: real processes, a real update; the short form claims nothing."""

import importlib.util
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
def test_graded_episodes_are_learned_from_and_served(tmp_path: Path) -> None:
    ended = run("--short", "--exam", "8", "--directory", str(tmp_path / "agent"))
    assert ended.returncode == 0, ended.stderr
    versions = [int(version) for version in re.findall(r"version (\d+)  \d+ episodes", ended.stdout)]
    assert versions, ended.stdout
    assert versions[-1] >= 1, "a version that was learned serves"
    marks = re.findall(r"^(Before|After): +\d+ of 8 right", ended.stdout, re.MULTILINE)
    assert marks == ["Before", "After"]
    assert (tmp_path / "agent" / "short" / "model.safetensors").exists(), "made once"


@needs_agents
def test_what_is_missing_is_said() -> None:
    ended = run("--url", "http://127.0.0.1:1")
    assert ended.returncode == 2
    assert "--url needs --key" in ended.stderr
