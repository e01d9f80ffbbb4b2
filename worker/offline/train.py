"""The loop of `lepo train`: roll out, grade, learn; validate and save now and then; keep the best.

Several processes each answer and grade a part, put all parts together, and learn from the whole.

Everything an update does follows from the weights, the optimizer's state and its number. So a run that was killed goes
on from its last checkpoint and ends, on a CPU, with the weights of one that was not. Leaves out the command, the data
(`problem_set`) and the directory (`run_directory`).
"""

import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Final, Literal, TypeVar

from app.engine.request import Finished
from training.distributed.ranks import Ranks
from training.distributed.sharded import Sharded
from training.loop import one_round
from training.models.lora import Adapted
from training.models.policy import Policy
from training.objective import ObjectiveConfig, divides_advantages
from training.optimization.health import HealthConfig, UpdateCancelled, UpdateRejected
from training.optimization.optimizer import OptimizerConfig
from training.replay import ReplayConfig
from training.sampling import Sampling
from training.tasks.problem import Problem
from training.update import Learner, UpdateConfig
from worker.offline.answers import Asking, Mark, answer, mark
from worker.offline.evaluate import evaluate
from worker.offline.problem_set import ProblemSet, batch, noise_seeds
from worker.offline.recipe import Recipe
from worker.offline.run_directory import Best, Place, RunDirectory
from worker.offline.scores import Estimate, Marked, score

T = TypeVar("T")
NOTHING_GRADED: Final = {"rejected": "no answer was graded, or all were cut short: look at the graders and at max_new"}
Record = Callable[[int, Mapping[str, Any]], None]  # told (step, figures) after each update and each validation
Tell = Callable[[str, int, int], None]  # what is being done, how much of it, of how much


class Stopped(Exception):
    """The caller asked to stop; what was learned so far is saved."""


@dataclass(frozen=True, slots=True)
class Around:
    """What a run is given from outside: where it runs, with whom, and who watches."""

    device: str  # of this process
    ranks: Ranks  # the processes that run this together
    record: Record
    tell: Tell
    say: Callable[[str], None]  # shown to a person, a line
    stop: threading.Event  # set by whoever wants the run to end with a checkpoint; in one process is enough


@dataclass(slots=True, eq=False)
class Training:
    """One run, at the place it has reached."""

    recipe: Recipe
    updates: int  # in all
    problem_set: ProblemSet
    policy: Policy  # answers, and is saved; its model learns, or follows the one that does
    learner: Learner
    run_directory: RunDirectory  # where checkpoints go
    place: Place
    around: Around
    twin: Adapted | Sharded | None  # learns in the policy's place; None: the policy itself learns

    def run(self) -> Literal["done", "stopped"]:
        """Go on until all updates are done, or `stop` is set; either way what was learned is in the directory."""
        try:
            while True:
                self._validate_and_save()
                if self.place.step >= self.updates:
                    return "done"
                self.update()
        except (Stopped, UpdateCancelled):
            self._save()
            return "stopped"

    def _validate_and_save(self) -> None:
        step = self.place.step
        if step % self.recipe.every and step < self.updates:
            return
        if self.place.validated != step:
            reached = self._validate()
            best = self.place.best
            if best is None or reached.value > best.accuracy:
                best = Best(step, reached.value)
            self.place = replace(self.place, validated=step, best=best)
        self._save()

    def _save(self) -> None:
        """Publish what was learned so far, unless it is in the directory."""
        state = self.learner.state() if self.around.ranks.first(not self.run_directory.holds(self.place.step)) else {}
        if self.around.ranks.leads:
            beside = self.twin.save if isinstance(self.twin, Adapted) else None
            self.run_directory.save(self.policy, state, self.place, beside)

    def _validate(self) -> Estimate:
        """Sample answers to the validation problems, with the same seeds each time, and record the score."""
        asking = asking_of(self.recipe, self.recipe.validation_samples)
        part = self.around.ranks.span(len(self.problem_set.validation))
        problems = self.problem_set.validation[part]
        total, done = len(problems) * asking.choices, 0

        def progress(more: int) -> None:
            nonlocal done
            done += more
            self._tell("validating", done, total)

        def work() -> list[Marked]:
            seeded = replace(asking, sampling=replace(asking.sampling, seed=asking.sampling.seed + part.start))
            deadline_s = self.recipe.grader_timeout
            records = evaluate(self.policy, problems, seeded, greedy=False, deadline_s=deadline_s, progress=progress)
            return [one.marked for one in records]

        whole = score(self._together(work), 1)[0]
        # No grade at all cannot be better than any: it counts as 0 for choosing the best, and is recorded as it is.
        reached = whole.average or Estimate(0.0, 0.0, 1.0, 0)
        self.around.record(
            self.place.step,
            {"kind": "validation", **asdict(reached), "no_grade": whole.no_grade, "failed": whole.failed},
        )
        return reached

    def update(self) -> None:
        """Take one update: answer, grade, compare, learn."""
        step = self.place.step
        recipe = self.recipe.at(step, self.updates)
        part = self.around.ranks.span(recipe.prompts)
        problems = batch(self.problem_set.train, recipe.prompts, step, recipe.seed)[part]
        seeds = noise_seeds(recipe.prompts, step, recipe.seed)[part]
        policy, asking, graded = replace(self.policy, version=step), asking_of(recipe, recipe.group), 0
        total = len(problems) * recipe.group

        def sample(problems: Sequence[Problem]) -> list[list[Finished]]:
            return answer(policy, problems, asking, lambda done: self._tell("answering", done, total), seeds)

        def grade(problem: Problem, answers: Sequence[Finished]) -> list[Mark]:
            nonlocal graded
            self._tell("grading", graded, len(problems))
            graded += 1
            return mark(problem, [one.text for one in answers], recipe.grader_timeout)

        done = one_round(
            problems,
            sample,
            grade,
            self._learn,
            keeps=lambda one: recipe.overlong != "mask" or not one.rollout.truncated,
            divided=divides_advantages(self.learner.config.objective.normalization),
            together=self._together,
        )
        self.place = replace(self.place, step=step + 1)
        figures = graded_figures([marks for _, marks in done.groups])
        self.around.record(step + 1, {"kind": "update", **figures, **(done.learned or NOTHING_GRADED)})

    def _learn(self, answers: Sequence[Finished], advantages: Sequence[float]) -> dict[str, Any]:
        """Take the step; an update that a guard refused leaves the weights."""
        try:
            report = self.learner.update(
                [one.rollout for one in answers],
                advantages,
                progress=lambda done, total: self.around.tell("learning", done, total),
                cancelled=self.around.stop.is_set,  # agreed upon by all processes, which `_tell` is not
            )
        except UpdateRejected as refused:
            return {"rejected": str(refused)}
        if isinstance(self.twin, Sharded):
            self.twin.merge()
        figures = asdict(report)
        return {**figures.pop("objective"), **figures.pop("traces"), **figures}

    def _together(self, work: Callable[[], list[T]]) -> list[T]:
        """Do this process's part, and put all parts together; where one was asked to stop, all stop."""
        part: list[T] | None
        try:
            part = work()
        except Stopped:
            part = None
        parts = self.around.ranks.gathered(part)
        whole = [one for each in parts if each is not None for one in each]
        if None in parts:
            raise Stopped
        return whole

    def _tell(self, what: str, done: int, total: int) -> None:
        if self.around.stop.is_set():
            raise Stopped
        self.around.tell(what, done, total)


