"""`lepo bench swap`: new weights while every slot is streaming.

A real server (uvicorn, Postgres, Redis) answers a saturating load of the same few prompts, so that its prefix cache is
always in play, while an operator promotes: first the same two checkpoints in turn, then checkpoints that are new to the
server each time, which it must read and prove. Afterwards the stored rollouts are audited, and the server is compared
bit for bit with an engine started cold on the weights it ended with.
"""

import asyncio
import random
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from benchmarks.report import Bound, finish, judged
from benchmarks.shapes import SHAPES, Shape

if TYPE_CHECKING:
    import httpx

    from benchmarks.client import Streamed
    from benchmarks.promoter import Promoted

BOUNDS = (
    Bound("swaps", 100, "at least"),
    Bound("failed", 0, "at most"),
    Bound("broken_streams", 0, "at most"),
    Bound("mixed_version_rollouts", 0, "at most"),
    Bound("stale_prefix_hits", 0, "at most"),
    Bound("cold_start_mismatches", 0, "at most"),
    Bound("pause_steps_p99", 2, "at most"),
    Bound("publish_to_served_s_p99", 2, "at most"),
)


@dataclass(frozen=True, slots=True)
class Load:
    """What is asked while weights change."""

    swaps: int  # between two checkpoints in turn
    fresh: int  # of checkpoints never seen before, afterwards
    slots: int  # of the server
    streams: int  # open at once; more than slots, so that there is always one waiting
    prompts: int  # different ones
    prompt: int  # tokens of the longest
    answer: int  # tokens of the longest
    latents: int  # steps of the longest
    replayed: int  # rollouts to replay afterwards

    @property
    def longest(self) -> int:
        """Positions of the longest request."""
        return self.prompt + self.latents + self.answer


@click.command()
@click.option("--shape", type=click.Choice([*SHAPES]), default="tiny")
@click.option("--swaps", type=click.IntRange(min=2), default=100, help="Swaps between the two checkpoints.")
@click.option("--threads", type=click.IntRange(min=1), default=2, help="torch threads of the server.")
@click.option("--quick", is_flag=True, help="Six swaps: a look, not a result.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object on the last line.")
@click.option("--device", default="cpu", help="cpu, cuda or cuda:N.")
@click.option("--dtype", type=click.Choice(["float32", "bfloat16"]), default="float32")
@click.option("--out", type=click.Path(dir_okay=False, path_type=Path), help="Write the JSON here too.")
def command(
    shape: str, swaps: int, threads: int, quick: bool, as_json: bool, device: str, dtype: str, out: Path | None
) -> None:
    """Swap weights under saturating streamed load and audit what was served meanwhile."""
    load = Load(6, 2, 4, 6, 4, 40, 16, 4, 60) if quick else Load(swaps, 20, 16, 24, 8, 80, 48, 4, 600)
    report = measure(SHAPES[shape], load, threads=threads, device=device, dtype=dtype)
    finish(report, as_json=as_json, out=out)


def measure(shape: Shape, load: Load, *, threads: int, device: str, dtype: str) -> dict[str, Any]:
    """Run the load, the swaps and the audit.

    Returns:
        the report.

    """
    import torch

    from benchmarks.promoter import Operator, read_once_s
    from benchmarks.serving import serving
    from benchmarks.shapes import build_policy
    from benchmarks.timing import machine, significant, tell
    from training.models.policy import placed

    torch.set_num_threads(threads)
    facts = machine()
    where = placed(device)
    settings = {
        "LEPO_THREADS": str(threads),
        "OMP_NUM_THREADS": str(threads),
        "LEPO_SLOTS": str(load.slots),
        "LEPO_MAX_LENGTH": str(load.longest),
        "LEPO_DEVICE": where,
        "LEPO_DTYPE": dtype,
    }
    tell(f"{shape.name}: starting the server")
    with serving(shape, 0, settings) as served:
        policies = [build_policy(shape, seed=s, version=s, dtype=getattr(torch, dtype), device="cpu") for s in (0, 1)]
        operator = Operator(served, policies)
        operator.publish(1)
        streamed, promoted = asyncio.run(_swap_under_load(shape, load, operator))
        cold = asyncio.run(operator.against_cold_start(shape, load.longest, load.slots, where))
        audited = operator.audit(streamed, load.replayed, where)
        attempts = operator.attempts()
        once = read_once_s(operator.directories[operator.serving])
        hits = operator.metric("lepo:prefix_cache_hits_total")
    figures = summary(streamed, promoted, load.swaps)
    report = {
        "benchmark": "swap",
        **figures,
        **attempts,
        **asdict(audited),
        "read_once_s": significant(once),
        "served_over_read_once": significant(figures["publish_to_served_s_p99"] / once),
        "prefix_hit_tokens": hits,
        "cold_start_mismatches": cold,
    }
    told = {"shape": shape.name, "threads": threads, "device": where, "dtype": dtype, **asdict(load)}
    return {**report, "bounds": judged(report, BOUNDS), "settings": told, "machine": facts}


