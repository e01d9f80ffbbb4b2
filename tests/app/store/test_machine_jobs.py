"""Any order of jobs: one runs, its worker alone may write, and every answer is in one place."""

from collections.abc import Callable
from uuid import UUID

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule
from sqlalchemy import select

from app.errors import Conflict, Fenced
from app.store import jobs
from app.store.claims import MOST_REFUSALS, Settlement
from app.store.connect import Store
from app.store.tables import Job
from tests.app.store.acts import LEASE, NO_LEASE, books_agree, grade, take
from tests.app.store.machines import base, fates, run


class Jobs(RuleBasedStateMachine):
    """Workers that ask, start, beat, die, come back late and finish; an operator who cancels."""

    def __init__(self, store: Store) -> None:
        super().__init__()
        self.store = store
        _, self.answers = base(store, 6)
        for one in self.answers:
            grade(store, one)
        self.status: dict[UUID, str] = {}  # job -> status
        self.held: dict[UUID, tuple[UUID, int]] = {}  # job -> its worker's idea of (job, fence), for ever
        self.fate = dict.fromkeys(self.answers, "fresh")
        self.holder: dict[UUID, UUID] = {}  # answer -> job
        self.refused = dict.fromkeys(self.answers, 0)
        self.cancelled: set[UUID] = set()
        self.fence = 0

    def running(self) -> UUID | None:
        return next((job for job, status in self.status.items() if status == "running"), None)

    def settle(self, job: UUID, settlement: Settlement) -> None:
        """Say what should become of a job's answers."""
        for one in [one for one, owner in self.holder.items() if owner == job and self.fate[one] == "claimed"]:
            if settlement == "keep":
                continue
            self.fate[one] = "learned" if settlement == "learn" else "fresh"
            if settlement == "refuse":
                self.refused[one] += 1
                self.fate[one] = "skipped" if self.refused[one] >= MOST_REFUSALS else "fresh"
            if self.fate[one] == "fresh":
                del self.holder[one]

    @rule()
    def ask(self) -> None:
        with self.store.session() as session:
            job = jobs.request(session, trigger="admin", requested_by="test")
        self.status[job.id] = "queued"

    @rule(worker=st.sampled_from("vw"), wanted=st.integers(0, 3))
    def start(self, worker: str, wanted: int) -> None:
        with self.store.session() as session:
            job = jobs.start(session, worker, LEASE)
        oldest = next((job for job, status in self.status.items() if status == "queued"), None)
        if self.running() is not None or oldest is None:
            assert job is None
            return
        assert job is not None
        assert job.fence is not None
        assert job.id == oldest
        assert job.fence > self.fence
        self.fence, self.status[job.id], self.held[job.id] = job.fence, "running", (job.id, job.fence)
        free = [one for one in self.answers if self.fate[one] == "fresh"][:wanted]
        taken = take(self.store, job, self.answers[: self.answers.index(free[-1]) + 1]) if free else []
        assert {item.interaction.id for item in taken} == set(free)
        for one in free:
            self.fate[one], self.holder[one] = "claimed", job.id

    @precondition(lambda self: self.held)
    @rule(data=st.data())
    def beat(self, data: st.DataObject) -> None:
        job, fence = self.held[data.draw(st.sampled_from(list(self.held)))]
        if self.status[job] == "running":
            with self.store.session() as session:
                assert jobs.heartbeat(session, job, fence, LEASE) == (job in self.cancelled)
        else:
            self.is_fenced(job, fence)

    def is_fenced(self, job: UUID, fence: int) -> None:
        """A late worker can write nothing."""
        attempts: list[Callable[[], object]] = []
        with self.store.session() as session:
            attempts += [
                lambda: jobs.heartbeat(session, job, fence, LEASE),
                lambda: jobs.advance(session, job, fence, "publish", LEASE),
                lambda: jobs.finish(session, job, fence, "succeeded", "learn"),
            ]
            for attempt in attempts:
                try:
                    attempt()
                except Fenced:
                    continue
                raise AssertionError("a worker that lost its job wrote to it")

    @rule()
    def others_look(self) -> None:
        """While the lease holds, nobody ends the job."""
        with self.store.session() as session:
            assert jobs.end_expired(session) == []

    @precondition(lambda self: self.running() is not None)
    @rule()
    def die(self) -> None:
        """The worker falls silent for its lease, and another looks."""
        job, fence = self.held[self.running()]  # type: ignore[index]
        with self.store.session() as session:
            jobs.heartbeat(session, job, fence, NO_LEASE)
        with self.store.session() as session:
            assert [lost.id for lost in jobs.end_expired(session)] == [job]
        self.status[job] = "cancelled" if job in self.cancelled else "failed"
        self.settle(job, "release")

    @precondition(lambda self: self.running() is not None)
    @rule(end=st.sampled_from(["learn", "release", "refuse"]))
    def finish(self, end: Settlement) -> None:
        job, fence = self.held[self.running()]  # type: ignore[index]
        with self.store.session() as session:
            jobs.finish(session, job, fence, "succeeded", end)
        self.status[job] = "succeeded"
        self.settle(job, end)

    @precondition(lambda self: self.status)
    @rule(data=st.data())
    def cancel(self, data: st.DataObject) -> None:
        job = data.draw(st.sampled_from(list(self.status)))
        try:
            with self.store.session() as session:
                jobs.cancel(session, job)
        except Conflict:
            assert self.status[job] not in {"queued", "running"}
            return
        if self.status[job] == "queued":
            self.status[job] = "cancelled"
        self.cancelled.add(job)

    @invariant()
    def the_tables_say_what_happened(self) -> None:
        with self.store.session() as session:
            assert {row.id: row.status for row in session.execute(select(Job.id, Job.status))} == self.status
        assert list(self.status.values()).count("running") <= 1

    @invariant()
    def every_answer_is_in_one_place(self) -> None:
        assert fates(self.store) == self.fate
        assert books_agree(self.store)


def test_any_order_of_jobs(store: Store) -> None:
    run(lambda: Jobs(store))
