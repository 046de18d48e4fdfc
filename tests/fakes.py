"""Fakes that several unit tests share."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta


class FakeClock:
    """Time that passes only by sleeping, and by `step_s` at every look at the wall clock."""

    def __init__(self, *, step_s: float = 0.0) -> None:
        self.at = datetime(2026, 4, 19, 2, 0, tzinfo=UTC)
        self._step = timedelta(seconds=step_s)

    def now(self) -> datetime:
        self.at += self._step
        return self.at

    def monotonic(self) -> float:
        return self.at.timestamp()

    def sleep(self, seconds: float) -> None:
        assert seconds > 0
        self.at += timedelta(seconds=seconds)
