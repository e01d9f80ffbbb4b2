"""How long rows are kept: a rule per table, a setting per rule, and the sweep that follows them.

| rule | setting | goes when |
|---|---|---|
| idempotency_keys | keep_idempotency_days | since its first use |
| job_events | keep_events_days | since it was written |
| jobs | keep_jobs_days | over since then, and nothing was made or claimed by it |
| rollouts | keep_rollouts_days | since its answer was learned or skipped; since it was given, if it cannot teach |
| ungraded answers | keep_ungraded_days | since it was given |
| graded answers | keep_graded_days | since it was given, unless a job or an undecided policy holds it |
| sessions without answers | keep_ungraded_days | since their last turn |
| evaluation details | keep_evaluations_days | since it was made; what serves and the base keep theirs |
| swaps | keep_swaps_days | since it was tried |
| tracker_values | keep_trackers_days | since its last grade |
| tombstones, erasures | keep_tombstones_days | since the removal |
| audit | keep_audit_days | since it was done |
| grading_tokens | keep_idempotency_days | since it expired |

Kept for good: claims (which hold no text), checkpoints' rows, transitions, evaluations' counts, keys, projects. A
setting of 0 keeps for ever. Rows go in batches, each a transaction of its own, found through an index and skipping what
others hold; two sweeps at once share the work. Leaves out files (`worker.retention`) and who calls.
"""

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Final
from uuid import UUID

from sqlalchemy import ColumnElement, Select, and_, delete, exists, func, or_, select, update
from sqlalchemy.orm import InstrumentedAttribute, Session

from app.settings import Settings
from app.store import tallies
from app.store.base import Base
from app.store.claims import any_of
from app.store.connect import Store
from app.store.removal import forget_files, remove, remove_empty, rows_of
from app.store.removed import Erasure, Tombstone
from app.store.session_tables import ClientSession
from app.store.tables import (
    Checkpoint,
    Claim,
    Evaluation,
    IdempotencyKey,
    Interaction,
    Job,
    JobEvent,
    StoredRollout,
    Swap,
    TrackerValue,
    Transition,
)
from app.store.tenants import AuditEntry, LentToken

BATCH: Final = 5000  # rows a transaction removes

Due = Callable[[timedelta], Select[Any]]  # age -> keys of the rows that are older, oldest first
Remove = Callable[[Session, Select[Any]], int]  # removes what such a query finds, and counts it


@dataclass(frozen=True, slots=True)
class Rule:
    """One kind of row and its end of life."""

    what: str  # as reports name it
    setting: str  # field of the settings, in days
    due: Due
    remove: Remove
    rows: type[Base]  # whose rows are locked while they go
    batch: int = BATCH


def sweep(
    store: Store, settings: Settings, *, dry_run: bool = False, until: Callable[[], bool] = lambda: False
) -> dict[str, int]:
    """Remove every row whose time is over.

    Args:
        store: each batch is a transaction of its own.
        settings: how long each kind is kept.
        dry_run: count what would go, and remove nothing.
        until: asked between two batches; true: the rest goes next time.

    Returns:
        Rows removed (or due) by rule; those with none are left out.

    """
    counts: Counter[str] = Counter()
    for rule in RULES:
        days: float = getattr(settings, rule.setting)
        if not days:
            continue
        due = rule.due(timedelta(days=days))
        if dry_run:
            with store.session() as session:
                counts[rule.what] += session.scalar(select(func.count()).select_from(due.subquery())) or 0
            continue
        gone = rule.batch
        while gone == rule.batch and not until():
            with store.session() as session:
                gone = rule.remove(session, due.limit(rule.batch).with_for_update(skip_locked=True, of=rule.rows))
            counts[rule.what] += gone
    if not dry_run:
        with store.session() as session:
            tallies.fold(session)
    return dict(+counts)


def older(column: ColumnElement[Any] | InstrumentedAttribute[Any], age: timedelta) -> ColumnElement[bool]:
    """Say that a time is longer ago than an age, by the database's clock."""
    return column < func.now() - age


def plain(table: type[Base], at: InstrumentedAttribute[Any]) -> dict[str, Any]:
    """Make a rule's part for rows that go by one time and leave nothing behind."""
    keys = [getattr(table, column.key) for column in table.__table__.primary_key]

    def gone(session: Session, due: Select[Any]) -> int:
        found = due.cte("due")
        return rows_of(session, delete(table).where(*(key == found.c[key.key] for key in keys)))

    return {"due": lambda age: select(*keys).where(older(at, age)).order_by(at), "remove": gone, "rows": table}


def over_jobs(age: timedelta) -> Select[Any]:
    """Find jobs that are over and that no row but their diary refers to."""
    made = exists().where(Checkpoint.job_id == Job.id)
    claimed = exists().where(Claim.job_id == Job.id)
    moved = exists().where(Transition.job_id == Job.id)
    return select(Job.id).where(older(Job.finished_at, age), ~made, ~claimed, ~moved).order_by(Job.finished_at)


def gone_jobs(session: Session, due: Select[Any]) -> int:
    """Remove jobs with their diaries."""
    ids = list(session.scalars(due))
    session.execute(delete(JobEvent).where(JobEvent.job_id == any_of(ids)))
    return rows_of(session, delete(Job).where(Job.id == any_of(ids)))


def settled_claims(age: timedelta) -> Select[Any]:
    """Find claims that came to an end and whose rollout may still be there."""
    over = and_(Claim.outcome != "claimed", ~Claim.rollout_removed, older(Claim.created_at, age))
    return select(Claim.interaction_id).where(over).order_by(Claim.created_at)


