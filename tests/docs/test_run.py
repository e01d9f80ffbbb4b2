"""The commands of the guides, run against a real server as they stand there."""

from pathlib import Path

import pytest

from tests.app.api.live import Live
from tests.app.test_cli import lepo
from tests.docs.reading import ROOT, Command, commands

DOCS = ROOT / "docs"
GUIDES = (DOCS / "index.md", DOCS / "operating.md", *sorted((DOCS / "how-to").glob("*.md")))
SPEAK = {"policy", "jobs", "grades", "sessions", "data", "keys", "projects", "top"}
ALONE = {"export", "completion"}  # need no service, and take seconds
# What the reader's service has and this one has not; the service says so.
NOT_HERE: dict[tuple[str, ...], str] = {
    ("policy", "trial", "7"): "There is no checkpoint of version 7",
    ("policy", "discard", "7"): "There is no checkpoint of version 7",
    ("policy", "rollback", "--reason"): "name a version to serve",
}
CALLED = [one for page in GUIDES for one in commands(page) if one.words[0] in SPEAK | ALONE]


@pytest.fixture(scope="module")
def names(live: Live) -> dict[str, str]:
    """What stands for the reader's own ids."""
    asked = [{"role": "user", "content": "What is 2 + 3"}]
    told = live.chat("admin", messages=asked, max_tokens=4, session_id="task 7").json()["choices"][0]["interaction_id"]
    job = live.http("admin").post("/v1/admin/jobs", json={}).json()["id"]
    return {"int_...": told, "job_...": job, "KEY_ID": live.keys["both"].split("-")[1]}


def test_the_guides_hold_commands() -> None:
    assert len(CALLED) > 25
    assert {one.words[0] for one in CALLED} >= {"policy", "jobs", "grades", "sessions", "data", "keys", "top", "export"}


@pytest.mark.parametrize("called", CALLED, ids=str)
def test_it_runs(
    called: Command, live: Live, names: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    words = [names.get(word, word) for word in called.words]
    direct = {"LEPO_DATABASE_URL": live.store.engine.url.render_as_string(hide_password=False)}
    code, output = lepo(*words, LEPO_URL=live.url, LEPO_API_KEY=live.keys["admin"], **direct)
    refused = NOT_HERE.get(called.words[:3])
    assert code == (0 if refused is None else 1), output
    assert refused is None or refused in output
