"""Jobs: one at a time, on a lease of the database's clock, fenced, cancellable, never lost."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from threading import Barrier
from uuid import uuid4

import pytest
from sqlalchemy import func, select, text, update
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from app.errors import Conflict, Fenced, NotFound
from app.store import events, jobs
from app.store.connect import Store
from app.store.jobs import Fault
from app.store.tables import Job
from tests.app.store.acts import LEASE, NO_LEASE, books_agree, fresh, grade, outcomes, requested, started, take
from tests.conftest import Answers


def ended(store: Store, fault: Fault | None, status: jobs.Outcome = "failed") -> Job:
    """Run a job to an end that was somebody's fault, or nobody's."""
    job, fence = started(store)
    with store.session() as session:
        return jobs.finish(session, job.id, fence, status, "release", fault=fault)


def expire(store: Store, job: Job) -> None:
    with store.session() as session:
        session.execute(update(Job).where(Job.id == job.id).values(lease_until=func.now() - timedelta(seconds=1)))


def test_many_that_start_at_once_start_one(store: Store) -> None:
    for _ in range(6):
        requested(store)
    gate = Barrier(6)

    def start(number: int) -> Job | None:
        with store.session() as session:
            gate.wait()
            job = jobs.start(session, f"w{number}", LEASE)
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
        job = jobs.start(session, "w", LEASE)
        assert job is not None
        assert job.id == first.id
        assert jobs.start(session, "w", LEASE) is None
        assert job.fence is not None
        jobs.finish(session, job.id, job.fence, "succeeded", "learn", verdict="promoted")
        following = jobs.start(session, "w", LEASE)
        assert following is not None
        assert following.id == second.id
        assert following.fence is not None
        assert following.fence > job.fence
        assert not jobs.has_queued(session)


def test_phases_heartbeats_and_metrics(store: Store) -> None:
    job, fence = started(store)
    with store.session() as session:
        before = jobs.advance(session, job.id, fence, "update", LEASE).heartbeat_at
        assert jobs.heartbeat(session, job.id, fence, LEASE, {"loss": 0.5}) is False
        row = jobs.get_job(session, job.id)
        assert before is not None
        assert row.heartbeat_at is not None
        assert row.heartbeat_at > before
        assert (row.phase, row.metrics) == ("update", {"loss": 0.5})


def test_every_sign_of_life_extends_the_lease_by_the_clock_of_the_database(store: Store) -> None:
    job, fence = started(store, lease=timedelta(seconds=5))
    signs: tuple[Callable[[Session], object], ...] = (
        lambda session: jobs.heartbeat(session, job.id, fence, LEASE),
        lambda session: jobs.advance(session, job.id, fence, "update", timedelta(minutes=3)),
    )
    for sign, lease in zip(signs, (LEASE, timedelta(minutes=3)), strict=True):
        with store.session() as session:
            sign(session)
        with store.session() as session:
            until = jobs.get_job(session, job.id).lease_until
            now = jobs.clock(session)
        assert until is not None
        assert lease - timedelta(seconds=10) < until - now <= lease


def test_a_lease_is_held_to_the_end_and_not_beyond(store: Store, answers: Answers) -> None:
    [one] = answers()
    grade(store, one)
    job, fence = started(store)
    take(store, job, [one])
    with store.session() as session:
        assert jobs.end_expired(session) == [], "it gave a sign of life a moment ago"
        jobs.heartbeat(session, job.id, fence, NO_LEASE)
    with store.session() as session:
        assert [lost.id for lost in jobs.end_expired(session)] == [job.id]
        assert jobs.end_expired(session) == []
    with store.session() as session:
        row = jobs.get_job(session, job.id)
    assert (row.status, row.fault, row.error) == ("failed", "infrastructure", "worker lost")
    assert fresh(store) == {one}
    assert outcomes(store, job) == {}
    assert books_agree(store)


def test_a_running_job_without_a_lease_does_not_run_for_ever(store: Store) -> None:
    job, _ = started(store)
    with store.session() as session:
        session.execute(update(Job).values(lease_until=None))
    with store.session() as session:
        assert [lost.id for lost in jobs.end_expired(session)] == [job.id]


def test_of_many_that_find_an_expired_job_one_ends_it_and_begins_the_next(store: Store) -> None:
    job, _ = started(store)
    requested(store)
    expire(store, job)
    start = Barrier(4)

    def stand_by(number: int) -> tuple[int, Job | None]:
        start.wait()
        with store.session() as session:
            count = len(jobs.end_expired(session))
        with store.session() as session:
            return count, jobs.start(session, f"w{number}", LEASE)

    with ThreadPoolExecutor(4) as pool:
        done = list(pool.map(stand_by, range(4)))
    assert sum(count for count, _ in done) == 1
    assert len([began for _, began in done if began is not None]) <= 1
    with store.session() as session:
        assert (jobs.running(session) is not None) or jobs.has_queued(session), "nothing is lost"


def test_a_job_that_writes_its_end_at_this_moment_is_not_ended_by_another(store: Store) -> None:
    job, fence = started(store)
    expire(store, job)
    with store.session() as session:
        jobs.held(session, job.id, fence)
        with store.session() as other:
            assert jobs.end_expired(other) == []
        jobs.finish(session, job.id, fence, "succeeded", "learn", verdict="promoted")
    with store.session() as session:
        assert jobs.end_expired(session) == []
        assert jobs.get_job(session, job.id).status == "succeeded"


def test_a_worker_that_lost_its_job_can_write_nothing(store: Store) -> None:
    job, fence = started(store)
    expire(store, job)
    with store.session() as session:
        assert [lost.id for lost in jobs.end_expired(session)] == [job.id]
    again, new = started(store)
    assert new > fence
    for number, other in ((job.id, fence), (again.id, fence), (uuid4(), new)):
        with pytest.raises(Fenced), store.session() as session:
            jobs.heartbeat(session, number, other, LEASE)
        with pytest.raises(Fenced), store.session() as session:
            jobs.advance(session, number, other, "update", LEASE)
        with pytest.raises(Fenced, match="write nothing more"), store.session() as session:
            jobs.finish(session, number, other, "succeeded", "learn")
    with store.session() as session:
        assert jobs.get_job(session, again.id).status == "running"


def test_an_expired_job_that_was_to_be_cancelled_is_cancelled(store: Store) -> None:
    job, _ = started(store)
    with store.session() as session:
        jobs.cancel(session, job.id)
    expire(store, job)
    with store.session() as session:
        [lost] = jobs.end_expired(session)
        assert (lost.status, lost.fault) == ("cancelled", "operator")
        assert jobs.failures_in_a_row(session) == 0


def test_cancel_waiting_running_and_over(store: Store) -> None:
    waiting = requested(store)
    with store.session() as session:
        done = jobs.cancel(session, waiting.id)
        assert (done.status, done.fault) == ("cancelled", "operator")
    with pytest.raises(Conflict, match="over"), store.session() as session:
        jobs.cancel(session, waiting.id)
    job, fence = started(store)
    with store.session() as session:
        assert jobs.cancel(session, job.id).status == "running"
    with store.session() as session:
        assert jobs.heartbeat(session, job.id, fence, LEASE) is True
        jobs.finish(session, job.id, fence, "cancelled", "release")
    with pytest.raises(NotFound), store.session() as session:
        jobs.cancel(session, uuid4())


def test_failures_in_a_row_are_those_of_the_infrastructure_since_anything_else_happened(store: Store) -> None:
    def count() -> int:
        with store.session() as session:
            return jobs.failures_in_a_row(session)

    assert count() == 0
    told: list[tuple[Fault | None, int]] = [
        ("infrastructure", 1),
        ("infrastructure", 2),
        ("operator", 2),  # says nothing either way
        ("infrastructure", 3),
        ("policy", 0),
        ("infrastructure", 1),
        (None, 0),
        ("infrastructure", 1),
        ("data", 0),
    ]
    for fault, expected in told:
        ended(store, fault)
        assert count() == expected, fault


def test_not_a_number_can_be_diagnosed(store: Store) -> None:
    job, fence = started(store)
    with store.session() as session:
        diagnosis, metrics = {"loss": float("nan")}, {"norm": float("inf")}
        jobs.finish(session, job.id, fence, "failed", "release", diagnosis=diagnosis, metrics=metrics)
    with store.session() as session:
        row = jobs.get_job(session, job.id)
        assert (row.diagnosis, row.metrics) == ({"loss": "nan"}, {"norm": "inf"})


def test_a_fault_is_one_of_four(store: Store) -> None:
    job = ended(store, "policy")
    with pytest.raises(IntegrityError, match="fault_known"), store.session() as session:
        session.execute(update(Job).where(Job.id == job.id).values(fault="mine"))


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
