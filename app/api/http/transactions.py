"""The store from the event loop: each piece of work is one transaction on one of a few threads.

Answering and control have a store and threads each, so that a flood of requests cannot keep an operator, the policy
watch or a health check from the database. There are as many threads as connections; work beyond them waits in line, and
whoever asked hears within a bound, though a thread may still be stuck: work that had not begun by then never begins,
and work that had may still be committed. Leaves out queries (`app.store`) and what ends a stuck thread
(`app.store.connection`).
"""

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context
from typing import TypeVar

from sqlalchemy.orm import Session

from app.errors import Unavailable
from app.store.connect import Store

T = TypeVar("T")


class Transactions:
    """One store and as many threads as it has connections."""

    def __init__(self, store: Store, threads: int, within_s: float, name: str) -> None:
        self.store = store
        self._within_s = within_s
        self._threads = ThreadPoolExecutor(threads, thread_name_prefix=f"lepo-{name}")

    async def run(self, work: Callable[[Session], T], *, within_s: float | None = None) -> T:
        """Run work in a transaction of its own, committed when this returns.

        Args:
            work: takes the session, gives the result.
            within_s: seconds until the caller is told that there is no answer; None: as made for.

        Raises:
            Unavailable: the database is away, or did not answer in time; then the work may still be committed.

        """
        seconds = self._within_s if within_s is None else within_s
        context = copy_context()
        working = asyncio.get_running_loop().run_in_executor(self._threads, context.run, self._transact, work)
        try:
            return await asyncio.wait_for(working, seconds)
        except TimeoutError as error:
            raise Unavailable(f"Postgres did not answer within {seconds:g} s. Try again.", retry_after=2) from error

    def _transact(self, work: Callable[[Session], T]) -> T:
        with self.store.session() as session:
            return work(session)

    def close(self) -> None:
        """Drop what has not begun, and wait for what has: its connection goes back to a pool that is still there."""
        self._threads.shutdown(cancel_futures=True)
