"""How much memory the host, or the container, leaves to this process: the least that any bound says.

Linux says what is available in `/proc/meminfo`; a container's bound stands in its control group or one above it, of
version 2 or 1; a process may have a bound of its own (ulimit -v). Where nothing is said, nothing bounds. What a group
holds of files read can be dropped, and counts as free. Leaves out accelerators (`training.memory.room`).
"""

import os
import resource
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import torch

from training.memory.room import usable_bytes

ROOT: Final = Path("/")
_GROUPS: Final = Path("sys/fs/cgroup")
# By version of control groups: files of the bound, of what is used, and the line of memory.stat that can be dropped.
_NAMES: Final = {
    2: ("memory.max", "memory.current", "inactive_file"),
    1: ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
}


def free(device: torch.device) -> int:
    """Bytes of a device that this process can have; of the host, by every bound there is."""
    return host_bytes() if device.type == "cpu" else usable_bytes(device)


def host_bytes(root: Path = ROOT) -> int:
    """Bytes of the host's memory that this process can have.

    Args:
        root: where `proc` and `sys` are.

    """
    return max(0, min([sys.maxsize, *_available(root), *_groups(root), *_own(root)]))


def _available(root: Path) -> Iterator[int]:
    """Give what Linux says a program can have without swapping."""
    for line in _lines(root / "proc/meminfo"):
        if line.startswith("MemAvailable:"):
            yield int(line.split()[1]) * 1024


def _own(root: Path) -> Iterator[int]:
    """Give what is left of the process's own bound on its addresses."""
    bound, _ = resource.getrlimit(resource.RLIMIT_AS)
    if bound != resource.RLIM_INFINITY:
        for line in _lines(root / "proc/self/statm"):
            yield bound - int(line.split()[0]) * os.sysconf("SC_PAGE_SIZE")


def _groups(root: Path) -> Iterator[int]:
    """Give what is left of the bound of each control group that this process is in."""
    for line in _lines(root / "proc/self/cgroup"):
        _, controllers, path = line.split(":", 2)
        if controllers and "memory" not in controllers.split(","):
            continue
        version, mount = (1, root / _GROUPS / "memory") if controllers else (2, root / _GROUPS)
        within = Path(path.lstrip("/"))
        for group in (within, *within.parents):  # in a container the path may be the host's: then only the root is here
            yield from _left(mount / group, version)


def _left(group: Path, version: int) -> Iterator[int]:
    """Give what is left of one control group's bound, if it has one."""
    bound, used, dropped = _NAMES[version]
    limits, taken = _lines(group / bound), _lines(group / used)
    if limits and taken and limits[0] != "max":
        files = [int(line.split()[1]) for line in _lines(group / "memory.stat") if line.split()[0] == dropped]
        yield int(limits[0]) - int(taken[0]) + sum(files)


def _lines(file: Path) -> list[str]:
    """Read what Linux says; nothing where it does not."""
    try:
        return file.read_text(encoding="utf-8").splitlines()
    except OSError:
        return []
