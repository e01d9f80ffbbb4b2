"""The whole stack as one object: start it, ask where it is, kill a part of it, stop it.

`lepo up`, the demo and the tests use this same class, with the same commands that a deployment runs one by one. Leaves
out what each part does, and keeping it alive (`app.stack.supervisor`).
"""

import json
import logging
import os
import socket
import sys
import urllib.error
import urllib.request
from collections.abc import Collection, Mapping
from contextlib import closing
from datetime import UTC, datetime
from http import HTTPStatus
from pathlib import Path
from types import TracebackType
from typing import Any, Final

from sqlalchemy.orm import Session

from app.errors import Forbidden, Unauthorized
from app.settings import SECRETS, Settings
from app.stack.address_file import Address, kept_address, write_address
from app.stack.child import Child
from app.stack.postgres import EmbeddedPostgres
from app.stack.redis import EmbeddedRedis
from app.stack.supervisor import ChildFailed, Supervisor, is_held
from app.store.connect import open_store
from app.store.console_sessions import make_link
from app.store.keys import authenticate, create_key, first_admin_key, fix_admin_key, has_admin
from app.store.migrate import upgrade

EVERY_PART: Final = ("api", "worker", "beat")
GRADER: Final = "grader"  # joins the worker when LEPO_GRADE_APART is set
COMMANDS: Final[Mapping[str, tuple[str, ...]]] = {"api": ("serve",), "worker": ("worker",), "beat": ("beat",)}
APART: Final[Mapping[str, tuple[str, ...]]] = {
    "worker": ("worker", "--task", "learn"),
    GRADER: ("worker", "--task", "grade", "--task", "sweep"),
}
OPERATORS: Final = "commands on this machine"  # name of the key in `app.stack.address_file`
READY_SECONDS: Final = 180.0  # a large model takes minutes to load

log = logging.getLogger("lepo.stack")


