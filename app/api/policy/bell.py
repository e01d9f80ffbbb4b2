"""The bell between processes: "the served policy has changed, look". Redis rings it; Postgres says what changed.

A ring that is lost costs a second, the interval of polling. Leaves out looking (`app.api.policy.watch`).
"""

import asyncio
import contextlib
import logging
from typing import Final

from redis.asyncio import Redis
from redis.exceptions import RedisError

from app.api.server import Server

CHANNEL: Final = "lepo:policy"
TIMEOUT_S: Final = 5.0
RETRY_S: Final = 1.0
QUIET_S: Final = 20.0

log = logging.getLogger("lepo.api")


async def ring(server: Server) -> None:
    """Tell this server and, if Redis is there, every other."""
    server.policy_bell.set()
    if server.redis_url is None:
        return
    async with client(server.redis_url) as redis:
        with contextlib.suppress(RedisError, OSError):
            await redis.publish(CHANNEL, "changed")


async def listen(url: str, bell: asyncio.Event) -> None:
    """Set `bell` at every ring, for ever; Redis may come and go."""
    while True:
        try:
            async with client(url) as redis, redis.pubsub() as subscription:
                await subscription.subscribe(CHANNEL)
                bell.set()  # what changed while nobody listened is seen at once
                while True:
                    if await subscription.get_message(timeout=QUIET_S) is not None:
                        bell.set()
                    else:
                        await subscription.ping()  # a connection that died without a word is noticed here
        except (RedisError, OSError) as error:
            log.warning("the policy bell is silent, polling goes on: %s", error)
        await asyncio.sleep(RETRY_S)


def client(url: str) -> Redis:
    """Make a client; nothing is connected yet."""
    return Redis.from_url(url, socket_connect_timeout=TIMEOUT_S, socket_timeout=TIMEOUT_S)
