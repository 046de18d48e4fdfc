"""The lease, as its holder and its successor see it."""

from __future__ import annotations

from datetime import timedelta

import pytest
from fakes import FakeClock

from relight.config import OnLeaseLost
from relight.errors import (
    ConflictError,
    IntegrityError,
    LeaseLostError,
    NotFoundError,
    OvertakenError,
    UnavailableError,
)
from relight.recovery.epoch import Lease, LeaseKeeper, LeaseStore, take_first, take_next

EAST, WEST = "us-east-1", "us-west-2"


class MemoryLeases(LeaseStore):
    """Compare-and-swap in memory; the real store is held to the same in the contract tests."""

    def __init__(self) -> None:
        self.value: tuple[Lease, str] | None = None
        self.reachable = True
        self.writes = 0

    def read(self) -> tuple[Lease, str] | None:
        if not self.reachable:
            raise UnavailableError("unreachable")
        return self.value

    def write(self, lease: Lease, *, instead_of: str | None) -> str:
        if not self.reachable:
            raise UnavailableError("unreachable")
        if (self.value[1] if self.value else None) != instead_of:
            raise ConflictError("somebody was first")
        self.writes += 1
        self.value = lease, str(self.writes)
        return self.value[1]


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
def leases(clock: FakeClock) -> MemoryLeases:
    store = MemoryLeases()
    take_first(store, region=EAST, ttl_s=15, clock=clock)
    return store


def keeper(leases: LeaseStore, clock: FakeClock, region: str = EAST, **options: OnLeaseLost) -> LeaseKeeper:
    kept = LeaseKeeper(leases, region=region, ttl_s=15, margin_s=2, clock=clock, **options)
    kept.renew()
    return kept


def test_a_renewed_lease_stays_live(leases: MemoryLeases, clock: FakeClock) -> None:
    """A holder that renews in time may act for as long as it likes."""
    held = keeper(leases, clock)
    for _ in range(20):
        clock.sleep(held.renew())
        held.check()
    assert held.epoch == 1


def test_an_unreachable_lease_runs_out_before_recovery_may_act(leases: MemoryLeases, clock: FakeClock) -> None:
    """A holder that cannot renew stops before the moment until which its successor waits."""
    held = keeper(leases, clock)
    clock.sleep(held.renew())
    held.renew()
    leases.reachable = False
    while held.remaining_s():
        clock.sleep(held.renew())
    stopped = clock.now()
    leases.reachable = True
    assert leases.value is not None
    assert stopped <= leases.value[0].expires_at + timedelta(seconds=3)
    take_next(leases, region=WEST, run_id="r", ttl_s=15, margin_s=2, clock=clock)
    assert clock.now() >= stopped
    with pytest.raises(LeaseLostError):
        held.check()


def test_the_successor_waits_the_old_lease_out(leases: MemoryLeases, clock: FakeClock) -> None:
    """The next epoch is taken at once, and acted under only when the old lease has run out."""
    held = keeper(leases, clock)
    left = held.remaining_s()
    waits: list[float] = []
    took = take_next(leases, region=WEST, run_id="r", ttl_s=15, margin_s=2, clock=clock, waiting=waits.append)
    assert took.epoch == 2
    assert waits[0] > left
    assert held.remaining_s() == 0
    held.renew()
    with pytest.raises(LeaseLostError):
        _ = held.epoch


def test_taking_twice_takes_once(leases: MemoryLeases, clock: FakeClock) -> None:
    """A fence that is run again by the same run returns what it took."""
    first = take_next(leases, region=WEST, run_id="r", ttl_s=15, margin_s=2, clock=clock)
    keeper(leases, clock, WEST)
    again = take_next(leases, region=WEST, run_id="r", ttl_s=15, margin_s=2, clock=clock)
    assert (first.epoch, again.epoch) == (2, 2)


