"""Listings in pages of one: everything once, in order, and the last page says that it is the last."""

from typing import Any

import httpx
import pytest

from tests.app.api.live import Live

WALKED = ("admin/jobs", "admin/keys", "admin/projects", "admin/transitions", "admin/audit", "sessions", "interactions")


@pytest.fixture(scope="module")
def filled(live: Live) -> httpx.Client:
    """Some of everything."""
    admin = live.http("admin")
    for place in range(3):
        live.answer(session_id=f"s{place}", key="admin")
        assert admin.post("/v1/admin/keys", json={"name": "k", "scopes": ["infer"]}).status_code == 201
        assert admin.post("/v1/admin/projects", json={"id": f"p{place}"}).status_code == 201
        assert admin.post("/v1/admin/jobs", json={}).status_code == 201
        assert admin.post("/v1/admin/learning/freeze").status_code == 200
        assert admin.post("/v1/admin/learning/thaw").status_code == 200
    return admin


def walk(client: httpx.Client, path: str, **asked: Any) -> list[str]:
    """Ids of all pages."""
    seen: list[str] = []
    after: dict[str, str] = {}
    while True:
        response = client.get(f"/v1/{path}", params={"limit": 1, **asked, **after})
        assert response.status_code == 200, response.text
        page = response.json()
        seen += [str(one["id"]) for one in page["data"]]
        assert page["has_more"] == (page["next_after"] is not None)
        if not page["has_more"]:
            return seen
        assert page["data"] or path == "interactions"
        after = {"after": page["next_after"]}


@pytest.mark.parametrize("path", WALKED)
def test_pages_of_one_are_the_listing(filled: httpx.Client, path: str) -> None:
    whole = [str(one["id"]) for one in filled.get(f"/v1/{path}", params={"limit": 1000}).json()["data"]]
    walked = walk(filled, path)
    assert len(walked) == len(set(walked)) >= 3
    assert walked == whole


@pytest.mark.parametrize("path", WALKED)
def test_a_page_that_holds_all_there_is_says_so(filled: httpx.Client, path: str) -> None:
    count = len(filled.get(f"/v1/{path}", params={"limit": 1000}).json()["data"])
    exact = filled.get(f"/v1/{path}", params={"limit": count}).json()
    assert (len(exact["data"]), exact["has_more"], exact["next_after"]) == (count, False, None)


def test_checkpoints_continue_behind_an_id_or_a_version(filled: httpx.Client) -> None:
    [base] = filled.get("/v1/admin/checkpoints").json()["data"]
    for after in (base["id"], str(base["version"])):
        assert filled.get("/v1/admin/checkpoints", params={"after": after}).json()["data"] == []


def test_a_diary_in_pages(filled: httpx.Client) -> None:
    job = filled.get("/v1/admin/jobs").json()["data"][0]["id"]
    assert filled.post(f"/v1/admin/jobs/{job}/cancel").status_code == 200
    [line] = walk(filled, f"admin/jobs/{job}/events")
    assert filled.get(f"/v1/admin/jobs/{job}/events", params={"after": line}).json()["data"] == []


@pytest.mark.parametrize(
    ("path", "after", "status"),
    [
        *((f"admin/{name}", "int_" + "0" * 32, 400) for name in ("jobs", "transitions", "swaps", "audit")),
        ("interactions", "sess_" + "0" * 32, 400),
        ("sessions", "s1", 400),
        ("admin/transitions", "move_" + "0" * 32, 404),
        ("admin/checkpoints", "999", 404),
        *((f"admin/{name}", "nowhere", 404) for name in ("keys", "projects", "trials", "keys/agreement")),
    ],
)
def test_a_place_that_is_none(filled: httpx.Client, path: str, after: str, status: int) -> None:
    response = filled.get(f"/v1/{path}", params={"after": after})
    assert response.status_code == status
    assert "after" in response.json()["error"]["message"] or status == 404
