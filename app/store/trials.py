"""Trials of policies on live traffic: which are under way, and the graded answers they rest on; reading only.

A policy is on trial in shadow, in canary, and, serving, on watch for a while after its promotion. Times are all of the
database. Answers of one response (the choices of one prompt) are one value, their mean, since one prompt makes them
alike; a response counts from when all of it was graded, or some of it for a while. Leaves out what values show
(`app.trials`) and what is done then (`worker.trial`).
"""

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final, Literal
from uuid import UUID

from sqlalchemy import ColumnElement, Select, func, or_, select, true
from sqlalchemy.orm import Session, aliased

from app.store import policy_life
from app.store.checkpoints import get_checkpoint
from app.store.grades import LATEST
from app.store.tables import Checkpoint, Interaction, Transition

Kind = Literal["shadow", "canary", "watch"]
Graders = Literal["all", "keys", "server"]

MOST: Final = 20_000  # values of each policy a trial looks at; long before it has decided or cannot


@dataclass(frozen=True, slots=True)
class Trial:
    """One comparison of a policy with another, as it stands now."""

    kind: Kind
    checkpoint_id: UUID
    version: int
    against_id: UUID  # what serves; on watch, what served before
    against_version: int
    entered: UUID  # transition that began it: another one means another trial
    began_at: datetime  # answers from here on count
    elapsed_s: float  # since it entered this stage


@dataclass(frozen=True, slots=True)
class Rules:
    """Which grades count, and how."""

    graders: Graders  # keys: of whoever posted them; server: of graders that requests named
    low: float  # rewards below count as this
    high: float  # rewards above count as this
    grace: timedelta  # how long a response waits for the grades of its other choices


@dataclass(frozen=True, slots=True)
class Value:
    """What a response was worth."""

    new: bool  # whether the policy on trial gave it
    reward: float  # mean of its graded answers, 0 at `low` and 1 at `high`


def under_way(session: Session, watch_seconds: float) -> list[Trial]:
    """List the trials that are under way: of the policy in shadow or canary, and the watch over what serves."""
    served = policy_life.serving(session)
    if served is None:
        return []
    entered = entry(session, served.id)
    found = []
    for kind in ("shadow", "canary"):
        row = policy_life.in_state(session, kind)
        move = None if row is None else entry(session, row.id)
        if row is not None and move is not None:
            since = move.created_at if entered is None else max(move.created_at, entered.created_at)
            found.append(trial(session, kind, row, served, move, since))
    before = None if entered is None else replaced_by(session, entered)
    if entered is not None and before is not None:
        watch = trial(session, "watch", served, before, entered, entered.created_at)
        if watch.elapsed_s < watch_seconds:
            found.append(watch)
    return found


def replaced_by(session: Session, entered: Transition) -> Checkpoint | None:
    """Find the policy that a promotion replaced, if it could serve again.

    None for what a rollback put in the place of a bad policy: it is not to be compared with that one.
    """
    if entered.event != "promote" or entered.replaced_id is None:
        return None
    before = get_checkpoint(session, entered.replaced_id)
    return before if before.state == "retired" and before.files_deleted_at is None else None


def trial(
    session: Session, kind: Kind, row: Checkpoint, against: Checkpoint, move: Transition, since: datetime
) -> Trial:
    """Describe a trial."""
    now: datetime = session.scalars(select(func.clock_timestamp())).one()
    elapsed = (now - move.created_at).total_seconds()
    return Trial(kind, row.id, row.version, against.id, against.version, move.id, since, elapsed)


def entry(session: Session, checkpoint_id: UUID) -> Transition | None:
    """Find the move that brought a policy into its present state."""
    query = (
        select(Transition)
        .join(Checkpoint, Checkpoint.id == Transition.checkpoint_id)
        .where(
            Transition.checkpoint_id == checkpoint_id,
            Transition.to_state == Checkpoint.state,
            Transition.from_state.is_distinct_from(Transition.to_state),  # freezing and pinning move nothing
        )
        .order_by(Transition.created_at.desc(), Transition.id.desc())
        .limit(1)
    )
    return session.scalar(query)


def arrivals(session: Session, one: Trial, rules: Rules) -> list[Value]:
    """Read the values of a canary and of what serves beside it, mixed, in the order in which they came."""
    parts = [
        (new, session.execute(values(checkpoint_id, rules, since=one.began_at)).all())
        for new, checkpoint_id in ((True, one.checkpoint_id), (False, one.against_id))
    ]
    mixed = sorted((row.at, row.completion_id, new, row.reward) for new, rows in parts for row in rows)
    return [Value(new, reward) for _, _, new, reward in mixed]


