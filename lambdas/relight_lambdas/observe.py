"""See how the region stands, and publish it as metrics. Runs on a schedule in each region."""

from __future__ import annotations

from typing import Any

from relight.recovery.gauges import observe_region
from relight.wiring import Region


def handler(_event: dict[str, Any], _context: object) -> dict[str, Any]:
    """Return what was found, and what could not be looked at."""
    with Region.from_env() as region:
        return observe_region(region)
