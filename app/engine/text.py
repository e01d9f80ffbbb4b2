"""Token ids to text, piece by piece: whole characters only, and nothing that may yet become a stop string.

Decoding one id at a time is wrong (a character may span ids; some tokenizers strip the first space), decoding all of
them at each step is quadratic. `Detokenizer` decodes a short window that starts where the text was whole before, and
gives out what is new in it. `StopScanner` finds stop strings in the text, across the borders of tokens and pieces.
"""

from collections.abc import Callable, Mapping, Sequence

from tokenizers.decoders import ByteLevel
from transformers import PreTrainedTokenizerBase

Decode = Callable[[list[int]], str]

_BROKEN = "\N{REPLACEMENT CHARACTER}"
_WINDOW = 8  # ids after which the window moves on
_WIDEST = 64  # ids after which it moves on though a character is incomplete: they are no text at all
_LONGEST = 4  # ids that one character may span: UTF-8 has at most four bytes


def decoder(tokenizer: PreTrainedTokenizerBase) -> Decode:
    """Decode ids without special tokens, as quickly as the tokenizer can."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is not None:
        return lambda ids: str(backend.decode(ids, skip_special_tokens=True))
    return lambda ids: str(tokenizer.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False))


class Pieces(dict[int, str | None]):
    """Texts of single ids, each decoded when it is first asked for; None for one that is not whole by itself."""

    def __init__(self, decode: Decode) -> None:
        super().__init__()
        self._decode = decode

    def __missing__(self, token: int) -> str | None:
        """Decode an id and remember it."""
        text = self._decode([token])
        self[token] = None if _BROKEN in text else text
        return self[token]


def pieces(tokenizer: PreTrainedTokenizerBase) -> Pieces | None:
    """Texts of single ids, where a text is that of its ids side by side, as in byte-level tokenizers."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    return Pieces(decoder(tokenizer)) if isinstance(getattr(backend, "decoder", None), ByteLevel) else None


class Detokenizer:
    """The text of one answer as its ids arrive."""

    __slots__ = ("_before", "_decode", "_given", "_ids", "_marks", "_pending", "_pieces", "_whole")

    def __init__(
        self,
        decode: Decode,
        pieces: Pieces | None = None,
        marks: Mapping[int, str] | None = None,
        before: int | None = None,
    ) -> None:
        """Begin a text.

        Args:
            decode: ids to text, without special tokens.
            pieces: texts of single ids, where they are enough.
            marks: special tokens that are shown all the same, and as what.
            before: id that the text follows; None: it begins one, where some tokenizers leave out a space.

        """
        self._decode = decode
        self._marks = marks or {}
        self._pieces = pieces
        self._ids: list[int] = []  # the window: context that was given out before, then what is new
        self._given = 0  # characters of the window's text that were given out
        self._whole = 0  # ids of the window whose text has been given out whole
        self._before = 0  # the same, one giving earlier: where the next window may start
        self._pending = 0  # ids since the text was last whole
        if before is not None and pieces is None:
            shown = decode([before])
            if _BROKEN not in shown:
                self._ids, self._given, self._whole = [before], len(shown), 1

    def push(self, token: int) -> str:
        """Add an id; give out the new text, empty while a character is incomplete."""
        if token in self._marks:
            rest = self.flush()
            self._ids, self._given, self._whole, self._before = [], 0, 0, 0
            return rest + self._marks[token]
        if self._pieces is not None and not self._pending and (piece := self._pieces[token]) is not None:
            return piece  # the window may lack it: no other id's text depends on it
        self._ids.append(token)
        self._pending += 1
        text = self._decode(self._ids)
        if text.endswith(_BROKEN) and len(self._ids) < _WIDEST:
            return self._push_broken(text)
        new = text[self._given :]
        self._given = max(len(text), self._given)
        self._before, self._whole = self._whole, len(self._ids)
        self._pending = 0
        if len(self._ids) >= _WINDOW:
            self._move_on()
        return new

    def flush(self) -> str:
        """Give out the rest: an incomplete character as its replacement."""
        if not self._pending:
            return ""
        text = self._decode(self._ids)
        new = text[self._given :]
        self._given, self._pending = len(text), 0
        return new

    def _push_broken(self, text: str) -> str:
        """Hold text that ends in an incomplete character; what is before it can only be broken for good."""
        if self._pending < _LONGEST:
            return ""
        new = text[self._given : -1]
        self._given = max(len(text) - 1, self._given)
        self._pending = 1
        return new

    def _move_on(self) -> None:
        """Start the window where the text was whole one giving ago, so that it keeps at least one id of context."""
        self._ids = self._ids[self._before :]
        self._whole -= self._before
        self._before = 0
        self._given = len(self._decode(self._ids))


class StopScanner:
    """Looks for stop strings in text that arrives in pieces."""

    __slots__ = ("_held", "_stops")

    def __init__(self, stops: Sequence[str]) -> None:
        self._stops = stops
        self._held = ""

    def push(self, piece: str) -> tuple[str, bool]:
        """Add a piece.

        Returns:
            text that is safe to give out, and whether a stop string was found (the text then ends before it).

        """
        if not self._stops:
            return piece, False
        text = self._held + piece
        places = [place for place in map(text.find, self._stops) if place >= 0]
        if places:
            self._held = ""
            return text[: min(places)], True
        keep = max(_overlap(text, stop) for stop in self._stops)
        self._held = text[len(text) - keep :]
        return text[: len(text) - keep], False

    def flush(self) -> str:
        """Give out what was held back and did not become a stop string."""
        held, self._held = self._held, ""
        return held


def _overlap(text: str, stop: str) -> int:
    """Length of the longest end of `text` that is a beginning of `stop`."""
    for size in range(min(len(stop) - 1, len(text)), 0, -1):
        if text.endswith(stop[:size]):
            return size
    return 0
