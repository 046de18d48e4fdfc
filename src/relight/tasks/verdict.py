"""What becomes of a task whose handler raised: given back, parked, or left to whoever has it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from relight.errors import AgainLaterError, LeaseLostError, StaleEpochError, UnconfirmedError
from relight.tasks.effects import UnknownEffectError
from relight.tasks.steps import HOPELESS

if TYPE_CHECKING:
    import random

    from relight.tasks.ledger import Ledger, Task
    from relight.tasks.steps import Retry

# How long a task waits whose writes the standby did not confirm.
_UNCONFIRMED_S = 10.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Again:
    """The task is given back, to be tried again after `delay_s`; a life that is not `counted` says nothing against
    it."""

    delay_s: float
    reason: str
    counted: bool = True


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
    # Coroutines that work side by side fail in a group.
    causes = leaves(exc) if isinstance(exc, ExceptionGroup) else [exc]
    reason = "; ".join(f"{type(cause).__name__}: {cause}" for cause in causes)
    if any(isinstance(cause, LeaseLostError | StaleEpochError) for cause in causes):
        return Leave(reason=reason)
    if any(isinstance(cause, HOPELESS) for cause in causes):
        waits_for = next((cause.key for cause in causes if isinstance(cause, UnknownEffectError)), "")
        return Park(reason=reason, waits_for=waits_for or None)
    if any(isinstance(cause, UnconfirmedError) for cause in causes):
        # The standby is away, for however long: that is not the task's fault.
        return Again(delay_s=_UNCONFIRMED_S, reason=reason, counted=False)
    waits = [cause.wait_s for cause in causes if isinstance(cause, AgainLaterError)]
    if len(waits) == len(causes):
        # It waits for something, and says how long; a step's failures are counted by themselves.
        return Again(delay_s=max(waits), reason=reason, counted=False)
    if attempts >= max_attempts:
        return Park(reason=reason)
    return Again(delay_s=max([*waits, retry.after(attempts, chance=chance)]), reason=reason)


def give_back(ledger: Ledger, task: Task, verdict: Again | Park | Leave) -> None:
    """Write what becomes of the task; of one that is left, nothing."""
    match verdict:
        case Again(delay_s=delay_s, reason=reason, counted=counted):
            ledger.release(task, error=reason, delay_s=delay_s, counted=counted)
        case Park(reason=reason, waits_for=waits_for):
            ledger.park(task, reason=reason, waits_for=waits_for)


def leaves(group: BaseExceptionGroup[BaseException]) -> list[BaseException]:
    """The errors of a group and of the groups in it."""
    found: list[BaseException] = []
    for exc in group.exceptions:
        found.extend(leaves(exc) if isinstance(exc, BaseExceptionGroup) else [exc])
    return found
