"""Episodes end to end: turns over HTTP, one grade for all of them, an update by a real job."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from sqlalchemy import select

from app.identifiers import read
from app.store.connect import Store
from app.store.keys import create_key
from app.store.tables import Claim, Interaction, Job
from app.store.trust import set_trust
from tests.app.api.live import Live, served
from training.advantage import Graded, Tracker
from worker.batch import build
from worker.learn import learn
from worker.resident import Context, Resident
from worker.samples import Sample

from .test_samples import rollout

TURNS = 3
TOOL = " tool: 7 "


class Played:
    """A server on which episodes are played, and the worker that learns from them."""

    def __init__(self, live: Live) -> None:
        self.live = live
        changes = {
            "min_grades": 2,
            "max_grades": 64,
            "group_grace": 3600.0,
            "key_patience": 0.0,
            "max_divergence": 10.0,
        }
        more = {"gate_no_signal": "promote", "learning_rate": 1e-3}
        settings = live.settings.model_copy(update={**changes, **more})
        self.context = Context(settings, live.store, "redis+socket:///nowhere", Resident(settings))

    def play(self, name: str, opening: str = "w5", **body: Any) -> list[UUID]:
        """Ask turn after turn, each prompt the one before with its answer and what a tool said."""
        prompt, ids = opening, []
        for turn in range(TURNS):
            asked = {
                "model": "lepo",
                "prompt": prompt,
                "max_tokens": 4,
                "session_id": name,
                "seed": hash(name) % 97 + turn,
            }
            answer = self.live.http().post("/v1/completions", json={**asked, **body})
            assert answer.status_code == 200, answer.text
            choice = answer.json()["choices"][0]
            assert choice["turn"] == turn + 1
            ids.append(read("int", choice["interaction_id"]))
            prompt += choice["text"] + TOOL
        return ids

    def grade(self, name: str, value: float, **body: Any) -> None:
        made = self.live.http().post(f"/v1/sessions/{name}/grades", json={"value": value, **body})
        assert made.status_code == 201, made.text

    def claims(self) -> dict[UUID, tuple[str, str | None]]:
        with self.live.store.session() as session:
            return {row.interaction_id: (row.outcome, row.reason) for row in session.scalars(select(Claim))}

    def learn(self) -> str:
        """Learn, and say what came of it; of a job that ended badly, why."""
        outcome = learn(self.context)
        if outcome != "ended":
            return outcome
        with self.live.store.session() as session:
            return str(session.scalars(select(Job).order_by(Job.id.desc()).limit(1)).one().error)

    def metrics(self) -> dict[str, Any]:
        """Figures of the last job."""
        with self.live.store.session() as session:
            return session.scalars(select(Job).order_by(Job.id.desc()).limit(1)).one().metrics


@pytest.fixture
def played(database_url: str, model_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Played]:
    monkeypatch.setattr("app.api.policy.watch.LOOK_S", 3600.0)  # what is learned need not be served here
    with served(database_url, model_dir, tmp_path, max_length=128, latent_length=1) as live:
        yield Played(live)


@pytest.mark.parametrize(
    ("rule", "credited"),
    [
        ({"credit": "last_turn"}, [2]),
        ({"credit": "all_turns"}, [0, 1, 2]),
        ({"credit": "discounted", "discount": 0.5}, [0, 1, 2]),
        ({"credit": "discounted", "discount": 0.05}, [1, 2]),
    ],
)
def test_an_episode_graded_once_is_learned_from(played: Played, rule: dict[str, Any], credited: list[int]) -> None:
    episodes = {name: played.play(name) for name in ("a", "b", "c", "d")}
    for index, name in enumerate(episodes):
        played.grade(name, float(index % 2), **rule)
    assert played.learn() == "promoted"
    expected = {ids[turn] for ids in episodes.values() for turn in credited}
    assert played.claims() == dict.fromkeys(expected, ("learned", None))
    metrics = played.metrics()
    assert metrics["episodes"] == 4
    assert metrics["baselines"] == {"group": 4 * len(credited)}, "episodes that began alike are compared"
    played.grade("a", 0.5, **rule)
    assert played.learn() == "idle", "an answer is learned from once, whatever is said of it later"


def test_episodes_that_begin_otherwise_or_on_another_task_are_compared_over_the_batch(played: Played) -> None:
    played.play("a")
    played.play("b", opening="w6")
    played.play("c", metadata={"task": "another"})
    for index, name in enumerate("abc"):
        played.grade(name, float(index % 2))
    assert played.learn() == "promoted"
    assert played.metrics()["baselines"] == {"batch": 9}


def test_grades_of_answers_and_episodes_are_two_words(played: Played) -> None:
    ids = [played.play(name) for name in ("a", "b")]
    for index, name in enumerate("ab"):
        played.grade(name, float(index))
        first = f"int_{ids[index][0].hex}"
        assert played.live.http().post(f"/v1/interactions/{first}/grades", json={"value": 1 - index}).status_code == 201
    assert played.learn() == "promoted"
    assert played.metrics()["baselines"] == {"group": 6, "batch": 2}
    assert len(played.claims()) == 6


def test_what_a_key_in_quarantine_said_of_an_episode_is_not_learned_from(played: Played, store: Store) -> None:
    ids = [played.play(name) for name in ("a", "b")]
    with store.session() as session:
        key, secret = create_key(session, "liar", ["grade"])
    headers = {"Authorization": f"Bearer {secret}"}
    with store.session() as session:
        names = {row.id: row.session_id for row in session.scalars(select(Interaction))}
    for index, one in enumerate(ids):
        session_id = names[one[0]]
        assert session_id is not None
        url = f"/v1/sessions/sess_{session_id.hex}/grades"
        assert played.live.http(None).post(url, json={"value": index}, headers=headers).status_code == 201
    with store.session() as session:
        set_trust(session, key.id, "quarantined", "test", "it lies")
    assert played.learn() == "idle"
    with store.session() as session:
        assert not any(row.credited for row in session.scalars(select(Interaction)))
        set_trust(session, key.id, "ordinary", "test", "it does not")
    assert played.learn() == "promoted"


def sample(*words: Graded) -> Sample:
    from app.identifiers import uuid7

    return Sample(uuid7(), "", words[0], rollout(), words[1] if len(words) > 1 else None)


def test_the_advantages_of_two_words_are_added() -> None:
    own = [Graded(1.0, "r", 0, "k"), Graded(0.0, "r", 0, "k")]
    theirs = [Graded(0.0, "p", 0, "e", "a", 0.5), Graded(1.0, "p", 0, "e", "b", 0.5)]
    apart = build([sample(one) for one in own], "auto", {}, 0.0, divided=False).advantages
    shared = build([sample(one) for one in theirs], "auto", {}, 0.0, divided=False).advantages
    assert (apart, shared) == ([0.5, -0.5], [-0.25, 0.25])
    both = build([sample(*words) for words in zip(own, theirs, strict=True)], "auto", {}, 0.0, divided=False)
    assert both.advantages == [0.25, -0.25]
    assert both.baselines == {"group": 4}
    assert both.episodes == 2


def test_a_lone_episode_waits_unless_its_key_is_tracked() -> None:
    turns = [sample(Graded(1.0, "p", 0, "e", "a")) for _ in range(3)]
    assert len(build(turns, "auto", {}, 0.0).waiting) == 3
    assert [one.reason for one in build(turns, "group", {}, 0.0).skipped.values()] == ["no_group"] * 3
    tracked = build(turns, "auto", {"e": Tracker(1.0, 9.0, 0.0)}, 0.0)
    assert (tracked.waiting, tracked.baselines) == ([], {"tracker": 3})
