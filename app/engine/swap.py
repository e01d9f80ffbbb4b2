"""New weights: staged beside the serving ones, made current between two steps, with nobody aborted or refused.

`two_versions`: a second lane takes the new weights, new requests enter it, old rows finish on the old weights. A
version may also be held there as a candidate, for the requests that name it. What is resident already (a candidate
that is promoted, a predecessor that is rolled back to) serves from the next step on: nothing is read, hashed or copied,
and nobody is waited for. One that is not resident needs a lane: a candidate gives way to it; rows of an earlier version
are waited for, but by an urgent order no longer than `swap_patience_s`, after which they end early.

Where memory holds one set of weights only: `drain` lets the rows finish while requests wait (bounded by their deadlines
and budgets), `in_place` changes the weights under running rows and says so in their `version_spans`. A failed stage
leaves the old version serving.
"""

import time
import traceback
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from threading import Lock
from typing import Final, Literal, TypeVar

from app.decoder.anatomy import UnsupportedModel
from app.engine import stage
from app.engine.config import SwapMode
from app.engine.lane import Lane
from app.engine.lanes import Lanes
from app.engine.request import EngineClosed
from app.engine.stage import StageFailed, Weights
from training.memory.room import give_back, says_short_of_memory
from training.models.policy import fingerprint

VOID: Final = -1  # version of a lane whose weights are being written

T = TypeVar("T")
Role = Literal["serve", "hold"]  # what an order wants a version for: to serve, or to be held as a candidate
ROLES: Final[tuple[Role, ...]] = ("serve", "hold")  # what is to serve goes first


class Superseded(Exception):
    """Something else was asked for before this order was carried out; that goes ahead."""


@dataclass(frozen=True, slots=True)
class SwapReport:
    """How one swap, or one candidate's coming, went."""

    from_version: int  # what served before
    to_version: int
    staged_s: float  # seconds of reading, copying and proving, beside the serving weights; 0 when it was resident
    pause_s: float  # seconds in which the step loop stood still
    pause_steps: float  # the same in decode steps of the mean duration of late; 0 when none was timed
    fingerprint: str  # SHA-256 of the live parameters


@dataclass(frozen=True, slots=True, eq=False)
class Order:
    """A version that was asked for."""

    directory: Path
    version: int
    role: Role
    urgent: bool  # rows of other versions end early rather than hold it up
    named: str | None  # fingerprint its manifest names; None: its files are gone
    since: float = field(default_factory=time.monotonic)
    future: "Future[SwapReport]" = field(default_factory=Future)

    def give_up(self, why: str) -> None:
        """Tell whoever asked that something else goes ahead."""
        if not self.future.done():
            self.future.set_exception(Superseded(why))


@dataclass(frozen=True, slots=True)
class Staged:
    """Weights ready to be made current."""

    lane: Lane  # where they are, or will be
    fingerprint: str  # of the parameters, live or about to be
    weights: Weights | None  # still to be exchanged in place; None when the lane holds them
    staged_s: float


@dataclass(slots=True)
class Work:
    """The order under way: first its weights are read, then they are put into a lane."""

    order: Order
    read: "Future[Weights]"
    load: "Future[Staged] | None" = None
    began: float = field(default_factory=time.monotonic)

    @property
    def moved(self) -> bool:
        """Whether its present half is over."""
        return (self.load or self.read).done()


