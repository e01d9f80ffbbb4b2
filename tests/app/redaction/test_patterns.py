"""The example: what has the shape of an address, a number or a key goes; sums, dates and versions stay."""

import time

import pytest

from app.redaction.hook import load_redactor
from app.redaction.patterns import redact

# Made up, or published as an example; joined from parts, so that no scanner takes them for real ones.
KEYS = [
    "sk-" + "proj-abcdefghijklmnop1234",
    "gh" + "p_abcdefghijklmnopqrstuvwxyz0123456789",
    "AK" + "IAIOSFODNN7EXAMPLE",
    "hf_" + "abcdefghijklmnopqrstuvwxyz",
    "lepo-" + "abcd1234-" + "x" * 40,
    "eyJ" + "hbGciOiJIUzI1NiJ9.eyJzdWIiOiIxMjM0NTY3ODkwIn0.dozjgNryP4J3jVmNHl0w5N",
    "-----BEGIN RSA PRIVATE" + " KEY-----\nabc\ndef\n-----END RSA PRIVATE" + " KEY-----",
    "-----BEGIN PRIVATE" + " KEY-----\ncut off before its end",
]


@pytest.mark.parametrize("key", KEYS)
def test_keys_go(key: str) -> None:
    assert redact(f"my key is {key}") == "my key is [key]"
    assert redact(f"({key})").startswith("([key]")


def test_a_bearer_token_goes() -> None:
    assert redact("Authorization: Bearer abcdef0123456789abcdef") == "Authorization: Bearer [key]"


@pytest.mark.parametrize(
    "address", ["ada@example.org", "a.b+c@sub.example.co.uk", "ADA_99@EXAMPLE.COM", "jörg@müller.example"]
)
@pytest.mark.parametrize("around", ["{}", "mail {}, please", "<{}>", "mailto:{}?x", "“{}”."])
def test_addresses_go(address: str, around: str) -> None:
    assert redact(around.format(address)) == around.format("[email]")


@pytest.mark.parametrize(
    "number", ["+49 30 1234567", "+14155552671", "(415) 555-2671", "415-555-2671", "030/12 34 567", "0044 20 7946 0958"]
)
def test_telephone_numbers_go(number: str) -> None:
    assert redact(f"call {number} now") == "call [phone] now"


@pytest.mark.parametrize(
    "number", ["4111 1111 1111 1111", "4111111111111111", "378282246310005", "5555-5555-5555-4444"]
)
def test_card_numbers_go(number: str) -> None:
    assert redact(f"card {number}.") == "card [card]."


@pytest.mark.parametrize(
    "text",
    [
        "Work out 47 + 6 - 8 + 9 step by step.",
        "on 2024-05-17 at 10:30",
        "3.14159265358979",
        "1234567 people",
        "version 1.2.3",
        "1,234,567.89",
        "a@b",
        "x = 12345678",
        "§ 12 (3)",
        "tests@",
        "sk-short",
        "the answer is 42",
        "",
    ],
)
def test_what_belongs_to_nobody_stays(text: str) -> None:
    assert redact(text) == text


def test_redacting_twice_changes_nothing_more() -> None:
    once = redact(f"ada@example.org +49 30 1234567 {KEYS[0]} 4111 1111 1111 1111")
    assert once == "[email] [phone] [key] [card]"
    assert redact(once) == once


@pytest.mark.parametrize("piece", ["a", "a.", "a@", "@", "1", "1 ", "-----BEGIN ", "eyJ", "(", "+1", "a@a.", "Bearer "])
def test_no_text_takes_it_long(piece: str) -> None:
    text = piece * (1_000_000 // len(piece))
    began = time.perf_counter()
    redact(text)
    assert time.perf_counter() - began < 10, "it grows with the text, not with its square"


def test_it_can_be_named_in_the_setting() -> None:
    assert load_redactor("app.redaction.patterns:redact").text("ada@example.org") == "[email]"
