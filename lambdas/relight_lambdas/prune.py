"""Keep the ladder of the region's own vault. Runs on a schedule in each region."""

from __future__ import annotations

from typing import Any

from relight.recovery.points import prune_points
from relight.wiring import Region


def handler(_event: dict[str, Any], _context: object) -> dict[str, Any]:
    """Return what was removed, and what stays and why; objects that could not be removed are a failed invocation."""
    with Region.from_env() as region:
        return prune_points(region).or_raise().to_json()
