"""Answers that a policy was made from, and time that has passed, for the tests of what becomes of them."""

from collections.abc import Sequence
from datetime import timedelta
from uuid import UUID

from sqlalchemy import select, text

from app.store import checkpoints, claims, jobs, policy_life
from app.store.base import Base
from app.store.connect import Store
from app.store.grades import Entry, add_grade
from app.store.tables import Interaction, Job

LEASE = timedelta(hours=1)


def graded(store: Store, ids: Sequence[UUID], rewards: Sequence[float] = (1.0,)) -> None:
    with store.session() as session:
        for number, one in enumerate(ids):
            add_grade(session, one, Entry("client", "a", value=rewards[number % len(rewards)], comment="well"))


def claimed(store: Store, ids: Sequence[UUID], *, taken: int | None = None) -> Job:
    """A running job that holds these answers, or as many of them as have a rollout."""
    with store.session() as session:
        jobs.request(session, trigger="admin", requested_by="test")
        job = jobs.start(session, "worker", LEASE)
        assert job is not None
        groups: dict[str, list[UUID]] = {}
        for row in session.scalars(select(Interaction).where(Interaction.id.in_(ids))):
            groups.setdefault(row.completion_id, []).append(row.id)
        assert len(claims.claim(session, job.id, groups)) == (len(ids) if taken is None else taken)
        return job


def made(store: Store, job: Job, *, decide: bool = True) -> int:
    """The policy that a job makes of what it holds; promoted, or held; returns its version."""
    assert job.fence is not None
    with store.session() as session:
        base = policy_life.serving(session)
        assert base is not None
        row = checkpoints.publish(session, path="/m", digest="22" * 32, parent_id=base.id, job_id=job.id)
        if decide:
            policy_life.promote(session, row.id, "good", "test")
        else:
            policy_life.move(session, row.id, "hold", "no signal", "test")
        jobs.finish(session, job.id, job.fence, "succeeded", "keep", result_checkpoint_id=row.id)
        return row.version


def learned(store: Store, ids: Sequence[UUID], rewards: Sequence[float] = (1.0,), *, decide: bool = True) -> int:
    """Grade answers, claim them, and make a policy of them; returns its version."""
    graded(store, ids, rewards)
    return made(store, claimed(store, ids), decide=decide)


def age(store: Store, days: float) -> None:
    """Let time pass: every time in the database is that much longer ago."""
    with store.session() as session:
        for table in Base.metadata.sorted_tables:
            times = [column.name for column in table.columns if column.name.endswith("_at")]
            if times:
                moved = ", ".join(f"{name} = {name} - make_interval(secs => :s)" for name in times)
                session.execute(text(f"UPDATE {table.name} SET {moved}"), {"s": days * 86400})
