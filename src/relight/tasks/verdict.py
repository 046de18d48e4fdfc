"""What becomes of a task whose handler raised: given back, parked, or left to whoever has it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from relight.errors import AgainLaterError, LeaseLostError, StaleEpochError, UnconfirmedError
from relight.tasks.effects import UnknownEffectError
from relight.tasks.steps import HOPELESS
from relight.tasks.waiting import causes as causes_of

if TYPE_CHECKING:
    import random

    from relight.tasks.ledger import Ledger, Task
    from relight.tasks.steps import Retry

# How long a task waits whose writes the standby did not confirm.
_UNCONFIRMED_S = 10.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Again:
    """The task is given back, to be tried again after `delay_s`, or as soon as what it waits for has happened; a life
    that is not `counted` says nothing against it."""

    delay_s: float
    reason: str
    counted: bool = True
    waits_for: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Park:
    """The task is given up until a person looks at it, or at the effect whose key it waits for."""

    reason: str
    waits_for: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Leave:
    """The task is not this worker's any more: nothing more is written."""

    reason: str


def judge(
    exc: Exception, *, attempts: int, max_attempts: int, retry: Retry, chance: random.Random
) -> Again | Park | Leave:
    """What becomes of a task whose handler, or whose completion, raised `exc` in its `attempts`-th life."""
    causes = causes_of(exc)
    reason = "; ".join(f"{type(cause).__name__}: {cause}" for cause in causes)
    if any(isinstance(cause, LeaseLostError | StaleEpochError) for cause in causes):
        return Leave(reason=reason)
    if any(isinstance(cause, HOPELESS) for cause in causes):
        waits_for = next((cause.key for cause in causes if isinstance(cause, UnknownEffectError)), "")
        return Park(reason=reason, waits_for=waits_for or None)
    if any(isinstance(cause, UnconfirmedError) for cause in causes):
        # The standby is away, for however long: that is not the task's fault.
        return Again(delay_s=_UNCONFIRMED_S, reason=reason, counted=False)
    waits = [cause for cause in causes if isinstance(cause, AgainLaterError)]
    delays = [cause.wait_s for cause in waits]
    if len(waits) == len(causes):
        # It waits for something, and says how long; a step's failures are counted by themselves. What waits for two
        # things would be woken in vain by the first of them.
        keys = {cause.waits_for for cause in waits}
        waits_for = keys.pop() if len(keys) == 1 else ""
        return Again(delay_s=max(delays), reason=reason, counted=False, waits_for=waits_for or None)
    if attempts >= max_attempts:
        return Park(reason=reason)
    return Again(delay_s=max([*delays, retry.after(attempts, chance=chance)]), reason=reason)


def give_back(ledger: Ledger, task: Task, verdict: Again | Park | Leave) -> None:
    """Write what becomes of the task; of one that is left, nothing."""
    match verdict:
        case Again(delay_s=delay_s, reason=reason, counted=counted, waits_for=waits_for):
            ledger.release(task, error=reason, delay_s=delay_s, counted=counted, waits_for=waits_for)
        case Park(reason=reason, waits_for=waits_for):
            ledger.park(task, reason=reason, waits_for=waits_for)
