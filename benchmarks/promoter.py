"""Who publishes and promotes during the swap measurement, by the routes and tables that a worker and a person use.

Even versions hold the first policy's weights, odd ones the second's. Leaves out the load (`benchmarks.swap`).
"""

import asyncio
import dataclasses
import os
import shutil
import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx
import torch
from sqlalchemy import func, select

from app.engine.config import EngineConfig
from app.engine.engine import Engine
from app.engine.request import Request
from app.store.checkpoints import by_version
from app.store.checkpoints import publish as record_checkpoint
from app.store.tables import Swap
from benchmarks.audit import Audit, audit, shown_id, stored
from benchmarks.client import Streamed, connect, stream, until
from benchmarks.http import body_of
from benchmarks.load import equal_asks
from benchmarks.serving import Served
from benchmarks.shapes import Shape
from benchmarks.timing import percentiles, seconds, significant
from training.models.checkpoint import MANIFEST, checkpoint_dir, publish, read_manifest, write_manifest
from training.models.head import CausalLM, take_apart
from training.models.policy import Policy, load_policy
from training.models.seal import tensors_of, weights
from training.models.shards import read_all
from training.rollout import Rollout

PATIENCE_S = 60.0  # for one swap
FIXED_PROMPTS, FIXED_SEED = 8, 777


@dataclass(frozen=True, slots=True)
class Promoted:
    """One promotion as the operator saw it, in perf_counter seconds."""

    version: int
    asked_at: float
    seen_at: float  # when the server's row of the swap was there

    @property
    def served_s(self) -> float:
        """Seconds from asking to serving, the operator's polling included."""
        return self.seen_at - self.asked_at

    @property
    def quiet(self) -> "Promoted":
        """As long a time right afterwards, in which nothing was swapped: what is usual on this machine."""
        return Promoted(self.version, self.seen_at, self.seen_at + self.served_s)


