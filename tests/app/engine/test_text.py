"""Text arrives whole: the pieces of any ids add up to their decoding, and no stop string slips through in pieces."""

import random

import pytest
from tokenizers import Tokenizer, decoders, models
from transformers import PreTrainedTokenizerFast

from app.engine.text import CONTEXT, Detokenizer, StopScanner, decoder, pieces
from tests.app import spelling
from tests.app.spelling import BYTES

POPULATIONS = [range(BYTES), range(BYTES + 256), range(BYTES + 128, BYTES + 256)]


@pytest.fixture(scope="module")
def sentencepiece_like() -> PreTrainedTokenizerFast:
    return spelling.sentencepiece_like()


def pushed(tokenizer: PreTrainedTokenizerFast, ids: list[int], before: list[int] | None = None) -> list[str]:
    detokenizer = Detokenizer(decoder(tokenizer), pieces(tokenizer), before=before or ())
    return [*(detokenizer.push(token) for token in ids), detokenizer.flush()]


@pytest.mark.parametrize("text", ["Work out 17 - 9.", "ä ö € 漢字", "🙂🙃 mixed 🙂", " leading", "e\u0301 combining"])
def test_pieces_of_real_text_add_up(tokenizer: PreTrainedTokenizerFast, text: str) -> None:
    ids = tokenizer(text).input_ids
    pieces = pushed(tokenizer, ids)
    assert "".join(pieces) == text
    assert not any("\N{REPLACEMENT CHARACTER}" in piece for piece in pieces)


@pytest.mark.parametrize("seed", range(20))
def test_pieces_of_any_ids_add_up_for_byte_level(tokenizer: PreTrainedTokenizerFast, seed: int) -> None:
    """Random ids are mostly broken UTF-8: the worst case, and what a random model says."""
    ids = random.Random(seed).choices(range(320), k=200)
    assert "".join(pushed(tokenizer, ids)) == decoder(tokenizer)(ids)


@pytest.mark.parametrize("population", POPULATIONS, ids=["words", "all", "bytes"])
@pytest.mark.parametrize("seed", range(20))
def test_pieces_of_any_ids_add_up_for_sentencepiece(
    sentencepiece_like: PreTrainedTokenizerFast, seed: int, population: range
) -> None:
    """Special tokens in the middle, spaces in a row, and bytes that are no character."""
    ids = random.Random(seed).choices(population, k=200)
    assert "".join(pushed(sentencepiece_like, ids)) == decoder(sentencepiece_like)(ids)


@pytest.mark.parametrize("seed", range(20))
def test_an_incomplete_character_costs_no_whole_ones(sentencepiece_like: PreTrainedTokenizerFast, seed: int) -> None:
    """A row of bytes is read as UTF-8 is everywhere, byte-level tokenizers included."""
    row = bytes(random.Random(seed).choices("é€🙂漢".encode() + bytes(range(128, 256)), k=40))
    assert decoder(sentencepiece_like)([4, *(BYTES + byte for byte in row)]) == "the" + row.decode(errors="replace")
    cut = "é€🙂".encode()[:-1]
    assert decoder(sentencepiece_like)([BYTES + byte for byte in cut]) == "é€\N{REPLACEMENT CHARACTER}"


@pytest.mark.parametrize("population", POPULATIONS, ids=["words", "all", "bytes"])
@pytest.mark.parametrize("seed", range(20))
def test_a_text_that_goes_on_is_the_end_of_the_whole(
    sentencepiece_like: PreTrainedTokenizerFast, seed: int, population: range
) -> None:
    draw = random.Random(seed)
    before, after = [4, *draw.choices(population, k=20), 5], draw.choices(population, k=60)
    decode = decoder(sentencepiece_like)
    given = "".join(pushed(sentencepiece_like, after, before[-CONTEXT:]))
    assert decode(before) + given == decode(before + after)


