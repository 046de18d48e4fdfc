"""Take a recovery point. Runs on the primary's schedule."""

from __future__ import annotations

from typing import Any

from relight.recovery.points import take_point
from relight.wiring import Region


def handler(_event: dict[str, Any], _context: object) -> dict[str, Any]:
    """Return the id of the sealed point and where it is."""
    with Region.from_env() as region:
        return take_point(region)
