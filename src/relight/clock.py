"""Time as a port, so that decisions and waits can be tested without waiting."""

from __future__ import annotations

import time
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Iterator


class Clock(Protocol):
    """Tells wall-clock time, monotonic time, and waits."""

    def now(self) -> datetime:
        """The wall clock, aware, in UTC."""
        ...

    def monotonic(self) -> float:
        """Seconds that never run backwards."""
        ...

    def sleep(self, seconds: float) -> None:
        """Wait `seconds`; a value of zero or less returns at once."""
        ...


class SystemClock:
    """The machine's clocks."""

    def now(self) -> datetime:
        return datetime.now(UTC)

    def monotonic(self) -> float:
        return time.monotonic()

    def sleep(self, seconds: float) -> None:
        if seconds > 0:
            time.sleep(seconds)


def looks(clock: Clock, *, every_s: float, within_s: float) -> Iterator[None]:
    """One turn now, and one after each pause of `every_s`, as long as that is within `within_s` of the first."""
    until = clock.monotonic() + within_s
    while True:
        yield
        if clock.monotonic() + every_s > until:
            return
        clock.sleep(every_s)


def point_id(at: datetime) -> str:
    """The basic ISO 8601 form in UTC that recovery points are named by: `20260419T020000Z`."""
    return at.astimezone(UTC).strftime("%Y%m%dT%H%M%SZ")


def parse_time(text: str) -> datetime:
    """Read `2026-04-19T02:00:00Z`, its basic form `20260419T020000Z`, or any ISO 8601 time that names its offset.

    Raises ValueError on anything else, a time without an offset included.
    """
    value = datetime.fromisoformat(text)
    if value.tzinfo is None:
        raise ValueError(f"{text!r} has no offset")
    return value.astimezone(UTC)


def lasting(seconds: float) -> str:
    """A duration in its largest unit, for people."""
    for unit, size in (("d", 86_400), ("h", 3600), ("min", 60)):
        if seconds >= 2 * size:
            return f"{seconds / size:.0f} {unit}"
    return f"{seconds:.0f} s"
