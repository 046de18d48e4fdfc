"""A rehearsal as a state machine, described once. Pure: nothing here starts node.

open → rehearse → close, with a task in between that rehearses what is too large for a function. And close in every
case: after any state that failed for good or took too long, the machine closes and only then fails. What ends an
execution from outside (a person, or its own time) runs no state any more: a rule of EventBridge calls close for it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from relight_constructs.recovery_machine import ENDED, LATER, Again, Step, TaskRun, invoke, run_task
from relight_constructs.timeouts import LONGEST_S, SHORTEST_S, STATE_MARGIN_S, TASK_S, WAKING_S

if TYPE_CHECKING:
    from collections.abc import Mapping

OPEN = "rehearse-open"
REHEARSE = "rehearse"
IS_LARGE = "is-memory-large"
REHEARSE_TASK = "rehearse-as-task"
CLOSE = "rehearse-close"
CLOSE_AFTER_FAILURE = "rehearse-close-after-failure"
FAILED = "failed"

# How long each function may take. A restore takes as long as there is data.
TIMEOUTS_S: dict[str, int] = {OPEN: SHORTEST_S, REHEARSE: LONGEST_S, CLOSE: SHORTEST_S}
# The pause until either is looked at again: nobody waits for a rehearsal.
POLL_S = 10
# How long a task may take to start with an empty volume, and to end: images are pulled, and once more where there was
# no room.
OPEN_S = 900.0
CLOSE_S = 300.0


def whole_s(*, large: bool) -> int:
    """How long an execution may take: what is longer is stuck, is ended from outside, and closed for by the rule."""

    def state_s(verb: str, waits_s: float) -> float:
        # Called once a month, each function sleeps by then.
        return WAKING_S + (1 + ENDED.attempts) * (TIMEOUTS_S[verb] + STATE_MARGIN_S) + waits_s

    closing_s = 2 * state_s(CLOSE, CLOSE_S)
    return int(state_s(OPEN, OPEN_S) + state_s(REHEARSE, 0) + (TASK_S if large else 0) + closing_s)


def definition(steps: Mapping[str, Step], *, large: TaskRun | None = None) -> dict[str, Any]:
    """The state machine in Amazon States Language, over one step for each of `TIMEOUTS_S`.

    With `large`, a memory that is too large for a function is rehearsed by that task.

    Its input may name a `point`. An execution that began while another used the place is refused, and closes nothing.
    """
    mine = {"execution.$": "$$.Execution.Id"}
    close = invoke(steps[CLOSE], {"Payload": mine}, Again.until(CLOSE_S, every_s=POLL_S))
    refused = {"ErrorEquals": ["ConflictError"], "ResultPath": "$.error", "Next": FAILED}
    failed = {"ErrorEquals": ["States.ALL"], "ResultPath": "$.error", "Next": CLOSE_AFTER_FAILURE}
    states: dict[str, Any] = {
        OPEN: invoke(steps[OPEN], {"Payload": mine}, Again.until(OPEN_S, every_s=POLL_S))
        | {
            "ResultSelector": {"address.$": "$.Payload.address"},
            "ResultPath": "$.place",
            "Catch": [refused, failed],
            "Next": REHEARSE,
        },
        REHEARSE: invoke(
            steps[REHEARSE], {"Payload": {"address.$": "$.place.address", "input.$": "$$.Execution.Input"}}, LATER
        )
        | {"ResultPath": "$.rehearse", "Catch": [failed], "Next": IS_LARGE if large else CLOSE},
        CLOSE: close | {"ResultPath": None, "Catch": [failed], "End": True},
        CLOSE_AFTER_FAILURE: close
        | {
            "ResultPath": None,
            # What failed first is what people are told.
            "Catch": [{"ErrorEquals": ["States.ALL"], "ResultPath": None, "Next": FAILED}],
            "Next": FAILED,
        },
        FAILED: {"Type": "Fail", "ErrorPath": "$.error.Error", "CausePath": "$.error.Cause"},
    }
    if large is not None:
        is_large = {"Variable": "$.rehearse.Payload.large", "BooleanEquals": True, "Next": REHEARSE_TASK}
        states[IS_LARGE] = {"Type": "Choice", "Choices": [is_large], "Default": CLOSE}
        # One that fails has found something out, as the function would have: it is not tried again.
        states[REHEARSE_TASK] = run_task(large, {"Command.$": "$.rehearse.Payload.command"}) | {
            "ResultPath": None,
            "Catch": [failed],
            "Next": CLOSE,
        }
    whole = whole_s(large=large is not None)
    return {"Comment": "Rehearse a restore", "StartAt": OPEN, "TimeoutSeconds": whole, "States": states}
