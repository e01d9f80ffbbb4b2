"""Bring a database to the schema of this release.

Leaves out the steps themselves (`migrations/versions`). Torch is never imported here: a migration takes a second, in a
container without a model.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, func, select, text

import migrations
from app.store.budgets import MIGRATION
from app.store.connect import open_store
from app.store.locks import Lock


def upgrade(url: str, to: str = "head") -> str:
    """Run every step that is missing, in one transaction; of two processes that start together, one waits.

    Returns:
        The revision the database is at afterwards.

    Raises:
        sqlalchemy.exc.OperationalError: Postgres cannot be reached.

    """
    with configured(url) as config:
        command.upgrade(config, to)
        return current(config.attributes["connection"]) or "empty"


def downgrade(url: str, to: str) -> None:
    """Undo steps down to revision `to`; `base` is an empty database. Data in what is dropped is lost."""
    with configured(url) as config:
        command.downgrade(config, to)


def is_current(connection: Connection) -> bool:
    """Tell whether the database is at the newest revision of this release."""
    return current(connection) == newest()


@cache
def newest() -> str | None:
    """Name the newest revision of this release; the files are read once per process."""
    return ScriptDirectory.from_config(script_config()).get_current_head()


def current(connection: Connection) -> str | None:
    """Read the revision of a database; None before the first. Quick and quiet: health checks ask this all day."""
    if connection.scalar(text("SELECT to_regclass('alembic_version')")) is None:
        return None
    revision: str | None = connection.scalar(text("SELECT version_num FROM alembic_version"))
    return revision


def script_config() -> Config:
    """Say where the steps are; there is no file to find."""
    config = Config()
    config.set_main_option("script_location", str(Path(migrations.__file__).parent).replace("%", "%%"))
    return config


@contextmanager
def configured(url: str) -> Iterator[Config]:
    """Open a transaction under the migration lock and hand it to Alembic."""
    store = open_store(url, pool=1, budget=MIGRATION)
    try:
        with store.engine.begin() as connection:
            connection.execute(select(func.pg_advisory_xact_lock(int(Lock.MIGRATE))))
            config = script_config()
            config.attributes["connection"] = connection
            yield config
    finally:
        store.close()
