"""Keeps named processes running: starts them in order, restarts the crashed, stops them in reverse.

Leaves out what the processes are (`app.stack.postgres`, `redis`, `up`). A process lives in its own session, with its
output in `<var>/logs/<name>.log`, and holds a lock on `<var>/run/<name>.lock` for as long as it lives: a lock that
cannot be had is a process left over from a supervisor that was killed, and its pid stands in the file.
"""

import contextlib
import fcntl
import logging
import os
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import IO, Final

from app.stack.child import Child

log: Final = logging.getLogger(__name__)

FIRST_BACKOFF_SECONDS: Final = 0.2
LONGEST_BACKOFF_SECONDS: Final = 10.0
STEADY_SECONDS: Final = 30.0  # running this long forgives earlier crashes
LOOK_SECONDS: Final = 0.1
LEASH: Final = Path(__file__).with_name("leash.py")


class AlreadyRunning(RuntimeError):
    """Another supervisor owns the directory."""


class ChildFailed(RuntimeError):
    """A process did not become ready; the message quotes the end of its log."""


@dataclass(slots=True)
class Running:
    """A child and its present process."""

    child: Child
    process: subprocess.Popen[bytes]
    lock: IO[str]  # held open so that this supervisor, too, keeps the lock
    started: float  # monotonic seconds
    crashes: int = 0  # in a row
    restart_at: float | None = None  # monotonic seconds; None while it runs
    restarts: int = 0  # since the supervisor started


@dataclass(slots=True)
class Supervisor:
    """Owner of the processes under one directory.

    Use as a context manager: leaving it stops every process. Processes are started from one thread that lives as long
    as the supervisor, since Linux ties a process to the *thread* that started it.

    Raises:
        AlreadyRunning: another supervisor owns the directory.

    """

    var_dir: Path  # holds run/ and logs/
    _lock: IO[str] = field(init=False)  # on run/supervisor.lock
    _running: dict[str, Running] = field(default_factory=dict, init=False)  # in order of start
    _starter: ThreadPoolExecutor = field(init=False)
    _watcher: threading.Thread = field(init=False)
    _stopping: threading.Event = field(default_factory=threading.Event, init=False)
    _changing: threading.RLock = field(default_factory=threading.RLock, init=False)

    def __post_init__(self) -> None:
        self.var_dir = self.var_dir.resolve()
        (self.var_dir / "logs").mkdir(parents=True, exist_ok=True)
        (self.var_dir / "run").mkdir(parents=True, exist_ok=True)
        self._lock = own(self.lock_path("supervisor"))
        self._starter = ThreadPoolExecutor(max_workers=1, thread_name_prefix="lepo-starter")
        self._watcher = threading.Thread(target=self._watch, name="lepo-watcher", daemon=True)
        self._watcher.start()

    def __enter__(self) -> "Supervisor":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def start(self, child: Child, *, wait: bool = True) -> int:
        """Start a process and, unless told otherwise, wait until it is ready.

        Returns:
            Its pid.

        Raises:
            ChildFailed: it ended, or was not ready in time.
            ValueError: a process of that name runs here already.

        """
        with self._changing:
            if child.name in self._running:
                raise ValueError(f"{child.name} runs already under this supervisor; give the second another name")
            lock = take_lock(self.lock_path(child.name), child.stop_seconds)
            process = self._starter.submit(self._spawn, child, lock).result()
            self._running[child.name] = Running(child, process, lock, time.monotonic())
        if wait:
            self.wait_ready(child.name, forgiving=False)
        return self.pid(child.name)

    def wait_ready(self, name: str, *, forgiving: bool = True) -> None:
        """Wait until a process says that it is ready.

        Args:
            name: of the process.
            forgiving: whether it may crash and be restarted meanwhile.

        Raises:
            ChildFailed: it ended before, or took longer than it may.

        """
        child = self._running[name].child
        deadline = time.monotonic() + child.ready_seconds
        while child.ready is not None and not child.ready():
            running = self._running.get(name)
            if running is None or self._stopping.is_set():
                raise ChildFailed(f"{name} was stopped while it started")
            if not forgiving and running.process.poll() is not None:
                self.stop_one(name)
                raise ChildFailed(f"{name} ended with status {running.process.returncode}. {self.log_tail(name)}")
            if time.monotonic() > deadline:
                raise ChildFailed(f"{name} was not ready after {child.ready_seconds:.0f} s. {self.log_tail(name)}")
            time.sleep(0.02)

    def pid(self, name: str) -> int:
        """Give the pid of the process that runs under this name now."""
        return self._running[name].process.pid

    def pids(self) -> dict[str, int]:
        """Give every process's pid by name."""
        return {name: running.process.pid for name, running in self._running.items()}

    def restarts(self, name: str) -> int:
        """Count how often this process was started again after it ended by itself."""
        return self._running[name].restarts

    def is_running(self, name: str) -> bool:
        """Tell whether the process runs at this moment."""
        running = self._running.get(name)
        return running is not None and running.process.poll() is None

    def kill(self, name: str, signal_number: int = signal.SIGKILL) -> int:
        """Send a process a signal (it will be restarted if that ends it); returns the pid it had."""
        process = self._running[name].process
        process.send_signal(signal_number)
        return process.pid

    def stop_one(self, name: str) -> None:
        """Stop one process for good: its stop signal, patience, then SIGKILL to its whole session."""
        with self._changing:
            running = self._running.pop(name, None)
        if running is not None:
            end(running.process, running.child.stop_signal, running.child.stop_seconds)
            running.lock.close()

    def stop(self) -> None:
        """Stop every process, the last started first. Safe to call twice."""
        self._stopping.set()
        if threading.current_thread() is not self._watcher:
            self._watcher.join()
        for name in reversed(list(self._running)):
            self.stop_one(name)
        self._starter.shutdown()
        self._lock.close()

    def log_path(self, name: str) -> Path:
        """Where the output of a process goes."""
        return self.var_dir / "logs" / f"{name}.log"

    def lock_path(self, name: str) -> Path:
        """Where a process's lock and pid are."""
        return self.var_dir / "run" / f"{name}.lock"

    def log_tail(self, name: str, lines: int = 12) -> str:
        """Quote the end of a process's log."""
        path = self.log_path(name)
        text = path.read_text(errors="replace") if path.exists() else ""
        return f"The end of {path}:\n" + "\n".join(text.splitlines()[-lines:])

    def _spawn(self, child: Child, lock: IO[str]) -> subprocess.Popen[bytes]:
        """Start a process on the starter thread and write its pid into its lock."""
        user = "-" if child.user_id is None else str(child.user_id)
        leash = (sys.executable, "-I", "-S", str(LEASH), str(os.getpid()), str(int(child.orphan_signal)), user)
        with self.log_path(child.name).open("ab") as output:
            process = subprocess.Popen(  # noqa: S603 - the programs are ours
                (*leash, *child.argv),
                env={**os.environ, **child.env},
                cwd=child.cwd,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                pass_fds=(lock.fileno(),),
            )
        write_pid(lock, process.pid)
        return process

    def _watch(self) -> None:
        """Look after the processes until told to stop."""
        while not self._stopping.wait(LOOK_SECONDS):
            with self._changing:
                for running in list(self._running.values()):
                    self._look_after(running)

    def _look_after(self, running: Running) -> None:
        """Restart a process that ended, later each time it ends soon after its start."""
        now = time.monotonic()
        if running.restart_at is None:
            if running.process.poll() is None:
                return
            running.crashes = 1 if now - running.started > STEADY_SECONDS else running.crashes + 1
            pause = min(FIRST_BACKOFF_SECONDS * 2 ** (running.crashes - 1), LONGEST_BACKOFF_SECONDS)
            running.restart_at = now + pause
            log.warning("%s ended with %s; again in %.1f s", running.child.name, running.process.returncode, pause)
        elif now >= running.restart_at:
            kill_session(running.process.pid)
            running.process = self._starter.submit(self._spawn, running.child, running.lock).result()
            running.started, running.restart_at, running.restarts = now, None, running.restarts + 1


