"""How often a key, and a project, may ask: requests and tokens a minute, counted in Redis by all servers together.

Requests are counted in a moving window and refused before they begin; one that is refused does not count. Tokens are
known when an answer ends: they are counted then, in a sliding counter (a list with an entry per token would be the
moving window), and a request is refused while the last minute's are beyond the bound. So what is under way may pass it.

Where there is no Redis, or it does not answer, each server counts for itself. Leaves out whose bound it is
(`app.store.projects`) and what else may be used up (`app.api.door.callers`).
"""

import logging
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, Final, TypeVar

from limits import RateLimitItemPerMinute
from limits.aio.storage import MemoryStorage, RedisStorage
from limits.aio.strategies import MovingWindowRateLimiter, SlidingWindowCounterRateLimiter
from limits.errors import StorageError
from redis.asyncio import ConnectionPool
from redis.exceptions import RedisError

from app.api.door.callers import Caller
from app.api.door.strangers import Recent
from app.errors import TooMany

MINUTE_S: Final = 60
REDIS_S: Final = 0.5  # a request waits no longer than that for Redis, twice: to connect and to hear
ALONE_S: Final = 5.0  # for which Redis is left alone after it did not answer
NAMESPACE: Final = "lepo:rate"
# Everything that is counted is let through by this one: who is over the bound was refused before.
COUNTER: Final = RateLimitItemPerMinute(2**53, namespace=NAMESPACE)

T = TypeVar("T")
Headers = dict[str, str]

log = logging.getLogger("lepo.api")


@dataclass(frozen=True, slots=True)
class Left:
    """What is left of a bound."""

    who: str  # key/<id> or project/<name>
    limit: int  # a minute
    remaining: int  # >= 0
    reset_s: float  # until nothing is used of it any more
    retry_s: float = 0.0  # until something is left again; 0: the request may go on


class Count:
    """Counting in one place: Redis, or this process."""

    def __init__(self, storage: RedisStorage | MemoryStorage) -> None:
        self._storage = storage
        self._moving = MovingWindowRateLimiter(storage)
        self._sliding = SlidingWindowCounterRateLimiter(storage)

    async def request(self, who: str, limit: int) -> Left:
        """Count a request, if it is within the bound, and say what is left."""
        item = RateLimitItemPerMinute(limit, namespace=NAMESPACE)
        within = await self._moving.hit(item, who)
        resets, remaining = await self._moving.get_window_stats(item, who)
        until = max(0.001, resets - time.time())
        return Left(who, limit, max(0, remaining), until, 0.0 if within else until)

    async def tokens(self, who: str, limit: int) -> Left:
        """Say what is left of a bound on tokens."""
        before, before_s, now, now_s = await self._storage.get_sliding_window(COUNTER.key_for(who), MINUTE_S)
        left = max(0, int(limit - before * before_s / MINUTE_S - now))
        reset = now_s if now else before_s if before else 0.0
        return Left(who, limit, left, reset, 0.0 if left else until_below(limit, before, before_s, now, now_s))

    async def spend(self, who: str, tokens: int) -> None:
        """Count tokens."""
        await self._sliding.hit(COUNTER, who, cost=tokens)


