"""Claims: which job may learn from which interaction, at most once each.

A row of `claims` is written when a job takes an interaction; its primary key is the interaction, so a second row cannot
exist. It stays `claimed` while the job runs and while the policy that it made waits for a decision, and then comes to
one of four ends:

    learn     the policy serves: the answers are part of it, for good
    release   somebody else's fault or wish: the answers are fresh again
    refuse    the policy was worse: fresh again the first time, spent (`refused`) the second
    keep      nothing is decided yet

Leaves out which answers are offered (`app.store.learnable`), what is learned (`worker`) and jobs (`app.store.jobs`).
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal
from uuid import UUID

from sqlalchemy import ColumnElement, Float, Text, Uuid, and_, any_, case, column, func, literal, select, update
from sqlalchemy import delete as delete_from
from sqlalchemy.dialects.postgresql import ARRAY, insert
from sqlalchemy.orm import Session
from sqlalchemy.sql.dml import ReturningUpdate
from sqlalchemy.sql.elements import CollectionAggregate
from sqlalchemy.sql.expression import FromClause
from sqlalchemy.types import TypeEngine

from app.store.episodes import EpisodeReward, episode_rewards
from app.store.grades import Reward, corrections, graded_by, own_rewards
from app.store.interactions import bytes_of
from app.store.tables import Claim, Interaction, StoredRollout

Settlement = Literal["keep", "learn", "release", "refuse"]

NO_ROLLOUT: Final = "no_rollout"
REFUSED: Final = "refused"
OF_SESSION: Final = "session/"  # begins the names of bundles that are no response
MOST_REFUSALS: Final = 2  # updates with an answer that may be refused before it is spent


@dataclass(frozen=True, slots=True)
class Claimed:
    """An interaction a job holds, with what learning needs of it."""

    interaction: Interaction
    reward: Reward | None  # of its own graders; None where nobody gave it a number
    correction: str | None  # what the answer should have been, by the last who said so
    grader_keys: frozenset[str]  # API keys whose grades count; empty when this server graded
    codec: int  # of `payload`
    payload: bytes  # the rollout
    episode: EpisodeReward | None = None  # what grades of its session come to for it; None where there is none

    @property
    def bundle(self) -> str:
        """Name of what it was taken with."""
        return bundle_of(self.interaction)


@dataclass(frozen=True, slots=True)
class Skipped:
    """Why an answer is not learned from."""

    reason: str  # in a word
    divergence: float | None = None  # nats per step, where that was the reason


def fresh() -> ColumnElement[bool]:
    """Say what can be learned from: graded, replayable, not yet claimed; in the very words of the indexes on it."""
    return and_(Interaction.graded_at.is_not(None), Interaction.learnable, ~Interaction.claimed)


def bundle() -> ColumnElement[str]:
    """Name in SQL what an answer is taken with: the credited turns of its session, else the choices of its response."""
    return case(
        (Interaction.credited, func.concat(OF_SESSION, Interaction.session_id)), else_=Interaction.completion_id
    )


def bundle_of(row: Interaction) -> str:
    """Name what an answer is taken with, as `bundle` does."""
    return f"{OF_SESSION}{row.session_id}" if row.credited else row.completion_id


def any_of(ids: Collection[UUID]) -> CollectionAggregate[Any]:
    """Bind any number of ids as one parameter; a column is compared with it by `==`."""
    return any_(literal(list(ids), ARRAY(Uuid)))


def claim(session: Session, job_id: UUID, groups: Mapping[str, Sequence[UUID]]) -> list[Claimed]:
    """Take answers for a job, by bundle; one of which anything was taken or changed meanwhile is left as a whole.

    Args:
        session: a transaction; the claim holds from its commit on.
        job_id: the job, running.
        groups: bundle -> its answers wanted, as `app.store.learnable` offers them.

    Returns:
        What was taken, by response and choice; the reward is of this moment.

    """
    wanted = [one for ids in groups.values() for one in ids]
    query = (
        select(Interaction)
        .where(Interaction.id == any_of(wanted), fresh())
        .order_by(Interaction.completion_id, Interaction.choice)
        .with_for_update(skip_locked=True)
        .execution_options(populate_existing=True)
    )
    locked: dict[str, list[Interaction]] = {}
    for row in session.scalars(query):
        locked.setdefault(bundle_of(row), []).append(row)
    whole = [row for group, rows in locked.items() if len(rows) == len(groups.get(group, ())) for row in rows]
    write(session, job_id, [row.id for row in whole])
    taken = load(session, whole)
    lost = {row.id for row in whole} - {item.interaction.id for item in taken}
    skip(session, job_id, dict.fromkeys(lost, Skipped(NO_ROLLOUT)))
    return taken


def load(session: Session, rows: Sequence[Interaction]) -> list[Claimed]:
    """Add rewards, corrections and rollouts to interactions; one without a rollout, or without a word, is left out."""
    ids = [row.id for row in rows]
    reward, keys, right = own_rewards(session, ids), graded_by(session, ids), corrections(session, ids)
    shared = episode_rewards(session, rows)
    query = select(StoredRollout).where(StoredRollout.interaction_id == any_of(ids))
    found = {trace.interaction_id: (trace.codec, bytes_of(trace)) for trace in session.scalars(query)}
    traces = {one: (codec, payload) for one, (codec, payload) in found.items() if payload is not None}
    return [
        Claimed(
            interaction=row,
            reward=reward.get(row.id),
            correction=right.get(row.id),
            grader_keys=frozenset(keys.get(row.id, ())),
            codec=traces[row.id][0],
            payload=traces[row.id][1],
            episode=shared.get(row.id),
        )
        for row in rows
        if row.id in traces and (row.id in reward or row.id in right or row.id in shared)
    ]


def skip(session: Session, job_id: UUID, reasons: Mapping[UUID, Skipped]) -> None:
    """Settle claimed interactions that the job will not learn from after all."""
    given = _table(
        id=(Uuid, list(reasons)),
        reason=(Text, [one.reason for one in reasons.values()]),
        divergence=(Float, [one.divergence for one in reasons.values()]),
    )
    session.execute(
        update(Claim)
        .where(Claim.job_id == job_id, Claim.outcome == "claimed", Claim.interaction_id == given.c.id)
        .values(outcome="skipped", reason=given.c.reason, divergence=given.c.divergence)
        .execution_options(synchronize_session=False)
    )


def give_back(session: Session, job_id: UUID, ids: Collection[UUID]) -> int:
    """Make some of what a job claims fresh again; returns how many."""
    return _released(session, and_(Claim.job_id == job_id, Claim.interaction_id == any_of(ids)))


def measured(session: Session, job_id: UUID, figures: Mapping[UUID, tuple[float, float]]) -> None:
    """Keep how far each claimed answer was from the policy that learns: id -> (divergence in nats, mean weight)."""
    given = _table(
        id=(Uuid, list(figures)),
        divergence=(Float, [divergence for divergence, _ in figures.values()]),
        weight=(Float, [weight for _, weight in figures.values()]),
    )
    session.execute(
        update(Claim)
        .where(Claim.job_id == job_id, Claim.interaction_id == given.c.id)
        .values(divergence=given.c.divergence, weight=given.c.weight)
        .execution_options(synchronize_session=False)
    )


def settle(session: Session, job_id: UUID, settlement: Settlement) -> int:
    """Bring what a job still claims to an end; returns how many answers that were."""
    held = and_(Claim.job_id == job_id, Claim.outcome == "claimed")
    if settlement == "keep":
        return 0
    if settlement == "learn":
        return len(session.scalars(_settled(held, "learned", None)).all())
    if settlement == "release":
        return _released(session, held)
    tried = update(Interaction).where(Interaction.id.in_(select(Claim.interaction_id).where(held)))
    session.execute(tried.values(refusals=Interaction.refusals + 1).execution_options(synchronize_session=False))
    worn = select(Interaction.id).where(
        Interaction.refusals >= MOST_REFUSALS, Interaction.id.in_(select(Claim.interaction_id).where(held))
    )
    spent = session.scalars(_settled(and_(held, Claim.interaction_id.in_(worn)), "skipped", REFUSED)).all()
    return len(spent) + _released(session, held)


def outcomes(session: Session, job_id: UUID) -> dict[str, int]:
    """Count a job's claims: `claimed`, `learned`, and `skipped:<reason>`."""
    query = (
        select(case((Claim.reason.is_(None), Claim.outcome), else_=Claim.outcome + ":" + Claim.reason), func.count())
        .where(Claim.job_id == job_id)
        .group_by(Claim.outcome, Claim.reason)
    )
    return {str(outcome): count for outcome, count in session.execute(query)}


