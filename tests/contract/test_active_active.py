"""Both regions serve, and one works: the gates of both, over real databases, through a recovery and after it."""

from __future__ import annotations

import asyncio
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
from contract.test_recovery import EAST, WEST, Pair, pair, remember, renewing
from memory_helpers import wait_for_standby

from relight.errors import IntegrityError, NotFoundError
from relight.memory.api import Applier
from relight.memory.journal import START, Position
from relight.objectives import Pattern, Tier
from relight.recovery.follow import Following
from relight.recovery.gate import Readiness, readiness
from relight.recovery.points import take_point
from relight.recovery.run import STATES, Run, run_state
from relight.wiring import Region
from relight_drill.processes import wait_until

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from relight.recovery.epoch import LeaseKeeper

__all__ = ["pair"]

pytestmark = pytest.mark.servers


class Side:
    """One region: what its agent asks the gate with."""

    def __init__(self, region: Region, keeper: LeaseKeeper) -> None:
        self.region = region
        self.keeper = keeper
        following = region.following
        assert following is not None
        self.following = following

    def ask(self, *, bound_s: float | None = None) -> Readiness:
        """The gate's answer, with another bound where one is given."""
        return readiness(
            region=self.region.settings.region,
            lease=self.keeper,
            epochs=self.region.epochs,
            memory=self.region.store,
            edges=self.region.edges,
            collections=["memory"],
            reads=self.following if bound_s is None else self.within(bound_s),
        )

    def within(self, bound_s: float) -> Following:
        return Following(
            database=self.region.database, store=self.region.store, specs=self.region.specs, bound_s=bound_s
        )

    def apply(self) -> None:
        """Bring memory up to the journal that is here, as the agent's applier does all the time."""
        with self.region.state() as state:
            Applier(store=self.region.store, spec=self.region.specs[0], state=state).catch_up()

    def until(self, so: Callable[[Readiness], bool]) -> Readiness:
        """What the gate says once it is so."""
        found: list[Readiness] = []

        def look() -> bool:
            found.append(self.ask())
            return so(found[-1])

        try:
            asyncio.run(wait_until(look, what="the gate", timeout_s=30))
        except Exception as exc:
            raise AssertionError(found[-1]) from exc
        return found[-1]


@contextmanager
def both(pair: Pair) -> Iterator[tuple[Side, Side, ExitStack]]:
    """Both regions in active-active, the leases' keepers at work; the stack ends the east's.

    A lease lives as long as an environment's own does, so that it runs out when nobody renews it, and not when the
    machine stands still.
    """
    more = {"tier": Tier.CUSTOMER_FACING, "lease_ttl_s": 15.0}
    with (
        Region(replace(EAST, **more)) as east,  # type: ignore[arg-type]
        Region(replace(WEST, **more)) as west,  # type: ignore[arg-type]
        ExitStack() as holder,
    ):
        assert east.settings.pattern is Pattern.ACTIVE_ACTIVE
        keepers = east.lease_keeper(), west.lease_keeper()
        holder.enter_context(renewing(keepers[0]))
        with renewing(keepers[1]):
            sides = Side(east, keepers[0]), Side(west, keepers[1])
            west.store.ensure(west.specs[0])
            remember(east, "one", "two")
            wait_for_standby(pair.state)
            sides[1].apply()
            yield *sides, holder


def test_the_other_region_reads_and_does_not_work(pair: Pair) -> None:
    """It is ready once the one that works has said so in the database; neither works what is the other's."""
    with both(pair) as (east, west, _):
        assert east.until(lambda found: found.ready).works
        asyncio.run(wait_until(lambda: west.keeper.acting() == "us-east-1", what="the lease", timeout_s=30))
        assert "has nothing of us-east-1" in west.ask().reason
        east.following.beat()
        answer = west.until(lambda found: found.ready)
        assert (answer.works, answer.opened, answer.epoch) == (False, False, 1)
        assert west.following.behind().memory_s == 0.0


def test_one_of_many_agents_says_that_the_region_works(pair: Pair) -> None:
    """However many say so, it is written now and then, and always again."""
    with both(pair) as (east, _, _):

        def at() -> object:
            return east.region.database.execute("select at from relight.heartbeat").rows[0][0]

        east.following.beat()
        first = at()
        for _ in range(5):
            east.following.beat()
        assert at() == first
        east.within(0.0).beat()
        assert at() != first


def test_a_region_that_is_behind_serves_nothing_while_the_other_is_there(pair: Pair) -> None:
    """fails when callers are told what is old: memory behind its own journal, or the database behind the other's."""
    with both(pair) as (east, west, holder):
        east.following.beat()
        west.until(lambda found: found.ready)
        remember(east.region, "three")
        wait_for_standby(pair.state)
        late = west.following.behind()
        assert late.replica
        assert late.memory_s > 0
        assert late.state_s is not None
        assert "the state database is" in west.ask(bound_s=late.state_s / 2).reason
        # The other region is lost: there is nothing newer than what is here, and memory has to have it.
        holder.close()
        pair.state.primary.kill()
        asyncio.run(wait_until(lambda: west.keeper.acting() is None, what="the lease to run out", timeout_s=30))
        assert "memory is" in west.ask(bound_s=0.0).reason
        west.apply()
        answer = west.ask(bound_s=0.0)
        assert (answer.ready, answer.works, answer.reason) == (True, False, "")


def test_reads_go_on_through_a_recovery_and_the_old_region_stays_shut(pair: Pair) -> None:
    """From state to state the standby serves reads; it works once its gate is open. The old primary, whose database
    lives and believes in its epoch, serves nothing from then on."""
    with both(pair) as (east, west, holder):
        east.following.beat()
        take_point(east.region)
        west.until(lambda found: found.ready)
        assert east.ask().works
        holder.close()
        run = Run(run_id="epoch-2-both", decided_at="2026-04-19T02:00:00+00:00")
        for name in STATES:
            answer = west.ask()
            assert (name, answer.ready, answer.works, answer.reason) == (name, True, name == "announce", "")
            run_state(name, west.region, run)
            if name == "promote":
                assert not west.following.behind().replica
        answer = west.until(lambda found: found.works)
        assert answer.epoch == 2
        west.following.beat()
        east.keeper.renew()
        shut = east.ask()
        assert (shut.ready, shut.works) == (False, False)
        assert shut.reason == "the state database is no replica, and us-east-1 holds no lease"


def test_memory_of_another_history_is_not_served(pair: Pair) -> None:
    """fails when a store that was filled elsewhere passes for one that is at the journal, because nothing is after its
    position; and one that is not there is not made."""
    with both(pair) as (east, _, _):
        store, spec = east.region.store, east.region.specs[0]
        east.apply()
        assert east.following.behind().memory_s == 0.0
        store.drop(spec.name)
        with pytest.raises(NotFoundError):
            east.following.behind()
        store.ensure(spec)
        store.apply(spec.name, [], since=START, until=Position(2**40, 7))
        with pytest.raises(IntegrityError, match="hydrate it again"):
            east.following.behind()
