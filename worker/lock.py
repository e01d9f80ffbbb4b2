"""One learner at a time: a Postgres advisory lock, held on a connection of its own for as long as a job runs.

The lock keeps a second learner from starting; it does not keep a first one, cut off from Postgres, from going on. That
is what the job's fence is for: every write of a job names it, and a job taken over has another. Leaves out both.
"""

from collections.abc import Iterator
from contextlib import contextmanager

from sqlalchemy import func, select

from app.store.connect import Store
from app.store.locks import Lock


@contextmanager
def learner_lock(store: Store) -> Iterator[bool]:
    """Try to take the learner's lock, and hold it while the block runs.

    Postgres frees it when the block ends, and when this process or its connection dies.

    Yields:
        whether it was taken; False means that another learner is at work.

    """
    with store.engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        taken = bool(connection.scalar(select(func.pg_try_advisory_lock(int(Lock.LEARN)))))
        try:
            yield taken
        finally:
            # a session's lock outlives a return to the pool, so the connection itself is given up
            connection.invalidate()
