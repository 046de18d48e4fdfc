"""Try whether the LLM providers could be asked. Runs on a schedule in the standby, and for `relight status`."""

from __future__ import annotations

from typing import Any

from relight.providers.readiness import check_region
from relight.wiring import Region


def handler(_event: dict[str, Any], _context: object) -> dict[str, Any]:
    """Return which providers are ready and why the others are not; an alarm watches the metric of each."""
    with Region.from_env() as region:
        return check_region(region)
