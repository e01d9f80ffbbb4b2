"""The event loop is nobody's alone: what goes on it, what goes beside it, and in which pieces."""

import json
from collections.abc import Iterator
from inspect import iscoroutinefunction
from typing import Any

from fastapi.dependencies.models import Dependant
from fastapi.routing import APIRoute

from app.api.factory import ROUTERS
from app.api.http.rendering import BLOCK, blocks, encoded
from tests.app.api.live import Live


def needed(dependant: Dependant) -> Iterator[Any]:
    for one in dependant.dependencies:
        yield one.call
        yield from needed(one)


def waits(call: Any) -> bool:
    """Whether it is called on the loop: a coroutine function, or an object whose call is one."""
    return iscoroutinefunction(call) or iscoroutinefunction(type(call).__call__)


def test_no_dependency_takes_a_way_over_a_thread() -> None:
    """FastAPI runs plain functions on a pool: two changes of threads for each, a bound of /health each under load."""
    routes = [route for router in ROUTERS for route in router.routes if isinstance(route, APIRoute)]
    found = [call for route in routes for call in needed(route.dependant)]
    assert len(found) > len(routes) / 2
    assert [call for call in found if not waits(call)] == []


def test_a_large_response_is_made_member_by_member_and_leaves_in_blocks() -> None:
    alive = 0
    most = 0

    def member(place: int) -> dict[str, Any]:
        nonlocal alive, most
        alive += 1
        most = max(most, alive)
        return {"place": place, "text": "é" * 1000}

    def members() -> Iterator[dict[str, Any]]:
        nonlocal alive
        for place in range(500):
            yield member(place)
            alive -= 1

    made = list(blocks({"choices": members(), "none": iter([])}))
    assert most == 1
    assert all(BLOCK / 2 < len(block) < 3 * BLOCK for block in made[:-1])
    whole = {"choices": [{"place": place, "text": "é" * 1000} for place in range(500)], "none": []}
    assert json.loads(b"".join(made)) == whole
    assert encoded(whole) == b"".join(made)


def test_a_large_response_has_its_length(live: Live) -> None:
    body = {"model": "lepo", "prompt": "What is 2 + 3", "max_tokens": 40, "logprobs": 20, "n": 8, "ignore_eos": True}
    response = live.http().post("/v1/completions", json=body)
    assert int(response.headers["content-length"]) == len(response.content) > BLOCK
    assert response.headers["content-type"] == "application/json"
    assert len(response.json()["choices"]) == 8


def test_many_choices_that_end_together_are_committed_by_and_by(live: Live) -> None:
    body = live.answer(n=40, max_tokens=2, ignore_eos=True)
    ids = {choice["interaction_id"] for choice in body["choices"]}
    assert len(ids) == 40
    rows = live.http().get("/v1/interactions", params={"completion_id": body["id"], "limit": 100}).json()["data"]
    assert {row["id"] for row in rows} == ids
