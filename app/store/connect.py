"""The way into Postgres: an engine with bounds, and sessions that commit when they end well.

Leaves out queries (one file per domain) and the schema (`tables`, `migrations`).
"""

from collections.abc import Iterator
from contextlib import contextmanager

from sqlalchemy import Engine, create_engine, make_url, text
from sqlalchemy.exc import ArgumentError, DBAPIError, OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeout
from sqlalchemy.orm import Session

from app.errors import Unavailable

CONNECT_SECONDS = 5
WAIT_FOR_CONNECTION_SECONDS = 10.0
DRIVER = "postgresql+psycopg"


class Store:
    """A pool of connections. Sharing one between threads is safe, sharing a session is not."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine

    @contextmanager
    def session(self) -> Iterator[Session]:
        """Open one transaction: committed when the block ends, rolled back when it raises.

        Rows stay readable after the commit (`expire_on_commit` is off).

        Raises:
            Unavailable: Postgres cannot be reached, went away, or all connections are busy.

        """
        try:
            with Session(self.engine, expire_on_commit=False) as session, session.begin():
                yield session
        except PoolTimeout as error:
            raise Unavailable(
                "All database connections are busy. Try again, or raise LEPO_DATABASE_POOL.", retry_after=1
            ) from error
        except DBAPIError as error:
            if not (isinstance(error, OperationalError) or error.connection_invalidated):
                raise
            raise Unavailable(
                f"Postgres does not answer ({first_line(error)}). Is it running at LEPO_DATABASE_URL?", retry_after=1
            ) from error

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


def open_store(url: str, pool: int = 4) -> Store:
    """Prepare a pool of at most `pool` connections; none is opened yet.

    Args:
        url: `postgresql+psycopg://user:password@host:port/database`; plain `postgresql://` is taken as the same.
        pool: connections at once; a caller beyond it waits ten seconds and then gets 503.

    Raises:
        ValueError: `url` is not the address of a Postgres.

    """
    engine = create_engine(
        with_driver(url),
        pool_size=pool,
        max_overflow=0,
        pool_timeout=WAIT_FOR_CONNECTION_SECONDS,
        pool_pre_ping=True,
        connect_args={"connect_timeout": CONNECT_SECONDS, "application_name": "lepo"},
    )
    return Store(engine)


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
