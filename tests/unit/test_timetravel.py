"""The time travel policy, and the pace of a replay."""

from __future__ import annotations

import math
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relight.errors import ConfigError
from relight.tasks.ledger import Kind
from relight.tasks.replay import BATCH, batch_size, pause_s
from relight.tasks.timetravel import TimeTravel

NOW = datetime(2026, 4, 19, 2, 0, tzinfo=UTC)
POLICY = TimeTravel(timers_after_s=3600, sends_after_s=900, credentials_after_s=0)
TICK = timedelta(microseconds=1)
seconds = st.floats(min_value=0, max_value=1e9)


def held(kind: Kind, due_at: datetime, now: datetime, policy: TimeTravel = POLICY) -> bool:
    """As the statements of a replay compare."""
    before = policy.due_before(kind, now)
    return before is not None and due_at < before


@pytest.mark.parametrize(
    ("kind", "late_s", "expected"),
    [
        (Kind.WORK, 1e8, False),
        (Kind.TIMER, 3600, False),
        (Kind.TIMER, 3601, True),
        (Kind.SEND, 900, False),
        (Kind.SEND, 901, True),
        (Kind.SEND, -3600, False),
        (Kind.CREDENTIAL, 1, True),
        (Kind.CREDENTIAL, 0, True),
        (Kind.CREDENTIAL, -86_400, True),
    ],
)
def test_what_is_held(kind: Kind, late_s: float, expected: bool) -> None:
    """Work never, timers and sends when they are later than allowed, credentials always, due or not."""
    assert held(kind, NOW - timedelta(seconds=late_s), NOW) is expected


def test_a_reason_says_what_is_held_and_why() -> None:
    """The kind, and how late it may be; a kind that is always held says so."""
    assert POLICY.reason(Kind.SEND).startswith("it is a send of a restored state, due more than 900 s ago")
    assert POLICY.reason(Kind.CREDENTIAL).endswith("those are always held for review")


@given(kind=st.sampled_from(Kind), after_s=seconds, late_s=seconds)
def test_the_limit_is_the_last_moment_that_fires(kind: Kind, after_s: float, late_s: float) -> None:
    """What is later by no more than its limit fires, whatever the limit, and a microsecond more does not."""
    policy = TimeTravel(timers_after_s=after_s, sends_after_s=after_s, credentials_after_s=after_s)
    if kind is Kind.WORK:
        assert not held(kind, NOW - timedelta(seconds=late_s), NOW, policy)
        return
    last = NOW - timedelta(seconds=after_s)
    assert held(kind, last, NOW, policy) is (after_s == 0)
    assert held(kind, last - TICK, NOW, policy)


@given(kind=st.sampled_from(Kind), late_s=seconds, more_s=seconds)
def test_time_never_frees_what_is_held(kind: Kind, late_s: float, more_s: float) -> None:
    """What is held now is held later too."""
    due_at = NOW - timedelta(seconds=late_s)
    if held(kind, due_at, NOW):
        assert held(kind, due_at, NOW + timedelta(seconds=more_s))


@pytest.mark.parametrize("never", [math.inf, 1e15])
def test_a_limit_can_be_never(never: float) -> None:
    """A limit of more than there are years holds nothing, and is no error."""
    policy = TimeTravel(timers_after_s=never)
    assert not held(Kind.TIMER, datetime.min.replace(tzinfo=UTC), NOW, policy)


@pytest.mark.parametrize("wrong", [-1.0, math.nan])
def test_a_limit_below_zero_is_refused(wrong: float) -> None:
    """fails when a limit is no number of seconds."""
    with pytest.raises(ConfigError, match="a send would be held after"):
        TimeTravel(sends_after_s=wrong)


@given(counts=st.lists(st.integers(1, BATCH), max_size=30), per_second=st.floats(min_value=0.5, max_value=1e6))
def test_the_pace_is_never_exceeded(counts: list[int], per_second: float) -> None:
    """After each pause, no more tasks were published than the elapsed time allows, however they came."""
    elapsed_s, published = 0.0, 0
    for number in counts:
        published += number
        elapsed_s += pause_s(published, elapsed_s, per_second)
        assert published <= per_second * elapsed_s * (1 + 1e-9) + 1e-9


@given(per_second=st.floats(min_value=0.01, max_value=1e9))
def test_batches_are_small_at_a_low_speed(per_second: float) -> None:
    """A batch is never empty, never too large, and at a low speed not more than a quarter of a second's."""
    size = batch_size(per_second)
    assert 1 <= size <= BATCH
    assert size == 1 or size <= per_second / 4


def test_without_a_bound_nothing_is_waited_for() -> None:
    """No bound is no pause and full batches."""
    assert pause_s(1_000_000, 0.0, None) == 0.0
    assert batch_size(None) == BATCH
