"""reasoning_gym: a problem of the package reasoning-gym, scored by the package's own scorer.

The spec names the problem by how it is made (dataset, configuration, seed, size, index), as in the package's
`create_dataset(dataset, seed=, size=, **config)[index]`, so whoever has the package can make it again. Scores are those
of the package, partial ones included. Leaves out making problems to learn from (see `training.tasks.gym`) and all that
touches the package (see `child_gym`).
"""

import importlib.util
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

from training.graders.children import Children, children_until_exit
from training.graders.extract import Extraction, read_extraction
from training.graders.math_answer import ask_child
from training.graders.spec import MAX_NAME, SpecFields
from training.graders.verdict import Graded, Verdict

KIND = "reasoning_gym"
PACKAGE = "reasoning_gym"
INSTALL = "pip install 'lepo-service[gym]'"
JUDGES = Path(__file__).with_name("child_gym.py")

MAX_SEED = 2**32 - 1
MAX_SIZE = 1_000_000
DEFAULT_SIZE = 500  # the package's
MAX_KEYS = 40  # of a configuration
MAX_ITEMS = 100  # of a list in one
MAX_TEXT = 100  # characters of a text in one
DATASET = re.compile(r"[a-z0-9_]{1,60}")
DIGEST = re.compile(r"[0-9a-f]{16}")


@cache
def gym_children() -> Children:
    """Return this process's children that know the package; they start when first asked. Ended at exit."""
    return children_until_exit(JUDGES)


def installed() -> bool:
    """Return whether the package is here; it is not imported."""
    return importlib.util.find_spec(PACKAGE) is not None


def gym_version() -> str:
    """Return our version and the package's: either can change a verdict."""
    return f"1+reasoning-gym-{version('reasoning-gym')}"


@dataclass(frozen=True, slots=True)
class Dataset:
    """What the package is asked to make. Example: Dataset("chain_sum", {"min_terms": 3}, 42, 500)."""

    name: str  # one of the package's
    config: Mapping[str, Any]  # the dataset's own keys; those left out are the package's defaults
    seed: int  # 0..MAX_SEED
    size: int  # 1..MAX_SIZE; a few datasets make other entries in another size

    @property
    def named(self) -> dict[str, Any]:
        """The fields by which a spec and a child's request name it."""
        return {"dataset": self.name, "config": dict(self.config), "seed": self.seed, "size": self.size}

    def spec(self, index: int, digest: str, extract: str) -> dict[str, Any]:
        """Write the grader of one entry."""
        return {"type": KIND, **self.named, "index": index, "digest": digest, "extract": extract}


@dataclass(frozen=True, slots=True)
class Gym:
    """Grades what the dataset's scorer says, in [0, 1]."""

    name: str
    dataset: Dataset
    index: int  # of the entry, 0..size - 1
    digest: str  # of the entry that was asked, 16 hex digits; "" for whatever is made
    extraction: Extraction
    children: Children = field(repr=False, compare=False)
    kind: str = KIND
    version: str = field(default_factory=gym_version)

    def grade(self, answer: str, deadline_s: float) -> Verdict:
        """Judge the answer in a child that is killed when it overruns."""
        readings = self.extraction.readings(answer)
        if not readings:
            return Graded(0.0, self.extraction.missing())
        entry = {**self.dataset.named, "index": self.index, "digest": self.digest}
        request = {"judge": "score", **entry, "answer": readings[0], "readings": readings}
        return ask_child(self.children, request, deadline_s)


def read_gym(fields: SpecFields) -> Gym:
    """Read the spec's fields. Whether the package knows the dataset and its keys is seen when it is first asked."""
    if not installed():
        raise fields.error("type", f"{KIND} needs the package reasoning-gym here: {INSTALL}")
    name = fields.text("name", MAX_NAME, KIND)
    dataset = fields.text("dataset", MAX_TEXT)
    if not DATASET.fullmatch(dataset):
        raise fields.error("dataset", "must be a name of lower-case letters, digits and underscores, like chain_sum")
    config = read_config(fields)
    seed = fields.integer("seed", 0, MAX_SEED)
    size = fields.integer("size", 1, MAX_SIZE, DEFAULT_SIZE)
    index = fields.integer("index", 0, size - 1)
    digest = fields.take("digest") or ""
    if not isinstance(digest, str) or (digest and not DIGEST.fullmatch(digest)):
        raise fields.error("digest", "must be 16 hex digits, or left out")
    extraction = read_extraction(fields, "answer")
    fields.close()
    return Gym(name, Dataset(dataset, config, seed, size), index, digest, extraction, gym_children())


def read_config(fields: SpecFields) -> Mapping[str, Any]:
    """Read `config`: an object of numbers, texts, true, false, null, and lists of these."""
    config = fields.take("config")
    if config is None:
        return {}
    if not isinstance(config, Mapping) or len(config) > MAX_KEYS or not all(map(is_key, config)):
        raise fields.error("config", f"must be an object of at most {MAX_KEYS} keys, named like the dataset's")
    for key, value in config.items():
        if not (is_list(value, is_pair) or is_plain(value)):
            raise fields.error(f"config.{key}", f"must be a number, a short text or a list of at most {MAX_ITEMS}")
    return dict(config)


def is_key(key: Any) -> bool:
    """Return whether a value can be a key of a configuration."""
    return isinstance(key, str) and key.isidentifier() and len(key) <= MAX_NAME


def is_plain(value: Any) -> bool:
    """Return whether a value is a number, a short text, true, false or null."""
    return value is None or isinstance(value, int | float) or (isinstance(value, str) and len(value) <= MAX_TEXT)


def is_pair(value: Any) -> bool:
    """Return whether a value is plain or a list of plain ones."""
    return is_plain(value) or is_list(value, is_plain)


def is_list(value: Any, of: Any) -> bool:
    """Return whether a value is a list of what `of` says, not too long."""
    return isinstance(value, list) and len(value) <= MAX_ITEMS and all(map(of, value))
