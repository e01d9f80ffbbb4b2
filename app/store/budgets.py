"""How long work may wait for Postgres, by the kind of work: the bounds on every connection and every transaction.

Two clocks watch each transaction. Postgres' own (`statement_s`, `lock_s`, `idle_s`) ends what is slow and frees what it
holds; they are set at the start of each transaction and for it alone, so they work through a pooler in transaction
mode. Ours (`reply_s`, `connect_s`) ends the wait for a Postgres that says nothing at all: frozen, or gone without a
word. A connection that is given up is closed, and its transaction is undone by Postgres once it notices, unless its
commit had arrived. Leaves out how they are kept (`app.store.connect`).
"""

from dataclasses import dataclass
from typing import Final

SHORTEST_CONNECT_S: Final = 2  # what the driver takes for the least


@dataclass(frozen=True, slots=True)
class Budget:
    """The bounds of one kind of work, in seconds; None leaves one out."""

    wait_s: float  # for a free connection of the pool
    connect_s: int  # for a new connection, whole seconds, at least two
    lock_s: float | None  # for a row or table that another transaction holds
    statement_s: float | None  # for one statement, its locks included
    idle_s: float | None  # an open transaction may do nothing for so long
    reply_s: (
        float | None
    )  # for a word from Postgres; a little more than `statement_s`, so that its own reason comes first


def requests(seconds: float) -> Budget:
    """Bound the transactions of requests, for which a client waits.

    Args:
        seconds: how long one may take before its client is told to come back.

    """
    return Budget(
        wait_s=seconds,
        connect_s=max(SHORTEST_CONNECT_S, round(seconds / 2)),
        lock_s=0.6 * seconds,
        statement_s=0.8 * seconds,
        idle_s=2 * seconds,
        reply_s=seconds,
    )


REQUESTS: Final = requests(5.0)
# Operators' routes count and list; they may take longer than a client of the API would wait.
CONTROL: Final = Budget(wait_s=5.0, connect_s=2, lock_s=5.0, statement_s=15.0, idle_s=30.0, reply_s=16.0)
# Claims and settlements of a large backlog are single statements over many rows.
WORKER: Final = Budget(wait_s=30.0, connect_s=5, lock_s=30.0, statement_s=120.0, idle_s=120.0, reply_s=130.0)
# Heartbeats and leases: late is as bad as lost.
PROMPT: Final = Budget(wait_s=3.0, connect_s=2, lock_s=2.0, statement_s=3.0, idle_s=6.0, reply_s=4.0)
# A migration takes as long as its data is large.
MIGRATION: Final = Budget(wait_s=10.0, connect_s=5, lock_s=None, statement_s=None, idle_s=None, reply_s=None)
