"""Several processes for one run: started here, or already by torchrun or `accelerate launch`.

Each is a session of its own, so Ctrl-C reaches only the one that started them, which hands it on once: to all of them
or none. If one fails the others are ended, and all end when the one that started them is gone. Leaves out what they
share (`training.distributed.ranks`).
"""

import multiprocessing
import os
import signal
import socket
import threading
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from importlib.util import find_spec
from multiprocessing.connection import wait
from multiprocessing.context import SpawnProcess
from types import FrameType
from typing import TYPE_CHECKING, Final

from app.errors import BadRequest, LepoError

if TYPE_CHECKING:
    from training.distributed.ranks import Ranks

SIGNALS: Final = (signal.SIGINT, signal.SIGTERM)
DEVICES: Final = ("auto", "cpu", "cuda")  # a process has the GPU of its number, where there are GPUs
ENDED: Final = (0, 130)  # exit codes of a run that ended well, or was stopped with a checkpoint


def named() -> int:
    """Count the processes that this one was started among, 1 if it was started alone."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def require_possible(device: str) -> None:
    """Refuse what several processes cannot do, before any is started.

    Raises:
        BadRequest: the device is one for all, or accelerate is missing.

    """
    if device not in DEVICES:
        raise BadRequest(f"several processes cannot share {device}: --device takes {', '.join(DEVICES)} with them")
    if find_spec("accelerate") is None:
        raise BadRequest("several processes need accelerate: pip install 'lepo-service[large]'")


def ranks_of(device: str) -> "AbstractContextManager[Ranks]":
    """Join the processes this one was started among."""
    from training.distributed.ranks import ALONE, joined

    return joined(device) if named() > 1 else nullcontext(ALONE)


@contextmanager
def told_once(ranks: "Ranks") -> Iterator[None]:
    """End every process when one meets what its caller can mend; the leading one tells of it."""
    mistake: LepoError | None = None
    try:
        yield
    except LepoError as error:
        mistake = error
    found = [one for one in ranks.gathered(None if mistake is None else mistake.message) if one is not None]
    if mistake is not None and ranks.leads:
        raise mistake
    if found:
        raise BadRequest(found[0]) if ranks.leads else SystemExit(1)


def run_together(count: int, arguments: Sequence[str]) -> int:
    """Run `lepo` with these arguments in `count` processes that learn together; return their exit code."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    context = multiprocessing.get_context("spawn")
    processes = [context.Process(target=_join, args=(rank, count, port, list(arguments))) for rank in range(count)]
    with _handing_on(processes):
        for process in processes:
            process.start()
        return _outcome(processes)


def _join(rank: int, count: int, port: int, arguments: list[str]) -> None:
    """Be one of the processes."""
    os.setsid()
    threading.Thread(target=_end_with_parent, daemon=True).start()
    threads = max(1, (os.cpu_count() or 1) // count)
    os.environ.setdefault("OMP_NUM_THREADS", str(threads))
    place = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": count, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    os.environ.update({name: str(value) for name, value in place.items()})
    from app.cli import build

    build().main(arguments, prog_name="lepo")


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)


@contextmanager
def _handing_on(processes: Sequence[SpawnProcess]) -> Iterator[None]:
    """Hand signals on to the processes."""

    def hand_on(number: int, _frame: FrameType | None) -> None:
        for process in processes:
            if process.pid is not None and process.exitcode is None:
                os.kill(process.pid, number)

    before = [signal.signal(number, hand_on) for number in SIGNALS]
    try:
        yield
    finally:
        for number, handler in zip(SIGNALS, before, strict=True):
            signal.signal(number, handler)


def _outcome(processes: Sequence[SpawnProcess]) -> int:
    """Wait for all; once one has failed the others wait for it in vain and are killed."""
    while running := [process for process in processes if process.exitcode is None]:
        wait([process.sentinel for process in running])
        if any(process.exitcode not in {None, *ENDED} for process in processes):
            for process in running:
                process.kill()
                process.join()
    codes = [process.exitcode or 0 for process in processes]
    failed = [code for code in codes if code not in ENDED and code != -signal.SIGKILL] or codes
    return failed[0] if failed[0] >= 0 else 128 - failed[0]
