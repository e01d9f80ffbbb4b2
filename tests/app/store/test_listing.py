"""Interactions: written once, found by page and filter; and a store that says what is wrong with Postgres."""

from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID, uuid4

import pytest
from sqlalchemy import func, select, text, update
from sqlalchemy.exc import IntegrityError

from app.errors import LepoError, NotFound, Unavailable
from app.identifiers import first_of, read, show, uuid7
from app.store import grades, interactions
from app.store.connect import Store, open_store
from app.store.grades import Entry
from app.store.interactions import Filters
from app.store.tables import Interaction, StoredRollout
from tests.conftest import Answers


def listed(store: Store, filters: Filters | None = None, **page: Any) -> list[UUID]:
    with store.session() as session:
        return [row.id for row, _ in interactions.list_interactions(session, filters, **page).items]


def test_pages_meet_without_gap_or_overlap(store: Store, answers: Answers) -> None:
    written = [one for _ in range(7) for one in answers(3)]
    seen: list[UUID] = []
    after = None
    while True:
        with store.session() as session:
            page = interactions.list_interactions(session, limit=4, after=after)
        seen += [row.id for row, _ in page.items]
        after = page.next_after
        if after is None:
            break
        answers(1)  # what is written meanwhile is newer, and disturbs no page
    assert seen == written[::-1]


def test_filters(store: Store, answers: Answers) -> None:
    long_ago = [first_of(datetime.now(UTC) - timedelta(days=1, seconds=2 - number)) for number in range(2)]
    [one], [other] = answers(1, id=long_ago[0]), answers(1, id=long_ago[1])
    old, new = [one, other], answers(2, policy_version=3, user_tag="u")
    with store.session() as session:
        grades.add_grade(session, old[0], Entry("client", "a", value=0.5))
        completion = interactions.get_interaction(session, new[0]).completion_id
        session.execute(
            update(Interaction).where(Interaction.id.in_(old)).values(created_at=func.now() - timedelta(days=1))
        )
        yesterday = session.scalars(select(func.now() - timedelta(hours=1))).one()
        [(_, reward)] = interactions.list_interactions(session, Filters(graded=True)).items
        assert reward is not None
        assert reward.value == 0.5
        assert [row.choice for row in interactions.choices(session, completion)] == [0, 1]
    assert listed(store, Filters(graded=True)) == [old[0]]
    assert listed(store, Filters(graded=False)) == [*new[::-1], old[1]]
    assert listed(store, Filters(since=yesterday)) == new[::-1]
    assert listed(store, Filters(until=yesterday)) == old[::-1]
    assert listed(store, Filters(completion_id=completion)) == new[::-1]
    assert listed(store, Filters(policy_version=3, user_tag="u", graded=True)) == []
    assert listed(store, Filters(api_key_id="nobody")) == []
    with pytest.raises(ValueError, match="limit"):
        listed(store, limit=0)


@pytest.mark.parametrize(
    "wanted",
    [
        {"graded": True},
        {"user_tag": "u", "graded": True},
        {"user_tag": "u", "policy_version": 3},
        {"policy_version": 3, "graded": False},
        {"shadow": True, "user_tag": "u"},
    ],
)
def test_a_page_looks_at_so_many_and_says_where_to_go_on(
    store: Store, answers: Answers, monkeypatch: pytest.MonkeyPatch, wanted: dict[str, Any]
) -> None:
    """Pages may be short or empty, and together they are the listing."""
    monkeypatch.setattr(interactions, "MOST_LOOKED_AT", 2)
    for number in range(6):
        answers(2, user_tag="u", policy_version=3 if number < 2 else 0)
        ids = answers(2, user_tag="v" if number % 2 else "u", shadow_of="x" if number % 3 == 0 else None)
        with store.session() as session:
            grades.add_grade(session, ids[0], Entry("client", "a", value=0.5))
    filters = Filters(**wanted)
    seen: list[UUID] = []
    after, pages = None, 0
    while after is not None or not pages:
        with store.session() as session:
            page = interactions.list_interactions(session, filters, limit=3, after=after)
        seen += [row.id for row, _ in page.items]
        after, pages = page.next_after, pages + 1
    monkeypatch.setattr(interactions, "MOST_LOOKED_AT", 10_000)
    assert seen == listed(store, filters)
    assert seen
    assert pages > 1


