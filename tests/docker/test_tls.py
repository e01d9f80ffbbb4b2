"""The profile `tls`: a real Caddy on our Caddyfile before a real server. Skipped where Caddy is not installed."""

import os
import shutil
import socket
import ssl
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest

from tests.app.api.conftest import roomy_dir as roomy_dir  # noqa: PLC0414, a fixture
from tests.app.api.live import ROOMY, Live, served, wait_for
from tests.docker.reading import DOCKER, compose

CADDYFILE = DOCKER / "tls" / "Caddyfile"
pytestmark = pytest.mark.skipif(not shutil.which("caddy"), reason="Caddy is not installed: apt-get install caddy")


@dataclass(frozen=True)
class Proxied:
    """A server behind Caddy."""

    live: Live
    https: httpx.Client  # believes this Caddy's own authority alone
    http_port: int
    health_port: int


def free_ports(count: int) -> list[int]:
    """Find ports that nobody listens on now."""
    with ExitStack() as held:
        found = [held.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in range(count)]
        return [one.getsockname()[1] for one in found]


@contextmanager
def caddy(directory: Path, to: str) -> Iterator[tuple[int, int, int]]:
    """Run Caddy as the container does, on ports of its own; gives those of HTTP, HTTPS and health."""
    ports = free_ports(3)
    names = dict(zip(("HTTP_PORT", "HTTPS_PORT", "HEALTH_PORT"), map(str, ports), strict=True))
    inside = compose("COMPOSE_PROFILES=cpu,tls")["services"]["proxy"]["environment"]
    folders = {"XDG_DATA_HOME": str(directory), "XDG_CONFIG_HOME": str(directory), "HOME": str(directory)}
    where = {"PATH": os.environ["PATH"], **inside, "TO": to, **names, **folders}
    command = ["caddy", "run", "--config", str(CADDYFILE), "--adapter", "caddyfile"]
    with (
        (directory / "log").open("w") as log,
        subprocess.Popen(command, env=where, stdout=log, stderr=log) as process,
    ):
        try:
            wait_for(lambda: healthy(ports[2], process) and authority(directory).is_file())
            yield ports[0], ports[1], ports[2]
        finally:
            process.terminate()


def healthy(port: int, process: subprocess.Popen[bytes]) -> bool:
    """Whether Caddy answers; it must not have ended."""
    assert process.poll() is None, "Caddy ended; see its log"
    try:
        return httpx.get(f"http://127.0.0.1:{port}/").status_code == 200
    except httpx.TransportError:
        return False


def authority(directory: Path) -> Path:
    """Name the file with the certificate of Caddy's own authority."""
    return directory / "caddy" / "pki" / "authorities" / "local" / "root.crt"


@pytest.fixture(scope="module")
def proxied(module_database_url: str, roomy_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Proxied]:
    """One server behind Caddy for the tests of this file."""
    directory = tmp_path_factory.mktemp("caddy")
    with (
        served(module_database_url, roomy_dir, tmp_path_factory.mktemp("var"), max_length=ROOMY) as live,
        caddy(directory, live.url.removeprefix("http://")) as (http, https, health),
    ):
        known = ssl.create_default_context(cafile=str(authority(directory)))
        with httpx.Client(base_url=f"https://localhost:{https}", verify=known, timeout=60) as client:
            wait_for(lambda: signed(client))
            yield Proxied(live, client, http, health)


def signed(client: httpx.Client) -> bool:
    """Whether Caddy has its certificate already."""
    try:
        return client.get("/health").status_code == 200
    except httpx.TransportError:
        return False


def test_an_answer_comes_over_tls(proxied: Proxied) -> None:
    body = {"model": "lepo", "messages": [{"role": "user", "content": "2 + 3"}], "max_tokens": 4}
    headers = {"Authorization": f"Bearer {proxied.live.keys['both']}"}
    answer = proxied.https.post("/v1/chat/completions", json=body, headers=headers)
    assert answer.status_code == 200
    assert answer.json()["choices"][0]["interaction_id"].startswith("int_")


def test_a_stream_is_passed_on_as_it_comes(proxied: Proxied) -> None:
    body = {"model": "lepo", "messages": [{"role": "user", "content": "2"}], "stream": True}
    headers = {"Authorization": f"Bearer {proxied.live.keys['both']}"}
    with proxied.https.stream(
        "POST", "/v1/chat/completions", json={**body, "max_tokens": 1500, "ignore_eos": True}, headers=headers
    ) as answer:
        pieces = answer.iter_raw()
        next(pieces)
        assert proxied.live.engine.stats().running == 1, "the first piece is here while the answer goes on"


def test_a_client_that_leaves_is_noticed_behind_the_proxy(proxied: Proxied) -> None:
    body = {"model": "lepo", "messages": [{"role": "user", "content": "2"}], "max_tokens": 1500, "ignore_eos": True}
    headers = {"Authorization": f"Bearer {proxied.live.keys['both']}"}
    before = proxied.live.engine.stats().tokens
    with proxied.https.stream(
        "POST", "/v1/chat/completions", json={**body, "stream": True, "n": 8}, headers=headers
    ) as answer:
        next(answer.iter_raw())
    wait_for(lambda: proxied.live.engine.stats().running == 0)
    assert proxied.live.engine.stats().tokens - before < 8 * 1500, "the rest was not computed for nobody"


def test_plain_http_is_sent_on_to_tls(proxied: Proxied) -> None:
    answer = httpx.get(f"http://localhost:{proxied.http_port}/console")
    assert answer.status_code == 308
    assert answer.headers["location"] == "https://localhost/console", "to the port that is published"


def test_metrics_are_not_for_everybody(proxied: Proxied) -> None:
    assert proxied.https.get("/metrics").status_code == 404
    assert "lepo:" not in proxied.https.get("/metrics/").text
    assert proxied.live.http(None).get("/metrics").status_code == 200


def test_the_server_knows_that_it_is_over_tls(proxied: Proxied) -> None:
    """A cookie of the console is then for TLS alone; the proxy here is at 127.0.0.1, which is believed."""
    answer = proxied.https.post(
        "/console/sign-in", data={"key": proxied.live.keys["admin"]}, headers={"Sec-Fetch-Site": "same-origin"}
    )
    assert answer.status_code in {302, 303}, answer.text
    assert "Secure" in answer.headers["set-cookie"]


def test_a_certificate_of_your_own_is_taken_as_the_example_says(tmp_path: Path) -> None:
    where = {
        "PATH": os.environ["PATH"],
        "HOME": str(tmp_path),
        "NAME": "lepo.example.org",
        "TO": "balancer:8000",
        "HTTP_PORT": "8080",
        "HTTPS_PORT": "8443",
        "HEALTH_PORT": "8081",
    }
    for certificate, found in (
        ("/etc/caddy/cert.pem /etc/caddy/key.pem", '"key":"/etc/caddy/key.pem"'),
        ("ops@example.org", '"email":"ops@example.org"'),
        ("internal", '"module":"internal"'),
    ):
        command = ["caddy", "adapt", "--config", str(CADDYFILE), "--adapter", "caddyfile"]
        said = subprocess.run(
            command, env={**where, "CERTIFICATE": certificate}, capture_output=True, text=True, check=True
        )
        assert found in said.stdout.replace(" ", "")
