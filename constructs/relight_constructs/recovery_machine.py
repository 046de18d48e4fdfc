"""The recovery as a state machine, described once. Pure: nothing here starts node.

Every state calls a function with the execution's own input and throws the answer away: what a later state needs, it
reads from the run's timeline, the lease and the databases, so that each can be run again by itself.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping

ANNOUNCE = "announce"
PAGE = "page"

# One state each, in this order; those in one tuple run at the same time.
RECOVERY: tuple[tuple[str, ...], ...] = (
    ("assess",),
    ("fence",),
    ("promote",),
    ("scale", "hydrate"),
    ("verify",),
    ("replay",),
    ("open-gate",),
    (ANNOUNCE,),
)
VERBS: tuple[str, ...] = tuple(verb for together in RECOVERY for verb in together)

# What is worth another try: Lambda's own trouble, and the handlers' transient errors by their class names. Everything
# else would fail again. Source: AWS Step Functions developer guide, "Handle transient Lambda service exceptions".
RETRIED_ERRORS = (
    "Lambda.ClientExecutionTimeoutException",
    "Lambda.ServiceException",
    "Lambda.AWSLambdaException",
    "Lambda.SdkClientException",
    "Lambda.TooManyRequestsException",
    "UnavailableError",
    "QueueLostError",
    "AgainLaterError",
    "ProvidersDownError",
    "WouldDegradeError",
    "StreamCutError",
    "UnconfirmedError",
    "TransientError",
)
RETRY_INTERVAL_S = 2
RETRY_BACKOFF = 1.5
RETRY_ATTEMPTS = 8

# A state outlives its function's own timeout, so that the function's error arrives rather than the state's.
STATE_MARGIN_S = 10


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """The function that a state calls, and how long that function may take."""

    function_arn: str
    timeout_s: int


def definition(steps: Mapping[str, Step]) -> dict[str, Any]:
    """The state machine in Amazon States Language, over one step for each of `VERBS`.

    Input: `{"run_id", "reason", "at"}`. A state that fails for good pages somebody, and the execution then fails. When
    it is the announcement that fails, the recovery has worked: paging, through the function that has just failed, would
    say otherwise, so the execution only fails.
    """
    missing = [verb for verb in VERBS if verb not in steps]
    if missing:
        raise ValueError(f"no step for {', '.join(missing)}; give one for each of {', '.join(VERBS)}")
    names = [_name(together) for together in RECOVERY]
    states: dict[str, Any] = {}
    for position, together in enumerate(RECOVERY):
        after = {"Next": names[position + 1]} if position + 1 < len(names) else {"End": True}
        paging = {} if together == (ANNOUNCE,) else {"Catch": [_catch()]}
        states[names[position]] = _state(together, steps) | {"ResultPath": None} | paging | after
    states[PAGE] = _invoke(steps[ANNOUNCE], {"run_id.$": "$.run_id", "failed": True}) | {
        "ResultPath": None,
        "Catch": [{"ErrorEquals": ["States.ALL"], "ResultPath": None, "Next": "failed"}],
        "Next": "failed",
    }
    states["failed"] = {"Type": "Fail", "ErrorPath": "$.error.Error", "CausePath": "$.error.Cause"}
    return {"Comment": "Relight the standby", "StartAt": names[0], "States": states}


def _name(together: tuple[str, ...]) -> str:
    return "-and-".join(together)


def _state(together: tuple[str, ...], steps: Mapping[str, Step]) -> dict[str, Any]:
    if len(together) == 1:
        return _invoke(steps[together[0]], "$")
    branches = [
        {"StartAt": verb, "States": {verb: _invoke(steps[verb], "$") | {"ResultPath": None, "End": True}}}
        for verb in together
    ]
    return {"Type": "Parallel", "Branches": branches}


def _invoke(step: Step, payload: str | dict[str, Any]) -> dict[str, Any]:
    key = "Payload.$" if isinstance(payload, str) else "Payload"
    return {
        "Type": "Task",
        "Resource": "arn:aws:states:::lambda:invoke",
        "Parameters": {"FunctionName": step.function_arn, key: payload},
        "TimeoutSeconds": step.timeout_s + STATE_MARGIN_S,
        "Retry": [
            {
                "ErrorEquals": list(RETRIED_ERRORS),
                "IntervalSeconds": RETRY_INTERVAL_S,
                "BackoffRate": RETRY_BACKOFF,
                "MaxAttempts": RETRY_ATTEMPTS,
            }
        ],
    }


def _catch() -> dict[str, Any]:
    return {"ErrorEquals": ["States.ALL"], "ResultPath": "$.error", "Next": PAGE}
