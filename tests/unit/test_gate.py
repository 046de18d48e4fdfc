"""The gate."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from relight.errors import LeaseLostError, UnavailableError
from relight.recovery.gate import readiness
from relight.tasks.ledger import Epoch

NOW = datetime(2026, 4, 19, 2, 0, tzinfo=UTC)


class World:
    """A region in which one thing at a time can be wrong."""

    def __init__(self) -> None:
        self.held: int | None = 2
        self.live = True
        self.newest: Epoch | None = epoch()
        self.database_up = True
        self.memory: object | None = object()

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
            raise UnavailableError("postgres: connection refused")
        return self.newest

    def describe(self, name: str) -> object | None:
        return self.memory


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
    "connection refused": {"database_up": False},
    "memory is not hydrated": {"memory": None},
}


def look(world: World) -> tuple[bool, str]:
    answer = readiness(region="us-west-2", lease=world, epochs=Epochs(world), memory=world, collection="memory")
    return answer.ready, answer.reason


def test_a_region_with_everything_is_ready() -> None:
    """Lease, epoch, open gate and memory together let traffic in."""
    assert look(World()) == (True, "")


@pytest.mark.parametrize("reason", WRONG)
def test_one_thing_wrong_keeps_traffic_out(reason: str) -> None:
    """Whatever is missing keeps the gate shut, and the reason says what."""
    world = World()
    for name, value in WRONG[reason].items():
        setattr(world, name, value)
    ready, said = look(world)
    assert not ready
    assert reason in said
