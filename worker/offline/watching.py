"""What a person sees of a run, and how they end it: a progress bar, a line per validation, Ctrl-C.

The first Ctrl-C (or SIGTERM) asks the run to end with a checkpoint; a second one ends it at once. Figures go to the
run's metrics file, and to whatever else is handed in as a recorder.
"""

import signal
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import FrameType, TracebackType
from typing import Any, Final

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from worker.offline.run_directory import RunDirectory
from worker.offline.train import Record

SIGNALS: Final = (signal.SIGINT, signal.SIGTERM)
COLUMNS: Final = ("{task.fields[doing]}", "reward {task.fields[reward]}")


class Watching:
    """The screen and the signals of one run; a context manager."""

    def __init__(self, directory: Path, *, leads: bool) -> None:
        """Watch the run in a directory; of several processes only the one that leads records and shows."""
        self.stop = threading.Event()
        self._recorders: list[Record] = [RunDirectory(directory).record] if leads else []
        left = (TextColumn("Updates"), BarColumn(), MofNCompleteColumn())
        right = (*map(TextColumn, COLUMNS), TimeElapsedColumn(), TimeRemainingColumn())
        self._bars = Progress(*left, *right, console=Console(stderr=True, quiet=not leads), transient=True)
        self._bar = self._bars.add_task("updates", total=None, doing="starting", reward="-")
        self._before: list[Any] = []

    def __enter__(self) -> "Watching":
        self._before = [signal.signal(number, self._asked_to_stop) for number in SIGNALS]
        self._bars.start()
        return self

    def __exit__(
        self, _kind: type[BaseException] | None, _error: BaseException | None, _trace: TracebackType | None
    ) -> None:
        self._bars.stop()
        for number, handler in zip(SIGNALS, self._before, strict=True):
            signal.signal(number, handler)

    def begin(self, updates: int, done: int) -> None:
        """Say how far the run goes and where it is."""
        self._bars.update(self._bar, total=updates, completed=done)

    def hand_to(self, recorders: Sequence[Record]) -> None:
        """Hand figures to these too from now on."""
        self._recorders.extend(recorders)

    def tell(self, what: str, done: int, total: int) -> None:
        """Show what is being done within an update."""
        self._bars.update(self._bar, doing=f"{what} {done}/{total}")

    def say(self, line: str) -> None:
        """Show a line that stays."""
        self._bars.console.print(f"  {line}", highlight=False)

    def record(self, step: int, figures: Mapping[str, Any]) -> None:
        """Hand figures to every recorder, and show the few that matter."""
        for recorder in self._recorders:
            recorder(step, figures)
        if figures["kind"] == "validation":
            shown = "{value:.1%} ({low:.1%} to {high:.1%}) on {problems} problems".format(**figures)
            self._bars.console.print(f"  after {step:>4} updates: validation {shown}", highlight=False)
            return
        reward = "-" if figures["reward"] is None else f"{figures['reward']:.3f}"
        self._bars.update(self._bar, completed=step, reward=reward)
        if "rejected" in figures:
            self._bars.console.print(f"  update {step} left no trace: {figures['rejected']}", highlight=False)

    def _asked_to_stop(self, _number: int, _frame: FrameType | None) -> None:
        if self.stop.is_set():
            raise KeyboardInterrupt
        self.stop.set()
        self._bars.console.print("  stopping with a checkpoint; once more to stop at once", highlight=False)
