"""What stays on disk and what goes: by number, by quota, never under a reader; what a kill leaves is found again."""

import json
import signal
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from click.testing import CliRunner

from app.errors import Conflict
from app.settings import Settings
from app.store import checkpoints, policy_life
from app.store.connect import Store
from app.store.jobs import request, start
from app.store.policy_life import Event
from tests.app.store.learned import LEASE, age
from tests.conftest import Answers
from tests.worker.world import World
from training.models.checkpoint import MANIFEST, checkpoint_dir
from training.models.policy import Policy
from worker import commands
from worker.claim import begin
from worker.faults import INFRASTRUCTURE, end_of, environmental
from worker.job import RunningJob
from worker.publish import bytes_of, publish_files
from worker.retention import QuotaReached, begin_anew, clear, expired, make_room, prune, sweep, taken, too_many
from worker.watchdog import Watchdog

SIZE = 1000  # bytes of a made-up checkpoint


def test_the_newest_stay_and_of_refused_ones_a_few() -> None:
    states = {0: "retired", 1: "retired", 2: "refused", 3: "refused", 4: "retired", 5: "serving"}
    assert expired(states, keep=2, keep_refused=0, protected={0, 5}) == [1, 2, 3]
    assert expired(states, keep=10, keep_refused=1, protected={0, 5}) == [2]


def test_refused_ones_go_first_then_rolled_back_then_retired_the_oldest_in_front() -> None:
    states = {1: "retired", 2: "rolled_back", 3: "refused", 4: "retired", 5: "refused", 6: "serving", 7: "held"}
    sizes = dict.fromkeys(states, 10)
    assert too_many(sizes, states, {6, 7}, excess=50) == [3, 5, 2, 1, 4]
    assert too_many(sizes, states, {6, 7}, excess=11) == [3, 5]
    assert too_many(sizes, states, {6, 7, 3}, excess=1) == [5]
    assert too_many(sizes, states, {6, 7}, excess=0) == []
    assert too_many(sizes, states, {6, 7}, excess=1000) == [3, 5, 2, 1, 4], "what serves and what waits stay"


def settings(directory: Path, **changes: object) -> Settings:
    return Settings.model_validate({"var_dir": directory, "keep_checkpoints": 100, "keep_refused": 100, **changes})


def add(store: Store, parent: Path, *events: Event) -> int:
    """A policy with files of SIZE bytes, in the state that events lead to."""
    with store.session() as session:
        base = policy_life.serving(session)
        version = checkpoints.next_version(session)
        directory = checkpoint_dir(parent, version)
        directory.mkdir(parents=True)
        (directory / MANIFEST).write_bytes(b"{}")
        (directory / "model.safetensors").write_bytes(bytes(SIZE - 2))
        above = None if base is None else base.id
        row = checkpoints.publish(session, path=str(directory), digest="00" * 32, parent_id=above)
        for event in events:
            if event == "promote":
                policy_life.promote(session, row.id, "good", "test")
            else:
                policy_life.move(session, row.id, event, "because", "test")
        return version


@pytest.fixture
def parent(store: Store, tmp_path: Path) -> Path:
    """The base, then: 1 retired, 2 refused, 3 retired, 4 refused, 5 served before, 6 serves, 7 held."""
    directory = tmp_path / "checkpoints"
    lives: list[tuple[Event, ...]] = [("promote",), ("promote",), ("refuse",), ("promote",), ("refuse",)]
    for events in [*lives, ("promote",), ("promote",), ("hold",)]:
        add(store, directory, *events)
    return directory


def on_disk(parent: Path) -> set[int]:
    return {int(path.name[1:]) for path in parent.glob("v*")}


def without_files(store: Store) -> set[int]:
    with store.session() as session:
        rows = checkpoints.list_checkpoints(session, limit=1000)
        return {row.version for row in rows if row.files_deleted_at is not None}


def test_rows_and_files_go_together_by_number(store: Store, parent: Path) -> None:
    assert prune(store, settings(parent.parent, keep_checkpoints=2, keep_refused=0), parent) == [1, 2, 3, 4]
    assert on_disk(parent) == {0, 5, 6, 7}
    assert without_files(store) == {1, 2, 3, 4}
    assert sorted(path.name for path in parent.iterdir() if not path.name.startswith("v")) == []


