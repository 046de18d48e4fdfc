"""The time travel policy: what of a restored state is too old to be done without a person having looked. Pure."""

from __future__ import annotations

import math
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

from relight.errors import ConfigError
from relight.tasks.ledger import Kind

if TYPE_CHECKING:
    from collections.abc import Mapping

    from relight.config import Settings

# Later than anything is due.
ALWAYS = datetime.max.replace(tzinfo=UTC)


@dataclass(frozen=True, slots=True, kw_only=True)
class TimeTravel:
    """After how many seconds past the time that it was due a task of a kind is held; kinds that are left out never are.

    0 holds a kind always, due or not: a credential that was rotated after the moment that was restored must not be
    rotated again from what was true before it. Infinity never holds.
    """

    timers_after_s: float = 3600.0
    sends_after_s: float = 900.0
    credentials_after_s: float = 0.0

    def __post_init__(self) -> None:
        for kind, after_s in self.limits.items():
            if not after_s >= 0:
                raise ConfigError(f"a {kind} would be held after {after_s} s", hint="give 0 or more seconds")

    @classmethod
    def of(cls, settings: Settings) -> TimeTravel:
        """The environment's policy."""
        return cls(
            timers_after_s=settings.hold_timers_after_s,
            sends_after_s=settings.hold_sends_after_s,
            credentials_after_s=settings.hold_credentials_after_s,
        )

    @property
    def limits(self) -> Mapping[Kind, float]:
        """Seconds by kind."""
        return {
            Kind.TIMER: self.timers_after_s,
            Kind.SEND: self.sends_after_s,
            Kind.CREDENTIAL: self.credentials_after_s,
        }

    def due_before(self, kind: Kind, now: datetime) -> datetime | None:
        """Tasks of the kind that were due before this moment are held; None when none is."""
        after_s = self.limits.get(kind, math.inf)
        if after_s == 0:
            return ALWAYS
        try:
            return now - timedelta(seconds=after_s)
        except OverflowError:
            return None

    def reason(self, kind: Kind) -> str:
        """Why a task of the kind is held."""
        after_s = self.limits[kind]
        if after_s == 0:
            return f"it is a {kind} of a restored state, and those are always held for review"
        return f"it is a {kind} of a restored state, due more than {after_s:g} s ago, and those are held for review"
