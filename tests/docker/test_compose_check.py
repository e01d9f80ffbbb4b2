"""`scripts/compose_check.sh` does what the README says, word for word; the walk itself needs an engine."""

import re
import subprocess
from pathlib import Path

import pytest

from tests.docker.reading import ROOT

SCRIPT = ROOT / "scripts" / "compose_check.sh"
DEPLOY = ROOT / "docs" / "deploy.md"


def blocks(text: str) -> list[str]:
    """What stands in fences."""
    return re.findall(r"^```\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)


def commands(text: str) -> list[str]:
    """The lines of the fences, without the remarks at their ends."""
    lines = [re.sub(r"\s+# .*$", "", line).strip() for block in blocks(text) for line in block.splitlines()]
    return [line for line in lines if line]


def in_order(lines: list[str], text: str) -> str | None:
    """The first of the lines that does not follow in the text, or None."""
    walked = [line.strip() for line in text.splitlines()]
    at = 0
    for line in lines:
        try:
            at = walked.index(line, at) + 1
        except ValueError:
            return line
    return None


def test_the_readmes_commands_are_walked_verbatim_and_in_order() -> None:
    readme = (ROOT / "README.md").read_text()
    deploy = readme[readme.index("\n## Deploy\n") : readme.index("\n## Develop\n")]
    lines = commands(deploy)
    assert sum("docker compose" in line for line in lines) >= 5
    assert in_order(lines, SCRIPT.read_text()) is None


@pytest.mark.parametrize("title", ["Backup", "Restore", "Another admin key", "Another database password"])
def test_what_an_operator_is_told_to_do_is_walked_too(title: str) -> None:
    page = DEPLOY.read_text()
    section = page[page.index(f"\n### {title}\n") + 1 :]
    section = section[: (section.find("\n#", 4) + 1) or None]
    lines = commands(section)
    assert any("docker compose" in line for line in lines)
    assert in_order(lines, SCRIPT.read_text()) is None


def run(*arguments: str, **env: str) -> subprocess.CompletedProcess[str]:
    where = {"PATH": "/usr/bin:/bin", **env}
    return subprocess.run(["bash", str(SCRIPT), *arguments], env=where, capture_output=True, text=True, check=False)


def test_help_and_an_unknown_option() -> None:
    assert (told := run("--help")).returncode == 0
    assert "--keep" in told.stdout
    assert (told := run("--fast")).returncode == 2
    assert "--keep" in told.stderr


def test_without_an_engine_it_says_so_and_leaves_nothing(tmp_path: Path) -> None:
    tools = tmp_path / "bin"
    tools.mkdir()
    (tools / "docker").write_text("#!/bin/sh\nexit 1\n")
    (tools / "docker").chmod(0o755)
    folder = tmp_path / "tmp"
    folder.mkdir()
    told = run(PATH=f"{tools}:/usr/bin:/bin", TMPDIR=str(folder))
    assert told.returncode == 1
    assert "FAILED: 'docker compose' does not answer" in told.stdout
    assert list(folder.iterdir()) == []
