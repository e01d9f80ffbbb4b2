"""Quarantine: what a key said counts for nothing and is not lost; and keys are compared with trusted ones."""

from uuid import UUID

import pytest
from sqlalchemy import select

from app.errors import NotFound
from app.store import grades, trust
from app.store.connect import Store
from app.store.grades import Entry
from app.store.tables import Grade, Interaction
from app.store.trust import Agreement, Trust
from tests.app.store.acts import fresh, grade, key, look, offered, started, take
from tests.conftest import Answers


def put(store: Store, name: str, to: Trust) -> None:
    """Change what a key's grades count for."""
    with store.session() as session:
        assert trust.set_trust(session, name, to, "somebody", "because").trust == to


def reward(store: Store, one: UUID) -> float | None:
    """Give the reward as the index of work has it, which must be what the ledger says."""
    with store.session() as session:
        kept = session.scalars(select(Interaction.reward).where(Interaction.id == one)).one()
        said = grades.rewards(session, [one]).get(one)
        assert kept == (None if said is None else said.value)
        return kept


@pytest.fixture
def poisoned(store: Store, answers: Answers) -> list[UUID]:
    """Six answers: the key `bad` graded all, the key `good` the last two as well, otherwise."""
    ids = [answers()[0] for _ in range(6)]
    grade(store, *ids[:3], value=1.0, key=key(store, "bad"))
    grade(store, *ids[3:], value=0.0, key="bad")
    grade(store, *ids[4:], value=1.0, key=key(store, "good"))
    return ids


def test_a_quarantined_key_teaches_nothing_and_loses_nothing(
    store: Store, poisoned: list[UUID], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trust, "BATCH", 2)
    assert [reward(store, one) for one in poisoned] == [1, 1, 1, 0, 0.5, 0.5]
    put(store, "bad", "quarantined")
    assert [reward(store, one) for one in poisoned] == [None, None, None, None, 1, 1]
    assert fresh(store) == set(poisoned[4:])
    assert offered(look(store)) <= set(poisoned[4:])
    grade(store, poisoned[4], value=0.0, key="bad")
    assert reward(store, poisoned[4]) == 1, "nor does what it says later"
    with store.session() as session:
        kept = session.scalars(select(Grade).where(Grade.api_key_id == "bad")).all()
    assert len(kept) == 7
    put(store, "bad", "ordinary")
    assert [reward(store, one) for one in poisoned] == [1, 1, 1, 0, 0.5, 0.5]
    assert fresh(store) == set(poisoned)
    assert look(store).words is None


def test_what_a_job_takes_after_a_quarantine_has_a_reward(store: Store, poisoned: list[UUID]) -> None:
    """An answer offered before and quarantined since is left, not spent."""
    job, _ = started(store)
    put(store, "bad", "quarantined")
    assert {one.interaction.id for one in take(store, job, poisoned)} == set(poisoned[4:])
    assert fresh(store) == set()
    put(store, "bad", "ordinary")
    assert fresh(store) == set(poisoned[:4])


def test_a_correction_by_a_quarantined_key_does_not_count_either(store: Store, answers: Answers) -> None:
    one = answers()[0]
    entry = Entry("client", "bad", state="corrected", correction="nonsense", api_key_id=key(store, "bad"))
    with store.session() as session:
        grades.add_grade(session, one, entry)
    assert fresh(store) == {one}
    put(store, "bad", "quarantined")
    assert fresh(store) == set()
    with store.session() as session:
        assert grades.corrections(session, [one]) == {}


def test_an_earlier_word_of_a_grader_through_a_good_key_counts_again(store: Store, answers: Answers) -> None:
    """A grader is (kind, id), and may have spoken with two keys."""
    one = answers()[0]
    for name, value in (("good", 1.0), ("bad", 0.0)):
        with store.session() as session:
            grades.add_grade(session, one, Entry("user", "ada", value=value, api_key_id=key(store, name)))
    assert reward(store, one) == 0
    put(store, "bad", "quarantined")
    assert reward(store, one) == 1


def test_who_did_it_is_kept_and_the_same_again_changes_nothing(store: Store) -> None:
    key(store, "bad")
    put(store, "bad", "quarantined")
    with store.session() as session:
        before = trust.set_trust(session, "bad", "quarantined", "another", "other")
        assert (before.trust_by, before.trust_reason) == ("somebody", "because")
        assert before.trust_at is not None
        with pytest.raises(NotFound, match="lepo keys list"):
            trust.set_trust(session, "nobody", "trusted", "somebody", "because")


def test_keys_are_compared_with_trusted_ones(store: Store, poisoned: list[UUID]) -> None:
    with store.session() as session:
        assert trust.agreement(session, 0, 1) == [], "nobody is trusted"
    put(store, "good", "trusted")
    grade(store, *poisoned[4:], value=0.75, key=key(store, "fair"))
    with store.session() as session:
        found = trust.agreement(session, 0, 1)
        assert found == [Agreement("bad", "ordinary", 2, 1.0, 1.0), Agreement("fair", "ordinary", 2, 0.25, 0.0)]
    put(store, "bad", "quarantined")
    with store.session() as session:
        assert trust.agreement(session, 0, 4)[0] == Agreement("bad", "quarantined", 2, 1.0, 0.0)


@pytest.mark.parametrize("source", ["scoped", "request"])
def test_graders_that_trusted_keys_named_are_trusted(store: Store, answers: Answers, source: str) -> None:
    one = answers()[0]
    with store.session() as session:
        session.get_one(Interaction, one).api_key_id = key(store, "owner")
        grades.add_grade(session, one, Entry("math", "math", value=1.0, source=source))
    grade(store, one, value=0.0, key=key(store, "bad"))
    put(store, "owner", "trusted")
    with store.session() as session:
        compared = [one.key_id for one in trust.agreement(session, 0, 1)]
    assert compared == (["bad"] if source == "scoped" else [])
