"""The store from the event loop: each piece of work is one transaction on one of a few threads.

Answering and control have a store and threads each, so that a flood of requests cannot keep an operator, the policy
watch or a health check from the database. Leaves out queries (`app.store`).
"""

from collections.abc import Callable
from functools import partial
from typing import TypeVar

import anyio
import anyio.to_thread
from sqlalchemy.orm import Session

from app.store.connect import Store

T = TypeVar("T")


class Transactions:
    """One store and as many threads as it has connections."""

    def __init__(self, store: Store, threads: int) -> None:
        self.store = store
        self._limiter = anyio.CapacityLimiter(threads)

    async def run(self, work: Callable[[Session], T]) -> T:
        """Run work in a transaction of its own, committed when this returns.

        Raises:
            Unavailable: the database is away or all connections are busy.

        """
        return await anyio.to_thread.run_sync(partial(self._transact, work), limiter=self._limiter)

    def _transact(self, work: Callable[[Session], T]) -> T:
        with self.store.session() as session:
            return work(session)
