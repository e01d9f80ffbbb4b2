"""One cell: a method learns one family from the real base with one seed, and is examined by both inferences.

Answers come from the project's engine, gradients from the learner of `lepo train`. The rewards of the training batches
are a learning curve that costs nothing: each problem is met once. A cell of seed 0 learns nothing: it is the base's
exam, by one way of inference. Leaves out which cells there are and their files (`cells`).
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Final

import torch

from app.engine.request import Finished
from benchmarks.learning.methods import Method
from benchmarks.learning.real.families import Family
from training.health import UpdateRejected
from training.loop import one_round
from training.objective import ObjectiveConfig
from training.optimizer import OptimizerConfig
from training.policy import Policy
from training.sampling import Sampling
from training.tasks.problem import Problem
from training.tasks.splits import Split
from training.update import Learner, UpdateConfig
from worker.offline.answers import Asking, Mark, answer, mark
from worker.offline.models import open_model
from worker.offline.problem_set import noise_seeds

Tell = Callable[[str], None]
GRADING_SECONDS: Final = 10.0
PROBES: Final = 16  # rollouts scored before and after an update, for how far the policy moved
POSITIONS: Final = 1024  # of a micro-batch: what keeps one process below 6 GB
PORTION: Final = 64  # problems of an exam that one engine answers


@dataclass(frozen=True, slots=True)
class Budget:
    """What every cell may spend; the same for all methods.

    Example: `Budget(updates=8, problems=16, test=50)`.
    """

    updates: int  # optimizer steps
    problems: int  # per update, each met once
    test: int  # test problems
    group: int = 8  # answers per problem, of updates and of exams
    tokens: int = 48  # most of an answer; latent steps come on top
    rate: float = 4e-5  # of Adam, constant
    slots: int = 32  # answers decoded together


@dataclass(frozen=True, slots=True)
class Cell:
    """What is run."""

    base: str  # any name that `--model` takes
    method: Method
    family: Family
    seed: int  # of problems and noise; 0: the base's exam
    budget: Budget

    @property
    def of_base(self) -> bool:
        """Whether nothing is learned."""
        return self.seed == 0


def exam_of(base: str, method: Method, family: Family, budget: Budget) -> Cell:
    """Name the base's exam by a method's inference; methods that infer alike share one."""
    inference = replace(method, learns="tokens", latent_scale=1.0, name=inference_of(method))
    asked = replace(budget, updates=0, problems=0)
    return Cell(base, inference, family, 0, asked)


def inference_of(method: Method) -> str:
    """Name how a method infers."""
    if not method.latent_length:
        return "token"
    return f"latent{method.latent_length}-{method.noise}-tau{method.tau:g}-draws{method.draws}-{method.placement}"


def run(cell: Cell, tell: Tell) -> dict[str, Any]:
    """Run a cell; about 5 GB for 135M parameters."""
    torch.set_num_threads(1)
    started, spent = time.perf_counter(), time.process_time()
    policy = open_model(cell.base, version=0, dtype="float32", device="cpu")
    updates = [] if cell.of_base else learned(policy, cell, tell)
    cpu, wall = time.process_time() - spent, time.perf_counter() - started
    return {
        "method": cell.method.name,
        "family": cell.family.name,
        "seed": cell.seed,
        "settings": asdict(cell),
        "updates": updates,
        "cpu_seconds": cpu,  # of learning
        "wall_seconds": wall,
        "test": examine(policy, cell, tell),
    }


def learned(policy: Policy, cell: Cell, tell: Tell) -> list[dict[str, Any]]:
    """Take every update; returns what each was made of."""
    budget = cell.budget
    learner = Learner(policy.model, update_config(cell))
    pool = cell.family.problems(Split.TRAIN, budget.updates * budget.problems, cell.seed)
    made = []
    for update in range(budget.updates):
        part = pool[update * budget.problems : (update + 1) * budget.problems]
        made.append(updated(replace(policy, version=update), learner, cell, part, update))
        tell(f"update {update + 1}/{budget.updates}, reward {made[-1]['reward']:.3f}")
    return made


def updated(policy: Policy, learner: Learner, cell: Cell, problems: Sequence[Problem], update: int) -> dict[str, Any]:
    """Take one on-policy update on problems that were never asked before."""
    seeds = noise_seeds(len(problems), update, cell.seed)
    seconds = {"answering": 0.0, "learning": 0.0}

    def sample(asked: Sequence[Problem]) -> list[list[Finished]]:
        begun = time.process_time()
        answers = answer(policy, asked, asking_of(cell.method, cell.budget), seeds=seeds)
        seconds["answering"] = time.process_time() - begun
        return answers

    def learn(answers: Sequence[Finished], advantages: Sequence[float]) -> dict[str, Any]:
        begun = time.process_time()
        try:
            report = learner.update([one.rollout for one in answers], advantages)
        except UpdateRejected as refused:
            return {"rejected": str(refused)}
        finally:
            seconds["learning"] = time.process_time() - begun
        figures = asdict(report)
        kept = ("kl", "entropy_before", "gradient_norm", "rollouts", "without_signal")
        return {**figures.pop("traces"), **{name: figures[name] for name in kept}}

    done = one_round(
        problems,
        sample,
        lambda problem, answers: mark(problem, [one.text for one in answers], GRADING_SECONDS),
        learn,
    )
    groups = [answers for answers, _ in done.groups]
    marks = [of for _, of in done.groups]
    distinct = [len({one.text for one in group}) for group in groups]
    solved = shares(marks)
    return {
        "answers": sum(map(len, groups)),
        "solved": solved,
        "reward": sum(solved) / len(solved),
        "signal_share": sum(0 < one < 1 for one in solved) / len(solved),
        "distinct_answers": sum(distinct) / len(distinct),
        "cpu_seconds": seconds,
        **(done.learned or {}),
    }


def examine(policy: Policy, cell: Cell, tell: Tell) -> dict[str, list[int]]:
    """Count right answers to each test problem: by the method's own inference, and by tokens alone.

    The noise belongs to the problems, so it is the same before learning and after, and for all methods.
    """
    budget = cell.budget
    problems = cell.family.problems(Split.TEST, budget.test, 0)
    own = asking_of(cell.method, budget)
    found = {"own": right(policy, problems, own, tell)}
    if not cell.method.latent_length:
        found["token"] = found["own"]
    elif not cell.of_base:
        found["token"] = right(policy, problems, replace(own, sampling=Sampling(), max_new=budget.tokens), tell)
    return found


def right(policy: Policy, problems: Sequence[Problem], asking: Asking, tell: Tell) -> list[int]:
    """Count the right answers to each problem."""
    counts: list[int] = []
    for first in range(0, len(problems), PORTION):
        part = problems[first : first + PORTION]
        seeds = range(first, first + len(part))
        for problem, answers in zip(part, answer(policy, part, asking, seeds=seeds), strict=True):
            marks = mark(problem, [one.text for one in answers], GRADING_SECONDS)
            counts.append(round(shares([marks])[0] * len(marks)))
        tell(f"exam {len(counts)}/{len(problems)}")
    return counts


def shares(marks: Sequence[Sequence[Mark]]) -> list[float]:
    """Share of right answers by problem; an answer without a grade would be an error of the bench, never a zero."""
    for one in (one for of in marks for one in of):
        if one.value is None:
            raise RuntimeError(f"a grader gave no grade: {one.detail}")
    return [sum(one.right for one in of) / len(of) for of in marks]


def asking_of(method: Method, budget: Budget) -> Asking:
    """How a method asks.

    Raises:
        ValueError: the engine does not draw latent steps so.

    """
    sampling = Sampling(latent_length=method.latent_length, tau=method.tau, draws=method.draws)
    if method.noise != "gumbel" or method.latent_top_k != sampling.top_k:
        raise ValueError(f"the engine does not draw the latent steps of {method.name}")
    most = method.latent_length + budget.tokens
    return Asking(sampling, most, budget.group, budget.slots, method.placement)


def update_config(cell: Cell) -> UpdateConfig:
    """How every method learns; only what its latent steps teach differs."""
    method = cell.method
    return UpdateConfig(
        optimizer=OptimizerConfig(learning_rate=cell.budget.rate, weight_decay=0.0),
        objective=ObjectiveConfig(
            latent_gradient=method.learns == "soft_label",
            latent_scale=method.latent_scale,
        ),
        micro_batch_positions=POSITIONS,
        probe_rollouts=PROBES,
    )