def test_two_recoveries_do_not_share_an_epoch(leases: MemoryLeases, clock: FakeClock) -> None:
    """Two runs that fence get different epochs."""
    first = take_next(leases, region=WEST, run_id="a", ttl_s=15, margin_s=2, clock=clock)
    second = take_next(leases, region=WEST, run_id="b", ttl_s=15, margin_s=2, clock=clock)
    assert (first.epoch, second.epoch) == (2, 3)


def test_an_epoch_that_went_to_another_run_is_not_taken_from_it(leases: MemoryLeases, clock: FakeClock) -> None:
    """A run that was started for an epoch and comes second is refused: it would throw the first one out."""
    take_next(leases, region=WEST, run_id="a", ttl_s=15, margin_s=2, clock=clock, next_epoch=2)
    with pytest.raises(OvertakenError, match="was to take epoch 2, and epoch 2 is held by us-west-2"):
        take_next(leases, region=WEST, run_id="b", ttl_s=15, margin_s=2, clock=clock, next_epoch=2)
    assert take_next(leases, region=WEST, run_id="a", ttl_s=15, margin_s=2, clock=clock, next_epoch=2).epoch == 2


def test_two_processes_of_a_region_keep_one_lease(leases: MemoryLeases, clock: FakeClock) -> None:
    """The workers of a region share the lease and do not fight over it."""
    one, two = keeper(leases, clock), keeper(leases, clock)
    for _ in range(10):
        clock.sleep(3)
        one.renew()
        two.renew()
        one.check()
        two.check()
    assert leases.writes < 14


def test_the_other_region_holds_nothing(leases: MemoryLeases, clock: FakeClock) -> None:
    """A region whose turn it is not holds no lease."""
    with pytest.raises(LeaseLostError, match="holds no lease"):
        keeper(leases, clock, WEST).check()


def test_serving_on_is_a_choice(leases: MemoryLeases, clock: FakeClock) -> None:
    """With on_lease_lost = serve a primary that cannot reach the lease goes on, until it sees that it is another's."""
    held = keeper(leases, clock, on_lost=OnLeaseLost.SERVE)
    leases.reachable = False
    clock.sleep(60)
    held.renew()
    held.check(3)
    leases.reachable = True
    take_next(leases, region=WEST, run_id="r", ttl_s=15, margin_s=2, clock=clock)
    held.renew()
    with pytest.raises(LeaseLostError):
        held.check()


def test_a_call_longer_than_the_lease_is_refused(leases: MemoryLeases, clock: FakeClock) -> None:
    """An effect is not begun when the lease could run out during its call."""
    held = keeper(leases, clock)
    clock.sleep(9)
    held.check(3)
    with pytest.raises(LeaseLostError, match="5 s are needed"):
        held.check(5)


def test_there_must_be_a_first_lease(clock: FakeClock) -> None:
    """Recovery without a first epoch says what to do."""
    with pytest.raises(NotFoundError, match="relight init"):
        take_next(MemoryLeases(), region=WEST, run_id="r", ttl_s=15, margin_s=2, clock=clock)


@pytest.mark.parametrize("body", [b"", b"{}", b"[]", b'{"epoch": 1}', b'{"expires_at": "yesterday"}'])
def test_a_broken_lease_is_named(body: bytes) -> None:
    """An object that is no lease is refused, and nobody acts on it."""
    with pytest.raises(IntegrityError, match=r"lease\.json"):
        Lease.from_json(body)


def test_a_region_knows_who_acts_beside_it(leases: MemoryLeases, clock: FakeClock) -> None:
    """Whose lease is live, by what was read last; nobody's once that has run out, or when nothing was ever read."""
    unread = LeaseKeeper(leases, region=WEST, ttl_s=15, margin_s=2, clock=clock)
    assert unread.acting() is None
    holder, other = keeper(leases, clock), keeper(leases, clock, WEST)
    assert (holder.acting(), other.acting()) == (EAST, EAST)
    clock.sleep(10)
    holder.renew()
    clock.sleep(10)
    assert (holder.acting(), other.acting()) == (EAST, None)
    other.renew()
    assert other.acting() == EAST
    leases.reachable = False
    clock.sleep(5)
    other.renew()
    assert other.acting() is None
