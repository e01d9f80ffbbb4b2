"""The engine: one thread that owns weights, caches and the step loop.

`_turn` reads: end who must end, swap, admit, compute some of the prompts, place, step, tell. Requests come from any
thread through a bounded queue and hear of their answers through their sink. Any failure on this thread ends the engine
and reaches every request as `Crashed`; nothing hangs. Leaves out HTTP, storage, and text templates.
"""

import logging
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Literal

import torch

from app.decoder.anatomy import examine
from app.decoder.cache import BLOCK, blocks_for
from app.engine import admission
from app.engine.answer import Reader
from app.engine.config import EngineConfig
from app.engine.deadlines import Deadlines
from app.engine.grammar import Grammars
from app.engine.lane import as_kept
from app.engine.lanes import Lanes
from app.engine.request import Crashed, EngineClosed, Event, Finished, FinishReason, QueueFull, Request, Sink, TokenInfo
from app.engine.room import in_words
from app.engine.score import Scorer
from app.engine.stats import EngineStats
from app.engine.swap import Swapper, SwapReport
from app.engine.text import decoder, pieces
from app.engine.ticket import Ticket
from app.engine.waiting import Waiting
from training.draw import prepare
from training.models.policy import Policy

_LOG = logging.getLogger(__name__)
_JOIN_S = 30.0  # seconds beyond the drain that `close` waits for a turn to end
_SMOOTHING = 0.05  # weight of the newest turn in the mean


