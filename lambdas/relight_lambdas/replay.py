"""Rebuild the queue from the ledger. A state of the recovery state machine."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any, Protocol

from relight.recovery.awake import wakes
from relight.recovery.run import Run, run_state
from relight.wiring import Region

if TYPE_CHECKING:
    from relight.clock import Clock

# The rest is left for a batch that is under way, and for the timeline.
SHARE = 0.9


class Context(Protocol):
    """What Lambda tells of an invocation."""

    def get_remaining_time_in_millis(self) -> int:
        """Until the function is ended."""
        ...


@wakes
def handler(event: dict[str, Any], context: Context) -> dict[str, Any]:
    """Run the state for the run that the event names, and return its part of the timeline; what cannot be published in
    one invocation's time is AgainLaterError, and the state machine's next try goes on."""
    with Region.from_env() as region:
        return run_state("replay", region, replace(Run.parse(event), until=_until(context, region.clock)))


def _until(context: Context, clock: Clock) -> float:
    return clock.monotonic() + SHARE * context.get_remaining_time_in_millis() / 1000
