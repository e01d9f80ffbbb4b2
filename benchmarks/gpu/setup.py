"""What is measured on which device, and how much of it."""

import gc
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedTokenizerFast

from app.engine.config import EngineConfig, Packing
from app.engine.engine import Engine
from benchmarks.shapes import SHAPES, Shape, build_model, build_tokenizer
from training.models.policy import Policy


@dataclass(frozen=True, slots=True)
class Work:
    """How much is done."""

    copied_bytes: int  # of the buffer that measures bandwidth
    square: int  # rows and columns of the product that measures arithmetic
    batches: tuple[int, ...]  # rows decoded together
    prompt: int  # tokens
    steps: int  # decode steps per measurement
    repeats: int
    load_s: float  # seconds of a load that is only listened to
    swaps: int  # checkpoints published and taken into service
    rollouts: int  # of an update
    answer: int  # tokens of each of them


FULL = Work(2**31, 8192, (1, 8, 64), 128, 256, 3, 4.0, 3, 32, 256)
BRIEF = Work(2**24, 256, (1, 4), 16, 24, 2, 0.4, 2, 4, 8)


@dataclass(frozen=True, slots=True)
class Setup:
    """The device and the load."""

    device: str  # "cuda:0" or "cpu"
    dtype: torch.dtype  # of the figures; checks name their own
    work: Work
    scratch: Path  # for checkpoints

    @property
    def cuda(self) -> bool:
        """Whether there are graphs, streams and device memory to look at."""
        return torch.device(self.device).type == "cuda"

    def synchronize(self) -> None:
        """Wait for the device."""
        if self.cuda:
            torch.cuda.synchronize(self.device)

    def free(self) -> None:
        """Give memory of what is gone back to the device, and count its peak anew."""
        gc.collect()
        if self.cuda:
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats()

    def peak_gb(self) -> float:
        """Most device memory held at once since `free`, GB."""
        return round(torch.cuda.max_memory_allocated() / 1e9, 3) if self.cuda else 0.0


@cache
def tokenizer_of(vocabulary: int) -> PreTrainedTokenizerFast:
    """Make the tokenizer of a vocabulary's size once; children of a fork find it made."""
    return build_tokenizer(next(shape for shape in SHAPES.values() if shape.vocabulary == vocabulary))


def policy_of(shape: Shape, setup: Setup, dtype: torch.dtype | None = None, seed: int = 0) -> Policy:
    """Random weights of a shape, made on the device."""
    model = build_model(shape, seed, dtype or setup.dtype, setup.device)
    return Policy(model, tokenizer_of(shape.vocabulary), 0, frozenset({0}))


def engine_of(policy: Policy, slots: int, max_length: int, packing: Packing = "auto", **settings: Any) -> Engine:
    """Make an engine with the product's defaults, but for its size."""
    return Engine(policy, EngineConfig(slots=slots, max_length=max_length, packing=packing, **settings))


def milliseconds(setup: Setup, action: Callable[[], object], times: int) -> float:
    """Mean time of an action that only queues work for the device, by the device's own clock; warmed up once."""
    action()
    setup.synchronize()
    if not setup.cuda:
        began = time.perf_counter()
        for _ in range(times):
            action()
        return 1000 * (time.perf_counter() - began) / times
    first, last = (torch.cuda.Event(enable_timing=True) for _ in range(2))  # type: ignore[no-untyped-call]
    first.record()
    for _ in range(times):
        action()
    last.record()
    last.synchronize()
    return float(first.elapsed_time(last)) / times
