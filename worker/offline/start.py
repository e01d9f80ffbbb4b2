"""How a run of `lepo train` begins: afresh from what was asked, or from the newest checkpoint of its directory."""

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from app.errors import BadRequest, Conflict
from app.models.host import free
from app.models.learning import words
from training.distributed.ranks import Ranks
from training.distributed.sharded import Sharded
from training.models.checkpoint import load_training_state
from training.models.lora import Adapted, LoraSettings
from training.models.policy import Policy
from training.tasks.splits import Split
from training.update import Learner
from worker.offline.foresight import foresee
from worker.offline.models import open_model
from worker.offline.problem_set import ProblemSet, split
from worker.offline.processes import told_once
from worker.offline.recipe import Recipe
from worker.offline.run_directory import Place, RunDirectory
from worker.offline.sources import read_source, require_apart, told
from worker.offline.train import Around, Training, asking_of, update_config


@dataclass(frozen=True, slots=True)
class Asked:
    """What a run is asked to do; kept in its directory."""

    data: str  # see `sources`
    validation: str | None  # likewise; None: a part of the data is set aside
    model: str  # 'demo', 'smollm2', a directory, a GGUF file or a hub name
    recipe: Recipe


def begin(asked: Asked, directory: Path, around: Around) -> Training:
    """Begin a run.

    Raises:
        BadRequest: the data or the model cannot be read, the two sets meet, or a setting is out of its range.
        Conflict: the directory is in use.

    """
    with told_once(around.ranks):
        problem_set = read_lessons(asked)
        updates = updates_of(asked.recipe, problem_set)
        with told():
            update_config(asked.recipe, updates)
            asking_of(asked.recipe, asked.recipe.group)
        foresee(asked.model, asked.recipe, longest_prompt(problem_set), around)
        policy = open_model(asked.model, version=0, dtype=asked.recipe.dtype, device=around.device)
    run_directory = RunDirectory(directory)
    with told_once(around.ranks):
        if around.ranks.leads:
            run_directory.begin({**asdict(asked), "lessons": problem_set.digest})
    return assembled(asked, problem_set, policy, run_directory, around)


def assembled(
    asked: Asked, problem_set: ProblemSet, policy: Policy, run_directory: RunDirectory, around: Around
) -> Training:
    """Put a run together that has taken no update.

    Raises:
        BadRequest: the model cannot be learned from as the recipe wants.

    """
    updates = updates_of(asked.recipe, problem_set)
    with told_once(around.ranks):
        twin = twin_of(asked, policy, around.ranks)
        learner = learner_of(asked, policy if twin is None else twin, updates, around)
    return Training(asked.recipe, updates, problem_set, policy, learner, run_directory, Place(), around, twin)


def resume(directory: Path, around: Around) -> Training:
    """Go on with a run where its newest checkpoint was saved.

    Raises:
        BadRequest: there is no run in the directory, or its data or model cannot be read any more.
        Conflict: the data is not what the run began with.

    """
    run_directory = RunDirectory(directory)
    with told_once(around.ranks):
        found = run_directory.asked()
        asked = asked_again(found)
        problem_set = read_lessons(asked)
        if problem_set.digest != found["lessons"]:
            raise Conflict(f"{asked.data} is not what this run began with: restore the file, or start afresh")
    updates = updates_of(asked.recipe, problem_set)
    newest = around.ranks.first(run_directory.newest() if around.ranks.leads else None)
    source, place = (str(newest[0]), newest[1]) if newest else (asked.model, Place())
    if around.ranks.leads:
        run_directory.forget_after(place.step if newest else -1)
    begun = asked.model if asked.recipe.lora_rank else source  # adapters go on from the first weights
    with told_once(around.ranks):
        foresee(begun, asked.recipe, longest_prompt(problem_set), around)
        policy = open_model(begun, version=place.step, dtype=asked.recipe.dtype, device=around.device)
        twin = twin_of(asked, policy, around.ranks)
        if isinstance(twin, Adapted) and newest:
            with told():
                twin.load(newest[0])
        learner = learner_of(asked, policy if twin is None else twin, updates, around)
    state = load_training_state(Path(source)) if newest else {}
    if state and int(state["updates"]):
        learner.restore(state)
    return Training(asked.recipe, updates, problem_set, policy, learner, run_directory, place, around, twin)


def asked_again(found: Mapping[str, Any]) -> Asked:
    """Read what `begin` wrote.

    Raises:
        BadRequest: another release wrote it.

    """
    try:
        return Asked(found["data"], found["validation"], found["model"], Recipe(**found["recipe"]))
    except (KeyError, TypeError, ValueError) as error:
        raise BadRequest(f"the run was begun by another release ({error}): start afresh") from error


def read_lessons(asked: Asked) -> ProblemSet:
    """Read both sets, and refuse them where they meet."""
    problems = read_source(asked.data)
    if asked.validation is None:
        return split(problems, asked.recipe.seed)
    validation = read_source(asked.validation, Split.VALIDATION)
    require_apart(problems, validation, asked.validation)
    return ProblemSet(tuple(problems), tuple(validation))


def updates_of(recipe: Recipe, problem_set: ProblemSet) -> int:
    """Count the updates in all: those asked for, or one pass over the data."""
    return recipe.updates or math.ceil(len(problem_set.train) / recipe.prompts)


def longest_prompt(problem_set: ProblemSet) -> int:
    """Count the characters of the longest prompt."""
    return max(len(problem.prompt) for problem in (*problem_set.train, *problem_set.validation))


def twin_of(asked: Asked, policy: Policy, ranks: Ranks) -> Adapted | Sharded | None:
    """Make the twin that learns in the policy's place, if there is to be one: with adapters, or sharded.

    Adapters are few: with several processes each has them all, and only the work is shared.

    Raises:
        BadRequest: a setting is out of its range, peft is missing, or the model cannot be sharded.

    """
    recipe = asked.recipe
    with told():
        if recipe.lora_rank:
            return Adapted(policy.model, LoraSettings(recipe.lora_rank, recipe.lora_alpha), asked.model, recipe.seed)
        return Sharded(policy.model, ranks) if ranks.size > 1 else None


def learner_of(asked: Asked, learning: Policy | Adapted | Sharded, updates: int, around: Around) -> Learner:
    """Make the learner, with the first model as its reference where the recipe wants one.

    Raises:
        BadRequest: the model cannot be learned from as the recipe wants.

    """
    recipe, reference = asked.recipe, None
    if recipe.kl_beta > 0:
        reference = open_model(asked.model, version=0, dtype=recipe.dtype, device=around.device).model
    with told():
        follower = learning if isinstance(learning, Adapted) else None
        learner = Learner(learning.model, update_config(recipe, updates), reference, around.ranks, follower, free)
    plan = learner.plan(recipe.max_new)
    if around.ranks.size > 1 and around.ranks.leads:  # what one process has of it is known only now
        around.say(f"memory of an update, of each process: {words(plan)}")
    return learner
