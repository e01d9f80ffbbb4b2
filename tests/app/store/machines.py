"""What hypothesis needs to try any order of events against plain models, on the real Postgres.

One event happens at a time, and after every one the tables are compared with what a few lines of Python say. Events
that really happen at once are in the files of each domain. Leaves out the machines (`test_machine_*.py`).
"""

from collections.abc import Callable
from typing import Any, cast
from uuid import UUID, uuid4

from hypothesis import HealthCheck, settings
from hypothesis.stateful import RuleBasedStateMachine, run_state_machine_as_test
from sqlalchemy import select, text

from app.store import checkpoints, interactions, policy_life
from app.store.connect import Store
from app.store.tables import Checkpoint, Claim, Interaction
from tests.conftest import answer

FEW = settings(
    max_examples=12,
    stateful_step_count=24,
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=list(HealthCheck),
)
EMPTY = """
    TRUNCATE api_keys, checkpoints, transitions, requests, interactions, rollouts, grades, jobs, job_events, claims,
        tallies CASCADE;
    DELETE FROM learning;
    INSERT INTO learning (id) VALUES (1);
"""


def base(store: Store, answers: int) -> tuple[Checkpoint, list[UUID]]:
    """Empty the database, and write a base model that serves and some answers of it."""
    with store.session() as session:
        session.execute(text(EMPTY))
        row = checkpoints.publish(session, path="/base", digest="00")
        policy_life.promote(session, row.id, "base", "test")
        written = []
        for _ in range(answers):
            one = Interaction(**answer(row, f"chatcmpl-{uuid4().hex}", 0, 1))
            interactions.record(session, one, codec=1, payload=b"\x00")
            written.append(one.id)
    return row, written


def fates(store: Store) -> dict[UUID, str]:
    """What became of each answer: `fresh`, `claimed`, `learned` or `skipped`."""
    with store.session() as session:
        rows = session.execute(
            select(Interaction.id, Interaction.claimed, Claim.outcome).outerjoin(
                Claim, Claim.interaction_id == Interaction.id
            )
        )
        return {one: "fresh" if not claimed else outcome for one, claimed, outcome in rows}


def run(machine: Callable[[], RuleBasedStateMachine]) -> None:
    """Try a machine; hypothesis takes anything that makes one, though it says a class."""
    run_state_machine_as_test(cast("Any", machine), settings=FEW)
