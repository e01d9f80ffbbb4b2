"""Somebody's data is removed: all of it, for good, with digests and counts left, whoever holds it at that moment."""

import hashlib
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any
from uuid import UUID

import pytest
from sqlalchemy import func, select, text

from app.errors import NotFound
from app.identifiers import show
from app.store import checkpoints, claims, erasure, jobs, lineage, policy_life
from app.store.connect import Store
from app.store.erasure import Subject
from app.store.grades import Entry, add_grade
from app.store.idempotency import Begun, Replay, begin, finish
from app.store.keys import create_key
from app.store.removed import Erasure, Tombstone
from app.store.tables import Claim, Interaction, Job
from tests.app.store.learned import LEASE, claimed, graded, learned, made
from tests.conftest import Answers

ADA = Subject(user="ada")
SECRET_TEXT = "Sesame"


def erase(store: Store, subject: Subject, *, limit: int = erasure.BATCH) -> dict[str, int]:
    with store.session() as session:
        wish = erasure.begin(session, subject, "admin-key").id
    while True:
        with store.session() as session:
            if not erasure.step(session, wish, subject, limit=limit):
                break
    with store.session() as session:
        row = session.get_one(Erasure, wish)
        assert row.finished_at is not None
        assert row.actor == "admin-key"
        return row.removed


def everything(store: Store) -> str:
    """All that the database says, as one text."""
    with store.session() as session:
        tables = session.scalars(text("SELECT tablename FROM pg_tables WHERE schemaname = 'public'")).all()
        rows = [session.scalars(text(f"SELECT t::text FROM {table} AS t")).all() for table in tables]
    return "\n".join(row for table in rows for row in table)


def ids(store: Store) -> set[UUID]:
    with store.session() as session:
        return set(session.scalars(select(Interaction.id)))


def test_a_users_data_goes_from_every_table_and_others_stay(store: Store, answers: Answers) -> None:
    texts: dict[str, Any] = {
        "prompts": [f"{SECRET_TEXT} prompt"],
        "answer": f"{SECRET_TEXT} answer",
        "body": {"messages": [{"content": SECRET_TEXT}]},
        "client_metadata": {"note": SECRET_TEXT},
    }
    mine = answers(2, user_tag="ada-the-first", **texts) + answers(1, user_tag="ada-the-first", **texts)
    others = answers(2, user_tag="bob") + answers(1)
    for one in mine:
        with store.session() as session:
            begun = begin(session, "k", str(one), "POST /v1/interactions/x/grades", b"")
            assert isinstance(begun, Begun)
            add_grade(session, one, Entry("user", "a", value=1.0, comment=SECRET_TEXT, correction=SECRET_TEXT))
            grade = add_grade(session, one, Entry("user", "a", value=0.0, comment=SECRET_TEXT))
            finish(session, begun, 201, {"interaction_id": show("int", one), "comment": grade.comment})
    assert SECRET_TEXT in everything(store)
    removed = erase(store, Subject(user="ada-the-first"))
    assert removed == {"interactions": 3, "rollouts": 3, "grades": 6, "idempotency_keys": 3, "requests": 2}
    left = everything(store)
    assert SECRET_TEXT not in left
    assert "ada-the-first" not in left
    assert ids(store) == set(others)
    assert erase(store, Subject(user="ada-the-first")) == {}, "asked again it finds nothing"


def test_a_retried_grade_of_a_removed_answer_is_not_found_and_not_replayed(store: Store, answers: Answers) -> None:
    [one] = answers(1, user_tag="ada")

    def post() -> Begun | Replay:
        with store.session() as session:
            begun = begin(session, "k", "once", "POST", b"")
            if isinstance(begun, Begun):
                add_grade(session, one, Entry("user", "a", value=1.0))
                finish(session, begun, 201, {"interaction_id": show("int", one)})
            return begun

    post()
    assert isinstance(post(), Replay)
    erase(store, ADA)
    with pytest.raises(NotFound):
        post()


def test_the_tombstone_proves_what_was_removed_and_says_no_more(store: Store, answers: Answers) -> None:
    [one] = answers(1, user_tag="ada", prompts=["äöü?"], answer="42")
    graded(store, [one], (0.5,))
    erase(store, ADA)
    with store.session() as session:
        stone = session.get_one(Tombstone, one)
        assert stone.sha256 == hashlib.sha256("äöü?".encode() + b"\0" + b"42" + b"\0" + b"\x00\x01").digest()
        assert (stone.reward, stone.grader_keys, stone.grader_kinds) == (0.5, ["server"], ["client"])
        assert stone.policy_version == 0
        wish = session.scalars(select(Erasure)).one()
        assert hashlib.sha256(b"ada").digest() != wish.subject_hmac, "a list of names cannot be tried on it"


def test_a_key_narrows_a_user(store: Store, answers: Answers) -> None:
    with store.session() as session:
        key, other = (create_key(session, name, ["infer"])[0].id for name in "ab")
    mine, theirs = answers(1, user_tag="ada", api_key_id=key), answers(1, user_tag="ada", api_key_id=other)
    erase(store, Subject(user="ada", key_id=key))
    assert ids(store) == set(theirs)
    assert ids(store).isdisjoint(mine)


def test_one_answer_goes_alone(store: Store, answers: Answers) -> None:
    first, second = answers(2, user_tag="ada")
    assert erase(store, Subject(interaction_id=first))["interactions"] == 1
    assert ids(store) == {second}


