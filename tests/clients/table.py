"""docs/clients.md: which client, in which version, did what. Written by the run that tried it."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).parents[2]
PAGE: Final = ROOT / "docs" / "clients.md"
OWN_PINS: Final = ROOT / "constraints.txt"  # of the project's environment
PINS: Final = ROOT / "tests" / "clients" / "requirements.txt"  # of the clients'
HEAD: Final = """\
# Clients

What was tried with clients of other people, unmodified, each in a process of its own against a running server of this
service (the [programs](../tests/clients/programs)). `make clients` installs them beside the project, tries everything,
and writes this page. The server has a small random model, so calls of tools and forms of answers are required of it.

| client | version | what was done | result |
|---|---|---|---|
"""


@dataclass(frozen=True, slots=True)
class Report:
    """What came of one client's program."""

    version: str  # of the package, as it says itself. Example: "1.110.2"
    results: Mapping[str, str]  # by what was done: "ok", or the error


def page(reports: Mapping[str, Report]) -> str:
    """Write the page, from reports by the package's name."""
    lines = [
        f"| {package} | {report.version} | {what} | {result.replace('|', '/').replace(chr(10), ' ')[:300]} |"
        for package, report in reports.items()
        for what, result in report.results.items()
    ]
    return HEAD + "\n".join(lines) + "\n"


def pinned(package: str, pins: Path) -> str:
    """Give the version of a package that a file of pins names."""
    found = [line.partition("==")[2] for line in pins.read_text().splitlines() if line.startswith(f"{package}==")]
    assert len(found) == 1, f"{package} is pinned {len(found)} times in {pins.name}"
    return found[0]
