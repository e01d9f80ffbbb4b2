"""The memory of a run, told before its model is loaded; a run that cannot fit is refused, with what would fit.

Answering and learning take turns, and what one took is free for the other. Several processes share a learner between
them, and are not refused. Leaves out how bytes are counted (`app.models.learning`, `app.models.memory`).
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, Final

import torch

from app.decoder.cache import BLOCK, blocks_for
from app.errors import BadRequest
from app.models.host import free
from app.models.learning import USUAL_RANK, Learning, amount, plan_of, words
from app.models.memory import per_position
from app.models.outline import Outline, outline
from app.models.source import present_source
from app.settings import read_settings
from training.memory.footprint import LEAST_POSITIONS, Plan
from training.memory.room import Free
from training.models.policy import placed
from worker.offline.recipe import Recipe
from worker.offline.train import Around

_CHARACTERS: Final = 3  # of a prompt to a token, about
# Changes of a recipe that save memory, those that change least first, and how they are asked for.
_SAVINGS: Final[tuple[Mapping[str, Any], ...]] = (
    {"kl_beta": 0.0},
    {"activation_checkpointing": True},
    {"dtype": "bfloat16"},
    {"lora_rank": USUAL_RANK},
    {"lora_rank": USUAL_RANK, "dtype": "bfloat16"},
    {"lora_rank": USUAL_RANK, "dtype": "bfloat16", "activation_checkpointing": True, "kl_beta": 0.0},
)


def foresee(model: str, recipe: Recipe, characters: int, around: Around, free: Free = free) -> None:
    """Say what a run will take.

    Args:
        model: as `--model` names it; of one that is not here nothing is known before it is loaded.
        recipe: of the run.
        characters: of the longest prompt.
        around: where it runs.
        free: says how many bytes a device has left.

    Raises:
        BadRequest: it cannot fit; the message says what would.

    """
    found, device = _looked_at(model), _device(around.device)
    if found is None or device is None or around.ranks.size > 1:
        return
    where, longest = _Where(found, device, free(device)), recipe.max_new + characters // _CHARACTERS
    around.say(f"memory of an update: {words(where.plan(recipe, longest))}")
    caches = _caches(found, recipe, longest)
    around.say(f"memory of answering: keys and values up to {amount(caches)} (--slots, --max-new)")
    least = where.least(recipe)
    if least.most > where.left:
        fitting = "; ".join(_fitting(where, recipe)) or "a smaller model, or more memory"
        raise BadRequest(f"an update takes more memory than there is ({words(least)}). What would do: {fitting}")


@dataclass(frozen=True, slots=True, eq=False)
class _Where:
    """A model and the device it is to learn on."""

    model: Outline
    device: torch.device
    left: int  # bytes

    def plan(self, recipe: Recipe, longest: int) -> Plan:
        """Plan an update by a recipe, of rollouts of up to so many positions."""
        return plan_of(self.model, learning_by(recipe, longest, self.device), self.left)

    def least(self, recipe: Recipe) -> Plan:
        """Plan for short rollouts, one at a time: what does not fit so does not fit at all."""
        return self.plan(replace(recipe, micro_batch_positions=LEAST_POSITIONS), LEAST_POSITIONS)


def learning_by(recipe: Recipe, longest: int, device: torch.device) -> Learning:
    """Say how a recipe has a model learn; rollouts have up to so many positions.

    An update that a guard refuses is taken back; on an accelerator, copies for it that are in the way go to the host.
    """
    return Learning(
        dtype=recipe.dtype,
        rank=recipe.lora_rank,
        recomputed=recipe.activation_checkpointing,
        reference=recipe.kl_beta > 0,
        undo=device.type == "cpu",
        several=False,
        longest=longest,
        positions=recipe.micro_batch_positions,
    )


def _device(name: str) -> torch.device | None:
    """Find the one device of a run; None: there are several, or loading says what is wrong with it."""
    try:
        where = placed(name)
    except ValueError:
        return None
    return None if where == "balanced" else torch.device(where)


def _looked_at(model: str) -> Outline | None:
    """Look at a model that is here; None: loading it says more."""
    try:
        source = present_source(model, read_settings().var_dir)
        return None if source is None else outline(source, None)
    except ValueError:
        return None


def _caches(found: Outline, recipe: Recipe, longest: int) -> int:
    """Bytes of keys and values if every answer is as long as it may be."""
    if found.anatomy is None:
        return 0
    longest, item = min(longest, found.anatomy.positions or longest), int(getattr(torch, recipe.dtype).itemsize)
    return recipe.slots * blocks_for(longest) * BLOCK * per_position(found.anatomy, item)


def _fitting(where: _Where, recipe: Recipe) -> Iterator[str]:
    """Give the options that make it fit."""
    for saving in _SAVINGS:
        wish = replace(recipe, **saving)
        plan = where.least(wish)
        if wish != recipe and plan.most <= where.left:
            yield f"{_options(saving)} ({amount(plan.most)})"


def _options(saving: Mapping[str, Any]) -> str:
    """Spell a change of a recipe as options of the command."""
    named = {name.replace("_", "-"): value for name, value in saving.items()}
    return " ".join(f"--{name}" if value is True else f"--{name} {value}" for name, value in named.items())
