"""Rows of policies: versions never reused, listings, evaluations, swaps, beliefs."""

from concurrent.futures import ThreadPoolExecutor

import pytest

from app.store import checkpoints, evaluations, policy_life, swaps, tracker
from app.store.connect import Store
from app.store.tables import Checkpoint, Swap
from app.store.tracker import Belief
from tests.app.store.acts import move, publish


def test_versions_rise_by_one_whoever_publishes(store: Store, base_checkpoint: Checkpoint) -> None:
    with ThreadPoolExecutor(6) as pool:
        rows = list(pool.map(lambda _: publish(store, base_checkpoint), range(12)))
    assert base_checkpoint.version == 0
    assert sorted(row.version for row in rows) == list(range(1, 13))
    assert {row.state for row in rows} == {"candidate"}


def test_a_number_promised_is_the_number_published(store: Store, base_checkpoint: Checkpoint) -> None:
    with store.session() as session:
        promised = checkpoints.next_version(session)
        row = checkpoints.publish(session, path="/c", digest="d", parent_id=base_checkpoint.id, version=promised)
        assert row.version == promised == 1
    with pytest.raises(ValueError, match="next is 2"), store.session() as session:
        checkpoints.publish(session, path="/c", digest="d", parent_id=base_checkpoint.id, version=1)
    with pytest.raises(ValueError, match="parent_id"), store.session() as session:
        checkpoints.publish(session, path="/c", digest="d")


def test_listing_by_state_in_pages(store: Store, base_checkpoint: Checkpoint) -> None:
    rows = [publish(store, base_checkpoint) for _ in range(5)]
    for row in rows[::2]:
        move(store, row, "hold")
    with store.session() as session:
        assert [row.version for row in checkpoints.list_checkpoints(session, limit=3)] == [5, 4, 3]
        assert [row.version for row in checkpoints.list_checkpoints(session, before_version=3)] == [2, 1, 0]
        assert [row.version for row in checkpoints.list_checkpoints(session, state="held")] == [5, 3, 1]
        assert [row.version for row in policy_life.undecided(session)] == [1, 2, 3, 4, 5]


def test_before_anything_is_served(store: Store) -> None:
    with store.session() as session:
        assert policy_life.serving(session) is None
        assert policy_life.undecided(session) == []
        assert policy_life.history(session) == []


def test_evaluations(store: Store, base_checkpoint: Checkpoint) -> None:
    with store.session() as session:
        evaluations.record_evaluation(session, base_checkpoint.id, "base", correct=50, total=200)
        evaluations.record_evaluation(session, base_checkpoint.id, "gate", correct=60, total=200)
        latest = evaluations.latest_evaluation(session, base_checkpoint.id, "base")
        assert latest is not None
        assert latest.accuracy == 0.25
        assert [row.kind for row in evaluations.list_evaluations(session)] == ["gate", "base"]
        for correct, total in ((3, 2), (-1, 2), (0, 0)):
            with pytest.raises(ValueError, match="impossible"):
                evaluations.record_evaluation(session, base_checkpoint.id, "gate", correct=correct, total=total)


def test_a_failed_swap_is_known_until_it_works(store: Store) -> None:
    with store.session() as session:
        assert not swaps.has_failed(session, "a", 3)
        swaps.record_swap(session, Swap(replica="a", from_version=2, to_version=3, status="failed", error="digest"))
        assert swaps.has_failed(session, "a", 3)
        assert not swaps.has_failed(session, "b", 3)
        swaps.record_swap(session, Swap(replica="a", from_version=2, to_version=3, status="served"))
        assert not swaps.has_failed(session, "a", 3)
        assert [row.status for row in swaps.list_swaps(session)] == ["served", "failed"]


def test_beliefs_are_replaced(store: Store) -> None:
    with store.session() as session:
        tracker.write_beliefs(session, {"p": Belief(1.0, 2.0, 0), "q": Belief(1.5, 1.5, 0)})
        tracker.write_beliefs(session, {"p": Belief(3.0, 0.5, 4)})
        assert tracker.read_beliefs(session, ["p", "q", "r"]) == {"p": Belief(3.0, 0.5, 4), "q": Belief(1.5, 1.5, 0)}
