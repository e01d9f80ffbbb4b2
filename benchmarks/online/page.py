"""The page `docs/online.md`: tables of what was measured, every figure from the trials themselves."""

from collections.abc import Mapping, Sequence
from typing import Any, Final

from benchmarks.online.conditions import CANARY_SHARE

HEAD: Final = """# Learning from live traffic

Written by `lepo bench online`; every figure is from the run named at the end. The whole service (HTTP, Postgres, Redis,
the worker) in a fresh directory per condition, users with a key each, one answer per question, one grade per answer, no
groups. The demo model on chained arithmetic; the exam asks problems nobody learns from, over HTTP, with the same seeds.

"Clean": every answer is graded at once and truly. "Noisy": grades come late (exponential, mean 3 s), 30% of answers
are never graded, 10% of grades are flipped, one key of twenty praises every wrong answer and blames every right one.
"Flood": the same, and that key asks eight times as often. "Control": clean grades, and the service never learns.
"Late": grades come ten intervals between two updates late on average (exponential; intervals of `clean-batch` with the
same seed, on a clock that stands during exams). Asking ends by answers there, as many as in `clean-batch`; three mean
delays later whatever has not come never does.

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
        *late_parts([trial for trial in trials if trial["condition"]["manners"]["delay_updates"]]),
        *bad_parts([trial for trial in trials if trial["bad_update"]]),
        conditions_of_the_run(report["settings"], report["machine"]),
    ]
    return "\n".join(parts)


def late_parts(trials: Sequence[Mapping[str, Any]]) -> list[str]:
    """Say how late grades came in; nothing where none did."""
    if not trials:
        return []
    head = ("condition", "mean delay", "asked for", "waited after that", "grades", "that never came", "at rest because")
    return ["## Late grades", table(head, map(late_row, trials))]


def bad_parts(trials: Sequence[Mapping[str, Any]]) -> list[str]:
    """Say what became of bad updates; nothing where there was none."""
    if not trials:
        return []
    head = ("condition", "poison", "reward, and beside it", "its requests", "of all meanwhile", "seconds", "taken back")
    words = (
        "The gate's grader looks at an answer's form alone, users at its substance. After three good updates every "
        "grade says the opposite until an update has begun with such grades; then they are true again, and nobody "
        "interferes: "
        f"a canary of {CANARY_SHARE:.0%} of sessions meets the policy. Requests are counted from its first one on.\n"
    )
    return ["## A bad update", words, table(head, map(bad_row, trials))]


def conditions_of_the_run(settings: Mapping[str, Any], machine: Mapping[str, Any]) -> str:
    """Say how the figures came about."""
    seeds = ", ".join(map(str, settings["seeds"]))
    return (
        f"\n{settings['grades']} grades wanted per condition, at most {settings['limit_s']:g} s of asking, "
        f"{settings['problems']} problems per exam, one run of each condition for each seed ({seeds}). "
        f"{machine['cores']} cores ({machine['processor']}), {'idle' if machine['alone'] else 'not idle'} when the "
        "report was begun.\n"
    )


def table(head: Sequence[str], rows: Any) -> str:
    """Write a Markdown table."""
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    return "\n".join([*lines, *("| " + " | ".join(row) + " |" for row in rows)]) + "\n"


def accuracy_row(trial: Mapping[str, Any]) -> tuple[str, ...]:
    """One condition's exams."""
    first, *_, last = points = trial["points"]
    return (
        f"{name(trial)}: {trial['condition']['about']}",
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
        name(trial),
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
        name(trial),
        f"{users['flipped'] / grades:.1%}",
        f"{users['unsaid'] / max(1, users['answers']):.1%}",
        f"{users['hostile'] / grades:.1%}",
        f"{service['hostile_share_in_batches']:.1%}",
        f"{service['largest_key_share']:.1%}",
        f"{trial['condition']['key_share']:.0%}",
    )


def late_row(trial: Mapping[str, Any]) -> tuple[str, ...]:
    """One condition's late grades."""
    users = trial["users"]
    return (
        name(trial),
        f"{trial['delay_s']:.0f} s",
        f"{trial['asked_s']:.0f} s, {users['answers']} answers",
        f"{trial['waited_for_grades_s']:.0f} s",
        str(users["grades"]),
        str(users["never"]),
        trial["at_rest"],
    )


def bad_row(trial: Mapping[str, Any]) -> tuple[str, ...]:
    """One bad update."""
    bad = trial["bad_update"]
    return (
        name(trial),
        f"{bad['poisoned_share']:.0%} of its answers",
        "-" if bad["reward"] is None else f"{bad['reward']:.2f}, {bad['reward_beside']:.2f}",
        str(bad["requests_of_it"]),
        f"{bad['requests_meanwhile']} ({bad['served_share']:.1%})",
        "-" if bad["seconds"] is None else f"{bad['seconds']:.0f}",
        f"by the service (`{bad['by']}`)" if bad["rolled_back"] else "**no**",
    )


def name(trial: Mapping[str, Any]) -> str:
    """Name a trial in a cell."""
    return f"`{trial['condition']['name']}`, seed {trial['seed']}"


def bound_row(row: Mapping[str, Any]) -> tuple[str, ...]:
    """One bound."""
    kind = "at least" if "at least" in row else "at most"
    return (f"`{row['key']}`", f"{kind} {row[kind]:g}", f"{row['measured']:.3g}", "yes" if row["met"] else "**no**")


def counts(found: Mapping[str, int]) -> str:
    """Write counts in a cell."""
    return (
        ", ".join(f"{count} {what}" if not what.isdigit() else f"{what}: {count}" for what, count in found.items())
        or "-"
    )
