"""Waits between attempts."""

from __future__ import annotations

from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relight.retry import delay_s

SECONDS = st.floats(min_value=0, max_value=1e9)
FACTORS = st.floats(min_value=1, max_value=1e6)
SHARES = st.floats(min_value=0, max_value=1)


@given(
    attempt=st.integers(1, 10**9), first=SECONDS, factor=FACTORS, most=SECONDS, jitter=SHARES, seed=st.integers(0, 99)
)
def test_a_wait_stays_between_its_bounds(
    attempt: int, first: float, factor: float, most: float, jitter: float, seed: int
) -> None:
    """After any number of attempts a wait is at most the limit, and shortened by no more than the jitter."""
    options = {"first_s": first, "factor": factor, "at_most_s": most}
    whole = delay_s(attempt, **options, jitter=0.0, random=Random(seed))
    shortened = delay_s(attempt, **options, jitter=jitter, random=Random(seed))
    assert 0 <= whole <= most
    assert whole * (1 - jitter) <= shortened <= whole


@given(attempt=st.integers(1, 10**6), first=SECONDS, factor=FACTORS, most=SECONDS)
def test_waits_never_shrink(attempt: int, first: float, factor: float, most: float) -> None:
    """Without jitter a later attempt waits at least as long as an earlier one."""
    options = {"first_s": first, "factor": factor, "at_most_s": most, "jitter": 0.0, "random": Random(0)}
    assert delay_s(attempt, **options) <= delay_s(attempt + 1, **options)  # type: ignore[arg-type]


def test_waits_double() -> None:
    """The first wait is the first wait, each next is `factor` times as long, and the limit holds."""
    waits = [
        delay_s(attempt, first_s=0.5, factor=2, at_most_s=3, jitter=0, random=Random(0)) for attempt in range(1, 6)
    ]
    assert waits == [0.5, 1.0, 2.0, 3.0, 3.0]


@pytest.mark.parametrize(
    "wrong", [{"attempt": 0}, {"first_s": -1}, {"at_most_s": -1}, {"factor": 0.5}, {"jitter": 1.5}, {"jitter": -0.1}]
)
def test_what_is_no_backoff_is_refused(wrong: dict[str, float]) -> None:
    """fails when a number makes no sense: the message names all of them."""
    options = {"attempt": 1, "first_s": 1.0, "factor": 2.0, "at_most_s": 9.0, "jitter": 0.0} | wrong
    with pytest.raises(ValueError, match=r"attempt=.* jitter="):
        delay_s(**options, random=Random(0))  # type: ignore[arg-type]
