"""The embedded servers, really killed: what was committed is there afterwards."""

import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import closing
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from threading import Thread

import psutil  # type: ignore[import-untyped]
import pytest
import redis
from sqlalchemy import make_url, text

from app.errors import Unavailable
from app.settings import Settings
from app.stack.addresses import database_address, redis_address
from app.stack.postgres import EmbeddedPostgres
from app.stack.redis import EmbeddedRedis, client_url
from app.stack.sockets import LONGEST, socket_directory
from app.stack.stack import Stack, settings_over
from app.stack.supervisor import AlreadyRunning, ChildFailed
from app.store.connect import open_store
from app.store.keys import authenticate


@pytest.fixture(scope="module")
def var_dir() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="lepo-stack-", ignore_cleanup_errors=True) as directory:
        yield Path(directory)


@pytest.fixture(scope="module")
def stack(var_dir: Path) -> Iterator[Stack]:
    with Stack(var_dir, parts=()) as started:
        yield started


def test_kill_9_of_postgres_keeps_what_was_committed(stack: Stack) -> None:
    store = open_store(stack.database_url)
    with store.session() as session:
        session.execute(text("CREATE TABLE kept (n int)"))
        session.execute(text("INSERT INTO kept SELECT generate_series(1, 1000)"))
    pid = stack.kill("postgres")
    psutil.wait_procs([psutil.Process(pid)] if psutil.pid_exists(pid) else [], timeout=5)
    with pytest.raises(Unavailable), store.session() as session:
        session.execute(text("SELECT 1 FROM pg_sleep(0)"))
    stack.wait_ready("postgres")
    assert stack.pids["postgres"] != pid
    with store.session() as session:
        assert session.scalar(text("SELECT count(*) FROM kept")) == 1000
    store.close()


def test_redis_comes_back_too(stack: Stack) -> None:
    with redis.Redis.from_url(client_url(stack.redis_url)) as client:
        assert client.config_get("maxmemory-policy") == {"maxmemory-policy": "noeviction"}
        assert client.config_get("port") == {"port": "0"}
        pid = stack.kill("redis")
        psutil.wait_procs([psutil.Process(pid)] if psutil.pid_exists(pid) else [], timeout=5)
        stack.wait_ready("redis")
        assert client.ping()


def test_no_tcp_port_is_open(stack: Stack) -> None:
    for name in ("postgres", "redis"):
        process = psutil.Process(stack.pids[name])
        everyone = [process, *process.children(recursive=True)]
        assert [c for one in everyone for c in one.net_connections("inet") if c.status == psutil.CONN_LISTEN] == []


def test_the_first_start_made_an_admin_key_that_opens(stack: Stack) -> None:
    assert stack.admin_key is not None
    made = stack.create_key("app")
    store = open_store(stack.database_url)
    with store.session() as session:
        assert authenticate(session, stack.admin_key, datetime.now(UTC), "admin").name == "admin"
        assert authenticate(session, made, datetime.now(UTC)).scopes == ["grade", "infer"]
    store.close()
    welcome = stack.welcome()
    assert stack.base_url in welcome
    assert stack.admin_key in welcome
    assert "#link=" not in welcome, "a log keeps what it is told"
    assert "#link=" in stack.welcome(link=True)


def test_commands_find_the_stack_of_their_directory(stack: Stack, var_dir: Path) -> None:
    settings = Settings(var_dir=var_dir)
    assert database_address(settings) == stack.database_url
    assert redis_address(settings) == stack.redis_url
    elsewhere = Settings(var_dir=var_dir / "nothing")
    for address in (database_address, redis_address):
        with pytest.raises(Unavailable, match="lepo up"):
            address(elsewhere)


def test_a_second_stack_in_the_same_directory_is_refused(stack: Stack, var_dir: Path) -> None:
    with pytest.raises(AlreadyRunning, match="LEPO_VAR_DIR"):
        Stack(var_dir, parts=()).start()
    with closing(open_store(stack.database_url)) as store:
        store.ping()