class Operator:
    """Knows the two policies, and where what they weigh was published."""

    def __init__(self, served: Served, policies: Sequence[Policy]) -> None:
        self.served = served
        self.policies = policies
        self.directories: dict[int, Path] = {0: checkpoint_dir(served.checkpoints, 0)}
        self.serving = 0  # version promoted last

    def publish(self, version: int) -> None:
        """Write a checkpoint and its row; the weights go by the version's parity.

        Those of later versions are the first ones' files by another name, which servers read and prove all the same:
        a disk need not hold twenty copies of 2 GB.
        """
        created = datetime.now(UTC).isoformat()
        if version < len(self.policies):
            self.directories[version] = publish(
                self.policies[version],
                self.served.checkpoints,
                version=version,
                parent_version=version - 1,
                training={},
                created=created,
            )
        else:
            self.directories[version] = checkpoint_dir(self.served.checkpoints, version)
            renamed(self.directories[version % 2], self.directories[version], version, created)
        digest = read_manifest(self.directories[version]).fingerprint
        with self.served.store.session() as session:
            parent = by_version(session, version - 1).id
            record_checkpoint(
                session, path=str(self.directories[version]), digest=digest, parent_id=parent, version=version
            )

    async def promote(self, admin: httpx.AsyncClient, version: int) -> Promoted:
        """Promote a version by its route, and wait until the server says that it serves it.

        Raises:
            RuntimeError: the route refused, or the server did not follow.

        """
        before = await asyncio.to_thread(self._swaps)
        asked_at = time.perf_counter()
        response = await admin.post(f"/v1/admin/checkpoints/{version}/promote", json={"reason": "bench"})
        if response.status_code != 200:
            raise RuntimeError(f"promotion of version {version} was refused: {response.text}")

        async def served() -> bool:
            return await asyncio.to_thread(self._swaps) > before

        if not await until(served, PATIENCE_S):
            raise RuntimeError(f"version {version} was not served within {PATIENCE_S:.0f} s")
        self.serving = version
        return Promoted(version, asked_at, time.perf_counter())

    def attempts(self) -> dict[str, Any]:
        """Read what the server wrote down of its swaps."""
        with self.served.store.session() as session:
            rows = list(session.scalars(select(Swap)))
        done = [row for row in rows if row.status == "served" and row.from_version is not None]
        known = {version: read_manifest(directory).fingerprint for version, directory in self.directories.items()}
        return {
            "failed_swaps": sum(row.status == "failed" for row in rows),
            "fingerprint_mismatches": sum(row.fingerprint != known[row.to_version] for row in done),
            "pause_steps_p99": percentiles([row.pause_steps or 0.0 for row in done])["p99"],
            "pause_ms": percentiles([row.pause_ms or 0.0 for row in done]),
            "staged_ms": percentiles([row.staged_ms or 0.0 for row in done]),
        }

    def audit(self, streamed: Sequence[Streamed], most: int, device: str) -> Audit:
        """Replay what was stored; see `benchmarks.audit`."""
        models: list[CausalLM] = []
        for policy in self.policies:
            policy.model.to(device)  # type: ignore[arg-type]
            models.append(take_apart(policy.model))
        weights = {version: models[version % 2] for version in self.directories}
        wrong = {version: models[1 - version % 2] for version in self.directories}
        return audit(self.served.store, streamed, weights, wrong, most)

    async def against_cold_start(self, shape: Shape, longest: int, slots: int, device: str) -> int:
        """Ask fixed prompts one by one, of the server and of an engine started cold on the weights it ended with.

        Returns:
            prompts whose answers differ in any bit of any token, weight or log-probability.

        """
        latents = 2
        asks = equal_asks(shape, FIXED_PROMPTS, longest // 2, longest // 4, seed=FIXED_SEED)
        async with connect(self.served.base_url, self.served.key, 1) as client:
            answers = [await stream(client, body_of(ask, FIXED_SEED, latents)) for ask in asks]
        by_id = {shown_id(row): rollout for row, rollout in stored(self.served.store)}
        warm = [by_id.get(str(answer.interaction_id)) for answer in answers]
        cold = await asyncio.to_thread(self._cold, [one for one in warm if one is not None], longest, slots, device)
        return len(asks) - sum(same(one, other) for one, other in zip(filter(None, warm), cold, strict=True))

    def _cold(self, warm: Sequence[Rollout], longest: int, slots: int, device: str) -> list[Rollout]:
        """Answer the same requests by a new engine."""
        dtype = self.policies[0].dtype
        policy = load_policy(self.directories[self.serving], version=self.serving, dtype=dtype, device=device)
        engine = Engine(policy, EngineConfig(slots=slots, max_length=longest))
        drawn = []
        for one in warm:
            prompt = tuple(int(token) for token in one.prompt_ids_P)
            request = Request(prompt, one.sampling, one.latent_length + one.answer_length, ignore_eos=True)
            drawn.append(engine.generate([request])[0][0].rollout)
        engine.close(0)
        return drawn

    def _swaps(self) -> int:
        """Count the swaps that the server has finished."""
        with self.served.store.session() as session:
            return session.scalar(select(func.count()).select_from(Swap).where(Swap.status == "served")) or 0

    def metric(self, name: str) -> float:
        """Read one of the server's metrics, summed over its labels."""
        text = httpx.get(f"{self.served.base_url}/metrics", trust_env=False).text
        lines = [line for line in text.splitlines() if line.startswith((name + "{", name + " "))]
        return significant(sum(float(line.rpartition(" ")[2]) for line in lines))


def renamed(source: Path, target: Path, version: int, created: str) -> None:
    """Make a checkpoint of another version from the same files."""
    unfinished = target.with_name(f".unfinished-{target.name}")
    shutil.copytree(source, unfinished, copy_function=os.link)
    (unfinished / MANIFEST).unlink()
    said = dataclasses.replace(read_manifest(source), version=version, parent_version=version - 1, created=created)
    write_manifest(unfinished, said)
    unfinished.rename(target)


def read_once_s(directory: Path) -> float:
    """Seconds of reading a checkpoint's weights from the page cache, in as many threads as a server's."""
    stored = tensors_of(weights(directory))
    return min(seconds(lambda: read_all(stored)) for _ in range(3))


def same(one: Rollout, other: Rollout) -> bool:
    """Whether two rollouts are equal to the bit, in everything that the weights decide."""
    names = (
        "latent_ids_LK",
        "latent_weights_LK",
        "latent_logprobs_LK",
        "latent_log_mass_L",
        "token_ids_T",
        "token_logprobs_T",
        "token_log_mass_T",
    )
    pairs = [(getattr(one, name), getattr(other, name)) for name in names]
    return one.policy_version == other.policy_version and all(torch.equal(a, b) for a, b in pairs)
