"""Tables of who shares one service: projects, what they use of it, what was lent to browsers, what operators did.

Part of the schema (`app.store.tables`). Bytes are counted by triggers of the migration, so that no code path can store
something that is not counted. Leaves out queries (`app.store.projects`, `app.store.lent`, `app.store.audit`).
"""

from datetime import date, datetime
from typing import Final
from uuid import UUID

from sqlalchemy import CheckConstraint, ForeignKey, Index, SmallInteger, text
from sqlalchemy.orm import Mapped, mapped_column

from app.store.base import Base, Big, Created, Id

DEFAULT: Final = "default"  # the project of everything that names none
SHARDS: Final = 16  # rows that a project's counts are spread over, by connection: answers do not queue for one row


class Project(Base):
    """Whose keys, answers and grades belong together. Null limits are the service's (`LEPO_PROJECT_...`), 0 is none."""

    __tablename__ = "projects"
    __table_args__ = (
        CheckConstraint(
            "requests_per_minute >= 0 AND tokens_per_minute >= 0 AND stored_bytes >= 0 AND grading_seconds >= 0",
            name="limits_possible",
        ),
    )

    id: Mapped[str] = mapped_column(primary_key=True)  # its name: [a-z][a-z0-9-]*, at most 40 characters
    requests_per_minute: Mapped[Big | None]
    tokens_per_minute: Mapped[Big | None]
    stored_bytes: Mapped[Big | None]  # most bytes of texts and rollouts kept
    grading_seconds: Mapped[float | None]  # most seconds of graders a day (UTC)
    created_at: Mapped[Created]


class Usage(Base):
    """What a project uses, in parts to be added up: one per group of connections."""

    __tablename__ = "project_usage"

    project_id: Mapped[str] = mapped_column(ForeignKey("projects.id"), primary_key=True)
    shard: Mapped[int] = mapped_column(SmallInteger, primary_key=True, autoincrement=False)  # 0 .. SHARDS - 1
    stored_bytes: Mapped[Big] = mapped_column(server_default=text("0"))  # a part alone may be below 0
    grading_seconds: Mapped[float] = mapped_column(server_default=text("0"))  # of `grading_day` alone
    grading_day: Mapped[date | None]  # UTC


class LentToken(Base):
    """A grading token: what it may still do. Its text is not kept; it is signed."""

    __tablename__ = "grading_tokens"
    __table_args__ = (
        CheckConstraint("used >= 0 AND used <= grades", name="used_within"),
        Index("ix_grading_tokens_interaction_id", "interaction_id"),
        Index("ix_grading_tokens_expires_at", "expires_at"),
    )

    id: Mapped[Id]
    interaction_id: Mapped[UUID] = mapped_column(ForeignKey("interactions.id", ondelete="CASCADE"))
    api_key_id: Mapped[str] = mapped_column(ForeignKey("api_keys.id"))  # the key that made it
    grades: Mapped[int]  # how many entries it may write
    used: Mapped[int] = mapped_column(server_default=text("0"))
    expires_at: Mapped[datetime]
    revoked_at: Mapped[datetime | None]
    created_at: Mapped[Created]


class AuditEntry(Base):
    """Something an operator did, written before it is done; how it ended is written after."""

    __tablename__ = "audit"
    __table_args__ = (
        Index("ix_audit_created_at", "created_at"),
        Index("ix_audit_project_id", "project_id", "id", postgresql_where=text("project_id IS NOT NULL")),
    )

    id: Mapped[Id]
    actor: Mapped[str]  # a key's id, or `login:` and the name of whoever was at the command line
    project_id: Mapped[str | None] = mapped_column(ForeignKey("projects.id"))  # of the key; null: of the service
    action: Mapped[str]  # method and path, or the command
    target: Mapped[str | None]  # what was made or meant, where the path does not say it
    outcome: Mapped[str | None]  # the status, or `done`; null: the process ended before it could say
    request_id: Mapped[str | None]  # as the response's x-request-id
    created_at: Mapped[Created]
