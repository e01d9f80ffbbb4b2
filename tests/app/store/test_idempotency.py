"""Idempotency: same key and body once, another body 422, still running 409, a dead beginner is followed."""

from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from threading import Barrier

import pytest

from app.errors import Conflict, Unprocessable
from app.store import idempotency
from app.store.connect import Store
from app.store.idempotency import Begun, Replay

BODY, OTHER = b"a" * 32, b"b" * 32


def begin(store: Store, body: bytes = BODY, owner: str = "k", **options: timedelta) -> Begun | Replay:
    with store.session() as session:
        return idempotency.begin(session, owner, "key", "POST /grades", body, **options)


def mine(begun: Begun | Replay) -> Begun:
    assert isinstance(begun, Begun)
    return begun


def test_a_retry_gets_the_first_answer(store: Store) -> None:
    begun = mine(begin(store))
    with store.session() as session:
        idempotency.finish(session, begun, 201, {"id": "grade_1"})
    assert begin(store) == Replay(201, {"id": "grade_1"})


def test_another_body_is_refused_before_and_after(store: Store) -> None:
    begun = mine(begin(store))
    with pytest.raises(Unprocessable):
        begin(store, OTHER)
    with store.session() as session:
        idempotency.finish(session, begun, 201, None)
    with pytest.raises(Unprocessable):
        begin(store, OTHER)


def test_still_running(store: Store) -> None:
    begin(store)
    with pytest.raises(Conflict) as caught:
        begin(store)
    assert caught.value.retry_after is not None


def test_keys_of_different_callers_never_meet(store: Store) -> None:
    begin(store)
    assert isinstance(begin(store, OTHER, owner="someone else"), Begun)


def test_a_dead_beginner_is_followed_and_cannot_finish(store: Store) -> None:
    dead = mine(begin(store))
    heir = mine(begin(store, died_after=timedelta(0)))
    assert heir.attempt == dead.attempt + 1
    with pytest.raises(Conflict), store.session() as session:
        idempotency.finish(session, dead, 500, "wrong")
    with store.session() as session:
        idempotency.finish(session, heir, 201, "right")
    assert begin(store) == Replay(201, "right")


def test_a_failure_that_changed_nothing_frees_the_key(store: Store) -> None:
    begun = mine(begin(store))
    with store.session() as session:
        idempotency.give_up(session, begun)
    assert mine(begin(store)).attempt == 1


def test_in_one_transaction_the_others_wait_and_replay(store: Store) -> None:
    gate = Barrier(4)

    def grade(number: int) -> Begun | Replay:
        gate.wait()
        with store.session() as session:
            begun = idempotency.begin(session, "k", "key", "POST /grades", BODY)
            if isinstance(begun, Begun):
                idempotency.finish(session, begun, 201, number)
            return begun

    with ThreadPoolExecutor(4) as pool:
        results = list(pool.map(grade, range(4)))
    replays = [result for result in results if isinstance(result, Replay)]
    assert len(replays) == 3
    assert len({replay.response for replay in replays}) == 1


def test_old_answers_are_forgotten(store: Store) -> None:
    begin(store)
    with store.session() as session:
        assert idempotency.forget(session, timedelta(days=1)) == 0
        assert idempotency.forget(session, timedelta(seconds=-1)) == 1


@pytest.mark.parametrize("key", ["", "x" * 256])
def test_a_key_has_a_length(store: Store, key: str) -> None:
    with pytest.raises(ValueError, match="255"), store.session() as session:
        idempotency.begin(session, "k", key, "r", BODY)