def test_times_bound_ids_and_a_clock_that_is_off_hides_nothing(store: Store, answers: Answers) -> None:
    [one] = answers(1)
    with store.session() as session:
        at = interactions.get_interaction(session, one).created_at
    for off in (timedelta(minutes=-50), timedelta(minutes=50)):
        with store.session() as session:
            session.execute(update(Interaction).where(Interaction.id == one).values(created_at=at + off))
        assert listed(store, Filters(since=at + off - timedelta(seconds=1))) == [one]
        assert listed(store, Filters(until=at + off + timedelta(seconds=1))) == [one]
        assert listed(store, Filters(since=at + off + timedelta(seconds=1))) == []
        assert listed(store, Filters(until=at + off - timedelta(seconds=1))) == []


def test_a_choice_is_written_once_and_a_rollout_with_it(store: Store, answers: Answers) -> None:
    [one] = answers()
    with store.session() as session:
        row = interactions.get_interaction(session, one)
        trace = interactions.rollout(session, one)
        assert trace is not None
        assert trace.payload == b"\x00\x01"
        twin = {column.key: getattr(row, column.key) for column in Interaction.__mapper__.column_attrs}
    with pytest.raises(IntegrityError, match="uq_interactions_completion_id_choice"), store.session() as session:
        interactions.record(session, Interaction(**twin | {"id": uuid7()}), codec=1, payload=b"")
    with pytest.raises(ValueError, match="unlearnable_reason"), store.session() as session:
        interactions.record(session, Interaction(**twin | {"id": uuid7(), "choice": 0}))
    with pytest.raises(NotFound), store.session() as session:
        interactions.get_interaction(session, uuid4())
    with store.session() as session:
        assert session.scalar(select(func.count()).select_from(StoredRollout)) == 1


def test_ids_rise_with_time_and_survive_showing() -> None:
    made = [uuid7() for _ in range(2000)]
    assert all(one.version == 7 for one in made)
    assert [one.int >> 64 for one in made] == sorted(one.int >> 64 for one in made)
    assert len(set(made)) == 2000
    assert read("int", show("int", made[0])) == made[0]
    for wrong in ("", "int_", "job_" + made[0].hex, f"int_{made[0]}", "int_" + "g" * 32):
        with pytest.raises(ValueError, match=r"int_|hexadecimal"):
            read("int", wrong)


def test_a_session_that_raises_writes_nothing(store: Store, answers: Answers) -> None:
    def write_and_raise() -> None:
        with store.session() as session:
            session.execute(text("INSERT INTO secrets (name, value) VALUES ('x', '')"))
            raise NotFound("never mind")

    with pytest.raises(LepoError, match="never mind"):
        write_and_raise()
    with store.session() as session:
        assert session.scalar(text("SELECT count(*) FROM secrets")) == 0


@pytest.mark.parametrize("url", ["", "sqlite:///x.db", "mysql://u@h/d", "postgresql+asyncpg://u@h/d", "not a url"])
def test_only_postgres_through_psycopg(url: str) -> None:
    with pytest.raises(ValueError, match="LEPO_DATABASE_URL"):
        open_store(url)


def test_a_postgres_that_is_away_is_503_with_words() -> None:
    store = open_store("postgresql://nobody@/x?host=/nonexistent")
    with pytest.raises(Unavailable, match="LEPO_DATABASE_URL") as caught:
        store.ping()
    assert caught.value.retry_after is not None
    store.close()


def test_a_connection_cut_under_way_is_503_and_the_next_works(store: Store) -> None:
    def be_cut() -> None:
        with store.session() as session:
            pid = session.scalar(text("SELECT pg_backend_pid()"))
            with store.session() as other:
                other.execute(text("SELECT pg_terminate_backend(:pid)").bindparams(pid=pid))
            session.execute(text("SELECT 1"))

    with pytest.raises(Unavailable, match="terminat"):
        be_cut()
    store.ping()
