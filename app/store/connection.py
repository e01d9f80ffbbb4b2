"""A connection that does not wait for ever: a driver's connection with a bound on each reply.

Keepalives and `tcp_user_timeout` notice a host that is gone. They do not notice a Postgres that was stopped: its kernel
still answers for it. So each wait is bounded here, on our side. Leaves out the bounds themselves (`app.store.budgets`).
"""

from collections.abc import Generator
from time import monotonic
from typing import Any, Final

import psycopg

RESTING_S: Final = 3.0  # for the ping and the reset of a connection that does no work
LOOK_S: Final = 0.1  # between two looks at the clock while nothing arrives

# What the driver needs to notice a dead peer; ignored on a unix socket.
KEEPALIVE: Final[dict[str, int]] = {
    "keepalives": 1,
    "keepalives_idle": 10,  # seconds of silence before the first probe
    "keepalives_interval": 5,  # between two probes
    "keepalives_count": 3,
    "tcp_user_timeout": 20_000,  # milliseconds that sent data may stay unacknowledged
}


class BoundedConnection(psycopg.Connection[Any]):
    """A connection whose every wait for Postgres ends within `reply_s` seconds.

    After a wait that did not end the connection is closed: what Postgres may still do is not known.
    """

    reply_s: float | None = RESTING_S

    def wait(self, gen: Generator[Any, Any, Any], interval: float = LOOK_S, timeout: float | None = None) -> Any:
        """Drive one exchange with Postgres to its end.

        Raises:
            psycopg.OperationalError: the end did not come in time.

        """
        if timeout is not None:  # the driver's own bounded waits
            return super().wait(gen, interval, timeout)
        if self.reply_s is None:
            return super().wait(gen, interval)
        return super().wait(self._bounded(gen, self.reply_s), min(interval, LOOK_S))

    def _bounded(self, gen: Generator[Any, Any, Any], seconds: float) -> Generator[Any, Any, Any]:
        """Pass an exchange on, and give it up when nothing arrives any more."""
        end = monotonic() + seconds
        try:
            wanted = next(gen)
            while True:
                ready = yield wanted
                if not ready and monotonic() >= end:
                    self.pgconn.finish()
                    raise psycopg.OperationalError(f"no reply within {seconds:g} s")
                wanted = gen.send(ready)
        except StopIteration as done:
            return done.value
