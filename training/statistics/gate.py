"""The held-out gate: may a new policy replace the one that serves, by what both and their forebears answered.

A candidate must not be worse than the incumbent, than the base, or than the best version so far (one that is shown to
be better than the incumbent). Compared is everything that was ever asked of the lineage (`training.statistics.levels`),
so losses that are each too small to be seen add up. Refused is who is shown to be worse; passed is who is shown to be
at most the margin worse; in between more is asked. Once the budget is spent, who is in between passes if the estimate
is above a part of the margin.

Who bears the burden of proof depends on the incumbent. While it holds its level, the candidate has the benefit of the
doubt: what a lineage has proven is what it is likely to go on doing. Once the incumbent itself looks worse than the
base or the best, a candidate has to prove that it is not, for this is how small losses get through.

What serves is held to the same bar: where it is shown to be worse than the base or the best, that version is named, so
that it may serve again; else every candidate as good as the incumbent would be refused for ever.

Each bound holds at all looks within one examination at once (normal mixtures: Robbins, 1970; with estimated
variances: Waudby-Smith, Arbour, Sinha, Kennedy and Ramdas, arXiv:2103.06476), so more may be asked while it is
undecided. Leaves out how prompts are asked and graded.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Literal

from training.statistics.levels import Levels, Measured

Decision = Literal["pass", "refuse", "undecided"]
Role = Literal["incumbent", "base", "best"]

RELAXED: Final = 0.1  # chance of passing a candidate worse than the margin, while the incumbent holds its level
STRICT: Final = 0.01  # the same, once the incumbent has not
BEHIND: Final = 0.25  # shares of the margin: an incumbent this far below base or best has not held its level,
DOUBT: Final = 0.5  # and a fall that passes when the budget is spent
STRICT_DOUBT: Final = 0.4  # the same, once the incumbent has not held its level
SHOWN: Final = 2.0  # standard errors by which a forebear must be above the incumbent to be the best so far


@dataclass(frozen=True, slots=True)
class Comparison:
    """A candidate beside one of its forebears."""

    role: Role
    version: int  # the forebear's
    difference: float  # candidate minus forebear, mean outcome
    error: float  # standard error of it
    low: float  # it is above this, with the confidence a pass asks for at every look
    high: float  # it is below this, with the confidence a refusal asks for


@dataclass(frozen=True, slots=True)
class Judgement:
    """The gate's decision and the figures it rests on."""

    decision: Decision
    comparisons: tuple[Comparison, ...]  # incumbent, base, best; those there are, each version once
    behind: bool  # whether the incumbent itself looks worse than the base or the best
    better: int | None = None  # the best, else the base, where the incumbent is shown to be worse than it


def judge(
    measured: Sequence[Measured],
    candidate: int,
    incumbent: int,
    base: int | None,
    *,
    margin: float,
    alpha: float = 0.02,
    final: bool = False,
) -> Judgement:
    """Judge a candidate by all that was measured, as far as it was asked.

    Args:
        measured: of every round; candidate and incumbent are in the last.
        candidate: version that would replace the incumbent.
        incumbent: version that serves.
        base: the first version; None where it was never asked these questions.
        margin: fall of the mean outcome that is taken as none, in (0, 1).
        alpha: chance of refusing a candidate that is as good as its forebears, in (0, 1).
        final: the budget is spent, so in between must become pass or refuse.

    Raises:
        ValueError: an argument is out of range.

    """
    if not 0.0 < margin < 1.0 or not 0.0 < alpha < 1.0:
        raise ValueError(f"margin and alpha must be in (0, 1), got {margin} and {alpha}")
    levels = Levels(measured)
    references = references_of(levels, candidate, incumbent, base)
    behind = any(
        levels.difference(incumbent, version).estimate < -BEHIND * margin
        for version in references.values()
        if version != incumbent
    )
    burden = STRICT if behind else RELAXED
    comparisons = []
    for role, version in references.items():
        found = levels.difference(candidate, version)
        low = found.estimate - reach(found.error, burden, margin)
        high = found.estimate + reach(found.error, alpha, margin)
        comparisons.append(Comparison(role, version, found.estimate, found.error, low, high))
    decision: Decision = "undecided"
    if any(one.high < 0.0 for one in comparisons):
        decision = "refuse"
    elif all(one.low > -margin for one in comparisons):
        decision = "pass"
    elif final:
        doubt = (STRICT_DOUBT if behind else DOUBT) * margin
        decision = "pass" if all(one.difference > -doubt for one in comparisons) else "refuse"
    return Judgement(decision, tuple(comparisons), behind, better_than(levels, incumbent, references, alpha, margin))


def better_than(
    levels: Levels, incumbent: int, references: Mapping[Role, int], alpha: float, margin: float
) -> int | None:
    """Find a forebear that what serves would be refused beside, were it a candidate: the best first, then the base."""
    for role in ("best", "base"):
        if (version := references.get(role)) is not None:
            found = levels.difference(incumbent, version)
            if found.estimate + reach(found.error, alpha, margin) < 0.0:
                return version
    return None


def references_of(levels: Levels, candidate: int, incumbent: int, base: int | None) -> dict[Role, int]:
    """Find whom a candidate must not fall behind; each version is named once."""
    found: dict[Role, int] = {"incumbent": incumbent}
    if base is not None and base != incumbent and base in levels.versions:
        found["base"] = base
    others = [version for version in levels.versions if version not in {candidate, *found.values()}]
    lead = {version: levels.difference(version, incumbent) for version in others}
    best = max(others, key=lambda version: lead[version].estimate - SHOWN * lead[version].error, default=None)
    if best is not None and lead[best].estimate > SHOWN * lead[best].error:
        found["best"] = best
    return found


def reach(error: float, alpha: float, margin: float) -> float:
    """Half-width of a one-sided bound that holds at every look, tightest where the margin is three standard errors.

    The normal mixture's boundary in units of the estimate; `error` is the standard error at this look.
    """
    if error == 0.0:
        return 0.0
    level = min(2 * alpha, 0.99)
    spread = -2 * math.log(level)
    aim = (3 / margin) ** 2 / (spread + math.log1p(spread) + 1)  # information the bound is tuned to
    information = error**-2
    inside = math.log((information + aim) / (aim * level**2))
    return math.sqrt((information + aim) * inside) / information
