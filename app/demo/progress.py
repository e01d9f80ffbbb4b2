"""Progress of what takes more than a few seconds: a spinner or a bar on a terminal, else a line now and then.

Leaves out the live view of the running service (`app.demo.view`).
"""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

LINE_EVERY_S = 15.0


@contextmanager
def waiting(console: Console, what: str, every_s: float = LINE_EVERY_S) -> Iterator[None]:
    """Show for how long something has been going on.

    Args:
        console: where to.
        what: is going on, as "loading the model".
        every_s: seconds between two lines where there is no terminal.

    """
    if console.is_terminal:
        columns = (SpinnerColumn(), TextColumn("{task.description}"), TimeElapsedColumn())
        with Progress(*columns, console=console, transient=True) as progress:
            progress.add_task(what, total=None)
            yield
        return
    over = threading.Event()
    ticker = threading.Thread(target=_tick, args=(console, what, every_s, over), daemon=True)
    ticker.start()
    try:
        yield
    finally:
        over.set()
        ticker.join()


def _tick(console: Console, what: str, every_s: float, over: threading.Event) -> None:
    began = time.monotonic()
    while not over.wait(every_s):
        console.print(f"  {time.monotonic() - began:.0f} s: {what}", highlight=False, markup=False)


@contextmanager
def counting(console: Console, total: int, every_s: float = LINE_EVERY_S) -> Iterator[Callable[[], None]]:
    """Show how many of `total` things are done; what is given is called after each of them."""
    if console.is_terminal:
        columns = (BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
        with Progress(*columns, console=console, transient=True) as progress:
            task = progress.add_task("", total=total)
            yield lambda: progress.advance(task)
        return
    done, began = 0, time.monotonic()
    said_at = began

    def one_more() -> None:
        nonlocal done, said_at
        done += 1
        now = time.monotonic()
        if now - said_at >= every_s and done < total:
            said_at = now
            console.print(f"  {now - began:.0f} s: {done} of {total}", highlight=False)

    yield one_more
