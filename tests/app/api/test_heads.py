"""HEAD where there is GET, and a front door that says where to go."""

import httpx
import pytest

from tests.app.api.live import Live


@pytest.mark.parametrize(("path", "key"), [("/health", None), ("/ready", None), ("/", None), ("/v1/models", "infer")])
def test_head_is_get_without_its_body(live: Live, path: str, key: str | None) -> None:
    client = live.http(key)
    read, head = client.get(path), client.head(path)
    assert (head.status_code, head.content) == (200, b"")
    for name in ("content-type", "content-length"):
        assert head.headers[name] == read.headers[name]
    assert client.get(path).json() == read.json(), "the connection goes on after it"


def test_head_opens_no_door_and_makes_no_route(live: Live) -> None:
    assert live.http(None).head("/v1/models").status_code == 401
    assert live.http().head("/v1/chat/completions").status_code == 405
    assert live.http().head("/v1/nothing").status_code == 404


def test_the_front_door_names_pages_that_are_there(live: Live) -> None:
    page = httpx.get(live.url).json()
    assert page["service"] == "lepo"
    for name in ("documentation", "ready"):
        assert httpx.get(live.url + page[name]).status_code == 200, name
    read = {"Accept": "text/html,*/*;q=0.8"}
    for path in ("/", page["console"]):
        console = httpx.get(live.url + path, headers=read, follow_redirects=True)
        assert (console.status_code, console.url.path) == (200, "/console/sign-in"), path
