"""`lepo policy` on a real database: the moves, what it prints, and mistakes told in words."""

import json
from collections.abc import Callable
from getpass import getuser

import pytest

from app.store import learning, policy_life
from app.store.connect import Store
from app.store.tables import Checkpoint
from tests.app.store.acts import grade, improve, promote, publish, serves, state
from tests.app.test_cli import lepo
from tests.conftest import Answers

Policy = Callable[..., tuple[int, str]]


@pytest.fixture
def policy(database_url: str, base_checkpoint: Checkpoint) -> Policy:
    """`lepo policy` on a database where version 0 serves."""

    def run(*arguments: str, **env: str) -> tuple[int, str]:
        return lepo("policy", *arguments, LEPO_DATABASE_URL=database_url, **env)

    return run


def test_promote_and_roll_back(policy: Policy, store: Store, base_checkpoint: Checkpoint) -> None:
    one = publish(store, base_checkpoint)
    two = publish(store, one)
    assert policy("promote", "1", "--reason", "better") == (0, "Done: version 1 serves.\n")
    assert policy("promote", "1") == (0, "Nothing changed: version 1 serves.\n")
    assert policy("promote", "2")[0] == 0
    assert policy("rollback", "--reason", "worse") == (0, "Done: version 1 serves.\n")
    assert policy("rollback") == (0, "Done: version 0 serves.\n")
    assert policy("rollback", "--to", "1") == (0, "Done: version 1 serves.\n")
    assert policy("rollback", "--to", "1") == (0, "Nothing changed: version 1 serves.\n")
    assert (serves(store), state(store, two)) == (1, "rolled_back")
    with store.session() as session:
        past = policy_life.history(session, limit=100)
        assert {entry.actor for entry in past if entry.actor != "test"} == {f"login:{getuser()}"}
        assert learning.read(session).frozen_reason == "version 2 was rolled back to 1: worse"


def test_discard(policy: Policy, store: Store, answers: Answers) -> None:
    [one] = answers()
    grade(store, one)
    row, _ = improve(store, [one], "hold")
    assert policy("discard", "1") == (0, "Done: version 0 serves.\n")
    assert policy("discard", "1") == (0, "Nothing changed: version 0 serves.\n")
    assert state(store, row) == "refused"


def test_switches(policy: Policy, store: Store) -> None:
    for on, off, name in (("freeze", "thaw", "frozen"), ("pin", "unpin", "pinned")):
        code, first = policy(on, "--reason", "exam week")
        assert (code, policy(on)[1]) == (0, first.strip() + " It was so already.\n")
        with store.session() as session:
            row = learning.read(session)
            assert (getattr(row, f"{name}_by"), getattr(row, f"{name}_reason")) == (f"login:{getuser()}", "exam week")
        assert json.loads(policy("status", "--json")[1])[name] == "exam week"
        code, last = policy(off)
        assert (code, policy(off)[1]) == (0, last.strip() + " It was so already.\n")
        assert json.loads(policy("status", "--json")[1])[name] is None


def test_status_says_why_nothing_is_learned(policy: Policy, store: Store, base_checkpoint: Checkpoint) -> None:
    code, shown = policy("status", LEPO_MIN_GRADES="8")
    assert code == 0
    assert "serving    0\n" in shown
    assert "learning   too few grades: 0 of 8 answers wait\n" in shown
    row = publish(store, base_checkpoint)
    facts = json.loads(policy("status", "--json")[1])
    assert facts["undecided"] == {"1": "candidate"}
    assert facts["learning"] == "version 1 is candidate and waits for a decision: promote or discard it"
    assert row.version == 1


def test_lists_and_history(policy: Policy, store: Store, base_checkpoint: Checkpoint) -> None:
    parent = base_checkpoint
    for _ in range(3):
        parent = publish(store, parent)
        promote(store, parent)
    policy("freeze", "--reason", "exam week")
    code, shown = policy("list", "--limit", "2")
    assert code == 0
    assert [line.split()[:4] for line in shown.splitlines()] == [
        ["3", "serving", "from", "2"],
        ["2", "retired", "from", "1"],
    ], "the parent of the last one is on the next page, and known all the same"
    assert [row["parent"] for row in json.loads(policy("list", "--json")[1])] == [2, 1, 0, None]
    code, shown = policy("history", "--limit", "3")
    assert code == 0
    assert [line.split()[2:4] for line in shown.splitlines()] == [["3", "freeze"], ["3", "promote"], ["2", "retire"]]
    assert "exam week" in shown


def test_lineage(policy: Policy, store: Store, answers: Answers) -> None:
    ids = answers(2)
    grade(store, *ids, value=0.5)
    improve(store, ids)
    code, shown = policy("lineage", "1")
    assert code == 0
    assert shown.splitlines() == [
        "version 1 contains 2 answers, by grader {'client': 2}",
        "  version 1: 2 answers, mean reward 0.500",
        "  version 0: 0 answers",
    ]
    facts = json.loads(policy("lineage", "1", "--json")[1])
    assert facts["contents"] == {"answers": 2, "by_key": {"server": 2}, "by_grader": {"client": 2}}


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("promote", "7"), "There is no checkpoint of version 7"),
        (("discard", "7"), "There is no checkpoint of version 7"),
        (("lineage", "7"), "There is no checkpoint of version 7"),
        (("rollback", "--to", "7"), "There is no checkpoint of version 7"),
        (("rollback",), "name a version to serve"),
        (("discard", "0"), "Version 0 is serving; 'discard' is not possible from there"),
    ],
    ids=str,
)
def test_mistakes_are_told_in_words(policy: Policy, arguments: tuple[str, ...], words: str) -> None:
    code, output = policy(*arguments)
    assert (code, output.startswith("Error: ")) == (1, True)
    assert words in output


@pytest.mark.parametrize("version", ["-1", "x", str(2**63)])
def test_what_is_no_version(policy: Policy, version: str) -> None:
    code, output = policy("promote", "--", version)
    assert code == 2
    assert "VERSION" in output


def test_who_has_no_name_has_a_number(policy: Policy, store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """In a container, a user may have no entry among the accounts."""

    def nobody(uid: int) -> None:
        raise KeyError(uid)

    for name in ("LOGNAME", "USER", "LNAME", "USERNAME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr("pwd.getpwuid", nobody)
    assert policy("freeze")[0] == 0
    with store.session() as session:
        by = learning.read(session).frozen_by
    assert by is not None
    assert by.removeprefix("login:").isdecimal()


def test_without_a_database_it_says_what_to_do(tmp_path_factory: pytest.TempPathFactory) -> None:
    code, output = lepo("policy", "status", LEPO_VAR_DIR=str(tmp_path_factory.mktemp("empty")))
    assert code == 1
    assert "lepo up" in output
