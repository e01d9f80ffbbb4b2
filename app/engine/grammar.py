"""Constraints compiled, and followed token by token: which tokens an answer's text may go on with.

llguidance does the parsing (docs/decisions/constrained-decoding.md says why); a grammar is compiled once and copied for
each answer. Whoever sends a constraint is not trusted: its size, the work of compiling it and the work of each step are
bounded, and what goes beyond is refused, or ends the answer. The end of sequence is allowed where the grammar accepts,
and only there. Leaves out waiting for a compilation (`app.api.answering.constraint`) and the draw (`app.engine.rows`).
"""

import logging
import threading
from collections import OrderedDict
from collections.abc import Collection
from concurrent.futures import Future, ThreadPoolExecutor
from copy import copy
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from app.engine.constraint import Constraint
from training.rollout import UNCONSTRAINED

if TYPE_CHECKING:
    import llguidance  # else where it is used: engines without constraints run where it is not installed

_LOG = logging.getLogger(__name__)

MOST_CHARACTERS: Final = 65_536  # of a constraint's text
KEPT: Final = 64  # compiled grammars, the ones used last
MOST_WAITING: Final = 32  # constraints that wait to be compiled
_WHITESPACE: Final = r"[ \t\n\r]{0,24}"  # between the parts of JSON: a small model must not lose itself in it
_LIMITS: Final[dict[str, Any]] = {
    "max_items_in_row": 1000,  # alternatives at one place
    "initial_lexer_fuel": 1_000_000,  # work of compiling, some 20 ms
    "step_lexer_fuel": 100_000,  # work of one step, some 7 ms
    "step_max_items": 25_000,  # of the parser at one step
    "max_lexer_states": 20_000,  # at 1 to 2 KB each
    "max_grammar_size": 100_000,  # symbols
    "verbose_errors": False,  # they would carry the parser's state to the client
}


class InvalidConstraint(ValueError):
    """A constraint that cannot be served; the message says why, to its author."""


class Guide:
    """One answer's way through its grammar, and the masks it met."""

    def __init__(self, matcher: Any, first: bytes) -> None:
        self.mask = first  # of the next token: a bit each, the lowest of a byte first
        self.failed = False  # the next step's mask is beyond what a step may cost
        self.masks: dict[bytes, int] = {first: 0}  # those met, in the order in which they were
        self.steps: list[int] = []  # the mask of every step taken, its number, or UNCONSTRAINED
        self._matcher = matcher

    def record(self) -> tuple[Tensor, Tensor]:
        """Give the masks met, uint8 [M, Q], and the number of each step's, int32 [S]; see `Rollout`."""
        met = np.frombuffer(b"".join(self.masks), dtype=np.uint8).reshape(len(self.masks), -1)
        return torch.from_numpy(met.copy()), torch.tensor(self.steps, dtype=torch.int32)

    @property
    def over(self) -> bool:
        """Whether the text is complete and nothing may follow it."""
        return bool(self._matcher.is_stopped())

    def pass_by(self) -> None:
        """Note a step that could draw anything."""
        self.steps.append(UNCONSTRAINED)

    def stay(self) -> None:
        """Note a step that drew under the mask and wrote nothing."""
        self.steps.append(self.masks.setdefault(self.mask, len(self.masks)))

    def take(self, token: int) -> None:
        """Go on by a token of the answer, one that the mask allows."""
        self.stay()
        self._matcher.consume_token(token)
        if not self.over:
            self.mask = bytes(self._matcher.compute_bitmask())
        self.failed = bool(self._matcher.is_error())
        if self.failed:
            _LOG.warning("an answer ends early, by its constraint: %s", _reason(self._matcher.get_error()))


class Grammar:
    """A compiled constraint."""

    def __init__(self, matcher: Any) -> None:
        """Compute the first mask, which all answers begin with.

        Raises:
            InvalidConstraint: the first step costs too much already, or nothing may be written.

        """
        self._matcher = matcher
        self.first = bytes(matcher.compute_bitmask())
        if matcher.is_error():
            raise InvalidConstraint(_reason(matcher.get_error()))
        if not any(self.first):
            raise InvalidConstraint("no answer of this model's tokens satisfies it")

    def guide(self) -> Guide:
        """Begin an answer."""
        return Guide(self._matcher.deep_copy(), self.first)


