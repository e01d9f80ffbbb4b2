"""Who reads a checkpoint's directory, and who may remove it: a shared and an exclusive lock on the directory itself.

The lock is the kernel's (flock): it dies with its process, so a reader that is killed keeps nothing, and it costs no
row and no file. Where the file system has no such locks, or does not share them between machines, reading goes on
without: what serves, served before or waits for a decision is never removed anyway, so only a reader of an abandoned
version could meet a missing file. Leaves out which directories go (`worker.retention`).
"""

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path


@contextmanager
def reading(directory: Path) -> Iterator[None]:
    """Keep a directory from being removed while the block reads it; what is no directory is left to the block."""
    try:
        handle = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    except OSError:  # the block will say what is wrong with it
        yield
        return
    try:
        with suppress(OSError):
            fcntl.flock(handle, fcntl.LOCK_SH)
        yield
    finally:
        os.close(handle)


@contextmanager
def alone(directory: Path) -> Iterator[bool]:
    """Hold a directory for as long as the block runs, if nobody reads or writes it.

    Yields:
        True: it is ours, or there is no such directory; False: somebody uses it.

    """
    try:
        handle = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    except FileNotFoundError:
        yield True
        return
    try:
        free = True
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            free = False
        except OSError:  # no locks here
            free = True
        yield free
    finally:
        os.close(handle)
