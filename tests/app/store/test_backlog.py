"""A hundred thousand answers waiting: a look is quick, reads indexes, writes nothing, and learning goes on."""

import time
from collections.abc import Iterator
from contextlib import closing
from statistics import median
from uuid import UUID

import pytest
from sqlalchemy import select, text

from app.store import claims, learnable
from app.store.budgets import MIGRATION
from app.store.connect import Store, open_store
from app.store.learnable import Outlook
from app.store.tables import Checkpoint, Interaction, StoredRequest
from tests.app.store.acts import look, names, offered, plans, settings, started
from tests.conftest import copies

pytestmark = pytest.mark.alone

WAITING = 100_000
LOOK_S = 0.05
KEYS = ("busy", "other", "third")

FILL = """
    INSERT INTO interactions (
        id, completion_id, choice, group_size, endpoint, model, checkpoint_id, policy_version, request_id,
        prompt_tokens, answer, finish_reason, usage, learnable, charged_key_id, graded_at, reward
    )
    SELECT gen_random_uuid(), 'chatcmpl-' || n, 0, 1, 'chat', 'lepo', :checkpoint, n % 7, :request, 4, '2', 'stop',
        '{}', true, :key, now() - n * interval '1 second', 1
    FROM generate_series(CAST(:first AS int), CAST(:last AS int)) AS n
"""


@pytest.fixture(scope="module")
def store(postgres_url: str, template: str) -> Iterator[Store]:
    """A store with a backlog of one key, and a few answers of two others, shared by the tests of this file."""
    for url in copies(postgres_url, template):
        with closing(open_store(url, pool=4)) as opened:
            fill(opened)
            yield opened


def fill(store: Store) -> None:
    """Fill it; a slow disk may take as long as it needs, since what is measured comes after."""
    base = Checkpoint(version=0, path="/base", digest="00", state="serving", metrics={})
    with store.session(MIGRATION) as session:
        asked = StoredRequest(body={}, prompts=["1+1?"])
        session.add_all((base, asked))
        session.flush()
        for name in KEYS:
            session.execute(
                text("INSERT INTO api_keys (id, name, secret_sha256, scopes) VALUES (:id, :id, '', ARRAY['grade'])"),
                {"id": name},
            )
        parts = {"busy": (1, WAITING), "other": (WAITING + 1, WAITING + 40), "third": (WAITING + 41, WAITING + 44)}
        for name, (first, last) in parts.items():
            facts = {"checkpoint": base.id, "request": asked.id, "key": name, "first": first, "last": last}
            session.execute(text(FILL), facts)
        session.execute(text("INSERT INTO rollouts SELECT id, 1, '' FROM interactions"))
        session.execute(
            text(
                "INSERT INTO grades (id, interaction_id, state, value, grader_kind, grader_id, api_key_id, created_at)"
                " SELECT gen_random_uuid(), id, 'graded', 1, 'client', charged_key_id, charged_key_id, graded_at"
                " FROM interactions"
            )
        )
    with store.engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        connection.execute(text("ANALYZE"))


def one_down(store: Store) -> UUID:
    """Make the reward of one answer in the middle of the busy key's backlog another one."""
    with store.session() as session:
        found = session.scalars(select(Interaction.id).where(Interaction.completion_id == "chatcmpl-50000")).one()
        for statement in (
            "UPDATE grades SET value = 0 WHERE interaction_id = :id",
            "UPDATE interactions SET reward = 0 WHERE id = :id",
        ):
            session.execute(text(statement), {"id": found})
    return found


def written(store: Store) -> list[tuple[object, ...]]:
    """What was ever inserted, updated and deleted, by table; the statistics are those of ended transactions."""
    with store.session() as session:
        session.execute(text("SELECT pg_stat_force_next_flush()"))
    with store.session() as session:
        rows = session.execute(
            text(
                "SELECT relname, n_tup_ins, n_tup_upd, n_tup_del, n_dead_tup FROM pg_stat_user_tables ORDER BY relname"
            )
        )
        return [tuple(row) for row in rows]


def seconds(store: Store) -> tuple[float, Outlook]:
    """How long a look takes, at best of ten, on a machine to itself: others' work on this one is taken out."""
    wish = settings(min_grades=64, max_grades=512)
    spent, busy = [], []
    for _ in range(10):
        busy.append(slowdown())
        began = time.perf_counter()
        with store.session() as session:
            outlook = learnable.outlook(session, wish)
        spent.append(time.perf_counter() - began)
    return min(spent) / median(busy), outlook


def slowdown() -> float:
    """How many times longer than its own work something takes now, because others work too; 1 on an idle machine."""
    wall, cpu = time.perf_counter(), time.process_time()
    sum(number * number for number in range(200_000))
    return max(1.0, (time.perf_counter() - wall) / (time.process_time() - cpu))


def test_a_look_is_quick_reads_indexes_and_writes_nothing(store: Store) -> None:
    look(store)
    before = written(store)
    took, outlook = seconds(store)
    assert written(store) == before
    assert "no contrast" in (outlook.words or "")
    assert took < LOOK_S
    plan = "\n".join(plans(store, lambda: look(store, max_grades=512)))
    assert "ix_interactions_fresh" in plan
    assert "Seq Scan on interactions" not in plan
    assert "Seq Scan on grades" not in plan


def test_one_thumbs_down_in_the_middle_is_found_and_claimed_with_its_batch(store: Store) -> None:
    assert "no contrast" in (look(store).words or "")
    down = one_down(store)
    outlook = look(store, min_grades=64, max_grades=512, key_patience=0.0)
    assert outlook.words is None
    assert down in offered(outlook)
    job, _ = started(store)
    began = time.perf_counter()
    with store.session() as session:
        taken = claims.claim(session, job.id, outlook.groups)
        took = time.perf_counter() - began
        assert names(taken) == offered(outlook)
        assert {item.interaction.charged_key_id for item in taken} == set(KEYS)
        session.rollback()
    assert took < 2.0
    with store.session() as session:
        session.execute(text("DELETE FROM jobs"))


def test_many_keys_cost_no_more(store: Store) -> None:
    with store.session() as session:
        session.execute(text("UPDATE interactions SET charged_key_id = 'k' || (hashtext(completion_id) & 511)"))
    with store.engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        connection.execute(text("VACUUM ANALYZE interactions"))
    took, _ = seconds(store)
    assert took < 3 * LOOK_S
    assert "Seq Scan on interactions" not in "\n".join(plans(store, lambda: look(store, max_grades=512)))
