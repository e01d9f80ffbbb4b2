"""Token ids to text, piece by piece: whole characters only, and nothing that may yet become a stop string.

Decoding one id at a time is wrong (a character may span ids; some tokenizers strip the first space), decoding all of
them at each step is quadratic. `Detokenizer` decodes a short window that starts where the text was whole before, and
gives out what is new in it: its pieces add up to what `decoder` makes of all ids at once, whatever the ids.
`StopScanner` finds stop strings in the text, across the borders of tokens and pieces.
"""

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Final

from tokenizers import Tokenizer
from tokenizers.decoders import ByteLevel
from transformers import PreTrainedTokenizerBase

Decode = Callable[[list[int]], str]

_BROKEN = "\N{REPLACEMENT CHARACTER}"
_WINDOW = 8  # ids after which the window moves on
_WIDEST = 64  # ids after which it moves on though it shows nothing
_LONGEST = 4  # ids that one character may span: UTF-8 has at most four bytes
CONTEXT: Final = 8  # last ids of a prompt that say how a text that goes on from it begins
BYTE_PIECE: Final = re.compile(r"<0x([0-9A-F]{2})>")  # how SentencePiece names a byte


def decoder(tokenizer: PreTrainedTokenizerBase, *, special: bool = False) -> Decode:
    """Decode ids with or without special tokens, as quickly as the tokenizer can."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        settings = {"skip_special_tokens": not special, "clean_up_tokenization_spaces": False}
        return lambda ids: str(tokenizer.decode(ids, **settings))
    if backend.decoder is not None and backend.decoder.decode(["<0x41>"]) == "A":
        return _ByteFallback(backend, special=special)
    return lambda ids: str(backend.decode(ids, skip_special_tokens=not special))


class _ByteFallback:
    """Decodes as a SentencePiece tokenizer does, but that an incomplete character costs no whole ones.

    Its own decoder replaces every byte of a row of byte tokens when one of them belongs to no character.
    """

    def __init__(self, backend: Tokenizer, *, special: bool) -> None:
        self._backend = backend
        self._special = special
        added = {} if special else backend.get_added_tokens_decoder()
        self._skipped = frozenset(token for token, named in added.items() if named.special)

    def __call__(self, ids: list[int]) -> str:
        """Decode ids."""
        text = str(self._backend.decode(ids, skip_special_tokens=not self._special))
        if _BROKEN not in text:
            return text
        names = (self._backend.id_to_token(token) for token in ids if token not in self._skipped)
        return str(self._backend.decoder.decode(list(_mended(name for name in names if name is not None))))


def _mended(names: Iterator[str]) -> Iterator[str]:
    """Give names of tokens, bytes that spell no character as replacement characters."""
    row = bytearray()
    for name in names:
        byte = BYTE_PIECE.fullmatch(name)
        if byte is not None:
            row.append(int(byte[1], 16))
            continue
        yield from _spelled(row)
        row.clear()
        yield name
    yield from _spelled(row)


def _spelled(row: bytes | bytearray) -> Iterator[str]:
    for character in row.decode("utf-8", "replace"):
        if character == _BROKEN:
            yield character
        else:
            yield from (f"<0x{byte:02X}>" for byte in character.encode())


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

    __slots__ = ("_before", "_cut", "_decode", "_given", "_ids", "_marks", "_pending", "_pieces", "_whole")

    def __init__(
        self,
        decode: Decode,
        pieces: Pieces | None = None,
        marks: Mapping[int, str] | None = None,
        before: Sequence[int] = (),
    ) -> None:
        """Begin a text.

        Args:
            decode: ids to text, without special tokens.
            pieces: texts of single ids, where they are enough.
            marks: special tokens that are shown all the same, and as what.
            before: last ids that the text follows, `CONTEXT` are enough; none: it begins one, where some tokenizers
                leave out a space. A character that they leave incomplete is given out when it is completed.

        """
        self._decode = decode
        self._marks = marks or {}
        self._pieces = pieces
        self._ids: list[int] = []  # the window: context that was given out before, then what is new
        self._given = 0  # characters of the window's text that were given out
        self._whole = 0  # ids of the window whose text has been given out whole
        self._before = 0  # the same, one giving earlier: where the next window may start
        self._pending = 0  # ids since the text was last whole
        shown = decode(list(before)) if before else ""
        self._cut = shown.endswith(_BROKEN)  # whether the text before ends inside a character
        if self._cut or (shown and pieces is None):
            self._ids, self._given, self._whole = list(before), len(shown), len(before)
            self._pending = int(self._cut)

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
        if text.endswith(_BROKEN):
            return self._push_broken(token, text)
        new = self._new(text)
        if not new and self._given and self._pending == 1:
            self._ids.pop()  # it shows nothing; as the only context it would make the next id a first one
            self._pending = 0
            return ""
        self._before, self._whole = self._whole, len(self._ids)
        self._pending = 0
        if len(self._ids) >= (_WINDOW if self._given else _WIDEST):
            self._move_on()
        return new

    def flush(self) -> str:
        """Give out the rest: an incomplete character as its replacement."""
        if not self._pending:
            return ""
        new = self._new(self._decode(self._ids))
        self._pending = 0
        return new

    def _push_broken(self, token: int, text: str) -> str:
        """Hold text that ends in an incomplete character; what is before it can only be broken for good."""
        if not self._decode([token]) and self._decode(self._ids[:-1]) == text:
            self._ids.pop()  # a special token between two bytes
            self._pending -= 1
            return ""
        if self._pending < _LONGEST:
            return ""
        new = self._new(text[:-1])
        self._ids = self._ids[-CONTEXT:]
        self._given = len(self._decode(self._ids)) - 1
        self._before, self._whole, self._pending = 0, 0, 1
        return new

    def _new(self, text: str) -> str:
        """Give what is new in the window's text, from now on it is old."""
        begin = self._given
        if self._cut and len(text) >= begin:
            begin -= text[begin - 1] != _BROKEN
            self._cut = False
        self._given = max(len(text), self._given)
        return text[begin:]

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
