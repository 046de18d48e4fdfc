"""Ask people whether the standby may take over. A state of the recovery state machine, which waits for their answer."""

from __future__ import annotations

from typing import Any

from relight.recovery.awake import wakes
from relight.recovery.run import Run, ask_approval
from relight.wiring import Region


@wakes
def handler(event: dict[str, Any], _context: object) -> dict[str, Any]:
    """Take the run, its task token and how long people have; `relight approve` gives their answer."""
    with Region.from_env() as region:
        return ask_approval(region, Run.parse(event["run"]), token=event["token"], within_s=event["within_s"])
