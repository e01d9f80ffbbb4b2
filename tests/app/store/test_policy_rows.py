"""Checkpoints and promotions: versions never reused, aliases with a history, freshness counted rightly."""

from concurrent.futures import ThreadPoolExecutor
from uuid import uuid4

import pytest

from app.errors import Conflict, NotFound
from app.store import checkpoints, evaluations, promotions, swaps, tracker
from app.store.connect import Store
from app.store.tables import Checkpoint, Swap
from app.store.tracker import Belief


def publish(store: Store, parent: Checkpoint, status: str = "published") -> Checkpoint:
    with store.session() as session:
        return checkpoints.publish(session, path="/c", digest="d", parent_id=parent.id, status=status)


def versions(store: Store) -> tuple[int | None, int | None]:
    with store.session() as session:
        named = [promotions.alias(session, name) for name in ("serving", "previous")]
        return (named[0].version if named[0] else None, named[1].version if named[1] else None)


def test_versions_rise_by_one_whoever_publishes(store: Store, base_checkpoint: Checkpoint) -> None:
    with ThreadPoolExecutor(6) as pool:
        rows = list(pool.map(lambda _: publish(store, base_checkpoint), range(12)))
    assert base_checkpoint.version == 0
    assert sorted(row.version for row in rows) == list(range(1, 13))


def test_a_number_promised_is_the_number_published(store: Store, base_checkpoint: Checkpoint) -> None:
    with store.session() as session:
        promised = checkpoints.next_version(session)
        row = checkpoints.publish(session, path="/c", digest="d", parent_id=base_checkpoint.id, version=promised)
        assert row.version == promised == 1
    with pytest.raises(ValueError, match="next is 2"), store.session() as session:
        checkpoints.publish(session, path="/c", digest="d", parent_id=base_checkpoint.id, version=1)
    with pytest.raises(ValueError, match="parent_id"), store.session() as session:
        checkpoints.publish(session, path="/c", digest="d")


def test_promote_roll_back_and_what_remains_of_it(store: Store, base_checkpoint: Checkpoint) -> None:
    one = publish(store, base_checkpoint)
    two = publish(store, one)
    for row in (one, two):
        with store.session() as session:
            policy_life.promote(session, row.id, "gate passed", "job")
    assert versions(store) == (2, 1)
    with store.session() as session:
        assert policy_life.promote(session, two.id, "again", "job") is None
    assert versions(store) == (2, 1)
    with store.session() as session:
        policy_life.rollback(session, "ops")
    assert versions(store) == (1, 2)
    with store.session() as session:
        policy_life.rollback(session, "ops", to=base_checkpoint.id)
    assert versions(store) == (0, 1)
    with store.session() as session:
        past = promotions.history(session)
        assert [entry.actor for entry in past] == ["ops", "ops", "job", "job", "test"]
        assert all(past[i].from_checkpoint_id == past[i + 1].to_checkpoint_id for i in range(4))
        assert promotions.history(session, limit=2, before=past[1].id) == past[2:4]


def test_what_cannot_be_served(store: Store, base_checkpoint: Checkpoint) -> None:
    with pytest.raises(Conflict, match="Nothing"), store.session() as session:
        policy_life.rollback(session, "ops")
    rejected = publish(store, base_checkpoint, "rejected")
    with pytest.raises(Conflict, match="rejected"), store.session() as session:
        policy_life.promote(session, rejected.id, "", "ops")
    with pytest.raises(NotFound), store.session() as session:
        policy_life.promote(session, uuid4(), "", "ops")
    assert versions(store) == (0, None)


def test_two_that_promote_at_once_leave_a_chain(store: Store, base_checkpoint: Checkpoint) -> None:
    rows = [publish(store, base_checkpoint) for _ in range(6)]

    def promote(row: Checkpoint) -> None:
        with store.session() as session:
            policy_life.promote(session, row.id, "race", "test")

    with ThreadPoolExecutor(6) as pool:
        list(pool.map(promote, rows))
    with store.session() as session:
        links = {entry.from_checkpoint_id: entry.to_checkpoint_id for entry in promotions.history(session)}
    assert len(links) == 7, "every promotion began where the one before it ended"


def test_freshness_counts_published_versions_up_to_the_served_one(store: Store, base_checkpoint: Checkpoint) -> None:
    kinds = ["published", "rejected", "rejected", "published", "published", "published"]
    rows = [publish(store, base_checkpoint, kind) for kind in kinds]
    with store.session() as session:
        policy_life.promote(session, rows[4].id, "", "t")  # version 5; published before it: 0, 1, 4
        assert [promotions.oldest_fresh_version(session, staleness) for staleness in range(5)] == [5, 4, 1, 0, 0]


def test_before_anything_is_served(store: Store) -> None:
    with store.session() as session:
        assert policy_life.serving(session) is None
        assert promotions.oldest_fresh_version(session, 2) == 0


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
