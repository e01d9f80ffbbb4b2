"""Links lead somewhere, every command is one that the real parser takes, and the site builds without a warning."""

import os
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import click
import pytest

from app.cli import build
from app.doctor.contradictions import strangers
from tests.docs.reading import PAGES, ROOT, Command, anchors, blocks, commands, links

WRITTEN = {"reference/commands.md", "reference/events.md", "reference/metrics.md", "reference/routes.md", "security.md"}
ALL = [one for page in PAGES for one in commands(page)]


def test_the_pages_hold_commands() -> None:
    """Else the tests below would test nothing."""
    found = {one.words[0] for one in ALL}
    assert {"policy", "jobs", "grades", "sessions", "data", "keys", "top", "doctor", "up", "model", "export"} <= found
    assert len(ALL) > 60


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page: Path) -> None:
    for path, anchor in links(page):
        target = (page.parent / path).resolve() if path else page
        if target.is_relative_to(ROOT / "docs") and str(target.relative_to(ROOT / "docs")) in WRITTEN:
            continue
        assert target.exists(), f"{page.name}: {path}"
        if anchor and target.suffix == ".md":
            assert anchor in anchors(target), f"{page.name}: {path}#{anchor}"


@pytest.mark.parametrize("called", ALL, ids=str)
def test_every_command_is_one(called: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Parsed as it would be when it is run, up to running it."""
    monkeypatch.chdir(tmp_path)
    for file in ("problems.jsonl", "heldout.jsonl", "answers.jsonl", "export.jsonl"):
        (tmp_path / file).touch()
    command: click.Command = build()
    words = list(called.words)
    name: str | None = None
    with click.Context(command) as root:
        while isinstance(command, click.Group):
            name, found, words = command.resolve_command(root, words)
            assert found is not None
            command = found
    if "..." in words:
        return
    command.make_context(name, words)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_setting_before_a_command_is_one(page: Path) -> None:
    named = {setting.partition("=")[0] for one in commands(page) for setting in one.settings}
    assert list(strangers(named)) == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_target_of_make_is_one(page: Path) -> None:
    there = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    code = "\n".join(block for _, block in blocks(page.read_text()))
    named = re.findall(r"^(?:[A-Z_]+=\S+ )*make ([a-z-]+)", code, re.MULTILINE)
    assert set(named + re.findall(r"`make ([a-z-]+)`", page.read_text())) <= there


class Sources(HTMLParser):
    """What a page makes a browser load."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = {name: value or "" for name, value in attrs}
        if tag in {"script", "img", "iframe", "source"} and "src" in given:
            self.found.append(given["src"])
        if tag == "link" and given.get("rel") != "canonical":
            self.found.append(given.get("href", ""))


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The built site."""
    folder = tmp_path_factory.mktemp("site")
    done = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(folder)],
        env={**os.environ, "NO_MKDOCS_2_WARNING": "1"},
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return folder


def test_the_site_builds_and_loads_nothing_from_a_network(site: Path) -> None:
    pages = list(site.rglob("*.html"))
    assert len(pages) > 60
    for page in pages:
        seen = Sources()
        seen.feed(page.read_text())
        assert [one for one in seen.found if "//" in one] == [], page
        for local in (one for one in seen.found if one and not one.startswith(("data:", "/"))):
            assert (page.parent / local.partition("?")[0]).exists(), f"{page}: {local}"


def test_reference_is_of_this_release(site: Path) -> None:
    words = (site / "reference" / "commands.html").read_text()
    assert all(f'id="lepo-{name}"' in words for name in ("policy-promote", "jobs-retry", "bench-store", "doctor"))
    assert "lepo:num_requests_running" in (site / "reference" / "metrics.html").read_text()
    assert "roll_back" in (site / "reference" / "events.html").read_text()
    assert "the product promises" in (site / "security.html").read_text()