def asking_of(recipe: Recipe, choices: int) -> Asking:
    """How the recipe asks.

    Raises:
        ValueError: a value is out of its range.

    """
    sampling = Sampling(
        latent_length=recipe.latent_length,
        tau=recipe.tau,
        temperature=recipe.temperature,
        top_k=recipe.top_k,
        top_p=recipe.top_p,
        draws=recipe.draws,
    )
    around = (recipe.placement, recipe.lead_in, recipe.lead_out)
    return Asking(sampling, recipe.max_new, choices, recipe.slots, *around)  # type: ignore[arg-type]  # words: checked


def update_config(recipe: Recipe, updates: int) -> UpdateConfig:
    """How the recipe learns.

    Raises:
        ValueError: a value is out of its range.

    """
    return UpdateConfig(
        optimizer=OptimizerConfig(
            learning_rate=recipe.learning_rate,
            beta1=recipe.beta1,
            beta2=recipe.beta2,
            weight_decay=recipe.weight_decay,
            warmup_updates=round(recipe.warmup_share * updates),
            decay_updates=updates if recipe.schedule == "cosine" else 0,
            max_grad_norm=recipe.max_grad_norm,
        ),
        objective=ObjectiveConfig(
            beta=recipe.kl_beta,
            clip_low=recipe.clip,
            clip_high=recipe.clip,
            normalization=recipe.normalization,  # type: ignore[arg-type]  # checked by ObjectiveConfig
            max_steps=recipe.max_new,
        ),
        replay=ReplayConfig(latent_temperature=recipe.latent_temperature),  # type: ignore[arg-type]  # likewise
        health=HealthConfig(max_kl=recipe.max_kl),
        micro_batch_positions=recipe.micro_batch_positions,
        activation_checkpointing=recipe.activation_checkpointing,
        seed=recipe.seed,
    )


def graded_figures(marks: Sequence[Sequence[Mark]]) -> dict[str, Any]:
    """Mean reward of what was graded, and how many answers were not."""
    every = [one for given in marks for one in given]
    values = [one.value for one in every if one.value is not None]
    return {
        "reward": sum(values) / len(values) if values else None,
        "answers": len(every),
        "no_grade": sum(one.state == "no_grade" for one in every),
        "failed": sum(one.state == "failed" for one in every),
    }
