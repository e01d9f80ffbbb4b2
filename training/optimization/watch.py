"""Between an update's loop and its caller: progress out, the wish to end in. Leaves out time, which the caller has."""

from collections.abc import Callable

from training.distributed.ranks import Ranks
from training.optimization.health import UpdateCancelled

Progress = Callable[[int, int], None]  # micro-batches done, micro-batches in all
Cancelled = Callable[[], bool]  # asked before every micro-batch, and every part of one


class Watch:
    """Of one update, on this process."""

    def __init__(self, progress: Progress | None, cancelled: Cancelled | None, ranks: Ranks) -> None:
        self.total = 0  # micro-batches of this update, on this process
        self._ranks = ranks
        self._done = 0
        self._progress = progress
        self._cancelled = cancelled

    def ask(self) -> None:
        """End the update where some process was asked to.

        Raises:
            UpdateCancelled: it was.

        """
        if self._ranks.agreed(self._cancelled is not None and self._cancelled()):
            raise UpdateCancelled(f"update cancelled after {self._done} of {self.total} micro-batches")

    def tell(self) -> None:
        """Say that one micro-batch more is done."""
        self._done += 1
        if self._progress is not None:
            self._progress(self._done, self.total)