def test_learned_answers_stay_counted_and_every_policy_with_them_is_named(store: Store, answers: Answers) -> None:
    first = learned(store, answers(2, user_tag="ada") + answers(1), (0.0, 1.0))
    second = learned(store, answers(2))
    with store.session() as session:
        before = [lineage.contents(session, checkpoints.by_version(session, v).id) for v in (first, second)]
    assert [one.answers for one in before] == [3, 5]
    erase(store, ADA)
    for _ in range(2):  # the second time nothing is removed, and the answer is the same
        with store.session() as session:
            after = [lineage.contents(session, checkpoints.by_version(session, v).id) for v in (first, second)]
            assert after == before
            found = [(one.version, one.state, one.answers) for one in erasure.containing(session, ADA)]
            assert found == [(second, "serving", 2), (first, "retired", 2)]
            assert erasure.containing(session, Subject(user="nobody")) == []
        erase(store, ADA)


@pytest.mark.parametrize("settlement", ["learn", "release", "refuse"])
def test_a_job_that_holds_a_removed_answer_is_asked_to_end_and_brings_nothing_back(
    store: Store, answers: Answers, settlement: Any
) -> None:
    mine, others = answers(1, user_tag="ada"), answers(3)
    graded(store, mine + others)
    job = claimed(store, mine + others)
    assert job.fence is not None
    erase(store, ADA)
    with store.session() as session:
        assert jobs.heartbeat(session, job.id, job.fence, LEASE), "it hears of it at its next sign of life"
        assert claims.outcomes(session, job.id) == {"claimed": 4}, "what the job counts does not change under its feet"
        claims.skip(session, job.id, {mine[0]: claims.Skipped("diverged", 1.0)} if settlement == "release" else {})
        claims.measured(session, job.id, {mine[0]: (0.1, 1.0)})
        jobs.finish(session, job.id, job.fence, "cancelled", settlement)
    assert ids(store) == set(others)
    with store.session() as session:
        kept = {row.interaction_id: row.outcome for row in session.scalars(select(Claim))}
        expected = {"learn": dict.fromkeys(mine + others, "learned"), "release": {mine[0]: "skipped"}, "refuse": {}}
        assert kept == expected[settlement]
        waiting = select(Interaction.id).where(~Interaction.claimed)
        assert set(session.scalars(waiting)) == (set() if settlement == "learn" else set(others))


def test_a_policy_that_waits_for_a_decision_is_named_and_counts_when_it_serves(store: Store, answers: Answers) -> None:
    mine = answers(2, user_tag="ada")
    version = learned(store, mine, decide=False)
    erase(store, ADA)
    with store.session() as session:
        assert [(one.version, one.state) for one in erasure.containing(session, ADA)] == [(version, "held")]
        policy_life.promote(session, checkpoints.by_version(session, version).id, "good", "test")
    with store.session() as session:
        serving = policy_life.serving(session)
        assert serving is not None
        assert lineage.contents(session, serving.id).answers == 2
        assert [(one.state, one.answers) for one in erasure.containing(session, ADA)] == [("serving", 2)]


def test_a_job_that_claims_while_the_removal_goes_on_is_asked_to_end_too(store: Store, answers: Answers) -> None:
    graded(store, mine := answers(4, user_tag="ada"))
    with store.session() as session:
        wish = erasure.begin(session, ADA, "admin").id
    job = claimed(store, mine)
    with store.session() as session:
        erasure.step(session, wish, ADA)
        session.execute(text("UPDATE jobs SET cancel_requested = false"))  # as if it began after the batch's look
    with store.session() as session:
        assert erasure.step(session, wish, ADA) == 0
    with store.session() as session:
        assert session.get_one(Job, job.id).cancel_requested


def test_removal_waits_for_a_grade_under_way_and_takes_it_along(store: Store, answers: Answers) -> None:
    [one] = answers(1, user_tag="ada")
    with ThreadPoolExecutor(1) as pool:
        with store.session() as session:
            add_grade(session, one, Entry("user", "a", value=1.0, comment=SECRET_TEXT))
            erasing = pool.submit(erase, store, ADA)
            time.sleep(0.3)
            assert not erasing.done()
        assert erasing.result(timeout=20)["grades"] == 1
    assert SECRET_TEXT not in everything(store)


def test_removal_and_a_job_that_settles_do_not_block_each_other(store: Store, answers: Answers) -> None:
    """They lock the job, then its answers, in this order; the other way round this would be a deadlock."""
    for _ in range(3):
        graded(store, mine := answers(20, user_tag="ada") + answers(20))
        job = claimed(store, mine)
        assert job.fence is not None

        def settle(job: Job = job) -> None:
            with store.session() as session:
                assert job.fence is not None
                jobs.finish(session, job.id, job.fence, "cancelled", "refuse")

        with ThreadPoolExecutor(2) as pool:
            erasing, settling = pool.submit(erase, store, ADA, limit=3), pool.submit(settle)
            erasing.result(timeout=30)
            settling.result(timeout=30)
    with store.session() as session:
        assert session.scalar(select(func.count()).where(Interaction.user_tag == "ada")) == 0


def test_making_a_policy_of_removed_answers_leaves_no_answer(store: Store, answers: Answers) -> None:
    graded(store, mine := answers(2, user_tag="ada"))
    job = claimed(store, mine)
    erase(store, ADA)
    made(store, job)
    assert ids(store) == set()
    with store.session() as session:
        assert [one.answers for one in erasure.containing(session, ADA)] == [2]
