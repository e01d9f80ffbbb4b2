"""The table of held-out sets that operators uploaded. Part of the schema (`app.store.tables`).

Leaves out queries (`app.store.held_out`).
"""

from datetime import datetime

from sqlalchemy import CheckConstraint, Index, text
from sqlalchemy.orm import Mapped, mapped_column

from app.store.base import Base, Big, Created


class HeldOutSet(Base):
    """Lines as they were uploaded, under a version; only which one is asked changes."""

    __tablename__ = "held_out_sets"
    __table_args__ = (
        CheckConstraint("version > 0 AND prompts > 0", name="counts_possible"),
        Index("uq_held_out_sets_one_active", "active", unique=True, postgresql_where=text("active")),
    )

    version: Mapped[Big] = mapped_column(primary_key=True, autoincrement=False)  # from 1; never reused
    digest: Mapped[str]  # SHA-256 of the lines as UTF-8, hexadecimal
    lines: Mapped[str] = mapped_column(deferred=True)  # JSONL; a megabyte or so, so listings pass over it
    prompts: Mapped[int]  # lines that ask something
    size: Mapped[int]  # bytes of the lines as UTF-8
    created_by: Mapped[str]  # a key's id
    created_at: Mapped[Created]
    active: Mapped[bool]  # whether the gate asks this one; one at most
    activated_by: Mapped[str | None]  # a key's id; null: it never was asked
    activated_at: Mapped[datetime | None]  # when that began last
