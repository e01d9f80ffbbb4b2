"""Under which conditions late answers are learned from, and how much is done.

Leaves out running one (`trial`) and what the figures say (`report`).
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import Final, get_args

from training.importance import LatentOffPolicy
from training.objective import ObjectiveConfig

LATE: Final = 10.0  # mean lag of a grade, in update intervals


@dataclass(frozen=True, slots=True)
class Condition:
    """One way of learning."""

    name: str
    about: str  # a line for the report
    lag: float = LATE  # mean of a grade's exponential lag, in update intervals; 0: every grade comes at once
    objective: ObjectiveConfig = field(default_factory=ObjectiveConfig)
    beta1: float = 0.5  # AdamW's momentum
    bound: float = float("inf")  # nats per step above which an answer is left out
    by_group: bool = False  # whether the bound is on the mean of a group, which is left out whole
    most_versions: int | None = None  # versions above which an answer is left out; None: not counted


@dataclass(frozen=True, slots=True)
class Plan:
    """How much one trial does."""

    updates: int = 40  # update intervals with answers; what is late still is learned from afterwards
    problems: int = 16  # per interval, the groups of one update
    choices: int = 8  # answers to each
    test: int = 200  # held-out problems
    tries: int = 2  # answers to each of these
    look_every: int = 10  # updates between two looks at the held-out problems
    rate: float = 3e-4


UNWEIGHTED: Final = ObjectiveConfig(old_logprobs="none")
PUBLISHED: Final = ObjectiveConfig(old_logprobs="recorded", dual_clip=float("inf"))
WHOLE: Final = ObjectiveConfig(off_policy="rollout")
STEPS: Final = ObjectiveConfig(off_policy="step")
HEAVY: Final = 0.9  # the published momentum


def _conditions() -> list[Condition]:
    ways = [
        Condition(f"late-{way}", f"late, each step by itself, latent ones by '{way}'", objective=one)
        for way in get_args(LatentOffPolicy)
        for one in [replace(STEPS, latent_off_policy=way)]
    ]
    weights = [
        Condition(f"late-c{most:g}", f"late, each step by itself, up to {most:g}", objective=one)
        for most in (1.0, 5.0)
        for one in [replace(STEPS, max_weight=most)]
    ]
    return [
        Condition("clean", "grades come at once", lag=0.0),
        Condition("late", "late, rollouts as a whole", objective=WHOLE),
        Condition("late-heavy", "late, rollouts as a whole, momentum 0.9", objective=WHOLE, beta1=HEAVY),
        Condition("late-prefix-heavy", "late, each step by itself, momentum 0.9", objective=STEPS, beta1=HEAVY),
        *ways,
        Condition("clean-heavy", "grades come at once, momentum 0.9", lag=0.0, beta1=HEAVY),
        Condition("late-versions", "late, as before", objective=PUBLISHED, beta1=HEAVY, most_versions=2),
        Condition("late-unweighted", "late, no weights at all", objective=UNWEIGHTED),
        Condition("late-published", "late, PPO's ratio to what drew, latent steps unweighted", objective=PUBLISHED),
        *(Condition(f"late-bound-{one:g}", f"late, answers within {one:g} nats", bound=one) for one in (0.1, 0.3)),
        Condition("late-groups-0.1", "late, groups within 0.1 nats", bound=0.1, by_group=True),
        *weights,
    ]


DEFAULT_CONDITION: Final = "late"
CONDITIONS: Final[Mapping[str, Condition]] = MappingProxyType({one.name: one for one in _conditions()})
