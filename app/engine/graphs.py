"""The fused step as CUDA graphs: one per (rows, length, width, mixing) bucket, captured when first needed.

A replay reads and writes the very tensors that `app.engine.rows` owns, so a graph needs no copies in or out; the rows
that pad a batch to its bucket are unused slots, which stand at position 0 and harm nobody. A model that cannot be
captured runs step by step, and `captures` says so. Rows with a bias of their own go the eager way too.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from app.engine.bias import Bias
from app.engine.rows import Rows

_WARM_UPS = 2  # runs before a capture, so that lazily made handles and buffers exist
_FINE = 8  # batches above this are rounded up to its next multiple, smaller ones to a power of two


@dataclass(frozen=True, slots=True)
class Bucket:
    """Shape of one graph."""

    rows: int  # B, unused rows included
    length: int  # positions in view
    width: int  # candidates
    mixing: bool  # whether latent steps are among them
    trace_room: int  # the trace buffers' size: they move when they grow


@dataclass(frozen=True, slots=True)
class Captured:
    """One graph and where it leaves its results."""

    graph: torch.cuda.CUDAGraph
    drawn_B3: Tensor
    logits_BV: Tensor


class StepGraphs:
    """Graphs of one lane's step."""

    def __init__(self, rows: Rows) -> None:
        self.captures = True  # False once the model refused to be captured
        self._rows = rows
        self._graphs: dict[Bucket, Captured] = {}
        self._pool: Any = None  # memory that the graphs share

    def step(
        self, rows: int, length: int, width: int, *, mixing: bool, bias: Bias | None = None
    ) -> tuple[Tensor, Tensor]:
        """Do what `Rows.step` does, replayed."""
        assert bias is None
        bucket = Bucket(self._rounded(rows), length, width, mixing, self._rows.trace_room)
        drawn_B3, logits_BV = self.run(bucket) or self._rows.step(rows, length, width, mixing=mixing)
        if rows < bucket.rows:
            self._rows.clear(slice(rows, bucket.rows))  # the step moved the unused rows on, too
        return drawn_B3[:rows], logits_BV[:rows]

    def run(self, bucket: Bucket) -> tuple[Tensor, Tensor] | None:
        """Step all rows of a bucket by its graph; None when the model cannot be captured."""
        if self.captures and bucket not in self._graphs:
            self._capture(bucket)
        captured = self._graphs.get(bucket)
        if captured is None:
            return None
        captured.graph.replay()
        return captured.drawn_B3, captured.logits_BV

    def _rounded(self, rows: int) -> int:
        up = 1 << (rows - 1).bit_length() if rows <= _FINE else -(-rows // _FINE) * _FINE
        return min(up, self._rows.pool.rows)

    def _capture(self, bucket: Bucket) -> None:
        """Record one step without taking it: what the warm-ups moved is put back."""
        for stale in [known for known in self._graphs if known.trace_room != bucket.trace_room]:
            del self._graphs[stale]
        self._pool = self._pool or torch.cuda.graph_pool_handle()
        at_3R1, next_R1D = self._rows.at_3R1.clone(), self._rows.next_R1D.clone()
        stream: torch.cuda.Stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]
        stream.wait_stream(torch.cuda.current_stream())
        graph = torch.cuda.CUDAGraph()
        try:
            with torch.cuda.stream(stream):
                for _ in range(_WARM_UPS):
                    self.eager(bucket)
                    self._rows.at_3R1.copy_(at_3R1)
                    self._rows.next_R1D.copy_(next_R1D)
            torch.cuda.current_stream().wait_stream(stream)
            with torch.cuda.graph(graph, pool=self._pool, stream=stream, capture_error_mode="thread_local"):
                drawn_B3, logits_BV = self.eager(bucket)
        except RuntimeError:
            torch.cuda.synchronize()  # a broken device says so here, and ends the engine
            self.captures = False
            return
        self._graphs[bucket] = Captured(graph, drawn_B3, logits_BV)

    def eager(self, bucket: Bucket) -> tuple[Tensor, Tensor]:
        """Step all rows of a bucket without a graph: what a capture records."""
        return self._rows.step(bucket.rows, bucket.length, bucket.width, mixing=bucket.mixing)
