"""The data of a run: what is learned from and in which order, what is validated on, and where noise comes from.

All of it follows from the data, the seed and the number of the update, so a resumed run needs nothing but that number.
"""

import hashlib
import json
import random
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Final

from app.errors import BadRequest
from app.held_out_lines import normal
from training.tasks.problem import Problem

VALIDATION_SHARE: Final = 0.1  # of the data, where no validation file is given
VALIDATION_MOST: Final = 200  # problems split off at most
FIRST_SEED: Final = 2**32  # of a run's rollouts; validation's lie below
SEEDS_PER_RUN: Final = 2**48


@dataclass(frozen=True, slots=True)
class ProblemSet:
    """The problems of a run."""

    train: tuple[Problem, ...]
    validation: tuple[Problem, ...]  # never learned from

    @property
    def digest(self) -> str:
        """SHA-256 (hex) of both sets in order: a resumed run must have the same."""
        rows = [[asdict(problem) for problem in part] for part in (self.train, self.validation)]
        return hashlib.sha256(json.dumps(rows, sort_keys=True).encode()).hexdigest()


def split(problems: Iterable[Problem], seed: int) -> ProblemSet:
    """Set a tenth aside, at most 200 problems; a prompt that comes again is dropped, so the two parts never meet.

    Raises:
        BadRequest: fewer than two different prompts.

    """
    once = list({normal(problem.prompt): problem for problem in problems}.values())
    if len(once) < 2:
        raise BadRequest("one problem cannot be both learned from and validated on: give more, or --validation FILE")
    order = shuffled(len(once), f"split/{seed}")
    aside = min(VALIDATION_MOST, max(1, round(VALIDATION_SHARE * len(once))))
    return ProblemSet(tuple(once[i] for i in sorted(order[aside:])), tuple(once[i] for i in sorted(order[:aside])))


def batch(problems: Sequence[Problem], size: int, update: int, seed: int) -> list[Problem]:
    """Choose the problems of an update (0-based): pass after pass over the data, each in an order of its own."""
    passes: dict[int, list[int]] = {}
    chosen = []
    for position in range(update * size, (update + 1) * size):
        epoch, place = divmod(position, len(problems))
        if epoch not in passes:
            passes[epoch] = shuffled(len(problems), f"pass/{seed}/{epoch}")
        chosen.append(problems[passes[epoch][place]])
    return chosen


def noise_seeds(size: int, update: int, seed: int) -> list[int]:
    """Give the seed of each problem's rollouts in an update; no two updates of a run share one."""
    first = FIRST_SEED + seed * SEEDS_PER_RUN + update * size
    return list(range(first, first + size))


def shuffled(count: int, name: str) -> list[int]:
    """Return 0 to `count` - 1 in an order that only the name decides."""
    order = list(range(count))
    random.Random(name).shuffle(order)  # noqa: S311  an order, not a secret
    return order
