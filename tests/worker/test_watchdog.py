"""The watchdog: an overrun is reported with what hung and ends the process; a cancel and a fence reach the learner."""

import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable

import pytest

from app.errors import Cancelled, Fenced, Unavailable
from worker.watchdog import EXIT_CODE, Watchdog


def until(true: Callable[[], bool], seconds: float = 5.0) -> None:
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end, "it did not happen in time"
        time.sleep(0.005)


def never(phase: str, doing: str) -> None:
    raise AssertionError(f"{phase} overran: {doing}")


def test_a_hung_phase_ends_the_process_and_says_where_it_hung() -> None:
    program = """
        import time
        from worker.watchdog import Watchdog

        def hang_here():
            time.sleep(60)

        def report(phase, doing):
            print(phase, "hang_here" in doing, flush=True)

        with Watchdog(lambda: None, report, limit_s=0.3, every_s=0.05) as watchdog:
            watchdog.enter("update")
            hang_here()
    """
    began = time.monotonic()
    ended = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(program)], capture_output=True, text=True, check=False, timeout=30
    )
    assert ended.returncode == EXIT_CODE
    assert ended.stdout.split() == ["update", "True"]
    assert time.monotonic() - began < 15


def test_a_report_that_fails_ends_the_process_all_the_same() -> None:
    program = """
        import time
        from worker.watchdog import Watchdog

        def report(phase, doing):
            raise RuntimeError("no database")

        with Watchdog(lambda: None, report, limit_s=0.1, every_s=0.05):
            time.sleep(60)
    """
    ended = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(program)], check=False, timeout=30, capture_output=True
    )
    assert ended.returncode == EXIT_CODE


def test_a_heartbeat_that_hangs_does_not_hold_up_the_deadline() -> None:
    left: list[int] = []
    reported: list[str] = []
    ended = threading.Event()

    def beat() -> None:
        ended.wait(10)

    with Watchdog(
        beat, lambda phase, doing: reported.append(phase), limit_s=0.1, every_s=0.01, leave=left.append
    ) as watchdog:
        watchdog.enter("gate")
        until(lambda: left == [EXIT_CODE])
        ended.set()
    assert reported == ["gate"]


def test_each_phase_has_a_deadline_of_its_own() -> None:
    left: list[int] = []
    with Watchdog(lambda: None, never, limit_s=0.4, every_s=0.02, leave=left.append) as watchdog:
        for phase in ("claim", "batch", "update"):
            watchdog.enter(phase)
            time.sleep(0.25)
            watchdog.check()
    assert left == []


def test_the_operators_cancel_reaches_the_next_check() -> None:
    asked: list[str] = []
    with Watchdog(lambda: asked[0] if asked else None, never, limit_s=60, every_s=0.01) as watchdog:
        watchdog.enter("update")
        watchdog.check()
        asked.append("somebody cancelled it")
        until(watchdog.asked_to_end)
        with pytest.raises(Cancelled, match=r"somebody cancelled it \(during update\)"):
            watchdog.check()


def test_a_job_taken_over_ends_at_the_next_check() -> None:
    def beat() -> None:
        raise Fenced("taken over")

    with Watchdog(beat, never, limit_s=60, every_s=0.01) as watchdog:
        until(watchdog.asked_to_end)
        with pytest.raises(Fenced):
            watchdog.check()


def test_a_database_that_is_away_for_a_moment_costs_a_beat_and_not_the_job() -> None:
    beats: list[int] = []

    def beat() -> None:
        beats.append(1)
        if len(beats) < 3:
            raise Unavailable("away")

    with Watchdog(beat, never, limit_s=60, every_s=0.01) as watchdog:
        until(lambda: len(beats) > 4)
        watchdog.check()
