"""What all tables share: metadata, constraint names, column types.

Leaves out the tables themselves (`app.store.tables`).
"""

import math
from datetime import datetime
from typing import Annotated, Any
from uuid import UUID

from sqlalchemy import BigInteger, CheckConstraint, DateTime, Dialect, MetaData, Text, TypeDecorator, Uuid, func
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.orm import DeclarativeBase, mapped_column

from app.identifiers import uuid7

Json = dict[str, Any]

Id = Annotated[UUID, mapped_column(primary_key=True, default=uuid7)]
Big = Annotated[int, mapped_column(BigInteger)]
Created = Annotated[datetime, mapped_column(server_default=func.now())]

NAMES = {
    "ix": "ix_%(table_name)s_%(column_0_N_name)s",
    "uq": "uq_%(table_name)s_%(column_0_N_name)s",
    "ck": "ck_%(table_name)s_%(constraint_name)s",
    "fk": "fk_%(table_name)s_%(column_0_name)s_%(referred_table_name)s",
    "pk": "pk_%(table_name)s",
}


def storable(value: Any) -> Any:
    """Copy a JSON value with what Postgres cannot hold (NUL, lone surrogates) replaced by U+FFFD; a NaN becomes "nan".

    A model may emit any byte and a client may send any escape; neither may cost the row. The exact tokens of an answer
    are in its rollout.
    """
    if isinstance(value, str):
        clean = value.replace("\x00", "\ufffd")
        return clean if clean.isprintable() else "".join("\ufffd" if 0xD800 <= ord(c) < 0xE000 else c for c in clean)
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    if isinstance(value, dict):
        return {storable(key): storable(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [storable(item) for item in value]
    return value


class AnyText(TypeDecorator[str]):
    """Text that takes every Python string; see `storable`."""

    impl = Text
    cache_ok = True

    def process_bind_param(self, value: str | None, dialect: Dialect) -> str | None:  # noqa: ARG002 - its signature
        """Clean a string on its way in."""
        return None if value is None else str(storable(value))


class AnyJson(TypeDecorator[Any]):
    """JSONB that takes every JSON value; None is SQL's NULL. See `storable`."""

    impl = JSONB(none_as_null=True)
    cache_ok = True

    def process_bind_param(self, value: Any, dialect: Dialect) -> Any:  # noqa: ARG002 - its signature
        """Clean a value on its way in."""
        return storable(value)


class Base(DeclarativeBase):
    """Parent of every table."""

    metadata = MetaData(naming_convention=NAMES)
    type_annotation_map = {  # noqa: RUF012 - the declarative base reads it as a class attribute
        str: AnyText,
        datetime: DateTime(timezone=True),
        Json: AnyJson,
        UUID: Uuid,
    }


def one_of(column: str, words: tuple[str, ...]) -> CheckConstraint:
    """Constrain a text column to a few words; an enum type of Postgres could not be changed inside a transaction."""
    listed = ", ".join(f"'{word}'" for word in words)
    return CheckConstraint(f"{column} IN ({listed})", name=f"{column}_known")
