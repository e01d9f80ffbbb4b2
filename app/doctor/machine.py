"""What the machine has: the port, disk, memory, cores, a GPU.

Leaves out the model that needs them (`app.doctor.model`).
"""

import os
import shutil
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from app.doctor.finding import Finding
from app.settings import Settings
from app.stack.address_file import running_address, supervisor_pid

GB: Final = 1e9
LEAST_DISK: Final = 2 * GB  # Postgres, logs and a few checkpoints of a small model
CGROUP: Final = Path("/sys/fs/cgroup/memory.max")


def port(settings: Settings) -> Finding:
    """Look at who has the port."""
    running = running_address(settings.var_dir)
    if running is not None:
        pid = supervisor_pid(settings.var_dir)
        return Finding("port", "ok", f"the stack of {settings.var_dir} (pid {pid}) answers at {running.url}")
    where = f"{settings.host}:{settings.port}"
    if settings.port == 0:
        return Finding("port", "ok", "a free one is taken at the start (LEPO_PORT=0)")
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(settings.host, settings.port, type=socket.SOCK_STREAM)[
            0
        ]
        with socket.socket(family, kind, protocol) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(address)
    except OSError as error:
        do = "if that is your server, all is well; else stop who has it, or set LEPO_PORT or LEPO_HOST"
        return Finding("port", "warn", f"{where} cannot be had: {error.strerror}", do)
    return Finding("port", "ok", f"{where} is free")


def disk(settings: Settings) -> Finding:
    """Look at the room under var_dir."""
    place = next(one for one in (settings.var_dir.resolve(), *settings.var_dir.resolve().parents) if one.is_dir())
    free = shutil.disk_usage(place).free
    words = f"{free / GB:.1f} GB free under {settings.var_dir}"
    if not os.access(place, os.W_OK):
        return Finding("disk", "fail", f"{place} cannot be written to", "set LEPO_VAR_DIR, or give it to this user")
    if free < LEAST_DISK:
        return Finding("disk", "fail", words, "make room, lower LEPO_KEEP_CHECKPOINTS or set LEPO_DISK_QUOTA")
    return Finding("disk", "ok", words)


def memory_free() -> int:
    """Bytes that processes may still take: of the machine, and of the control group that holds this one."""
    found = [os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")]
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
        found = [int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:")] or found
        limit = CGROUP.read_text().strip()
        used = int(CGROUP.with_name("memory.current").read_text())
        if limit.isdecimal():
            found.append(max(0, int(limit) - used))
    except (OSError, ValueError):
        pass
    return min(found)


def cores(settings: Settings) -> Finding:
    """Look at the cores that torch is to use."""
    there = len(os.sched_getaffinity(0))
    words = f"{there} for a server's and a worker's {settings.threads} threads each (LEPO_THREADS)"
    if settings.threads > there:
        return Finding("cores", "warn", words, f"set LEPO_THREADS to {there} or less")
    return Finding("cores", "ok", words)


def gpu(settings: Settings) -> Iterator[Finding]:
    """Look for the device that is wished for."""
    import torch

    there = torch.cuda.is_available()
    if settings.device == "cpu" or (settings.device == "auto" and not there):
        beside = "; there is one, unused (LEPO_DEVICE=cpu)" if there else ""
        yield Finding("gpu", "ok", f"none is used: everything runs on the CPU{beside}")
        return
    if not there:
        do = "install a torch with CUDA and a driver that suits it (nvidia-smi), or set LEPO_DEVICE=cpu"
        yield Finding("gpu", "fail", f"LEPO_DEVICE={settings.device}, and torch {torch.__version__} sees no GPU", do)
        return
    for number in range(torch.cuda.device_count()):
        free, whole = torch.cuda.mem_get_info(number)
        words = f"cuda:{number} {torch.cuda.get_device_name(number)}, {free / GB:.1f} of {whole / GB:.1f} GB free"
        yield Finding("gpu", "ok", words)
