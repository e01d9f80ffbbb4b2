"""The resident lanes, two at most, and which of them new requests enter.

One serves. The other is free, or runs answers of an earlier version to their end, or is held ready for a candidate:
then requests that name its version enter it beside those that enter the serving one, and either can serve at once.
"""

import copy
import dataclasses
from collections.abc import Iterator, Mapping

from app.decoder.anatomy import Anatomy
from app.engine.config import EngineConfig
from app.engine.lane import Lane, VersionStats
from app.engine.ticket import Ticket
from app.engine.waiting import Waiting
from training.models.policy import Policy


class Lanes:
    """The serving lane and, once there was another version, the other one."""

    def __init__(self, policy: Policy, anatomy: Anatomy, config: EngineConfig, max_length: int) -> None:
        self.anatomy = anatomy
        self.config = config
        self.max_length = max_length
        self.serving = Lane(policy, anatomy, config, max_length)
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

    def twin(self) -> Lane:
        """Make a lane with storage of its own, as large as the serving one; not yet among the lanes."""
        policy = dataclasses.replace(self.serving.policy, model=copy.deepcopy(self.serving.policy.model))
        return Lane(policy, self.anatomy, self.config, self.max_length)

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

    def admit(self, waiting: Waiting, free: int) -> Mapping[Lane, list[Ticket]]:
        """Take the next of the waiting, in their order, for lanes whose prompts are done; at most `free` slots' worth.

        One whose lane is busy with prompts holds nobody up: those behind it may enter the other lane.
        """
        entered = [self.serving] if self.candidate is None else [self.serving, self.candidate]
        batches: dict[Lane, list[Ticket]] = {lane: [] for lane in entered if not lane.prefill.busy}

        def accept(ticket: Ticket) -> bool:
            batch = batches.get(lane := self.entered_by(ticket))
            if batch is None or len(batch) >= lane.staged_rows:
                return False
            batch.append(ticket)
            return True

        waiting.take(sum(lane.staged_rows for lane in batches), free, accept)
        return {lane: tickets for lane, tickets in batches.items() if tickets}