class Rates:
    """Bounds of all keys and projects, as one server sees them. Used on its event loop."""

    def __init__(self, redis_url: str | None) -> None:
        self._here = Count(MemoryStorage())
        self._pool = None if redis_url is None else pool(redis_url)
        self._shared = None if self._pool is None else Count(shared(self._pool))
        self._alone_until = 0.0
        self._counted: Recent[str, Caller] = Recent()  # keys whose tokens count

    async def admit(self, caller: Caller) -> Headers:
        """Count a request; returns the headers that say what is left.

        Raises:
            TooMany: the key, or its project, has asked too much; `headers` say of what.

        """
        held = caller.bounds
        if held.key_tokens or held.project_tokens:
            self._counted.put(caller.key_id, caller)
        headers: Headers = {}
        tokens = [await self._tokens(who, limit) for who, limit in both(caller, held.key_tokens, held.project_tokens)]
        if tokens:
            tightest = min(tokens, key=lambda left: (-left.retry_s, left.remaining))
            headers |= shown("tokens", tightest)
            if tightest.retry_s:
                raise refused("tokens", tightest, headers)
        requests: list[Left] = []
        for who, limit in both(caller, held.key_requests, held.project_requests):
            requests.append(await self._request(who, limit))
            if requests[-1].retry_s:
                raise refused("requests", requests[-1], headers | shown("requests", requests[-1]))
        if requests:
            headers |= shown("requests", min(requests, key=lambda left: left.remaining))
        return headers

    async def spend(self, key_id: str | None, tokens: int) -> None:
        """Count the tokens of an answer that has ended."""
        caller = None if key_id is None else self._counted.get(key_id)
        if caller is None or tokens <= 0:
            return
        for who, _ in both(caller, caller.bounds.key_tokens, caller.bounds.project_tokens):
            await self._spend(who, tokens)

    async def close(self) -> None:
        """Let go of Redis."""
        if self._pool is not None:
            await self._pool.aclose()

    async def _request(self, who: str, limit: int) -> Left:
        return await self._count(lambda count: count.request(who, limit))

    async def _tokens(self, who: str, limit: int) -> Left:
        return await self._count(lambda count: count.tokens(who, limit))

    async def _spend(self, who: str, tokens: int) -> None:
        await self._count(lambda count: count.spend(who, tokens))

    async def _count(self, what: Callable[[Count], Awaitable[T]]) -> T:
        """Count in Redis, or here while it does not answer."""
        if self._shared is not None and time.monotonic() >= self._alone_until:
            try:
                return await what(self._shared)
            except (StorageError, RedisError, OSError) as error:
                self._alone_until = time.monotonic() + ALONE_S
                log.warning("Redis does not count, this server counts rates alone: %s", error)
        return await what(self._here)


def both(caller: Caller, key_limit: int, project_limit: int) -> list[tuple[str, int]]:
    """Name who is bound, the key first: what it may not ask does not count against its project."""
    named = ((f"key/{caller.key_id}", key_limit), (f"project/{caller.home}", project_limit))
    return [(who, limit) for who, limit in named if limit]


def pool(redis_url: str) -> ConnectionPool:
    """Prepare connections to Redis; none is opened yet."""
    return ConnectionPool.from_url(redis_url, socket_timeout=REDIS_S, socket_connect_timeout=REDIS_S)


def shared(connections: ConnectionPool) -> RedisStorage:
    """Count in Redis."""
    options: dict[str, Any] = {"connection_pool": connections}
    return RedisStorage("async+redis://", wrap_exceptions=True, implementation="redispy", **options)


def until_below(limit: int, before: int, before_s: float, now: int, now_s: float) -> float:
    """Say in how many seconds a sliding counter is below a bound, if nothing is added.

    Args:
        limit: the bound, >= 1.
        before: counted in the window before.
        before_s: seconds until that one weighs nothing.
        now: counted in the window of now.
        now_s: seconds until this one weighs nothing: it counts in full until the next window, and fades in that.

    """
    if now < limit:
        return max(0.0, before_s - (limit - now) * MINUTE_S / before)
    return max(0.0, now_s - MINUTE_S) + MINUTE_S * (1 - limit / now)


def shown(what: str, left: Left) -> Headers:
    """Write what is left, as OpenAI's clients read it."""
    return {
        f"x-ratelimit-limit-{what}": str(left.limit),
        f"x-ratelimit-remaining-{what}": str(left.remaining),
        f"x-ratelimit-reset-{what}": f"{left.reset_s:.3f}s",
    }


def refused(what: str, left: Left, headers: Headers) -> TooMany:
    """Refuse a request, with what is left."""
    kind, name = left.who.split("/", 1)
    words = f"The {kind} {name} may use {left.limit} {what} a minute, and has; wait {left.retry_s:.1f} s."
    error = TooMany(words, code="rate_limit_exceeded", retry_after=left.retry_s)
    error.headers = headers
    return error
