"""Take a recovery point. Runs on a schedule in each region, and skips where the region does not hold the lease."""

from __future__ import annotations

from typing import Any

from relight.recovery.large import take_or_hand_over
from relight.wiring import Region


def handler(_event: dict[str, Any], _context: object) -> dict[str, Any]:
    """Return the id of the sealed point and where it is, or the task that makes it."""
    with Region.from_env() as region:
        return take_or_hand_over(region)
