"""Removing answers: the rows, all that refers to them, and what is left in their place.

An answer goes with its rollout, its grades, whatever else has a foreign key to it, and the stored responses of
requests that graded it; with the last answer to a request goes the request, and a session with its last. Its claim
stays, without a text in it, so that what a policy was made from stays countable; a tombstone keeps what lineage asks of
the answer (times, policy, keys and kinds of graders, reward) and one digest:

    SHA-256 of: prompt as the model saw it | one zero byte | answer | one zero byte | rollout's bytes, if it had one

Text is UTF-8. Whoever has an export of the answer can prove by it what was removed. Leaves out which answers go, and
when (`app.store.retention`, `app.store.erasure`).
"""

import hashlib
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any, Final, cast
from uuid import UUID

from sqlalchemy import (
    Column,
    ColumnElement,
    CursorResult,
    Delete,
    Table,
    Text,
    Update,
    Uuid,
    any_,
    bindparam,
    delete,
    exists,
    literal,
    literal_column,
    select,
    text,
    update,
)
from sqlalchemy.dialects.postgresql import ARRAY
from sqlalchemy.orm import Session

from app.identifiers import show
from app.store.base import Base
from app.store.claims import any_of
from app.store.removed import Tombstone
from app.store.requests import remove_unanswered
from app.store.session_tables import ClientSession
from app.store.tables import Claim, IdempotencyKey, Interaction, StoredRollout
from app.store.traces import TraceLost, remove_after_commit

INTERACTIONS: Final = cast("Table", Interaction.__table__)
SAID: Final[ColumnElement[str]] = literal_column("(idempotency_keys.response ->> 'interaction_id')")  # as its index
SAID_OF_SESSION: Final[ColumnElement[str]] = literal_column("(idempotency_keys.response ->> 'session_id')")  # likewise
BURY: Final = text(
    """
    INSERT INTO tombstones (
        interaction_id, erasure_id, checkpoint_id, policy_version, api_key_id, project_id, answered_at, sha256,
        reward, grader_keys, grader_kinds
    )
    SELECT one.id, :erasure, one.checkpoint_id, one.policy_version, one.api_key_id, one.project_id, one.created_at,
        sha256(
            convert_to(asked.prompts[one.prompt_index + 1], 'UTF8') || '\\x00'::bytea
            || convert_to(one.answer, 'UTF8') || '\\x00'::bytea || coalesce(rollouts.payload, ''::bytea)
        ),
        (SELECT reward FROM effective_grades WHERE interaction_id = one.id),
        coalesce(
            (SELECT array_agg(DISTINCT coalesce(api_key_id, 'server'))
             FROM latest_grades WHERE interaction_id = one.id),
            '{}'
        ),
        coalesce(
            (SELECT array_agg(DISTINCT grader_kind) FROM latest_grades WHERE interaction_id = one.id), '{}'
        )
    FROM interactions AS one
    JOIN requests AS asked ON asked.id = one.request_id
    LEFT JOIN rollouts ON rollouts.interaction_id = one.id
    WHERE one.id = ANY(:ids)
    """
).bindparams(bindparam("ids", type_=ARRAY(Uuid)), bindparam("erasure", type_=Uuid))


def remove(session: Session, ids: Sequence[UUID], erasure_id: UUID | None = None) -> Counter[str]:
    """Remove answers that this transaction has locked (`FOR UPDATE`).

    Args:
        session: a transaction.
        ids: answers.
        erasure_id: the wish they are removed by: each leaves a tombstone. None: their time is over, and only those
            that a job claimed leave one.

    Returns:
        Rows removed, by table.

    """
    buried = list(ids)
    if erasure_id is None:
        buried = list(session.scalars(select(Claim.interaction_id).where(Claim.interaction_id == any_of(ids))))
    session.execute(BURY, {"ids": buried, "erasure": erasure_id})
    seal(session, buried)
    requests = set(session.scalars(select(INTERACTIONS.c.request_id).where(INTERACTIONS.c.id == any_of(ids))))
    forget_files(session, ids)
    joined = select(Interaction.session_id).where(Interaction.id == any_of(ids), Interaction.session_id.is_not(None))
    sessions = list(session.scalars(joined.distinct()))
    counts: Counter[str] = Counter()
    for table, column in referring():
        counts[table.name] += rows_of(session, delete(table).where(column == any_of(ids)))
    shown = any_(literal([show("int", one) for one in ids], ARRAY(Text)))
    counts["idempotency_keys"] += rows_of(session, delete(IdempotencyKey).where(shown == SAID))
    counts["interactions"] += rows_of(session, delete(INTERACTIONS).where(INTERACTIONS.c.id == any_of(ids)))
    counts["requests"] += remove_unanswered(session, requests)
    return +(counts + remove_empty(session, [one for one in sessions if one is not None]))


def remove_empty(session: Session, session_ids: Sequence[UUID]) -> Counter[str]:
    """Remove those of these sessions that have no turn left, with their grades and the stored responses to grading.

    One that somebody holds is left: it is about to get a turn, or a grade.
    """
    empty = ~exists().where(Interaction.session_id == ClientSession.id)
    query = select(ClientSession.id).where(ClientSession.id == any_of(session_ids), empty).order_by(ClientSession.id)
    ids = list(session.scalars(query.with_for_update(skip_locked=True)))
    if not ids:
        return Counter()
    shown = any_(literal([show("sess", one) for one in ids], ARRAY(Text)))
    return Counter(
        idempotency_keys=rows_of(session, delete(IdempotencyKey).where(shown == SAID_OF_SESSION)),
        sessions=rows_of(session, delete(ClientSession).where(ClientSession.id == any_of(ids))),
    )


def seal(session: Session, ids: Sequence[UUID]) -> None:
    """Correct the digests of answers whose rollouts are files; one whose file is lost is as one without."""
    query = select(Interaction, StoredRollout).join(StoredRollout)
    for row, stored in session.execute(query.where(Interaction.id == any_of(ids), StoredRollout.address.is_not(None))):
        try:
            payload = stored.payload
        except TraceLost:
            continue
        said = row.prompt_text.encode() + b"\0" + row.answer.encode() + b"\0" + payload
        digest = hashlib.sha256(said).digest()
        session.execute(update(Tombstone).where(Tombstone.interaction_id == row.id).values(sha256=digest))


def forget_files(session: Session, ids: Sequence[UUID]) -> None:
    """Have the files of rollouts removed when this transaction, which removes their rows, is committed."""
    query = select(StoredRollout.address).where(StoredRollout.interaction_id == any_of(ids))
    found = session.scalars(query.where(StoredRollout.address.is_not(None)))
    remove_after_commit(session, [address for address in found if address is not None])


def rows_of(session: Session, statement: Delete | Update) -> int:
    """Execute a statement and count its rows."""
    done = cast("CursorResult[Any]", session.execute(statement, execution_options={"synchronize_session": False}))
    return done.rowcount


def referring() -> Iterator[tuple[Table, Column[Any]]]:
    """Find every table whose rows belong to an answer: those with a foreign key to it."""
    for table in Base.metadata.sorted_tables:
        for column in table.columns:
            if any(key.column is INTERACTIONS.c.id for key in column.foreign_keys):
                yield table, column
