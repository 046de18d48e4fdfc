"""Keep the ladder of the region's own vault. Runs on a schedule in each region."""

from __future__ import annotations

from typing import Any

from relight.recovery.points import prune_points
from relight.wiring import Region


def handler(_event: dict[str, Any], _context: object) -> dict[str, Any]:
    """Return what was removed, what stays and why, and what could not be removed."""
    with Region.from_env() as region:
        return prune_points(region).to_json()
