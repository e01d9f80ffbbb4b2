"""Whether, where and how many latent steps pay on one model and one kind of problem: measured, not assumed.

First every way of answering is looked at as the model is: tokens alone, and each number of latent steps at each place.
Then tokens and the best of the latent ways learn from the same base, on the same problems with the same seeds, and are
asked again. What decides is what they can do after learning, paired by problem. Latent steps cost time, so they are
advised only where their interval lies above 0. The interval is over problems: the luck of one run of learning is not in
it, so another `seed` may say otherwise. Leaves out the command and the file (`app.advice`).
"""

import gc
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from statistics import fmean
from typing import Any, Final

from training.models.policy import Policy
from training.placement import placement_of
from training.statistics.intervals import bootstrap_interval
from training.tasks.problem import Problem
from worker.offline.answers import PlacementWish
from worker.offline.evaluate import evaluate
from worker.offline.models import open_model
from worker.offline.problem_set import ProblemSet
from worker.offline.recipe import Recipe
from worker.offline.run_directory import RunDirectory
from worker.offline.scores import Estimate, pass_at_k
from worker.offline.start import Asked, assembled
from worker.offline.train import Around, asking_of

PLACES: Final[tuple[PlacementWish, ...]] = ("preamble", "thinking", "answer")


@dataclass(frozen=True, slots=True)
class Way:
    """A way of answering. Example: `Way(4, "preamble")`."""

    latent_length: int  # 0: tokens alone
    placement: PlacementWish

    @property
    def name(self) -> str:
        """Say it in words."""
        return f"{self.latent_length} latent steps, {self.placement}" if self.latent_length else "tokens alone"

    def recipe(self, recipe: Recipe) -> Recipe:
        """Answer and learn this way; `max_new` of the given recipe is what is left for tokens."""
        length = self.latent_length
        return replace(recipe, latent_length=length, placement=self.placement, max_new=recipe.max_new + length)


TOKENS: Final = Way(0, "answer")


@dataclass(frozen=True, slots=True)
class Look:
    """How the test problems were answered."""

    average: Estimate  # share of right answers, mean over problems
    passed: Estimate  # share of problems with a right answer among k
    shares: tuple[float, ...]  # share of right answers of every problem
    seconds: float  # per answer


@dataclass(frozen=True, slots=True)
class Learned:
    """A way before and after learning."""

    way: Way
    before: Look
    rewards: tuple[float, ...]  # mean reward of every update's batch, on problems that were never asked before
    after: Look
    seconds: float  # per update


@dataclass(frozen=True, slots=True)
class Findings:
    """All that was measured."""

    looks: Mapping[Way, Look]  # before any learning
    tokens: Learned | None  # None: nothing was to learn
    latents: Learned | None
    difference: tuple[float, float, float]  # latents minus tokens, avg@k, with its 95% interval; after learning if any

    @property
    def best(self) -> Way:
        """The way of latent steps that does best before learning, the first of equals."""
        return best_of(self.looks)

    @property
    def advised(self) -> Way:
        """What to take: latent steps where they are better beyond chance, else tokens."""
        return self.best if self.difference[1] > 0 else TOKENS

    @property
    def words(self) -> str:
        """Say what was found."""
        when = "before learning" if self.tokens is None else f"after {len(self.tokens.rewards)} updates, one run each"
        value, low, high = (100 * one for one in self.difference)
        found = f"{self.best.name} against tokens alone, {when}: {value:+.1f} points ({low:+.1f} to {high:+.1f})"
        if low > 0:
            return f"{found}: they pay"
        if high < 0:
            return f"{found}: they cost, answer by tokens"
        return f"{found}: no difference was seen, and tokens are quicker"


@dataclass(frozen=True, slots=True)
class Plan:
    """What is measured, and how much of it."""

    model: str
    data: str  # named in what is kept
    ways: tuple[Way, ...]  # of latent steps
    recipe: Recipe  # `max_new` counts tokens alone
    updates: int  # 0: only look
    k: int  # answers per test problem


def best_of(looks: Mapping[Way, Look]) -> Way:
    """Choose among ways of latent steps by their average."""
    return max((way for way in looks if way.latent_length), key=lambda way: looks[way].average.value)


def ways_of(policy: Policy, lengths: Sequence[int], places: Sequence[PlacementWish]) -> tuple[Way, ...]:
    """Name the ways of latent steps that a model has a place for."""
    return tuple(Way(length, place) for place in places if has_place(policy, place) for length in lengths)


def has_place(policy: Policy, place: PlacementWish) -> bool:
    """Whether a model's template has such a place; a preamble without a chat template would be a second answer."""
    if place == "preamble":
        return bool(policy.tokenizer.chat_template)
    try:
        placement_of("thinking" if place == "thinking" else "answer", policy.tokenizer)
    except ValueError:
        return False
    return True


