"""The way into Postgres: an engine with bounds, and sessions that commit when they end well.

Nothing is set on a connection that outlives a transaction, so a pooler in transaction mode may stand in between. Leaves
out queries (one file per domain), the schema (`tables`, `migrations`) and how long is too long (`budgets`).
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final

from sqlalchemy import Connection, Engine, create_engine, event, make_url, text
from sqlalchemy.exc import ArgumentError, DBAPIError, OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeout
from sqlalchemy.orm import Session

from app.errors import Unavailable
from app.store.budgets import REQUESTS, Budget
from app.store.connection import KEEPALIVE, RESTING_S, BoundedConnection

DRIVER = "postgresql+psycopg"
BUDGET: Final = "lepo_budget"  # the execution option that bounds a transaction
# Classes of SQLSTATE that mean "later": connection, resources (a full disk), operator's intervention, system.
AWAY: Final = frozenset({"08", "53", "57", "58"})
SLOW: Final = "57014"  # query_canceled: the statement's time was up
HELD: Final = frozenset({"55P03", "40P01", "40001"})  # a lock's time was up, a deadlock, a serialization failure


class Store:
    """A pool of connections. Sharing one between threads is safe, sharing a session is not."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine

    @contextmanager
    def session(self, budget: Budget | None = None) -> Iterator[Session]:
        """Open one transaction: committed when the block ends, rolled back when it raises.

        Rows stay readable after the commit (`expire_on_commit` is off).

        Args:
            budget: how long it may wait for Postgres; None: as the store was opened for.

        Raises:
            Unavailable: Postgres cannot be reached, went away, or did not answer in time; or all connections are busy.
                After an answer that did not come in time the transaction may still have been committed.

        """
        engine = self.engine if budget is None else self.engine.execution_options(**{BUDGET: budget})
        try:
            with Session(engine, expire_on_commit=False) as session, session.begin():
                yield session
        except PoolTimeout as error:
            raise Unavailable(
                "All database connections are busy. Try again, or raise LEPO_DATABASE_POOL.", retry_after=1
            ) from error
        except DBAPIError as error:
            later = to_be_retried(error)
            if later is None:
                raise
            raise later from error

    def ping(self) -> None:
        """Ask Postgres for one row.

        Raises:
            Unavailable: it did not come.

        """
        with self.session() as session:
            session.execute(text("SELECT 1"))

    def close(self) -> None:
        """Close every idle connection."""
        self.engine.dispose()


def open_store(url: str, pool: int = 4, budget: Budget = REQUESTS) -> Store:
    """Prepare a pool of at most `pool` connections; none is opened yet.

    Args:
        url: `postgresql+psycopg://user:password@host:port/database`; plain `postgresql://` is taken as the same.
        pool: connections at once; a caller beyond it waits for `budget.wait_s` and then gets 503.
        budget: how long a transaction may wait for Postgres.

    Raises:
        ValueError: `url` is not the address of a Postgres.

    """
    engine = create_engine(
        with_driver(url),
        pool_size=pool,
        max_overflow=0,
        pool_timeout=budget.wait_s,
        pool_pre_ping=True,
        connect_args={
            "connect_timeout": budget.connect_s,
            "application_name": "lepo",
            "prepare_threshold": None,  # a prepared statement is a server connection's, and a pooler hands these about
            **KEEPALIVE,
        },
        execution_options={BUDGET: budget},
    )
    event.listen(engine, "do_connect", connect)
    event.listen(engine, "begin", bound)
    event.listen(engine, "checkin", rest)
    return Store(engine)


def connect(_dialect: Any, _record: Any, args: list[Any], named: dict[str, Any]) -> BoundedConnection:
    """Connect as the driver does, to a connection that does not wait for ever."""
    connection: BoundedConnection = BoundedConnection.connect(*args, **named)
    return connection


def bound(connection: Connection) -> None:
    """Set a transaction's bounds as its first words; they end with it."""
    options = connection.get_execution_options()
    budget: Budget = options[BUDGET]
    driver: Any = connection.connection.dbapi_connection
    assert isinstance(driver, BoundedConnection), "every connection comes from `connect`"
    driver.reply_s = budget.reply_s
    if options.get("isolation_level") == "AUTOCOMMIT":  # no transaction, nothing to bind them to
        return
    bounds = {
        "statement_timeout": budget.statement_s,
        "lock_timeout": budget.lock_s,
        "idle_in_transaction_session_timeout": budget.idle_s,
    }
    words = "; ".join(f"SET LOCAL {name} = {round(s * 1000)}" for name, s in bounds.items() if s is not None)
    if words:
        connection.exec_driver_sql(words)


def rest(connection: Any, _record: Any) -> None:
    """Give a connection that goes back to the pool the bound of idle ones."""
    if connection is not None:
        connection.reply_s = RESTING_S


def to_be_retried(error: DBAPIError) -> Unavailable | None:
    """Say what a database error means for its caller; None: it is a fault of ours, and trying again will not help."""
    state = getattr(error.orig, "sqlstate", None) or ""
    if state == SLOW:
        return Unavailable("A database statement took longer than it may, and was ended.", retry_after=5)
    if state in HELD:
        return Unavailable("Another transaction was in the way for too long. Try again.", retry_after=1)
    lost = error.connection_invalidated or (isinstance(error, OperationalError) and error.statement is None)
    if lost or state[:2] in AWAY:
        return Unavailable(
            f"Postgres does not answer ({first_line(error)}). Is it running at LEPO_DATABASE_URL?", retry_after=1
        )
    return None


def with_driver(url: str) -> str:
    """Name the driver in a Postgres URL.

    Raises:
        ValueError: another database, another driver, or no URL at all.

    """
    try:
        parsed = make_url(url)
    except ArgumentError as error:
        raise ValueError("LEPO_DATABASE_URL must read postgresql+psycopg://user:password@host:port/database") from error
    if parsed.drivername not in {"postgresql", "postgres", DRIVER}:
        raise ValueError(
            f"LEPO_DATABASE_URL names {parsed.drivername}; only Postgres through psycopg is supported ({DRIVER}://...)"
        )
    return parsed.set(drivername=DRIVER).render_as_string(hide_password=False)


def first_line(error: DBAPIError) -> str:
    """Shorten a driver's error to its first line."""
    return str(error.orig).strip().split("\n", maxsplit=1)[0]
