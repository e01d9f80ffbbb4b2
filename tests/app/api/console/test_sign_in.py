"""Who gets in, for how long, and that nobody else's page can act in their name."""

import re
from datetime import timedelta
from pathlib import Path

import httpx
import pytest
from sqlalchemy import func, select, update

from app.api.console.pages.all import console_routers
from app.store.console_sessions import make_link
from app.store.console_tables import ConsoleSession
from app.store.keys import create_key, revoke
from app.store.projects import create_project
from app.store.tenants import AuditEntry
from tests.app.api.console.reader import Filled, sign_in, token_of
from tests.app.api.live import Live, served

HTML = {"Accept": "text/html"}


def where_to(answer: httpx.Response) -> str:
    assert answer.status_code == 303
    return answer.headers["location"]


def test_a_key_becomes_a_cookie_that_scripts_and_other_sites_cannot_use(live: Live) -> None:
    answer = httpx.post(f"{live.url}/console/sign-in", data={"key": live.keys["admin"], "next": "/console/jobs"})
    assert where_to(answer) == "/console/jobs"
    cookie = answer.headers["set-cookie"]
    assert live.keys["admin"] not in cookie
    assert {"HttpOnly", "SameSite=strict", "Path=/"} <= set(re.split(r"; ", cookie))
    assert f"Max-Age={12 * 3600}" in cookie
    port = live.url.rpartition(":")[2]
    assert cookie.startswith(f"lepo_session_{port}="), "browsers share cookies between ports"


@pytest.mark.parametrize("key", ["", "lepo-nobody-" + "a" * 64, "nonsense"])
def test_what_opens_nothing_is_told_so_on_the_form(live: Live, key: str) -> None:
    answer = httpx.post(f"{live.url}/console/sign-in", data={"key": key})
    assert answer.status_code == 401
    assert "set-cookie" not in answer.headers
    assert 'role="alert"' in answer.text


def test_a_grading_token_does_not_sign_in(live: Live, filled: Filled) -> None:
    token = live.http().post(f"/v1/interactions/{filled.graded}/grading_tokens", json={}).json()["token"]
    answer = httpx.post(f"{live.url}/console/sign-in", data={"key": token})
    assert answer.status_code == 401
    assert "needs a key" in answer.text


@pytest.mark.parametrize("to", ["https://evil.example", "//evil.example", "/console//evil.example", "/v1/models", ""])
def test_signing_in_leads_to_the_console_and_nowhere_else(live: Live, to: str) -> None:
    answer = httpx.post(f"{live.url}/console/sign-in", data={"key": live.keys["admin"], "next": to})
    assert where_to(answer) == "/console"


def test_who_is_not_signed_in_is_shown_the_way_and_a_program_is_told(live: Live) -> None:
    assert where_to(httpx.get(f"{live.url}/console/jobs", headers=HTML)) == "/console/sign-in?next=/console/jobs"
    assert httpx.get(f"{live.url}/console/jobs").status_code == 401
    part = httpx.get(f"{live.url}/console/now", headers={"HX-Request": "true"})
    assert (part.status_code, part.headers["hx-redirect"]) == (401, "/console/sign-in")


def test_signing_out_ends_the_session_for_whoever_has_its_cookie(live: Live) -> None:
    with sign_in(live) as client:
        stolen = dict(client.cookies)
        assert client.get("/console").status_code == 200
        assert where_to(client.post("/console/sign-out", data={"csrf": token_of(client)})) == "/console/sign-in"
    assert where_to(httpx.get(f"{live.url}/console", headers=HTML, cookies=stolen)) == "/console/sign-in"


def test_a_session_ends_when_its_time_is_over(module_database_url: str, model_dir: Path, tmp_path: Path) -> None:
    with served(module_database_url, model_dir, tmp_path, console_hours=0.5) as live, sign_in(live) as client:
        with live.store.session() as session:
            lasts = ConsoleSession.expires_at - ConsoleSession.created_at
            newest = select(func.extract("epoch", lasts)).order_by(ConsoleSession.created_at.desc()).limit(1)
            assert session.scalar(newest) == 1800
            session.execute(update(ConsoleSession).values(expires_at=func.now()))
        assert where_to(client.get("/console")) == "/console/sign-in"


