"""The supervisor, on real processes: start, crash, restart, stop, and what a killed supervisor leaves behind."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from app.stack.child import Child
from app.stack.supervisor import AlreadyRunning, ChildFailed, Supervisor
from tests.patience import PATIENCE_S

SLEEP = (sys.executable, "-c", "import time; print('hello', flush=True); time.sleep(600)")
STUBBORN = (
    sys.executable,
    "-c",
    "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('deaf', flush=True); time.sleep(600)",
)
OWNER = """
import sys, time
from pathlib import Path
from app.stack.child import Child
from app.stack.supervisor import Supervisor
supervisor = Supervisor(Path(sys.argv[1]))
print(supervisor.start(Child("sleeper", tuple(sys.argv[2:]))), flush=True)
time.sleep(600)
"""


@pytest.fixture
def supervisor(tmp_path: Path) -> Iterator[Supervisor]:
    with Supervisor(tmp_path) as started:
        yield started


def until(happened: Callable[[], bool], seconds: float = PATIENCE_S) -> None:
    deadline = time.monotonic() + seconds
    while not happened():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.02)


def alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    status = Path(f"/proc/{pid}/status")
    return not (status.exists() and "State:\tZ" in status.read_text())


def said(supervisor: Supervisor, name: str, word: str) -> Callable[[], bool]:
    return lambda: supervisor.log_path(name).exists() and word in supervisor.log_path(name).read_text()


def test_start_log_and_stop(tmp_path: Path) -> None:
    with Supervisor(tmp_path) as supervisor:
        pid = supervisor.start(Child("sleeper", SLEEP, ready=said(supervisor, "sleeper", "hello")))
        assert supervisor.pids() == {"sleeper": pid}
        assert alive(pid)
        with pytest.raises(ValueError, match="already under"):
            supervisor.start(Child("sleeper", SLEEP))
    assert not alive(pid)


def test_a_killed_process_comes_back(supervisor: Supervisor) -> None:
    pid = supervisor.start(Child("sleeper", SLEEP))
    assert supervisor.kill("sleeper") == pid
    until(lambda: supervisor.restarts("sleeper") == 1)
    assert supervisor.pid("sleeper") != pid
    assert supervisor.is_running("sleeper")


def test_a_process_that_keeps_crashing_is_restarted_ever_later(supervisor: Supervisor) -> None:
    begun = time.monotonic()
    supervisor.start(Child("crasher", (sys.executable, "-S", "-c", "raise SystemExit(3)")))
    until(lambda: supervisor.restarts("crasher") == 3)
    assert time.monotonic() - begun >= 0.2 + 0.4 + 0.8


def test_a_process_that_ends_while_it_starts_is_told_with_its_last_words(supervisor: Supervisor) -> None:
    program = (sys.executable, "-c", "raise SystemExit('no such model')")
    with pytest.raises(ChildFailed, match=r"(?s)status 1.*no such model"):
        supervisor.start(Child("api", program, ready=lambda: False))
    assert supervisor.pids() == {}


def test_a_process_that_is_never_ready(supervisor: Supervisor) -> None:
    with pytest.raises(ChildFailed, match="not ready after 0 s"):
        supervisor.start(Child("api", SLEEP, ready=lambda: False, ready_seconds=0.2))


def test_one_that_will_not_stop_is_killed_with_its_children(supervisor: Supervisor) -> None:
    family = (
        sys.executable,
        "-c",
        f"import subprocess; p = subprocess.Popen({list(STUBBORN)!r}); print('child', p.pid, flush=True); p.wait()",
    )
    supervisor.start(Child("family", family, stop_seconds=0.3))
    until(said(supervisor, "family", "deaf"))
    text = supervisor.log_path("family").read_text()
    grandchild = int(text.split("child ")[1].split()[0])
    pid = supervisor.pid("family")
    supervisor.stop_one("family")
    until(lambda: not alive(pid) and not alive(grandchild))


def test_only_one_supervisor_per_directory(supervisor: Supervisor) -> None:
    with pytest.raises(AlreadyRunning, match=f"pid {os.getpid()}"):
        Supervisor(supervisor.var_dir)


def owner(directory: Path, program: tuple[str, ...]) -> tuple[subprocess.Popen[str], int]:
    process = subprocess.Popen(
        [sys.executable, "-c", OWNER, str(directory), *program], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    return process, int(process.stdout.readline())


def test_processes_die_with_a_killed_supervisor(tmp_path: Path) -> None:
    process, child = owner(tmp_path, SLEEP)
    assert alive(child)
    process.kill()
    process.communicate()
    until(lambda: not alive(child))
    with Supervisor(tmp_path) as following:
        following.start(Child("sleeper", SLEEP))


def test_what_a_killed_supervisor_left_behind_is_ended_before_a_new_one_starts(tmp_path: Path) -> None:
    begin = Child("sleeper", STUBBORN, stop_seconds=0.5)
    with Supervisor(tmp_path) as first:
        first.start(begin)
        lock = first._running["sleeper"].lock
        left = subprocess.Popen(STUBBORN, pass_fds=(lock.fileno(),), start_new_session=True)
        first.stop_one("sleeper")
    (tmp_path / "run" / "sleeper.lock").write_text(f"{left.pid}\n")
    with Supervisor(tmp_path) as second:
        pid = second.start(begin)
        assert left.wait(5) in {-signal.SIGKILL, -signal.SIGTERM}
        assert alive(pid)
