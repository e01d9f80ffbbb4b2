"""Rates counted in Redis by several servers together, alone where Redis is away, and bad keys by address."""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable

import pytest

from app.api.door.callers import Caller
from app.api.door.rates import Rates, until_below
from app.api.door.strangers import MOST, Strangers, group
from app.errors import TooMany, Unauthorized
from app.stack.redis import client_url
from app.store.projects import Bounds

NOWHERE = "redis://127.0.0.1:1/0"


def caller(key: str = "k", **bounds: int) -> Caller:
    return Caller(key, frozenset({"infer"}), bounds=Bounds(**bounds))


def in_turn(work: Callable[[], Awaitable[None]]) -> None:
    asyncio.run(work())  # type: ignore[arg-type]


def test_servers_that_share_a_redis_count_together(redis_url: str) -> None:
    async def work() -> None:
        servers = [Rates(client_url(redis_url)) for _ in range(2)]
        bound = caller(key_requests=3, key_tokens=100)
        left = [(await servers[turn % 2].admit(bound))["x-ratelimit-remaining-requests"] for turn in range(3)]
        assert left == ["2", "1", "0"]
        with pytest.raises(TooMany, match="requests a minute") as refused:
            await servers[1].admit(bound)
        assert 50 < (refused.value.retry_after or 0) <= 60
        await servers[0].spend("k", 150)
        with pytest.raises(TooMany, match="tokens a minute") as refused:
            await servers[1].admit(bound)
        assert refused.value.headers["x-ratelimit-remaining-tokens"] == "0"
        await servers[0].admit(caller("other", key_requests=3))
        for one in servers:
            await one.close()

    in_turn(work)


def test_without_a_redis_that_answers_each_server_counts_alone_and_says_so(caplog: pytest.LogCaptureFixture) -> None:
    async def work() -> None:
        rates = Rates(NOWHERE)
        began = time.monotonic()
        for _ in range(2):
            await rates.admit(caller(key_requests=2))
        with pytest.raises(TooMany):
            await rates.admit(caller(key_requests=2))
        assert time.monotonic() - began < 5
        await rates.close()

    with caplog.at_level(logging.WARNING, logger="lepo.api"):
        in_turn(work)
    assert len([one for one in caplog.messages if "counts rates alone" in one]) == 1, "said once, not per request"


def test_who_is_not_bound_has_no_headers() -> None:
    async def work() -> None:
        assert await Rates(None).admit(caller()) == {}

    in_turn(work)


def test_a_sliding_counter_says_when_it_is_below() -> None:
    assert until_below(100, before=200, before_s=45.0, now=0, now_s=60.0) == pytest.approx(15.0)
    assert until_below(100, before=0, before_s=0.0, now=200, now_s=90.0) == pytest.approx(60.0)
    assert until_below(100, before=100, before_s=30.0, now=50, now_s=90.0) == pytest.approx(0.0)


def test_tries_come_back_and_addresses_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [1000.0]
    monkeypatch.setattr("app.api.door.strangers.time.monotonic", lambda: now[0])
    strangers = Strangers(per_minute=2)
    for digit in range(2):
        strangers.require_patience("10.0.0.1")
        strangers.turn_away(bytes([digit]), "10.0.0.1", Unauthorized("no"))
    with pytest.raises(TooMany):
        strangers.require_patience("10.0.0.1")
    strangers.require_patience("10.0.0.2")
    assert strangers.refusal(bytes([1])) is not None
    now[0] += 31
    strangers.require_patience("10.0.0.1")
    assert strangers.refusal(bytes([1])) is None, "a key may have become good"
    for number in range(MOST + 10):
        strangers.turn_away(number.to_bytes(4), f"a{number}", Unauthorized("no"))
    assert len(strangers._bad) == len(strangers._left) == MOST


def test_a_network_of_ipv6_counts_as_one() -> None:
    assert group("2001:db8:1:2:3::4") == group("2001:db8:1:2:ffff::1") != group("2001:db8:1:3::1")
    assert group("10.0.0.1") != group("10.0.0.2")
    assert group("") == ""
