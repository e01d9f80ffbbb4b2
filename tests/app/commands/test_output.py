"""What commands print: every value on one line, tables that fit a terminal and are whole elsewhere."""

from datetime import UTC, datetime

import pytest

from app.commands.output import cell, say_table


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, "-"),
        ("", "-"),
        ("a\n b", "a b"),
        (True, "yes"),
        (0.5, "0.500"),
        (0, "0"),
        ({"a": 1, "b": None}, "a 1, b -"),
        ({}, "-"),
        (["x", 2], "x, 2"),
    ],
    ids=str,
)
def test_a_value_is_one_line(value: object, text: str) -> None:
    assert cell(value) == text


def test_times_are_of_this_machine() -> None:
    at = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
    assert cell(at) == f"{at.astimezone():%Y-%m-%d %H:%M:%S}"


def test_a_table_fits_the_terminal_and_is_whole_elsewhere(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = [("one", "x" * 40), ("three", None)]
    say_table(("id", "text"), rows, "nothing")
    assert capsys.readouterr().out.splitlines() == ["ID     TEXT", f"one    {'x' * 40}", "three  -"]
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    monkeypatch.setenv("COLUMNS", "20")
    say_table(("id", "text"), rows, "nothing")
    assert capsys.readouterr().out.splitlines()[1] == f"one    {'x' * 12}…"
    say_table(("id", "text"), [], "nothing")
    assert capsys.readouterr().out == "nothing\n"
