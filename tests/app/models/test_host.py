"""What is free is the least that any bound says, in each form that Linux has for one."""

import os
import resource
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from app.models.host import free, host_bytes

GIB = 2**30


def lay(root: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text + "\n", encoding="utf-8")
    return root


MEMORY = {"proc/meminfo": f"MemTotal:       16 kB\nMemAvailable:    {8 * GIB // 1024} kB"}
V2 = MEMORY | {"proc/self/cgroup": "0::/app/worker"}
V1 = MEMORY | {"proc/self/cgroup": "5:memory,hugetlb:/docker/abc\n4:cpu:/x\n0::/"}


def v2(group: str, bound: str, used: int, files: int = 0) -> dict[str, str]:
    place = f"sys/fs/cgroup/{group}"
    return {
        f"{place}memory.max": bound,
        f"{place}memory.current": str(used),
        f"{place}memory.stat": f"anon 1\ninactive_file {files}",
    }


def v1(group: str, bound: int, used: int, files: int = 0) -> dict[str, str]:
    place = f"sys/fs/cgroup/memory/{group}"
    return {
        f"{place}memory.limit_in_bytes": str(bound),
        f"{place}memory.usage_in_bytes": str(used),
        f"{place}memory.stat": f"inactive_file 5\ntotal_inactive_file {files}",
    }


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({}, sys.maxsize),
        (MEMORY, 8 * GIB),
        (V2, 8 * GIB),
        (V2 | v2("app/worker/", "max", GIB), 8 * GIB),
        (V2 | v2("app/worker/", str(4 * GIB), 3 * GIB), GIB),
        (V2 | v2("app/worker/", str(4 * GIB), 3 * GIB, files=GIB), 2 * GIB),
        (V2 | v2("app/worker/", str(4 * GIB), GIB) | v2("app/", str(5 * GIB), 4 * GIB), GIB),
        (V2 | v2("", str(6 * GIB), GIB), 5 * GIB),  # within a container, whose own group is the root
        (V2 | v2("app/worker/", str(GIB), 2 * GIB), 0),
        (V1 | v1("docker/abc/", 3 * GIB, GIB), 2 * GIB),
        (V1 | v1("docker/abc/", 2**63 - 4096, GIB), 8 * GIB),
        (V1 | v1("", 3 * GIB, GIB, files=GIB // 2), 5 * GIB // 2),
    ],
)
def test_the_least_that_is_said_counts(tmp_path: Path, files: dict[str, str], expected: int) -> None:
    assert host_bytes(lay(tmp_path, files)) == expected


def test_here_it_is_what_there_is() -> None:
    total = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    assert 0 < free(torch.device("cpu")) < total


def test_a_bound_of_the_process_itself_counts() -> None:
    lines = (
        "import resource, sys, torch",
        "from app.models.host import host_bytes",
        "held = int(open('/proc/self/statm').read().split()[0]) * resource.getpagesize()",
        "resource.setrlimit(resource.RLIMIT_AS, (held + 2**28, resource.RLIM_INFINITY))",
        "print(host_bytes())",
    )
    ran = subprocess.run([sys.executable, "-c", "\n".join(lines)], capture_output=True, text=True, check=True)
    assert 0.9 * 2**28 < int(ran.stdout) <= 2**28
    assert resource.getrlimit(resource.RLIMIT_AS)[0] == resource.RLIM_INFINITY, "only the child's"
