"""Secrets that every process shares and nobody types: made at first use, kept in the table `secrets`.

Leaves out what is signed with them (`app.api`'s grading tokens).
"""

import secrets

from sqlalchemy import select
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import Session

from app.store.tables import Secret

SECRET_BYTES = 32


def shared_secret(session: Session, name: str) -> bytes:
    """Give the secret of this name, 32 bytes; of several processes that ask first, one makes it."""
    read = select(Secret.value).where(Secret.name == name)
    known = session.scalar(read)
    if known is not None:
        return known
    made = insert(Secret).values(name=name, value=secrets.token_bytes(SECRET_BYTES))
    session.execute(made.on_conflict_do_nothing(index_elements=[Secret.name]))
    return session.scalars(read).one()
