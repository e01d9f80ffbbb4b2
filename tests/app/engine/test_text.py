"""Text arrives whole: the pieces of any ids add up to their decoding, and no stop string slips through in pieces."""

import random

import pytest
from tokenizers import Tokenizer, decoders, models
from transformers import PreTrainedTokenizerFast

from app.engine.text import Detokenizer, StopScanner, decoder, pieces


@pytest.fixture(scope="module")
def sentencepiece_like() -> PreTrainedTokenizerFast:
    """A tokenizer that strips the first space and spells rare characters in bytes, as Llama 2's does."""
    pieces = ["<unk>", "<s>", "</s>", "▁", "▁the", "▁cat", "s", "▁sat", "!", "a"]
    vocabulary = {piece: index for index, piece in enumerate(pieces)}
    vocabulary |= {f"<0x{byte:02X}>": len(pieces) + byte for byte in range(256)}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[], unk_token="<unk>", byte_fallback=True))
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>", unk_token="<unk>")


def pushed(tokenizer: PreTrainedTokenizerFast, ids: list[int]) -> list[str]:
    detokenizer = Detokenizer(decoder(tokenizer), pieces(tokenizer))
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
    ids = [4, *(10 + byte for byte in "é€🙂".encode()), 5]
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

    begun, gone_on = Detokenizer(decode), Detokenizer(decode, before=0)
    assert "".join(map(begun.push, [1, 2, 1])) == "bc b"
    assert "".join(map(gone_on.push, [1, 2, 1])) == " bc b"


def test_marks_are_shown_where_special_tokens_are_not() -> None:
    shown = Detokenizer(lambda ids: "".join("ab"[one] for one in ids if one < 2), marks={7: "[CALL]"})
    assert "".join(map(shown.push, [0, 7, 1])) == "a[CALL]b"
