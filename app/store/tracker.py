"""The value tracker's memory: how often each prompt succeeds, as Beta counts.

Leaves out the arithmetic (`training.advantage`): rows in, rows out.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from sqlalchemy import func, select
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import Session

from app.store.tables import TrackerValue


@dataclass(frozen=True, slots=True)
class Belief:
    """What is believed of one prompt's success."""

    alpha: float  # weight of successes, > 0
    beta: float  # weight of failures, > 0
    policy_version: int  # of the last update of this belief


def read_beliefs(session: Session, keys: Sequence[str]) -> dict[str, Belief]:
    """Read what is known of these prompts; unknown ones are left out."""
    rows = session.scalars(select(TrackerValue).where(TrackerValue.key.in_(keys)))
    return {row.key: Belief(row.alpha, row.beta, row.policy_version) for row in rows}


def write_beliefs(session: Session, beliefs: Mapping[str, Belief]) -> None:
    """Replace what is known of these prompts."""
    if not beliefs:
        return
    rows = [
        {"key": key, "alpha": belief.alpha, "beta": belief.beta, "policy_version": belief.policy_version}
        for key, belief in sorted(beliefs.items())  # one order for all writers: no deadlock
    ]
    made = insert(TrackerValue).values(rows)
    session.execute(
        made.on_conflict_do_update(
            index_elements=[TrackerValue.key],
            set_={
                "alpha": made.excluded.alpha,
                "beta": made.excluded.beta,
                "policy_version": made.excluded.policy_version,
                "updated_at": func.now(),
            },
        )
    )
