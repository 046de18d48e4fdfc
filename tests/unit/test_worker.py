"""What becomes of a task whose handler raised."""

from __future__ import annotations

import random

import pytest

from relight.errors import (
    AgainLaterError,
    ConflictError,
    DeniedError,
    LeaseLostError,
    NotFoundError,
    StaleEpochError,
    UnavailableError,
    UnconfirmedError,
    WouldDegradeError,
)
from relight.tasks.effects import RefusedError, TooSoonError, UnansweredError, UnknownEffectError
from relight.tasks.results import UnstorableError
from relight.tasks.steps import Retry, StepFailedError
from relight.tasks.verdict import Again, Leave, Park, judge

RETRY = Retry(first_s=4.0, factor=2.0, at_most_s=60.0, jitter=0.0)
PASSING = [
    UnavailableError("u"),
    NotFoundError("n"),
    DeniedError("d"),
    ConflictError("c"),
    UnansweredError("a"),
    KeyError("topic"),
    ZeroDivisionError("z"),
]


def judged(exc: Exception, attempts: int = 1) -> Again | Park | Leave:
    return judge(exc, attempts=attempts, max_attempts=20, retry=RETRY, chance=random.Random(1))


@pytest.mark.parametrize("exc", PASSING, ids=lambda exc: type(exc).__name__)
def test_a_task_that_raises_is_given_back_and_parked_in_the_end(exc: Exception) -> None:
    """Whatever a task raises, it comes again, later and later, and is parked after its last attempt alone."""
    verdicts = [judged(exc, attempt) for attempt in range(1, 21)]
    assert isinstance(verdicts[-1], Park)
    waits = [verdict.delay_s for verdict in verdicts if isinstance(verdict, Again)]
    assert waits == [4.0, 8.0, 16.0, 32.0, *[60.0] * 15]
    assert all(verdict.reason.startswith(type(exc).__name__) for verdict in verdicts)


@pytest.mark.parametrize(
    "exc", [UnknownEffectError("k"), RefusedError("r"), StepFailedError("s"), UnstorableError("j")], ids=repr
)
def test_what_is_certain_to_come_again_is_parked_at_once(exc: Exception) -> None:
    """fails when a task that needs a person is tried twenty times first."""
    assert isinstance(judged(exc), Park)


@pytest.mark.parametrize("exc", [LeaseLostError("l"), StaleEpochError("e")], ids=repr)
def test_what_is_not_this_workers_is_left(exc: Exception) -> None:
    """Who lost the claim or the lease writes nothing, however often the task was tried."""
    assert isinstance(judged(exc, attempts=20), Leave)


def test_a_standby_that_is_away_parks_nothing() -> None:
    """fails when a task is parked, for a person, because the standby was away for longer than its attempts took."""
    verdict = judged(UnconfirmedError("u"), attempts=20)
    assert isinstance(verdict, Again)
    assert not verdict.counted


def test_what_failed_side_by_side_is_judged_together() -> None:
    """fails when an error counts for less because it came in the group of a handler's coroutines."""

    def group(*errors: Exception) -> ExceptionGroup[Exception]:
        return ExceptionGroup("side by side", [ExceptionGroup("inner", [errors[0]]), *errors[1:]])

    assert isinstance(judged(group(KeyError("k"), LeaseLostError("l"), RefusedError("r"))), Leave)
    assert isinstance(judged(group(KeyError("k"), RefusedError("r"))), Park)
    assert judged(group(AgainLaterError("a", wait_s=90.0), TooSoonError("b", wait_s=70.0))) == Again(
        delay_s=90.0, reason="AgainLaterError: a; TooSoonError: b", counted=False
    )
    assert isinstance(judged(group(KeyError("k"), ValueError("v"))), Again)


@pytest.mark.parametrize("exc", [AgainLaterError("x", wait_s=90.0), TooSoonError("x", wait_s=90.0)], ids=repr)
def test_an_error_that_says_when_is_heeded(exc: Exception) -> None:
    """A task that waits comes again when its error says, however often it waited before."""
    assert judged(exc, attempts=25) == Again(delay_s=90.0, reason=f"{type(exc).__name__}: x", counted=False)


def test_a_task_says_what_it_waits_for() -> None:
    """What the error waits for is kept with the task; of several that wait for different things, nothing is."""
    first, second = (WouldDegradeError("w", wait_s=30.0, waits_for=f"provider:{name}") for name in "ab")
    again = judged(first)
    assert again == Again(delay_s=30.0, reason="WouldDegradeError: w", counted=False, waits_for="provider:a")
    together = judged(ExceptionGroup("side by side", [first, first]))
    assert isinstance(together, Again)
    assert together.waits_for == "provider:a"
    for others in ([first, second], [first, AgainLaterError("l")]):
        apart = judged(ExceptionGroup("side by side", others))
        assert isinstance(apart, Again)
        assert (apart.waits_for, apart.delay_s) == (None, 30.0)


def test_what_failed_beside_a_wait_is_a_failure() -> None:
    """fails when a task that raised for good is taken for one that waits, because another of its coroutines waited."""
    waits = WouldDegradeError("w", wait_s=30.0, waits_for="provider:a")
    verdict = judged(ExceptionGroup("side by side", [waits, ValueError("v")]))
    assert isinstance(verdict, Again)
    assert (verdict.counted, verdict.waits_for, verdict.delay_s) == (True, None, 30.0)
