"""Jobs: one at a time, fenced, cancellable, never lost."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from threading import Barrier
from uuid import UUID, uuid4

import pytest
from sqlalchemy import func, select, text, update
from sqlalchemy.exc import IntegrityError

from app.errors import Conflict, Fenced, NotFound
from app.store import claims, events, grades, jobs
from app.store.connect import Store
from app.store.grades import Entry
from app.store.tables import Job

Answers = Callable[..., list[UUID]]


def requested(store: Store) -> Job:
    with store.session() as session:
        return jobs.request(session, trigger="admin", requested_by="test", config={"kl_beta": 0.1})


def started(store: Store) -> tuple[Job, int]:
    requested(store)
    with store.session() as session:
        job = jobs.start(session, "w")
    assert job is not None
    assert job.fence is not None
    return job, job.fence


def test_many_that_start_at_once_start_one(store: Store) -> None:
    for _ in range(6):
        requested(store)
    gate = Barrier(6)

    def start(number: int) -> Job | None:
        with store.session() as session:
            gate.wait()
            job = jobs.start(session, f"w{number}")
            session.execute(text("SELECT pg_sleep(0.05)"))
            return job

    with ThreadPoolExecutor(6) as pool:
        won = [job for job in pool.map(start, range(6)) if job is not None]
    assert len(won) == 1
    with store.session() as session:
        assert session.scalar(select(func.count()).where(Job.status == "running")) == 1


def test_two_running_jobs_cannot_be_written(store: Store) -> None:
    started(store)
    other = requested(store)
    with pytest.raises(IntegrityError, match="uq_jobs_one_running"), store.session() as session:
        session.execute(update(Job).where(Job.id == other.id).values(status="running"))


def test_the_oldest_first_and_then_nothing(store: Store) -> None:
    first, second = requested(store), requested(store)
    with store.session() as session:
        job = jobs.start(session, "w")
        assert job is not None
        assert job.id == first.id
        assert jobs.start(session, "w") is None
        assert job.fence is not None
        jobs.finish(session, job.id, job.fence, "succeeded", verdict="promoted")
        following = jobs.start(session, "w")
        assert following is not None
        assert following.id == second.id
        assert following.fence is not None
        assert following.fence > job.fence


def test_phases_heartbeats_and_metrics(store: Store) -> None:
    job, fence = started(store)
    with store.session() as session:
        before = jobs.advance(session, job.id, fence, "update").heartbeat_at
        assert jobs.heartbeat(session, job.id, fence, {"loss": 0.5}) is False
        row = jobs.get_job(session, job.id)
        assert before is not None
        assert row.heartbeat_at is not None
        assert row.heartbeat_at > before
        assert (row.phase, row.metrics) == ("update", {"loss": 0.5})


def test_a_worker_that_lost_its_job_can_write_nothing(store: Store) -> None:
    job, fence = started(store)
    with store.session() as session:
        assert [lost.id for lost in jobs.orphans(session)] == [job.id]
    again, new = started(store)
    assert new > fence
    for number, other in ((job.id, fence), (again.id, fence), (uuid4(), new)):
        with pytest.raises(Fenced), store.session() as session:
            jobs.heartbeat(session, number, other)
        with pytest.raises(Fenced), store.session() as session:
            jobs.advance(session, number, other, "update")
        with pytest.raises(Fenced), store.session() as session:
            jobs.finish(session, number, other, "succeeded")
    with store.session() as session:
        assert jobs.get_job(session, again.id).status == "running"


def test_orphans_fail_and_give_back(store: Store, answers: Answers) -> None:
    [one] = answers()
    with store.session() as session:
        grades.add_grade(session, one, Entry("client", "a", value=1.0))
    job, _ = started(store)
    with store.session() as session:
        assert len(claims.claim(session, job.id, limit=5, grace=timedelta(0))) == 1
    with store.session() as session:
        assert jobs.orphans(session, silent=timedelta(minutes=1)) == [], "it beat a moment ago"
    with store.session() as session:
        [lost] = jobs.orphans(session)
        assert (lost.status, lost.error) == ("failed", "worker lost")
        assert claims.count_fresh(session) == 1


def test_cancel_waiting_running_and_over(store: Store) -> None:
    waiting = requested(store)
    with store.session() as session:
        assert jobs.cancel(session, waiting.id).status == "cancelled"
    with pytest.raises(Conflict, match="over"), store.session() as session:
        jobs.cancel(session, waiting.id)
    job, fence = started(store)
    with store.session() as session:
        assert jobs.cancel(session, job.id).status == "running"
    with store.session() as session:
        assert jobs.heartbeat(session, job.id, fence) is True
        jobs.finish(session, job.id, fence, "cancelled")
    with pytest.raises(NotFound), store.session() as session:
        jobs.cancel(session, uuid4())


def test_not_a_number_can_be_diagnosed(store: Store) -> None:
    job, fence = started(store)
    with store.session() as session:
        jobs.finish(session, job.id, fence, "failed", diagnosis={"loss": float("nan")}, metrics={"norm": float("inf")})
    with store.session() as session:
        row = jobs.get_job(session, job.id)
        assert (row.diagnosis, row.metrics) == ({"loss": "nan"}, {"norm": "inf"})


def test_a_diary_in_pages(store: Store) -> None:
    job, _ = started(store)
    with store.session() as session:
        for step in range(5):
            events.measure(session, job.id, {"step": step})
        events.say(session, job.id, "done", level="warning")
    seen: list[str] = []
    cursor = 0
    with store.session() as session:
        while page := events.list_events(session, job.id, after=cursor, limit=4):
            seen += [event.kind for event in page]
            cursor = page[-1].id
    assert seen == ["metrics"] * 5 + ["message"]


def test_listing_in_pages(store: Store) -> None:
    made = [requested(store).id for _ in range(5)]
    with store.session() as session:
        first = jobs.list_jobs(session, limit=3)
        rest = jobs.list_jobs(session, limit=3, after=first[-1].id)
    assert [job.id for job in first + rest] == made[::-1]
