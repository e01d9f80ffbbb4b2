"""Where the stack of a directory answers, and the key that commands on this machine use: `<var>/run/service.json`.

`lepo up` writes it when it is ready and takes the address out when it stops; the file is its owner's alone, who can
read the database beside it as well. Leaves out who else may be asked (`app.commands.connection`).
"""

import json
import os
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final

NAME: Final = "service.json"
OWNER: Final = 0o600


@dataclass(frozen=True, slots=True)
class Address:
    """A service on this machine. Example: Address("http://127.0.0.1:8000", "lepo-abc-0123")."""

    url: str | None  # None: it does not run
    key: str  # an admin key


def write_address(var_dir: Path, address: Address) -> None:
    """Say where the service of a directory is; nobody sees half a file."""
    path = place(var_dir)
    beside = path.with_suffix(".new")
    with suppress(FileNotFoundError):
        beside.unlink()
    with os.fdopen(os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_EXCL, OWNER), "w") as file:
        json.dump(asdict(address), file)
    beside.replace(path)


def kept_address(var_dir: Path) -> Address | None:
    """Read what was written last, whether or not that service runs; None: nothing that can be read."""
    try:
        said = json.loads(place(var_dir).read_text())
        return Address(said["url"], said["key"])
    except (OSError, ValueError, KeyError, TypeError):
        return None


def running_address(var_dir: Path) -> Address | None:
    """Read where the service of a directory is; None where none runs: its port may be a stranger's by now."""
    address = kept_address(var_dir)
    return None if address is None or address.url is None or supervisor_pid(var_dir) is None else address


def supervisor_pid(var_dir: Path) -> int | None:
    """Find who runs a stack in a directory; None: nobody."""
    with suppress(OSError, ValueError, OverflowError):
        pid = int((var_dir / "run" / "supervisor.lock").read_text())
        os.kill(pid, 0)
        return pid
    return None


def place(var_dir: Path) -> Path:
    """Give the file's path."""
    return var_dir / "run" / NAME
