"""Policies beside one another: a lineage to draw, what a version's live answers are like, prompts that two answered.

Reading only, over a bounded number of newest rows. Leaves out the life of a policy (`app.store.policy_life`) and what
is in it (`app.store.lineage`).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final
from uuid import UUID

from sqlalchemy import ColumnElement, Integer, Subquery, func, select
from sqlalchemy.dialects.postgresql import aggregate_order_by
from sqlalchemy.orm import Session, aliased

from app.store.tables import Checkpoint, Evaluation, Interaction, StoredRequest

DRAWN: Final = 120  # newest policies of a lineage
LOOKED_AT: Final = 500  # newest answers of a version


@dataclass(frozen=True, slots=True)
class Kin:
    """A policy in a lineage."""

    version: int
    parent: int | None  # version of its parent
    state: str
    accuracy: float | None  # share of held-out questions answered right, over all looks; None: none were asked
    asked: int  # held-out questions
    created_at: datetime


@dataclass(frozen=True, slots=True)
class Manner:
    """What a version's newest live answers are like."""

    answers: int  # looked at
    graded: int
    reward: float | None  # mean of the graded ones
    spread: float | None  # standard deviation of their rewards
    tokens: float | None  # mean length, latent steps included
    cut: float | None  # share that ended for length


@dataclass(frozen=True, slots=True)
class Both:
    """A prompt that two versions answered."""

    prompt: str
    first: Interaction
    second: Interaction


def kin(session: Session) -> list[Kin]:
    """List the newest policies, by version."""
    parent = aliased(Checkpoint)
    asked = (
        select(
            Evaluation.checkpoint_id,
            func.sum(Evaluation.correct).label("right"),
            func.sum(Evaluation.total).label("of"),
        )
        .group_by(Evaluation.checkpoint_id)
        .subquery()
    )
    query = (
        select(Checkpoint.version, parent.version, Checkpoint.state, asked.c.right, asked.c.of, Checkpoint.created_at)
        .outerjoin(parent, parent.id == Checkpoint.parent_id)
        .outerjoin(asked, asked.c.checkpoint_id == Checkpoint.id)
        .order_by(Checkpoint.version.desc())
        .limit(DRAWN)
    )
    return [
        Kin(version, before, state, int(right) / int(of) if of else None, int(of or 0), at)
        for version, before, state, right, of, at in reversed(session.execute(query).all())
    ]


def manner(session: Session, version: int) -> Manner:
    """Describe a version's newest answers, those that nobody saw left out."""
    newest = of_version(version)
    tokens = newest.c.usage["completion_tokens"].astext.cast(Integer)
    row = session.execute(
        select(
            func.count(),
            func.count(newest.c.reward),
            func.avg(newest.c.reward),
            func.stddev_samp(newest.c.reward),
            func.avg(tokens),
            func.count().filter(newest.c.finish_reason == "length"),
        ).select_from(newest)
    ).one()
    answers, graded, reward, spread, length, cut = row
    return Manner(answers, graded, number(reward), number(spread), number(length), cut / answers if answers else None)


def number(value: Any) -> float | None:
    """Read an average; of nothing there is none."""
    return None if value is None else float(value)


def of_version(version: int) -> Subquery:
    """Give a version's newest answers as a table."""
    return (
        select(Interaction)
        .where(Interaction.policy_version == version, Interaction.shadow_of.is_(None))
        .order_by(Interaction.id.desc())
        .limit(LOOKED_AT)
        .subquery()
    )


def same_prompts(session: Session, first: int, second: int, limit: int = 12) -> list[Both]:
    """Find prompts that both versions answered among their newest answers, each with one answer of either."""
    left, right = (newest_by_prompt(version) for version in (first, second))
    query = select(left.c.prompt, left.c.id, right.c.id).join(right, right.c.digest == left.c.digest).limit(limit)
    pairs = session.execute(query).all()
    rows = {row.id: row for row in session.scalars(select(Interaction).where(Interaction.id.in_(ids_of(pairs))))}
    return [Both(str(prompt), rows[mine], rows[other]) for prompt, mine, other in pairs]


def ids_of(pairs: Sequence[Any]) -> list[UUID]:
    """Give the answers of pairs."""
    return [one for _, *ids in pairs for one in ids]


def newest_by_prompt(version: int) -> Subquery:
    """Give the newest answer of a version to each prompt, by the prompt's digest, as a table."""
    answers = of_version(version)
    prompt = StoredRequest.prompts[answers.c.prompt_index + 1].label("prompt")
    one = select(answers.c.id, prompt).join(StoredRequest, StoredRequest.id == answers.c.request_id).subquery()
    digest = func.md5(one.c.prompt)
    return (
        select(digest.label("digest"), func.min(one.c.prompt).label("prompt"), latest(one.c.id))
        .group_by(digest)
        .subquery()
    )


def latest(column: ColumnElement[UUID]) -> ColumnElement[UUID]:
    """Give the newest of some ids; not every Postgres has a maximum of them."""
    newest: ColumnElement[UUID] = func.array_agg(aggregate_order_by(column, column.desc()))[1].label("id")
    return newest
