"""Writing down what is finished though the database blips: one transaction, tried again within a bound.

For work whose result exists already and would be lost with one failed commit. A commit that got no answer may have
happened all the same, so before another try the caller looks whether it did. Leaves out the work itself.
"""

import logging
import time
from collections.abc import Callable
from typing import Final, TypeVar

from sqlalchemy.orm import Session

from app.errors import Unavailable
from app.store.connect import Store

FIRST_PAUSE_S: Final = 0.2
LONGEST_PAUSE_S: Final = 5.0

log = logging.getLogger(__name__)

T = TypeVar("T")


def write_for_sure(
    store: Store,
    write: Callable[[Session], T],
    *,
    written: Callable[[Session], T | None],
    within_s: float = 120.0,
    wait: Callable[[float], object] = time.sleep,
) -> T:
    """Commit `write`, again and again while Postgres is away, once and no more.

    Args:
        store: where to.
        write: writes in the transaction it is given; called once for each try, so it must not count on the one before.
        written: looks in a new transaction whether an earlier try was committed after all, and gives its result, or
            None. It must lock the row that `write` locks first: an earlier transaction that Postgres has not noticed
            to be given up may still be under way.
        within_s: when to give up, counted from now.
        wait: pauses between tries; an event's `wait` can cut a pause short.

    Raises:
        Unavailable: Postgres stayed away for `within_s`.
        Exception: whatever `write` and `written` raise but that.

    """
    end = time.monotonic() + within_s
    pause = FIRST_PAUSE_S
    tried = False
    while True:
        try:
            with store.session() as session:
                found = written(session) if tried else None
                return write(session) if found is None else found
        except Unavailable as error:
            tried = True
            if time.monotonic() + pause >= end:
                raise
            log.warning("a finished result is not written yet, next try in %.1f s: %s", pause, error)
        wait(pause)
        pause = min(2 * pause, LONGEST_PAUSE_S)