def before_and_after(session: Session, one: Trial, rules: Rules) -> list[Value]:
    """Read a promoted policy's values in turn with those of its predecessor, the last ones it got before it left.

    The predecessor's are a fixed list, each used once, so that what is compared does not depend on what is seen.
    """
    new = session.execute(values(one.checkpoint_id, rules, since=one.began_at)).all()
    old = session.execute(values(one.against_id, rules, until=one.began_at)).all()
    pairs = zip(new, old, strict=False)
    return [value for after, before in pairs for value in (Value(False, before.reward), Value(True, after.reward))]


def shadow_pairs(session: Session, one: Trial, rules: Rules) -> list[Value]:
    """Read the values of shadow answers, each beside that of the response it shadows, in the order in which they came.

    Both answered the same prompt by the same draw, so little of their difference is chance.
    """
    shadows = values(one.checkpoint_id, rules, since=one.began_at, shadow=True).subquery()
    live = rewards_of(aliased(Interaction), rules)
    query = (
        select(shadows.c.reward.label("new"), func.avg(live.reward).label("old"), shadows.c.at)
        .join(live.row, live.row.completion_id == shadows.c.shadow_of)
        .join(live.table, true())
        .where(live.row.checkpoint_id == one.against_id, live.reward.is_not(None))
        .group_by(shadows.c.completion_id, shadows.c.reward, shadows.c.at)
        .order_by(func.greatest(shadows.c.at, func.max(live.row.graded_at)), shadows.c.completion_id)
        .limit(MOST)
    )
    return [
        value for row in session.execute(query) for value in (Value(False, float(row.old)), Value(True, float(row.new)))
    ]


@dataclass(frozen=True, slots=True)
class _Rewards:
    """An answer and what its graders say now."""

    row: type[Interaction]
    table: Any
    reward: ColumnElement[float]


def rewards_of(row: Any, rules: Rules) -> _Rewards:
    """Join an answer with its reward, by the graders that count; null where none of them has spoken."""
    bounded = func.least(func.greatest(LATEST.c.value, rules.low), rules.high)
    scaled = (bounded - rules.low) / (rules.high - rules.low)
    query = select(func.avg(scaled).label("reward")).where(LATEST.c.interaction_id == row.id)
    if rules.graders == "keys":
        query = query.where(LATEST.c.api_key_id.is_not(None))
    elif rules.graders == "server":
        query = query.where(LATEST.c.api_key_id.is_(None))
    table = query.lateral()
    return _Rewards(row, table, table.c.reward)


def values(
    checkpoint_id: UUID,
    rules: Rules,
    *,
    since: datetime | None = None,
    until: datetime | None = None,
    shadow: bool = False,
) -> Select[Any]:
    """Select the graded responses of a policy, each with its mean reward and when it came to count.

    Args:
        checkpoint_id: the policy.
        rules: which grades count.
        since: only what was answered and graded from here on, the first of it.
        until: only what was answered and graded before, the last of it, the newest first.
        shadow: those that nobody saw, instead of the others.

    """
    one = rewards_of(Interaction, rules)
    first, last = func.min(Interaction.graded_at), func.max(Interaction.graded_at)
    at = func.least(last, first + rules.grace)
    whole = func.count() >= func.max(Interaction.group_size)
    query = (
        select(
            Interaction.completion_id,
            Interaction.shadow_of,
            func.avg(one.reward).label("reward"),
            at.label("at"),
        )
        .join(one.table, true())
        .where(
            Interaction.checkpoint_id == checkpoint_id,
            Interaction.graded_at.is_not(None),
            Interaction.shadow_of.is_not(None) if shadow else Interaction.shadow_of.is_(None),
            one.reward.is_not(None),
        )
        .group_by(Interaction.completion_id, Interaction.shadow_of)
        .having(or_(whole, first <= func.now() - rules.grace))
        .limit(MOST)
    )
    if since is not None:
        query = query.where(Interaction.graded_at >= since, Interaction.created_at >= since)
    if until is not None:
        query = query.where(Interaction.graded_at < until)
        return query.order_by(at.desc(), Interaction.completion_id)
    return query.order_by(at, Interaction.completion_id)