def own(path: Path) -> IO[str]:
    """Take a directory for this supervisor.

    Raises:
        AlreadyRunning: another has it.

    """
    lock = path.open("a+")
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        lock.seek(0)
        pid = lock.read().strip()
        lock.close()
        raise AlreadyRunning(
            f"lepo runs already in {path.parent.parent} (pid {pid}). Stop it, or set LEPO_VAR_DIR to another directory."
        ) from None
    write_pid(lock, os.getpid())
    return lock


def is_held(path: Path) -> bool:
    """Tell whether a process from an earlier run still holds its lock."""
    with path.open("a+") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False


def write_pid(lock: IO[str], pid: int) -> None:
    """Write who holds a lock into it."""
    lock.seek(0)
    lock.truncate()
    lock.write(f"{pid}\n")
    lock.flush()


def take_lock(path: Path, patience: float) -> IO[str]:
    """Take the lock of a process, ending the process that still holds it from an earlier run.

    Raises:
        ChildFailed: the lock stays taken.

    """
    lock = path.open("a+")
    deadline = time.monotonic() + patience
    told = False
    while True:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            lock.seek(0)
            pid = lock.read().strip()
            late = time.monotonic() > deadline
            if pid.isdigit() and (late or not told):
                log.warning("Ending %s, pid %s, left over from an earlier run", path.stem, pid)
                with contextlib.suppress(ProcessLookupError):
                    os.kill(int(pid), signal.SIGKILL if late else signal.SIGTERM)
                told = True
            if time.monotonic() > deadline + 2.0:
                lock.close()
                raise ChildFailed(f"{path} is held by a process that does not end; stop pid {pid} by hand") from None
            time.sleep(0.05)
        else:
            return lock


def end(process: subprocess.Popen[bytes], stop_signal: signal.Signals, patience: float) -> None:
    """Ask a process to end, wait, and kill what is left of its session."""
    if process.poll() is None:
        process.send_signal(stop_signal)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(patience)
    kill_session(process.pid)
    process.wait()


def kill_session(pid: int) -> None:
    """Kill every process of the group that `pid` led."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(pid, signal.SIGKILL)
