"""Whether it is improving: live rewards by version and over time, and the moves that a chart marks; reading only.

Every query looks at a bounded number of newest rows, by an index, so that a page costs the same however much there is.
Leaves out held-out answers (`app.store.overview`) and why nothing is learned (`app.store.learnable`).
"""

from dataclasses import dataclass
from datetime import datetime
from math import sqrt
from typing import Any, Final, cast

from sqlalchemy import Select, case, func, select, true
from sqlalchemy.orm import Session, aliased

from app.store.tables import Checkpoint, Interaction, Job, Transition

VERSIONS: Final = 60  # newest policies looked at
EACH: Final = 400  # newest graded answers of each
ANSWERS: Final = 4_000  # newest answers looked at over time
GROUPS: Final = 24
FEWEST: Final = 5  # graded answers of which a mean is worth drawing
MARKED: Final = ("promote", "restore", "roll_back", "freeze", "thaw", "pin", "refuse", "canary", "hold")


@dataclass(frozen=True, slots=True)
class Rewards:
    """Rewards of some live answers."""

    at: float  # a version, or Unix seconds: their mean
    mean: float
    low: float  # 95% interval of the mean
    high: float
    answers: int  # graded, at least `FEWEST`


@dataclass(frozen=True, slots=True)
class Moved:
    """A move that a chart marks."""

    event: str  # as in `transitions`
    version: int  # of the policy that moved
    at: datetime
    actor: str
    reason: str


@dataclass(frozen=True, slots=True)
class Waiting:
    """An update that no worker took yet."""

    since: datetime
    seconds: float  # by the database's clock


def rewards_by_version(session: Session) -> list[Rewards]:
    """Read the mean reward of each version's newest graded answers, by version."""
    newest = select(Checkpoint.id, Checkpoint.version).order_by(Checkpoint.version.desc()).limit(VERSIONS).subquery()
    graded = (
        select(Interaction.reward)
        .where(Interaction.checkpoint_id == newest.c.id, Interaction.graded_at.is_not(None))
        .order_by(Interaction.graded_at.desc())
        .limit(EACH)
        .lateral()
    )
    query = measured(newest.c.version, graded.c.reward).select_from(newest.join(graded, true()))
    rows = session.execute(query.group_by(newest.c.version).order_by(newest.c.version))
    return [rewards(row) for row in rows if row.answers >= FEWEST]


def rewards_over_time(session: Session) -> list[Rewards]:
    """Read the mean reward of the newest answers in groups of as many, by time: a quiet night takes no room."""
    newest = (
        select(Interaction.created_at, Interaction.reward)
        .order_by(Interaction.created_at.desc())
        .limit(ANSWERS)
        .subquery()
    )
    graded = select(newest).where(newest.c.reward.is_not(None)).subquery()
    count = session.scalars(select(func.count()).select_from(graded)).one()
    groups = min(GROUPS, count // FEWEST)
    if not groups:
        return []
    seconds = func.extract("epoch", graded.c.created_at).label("seconds")
    group = func.ntile(groups).over(order_by=graded.c.created_at).label("part")
    parts = select(seconds, graded.c.reward, group).subquery()
    query = measured(func.avg(parts.c.seconds), parts.c.reward).group_by(parts.c.part).order_by(parts.c.part)
    return [rewards(row) for row in session.execute(query)]


def measured(at: Any, reward: Any) -> Select[Any]:
    """Say in SQL what `rewards` reads."""
    return select(
        at.label("at"),
        func.avg(reward).label("mean"),
        func.coalesce(func.stddev_samp(reward), 0).label("spread"),
        func.count(reward).label("answers"),
    )


def rewards(row: Any) -> Rewards:
    """Read one mean with its interval; where all rewards are alike it still has a width."""
    mean, count = float(row.mean), int(row.answers)
    half = 1.96 * max(float(row.spread), 0.5 / sqrt(count)) / sqrt(count)
    return Rewards(float(row.at), mean, mean - half, mean + half, count)


def moves(session: Session, limit: int = 200) -> list[Moved]:
    """List the newest moves that matter to who reads a chart, the oldest first."""
    query = (
        select(Transition.event, Checkpoint.version, Transition.created_at, Transition.actor, Transition.reason)
        .join(Checkpoint, Checkpoint.id == Transition.checkpoint_id)
        .where(Transition.event.in_(MARKED))
        .order_by(Transition.entry.desc())
        .limit(limit)
    )
    return [Moved(*row) for row in reversed(session.execute(query).all())]


def promoted_at(session: Session) -> dict[int, datetime]:
    """Read when each version was made."""
    query = select(Checkpoint.version, Checkpoint.created_at).order_by(Checkpoint.version.desc()).limit(VERSIONS * 4)
    return {row.version: row.created_at for row in session.execute(query)}


def waiting_for_worker(session: Session) -> Waiting | None:
    """Find the oldest update that is asked for while none runs; a worker takes it within its interval."""
    running = aliased(Job)
    busy = select(running.id).where(running.status == "running").exists()
    query = select(Job.created_at, func.extract("epoch", func.clock_timestamp() - Job.created_at))
    row = session.execute(query.where(Job.status == "queued", ~busy).order_by(Job.created_at).limit(1)).one_or_none()
    return None if row is None else Waiting(row[0], float(row[1]))


def last_job(session: Session) -> Job | None:
    """Read the update that ended last."""
    query = select(Job).where(Job.finished_at.is_not(None)).order_by(Job.finished_at.desc()).limit(1)
    return cast("Job | None", session.scalar(query))


def is_empty(session: Session) -> bool:
    """Tell whether nobody has asked anything yet."""
    asked = select(case((select(Interaction.id).limit(1).exists(), 1), else_=0))
    return not session.scalar(asked)
