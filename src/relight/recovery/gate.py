"""The gate: `/ready`, the one answer that lets traffic in."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from relight.errors import LeaseLostError, RelightError

if TYPE_CHECKING:
    from relight.recovery.epoch import HeldLease
    from relight.tasks.ledger import Epoch


class Epochs(Protocol):
    """What the gate asks of the state database."""

    def newest(self) -> Epoch | None:
        """The newest epoch that the database knows."""
        ...


class Collections(Protocol):
    """What the gate asks of the vector store."""

    def describe(self, name: str) -> object | None:
        """The collection; None when it is not there."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Readiness:
    """Whether traffic may come in; `reason` says why not."""

    ready: bool
    reason: str
    epoch: int | None = None


def readiness(*, region: str, lease: HeldLease, epochs: Epochs, memory: Collections, collection: str) -> Readiness:
    """Ready only while this region holds a live lease on the newest epoch, its memory is there and its gate is open.

    Never raises: whatever cannot be found out is a reason not to be ready.
    """
    try:
        held = lease.epoch
        lease.check()
        newest = epochs.newest()
        if newest is None or newest.number != held or newest.region != region:
            return Readiness(ready=False, reason=f"the database is at {_name(newest)}, the lease at {held}", epoch=held)
        if newest.opened_at is None:
            return Readiness(ready=False, reason="recovery has not opened the gate yet", epoch=held)
        if memory.describe(collection) is None:
            return Readiness(ready=False, reason="memory is not hydrated", epoch=held)
        lease.check()
    except LeaseLostError as exc:
        return Readiness(ready=False, reason=exc.problem)
    except RelightError as exc:
        return Readiness(ready=False, reason=str(exc))
    return Readiness(ready=True, reason="", epoch=held)


def _name(epoch: Epoch | None) -> str:
    return "no epoch" if epoch is None else f"epoch {epoch.number} of {epoch.region}"
