"""At no moment do two regions work: leases, clocks, databases and recoveries in any order."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from datetime import timedelta
from typing import TYPE_CHECKING

import pytest
from fakes import FakeClock
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from unit.test_epoch import MemoryLeases

from relight.errors import ConflictError, UnavailableError
from relight.memory.journal import START, Position
from relight.recovery.epoch import Lease, LeaseKeeper, take_first, take_next
from relight.recovery.gate import Behind, Readiness, readiness
from relight.tasks.epochs import Epoch

if TYPE_CHECKING:
    from collections.abc import Callable

EAST, WEST = "us-east-1", "us-west-2"
TTL_S, MARGIN_S, BOUND_S = 15.0, 2.0, 30.0


@dataclass(kw_only=True)
class Database:
    """A region's state database: what it knows of epochs, and of whom it is a replica."""

    newest_epoch: Epoch | None
    replica: bool
    bound_s: float = BOUND_S
    memory_s: float = 0.0
    state_s: float = 0.0

    def newest(self) -> Epoch | None:
        return self.newest_epoch

    def behind(self) -> Behind:
        return Behind(replica=self.replica, state_s=self.state_s, memory_s=self.memory_s)


@dataclass(kw_only=True)
class Cut(MemoryLeases):
    """The lease's bucket as one region reaches it, or does not."""

    store: MemoryLeases
    reachable: bool = True
    value: tuple[Lease, str] | None = field(init=False, default=None)

    def read(self) -> tuple[Lease, str] | None:
        if not self.reachable:
            raise UnavailableError("unreachable")
        return self.store.read()

    def write(self, lease: Lease, *, instead_of: str | None) -> str:
        if not self.reachable:
            raise UnavailableError("unreachable")
        return self.store.write(lease, instead_of=instead_of)


class Here:
    """A vector store that has its collection, and a journal that begins at the beginning."""

    def position(self, name: str) -> Position:
        return START

    def edge(self, collection: str) -> Position:
        return START


class Waiting(FakeClock):
    """A clock by which others go on while somebody waits."""

    def __init__(self, meanwhile: Callable[[], None]) -> None:
        super().__init__()
        self.meanwhile = meanwhile

    def sleep(self, seconds: float) -> None:
        for _ in range(4):
            super().sleep(seconds / 4)
            self.meanwhile()


class Pair(RuleBasedStateMachine):
    """Two regions in active-active, recovered from one into the other as the states do it."""

    @initialize()
    def begin(self) -> None:
        self.clock = Waiting(self.everybody_goes_on)
        self.bucket = MemoryLeases()
        take_first(self.bucket, region=EAST, ttl_s=TTL_S, clock=self.clock)
        self.stores = {name: Cut(store=self.bucket) for name in (EAST, WEST)}
        self.keepers = {
            name: LeaseKeeper(store, region=name, ttl_s=TTL_S, margin_s=MARGIN_S, clock=self.clock)
            for name, store in self.stores.items()
        }
        first = self.epoch(1, EAST, opened=True)
        self.databases = {
            EAST: Database(newest_epoch=first, replica=False),
            WEST: Database(newest_epoch=first, replica=True),
        }
        self.runs = 0
        self.everybody_goes_on()

    @rule()
    def everybody_goes_on(self) -> None:
        """The agents of both regions keep their leases, as far as they reach them."""
        for keeper in self.keepers.values():
            keeper.renew()
        self.nobody_works_beside_another()

    def epoch(self, number: int, region: str, *, opened: bool) -> Epoch:
        return Epoch(
            number=number,
            region=region,
            opened_at=self.clock.now() if opened else None,
            verified_at=None,
            replayed_at=None,
        )

    def ask(self, region: str) -> Readiness:
        database = self.databases[region]
        return readiness(
            region=region,
            lease=self.keepers[region],
            epochs=database,
            memory=Here(),
            edges=Here(),
            collections=["memory"],
            reads=database,
        )

    regions = st.sampled_from([EAST, WEST])

    @rule(region=regions)
    def renew(self, region: str) -> None:
        self.keepers[region].renew()

    @rule(seconds=st.floats(0.1, 40.0))
    def pass_time(self, seconds: float) -> None:
        self.clock.at += timedelta(seconds=seconds)

    @rule(region=regions, reachable=st.booleans())
    def cut_from_the_lease(self, region: str, reachable: bool) -> None:
        self.stores[region].reachable = reachable

    @rule(region=regions, memory_s=st.floats(0, 60), state_s=st.floats(0, 60))
    def lag(self, region: str, memory_s: float, state_s: float) -> None:
        self.databases[region].memory_s, self.databases[region].state_s = memory_s, state_s

    @precondition(lambda self: self.databases[WEST].replica)
    @rule(opens=st.booleans())
    def recover(self, opens: bool) -> None:
        """Fence, promote, and perhaps open the gate; the old primary's database learns nothing of it."""
        self.runs += 1
        try:
            lease = take_next(
                self.bucket,
                region=WEST,
                run_id=f"run-{self.runs}",
                ttl_s=TTL_S,
                margin_s=MARGIN_S,
                clock=self.clock,
            )
        except ConflictError:
            return
        if not opens:
            return
        database = self.databases[WEST]
        database.replica = False
        self.nobody_works_beside_another()
        database.newest_epoch = self.epoch(lease.epoch, WEST, opened=False)
        self.nobody_works_beside_another()
        database.newest_epoch = replace(database.newest_epoch, opened_at=self.clock.now())

    @precondition(lambda self: not self.databases[WEST].replica)
    @rule()
    def build_the_old_primary_again(self) -> None:
        """As a replica of the one that acts."""
        self.databases[EAST] = Database(newest_epoch=self.databases[WEST].newest_epoch, replica=True)

    @invariant()
    def nobody_works_beside_another(self) -> None:
        found = {region: self.ask(region) for region in (EAST, WEST)}
        working = [region for region, answer in found.items() if answer.works]
        assert len(working) <= 1
        for region, answer in found.items():
            assert answer.ready or answer.reason
            if answer.works:
                self.keepers[region].check()
            elif answer.ready and not self.databases[region].replica:
                # Just promoted: only under a lease, and never a former primary.
                self.keepers[region].check()
                assert region == WEST


TestPair = pytest.mark.filterwarnings("error")(Pair.TestCase)
Pair.TestCase.settings = settings(max_examples=150, stateful_step_count=25, deadline=None)
