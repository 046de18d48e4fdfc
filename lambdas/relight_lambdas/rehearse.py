"""Restore a point into the store that runs for this alone, and check it. A state of the machine that rehearses."""

from __future__ import annotations

from typing import Any

from relight.recovery.rehearsal_place import rehearse_or_hand_over
from relight.wiring import Region


def handler(event: dict[str, Any], _context: object) -> dict[str, Any]:
    """Return how it went; a rehearsal that failed is a failed state, because those are watched.

    The event has the store's `address`, and in `input` the execution's own, which may name a `point`. What is too large
    is not done here: the answer has the command of the task that does it.
    """
    with Region.from_env() as region:
        return rehearse_or_hand_over(region, event["address"], point=event["input"].get("point"))
