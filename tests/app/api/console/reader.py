"""Whoever reads the console: with a browser or without, and what there is to read."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import httpx
from playwright.sync_api import Browser, Page
from sqlalchemy import select

from app.api.door.browsers import csrf_token
from app.identifiers import show
from app.store import jobs, policy_life
from app.store.checkpoints import by_version
from app.store.evaluations import record_evaluation
from app.store.events import measure, say
from app.store.session_tables import ClientSession
from tests.app.api.live import Live, new_checkpoint

AXE = (Path(__file__).parent / "axe" / "axe.min.js").read_text()


@dataclass
class Filled:
    """What there is to look at."""

    live: Live
    graded: str  # id of an answer with a grade
    ungraded: str
    session: str
    job: str
    held: int  # version of a policy that waits for a decision


def fill(live: Live) -> Filled:
    """Ask, grade and learn a little, as far as can be done without a worker."""
    choices = live.answer(n=4, max_tokens=6)["choices"]
    for value, choice in zip((1, 0, 1), choices, strict=False):
        path = f"/v1/interactions/{choice['interaction_id']}/grades"
        assert live.http().post(path, json={"value": value, "comment": "so it seems"}).status_code == 201
    for question in ("What is 1 + 1", "And 2 + 2"):
        live.chat(messages=[{"role": "user", "content": question}], session_id="a talk", user="ada", max_tokens=4)
    version = new_checkpoint(live)
    with live.store.session() as session:
        base, held = by_version(session, 0), by_version(session, version)
        for row, correct in ((base, 30), (held, 44)):
            record_evaluation(session, row.id, "gate", correct=correct, total=60)
        policy_life.move(session, held.id, "hold", "there are no held-out questions", "worker")
        job = jobs.request(session, trigger="schedule", requested_by="beat")
        say(session, job.id, "claimed 64 graded answers to learn from")
        measure(session, job.id, {"update": {"kl": 0.004, "loss": -0.06}}, message="update")
        jobs.cancel(session, job.id)
        talk = session.scalars(select(ClientSession.id)).first()
        assert talk is not None
        named = show("job", job.id), show("sess", talk)
    ids = [choice["interaction_id"] for choice in choices]
    return Filled(live, graded=ids[0], ungraded=ids[3], session=named[1], job=named[0], held=version)


@contextmanager
def sign_in(live: Live, key: str = "admin") -> Iterator[httpx.Client]:
    """Sign in without a browser: a client with the cookie. `key` is one of the server's, or a key's text."""
    with httpx.Client(base_url=live.url, timeout=30, headers={"Accept": "text/html"}) as client:
        answer = client.post("/console/sign-in", data={"key": live.keys.get(key, key)})
        assert answer.status_code == 303, answer.text
        yield client


def token_of(client: httpx.Client) -> str:
    """The token that the pages of a signed-in client carry."""
    [cookie] = client.cookies.values()
    return csrf_token(cookie)


@contextmanager
def opened(
    browser: Browser,
    live: Live,
    *,
    key: str | None = "admin",
    width: int = 1200,
    scheme: Literal["light", "dark"] = "light",
) -> Iterator[Page]:
    """Open a window, signed in with a key; what a page's scripts complain of fails the test."""
    complaints: list[str] = []
    context = browser.new_context(viewport={"width": width, "height": 900}, color_scheme=scheme, base_url=live.url)
    try:
        page = context.new_page()
        page.set_default_timeout(60_000)
        page.on("console", lambda said: complaints.append(said.text) if said.type in {"error", "warning"} else None)
        page.on("pageerror", lambda error: complaints.append(str(error)))
        if key is not None:
            page.goto("/")
            page.get_by_label("API key").fill(live.keys[key])
            page.get_by_role("button", name="Sign in").click()
            page.get_by_role("navigation", name="Pages").wait_for()
        yield page
    finally:
        context.close()
    assert complaints == []


def found_by_axe(page: Page) -> list[dict[str, Any]]:
    """Serious findings of axe-core on a page: the rule, and the elements it means."""
    page.evaluate(AXE)
    results = page.evaluate("axe.run(document, {resultTypes: ['violations']})")
    return [
        {"rule": one["id"], "where": [node["html"][:200] for node in one["nodes"]][:5]}
        for one in results["violations"]
        if one["impact"] in {"serious", "critical"}
    ]