def advise(plan: Plan, problem_set: ProblemSet, around: Around) -> Findings:
    """Look, learn, look again.

    Args:
        plan: what to measure.
        problem_set: what is learned from, and what is asked (its `validation`).
        around: where it runs and who watches; `record` is told every update's figures.

    Raises:
        BadRequest: a problem does not fit the model, or it cannot be learned from.

    """
    policy = opened(plan, around)
    looks = {way: look(plan, policy, way, problem_set.validation, around) for way in (TOKENS, *plan.ways)}
    del policy
    best, learned = best_of(looks), []
    if plan.updates:
        for way in (TOKENS, best):
            gc.collect()  # an update leaves cycles that hold its weights
            learned.append(learn(plan, way, looks[way], problem_set, around))
    tokens, latents = learned or (None, None)
    ends = [one.after.shares for one in learned] or [looks[TOKENS].shares, looks[best].shares]
    apart = [latent - token for token, latent in zip(*ends, strict=True)]
    return Findings(looks, tokens, latents, (fmean(apart), *bootstrap_interval(apart)))


def look(plan: Plan, policy: Policy, way: Way, problems: Sequence[Problem], around: Around) -> Look:
    """Ask the test problems; the noise belongs to them, so it is the same for every way that draws alike."""
    recipe, done, started = way.recipe(plan.recipe), 0, time.perf_counter()
    total = len(problems) * plan.k

    def progress(more: int) -> None:
        nonlocal done
        done += more
        around.tell(f"asking, {way.name}:", done, total)

    asking, deadline_s = asking_of(recipe, plan.k), recipe.grader_timeout
    records = evaluate(policy, problems, asking, greedy=False, deadline_s=deadline_s, progress=progress)
    rights = [[mark.right for mark in one.marked.sampled] for one in records]
    shares = tuple(sum(one) / len(one) for one in rights)
    passed = [pass_at_k(sum(one), len(one), len(one)) for one in rights]
    return Look(estimate(shares), estimate(passed), shares, (time.perf_counter() - started) / total)


def learn(plan: Plan, way: Way, before: Look, problem_set: ProblemSet, around: Around) -> Learned:
    """Let a copy of the base learn one way of answering, and ask again."""
    rewards: list[float] = []

    def record(step: int, figures: Mapping[str, Any]) -> None:
        rewards.append(figures["reward"] or 0.0)
        around.record(step, {"way": way.name, **figures})

    asked = Asked(plan.data, None, plan.model, replace(way.recipe(plan.recipe), updates=plan.updates))
    policy, started = opened(plan, around), time.perf_counter()
    nowhere = RunDirectory(Path())  # updates are taken one by one, so nothing is saved
    training = assembled(asked, problem_set, policy, nowhere, replace(around, record=record))
    for _ in range(plan.updates):
        training.update()
    seconds = (time.perf_counter() - started) / plan.updates
    after = look(plan, training.policy, way, problem_set.validation, around)
    return Learned(way, before, tuple(rewards), after, seconds)


def opened(plan: Plan, around: Around) -> Policy:
    """Load the base."""
    return open_model(plan.model, version=0, dtype=plan.recipe.dtype, device=around.device)


def estimate(values: Sequence[float]) -> Estimate:
    """Give a mean over problems with its 95% interval."""
    return Estimate(fmean(values), *bootstrap_interval(values), len(values))


def settings_of(plan: Plan, way: Way) -> dict[str, Any]:
    """Name the service's settings that answer this way."""
    found: dict[str, Any] = {"latent_length": way.latent_length}
    if way.latent_length:
        found |= {"latent_placement": way.placement, "latent_tau": plan.recipe.tau, "latent_draws": plan.recipe.draws}
    return found


def as_json(plan: Plan, findings: Findings) -> dict[str, Any]:
    """Write findings as plain JSON."""

    def shown(one: Look) -> dict[str, Any]:
        return {"avg": asdict(one.average), "pass": asdict(one.passed), "seconds_per_answer": one.seconds}

    def grown(one: Learned | None) -> dict[str, Any] | None:
        if one is None:
            return None
        return {
            "way": one.way.name,
            "rewards": list(one.rewards),
            "after": shown(one.after),
            "gain": one.after.average.value - one.before.average.value,
            "seconds_per_update": one.seconds,
        }

    value, low, high = findings.difference
    return {
        "model": plan.model,
        "data": plan.data,
        "k": plan.k,
        "before": {way.name: shown(one) for way, one in findings.looks.items()},
        "tokens": grown(findings.tokens),
        "latents": grown(findings.latents),
        "difference": {"value": value, "low": low, "high": high},
        "advised": findings.advised.name,
        "settings": settings_of(plan, findings.advised),
        "words": findings.words,
    }
