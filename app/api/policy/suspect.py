"""A policy whose logits are not numbers does not go on serving: what was before it comes back, and learning stops.

One such answer may be an accident of its prompt; several are the weights. This process sees them and says so; the row
decides, so every other process follows. Leaves out the failing request itself (`app.engine.lane`).
"""

import logging
from typing import Final

from sqlalchemy.orm import Session

from app.engine.lane import VersionStats
from app.errors import Conflict
from app.store import policy_life
from app.store.tables import Checkpoint

ENOUGH: Final = 3  # requests that failed on one version
ACTOR: Final = "server"

log = logging.getLogger("lepo.api")


def turn_away(session: Session, versions: tuple[VersionStats, ...]) -> None:
    """Roll back or discard what gave logits that are not numbers.

    Args:
        session: a transaction.
        versions: what each resident version has done.

    """
    for one in versions:
        if one.not_finite < ENOUGH:
            continue
        reason = f"its logits were not numbers in {one.not_finite} requests"
        figures = {"requests_not_finite": one.not_finite, "answers": one.finished}
        row = policy_life.serving(session)
        try:
            if row is not None and row.version == one.version:
                policy_life.rollback(session, ACTOR, reason=reason, figures=figures)
            elif (trial := _on_trial(session, one.version)) is not None:
                policy_life.discard(session, trial.id, reason, ACTOR)
        except Conflict as error:
            log.warning("version %d: %s, and it cannot be turned away: %s", one.version, reason, error.message)


def _on_trial(session: Session, version: int) -> Checkpoint | None:
    """Find a policy on trial by its version."""
    trials = (policy_life.in_state(session, state) for state in ("canary", "shadow"))
    return next((row for row in trials if row is not None and row.version == version), None)
