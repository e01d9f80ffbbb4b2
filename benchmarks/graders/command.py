"""The door `lepo bench graders`: where our graders and the scorers of reasoning-gym differ, and who is right."""

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

from benchmarks.report import Bound, finish, judged

if TYPE_CHECKING:
    from benchmarks.graders.comparison import Case

BOUNDS: Final = (Bound("unexplained", 0.0, "at most"),)  # kinds of difference, of either side
SHOWN: Final = 3  # examples kept of each kind


@click.command("graders")
@click.option("--size", default=20, show_default=True, type=click.IntRange(min=1), help="Problems of each dataset.")
@click.option("--seed", default=0, show_default=True, type=click.IntRange(min=0), help="Names the problems.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object on the last line.")
@click.option("--out", type=click.Path(dir_okay=False, path_type=Path), help="Write the JSON here too.")
def command(size: int, seed: int, as_json: bool, out: Path | None) -> None:
    """Have both sides judge right answers in many spellings, and wrong ones near them (needs the extra `gym`)."""
    finish(measure(size, seed), as_json=as_json, out=out)


def measure(size: int, seed: int) -> dict[str, Any]:
    """Compare; returns the report."""
    from benchmarks.graders.comparison import compare
    from benchmarks.graders.pairings import PAIRINGS
    from benchmarks.timing import machine

    facts = machine()
    found = list(compare(PAIRINGS, size, seed))
    kinds = [*kinds_of(found, ours=True), *kinds_of(found, ours=False)]
    report: dict[str, Any] = {
        "benchmark": "graders",
        "machine": facts,
        "settings": {"size": size, "seed": seed, "datasets": len(PAIRINGS)},
        "replies": len(found),
        "the_sides_differ": sum((case.ours == 1.0) != (case.theirs == 1.0) for case in found),
        "ours_differ_from_a_reader": sum(case.ours_errs for case in found),
        "theirs_differ_from_a_reader": sum(case.theirs_errs for case in found),
        "unexplained": sum(kind["why"] is None for kind in kinds),
        "kinds": {f"{kind['side']}: {kind['variant']}: {kind['why']}": kind["cases"] for kind in kinds},
        "raw": kinds,
    }
    return report | {"bounds": judged(report, BOUNDS)}


def kinds_of(cases: "Iterable[Case]", *, ours: bool) -> list[dict[str, Any]]:
    """Group the replies that a side misjudges, with examples and the reason that is known."""
    from benchmarks.graders.explained import why

    groups: dict[tuple[str, str | None], list[Case]] = defaultdict(list)
    for case in cases:
        if case.ours_errs if ours else case.theirs_errs:
            groups[case.variant, why(case, ours=ours)].append(case)
    return [
        {
            "side": "ours" if ours else "theirs",
            "variant": variant,
            "why": reason,
            "datasets": sorted({case.dataset for case in group}),
            "cases": len(group),
            "examples": [asdict(case) for case in group[:SHOWN]],
        }
        for (variant, reason), group in groups.items()
    ]