def write(session: Session, job_id: UUID, ids: Sequence[UUID]) -> None:
    """Write claims on rows this transaction has locked."""
    if not ids:
        return
    rows = select(Interaction.id, literal(job_id), literal("claimed")).where(Interaction.id == any_of(ids))
    session.execute(insert(Claim).from_select(["interaction_id", "job_id", "outcome"], rows))
    session.execute(update(Interaction).where(Interaction.id == any_of(ids)).values(claimed=True))
    session.flush()


def _table(**columns: tuple[type[TypeEngine[Any]], Sequence[Any]]) -> FromClause:
    """Write arrays of equal length as a table, one parameter a column: any number of rows fits."""
    arrays = [literal(list(given), ARRAY(kind)) for kind, given in columns.values()]
    named = [column(name, kind) for name, (kind, _) in columns.items()]
    return func.unnest(*arrays).table_valued(*named, name="given").render_derived()


def _settled(where: ColumnElement[bool], outcome: str, reason: str | None) -> ReturningUpdate[UUID]:
    return (
        update(Claim)
        .where(where)
        .values(outcome=outcome, reason=reason)
        .returning(Claim.interaction_id)
        .execution_options(synchronize_session=False)
    )


def _released(session: Session, where: ColumnElement[bool]) -> int:
    dropped = (
        delete_from(Claim)
        .where(where, Claim.outcome == "claimed")
        .returning(Claim.interaction_id)
        .execution_options(synchronize_session=False)
    )
    ids = list(session.scalars(dropped))
    session.execute(update(Interaction).where(Interaction.id == any_of(ids)).values(claimed=False))
    return len(ids)
