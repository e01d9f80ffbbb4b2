"""The report on a real model as a part of the page, in Markdown.

Leaves out making it (`report`), its words (`verdict`) and the picture (`picture`).
"""

from collections.abc import Iterator, Mapping
from typing import Any

from benchmarks.learning.real.report import MEASURES, shown_of
from benchmarks.learning.real.verdict import conclusions, points, verdict

Report = Mapping[str, Any]
ABOUT = {
    "grpo": "tokens alone",
    "latent_grpo": "Latent-GRPO (arXiv:2604.27998): noise that only raises scores, the ten largest kept",
    "multiplex": "Multiplex (arXiv:2601.08808): the mean of three tokens, learned by the product of their chances",
    "lepo": "LEPO (arXiv:2604.17892)",
    "lepo_noise_only": "LEPO without its latent gradient: latent steps are noise that only tokens learn from",
    "lepo_averaged": "LEPO with the mean of several samples ([averaged draws](decisions/averaged-draws.md))",
}
QUICKLY = (
    "The rewards of the training batches: every problem is met once, before anything was learned from it. The area is",
    "their mean, the share of right answers of all that were drawn while learning. Differences are paired by seed and",
    "problem, in points, with 95% intervals that resample seeds, then problems. Seconds are of one processor core.",
)
SPENT = ("answering, s an update", "learning, s")
DIFFERENT = (
    *("distinct answers of 8, first batch", "last", "groups with signal, first", "last"),
    *("latent entropy, first", "last", "effective support"),
)


def section(report: Report) -> list[str]:
    """Write the part on a real model."""
    return [
        f"## A real model: {report['settings']['base']}",
        "",
        setup(report),
        "",
        *missing(report),
        verdict(report),
        "",
        "![Learning curves by answers and by seconds, and differences to GRPO](pictures/learning-real.png)",
        "",
        *(f"- {sentence}" for sentence in conclusions(report)),
        "",
        *methods(report),
        "",
        "### How quickly it learns",
        "",
        *QUICKLY,
        "",
        header("family", "method", "seeds", "area", "minus GRPO", "first batch", "last batch", *SPENT),
        "|" + "---|" * 9,
        *speed(report),
        "",
        "### What it has learned",
        "",
        "Test problems, eight answers each with the same noise before and after; by the method's own inference.",
        "",
        "| family | method | measure | before | after | gain | gain minus GRPO's |",
        "|" + "---|" * 7,
        *learned(report),
        "",
        "### The same weights by tokens alone",
        "",
        "| family | method | measure | before | after | gain |",
        "|" + "---|" * 6,
        *by_tokens(report),
        "",
        "### Rollouts",
        "",
        header("family", "method", *DIFFERENT, "answer tokens, first", "last", "nats moved per update and step"),
        "|" + "---|" * 12,
        *rollouts(report),
    ]


def header(*names: str) -> str:
    """Write the names of columns."""
    return f"| {' | '.join(names)} |"


def setup(report: Report) -> str:
    """Say what was run."""
    made = report["settings"]
    return (
        f"Written by `lepo bench learning --base {made['base']} --preset {made['preset']}`: "
        f"{len(made['seeds'])} seeds, each of {made['updates']} updates of {made['problems']} problems with "
        f"{made['group']} answers of at most {made['tokens']} tokens, Adam at {made['rate']:g} for every method; "
        f"{made['test']} test problems per family. "
        "One rate for all, and no trials of each: those of a few updates would tell less than their noise. "
        f"{placed(made)} An answer is right when its last number is. Families are of reasoning-gym, in equal parts: "
        + "; ".join(f"`{name}` ({', '.join(f'`{one}`' for one in of)})" for name, of in made["families"].items())
        + "."
    )


def placed(made: Mapping[str, Any]) -> str:
    """Say where latent steps sit and how many there are."""
    latent = [one for one in made["methods"].values() if one["latent_length"]]
    lengths = " or ".join(sorted({str(one["latent_length"]) for one in latent}))
    places = " or ".join(sorted({f"`{one['placement']}`" for one in latent}))
    return (
        f"The {lengths} latent steps sit in a place of their own ({places}, see [placement](decisions/placement.md))."
    )


