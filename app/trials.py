"""What the live grades of a trial show by now, and what should be done about it: pure judgement, nothing is changed.

Every value is a response's mean reward; the values of two policies become differences, and the differences a test that
stays valid however often it is looked at (`training.statistics.sequential`). Used by the worker, which acts
(`worker.trial`), and by the route that shows an operator how a trial stands. Leaves out where values come from
(`app.store.trials`).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Literal

from sqlalchemy.orm import Session

from app.settings import Settings
from app.store import trials
from app.store.trials import Rules, Trial, Value
from training.statistics.sequential import ConfidenceSequence, Decision, decide, differences_of

Stage = Literal["shadow", "canary", "promote"]
Step = Literal["canary", "promote", "refuse", "roll_back", "expire", "watched_back"]


@dataclass(frozen=True, slots=True)
class Evidence:
    """What the grades of a trial show by now; rewards are shares of the range of rewards."""

    rewards: tuple[float, ...]  # of the policy on trial, response by response
    rewards_against: tuple[float, ...]  # of the one it is compared with
    differences: tuple[float, ...]  # of the one from the other, pair by pair, each in [-1, 1]
    decision: Decision
    seconds: float  # since the trial's stage began

    def figures(self, alpha: float) -> dict[str, Any]:
        """Sum it up, with an interval of the mean difference: each end holds, at all looks at once, but for `alpha`."""
        low, high = ConfidenceSequence(self.differences, min(2 * alpha, 0.999)).interval()
        return {
            "graded": len(self.rewards),
            "graded_against": len(self.rewards_against),
            "reward": mean(self.rewards),
            "reward_against": mean(self.rewards_against),
            "pairs": len(self.differences),
            "difference": mean(self.differences),
            "low": low,
            "high": high,
            "decision": self.decision,
            "seconds": self.seconds,
        }


@dataclass(frozen=True, slots=True)
class Verdict:
    """What should happen to a policy on trial."""

    step: Step
    words: str  # why, in a sentence


def after_gate(settings: Settings) -> Stage:
    """Say what a candidate goes to that has passed the gate."""
    if settings.shadow_share:
        return "shadow"
    return after_shadow(settings)


def after_shadow(settings: Settings) -> Literal["canary", "promote"]:
    """Say what a policy goes to that has passed its shadow, or needs none."""
    return "canary" if settings.canary_share else "promote"


def under_way(session: Session, settings: Settings) -> list[tuple[Trial, Evidence]]:
    """Read every trial that is under way with what it shows."""
    return [(one, evidence(session, one, settings)) for one in trials.under_way(session, settings.watch_seconds)]


def evidence(session: Session, trial: Trial, settings: Settings) -> Evidence:
    """Read the grades of a trial and test them."""
    rules = Rules(
        settings.trial_graders, settings.reward_low, settings.reward_high, timedelta(seconds=settings.group_grace)
    )
    read = {
        "shadow": trials.shadow_pairs,
        "canary": trials.arrivals,
        "watch": trials.before_and_after,
    }[trial.kind]
    return weigh(read(session, trial, rules), settings, trial.elapsed_s)


def weigh(values: Sequence[Value], settings: Settings, seconds: float) -> Evidence:
    """Test values in the order of their arrival."""
    differences = tuple(differences_of((one.new, one.reward) for one in values))
    return Evidence(
        rewards=tuple(one.reward for one in values if one.new),
        rewards_against=tuple(one.reward for one in values if not one.new),
        differences=differences,
        decision=decide(differences, settings.trial_margin, settings.trial_alpha),
        seconds=seconds,
    )


def mean(values: Sequence[float]) -> float | None:
    """Average; None of nothing."""
    return sum(values) / len(values) if values else None


def verdict(trial: Trial, found: Evidence, settings: Settings) -> Verdict | None:
    """Say what a trial's evidence asks for; None: go on.

    A loss that is shown ends a trial at once, by however few grades. To pass takes `trial_min_grades` of the policy's
    responses and either a test that shows no loss beyond the margin, or the deadline without a loss shown. At the
    deadline with fewer, nothing speaks for the policy: it goes, and the answers it was made from are given back.
    """
    passed, failed = moves_of(trial, settings)
    against, least = f"version {trial.against_version}", settings.trial_min_grades
    late = found.seconds >= settings.canary_deadline
    step: Step | None = None
    words = ""
    if found.decision == "worse":
        step, words = failed, f"worse than {against}"
    elif trial.kind != "watch" and len(found.rewards) >= least:
        if found.decision in {"better", "not_worse"}:
            step, words = passed, f"not worse than {against} by {settings.trial_margin:g} or more"
        elif late:
            step, words = passed, f"its time is over, and no loss against {against} was shown"
    elif trial.kind != "watch" and late:
        step, words = "expire", f"its time is over with {len(found.rewards)} of {least} graded responses"
    if step is None:
        return None
    return Verdict(step, f"{trial.kind}: {words}; {in_words(found, settings)}")


def moves_of(trial: Trial, settings: Settings) -> tuple[Step, Step]:
    """Say what follows when a trial is passed, and when a loss is shown."""
    if trial.kind == "shadow":
        return after_shadow(settings), "refuse"
    if trial.kind == "canary":
        return "promote", "roll_back"
    return "promote", "watched_back"


def in_words(found: Evidence, settings: Settings) -> str:
    """Write the figures for a person."""
    if not found.differences:
        return f"{len(found.rewards)} graded responses of it, {len(found.rewards_against)} beside it"
    shown = found.figures(settings.trial_alpha)
    return (
        f"mean reward {shown['reward']:.3f} of {shown['graded']}, {shown['reward_against']:.3f} of "
        f"{shown['graded_against']} beside it, difference {shown['difference']:+.3f} "
        f"({shown['low']:+.3f} to {shown['high']:+.3f}) over {shown['pairs']} pairs"
    )


def figures(trial: Trial, found: Evidence, settings: Settings) -> dict[str, Any]:
    """Write what a decision rests on, for the move's row."""
    return {
        "trial": trial.kind,
        "against": trial.against_version,
        **found.figures(settings.trial_alpha),
        "margin": settings.trial_margin,
        "alpha": settings.trial_alpha,
        "graders": settings.trial_graders,
    }
