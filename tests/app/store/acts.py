"""What tests do to a store, in the words of the product: a key, a grade, a job, a claim, a whole update."""

from collections.abc import Callable, Collection, Sequence
from datetime import timedelta
from typing import Any
from uuid import UUID, uuid4

from sqlalchemy import event as listening
from sqlalchemy import func, select, text, update
from sqlalchemy.engine import Connection

from app.settings import Settings
from app.store import checkpoints, claims, grades, jobs, learnable, learning, policy_life
from app.store.claims import Claimed
from app.store.connect import Store
from app.store.grades import EFFECTIVE, Entry
from app.store.learnable import Outlook
from app.store.policy_life import Event
from app.store.tables import Checkpoint, Claim, Interaction, Job, Transition

LEASE = timedelta(seconds=20)
NO_LEASE = timedelta(seconds=-1)  # over as soon as it is given


def settings(**changes: object) -> Settings:
    """Settings under which two answers, of whatever age, make an update."""
    quick = {"min_grades": 2, "max_grades": 64, "group_grace": 3600.0, "key_share": 0.5, "key_patience": 3600.0}
    return Settings.model_validate(quick | changes)


def key(store: Store, name: str) -> str:
    """Make an API key with a given id."""
    with store.session() as session:
        session.execute(
            text(
                "INSERT INTO api_keys (id, name, secret_sha256, scopes) VALUES (:id, :id, '', ARRAY['grade'])"
                " ON CONFLICT DO NOTHING"
            ).bindparams(id=name)
        )
    return name


def grade(store: Store, *ids: UUID, value: float = 1.0, key: str | None = None) -> None:
    """Grade answers, each in a transaction of its own."""
    for one in ids:
        with store.session() as session:
            grades.add_grade(session, one, Entry("client", key or "a", value=value, api_key_id=key))


def age(store: Store, ids: Collection[UUID], by: timedelta) -> None:
    """Make grades older than they are."""
    with store.session() as session:
        aged = update(Interaction).where(Interaction.id.in_(ids))
        session.execute(aged.values(graded_at=Interaction.graded_at - by))


def look(store: Store, **changes: object) -> Outlook:
    """Look whether an update should begin."""
    with store.session() as session:
        return learnable.outlook(session, settings(**changes))


def offered(outlook: Outlook) -> set[UUID]:
    """Give the answers of an outlook."""
    return {one for ids in outlook.groups.values() for one in ids}


def requested(store: Store) -> Job:
    """Ask for a job."""
    with store.session() as session:
        return jobs.request(session, trigger="admin", requested_by="test", config={"kl_beta": 0.1})


def started(store: Store, worker: str = "w", lease: timedelta = LEASE) -> tuple[Job, int]:
    """Ask for a job and start it."""
    requested(store)
    with store.session() as session:
        job = jobs.start(session, worker, lease)
    assert job is not None
    assert job.fence is not None
    return job, job.fence


def take(store: Store, job: Job, ids: Collection[UUID]) -> list[Claimed]:
    """Claim answers."""
    with store.session() as session:
        rows = session.scalars(select(Interaction).where(Interaction.id.in_(ids)))
        groups: dict[str, list[UUID]] = {}
        for row in rows:
            groups.setdefault(row.completion_id, []).append(row.id)
        return claims.claim(session, job.id, groups)


def names(taken: Sequence[Claimed]) -> set[UUID]:
    """Give the ids of what was claimed."""
    return {item.interaction.id for item in taken}


def fresh(store: Store) -> set[UUID]:
    """Find everything that can be learned from."""
    with store.session() as session:
        return set(session.scalars(select(Interaction.id).where(claims.fresh())))


def outcomes(store: Store, job: Job) -> dict[str, int]:
    """Count a job's claims by what became of them."""
    with store.session() as session:
        return claims.outcomes(session, job.id)


