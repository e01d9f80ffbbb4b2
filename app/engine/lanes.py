"""The resident lanes, two at most, and which of them new requests enter.

All keep their keys and values in the blocks of one pool, which is as large as what they can need together, or as memory
allows. When a row needs a block and there is none, the youngest of all answers and prompts lets go of its blocks and is
computed again later.

One serves. The other is free, or runs answers of an earlier version to their end, or is held ready for a candidate:
then requests that name its version enter it beside those that enter the serving one, and either can serve at once.
"""

import copy
import dataclasses
import logging
from collections.abc import Iterator

from app.decoder.anatomy import Anatomy
from app.decoder.cache import BLOCK, BlockPool
from app.engine.blocks import Blocks
from app.engine.config import EngineConfig
from app.engine.lane import Lane, OutOfBlocks, Running, VersionStats, rank
from app.engine.prefill import OutOfMemory, Prompt
from app.engine.room import blocks_of_pool
from app.engine.ticket import Ticket
from training.memory.room import give_back, says_short_of_memory
from training.models.policy import Policy

_LOG = logging.getLogger(__name__)


class Lanes:
    """The serving lane and, once there was another version, the other one."""

    def __init__(self, policy: Policy, anatomy: Anatomy, config: EngineConfig, max_length: int) -> None:
        self.anatomy = anatomy
        self.config = config
        self.max_length = max_length
        count = blocks_of_pool(policy, anatomy, config, max_length)
        self.blocks = Blocks(count, config.prefix_cache_tokens // BLOCK)
        self._storage = BlockPool(anatomy.layers, count), self.blocks
        self.serving = Lane(policy, anatomy, config, max_length, self._storage)
        self.candidate: Lane | None = None  # held ready beside it
        self._all = [self.serving]

    def __iter__(self) -> Iterator[Lane]:
        return iter(self._all)

    @property
    def idle(self) -> bool:
        """Whether no lane has anything to do."""
        return all(lane.idle for lane in self._all)

    @property
    def room_for_another(self) -> bool:
        """Whether a second lane can be made."""
        return len(self._all) < 2

    @property
    def other(self) -> Lane | None:
        """The lane that does not serve."""
        return next((lane for lane in self._all if lane is not self.serving), None)

    def of_version(self, version: int) -> Lane | None:
        """Find the lane that holds a version."""
        return next((lane for lane in self._all if lane.version == version), None)

    def spare(self) -> Lane | None:
        """Find a lane that nobody uses and new requests do not enter: the stage of the next version."""
        other = self.other
        return other if other is not None and other is not self.candidate and other.idle else None

    def copy_of_policy(self) -> Policy:
        """Copy the serving policy into storage of its own."""
        return dataclasses.replace(self.serving.policy, model=copy.deepcopy(self.serving.policy.model))

    def lane_of(self, policy: Policy) -> Lane:
        """Make a lane as large as the serving one; not yet among the lanes."""
        return Lane(policy, self.anatomy, self.config, self.max_length, self._storage)

    def keep(self, lane: Lane) -> None:
        """Count a lane among the resident ones."""
        if lane not in self._all:
            assert self.room_for_another
            self._all.append(lane)

    def serve(self, lane: Lane) -> None:
        """Send new requests to a lane; a candidate that serves is none any more."""
        self.keep(lane)
        self.serving = lane
        if self.candidate is lane:
            self.candidate = None

    def hold(self, lane: Lane) -> None:
        """Hold a lane ready for requests that name its version."""
        self.keep(lane)
        self.candidate = None if lane is self.serving else lane

    def stats(self) -> tuple[VersionStats, ...]:
        """Say what each resident version is doing, the serving one first."""
        serving, candidate = self.serving, self.candidate
        others = [lane for lane in self._all if lane is not serving and lane.version >= 0]
        return (
            serving.stats("serving"),
            *(lane.stats("candidate" if lane is candidate else "other") for lane in others),
        )

    def entered_by(self, ticket: Ticket) -> Lane:
        """Say which lane a request enters: what serves, unless it names the candidate."""
        wanted = self.candidate
        return wanted if wanted is not None and wanted.version == ticket.request.version else self.serving

    @property
    def in_use(self) -> int:
        """Rows that belong to an answer, over all lanes."""
        return sum(lane.in_use for lane in self._all)

    @property
    def coming(self) -> int:
        """Prompts here that no row has begun from, over all lanes."""
        prompts = [prompt for lane in self._all for prompt in lane.prefill.prompts]
        return sum(prompt.resumed is not None or not prompt.ticket.seeded for prompt in prompts)

    @property
    def short(self) -> list[Ticket]:
        """Requests that were begun and wait for blocks."""
        return [ticket for lane in self._all for ticket in lane.prefill.short]

    def grow(self, lane: Lane) -> None:
        """See to it that every row of a lane has a block for its next step, whoever must give way."""
        while lane.running:
            try:
                lane.grow()
            except OutOfBlocks:
                self._make_way()
            else:
                return

    def step(self, lane: Lane) -> None:
        """Move a lane's rows; if memory is short for so many, the youngest gives way, and a single one fails."""
        while lane.running:
            try:
                lane.step()
            except (RuntimeError, MemoryError) as error:
                if not says_short_of_memory(error):
                    raise
                give_back(lane.policy.device)
                _LOG.warning("memory is short for a step of %d rows: %s", len(lane.running), error)
                rows = [running for running in lane.running if running is not None]
                youngest = max(rows, key=lambda one: (*rank(one.ticket), one.ticket.arrived))
                if len(rows) > 1:
                    lane.retreat(youngest)
                else:
                    lane.fail(youngest.ticket, str(OutOfMemory(youngest.ticket)))
                    return
            else:
                return

    def prefill(self, lane: Lane, budget: int) -> None:
        """Compute some of a lane's prompts; one for which memory cannot be had fails."""
        try:
            lane.prefill.advance(budget, self.in_use)
        except OutOfMemory as error:
            lane.fail(error.ticket, str(error))

    def _make_way(self) -> None:
        """Have the youngest that holds blocks let go of them."""
        held: list[tuple[Lane, Running | Prompt]] = []
        for lane in self._all:
            held += [(lane, running) for running in lane.running if running is not None and running.blocks]
            held += [(lane, prompt) for prompt in lane.prefill.prompts if prompt.blocks]
        lane, youngest = max(held, key=lambda one: (*rank(one[1].ticket), one[1].ticket.arrived))
        if isinstance(youngest, Running):
            lane.retreat(youngest)
        else:
            lane.prefill.retreat(youngest)
