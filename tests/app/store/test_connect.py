"""The bounds on Postgres: what is slow, locked, idle or silent ends, says which it was, and leaves nothing behind."""

import os
import shutil
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import psycopg
import pytest
from sqlalchemy import make_url, select, text
from sqlalchemy.exc import OperationalError
from sqlalchemy.orm import Session

from app.errors import Unavailable
from app.store.budgets import CONTROL, MIGRATION, PROMPT, REQUESTS, WORKER, Budget, requests
from app.store.connect import Store, open_store
from app.store.retry import write_for_sure
from app.store.tables import Secret
from tests.patience import PATIENCE_S

QUICK = Budget(wait_s=0.2, connect_s=2, lock_s=0.3, statement_s=0.5, idle_s=0.5, reply_s=0.8)


@pytest.fixture
def quick(database_url: str) -> Iterator[Store]:
    store = open_store(database_url, pool=2, budget=QUICK)
    yield store
    store.close()


def refused(store: Store, *statements: str, match: str) -> float:
    """Run statements in a transaction that must be refused; the seconds it took."""

    def run() -> None:
        with store.session() as session:
            for statement in statements:
                session.execute(text(statement))

    began = time.monotonic()
    with pytest.raises(Unavailable, match=match) as caught:
        run()
    assert caught.value.retry_after is not None
    return time.monotonic() - began


def test_a_full_pool_is_503(database_url: str) -> None:
    store = open_store(database_url, pool=1, budget=QUICK)
    with store.session() as session:
        session.execute(text("SELECT 1"))
        with pytest.raises(Unavailable, match="LEPO_DATABASE_POOL"):
            store.ping()
    store.close()


def test_a_slow_statement_is_ended_by_postgres_itself(quick: Store) -> None:
    assert 0.4 < refused(quick, "SELECT pg_sleep(20)", match="longer than it may") < 5
    quick.ping()


def test_a_row_that_is_held_is_waited_for_within_a_bound(store: Store, quick: Store) -> None:
    with store.session() as session:
        session.add(Secret(name="held", value=b""))
    with store.session() as session:
        session.execute(text("SELECT * FROM secrets FOR UPDATE"))
        assert 0.2 < refused(quick, "SELECT * FROM secrets FOR UPDATE", match="in the way") < 5
    quick.ping()


def test_a_transaction_left_open_is_ended_and_frees_what_it_holds(store: Store, quick: Store) -> None:
    def dawdle() -> None:
        with quick.session() as session:
            session.execute(text("LOCK TABLE secrets"))
            with store.session() as other:
                other.add(Secret(name="after", value=b""))  # waits until the lock is gone, for 3 s at most
            session.execute(text("SELECT 1"))

    with pytest.raises(Unavailable, match="does not answer"):
        dawdle()
    quick.ping()


def test_a_backend_that_says_nothing_is_given_up_and_the_next_transaction_works(store: Store, quick: Store) -> None:
    with store.session() as session:
        session.add(Secret(name="one", value=b""))
    pids: list[int] = []

    def wait_for_nothing() -> None:
        with quick.session() as session:
            pids.append(session.scalars(text("SELECT pg_backend_pid()")).one())
            session.execute(text("DELETE FROM secrets"))
            os.kill(pids[0], signal.SIGSTOP)
            session.execute(text("SELECT 1"))

    began = time.monotonic()
    try:
        with pytest.raises(Unavailable, match=r"no reply within 0\.8 s"):
            wait_for_nothing()
        assert 0.7 < time.monotonic() - began < 5
        quick.ping()
    finally:
        os.kill(pids[0], signal.SIGCONT)
    with store.session() as session:  # the frozen one woke up alone, and what it had begun is undone
        assert session.scalar(text("SELECT count(*) FROM secrets WHERE name = 'one'")) == 1
        session.execute(text("DELETE FROM secrets"))


def test_a_transaction_may_have_a_budget_of_its_own(store: Store) -> None:
    with pytest.raises(Unavailable, match="longer than it may"), store.session(QUICK) as session:
        session.execute(text("SELECT pg_sleep(20)"))
    with store.session() as session:
        session.execute(text("SELECT pg_sleep(0.7)"))


def test_more_than_a_statement_can_take_is_our_mistake_and_not_an_absent_postgres(store: Store) -> None:
    query = select(Secret.name).where(Secret.name.in_([str(number) for number in range(70_000)]))
    with pytest.raises(OperationalError, match="65535"), store.session() as session:
        session.execute(query)


@pytest.mark.parametrize("budget", [REQUESTS, CONTROL, WORKER, PROMPT, requests(0.5), requests(300)])
def test_postgres_gives_its_reason_before_we_give_up(budget: Budget) -> None:
    assert None not in {budget.lock_s, budget.statement_s, budget.idle_s, budget.reply_s}
    assert (budget.lock_s or 0) <= (budget.statement_s or 0) < (budget.reply_s or 0)
    assert budget.connect_s >= 2


