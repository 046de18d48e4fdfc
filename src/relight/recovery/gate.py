"""The gate: `/ready`, the one answer that lets traffic in."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from relight.errors import LeaseLostError, NotFoundError, RelightError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from relight.recovery.epoch import HeldLease
    from relight.tasks.epochs import Epoch


class Epochs(Protocol):
    """What the gate asks of the state database."""

    def newest(self) -> Epoch | None:
        """The newest epoch that the database knows."""
        ...


class Collections(Protocol):
    """What the gate asks of the vector store: something cheap, because it asks all the time."""

    def position(self, name: str) -> object:
        """How far the collection is; NotFoundError when it is not there."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Readiness:
    """Whether traffic may come in; `reason` says why not, in words that anybody may read.

    `detail` is what a driver said, which names hosts and users: it is for the log alone. `opened` says that everything
    but memory is right: the lease is live, the newest epoch is this region's, and its gate was opened. Memory may then
    be rebuilt from the journal; before, hydration fills it.
    """

    ready: bool
    reason: str
    epoch: int | None = None
    opened: bool = False
    detail: str = ""


def readiness(
    *, region: str, lease: HeldLease, epochs: Epochs, memory: Collections, collections: Sequence[str]
) -> Readiness:
    """Ready only while this region holds a live lease on the newest epoch, its memory is there and its gate is open.

    Never raises: whatever cannot be found out is a reason not to be ready.
    """
    try:
        held = lease.epoch
        lease.check()
        closed = _closed(epochs, region, held)
        lacking = None if closed else _lacking(memory, collections)
        lease.check()
    except LeaseLostError as exc:
        return Readiness(ready=False, reason=exc.problem)
    why = closed or lacking
    if why is None:
        return Readiness(ready=True, reason="", epoch=held, opened=True)
    return Readiness(ready=False, reason=why[0], epoch=held, opened=closed is None, detail=why[1])


def _closed(epochs: Epochs, region: str, held: int) -> tuple[str, str] | None:
    """Why the gate of this region is closed, and what the driver said; None when it is open."""
    try:
        newest = epochs.newest()
    except RelightError as exc:
        return f"the state database: {type(exc).__name__}", str(exc)
    if newest is None or newest.number != held or newest.region != region:
        return f"the database is at {_name(newest)}, the lease at {held}", ""
    if newest.opened_at is None:
        return "recovery has not opened the gate yet", ""
    return None


def _lacking(memory: Collections, collections: Sequence[str]) -> tuple[str, str] | None:
    """Why memory cannot be asked, and what the driver said; None when it can."""
    try:
        for name in collections:
            memory.position(name)
    except NotFoundError as exc:
        return "memory is not hydrated", str(exc)
    except RelightError as exc:
        return f"the vector store: {type(exc).__name__}", str(exc)
    return None


def _name(epoch: Epoch | None) -> str:
    return "no epoch" if epoch is None else f"epoch {epoch.number} of {epoch.region}"
