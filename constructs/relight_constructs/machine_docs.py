"""What people read about the recovery machine, written from its description. Pure: nothing here starts node."""

from __future__ import annotations

from relight.objectives import OBJECTIVES, Tier
from relight_constructs.pages import with_part
from relight_constructs.recovery_machine import (
    APPROVAL,
    ENDED,
    HYDRATE,
    POLL_S,
    RECOVERY,
    STATES,
    TASK_ENDED,
    TRANSIENT,
    WAKING,
    State,
    timeouts,
)
from relight_constructs.timeouts import RECOVERY_SHARE, TASK_S, USUAL_WAITS, WAKING_S

BEGIN = "<!-- recovery-machine:begin, written from constructs/relight_constructs/recovery_machine.py -->"
END = "<!-- recovery-machine:end -->"

# Those that have a standby.
_TIERS = (Tier.CUSTOMER_FACING, Tier.INTERNAL, Tier.BATCH)


def page() -> str:
    """The whole of docs/recovery-machine.md."""
    return f"""# The recovery machine

Written from `constructs/relight_constructs/recovery_machine.py`, as the deployed definition is; a test fails when this
page is another. The sentinel starts an execution with `{{"run_id", "next_epoch", "reason", "at"}}`; a person starts one
with a `run_id` alone, or runs the same states without it by `relight recover`.

{_graph()}

*approve* is there where the environment says `[recovery] approval = true`. A state that fails for good leads to *page*,
which tells the incidents topic, and to *failed*, which ends the execution with that state's error. A run whose epoch
another recovery took first ends at *overtaken*: it has changed nothing, and pages nobody.

## States

{_table()}

## How long each may take

Seconds of each state's function, by the tier's RTO. The recovery's part of it is {RECOVERY_SHARE:.0%}; the rest is for
noticing and for DNS. A state that changes something small is cut when it hangs, early enough that another try fits. One
whose work grows with the data has all that Lambda offers, because cut short it would only begin again. A state itself
waits 10 s longer than its function may take.

{_limits()}

*whole* is the longest that an execution may take: each state when its function was woken and ended once, replay when
it used up its rounds, everything that is waited for, and {TASK_S // 3600} h for a memory that is hydrated by a task.
Where people are asked, `approval_minutes` come on top. It is no estimate. What takes longer is stuck, and the alarm on
`ExecutionsTimedOut` tells.

## What is tried again

- A transient error, and trouble of Lambda's own: after {TRANSIENT.after_s} s, then {TRANSIENT.backoff} times as long,
  {TRANSIENT.attempts} times. The functions have tried for eight seconds by themselves before.
- A function that was ended by its timeout, or whose process died: {ENDED.attempts} more time.
- What says itself when to come again: *promote*, and *scale*, *hydrate* and *open-gate*, every {POLL_S} s for as long
  as the database, or the capacity, may take; *replay* at once, {_state("replay").rounds} times.
- The task of a large memory: {TASK_ENDED.attempts} more times.
- A function that sleeps: every {WAKING.after_s} s for {WAKING_S} s.

Everything else would fail again, and pages at once.

## Why no function sleeps

Lambda takes back what a function was given that nobody calls for weeks: its network interfaces, and what its code is
kept by. Its state is then `Inactive`, and the call that wakes it fails (`ResourceNotReadyException`,
`CodeArtifactUserPendingException` and the like). Waking took others 40 to 106 s. A recovery's functions are hardly ever
needed, and after *fence* nobody serves. So a second machine, `<machine>-awake`, calls each of them once a day with
`{{"wake": true}}`, which a function answers before it reads its settings. An execution of it that fails says, on a
quiet day, that a function could not be called; an alarm tells. Those of a rehearsal are let sleep: its machine waits
for them as this one would.
"""


def with_table(text: str) -> str:
    """The runbook with its table of states; ValueError where the marks are missing."""
    return with_part(text, f"{_table()}\n", begin=BEGIN, end=END)


def _state(verb: str) -> State:
    return next(state for state in STATES if state.verb == verb)


def _table() -> str:
    rows = ["| state | what it does | may it be run again? | when it has failed |", "| --- | --- | --- | --- |"]
    for together in RECOVERY:
        rows += [_row(state) for state in together]
        if together is RECOVERY[0]:
            rows.append(_row(APPROVAL))
    return "\n".join(rows)


def _row(state: State) -> str:
    return f"| {state.verb} | {state.does} | {state.again} | {state.if_it_fails} |"


def _limits() -> str:
    found = {tier: timeouts(rto_s=OBJECTIVES[tier].rto_s, waits=USUAL_WAITS) for tier in _TIERS}
    rows = ["| state | " + " | ".join(_TIERS) + " |", "| --- |" + " --- |" * len(_TIERS)]
    for state in STATES:
        rows.append(f"| {state.verb} | " + " | ".join(str(found[tier].functions[state.verb]) for tier in _TIERS) + " |")
    rows.append("| *whole* | " + " | ".join(str(found[tier].whole_s) for tier in _TIERS) + " |")
    return "\n".join(rows)


def _graph() -> str:
    lines = ["```mermaid", "flowchart TD", f"    start([start]) --> {RECOVERY[0][0].verb}"]
    ends = [RECOVERY[0][0].verb]
    for together in RECOVERY[1:]:
        for state in together:
            lines += [f"    {end} --> {state.verb}" for end in ends]
        ends = [state.verb for state in together]
        if together is RECOVERY[1]:
            lines.append(f"    assess -. where people are asked .-> {APPROVAL.verb} -.-> {together[0].verb}")
        if HYDRATE in ends:
            lines.append(f"    {HYDRATE} -. too large for a function .-> task[hydrate as an ECS task]")
            ends.append("task")
    lines += [f"    {end} --> done([done])" for end in ends]
    lines.append("    fence -. another run was first .-> overtaken([overtaken])")
    lines += ["    failure[any state, for good] --> page --> failed([failed])", "```"]
    return "\n".join(lines)
