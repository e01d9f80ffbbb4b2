"""A snapshot of the engine, for metrics and health; counters only ever grow."""

from dataclasses import dataclass
from typing import Literal

from app.engine.lane import VersionStats
from app.engine.swap import SwapReport


@dataclass(frozen=True, slots=True)
class EngineStats:
    """What the engine is doing and has done."""

    state: Literal["ready", "closing", "closed", "crashed"]
    version: int  # policy version that new requests start on
    by_version: tuple[VersionStats, ...]  # resident policy versions, the serving one first
    slots: int  # answers that can be decoded together
    running: int  # answers being decoded
    waiting: int  # choices without a row: waiting, or with their prompt under way
    requests: int  # taken, ever
    finished: int  # choices finished for any reason, ever
    refused: int  # requests refused because the queue was full, ever
    steps: int  # decode steps, ever
    tokens: int  # answer tokens drawn, ever
    latents: int  # latent steps drawn, ever
    prompt_tokens: int  # prompt positions asked for, ever
    prefill_tokens: int  # prompt positions computed, ever
    prefix_hit_tokens: int  # prompt positions taken from the prefix cache, ever
    prefix_tokens: int  # positions that can be found by their tokens now
    cache_tokens: int  # positions in blocks that answers and prompts hold now
    cache_room: int  # positions there are blocks for
    preempted: int  # answers that had to give up their blocks and were computed again, ever
    not_finite: int  # requests that failed because logits were not numbers, ever
    step_s: float  # mean seconds of a turn of the loop with running answers, of late
    swaps: int  # committed, ever
    failed_swaps: int  # refused, ever
    last_swap: SwapReport | None
    failure: str | None  # what crashed the engine

    @property
    def versions(self) -> tuple[int, ...]:
        """Resident policy versions, the serving one first."""
        return tuple(one.version for one in self.by_version)
