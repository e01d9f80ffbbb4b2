"""Tables of what was removed: who wanted it, and what is left of an answer.

Part of the schema (`app.store.tables`). Leaves out removing (`app.store.removal`, `app.store.erasure`).
"""

from datetime import datetime
from uuid import UUID

from sqlalchemy import ForeignKey, Index, Text
from sqlalchemy.dialects.postgresql import ARRAY
from sqlalchemy.orm import Mapped, mapped_column

from app.store.base import Base, Big, Created, Id, Json, one_of


class Erasure(Base):
    """A wish to remove somebody's data: who wanted it, whose it was as a digest, and what came of it."""

    __tablename__ = "erasures"
    __table_args__ = (
        one_of("subject", ("user", "interaction", "session")),
        Index("ix_erasures_subject", "subject_hmac"),
    )

    id: Mapped[Id]
    actor: Mapped[str]  # a key's id, or a login's name
    subject: Mapped[str]  # what was named
    subject_hmac: Mapped[bytes]  # HMAC-SHA-256 of its name under a secret of this database: no list of users
    api_key_id: Mapped[str | None]  # only what this key asked; null: whoever asked
    project_id: Mapped[str | None] = mapped_column(ForeignKey("projects.id"))  # only in this project; null: in all
    removed: Mapped[Json] = mapped_column(default=dict)  # table -> rows removed so far
    created_at: Mapped[Created]
    finished_at: Mapped[datetime | None]  # null: not everything is removed yet


class Tombstone(Base):
    """What is left of an answer that was removed: digests, times, and what lineage counts. No text, no user."""

    __tablename__ = "tombstones"
    __table_args__ = (
        Index("ix_tombstones_erasure_id", "erasure_id"),
        Index("ix_tombstones_created_at", "created_at"),
    )

    interaction_id: Mapped[UUID] = mapped_column(primary_key=True)
    erasure_id: Mapped[UUID | None] = mapped_column(ForeignKey("erasures.id"))  # null: its time was over
    checkpoint_id: Mapped[UUID] = mapped_column(ForeignKey("checkpoints.id"))  # the policy that answered
    policy_version: Mapped[Big]
    api_key_id: Mapped[str | None]  # the key that asked
    project_id: Mapped[str] = mapped_column(ForeignKey("projects.id"), server_default="default")  # of that key
    answered_at: Mapped[datetime]
    sha256: Mapped[bytes]  # of what was removed; see `app.store.removal`
    reward: Mapped[float | None]  # what its grades came to
    grader_keys: Mapped[list[str]] = mapped_column(ARRAY(Text))  # API keys whose grades counted; `server`: graded here
    grader_kinds: Mapped[list[str]] = mapped_column(ARRAY(Text))
    created_at: Mapped[Created]  # when it was removed
