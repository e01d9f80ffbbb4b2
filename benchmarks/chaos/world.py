"""A running service with traffic, and the hands that break it: signals, SQL, an operator's commands.

`hold` is how a fault meets a learner in a chosen moment and not by luck: a trigger in the service's database waits
there for an advisory lock that we have. Leaves out the faults (`kinds`) and the audit.
"""

import os
import random
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final
from uuid import UUID, uuid4

import httpx
from sqlalchemy import Connection, text

from app.errors import Unavailable
from app.stack.stack import Stack
from app.store.budgets import MIGRATION
from app.store.connect import Store, open_store
from benchmarks.chaos.crowd import Crowd, Records, User
from training.tasks.families import generate
from training.tasks.splits import Split

LOCK: Final = 515_151  # advisory lock that holds the learner
LOOK_S: Final = 0.05
PATIENCE_S: Final = 90.0  # for whatever must happen before a fault can be made
SETTINGS: Final[Mapping[str, str]] = {
    "LEPO_PORT": "0",
    "LEPO_THREADS": "1",
    "LEPO_MODEL": "demo",
    "LEPO_MAX_LENGTH": "128",
    "LEPO_MAX_COMPLETION_TOKENS": "24",
    "LEPO_SLOTS": "16",
    "LEPO_LEARN_INTERVAL": "0.3",
    "LEPO_GRADE_INTERVAL": "0.5",
    "LEPO_GRADER_TIMEOUT": "1",
    "LEPO_LEARNER_LEASE": "3",
    "LEPO_STALL_DEADLINE": "30",  # longer than any fault that the learner has only to wait for
    "LEPO_MIN_GRADES": "32",
    "LEPO_MAX_GRADES": "64",
    "LEPO_LEARNING_RATE": "1e-5",
    "LEPO_KEEP_CHECKPOINTS": "4",
    "LEPO_GATE_NO_SIGNAL": "promote",  # faults are what is tried here, and each needs updates that come to serve
    "LEPO_KEY_PATIENCE": "2",
}
HOLD: Final = f"""
CREATE OR REPLACE FUNCTION chaos_hold() RETURNS trigger LANGUAGE plpgsql AS
$$ BEGIN PERFORM pg_advisory_xact_lock_shared({LOCK}); RETURN NEW; END $$
"""
_LEAVING: Final = "BEFORE UPDATE ON jobs FOR EACH ROW WHEN (OLD.phase = '{}' AND NEW.phase IS DISTINCT FROM OLD.phase)"
MOMENTS: Final[Mapping[str, str]] = {
    **{phase: _LEAVING.format(phase) for phase in ("batch", "update", "gate", "publish")},
    "settle": "BEFORE INSERT ON transitions FOR EACH ROW WHEN (NEW.job_id IS NOT NULL)",
}


class NeverHappened(RuntimeError):
    """What a fault needs, or must lead to, did not come in time."""


@dataclass(frozen=True, slots=True)
class Scale:
    """How much of each fault."""

    frozen_s: float  # Postgres stands still
    failures: int  # updates that fail while a disk is full or a checkpoint damaged
    backlog: int  # answers written at once
    watch_s: float  # how long what serves is watched after a command


QUICK: Final = Scale(5.0, 1, 2_000, 1.5)
LONG: Final = Scale(20.0, 6, 100_000, 3.0)


