"""The parts that run: the database, the broker, the service; and whether their clocks agree with this machine's."""

import json
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from importlib.metadata import version
from typing import TYPE_CHECKING, Any, Final

from app.commands.health import bell_address, waiting
from app.doctor.finding import Finding
from app.errors import Unavailable
from app.settings import Settings

if TYPE_CHECKING:
    from sqlalchemy.orm import Session

PATIENCE_S: Final = 3.0
APART_S: Final = 2.0  # clocks that differ by more are worth a word; the header Date has whole seconds
FAR_APART_S: Final = 30.0  # ids are ordered by time, leases and expiries are compared with it


@dataclass(frozen=True, slots=True)
class Said:
    """What one address of the service answered."""

    status: int
    body: Any  # parsed JSON, or None
    ahead_s: float | None  # its clock before ours, seconds; None: it sent no Date


def database(settings: Settings) -> Iterator[Finding]:
    """Look at the database: is it there, of this release, roomy enough, and does its clock agree."""
    from app.stack.addresses import database_address
    from app.store.connect import open_store

    do = "start it, or correct LEPO_DATABASE_URL; `lepo up` brings one of its own"
    try:
        url = database_address(settings)
    except Unavailable as error:
        yield Finding("database", "skip", error.message)
        return
    try:
        with closing(open_store(url, pool=1)) as store, store.session() as session:
            yield from of_database(session, settings)
    except (Unavailable, ValueError) as error:
        yield Finding("database", "fail", str(error), do)


def of_database(session: "Session", settings: Settings) -> Iterator[Finding]:
    """Look at a database that answers."""
    from sqlalchemy import text

    from app.store.migrate import current, newest

    began = time.time()
    now, number, most = session.execute(
        text("SELECT clock_timestamp(), current_setting('server_version'), current_setting('max_connections')::int")
    ).one()
    ours = (began + time.time()) / 2
    revision = current(session.connection())
    if revision != newest():
        says = f"Postgres {number} is at schema {revision or 'none'}, and this release's is {newest()}"
        yield Finding("database", "fail", says, "run: lepo migrate (an older release cannot use a newer schema)")
    else:
        yield Finding("database", "ok", f"Postgres {number}, schema {revision}")
    pools = settings.database_pool + settings.control_pool
    words = f"a server holds {pools} connections at most (LEPO_DATABASE_POOL + LEPO_CONTROL_POOL), Postgres has {most}"
    if pools + 10 > most:
        yield Finding("database", "warn", words, "raise max_connections of Postgres, or lower the pools")
    yield clock("the database's", now.timestamp() - ours)


def broker(settings: Settings) -> Finding:
    """Look at Redis, and whether hints wait there that nobody reads."""
    from app.stack.redis_question import ask

    try:
        address = bell_address(settings)
    except Unavailable as error:
        return Finding("broker", "skip", error.message)
    try:
        ask(address, ("LLEN", "lepo-doctor"))
        unread = waiting(address)
        if unread:
            time.sleep(PATIENCE_S)
            unread = waiting(address)
    except Unavailable as error:
        do = "start it, or correct LEPO_REDIS_URL; grades are learned from all the same, later (polling)"
        return Finding("broker", "fail", error.message, do)
    if unread:
        do = "is a worker running? lepo health worker; it may be busy with an update: lepo top"
        return Finding("broker", "warn", "Redis answers, and hints wait unread", do)
    return Finding("broker", "ok", "Redis answers, and its hints are read")


def service(url: str) -> Iterator[Finding]:
    """Look at the service: alive, ready, of this release, and its clock."""
    here = say(f"{url}/version")
    if here is None:
        yield Finding("service", "skip", f"nothing answers at {url}; start it: lepo up")
        return
    if not isinstance(here.body, dict) or "policy_version" not in here.body:
        says = f"what answers at {url} is not this service (status {here.status})"
        yield Finding("service", "fail", says, "stop it, or set LEPO_PORT, or name the service: --url")
        return
    for path in ("health", "ready"):
        said = say(f"{url}/{path}")
        if said is None or said.status != 200:
            why = (said.body or {}).get("error", {}).get("message") if said is not None else None
            do = "its log says more: LEPO_VAR_DIR/logs/api.log, or docker compose logs api"
            yield Finding("service", "fail", f"/{path} of {url} does not say 200: {why or 'no answer'}", do)
            return
    ours, theirs = version("lepo-service"), here.body["version"]
    words = f"{url} is ready and serves version {here.body['policy_version']}"
    if theirs != ours:
        says = f"{words}; it is release {theirs}, this command {ours}"
        yield Finding("service", "warn", says, "install the same release on both sides")
    else:
        yield Finding("service", "ok", f"{words}, release {theirs}")
    if here.ahead_s is not None:
        yield clock("the service's", here.ahead_s)


def clock(whose: str, ahead_s: float) -> Finding:
    """Judge how far a clock is from this machine's."""
    if abs(ahead_s) <= APART_S:
        return Finding("clock", "ok", f"{whose} agrees with this machine's to {APART_S:.0f} s")
    says = f"{whose} is {abs(ahead_s):.0f} s {'ahead of' if ahead_s > 0 else 'behind'} this machine's"
    return Finding("clock", "fail" if abs(ahead_s) > FAR_APART_S else "warn", says, "run NTP on both machines")


def say(url: str) -> Said | None:
    """Ask one address; None: nobody answers."""
    try:
        with urllib.request.urlopen(url, timeout=PATIENCE_S) as response:  # noqa: S310 - the operator's own address
            status, body, date = response.status, response.read(), response.headers.get("date")
    except urllib.error.HTTPError as error:
        status, body, date = error.code, error.read(), error.headers.get("date")
    except (OSError, ValueError):
        return None
    try:
        parsed = json.loads(body)
        ahead = None if date is None else (parsedate_to_datetime(date) - datetime.now(UTC)).total_seconds() + 0.5
    except ValueError:
        parsed, ahead = None, None
    return Said(status, parsed, ahead)
