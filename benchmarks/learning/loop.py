"""One run: a method, a seed, a learning rate; the same loop for every method.

Each update draws fresh problems of every family, answers each G times, grades, and takes one on-policy step. Leaves
out which runs there are and their cache (see `command`).
"""

import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

import torch
from transformers import PreTrainedTokenizerBase

from app.engine.text import decoder
from benchmarks.learning.methods import Candidate, Method
from benchmarks.learning.sampler import Answered, answer, sampling_of, seeded
from benchmarks.learning.step import take_step
from training.bench_model.measurement import ANSWER_BUDGET
from training.bench_model.problems import bench_problems
from training.demo_model.measurement import GRADING_SECONDS, batches_of_one_length
from training.graders.parse import parse_grader
from training.graders.verdict import Graded
from training.loop import Round, one_round
from training.models.head import take_apart
from training.models.policy import Policy
from training.noise import choice_seed
from training.optimization.optimizer import MasterOptimizer, OptimizerConfig
from training.replay import replay
from training.sampling import Sampling
from training.tasks.families import FAMILIES
from training.tasks.problem import Problem
from training.tasks.splits import Split
from training.traces import describe

GROUP = 8  # rollouts per problem, and tries of avg@8 and pass@8


@dataclass(frozen=True, slots=True)
class Budget:
    """What every run may spend."""

    updates: int  # optimizer steps
    problems: int  # per family and update; times GROUP rollouts
    test: int  # test problems per family; 0: no exam
    validation: int = 32  # validation problems per family, for the curve
    look_every: int = 10  # updates between points of the curve


def attempt(
    policy: Policy, problems: Sequence[Problem], method: Method, sampling: Sampling, tries: int, seed: int
) -> tuple[list[list[Answered]], torch.Tensor]:
    """Answer every problem `tries` times and grade; answers by problem, and rewards [problems, tries]."""
    found = sampled(policy, problems, method, sampling, tries, seed)
    marks = [[graded(policy, problem, one) for one in group] for problem, group in zip(problems, found, strict=True)]
    return found, torch.tensor([[mark.value for mark in group] for group in marks])


def sampled(
    policy: Policy, problems: Sequence[Problem], method: Method, sampling: Sampling, tries: int, seed: int
) -> list[list[Answered]]:
    """Answer every problem `tries` times, in batches of one prompt length."""
    tokenizer: PreTrainedTokenizerBase = policy.tokenizer
    found: list[list[Answered]] = [[] for _ in problems]
    for rows in batches_of_one_length(tokenizer, problems, tries):
        seeds = [choice_seed(seed, row.problem * tries + row.attempt) for row in rows]
        for row, one in zip(
            rows,
            answer(policy, [row.prompt_ids for row in rows], method, seeded(sampling, seeds), ANSWER_BUDGET),
            strict=True,
        ):
            found[row.problem].append(one)
    return found


def graded(policy: Policy, problem: Problem, one: Answered) -> Graded:
    """Grade an answer; a grader without a grade would be an error of the bench, never a zero."""
    text = decoder(policy.tokenizer)(one.rollout.token_ids_T.tolist())
    verdict = parse_grader(problem.grader).grade(text, GRADING_SECONDS)
    if not isinstance(verdict, Graded):  # a state, not a type
        raise RuntimeError(  # noqa: TRY004
            f"the grader of {problem.prompt!r} gave no grade: {verdict}"
        )
    return verdict


