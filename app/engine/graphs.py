"""The fused step as CUDA graphs: one per bucket of shapes, captured when first needed.

A replay reads and writes the very tensors that `app.engine.rows` owns, so a graph needs no copies in or out; the rows
that pad a batch to its bucket are unused ones, which stand at position 0 of nobody's block. Weights keep their storage
for life, so a swap needs no new capture. A model that cannot be captured runs step by step, with a warning in the log;
a bucket for which memory is short does so for a while.

All graphs of a lane share one pool of memory: they never run at the same time, and what one leaves is read before the
next one runs. Nothing in a step asks the device for a number, draws from a generator, or moves a buffer, which is what
a capture forbids.
"""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from app.engine.bias import Bias
from app.engine.rows import Rows
from training.memory.room import give_back, says_short_of_memory

_LOG = logging.getLogger(__name__)
_WARM_UPS = 2  # runs before a capture, so that lazily made handles and buffers exist
_PAUSE = 1000  # steps
_FINE = 8  # batches above this are rounded up to its next multiple, smaller ones to a power of two


@dataclass(frozen=True, slots=True)
class Bucket:
    """Shape of one graph."""

    rows: int  # B, unused rows included
    length: int  # positions in view
    width: int  # candidates
    draws: int  # samples made at latent steps; 0: there are none among them
    trace_room: int  # the trace buffers' size when there are, else 0: they move when they grow
    masked: bool = False  # whether rows draw what their constraints allow
    bent: tuple[int, int] | None = None  # size of what rows do to their logits


@dataclass(frozen=True, slots=True)
class Captured:
    """One graph and where it leaves its results."""

    graph: torch.cuda.CUDAGraph
    drawn_B3: Tensor
    logits_BV: Tensor


class StepGraphs:
    """Graphs of one lane's step."""

    def __init__(self, rows: Rows) -> None:
        self.captures = True  # False once a capture failed
        self._rows = rows
        self._graphs: dict[Bucket, Captured] = {}
        self._pauses: dict[Bucket, int] = {}  # steps that a bucket for which memory was short runs without a graph
        self._stream: Any = None  # that all captures run on: each stream has workspaces of its own
        self._pool: Any = None  # memory that the graphs share

    @property
    def captured(self) -> int:
        """How many graphs there are."""
        return len(self._graphs)

    def step(
        self, rows: int, length: int, width: int, *, draws: int, bias: Bias | None = None, masked: bool = False
    ) -> tuple[Tensor, Tensor]:
        """Do what `Rows.step` does, replayed."""
        bent = None if bias is None else self._rows.hold(bias)
        trace_room = self._rows.trace_room if draws else 0
        bucket = Bucket(self._rounded(rows), length, width, draws, trace_room, masked, bent)
        results = self.run(bucket)
        if results is None:
            return self._rows.step(rows, length, width, draws=draws, bias=bias, masked=masked)
        if rows < bucket.rows:
            self._rows.clear(slice(rows, bucket.rows))  # the step moved the unused rows on, too
        drawn_B3, logits_BV = results
        return drawn_B3[:rows], logits_BV[:rows]

    def run(self, bucket: Bucket) -> tuple[Tensor, Tensor] | None:
        """Step all rows of a bucket by its graph; None when the model cannot be captured."""
        if self.captures and bucket not in self._graphs and not self._postponed(bucket):
            self._try_capture(bucket)
        if bucket not in self._graphs:
            return None
        captured = self._graphs[bucket]
        captured.graph.replay()
        return captured.drawn_B3, captured.logits_BV

    def eager(self, bucket: Bucket) -> tuple[Tensor, Tensor]:
        """Step all rows of a bucket without a graph: what a capture records."""
        bias = None if bucket.bent is None else self._rows.held_biases[bucket.bent]
        shape = bucket.rows, bucket.length, bucket.width
        return self._rows.step(*shape, draws=bucket.draws, bias=bias, masked=bucket.masked)

    def _rounded(self, rows: int) -> int:
        up = 1 << (rows - 1).bit_length() if rows <= _FINE else -(-rows // _FINE) * _FINE
        return min(up, self._rows.count)

    def _postponed(self, bucket: Bucket) -> bool:
        """Whether a bucket runs without a graph this time, because there was no memory for one of late."""
        left = self._pauses.pop(bucket, 0)
        if left > 1:
            self._pauses[bucket] = left - 1
        return left > 0

    def _try_capture(self, bucket: Bucket) -> None:
        """Capture a bucket without taking the step, or give graphs up for good."""
        for stale in [old for old in self._graphs if old.draws and old.trace_room != self._rows.trace_room]:
            del self._graphs[stale]
        before = [buffer.clone() for buffer in self._rows.moving]
        try:
            self._graphs[bucket] = self.capture(bucket, before)
        except RuntimeError as error:
            self._put_back(before)
            if says_short_of_memory(error):
                _LOG.warning("memory is short for a CUDA graph of %s, it is tried again later: %s", bucket, error)
                self._pauses[bucket] = _PAUSE
                give_back(self._rows.device)
                return
            _LOG.warning("CUDA graphs are off, steps run one operation at a time: %s", error, exc_info=error)
            self.captures = False
            self._graphs.clear()
            if self._rows.device.type == "cuda":
                torch.cuda.synchronize(self._rows.device)  # a broken device says so here, and ends the engine

    def capture(self, bucket: Bucket, before: Sequence[Tensor]) -> Captured:
        """Record one step; each warm-up takes it, and is undone by putting back what was before.

        Raises:
            RuntimeError: the model does something that a graph cannot hold, or memory is short.

        """
        with torch.cuda.device(self._rows.device):
            if not self._graphs:
                self._pool = torch.cuda.graph_pool_handle()  # a pool ends with the last graph that uses it
            self._stream = self._stream or torch.cuda.Stream()  # type: ignore[no-untyped-call]
            self._stream.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(self._stream):
                for _ in range(_WARM_UPS):
                    self.eager(bucket)
                    self._put_back(before)
            torch.cuda.current_stream().wait_stream(self._stream)
            graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(graph, pool=self._pool, stream=self._stream, capture_error_mode="thread_local"):
                drawn_B3, logits_BV = self.eager(bucket)
        return Captured(graph, drawn_B3, logits_BV)

    def _put_back(self, before: Sequence[Tensor]) -> None:
        for buffer, old in zip(self._rows.moving, before, strict=True):
            buffer.copy_(old)
