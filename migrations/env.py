"""Alembic's way in: run the steps on the connection that `app.store.migrate` opened, or on `LEPO_DATABASE_URL`.

Leaves out offline mode: a script of SQL that was never run helps nobody.
"""

from alembic import context
from sqlalchemy import Connection

import app.store.tables  # noqa: F401 - fills the metadata
from app.settings import read_settings
from app.store.base import Base
from app.store.budgets import MIGRATION
from app.store.connect import open_store


def run(connection: Connection) -> None:
    """Run the steps that were asked for."""
    context.configure(connection=connection, target_metadata=Base.metadata, compare_server_default=True)
    with context.begin_transaction():
        context.run_migrations()


def main() -> None:
    """Use the given connection; `alembic revision --autogenerate` gives none."""
    connection = context.config.attributes.get("connection")
    if connection is not None:
        run(connection)
        return
    url = read_settings().database_url
    if url is None:
        raise ValueError("Set LEPO_DATABASE_URL to the database to compare with")
    store = open_store(url, pool=1, budget=MIGRATION)
    with store.engine.begin() as opened:
        run(opened)
    store.close()


main()
