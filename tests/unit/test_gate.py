"""The gate."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from relight.errors import LeaseLostError, NotFoundError, UnavailableError
from relight.recovery.gate import Readiness, readiness
from relight.tasks.epochs import Epoch

NOW = datetime(2026, 4, 19, 2, 0, tzinfo=UTC)


class World:
    """A region in which one thing at a time can be wrong."""

    def __init__(self) -> None:
        self.held: int | None = 2
        self.live = True
        self.newest: Epoch | None = epoch()
        self.database_up = True
        self.memory: Exception | None = None

    # The lease, the epochs and the vector store, as the gate sees them.
    @property
    def epoch(self) -> int:
        if self.held is None:
            raise LeaseLostError("us-west-2 holds no lease")
        return self.held

    def check(self, for_s: float = 0.0) -> None:
        if not self.live:
            raise LeaseLostError("the lease ran out")

    def epochs(self) -> Epoch | None:
        if not self.database_up:
            raise UnavailableError("postgres: connection to 10.0.0.7 as relight refused")
        return self.newest

    def position(self, name: str) -> object:
        if self.memory is not None:
            raise self.memory
        return object()


def epoch(number: int = 2, region: str = "us-west-2", *, opened: bool = True) -> Epoch:
    return Epoch(number=number, region=region, opened_at=NOW if opened else None, verified_at=NOW, replayed_at=NOW)


class Epochs:
    def __init__(self, world: World) -> None:
        self.newest = world.epochs


WRONG: dict[str, dict[str, object]] = {
    "holds no lease": {"held": None},
    "the lease ran out": {"live": False},
    "database is at epoch 3 of us-east-1": {"newest": epoch(3, "us-east-1")},
    "database is at no epoch": {"newest": None},
    "the lease at 1": {"held": 1},
    "has not opened the gate": {"newest": epoch(opened=False)},
    "the state database: UnavailableError": {"database_up": False},
    "memory is not hydrated": {"memory": NotFoundError("there is no collection 'memory'")},
    "the vector store: UnavailableError": {"memory": UnavailableError("postgres: 10.0.0.8 refused")},
}
ONLY_MEMORY = {"memory is not hydrated", "the vector store: UnavailableError"}


def look(world: World) -> Readiness:
    return readiness(region="us-west-2", lease=world, epochs=Epochs(world), memory=world, collections=["memory"])


def broken(reason: str) -> World:
    """A region in which the thing with that reason is wrong."""
    world = World()
    for name, value in WRONG[reason].items():
        setattr(world, name, value)
    return world


def test_a_region_with_everything_is_ready() -> None:
    """Lease, epoch, open gate and memory together let traffic in."""
    assert look(World()) == Readiness(ready=True, reason="", epoch=2, opened=True)


@pytest.mark.parametrize("reason", WRONG)
def test_one_thing_wrong_keeps_traffic_out(reason: str) -> None:
    """Whatever is missing keeps the gate shut, and the reason says what."""
    answer = look(broken(reason))
    assert not answer.ready
    assert reason in answer.reason


@pytest.mark.parametrize("reason", WRONG)
def test_memory_is_rebuilt_only_behind_an_open_gate(reason: str) -> None:
    """An empty store may be filled from the journal when nothing else is wrong, and never before hydration."""
    assert look(broken(reason)).opened is (reason in ONLY_MEMORY)


def test_a_lease_that_runs_out_meanwhile_opens_nothing() -> None:
    """fails when a slow store lets a region act on a lease that ran out while it was asked."""
    world = World()

    class Slow:
        def position(self, name: str) -> object:
            world.live = False
            raise NotFoundError(f"there is no collection {name!r}")

    answer = readiness(region="us-west-2", lease=world, epochs=Epochs(world), memory=Slow(), collections=["memory"])
    assert (answer.ready, answer.opened, answer.reason) == (False, False, "the lease ran out")


def test_what_a_driver_said_is_for_the_log() -> None:
    """fails when hosts and users reach whoever asks at the gate: they are in the detail alone."""
    answer = look(broken("the state database: UnavailableError"))
    assert "10.0.0.7" not in answer.reason
    assert "10.0.0.7" in answer.detail
