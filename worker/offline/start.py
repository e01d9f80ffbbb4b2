"""How a run of `lepo train` begins: afresh from what was asked, or from the newest checkpoint of its directory."""

import math
import threading
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from app.errors import BadRequest, Conflict
from training.checkpoint import load_training_state
from training.lora import Adapted, LoraSettings
from training.policy import Policy
from training.update import Learner
from worker.offline.lessons import Lessons, split
from worker.offline.models import open_model
from worker.offline.recipe import Recipe
from worker.offline.shelf import Place, Shelf
from worker.offline.sources import read_source, require_apart, told
from worker.offline.train import Record, Tell, Training, asking_of, update_config


@dataclass(frozen=True, slots=True)
class Asked:
    """What a run is asked to do; kept in its directory."""

    data: str  # see `sources`
    validation: str | None  # likewise; None: a part of the data is set aside
    model: str  # 'demo', a directory or a hub name
    recipe: Recipe


def begin(asked: Asked, directory: Path, device: str, record: Record, tell: Tell, stop: threading.Event) -> Training:
    """Begin a run.

    Raises:
        BadRequest: the data or the model cannot be read, the two sets meet, or a setting is out of its range.
        Conflict: the directory is in use.

    """
    lessons = read_lessons(asked)
    updates = updates_of(asked.recipe, lessons)
    with told():
        update_config(asked.recipe, updates)
        asking_of(asked.recipe, asked.recipe.group)
    policy = open_model(asked.model, version=0, dtype=asked.recipe.dtype, device=device)
    shelf = Shelf(directory)
    shelf.begin({**asdict(asked), "lessons": lessons.digest})
    adapted = adapted_of(asked, policy)
    learner = learner_of(asked, policy if adapted is None else adapted, updates, device)
    return Training(asked.recipe, updates, lessons, policy, learner, shelf, Place(), record, tell, stop, adapted)


def resume(directory: Path, device: str, record: Record, tell: Tell, stop: threading.Event) -> Training:
    """Go on with a run where its newest checkpoint was saved.

    Raises:
        BadRequest: there is no run in the directory, or its data or model cannot be read any more.
        Conflict: the data is not what the run began with.

    """
    shelf = Shelf(directory)
    found = shelf.asked()
    asked = asked_again(found)
    lessons = read_lessons(asked)
    if lessons.digest != found["lessons"]:
        raise Conflict(f"{asked.data} is not what this run began with: restore the file, or start afresh")
    updates = updates_of(asked.recipe, lessons)
    newest = shelf.newest()
    source, place = (str(newest[0]), newest[1]) if newest else (asked.model, Place())
    shelf.forget_after(place.step if newest else -1)
    begun = asked.model if asked.recipe.lora_rank else source  # adapters go on from the first weights
    policy = open_model(begun, version=place.step, dtype=asked.recipe.dtype, device=device)
    adapted = adapted_of(asked, policy)
    if adapted is not None and newest:
        with told():
            adapted.load(newest[0])
    learner = learner_of(asked, policy if adapted is None else adapted, updates, device)
    state = load_training_state(Path(source)) if newest else {}
    if state and int(state["updates"]):
        learner.restore(state)
    return Training(asked.recipe, updates, lessons, policy, learner, shelf, place, record, tell, stop, adapted)


def asked_again(found: Mapping[str, Any]) -> Asked:
    """Read what `begin` wrote.

    Raises:
        BadRequest: another release wrote it.

    """
    try:
        return Asked(found["data"], found["validation"], found["model"], Recipe(**found["recipe"]))
    except (KeyError, TypeError, ValueError) as error:
        raise BadRequest(f"the run was begun by another release ({error}): start afresh") from error


def read_lessons(asked: Asked) -> Lessons:
    """Read both sets, and refuse them where they meet."""
    problems = read_source(asked.data)
    if asked.validation is None:
        return split(problems, asked.recipe.seed)
    validation = read_source(asked.validation)
    require_apart(problems, validation, asked.validation)
    return Lessons(tuple(problems), tuple(validation))


def updates_of(recipe: Recipe, lessons: Lessons) -> int:
    """Count the updates in all: those asked for, or one pass over the data."""
    return recipe.updates or math.ceil(len(lessons.train) / recipe.prompts)


def adapted_of(asked: Asked, policy: Policy) -> Adapted | None:
    """Make the twin that learns by adapters, if the recipe wants one.

    Raises:
        BadRequest: a setting is out of its range, or peft is missing.

    """
    recipe = asked.recipe
    if not recipe.lora_rank:
        return None
    with told():
        return Adapted(policy.model, LoraSettings(recipe.lora_rank, recipe.lora_alpha), asked.model, recipe.seed)


def learner_of(asked: Asked, learning: Policy | Adapted, updates: int, device: str) -> Learner:
    """Make the learner, with the first model as its reference where the recipe wants one."""
    recipe = asked.recipe
    with_reference = recipe.kl_beta > 0
    reference = open_model(asked.model, version=0, dtype=recipe.dtype, device=device).model if with_reference else None
    return Learner(learning.model, update_config(recipe, updates), reference)
