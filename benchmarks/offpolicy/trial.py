"""One trial: a policy answers, grades come back late, and it learns from whatever has arrived, in one process.

Time is counted in update intervals: in each, one update's worth of groups is answered by the policy as it is, each
group's grades get a lag, and whenever an update's worth has arrived the newest are learned from. When all is asked,
the rest is waited for, so that every trial learns from the same number of answers. Leaves out conditions and figures.
"""

import random
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch

import training.demo_model
from benchmarks.learning.loop import attempt
from benchmarks.learning.methods import Method
from benchmarks.offpolicy.conditions import Condition, Plan
from training.advantage import group_advantages
from training.divergence import Divergence
from training.models.policy import Policy, load_policy
from training.optimization.health import UpdateRejected
from training.optimization.optimizer import OptimizerConfig
from training.rollout import Rollout
from training.sampling import Sampling, Target
from training.tasks.families import generate
from training.tasks.splits import Split
from training.update import Learner, UpdateConfig

FAMILY = "chained_arithmetic"
ASKED = Sampling(latent_length=4, tau=0.5)
METHOD = Method("lepo", ASKED.latent_length, tau=ASKED.tau)
LAGS = (0, 1, 2, 5, 10, 30)  # updates after which a clean trial measures its answers again
TEST_SEED = 7


@dataclass(frozen=True, slots=True, eq=False)
class Group:
    """The answers to one problem, with their advantages."""

    due: int  # update interval in which its grades are there
    version: int  # updates of the policy that drew it
    rollouts: list[Rollout]
    advantages: list[float]


class Trial:
    """One condition with one seed."""

    def __init__(self, condition: Condition, plan: Plan, seed: int) -> None:
        """Load a fresh copy of the demo's model."""
        self.condition, self.plan, self.seed = condition, plan, seed
        weights = Path(training.demo_model.__file__).parent / "weights"
        self.policy = load_policy(weights, version=0, dtype=torch.float32, device="cpu")
        self.learner = Learner(
            self.policy.model,
            UpdateConfig(
                optimizer=OptimizerConfig(learning_rate=plan.rate, beta1=condition.beta1, weight_decay=0.0),
                objective=condition.objective,
                target=Target.of(ASKED),
                probe_rollouts=16,
            ),
        )
        self.rng = random.Random(f"{seed}")  # noqa: S311  a simulation
        self.problems = generate(FAMILY, Split.TRAIN, plan.updates * plan.problems, seed=seed)
        self.held_out = generate(FAMILY, Split.TEST, plan.test, seed=0)
        self.steps: list[dict[str, Any]] = []
        self.skipped = self.refused = 0

    def run(self, tell: Callable[[str], None]) -> dict[str, Any]:
        """Run it.

        Returns:
            the condition, right answers on held-out problems before, along the way and after, the updates, and what
            divergence old answers had; plain JSON.

        """
        torch.set_num_threads(1)
        waiting: list[Group] = []
        curve = [self._look()]
        kept: dict[int, list[Rollout]] = {}
        lagging: dict[int, list[Divergence]] = {lag: [] for lag in LAGS}
        interval = 0
        while interval < self.plan.updates or waiting:
            if interval < self.plan.updates:
                groups = self._answered(interval)
                waiting += groups
                kept[interval] = [rollout for group in groups for rollout in group.rollouts]
                self._measure_again(kept, interval, lagging)
            curve += self._learn(waiting, interval)
            interval += 1
        curve.append(self._look())
        shares = [_share(one, self.plan.tries) for one in curve]
        tell(f"{self.condition.name}, seed {self.seed}: {shares[0]:.1%} to {shares[-1]:.1%}")
        return {
            "condition": asdict(self.condition),
            "seed": self.seed,
            "right_before": curve[0],
            "right_after": curve[-1],
            "curve": shares,
            "updates": self.steps,
            "skipped": self.skipped,
            "refused": self.refused,
            "lags": {str(lag): [asdict(one) for one in found] for lag, found in lagging.items()},
        }

    def _answered(self, interval: int) -> list[Group]:
        """Answer an update's worth of problems, and say when the grades of each will be there."""
        plan = self.plan
        problems = self.problems[interval * plan.problems : (interval + 1) * plan.problems]
        policy = replace(self.policy, version=self.learner.updates)
        answered, rewards = attempt(policy, problems, METHOD, ASKED, plan.choices, self.seed * 1_000_003 + interval)
        return [
            Group(
                interval + self._lag(), policy.version, [one.rollout for one in group], group_advantages(row).tolist()
            )
            for group, row in zip(answered, rewards, strict=True)
        ]

    def _lag(self) -> int:
        return int(self.rng.expovariate(1 / self.condition.lag)) if self.condition.lag else 0

    def _learn(self, waiting: list[Group], interval: int) -> list[list[int]]:
        """Take an update for every update's worth that has arrived, the newest first; returns looks on the way."""
        looks: list[list[int]] = []
        while True:
            there = sorted((one for one in waiting if one.due <= interval), key=lambda one: -one.version)
            last = len(there) == len(waiting) and interval >= self.plan.updates - 1
            if not there or (len(there) < self.plan.problems and not last):
                return looks
            batch = there[: self.plan.problems]
            for one in batch:
                waiting.remove(one)
            self._update(batch)
            if len(self.steps) % self.plan.look_every == 0:
                looks.append(self._look())

    def _update(self, batch: list[Group]) -> None:
        """Measure, leave out what the condition leaves out, and take one update on the rest."""
        version = self.learner.updates
        rollouts = [rollout for group in batch for rollout in group.rollouts]
        advantages = [one for group in batch for one in group.advantages]
        ages = [version - group.version for group in batch for _ in group.rollouts]
        measured = self.learner.measure(rollouts)
        chosen = self._kept(measured, ages)
        self.skipped += len(rollouts) - len(chosen)
        figures: dict[str, Any] = {
            "age": sum(ages) / len(ages),
            "nats": sum(one.nats for one in measured) / len(measured),
            "weight": sum(one.weight for one in measured) / len(measured),
            "learned": len(chosen),
        }
        self.steps.append(figures)
        if not chosen:
            return
        try:
            report = self.learner.update([rollouts[one] for one in chosen], [advantages[one] for one in chosen])
        except UpdateRejected as refused:
            self.refused += 1
            figures["refused"] = refused.diagnosis
            return
        figures |= {"norm": report.gradient_norm, "kl": report.kl, **asdict(report.objective)}

    def _kept(self, measured: list[Divergence], ages: list[int]) -> list[int]:
        """Find the answers that the condition does not leave out."""
        most = self.condition.most_versions
        return [
            index
            for index, one in enumerate(measured)
            if one.nats <= self.condition.bound and (most is None or ages[index] <= most)
        ]

    def _measure_again(
        self, kept: dict[int, list[Rollout]], interval: int, lagging: dict[int, list[Divergence]]
    ) -> None:
        """Without lag an interval is an update: measure what was answered so and so many updates ago."""
        if self.condition.lag:
            return
        for lag in LAGS:
            if interval - lag in kept:
                lagging[lag] += self.learner.measure(kept[interval - lag][:: self.plan.choices])

    def _look(self) -> list[int]:
        """Right answers to each held-out problem, with the same noise each time."""
        policy: Policy = replace(self.policy, version=self.learner.updates)
        _, rewards = attempt(policy, self.held_out, METHOD, ASKED, self.plan.tries, TEST_SEED)
        return [int(one) for one in rewards.sum(-1).tolist()]


def _share(right: list[int], tries: int) -> float:
    """Share of right answers."""
    return sum(right) / (len(right) * tries)
