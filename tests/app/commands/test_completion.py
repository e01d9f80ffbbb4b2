"""Completion comes from the real parser: in a real bash, and by the protocol that the scripts of zsh and fish speak."""

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.app.test_cli import HEAVY, lepo


@pytest.fixture
def path(tmp_path: Path) -> str:
    """A PATH on which `lepo` is this code."""
    program = tmp_path / "lepo"
    program.write_text(f'#!/bin/sh\nexec {sys.executable} -m app.cli "$@"\n')
    program.chmod(0o755)
    return f"{tmp_path}{os.pathsep}{os.environ['PATH']}"


def in_bash(path: str, *words: str) -> list[str]:
    """What bash offers for the last word."""
    said = " ".join(f"'{word}'" for word in ("lepo", *words))
    script = (
        'eval "$(lepo completion bash)"\n'
        f"COMP_WORDS=({said}); COMP_CWORD={len(words)}\n"
        "_lepo_completion lepo\n"
        'printf "%s\\n" "${COMPREPLY[@]}"\n'
    )
    done = subprocess.run(
        ["bash", "--norc", "-c", script], env={**os.environ, "PATH": path}, capture_output=True, text=True, check=True
    )
    return done.stdout.split()


def test_bash_completes_commands_options_and_choices(path: str) -> None:
    assert in_bash(path, "pol") == ["policy"]
    assert {"promote", "pin"} <= set(in_bash(path, "policy", "p"))
    assert in_bash(path, "policy", "promote", "--exp") == ["--expect"]
    assert in_bash(path, "jobs", "list", "--status", "q") == ["queued"]


@pytest.mark.parametrize(("shell", "words"), [("zsh", "plain\nrollback\nServe an earlier"), ("fish", "plain,rollback")])
def test_other_shells_ask_the_same_parser(shell: str, words: str) -> None:
    code, script = lepo("completion", shell)
    assert code == 0
    assert f"_LEPO_COMPLETE={shell}_complete" in script
    assert "lepo" in script
    asked = {
        "COMP_WORDS": "lepo policy roll" if shell == "zsh" else "lepo policy ",
        "COMP_CWORD": "2" if shell == "zsh" else "roll",
        "_LEPO_COMPLETE": f"{shell}_complete",
    }
    done = subprocess.run(
        [sys.executable, "-m", "app.cli"], env={**os.environ, **asked}, capture_output=True, text=True, check=True
    )
    assert words in done.stdout


def test_a_tab_is_light_and_quick() -> None:
    program = (
        "import sys\n"
        "from app.cli import build\n"
        "try:\n    build()(['completion'], prog_name='lepo')\n"
        "except SystemExit:\n    pass\n"
        f"print(sorted({HEAVY!r} & set(sys.modules)), file=sys.stderr)\n"
    )
    asked = {"COMP_WORDS": "lepo data export --for", "COMP_CWORD": "3", "_LEPO_COMPLETE": "bash_complete"}
    spent = []
    for _ in range(3):
        begun = time.monotonic()
        done = subprocess.run(
            [sys.executable, "-c", program], env={**os.environ, **asked}, capture_output=True, text=True, check=True
        )
        spent.append(time.monotonic() - begun)
    assert done.stdout == "plain,--format\n"
    assert done.stderr == "[]\n"
    assert min(spent) < 1.0


def test_a_shell_that_is_not_known() -> None:
    code, output = lepo("completion", "tcsh")
    assert code == 2
    assert "'bash', 'zsh', 'fish'" in output
