"""The retention ladder."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

from hypothesis import given
from hypothesis import strategies as st

from relight.clock import parse_time, point_id
from relight.vault.retention import LEFTOVER_AGE, HeldPoint, RetentionPlan, plan_retention

if TYPE_CHECKING:
    from random import Random

NOW = datetime(2026, 4, 19, 2, 30, tzinfo=UTC)
RUNGS = {"hourly": 11, "daily": 8, "monthly": 6}

# Close together, a day or a year apart, and sometimes ahead of the clock.
ages = st.one_of(st.integers(-7200, 86_400), st.integers(0, 40 * 86_400), st.integers(0, 800 * 86_400))
ids = ages.map(lambda age: point_id(NOW - timedelta(seconds=age)))


@st.composite
def held(draw: st.DrawFn) -> HeldPoint:
    sealed = draw(st.booleans()) or draw(st.booleans())
    return HeldPoint(
        id=draw(ids),
        sealed=sealed,
        eligible=sealed and draw(st.booleans()),
        modified=NOW - timedelta(seconds=draw(ages)),
        locked_until=draw(st.none() | ages.map(lambda age: NOW - timedelta(seconds=age))),
    )


vaults = st.lists(held(), max_size=60)
counts = st.tuples(st.integers(0, 30), st.integers(0, 20), st.integers(0, 15))


def plan(points: list[HeldPoint], counts: tuple[int, int, int] = (24, 14, 12), now: datetime = NOW) -> RetentionPlan:
    hourly, daily, monthly = counts
    return plan_retention(points, keep_hourly=hourly, keep_daily=daily, keep_monthly=monthly, now=now)


def good(id_: str, **changes: object) -> HeldPoint:
    point = HeldPoint(id=id_, sealed=True, eligible=True, modified=parse_time(id_))
    return replace(point, **changes)  # type: ignore[arg-type]


def gone(found: RetentionPlan) -> set[str]:
    return {*found.remove, *found.leftovers}


@given(vaults, counts)
def test_the_newest_points_always_stay(points: list[HeldPoint], counts: tuple[int, int, int]) -> None:
    """fails when the newest eligible or the newest sealed point goes, whatever the ladder and the clock say."""
    removed = gone(plan(points, counts))
    sealed = [point.id for point in points if point.sealed]
    past = [id_ for id_ in sealed if parse_time(id_) <= NOW]
    fit = {point.id for point in points if point.eligible}
    for some in (sealed, past, list(fit), [id_ for id_ in past if id_ in fit]):
        assert max(some, default="") not in removed


@given(vaults, counts)
def test_every_point_is_decided_once(points: list[HeldPoint], counts: tuple[int, int, int]) -> None:
    """A sealed point is kept, locked or removed; an unsealed one is no part of the ladder."""
    found = plan(points, counts)
    sealed = {point.id for point in points if point.sealed}
    assert Counter([*found.keep, *found.remove, *(found.locked.keys() & sealed)]) == Counter(sealed)
    assert not sealed & set(found.leftovers)


@given(vaults, counts)
def test_planning_again_removes_nothing(points: list[HeldPoint], counts: tuple[int, int, int]) -> None:
    """fails when what one plan keeps the next one removes, though nothing happened between them."""
    first = plan(points, counts)
    second = plan([point for point in points if point.id not in gone(first)], counts)
    assert gone(second) == set()
    assert second.keep == first.keep
    assert second.locked == first.locked


@given(vaults, counts)
def test_each_rung_holds_one_point_of_a_bucket(points: list[HeldPoint], counts: tuple[int, int, int]) -> None:
    """One eligible point, beside at most one newer that is not, and no more buckets than the ladder asks for."""
    found = plan(points, counts)
    fit = {point.id for point in points if point.eligible}
    for (rung, length), count in zip(RUNGS.items(), counts, strict=True):
        holders = [id_ for id_, rungs in found.keep.items() if rung in rungs]
        buckets = Counter(id_[:length] for id_ in holders if id_ in fit)
        others = Counter(id_[:length] for id_ in holders if id_ not in fit)
        for some in (buckets, others):
            assert set(some.values()) <= {1}
            assert len(some) <= count


@given(st.lists(ids.filter(lambda id_: parse_time(id_) <= NOW), max_size=80, unique=True), counts, st.randoms())
def test_pruning_at_every_arrival_loses_nothing_that_one_prune_would_keep(
    all_ids: list[str], counts: tuple[int, int, int], random: Random
) -> None:
    """fails when a point that goes early would have been wanted later by a coarser rung; the order is no matter."""
    random.shuffle(all_ids)
    kept: list[HeldPoint] = []
    for id_ in all_ids:
        kept.append(good(id_))
        removed = gone(plan(kept, counts))
        kept = [point for point in kept if point.id not in removed]
    at_once = plan([good(id_) for id_ in all_ids], counts).keep
    assert {point.id for point in kept} == set(at_once)


@given(vaults, counts, st.randoms())
def test_neither_order_nor_repetition_matters(
    points: list[HeldPoint], counts: tuple[int, int, int], random: Random
) -> None:
    """fails when a listing that names a point twice, or in another order, changes what goes."""
    again = [*points, *points]
    random.shuffle(again)
    assert plan(again, counts) == plan(points, counts)


@given(vaults, counts)
def test_a_locked_point_stays(points: list[HeldPoint], counts: tuple[int, int, int]) -> None:
    """fails when a point goes that Object Lock holds, or one is listed whose lock has run out."""
    found = plan(points, counts)
    locks = {point.id for point in points if point.locked_until is not None and point.locked_until > NOW}
    assert not gone(found) & locks
    assert set(found.locked) <= locks
    assert all(until > NOW for until in found.locked.values())


@given(vaults)
def test_what_was_never_sealed_goes_when_it_is_old(points: list[HeldPoint]) -> None:
    """fails when an upload that may be under way is swept."""
    found = plan(points)
    for id_ in found.leftovers:
        for point in points:
            if point.id == id_:
                assert point.modified < NOW - LEFTOVER_AGE
    [old, young] = (
        good("20200101T000000Z", sealed=False, eligible=False),
        good("20200101T000001Z", sealed=False, eligible=False, modified=NOW - timedelta(hours=23)),
    )
    assert set(plan([old, young]).leftovers) == {old.id}


def test_the_ladder_of_a_year() -> None:
    """Of many points 24 hourly, 14 daily and 12 monthly ones stay, which share the newest."""
    hours = [NOW - timedelta(minutes=20 * number) for number in range(3 * 48)]
    days = [NOW.replace(hour=23, minute=50) - timedelta(days=number) for number in range(1, 400)]
    points = [good(point_id(at)) for at in (*hours, *days)]
    found = plan(points)
    held = Counter(rung for rungs in found.keep.values() for rung in rungs)
    assert held == {"hourly": 24, "daily": 14, "monthly": 12, "newest": 1}
    assert next(iter(found.keep)) == point_id(NOW)
    assert found.keep["20260419T015000Z"] == ("hourly",)
    assert found.keep["20260418T235000Z"] == ("daily", "hourly")
    assert found.keep["20260331T235000Z"] == ("monthly",)
    assert found.keep["20250531T235000Z"] == ("monthly",)
    assert len(found.keep) == 24 + 14 + 12 - 1 - 1 - 1


def test_gaps_take_no_place() -> None:
    """After an outage of a month the ladder is as long as before: a point goes for a newer one, never for its age."""
    before = [good(point_id(NOW - timedelta(days=30, hours=number))) for number in range(24)]
    found = plan([*before, good(point_id(NOW))], (24, 0, 0))
    assert sum("hourly" in rungs for rungs in found.keep.values()) == 24
    assert found.remove == (before[-1].id,)


def test_a_point_from_the_future_takes_nobodys_place() -> None:
    """fails when a machine whose clock was wrong once empties the ladder, or has its own points removed."""
    ahead = [good(f"2099010{day}T000000Z") for day in range(1, 5)]
    here = good(point_id(NOW))
    found = plan([*ahead, here], (1, 1, 1))
    assert found.remove == ()
    assert {found.keep[point.id] for point in ahead} == {("future",)}
    assert found.keep[here.id] == ("daily", "hourly", "monthly", "newest")


def test_a_point_that_is_not_eligible_pushes_nobody_out() -> None:
    """fails when a newer point whose bytes are late takes the place of the one that can be restored now."""
    fit, late = good("20260419T010000Z"), good("20260419T015900Z", eligible=False)
    assert plan([fit, late]).remove == ()
    assert plan([fit, replace(late, eligible=True)]).remove == (fit.id,)


def test_a_wrong_key_empties_no_vault() -> None:
    """fails when points go because none of them is eligible for now, as under another signing key."""
    points = [good(point_id(NOW - timedelta(hours=number)), eligible=False) for number in range(100)]
    assert plan(points).keep.keys() == plan([replace(point, eligible=True) for point in points]).keep.keys()
