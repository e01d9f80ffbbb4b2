"""The life of a policy: every move of the table and no other, and compare-and-set."""

from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from threading import Barrier, Event, Thread
from typing import get_args
from uuid import UUID, uuid4

import pytest
from sqlalchemy import func, update
from sqlalchemy.exc import IntegrityError

from app.errors import Conflict, NotFound
from app.store import checkpoints, jobs, learning, policy_life
from app.store.connect import Store
from app.store.policy_life import LIFE, UNDECIDED, Move, Overtaken, State
from app.store.policy_life import Event as LifeEvent
from app.store.tables import Checkpoint
from tests.app.store.acts import (
    books_agree,
    chain,
    fresh,
    grade,
    history,
    improve,
    move,
    outcomes,
    promote,
    publish,
    roll_back,
    serves,
    started,
    state,
    take,
)
from tests.conftest import Answers

EVERY_PAIR = [(state, event) for state in get_args(State) for event in get_args(LifeEvent)]
AFTERWARDS = {"keep": "claimed", "learn": "learned", "release": None, "refuse": None}  # outcome of a first claim


def put(store: Store, row: Checkpoint, into: str) -> None:
    """Put a policy into a state without its history; what serves makes room."""
    with store.session() as session:
        if into == "serving":
            session.execute(update(Checkpoint).where(Checkpoint.state == "serving").values(state="retired"))
        session.execute(update(Checkpoint).where(Checkpoint.id == row.id).values(state=into))


def test_every_pair_of_the_table_happens_and_no_other(
    store: Store, base_checkpoint: Checkpoint, answers: Answers
) -> None:
    for before, event in EVERY_PAIR:
        one_pair(store, base_checkpoint, answers()[0], before, event)
    assert books_agree(store)


def one_pair(store: Store, base: Checkpoint, one: UUID, before: State, event: LifeEvent) -> None:
    grade(store, one)
    job, fence = started(store)
    take(store, job, [one])
    row = publish(store, base, job)
    put(store, row, before)
    if event in {"promote", "restore"}:
        put(store, base, "retired")
    known = len(history(store))
    wanted = LIFE.get((before, event))
    if wanted is None:
        with pytest.raises(Conflict, match=f"Version {row.version} is {before}; '{event}' is not possible"):
            move(store, row, event)
        assert (state(store, row), len(history(store)), outcomes(store, job)) == (before, known, {"claimed": 1})
    else:
        entry = move(store, row, event)
        assert (entry.from_state, entry.to_state, entry.event, entry.actor) == (before, wanted.to, event, "ops")
        assert (state(store, row), entry.job_id) == (wanted.to, job.id)
        assert len(history(store)) == known + 1, "one move, one row"
        settled = AFTERWARDS[wanted.claims]
        assert outcomes(store, job) == ({} if settled is None else {settled: 1}), (before, event)
        assert (one in fresh(store)) == (settled is None)
    with store.session() as session:
        jobs.finish(session, job.id, fence, "succeeded", "release")
    put(store, row, "retired")
    put(store, base, "serving")


def test_the_table_gives_answers_to_no_two_policies() -> None:
    """Whoever may still be served holds its answers, and whoever gave them back may not be."""
    for done in LIFE.values():
        if done.to == "refused":
            assert done.claims in {"release", "refuse"}
        if done.to in UNDECIDED:
            assert done.claims == "keep"
    assert not [pair for pair in LIFE if pair[0] == "refused"], "it is over"
    assert {pair for pair, done in LIFE.items() if done.claims == "learn"} == {
        (waiting, "promote") for waiting in UNDECIDED
    }
    assert {pair for pair, done in LIFE.items() if done.claims == "refuse"} == {
        ("candidate", "refuse"),
        ("shadow", "refuse"),
        ("canary", "roll_back"),
    }, "it was tried and found worse"
    assert all(LIFE[(waiting, "discard")] == Move("refused", "release") for waiting in UNDECIDED), "none is stuck"


def test_a_canary_that_was_taken_back_gave_its_answers_back_and_cannot_serve(
    store: Store, base_checkpoint: Checkpoint, answers: Answers
) -> None:
    [one] = answers()
    grade(store, one)
    row, _ = improve(store, [one], "canary")
    move(store, row, "roll_back")
    assert fresh(store) == {one}
    other, _ = improve(store, [one])
    with pytest.raises(Conflict, match="never served"):
        promote(store, row)
    with pytest.raises(Conflict, match="never served"):
        roll_back(store, row)
    assert serves(store) == other.version


def test_at_most_one_in_shadow_and_in_canary(store: Store, base_checkpoint: Checkpoint) -> None:
    one, two = publish(store, base_checkpoint), publish(store, base_checkpoint)
    for place in ("shadow", "canary"):
        move(store, one, place)
        with pytest.raises(Conflict, match=f"Version 1 is in {place} already"):
            move(store, two, place)
        with pytest.raises(IntegrityError, match=f"uq_checkpoints_one_{place}"):
            put(store, two, place)
    with pytest.raises(Conflict, match="Version 0 is in serving already"):
        move(store, two, "promote")


def test_a_promotion_says_what_it_replaced_and_changes_nothing_twice(store: Store, base_checkpoint: Checkpoint) -> None:
    one = publish(store, base_checkpoint)
    with store.session() as session:
        entry = policy_life.promote(session, one.id, "better", "k1", figures={"difference": 0.1})
    assert entry is not None
    assert (entry.replaced_id, entry.reason, entry.actor) == (base_checkpoint.id, "better", "k1")
    assert entry.figures == {"difference": 0.1}
    known = len(history(store))
    assert promote(store, one) is None
    with store.session() as session:
        again = policy_life.promote(session, one.id, "retried", "k1", expected=base_checkpoint.id)
    assert again is None, "the wish is true already, whatever was expected"
    assert len(history(store)) == known
    assert state(store, base_checkpoint) == "retired"


