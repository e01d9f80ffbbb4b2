"""How numbers and times are written for people."""

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, Final

NOTHING: Final = "\N{EN DASH}"
MINUS: Final = "\N{MINUS SIGN}"
MINUTE, HOUR, DAY = 60, 3600, 86_400


def percent(share: float | None, digits: int = 1) -> str:
    """Write a share: `39.0%`."""
    return NOTHING if share is None else f"{100 * share:.{digits}f}%"


def points(difference: float) -> str:
    """Write a difference of shares: `+56.3 points`."""
    return f"{100 * difference:+.1f} points".replace("-", MINUS)


def number(value: float | None, digits: int = 3) -> str:
    """Write a number as briefly as it can be read: `1,284`, `0.25`, `3.1e-06`."""
    if value is None:
        return NOTHING
    if float(value).is_integer() and abs(value) < 1e15:
        return f"{int(value):,}"
    size = abs(value)
    return f"{value:.{digits}g}" if size < 1000 else f"{value:,.0f}"


def ago(at: datetime | None, now: datetime | None = None) -> str:
    """Say how long ago something was: `just now`, `4 min ago`."""
    if at is None:
        return "never"
    return span(((now or datetime.now(UTC)) - at).total_seconds()) + " ago"


def span(seconds: float) -> str:
    """Write a span of time in its largest unit."""
    if seconds < MINUTE:
        return f"{max(0, seconds):.0f} s"
    if seconds < HOUR:
        return f"{seconds / MINUTE:.0f} min"
    if seconds < 2 * DAY:
        return f"{seconds / HOUR:.0f} h"
    return f"{seconds / DAY:.0f} days"


def moment(at: datetime | None) -> str:
    """Write a time for a page: `2026-11-28 10:24:03` (UTC)."""
    return NOTHING if at is None else f"{at.astimezone(UTC):%Y-%m-%d %H:%M:%S}"


def figure(value: Any) -> str:
    """Write a recorded figure of whatever kind on one line."""
    if isinstance(value, bool) or value is None:
        return {True: "yes", False: "no", None: NOTHING}[value]
    if isinstance(value, int | float):
        return number(value)
    if isinstance(value, Mapping):
        return ", ".join(f"{name} {figure(one)}" for name, one in value.items())
    if isinstance(value, list | tuple):
        return " to ".join(figure(one) for one in value) if len(value) == 2 else ", ".join(map(figure, value))
    return str(value)
