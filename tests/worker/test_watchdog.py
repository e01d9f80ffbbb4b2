"""The watchdog: an overrun is reported with what hung and ends the process; a cancel and a fence reach the learner."""

import signal
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable

import pytest

from app.errors import Cancelled, Fenced, Unavailable
from tests.patience import PATIENCE_S
from worker.watchdog import EXIT_CODE, START_S, Watchdog


def until(true: Callable[[], bool], seconds: float = PATIENCE_S) -> None:
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end, "it did not happen in time"
        time.sleep(0.005)


def never(phase: str, wrong: str, doing: str) -> None:
    raise AssertionError(f"{phase} {wrong}: {doing}")


def test_a_hung_phase_ends_the_process_and_says_where_it_hung() -> None:
    program = """
        import time
        from worker.watchdog import Watchdog

        def hang_here():
            time.sleep(60)

        def report(phase, wrong, doing):
            print(phase, "LEPO_PHASE_DEADLINE" in wrong, "hang_here" in doing, flush=True)

        with Watchdog(lambda: None, report, limit_s=0.3, every_s=0.05) as watchdog:
            watchdog.enter("update")
            hang_here()
    """
    began = time.monotonic()
    ended = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(program)], capture_output=True, text=True, check=False, timeout=30
    )
    assert ended.returncode == EXIT_CODE
    assert ended.stdout.split() == ["update", "True", "True"]
    assert time.monotonic() - began < 15


def test_a_report_that_fails_ends_the_process_all_the_same() -> None:
    program = """
        import time
        from worker.watchdog import Watchdog

        def report(phase, wrong, doing):
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
        beat, lambda phase, wrong, doing: reported.append(phase), limit_s=0.1, every_s=0.01, leave=left.append
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


def run(program: str) -> "subprocess.CompletedProcess[str]":
    """Run a program that has the alarm and short bounds."""
    head = """
        import threading, time
        from worker import watchdog
        from worker.watchdog import arm
        from worker.watchdog import Watchdog

        watchdog.START_S = watchdog.LAST_WORDS_S = watchdog.GRACE_S = 0.3
    """
    whole = textwrap.dedent(head) + textwrap.dedent(program)
    return subprocess.run([sys.executable, "-c", whole], capture_output=True, text=True, check=False, timeout=30)


def test_a_thread_that_dies_before_it_begins_does_not_hold_the_process_up_for_ever() -> None:
    """What a new thread meets that has no memory for its first call: whoever started it waits without end."""
    ended = run("""
        threading.Thread._bootstrap = lambda self: None
        with Watchdog(lambda: None, lambda *_: None, limit_s=60, alarm=arm()):
            print("began")
    """)
    assert ended.returncode == -signal.SIGALRM
    assert ended.stdout == ""
    assert "in __enter__" in ended.stderr, "the log says where it hung"


@pytest.mark.parametrize("thread", ["lepo-pulse", "lepo-guard"])
def test_a_thread_that_cannot_begin_leaves_no_heartbeat_of_a_job_that_nobody_does(
    thread: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    start = threading.Thread.start
    beats: list[int] = []
    alarms: list[float] = []

    def refuse(self: threading.Thread) -> None:
        if self.name == thread:
            raise RuntimeError("can't start new thread")
        start(self)

    monkeypatch.setattr(threading.Thread, "start", refuse)
    with (
        pytest.raises(RuntimeError, match="can't start new thread"),
        Watchdog(lambda: beats.append(1), never, limit_s=60, every_s=0.2, alarm=alarms.append),
    ):
        raise AssertionError("a job began without its watchdog")
    time.sleep(0.5)
    assert beats == []
    assert alarms == [START_S, 0]


def test_a_job_without_progress_has_no_heartbeat_any_more_and_ends_the_process() -> None:
    left: list[int] = []
    reported: list[tuple[str, bool]] = []
    beats: list[int] = []
    with Watchdog(
        lambda: beats.append(1),
        lambda phase, wrong, doing: reported.append((phase, "0.5 s that LEPO_STALL_DEADLINE" in wrong)),
        limit_s=60,
        stall_s=0.5,
        every_s=0.05,
        leave=left.append,
    ) as watchdog:
        watchdog.enter("update")
        until(lambda: left == [EXIT_CODE])
        before = len(beats)
        time.sleep(0.3)
        assert len(beats) == before > 0
    assert reported == [("update", True)]


def test_who_gets_somewhere_may_take_longer_than_the_bound_without_progress() -> None:
    left: list[int] = []
    with Watchdog(lambda: None, never, limit_s=60, stall_s=0.4, every_s=0.02, leave=left.append) as watchdog:
        watchdog.enter("update")
        for _ in range(5):
            time.sleep(0.2)
            watchdog.asked_to_end()
    assert left == []


def test_one_long_operation_that_computes_is_no_hang_and_ends_at_the_phases_deadline() -> None:
    left: list[int] = []
    reported: list[str] = []
    with Watchdog(
        lambda: None,
        lambda phase, wrong, doing: reported.append(wrong),
        limit_s=1.5,
        stall_s=0.4,
        every_s=0.02,
        leave=left.append,
    ) as watchdog:
        watchdog.enter("update")
        began = time.monotonic()
        while time.monotonic() - began < 1.0:
            continue
        assert left == []
        while not left:
            assert time.monotonic() - began < 10
    assert ["LEPO_PHASE_DEADLINE" in wrong for wrong in reported] == [True]


@pytest.mark.parametrize("error", [MemoryError(), RuntimeError("nobody thought of this")])
def test_a_heartbeat_that_fails_of_anything_is_followed_by_the_next(error: Exception) -> None:
    beats: list[int] = []

    def beat() -> None:
        beats.append(1)
        if len(beats) < 3:
            raise error

    with Watchdog(beat, never, limit_s=60, every_s=0.01) as watchdog:
        until(lambda: len(beats) > 3)
        watchdog.check()


def test_a_report_that_hangs_ends_the_process_all_the_same() -> None:
    ended = run("""
        with Watchdog(lambda: None, lambda *_: time.sleep(60), limit_s=0.1, every_s=0.05, alarm=arm()):
            time.sleep(60)
    """)
    assert ended.returncode == -signal.SIGALRM
    assert "LEPO_PHASE_DEADLINE" in ended.stderr


def test_a_hang_is_ended_though_the_watchdogs_own_threads_are_dead() -> None:
    ended = run("""
        def dies(self):
            raise MemoryError

        Watchdog._beats = Watchdog._guards = dies
        with Watchdog(lambda: None, lambda *_: None, limit_s=60, stall_s=0.2, alarm=arm()) as watchdog:
            watchdog.enter("update")
            time.sleep(60)
    """)
    assert ended.returncode == -signal.SIGALRM
    assert "<module>" in ended.stderr, "the log says where it hung"


def test_the_alarm_is_off_once_the_job_is_over() -> None:
    ended = run("""
        alarm = arm()
        with Watchdog(lambda: None, lambda *_: None, limit_s=60, stall_s=0.1, every_s=0.02, alarm=alarm) as watchdog:
            watchdog.enter("update")
        time.sleep(1.5)
        print("still here")
    """)
    assert (ended.returncode, ended.stdout) == (0, "still here\n")
