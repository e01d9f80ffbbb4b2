"""How a method answers and learns on a real model: by the project's engine and learner, or by the bench's own.

The engine draws every method whose latent step is ours, the learner takes those whose loss is. The others are drawn by
the bench's sampler, batches of one prompt length, and take the bench's step. Leaves out grading and what is counted
(`cell`).
"""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Final, Protocol

from app.engine.text import decoder
from benchmarks.learning import sampler
from benchmarks.learning.methods import Candidate, Method
from benchmarks.learning.real.budget import Budget
from benchmarks.learning.sampler import Answered
from benchmarks.learning.step import objective_of, take_step
from training.models.policy import Policy
from training.noise import choice_seed
from training.optimization.health import UpdateRejected
from training.optimization.optimizer import MasterOptimizer, OptimizerConfig
from training.rollout import Rollout
from training.sampling import Sampling
from training.tasks.problem import Problem
from training.traces import describe
from training.update import Learner, UpdateConfig
from worker.offline.answers import Asking, answer, prompt_ids

PROBES: Final = 16  # rollouts scored before and after an update, for how far the policy moved
POSITIONS: Final = 1024  # of a micro-batch: what keeps one process below 6 GB


@dataclass(frozen=True, slots=True, eq=False)
class Said:
    """An answer."""

    rollout: Rollout
    text: str
    answered: Answered | None = None  # what a rival's loss needs besides


class Way(Protocol):
    """How a method answers and learns."""

    def answer(self, policy: Policy, problems: Sequence[Problem], seeds: Sequence[int]) -> list[list[Said]]:
        """Answer each problem as often as the budget says, each with its own seed."""

    def learn(self, policy: Policy, answers: Sequence[Said], advantages: Sequence[float]) -> dict[str, Any]:
        """Take one step; returns what is worth keeping of it."""


def way_of(method: Method, budget: Budget) -> Way:
    """Choose a method's way."""
    return ByEngine(method, budget) if drawn_by_engine(method) else BySampler(method, budget)


def drawn_by_engine(method: Method) -> bool:
    """Whether the engine draws a method's latent steps and the learner has its loss."""
    ours = method.noise == "gumbel" and method.latent_top_k == Sampling().top_k
    return ours and method.learns in {"tokens", "soft_label"}


class ByEngine:
    """The engine and the learner of `lepo train`."""

    def __init__(self, method: Method, budget: Budget) -> None:
        self._method, self._budget = method, budget
        self._learner: Learner | None = None

    def answer(self, policy: Policy, problems: Sequence[Problem], seeds: Sequence[int]) -> list[list[Said]]:
        """Answer by an engine made for the weights as they are."""
        found = answer(policy, problems, asking_of(self._method, self._budget), seeds=seeds)
        return [[Said(one.rollout, one.text) for one in group] for group in found]

    def learn(self, policy: Policy, answers: Sequence[Said], advantages: Sequence[float]) -> dict[str, Any]:
        """Take one step; one that a guard refuses leaves the weights and is told."""
        self._learner = self._learner or Learner(policy.model, self._config())
        try:
            report = asdict(self._learner.update([one.rollout for one in answers], advantages))
        except UpdateRejected as refused:
            return {"rejected": str(refused)}
        kept = ("kl", "entropy_before", "gradient_norm", "rollouts", "without_signal")
        return {**report["traces"], **{name: report[name] for name in kept}}

    def _config(self) -> UpdateConfig:
        return UpdateConfig(
            optimizer=optimizer_of(self._budget),
            objective=objective_of(self._method),
            micro_batch_positions=POSITIONS,
            probe_rollouts=PROBES,
        )


class BySampler:
    """The bench's sampler and step."""

    def __init__(self, method: Method, budget: Budget) -> None:
        self._candidate, self._budget = Candidate(method, budget.rate), budget
        self._optimizer: MasterOptimizer | None = None

    def answer(self, policy: Policy, problems: Sequence[Problem], seeds: Sequence[int]) -> list[list[Said]]:
        """Answer in batches of one prompt length."""
        method, budget = self._candidate.method, self._budget
        found: list[list[Said]] = [[] for _ in problems]
        own = sampler.sampling_of(method)
        for rows in rows_of_one_length(policy, problems, budget):
            settings = [replace(own, seed=choice_seed(seeds[row.problem], row.choice)) for row in rows]
            prompts = [row.prompt_ids for row in rows]
            for row, one in zip(rows, sampler.answer(policy, prompts, method, settings, budget.tokens), strict=True):
                text = decoder(policy.tokenizer)(one.rollout.token_ids_T.tolist())
                found[row.problem].append(Said(one.rollout, text, one))
        return found

    def learn(self, policy: Policy, answers: Sequence[Said], advantages: Sequence[float]) -> dict[str, Any]:
        """Take one step."""
        self._optimizer = self._optimizer or MasterOptimizer(policy.model, optimizer_of(self._budget))
        answered = [one.answered for one in answers if one.answered is not None]
        take_step(policy, self._optimizer, self._candidate, answered, advantages, POSITIONS)
        silent = sum(advantage == 0 for advantage in advantages)
        traces = asdict(describe([one.rollout for one in answers]))
        return {**traces, "rollouts": len(answers), "without_signal": silent}


@dataclass(frozen=True, slots=True)
class Row:
    """One answer to be drawn."""

    problem: int  # index of its problem
    choice: int  # 0-based
    prompt_ids: tuple[int, ...]


def rows_of_one_length(policy: Policy, problems: Sequence[Problem], budget: Budget) -> list[list[Row]]:
    """Lay out batches of one prompt length, none larger than the engine's."""
    alike: dict[int, list[Row]] = defaultdict(list)
    for index, problem in enumerate(problems):
        ids = prompt_ids(policy.tokenizer, problem)
        alike[len(ids)] += [Row(index, choice, ids) for choice in range(budget.group)]
    most = budget.slots
    return [rows[first : first + most] for rows in alike.values() for first in range(0, len(rows), most)]


def asking_of(method: Method, budget: Budget) -> Asking:
    """How a method asks the engine."""
    sampling = Sampling(latent_length=method.latent_length, tau=method.tau, draws=method.draws)
    most = method.latent_length + budget.tokens
    return Asking(sampling, most, budget.group, budget.slots, method.placement)


def optimizer_of(budget: Budget) -> OptimizerConfig:
    """Adam as every method has it."""
    return OptimizerConfig(learning_rate=budget.rate, weight_decay=0.0)