@dataclass(slots=True)
class World:
    """One service, its users, and what kinds of faults found out about it."""

    stack: Stack
    store: Store  # its database, for us
    crowd: Crowd
    scale: Scale
    http: httpx.Client  # with an admin's key
    found: Counter[str] = field(default_factory=Counter)  # violations that a kind itself saw
    words: list[str] = field(default_factory=list)  # what it says of them

    def wrong(self, counter: str, words: str) -> None:
        """Note a violation."""
        self.found[counter] += 1
        self.words.append(f"{counter}: {words}")

    def rows(self, sql: str, **given: Any) -> list[Any]:
        """Query the database; while it is away, again."""
        until = time.monotonic() + PATIENCE_S
        while True:
            try:
                with self.store.session() as session:
                    return list(session.execute(text(sql), given))
            except Unavailable:
                if time.monotonic() > until:
                    raise
                time.sleep(LOOK_S)

    def one(self, sql: str, **given: Any) -> Any:
        """Query one value; None where there is none."""
        found = self.rows(sql, **given)
        return found[0][0] if found else None

    def until(self, holds: Callable[[], Any], what: str, seconds: float = PATIENCE_S) -> Any:
        """Wait for something, and give what it gave.

        Raises:
            NeverHappened: it did not come.

        """
        end = time.monotonic() + seconds
        while not (value := holds()):
            if time.monotonic() > end:
                raise NeverHappened(f"not within {seconds:.0f} s: {what}")
            time.sleep(LOOK_S)
        return value

    def command(self, path: str, key: str | None = None, **body: Any) -> dict[str, Any]:
        """Give an operator's command until it is accepted; under one Idempotency-Key, so that it is given once.

        Raises:
            NeverHappened: it was refused, or never answered.

        """
        headers = {"Idempotency-Key": key or uuid4().hex}
        until = time.monotonic() + PATIENCE_S
        while time.monotonic() < until:
            with suppress(httpx.HTTPError):
                response = self.http.post(f"/v1/admin/{path}", json=body, headers=headers)
                if response.is_success:
                    return dict(response.json())
                if response.status_code not in {409, 429, 503}:
                    raise NeverHappened(f"{path} was refused: {response.status_code} {response.text[:200]}")
            time.sleep(PAUSE_BETWEEN_S)
        raise NeverHappened(f"{path} was never accepted")

    def version(self) -> int | None:
        """Ask the server what it serves; None while it does not answer."""
        try:
            response = self.http.get("/version")
        except httpx.HTTPError:
            return None
        return int(response.json()["policy_version"]) if response.is_success else None

    def serving(self) -> int:
        """Read what is to be served."""
        return int(self.one("SELECT version FROM checkpoints WHERE state = 'serving'"))

    def moves(self) -> int:
        """Count the moves of policies so far."""
        return int(self.one("SELECT coalesce(max(entry), 0) FROM transitions"))

    def promoted_since(self, entry: int) -> int:
        """Count updates that came to serve after a move."""
        query = "SELECT count(*) FROM transitions WHERE event = 'promote' AND actor = 'worker' AND entry > :entry"
        return int(self.one(query, entry=entry))

    def fence(self) -> int:
        """Give the fence of the update begun last; fences rise, whatever clock a worker has."""
        return int(self.one("SELECT coalesce(max(fence), 0) FROM jobs"))

    def learned_since(self, fence: int) -> int:
        """Count updates that were begun after another one and came to serve."""
        query = """
            SELECT count(*) FROM transitions t JOIN jobs j ON j.id = t.job_id
            WHERE t.event = 'promote' AND t.actor = 'worker' AND j.fence > :fence"""
        return int(self.one(query, fence=fence))

    def failed_since(self, fence: int) -> int:
        """Count updates begun after another one that the infrastructure made fail."""
        query = "SELECT count(*) FROM jobs WHERE fault = 'infrastructure' AND fence > :fence"
        return int(self.one(query, fence=fence))

    def in_phase(self, phase: str) -> UUID:
        """Wait until an update is in a phase, and name its job."""
        query = "SELECT id FROM jobs WHERE status = 'running' AND phase = :phase"
        found: UUID = self.until(lambda: self.one(query, phase=phase), f"an update in its phase {phase}")
        return found

    def quiet(self) -> None:
        """Freeze learning and wait until no update runs."""
        self.command("learning/freeze", reason="chaos")
        self.until(lambda: not self.rows("SELECT 1 FROM jobs WHERE status = 'running'"), "no update runs")

    def thaw(self) -> None:
        """Let it learn again."""
        self.command("learning/thaw", reason="chaos")

    @contextmanager
    def hold(self, moment: str) -> Iterator[UUID]:
        """Hold the learner when it comes to a moment, and give its job; it goes on when the block ends."""
        # no bounds: this session waits for the learner on purpose
        with closing(open_store(self.stack.database_url, pool=1, budget=MIGRATION)) as own, own.engine.connect() as raw:
            connection = raw.execution_options(isolation_level="AUTOCOMMIT")
            connection.execute(text(HOLD))
            connection.execute(text(f"SELECT pg_advisory_lock({LOCK})"))
            connection.execute(text(f"CREATE TRIGGER chaos_held {MOMENTS[moment]} EXECUTE FUNCTION chaos_hold()"))
            try:
                self.until(lambda: waits(connection), f"an update about to leave {moment}")
                yield connection.execute(text("SELECT id FROM jobs WHERE status = 'running'")).scalar_one()
            finally:
                connection.execute(text(f"SELECT pg_advisory_unlock({LOCK})"))
                connection.execute(text("DROP FUNCTION chaos_hold() CASCADE"))

    def restarted(self, part: str, old: int) -> None:
        """Wait until a process that was killed is there again, and ready."""
        self.until(lambda: self.stack.pids.get(part, old) != old, f"{part} is started again")
        self.stack.wait_ready(part)


