"""A few child processes for gradings that can hang: reused while they answer, killed and replaced when they overrun.

Started by exec, never by fork, so threads, CUDA and signal handlers of the parent do not matter, and any thread may
ask. A child gets nothing of its parent's environment, where secrets are. Leaves out what it computes (see `child`).
"""

import atexit
import json
import os
import queue
import selectors
import subprocess
import sys
from collections.abc import Mapping
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any

from training.graders.deadline import Deadline

CHILD = Path(__file__).with_name("child.py")
MATH = Path(__file__).with_name("child_math.py")
ALONE = ("-P", "-s", "-B")  # neither its own directory's modules nor the user's; no caches written
# All a child's environment: sets come in one order everywhere, and each library keeps to one thread.
ENVIRONMENT = {"PATH": os.defpath, "PYTHONHASHSEED": "0", "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
START_SECONDS = 60.0  # a child imports sympy before it is ready: about one second on an idle machine
READ_BYTES = 65_536


class GradingOverranError(Exception):
    """The grading did not end in time; its child was killed."""


class GradingEndedError(Exception):
    """The child ended before it replied: out of memory, or an error nobody expected."""


class Child:
    """One process; used by one thread at a time."""

    def __init__(self, judges: Path) -> None:
        self._process = subprocess.Popen(  # noqa: S603  our own files, by our own interpreter
            [sys.executable, *ALONE, str(CHILD), str(judges)],
            env=ENVIRONMENT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
        )
        try:
            self._read_line(Deadline(START_SECONDS))
        except (GradingOverranError, GradingEndedError):
            self.kill()
            raise

    @property
    def pid(self) -> int:
        """The process id."""
        return self._process.pid

    def ask(self, request: Mapping[str, Any], deadline: Deadline) -> dict[str, Any]:
        """Send a request and return the reply.

        Raises:
            GradingOverranError: no reply in time; the child must be killed.
            GradingEndedError: the child is gone.

        """
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(json.dumps(request).encode() + b"\n")
            self._process.stdin.flush()
        except BrokenPipeError as error:
            raise GradingEndedError from error
        reply: dict[str, Any] = json.loads(self._read_line(deadline))
        return reply

    def _read_line(self, deadline: Deadline) -> bytes:
        assert self._process.stdout is not None
        line = b""
        with selectors.DefaultSelector() as selector:
            selector.register(self._process.stdout, selectors.EVENT_READ)
            while not line.endswith(b"\n"):
                if not selector.select(deadline.remaining()):
                    raise GradingOverranError
                piece = os.read(self._process.stdout.fileno(), READ_BYTES)
                if not piece:
                    raise GradingEndedError
                line += piece
        return line

    def kill(self) -> None:
        """End the process at once, whatever it is doing, and collect it."""
        self._process.kill()
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout):
            assert pipe is not None
            with suppress(BrokenPipeError):  # what was still buffered for a dead child is lost, as it should be
                pipe.close()


class Children:
    """A fixed number of children, each started when first needed.

    Args:
        size: most processes.
        judges: the file that says what they can be asked; equality in mathematics and of texts when not given.

    """

    def __init__(self, size: int, judges: Path = MATH) -> None:
        self._judges = judges
        self._free: queue.LifoQueue[Child | None] = queue.LifoQueue()
        self._size = size
        for _ in range(size):
            self._free.put(None)

    def ask(self, request: Mapping[str, Any], deadline_s: float) -> dict[str, Any]:
        """Have a free child answer the request.

        The deadline covers the wait for a free child and the grading; starting a child, which only the first
        request and the one after an overrun do, comes on top.

        Raises:
            GradingOverranError: all children stayed busy, or this request took too long.
            GradingEndedError: the child ended before it replied.

        """
        waiting = Deadline(deadline_s)
        try:
            child = self._free.get(timeout=deadline_s)
        except queue.Empty as error:
            raise GradingOverranError from error
        left = waiting.remaining()
        answered = None
        try:
            child = child or Child(self._judges)
            reply = child.ask(request, Deadline(left))
            answered = child
        finally:
            if child is not None and answered is None:
                child.kill()
            self._free.put(answered)
        return reply

    def pids(self) -> list[int]:
        """Return the process ids of the children that wait for work."""
        return [child.pid for child in list(self._free.queue) if child is not None]

    def close(self) -> None:
        """End all children, waiting for those at work."""
        for _ in range(self._size):
            child = self._free.get()
            if child is not None:
                child.kill()
        for _ in range(self._size):
            self._free.put(None)


def children_until_exit(judges: Path = MATH) -> Children:
    """Make a few children that end with this process; few, since processes are what is scarce."""
    children = Children(2, judges)
    atexit.register(children.close)
    return children


@cache
def shared_children() -> Children:
    """Return this process's children for mathematics. Ended at exit."""
    return children_until_exit()
