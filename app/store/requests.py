"""Requests: what was asked, stored once for all answers to it, whichever of them is committed first.

An answer's transaction makes sure that its request is there and holds it until the commit, so that a removal of the
request's other answers cannot take it away in between. Leaves out what is redacted before (`app.api.answering.record`).
"""

from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Any, cast
from uuid import UUID

from sqlalchemy import CursorResult, delete, exists, select
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import Session

from app.store.base import Json
from app.store.claims import any_of
from app.store.projects import project_of
from app.store.tables import Interaction, StoredRequest


@dataclass(frozen=True, slots=True)
class Asked:
    """What is stored of a request in words."""

    body: Json  # as sent, without what follows
    prompts: tuple[str, ...]  # as the model saw them
    grader: Json | None
    metadata: Json | None


def keep(session: Session, request_id: UUID, asked: Callable[[], Asked], key_id: str | None = None) -> None:
    """Make sure that a request is stored, and stays until this transaction ends.

    Args:
        session: a transaction.
        request_id: the request; all its answers name the same.
        asked: gives what to write; called only where it is not stored yet.
        key_id: whose it is; its project is that of the key.

    """
    held = select(StoredRequest.id).where(StoredRequest.id == request_id).with_for_update(key_share=True, read=True)
    while session.scalar(held) is None:  # again only where a removal came between the two statements
        words = asked()
        row = insert(StoredRequest).values(
            id=request_id,
            project_id=project_of(key_id),
            body=words.body,
            prompts=list(words.prompts),
            grader=words.grader,
            client_metadata=words.metadata,
        )
        session.execute(row.on_conflict_do_nothing())  # waits for another answer's transaction that writes it now


def remove_unanswered(session: Session, request_ids: Collection[UUID]) -> int:
    """Remove those of some requests that have no answer any more; returns how many."""
    named = StoredRequest.id == any_of(request_ids)
    session.execute(select(StoredRequest.id).where(named).order_by(StoredRequest.id).with_for_update())
    # A statement of its own, so that it sees answers that were committed while the locks were waited for.
    unanswered = delete(StoredRequest).where(named, ~exists().where(Interaction.request_id == StoredRequest.id))
    done = cast("CursorResult[Any]", session.execute(unanswered, execution_options={"synchronize_session": False}))
    return done.rowcount
