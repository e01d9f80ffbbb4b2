"""The queue of graders to run: whose turn it is, that nobody waits for ever, and that a backlog costs nothing."""

import threading
import time
from collections.abc import Callable
from datetime import timedelta
from threading import Barrier
from uuid import UUID

import pytest
from sqlalchemy import text

from app.store.budgets import MIGRATION
from app.store.connect import Store
from app.store.grading import TURNS, Look, Taken, settle, take, try_again, waiting

Answers = Callable[..., list[UUID]]
MINUTE = timedelta(minutes=1)
SPEC = {"type": "string_check", "operation": "eq", "reference": "2"}


@pytest.fixture
def pending(store: Store, answers: Answers) -> Callable[[int], list[UUID]]:
    """Write answers a second apart, the oldest first, whose grader waits."""
    written = 0

    def write(count: int) -> list[UUID]:
        nonlocal written
        ids = [answers(grading_state="pending", grader=SPEC)[0] for _ in range(count)]
        with store.session() as session:
            for one in ids:
                written += 1
                at = "now() - interval '1 day' + :at * interval '1 s'"
                statement = text(f"UPDATE interactions SET created_at = {at} WHERE id = :id")
                session.execute(statement, {"at": written, "id": one})
        return ids

    return write


def taken(store: Store, turn: int, lease: timedelta = MINUTE) -> UUID | None:
    with store.session() as session:
        found = take(session, lease, turn)
        return None if found is None else found.id


def test_the_newest_go_first_and_the_oldest_are_never_forgotten(
    store: Store, pending: Callable[[int], list[UUID]]
) -> None:
    old = pending(8)
    served: list[UUID] = []
    turn = 0
    while not set(old) <= set(served):
        new = pending(1)[0]  # new ones come as fast as any are graded
        one = taken(store, turn)
        assert one is not None
        served.append(one)
        assert TURNS[turn % len(TURNS)] != "newest" or one == new, "what is new is graded at once"
        turn += 1
        assert turn <= 4 * len(old) + len(TURNS), "a quarter of the looks is for the oldest"
    assert [one for one in served if one in old] == old


def test_what_is_due_again_takes_its_turn_and_no_other(store: Store, pending: Callable[[int], list[UUID]]) -> None:
    failing = pending(3)
    for _ in failing:
        with store.session() as session:
            found = take(session, MINUTE)
            assert found is not None
            assert try_again(session, found, timedelta(0))
    fresh = pending(4)
    served = [taken(store, turn) for turn in range(4)]
    kinds = ["failing" if one in failing else "fresh" for one in served]
    assert [TURNS[index] for index, kind in enumerate(kinds) if kind == "failing"] == ["due"]
    assert set(served) - set(failing) <= set(fresh)


def test_a_lease_keeps_others_off_and_ends_by_the_databases_clock(
    store: Store, pending: Callable[[int], list[UUID]]
) -> None:
    [one] = pending(1)
    assert taken(store, 0, timedelta(seconds=0.5)) == one
    assert [taken(store, turn) for turn in range(4)] == [None] * 4
    time.sleep(0.6)
    with store.session() as session:
        again = take(session, MINUTE)
    assert again is not None
    assert (again.id, again.attempt) == (one, 2)


def test_of_two_workers_only_the_later_records(store: Store, pending: Callable[[int], list[UUID]]) -> None:
    pending(1)
    both: list[Taken] = []
    for _ in range(2):
        with store.session() as session:
            found = take(session, timedelta(0))
            assert found is not None
            both.append(found)
    gate = Barrier(2)
    written: dict[int, bool] = {}

    def record(mine: Taken) -> None:
        gate.wait()
        with store.session() as session:
            written[mine.attempt] = settle(session, mine, "none", None)

    threads = [threading.Thread(target=record, args=(mine,)) for mine in both]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert written == {1: False, 2: True}


def test_many_workers_never_take_the_same_answer(store: Store, pending: Callable[[int], list[UUID]]) -> None:
    ids = pending(24)
    found: list[UUID | None] = []

    def work(turn: int) -> None:
        while (one := taken(store, turn)) is not None:
            found.append(one)
            turn += 1

    threads = [threading.Thread(target=work, args=(turn,)) for turn in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(map(str, found)) == sorted(map(str, ids))


@pytest.mark.parametrize("turn", range(len(TURNS)))
def test_a_look_for_work_writes_nothing_when_there_is_none(store: Store, answers: Answers, turn: int) -> None:
    answers(3)
    with store.session() as session:
        assert take(session, MINUTE, turn) is None
        assert session.scalar(text("SELECT pg_current_xact_id_if_assigned()")) is None, (
            "a transaction that wrote has an id"
        )


def backlog(store: Store, like: UUID, count: int) -> None:
    """Copy an answer many times: half were never tried, half are due again."""
    own = {"id", "completion_id", "created_at", "grading_attempts", "grading_until"}
    with store.session(MIGRATION) as session:
        query = text("SELECT column_name FROM information_schema.columns WHERE table_name = 'interactions'")
        same = ", ".join(f'"{name}"' for name in session.scalars(query) if name not in own)
        ages = "now() - n * interval '1 s', n % 2, CASE WHEN n % 2 = 1 THEN now() - n * interval '1 s' END"
        statement = text(
            f"INSERT INTO interactions (id, completion_id, created_at, grading_attempts, grading_until, {same}) "
            f"SELECT gen_random_uuid(), 'c' || n, {ages}, {same} "
            f"FROM interactions, generate_series(1, :count) AS n WHERE id = :id"
        )
        session.execute(statement, {"id": like, "count": count})


@pytest.mark.parametrize("look", sorted(set(TURNS)))
def test_a_look_into_a_backlog_reads_one_entry_of_an_index(store: Store, answers: Answers, look: Look) -> None:
    [one] = answers(grading_state="pending", grader=SPEC)
    backlog(store, one, 20_000)
    with store.session() as session:
        statement = waiting(look).with_for_update(skip_locked=True, key_share=True)
        words = str(statement.compile(store.engine, compile_kwargs={"literal_binds": True}))
        plan = "\n".join(session.scalars(text(f"EXPLAIN (ANALYZE, BUFFERS) {words}")))
    index = "ix_interactions_grading_due" if look == "due" else "ix_interactions_grading_untried"
    assert index in plan
    assert "Sort" not in plan
    assert "Seq Scan" not in plan
    assert "rows=1 " in plan.split(index)[1].replace("rows=1.00", "rows=1"), plan
