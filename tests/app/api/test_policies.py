"""Moves of policies and switches of learning over HTTP: once each, however often they are sent, and written down."""

from collections.abc import Iterator
from typing import Any
from uuid import UUID

import httpx
import pytest

from app.api.policy.suspect import ENOUGH
from app.identifiers import read, show
from app.store import checkpoints, learning, policy_life
from app.store.grades import Entry, add_grade
from app.store.policy_life import Event
from app.store.tables import Checkpoint, Interaction
from tests.app.api.live import Live, new_checkpoint, wait_for
from tests.app.store.acts import improve

SWITCHES = [("freeze", "thaw", "frozen"), ("pin", "unpin", "pinned")]


@pytest.fixture
def admin(live: Live) -> Iterator[httpx.Client]:
    """An operator of a service that learns; what a test froze or pinned is undone."""
    yield live.http("admin")
    with live.store.session() as session:
        learning.thaw(session, "test")
        learning.unpin(session, "test")


@pytest.fixture
def me(live: Live) -> str:
    return live.keys["admin"].split("-")[1]


def promoted(live: Live, seed: int) -> int:
    """Publish weights and serve them."""
    version = new_checkpoint(live, seed=seed)
    assert live.http("admin").post(f"/v1/admin/checkpoints/{version}/promote").status_code == 200
    return version


def serving(live: Live) -> int:
    with live.store.session() as session:
        row = policy_life.serving(session)
        assert row is not None
        return row.version


def waiting(live: Live, event: Event = "hold", answers: int = 0) -> tuple[Checkpoint, list[str]]:
    """Make a policy that waits for a decision, from graded answers."""
    asked = [live.answer(seed=None)["choices"][0]["interaction_id"] for _ in range(answers)]
    for one in asked:
        assert live.http().post(f"/v1/interactions/{one}/grades", json={"value": 1}).status_code == 201
    return improve(live.store, [read("int", one) for one in asked], event)[0], asked


def moves(admin: httpx.Client, limit: int) -> list[dict[str, Any]]:
    """The last moves, the oldest of them first."""
    found: list[dict[str, Any]] = admin.get("/v1/admin/transitions", params={"limit": limit}).json()["data"]
    return found[::-1]


def answer_of(response: httpx.Response) -> tuple[int, str]:
    return response.status_code, response.json()["error"]["message"]


def test_a_policy_is_promoted_served_and_rolled_back(live: Live, admin: httpx.Client, me: str) -> None:
    before = serving(live)
    version = new_checkpoint(live, seed=1)
    done = admin.post(f"/v1/admin/checkpoints/{version}/promote", json={"reason": "better"}).json()
    assert (done["version"], done["state"], done["changed"]) == (version, "serving", True)
    assert admin.post(f"/v1/admin/checkpoints/{done['id']}/promote").json()["changed"] is False
    wait_for(lambda: live.engine.version == version)
    back = admin.post("/v1/admin/rollback").json()
    assert (back["version"], back["changed"]) == (before, True)
    wait_for(lambda: live.engine.version == before)
    last = moves(admin, 5)
    assert [(one["event"], one["from"], one["to"]) for one in last] == [
        ("retire", "serving", "retired"),
        ("promote", "candidate", "serving"),
        ("roll_back", "serving", "rolled_back"),
        ("restore", "retired", "serving"),
        ("freeze", "serving", "serving"),
    ]
    assert {one["actor"] for one in last} == {me}
    assert last[1]["reason"] == "better"
    shown = admin.get(f"/v1/admin/checkpoints/{version}").json()
    assert shown["state"] == "rolled_back"
    assert [one["event"] for one in shown["transitions"]] == ["roll_back", "promote"]
    wait_for(lambda: admin.get("/v1/admin/swaps").json()["data"][0]["to_version"] == before)


