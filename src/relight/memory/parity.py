"""Parity: whether a restored memory answers as it did."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

# How many of a collection's points serve as canaries, and how many answers each has: recall@10.
CANARIES = 5
K = 10


def recall(answers: Iterable[tuple[Sequence[str], Sequence[str]]]) -> float:
    """The share of the expected ids that are among those found, over all (expected, found); 1 when none is expected."""
    expected_total = found_total = 0
    for expected, found in answers:
        expected_total += len(expected)
        found_total += len(set(expected) & set(found))
    return found_total / expected_total if expected_total else 1.0