class Engine:
    """Answers requests with one policy at a time, and takes new weights while answering.

    Example:
        engine = Engine(load_policy("demo", ...), EngineConfig(slots=16))
        engine.start()
        ticket = engine.submit(Request(prompt_ids=(1, 2), sampling=Sampling(latent_length=4), max_new=32), print)

    Raises:
        UnsupportedModel: the model cannot be served through a cache of blocks.
        MemoryError: there is no room for the keys and values of one answer.

    """

    def __init__(self, policy: Policy, config: EngineConfig) -> None:
        prepare(policy.device)
        anatomy = as_kept(examine(policy), policy.model, config)
        self.config = config
        self.max_length = min(config.max_length, anatomy.positions or config.max_length)
        self.failure: BaseException | None = None  # what crashed the engine
        self._lanes = Lanes(policy, anatomy, config, self.max_length)
        self._lanes.serving.prove()
        self.memory = in_words(policy, anatomy, config, self._lanes.blocks.count)  # what was planned
        self._reader = Reader(decoder(policy.tokenizer), pieces(policy.tokenizer), policy.eos_ids)
        self.grammars = Grammars(policy.tokenizer, anatomy.columns, policy.eos_ids)
        self._bounds = admission.Bounds(
            vocabulary=anatomy.vocabulary,
            max_length=self.max_length,
            max_top_k=config.max_top_k,
            most_choices=config.slots + config.max_waiting,
        )
        self._changed = threading.Condition()  # guards what follows, and says that it changed
        self._waiting = Waiting()
        self._cancelled: list[Ticket] = []
        self._state: Literal["ready", "closing", "closed", "crashed"] = "ready"
        self._close_by: float | None = None
        wake = partial(_wake, self._changed)  # not the engine's own: a cycle would keep its caches until Python looks
        self._swapper = Swapper(self._lanes, config.swap_mode, wake, config.swap_patience_s)
        self._scorer = Scorer(wake)
        self._live: dict[Ticket, None] = {}  # admitted and not finished, in order of admission
        self._deadlines = Deadlines()
        self._background = 0  # admitted choices that nobody waits for, as of the last turn
        self._thread: threading.Thread | None = None
        self._threads = config.threads or torch.get_num_threads()
        self._step_s = 0.0
        self._requests = self._finished = self._refused = 0

    @property
    def version(self) -> int:
        """Policy version that new requests start on."""
        return self._lanes.serving.version

    @property
    def candidate(self) -> int | None:
        """Version held ready for the requests that name it."""
        lane = self._lanes.candidate
        return None if lane is None else lane.version

    @property
    def packed(self) -> bool:
        """Whether steps run by a quicker view than the stock forward; see `app.engine.lane.quicker`."""
        return self._lanes.serving.packed

    def start(self) -> None:
        """Start the engine's thread, the one that is to compute on all cores the process may use.

        GNU OpenMP, which torch computes with on a CPU, keeps a team of threads for every thread that ever computed in
        parallel, and once the teams of a process have more threads than there are cores, all of them sleep between two
        operations instead of spinning for the next: a step takes one and a half times as long. So load the model under
        `torch.set_num_threads(1)`, and compute nothing large in threads that stay.
        """
        assert self._thread is None
        self.grammars.warm()
        self._thread = threading.Thread(target=self._run, name="engine", daemon=True)
        self._thread.start()

    def close(self, drain_s: float) -> None:
        """Take no more requests, let those here finish for up to `drain_s` seconds, cancel the rest, and stop."""
        with self._changed:
            if self._state == "ready":
                self._state = "closing"
                self._close_by = time.monotonic() + drain_s
            self._changed.notify()
        if self._thread is None:
            self._stop()
        else:
            self._thread.join(drain_s + _JOIN_S)

    def submit(self, request: Request, sink: Sink) -> Ticket:
        """Take a request; its sink hears of it from the engine's thread. Never blocks.

        Raises:
            QueueFull: too many wait; `retry_after_s` says when to come back.
            EngineClosed: the engine is stopping, has stopped, or has failed.
            RequestTooLong: prompt and budget do not fit a slot.
            InvalidConstraint: the constraint cannot be served. Compile it before, elsewhere (`grammars.of`): it may
                take seconds.
            ValueError: a field is out of range; the message names it.

        """
        return self._submit(request, sink, telling=True, bounded=True)

    def swap(self, directory: Path, version: int, *, urgent: bool = False) -> "Future[SwapReport]":
        """Serve a checkpoint's version, while answering; one that is resident serves from the next step on.

        Args:
            directory: the checkpoint's; it may be gone if the version is resident.
            version: the one it holds.
            urgent: where it needs the lane of answers of an earlier version, those end early after `swap_patience_s`.

        Returns:
            a future with a report; `StageFailed` when the checkpoint was refused (the old version goes on),
            `Superseded` when a newer swap was asked for before this one was done, `EngineClosed` when the engine stops.

        """
        with self._changed:
            self._require_open()
        return self._swapper.order(directory, version, "serve", urgent=urgent).future

    def hold(self, directory: Path, version: int) -> "Future[SwapReport]":
        """Hold a version ready beside the one that serves: requests that name it are answered by it.

        Returns:
            a future as of `swap`; what serves is not touched.

        Raises:
            ValueError: `swap_mode` leaves no room for two versions.

        """
        with self._changed:
            self._require_open()
        return self._swapper.order(directory, version, "hold").future

    def release(self, version: int) -> None:
        """Hold a version ready no longer; its answers under way finish on it."""
        self._swapper.release(version)

    def score(self, prompt_ids: tuple[int, ...], top: int = 0) -> "Future[list[TokenInfo]]":
        """Score a prompt under the serving weights, between two steps.

        Args:
            prompt_ids: at least one token id.
            top: likeliest candidates wanted per token, 0 to 20.

        Returns:
            a future with one entry per prompt token but the first, at temperature 1 over the whole vocabulary.

        Raises:
            QueueFull: too many prompts wait to be scored.
            EngineClosed: the engine is stopping, has stopped, or has failed; the future may hold it, too.
            RequestTooLong: the prompt is longer than a slot.
            ValueError: an id is not in the vocabulary, or `top` is out of range.

        """
        admission.check_prompt(prompt_ids, top, self._bounds)
        with self._changed:
            self._require_open()
            if self._scorer.waiting >= self._bounds.most_choices:
                raise QueueFull(1.0)
            return self._scorer.order(prompt_ids, top)

    def generate(
        self, requests: Sequence[Request], progress: Callable[[int], None] | None = None
    ) -> list[list[Finished]]:
        """Answer many requests and wait for all; the queue's bound does not apply.

        Runs on the engine's thread when it was started, else on the caller's. Whoever changes the weights by other
        means than `swap` (a trainer, between two calls) makes a new engine: this one's prefix cache knows the old ones.

        Args:
            requests: any number.
            progress: told the number of finished choices whenever it grows.

        Returns:
            per request its choices in order.

        Raises:
            RuntimeError: the engine failed under way.

        """
        done = threading.Semaphore(0)
        gathered: list[list[Event]] = [[] for _ in requests]

        def sink_of(index: int) -> Sink:
            def sink(events: Sequence[Event]) -> None:
                gathered[index].extend(events)
                done.release()

            return sink

        tickets = [self._submit(r, sink_of(i), telling=False, bounded=False) for i, r in enumerate(requests)]
        seen = 0
        while any(ticket.unfinished for ticket in tickets):
            if self._thread is None:
                self._turn()
            else:
                done.acquire()
            finished = sum(map(len, gathered))
            if progress is not None and finished != seen:
                progress(finished)
            seen = finished
        return [_in_order(events) for events in gathered]

    def stats(self) -> EngineStats:
        """Snapshot of the engine; cheap, from any thread."""
        lanes = list(self._lanes)
        blocks = self._lanes.blocks
        by_version = self._lanes.stats()
        return EngineStats(
            state=self._state,
            version=by_version[0].version,
            by_version=by_version,
            slots=self.config.slots,
            running=self._lanes.in_use,
            waiting=self._waiting.choices + sum(lane.waiting_choices for lane in lanes),
            requests=self._requests,
            finished=self._finished,
            refused=self._refused,
            steps=sum(lane.totals.steps for lane in lanes),
            tokens=sum(lane.totals.tokens for lane in lanes),
            latents=sum(lane.totals.latents for lane in lanes),
            prompt_tokens=sum(lane.totals.prompt_tokens for lane in lanes),
            prefill_tokens=sum(lane.prefill.computed_tokens for lane in lanes),
            prefix_hit_tokens=blocks.hit_tokens,
            prefix_tokens=blocks.known * BLOCK,
            cache_tokens=blocks.held * BLOCK,
            cache_room=blocks.count * BLOCK,
            preempted=sum(lane.totals.preempted for lane in lanes),
            not_finite=sum(lane.totals.not_finite for lane in lanes),
            step_s=self._step_s,
            swaps=self._swapper.done,
            failed_swaps=self._swapper.failed,
            last_swap=self._swapper.last,
            failure=None if self.failure is None else f"{type(self.failure).__name__}: {self.failure}",
        )

    def _submit(self, request: Request, sink: Sink, *, telling: bool, bounded: bool) -> Ticket:
        admission.check(request, self._bounds)
        grammar = None if request.constraint is None else self.grammars.of(request.constraint)
        ticket = Ticket(request, sink, self._reader, self._cancel, telling=telling, grammar=grammar)
        with self._changed:
            self._require_open()
            if bounded:
                self._require_room(request)
            self._waiting.push(ticket)
            self._requests += 1
            self._deadlines.push(ticket)
            self._changed.notify()
        return ticket

    def _require_open(self) -> None:
        if self._state == "crashed":
            raise EngineClosed("The engine has failed and answers no more; see /health and the log.")
        if self._state != "ready":
            raise EngineClosed("The engine is stopping.")

    def _require_room(self, request: Request) -> None:
        """Refuse what would wait behind more than may wait; the background is in nobody's way."""
        if request.background:
            waiting, places = self._waiting.choices, self._free_slots()
        else:
            waiting = self._waiting.pressing_choices
            places = self.config.max_waiting + self._free_slots() + self._background
        if waiting + request.choices > places:
            self._refused += 1
            raise QueueFull(self._waiting.estimate_s())

    def _free_slots(self) -> int:
        """Slots that neither a running choice nor one whose prompt is under way needs."""
        return self.config.slots - sum(lane.in_use + lane.waiting_choices for lane in self._lanes)

    def _cancel(self, ticket: Ticket) -> None:
        with self._changed:
            self._cancelled.append(ticket)
            self._changed.notify()

    def _run(self) -> None:
        torch.set_num_threads(self._threads)
        with ExitStack() as barrier:
            barrier.push(self._barrier)
            while self._wait_for_work():
                self._turn()
        self._stop()

    def _barrier(
        self, _kind: type[BaseException] | None, error: BaseException | None, _trace: TracebackType | None
    ) -> bool:
        """Hold any failure of the engine's thread, whatever it is: it is kept, logged, and told to every request."""
        if error is None:
            return False
        _LOG.error("the engine failed", exc_info=error)
        self.failure = error
        with self._changed:
            self._state = "crashed"
        for ticket in [*self._live, *self._waiting]:
            ticket.fail("The engine failed while answering; the request is over.")
            ticket.flush()
        return True

    def _stop(self) -> None:
        """End what is left, and say so."""
        if self.failure is None:
            for ticket in [*self._live, *self._waiting]:
                self._end(ticket, "cancelled")
            self._tell()
        self._swapper.close("The engine has stopped.")
        self._scorer.close("The engine has stopped.")
        with self._changed:
            if self._state != "crashed":
                self._state = "closed"

    def _wait_for_work(self) -> bool:
        """Sleep while there is nothing to do; False when it is time to stop."""
        with self._changed:
            while True:
                now = time.monotonic()
                busy = bool(self._live) or bool(len(self._waiting))
                if self._close_by is not None and (not busy or now >= self._close_by):
                    return False
                if busy or self._cancelled or self._swapper.ready or self._scorer.waiting:
                    return True
                self._changed.wait()

    def _turn(self) -> None:
        """Do everything once: one chunk of prompts and one step of every row."""
        began = time.monotonic()
        self._end_cancelled_and_late(began)
        self._end_in_the_way()
        self._swapper.advance(self._step_s)
        self._scorer.advance(self._lanes.serving.policy)
        self._admit()
        stepped = False
        with torch.inference_mode():
            self._prefill()
            for lane in self._lanes:
                lane.place(self.config.slots - self._lanes.in_use)
                self._lanes.grow(lane)
                stepped |= bool(lane.running)
                self._lanes.step(lane)
        self._tell()
        if stepped:
            self._step_s += (time.monotonic() - began - self._step_s) * (_SMOOTHING if self._step_s else 1.0)

    def _end_cancelled_and_late(self, now: float) -> None:
        with self._changed:
            cancelled, self._cancelled = self._cancelled, []
            late = self._deadlines.due(now)
        for ticket in cancelled:
            self._end(ticket, "cancelled")
        for ticket in late:
            self._end(ticket, "deadline")

    def _end(self, ticket: Ticket, reason: FinishReason) -> None:
        """End every unfinished choice of a request, wherever it is."""
        with self._changed:
            waited = self._waiting.drop(ticket)
        if not waited and ticket not in self._live:
            return
        self._live[ticket] = None
        for lane in self._lanes:
            lane.end(ticket, reason)
        ticket.finish_unstarted(reason, self.version)

    def _admit(self) -> None:
        """Begin the prompts of the waiting for whom there is a row and there are blocks, each in its lane.

        One for whom there are not enough blocks yet, or that gave up its own, is passed by those who fit, though not by
        any number of them.
        """
        if not len(self._waiting) or self._swapper.holds_admission:
            return
        if self._waiting.pressing_choices > self._free_slots():
            self._end_background()
        short = self._lanes.short
        if any(ticket.overdue for ticket in short):
            return
        rows = self.config.slots - self._lanes.in_use - self._lanes.coming
        room = self._lanes.blocks.free - self._lanes.in_use

        def accept(ticket: Ticket) -> bool:
            nonlocal rows, room
            needed = blocks_for(len(ticket.executed_ids)) + 1
            if rows <= 0 or (needed > room and self._live):
                return False
            rows, room = rows - 1, room - needed
            return True

        with self._changed:
            tickets = self._waiting.take(accept)
        now = time.monotonic()
        for ticket in tickets:
            ticket.started = now
            self._live[ticket] = None
        self._count_background()  # before they take slots, so that whoever asks meanwhile is not refused for them
        for ticket in short:
            ticket.passed_by += len(tickets)
        for ticket in tickets:
            self._lanes.entered_by(ticket).begin(ticket)

    def _prefill(self) -> None:
        """Compute a budget of prompt positions, those of each lane in turn."""
        busy = [lane for lane in self._lanes if lane.prefill.busy]
        for lane in busy:
            self._lanes.prefill(lane, self.config.prefill_chunk // len(busy))

    def _count_background(self) -> None:
        self._background = sum(ticket.unfinished for ticket in self._live if ticket.request.background)

    def _end_background(self) -> None:
        """Free the slots of answers that nobody waits for: somebody waits for one."""
        for ticket in [ticket for ticket in self._live if ticket.request.background]:
            self._end(ticket, "cancelled")

    def _end_in_the_way(self) -> None:
        """End the answers that a swap has waited for long enough."""
        lane = self._swapper.in_the_way()
        if lane is not None:
            for ticket in lane.tickets():
                self._end(ticket, "deadline")

    def _tell(self) -> None:
        """Hand each request's events of this turn to its sink; forget those that are complete."""
        finished = ended = 0
        for ticket in list(self._live):
            finished += ticket.flush()
            if not ticket.unfinished:
                del self._live[ticket]
                ended += 1
        if finished:
            self._count_background()
            self._finished += finished
            with self._changed:
                self._waiting.finished(finished)
                self._deadlines.ended(ended)


def _wake(changed: threading.Condition) -> None:
    with changed:
        changed.notify()


def _in_order(events: Sequence[Event]) -> list[Finished]:
    """Finished choices of one request by number.

    Raises:
        RuntimeError: the engine failed.

    """
    crash = next((event for event in events if isinstance(event, Crashed)), None)
    if crash is not None:
        raise RuntimeError(crash.message)
    return sorted((event for event in events if isinstance(event, Finished)), key=lambda event: event.choice)
