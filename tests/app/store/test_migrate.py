"""The schema of the models is the schema of the migrations, and every step can be undone."""

import logging
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from uuid import UUID

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import inspect, text

import app.store.tables  # noqa: F401 - fills the metadata
from app.store.base import Base
from app.store.connect import Store, open_store
from app.store.grades import Entry, add_grade, ledger, rewards
from app.store.grading import take
from app.store.keys import create_key
from app.store.migrate import current, downgrade, is_current, upgrade

SCOPES = {"infer": ["infer"], "both": ["infer", "grade"], "admin": ["admin"]}
CHECKS = """
    SELECT conrelid::regclass || '.' || conname || ' ' || pg_get_constraintdef(oid)
    FROM pg_constraint WHERE contype = 'c' AND connamespace = 'public'::regnamespace
"""


def checks(store: Store) -> set[str]:
    with store.session() as session:
        return set(session.scalars(text(CHECKS)))


def test_models_and_migrations_agree(store: Store) -> None:
    with store.engine.connect() as connection:
        options = {"compare_type": True, "compare_server_default": True}
        assert compare_metadata(MigrationContext.configure(connection, opts=options), Base.metadata) == []
        assert is_current(connection)


def test_check_constraints_agree_which_alembic_does_not_compare(store: Store) -> None:
    migrated = checks(store)
    with store.session() as session:
        session.execute(text("DROP SCHEMA public CASCADE"))
        session.execute(text("CREATE SCHEMA public"))
    with store.engine.begin() as connection:
        Base.metadata.create_all(connection)
    assert checks(store) == migrated


def test_asking_again_reads_no_files_and_logs_nothing(
    store: Store, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Health checks ask this all day."""
    caplog.set_level(logging.DEBUG)
    with store.engine.connect() as connection:
        assert is_current(connection)
        monkeypatch.setattr("app.store.migrate.script_config", None)
        assert is_current(connection)
    assert [record for record in caplog.records if record.name.startswith("alembic")] == []


def test_what_alembic_wrote_is_what_is_read(store: Store, database_url: str) -> None:
    with store.engine.connect() as connection:
        assert current(connection) == MigrationContext.configure(connection).get_current_revision()
    downgrade(database_url, "base")
    with store.engine.begin() as connection:
        assert current(connection) is None
        connection.execute(text("DROP TABLE alembic_version"))
        assert current(connection) is None
        assert not is_current(connection)


def test_down_to_nothing_and_up_again(database_url: str, store: Store) -> None:
    before = sorted(inspect(store.engine).get_table_names())
    downgrade(database_url, "base")
    left = inspect(store.engine)
    assert set(left.get_table_names()) <= {"alembic_version"}
    assert left.get_view_names() == []
    assert left.get_sequence_names() == []
    upgrade(database_url)
    assert sorted(inspect(store.engine).get_table_names()) == before


def test_grades_and_waiting_answers_come_through_with_their_class(
    database_url: str, store: Store, answers: Callable[..., list[UUID]]
) -> None:
    spec = {"type": "string_check", "operation": "eq", "reference": "2"}
    with store.session() as session:
        asked = {name: create_key(session, name, scopes)[0].id for name, scopes in SCOPES.items()}
    graded = {name: answers(api_key_id=key, grader=spec, grading_state="graded")[0] for name, key in asked.items()}
    [failing] = answers(grader=spec, grading_state="pending", grading_attempts=2)
    with store.session() as session:
        for one in graded.values():
            add_grade(session, one, Entry("string_check", "string_check", value=1.0))
            add_grade(session, one, Entry("client", "ada", value=0.0, api_key_id=asked["both"]))
    store.engine.dispose()
    downgrade(database_url, "0001")
    upgrade(database_url)
    with store.session() as session:
        sources = {
            name: [grade.source for grade in ledger(session, one) if grade.counts] for name, one in graded.items()
        }
        assert sources == {"infer": ["request", "caller"], "both": ["scoped", "caller"], "admin": ["scoped", "caller"]}
        assert {one.value for one in rewards(session, list(graded.values())).values()} == {0.5}
        taken = take(session, timedelta(minutes=1))
        assert taken is not None
        assert (taken.id, taken.attempt) == (failing, 3)


def test_two_that_start_together_migrate_once(database_url: str) -> None:
    downgrade(database_url, "base")
    with ThreadPoolExecutor(4) as pool:
        revisions = list(pool.map(upgrade, [database_url] * 4))
    assert len(set(revisions)) == 1
    store = open_store(database_url)
    with store.engine.connect() as connection:
        assert current(connection) == revisions[0]
    store.close()


def test_a_migration_runs_without_torch_or_the_web(database_url: str) -> None:
    program = (
        "import sys\n"
        "from app.store.migrate import upgrade\n"
        f"upgrade({database_url!r})\n"
        "print(sorted({'torch', 'transformers', 'fastapi', 'celery'} & set(sys.modules)))\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