def test_a_migration_may_take_as_long_as_it_takes(database_url: str) -> None:
    store = open_store(database_url, pool=1, budget=MIGRATION)
    with store.session() as session:
        shown = [session.scalar(text(f"SHOW {name}")) for name in ("statement_timeout", "lock_timeout")]
    store.close()
    assert shown == ["0", "0"]


@contextmanager
def pooler(database_url: str, directory: Path) -> Iterator[str]:
    """A PgBouncer in transaction mode with one server connection; gives the address through it."""
    url = make_url(database_url)
    host = str(url.query["host"])
    socket_dir = directory / "pooler"
    socket_dir.mkdir(mode=0o777)
    owner = Path(host).stat().st_uid
    os.chown(socket_dir, owner, -1)
    for parent in (directory, *directory.parents[:3]):
        parent.chmod(parent.stat().st_mode | 0o011)
    config = socket_dir / "pgbouncer.ini"
    config.write_text(
        f"[databases]\n* = host={host} user={url.username}\n"
        f"[pgbouncer]\nlisten_addr =\nunix_socket_dir = {socket_dir}\nlisten_port = 6432\nauth_type = any\n"
        f"pool_mode = transaction\ndefault_pool_size = 1\nmin_pool_size = 0\n"
    )
    config.chmod(0o644)
    with (directory / "pgbouncer.log").open("wb") as log:
        argv = [str(shutil.which("pgbouncer")), str(config)]
        process = subprocess.Popen(argv, user=owner, stdout=log, stderr=log)
    try:
        end = time.monotonic() + PATIENCE_S
        while not (socket_dir / ".s.PGSQL.6432").exists():
            said = (directory / "pgbouncer.log").read_text()
            assert process.poll() is None, said
            assert time.monotonic() < end, said
            time.sleep(0.02)
        yield f"postgresql://{url.username}@/{url.database}?host={socket_dir}&port=6432"
    finally:
        process.terminate()
        process.wait(10)


@pytest.mark.skipif(shutil.which("pgbouncer") is None, reason="no PgBouncer here (Debian: pgbouncer)")
@pytest.mark.skipif("LEPO_TEST_DATABASE_URL" in os.environ, reason="the pooler is put before the embedded Postgres")
def test_behind_a_pooler_in_transaction_mode_bounds_hold_and_nothing_stays(database_url: str, tmp_path: Path) -> None:
    with pooler(database_url, tmp_path) as url:
        store = open_store(url, pool=4, budget=QUICK)

        def work() -> None:
            for _ in range(20):  # the same statement often enough to be prepared, on any client's connection
                with store.session() as session:
                    assert session.scalar(select(Secret.value).where(Secret.name == "none")) is None
                    assert session.scalar(text("SHOW statement_timeout")) == "500ms"

        threads = [threading.Thread(target=work) for _ in range(3)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert 0.4 < refused(store, "SELECT pg_sleep(20)", match="longer than it may") < 5
        store.close()
        with psycopg.connect(url.replace("+psycopg", ""), autocommit=True, prepare_threshold=None) as plain:
            bounds = ("statement_timeout", "lock_timeout", "idle_in_transaction_session_timeout")
            assert [plain.execute(f"SHOW {name}").fetchone() for name in bounds] == [("0",)] * 3


def keep(name: str) -> Callable[[Session], str]:
    def write(session: Session) -> str:
        session.add(Secret(name=name, value=b""))
        session.flush()
        return name

    return write


def test_a_finished_result_is_written_though_the_database_blips(store: Store) -> None:
    tries = 0

    def write(session: Session) -> str:
        nonlocal tries
        tries += 1
        if tries < 3:
            session.execute(text("SELECT pg_terminate_backend(pg_backend_pid())"))
        return keep("result")(session)

    found = write_for_sure(
        store, write, written=lambda session: session.scalar(select(Secret.name)), wait=lambda _: None
    )
    assert (found, tries) == ("result", 3)
    with store.session() as session:
        assert session.scalars(select(Secret.name)).all() == ["result"]


def test_a_commit_without_an_answer_is_found_and_not_done_again(
    store: Store, quick: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The commit arrives, its answer does not: the connection is cut between the two."""
    commits = 0
    commit = psycopg.Connection.commit

    def cut(connection: psycopg.Connection[object]) -> None:
        nonlocal commits
        commits += 1
        commit(connection)
        if commits == 1:
            connection.close()
            raise psycopg.OperationalError("the connection was cut")

    monkeypatch.setattr(psycopg.Connection, "commit", cut)
    looks = 0

    def written(session: Session) -> str | None:
        nonlocal looks
        looks += 1
        return session.scalar(select(Secret.name).where(Secret.name == "once"))

    assert write_for_sure(quick, keep("once"), written=written, wait=lambda _: None) == "once"
    assert looks == 1


def test_a_database_that_stays_away_is_told_within_the_bound() -> None:
    away = open_store("postgresql://nobody@/x?host=/nonexistent")
    began = time.monotonic()
    with pytest.raises(Unavailable):
        write_for_sure(away, keep("never"), written=lambda _: None, within_s=0.5)
    assert time.monotonic() - began < 3
    away.close()
