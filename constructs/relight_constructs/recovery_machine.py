"""The recovery as a state machine, described once. Pure: nothing here starts node.

From this description come the definition that is deployed, docs/recovery-machine.md and the runbook's table of states.

Every state calls a function with the execution's own input and throws the answer away: what a later state needs, it
reads from the run's timeline, the lease and the databases, so that each can be run again by itself. The one answer that
is looked at is hydrate's, which says when the memory is too large for a function.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from relight_constructs.timeouts import (
    QUICK,
    STATE_MARGIN_S,
    TASK_S,
    WAKING_S,
    Effort,
    Timeouts,
    Waits,
    function_timeout_s,
)

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

ANNOUNCE = "announce"
APPROVE = "approve"
FENCE = "fence"
HYDRATE = "hydrate"
SCALE = "scale"
PAGE = "page"
FAILED = "failed"
OVERTAKEN = "overtaken"
IS_LARGE = "is-memory-large"
HYDRATE_TASK = "hydrate-as-task"
HYDRATED = "hydrated"


@dataclass(frozen=True, slots=True, kw_only=True)
class Again:
    """How a state is tried again: after `after_s`, each time `backoff` times as long, at most `attempts` times."""

    after_s: int
    backoff: float
    attempts: int

    @classmethod
    def until(cls, wait_s: float, *, every_s: int) -> Again:
        """Every so often for as long as something may take."""
        return cls(after_s=every_s, backoff=1.0, attempts=math.ceil(wait_s / every_s))


# A state's functions already try for eight seconds by themselves.
TRANSIENT = Again(after_s=2, backoff=1.5, attempts=8)
# Lambda has put the function to sleep, and is waking it.
WAKING = Again.until(WAKING_S, every_s=5)
# The function was ended in the middle, or its process died. A second time is no accident.
ENDED = Again(after_s=1, backoff=1.0, attempts=1)
# The task was ended in the middle, or Fargate had no room for it.
TASK_ENDED = Again(after_s=10, backoff=2.0, attempts=2)
# It says itself when to come again, and nothing in particular is waited for.
LATER = Again(after_s=2, backoff=1.5, attempts=8)
# The pause between two calls that each look for 20 s, or say at once that it is too early; it is part of every RTO.
POLL_S = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class State:
    """One state: what it does, whether it may be run again, and what a person does when it has failed for good.

    Its function is `networked` when it talks to the region's own servers. `rounds` is how often its function may say,
    having used up its time, that there is more to do; `waits_for` names the one of `Waits` that it is called again for.
    """

    verb: str
    does: str
    again: str
    if_it_fails: str
    networked: bool
    effort: Effort = QUICK
    rounds: int = 0
    waits_for: str = ""

    def later(self, waits: Waits) -> Again:
        """How it is tried again when it says so itself."""
        if self.rounds:
            return Again(after_s=1, backoff=1.0, attempts=self.rounds)
        if self.waits_for:
            return Again.until(getattr(waits, self.waits_for), every_s=POLL_S)
        return LATER


# In this order; those in one tuple run at the same time.
RECOVERY: tuple[tuple[State, ...], ...] = (
    (
        State(
            verb="assess",
            does="Looks at what there is to recover from: the replica, the lease, the newest eligible point. Changes"
            " nothing.",
            again="Yes: it only reads.",
            if_it_fails="The standby's database does not answer, or is no replica of the region that holds the epoch."
            " Bring the replica back, or build a new one; then start the run again.",
            networked=True,
        ),
    ),
    (
        State(
            verb=FENCE,
            does="Takes the next epoch and waits the old lease out: from here on the old primary cannot act.",
            again="Yes: the same run gets the same epoch. Another run that was first wins, and this one stops.",
            if_it_fails="Another run or a person took the epoch: look at that run. Or the lease's bucket cannot be"
            " reached: nothing was changed, start the run again.",
            networked=False,
            effort=Effort(leases=2),
        ),
    ),
    (
        State(
            verb="promote",
            does="Makes the replica the primary database, which then refuses every older epoch. Called again until the"
            " database has finished.",
            again="Yes: a promoted database stays as it is.",
            if_it_fails="Look at the database in the console. Promote it there if it must be; run the state again,"
            " which then only records the epoch.",
            networked=True,
            effort=Effort(share=0.25),
            waits_for="promotion_s",
        ),
    ),
    (
        State(
            verb=SCALE,
            does="Asks for as many agents as the primary had, and for the servers that a cold standby lacks, keeps what"
            " scales by itself from taking them away, and waits until one of each serves.",
            again="Yes: it never asks for fewer than there are.",
            if_it_fails="The capacity is not to be had: look at the service's events, raise the quota or choose another"
            " size. Scaling by hand does as well; then go on with the run.",
            networked=False,
            waits_for="capacity_s",
        ),
        State(
            verb=HYDRATE,
            does="Waits for a vector store that is being started, fills an empty one from the newest eligible point and"
            " brings it forward with the journal. Past a size it does so as an ECS task.",
            again="Yes: what is filled is only brought forward, and two at once wait for each other.",
            if_it_fails="`relight points list` says why no point is eligible, `relight restore` uses another one; then"
            " go on with the run.",
            networked=True,
            effort=Effort(grows=True),
            waits_for="capacity_s",
        ),
    ),
    (
        State(
            verb="verify",
            does="Counts the memory against the journal and records that it is whole.",
            again="Yes.",
            if_it_fails="The memory lacks something that the journal has. Run hydrate again; if that does not mend it,"
            " `relight restore` an older point.",
            networked=True,
            effort=Effort(grows=True),
        ),
    ),
    (
        State(
            verb="replay",
            does="Holds what is too old to be done unseen, and rebuilds the queue from the ledger. Called again as"
            " long as its time was too short.",
            again="Yes: what was published stays so, and twice does no harm.",
            if_it_fails="The queue cannot be reached, or lost what was published: bring it back and run the state"
            " again.",
            networked=True,
            effort=Effort(grows=True),
            rounds=12,
        ),
    ),
    (
        State(
            verb="open-gate",
            does="Lets traffic in, once memory is verified and tasks are replayed under this very epoch, and an agent"
            " renews the lease on it.",
            again="Yes.",
            if_it_fails="The error names what is missing: verify, replay, or an agent that renews the lease. See why no"
            " agent runs in the standby.",
            networked=True,
            waits_for="capacity_s",
        ),
    ),
    (
        State(
            verb=ANNOUNCE,
            does="Tells the incidents topic what happened and how long it took.",
            again="Yes: people are told twice.",
            if_it_fails="The recovery has worked and the gate is open; only the message is missing. Look at the topic.",
            networked=False,
        ),
    ),
)
STATES: tuple[State, ...] = tuple(state for together in RECOVERY for state in together)
VERBS: tuple[str, ...] = tuple(state.verb for state in STATES)

# Between assess and fence, where an environment asks for it.
APPROVAL = State(
    verb=APPROVE,
    does="Keeps the run's task token in its folder of the standby's vault, tells the incidents topic how to answer, and"
    " waits for the answer.",
    again="Yes: people are asked again, and the answer to the newest question counts.",
    if_it_fails="Somebody refused, or nobody answered in time. Start a new run: `relight recover`, which asks only"
    " whoever runs it.",
    networked=False,
)

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
    "StreamCutError",
    "UnconfirmedError",
    "TransientError",
)
# What says itself when to come again.
LATER_ERRORS = ("AgainLaterError", "ProvidersDownError", "ReadOnlyModeError", "WouldDegradeError")
# What calls of a function that sleeps, or is being woken, fail with. Source: Lambda's API reference, "Invoke"; and, of
# the second, which took others 40 to 106 s, aws-solutions-library-samples/
# accelerated-intelligent-document-processing-on-aws#801.
WAKING_ERRORS = (
    "Lambda.ResourceNotReadyException",
    "Lambda.CodeArtifactUserPendingException",
    "Lambda.CodeArtifactUserDeletedException",
    "Lambda.ENINotReadyException",
    "Lambda.ResourceConflictException",
    "Lambda.EC2ThrottledException",
    "Lambda.EC2UnexpectedException",
)
# What another run's fence leaves of this one: nothing is to be done, and nobody to be told.
OVERTAKEN_ERRORS = ("OvertakenError",)
# A function that was ended by its timeout, or whose process died: newer runtimes name the first by itself. All states
# may be run again. Source: the same.
ENDED_ERRORS = ("Sandbox.Timedout", "Lambda.Unknown", "States.Timeout")


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """The function that a state calls, and how long that function may take."""

    function_arn: str
    timeout_s: int


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskRun:
    """The ECS task that does what is too large for a function: where, in which network, and which container."""

    cluster: str
    family: str
    container: str
    subnet_ids: Sequence[str]
    security_group_ids: Sequence[str]


def timeouts(*, rto_s: float, waits: Waits, large: bool = True) -> Timeouts:
    """How long each state's function and a whole execution may take.

    An execution may take as long as each state needs when its function had to be woken and was ended once, replay used
    up all its rounds, and everything that is waited for took its time. What takes longer is stuck; an alarm tells.
    """
    functions = {
        state.verb: function_timeout_s(state.effort, rto_s=rto_s, waits=waits) for state in (*STATES, APPROVAL)
    }
    whole_s = waits.approval_s + (WAKING_S if waits.approval_s else 0)
    for together in RECOVERY:
        whole_s += max(_longest_s(state, functions[state.verb], waits) for state in together)
    if large:
        whole_s += TASK_S
    return Timeouts(functions=functions, whole_s=math.ceil(whole_s))


def _longest_s(state: State, timeout_s: int, waits: Waits) -> float:
    calls = max(1 + ENDED.attempts, state.rounds)
    waited_s = getattr(waits, state.waits_for) if state.waits_for else 0
    return WAKING_S + calls * (timeout_s + STATE_MARGIN_S) + waited_s


def definition(
    steps: Mapping[str, Step], *, waits: Waits, whole_s: int, large: TaskRun | None = None
) -> dict[str, Any]:
    """The state machine in Amazon States Language, over one step for each of `VERBS`, and for `approve` where
    `waits.approval_s` says that people are asked.

    Input: `{"run_id", "next_epoch", "reason", "at"}`, of which a `run_id` alone is enough. A state that fails for good
    pages somebody, and the execution then fails. Where another run has fenced first, this one ends well and tells
    nobody: whether that one does is that one's to say. When it is the announcement that fails, the recovery has worked:
    paging, through the function that has just failed, would say otherwise, so the execution only fails.
    """
    asked = waits.approval_s > 0
    missing = [verb for verb in (*VERBS, *([APPROVE] * asked)) if verb not in steps]
    if missing:
        raise ValueError(f"no step for {', '.join(missing)}; give one for each of {', '.join(VERBS)}")
    states: dict[str, Any] = {}
    for together in RECOVERY:
        states[_name(together)] = _state(together, steps, waits, large) | {"ResultPath": None}
        if asked and together is RECOVERY[0]:
            states[APPROVE] = _ask(steps[APPROVE], waits)
    names = list(states)
    for name, after in pairwise(names):
        states[name] |= {"Catch": [_catch()], "Next": after}
    overtaken = {"ErrorEquals": list(OVERTAKEN_ERRORS), "ResultPath": "$.error", "Next": OVERTAKEN}
    states[FENCE]["Catch"].insert(0, overtaken)
    states[OVERTAKEN] = {"Type": "Succeed"}
    states[ANNOUNCE] |= {"End": True}
    states[PAGE] = invoke(
        steps[ANNOUNCE], {"Payload": {"run_id.$": "$.run_id", "failed": True, "error.$": "$.error.Error"}}, LATER
    ) | {
        "ResultPath": None,
        "Catch": [{"ErrorEquals": ["States.ALL"], "ResultPath": None, "Next": FAILED}],
        "Next": FAILED,
    }
    states[FAILED] = {"Type": "Fail", "ErrorPath": "$.error.Error", "CausePath": "$.error.Cause"}
    return {"Comment": "Relight the standby", "StartAt": names[0], "TimeoutSeconds": whole_s, "States": states}


def _name(together: tuple[State, ...]) -> str:
    return "-and-".join(state.verb for state in together)


def _state(
    together: tuple[State, ...], steps: Mapping[str, Step], waits: Waits, large: TaskRun | None
) -> dict[str, Any]:
    def call(state: State) -> dict[str, Any]:
        return invoke(steps[state.verb], {"Payload.$": "$"}, state.later(waits))

    if len(together) == 1:
        return call(together[0])
    branches = [
        _large_branch(call(state), large)
        if state.verb == HYDRATE and large is not None
        else {"StartAt": state.verb, "States": {state.verb: call(state) | {"ResultPath": None, "End": True}}}
        for state in together
    ]
    return {"Type": "Parallel", "Branches": branches}


def _large_branch(hydrate: dict[str, Any], large: TaskRun) -> dict[str, Any]:
    """Hydrate, and once more as a task where the function says that the memory is too large for it."""
    answer = "$.hydrate.Payload.large"
    is_large = {"And": [{"Variable": answer, "IsPresent": True}, {"Variable": answer, "BooleanEquals": True}]}
    return {
        "StartAt": HYDRATE,
        "States": {
            HYDRATE: hydrate | {"ResultPath": "$.hydrate", "Next": IS_LARGE},
            IS_LARGE: {"Type": "Choice", "Choices": [is_large | {"Next": HYDRATE_TASK}], "Default": HYDRATED},
            HYDRATE_TASK: run_task(large, {"Command.$": f"States.Array('{HYDRATE}', '--run-id', $.run_id)"})
            | {"Retry": [_retry(("States.TaskFailed",), TASK_ENDED)], "ResultPath": None, "Next": HYDRATED},
            HYDRATED: {"Type": "Succeed"},
        },
    }


def run_task(large: TaskRun, command: Mapping[str, Any]) -> dict[str, Any]:
    """A state that runs the task with `command` and waits for its end."""
    network = {
        "Subnets": list(large.subnet_ids),
        "SecurityGroups": list(large.security_group_ids),
        "AssignPublicIp": "DISABLED",
    }
    return {
        "Type": "Task",
        "Resource": "arn:aws:states:::ecs:runTask.sync",
        "Parameters": {
            "Cluster": large.cluster,
            "TaskDefinition": large.family,
            "LaunchType": "FARGATE",
            "NetworkConfiguration": {"AwsvpcConfiguration": network},
            "Overrides": {"ContainerOverrides": [{"Name": large.container, **command}]},
        },
        "TimeoutSeconds": TASK_S,
    }


def _ask(step: Step, waits: Waits) -> dict[str, Any]:
    payload = {"Payload": {"token.$": "$$.Task.Token", "within_s": math.ceil(waits.approval_s), "run.$": "$"}}
    return invoke(step, payload, LATER) | {
        "Resource": "arn:aws:states:::lambda:invoke.waitForTaskToken",
        "TimeoutSeconds": math.ceil(waits.approval_s),
        # Nobody's answer is no reason to ask once more: it is tried again only when nobody was asked.
        "Retry": [_retry(WAKING_ERRORS, WAKING), _retry(RETRIED_ERRORS, TRANSIENT)],
        "ResultPath": None,
    }


def invoke(step: Step, payload: Mapping[str, Any], later: Again) -> dict[str, Any]:
    """A state that calls a function, and tries again what is worth it."""
    return {
        "Type": "Task",
        "Resource": "arn:aws:states:::lambda:invoke",
        "Parameters": {"FunctionName": step.function_arn, **payload},
        "TimeoutSeconds": step.timeout_s + STATE_MARGIN_S,
        "Retry": [
            _retry(LATER_ERRORS, later),
            _retry(ENDED_ERRORS, ENDED),
            _retry(WAKING_ERRORS, WAKING),
            _retry(RETRIED_ERRORS, TRANSIENT),
        ],
    }


def _retry(errors: tuple[str, ...], again: Again) -> dict[str, Any]:
    return {
        "ErrorEquals": list(errors),
        "IntervalSeconds": again.after_s,
        "BackoffRate": again.backoff,
        "MaxAttempts": again.attempts,
    }


def _catch() -> dict[str, Any]:
    return {"ErrorEquals": ["States.ALL"], "ResultPath": "$.error", "Next": PAGE}
