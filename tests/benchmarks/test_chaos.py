"""The audit of `lepo bench chaos` finds every kind of damage, and its quick form finds none in the product."""

import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from pathlib import Path

import pytest
from click.testing import CliRunner
from sqlalchemy import select, text
from sqlalchemy.orm import Session

from app.store.connect import Store, open_store
from app.store.tables import Grade
from benchmarks.chaos import audit as auditing
from benchmarks.chaos.audit import audit, in_database, loaded_otherwise
from benchmarks.chaos.command import command, report_of
from benchmarks.chaos.crowd import Records
from benchmarks.chaos.kinds import KINDS
from benchmarks.chaos.queries import COUNTERS
from benchmarks.chaos.trial import Run
from tests.worker.world import World, make_model, make_world
from worker.learn import learn

SOME_LEARNED = "interaction_id = (SELECT min(interaction_id::text)::uuid FROM claims WHERE outcome = 'learned')"
SECOND_OF_ITS_JOB = """
INSERT INTO checkpoints (id, version, path, digest, job_id, state, metrics)
SELECT gen_random_uuid(), 5, path, digest, job_id, 'retired', '{}' FROM checkpoints WHERE version = 1
"""
NEVER_SERVED = """
INSERT INTO checkpoints (id, version, path, digest, state, metrics)
SELECT gen_random_uuid(), 5, path, digest, 'refused', '{}' FROM checkpoints WHERE version = 1
"""
BY_IT = """
UPDATE interactions SET checkpoint_id = (SELECT id FROM checkpoints WHERE version = 5)
WHERE id = (SELECT id FROM interactions WHERE NOT claimed LIMIT 1)
"""
OTHER_WEIGHTS = """
INSERT INTO swaps (id, replica, to_version, status, fingerprint)
VALUES (gen_random_uuid(), 'one', 1, 'served', 'other')
"""
DAMAGES = {
    "an answer is gone": (
        "lost_interactions",
        ["DELETE FROM interactions WHERE id = (SELECT id FROM interactions WHERE NOT claimed LIMIT 1)"],
    ),
    "a grade is gone": ("lost_grades", ["DELETE FROM grades WHERE entry = (SELECT min(entry) FROM grades)"]),
    "a grade says something else": (
        "lost_grades",
        ["UPDATE grades SET value = 1 - value WHERE entry = (SELECT min(entry) FROM grades)"],
    ),
    "a grade counts for nothing": (
        "lost_grades",
        ["UPDATE interactions SET graded_at = NULL WHERE id = (SELECT id FROM interactions WHERE NOT claimed LIMIT 1)"],
    ),
    "an answer is claimed twice": (
        "double_trained",
        [
            "ALTER TABLE claims DROP CONSTRAINT pk_claims",
            f"INSERT INTO claims SELECT * FROM claims WHERE {SOME_LEARNED}",
        ],
    ),
    "an answer in the batch has no claim": ("double_trained", [f"DELETE FROM claims WHERE {SOME_LEARNED}"]),
    "a job made two policies": (
        "double_trained",
        [SECOND_OF_ITS_JOB],
    ),
    "what was learned never served": (
        "double_trained",
        ["DELETE FROM transitions WHERE checkpoint_id = (SELECT id FROM checkpoints WHERE version = 1)"],
    ),
    "nothing serves": ("wrong_serving", ["UPDATE checkpoints SET state = 'retired' WHERE state = 'serving'"]),
    "another serves than was promoted last": (
        "wrong_serving",
        [
            "UPDATE checkpoints SET state = 'retired' WHERE version = 1",
            "UPDATE checkpoints SET state = 'serving' WHERE version = 0",
        ],
    ),
    "an update overtook another policy": ("wrong_serving", ["UPDATE checkpoints SET parent_id = id WHERE version = 1"]),
    "an update was promoted while frozen": (
        "wrong_serving",
        ["UPDATE transitions SET event = 'freeze' WHERE entry = (SELECT min(entry) FROM transitions)"],
    ),
    "an answer of a policy that never served": (
        "wrong_serving",
        [
            NEVER_SERVED,
            BY_IT,
        ],
    ),
    "an answer is spent for a fault of others": (
        "burnt_answers",
        [f"UPDATE claims SET outcome = 'skipped', reason = 'unreadable' WHERE {SOME_LEARNED}"],
    ),
    "an answer is spent after one refusal": (
        "burnt_answers",
        [f"UPDATE claims SET outcome = 'skipped', reason = 'refused' WHERE {SOME_LEARNED}"],
    ),
    "an answer is claimed by nobody": ("burnt_answers", ["UPDATE interactions SET claimed = true WHERE NOT claimed"]),
    "a job runs beyond its lease": (
        "stuck_jobs",
        ["UPDATE jobs SET status = 'running', finished_at = NULL, lease_until = now() - interval '1 minute'"],
    ),
    "claims outlive their job": ("stuck_jobs", ["UPDATE claims SET outcome = 'claimed' WHERE outcome = 'learned'"]),
    "a candidate has no job": ("stuck_jobs", ["UPDATE checkpoints SET state = 'candidate' WHERE version = 1"]),
    "a server held other weights": (
        "half_checkpoints_served",
        [OTHER_WEIGHTS],
    ),
}


