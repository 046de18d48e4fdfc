"""What a commit's confirmation by the standby means, whether it is given now, and how long it took."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum, StrEnum, auto
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from datetime import datetime


class Confirm(Enum):
    """Whether a call returns only when its commit is in the standby."""

    NO = auto()
    """It is durable in this region."""
    POLICY = auto()
    """It is in the standby; while the standby is away, what the environment's `on_standby_away` says."""
    ALWAYS = auto()
    """It is in the standby, whatever the environment says: for the intent of a side effect.

    In a region whose database has no standby at all (a region that was just relit), there is nobody to wait for, and it
    counts at once: else such a region could do nothing.
    """


class Standing(StrEnum):
    """How the promise stands that what is acknowledged is in the standby."""

    KEPT = "kept"
    """The standby confirms commits."""
    STALLED = "stalled"
    """The standby is away, and nothing is acknowledged until it is back."""
    SUSPENDED = "suspended"
    """The standby is away, and what is acknowledged is in this region alone."""
    NOBODY = "nobody"
    """This database has no standby, and what is acknowledged is in this region alone."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Promise:
    """How the promise stands, since when (as far as this process has seen), and why; `reason` is "" when it is kept."""

    state: Standing
    since: datetime
    reason: str = ""

    @property
    def kept(self) -> bool:
        """Whether everything that is acknowledged now is in the standby too."""
        return self.state in (Standing.KEPT, Standing.STALLED)