def run(policy: Policy, base: Policy, candidate: Candidate, seed: int, budget: Budget) -> dict[str, Any]:
    """Train a copy of the base that the caller gives away, and measure it on the test problems.

    Args:
        policy: learns.
        base: the same weights, left as they are; the KL is to it.
        candidate: method and learning rate.
        seed: of problems and noise.
        budget: what may be spent.

    """
    torch.set_num_threads(1)
    started, spent = time.perf_counter(), time.process_time()
    method = candidate.method
    optimizer = MasterOptimizer(policy.model, OptimizerConfig(learning_rate=candidate.rate, weight_decay=0.0))
    pool = [bench_problems(name, Split.TRAIN, budget.updates * budget.problems, seed=seed) for name in FAMILIES]
    watched = [one for name in FAMILIES for one in bench_problems(name, Split.VALIDATION, budget.validation, seed=0)]
    curve, updates = [], []
    for update in range(budget.updates + 1):
        if update % budget.look_every == 0 or update == budget.updates:
            groups, solved = attempt(policy, watched, method, sampling_of(method), GROUP, 11)
            rollouts = update * budget.problems * len(FAMILIES) * GROUP
            curve.append({"rollouts": rollouts, "average": float(solved.mean()), "kl": kl_to(base, policy, groups)})
        if update == budget.updates:
            break
        cut = slice(update * budget.problems, (update + 1) * budget.problems)
        problems = [one for family in pool for one in family[cut]]
        noise = seed * 1_000_003 + update + 1
        done = one_round(
            problems,
            partial(sampled, policy, method=method, sampling=sampling_of(method), tries=GROUP, seed=noise),
            lambda problem, group: [graded(policy, problem, one) for one in group],
            partial(take_step, policy, optimizer, candidate),
        )
        updates.append(_described(done))
    trained_cpu, trained_wall = time.process_time() - spent, time.perf_counter() - started
    return {
        "method": method.name,
        "settings": asdict(candidate),
        "seed": seed,
        "curve": curve,
        "first": updates[0] if updates else {},
        "last": updates[-1] if updates else {},
        "test": examine(policy, method, budget.test) if budget.test else {},
        "cpu_seconds": trained_cpu,
        "wall_seconds": trained_wall,
    }


@torch.no_grad()
def kl_to(base: Policy, policy: Policy, groups: list[list[Answered]]) -> float:
    """Mean exact KL(policy || base) over the executed steps of some answers, nats per step."""
    rollouts = [one.rollout for group in groups for one in group[:1]]
    replayed = replay(take_apart(policy.model), rollouts, reference=take_apart(base.model))
    total = (replayed.latent_kl_BL * replayed.latent_mask_BL).sum() + (
        replayed.token_kl_BT * replayed.token_mask_BT
    ).sum()
    return float(total / (replayed.latent_mask_BL.sum() + replayed.token_mask_BT.sum()))


def _described(done: Round[Answered, Graded, None]) -> dict[str, float]:
    """How much the rollouts of one group differ, and what their latent steps were."""
    groups = [answers for answers, _ in done.groups]
    rewards = torch.tensor([[mark.value for mark in marks] for _, marks in done.groups])
    traces = describe([one.rollout for group in groups for one in group])
    distinct = [len({tuple(one.rollout.token_ids_T.tolist()) for one in group}) for group in groups]
    latents = {
        name: float(value) for name in traces.__slots__ if isinstance(value := getattr(traces, name), int | float)
    }
    return {
        **latents,
        "reward": float(rewards.mean()),
        "reward_std": float(rewards.std(-1).mean()),
        "signal_share": float((rewards.std(-1) > 0).double().mean()),
        "distinct_answers": sum(distinct) / len(distinct),
    }


def examine(policy: Policy, method: Method, size: int) -> dict[str, Any]:
    """Measure on test: per family and inference, greedy and sampled rewards of every problem."""
    found: dict[str, Any] = {}
    own = sampling_of(method)
    for name in FAMILIES:
        problems = bench_problems(name, Split.TEST, size, seed=0)
        found[name] = {}
        for label, length in (("latent", method.latent_length), ("token", 0)):
            if label == "latent" and not length:
                continue
            warm = Sampling(latent_length=length, tau=own.tau, draws=own.draws)
            _, sampled = attempt(policy, problems, method, warm, GROUP, 7)
            _, greedy = attempt(policy, problems, method, Sampling(latent_length=length, temperature=0.0), 1, 7)
            found[name][label] = {"right": sampled.sum(-1).int().tolist(), "greedy": greedy[:, 0].int().tolist()}
        found[name].setdefault("latent", found[name]["token"])
    return found