@pytest.mark.parametrize(
    ("fitting", "left"),  # checkpoints of SIZE bytes that the quota holds, one to come among them
    [(9, {0, 1, 2, 3, 4, 5, 6, 7}), (8, {0, 1, 3, 4, 5, 6, 7}), (7, {0, 1, 3, 5, 6, 7}), (6, {0, 3, 5, 6, 7})],
)
def test_the_quota_takes_the_oldest_refused_then_the_oldest_retired(
    store: Store, parent: Path, fitting: int, left: set[int]
) -> None:
    make_room(store, settings(parent.parent, disk_quota=fitting * SIZE), parent, SIZE)
    assert on_disk(parent) == left
    assert on_disk(parent) == {0, 1, 2, 3, 4, 5, 6, 7} - without_files(store)


def test_rolled_back_ones_go_before_retired_ones(store: Store, parent: Path) -> None:
    with store.session() as session:
        policy_life.rollback(session, "ops")  # 6 is rolled back, 7 turned down
        policy_life.promote(session, checkpoints.by_version(session, 3).id, "better", "ops")  # 5 served before
    for fitting, left in ((5, {0, 1, 3, 5, 6}), (4, {0, 1, 3, 5}), (3, {0, 3, 5})):
        make_room(store, settings(parent.parent, disk_quota=fitting * SIZE), parent)
        assert on_disk(parent) == left


def test_where_nothing_more_may_go_there_is_a_clear_word_and_the_disk_is_not_filled(store: Store, parent: Path) -> None:
    with pytest.raises(QuotaReached, match="LEPO_DISK_QUOTA=4500") as caught:
        make_room(store, settings(parent.parent, disk_quota=4500), parent, SIZE)
    assert on_disk(parent) == {0, 5, 6, 7}
    assert end_of(caught.value) is INFRASTRUCTURE, "its answers are given back"
    assert environmental(caught.value), "it may pass by itself, so learning is not frozen for it"


def test_no_quota_is_no_bound(store: Store, parent: Path) -> None:
    assert make_room(store, settings(parent.parent), parent, 10**15) == []


LOADERS = {
    "a server that stages it": """
        from app.engine import stage
        stage.check = lambda directory, version: hold()
        stage.read(directory, 1, None)
    """,
    "a process that loads it": """
        from training.models import policy
        policy.causal_config = lambda where, revision: hold()
        (directory / "config.json").write_text("{}")
        policy.load_policy(directory, version=1, dtype=policy.torch.float32, device="cpu")
    """,
}


