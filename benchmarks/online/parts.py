"""Parts of one report, run one after another or on other days: what must be alike for them to stand in one table.

Leaves out what a report says (`benchmarks.online.command`).
"""

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

ROOT: Final = Path(__file__).resolve().parents[2]
RUNS: Final = ("app", "worker", "training", "benchmarks/online")  # what a condition runs
SHOWS: Final = frozenset(
    {f"benchmarks/online/{name}.py" for name in ("command", "page", "parts", "picture")}
)  # does not
ALIKE: Final = ("processor", "cores")  # of the machines


class Unlike(Exception):
    """Parts that would not be comparable in one report."""


def code_version() -> str:
    """Name the code that conditions run by a digest of its files, so that uncommitted changes count too."""
    digest = hashlib.sha256()
    names = (path.relative_to(ROOT).as_posix() for package in RUNS for path in (ROOT / package).rglob("*.py"))
    for name in sorted(set(names) - SHOWS):
        digest.update(f"{name}\0".encode())
        digest.update((ROOT / name).read_bytes())
    return digest.hexdigest()[:12]


def merged(reports: Sequence[Mapping[str, Any]]) -> tuple[list[dict[str, Any]], dict[str, Any], dict[str, Any]]:
    """Put the trials of several reports together.

    Returns:
        the trials, the settings with all their seeds, and the machine, idle only if it was for every part.

    Raises:
        Unlike: code, plan or processor differ, or one condition has two results for a seed.

    """
    first = reports[0]
    seeds: list[int] = []
    trials: dict[tuple[str, int], dict[str, Any]] = {}
    for report in reports:
        same("plan or code", plan_of(first), plan_of(report))
        same("machine", machine_of(first), machine_of(report))
        seeds += report["settings"]["seeds"]
        for trial in report["raw"]:
            name = str(trial["condition"]["name"]), int(trial["seed"])
            same(f"result of {name[0]}, seed {name[1]},", trials.setdefault(name, trial), trial)
    facts = {**first["machine"], "alone": all(report["machine"]["alone"] for report in reports)}
    return list(trials.values()), {**first["settings"], "seeds": sorted(set(seeds))}, facts


def plan_of(report: Mapping[str, Any]) -> dict[str, Any]:
    """Give what all parts must have been asked alike."""
    return {key: value for key, value in report["settings"].items() if key != "seeds"}


def machine_of(report: Mapping[str, Any]) -> dict[str, Any]:
    """Give what all machines must have in common."""
    return {key: report["machine"].get(key) for key in ALIKE}


def same(what: str, one: Mapping[str, Any], other: Mapping[str, Any]) -> None:
    """Make sure that two parts agree in something.

    Raises:
        Unlike: they do not.

    """
    if differing := sorted(key for key in {*one, *other} if one.get(key) != other.get(key)):
        raise Unlike(f"the parts differ in their {what}: {', '.join(differing)}")
