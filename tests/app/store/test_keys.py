"""Keys: what opens, what does not, and that only a digest is kept."""

from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta

import pytest
from sqlalchemy import text

from app.errors import BadRequest, Forbidden, NotFound, Unauthorized
from app.store import keys
from app.store.connect import Store
from app.store.signing import shared_secret

NOW = datetime(2026, 5, 1, tzinfo=UTC)


def test_a_key_opens_what_its_scopes_say(store: Store) -> None:
    with store.session() as session:
        row, plain = keys.create_key(session, "phone", ["infer", "grade"])
    assert plain.startswith(f"lepo-{row.id}-")
    with store.session() as session:
        assert keys.authenticate(session, plain, NOW, "grade").id == row.id
        with pytest.raises(Forbidden, match="admin"):
            keys.authenticate(session, plain, NOW, "admin")
        _, admin = keys.create_key(session, "root", ["admin"])
        assert keys.authenticate(session, admin, NOW, "infer").name == "root"


def test_the_secret_is_nowhere_in_the_database(store: Store) -> None:
    with store.session() as session:
        _, plain = keys.create_key(session, "phone", ["infer"])
        stored = session.execute(text("SELECT api_keys::text FROM api_keys")).scalar_one()
    assert plain.rpartition("-")[2] not in stored


def test_what_does_not_open(store: Store) -> None:
    with store.session() as session:
        row, plain = keys.create_key(session, "phone", ["infer"], expires_at=NOW + timedelta(days=1))
        last = "0" if plain[-1] != "0" else "1"
        for wrong in (
            None,
            "",
            "sk-123",
            plain[:-1],
            plain[:-1] + last,
            plain.replace(row.id, "nobodyhere"),
            plain + " ",
        ):
            with pytest.raises(Unauthorized):
                keys.authenticate(session, wrong, NOW)
        with pytest.raises(Unauthorized, match="expired"):
            keys.authenticate(session, plain, NOW + timedelta(days=1))
        keys.authenticate(session, plain, NOW)
        closed = keys.revoke(session, row.id).revoked_at
        assert keys.revoke(session, row.id).revoked_at == closed
        with pytest.raises(Unauthorized):
            keys.authenticate(session, plain, NOW)
        with pytest.raises(NotFound):
            keys.revoke(session, "nobodyhere")


@pytest.mark.parametrize("scopes", [[], ["infer", "root"]])
def test_scopes_are_known(store: Store, scopes: list[str]) -> None:
    with pytest.raises(ValueError, match="scopes"), store.session() as session:
        keys.create_key(session, "x", scopes)


def test_the_first_admin_key_is_made_once_by_many(store: Store) -> None:
    def first(_: int) -> str | None:
        with store.session() as session:
            return keys.first_admin_key(session)

    with ThreadPoolExecutor(4) as pool:
        made = [key for key in pool.map(first, range(4)) if key is not None]
    assert len(made) == 1
    with store.session() as session:
        keys.authenticate(session, made[0], NOW, "admin")
        keys.revoke(session, keys.list_keys(session)[0].id)
        assert keys.first_admin_key(session) is not None, "nobody could get in otherwise"


def test_a_fixed_admin_key_is_kept_as_it_is(store: Store) -> None:
    chosen = "lepo-ops1-" + "s" * 32
    for _ in range(2):
        with store.session() as session:
            key, replaced = keys.fix_admin_key(session, chosen)
            assert (key.id, key.revoked_at, replaced) == ("ops1", None, [])
            keys.authenticate(session, chosen, NOW, "admin")
    with pytest.raises(ValueError, match="another secret"), store.session() as session:
        keys.fix_admin_key(session, "lepo-ops1-" + "t" * 32)
    with pytest.raises(ValueError, match="lepo-<id>-<secret>"), store.session() as session:
        keys.fix_admin_key(session, "password")
    with store.session() as session:
        _, phone = keys.create_key(session, "phone", ["infer"])
        with pytest.raises(ValueError, match="without the scope 'admin'"):
            keys.fix_admin_key(session, phone)


def test_another_fixed_admin_key_closes_the_one_before_and_no_other(store: Store) -> None:
    old, new = "lepo-ops1-" + "s" * 32, "lepo-ops2-" + "t" * 32
    with store.session() as session:
        keys.fix_admin_key(session, old)
        _, colleague = keys.create_key(session, "colleague", ["admin"])
    with store.session() as session:
        assert keys.fix_admin_key(session, new)[1] == ["ops1"]
        with pytest.raises(Unauthorized):
            keys.authenticate(session, old, NOW)
        for open_key in (new, colleague):
            keys.authenticate(session, open_key, NOW, "admin")
    with store.session() as session:
        late, replaced = keys.fix_admin_key(session, old)
        assert late.revoked_at is not None, "a replica that still has yesterday's key does not bring it back"
        assert replaced == []
        keys.authenticate(session, new, NOW, "admin")


def test_the_name_of_the_fixed_key_is_nobody_elses(store: Store) -> None:
    with store.session() as session, pytest.raises(BadRequest, match="choose another"):
        keys.create_key(session, keys.FIXED, ["admin"])


def test_a_shared_secret_is_made_once_by_many(store: Store) -> None:
    def ask(_: int) -> bytes:
        with store.session() as session:
            return shared_secret(session, "grading")

    with ThreadPoolExecutor(4) as pool:
        made = set(pool.map(ask, range(8)))
    assert len(made) == 1
    with store.session() as session:
        assert shared_secret(session, "other") not in made