def missing(report: Report) -> list[str]:
    """Say which cells are missing."""
    absent: dict[str, dict[str, list[int]]] = {}
    for cell in report["missing"]:
        seeds = absent.setdefault(cell["method"], {}).setdefault(cell["family"], [])
        seeds += [cell["seed"]] if cell["seed"] else []
    if not absent:
        return []
    told = [
        f"`{method}` ({'; '.join(' '.join([family, *map(str, seeds)]) for family, seeds in of.items())})"
        for method, of in absent.items()
    ]
    whole = f"{len(report['missing'])} of {report['cells']} cells are missing"
    return [f"**{whole}**, by family and seed: {', '.join(told)}. What follows is of the others.", ""]


def methods(report: Report) -> Iterator[str]:
    """Say what each method is."""
    for name, one in report["settings"]["methods"].items():
        if name in report["methods"]:
            knobs = f" (tau {one['tau']:g}, {one['draws']} draws)" if one["latent_length"] else ""
            yield f"- `{name}`: {ABOUT.get(name, name)}{knobs}."


def cells(report: Report) -> Iterator[tuple[str, str, Mapping[str, Any]]]:
    """Go through families, the mean last, and methods; what is missing is left out."""
    for family in shown_of(report["families"]):
        for name, found in report["methods"].items():
            if found.get(family):
                yield family, name, found[family]


def speed(report: Report) -> Iterator[str]:
    """Write the rows on how quickly it learns."""
    for family, name, cell in cells(report):
        gap = points(cell["area minus grpo"]) if "area minus grpo" in cell else "-"
        curve = report["curves"][name].get(family)
        spent = ["-"] * 4
        if curve:
            parts = [sum(one[f"{part}_seconds"] for one in curve) / len(curve) for part in ("answering", "learning")]
            spent = [percent(curve[0]["reward"]), percent(curve[-1]["reward"]), *(f"{one:.0f}" for one in parts)]
        seeds = ", ".join(map(str, cell["seeds"]))
        yield f"| {family} | {name} | {seeds} | {percent(cell['area'])} | {gap} | {' | '.join(spent)} |"


def learned(report: Report) -> Iterator[str]:
    """Write the rows on what was learned."""
    for family, name, cell in cells(report):
        for measure in MEASURES:
            gap = cell.get(f"gain in {measure} minus grpo")
            yield f"{row(family, name, measure, cell[f'own {measure}'])} {points(gap) if gap else '-'} |"


def by_tokens(report: Report) -> Iterator[str]:
    """Write the rows on inference without latent steps."""
    for family, name, cell in cells(report):
        for measure in MEASURES:
            if f"token {measure}" in cell:
                yield row(family, name, measure, cell[f"token {measure}"])


def row(family: str, name: str, measure: str, found: Mapping[str, Any]) -> str:
    """Write what was measured before and after."""
    shares = f"{percent(found['before'])} | {percent(found['after'])}"
    return f"| {family} | {name} | {measure} | {shares} | {points(found['gain'])} |"


def rollouts(report: Report) -> Iterator[str]:
    """Write the rows on what the batches were."""
    for name, curves in report["curves"].items():
        for family, curve in curves.items():
            first, last = curve[0], curve[-1]
            moved = [one["kl"] for one in curve if "kl" in one]
            yield (
                f"| {family} | {name} | {first['distinct_answers']:.2f} | {last['distinct_answers']:.2f} | "
                f"{percent(first['signal_share'])} | {percent(last['signal_share'])} | "
                f"{first['latent_entropy']:.3f} | {last['latent_entropy']:.3f} | {last['effective_support']:.2f} | "
                f"{first['mean_tokens']:.1f} | {last['mean_tokens']:.1f} | "
                f"{f'{sum(moved) / len(moved):.4f}' if moved else '-'} |"
            )


def percent(value: float) -> str:
    """Write a share."""
    return f"{100 * value:.1f}%"
