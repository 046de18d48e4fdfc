"""The search for the newest good point."""

from __future__ import annotations

import math

from hypothesis import given
from hypothesis import strategies as st

from relight.memory.bisect import newest_good


@given(st.integers(0, 500), st.data())
def test_the_newest_good_one_is_found_with_few_questions(count: int, data: st.DataObject) -> None:
    """All good, none good and everything between, in at most ceil(log2(n)) + 1 questions, none asked twice."""
    good = data.draw(st.integers(0, count))
    asked: list[int] = []

    def ask(number: int) -> bool:
        asked.append(number)
        return number < good

    assert newest_good(count, ask) == (good - 1 if good else None)
    assert len(asked) == len(set(asked))
    assert len(asked) <= (math.ceil(math.log2(count)) + 1 if count else 0)


@given(st.lists(st.booleans(), max_size=200), st.data())
def test_what_cannot_be_told_is_passed_over(tellable: list[bool], data: st.DataObject) -> None:
    """fails when a point that cannot be restored is named, counts as bad, or makes the search go astray."""
    good = data.draw(st.integers(0, len(tellable)))
    asked: list[int] = []

    def ask(number: int) -> bool | None:
        asked.append(number)
        return number < good if tellable[number] else None

    told = [number for number in range(good) if tellable[number]]
    assert newest_good(len(tellable), ask) == (told[-1] if told else None)
    assert len(asked) == len(set(asked))
    few = math.ceil(math.log2(len(tellable))) + 1 if tellable else 0
    assert len(asked) <= few + sum(not tellable[number] for number in asked)
