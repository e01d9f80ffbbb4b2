"""Is it improving: the answer in a sentence, with the figures it rests on. No database, no drawing."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import sqrt
from typing import Any, Literal

from app.api.console.pages.words import percent, points
from app.store.console_overview import Rewards
from app.store.overview import Point
from training.statistics.intervals import wilson

Sense = Literal["better", "worse", "unclear", "unknown"]


@dataclass(frozen=True, slots=True)
class Verdict:
    """Whether what serves is better than what the service began with."""

    sense: Sense
    words: str  # a short answer, such as "Yes"
    because: str  # the figures, in a sentence


def verdict(
    history: Sequence[Point], live: Sequence[Rewards], serving: int | None, gate: Mapping[str, Any] | None
) -> Verdict:
    """Judge by the gate's own comparison with the base model; else by all held-out answers; else by live grades.

    Args:
        history: held-out answers of each version, by version.
        live: rewards of each version, by version.
        serving: the version that serves.
        gate: what the gate measured when it let that version pass.

    """
    if serving is None:
        return Verdict("unknown", "Nothing serves yet", "The first server registers the model that it loads.")
    asked = {one.version: one for one in history}
    base = (gate or {}).get("beside", {}).get("base")
    if serving == 0:
        return Verdict("unknown", "Not yet: the model you brought serves", begun(asked.get(0)))
    if base is not None:
        shares = shares_of(asked.get(base["version"]), asked.get(serving))
        words = f"{points(base['difference'])} against version {base['version']} on held-out questions"
        return judged(base["difference"], base["low"], base["high"], words, shares)
    if 0 in asked and serving in asked:
        first, last = asked[0], asked[serving]
        low, high = difference(first, last)
        words = f"{points(last.accuracy - first.accuracy)} against version 0 on held-out questions"
        return judged(last.accuracy - first.accuracy, low, high, words, shares_of(first, last))
    rewards = {int(one.at): one for one in live}
    if serving in rewards and len(rewards) > 1:
        then, now = min(live, key=lambda one: one.at), rewards[serving]
        half = sqrt((then.high - then.mean) ** 2 + (now.high - now.mean) ** 2)
        shift = now.mean - then.mean
        words = f"{points(shift)} of live reward since version {then.at:.0f}, whose askers may have asked other things"
        return judged(shift, shift - half, shift + half, words, "Held-out questions would say it better: LEPO_HELDOUT.")
    return Verdict("unknown", "Nobody can tell", "Give held-out questions (LEPO_HELDOUT), or grade answers.")


def begun(base: Point | None) -> str:
    """Say where it begins."""
    if base is None:
        return "No update was promoted so far."
    return f"No update was promoted so far; it answers {percent(base.accuracy)} of held-out questions right."


def judged(shift: float, low: float, high: float, words: str, more: str) -> Verdict:
    """Judge by an interval."""
    sense: Sense = "better" if low > 0 else "worse" if high < 0 else "unclear"
    short = {"better": "Yes, it is improving", "worse": "No, it got worse", "unclear": "Not shown yet"}[sense]
    assert low <= shift <= high
    return Verdict(sense, short, f"{words} (95% {points(low)} to {points(high)}). {more}".strip())


def shares_of(first: Point | None, last: Point | None) -> str:
    """Say both shares."""
    if first is None or last is None:
        return ""
    return f"{percent(first.accuracy)} of {first.total} before, {percent(last.accuracy)} of {last.total} now."


def difference(first: Point, last: Point) -> tuple[float, float]:
    """Newcombe's 95% interval of a difference of two shares (Newcombe, 1998, method 10)."""
    low_1, high_1 = wilson(first.correct, first.total)
    low_2, high_2 = wilson(last.correct, last.total)
    shift = last.accuracy - first.accuracy
    below = sqrt((last.accuracy - low_2) ** 2 + (high_1 - first.accuracy) ** 2)
    above = sqrt((high_2 - last.accuracy) ** 2 + (first.accuracy - low_1) ** 2)
    return shift - below, shift + above
