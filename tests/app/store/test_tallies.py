"""Kept counts are those of the rows, whatever was written, by whom, and however it ended."""

from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from uuid import UUID

from sqlalchemy import select, text

from app.store import claims, grading, jobs, lineage, policy_life, tallies
from app.store.connect import Store, open_store
from app.store.erasure import Subject, begin, step
from app.store.grades import Entry, add_grade
from app.store.tables import Tally
from tests.app.store.learned import claimed, graded, learned
from tests.conftest import Answers

SPEC = {"type": "math", "reference": "2"}


def kept(store: Store) -> dict[str, dict[str, int]]:
    with store.session() as session:
        return {what: tallies.counts(session, what) for what in ("answers", "grading", "grades", "learned", "skipped")}


COUNTED = {
    "answers": "SELECT '', count(*) FROM interactions HAVING count(*) > 0",
    "grading": "SELECT grading_state, count(*) FROM interactions WHERE grading_state <> 'none' GROUP BY 1",
    "grades": "SELECT grader_kind, count(*) FROM grades WHERE state = 'graded' GROUP BY 1",
    "learned": "SELECT job_id::text, count(*) FROM claims WHERE outcome = 'learned' GROUP BY 1",
    "skipped": "SELECT reason, count(*) FROM claims WHERE outcome = 'skipped' GROUP BY 1",
}


def counted(store: Store) -> dict[str, dict[str, int]]:
    """The same, by looking at every row."""
    with store.session() as session:
        return {
            what: {name: count for name, count in session.execute(text(query))}  # noqa: C416 - rows are no pairs to mypy
            for what, query in COUNTED.items()
        }


def erase(store: Store, one: UUID) -> None:
    subject = Subject(interaction_id=one)
    with store.session() as session:
        wish = begin(session, subject, "test")
        while step(session, wish.id, subject):
            pass


def test_counts_follow_every_kind_of_write(store: Store, answers: Answers) -> None:
    assert kept(store) == counted(store)
    ids = answers(3) + answers(2, grading_state="pending", grader=SPEC)
    assert kept(store) == counted(store)
    with store.session() as session:
        taken = grading.take(session, timedelta(minutes=1))
        assert taken is not None
        assert taken.grader == SPEC
        assert grading.settle(session, taken, "graded", Entry("math", "math", value=1.0))
        grading.fail_the_rest(session, taken, Entry("math", "math", state="failed"))
    assert kept(store) == counted(store)
    assert kept(store)["grading"] == {"graded": 1, "failed": 1}
    learned(store, ids[:2], (0.0, 1.0))
    graded(store, ids[2:3])
    job = claimed(store, ids[2:3])
    with store.session() as session:
        claims.skip(session, job.id, {ids[2]: claims.Skipped("diverged", 2.0)})
        assert job.fence is not None
        jobs.finish(session, job.id, job.fence, "failed", "release")
    assert kept(store) == counted(store)
    assert kept(store)["skipped"] == {"diverged": 1}
    erase(store, ids[0])
    erase(store, ids[3])
    assert kept(store) == counted(store)
    assert kept(store)["answers"] == {"": 3}


def test_what_is_rolled_back_is_not_counted(store: Store, answers: Answers) -> None:
    [one] = answers(1)
    with store.session() as session:
        add_grade(session, one, Entry("client", "a", value=1.0))
        session.rollback()
    assert kept(store)["grades"] == {}


def test_sessions_count_side_by_side_and_are_folded_when_they_ended(store: Store, answers: Answers) -> None:
    ids = answers(40)
    with ThreadPoolExecutor(6) as pool:
        list(pool.map(lambda one: graded(store, [one]), ids))
    assert kept(store) == counted(store)
    store.engine.dispose()
    other = open_store(store.engine.url.render_as_string(hide_password=False))
    with other.session() as session:
        backends = select(Tally.backend).where(Tally.what == "grades")
        assert 0 not in session.scalars(backends).all()
        session.execute(text("SELECT pg_sleep(0.2)"))  # ended sessions leave the list of sessions a moment later
        tallies.fold(session)
        assert session.scalars(backends).all() == [0]
    other.close()
    assert kept(store) == counted(store)


def test_what_a_policy_contains_is_counted_by_its_jobs(store: Store, answers: Answers) -> None:
    learned(store, answers(3))
    learned(store, answers(2))
    with store.session() as session:
        serving = policy_life.serving(session)
        assert serving is not None
        assert lineage.count_learned(session, serving.id) == (5, 0)
        policy_life.rollback(session, "test")
        before = policy_life.serving(session)
        assert before is not None
        assert lineage.count_learned(session, before.id) == (3, 2)
        assert lineage.count_learned(session, None) == (0, 5)
