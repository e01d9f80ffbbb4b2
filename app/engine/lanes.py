"""The resident lanes, two at most, and which of them new requests enter."""

import copy
import dataclasses
from collections.abc import Iterator

from app.decoder.anatomy import Anatomy
from app.engine.config import EngineConfig
from app.engine.lane import Lane
from training.policy import Policy


class Lanes:
    """The serving lane and, once there was a swap, the other one."""

    def __init__(self, policy: Policy, anatomy: Anatomy, config: EngineConfig, max_length: int) -> None:
        self.anatomy = anatomy
        self.config = config
        self.max_length = max_length
        self.serving = Lane(policy, anatomy, config, max_length)
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

    def of_version(self, version: int) -> Lane | None:
        """Find the lane that holds a version."""
        return next((lane for lane in self._all if lane.version == version), None)

    def spare(self) -> Lane | None:
        """Find a lane that nobody uses and new requests do not enter: the stage of the next swap."""
        return next((lane for lane in self._all if lane is not self.serving and lane.idle), None)

    def twin(self) -> Lane:
        """Make a lane with storage of its own, as large as the serving one; not yet among the lanes."""
        policy = dataclasses.replace(self.serving.policy, model=copy.deepcopy(self.serving.policy.model))
        return Lane(policy, self.anatomy, self.config, self.max_length)

    def serve(self, lane: Lane) -> None:
        """Send new requests to a lane."""
        if lane not in self._all:
            assert self.room_for_another
            self._all.append(lane)
        self.serving = lane
