"""Every page of the console, walked by who is signed in with a key of another project: what exists is not there for it.

Pages and forms are found by walking the routers; one with a new parameter must be named here, or the walk says so.
"""

import re
from collections.abc import Iterator

import pytest

from app.api.console.pages.all import console_routers
from app.store.keys import create_key
from app.store.projects import create_project
from tests.app.api.console.reader import Filled, sign_in, token_of
from tests.app.api.live import Live
from tests.app.api.test_stranger import kept

FEWEST = 25
NOBODY = "0" * 32
WORDS = ("so it seems", "And 2 + 2", "a talk", "ada")


def routes() -> Iterator[tuple[str, str]]:
    """Method and path of every route but signing in and out, and files."""
    for router in console_routers():
        for route in router.routes:
            path: str = getattr(route, "path")  # noqa: B009 - routes of several kinds
            if "/sign-" not in path and "/static/" not in path:
                yield from ((method, path) for method in getattr(route, "methods", ()) if method != "HEAD")


def ids_of(filled: Filled, live: Live) -> dict[str, tuple[str, str]]:
    """By parameter: what exists, and what does not."""
    return {
        "answer_id": (filled.graded, f"int_{NOBODY}"),
        "session_id": (filled.session, f"sess_{NOBODY}"),
        "job_id": (filled.job, f"job_{NOBODY}"),
        "key_id": (live.keys["both"].split("-")[1], "absent0000"),
        "version": (str(filled.held), "999"),
        "step": ("promote", "promote"),
        "change": ("freeze", "freeze"),
    }


def named(path: str, known: dict[str, tuple[str, str]], which: int) -> str:
    """Fill a path with what exists (0), or with what does not (1)."""
    for name, values in known.items():
        path = path.replace(f"{{{name}}}", values[which])
    return path


@pytest.mark.parametrize("scopes", [["infer", "grade"], ["infer", "admin"]], ids=["plain", "admin"])
def test_what_is_anothers_is_not_there(live: Live, filled: Filled, scopes: list[str]) -> None:
    project = f"strangers-{scopes[1]}"
    with live.store.session() as session:
        create_project(session, project)
        text = create_key(session, "a stranger", scopes, project=project)[1]
    before = kept(live)
    found = list(routes())
    assert len(found) >= FEWEST
    known = ids_of(filled, live)
    with sign_in(live, text) as client:
        proof = {
            "csrf": token_of(client),
            "value": "1",
            "trust": "quarantined",
            "name": "k",
            "infer": "1",
            "spec": "{}",
        }
        for method, path in found:
            names = re.findall(r"\{(\w+)\}", path)
            assert set(names) <= set(known), f"{path}: say above what exists of {names}"
            said = []
            for which in (0, 1):
                real = named(path, known, which)
                query = {"a": known["version"][which], "b": "0"} if path.endswith("/compare") else {}
                sent = {"data": proof} if method == "POST" else {"params": query}
                answer = client.request(method, real, **sent)  # type: ignore[arg-type]
                assert answer.status_code < 500, (method, real)
                assert [word for word in WORDS if word in answer.text] == [], (method, real)
                where = answer.headers.get("location", "")
                for name in names:
                    where = where.replace(known[name][which], "<sent>")
                said.append((answer.status_code, where))
            if names:
                assert said[0] == said[1], (method, path)
    after = kept(live)
    own = [place for place, (then, now) in enumerate(zip(before, after, strict=True)) if then != now]
    assert len(own) <= 1, "a key of its own is all that may be new"


def test_what_was_walked_is_there_for_who_rules(live: Live, filled: Filled) -> None:
    known = ids_of(filled, live)
    with sign_in(live) as client:
        for method, path in routes():
            real = named(path, known, 0)
            if method == "GET":
                assert client.get(real, params={"a": "0", "b": "0"}).status_code == 200, real
