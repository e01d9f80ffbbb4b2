"""The ledger: supersede, retract, fail, late; the reward is what follows from it, by our own reckoning too."""

import math
import random
from uuid import UUID, uuid4

import pytest
from sqlalchemy import text

from app.errors import NotFound
from app.store import grades, interactions
from app.store.budgets import MIGRATION
from app.store.connect import Store
from app.store.grades import Entry
from app.store.tables import Grade, Interaction
from tests.conftest import Answers


def reward(store: Store, interaction_id: UUID) -> float | None:
    with store.session() as session:
        found = grades.rewards(session, [interaction_id]).get(interaction_id)
        row = interactions.get_interaction(session, interaction_id)
        assert (row.graded_at is not None) == (found is not None)
        assert row.reward == (None if found is None else found.value), "the answer's row repeats it"
        return None if found is None else found.value


def give(store: Store, interaction_id: UUID, entry: Entry) -> Grade:
    with store.session() as session:
        return grades.add_grade(session, interaction_id, entry)


def test_a_graders_later_word_supersedes_and_history_stays(store: Store, answers: Answers) -> None:
    [one] = answers()
    first = give(store, one, Entry("client", "a", value=0.0))
    second = give(store, one, Entry("client", "a", value=1.0))
    assert second.supersedes_id == first.id
    assert reward(store, one) == 1.0
    with store.session() as session:
        assert [entry.value for entry in grades.ledger(session, one)] == [0.0, 1.0]


def test_the_reward_is_the_mean_over_graders_and_not_over_entries(store: Store, answers: Answers) -> None:
    [one] = answers()
    for value in (0.0, 0.0, 1.0):
        give(store, one, Entry("client", "a", value=value))
    give(store, one, Entry("string_check", "a", value=0.5))
    assert reward(store, one) == 0.75


def test_failed_is_not_zero(store: Store, answers: Answers) -> None:
    one, two = answers(2)
    give(store, one, Entry("math", "m", state="failed", comment="deadline"))
    assert reward(store, one) is None
    give(store, two, Entry("client", "a", value=1.0))
    give(store, two, Entry("math", "m", state="failed"))
    assert reward(store, two) == 1.0
    give(store, two, Entry("math", "m", value=0.0))
    give(store, two, Entry("math", "m", state="failed"))
    assert reward(store, two) == 0.5, "a later failure does not cover an earlier value"


def test_a_word_taken_back_counts_no_more_until_given_again(store: Store, answers: Answers) -> None:
    [one] = answers()
    give(store, one, Entry("client", "a", value=1.0))
    with store.session() as session:
        grades.retract(session, one, Entry("client", "a", state="retracted"))
    assert reward(store, one) is None
    with pytest.raises(NotFound, match="no grade"), store.session() as session:
        grades.retract(session, one, Entry("client", "a", state="retracted"))
    give(store, one, Entry("client", "a", value=-2.5))
    assert reward(store, one) == -2.5, "values are kept as given"


def test_any_sequence_gives_the_mean_of_each_graders_last_value(store: Store, answers: Answers) -> None:
    rng = random.Random(5)
    for interaction_id in answers(6):
        last: dict[str, float | None] = {}
        for _ in range(rng.randint(1, 12)):
            grader, state = rng.choice("abc"), rng.choice(["graded", "graded", "failed", "retracted"])
            value = rng.uniform(-3, 3) if state == "graded" else None
            give(store, interaction_id, Entry("client", grader, state=state, value=value))
            if state != "failed":
                last[grader] = value
        values = [value for value in last.values() if value is not None]
        found = reward(store, interaction_id)
        assert (found is None) == (not values)
        assert found is None or math.isclose(found, sum(values) / len(values), abs_tol=1e-12)


@pytest.mark.parametrize(
    "entry",
    [
        Entry("client", "a", value=math.nan),
        Entry("client", "a", value=math.inf),
        Entry("client", "a"),
        Entry("client", "a", state="failed", value=0.0),
    ],
)
def test_what_is_no_grade_is_refused(store: Store, answers: Answers, entry: Entry) -> None:
    [one] = answers()
    with pytest.raises(ValueError, match="grade"):
        give(store, one, entry)


def test_a_grade_on_nothing(store: Store, answers: Answers) -> None:
    answers()
    with pytest.raises(NotFound, match="int_"):
        give(store, uuid4(), Entry("client", "a", value=1.0))


def test_who_graded_by_key(store: Store, answers: Answers) -> None:
    one, two = answers(2)
    with store.session() as session:
        session.execute(
            text("INSERT INTO api_keys (id, name, secret_sha256, scopes) VALUES ('k', 'k', '', ARRAY['grade'])")
        )
    give(store, one, Entry("client", "k", value=1.0, api_key_id="k"))
    give(store, one, Entry("math", "m", value=1.0))
    give(store, two, Entry("math", "m", value=1.0))
    with store.session() as session:
        assert grades.graded_by(session, [one, two]) == {one: {"k"}}


def test_rewards_read_the_ledgers_index_and_not_the_ledger(store: Store, answers: Answers) -> None:
    ids = answers(4)
    with store.session(MIGRATION) as session:
        session.execute(
            text(
                "INSERT INTO grades (id, interaction_id, state, value, grader_kind, grader_id)"
                " SELECT gen_random_uuid(), (SELECT id FROM interactions ORDER BY id LIMIT 1), 'graded', 1, 'client',"
                " n::text FROM generate_series(1, 20000) AS n"
            )
        )
        session.execute(text("ANALYZE grades"))
        plan = "\n".join(
            session.scalars(
                text("EXPLAIN SELECT * FROM effective_grades WHERE interaction_id = ANY(:ids)").bindparams(ids=ids[1:])
            )
        )
    assert "ix_grades_ledger" in plan
    assert "Seq Scan on grades" not in plan


def test_odd_text_never_costs_the_row(store: Store, answers: Answers) -> None:
    odd = "a\x00b\ud800c"
    [one] = answers(answer=odd, body={"prompt": odd, odd: [odd, math.nan]}, client_metadata=None)
    with store.session() as session:
        row = session.get(Interaction, one)
        assert row is not None
        assert row.answer == "a\ufffdb\ufffdc"
        assert row.request == {"prompt": "a\ufffdb\ufffdc", "a\ufffdb\ufffdc": ["a\ufffdb\ufffdc", "nan"]}
        assert row.client_metadata is None
        assert session.scalar(text("SELECT metadata IS NULL FROM requests")) is True
