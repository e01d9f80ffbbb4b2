"""The advisory locks of the product, in one place so that no two meanings share a number.

All end with their transaction. Leaves out row locks, which stand in the queries that need them.
"""

from enum import IntEnum

from sqlalchemy import func, select
from sqlalchemy.orm import Session


class Lock(IntEnum):
    """A lock of the whole database; the numbers are arbitrary and must never change."""

    MIGRATE = 7_135_101
    PUBLISH = 7_135_102  # allocating a version
    FIRST_KEY = 7_135_105  # making the first admin key
    FOLD = 7_135_106  # adding up tallies
    HELD_OUT = 7_135_107  # numbering held-out sets, and choosing the one that is asked


def hold(session: Session, lock: Lock) -> None:
    """Wait for a lock and hold it until the transaction ends."""
    session.execute(select(func.pg_advisory_xact_lock(int(lock))))
