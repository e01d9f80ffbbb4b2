"""What the child process for reasoning-gym does: it makes the package's problems and asks its own scorers.

The only place that imports the package. Run by `child`, so it imports nothing of ours. Some of its scorers evaluate an
answer as Python, and answers come from strangers: `guard` puts readers in place of evaluators, `seal` takes away files,
processes and the network in case one was overlooked. Leaves out what an answer is of a model's text (see `gym`).
"""

import copy
import hashlib
import importlib
import json
import math
import os
import random
import re
import resource
import sys
import tokenize
from ast import literal_eval
from collections.abc import Callable, Mapping, Sequence
from dataclasses import MISSING, Field, fields
from functools import lru_cache
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

import numpy as np
import sympy

Json = dict[str, Any]

DRAWING = ("matplotlib", "mpl_toolkits", "drawsvg")  # imported by what reasoning-gym imports, and never used by it
LEFT_OUT = ("composite",)  # mixes others by a configuration of its own
ROUNDING = 1e-9  # how far outside of [0, 1] a score may be by rounding alone
OURS = ("seed", "size")  # fields of every configuration that a request names apart
EVALUATING = ("string_insertion", "spiral_matrix", "number_sorting", "binary_matrix")  # of algorithmic: eval(answer)
# What arithmetic and calculus need; sympy's reader evaluates everything else too, `open` and `__import__` among it.
NAMES = (
    "sin cos tan cot sec csc sinh cosh tanh asin acos atan acot asinh acosh atanh exp log ln sqrt abs Abs pi erf erfi "
    "Ei li Si Ci factorial"
)
PIECE = re.compile(r"\s+|\d+\.?\d*(?:[eE][-+]?\d+)?|\.\d+|[-+*/^%!(),]|([A-Za-z]\w*)", re.ASCII)
CLOSED = frozenset(("os", "subprocess", "socket", "shutil", "ctypes", "pty", "mmap", "code"))  # rooms of audit events
READING = ("os.listdir", "os.scandir")  # what imports and data files need of them
WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND

# What a configuration, a generator or a scorer may raise over values it was not made for.
TROUBLE = (
    *(ArithmeticError, AssertionError, AttributeError, LookupError, MemoryError, NameError, OSError, RuntimeError),
    *(StopIteration, SyntaxError, TypeError, ValueError, tokenize.TokenError),
)


class RefusedError(ValueError):
    """A request that cannot be met; the message says what to do."""


def judges() -> Mapping[str, Callable[[Json], Json]]:
    """Import the package, make it safe, and give what this child can be asked, by name."""
    sys.meta_path.insert(0, Undrawing())
    importlib.import_module("reasoning_gym")
    guard()
    seal()
    return {"entries": told(entries), "score": told(score)}


class Undrawn(ModuleType):
    """A module in the place of one that draws; whatever is asked of it is another."""

    def __getattr__(self, name: str) -> "Undrawn":
        """Give any name but those by which Python knows a module."""
        if name.startswith("__"):
            raise AttributeError(name)
        return Undrawn(name)


class Undrawing(MetaPathFinder, Loader):
    """Finds `Undrawn` modules: what draws takes long to import, writes caches, and need not be installed."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """Find a module that draws."""
        del path, target
        return ModuleSpec(fullname, self, is_package=True) if fullname.partition(".")[0] in DRAWING else None

    def create_module(self, spec: ModuleSpec) -> Undrawn:
        """Make one."""
        return Undrawn(spec.name)

    def exec_module(self, module: ModuleType) -> None:
        """Leave it as it is."""


def guard() -> None:
    """Have scorers read answers where they would evaluate them."""
    for name in (*(f"algorithmic.{each}" for each in EVALUATING), "games.n_queens"):
        importlib.import_module(f"reasoning_gym.{name}").__dict__["eval"] = literal_eval
    careful = reader(sympy.parse_expr)
    sympy.parse_expr = careful
    for name in ("countdown", "puzzle24"):
        importlib.import_module(f"reasoning_gym.games.{name}").__dict__["parse_expr"] = careful


def reader(parse_expr: Callable[..., Any]) -> Callable[..., Any]:
    """Make sympy's reader refuse what is not arithmetic."""
    known = frozenset(NAMES.split())

    def read(text: str, *args: Any, **kwargs: Any) -> Any:
        at = 0
        while at < len(text):
            piece = PIECE.match(text, at)
            if piece is None or (piece[1] and len(piece[1]) > 1 and piece[1] not in known):
                raise ValueError(f"{text[at : at + 20]!r} is no arithmetic")
            at = piece.end()
        return parse_expr(text, *args, **kwargs)

    return read


