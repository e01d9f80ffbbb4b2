"""Progress where there is no terminal: a line now and then, and none of what is quick."""

import io
import time

from rich.console import Console

from app.demo.progress import counting, waiting


def test_what_takes_long_says_for_how_long() -> None:
    written = io.StringIO()
    with waiting(Console(file=written), "the model [0.5B] is loaded", every_s=0.05):
        time.sleep(0.2)
    lines = written.getvalue().splitlines()
    assert lines
    assert set(lines) == {"  0 s: the model [0.5B] is loaded"}


def test_what_is_quick_says_nothing() -> None:
    written = io.StringIO()
    console = Console(file=written)
    with waiting(console, "problems are made"):
        pass
    with counting(console, 3) as one_more:
        for _ in range(3):
            one_more()
    assert written.getvalue() == ""


def test_counting_says_how_far_it_is_but_not_the_end() -> None:
    written = io.StringIO()
    with counting(Console(file=written), 3, every_s=0.0) as one_more:
        for _ in range(3):
            one_more()
    assert written.getvalue().splitlines() == ["  0 s: 1 of 3", "  0 s: 2 of 3"]


def test_a_terminal_is_left_as_it_was() -> None:
    written = io.StringIO()
    console = Console(file=written, force_terminal=True, width=80)
    with waiting(console, "the model is loaded"):
        time.sleep(0.2)
    assert "the model is loaded" in written.getvalue()
    assert written.getvalue().endswith("\x1b[?25h\r\x1b[1A\x1b[2K"), "the spinner is gone"
