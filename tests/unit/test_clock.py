"""Durations and moments as people read them."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from fakes import FakeClock

from relight.clock import lasting, looks
from relight_cli.console import ago

NOW = datetime(2026, 4, 19, 2, 0, tzinfo=UTC)


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (0, "0 s"),
        (0.4, "0 s"),
        (59.6, "60 s"),
        (119, "119 s"),
        (120, "2 min"),
        (149, "2 min"),
        (151, "3 min"),
        (7199, "120 min"),
        (7200, "2 h"),
        (172_799, "48 h"),
        (172_800, "2 d"),
        (400 * 86_400, "400 d"),
    ],
)
def test_a_duration_is_said_in_its_largest_unit(seconds: float, words: str) -> None:
    """Of which there are two at least, so that rounding takes no more than a quarter."""
    assert lasting(seconds) == words


@pytest.mark.parametrize(
    ("before_s", "words"),
    [
        (0, "0 s ago"),
        (59, "59 s ago"),
        (7200, "2 h ago"),
        (-0.4, "in 0 s"),
        (-59, "in 59 s"),
        (-300, "in 5 min"),
        (-259_200, "in 3 d"),
    ],
)
def test_a_moment_is_ago_or_to_come(before_s: float, words: str) -> None:
    """What is past is `ago`, what is to come is `in`, and now is past."""
    assert ago(NOW - timedelta(seconds=before_s), NOW) == words


@pytest.mark.parametrize(
    ("every_s", "within_s", "turns"),
    [(2, 20, [0, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20]), (5, 12, [0, 5, 10]), (5, 4, [0])],
)
def test_looks_end_in_time(every_s: float, within_s: float, turns: list[float]) -> None:
    """One at once in any case, and none that would begin after the time is up."""
    clock = FakeClock()
    began = clock.monotonic()
    assert [clock.monotonic() - began for _ in looks(clock, every_s=every_s, within_s=within_s)] == turns


def test_looks_count_what_each_takes() -> None:
    """A look that takes long leaves fewer."""
    clock = FakeClock()
    began, turns = clock.monotonic(), []
    for _ in looks(clock, every_s=2, within_s=20):
        turns.append(clock.monotonic() - began)
        clock.sleep(7)
    assert turns == [0, 9, 18]