async def _swap_under_load(shape: Shape, load: Load, operator: Any) -> "tuple[list[Streamed], list[Promoted]]":
    """Keep every stream asking while the operator promotes."""
    from benchmarks.client import connect, keep_asking

    stop = asyncio.Event()

    def bodies() -> Iterator[dict[str, Any]]:
        for body in endless_bodies(shape, load):
            if stop.is_set():
                return
            yield body

    async with (
        connect(operator.served.base_url, operator.served.key, load.streams) as clients,
        connect(operator.served.base_url, operator.served.key, 2) as admin,
    ):
        asking = asyncio.create_task(keep_asking(clients, load.streams, bodies))
        try:
            promoted = await _promote_all(load, operator, admin)
        finally:
            stop.set()
        return await asking, promoted


async def _promote_all(load: Load, operator: Any, admin: "httpx.AsyncClient") -> "list[Promoted]":
    """Promote the two checkpoints in turn, then new ones; each once the one before is served."""
    from benchmarks.timing import tell

    promoted = []
    await asyncio.sleep(1.0)  # the slots fill
    for number in range(load.swaps):
        promoted.append(await operator.promote(admin, 1 - number % 2))
        await asyncio.sleep(promoted[-1].served_s)  # a quiet time to compare with
        if (number + 1) % 10 == 0:
            tell(f"{number + 1}/{load.swaps} swaps")
    for version in range(2, 2 + load.fresh):
        await asyncio.to_thread(operator.publish, version)
        promoted.append(await operator.promote(admin, version))
        await asyncio.sleep(promoted[-1].served_s)
    tell(f"{load.fresh} new checkpoints served")
    await asyncio.sleep(0.5)  # the last one answers a little
    return promoted


def endless_bodies(shape: Shape, load: Load) -> Iterator[dict[str, Any]]:
    """Ask the same few prompts for ever, each time with another seed, length and number of latent steps."""
    from benchmarks.http import body_of
    from benchmarks.load import Ask, ragged_asks

    half = load.prompt // 2
    prompts = ragged_asks(shape, load.prompts, range(half, load.prompt + 1), range(1, 2), seed=0)
    rng = random.Random(1)  # noqa: S311 - a load, no secret
    seed = 0
    while True:
        ask = Ask(rng.choice(prompts).prompt_ids, rng.randint(load.answer // 4, load.answer))
        yield body_of(ask, seed, latents=rng.randint(0, load.latents))
        seed += 1


def summary(streamed: "Sequence[Streamed]", promoted: "Sequence[Promoted]", swaps: int) -> dict[str, Any]:
    """Figures of the load and the swaps.

    `longest_gap_steps` is what clients felt: the longest wait for a next token during each swap, over the median wait,
    beside the same figure of an equally long time right after it.
    """
    from statistics import median

    from benchmarks.timing import percentiles, significant

    whole = [answer for answer in streamed if not answer.failed and not answer.broken]
    usual = median(gap for answer in whole for gap in answer.gaps_s)
    felt = {
        "swapping": percentiles([longest_gap(whole, one) / usual for one in promoted]),
        "quiet": percentiles([longest_gap(whole, one.quiet) / usual for one in promoted]),
    }
    first, fresh = promoted[:swaps], promoted[swaps:]
    report: dict[str, Any] = {
        "swaps": len(first),
        "requests": len(streamed),
        "failed": sum(answer.failed for answer in streamed),
        "broken_streams": sum(answer.broken for answer in streamed),
        "complaints": sorted({str(answer.error) for answer in streamed if answer.error is not None})[:5],
        "tokens": sum(answer.completion_tokens for answer in whole),
        "publish_to_served_s": percentiles([one.served_s for one in first]),
        "publish_to_served_s_p99": percentiles([one.served_s for one in promoted])["p99"],
        "fresh_publish_to_served_s": percentiles([one.served_s for one in fresh]) if fresh else {},
        "inter_token_s": percentiles([gap for answer in whole for gap in answer.gaps_s]),
        "longest_gap_steps": felt,
        "versions_answered": len({answer.policy_version for answer in whole}),
    }
    seconds = max(answer.ended_at for answer in whole) - min(answer.asked_at for answer in whole)
    return {**report, "tokens_per_second": significant(report["tokens"] / seconds)}


def longest_gap(answers: "Sequence[Streamed]", promoted: "Promoted") -> float:
    """Longest wait for a next token, over all streams, that overlaps a stretch of time; 0 when none did."""
    return max(
        (
            later - earlier
            for answer in answers
            if answer.asked_at <= promoted.seen_at and answer.ended_at >= promoted.asked_at
            for earlier, later in pairwise(answer.token_times)
            if earlier <= promoted.seen_at and later >= promoted.asked_at
        ),
        default=0.0,
    )


if __name__ == "__main__":
    command()
