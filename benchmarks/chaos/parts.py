"""Faults of what stands around the learner: server, Postgres, Redis, connections, checkpoints on disk.

Each is a context manager, as in `benchmarks.chaos.learner`.
"""

import json
import os
import shutil
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import redis
from sqlalchemy import text

from app.stack.redis import client_url
from app.store import checkpoints
from benchmarks.chaos.learner import Fault, stays
from benchmarks.chaos.world import World, descendants, stopped
from training.models.checkpoint import MANIFEST, checkpoint_dir

WEIGHTS: Final = "model.safetensors"
REDIS_AWAY_S: Final = 5.0


def killed(part: str) -> Fault:
    """Make the fault of a part that is killed."""

    @contextmanager
    def fault(here: World) -> Iterator[None]:
        here.restarted(part, here.stack.kill(part))
        yield

    return fault


@contextmanager
def backend_killed(here: World) -> Iterator[None]:
    """Kill one of Postgres' own processes: it ends all sessions, and recovers by itself."""
    pid = here.one(
        "SELECT pid FROM pg_stat_activity WHERE application_name = 'lepo' AND pid <> pg_backend_pid() LIMIT 1"
    )
    os.kill(int(pid), signal.SIGKILL)
    yield


@contextmanager
def connections_cut(here: World) -> Iterator[None]:
    """End every session in the database, ours aside."""
    here.rows(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
        "WHERE backend_type = 'client backend' AND pid <> pg_backend_pid()"
    )
    yield


@contextmanager
def postgres_frozen(here: World) -> Iterator[None]:
    """Stop Postgres with all its processes for a while: it takes connections and says nothing."""
    with stopped(descendants(here.stack.pids["postgres"])):
        time.sleep(here.scale.frozen_s)
    yield


@contextmanager
def redis_cut_off(here: World) -> Iterator[None]:
    """Stop Redis for a while."""
    with stopped([here.stack.pids["redis"]]):
        time.sleep(REDIS_AWAY_S)
    yield


@contextmanager
def redis_flushed(here: World) -> Iterator[None]:
    """Empty Redis."""
    with redis.Redis.from_url(client_url(here.stack.redis_url)) as client:
        client.flushall()
    yield


def damaged(damage: Callable[[Path], None]) -> Fault:
    """Make the fault of a serving checkpoint that is damaged while the learner must read it, and mended later."""

    @contextmanager
    def fault(here: World) -> Iterator[None]:
        here.quiet()
        path = Path(here.one("SELECT path FROM checkpoints WHERE state = 'serving'"))
        aside = path.with_name(f"aside-{path.name}")
        shutil.copytree(path, aside)
        before, old = here.fence(), here.stack.kill("worker")
        damage(path)
        here.restarted("worker", old)
        here.thaw()
        try:
            here.until(lambda: here.failed_since(before) >= 1, "an update fails on a damaged checkpoint", 60.0)
        finally:
            shutil.rmtree(path, ignore_errors=True)
            aside.rename(path)
        yield

    return fault


def corrupt(directory: Path) -> None:
    """Turn one byte of the weights."""
    with (directory / WEIGHTS).open("r+b") as file:
        file.seek(-100, os.SEEK_END)
        byte = file.read(1)
        file.seek(-1, os.SEEK_CUR)
        file.write(bytes([byte[0] ^ 0xFF]))


def truncated(directory: Path) -> None:
    """Cut the weights in half."""
    os.truncate(directory / WEIGHTS, (directory / WEIGHTS).stat().st_size // 2)


def missing(directory: Path) -> None:
    """Take the whole directory away."""
    shutil.rmtree(directory)


def unsealed(directory: Path) -> None:
    """Take the manifest away and turn a byte: nothing says any more what the weights were."""
    (directory / MANIFEST).unlink()
    corrupt(directory)


@contextmanager
def nan_promoted(here: World) -> Iterator[None]:
    """Let an operator promote a sealed checkpoint of NaN weights: the server keeps what it has; then go back."""
    here.quiet()
    before = here.serving()
    version = broken_checkpoint(here)
    here.command(f"checkpoints/{version}/promote", reason="chaos")
    here.until(
        lambda: here.rows("SELECT 1 FROM swaps WHERE to_version = :version AND status = 'failed'", version=version),
        "the server tries the broken policy and says that it failed",
        30.0,
    )
    if here.version() != before:
        here.wrong("wrong_serving", f"the server left version {before} for a policy of NaN")
    back = here.command("rollback", reason="chaos")["version"]
    stays(here, back)
    if here.rows("SELECT 1 FROM interactions WHERE policy_version = :version", version=version):
        here.wrong("half_checkpoints_served", "a policy of NaN answered")
    here.thaw()
    yield


def broken_checkpoint(here: World) -> int:
    """Write a checkpoint of NaN weights that is sealed like a good one; gives its version."""
    import torch
    from safetensors.torch import load_file, save_file

    from training.models.checkpoint import FORMAT_VERSION, Manifest, write_manifest
    from training.models.seal import content, names

    parent = Path(here.one("SELECT path FROM checkpoints WHERE state = 'serving'"))
    with here.store.session() as session:
        version = checkpoints.next_version(session)
    directory = checkpoint_dir(parent.parent, version)
    shutil.rmtree(directory, ignore_errors=True)
    shutil.copytree(parent, directory)
    weights = load_file(directory / WEIGHTS)
    name = min(weights)
    weights[name] = torch.full_like(weights[name], float("nan"))
    save_file(weights, directory / WEIGHTS, metadata={"format": "pt"})
    said: dict[str, Any] = json.loads((directory / MANIFEST).read_text())
    files = {one: content(directory / one, FORMAT_VERSION) for one in names(directory, MANIFEST)}
    write_manifest(directory, Manifest(version, said["version"], "00" * 32, said["created"], {}, files))
    with here.store.session() as session:
        parent_id = session.scalar(text("SELECT id FROM checkpoints WHERE state = 'serving'"))
        checkpoints.publish(session, path=str(directory), digest="00" * 32, parent_id=parent_id, version=version)
    return version
