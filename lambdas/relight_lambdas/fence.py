"""Take the next epoch and wait the old lease out. A state of the recovery state machine."""

from __future__ import annotations

from typing import Any

from relight.recovery.awake import wakes
from relight.recovery.run import Run, run_state
from relight.wiring import Region


@wakes
def handler(event: dict[str, Any], _context: object) -> dict[str, Any]:
    """Run the state for the run that the event names, and return its part of the timeline."""
    with Region.from_env() as region:
        return run_state("fence", region, Run.parse(event))
