"""Keys that open nothing: remembered for a while, so that trying one again costs no query; others count by address.

An address that tries too many is refused without a query too, but for keys that opened here before: those who share
its proxy go on. All of it is bounded, whatever is sent, and each server has its own. Behind a proxy an address is a
client's only where uvicorn trusts that proxy (`FORWARDED_ALLOW_IPS`). Leaves out who is let in (`app.api.door.auth`).
"""

import time
from collections import OrderedDict
from collections.abc import Hashable
from ipaddress import IPv6Address, ip_address
from typing import Final, Generic, TypeVar

from app.errors import TooMany, Unauthorized

REMEMBERED_S: Final = 30.0  # a key that is bad now may be a good one's, kept by another server, soon
MOST: Final = 10_000  # digests, and addresses
MINUTE_S: Final = 60.0
PREFIX_BITS: Final = 64  # of an IPv6 address: what one household or one machine can choose from

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")


class Recent(Generic[K, V]):
    """The newest entries of a table; the oldest goes beyond the bound."""

    def __init__(self, most: int = MOST) -> None:
        self._most = most
        self._known: OrderedDict[K, V] = OrderedDict()

    def __len__(self) -> int:
        return len(self._known)

    def get(self, key: K) -> V | None:
        """Read an entry."""
        return self._known.get(key)

    def put(self, key: K, value: V) -> None:
        """Write one; it is the newest."""
        self._known[key] = value
        self._known.move_to_end(key)
        if len(self._known) > self._most:
            self._known.popitem(last=False)


class Strangers:
    """Used on the event loop of one server."""

    def __init__(self, per_minute: int) -> None:
        self._per_minute = per_minute
        self._bad: Recent[bytes, tuple[Unauthorized, float]] = Recent()
        self._left: Recent[str, tuple[float, float]] = Recent()  # address -> tries left, and when that was so

    def refusal(self, digest: bytes) -> Unauthorized | None:
        """Give what this key was told just now; None: it is to be looked up."""
        found = self._bad.get(digest)
        return found[0] if found is not None and found[1] > time.monotonic() else None

    def turn_away(self, digest: bytes, address: str, error: Unauthorized) -> None:
        """Remember a key that was looked up and opens nothing, and count it against its address."""
        self._bad.put(digest, (error, time.monotonic() + REMEMBERED_S))
        self._left.put(group(address), (self._tries(address) - 1.0, time.monotonic()))

    def require_patience(self, address: str) -> None:
        """Let an address try another key.

        Raises:
            TooMany: it has tried too many.

        """
        left = self._tries(address)
        if left < 1.0:
            raise TooMany(
                f"Too many keys that open nothing came from this address; it may try {self._per_minute} a minute "
                "(LEPO_BAD_KEYS_PER_MINUTE).",
                code="too_many_bad_keys",
                retry_after=(1.0 - left) * MINUTE_S / self._per_minute,
            )

    def _tries(self, address: str) -> float:
        """Say how many tries an address has now: they come back evenly over a minute."""
        found = self._left.get(group(address))
        if found is None:
            return float(self._per_minute)
        left, at = found
        return min(float(self._per_minute), left + (time.monotonic() - at) * self._per_minute / MINUTE_S)


def group(address: str) -> str:
    """Name those who count together: one IPv4 address, or the network of an IPv6 one."""
    try:
        parsed = ip_address(address)
    except ValueError:
        return address
    if isinstance(parsed, IPv6Address) and parsed.ipv4_mapped is None:
        return f"{int(parsed) >> (128 - PREFIX_BITS):x}::/{PREFIX_BITS}"
    return address
