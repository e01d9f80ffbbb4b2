"""The page of tables, in Markdown: a real model first, then the small base.

Leaves out making the reports (`report`), the part on a real model (`real.page`) and the pictures (`picture`).
"""

from collections.abc import Mapping
from typing import Any

from benchmarks.learning.real.page import section
from benchmarks.learning.report import MEASURES


def markdown(real: Mapping[str, Any] | None, small: Mapping[str, Any] | None) -> str:
    """Write the page of the reports there are."""
    lines = ["# LEPO against its rivals", ""]
    for part in ([] if real is None else section(real)), ([] if small is None else small_section(small)):
        lines += [*part, ""] if part else []
    return "\n".join(lines).rstrip() + "\n"


def small_section(report: Mapping[str, Any]) -> list[str]:
    """Write the part on the small base."""
    methods = report["methods"]
    families = list(next(iter(methods.values()))["test"])
    lines = [
        "## The small base",
        "",
        _preamble(report["settings"]),
        "",
        *(f"- {sentence}" for sentence in report["conclusion"]),
        "",
        "![Learning curves, and differences to GRPO](pictures/learning.png)",
        "",
        "### The base, before any learning, by each method's own inference",
        "",
        "A method may start ahead because its inference suits the base: what it learned is the next table minus this.",
        "",
        "| family | method | greedy | avg@8 | pass@8 |",
        "|---|---|---|---|---|",
        *(
            f"| {family} | {name} | {' | '.join(_percent(cells[family][m]) for m in ('greedy', *MEASURES))} |"
            for family in families
            for name, cells in report["base"].items()
        ),
        "",
        "### After learning",
        "",
        "| family | method | inference | greedy | avg@8 | pass@8 | avg@8 minus GRPO | pass@8 minus GRPO |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for family in families:
        for name, result in methods.items():
            for inference, cell in result["test"][family].items():
                shares = " | ".join(_percent(cell[measure]) for measure in ("greedy", *MEASURES))
                gaps = " | ".join(_gap(cell[f"{measure} minus grpo"]) for measure in MEASURES)
                lines.append(f"| {family} | {name} | {inference} | {shares} | {gaps} |")
    lines += ["", "### Rollouts and cost", "", _header(), "|---" * 13 + "|"]
    for name, one in methods.items():
        first, last, end = one["first"], one["last"], one["curve"][-1]
        lines.append(
            f"| {name} | {first['distinct_answers']:.2f} | {last['distinct_answers']:.2f} | "
            f"{first['reward_std']:.3f} | {_percent(first['signal_share'])} | {_percent(last['signal_share'])} | "
            f"{first['latent_entropy']:.3f} | {last['latent_entropy']:.3f} | {last['effective_support']:.2f} | "
            f"{_percent(last['singleton_rate'])} | {end['kl']:.3f} | {last['mean_tokens']:.1f} | "
            f"{one['cpu_seconds']:.0f} |"
        )
    lines += [
        "",
        "### What was tried on validation",
        "",
        "The same number of trials for each; the best of each method was run. Settings not named are the same for all.",
        "",
        "| method | rate | tau | draws | spread | validation avg@8 |",
        "|---|---|---|---|---|---|",
    ]
    lines += [
        f"| {one['method']['name']} | {one['rate']:g} | {one['method']['tau']:g} | {one['method']['draws']} | "
        f"{one['method']['spread']:g} | {_percent(one['validation'])} |"
        for one in report["tuning"]
    ]
    return lines


def _preamble(setup: Mapping[str, Any]) -> str:
    return (
        f"Written by `lepo bench learning --preset {setup['preset']}`: {setup['seeds']} seeds, "
        f"{setup['updates']} updates of {setup['problems']} problems per family, 8 rollouts each, on one mix of all "
        f"families; {setup['test']} test problems per family. Differences are paired, in points, to GRPO with its own "
        "inference, tokens; their 95% intervals resample seeds, then problems within each family. `latent` is the "
        "method's own inference, `token` is the same weights without latent steps."
    )


def _header() -> str:
    names = ("method", "distinct answers of 8, first batch", "last batch", "reward std, first")
    later = (
        "groups with signal, first",
        "last",
        "latent entropy, first",
        "last",
        "effective support",
        "singleton rate",
    )
    costs = ("KL to the base, nats per step", "answer tokens", "CPU s of training")
    return f"| {' | '.join((*names, *later, *costs))} |"


def _percent(value: float) -> str:
    return f"{100 * value:.1f}%"


def _gap(gap: Mapping[str, float]) -> str:
    return f"{100 * gap['mean']:+.1f} [{100 * gap['low']:+.1f}, {100 * gap['high']:+.1f}]"
