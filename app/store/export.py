"""Answers read out page by page, the oldest first, each with its grades and what became of it.

A page is a transaction: however slow the reader and however long the export, no snapshot is held open and no
connection is kept waiting, and a page needs the memory of a page. The last id read is where another export goes on.
An id is a UUIDv7 of the server that answered, so the order is that of time to within servers' clocks. Leaves out
files (`app.data_files`) and HTTP (`app.api.admin.export`).
"""

import base64
from typing import Final
from uuid import UUID

from sqlalchemy import select
from sqlalchemy.orm import Session

from app.identifiers import show
from app.store.base import Json
from app.store.claims import any_of
from app.store.grades import rewards
from app.store.interactions import Filters, bytes_of, conditions
from app.store.tables import Claim, Grade, Interaction, StoredRollout

PAGE: Final = 500  # answers a transaction reads; a rollout is some tens of KB


def page(
    session: Session, filters: Filters, after: UUID | None = None, *, rollouts: bool = False, limit: int = PAGE
) -> list[Json]:
    """Read answers in the order of their ids, as records of plain JSON.

    Args:
        session: a transaction.
        filters: as of a listing.
        after: the id that the page before ended with.
        rollouts: whether each comes with its rollout (base64; `training.codec`), as far as it is kept.
        limit: answers at most.

    """
    query = select(Interaction).where(*conditions(filters)).order_by(Interaction.id).limit(limit)
    if after is not None:
        query = query.where(Interaction.id > after)
    rows = list(session.scalars(query))
    ids = [row.id for row in rows]
    reward = rewards(session, ids)
    ledgers: dict[UUID, list[Json]] = {one: [] for one in ids}
    for grade in session.scalars(select(Grade).where(Grade.interaction_id == any_of(ids)).order_by(Grade.entry)):
        ledgers[grade.interaction_id].append(grade_record(grade))
    fates = {
        one.interaction_id: one for one in session.scalars(select(Claim).where(Claim.interaction_id == any_of(ids)))
    }
    records = []
    for row in rows:
        found = reward.get(row.id)
        record = answer_record(row)
        record["reward"] = None if found is None else found.value
        record["grades"] = ledgers[row.id]
        record["learning"] = learning_record(fates.get(row.id))
        records.append(record)
    if rollouts:
        traces = select(StoredRollout).where(StoredRollout.interaction_id == any_of(ids))
        stored = {one.interaction_id: one for one in session.scalars(traces)}
        for row, record in zip(rows, records, strict=True):
            record["rollout"] = rollout_record(stored.get(row.id))
    session.expunge_all()
    return records


def answer_record(row: Interaction) -> Json:
    """Write an answer and what was asked for it."""
    return {
        "id": show("int", row.id),
        "created_at": row.created_at.isoformat(),
        "completion_id": row.completion_id,
        "choice": row.choice,
        "group_size": row.group_size,
        "endpoint": row.endpoint,
        "model": row.model,
        "checkpoint_id": show("ckpt", row.checkpoint_id),
        "policy_version": row.policy_version,
        "key": row.api_key_id,
        "project": row.project_id,
        "user": row.user_tag,
        "metadata": row.client_metadata,
        "request": row.request,
        "prompt": row.prompt_text,
        "answer": row.answer,
        "finish_reason": row.finish_reason,
        "usage": row.usage,
        "grader": row.grader,
        "grading_state": row.grading_state,
        "learnable": row.learnable,
        "unlearnable_reason": row.unlearnable_reason,
        "session_id": None if row.session_id is None else show("sess", row.session_id),
        "turn": row.turn,
    }


def grade_record(row: Grade) -> Json:
    """Write one entry of the ledger."""
    return {
        "id": show("grade", row.id),
        "state": row.state,
        "value": row.value,
        "kind": row.grader_kind,
        "grader": row.grader_id,
        "version": row.grader_version,
        "comment": row.comment,
        "correction": row.correction,
        "credit": row.credit,
        "key": row.api_key_id,
        "created_at": row.created_at.isoformat(),
    }


def learning_record(claim: Claim | None) -> Json | None:
    """Write what became of an answer in learning."""
    if claim is None:
        return None
    return {
        "job_id": show("job", claim.job_id),
        "outcome": claim.outcome,
        "reason": claim.reason,
        "divergence": claim.divergence,
        "weight": claim.weight,
    }


def rollout_record(stored: StoredRollout | None) -> Json | None:
    """Write a rollout's bytes; None where none are kept, or its file is lost."""
    payload = None if stored is None else bytes_of(stored)
    if stored is None or payload is None:
        return None
    return {"codec": stored.codec, "payload": base64.b64encode(payload).decode()}
