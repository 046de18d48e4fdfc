"""What keeps the functions of a recovery awake, as a state machine. Pure: nothing here starts node.

All are called at once, so that one which cannot be called keeps no other from it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from relight.recovery.awake import WAKE
from relight_constructs.recovery_machine import ENDED, LATER, Step, invoke
from relight_constructs.timeouts import STATE_MARGIN_S, WAKING_S

if TYPE_CHECKING:
    from collections.abc import Mapping

AWAKE = "awake"


def definition(steps: Mapping[str, Step]) -> dict[str, Any]:
    """The state machine in Amazon States Language, over the step of each function; one that cannot be called fails it.

    A function that sleeps all the same is woken, and waited for.
    """
    longest_s = max(step.timeout_s for step in steps.values()) + STATE_MARGIN_S
    branches = [
        {"StartAt": verb, "States": {verb: invoke(step, {"Payload": dict(WAKE)}, LATER) | {"End": True}}}
        for verb, step in steps.items()
    ]
    return {
        "Comment": "Keep the functions of a recovery awake",
        "StartAt": AWAKE,
        # Beyond what any of its states may take, so that the state fails, and not the whole without saying where.
        "TimeoutSeconds": 2 * (WAKING_S + (1 + ENDED.attempts) * longest_s),
        "States": {AWAKE: {"Type": "Parallel", "Branches": branches, "End": True}},
    }
