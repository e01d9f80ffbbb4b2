"""`lepo policy` over HTTP: the moves, what it prints, and mistakes told in words."""

from collections.abc import Iterator

import pytest

from app.store import learning, policy_life
from tests.app.api.live import Live, new_checkpoint
from tests.app.api.test_policies import serving, waiting
from tests.app.commands.conftest import Read, Said


@pytest.fixture(autouse=True)
def undone(live: Live) -> Iterator[None]:
    """What a test froze or pinned is undone."""
    yield
    with live.store.session() as session:
        learning.thaw(session, "test")
        learning.unpin(session, "test")


def test_promote_and_roll_back(live: Live, said: Said, read: Read) -> None:
    before = serving(live)
    one, two = new_checkpoint(live, seed=1), new_checkpoint(live, seed=2)
    assert said("policy", "promote", str(one), "--reason", "better") == (0, f"Done: version {one} serves.\n")
    assert said("policy", "promote", str(one)) == (0, f"Nothing changed: version {one} serves.\n")
    code, output = said("policy", "promote", str(two), "--expect", str(before))
    assert (code, serving(live)) == (1, one), "something else serves than was expected"
    assert str(one) in output
    assert read("policy", "promote", str(two), "--expect", str(one))["version"] == two
    assert said("policy", "rollback", "--reason", "worse") == (0, f"Done: version {one} serves.\n")
    assert said("policy", "rollback", "--to", str(before)) == (0, f"Done: version {before} serves.\n")
    assert said("policy", "rollback", "--to", str(before)) == (0, f"Nothing changed: version {before} serves.\n")
    with live.store.session() as session:
        assert learning.read(session).frozen_reason is not None
    history = read("policy", "history", "--limit", "50")
    assert {"better", "worse"} <= {entry["reason"] for entry in history}
    assert {entry["actor"] for entry in history if entry["reason"] == "worse"} == {live.keys["admin"].split("-")[1]}
    shown = read("policy", "show", str(two))
    assert (shown["version"], shown["state"]) == (two, "rolled_back")
    assert shown["transitions"][0]["to"] == "rolled_back"


def test_discard(live: Live, said: Said) -> None:
    before = serving(live)
    row, _ = waiting(live, answers=1)
    assert said("policy", "discard", str(row.version)) == (0, f"Done: version {before} serves.\n")
    assert said("policy", "discard", str(row.version)) == (0, f"Nothing changed: version {before} serves.\n")
    with live.store.session() as session:
        assert policy_life.history(session, checkpoint_id=row.id)[0].to_state == "refused"


def test_switches(live: Live, said: Said, read: Read) -> None:
    for on, off, name in (("freeze", "thaw", "frozen"), ("pin", "unpin", "pinned")):
        code, first = said("policy", on, "--reason", "exam week")
        assert (code, said("policy", on)[1]) == (0, first.strip() + " It was so already.\n")
        with live.store.session() as session:
            assert getattr(learning.read(session), f"{name}_reason") == "exam week"
        assert read("policy", "status")[name] == "exam week"
        code, last = said("policy", off)
        assert (code, said("policy", off)[1]) == (0, last.strip() + " It was so already.\n")
        assert read("policy", "status")[name] is None
    assert read("policy", "freeze")["changed"] is True


def test_status_says_why_nothing_is_learned(live: Live, said: Said, read: Read) -> None:
    code, shown = said("policy", "status")
    assert code == 0
    assert f"serving    {serving(live)}\n" in shown
    assert "learning   too few grades: " in shown
    version = new_checkpoint(live, seed=3)
    facts = read("policy", "status")
    assert facts["undecided"][str(version)] == "candidate"
    assert "waits for a decision" in facts["learning"]
    assert said("policy", "promote", str(version))[0] == 0


def test_lists(live: Live, said: Said, read: Read) -> None:
    versions = []
    for seed in (4, 5):
        versions.append(new_checkpoint(live, seed=seed))
        assert said("policy", "promote", str(versions[-1]))[0] == 0
    code, shown = said("policy", "list", "--limit", "1")
    assert code == 0
    head, row = shown.splitlines()
    assert head.split() == ["VERSION", "STATE", "PARENT", "CREATED", "ID"]
    assert row.split()[:3] == [str(versions[1]), "serving", str(versions[0])], "its parent is on the next page"
    assert [one["version"] for one in read("policy", "list", "--state", "serving")] == [versions[1]]
    code, shown = said("policy", "history", "--limit", "3")
    assert code == 0
    assert shown.splitlines()[1].split()[2:4] == [str(versions[1]), "promote"]
    assert said("policy", "swaps")[0] == 0
    assert {one["object"] for one in read("policy", "swaps", "--limit", "1")} <= {"swap"}


def test_lineage(live: Live, said: Said, read: Read) -> None:
    row, asked = waiting(live, "promote", answers=2)
    code, shown = said("policy", "lineage", str(row.version))
    assert code == 0
    first, head, newest = shown.splitlines()[:3]
    assert first.startswith(f"Version {row.version} contains 2 answers (2 by client")
    assert head.split() == ["VERSION", "STATE", "ANSWERS", "REWARD", "ID"]
    assert newest.split()[:4] == [str(row.version), "serving", str(len(asked)), "1.000"]
    assert read("policy", "lineage", str(row.version))["contents"]["answers"] == 2


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("promote", "777"), "There is no checkpoint of version 777"),
        (("discard", "777"), "There is no checkpoint of version 777"),
        (("lineage", "777"), "There is no checkpoint of version 777"),
        (("show", "777"), "There is no checkpoint of version 777"),
        (("rollback", "--to", "777"), "There is no checkpoint of version 777"),
        (("promote", "seven"), "seven"),
        (("trial", "777"), "There is no checkpoint of version 777"),
    ],
    ids=str,
)
def test_mistakes_are_told_in_words(said: Said, arguments: tuple[str, ...], words: str) -> None:
    code, output = said("policy", *arguments)
    assert (code, output.startswith("Error: ")) == (1, True)
    assert words in output
    assert len(output.splitlines()) == 1


def test_what_serves_cannot_be_discarded(live: Live, said: Said) -> None:
    code, output = said("policy", "discard", str(serving(live)))
    assert code == 1
    assert "is serving; 'discard' is not possible from there" in output