def gone_settled_rollouts(session: Session, due: Select[Any]) -> int:
    """Remove the rollouts of settled answers, and note on their claims that they are gone."""
    ids: list[UUID] = list(session.scalars(due))
    forget_files(session, ids)
    session.execute(delete(StoredRollout).where(StoredRollout.interaction_id == any_of(ids)))
    noted = update(Claim).where(Claim.interaction_id == any_of(ids)).values(rollout_removed=True)
    return rows_of(session, noted)


def unlearnable_rollouts(age: timedelta) -> Select[Any]:
    """Find rollouts that nothing will ever be learned from."""
    due = and_(~StoredRollout.learnable, older(StoredRollout.created_at, age))
    return select(StoredRollout.interaction_id).where(due).order_by(StoredRollout.created_at)


def gone_rollouts(session: Session, due: Select[Any]) -> int:
    """Remove rollouts."""
    ids = list(session.scalars(due))
    forget_files(session, ids)
    return rows_of(session, delete(StoredRollout).where(StoredRollout.interaction_id == any_of(ids)))


def ungraded(age: timedelta) -> Select[Any]:
    """Find answers that nobody graded, or whose grades were taken back before anything came of them."""
    due = and_(Interaction.graded_at.is_(None), ~Interaction.claimed, older(Interaction.created_at, age))
    return select(Interaction.id).where(due).order_by(Interaction.created_at)


def graded(age: timedelta) -> Select[Any]:
    """Find graded answers that no job and no undecided policy holds."""
    held = exists().where(Claim.interaction_id == Interaction.id, Claim.outcome == "claimed")
    due = and_(or_(Interaction.graded_at.is_not(None), Interaction.claimed), older(Interaction.created_at, age), ~held)
    return select(Interaction.id).where(due).order_by(Interaction.created_at)


def gone_answers(session: Session, due: Select[Any]) -> int:
    """Remove answers with all that refers to them."""
    ids = list(session.scalars(due))
    remove(session, ids)
    return len(ids)


def emptied(age: timedelta) -> Select[Any]:
    """Find sessions none of whose answers is left, where somebody held them when the last one went."""
    empty = ~exists().where(Interaction.session_id == ClientSession.id)
    return (
        select(ClientSession.id)
        .where(older(ClientSession.last_turn_at, age), empty)
        .order_by(ClientSession.last_turn_at)
    )


def gone_sessions(session: Session, due: Select[Any]) -> int:
    """Remove sessions with their grades."""
    return remove_empty(session, list(session.scalars(due)))["sessions"]


def detailed(age: timedelta) -> Select[Any]:
    """Find evaluations whose detail nothing compares with any more."""
    wanted = select(Checkpoint.id).where(
        or_(Checkpoint.version == 0, Checkpoint.state.not_in(("retired", "refused", "rolled_back")))
    )
    due = and_(
        Evaluation.detail.is_not(None), older(Evaluation.created_at, age), Evaluation.checkpoint_id.not_in(wanted)
    )
    return select(Evaluation.id).where(due).order_by(Evaluation.created_at)


def gone_details(session: Session, due: Select[Any]) -> int:
    """Keep the counts of evaluations, and drop what explains them."""
    ids = list(session.scalars(due))
    return rows_of(session, update(Evaluation).where(Evaluation.id == any_of(ids)).values(detail=None))


def old_erasures(age: timedelta) -> Select[Any]:
    """Find wishes that are fulfilled and of which no tombstone is left."""
    stands = exists().where(Tombstone.erasure_id == Erasure.id)
    return select(Erasure.id).where(older(Erasure.finished_at, age), ~stands).order_by(Erasure.finished_at)


def gone_erasures(session: Session, due: Select[Any]) -> int:
    """Forget wishes."""
    return rows_of(session, delete(Erasure).where(Erasure.id == any_of(list(session.scalars(due)))))


RULES: Final = (
    Rule("idempotency_keys", "keep_idempotency_days", **plain(IdempotencyKey, IdempotencyKey.created_at)),
    Rule("job_events", "keep_events_days", **plain(JobEvent, JobEvent.created_at)),
    Rule("rollouts", "keep_rollouts_days", settled_claims, gone_settled_rollouts, Claim),
    Rule("unlearnable_rollouts", "keep_rollouts_days", unlearnable_rollouts, gone_rollouts, StoredRollout),
    Rule("ungraded_answers", "keep_ungraded_days", ungraded, gone_answers, Interaction, batch=500),
    Rule("graded_answers", "keep_graded_days", graded, gone_answers, Interaction, batch=500),
    Rule("sessions", "keep_ungraded_days", emptied, gone_sessions, ClientSession),
    Rule("evaluation_details", "keep_evaluations_days", detailed, gone_details, Evaluation),
    Rule("swaps", "keep_swaps_days", **plain(Swap, Swap.created_at)),
    Rule("tracker_values", "keep_trackers_days", **plain(TrackerValue, TrackerValue.updated_at)),
    Rule("jobs", "keep_jobs_days", over_jobs, gone_jobs, Job),
    Rule("tombstones", "keep_tombstones_days", **plain(Tombstone, Tombstone.created_at)),
    Rule("erasures", "keep_tombstones_days", old_erasures, gone_erasures, Erasure),
    Rule("audit", "keep_audit_days", **plain(AuditEntry, AuditEntry.created_at)),
    Rule("grading_tokens", "keep_idempotency_days", **plain(LentToken, LentToken.expires_at)),
)
