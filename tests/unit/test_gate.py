"""The gate."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from relight.errors import IntegrityError, LeaseLostError, NotFoundError, UnavailableError
from relight.memory.journal import START, Position
from relight.recovery.gate import Behind, Readiness, readiness
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
        self.at = Position(700, 3)
        self.begins = Position(700, 3)
        self.edge_error: Exception | None = None
        self.acts: str | None = "us-west-2"
        self.replica = False
        self.state_s: float | None = 0.0
        self.memory_s = 0.0

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

    def acting(self) -> str | None:
        return self.acts

    def position(self, name: str) -> Position:
        if self.memory is not None:
            raise self.memory
        return self.at

    def edge(self, collection: str) -> Position:
        if self.edge_error is not None:
            raise self.edge_error
        return self.begins

    # What a region is asked that may serve reads.
    bound_s = 30.0

    def behind(self) -> Behind:
        if self.memory is not None:
            raise self.memory
        return Behind(replica=self.replica, state_s=self.state_s, memory_s=self.memory_s)


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
    "memory is not hydrated (empty)": {"at": START},
    "memory is not hydrated (in part)": {"at": Position(700, 2)},
    "the state database: UnavailableError (of the journal)": {
        "edge_error": UnavailableError("postgres: 10.0.0.7 refused")
    },
}
ONLY_MEMORY = {
    reason for reason in WRONG if "memory" in reason or "vector store" in reason or "of the journal" in reason
}


def look(world: World) -> Readiness:
    return readiness(
        region="us-west-2", lease=world, epochs=Epochs(world), memory=world, edges=world, collections=["memory"]
    )


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
    assert reason.partition(" (")[0] in answer.reason


@pytest.mark.parametrize("reason", WRONG)
def test_memory_is_rebuilt_only_behind_an_open_gate(reason: str) -> None:
    """An empty store may be filled from the journal when nothing else is wrong, and never before hydration."""
    assert look(broken(reason)).opened is (reason in ONLY_MEMORY)


def test_a_lease_that_runs_out_meanwhile_opens_nothing() -> None:
    """fails when a slow store lets a region act on a lease that ran out while it was asked."""
    world = World()

    class Slow:
        def position(self, name: str) -> Position:
            world.live = False
            raise NotFoundError(f"there is no collection {name!r}")

    answer = readiness(
        region="us-west-2", lease=world, epochs=Epochs(world), memory=Slow(), edges=world, collections=["memory"]
    )
    assert (answer.ready, answer.opened, answer.reason) == (False, False, "the lease ran out")


def test_memory_may_lack_what_the_journal_still_has() -> None:
    """It is ready once it holds what is before the journal's beginning, and says otherwise what it lacks."""
    world = World()
    world.at = Position(701, 1)
    assert look(world).ready
    world.at = START
    assert look(world).detail == "the memory 'memory' is at 0:0, and the journal begins after 700:3 here"
    world.begins = START
    assert look(world).ready


def test_what_a_driver_said_is_for_the_log() -> None:
    """fails when hosts and users reach whoever asks at the gate: they are in the detail alone."""
    answer = look(broken("the state database: UnavailableError"))
    assert "10.0.0.7" not in answer.reason
    assert "10.0.0.7" in answer.detail


# Active-active: the region beside the one that acts.

READER: dict[str, object] = {
    "held": None,
    "acts": "us-east-1",
    "replica": True,
    "newest": epoch(1, "us-east-1"),
    "state_s": 4.0,
    "memory_s": 1.0,
}
PROMOTED: dict[str, object] = {"replica": False, "acts": "us-west-2", "held": 2}


def serve(**told: object) -> Readiness:
    """What the gate of us-west-2 says in active-active, where it reads unless told otherwise."""
    world = World()
    for name, value in (READER | told).items():
        setattr(world, name, value)
    return readiness(
        region="us-west-2",
        lease=world,
        epochs=Epochs(world),
        memory=world,
        edges=world,
        collections=["memory"],
        reads=world,
    )


def test_the_region_that_does_not_act_serves_reads() -> None:
    """It is ready under the epoch that its replica knows; it works nothing, and fills no memory from the journal."""
    answer = serve()
    assert answer == Readiness(ready=True, reason="", epoch=1)
    assert (answer.works, answer.opened) == (False, False)


def test_the_region_that_acts_works_in_active_active_as_in_every_tier() -> None:
    """Lease, epoch, open gate and memory: it serves and works; without the memory it serves nothing."""
    acting: dict[str, object] = {"held": 2, "acts": "us-west-2", "newest": epoch(), "replica": False}
    assert serve(**acting) == look(World())
    assert serve(**acting).works
    lacking = serve(**acting, memory=NotFoundError("there is no collection 'memory'"))
    assert (lacking.ready, lacking.opened, lacking.works) == (False, True, False)


@pytest.mark.parametrize(
    ("told", "because"),
    [
        ({"state_s": 30.5}, "is 30 s behind what there is of us-east-1, and 30 s are allowed"),
        ({"state_s": None}, "has nothing of us-east-1"),
        ({"memory_s": 31.0}, "memory is 31 s behind its journal, and 30 s are allowed"),
        ({"memory_s": 31.0, "acts": None}, "memory is 31 s behind"),
        ({"memory": NotFoundError("there is no collection 'memory'")}, "memory is not hydrated"),
        ({"memory": IntegrityError("is at 9:9")}, "memory is of another history"),
        ({"memory": UnavailableError("10.0.0.8 refused")}, "what is read: UnavailableError"),
        ({"database_up": False}, "what is read: UnavailableError"),
        ({"newest": None}, "the database is at no epoch"),
        ({"replica": False, "newest": epoch(1, "us-west-2")}, "no replica, and us-west-2 holds no lease"),
        ({**PROMOTED, "live": False}, "no replica, and the lease ran out"),
        ({**PROMOTED, "held": 3, "newest": epoch(1, "us-west-2")}, "at epoch 1 of us-west-2, the lease at 3"),
    ],
)
def test_a_region_whose_copies_are_not_the_newest_serves_nothing(told: dict[str, object], because: str) -> None:
    """fails when callers are told what is stale while the other region has better: also by a former primary that boots
    with a database of its own."""
    answer = serve(**told)
    assert because in answer.reason
    assert (answer.ready, answer.works, answer.opened) == (False, False, False)
    assert "10.0.0" not in answer.reason


@pytest.mark.parametrize(
    "told",
    [
        {"acts": None, "state_s": 3600.0},
        {"acts": "us-west-2", "held": 2, "state_s": 50.0},
        {**PROMOTED, "newest": epoch(1, "us-east-1"), "state_s": 50.0},
        {**PROMOTED, "newest": epoch(2, opened=False), "state_s": 50.0},
    ],
)
def test_reads_go_on_while_the_other_region_is_lost(told: dict[str, object]) -> None:
    """From the loss to the open gate nothing is worked on: nobody acts, the lease is taken, the replica promoted, and
    the epoch recorded."""
    answer = serve(**told)
    assert (answer.ready, answer.works, answer.opened, answer.reason) == (True, False, False, "")
