"""How long to wait before the next attempt."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from random import Random


def delay_s(attempt: int, *, first_s: float, factor: float, at_most_s: float, jitter: float, random: Random) -> float:
    """The wait after attempt number `attempt` (the first is 1): `first_s`, growing by `factor`, up to `at_most_s`.

    `jitter` is the share, from 0 to 1, by which chance may shorten the wait, so that those who failed together do not
    come back together. ValueError for an attempt before the first, a negative wait, or a factor under 1.
    """
    if attempt < 1 or first_s < 0 or at_most_s < 0 or factor < 1 or not 0 <= jitter <= 1:
        raise ValueError(f"no backoff: {attempt=} {first_s=} {factor=} {at_most_s=} {jitter=}")
    return min(_grown(attempt, first_s, factor, at_most_s), at_most_s) * (1 - jitter * random.random())


def _grown(attempt: int, first_s: float, factor: float, at_most_s: float) -> float:
    if first_s == 0 or factor == 1:
        return first_s
    try:
        return first_s * factor ** (attempt - 1)
    except OverflowError:  # of the power alone: the product may still be small
        exponent = math.log(first_s) + (attempt - 1) * math.log(factor)
        return at_most_s if at_most_s == 0 or exponent >= math.log(at_most_s) else math.exp(exponent)
