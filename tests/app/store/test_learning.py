"""The row of learning: frozen, pinned, backed off; who did it and that twice is once."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier

import pytest
from sqlalchemy import text
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from app.errors import Conflict
from app.store import learning, policy_life
from app.store.connect import Store
from app.store.learning import SMALLEST_SCALE
from app.store.tables import Checkpoint, Learning, Transition

Change = Callable[[Session, str, str], bool]


def row(store: Store) -> Learning:
    with store.session() as session:
        return learning.read(session)


def change(store: Store, what: Change, actor: str, reason: str) -> bool:
    with store.session() as session:
        return what(session, actor, reason)


def notes(store: Store) -> list[Transition]:
    with store.session() as session:
        return [entry for entry in policy_life.history(session) if entry.from_state == "serving"][::-1]


@pytest.mark.parametrize(
    ("on", "off", "name"),
    [(learning.freeze, learning.thaw, "frozen"), (learning.pin, learning.unpin, "pinned")],
    ids=["freeze", "pin"],
)
def test_switched_on_and_off_once_and_written_down(
    store: Store, base_checkpoint: Checkpoint, on: Change, off: Change, name: str
) -> None:
    def switch() -> tuple[object, object]:
        now = row(store)
        assert (getattr(now, f"{name}_at") is None) == (getattr(now, f"{name}_by") is None)
        return getattr(now, f"{name}_by"), getattr(now, f"{name}_reason")

    assert switch() == (None, None)
    assert change(store, off, "k1", "too early") is False
    assert change(store, on, "k1", "exam week")
    assert change(store, on, "k2", "me too") is False
    assert switch() == ("k1", "exam week"), "who was first is remembered"
    assert change(store, off, "k2", "over")
    assert change(store, off, "k2", "again") is False
    assert switch() == (None, None)
    events = [(entry.event, entry.actor, entry.reason, entry.to_state) for entry in notes(store)]
    assert events == [(on.__name__, "k1", "exam week", "serving"), (off.__name__, "k2", "over", "serving")]
    assert {entry.checkpoint_id for entry in notes(store)} == {base_checkpoint.id}


def test_of_many_that_freeze_at_once_one_did(store: Store, base_checkpoint: Checkpoint) -> None:
    start = Barrier(6)

    def freeze(number: int) -> bool:
        start.wait()
        return change(store, learning.freeze, f"k{number}", "now")

    with ThreadPoolExecutor(6) as pool:
        done = list(pool.map(freeze, range(6)))
    assert sorted(done) == [False] * 5 + [True]
    assert row(store).frozen_by == f"k{done.index(True)}"
    assert len(notes(store)) == 1


def test_nothing_is_frozen_before_something_serves(store: Store) -> None:
    with pytest.raises(Conflict, match="start a server first"):
        change(store, learning.freeze, "k1", "early")
    assert row(store).frozen_at is None


def test_every_refusal_halves_and_the_last_one_freezes(store: Store, base_checkpoint: Checkpoint) -> None:
    for number in (1, 2, 3):
        with store.session() as session:
            learning.back_off(session, freeze_after=3)
        now = row(store)
        assert (now.refusals, now.rate_scale, now.batch_scale) == (number, 0.5**number, 0.5**number)
        assert (now.frozen_at is None) == (number < 3)
    assert row(store).frozen_by == "gate"
    assert row(store).frozen_reason == "3 candidates were refused in a row; look at the last jobs, then thaw"
    change(store, learning.thaw, "k1", "looked")
    now = row(store)
    assert (now.refusals, now.rate_scale) == (0, 0.125), "learning goes on as carefully as it stopped"
    with store.session() as session:
        learning.back_off(session, freeze_after=3)
    assert row(store).frozen_at is None


def test_it_is_scaled_down_to_a_limit_and_back_up_to_one(store: Store, base_checkpoint: Checkpoint) -> None:
    with store.session() as session:
        for _ in range(10):
            learning.back_off(session, freeze_after=100)
    assert (row(store).rate_scale, row(store).batch_scale) == (SMALLEST_SCALE, SMALLEST_SCALE)
    rates = []
    for _ in range(14):
        with store.session() as session:
            learning.recover(session)
        rates.append(row(store).rate_scale)
    assert rates[1::2] == pytest.approx([1 / 32, 1 / 16, 1 / 8, 1 / 4, 1 / 2, 1.0, 1.0])
    assert rates == sorted(rates)
    assert (row(store).refusals, row(store).batch_scale) == (0, 1.0), "the batch is whole at once"


def test_there_is_one_row_and_its_scales_are_in_range(store: Store) -> None:
    for statement in (
        "INSERT INTO learning (id) VALUES (2)",
        "UPDATE learning SET rate_scale = 0",
        "UPDATE learning SET batch_scale = 1.5",
        "UPDATE learning SET refusals = -1",
    ):
        with pytest.raises(IntegrityError, match="ck_learning"), store.session() as session:
            session.execute(text(statement))
