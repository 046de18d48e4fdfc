"""Hand incidents of the topic to a pager. Called by the topic, in each region."""

from __future__ import annotations

from typing import Any

from relight.recovery.pager import page_people
from relight.wiring import Region


def handler(event: dict[str, Any], _context: object) -> dict[str, Any]:
    """Return what was handed over; what could not be is a failed invocation, which is called again and then kept."""
    with Region.from_env() as region:
        return page_people(event, pager=region.pager)
