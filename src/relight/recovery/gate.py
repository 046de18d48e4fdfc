"""The gate: `/ready`, the one answer that lets traffic in."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from relight.errors import IntegrityError, LeaseLostError, NotFoundError, RelightError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from relight.memory.journal import Position
    from relight.tasks.epochs import Epoch


class Epochs(Protocol):
    """What the gate asks of the state database."""

    def newest(self) -> Epoch | None:
        """The newest epoch that the database knows."""
        ...


class Collections(Protocol):
    """What the gate asks of the vector store: something cheap, because it asks all the time."""

    def position(self, name: str) -> Position:
        """How far the collection is; NotFoundError when it is not there."""
        ...


class Edges(Protocol):
    """What the gate asks of the journal."""

    def edge(self, collection: str) -> Position:
        """Where the journal begins in the state database: it has every entry after that, and none up to it."""
        ...


class SeenLease(Protocol):
    """What the gate asks of the lease: that of `HeldLease`, and whose it is when it is not this region's."""

    @property
    def epoch(self) -> int:
        """The epoch of the lease that is held; LeaseLostError when none is."""
        ...

    def check(self, for_s: float = 0.0) -> None:
        """Return when the lease is live for `for_s` seconds more; LeaseLostError otherwise."""
        ...

    def acting(self) -> str | None:
        """The region whose lease is known to be live; None when nobody's is."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Behind:
    """How far a region's own copies are behind, in seconds.

    `replica` is whether its database follows another. `state_s` is how long ago the region that acts wrote what came
    here last, None when nothing came yet. `memory_s` is how old the oldest entry of this database's journal is that one
    of the collections lacks.
    """

    replica: bool
    state_s: float | None
    memory_s: float


class Reads(Protocol):
    """What the gate asks of a region that may serve reads beside the one that acts."""

    @property
    def bound_s(self) -> float:
        """How far it may be behind: the tier's RPO."""
        ...

    def behind(self) -> Behind:
        """How far it is; NotFoundError when a collection is not there, IntegrityError for one of another history."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Readiness:
    """Whether traffic may come in; `reason` says why not, in words that anybody may read.

    `detail` is what a driver said, which names hosts and users: it is for the log alone. `opened` says that everything
    but memory is right: the lease is live, the newest epoch is this region's, and its gate was opened. Memory may then
    be rebuilt from the journal; before, hydration fills it. Of a region that is ready and not opened, which there is in
    active-active alone, `epoch` is the one that its database knows.
    """

    ready: bool
    reason: str
    epoch: int | None = None
    opened: bool = False
    detail: str = ""

    @property
    def works(self) -> bool:
        """Whether this region may run tasks and write; one that is ready and does not work serves reads."""
        return self.ready and self.opened


def readiness(
    *,
    region: str,
    lease: SeenLease,
    epochs: Epochs,
    memory: Collections,
    edges: Edges,
    collections: Sequence[str],
    reads: Reads | None = None,
) -> Readiness:
    """Ready only while this region holds a live lease on the newest epoch, its memory is there and its gate is open.

    Memory is there when it holds all that the state database has let go of its journal: whatever it lacks beyond that
    a search adds. What is before it may be in the vaults, or nowhere any more; hydration knows.

    With `reads`, as in active-active, a region is ready to serve reads, too, and to do nothing else, while its database
    is a replica of the region that acts or has just been promoted from one, and neither its database nor its memory is
    further behind than the bound. Once nobody is known to act, as when the other region is lost, its database counts as
    the newest there is. A former primary is neither: it boots with a database that is no replica, and holds no lease.

    Never raises: whatever cannot be found out is a reason not to be ready.
    """
    found = _holding(region=region, lease=lease, epochs=epochs, memory=memory, edges=edges, collections=collections)
    return found if found.opened or reads is None else _reading(region, lease, epochs, reads)


def _holding(
    *,
    region: str,
    lease: SeenLease,
    epochs: Epochs,
    memory: Collections,
    edges: Edges,
    collections: Sequence[str],
) -> Readiness:
    """Whether this region may act."""
    try:
        held = lease.epoch
        lease.check()
        closed = _closed(epochs, region, held)
        lacking = None if closed else _lacking(memory, edges, collections)
        lease.check()
    except LeaseLostError as exc:
        return Readiness(ready=False, reason=exc.problem)
    why = closed or lacking
    if why is None:
        return Readiness(ready=True, reason="", epoch=held, opened=True)
    return Readiness(ready=False, reason=why[0], epoch=held, opened=closed is None, detail=why[1])


def _reading(region: str, lease: SeenLease, epochs: Epochs, reads: Reads) -> Readiness:
    """Whether this region, which may not act, may serve reads."""
    try:
        newest = epochs.newest()
        if newest is None:
            return Readiness(ready=False, reason="the database is at no epoch")
        found = reads.behind()
    except NotFoundError as exc:
        return Readiness(ready=False, reason="memory is not hydrated", detail=str(exc))
    except IntegrityError as exc:
        return Readiness(ready=False, reason="memory is of another history", detail=str(exc))
    except RelightError as exc:
        return Readiness(ready=False, reason=f"what is read: {type(exc).__name__}", detail=str(exc))
    why = _stale(region, lease, newest, found, reads.bound_s)
    return Readiness(ready=not why, reason=why, epoch=newest.number)


def _stale(region: str, lease: SeenLease, newest: Epoch, found: Behind, bound_s: float) -> str:
    """Why what this region has may not be read; empty when it may."""
    acts = lease.acting()
    if found.replica:
        # Behind whom: when nobody acts, or this region is about to, there is nothing newer than what is here.
        if acts not in (None, region) and (found.state_s is None or found.state_s > bound_s):
            how = "has nothing" if found.state_s is None else f"is {found.state_s:.0f} s behind what there is"
            return f"the state database {how} of {acts}, and {bound_s:g} s are allowed"
    elif why := _former(region, lease, newest):
        return why
    if found.memory_s > bound_s:
        return f"memory is {found.memory_s:.0f} s behind its journal, and {bound_s:g} s are allowed"
    return ""


def _former(region: str, lease: SeenLease, newest: Epoch) -> str:
    """Why a database that is no replica is not the newest; empty when a recovery into this region has promoted it.

    Until that has recorded its epoch, the newest that a promoted database knows is the other region's; a former
    primary's own is its own.
    """
    try:
        held = lease.epoch
        lease.check()
    except LeaseLostError as exc:
        return f"the state database is no replica, and {exc.problem}"
    if newest.region == region and newest.number != held:
        return f"the database is at {_name(newest)}, the lease at {held}, and it is no replica"
    return ""


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


def _lacking(memory: Collections, edges: Edges, collections: Sequence[str]) -> tuple[str, str] | None:
    """Why memory cannot be asked, and what the driver said; None when it can."""
    try:
        positions = {name: memory.position(name) for name in collections}
    except NotFoundError as exc:
        return "memory is not hydrated", str(exc)
    except RelightError as exc:
        return f"the vector store: {type(exc).__name__}", str(exc)
    try:
        for name, position in positions.items():
            if position < (edge := edges.edge(name)):
                return "memory is not hydrated", lacks_what_is_pruned(name, position, edge)
    except RelightError as exc:
        return f"the state database: {type(exc).__name__}", str(exc)
    return None


def lacks_what_is_pruned(name: str, position: Position, edge: Position) -> str:
    """What is wrong with a memory that is not as far as where the journal begins."""
    return f"the memory {name!r} is at {position}, and the journal begins after {edge} here"


def _name(epoch: Epoch | None) -> str:
    return "no epoch" if epoch is None else f"epoch {epoch.number} of {epoch.region}"
