"""CUDA graphs on a CPU: operations recorded between the start and the end of a capture, and run again by a replay.

What a capture forbids is refused as CUDA refuses it: to ask for a number, a shape that depends on data, a copy from the
host. Replays write their results where the capture left its own, as a graph does. Leaves out streams and memory.
"""

import contextlib
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten

from app.engine import lane

_FORBIDDEN = ("_local_scalar_dense", "nonzero", "masked_select", "unique", "equal", "normal_", "uniform_", "random_")


class Recorder(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Runs operations and remembers them; what they wrote to is put back at the end: a capture takes no step."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.calls: list[tuple[Any, Any, Any, Any]] = []
        self._written: list[tuple[Tensor, Tensor]] = []

    def put_back(self) -> None:
        """Undo what was written, the latest first."""
        for tensor, before in reversed(self._written):
            tensor.copy_(before)
        self._written.clear()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.overloadpacket.__name__
        if name in _FORBIDDEN:
            raise RuntimeError(f"operation not permitted when stream is capturing: {name}")
        if name in {"lift_fresh", "lift_fresh_copy"}:
            raise RuntimeError("operation not permitted when stream is capturing: a copy from the host")
        for given, argument in zip(args, func._schema.arguments, strict=False):
            if argument.alias_info is not None and argument.alias_info.is_write:
                self._written.append((given, given.clone()))
        made = func(*args, **(kwargs or {}))
        self.calls.append((func, args, kwargs or {}, made))
        return made


class RecordedGraph:
    """Stands for `torch.cuda.CUDAGraph`."""

    def __init__(self) -> None:
        self.recorder = Recorder()
        self.replays = 0

    def replay(self) -> None:
        """Run what was recorded, on the tensors it was recorded on."""
        self.replays += 1
        for func, args, kwargs, made in self.recorder.calls:
            again = func(*args, **kwargs)
            for new, old in zip(tree_flatten(again)[0], tree_flatten(made)[0], strict=True):
                if isinstance(old, Tensor) and new is not old and new.data_ptr() != old.data_ptr():
                    old.copy_(new)


@contextlib.contextmanager
def capture(graph: RecordedGraph, **_options: Any) -> Iterator[None]:
    """Stands for `torch.cuda.graph`."""
    with graph.recorder:
        yield
    graph.recorder.put_back()


class Stream:
    """Stands for `torch.cuda.Stream`."""

    def wait_stream(self, _other: Any) -> None:
        """Nothing to wait for."""


@pytest.fixture
def recorded_graphs(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let engines made in a test step by recorded graphs, though their models lie on a CPU."""
    emulate(monkeypatch)


def emulate(monkeypatch: Any) -> None:
    """Put the above where `app.engine.graphs` looks for CUDA's."""
    monkeypatch.setattr(lane, "can_graph", lambda _model: True)
    monkeypatch.setattr(torch.cuda, "CUDAGraph", RecordedGraph)
    monkeypatch.setattr(torch.cuda, "graph", capture)
    monkeypatch.setattr(torch.cuda, "Stream", Stream)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda *_: Stream())
    monkeypatch.setattr(torch.cuda, "stream", lambda _stream: contextlib.nullcontext())
    monkeypatch.setattr(torch.cuda, "device", lambda _device: contextlib.nullcontext())
    monkeypatch.setattr(torch.cuda, "graph_pool_handle", lambda: (0, 0))
