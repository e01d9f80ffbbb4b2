"""The gate asks what was uploaded, before what the settings name, and nobody learns from it."""

import json
from pathlib import Path

from app.store import held_out
from tests.worker.world import World, write_heldout
from worker.gate.comparison import questions
from worker.learn import learn

ALWAYS_RIGHT = {"type": "string_check", "reference": "no byte soup is this", "operation": "ne"}


def lines_of(*prompts: str) -> str:
    return "".join(json.dumps({"prompt": prompt, "grader": ALWAYS_RIGHT}) + "\n" for prompt in prompts)


def upload(world: World, *prompts: str) -> int:
    with world.store.session() as session:
        row = held_out.add(session, lines_of(*prompts), len(prompts), "ada")
        held_out.activate(session, row.version, "ada")
        return row.version


def test_an_update_is_judged_by_what_was_uploaded(world: World) -> None:
    """Without a setting, on any machine that sees the database."""
    version = upload(world, "an uploaded question", "another one")
    secret = world.grade(world.ask(["An uploaded  question"], choices=8))
    world.samples()
    assert learn(world.context) == "promoted"
    gate = world.jobs()[0].metrics["gate"]
    assert gate["held_out"] == f"held-out set {version}"
    assert gate["decision"] == "pass"
    assert gate["asked"]["candidate"] > 0
    claimed = world.claims()
    assert {claimed[one] for one in secret} == {("skipped", "held_out")}


def test_the_active_upload_goes_before_the_settings_file(world: World, tmp_path: Path) -> None:
    held = write_heldout(tmp_path / "held.jsonl", ["of the file"], ALWAYS_RIGHT)
    both = world.with_settings(heldout=held)

    def asked() -> tuple[str, list[str]]:
        with both.store.session() as session:
            found = questions(session, both.settings, both.policy())
        assert found is not None
        return found.source, [one.said for one in found.questions.values()]

    assert asked() == (str(held), ["of the file"])
    first = upload(both, "uploaded first")
    second = upload(both, "uploaded second", "and more")
    assert asked() == (f"held-out set {second}", ["uploaded second", "and more"])
    for version, said in ((first, "uploaded first"), (held_out.NONE, "of the file")):
        with both.store.session() as session:
            assert held_out.activate(session, version, "ada")
            assert not held_out.activate(session, version, "ada"), "it is so already"
        assert asked()[1] == [said]


def test_the_sealed_share_of_an_upload_is_never_asked(world: World) -> None:
    upload(world, *(f"question {index}" for index in range(60)))
    half = world.with_settings(heldout_sealed=0.5, heldout_size=40)
    with half.store.session() as session:
        found = questions(session, half.settings, half.policy())
    assert found is not None
    assert 8 < len(found.sealed) == 40 - len(found.questions) < 32
    assert not found.sealed.keys() & found.questions.keys()
