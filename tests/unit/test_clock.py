"""Durations and moments as people read them."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from relight.clock import lasting
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
