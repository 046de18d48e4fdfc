"""End the store that a rehearsal restored into: a state of its machine, and after whatever else ended an execution."""

from __future__ import annotations

from typing import Any

from relight.recovery.rehearsal_place import Place
from relight.wiring import Region


def handler(event: dict[str, Any], _context: object) -> dict[str, Any]:
    """Take the machine's event, or EventBridge's, that an execution has ended."""
    execution = event["execution"] if "execution" in event else event["detail"]["executionArn"]
    with Region.from_env() as region:
        return Place.of(region).close(execution)