@pytest.fixture(scope="module")
def world(module_database_url: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    """One update was made and serves; two answers still wait for theirs. Each test leaves it as it was."""
    directory = tmp_path_factory.mktemp("world")
    with closing(open_store(module_database_url)) as store:
        made = make_world(store, make_model(directory / "model"), directory / "var")
        made.samples(groups=4)
        assert learn(made.context) == "promoted"
        made.samples(groups=1, choices=2)
        yield made


@pytest.fixture(autouse=True)
def no_time_to_settle(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody else works in this world."""
    monkeypatch.setattr(auditing, "SETTLED_S", 0.0)
    monkeypatch.setattr(auditing, "TIDY_S", 0.0)


def records(store: Store) -> Records:
    """What clients were told, had they asked and graded all that is there."""
    found = Records()
    with store.session() as session:
        for grade in session.scalars(select(Grade)):
            assert grade.value is not None
            found.answers.add(grade.interaction_id)
            found.grades[grade.id] = (grade.interaction_id, grade.value)
    return found


def counters(world: World, told: Records, version: Callable[[], int | None] = lambda: 1) -> dict[str, int]:
    return dict(audit(world.store, told, version, world.checkpoints_dir)[0])


def test_a_sound_service_has_nothing_against_it(world: World) -> None:
    told = records(world.store)
    assert len(told.answers) == 18
    assert counters(world, told) == dict.fromkeys(COUNTERS, 0)


@pytest.mark.parametrize("damage", DAMAGES)
def test_every_damage_to_the_tables_is_counted(damage: str, world: World) -> None:
    counter, statements = DAMAGES[damage]
    told = records(world.store)
    with Session(world.store.engine) as session:  # rolled back
        for statement in statements:
            session.execute(text(statement))
        found, words = in_database(session, told.answers, told.grades)
        found["half_checkpoints_served"] += len(loaded_otherwise(session))
    assert found[counter] > 0, words


def test_a_server_that_serves_something_else_is_counted(world: World) -> None:
    assert counters(world, records(world.store), lambda: 0)["wrong_serving"] == 1


def test_a_served_checkpoint_that_is_not_whole_is_counted(world: World) -> None:
    weights = Path(world.serving().path) / "model.safetensors"
    whole = weights.read_bytes()
    weights.write_bytes(whole[:-1])
    try:
        assert counters(world, records(world.store))["half_checkpoints_served"] == 1
    finally:
        weights.write_bytes(whole)


@pytest.mark.parametrize(("name", "leaked"), [("v00000009", 1), (".unfinished-v00000002-aa", 1), ("v00000002", 0)])
def test_directories_of_nobody_are_counted_but_for_the_next_versions(name: str, leaked: int, world: World) -> None:
    (world.checkpoints_dir / name).mkdir()
    try:
        assert counters(world, records(world.store))["leaked_files"] == leaked
    finally:
        (world.checkpoints_dir / name).rmdir()


def test_a_directory_that_was_written_off_and_stayed_is_counted(world: World) -> None:
    written_off = "UPDATE checkpoints SET files_deleted_at = {} WHERE version = 0"
    with world.store.session() as session:
        session.execute(text(written_off.format("now()")))
    try:
        assert counters(world, records(world.store))["leaked_files"] == 1
    finally:
        with world.store.session() as session:
            session.execute(text(written_off.format("NULL")))


def test_the_report_takes_the_worst_of_each_counter_and_counts_what_did_not_recover() -> None:
    def run(kind: str, recovered_s: float | None, *, late: bool, **found: int) -> Run:
        return Run(kind, recovered_s, late, found, [], 1.0)

    runs: Sequence[Run] = (
        run("a", 2.0, late=False, lost_grades=1),
        run("a", 9.0, late=True),
        run("b", None, late=True, lost_grades=3),
    )
    report = report_of(runs, {"c": "not here"}, {200: 7, 500: 2})
    assert (report["kinds"], report["runs_of_each"], report["not_recovered"]) == (2, 1, 2)
    assert (report["lost_grades"], report["lost_interactions"], report["server_errors"]) == (3, 0, 2)
    assert report["by_kind"]["a"]["recovered_s_most"] == 9.0
    assert report["by_kind"]["b"]["recovered_s_most"] is None


def test_there_are_as_many_kinds_as_promised_and_a_quick_handful() -> None:
    assert len(KINDS) >= 25
    assert 6 <= sum(kind.quick for kind in KINDS.values()) <= 8


@pytest.mark.timeout(900)
def test_the_quick_form_breaks_a_real_service_and_finds_nothing_lost(tmp_path: Path) -> None:
    out = tmp_path / "report.json"
    done = CliRunner().invoke(command, ["--quick", "--json", "--directory", str(tmp_path / "s"), "--out", str(out)])
    assert done.exit_code == 0, done.output
    report = json.loads(out.read_text())
    words = [word for row in report["by_kind"].values() for word in row["words"]]
    assert {name: report[name] for name in COUNTERS} == dict.fromkeys(COUNTERS, 0), words
    assert report["server_errors"] == 0
    assert report["kinds"] == sum(kind.quick for kind in KINDS.values())
    assert all(run["recovered_s"] is not None for run in report["raw"]), words


def test_an_unknown_kind_is_a_usage_error() -> None:
    done = CliRunner().invoke(command, ["--kinds", "earthquake"])
    assert done.exit_code == 2
    assert "there are learner-killed-in-batch" in done.output
