"""Rollbacks: never forward, final until somebody says otherwise, and nobody's answers lost."""

from uuid import UUID, uuid4

import pytest
from sqlalchemy import func, select, update

from app.errors import Conflict, NotFound
from app.identifiers import uuid7
from app.store import grades, learning, policy_life
from app.store.connect import Store
from app.store.grades import Entry
from app.store.policy_life import Event as LifeEvent
from app.store.policy_life import Overtaken
from app.store.tables import Checkpoint, Claim, Transition
from tests.app.store.acts import (
    chain,
    fresh,
    frozen,
    grade,
    history,
    improve,
    move,
    outcomes,
    promote,
    publish,
    roll_back,
    serves,
    state,
)
from tests.conftest import Answers


def test_a_rollback_serves_what_was_replaced_freezes_and_is_written_down(
    store: Store, base_checkpoint: Checkpoint
) -> None:
    rows = chain(store, base_checkpoint, 2)
    entry = roll_back(store)
    assert entry is not None
    assert (entry.event, entry.checkpoint_id, entry.replaced_id) == ("restore", rows[1].id, rows[2].id)
    assert (serves(store), state(store, rows[2])) == (1, "rolled_back")
    assert frozen(store) == "version 2 was rolled back to 1: rolled back by an operator"
    assert [row.event for row in history(store)[-3:]] == ["roll_back", "restore", "freeze"]


def test_rollbacks_in_a_row_go_further_back_and_never_forward(store: Store, base_checkpoint: Checkpoint) -> None:
    chain(store, base_checkpoint, 3)
    seen = []
    for _ in range(3):
        roll_back(store)
        seen.append(serves(store))
    assert seen == [2, 1, 0]
    with pytest.raises(Conflict, match="name a version"):
        roll_back(store)
    assert serves(store) == 0


def test_a_rollback_passes_over_what_was_rolled_back_or_deleted(store: Store, base_checkpoint: Checkpoint) -> None:
    rows = chain(store, base_checkpoint, 4)
    roll_back(store, rows[2])  # 4 is rolled back
    promote(store, rows[3])  # after 2
    with store.session() as session:
        session.execute(update(Checkpoint).where(Checkpoint.id == rows[2].id).values(files_deleted_at=func.now()))
    roll_back(store)
    assert serves(store) == 1, "2 has no files"
    promote(store, rows[3])
    promote(store, rows[4])
    assert [serves(store), roll_back(store) is not None, serves(store)] == [4, True, 3], "4 was wanted after 3"


def test_a_rollback_after_an_operators_promotion_undoes_it(store: Store, base_checkpoint: Checkpoint) -> None:
    rows = chain(store, base_checkpoint, 3)
    promote(store, rows[1])
    assert [state(store, row) for row in rows] == ["retired", "serving", "retired", "retired"]
    roll_back(store)
    assert serves(store) == 3


def test_what_came_before_is_asked_of_the_order_of_writing_and_not_of_clocks(
    store: Store, base_checkpoint: Checkpoint
) -> None:
    one, two = publish(store, base_checkpoint), publish(store, base_checkpoint)
    promote(store, one)
    an_hour_ahead = UUID(int=uuid7().int + (3_600_000 << 80))
    with store.session() as session:
        session.execute(
            update(Transition)
            .where(Transition.event == "promote", Transition.checkpoint_id == one.id)
            .values(id=an_hour_ahead)
        )  # as a worker whose clock is ahead would have written it
    promote(store, two)
    with store.session() as session:
        [newest, *_] = policy_life.history(session, limit=1)
        assert newest.checkpoint_id == two.id
        rest = policy_life.history(session, limit=1000, before=newest.id)
        assert an_hour_ahead in [entry.id for entry in rest]
    with pytest.raises(NotFound, match="move_"), store.session() as session:
        policy_life.history(session, before=uuid4())
    roll_back(store)
    assert serves(store) == 1


def test_a_rollback_to_a_named_policy_is_the_same_twice(store: Store, base_checkpoint: Checkpoint) -> None:
    rows = chain(store, base_checkpoint, 3)
    assert roll_back(store, rows[1]) is not None
    known = len(history(store))
    with store.session() as session:
        learning.thaw(session, "ops")
    assert roll_back(store, rows[1]) is None
    assert serves(store) == 1
    assert frozen(store) is None, "it changed nothing, so it froze nothing"
    assert len(history(store)) == known + 1, "the thaw"


def test_a_rollback_goes_only_to_what_served(store: Store, base_checkpoint: Checkpoint) -> None:
    rows = chain(store, base_checkpoint, 1)
    held = publish(store, rows[1])
    move(store, held, "hold")
    with pytest.raises(Conflict, match=r"'restore' is not possible from there \(possible: canary, discard, promote"):
        roll_back(store, held)
    assert (serves(store), state(store, held), frozen(store)) == (1, "held", None)


@pytest.mark.parametrize("waits", ["hold", "shadow", "canary"])
def test_a_rollback_discards_what_waits_and_gives_its_answers_back(
    store: Store, base_checkpoint: Checkpoint, answers: Answers, waits: LifeEvent
) -> None:
    [one], [two] = answers(), answers()
    grade(store, one, two)
    bad, learned = improve(store, [one])
    waiting, job = improve(store, [two], waits)
    assert fresh(store) == set()
    roll_back(store)
    assert (serves(store), state(store, bad), state(store, waiting)) == (0, "rolled_back", "refused")
    assert fresh(store) == {two}
    assert (outcomes(store, learned), outcomes(store, job)) == ({"learned": 1}, {})
    with store.session() as session:
        assert policy_life.undecided(session) == []


def test_what_was_rolled_back_can_be_wanted_again(store: Store, base_checkpoint: Checkpoint, answers: Answers) -> None:
    [one] = answers()
    grade(store, one)
    row, job = improve(store, [one])
    roll_back(store)
    assert promote(store, row) is not None
    assert (serves(store), outcomes(store, job)) == (row.version, {"learned": 1})
    roll_back(store)
    assert serves(store) == 0


def test_an_update_that_ran_through_a_rollback_promotes_nothing(
    store: Store, base_checkpoint: Checkpoint, answers: Answers
) -> None:
    bad = publish(store, base_checkpoint)
    promote(store, bad)
    [one] = answers()
    grade(store, one)
    roll_back(store)
    with store.session() as session:
        learning.thaw(session, "ops")
    child = publish(store, bad)
    with pytest.raises(Overtaken), store.session() as session:
        policy_life.promote(session, child.id, "gate", "worker", expected=bad.id)
    assert serves(store) == 0


def test_nothing_to_roll_back(store: Store) -> None:
    with pytest.raises(Conflict, match="Nothing serves"), store.session() as session:
        policy_life.rollback(session, "ops")


def test_a_grade_after_a_rollback_teaches_the_branch_that_serves(
    store: Store, base_checkpoint: Checkpoint, answers: Answers
) -> None:
    """Answers of the abandoned policy and of the one that serves again both count: version numbers say nothing."""
    chain(store, base_checkpoint, 4)
    [of_base], [of_abandoned] = answers(policy_version=0), answers(policy_version=4)
    roll_back(store, base_checkpoint)
    with store.session() as session:
        learning.thaw(session, "ops")
        for one in (of_base, of_abandoned):
            grades.add_grade(session, one, Entry("client", "a", value=1.0))
    row, job = improve(store, [of_base, of_abandoned])
    assert (row.version, row.parent_id) == (5, base_checkpoint.id)
    assert outcomes(store, job) == {"learned": 2}
    with store.session() as session:
        assert session.scalars(select(func.count()).select_from(Claim)).one() == 2
