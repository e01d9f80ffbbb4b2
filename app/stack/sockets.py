"""Where unix sockets live: paths that fit into the 100-odd bytes that a socket's address may have.

Leaves out who listens there.
"""

import hashlib
import tempfile
from pathlib import Path
from typing import Final

LONGEST: Final = 99  # bytes; Linux allows 107, macOS 103


def socket_directory(var_dir: Path, part: str, longest_name: str) -> Path:
    """Choose the directory for the sockets of `part`; the same answer for the same `var_dir`, nothing is created.

    Args:
        var_dir: the directory of the embedded servers.
        part: `postgres` or `redis`.
        longest_name: the longest file name that will be bound in it.

    """
    inside = var_dir.resolve() / part / "run"
    if len(str(inside / longest_name).encode()) <= LONGEST:
        return inside
    digest = hashlib.sha256(str(var_dir.resolve()).encode()).hexdigest()[:12]
    return Path(tempfile.gettempdir()) / f"lepo-{digest}-{part}"
