"""The swap of weights: staged beside the serving ones, committed between two steps, with nobody aborted or refused.

`two_versions`: a second lane takes the new weights, new requests enter it, old rows finish on the old weights. Rolling
back to a version that is still resident is the same move without the reading. Where memory holds one set of weights
only: `drain` lets the rows finish while requests wait (bounded by their deadlines and budgets), `in_place` changes the
weights under running rows and says so in their `version_spans`. A failed stage leaves the old version serving.
"""

import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from threading import Lock

from app.engine import stage
from app.engine.config import SwapMode
from app.engine.lane import Lane
from app.engine.lanes import Lanes
from app.engine.request import EngineClosed
from app.engine.stage import StageFailed, Weights
from training.policy import fingerprint

VOID = -1  # version of a lane whose weights are being written


class Superseded(Exception):
    """A newer swap was asked for before this one began; the newer one goes ahead."""


@dataclass(frozen=True, slots=True)
class SwapReport:
    """How one swap went."""

    from_version: int
    to_version: int
    staged_s: float  # seconds of reading, copying and proving, beside the serving weights
    pause_s: float  # seconds in which the step loop stood still
    pause_steps: float  # the same in decode steps of the mean duration of late; 0 when none was timed
    fingerprint: str  # SHA-256 of the live parameters


@dataclass(frozen=True, slots=True)
class Order:
    """A swap that was asked for."""

    directory: Path
    version: int
    future: "Future[SwapReport]"


@dataclass(frozen=True, slots=True)
class Staged:
    """A swap ready to commit."""

    lane: Lane  # where the new weights are, or will be
    fingerprint: str  # of the parameters, live or about to be
    weights: Weights | None  # still to be exchanged in place; None when the lane holds them
    staged_s: float


class Swapper:
    """Carries swaps out, one at a time; `advance` is called by the engine's thread between two steps."""

    def __init__(self, lanes: Lanes, mode: SwapMode, wake: Callable[[], None]) -> None:
        self.done = 0  # swaps committed
        self.failed = 0  # swaps refused
        self.last: SwapReport | None = None
        self._lanes = lanes
        self._mode = mode
        self._wake = wake
        self._lock = Lock()
        self._closed = False
        self._pending: Order | None = None
        self._current: tuple[Order, Future[Staged]] | None = None

    @property
    def holds_admission(self) -> bool:
        """Whether new requests must wait for rows to drain."""
        staged = self._current is not None and self._current[1].done() and self._current[1].exception() is None
        return self._mode == "drain" and staged

    @property
    def ready(self) -> bool:
        """Whether `advance` has something to do."""
        can_begin = self._pending is not None and self._current is None and self._target_ready(self._pending)
        return can_begin or (self._current is not None and self._current[1].done())

    def order(self, directory: Path, version: int) -> "Future[SwapReport]":
        """Ask for a swap, from any thread; one that waits to begin gives way to the newer.

        Raises:
            EngineClosed: the engine has stopped.

        """
        future: Future[SwapReport] = Future()
        future.set_running_or_notify_cancel()  # from here on it cannot be cancelled, only superseded
        with self._lock:
            if self._closed:
                raise EngineClosed("The engine has stopped.")
            old, self._pending = self._pending, Order(directory, version, future)
        if old is not None:
            old.future.set_exception(Superseded(f"version {version} was asked for after version {old.version}"))
        self._wake()
        return future

    def advance(self, step_s: float) -> None:
        """Begin what can begin and commit what is ready; `step_s` is the mean duration of a step of late."""
        if self._current is None:
            self._begin()
        if self._current is None or not self._current[1].done():
            return
        order, staging = self._current
        error = staging.exception()
        if error is not None:
            self._refuse(order, error)
        elif self._mode != "drain" or staging.result().weights is None or self._lanes.serving.idle:
            self._commit(order, staging.result(), step_s)

    def close(self, reason: str) -> None:
        """Give up what is not committed; a stage under way ends by itself and touches nothing that serves."""
        with self._lock:
            self._closed = True
            orders = [self._pending, self._current[0] if self._current else None]
            self._pending = self._current = None
        for order in orders:
            if order is not None:
                order.future.set_exception(EngineClosed(reason))

    def _target_ready(self, order: Order) -> bool:
        lanes = self._lanes
        resident = lanes.of_version(order.version) is not None
        return self._mode != "two_versions" or resident or lanes.room_for_another or lanes.spare() is not None

    def _begin(self) -> None:
        """Start staging the pending order on a thread of its own, once there is a lane for it."""
        with self._lock:
            order = self._pending
            if order is None or not self._target_ready(order):
                return
            self._pending = None
        helper = ThreadPoolExecutor(1, thread_name_prefix="engine-stage")
        staging = helper.submit(self._stage, order)
        helper.shutdown(wait=False)  # its thread ends with its work: see `Engine.start`
        self._current = (order, staging)
        staging.add_done_callback(lambda _: self._wake())

    def _stage(self, order: Order) -> Staged:
        """On that thread: get the weights ready without touching a lane that serves."""
        began = time.monotonic()
        weights = stage.read(order.directory, order.version, self._lanes.serving.policy.model)
        lane = self._lanes.of_version(order.version)
        if lane is not None:
            self._recognise(lane, weights)
            return Staged(lane, weights.fingerprint, None, time.monotonic() - began)
        if self._mode != "two_versions":
            return Staged(self._lanes.serving, weights.fingerprint, weights, time.monotonic() - began)
        lane = self._lanes.spare() or self._lanes.twin()
        lane.change(VOID, "")  # until the new weights are proven, it holds no version
        stage.load(lane.policy, lane.anatomy, weights)
        lane.repack()
        lane.prove()
        lane.change(order.version, weights.fingerprint)
        return Staged(lane, weights.fingerprint, None, time.monotonic() - began)

    def _recognise(self, lane: Lane, weights: Weights) -> None:
        """Prove that a resident lane holds the very weights of a checkpoint of its version."""
        lane.fingerprint = lane.fingerprint or fingerprint(lane.policy.model)
        if lane.fingerprint != weights.fingerprint:
            raise StageFailed(f"version {weights.version} is resident with other weights than the checkpoint's")

    def _commit(self, order: Order, staged: Staged, step_s: float) -> None:
        """Between two steps: the one moment in which the serving version changes."""
        began = time.monotonic()
        before = self._lanes.serving.version
        if staged.weights is not None:
            try:
                self._exchange(staged.lane, staged.weights)
            except StageFailed as error:
                self._refuse(order, error)
                return
        self._lanes.serve(staged.lane)
        pause = time.monotonic() - began
        steps = pause / step_s if step_s else 0.0
        self.last = SwapReport(before, order.version, staged.staged_s, pause, steps, staged.fingerprint)
        self.done += 1
        self._current = None
        order.future.set_result(self.last)

    def _exchange(self, lane: Lane, weights: Weights) -> None:
        """Change a lane's weights in place; put the old ones back if the new ones fail."""
        held = stage.exchange(lane.policy, weights)
        try:
            stage.prove(lane.policy, lane.anatomy, weights)
        except StageFailed:
            stage.exchange(lane.policy, held)
            raise
        lane.repack()
        lane.change(weights.version, weights.fingerprint)

    def _refuse(self, order: Order, error: BaseException) -> None:
        """Keep the old version, and say why in the future."""
        self.failed += 1
        self._current = None
        if not isinstance(error, StageFailed):
            refused = StageFailed(f"version {order.version} could not be staged: {error}")
            refused.__cause__ = error
            error = refused
        order.future.set_exception(error)