def seal() -> None:
    """Take away what no scorer needs: writing, other files than Python's own, processes, the network."""
    roots = tuple(os.path.realpath(root) + os.sep for root in {sys.prefix, sys.base_prefix})

    def watch(event: str, args: tuple[Any, ...]) -> None:
        if event == "open":
            path, _, flags = args
            if isinstance(path, int):  # what is open already: the pipe to the parent
                return
            if flags & WRITING or not os.path.realpath(path).startswith(roots):
                raise PermissionError(f"{path!r} is not for graders")
        elif event.partition(".")[0] in CLOSED and event not in READING:
            raise PermissionError(f"{event} is not for graders")

    for limit in (resource.RLIMIT_FSIZE, resource.RLIMIT_NPROC):  # the system's own bars; root passes the second
        resource.setrlimit(limit, (0, 0))
    sys.addaudithook(watch)


def told(work: Callable[[Json], Json]) -> Callable[[Json], Json]:
    """Turn a refusal into a reply."""

    def ask(request: Json) -> Json:
        try:
            return work(request)
        except RefusedError as error:
            return {"failed": str(error)}

    return ask


def entries(request: Json) -> Json:
    """Make the entries `first` to `last`, without it.

    Request: `dataset`, `config`, `seed`, `size`, `first`, `last`.

    Reply: {"entries": [{"question", "answer", "digest"}]}; an answer is None where any of many is right.
    """
    found = [entry_of(request, index) for index in range(request["first"], request["last"])]
    shown = [{"question": one["question"], "answer": one["answer"], "digest": digest(one)} for one in found]
    return {"entries": shown}


def score(request: Json) -> Json:
    """Score an answer by the dataset's own scorer, whose partial scores stay as they are.

    Request: as `entries`, with `index`, `digest` ("" for any), `answer`, and `readings` of it: the best counts. An
    answer the scorer stumbles over gets 0.
    """
    made = dataset_of(request)
    entry = entry_of(request, request["index"])
    if request["digest"] not in {"", digest(entry)}:
        raise RefusedError(
            f"entry {request['index']} of {request['dataset']} is another here than the one that was asked: "
            "install the release of reasoning-gym that made the problem"
        )
    try:
        value = max(float(made.score_answer(reading, copy.deepcopy(entry))) for reading in request["readings"])
    except TROUBLE as error:
        return {"value": 0.0, "detail": f"the scorer of {request['dataset']} raised {type(error).__name__}"}
    if not (math.isfinite(value) and -ROUNDING <= value <= 1 + ROUNDING):
        raise RefusedError(f"the scorer of {request['dataset']} gave {value:g}, which is not within 0 and 1")
    return {"value": min(1.0, max(0.0, value)), "detail": f"{request['answer'][:200]!r} by {request['dataset']}"}


def dataset_of(request: Json) -> Any:
    """Make the dataset a request names."""
    return made_dataset(*named(request))


def entry_of(request: Json, index: int) -> Json:
    """Make an entry of the dataset a request names."""
    return made_entry(*named(request), index)


def named(request: Json) -> tuple[str, str, int, int]:
    """Return name, configuration, seed and size of the dataset a request names."""
    return request["dataset"], json.dumps(request["config"], sort_keys=True), request["seed"], request["size"]


@lru_cache(maxsize=32)
def made_dataset(name: str, config: str, seed: int, size: int) -> Any:
    """Make a dataset; the last ones are kept.

    Raises:
        RefusedError: there is none of that name, or its configuration is refused; the message says what is known.

    """
    from reasoning_gym.factory import DATASETS, create_dataset

    known = sorted(set(DATASETS) - set(LEFT_OUT))
    if name not in known:
        raise RefusedError(f"reasoning-gym has no dataset {name!r}; choose one of {', '.join(known)}")
    kinds = {field.name: field for field in fields(DATASETS[name][1]) if field.name not in OURS}
    given = json.loads(config)
    for key in given:
        if key not in kinds:
            raise RefusedError(f"{key!r} is no key of {name}; choose from {', '.join(kinds) or 'none: it has no keys'}")
    try:
        chosen = {key: like_default(value, kinds[key]) for key, value in given.items()}
        return create_dataset(name, seed=seed, size=size, **chosen)
    except TROUBLE as error:
        raise RefusedError(f"{name} refuses {config}: {error or type(error).__name__}") from error


def like_default(value: Any, field: "Field[Any]") -> Any:
    """Turn a list into a tuple where the configuration holds one; JSON knows none."""
    default = field.default_factory() if field.default_factory is not MISSING else field.default
    return tuple(value) if isinstance(value, list) and isinstance(default, tuple) else value


@lru_cache(maxsize=256)
def made_entry(name: str, config: str, seed: int, size: int, index: int) -> Json:
    """Make an entry; the last ones are kept, since each answer of a group asks for the same.

    Raises:
        RefusedError: the generator cannot.

    """
    made = made_dataset(name, config, seed, size)
    random.seed(seed + index)  # a few generators draw from these, besides their own
    np.random.seed((seed + index) % 2**32)
    try:
        entry: Json = made[index]
    except TROUBLE as error:
        raise RefusedError(f"{name} cannot make entry {index} of {config}: {error or type(error).__name__}") from error
    return entry


def digest(entry: Json) -> str:
    """Name an entry by what is asked and what its makers hold for right: 16 hex digits."""
    return hashlib.sha256(json.dumps([entry["question"], entry["answer"]], default=str).encode()).hexdigest()[:16]
