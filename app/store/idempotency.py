"""Idempotency keys: a retried request gets the answer of the first, and is not applied twice.

    begin -> Begun      nobody did this: do it, then `finish` (best in the same transaction as its effect)
          -> Replay     done before with the same body: answer this
          -> 422        the key was used for another body
          -> 409        somebody is at it right now

Leaves out reading the header (`app.api`) and what the answers mean.
"""

from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from sqlalchemy import delete, func, select, update
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import Session

from app.errors import Conflict, Unprocessable
from app.store.tables import IdempotencyKey

LONGEST_KEY = 255
OWNER_DIED = timedelta(seconds=60)  # running for longer: whoever began is taken for dead


@dataclass(frozen=True, slots=True)
class Begun:
    """The right to do what was asked, once."""

    owner: str
    key: str
    attempt: int  # 1, or more after a caller that died


@dataclass(frozen=True, slots=True)
class Replay:
    """What was answered before."""

    status: int
    response: Any  # JSON


def begin(
    session: Session, owner: str, key: str, route: str, body_sha256: bytes, *, died_after: timedelta = OWNER_DIED
) -> Begun | Replay:
    """Ask for the right to do something under a key.

    Args:
        session: a transaction. Commit it before the work for others to see 409 meanwhile; keep it for the work, and
            others wait for its end.
        owner: the caller's API key id, or what stands in for it; keys of different owners never meet.
        key: the `Idempotency-Key`, 1 to 255 characters.
        route: method, path and query of the request.
        body_sha256: of the body as sent.
        died_after: how long a beginner may take before another may take over.

    Raises:
        ValueError: the key is empty or too long.
        Unprocessable: the key was used for another body or route.
        Conflict: the first request is still running.

    """
    if not 1 <= len(key) <= LONGEST_KEY:
        raise ValueError(f"Idempotency-Key must have 1 to {LONGEST_KEY} characters")
    fresh = insert(IdempotencyKey).values(
        owner=owner, key=key, route=route, body_sha256=body_sha256, state="running", attempt=1
    )
    if session.scalar(fresh.on_conflict_do_nothing().returning(IdempotencyKey.attempt)) is not None:
        return Begun(owner, key, 1)
    row = session.scalar(
        select(IdempotencyKey)
        .where(IdempotencyKey.owner == owner, IdempotencyKey.key == key)
        .with_for_update()
        .execution_options(populate_existing=True)
    )
    if row is None:  # given up between the two statements
        raise Conflict("The first request with this Idempotency-Key just failed; send it again", retry_after=1)
    if row.body_sha256 != body_sha256 or row.route != route:
        raise Unprocessable(
            "This Idempotency-Key was used for another request; use a new key for a new request",
            param="Idempotency-Key",
            code="idempotency_key_reused",
        )
    if row.state == "done":
        assert row.status is not None, "a finished request has a status"
        return Replay(row.status, row.response)
    now = session.scalars(select(func.clock_timestamp())).one()
    if row.began_at + died_after > now:
        raise Conflict(
            "The first request with this Idempotency-Key is still running; try again shortly",
            code="idempotency_key_running",
            retry_after=1,
        )
    row.attempt += 1
    row.began_at = now
    session.flush()
    return Begun(owner, key, row.attempt)


def finish(session: Session, begun: Begun, status: int, response: Any) -> None:
    """Keep the answer for those who ask again.

    Raises:
        Conflict: another took over meanwhile; the transaction must be rolled back.

    """
    done = (
        update(IdempotencyKey)
        .where(same(begun))
        .values(state="done", status=status, response=response)
        .returning(IdempotencyKey.attempt)
    )
    if session.scalar(done) is None:
        raise Conflict("Another request with this Idempotency-Key took over", code="idempotency_key_running")


def give_up(session: Session, begun: Begun) -> None:
    """Free the key after a failure that changed nothing, so that a retry is not a replay."""
    session.execute(delete(IdempotencyKey).where(same(begun)))


def forget(session: Session, older_than: timedelta) -> int:
    """Delete answers kept longer than this; returns how many."""
    old = delete(IdempotencyKey).where(IdempotencyKey.created_at < func.now() - older_than)
    return len(session.scalars(old.returning(IdempotencyKey.key)).all())


def same(begun: Begun) -> Any:
    """Match the row of this very attempt."""
    return (
        (IdempotencyKey.owner == begun.owner)
        & (IdempotencyKey.key == begun.key)
        & (IdempotencyKey.attempt == begun.attempt)
        & (IdempotencyKey.state == "running")
    )