class Grammars:
    """Compiled grammars of one tokenizer; safe from any thread."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase, columns: int, eos_ids: Collection[int]) -> None:
        """Keep what it takes; the tokenizer is read when the first grammar is compiled, which may take seconds.

        Args:
            tokenizer: of the policy.
            columns: V, of the logits.
            eos_ids: that end an answer.

        """
        self._tokenizer = tokenizer
        self._columns = columns
        self._eos_ids = sorted(eos_ids)
        self._lock = threading.Lock()  # of `_kept`
        self._compiling = threading.Lock()  # one at a time: what clients send takes one core at most
        self._compiler = ThreadPoolExecutor(1, "grammars")  # has no thread before there is something to compile
        self._places = threading.Semaphore(MOST_WAITING)
        self._vocabulary: llguidance.LLTokenizer | None = None
        self._kept: OrderedDict[Constraint, Grammar | InvalidConstraint] = OrderedDict()

    def warm(self) -> None:
        """Read the tokenizer now, on the compiling thread: the first constraint need not wait for it."""
        self.prepare(Constraint("regex", "."))

    def prepare(self, constraint: Constraint) -> "Future[Grammar] | None":
        """Compile a constraint elsewhere, on a thread that does nothing else; None: too many wait for it.

        Returns:
            a future with what `of` gives or raises.

        """
        if self._found(constraint) is not None:
            ready: Future[Grammar] = Future()
            try:
                ready.set_result(self.of(constraint))
            except InvalidConstraint as error:
                ready.set_exception(error)
            return ready
        if not self._places.acquire(blocking=False):
            return None
        future = self._compiler.submit(self.of, constraint)
        future.add_done_callback(lambda _: self._places.release())
        return future

    def of(self, constraint: Constraint) -> Grammar:
        """Give the grammar of a constraint, compiled now unless it was before.

        Raises:
            InvalidConstraint: it does not compile, asks for what is not supported, or is too large.

        """
        found = self._found(constraint)
        if found is None:
            with self._compiling:
                found = self._found(constraint) or self._compiled(constraint)
        if isinstance(found, InvalidConstraint):
            raise InvalidConstraint(str(found))
        return found

    def _found(self, constraint: Constraint) -> Grammar | InvalidConstraint | None:
        with self._lock:
            found = self._kept.get(constraint)
            if found is not None:
                self._kept.move_to_end(constraint)
            return found

    def _compiled(self, constraint: Constraint) -> Grammar | InvalidConstraint:
        """Compile and keep; what does not compile is kept too, so that asking again costs nothing."""
        if self._vocabulary is None:
            self._vocabulary = vocabulary_of(self._tokenizer, self._columns, self._eos_ids)
        made: Grammar | InvalidConstraint
        try:
            made = compiled(constraint, self._vocabulary)
        except InvalidConstraint as error:
            made = error
        with self._lock:
            self._kept[constraint] = made
            while len(self._kept) > KEPT:
                self._kept.popitem(last=False)
        return made


def vocabulary_of(tokenizer: PreTrainedTokenizerBase, columns: int, eos_ids: list[int]) -> "llguidance.LLTokenizer":
    """Read a tokenizer's vocabulary for llguidance.

    Raises:
        InvalidConstraint: it is not one of the tokenizers library, or no id ends an answer.

    """
    import llguidance

    backend = copy(getattr(tokenizer, "backend_tokenizer", None))
    if backend is None:
        raise InvalidConstraint("this model's tokenizer cannot be constrained: it is none of the tokenizers library")
    if not eos_ids:
        raise InvalidConstraint("this model names no end of sequence, so a constrained answer could not end")
    backend.no_padding()
    backend.no_truncation()
    try:
        return llguidance.LLTokenizer(backend.to_str(), n_vocab=columns, eos_token=eos_ids)
    except ValueError as error:
        raise InvalidConstraint(f"this model's tokenizer cannot be constrained: {error}") from error


def compiled(constraint: Constraint, vocabulary: "llguidance.LLTokenizer") -> Grammar:
    """Compile a constraint.

    Raises:
        InvalidConstraint: see `Grammars.of`.

    """
    import llguidance

    if len(constraint.text) > MOST_CHARACTERS:
        raise InvalidConstraint(f"it has {len(constraint.text)} characters, {MOST_CHARACTERS} are served: shorten it")
    grammar = _grammar(constraint)
    matcher = llguidance.LLMatcher(vocabulary, grammar, log_level=0, limits=llguidance.LLParserLimits(**_LIMITS))
    if matcher.is_error():
        raise InvalidConstraint(_reason(matcher.get_error()))
    return Grammar(matcher)


def _grammar(constraint: Constraint) -> str:
    """Write a constraint in llguidance's own form."""
    import llguidance

    if constraint.kind == "regex":
        return llguidance.LLMatcher.grammar_from_regex(constraint.text)
    if constraint.kind == "lark":
        return llguidance.LLMatcher.grammar_from_lark(constraint.text)
    overrides: Any = {"whitespace_pattern": _WHITESPACE, "lenient": False}
    try:
        return llguidance.LLMatcher.grammar_from_json_schema(constraint.text, overrides=overrides)
    except ValueError as error:
        raise InvalidConstraint(str(error)) from error


def _reason(error: str) -> str:
    """Cut an error of the library down to what its author can use."""
    return error.replace("<non-verbose/>", "").strip()[:500] or "it could not be compiled"
