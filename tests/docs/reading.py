"""What stands in the pages: links, and the commands of code blocks."""

import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
PAGES = (ROOT / "README.md", ROOT / "SECURITY.md", *sorted((ROOT / "docs").rglob("*.md")))
FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
INDENTED = re.compile(r"^    (?=\S).*(?:\n    .*)*", re.MULTILINE)
SHELLS = {"", "sh", "bash", "console"}
ENDS = re.compile(r"\s*(?:\||;|&&|(?<!\S)[<>]|(?<=\s)2>)")
SETTING = re.compile(r"[A-Z_]+=\S*")


@dataclass(frozen=True)
class Command:
    """One call of `lepo` in a page."""

    page: str  # its name, from the repository's root
    line: int
    settings: tuple[str, ...]  # NAME=VALUE before it
    words: tuple[str, ...]  # behind `lepo`

    def __str__(self) -> str:
        return f"{self.page}:{self.line} lepo {' '.join(self.words)}"


def blocks(text: str) -> Iterator[tuple[int, str]]:
    """The code blocks for a shell, with the line each begins at."""
    for found in FENCE.finditer(text):
        if found[1] in SHELLS:
            yield text.count("\n", 0, found.start(2)) + 1, found[2]
    outside = FENCE.sub(lambda found: "\n" * found[0].count("\n"), text)
    for found in INDENTED.finditer(outside):
        before = outside[: found.start()].rstrip("\n").rpartition("\n")[2]
        if not before.lstrip().startswith(("-", "*", "1")):  # a paragraph of a list is no code
            yield outside.count("\n", 0, found.start()) + 1, re.sub(r"^    ", "", found[0], flags=re.MULTILINE)


def commands(page: Path) -> Iterator[Command]:
    """Every call of `lepo` in a page's blocks."""
    for first, block in blocks(page.read_text()):
        joined = re.sub(r"\\\n\s*", lambda found: " " + "\v" * found[0].count("\n"), block)
        line = first
        for text in joined.split("\n"):
            yield from calls(page, line, text.replace("\v", ""))
            line += 1 + text.count("\v")


def calls(page: Path, line: int, text: str) -> Iterator[Command]:
    """The calls in one line: at its beginning, behind settings, or inside $( )."""
    for found in re.finditer(r"(?:^|(?<=[\s(\"]))lepo (?!is ready)(?=[a-z-])", text):
        before = text[: found.start()]
        if not re.fullmatch(r"\s*(?:[A-Z_]+=\S+\s+)*|.*\$\(.*|\s*(?:eval \")?.*\$\(", before):
            continue  # words of a sentence, or of a program's output
        rest = text[found.end() :]
        if "$(" in before:
            rest = rest.partition(")")[0]
        rest = ENDS.split(rest, maxsplit=1)[0]
        words = tuple(shlex.split(rest, comments=True))
        settings = () if "$(" in before else tuple(SETTING.findall(before))
        yield Command(str(page.relative_to(ROOT)), line, settings, words)


def links(page: Path) -> Iterator[tuple[str, str]]:
    """Target and anchor of every link to a file or a heading."""
    text = FENCE.sub("", page.read_text())
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if "://" not in target and not target.startswith("mailto:"):
            path, _, anchor = target.partition("#")
            yield path, anchor


def anchors(page: Path) -> set[str]:
    """The anchors of a page's headings, as Git hosts and the site make them."""
    headings = re.findall(r"^#+ (.+)$", FENCE.sub("", page.read_text()), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}
