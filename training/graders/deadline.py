"""How much time is left. A monotonic clock, so a change of the wall clock cannot stretch a deadline."""

from time import monotonic


class Deadline:
    """A moment `seconds` from now."""

    def __init__(self, seconds: float) -> None:
        self._end = monotonic() + seconds

    def remaining(self) -> float:
        """Return the seconds left, 0 when it has passed."""
        return max(0.0, self._end - monotonic())
