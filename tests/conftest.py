"""Real servers for every test: a Postgres and a Redis started once, a fresh migrated database for each test.

A server named in `LEPO_TEST_DATABASE_URL` or `LEPO_TEST_REDIS_URL` is used instead; its user must be allowed to create
databases, and that Redis is emptied. Leaves out what only one room needs (fixtures stand beside those tests).
"""

import os
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import psycopg
import pytest
import redis
from psycopg import sql
from sqlalchemy import make_url

from app.stack.postgres import EmbeddedPostgres
from app.stack.redis import EmbeddedRedis, client_url
from app.stack.supervisor import Supervisor
from app.store import checkpoints, interactions, policy_life
from app.store.connect import Store, open_store
from app.store.migrate import upgrade
from app.store.projects import project_of
from app.store.tables import Checkpoint, Interaction, StoredRequest

if not Path("/dev/nvidia0").exists():  # before anything imports Triton: its kernels then run on the CPU
    os.environ.setdefault("TRITON_INTERPRET", "1")

Answers = Callable[..., list[UUID]]

ASKED: dict[str, Any] = {"body": {"messages": [{"role": "user", "content": "1+1?"}]}, "prompts": ["1+1?"]}
ASKED_OF = {"body", "prompts", "grader", "client_metadata"}  # columns of requests

IN_MEMORY_SPEED = {"fsync": "off", "synchronous_commit": "off", "full_page_writes": "off"}


@pytest.fixture(scope="session")
def servers() -> Iterator[Supervisor]:
    """A supervisor for the session's servers, in a directory of its own."""
    with (
        tempfile.TemporaryDirectory(prefix="lepo-tests-", ignore_cleanup_errors=True) as directory,
        Supervisor(Path(directory)) as supervisor,
    ):
        yield supervisor


@pytest.fixture(scope="session")
def postgres_url(request: pytest.FixtureRequest) -> str:
    """Address of a Postgres server."""
    if (url := os.environ.get("LEPO_TEST_DATABASE_URL")) is not None:
        return url
    servers: Supervisor = request.getfixturevalue("servers")
    server = EmbeddedPostgres(servers.var_dir, options=IN_MEMORY_SPEED)
    server.prepare()
    servers.start(server.child())
    return server.url()


@pytest.fixture(scope="session")
def template(postgres_url: str) -> Iterator[str]:
    """Name of a migrated, empty database that is only ever copied."""
    name = f"lepo_template_{uuid4().hex[:12]}"
    run_on(postgres_url, sql.SQL("CREATE DATABASE {}").format(sql.Identifier(name)))
    upgrade(on_database(postgres_url, name))
    yield name
    drop(postgres_url, name)


@pytest.fixture
def database_url(postgres_url: str, template: str) -> Iterator[str]:
    """Address of a fresh, migrated database for one test."""
    yield from copies(postgres_url, template)


@pytest.fixture(scope="module")
def module_database_url(postgres_url: str, template: str) -> Iterator[str]:
    """Address of a fresh, migrated database shared by the tests of one file."""
    yield from copies(postgres_url, template)


@pytest.fixture
def store(database_url: str) -> Iterator[Store]:
    """An open store on a fresh database."""
    opened = open_store(database_url, pool=8)
    yield opened
    opened.close()


@pytest.fixture(scope="session")
def redis_server_url(request: pytest.FixtureRequest) -> str:
    """Address of a Redis, in Celery's form."""
    if (url := os.environ.get("LEPO_TEST_REDIS_URL")) is not None:
        return url
    servers: Supervisor = request.getfixturevalue("servers")
    server = EmbeddedRedis(servers.var_dir)
    server.prepare()
    servers.start(server.child())
    return server.url()


@pytest.fixture
def redis_url(redis_server_url: str) -> str:
    """Address of an emptied Redis for one test, in Celery's form (`app.stack.redis.client_url` for redis-py)."""
    with redis.Redis.from_url(client_url(redis_server_url)) as client:
        client.flushall()
    return redis_server_url


@pytest.fixture
def base_checkpoint(store: Store) -> Checkpoint:
    """The base model, served."""
    with store.session() as session:
        row = checkpoints.publish(session, path="/models/base", digest="00" * 32)
        policy_life.promote(session, row.id, "base", "test")
    return row


@pytest.fixture
def answers(store: Store, base_checkpoint: Checkpoint) -> Answers:
    """Write a response with `n` answers, and give their ids; changes may be those of its request (`grader`)."""

    def write(n: int = 1, *, policy_version: int = 0, **changes: Any) -> list[UUID]:
        completion_id = f"chatcmpl-{uuid4().hex}"
        request = {name: changes.pop(name) for name in list(changes) if name in ASKED_OF}
        asked = StoredRequest(**ASKED | request, project_id=project_of(changes.get("api_key_id")))
        written = []
        with store.session() as session:
            for choice in range(n):
                known = answer(base_checkpoint, completion_id, choice, n, asked)
                row = Interaction(**known | {"policy_version": policy_version} | changes)
                payload = b"\x00\x01" if row.learnable else None
                interactions.record(session, row, codec=1 if payload else None, payload=payload)
                written.append(row.id)
        return written

    return write


def answer(
    base: Checkpoint, completion_id: str, choice: int, n: int, asked: StoredRequest | None = None
) -> dict[str, Any]:
    return {
        "completion_id": completion_id,
        "choice": choice,
        "group_size": n,
        "endpoint": "chat",
        "model": "lepo",
        "checkpoint_id": base.id,
        "policy_version": base.version,
        "asked": asked or StoredRequest(**ASKED),
        "prompt_tokens": 4,
        "answer": "2",
        "finish_reason": "stop",
        "usage": {"prompt_tokens": 4, "completion_tokens": 1, "reasoning_tokens": 0},
        "learnable": True,
    }


def copies(server: str, template: str) -> Iterator[str]:
    """Copy the template under a new name, give its address, and drop it afterwards."""
    name = f"lepo_test_{uuid4().hex[:12]}"
    statement = sql.SQL("CREATE DATABASE {} TEMPLATE {}").format(sql.Identifier(name), sql.Identifier(template))
    run_on(server, statement)
    yield on_database(server, name)
    drop(server, name)


def drop(server: str, name: str) -> None:
    """Drop a database, whoever is still connected to it."""
    run_on(server, sql.SQL("DROP DATABASE {} WITH (FORCE)").format(sql.Identifier(name)))


def on_database(server: str, name: str) -> str:
    """Name another database on the same server."""
    return make_url(server).set(database=name).render_as_string(hide_password=False)


def run_on(server: str, statement: sql.Composed) -> None:
    """Run one statement outside a transaction."""
    address = make_url(server).set(drivername="postgresql").render_as_string(hide_password=False)
    with psycopg.connect(address, autocommit=True) as connection:
        connection.execute(statement)
