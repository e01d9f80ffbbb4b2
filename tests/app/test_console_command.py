"""`lepo console link`: a link to where the server is, that signs in once; written down."""

from urllib.parse import urlsplit

import pytest
from click.testing import CliRunner
from sqlalchemy import select

from app.cli import build
from app.store.connect import Store
from app.store.console_sessions import use_link
from app.store.keys import create_key, revoke
from app.store.tenants import AuditEntry


@pytest.fixture
def runner(store: Store, monkeypatch: pytest.MonkeyPatch) -> CliRunner:
    monkeypatch.setenv("LEPO_DATABASE_URL", store.engine.url.render_as_string(hide_password=False))
    return CliRunner()


def test_a_link_signs_in_with_the_oldest_open_admin_key(store: Store, runner: CliRunner) -> None:
    made = []
    for name in ("closed", "kept", "later"):
        with store.session() as session:  # keys of one transaction are equally old
            made.append(create_key(session, name, ["admin"])[0].id)
    closed, kept, _ = made
    with store.session() as session:
        revoke(session, closed)
    done = runner.invoke(build(), ["console", "link", "--url", "https://lepo.example.org/"])
    assert done.exit_code == 0, done.output
    link = urlsplit(done.output.strip())
    assert (link.netloc, link.path) == ("lepo.example.org", "/console/sign-in")
    with store.session() as session:
        assert use_link(session, link.fragment.removeprefix("link=")) == kept
        assert session.scalars(select(AuditEntry.action)).all() == ["console link"]


def test_without_an_admin_key_it_says_how_to_make_one(runner: CliRunner) -> None:
    done = runner.invoke(build(), ["console", "link"])
    assert done.exit_code == 1
    assert "lepo keys create" in done.output