def publish(store: Store, parent: Checkpoint, job: Job | None = None) -> Checkpoint:
    """Record a candidate."""
    with store.session() as session:
        return checkpoints.publish(
            session, path="/c", digest=uuid4().hex, parent_id=parent.id, job_id=None if job is None else job.id
        )


def improve(store: Store, ids: Collection[UUID], event: Event | None = "promote") -> tuple[Checkpoint, Job]:
    """Run an update on answers, as a worker does, to a candidate that meets an event; None: it stays a candidate."""
    job, fence = started(store)
    assert names(take(store, job, ids)) == set(ids)
    with store.session() as session:
        parent = policy_life.serving(session)
        assert parent is not None
        row = checkpoints.publish(session, path="/c", digest=uuid4().hex, parent_id=parent.id, job_id=job.id)
        if event == "promote":
            policy_life.promote(session, row.id, "the gate passed it", "worker", expected=parent.id)
        elif event is not None:
            policy_life.move(session, row.id, event, "the gate says so", "worker")
        jobs.finish(session, job.id, fence, "succeeded", "keep", verdict=event, result_checkpoint_id=row.id)
    return row, job


def promote(store: Store, row: Checkpoint) -> Transition | None:
    """Serve a policy, as an operator."""
    with store.session() as session:
        return policy_life.promote(session, row.id, "wanted", "ops")


def roll_back(store: Store, to: Checkpoint | None = None) -> Transition | None:
    """Go back, as an operator."""
    with store.session() as session:
        return policy_life.rollback(session, "ops", None if to is None else to.id)


def chain(store: Store, base: Checkpoint, length: int) -> list[Checkpoint]:
    """Promote policies, each made from the one before; the base is the first of the list."""
    rows = [base]
    for _ in range(length):
        rows.append(publish(store, rows[-1]))
        promote(store, rows[-1])
    return rows


def history(store: Store) -> list[Transition]:
    """Every move, the oldest first."""
    with store.session() as session:
        return policy_life.history(session, limit=1000)[::-1]


def frozen(store: Store) -> str | None:
    """Why learning is frozen; None: it is not."""
    with store.session() as session:
        return learning.read(session).frozen_reason


def move(store: Store, row: Checkpoint, event: Event) -> Transition:
    """Let an event happen."""
    with store.session() as session:
        return policy_life.move(session, row.id, event, "so it is", "ops")


def serves(store: Store) -> int | None:
    """Give the version that serves."""
    with store.session() as session:
        row = policy_life.serving(session)
        return None if row is None else row.version


def state(store: Store, row: Checkpoint) -> str:
    """Read a policy's state."""
    with store.session() as session:
        return checkpoints.get_checkpoint(session, row.id).state


def books_agree(store: Store) -> bool:
    """Tell whether what answers say of their claims and grades is what those tables say."""
    has_claim = select(Claim.interaction_id).where(Claim.interaction_id == Interaction.id).exists()
    agrees = (
        select(func.count())
        .select_from(Interaction)
        .outerjoin(EFFECTIVE, EFFECTIVE.c.interaction_id == Interaction.id)
        .where(
            (Interaction.claimed != has_claim)
            | Interaction.graded_at.is_distinct_from(EFFECTIVE.c.first_graded_at)
            | Interaction.reward.is_distinct_from(EFFECTIVE.c.reward)
        )
    )
    with store.session() as session:
        return session.scalars(agrees).one() == 0


def plans(store: Store, ask: Callable[[], object]) -> list[str]:
    """The plans of the statements that something makes."""
    seen: list[str] = []

    def explain(connection: Connection, cursor: object, statement: str, parameters: Any, *_: object) -> None:
        if statement.startswith(("SELECT", "WITH")):
            done = connection.connection.cursor()
            done.execute("EXPLAIN " + statement, parameters)
            seen.extend(line for (line,) in done.fetchall())

    listening.listen(store.engine, "before_cursor_execute", explain)
    try:
        ask()
    finally:
        listening.remove(store.engine, "before_cursor_execute", explain)
    return seen
