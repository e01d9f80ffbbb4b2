"""The value trackers between updates: rows of the store to and from `training.advantage.Tracker`.

A row says at which policy version its key was last seen; how far the policy had drifted by then stands in that
checkpoint's metrics. Leaves out the arithmetic.
"""

from collections.abc import Collection, Mapping

from sqlalchemy import select
from sqlalchemy.orm import Session

from app.store.tables import Checkpoint
from app.store.tracker import Belief, read_beliefs, write_beliefs
from training.advantage import Tracker


def read_trackers(session: Session, keys: Collection[str]) -> dict[str, Tracker]:
    """Read the trackers of these keys; those never seen are left out."""
    beliefs = read_beliefs(session, sorted(keys))
    versions = {belief.policy_version for belief in beliefs.values()}
    rows = session.execute(select(Checkpoint.version, Checkpoint.metrics).where(Checkpoint.version.in_(versions)))
    drifts = {version: float(metrics.get("drift", 0.0)) for version, metrics in rows}
    return {
        key: Tracker(belief.alpha, belief.beta, drifts.get(belief.policy_version, 0.0))
        for key, belief in beliefs.items()
    }


def write_trackers(session: Session, trackers: Mapping[str, Tracker], version: int) -> None:
    """Keep trackers as last seen at a policy version."""
    write_beliefs(session, {key: Belief(one.alpha, one.beta, version) for key, one in trackers.items()})
