"""`lepo health` against what a part leaves behind in the real Redis and Postgres."""

import os
import subprocess
import sys
from collections.abc import Iterator
from datetime import timedelta
from http.server import BaseHTTPRequestHandler, HTTPServer
from threading import Thread, Timer
from urllib.parse import urlsplit

import pytest
import redis
from click.testing import CliRunner
from sqlalchemy import func, update

from app.commands.health import command
from app.errors import Unavailable
from app.stack.redis import client_url
from app.stack.redis_question import ask, entrance
from app.store import jobs
from app.store.connect import Store
from app.store.tables import Job
from worker.celery_app import QUEUES


@pytest.fixture
def client(redis_url: str) -> Iterator["redis.Redis"]:
    with redis.Redis.from_url(client_url(redis_url)) as opened:
        opened.config_resetstat()
        yield opened


def health(part: str, env: dict[str, str], patience: float = 0.2) -> int:
    return CliRunner(env=env).invoke(command, [part, "--patience", str(patience)]).exit_code


def test_a_server_that_answers_and_one_that_does_not() -> None:
    class Ready(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200 if self.path == "/ready" else 404)
            self.end_headers()

    server = HTTPServer(("127.0.0.1", 0), Ready)
    port = str(server.server_port)
    thread = Thread(target=server.serve_forever)
    thread.start()
    assert health("api", {"LEPO_PORT": port}) == 0
    server.shutdown()
    server.server_close()
    thread.join()
    assert health("api", {"LEPO_PORT": port}) == 1


def test_a_worker_that_reads_is_busy_or_is_deaf(
    store: Store, database_url: str, client: "redis.Redis", redis_url: str
) -> None:
    where = {"LEPO_DATABASE_URL": database_url, "LEPO_REDIS_URL": redis_url}
    assert health("worker", where) == 0
    client.lpush(QUEUES["lepo.learn"], "hint")
    assert health("worker", where) == 1, "nobody reads"
    with store.session() as session:
        jobs.request(session, trigger="admin", requested_by="test")
        assert jobs.start(session, "w", timedelta(seconds=20)) is not None
    assert health("worker", where) == 0, "busy"
    with store.session() as session:
        session.execute(update(Job).values(heartbeat_at=func.now() - func.make_interval(0, 0, 0, 0, 0, 5)))
    assert health("worker", where) == 1, "its heart stopped"


def test_a_redis_that_is_away_is_said_in_a_line() -> None:
    said = CliRunner(env={"LEPO_REDIS_URL": "redis://127.0.0.1:1/0"}).invoke(command, ["beat", "--patience", "0"])
    assert said.exit_code == 1
    assert (
        said.output == "Error: beat is not well: Redis does not answer ([Errno 111] Connection refused) (waited 0 s)\n"
    )


def test_the_check_of_an_idle_part_imports_no_client(client: "redis.Redis", redis_url: str) -> None:
    """It runs twice a minute for as long as the service lives."""
    program = (
        "import sys\n"
        "from app.cli import build\n"
        "code = build()(['health', 'worker'], standalone_mode=False)\n"
        "print(sorted({'redis', 'sqlalchemy', 'psycopg', 'celery'} & set(sys.modules)))\n"
    )
    env = {**os.environ, "LEPO_REDIS_URL": redis_url}
    done = subprocess.run([sys.executable, "-c", program], env=env, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == ["worker is well", "[]"]


def test_questions_go_to_the_database_and_with_the_password_of_the_address(
    client: "redis.Redis", redis_url: str
) -> None:
    """A question of our own protocol code is answered as the stock client's is."""
    where = client_url(redis_url).partition("?")[0].removeprefix("unix://")
    with redis.Redis(unix_socket_path=where, db=3) as third:
        third.lpush("list", "a", "b")
        assert ask(f"redis+socket://{where}?virtual_host=3", ("LLEN", "list"), ("GET", "none")) == [2, None]
        assert ask(f"redis+socket://{where}", ("LLEN", "list")) == [0]
        third.delete("list")
    assert ask(redis_url, ("ECHO", "zwölf\r\n")) == ["zwölf\r\n"]
    with pytest.raises(Unavailable, match="Redis says: ERR"):
        ask(redis_url, ("NONSENSE",))
    assert entrance(urlsplit("redis://lepo:p%40ss@redis:6379/2")) == [("AUTH", "lepo", "p@ss"), ("SELECT", "2")]
    assert entrance(urlsplit("redis://:secret@redis")) == [("AUTH", "secret")]


def test_a_beat_that_sends_has_sent_or_is_gone(client: "redis.Redis", redis_url: str) -> None:
    assert health("beat", {"LEPO_REDIS_URL": redis_url}) == 1

    def send_and_read() -> None:
        client.lpush("lepo-grade", "hint")
        client.delete("lepo-grade")

    later = Timer(0.3, send_and_read)
    later.start()
    assert health("beat", {"LEPO_REDIS_URL": redis_url}, patience=5) == 0, "sent and read meanwhile"
    later.join()
    client.lpush(QUEUES["lepo.grade"], "hint")
    assert health("beat", {"LEPO_REDIS_URL": redis_url}) == 0, "one lies unread"
