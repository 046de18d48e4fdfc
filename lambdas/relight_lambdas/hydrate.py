"""Fill the vector store: as a state of the recovery, and when a store's task has just started."""

from __future__ import annotations

from typing import Any

from relight.recovery.awake import wakes
from relight.recovery.large import hydrate_or_hand_over
from relight.recovery.run import Run
from relight.wiring import Region


@wakes
def handler(event: dict[str, Any], _context: object) -> dict[str, Any]:
    """Take a recovery's event, or the ECS event of a vector store's task that turned RUNNING."""
    with Region.from_env() as region:
        return hydrate_or_hand_over(region, Run.parse(event), in_recovery=event.get("source") != "aws.ecs")
