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
    beta1: float = 0.9  # AdamW's momentum, as published
    bound: float = float("inf")  # nats per step above which an answer is left out
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
STEPS: Final = ObjectiveConfig(off_policy="step")
LIGHT: Final = 0.5  # less momentum than published


def _conditions() -> list[Condition]:
    wholes = [
        Condition(f"late-{way}", f"as late, latent ratios by '{way}'", objective=ObjectiveConfig(latent_off_policy=way))
        for way in ("density", "omit")
    ]
    steps = [
        Condition(f"steps-{way}", f"late, each step by itself, latent ones by '{way}'", objective=one)
        for way in get_args(LatentOffPolicy)
        for one in [replace(STEPS, latent_off_policy=way)]
    ]
    return [
        Condition("clean", "grades come at once", lag=0.0),
        Condition("late", "late, rollouts weighed as a whole, right ones fully"),
        *steps,
        Condition("late-versions", "late, as before: two versions, PPO's ratio", objective=PUBLISHED, most_versions=2),
        Condition("late-unweighted", "late, no weights at all", objective=UNWEIGHTED),
        Condition("late-bound-0.3", "as late, answers within 0.3 nats per step", bound=0.3),
        *wholes,
        Condition("late-light", "as late, momentum 0.5", beta1=LIGHT),
        Condition("steps-light", "as steps-prefix, momentum 0.5", objective=STEPS, beta1=LIGHT),
        Condition("clean-light", "as clean, momentum 0.5", lag=0.0, beta1=LIGHT),
    ]


DEFAULT_CONDITION: Final = "late"
CONDITIONS: Final[Mapping[str, Condition]] = MappingProxyType({one.name: one for one in _conditions()})
