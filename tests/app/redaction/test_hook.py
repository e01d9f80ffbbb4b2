"""The hook: loaded at the start or not at all, applied to every text of a value, and closed when it fails."""

import logging

import pytest

from app.errors import Unavailable
from app.redaction.hook import load_redactor

HIDE = "tests.app.redaction.functions:hide"


@pytest.mark.parametrize(
    "name",
    [
        "no.such.module:f",
        "tests.app.redaction.functions:nothing",
        "tests.app.redaction.functions",
        "",
        ":",
        "tests.app.redaction.functions:always_fails",
        "tests.app.redaction.functions:NOT_A_FUNCTION",
    ],
)
def test_what_cannot_redact_refuses_to_start(name: str) -> None:
    with pytest.raises(ValueError, match="LEPO_REDACT"):
        load_redactor(name)


def test_every_text_of_a_value_is_redacted() -> None:
    redactor = load_redactor(HIDE)
    given = {"a sesame": ["sesame", {"b": "open sesame"}, 3, None, True], "c": 1.5}
    assert redactor.json(given) == {"a [word]": ["[word]", {"b": "open [word]"}, 3, None, True], "c": 1.5}
    assert redactor.optional(None) is None
    assert redactor.optional("sesame") == "[word]"


def test_without_a_function_everything_stays_the_same_object() -> None:
    given = {"a": ["sesame"]}
    assert load_redactor(None).json(given) is given


@pytest.mark.parametrize("text", ["trouble with 4711", "numb 4711"])
def test_a_failure_is_a_503_that_says_nothing_of_the_text(text: str, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.DEBUG), pytest.raises(Unavailable) as caught:
        load_redactor(HIDE).text(text)
    assert caught.value.status == 503
    assert caught.value.code == "redaction_failed"
    assert caught.value.__cause__ is None
    assert "LEPO_REDACT" in caplog.text
    assert "4711" not in caplog.text + caught.value.message