class Swapper:
    """Carries orders out; `advance` is called by the engine's thread between two steps."""

    def __init__(self, lanes: Lanes, mode: SwapMode, wake: Callable[[], None], patience_s: float) -> None:
        self.done = 0  # swaps committed
        self.failed = 0  # orders refused
        self.last: SwapReport | None = None
        self._lanes = lanes
        self._mode = mode
        self._wake = wake
        self._patience_s = patience_s
        self._lock = Lock()  # guards what follows
        self._closed = False
        self._pending: dict[Role, Order] = {}
        self._released: set[int] = set()
        self._work: Work | None = None  # of the engine's thread
        self._short = False  # whether a stage found too little memory; of the engine's thread
        self._littered = False  # whether weights that were read have left gaps in the heap; of the engine's thread

    @property
    def holds_admission(self) -> bool:
        """Whether new requests must wait for rows to drain."""
        read = self._work is not None and self._work.read.done() and self._work.read.exception() is None
        return self._mode == "drain" and read

    @property
    def ready(self) -> bool:
        """Whether `advance` has something to do."""
        if self._released or (self._work is not None and self._work.moved):
            return True
        with self._lock:
            waiting = list(self._pending.values())
        return any(self._can_move(order) for order in waiting)

    def order(self, directory: Path, version: int, role: Role = "serve", *, urgent: bool = False) -> Order:
        """Ask for a version, from any thread; an order of the same role that waits gives way to the newer.

        Raises:
            EngineClosed: the engine has stopped.
            ValueError: a candidate is asked for where memory holds one version.

        """
        if role == "hold" and self._mode != "two_versions":
            raise ValueError(f"a candidate needs two resident versions; swap_mode is {self._mode}")
        order = Order(directory, version, role, urgent, stage.named(directory, version))
        order.future.set_running_or_notify_cancel()  # from here on it cannot be cancelled, only superseded
        with self._lock:
            if self._closed:
                raise EngineClosed("The engine has stopped.")
            old = self._pending.pop(role, None)
            self._pending[role] = order
            self._released.discard(version)
        if old is not None:
            old.give_up(f"version {version} was asked for after version {old.version}")
        self._wake()
        return order

    def release(self, version: int) -> None:
        """Hold a candidate no longer, from any thread: from the next step on no request enters it."""
        with self._lock:
            order = self._pending.get("hold")
            if order is not None and order.version == version:
                del self._pending["hold"]
                order.give_up(f"version {version} is no candidate any more")
            self._released.add(version)
        self._wake()

    def advance(self, step_s: float) -> None:
        """Do what can be done now; `step_s` is the mean duration of a step of late."""
        if not self.ready:
            return
        self._release()
        for role in ROLES:
            self._take_resident(role, step_s)
        self._begin()
        self._load()
        self._conclude(step_s)
        self._tidy()

    def in_the_way(self) -> Lane | None:
        """Find the lane whose rows an urgent order has waited for long enough."""
        work = self._work
        if work is None or not work.order.urgent or not work.moved:
            return None
        late = time.monotonic() - work.order.since >= self._patience_s
        return (self._lanes.other or self._lanes.serving) if late else None

    def close(self, reason: str) -> None:
        """Give up what is not committed; a stage under way ends by itself and touches nothing that serves."""
        with self._lock:
            self._closed = True
            orders = list(self._pending.values()) + ([self._work.order] if self._work else [])
            self._pending.clear()
            self._work = None
        for order in orders:
            if not order.future.done():
                order.future.set_exception(EngineClosed(reason))

    def _release(self) -> None:
        """Let candidates go that are none any more."""
        with self._lock:
            released, self._released = self._released, set()
        candidate = self._lanes.candidate
        if candidate is not None and candidate.version in released:
            self._lanes.candidate = None
        if self._work is not None and self._work.order.role == "hold" and self._work.order.version in released:
            self._abandon(f"version {self._work.order.version} is no candidate any more")

    def _take_resident(self, role: Role, step_s: float) -> None:
        """Carry out at once what needs no weights."""
        with self._lock:
            order = self._pending.get(role)
            lane = None if order is None else self._lanes.of_version(order.version)
            if order is None or lane is None or not proven(lane, order):
                return
            del self._pending[role]
        if role == "serve" and self._work is not None and self._work.order.role == "serve":
            self._abandon(f"version {order.version} was asked for after version {self._work.order.version}")
        self._commit(order, Staged(lane, lane.fingerprint or "", None, 0.0), step_s)

    def _begin(self) -> None:
        """Start reading the next order's weights, on a thread of its own; what is to serve goes first."""
        for role in ROLES:
            with self._lock:
                order = self._pending.get(role)
            if order is None:
                continue
            if role == "serve" and self._lanes.other is self._lanes.candidate:
                self._lanes.candidate = None  # the other lane is needed; its rows finish
            if not self._can_move(order):
                continue
            if self._work is not None:
                self._abandon(f"version {order.version} was asked for after version {self._work.order.version}")
            with self._lock:
                if self._pending.get(role) is order:
                    del self._pending[role]
            self._work = Work(order, self._apart(partial(self._read, order)))

    def _can_move(self, order: Order) -> bool:
        """Whether a waiting order need not wait: for the work under way, and for a lane."""
        lane = self._lanes.of_version(order.version)
        if lane is not None and proven(lane, order):
            return True
        if self._work is not None and not (self._work.load is None and order.role == "serve"):
            return False  # only serving goes before work under way, and only while that has written nothing
        return order.urgent or self._target_ready(order)

    def _abandon(self, why: str) -> None:
        """Drop the work under way: what it still reads is thrown away, a lane it is writing becomes a resident one."""
        assert self._work is not None
        self._work.order.give_up(why)
        if self._work.load is None:
            self._work = None

    def _target_ready(self, order: Order) -> bool:
        lanes = self._lanes
        if self._mode != "two_versions" or lanes.room_for_another or lanes.of_version(order.version) is not None:
            return True
        other = lanes.other
        return other is not None and other.idle

    def _read(self, order: Order) -> Weights:
        """On a thread apart: read and check, without touching a lane."""
        return stage.read(order.directory, order.version, self._lanes.serving.policy.model)

    def _load(self) -> None:
        """Once weights are read, put them into a lane that nobody uses, on a thread apart."""
        work = self._work
        if work is None or work.load is not None or not work.read.done():
            return
        if work.read.exception() is not None:
            self._refuse(work.order, work.read.exception())
            return
        weights, order, lanes = work.read.result(), work.order, self._lanes
        resident = lanes.of_version(order.version)
        if resident is not None:
            work.load = self._apart(partial(self._recognised, resident, weights, work.began))
        elif self._mode != "two_versions":
            staged = Staged(lanes.serving, weights.fingerprint, weights, time.monotonic() - work.began)
            work.load = Future()
            work.load.set_result(staged)
        elif self._target_ready(order):
            if lanes.candidate is not None and lanes.candidate is lanes.other:
                lanes.candidate = None
            lane = lanes.spare()
            if lane is not None:
                lane.change(VOID, "")  # until the new weights are proven, it holds no version
            work.load = self._apart(partial(self._filled, lane, weights, work.began))

    def _filled(self, lane: Lane | None, weights: Weights, began: float) -> Staged:
        """On a thread apart: put weights into a lane, or into a new one, and prove them."""
        serving = self._lanes.serving
        serving.fingerprint = serving.fingerprint or fingerprint(serving.policy.model)  # to be known again by
        if lane is None:
            policy = self._lanes.copy_of_policy()
            stage.load(policy.model, weights)
            lane = self._lanes.lane_of(policy)
            lane.change(VOID, "")
        else:
            lane.change(VOID, "")
            stage.load(lane.policy.model, weights)
            lane.repack()
        try:
            lane.prove(briefly=True)
        except UnsupportedModel:
            stage.canary(lane.policy, lane.anatomy, weights.version)  # is it the weights?
            raise
        lane.change(weights.version, weights.fingerprint)
        lane.origin = weights.origin
        return Staged(lane, weights.fingerprint, None, time.monotonic() - began)

    def _recognised(self, lane: Lane, weights: Weights, began: float) -> Staged:
        """On a thread apart: prove that a resident lane holds the very weights of a checkpoint of its version."""
        lane.fingerprint = lane.fingerprint or fingerprint(lane.policy.model)
        if lane.fingerprint not in {weights.fingerprint, weights.live}:
            raise StageFailed(f"version {weights.version} is resident with other weights than the checkpoint's")
        lane.origin = weights.origin
        return Staged(lane, weights.fingerprint, None, time.monotonic() - began)

    def _conclude(self, step_s: float) -> None:
        """Make current what is ready."""
        work = self._work
        if work is None or work.load is None or not work.load.done():
            return
        error = work.load.exception()
        if error is not None:
            self._refuse(work.order, error)
            return
        staged = work.load.result()
        if work.order.future.done():  # given up meanwhile; the lane stays resident
            self._lanes.keep(staged.lane)
            self._work = None
        elif self._mode != "drain" or staged.weights is None or self._lanes.serving.idle:
            self._commit(work.order, staged, step_s)

    def _commit(self, order: Order, staged: Staged, step_s: float) -> None:
        """Between two steps: the one moment in which the serving version, or the candidate, changes."""
        began = time.monotonic()
        before = self._lanes.serving.version
        if staged.weights is not None:
            try:
                self._exchange(staged.lane, staged.weights)
            except (RuntimeError, MemoryError) as error:
                self._refuse(order, error)
                return
        if order.role == "serve":
            self._lanes.serve(staged.lane)
        else:
            self._lanes.hold(staged.lane)
        pause = time.monotonic() - began
        report = SwapReport(
            from_version=before,
            to_version=order.version,
            staged_s=staged.staged_s,
            pause_s=pause,
            pause_steps=pause / step_s if step_s else 0.0,
            fingerprint=staged.fingerprint,
        )
        if order.role == "serve":
            self.last = report
            self.done += 1
        self._over(order)
        order.future.set_result(report)

    def _exchange(self, lane: Lane, weights: Weights) -> None:
        """Change a lane's weights in place; the old ones are back where the new ones fail."""
        packing = False
        try:
            with stage.exchanged(lane.policy, weights):
                stage.canary(lane.policy, lane.anatomy, weights.version)
                packing = True
                lane.repack()
        except (RuntimeError, MemoryError):
            if packing:
                lane.repack()
            raise
        lane.change(weights.version, weights.fingerprint)
        lane.origin = weights.origin

    def _refuse(self, order: Order, error: BaseException | None) -> None:
        """Keep what serves, and say why in the future."""
        self._over(order)
        if order.future.done():
            return
        self.failed += 1
        assert error is not None
        traceback.clear_frames(error.__traceback__)  # a lane that was half made goes now, not when the caller forgets
        if not isinstance(error, StageFailed):
            refused = StageFailed(self._why(order, error))
            refused.__cause__ = error
            error = refused
        order.future.set_exception(error)

    def _why(self, order: Order, error: BaseException) -> str:
        """Say why a version could not be staged, and what helps."""
        why = f"version {order.version} could not be staged: {error}"
        if not says_short_of_memory(error):
            return why
        self._short = True
        room = "lower LEPO_SLOTS or LEPO_MAX_LENGTH"
        if self._mode == "two_versions":
            room += ", or hold one version only (LEPO_SWAP_MODE=drain)"
        return f"{why}. There is too little memory for it beside what serves: {room}"

    def _over(self, order: Order) -> None:
        if self._work is not None and self._work.order is order:
            self._work = None
            self._littered = True

    def _tidy(self) -> None:
        """Give back what a swap has read and packed anew, on a thread apart: the C library would keep it for later."""
        device = self._lanes.serving.policy.device
        if self._littered and self._work is None and (device.type == "cpu" or self._short):
            self._short = False
            self._apart(partial(give_back, device))
        self._littered = self._littered and self._work is not None

    def _apart(self, work: Callable[[], T]) -> "Future[T]":
        """Run on a thread that ends with its work (see `Engine.start`), and wake the engine then."""
        helper = ThreadPoolExecutor(1, thread_name_prefix="engine-stage")
        future = helper.submit(work)
        helper.shutdown(wait=False)
        future.add_done_callback(lambda _: self._wake())
        return future


def proven(lane: Lane, order: Order) -> bool:
    """Whether a lane surely holds the weights that are asked for: those its manifest names, or the last there are."""
    return order.named is None or order.named in {lane.origin, lane.fingerprint}