class Stack:
    """Postgres and Redis (unless others are set) and our processes, under one directory.

    Example:
        with Stack(Path("var"), {"LEPO_LEARN_INTERVAL": "1"}) as stack:
            print(stack.base_url, stack.pids)

    Args:
        var_dir: where everything is kept.
        env: settings of all processes, over those of the environment.
        parts: which of our processes to run.
        ready_seconds: patience until the server answers.

    """

    def __init__(
        self,
        var_dir: Path,
        env: Mapping[str, str] | None = None,
        *,
        parts: Collection[str] = EVERY_PART,
        ready_seconds: float = READY_SECONDS,
    ) -> None:
        if not set(parts) <= set(EVERY_PART):
            raise ValueError(f"parts must be among {', '.join(EVERY_PART)}; got {', '.join(parts)}")
        self.var_dir = var_dir.resolve()
        self.settings = settings_over(env or {})
        self.port = self.settings.port or free_port(self.settings.host)
        self.database_url = ""  # known once started
        self.redis_url = ""  # in Celery's form
        self.admin_key: str | None = None  # made at the very first start, or set; else it was printed back then
        self._env = dict(env or {})
        self._commands = {part: COMMANDS[part] for part in EVERY_PART if part in parts}
        if self.settings.grade_apart and "worker" in parts:
            self._commands |= APART
        self._ready_seconds = ready_seconds
        self._supervisor: Supervisor | None = None
        self._operator_key: str | None = None  # what commands on this machine use, known once started

    def __enter__(self) -> "Stack":
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    @property
    def base_url(self) -> str:
        """Where the server is, without a path."""
        return f"http://{reachable(self.settings.host)}:{self.port}"

    @property
    def supervisor(self) -> Supervisor:
        """Who keeps the processes."""
        if self._supervisor is None:
            raise ValueError("the stack is not started; use it in a with statement")
        return self._supervisor

    @property
    def pids(self) -> dict[str, int]:
        """Pid of every process by name: postgres, redis, api, worker, beat, and grader where it is apart."""
        return self.supervisor.pids()

    def start(self) -> None:
        """Start everything and wait until the server is ready; on any failure, stop it all again.

        Raises:
            AlreadyRunning: another stack runs in this directory.
            ChildFailed: a process did not come up; the message quotes its log.

        """
        self._supervisor = Supervisor(self.var_dir)
        started = False
        try:
            if "api" in self._commands and not is_held(self._supervisor.lock_path("api")):
                require_free(self.settings.host, self.port)
            self.database_url = self._start_postgres()
            self.redis_url = self._start_redis()
            upgrade(self.database_url)
            self.admin_key = self._first_admin_key()
            self._operator_key = self._key_of_operators()
            if "api" in self._commands:
                require_free(self.settings.host, self.port)
            for part in self._commands:
                self.supervisor.start(self.child(part), wait=False)
            for part in self._commands:
                self.supervisor.wait_ready(part, forgiving=False)
            if "api" in self._commands:
                write_address(self.var_dir, Address(self.base_url, self._operator_key))
            started = True
        finally:
            if not started:
                self.stop()

    def stop(self) -> None:
        """Stop every process, the last started first. Safe to call twice."""
        if self._supervisor is not None:
            if self._operator_key is not None:
                write_address(self.var_dir, Address(None, self._operator_key))
            self._supervisor.stop()
            self._supervisor = None

    def kill(self, name: str) -> int:
        """Kill a process (-9); it is started again by itself. Returns the pid it had."""
        return self.supervisor.kill(name)

    def wait_ready(self, name: str) -> None:
        """Wait until a process is ready again."""
        self.supervisor.wait_ready(name)

    def create_key(self, name: str, scopes: Collection[str] = ("infer", "grade")) -> str:
        """Make an API key; returns its text."""
        with closing(open_store(self.database_url, pool=1)) as store, store.session() as session:
            return create_key(session, name, scopes)[1]

    def sign_in_link(self) -> str:
        """Make a link that signs a browser in to the console, once, within minutes.

        Raises:
            NotFound: no admin key of the service opens.

        """
        with closing(open_store(self.database_url, pool=1)) as store, store.session() as session:
            return f"{self.base_url}/console/sign-in#link={make_link(session)}"

    def welcome(self, *, show_keys: bool = True, link: bool = False) -> str:
        """Say where everything is, and how to ask a first question; makes a key for it at the very first start.

        Args:
            show_keys: False: keys stay out of it, since what is said is kept, as in a log.
            link: whether a link to the console is among it that signs in once: for a terminal, not for a log.

        """
        key = "$LEPO_KEY"
        lines = ["", f"  lepo is ready at {self.base_url}   (console: /, API: /docs, /metrics)", ""]
        if link and self.has_admin():
            lines += [
                "  The console, signed in (this link works once, for ten minutes):",
                f"    {self.sign_in_link()}",
                "",
            ]
        else:
            lines += ["  Sign in to the console with a key, or a link: lepo console link", ""]
        if show_keys and self.admin_key is not None and self.settings.admin_key is None:
            key = self.create_key("first")
            lines += [
                "  Keys, shown this once:",
                f"    admin         {self.admin_key}",
                f"    infer, grade  {key}",
                "",
            ]
        else:
            hidden = "" if show_keys else "   (none is printed where there is no terminal, without --show-keys)"
            lines += [f"  A key: LEPO_KEY=$(lepo keys create NAME){hidden}", ""]
        question = "Work out 47 + 6 - 8 + 9 step by step." if self.settings.model == "demo" else "Hello"
        body = f'{{"model": "{self.settings.served_name}", "messages": [{{"role": "user", "content": "{question}"}}]}}'
        lines += [
            f"  curl {self.base_url}/v1/chat/completions \\",
            f'    -H "Authorization: Bearer {key}" -H "Content-Type: application/json" \\',
            f"    -d '{body}'",
            "",
            "  Ctrl-C stops everything.",
        ]
        return "\n".join(lines)

    def has_admin(self) -> bool:
        """Tell whether somebody holds an admin key that opens."""
        with closing(open_store(self.database_url, pool=1)) as store, store.session() as session:
            return has_admin(session)

    def _start_postgres(self) -> str:
        if self.settings.database_url is not None:
            return self.settings.database_url
        embedded = EmbeddedPostgres(self.var_dir)
        embedded.prepare()
        self.supervisor.start(embedded.child())
        return embedded.url()

    def _start_redis(self) -> str:
        if self.settings.redis_url is not None:
            return self.settings.redis_url
        embedded = EmbeddedRedis(self.var_dir)
        embedded.prepare()
        self.supervisor.start(embedded.child())
        return embedded.url()

    def _first_admin_key(self) -> str | None:
        chosen = self.settings.admin_key
        with closing(open_store(self.database_url, pool=1)) as store, store.session() as session:
            if chosen is None:
                return first_admin_key(session)
            key, _ = fix_admin_key(session, chosen.get_secret_value())
            if key.revoked_at is not None:
                log.error("LEPO_ADMIN_KEY opens nothing: key %s was revoked; set another", key.id)
            return chosen.get_secret_value()

    def _key_of_operators(self) -> str:
        """Give the admin key that commands on this machine use: the one kept, else the first admin's, else another.

        Whoever may read its file may write to the embedded database as well; a key that was revoked is not revived.
        """
        kept = kept_address(self.var_dir)
        with closing(open_store(self.database_url, pool=1)) as store, store.session() as session:
            if kept is not None and rules(session, kept.key):
                return kept.key
            if self.admin_key is not None and self.settings.admin_key is None:
                return self.admin_key
            return create_key(session, OPERATORS, ("admin",))[1]

    def child(self, part: str) -> Child:
        """Describe one of our processes: the command that a deployment runs, told where the others are."""
        threads = str(self.settings.threads)
        return Child(
            name=part,
            argv=(sys.executable, "-m", "app.cli", *self._commands[part]),
            env={
                "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", threads),
                "PYTHONUNBUFFERED": "1",
                "HF_HUB_DISABLE_PROGRESS_BARS": "1",  # the output is a log file
                **self._env,
                "LEPO_VAR_DIR": str(self.var_dir),
                "LEPO_DATABASE_URL": self.database_url,
                "LEPO_REDIS_URL": self.redis_url,
                "LEPO_PORT": str(self.port),
            },
            ready=self._server_is_ready if part == "api" else None,
            ready_seconds=self._ready_seconds,
            stop_seconds=self.settings.drain_seconds + 5.0 if part == "api" else 15.0,
        )

    def _server_is_ready(self) -> bool:
        try:
            with urllib.request.urlopen(f"{self.base_url}/ready", timeout=2.0) as answer:  # noqa: S310 - our own address
                return bool(answer.status == HTTPStatus.OK)
        except (urllib.error.URLError, OSError):
            return False