@contextmanager
def loading(directory: Path, how: str) -> Iterator[None]:
    """A process of its own that is in the middle of loading a checkpoint until the block ends."""
    program = f"""
import sys
from pathlib import Path
directory = Path({str(directory)!r})
def hold():
    print("loading", flush=True)
    sys.stdin.read()
    raise SystemExit(0)
{textwrap.dedent(LOADERS[how])}
"""
    with subprocess.Popen(
        [sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "loading\n"
        try:
            yield
        finally:
            process.kill()


@pytest.mark.parametrize("how", LOADERS)
def test_what_a_process_is_loading_stays_and_the_next_goes_instead(store: Store, parent: Path, how: str) -> None:
    with loading(checkpoint_dir(parent, 2), how):
        assert make_room(store, settings(parent.parent, disk_quota=7 * SIZE + 100), parent) == [4]
        prune(store, settings(parent.parent, keep_checkpoints=2, keep_refused=0), parent)
        assert on_disk(parent) == {0, 2, 5, 6, 7}
        assert 2 not in without_files(store), "its row does not say that it is gone"
    prune(store, settings(parent.parent, keep_checkpoints=2, keep_refused=0), parent)
    assert on_disk(parent) == {0, 5, 6, 7}


MOMENTS = {
    "when its row says so and its directory stands": "retention.set_aside = die",
    "when its directory is renamed": "retention.remove = die",
    "when half of it is removed": "retention.shutil.rmtree = lambda path: (next(path.glob('m*')).unlink(), die())",
}


@pytest.mark.parametrize("moment", MOMENTS)
def test_killed_while_a_checkpoint_is_being_removed(store: Store, database_url: str, parent: Path, moment: str) -> None:
    program = f"""
import os, signal
from pathlib import Path
from app.settings import Settings
from app.store.connect import open_store
from worker import retention
def die(*_): os.kill(os.getpid(), signal.SIGKILL)
{MOMENTS[moment]}
settings = Settings(var_dir={str(parent.parent)!r}, keep_checkpoints=2, keep_refused=0)
retention.prune(open_store({database_url!r}), settings, Path({str(parent)!r}))
"""
    done = subprocess.run([sys.executable, "-c", program], check=False)
    assert done.returncode == -signal.SIGKILL
    assert without_files(store) == {1, 2, 3, 4}
    assert len(list(parent.iterdir())) > 4, "something was left behind"
    clear(store, parent)
    assert {path.name for path in parent.iterdir()} == {checkpoint_dir(parent, one).name for one in (0, 5, 6, 7)}


def test_what_was_written_off_cannot_be_promoted(store: Store, parent: Path) -> None:
    prune(store, settings(parent.parent, keep_checkpoints=2, keep_refused=0), parent)
    with pytest.raises(Conflict, match="deleted"), store.session() as session:
        policy_life.promote(session, checkpoints.by_version(session, 3).id, "back", "ops")


def test_a_killed_publishers_directory_goes_unless_a_publisher_may_live(store: Store, parent: Path) -> None:
    orphan, stranger, unfinished = checkpoint_dir(parent, 8), checkpoint_dir(parent, 40), parent / ".unfinished-v8-ab"
    for directory in (orphan, stranger, unfinished):
        directory.mkdir()
        (directory / MANIFEST).write_text("{}")
    with store.session() as session:
        request(session, trigger="admin", requested_by="test")
        job = start(session, "worker", LEASE)
        assert job is not None
    clear(store, parent)
    assert orphan.exists(), "the running job may have written it just now"
    assert not unfinished.exists()
    with store.session() as session:
        session.get_one(type(job), job.id).status = "failed"
        session.get_one(type(job), job.id).finished_at = job.started_at
    clear(store, parent)
    assert not orphan.exists()
    assert stranger.exists(), "no version of this database was ever so high: it is not ours to remove"


def test_a_grown_log_begins_anew_and_its_writer_goes_on(tmp_path: Path) -> None:
    path = tmp_path / "api.log"
    with path.open("ab", buffering=0) as writer:
        writer.write(b"old\n" * 100)
        assert begin_anew(tmp_path, 1000) == []
        assert begin_anew(tmp_path, 0) == []
        assert begin_anew(tmp_path, 100) == [path]
        writer.write(b"new\n")
    assert path.read_bytes() == b"new\n"
    assert (tmp_path / "api.log.1").read_bytes() == b"old\n" * 100


def test_the_task_sweeps_rows_files_and_logs(world: World) -> None:
    small = world.with_settings(keep_checkpoints=2, keep_refused=0, keep_log_bytes=10)
    add(world.store, world.checkpoints_dir, "refuse")
    (world.settings.var_dir / "logs").mkdir()
    (world.settings.var_dir / "logs" / "api.log").write_bytes(bytes(11))
    assert sweep(small.context) == {"checkpoints": 1, "logs": 1}
    assert sweep(small.context) == {}


def test_a_worker_without_the_directory_leaves_files_to_others(world: World, tmp_path: Path) -> None:
    add(world.store, world.checkpoints_dir, "refuse")
    elsewhere = world.with_settings(var_dir=tmp_path / "elsewhere", keep_checkpoints=2, keep_refused=0)
    assert sweep(elsewhere.context) == {}
    assert without_files(world.store) == set()


def test_publishing_beyond_the_quota_writes_nothing(world: World) -> None:
    """The whole way in: a job with answers, a policy to publish, no room."""
    world.samples()
    taken_now = taken(world.checkpoints_dir)
    bounded = world.with_settings(disk_quota=taken_now + 100)
    assignment = begin(bounded.context)
    assert assignment is not None
    policy: Policy = world.policy()
    assert bytes_of(policy, {}) > 100
    watchdog = Watchdog(beat=lambda: None, report=lambda *_: None, limit_s=60, stopping=bounded.context.stopping)
    job = RunningJob(world.store, assignment.job_id, assignment.fence, bounded.settings, watchdog)
    with pytest.raises(QuotaReached), job:
        publish_files(job, assignment, policy, {}, lambda _: None, world.checkpoints_dir, 0.0, None)
    assert taken(world.checkpoints_dir) == taken_now
    assert world.claims() == {}, "the answers are given back"
    [row] = world.jobs()
    assert (row.status, row.fault) == ("failed", "infrastructure")
    assert row.error is not None
    assert "LEPO_DISK_QUOTA" in row.error


def test_the_command_counts_or_removes(answers: Answers, store: Store, database_url: str, tmp_path: Path) -> None:
    answers(2)
    age(store, days=9)
    env = {"LEPO_DATABASE_URL": database_url, "LEPO_VAR_DIR": str(tmp_path), "LEPO_KEEP_UNGRADED_DAYS": "8"}

    def run(*args: str) -> str:
        done = CliRunner().invoke(commands.sweep, args, env=env, catch_exceptions=False)
        assert done.exit_code == 0, done.output
        return done.output

    for _ in range(2):
        assert json.loads(run("--dry-run", "--json")) == {"dry_run": True, "removed": {"ungraded_answers": 2}}
    assert "2  ungraded_answers" in run()
    assert json.loads(run("--json")) == {"dry_run": False, "removed": {}}
