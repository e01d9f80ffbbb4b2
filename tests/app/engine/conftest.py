"""Helpers to run an engine on the models of `tests.app.conftest`."""

import contextlib
from collections.abc import Iterator, Sequence
from typing import Any

from app.engine.config import EngineConfig
from app.engine.engine import Engine
from app.engine.request import Event
from training.models.policy import Policy


@contextlib.contextmanager
def running(policy: Policy, **settings: Any) -> Iterator[Engine]:
    """An engine on its own thread, closed at the end."""
    engine = Engine(policy, EngineConfig(**{"slots": 6, "max_length": 256, "max_top_k": 64, **settings}))
    engine.start()
    try:
        yield engine
    finally:
        engine.close(0.0)


class Listener:
    """A sink that keeps what it hears."""

    def __init__(self) -> None:
        self.events: list[Event] = []
        self.calls: list[Sequence[Event]] = []

    def __call__(self, events: Sequence[Event]) -> None:
        self.calls.append(events)
        self.events.extend(events)
