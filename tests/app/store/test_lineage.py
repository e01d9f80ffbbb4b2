"""What a policy contains, over its ancestors, whatever its number and whatever served meanwhile."""

from collections.abc import Callable
from uuid import UUID

from sqlalchemy import text

from app.store import interactions, learning, lineage, policy_life
from app.store.budgets import MIGRATION
from app.store.connect import Store
from app.store.grades import Entry, add_grade
from app.store.interactions import Filters
from app.store.lineage import Contents
from app.store.overview import overview
from app.store.policy_life import Event
from app.store.tables import Checkpoint
from tests.app.store.acts import grade, improve, key, move, plans, promote, roll_back, serves
from tests.conftest import Answers


def contents(store: Store, row: Checkpoint) -> Contents:
    with store.session() as session:
        return lineage.contents(session, row.id)


def learned(store: Store, row: Checkpoint | None) -> tuple[int, int]:
    with store.session() as session:
        return lineage.count_learned(session, None if row is None else row.id)


def learned_by(store: Store, version: int) -> set[UUID]:
    with store.session() as session:
        page = interactions.list_interactions(session, Filters(learned_by=version))
        return {row.id for row, _ in page.items}


def versions(store: Store, row: Checkpoint) -> list[int]:
    with store.session() as session:
        return [one.checkpoint.version for one in lineage.ancestors(session, row.id)]


def taught(store: Store, answers: Answers, count: int = 1, value: float = 1.0) -> Checkpoint:
    ids = [answers()[0] for _ in range(count)]
    grade(store, *ids, value=value)
    return improve(store, ids)[0]


def test_a_policy_contains_what_it_and_its_ancestors_learned(
    store: Store, base_checkpoint: Checkpoint, answers: Answers
) -> None:
    one, two = taught(store, answers, 2, value=0.25), taught(store, answers, 3, value=0.75)
    with store.session() as session:
        found = lineage.ancestors(session, two.id)
        assert [(each.checkpoint.version, each.learned, each.reward) for each in found] == [
            (2, 3, 0.75),
            (1, 2, 0.25),
            (0, 0, None),
        ]
        assert [each.config for each in found] == [{"kl_beta": 0.1}, {"kl_beta": 0.1}, {}]
        assert lineage.contains(session, two.id, one.id)
        assert lineage.contains(session, two.id, two.id)
        assert not lineage.contains(session, one.id, two.id)
    assert [contents(store, row).answers for row in (base_checkpoint, one, two)] == [0, 2, 5]


def test_after_a_rollback_the_branch_that_serves_is_asked_and_not_the_numbers(
    store: Store, base_checkpoint: Checkpoint, answers: Answers
) -> None:
    """Versions 1 to 4, back to 0, then 5: it descends from 0 alone."""
    for _ in range(4):
        abandoned = taught(store, answers)
    roll_back(store, base_checkpoint)
    assert learned(store, base_checkpoint) == (0, 4), "nothing that serves contains them"
    with store.session() as session:
        learning.thaw(session, "ops")
    five = taught(store, answers, 2)
    assert (five.version, serves(store)) == (5, 5)
    assert versions(store, five) == [5, 0]
    assert versions(store, abandoned) == [4, 3, 2, 1, 0]
    assert (contents(store, five).answers, contents(store, abandoned).answers) == (2, 4)
    assert learned(store, five) == (2, 4)
    with store.session() as session:
        assert not lineage.contains(session, five.id, abandoned.id)
        seen = overview(session)
        assert (seen.serving_version, seen.previous_version, seen.learned, seen.abandoned) == (5, 0, 2, 4)
    promote(store, abandoned)
    assert learned(store, abandoned) == (4, 2), "wanted again, its branch counts"


def test_answers_of_a_policy_that_is_held_are_not_learned(
    store: Store, base_checkpoint: Checkpoint, answers: Answers
) -> None:
    ids = answers(3)
    grade(store, *ids)
    held, _ = improve(store, ids, "hold")
    assert contents(store, held).answers == 0
    assert learned(store, base_checkpoint) == (0, 0)
    assert learned_by(store, held.version) == set()
    with store.session() as session:
        found = interactions.fate(session, ids[0])
        assert found is not None
        assert (found[0].outcome, found[1] and found[1].version) == ("claimed", held.version)
    promote(store, held)
    assert contents(store, held).answers == 3
    assert learned_by(store, held.version) == set(ids)


def test_who_graded_is_counted_by_answer(store: Store, base_checkpoint: Checkpoint, answers: Answers) -> None:
    ids = answers(3)
    grade(store, ids[0], key=key(store, "a"))
    grade(store, ids[0], ids[1], key=key(store, "b"))
    with store.session() as session:
        for one in (ids[1], ids[2]):
            add_grade(session, one, Entry("math", "m", value=0.5))
            add_grade(session, one, Entry("string_check", "s", value=0.5))
    row, _ = improve(store, ids)
    outside = answers(1)
    grade(store, *outside, key="a")
    inside = contents(store, row)
    assert (inside.answers, inside.by_key) == (3, {"a": 1, "b": 2, "server": 2})
    assert inside.by_grader == {"client": 2, "math": 2, "string_check": 2}
    assert inside.first_answer_at is not None
    assert inside.first_answer_at <= (inside.last_answer_at or inside.first_answer_at)


def test_the_base_contains_nothing(store: Store, base_checkpoint: Checkpoint) -> None:
    assert contents(store, base_checkpoint) == Contents(0, {}, {}, None, None)
    assert learned(store, None) == (0, 0)


def test_what_was_refused_or_discarded_contains_nothing(
    store: Store, base_checkpoint: Checkpoint, answers: Answers
) -> None:
    [one] = answers()
    grade(store, one)
    decisions: tuple[Event, ...] = ("refuse", "hold", "refuse")
    for decision in decisions:
        row, _ = improve(store, [one], decision)
        if decision == "hold":
            move(store, row, "discard")
        assert contents(store, row).answers == 0
    with store.session() as session:
        found = interactions.fate(session, one)
        assert found is not None
        assert (found[0].outcome, found[0].reason) == ("skipped", "refused")
        assert policy_life.undecided(session) == []


def test_a_lineage_reads_the_ledgers_index_and_not_the_ledger(
    store: Store, base_checkpoint: Checkpoint, answers: Answers
) -> None:
    row = taught(store, answers, 4)
    [other] = answers()
    with store.session(MIGRATION) as session:
        session.execute(
            text(
                "INSERT INTO grades (id, interaction_id, state, value, grader_kind, grader_id)"
                " SELECT gen_random_uuid(), :other, 'graded', 1, 'client', n::text FROM generate_series(1, 20000) AS n"
            ).bindparams(other=other)
        )
        session.execute(text("ANALYZE"))
    asked: list[Callable[[], object]] = [lambda: contents(store, row), lambda: versions(store, row)]
    for ask in asked:
        plan = "\n".join(plans(store, ask))
        assert "Scan" in plan
        assert "Seq Scan on grades" not in plan