def test_a_policy_whose_logits_are_not_numbers_is_rolled_back_by_itself(
    live: Live, admin: httpx.Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    """E5: its requests fail one by one with a clear word, and what served before serves again."""
    before = serving(live)
    version = promoted(live, 9)
    wait_for(lambda: live.engine.version == version)
    rows = live.engine._lanes.serving.rows
    forward = rows.forward
    monkeypatch.setattr(rows, "forward", lambda *given, **named: forward(*given, **named) * float("nan"))
    for _ in range(ENOUGH):
        failed = live.chat()
        assert failed.status_code == 500
        assert "not numbers" in failed.json()["error"]["message"]
    wait_for(lambda: live.engine.version == before)
    monkeypatch.undo()
    assert live.chat().status_code == 200
    assert admin.get(f"/v1/admin/checkpoints/{version}").json()["state"] == "rolled_back"
    back = next(one for one in moves(admin, 4) if one["event"] == "roll_back")
    assert (back["actor"], "not numbers" in back["reason"]) == ("server", True)


def test_a_rollback_sent_again_with_its_key_changes_nothing(live: Live, admin: httpx.Client) -> None:
    """A proxy's retry; and without a key, one goes further back, never forward to the bad policy."""
    base = serving(live)
    one, two = promoted(live, 2), promoted(live, 3)
    headers = {"Idempotency-Key": "back-1"}
    first = admin.post("/v1/admin/rollback", headers=headers).json()
    assert first["version"] == one
    assert [admin.post("/v1/admin/rollback", headers=headers).json() for _ in range(3)] == [first] * 3
    assert serving(live) == one
    assert admin.post("/v1/admin/rollback").json()["version"] == base
    assert serving(live) == base
    reused = admin.post("/v1/admin/rollback", headers=headers, json={"to": str(two)})
    assert (reused.status_code, reused.json()["error"]["code"]) == (422, "idempotency_key_reused")


def test_a_rollback_to_a_named_policy_is_the_same_twice(live: Live, admin: httpx.Client) -> None:
    base = serving(live)
    promoted(live, 4)
    promoted(live, 5)
    assert admin.post("/v1/admin/rollback", json={"to": str(base)}).json()["changed"] is True
    again = admin.post("/v1/admin/rollback", json={"to": str(base)}).json()
    assert (again["version"], again["changed"]) == (base, False)


@pytest.mark.parametrize("state", ["hold", "shadow", "canary"])
def test_a_policy_that_waits_is_discarded_once_and_its_answers_are_given_back(
    live: Live, admin: httpx.Client, state: Event
) -> None:
    row, [one] = waiting(live, state, answers=1)
    words = admin.get("/v1/admin/learning").json()["waiting_for"]
    assert words.startswith(f"version {row.version} is {row.state if state != 'hold' else 'held'}") or state in words
    assert live.http().get(f"/v1/interactions/{one}").json()["learning"]["outcome"] == "claimed"
    path, headers = f"/v1/admin/checkpoints/{row.version}/discard", {"Idempotency-Key": f"discard-{state}"}
    first = admin.post(path, headers=headers, json={"reason": "no"}).json()
    assert first["changed"] is True
    assert admin.post(path, headers=headers, json={"reason": "no"}).json() == first
    assert admin.post(path).json()["changed"] is False
    shown = live.http().get(f"/v1/interactions/{one}").json()
    assert (shown["learning"], shown["claimed"]) == (None, False)
    assert admin.get(f"/v1/admin/checkpoints/{row.version}").json()["state"] == "refused"


def test_a_rollback_discards_what_waits(live: Live, admin: httpx.Client) -> None:
    promoted(live, 6)
    row, [one] = waiting(live, answers=1)
    assert admin.post("/v1/admin/rollback").json()["changed"] is True
    assert admin.get(f"/v1/admin/checkpoints/{row.version}").json()["state"] == "refused"
    assert live.http().get(f"/v1/interactions/{one}").json()["learning"] is None


def test_a_promotion_names_what_it_expects(live: Live, admin: httpx.Client) -> None:
    base = serving(live)
    version, other = new_checkpoint(live, seed=7), promoted(live, 8)
    path = f"/v1/admin/checkpoints/{version}/promote"
    refused = admin.post(path, json={"expect": str(base)})
    assert (refused.status_code, refused.json()["error"]["code"]) == (409, "overtaken")
    assert f"version {other} serves by now" in refused.json()["error"]["message"]
    assert serving(live) == other
    headers = {"Idempotency-Key": "expected"}
    done = admin.post(path, json={"expect": str(other)}, headers=headers)
    assert done.json()["version"] == version
    assert admin.post(path, json={"expect": str(other)}, headers=headers).json() == done.json()
    assert admin.post(path, json={"expect": str(other)}).json()["changed"] is False, "it is so already"


def test_what_cannot_be_done_is_told_in_words(live: Live, admin: httpx.Client) -> None:
    assert answer_of(admin.post("/v1/admin/checkpoints/999/promote")) == (404, "There is no checkpoint of version 999")
    assert admin.post("/v1/admin/checkpoints/ckpt_x/discard").status_code == 404
    assert admin.post("/v1/admin/rollback", json={"to": "99999999999999999999"}).status_code == 404
    assert admin.get("/v1/admin/transitions", params={"after": show("move", UUID(int=1))}).status_code == 404
    status, words = answer_of(admin.post(f"/v1/admin/checkpoints/{serving(live)}/discard"))
    assert (status, "is serving; 'discard' is not possible from there" in words) == (409, True)
    row, _ = waiting(live)
    status, words = answer_of(admin.post("/v1/admin/rollback", json={"to": str(row.version)}))
    assert (status, "possible: canary, discard, promote" in words) == (409, True)
    assert admin.post(f"/v1/admin/checkpoints/{row.version}/discard").status_code == 200
    status, words = answer_of(admin.post(f"/v1/admin/checkpoints/{row.version}/promote"))
    assert (status, words.startswith(f"Version {row.version} is refused")) == (409, True)


@pytest.mark.parametrize(("on", "off", "name"), SWITCHES, ids=["freeze", "pin"])
def test_switches_are_thrown_once_and_say_who(
    live: Live, admin: httpx.Client, me: str, on: str, off: str, name: str
) -> None:
    headers = {"Idempotency-Key": f"{on}-1"}
    first = admin.post(f"/v1/admin/learning/{on}", json={"reason": "exam week"}, headers=headers).json()
    assert first["changed"] is True
    assert (first[name]["by"], first[name]["reason"]) == (me, "exam week")
    assert "exam week" in first["waiting_for"]
    assert admin.post(f"/v1/admin/learning/{on}", json={"reason": "exam week"}, headers=headers).json() == first
    assert admin.post(f"/v1/admin/learning/{on}").json()["changed"] is False
    assert admin.get("/v1/admin/learning").json()[name] == first[name]
    assert admin.get("/v1/admin/overview").json()[name] == "exam week"
    done = admin.post(f"/v1/admin/learning/{off}", headers={"Idempotency-Key": f"{off}-1"}).json()
    assert (done["changed"], done[name]) == (True, None)
    assert admin.post(f"/v1/admin/learning/{off}").json()["changed"] is False
    assert [(one["event"], one["actor"]) for one in moves(admin, 2)] == [(on, me), (off, me)]
    late = admin.post(f"/v1/admin/learning/{on}", json={"reason": "exam week"}, headers=headers).json()
    assert late == first, "the answer of then"
    assert admin.get("/v1/admin/learning").json()[name] is None


def test_what_is_pinned_is_not_promoted_over(live: Live, admin: httpx.Client, me: str) -> None:
    version = new_checkpoint(live, seed=9)
    admin.post("/v1/admin/learning/pin", json={"reason": "a paper rests on it"})
    status, words = answer_of(admin.post(f"/v1/admin/checkpoints/{version}/promote"))
    assert (status, words) == (409, f"What serves is pinned by {me} (a paper rests on it); unpin it first")


def test_learning_says_what_waits_and_why_nothing_is_learned(live: Live, admin: httpx.Client) -> None:
    with live.store.session() as session:
        for row in policy_life.undecided(session):
            policy_life.discard(session, row.id, "not this test's", "test")
    before = admin.get("/v1/admin/learning").json()
    own = live.answer()["choices"][0]["interaction_id"]
    live.http().post(f"/v1/interactions/{own}/grades", json={"value": 1})
    seen = admin.get("/v1/admin/learning").json()
    assert seen["answers_waiting"] == before["answers_waiting"] + 1
    assert seen["waiting_for"].startswith("too few grades: ")
    assert (seen["running"], seen["refusals"], seen["rate_scale"], seen["batch_scale"]) == (False, 0, 1.0, 1.0)
    frozen = admin.post("/v1/admin/learning/freeze", json={"reason": "why"}).json()
    assert frozen["answers_waiting"] == seen["answers_waiting"], "frozen or not, they wait"


def test_the_history_in_pages(live: Live, admin: httpx.Client) -> None:
    for _ in range(2):
        admin.post("/v1/admin/learning/freeze")
        admin.post("/v1/admin/learning/thaw")
    whole = [one["id"] for one in admin.get("/v1/admin/transitions", params={"limit": 1000}).json()["data"]]
    seen: list[str] = []
    more = True
    while more:
        page = admin.get("/v1/admin/transitions", params={"limit": 3, **({"after": seen[-1]} if seen else {})}).json()
        seen += [one["id"] for one in page["data"]]
        more = page["has_more"]
    assert seen == whole
    assert len(seen) == len(set(seen)) > 4


def test_checkpoints_are_listed_by_state(live: Live, admin: httpx.Client) -> None:
    row, _ = waiting(live)
    listed = admin.get("/v1/admin/checkpoints", params={"state": "held"}).json()["data"]
    assert [one["version"] for one in listed] == [row.version]
    assert admin.get("/v1/admin/checkpoints", params={"state": "published"}).status_code == 400
    assert admin.post(f"/v1/admin/checkpoints/{row.version}/discard").status_code == 200


def test_an_answer_names_its_policy_and_what_was_made_of_it(live: Live, admin: httpx.Client) -> None:
    row, [one, other] = waiting(live, answers=2)
    key = live.keys["both"].split("-")[1]
    asked_of = serving(live)
    with live.store.session() as session:
        answered = session.get(Interaction, read("int", one))
        assert answered is not None
        answered_by = checkpoints.get_checkpoint(session, answered.checkpoint_id)
        add_grade(session, answered.id, Entry("math", "m", value=0.0))
    shown = live.http().get(f"/v1/interactions/{one}").json()
    assert shown["policy"] == {
        "id": show("ckpt", answered_by.id),
        "version": answered_by.version,
        "state": answered_by.state,
    }
    made = {"version": row.version, "state": "held"}
    claimed = {"outcome": "claimed", "reason": None, "divergence": None, "weight": None, "policy": made}
    assert {name: shown["learning"][name] for name in claimed} == claimed
    assert learned_by(live, row.version) == set()
    with live.store.session() as session:  # by the row alone: there are no weights to serve
        policy_life.promote(session, row.id, "wanted", "test")
    assert live.http().get(f"/v1/interactions/{one}").json()["learning"]["outcome"] == "learned"
    assert learned_by(live, row.version) == {one, other}
    assert live.http("infer").get("/v1/interactions", params={"learned_by": row.version}).json()["data"] == []
    found = admin.get(f"/v1/admin/checkpoints/{row.version}/lineage").json()
    assert found["contents"]["answers"] == 2
    assert found["contents"]["by_key"] == {key: 2, "server": 1}
    assert found["contents"]["by_grader"] == {"client": 2, "math": 1}
    assert [each["version"] for each in found["ancestors"]][:2] == [row.version, asked_of]
    assert (found["ancestors"][0]["learned"], found["ancestors"][0]["reward"]) == (2, 0.75)
    assert admin.post("/v1/admin/rollback").json()["version"] == asked_of
    assert learned_by(live, row.version) == {one, other}, "still what that policy was made of"


def learned_by(live: Live, version: int) -> set[str]:
    rows = live.http().get("/v1/interactions", params={"learned_by": version}).json()["data"]
    return {row["id"] for row in rows}
