"""The page `docs/online.md`: tables of what was measured, every figure from the trials themselves."""

from collections.abc import Mapping, Sequence
from typing import Any, Final

HEAD: Final = """# Learning from live traffic

Written by `lepo bench online`; every figure is from the run named at the end. The whole service (HTTP, Postgres, Redis,
the worker) in a fresh directory per condition, users with a key each, one answer per question, one grade per answer, no
groups. The demo model on chained arithmetic; the exam asks problems nobody learns from, over HTTP, with the same seeds.

"Clean": every answer is graded at once and truly. "Noisy": grades come late (exponential, mean 3 s), 30% of answers
are never graded, 10% of grades are flipped, one key of twenty praises every wrong answer and blames every right one.
"Flood": the same, and that key asks eight times as often. "Control": clean grades, and the service never learns.

![Accuracy against grades](pictures/online.png)
"""


def write_page(report: Mapping[str, Any]) -> str:
    """Compose the page from a report."""
    trials: Sequence[Mapping[str, Any]] = report["raw"]
    parts = [
        HEAD,
        "## Accuracy",
        table(("condition", "before", "after (95%)", "gain", "grades", "by grades"), map(accuracy_row, trials)),
        "## What the service made of it",
        "What entered a batch, those of refused updates (skipped as `refused`) included.\n",
        table(
            ("condition", "updates", "baselines used", "in batches", "skipped", "stale by versions", "waiting"),
            map(service_row, trials),
        ),
        "## Whose grades",
        "Shares of the answers that entered a batch, from the claims in the database; the cap is `LEPO_KEY_SHARE`.\n",
        table(
            ("condition", "flipped", "never graded", "hostile, of grades", "hostile, of batches", "largest key", "cap"),
            map(share_row, trials),
        ),
        "## Bounds",
        table(("bound", "asked", "measured", "met"), map(bound_row, report["bounds"])),
        conditions_of_the_run(report["settings"], report["machine"]),
    ]
    return "\n".join(parts)


def conditions_of_the_run(plan: Mapping[str, Any], machine: Mapping[str, Any]) -> str:
    """Say how the figures came about."""
    return (
        f"\n{plan['grades']} grades wanted per condition, at most {plan['limit_s']:g} s of asking, {plan['problems']} "
        f"problems per exam, seed {plan['seed']}, one run of each condition: no spread over seeds. "
        f"{machine['cores']} cores ({machine['processor']}), {'idle' if machine['alone'] else 'not idle'} when the "
        "report was made.\n"
    )


def table(head: Sequence[str], rows: Any) -> str:
    """Write a Markdown table."""
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    return "\n".join([*lines, *("| " + " | ".join(row) + " |" for row in rows)]) + "\n"


def accuracy_row(trial: Mapping[str, Any]) -> tuple[str, ...]:
    """One condition's exams."""
    first, *_, last = points = trial["points"]
    return (
        f"`{trial['condition']['name']}`: {trial['condition']['about']}",
        f"{first['accuracy']:.1%}",
        f"{last['accuracy']:.1%} ({last['low']:.1%} to {last['high']:.1%})",
        f"{100 * trial['gain']:+.1f} points",
        str(trial["users"]["grades"]),
        ", ".join(f"{point['grades']}: {point['accuracy']:.0%}" for point in points),
    )


def service_row(trial: Mapping[str, Any]) -> tuple[str, ...]:
    """One condition's jobs and claims."""
    service = trial["service"]
    return (
        f"`{trial['condition']['name']}`",
        counts(service["verdicts"]),
        counts(service["baselines"]),
        str(service["in_batches"]),
        counts(service["skipped"]),
        counts(service["staleness"]),
        str(service["waiting"]),
    )


def share_row(trial: Mapping[str, Any]) -> tuple[str, ...]:
    """One condition's graders."""
    users, service = trial["users"], trial["service"]
    grades = max(1, users["grades"])
    return (
        f"`{trial['condition']['name']}`",
        f"{users['flipped'] / grades:.1%}",
        f"{users['unsaid'] / max(1, users['answers']):.1%}",
        f"{users['hostile'] / grades:.1%}",
        f"{service['hostile_share_in_batches']:.1%}",
        f"{service['largest_key_share']:.1%}",
        f"{trial['condition']['key_share']:.0%}",
    )


def bound_row(row: Mapping[str, Any]) -> tuple[str, ...]:
    """One bound."""
    kind = "at least" if "at least" in row else "at most"
    return (f"`{row['key']}`", f"{kind} {row[kind]:g}", f"{row['measured']:.3g}", "yes" if row["met"] else "**no**")


def counts(found: Mapping[str, int]) -> str:
    """Write counts in a cell."""
    return (
        ", ".join(f"{count} {name}" if not name.isdigit() else f"{name}: {count}" for name, count in found.items())
        or "-"
    )
