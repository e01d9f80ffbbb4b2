"""Tool calls in the text of an answer, found as it arrives: text and calls come out in the order they were said.

A call is given out when it is complete, and text that may yet become one is held back, so an answer read in pieces is
read as it would be whole. What looks like a call and is not one (broken JSON, a tool nobody offered) stays text.
Leaves out how models write calls (`app.chat.dialects`).
"""

import hashlib
import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NoReturn, Protocol


@dataclass(frozen=True, slots=True)
class Call:
    """A model's wish to have a tool called."""

    name: str  # of a tool that was offered
    arguments: str  # a JSON object, as text


Piece = str | Call  # text is never empty


@dataclass(frozen=True, slots=True)
class Seen:
    """What a dialect found at the beginning of a text."""

    calls: tuple[Call, ...]  # at least one
    size: int  # characters they took


Verdict = Seen | Literal["wait", "no"]  # calls; not decided before more has come; no call


class Dialect(Protocol):
    """One way to write calls, as the reader needs it."""

    @property
    def openings(self) -> tuple[str, ...]:
        """What a call begins with."""
        ...

    @property
    def leads(self) -> bool:
        """Whether calls stand only at the beginning of an answer."""
        ...

    def read(self, text: str, names: Collection[str], *, ended: bool) -> Verdict:
        """Read the calls that a text begins with, their opening included; `ended`: no more will come."""
        ...


class CallReader:
    """Reads one answer."""

    def __init__(self, dialect: Dialect, names: Collection[str], *, parallel: bool = True) -> None:
        """Start on an answer.

        Args:
            dialect: how its model writes calls.
            names: of the tools that may be called.
            parallel: whether it may hold several calls; if not, those after the first are left out.

        """
        self._dialect = dialect
        self._names = names
        self._parallel = parallel
        self._held = ""  # text not given out yet
        self._said = False  # whether any text was given out
        self._called = False  # whether any call was found
        self._after_call = False  # whether a call was the last thing found: white space behind it is layout

    def push(self, text: str) -> list[Piece]:
        """Read on; gives what is certain by now."""
        self._held += text
        return self._drain(ended=False) if text else []

    def end(self) -> list[Piece]:
        """Say that the answer is over; gives the rest."""
        return self._drain(ended=True)

    def _drain(self, *, ended: bool) -> list[Piece]:
        pieces: list[Piece] = []
        while (start := self._next_opening()) is not None:
            read = self._dialect.read(self._held[start:], self._names, ended=ended)
            if isinstance(read, Seen):
                self._say(pieces, start, trimmed=True)
                self._held = self._held.lstrip()[read.size :].lstrip()
                self._call(pieces, read.calls)
            elif read == "wait" and not ended:
                self._say(pieces, start, trimmed=True)
                return pieces
            else:
                self._say(pieces, start + 1)  # the opening is text after all; look behind its first character
        if ended:
            self._say(pieces, len(self._held))
        else:
            self._say(pieces, self._certain(), trimmed=True)
        return pieces

    def _next_opening(self) -> int | None:
        """Place of the first opening; where calls lead, only at the beginning."""
        if self._dialect.leads:
            blank = len(self._held) - len(self._held.lstrip())
            found = not self._said and self._held.startswith(self._dialect.openings, blank)
            return blank if found else None
        places = [place for place in map(self._held.find, self._dialect.openings) if place >= 0]
        return min(places, default=None)

    def _certain(self) -> int:
        """Characters at the beginning of what is held in which no call begins."""
        size = len(self._held) - max(overlap(self._held, opening) for opening in self._dialect.openings)
        return len(self._held) if self._dialect.leads and (self._said or self._held[:size].strip()) else size

    def _say(self, pieces: list[Piece], size: int, *, trimmed: bool = False) -> None:
        """Give out text; `trimmed` holds white space at its end, because before a call it is layout."""
        text = self._held[:size]
        if trimmed:
            text = text.rstrip()
        self._held = self._held[len(text) :]
        if self._after_call:
            text = text.lstrip()
        if text:
            before = pieces.pop() if pieces and isinstance(pieces[-1], str) else ""
            pieces.append(f"{before}{text}")
            self._said = True
            self._after_call = False

    def _call(self, pieces: list[Piece], calls: Sequence[Call]) -> None:
        """Give out calls, where they are not too many."""
        wanted = calls if self._parallel else calls[: 0 if self._called else 1]
        pieces.extend(wanted)
        self._called = self._after_call = True


def overlap(text: str, opening: str) -> int:
    """Length of the longest end of `text` that is a beginning of `opening`, short of all of it."""
    for size in range(min(len(opening) - 1, len(text)), 0, -1):
        if text.endswith(opening[:size]):
            return size
    return 0


def read_object(text: str, start: int) -> tuple[Any, int]:
    """Read one JSON value that a text holds; line breaks inside its strings are forgiven.

    Returns:
        the value, and where it ends.

    Raises:
        ValueError: it is not JSON, or is nested thousands of levels deep.

    """
    try:
        return _DECODER.raw_decode(text, start)
    except RecursionError as error:
        raise ValueError("nested too deep") from error


def call_of(value: Any, names: Collection[str]) -> Call | None:
    """Take a JSON value for a call: its name was offered, and its arguments are an object that can be sent on."""
    if not isinstance(value, Mapping) or not isinstance(value.get("name"), str) or value["name"] not in names:
        return None
    arguments = value.get("arguments", value.get("parameters", {}))
    if isinstance(arguments, str):
        try:
            arguments = json.loads(arguments)
        except (ValueError, RecursionError):
            return None
    if not isinstance(arguments, Mapping):
        return None
    written = json.dumps(arguments, ensure_ascii=False)
    return Call(value["name"], written) if is_sendable(written) else None


def is_sendable(written: str) -> bool:
    """Whether JSON holds neither half of a surrogate pair nor U+0000, which no store and no tokenizer takes."""
    return "\\u0000" not in written and not any("\ud800" <= letter <= "\udfff" for letter in written)


def call_id(completion_id: str, choice: int, place: int) -> str:
    """Name a call: the same answer names it alike whenever it is read.

    Args:
        completion_id: of the response.
        choice: of the response.
        place: the call's, among the calls of that choice.

    Returns:
        `call_<24 hex>`.

    """
    return "call_" + hashlib.sha256(f"{completion_id}/{choice}/{place}".encode()).hexdigest()[:24]


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is no JSON")


_DECODER = json.JSONDecoder(parse_constant=_no_constant, strict=False)
