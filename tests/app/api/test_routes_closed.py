"""Every route, found by walking the application's own description: closed without a key, or without its scope.

A route added tomorrow is in these tests by itself; the lists below name only what is open, and who may do what. What
is hidden from the description is behind the same door, which knows paths, not routes.
"""

import re
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from app.api.door.auth import OPEN
from tests.app.api.live import Live
from tests.app.api.test_refusals import error_of

IN_BROWSERS = {"/", "/health", "/ready", "/version", "/metrics", "/openapi.json", "/docs"}
IN_BROWSERS |= {"/docs/start.js", "/docs/swagger-ui-bundle.js", "/docs/swagger-ui.css"}
IN_BROWSERS |= {"/console/sign-in", "/console/static/console.css", "/console/static/console.js"}
IN_BROWSERS |= {"/console/static/htmx.min.js", "/console/static/playground.js"}
OF_TOKENS = {("POST", "/v1/interactions/{}/grades"), ("DELETE", "/v1/interactions/{}/grades")}
FEWEST = 25  # routes that there are at least: a walk that finds none proves nothing

Route = tuple[str, str]  # method, path with `{}` where an id stands


@pytest.fixture(scope="module")
def routes(live: Live) -> list[Route]:
    """Every described route that is not open."""
    paths = live.http(None).get("/openapi.json").json()["paths"]
    found = [
        (method.upper(), re.sub(r"\{\w+\}", "{}", path))
        for path, methods in paths.items()
        for method in methods
        if path not in IN_BROWSERS
    ]
    assert len(found) >= FEWEST
    return found


def scope_of(path: str) -> str:
    """The scope a route asks for, by what it is about."""
    if path.startswith(("/v1/admin", "/v1/users")):
        return "admin"
    about_grades = path.endswith(("/grades", "/grading_tokens")) or path.startswith("/v1/graders")
    return "grade" if about_grades else "infer"


def knock(live: Live, route: Route, headers: dict[str, str], name: str = "int_" + "0" * 32) -> httpx.Response:
    """Ask a route for nothing in particular."""
    method, path = route
    body: dict[str, Any] = {"json": {}} if method == "POST" else {}
    return live.http(None).request(method, path.format(name), headers=headers, **body)


def bearer(text: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {text}"}


def test_what_is_open_is_chosen_one_by_one() -> None:
    assert OPEN == IN_BROWSERS


def wrong_keys() -> Iterator[Any]:
    """What no door opens to."""
    yield pytest.param({}, id="no key")
    for text in (
        "lepo-",
        f"lepo-nobody-{'a' * 64}",
        "lepo-grade.",
        f"lepo-grade.{'0' * 32}.{'0' * 32}.k.9999999999.{'0' * 64}",
    ):
        yield pytest.param(bearer(text), id=text[:20])
    yield pytest.param({"Authorization": "Basic bGVwbzpsZXBv"}, id="basic")


@pytest.mark.parametrize("headers", list(wrong_keys()))
def test_no_route_answers_without_a_key(live: Live, routes: list[Route], headers: dict[str, str]) -> None:
    """Hidden and unknown paths too: whoever has no key does not learn what there is."""
    hidden = [("GET", path) for path in ("/docs/oauth2-redirect", "/redoc", "/v1/none", "/health/", "/%2Fhealth")]
    for route in [*routes, *hidden]:
        response = knock(live, route, headers)
        assert (response.status_code, error_of(response)["type"]) == (401, "authentication_error"), route
        assert response.headers["www-authenticate"] == "Bearer"


@pytest.mark.parametrize("held", ["infer", "grade", "both", "admin"])
def test_a_key_opens_what_its_scopes_allow(live: Live, routes: list[Route], held: str) -> None:
    opens = {"infer": {"infer"}, "grade": {"grade"}, "both": {"infer", "grade"}, "admin": {"infer", "grade", "admin"}}
    for route in routes:
        response = knock(live, route, bearer(live.keys[held]))
        if scope_of(route[1]) in opens[held]:
            assert response.status_code < 500, route
            assert response.status_code not in {401, 403}, route
        else:
            assert (response.status_code, error_of(response)["code"]) == (403, "missing_scope"), route


def test_a_grading_token_opens_its_one_answer_for_grading_and_nothing_else(live: Live, routes: list[Route]) -> None:
    target, other = (choice["interaction_id"] for choice in live.answer(n=2)["choices"])
    token = live.http().post(f"/v1/interactions/{target}/grading_tokens", json={}).json()["token"]
    for route in routes:
        mine = knock(live, route, bearer(token), target)
        if route in OF_TOKENS:
            assert mine.status_code not in {401, 403}, route
        else:
            assert (mine.status_code, error_of(mine)["code"]) == (403, "missing_scope"), route
    grade = live.http(None).post(f"/v1/interactions/{other}/grades", json={"value": 1}, headers=bearer(token))
    assert (grade.status_code, error_of(grade)["type"]) == (404, "not_found_error"), "not even that it exists"


def test_a_closed_key_closes_its_grading_tokens(live: Live) -> None:
    """Else whoever stole a key for a minute could grade for a week."""
    admin = live.http("admin")
    made = admin.post("/v1/admin/keys", json={"name": "lent", "scopes": ["grade"]}).json()
    target = live.answer()["choices"][0]["interaction_id"]
    url = f"/v1/interactions/{target}/grades"
    minted = live.http(None).post(f"/v1/interactions/{target}/grading_tokens", json={}, headers=bearer(made["key"]))
    token = bearer(minted.json()["token"])
    assert live.http(None).post(url, json={"value": 1}, headers=token).status_code == 201
    assert admin.delete(f"/v1/admin/keys/{made['id']}").status_code == 200
    late = live.http(None).post(url, json={"value": 0}, headers=token)
    assert (late.status_code, error_of(late)["code"]) == (401, "invalid_grading_token")