def rules(session: Session, key: str) -> bool:
    """Tell whether a key opens what operators do."""
    try:
        authenticate(session, key, datetime.now(UTC), "admin")
    except (Unauthorized, Forbidden):
        return False
    return True


def reachable(host: str) -> str:
    """Say where something that listens on an address can be reached from here."""
    return "127.0.0.1" if host in {"0.0.0.0", "::"} else host  # noqa: S104 - not bound


def settings_over(env: Mapping[str, str]) -> Settings:
    """Read the settings as a process with these additional variables would."""
    over: dict[str, Any] = {
        name.removeprefix("LEPO_").lower(): value for name, value in env.items() if name.startswith("LEPO_")
    }
    return Settings(_secrets_dir=SECRETS if SECRETS.is_dir() else None, **over)


def require_free(host: str, port: int) -> None:
    """Refuse a port on which somebody listens: a stranger's answer would be taken for our server's.

    Raises:
        ChildFailed: it is taken.

    """
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            why = f"port {port} of {host} cannot be had ({error.strerror}{who_answers(host, port)})"
            raise ChildFailed(f"{why}; stop who has it, or set LEPO_PORT") from error


def who_answers(host: str, port: int) -> str:
    """Say whether another service like this one has the port."""
    try:
        with urllib.request.urlopen(f"http://{host}:{port}/version", timeout=2.0) as answer:
            said = json.load(answer)
    except (OSError, ValueError):
        return ""
    return ": another lepo answers there" if isinstance(said, dict) and "policy_version" in said else ""


def free_port(host: str) -> int:
    """Find a TCP port that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind((host, 0))
        return int(probe.getsockname()[1])