def test_closing_a_key_ends_its_sessions(live: Live) -> None:
    with live.store.session() as session:
        row, text = create_key(session, "gone", ["admin"])
        key_id = row.id
    with sign_in(live, text) as client:
        with live.store.session() as session:
            revoke(session, key_id)
        assert where_to(client.get("/console")) == "/console/sign-in"


def test_a_link_signs_in_once(live: Live) -> None:
    with live.store.session() as session:
        link, late = make_link(session), make_link(session, lasts=timedelta(0))
    ask = f"{live.url}/console/sign-in"
    assert where_to(httpx.post(ask, data={"link": link})) == "/console"
    for used in (link, late):
        again = httpx.post(ask, data={"link": used})
        assert again.status_code == 401
        assert "lepo console link" in again.text


def test_no_form_is_believed_without_the_token_of_its_session(live: Live) -> None:
    """Every route of the console that changes something, found by walking them."""
    posts = {
        re.sub(r"\{\w+\}", "x", route.path)  # type: ignore[attr-defined]
        for router in console_routers()
        for route in router.routes
        if "POST" in route.methods  # type: ignore[attr-defined]
    } - {"/console/sign-in"}
    assert len(posts) >= 3
    with sign_in(live) as client, sign_in(live) as other:
        for path in posts:
            for data in ({}, {"csrf": "0" * 64}, {"csrf": token_of(other)}):
                assert client.post(path, data=data).status_code == 403, (path, data)
            wrong = client.post(path, data={"csrf": token_of(client)}, headers={"Sec-Fetch-Site": "cross-site"})
            assert wrong.status_code == 403, path


def test_the_cookie_opens_the_api_to_our_own_pages(live: Live) -> None:
    body = {"model": "lepo", "messages": [{"role": "user", "content": "1 + 1"}], "max_tokens": 2}
    with sign_in(live) as client:
        assert client.get("/v1/models").status_code == 200
        assert client.post("/v1/chat/completions", json=body).status_code == 403
        proof = {"X-CSRF-Token": token_of(client)}
        assert client.post("/v1/chat/completions", json=body, headers=proof).status_code == 200
        elsewhere = {**proof, "Sec-Fetch-Site": "same-site"}
        assert client.post("/v1/chat/completions", json=body, headers=elsewhere).status_code == 403


def test_other_projects_are_not_there(live: Live, filled: Filled) -> None:
    with live.store.session() as session:
        create_project(session, "elsewhere")
        text = create_key(session, "of another project", ["infer", "grade", "admin"], project="elsewhere")[1]
    with sign_in(live, text) as client:
        assert filled.graded not in client.get("/console/answers").text
        assert client.get(f"/console/answers/{filled.graded}").status_code == 404
        assert client.get(f"/console/sessions/{filled.session}").status_code == 404
        assert "Nothing to review" in client.get("/console/review").text
        for path in ("/console/policies", "/console/jobs"):
            assert client.get(path).status_code == 403, path
        graded = client.post(f"/console/answers/{filled.graded}/grade", data={"value": "1", "csrf": token_of(client)})
        assert "There%20is%20no" in graded.headers["location"]
    with sign_in(live) as client:
        assert filled.graded in client.get("/console/answers").text


def test_a_key_sees_what_it_asked_and_the_pages_it_may_open(live: Live, filled: Filled) -> None:
    with sign_in(live, "infer") as client:
        first = client.get("/console")
        assert where_to(first) == "/console/answers"
        page = client.get("/console/answers").text
        assert filled.graded not in page
        assert "/console/policies" not in page
        assert client.get("/console/policies").status_code == 403
    with sign_in(live, "both") as client:
        page = client.get(f"/console/answers/{filled.graded}").text
        assert "How it thought" not in page, "the trace is for admin keys, as in the API"


def test_what_an_operator_clicks_is_written_down_as_what_it_is(live: Live, filled: Filled) -> None:
    with sign_in(live) as client:
        client.post("/console/learning/freeze", data={"csrf": token_of(client), "reason": "to look"})
        client.post("/console/learning/thaw", data={"csrf": token_of(client)})
    with live.store.session() as session:
        rows = session.query(AuditEntry.action, AuditEntry.outcome).order_by(AuditEntry.id.desc()).limit(2)
        assert {tuple(row) for row in rows} == {
            ("POST /v1/admin/learning/thaw", "200"),
            ("POST /v1/admin/learning/freeze", "200"),
        }
