"""A schedule that EventBridge Scheduler would refuse is refused before anything is deployed."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relight_stacks.schedules import is_schedule, once_a_day
from relight_stacks.tiers import SHAPES

TAKEN = [
    "rate(1 minute)",
    "rate(30 days)",
    "cron(0 4 1 * ? *)",
    "cron(0 10 * * ? *)",
    "cron(0/15 * * * ? *)",
    "cron(0 18 ? * MON-FRI *)",
    "cron(0/5 8-17 ? * MON-FRI *)",
    "cron(0,30 0-2,22-23 1,15 JAN,JUL ? 2026-2030)",
    "cron(0 4 L * ? *)",
    "cron(0 4 LW * ? *)",
    "cron(0 4 3W * ? *)",
    "cron(0 4 ? * 5L *)",
    "cron(0 4 ? * SAT#1 *)",
    "cron(0 4 ? * FRI-MON *)",
    "cron(*/10 4 1-7/2 */3 ? 1970)",
    "cron(59 23 31 12 ? 2199)",
]
REFUSED = [
    "",
    "monthly",
    "rate(0 days)",
    "rate(30 weeks)",
    "rate(30 days) ",
    "cron(0 99 1 * ? *)",
    "cron(60 4 1 * ? *)",
    "cron(0 24 1 * ? *)",
    "cron(0 4 0 * ? *)",
    "cron(0 4 32 * ? *)",
    "cron(0 4 32W * ? *)",
    "cron(0 4 1 13 ? *)",
    "cron(0 4 1 MAI ? *)",
    "cron(0 4 ? * 0 *)",
    "cron(0 4 ? * 8 *)",
    "cron(0 4 ? * 3#6 *)",
    "cron(0 4 ? * 3#1,6#3 *)",
    "cron(0 4 1 * ? 1969)",
    "cron(0 4 1 * ? 2200)",
    "cron(0 4 1 * 2 *)",
    "cron(0 4 * * * *)",
    "cron(0 4 ? * ? *)",
    "cron(0 4 1 * ?)",
    "cron(0 4 1 * ? * *)",
    "cron(0 4-2 1 * ? *)",
    "cron(0 1- 1 * ? *)",
    "cron(0 , 1 * ? *)",
    "cron(0/0 4 1 * ? *)",
    "cron(? 4 1 * ? *)",
    "cron(0 4 1 L ? *)",
    "cron(0 4 1 * ? *)x",
    "cron(0 ٤ 1 * ? *)",
]


@pytest.mark.parametrize("said", TAKEN)
def test_a_schedule_is_taken(said: str) -> None:
    """Values, lists, ranges, steps, names, and the words for the last day and for a weekday."""
    assert is_schedule(said)


@pytest.mark.parametrize("said", REFUSED)
def test_what_is_no_schedule_is_refused(said: str) -> None:
    """fails when a value is out of its field's bounds, or both days are given or neither, and nobody says so before a
    deployment does."""
    assert not is_schedule(said)


def test_the_tiers_own_are_taken() -> None:
    """What a file gets that is silent is held to the same."""
    assert all(is_schedule(shape.rehearse) for shape in SHAPES.values() if shape.rehearse)


@given(
    st.tuples(st.integers(0, 99), st.integers(0, 40), st.integers(0, 40), st.integers(0, 20), st.integers(1900, 2300))
)
def test_each_field_has_its_bounds(numbers: tuple[int, ...]) -> None:
    """Of plain numbers exactly those are taken that a calendar and a clock have."""
    minute, hour, day, month, year = numbers
    fits = minute < 60 and hour < 24 and 1 <= day <= 31 and 1 <= month <= 12 and 1970 <= year <= 2199
    assert is_schedule(f"cron({minute} {hour} {day} {month} ? {year})") is fits


@pytest.mark.parametrize(
    ("said", "fits"),
    [
        ("rate(1 day)", True),
        ("rate(24 hours)", True),
        ("rate(1440 minutes)", True),
        ("rate(1439 minutes)", False),
        ("rate(1 minute)", False),
        ("rate(23 hours)", False),
        ("cron(0 4 * * ? *)", True),
        ("cron(0 4 1 * ? *)", True),
        ("cron(0 * 1 * ? *)", False),
        ("cron(0/30 4 1 * ? *)", False),
        ("cron(0 4,16 1 * ? *)", False),
        ("cron(0 4-6 1 * ? *)", False),
    ],
)
def test_once_a_day_at_most(said: str, fits: bool) -> None:
    """fails when a rehearsal may be called for while the last one goes on."""
    assert is_schedule(said)
    assert once_a_day(said) is fits