PAUSE_BETWEEN_S: Final = 0.3


def waits(connection: Connection) -> bool:
    """Whether somebody is held."""
    query = "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND objid = :lock AND NOT granted"
    return bool(connection.scalar(text(query), {"lock": LOCK}))


def descendants(pid: int) -> list[int]:
    """Find a process's children, theirs, and itself first."""
    children: dict[int, list[int]] = {}
    for entry in Path("/proc").iterdir():
        with suppress(OSError, ValueError):
            stat = (entry / "stat").read_text().rpartition(")")[2].split()
            children.setdefault(int(stat[1]), []).append(int(entry.name))
    found, todo = [], [pid]
    while todo:
        found.append(one := todo.pop(0))
        todo += children.get(one, [])
    return found


@contextmanager
def stopped(pids: list[int]) -> Iterator[None]:
    """Stop processes (SIGSTOP) until the block ends."""
    for pid in pids:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        for pid in pids:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGCONT)


@contextmanager
def world(directory: Path, scale: Scale, users: int = 6, env: Mapping[str, str] | None = None) -> Iterator[World]:
    """Start a service with traffic; two updates are served before anything happens to it."""
    with Stack(directory, {**SETTINGS, **(env or {})}) as stack, closing(open_store(stack.database_url)) as store:
        records, problems = Records(), generate("chained_arithmetic", Split.TRAIN, 2000, seed=0)
        crowd = Crowd(
            [
                User(stack.base_url, stack.create_key(f"user-{index}"), records, problems, random.Random(index))  # noqa: S311
                for index in range(users)
            ],
            records,
        )
        headers = {"Authorization": f"Bearer {stack.create_key('operator', ('admin',))}"}
        with (
            httpx.Client(base_url=stack.base_url, headers=headers, timeout=20.0, trust_env=False) as http,
            crowd,
        ):
            made = World(stack, store, crowd, scale, http)
            made.until(lambda: made.promoted_since(0) >= 2, "two updates before the first fault", 180.0)
            yield made


def newcomer(here: World, name: str, *, hostile: bool = False) -> User:
    """Make one more user, with a key of its own and the crowd's records."""
    some = here.crowd.users[0]
    key = here.stack.create_key(name)
    return User(some.base_url, key, here.crowd.records, some.problems, random.Random(name), hostile=hostile)  # noqa: S311


def background(work: Callable[[], object]) -> threading.Thread:
    """Do something beside."""
    thread = threading.Thread(target=work)
    thread.start()
    return thread
