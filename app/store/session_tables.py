"""Tables of sessions: which turns belong together, and what was thought of them as a whole.

Part of the schema (`app.store.tables`). Leaves out turns themselves (`Interaction.session_id`, `.turn`), joining them
(`app.store.sessions`) and what a grade of an episode is worth to a turn (`app.store.episodes`).
"""

from typing import Final
from uuid import UUID

from sqlalchemy import CheckConstraint, ForeignKey, Identity, Index, UniqueConstraint, text
from sqlalchemy.orm import Mapped, mapped_column

from app.store.base import Base, Big, Created, Id, one_of

CREDITS: Final = ("last_turn", "all_turns", "discounted")


class ClientSession(Base):
    """Turns that a client says belong together, under a name of the client's. Counters and the rule change."""

    __tablename__ = "sessions"
    __table_args__ = (
        UniqueConstraint("api_key_id", "name"),
        one_of("credit", CREDITS),
        CheckConstraint("turns >= 0", name="turns_counted"),
        CheckConstraint("(credit = 'discounted') = (discount IS NOT NULL)", name="discounted_says_how"),
        Index("ix_sessions_last_turn_at", "last_turn_at"),
    )

    id: Mapped[Id]
    api_key_id: Mapped[str] = mapped_column(ForeignKey("api_keys.id"))  # whose it is; two keys' names never meet
    name: Mapped[str]  # as the client calls it
    opening: Mapped[bytes]  # SHA-256 of the first turn's prompt and task: episodes that begin alike are compared
    turns: Mapped[int] = mapped_column(server_default=text("0"))  # committed so far; the last one's number
    credit: Mapped[str] = mapped_column(server_default="all_turns")  # rule of its last grade, and of one without
    discount: Mapped[float | None]  # credit that is left one turn earlier, in (0, 1); null unless discounted
    created_at: Mapped[Created]
    last_turn_at: Mapped[Created]


class SessionGrade(Base):
    """One entry of the ledger of episodes. Never edited: a later entry of the same grader supersedes an earlier one."""

    __tablename__ = "session_grades"
    __table_args__ = (
        one_of("state", ("graded", "retracted")),
        one_of("credit", CREDITS),
        CheckConstraint("(state = 'graded') = (value IS NOT NULL)", name="value_iff_graded"),
        CheckConstraint("value NOT IN ('NaN', 'Infinity', '-Infinity')", name="value_finite"),
        CheckConstraint("(credit = 'discounted') = (discount IS NOT NULL)", name="discounted_says_how"),
        CheckConstraint("through_turn >= 0", name="through_counted"),
        Index("ix_session_grades_ledger", "session_id", "grader_kind", "grader_id", "entry"),
    )

    id: Mapped[Id]
    entry: Mapped[Big] = mapped_column(Identity(always=True), unique=True)  # order of writing within a session
    session_id: Mapped[UUID] = mapped_column(ForeignKey("sessions.id", ondelete="CASCADE"))
    state: Mapped[str]
    value: Mapped[float | None]  # any finite number, as given; null when taken back
    credit: Mapped[str]  # which turns it is for
    discount: Mapped[float | None]
    through_turn: Mapped[int]  # the last turn there was when it was given
    grader_kind: Mapped[str]
    grader_id: Mapped[str]
    grader_version: Mapped[str | None]
    comment: Mapped[str | None]
    supersedes_id: Mapped[UUID | None] = mapped_column(ForeignKey("session_grades.id", ondelete="CASCADE"))
    api_key_id: Mapped[str | None] = mapped_column(ForeignKey("api_keys.id"))  # the key it came with
    created_at: Mapped[Created]