def test_a_taken_port_is_refused_although_somebody_answers_there(tmp_path: Path) -> None:
    """A stranger who says 200 to /ready must not be taken for our server."""

    class Stranger(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.end_headers()

    with HTTPServer(("127.0.0.1", 0), Stranger) as server:
        thread = Thread(target=server.serve_forever)
        thread.start()
        stack = Stack(tmp_path, {"LEPO_PORT": str(server.server_port)}, parts=("api",))
        try:
            with pytest.raises(ChildFailed, match=f"port {server.server_port} .* set LEPO_PORT"):
                stack.start()
        finally:
            server.shutdown()
            thread.join()
    assert stack._supervisor is None, "what was started is stopped again"


def test_a_stack_whose_supervisor_was_killed_starts_again_with_its_data() -> None:
    program = (
        "import os, sys, signal\n"
        "from pathlib import Path\n"
        "from app.stack.stack import Stack\n"
        "stack = Stack(Path(sys.argv[1]), parts=())\n"
        "stack.start()\n"
        "print(stack.admin_key, flush=True)\n"
        "os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    with tempfile.TemporaryDirectory(prefix="lepo-killed-", ignore_cleanup_errors=True) as directory:
        done = subprocess.run([sys.executable, "-c", program, directory], capture_output=True, text=True, check=False)
        assert done.stdout.startswith("lepo-"), done.stderr
        with Stack(Path(directory), parts=()) as stack:
            assert stack.admin_key is None, "it was made, and shown, the first time"
            with closing(open_store(stack.database_url)) as store, store.session() as session:
                authenticate(session, done.stdout.strip(), datetime.now(UTC), "admin")


def test_a_stale_pid_file_of_somebody_else_is_no_obstacle(tmp_path: Path) -> None:
    server = EmbeddedPostgres(tmp_path)
    server.data_dir.mkdir(parents=True)
    pid_file = server.data_dir / "postmaster.pid"
    pid_file.write_text(f"{psutil.Process().pid}\n{server.data_dir}\n")
    server.forget_dead_server()
    assert not pid_file.exists()


def test_a_deep_directory_gets_a_short_socket(tmp_path: Path) -> None:
    deep = tmp_path / ("x" * 120)
    for server in (EmbeddedPostgres(deep).socket_dir, EmbeddedRedis(deep).socket.parent):
        assert len(str(server / "redis.sock")) <= LONGEST
        assert deep not in server.parents
    assert socket_directory(deep, "redis", "s") != socket_directory(tmp_path / ("y" * 120), "redis", "s")
    assert socket_directory(Path("/v"), "redis", "s") == Path("/v/redis/run")


def test_a_deep_directory_works() -> None:
    with (
        tempfile.TemporaryDirectory(prefix="lepo-deep-", ignore_cleanup_errors=True) as directory,
        Stack(Path(directory) / ("x" * 120), parts=()) as stack,
        closing(open_store(stack.database_url)) as store,
        redis.Redis.from_url(client_url(stack.redis_url)) as client,
    ):
        store.ping()
        assert client.ping()


def test_addresses_for_two_clients() -> None:
    assert client_url("redis+socket:///run/r.sock?virtual_host=3") == "unix:///run/r.sock?db=3"
    assert client_url("redis://h:6379/1") == "redis://h:6379/1"
    assert make_url(EmbeddedPostgres(Path("/v")).url()).query["host"] == "/v/postgres/run"


def test_settings_of_the_stack_are_those_its_processes_will_read() -> None:
    assert settings_over({"LEPO_SLOTS": "3", "OTHER": "x"}).slots == 3
    with pytest.raises(ValueError, match="slots"):
        settings_over({"LEPO_SLOTS": "none"})
    with pytest.raises(ValueError, match="api, worker, beat"):
        Stack(Path("var"), parts=("server",))