@pytest.mark.parametrize("rest", ["€".encode()[1:] + b"uro", "€".encode()[1:2], b"uro", b""])
def test_a_character_that_the_prompt_cuts_is_given_out_when_it_is_whole(
    sentencepiece_like: PreTrainedTokenizerFast, tokenizer: PreTrainedTokenizerFast, rest: bytes
) -> None:
    whole = ("€".encode()[:1] + rest).decode(errors="replace")
    ids = [BYTES + byte for byte in rest]
    given = "".join(pushed(sentencepiece_like, ids, [4, BYTES + "€".encode()[0]]))
    assert given == (whole if whole.startswith("€") else whole[1:]), "else the prompt shows it"
    begun = tokenizer("a€").input_ids[:2]
    assert "".join(pushed(tokenizer, tokenizer("€uro").input_ids[1:], begun)) == "€uro"


@pytest.mark.parametrize("seed", range(5))
def test_pieces_decoded_alone_are_those_decoded_in_context(tokenizer: PreTrainedTokenizerFast, seed: int) -> None:
    ids = random.Random(seed).choices(range(320), k=200)
    alone, in_context = Detokenizer(decoder(tokenizer), pieces(tokenizer)), Detokenizer(decoder(tokenizer))
    assert [alone.push(token) for token in ids] == [in_context.push(token) for token in ids]


def test_only_byte_level_ids_are_decoded_alone_and_only_once(
    tokenizer: PreTrainedTokenizerFast, sentencepiece_like: PreTrainedTokenizerFast
) -> None:
    assert pieces(sentencepiece_like) is None
    known = pieces(tokenizer)
    assert known is not None
    whole, broken = tokenizer("a").input_ids[0], tokenizer("€").input_ids[0]
    assert (known[whole], known[broken]) == ("a", None)
    assert dict(known) == {whole: "a", broken: None}


def test_a_first_space_is_stripped_once(sentencepiece_like: PreTrainedTokenizerFast) -> None:
    ids = [4, 5, 6, 7] * 8
    assert "".join(pushed(sentencepiece_like, ids)) == " ".join(["the cats sat"] * 8)


def test_bytes_wait_for_their_character(sentencepiece_like: PreTrainedTokenizerFast) -> None:
    ids = [4, *(BYTES + byte for byte in "é€🙂".encode()), 5]
    pieces = pushed(sentencepiece_like, ids)
    assert "".join(pieces) == "theé€🙂 cat"
    assert pieces == ["the", "", "é", "", "", "€", "", "", "", "🙂", " cat", ""]


@pytest.mark.parametrize("seed", range(30))
def test_stop_strings_are_found_however_the_text_is_cut(seed: int) -> None:
    draw = random.Random(seed)
    text = "".join(draw.choices("ab", k=60))
    stops = ["".join(draw.choices("ab", k=draw.randrange(3, 9))) for _ in range(2)]
    scanner, given, stopped = StopScanner(stops), "", False
    at = 0
    while at < len(text) and not stopped:
        size = draw.randrange(1, 6)
        safe, stopped = scanner.push(text[at : at + size])
        given += safe
        at += size
    given += scanner.flush()
    ends = [text.find(stop) + len(stop) for stop in stops if stop in text]
    assert stopped == bool(ends)
    if not stopped:
        assert given == text
    else:
        seen = text[:at]
        assert given == seen[: min(seen.find(stop) for stop in stops if stop in seen)]
        assert not any(stop in given for stop in stops)


def test_a_text_that_goes_on_keeps_its_first_space_where_pieces_carry_it() -> None:
    """As SentencePiece models write: the space before a word is the word's, and a text's first is left out."""
    backend = Tokenizer(models.WordLevel({"\u2581a": 0, "\u2581b": 1, "c": 2}, unk_token="c"))
    backend.decoder = decoders.Metaspace()

    def decode(ids: list[int]) -> str:
        return str(backend.decode(ids))

    begun, gone_on = Detokenizer(decode), Detokenizer(decode, before=(0,))
    assert "".join(map(begun.push, [1, 2, 1])) == "bc b"
    assert "".join(map(gone_on.push, [1, 2, 1])) == " bc b"


def test_marks_are_shown_where_special_tokens_are_not() -> None:
    shown = Detokenizer(lambda ids: "".join("ab"[one] for one in ids if one < 2), marks={7: "[CALL]"})
    assert "".join(map(shown.push, [0, 7, 1])) == "a[CALL]b"