def test_a_promotion_that_expected_another_policy_changes_nothing(store: Store, base_checkpoint: Checkpoint) -> None:
    one, two = publish(store, base_checkpoint), publish(store, base_checkpoint)
    promote(store, one)
    with pytest.raises(Overtaken, match="version 1 serves by now"), store.session() as session:
        policy_life.promote(session, two.id, "gate", "worker", expected=base_checkpoint.id)
    assert (serves(store), state(store, two)) == (1, "candidate")


def test_of_many_promotions_that_expect_the_same_one_wins(store: Store, base_checkpoint: Checkpoint) -> None:
    rows = [publish(store, base_checkpoint) for _ in range(6)]
    start = Barrier(6)

    def attempt(row: Checkpoint) -> bool:
        start.wait()
        try:
            with store.session() as session:
                policy_life.promote(session, row.id, "race", "test", expected=base_checkpoint.id)
        except Overtaken:
            return False
        return True

    with ThreadPoolExecutor(6) as pool:
        won = [row for row, done in zip(rows, pool.map(attempt, rows), strict=True) if done]
    assert [row.version for row in won] == [serves(store)]
    assert sorted(state(store, row) for row in rows) == ["candidate"] * 5 + ["serving"]


def test_promotions_at_once_leave_a_chain(store: Store, base_checkpoint: Checkpoint) -> None:
    rows = [publish(store, base_checkpoint) for _ in range(6)]
    with ThreadPoolExecutor(6) as pool:
        list(pool.map(lambda row: promote(store, row), rows))
    promotions = [entry for entry in history(store) if entry.event == "promote"]
    assert len(promotions) == 7
    assert promotions[0].replaced_id is None
    for before, after in pairwise(promotions):
        assert after.replaced_id == before.checkpoint_id, "every promotion began where the one before it ended"
    assert promotions[-1].checkpoint_id == next(row.id for row in rows if row.version == serves(store))


def test_a_promotion_that_waited_sees_what_happened_meanwhile(store: Store, base_checkpoint: Checkpoint) -> None:
    """It read the policy before it got the lock; meanwhile the files were deleted."""
    one = publish(store, base_checkpoint)
    read, done = Event(), Event()
    raised: list[Exception] = []

    def wait_and_promote() -> None:
        try:
            with store.session() as session:
                known = checkpoints.get_checkpoint(session, one.id)
                read.set()
                policy_life.promote(session, known.id, "late", "test")
        except Conflict as error:
            raised.append(error)
        done.set()

    with store.session() as session:
        learning.lock(session)
        thread = Thread(target=wait_and_promote)
        thread.start()
        assert read.wait(10)
        assert not done.wait(0.3), "it waits for the lock"
        session.execute(update(Checkpoint).where(Checkpoint.id == one.id).values(files_deleted_at=func.now()))
    thread.join()
    assert "deleted" in str(raised[0])
    assert serves(store) == 0


def test_what_cannot_be_served(store: Store, base_checkpoint: Checkpoint) -> None:
    one = publish(store, base_checkpoint)
    move(store, one, "refuse")
    with pytest.raises(Conflict, match="Version 1 is refused"):
        promote(store, one)
    with pytest.raises(NotFound, match="ckpt_"), store.session() as session:
        policy_life.promote(session, uuid4(), "", "ops")
    with pytest.raises(NotFound, match="ckpt_"), store.session() as session:
        policy_life.rollback(session, "ops", uuid4())
    assert serves(store) == 0


def test_what_is_pinned_stays_but_for_a_rollback(store: Store, base_checkpoint: Checkpoint) -> None:
    rows = chain(store, base_checkpoint, 1)
    two = publish(store, rows[1])
    with store.session() as session:
        learning.pin(session, "k1", "exam week")
    with pytest.raises(Conflict, match=r"pinned by k1 \(exam week\); unpin it first"):
        promote(store, two)
    assert roll_back(store) is not None
    assert serves(store) == 0
    with store.session() as session:
        assert learning.read(session).pinned_at is not None


def test_discarding_twice_changes_nothing_whoever_is_quicker(
    store: Store, base_checkpoint: Checkpoint, answers: Answers
) -> None:
    [one] = answers()
    grade(store, one)
    row, _ = improve(store, [one], "hold")
    start = Barrier(4)

    def turn_down(_: int) -> bool:
        with store.session() as session:
            checkpoints.get_checkpoint(session, row.id)
            start.wait()
            return policy_life.discard(session, row.id, "no", "ops") is not None

    with ThreadPoolExecutor(4) as pool:
        assert sorted(pool.map(turn_down, range(4))) == [False, False, False, True]
    assert fresh(store) == {one}
    with pytest.raises(Conflict, match="serving"), store.session() as session:
        policy_life.discard(session, base_checkpoint.id, "no", "ops")


def test_a_held_policy_that_an_operator_promotes_has_learned(
    store: Store, base_checkpoint: Checkpoint, answers: Answers
) -> None:
    [one] = answers()
    grade(store, one)
    row, job = improve(store, [one], "hold")
    assert outcomes(store, job) == {"claimed": 1}
    promote(store, row)
    assert outcomes(store, job) == {"learned": 1}
