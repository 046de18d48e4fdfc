"""What every store refuses, and how it says so."""

from __future__ import annotations

from typing import TYPE_CHECKING

from relight.errors import ConflictError, IntegrityError

if TYPE_CHECKING:
    from collections.abc import Iterable

    from relight.memory.journal import Entry, Position
    from relight.memory.store import CollectionSpec


def check_since(name: str, position: Position, since: Position) -> None:
    """ConflictError when the collection has not come to where the entries begin: some would be missing."""
    if position < since:
        raise ConflictError(
            f"the collection {name!r} is at {position}, and the entries begin after {since}",
            hint="read the journal from where the collection is",
        )


def check_dimension(upserts: Iterable[Entry], spec: CollectionSpec) -> None:
    """IntegrityError for an entry whose vector is not of the collection's dimension."""
    for entry in upserts:
        dimension = len(entry.vector or b"") // 4
        if dimension != spec.dimension:
            raise IntegrityError(
                f"the entry {entry.position} has dimension {dimension}, and {spec.name!r} has {spec.dimension}",
                hint="the journal and the collection are of different embedding models",
            )


def check_empty(name: str, points: int, position: Position) -> None:
    """ConflictError for a collection that a restore must not replace."""
    if points or position.xid:
        raise ConflictError(
            f"the collection {name!r} already holds {points} points, at {position}",
            hint="use force to restore over it; what it holds is kept",
        )


def check_count(name: str, found: int, *, points: int, drift: int) -> None:
    """IntegrityError when a restore brought another number of points than the manifest says, beyond its drift."""
    if abs(found - points) > drift:
        raise IntegrityError(
            f"the snapshot of {name!r} brought {found} points, and the manifest says {points}"
            + (f" give or take {drift}" if drift else ""),
            hint="the point is damaged: use another",
        )


def check_recall(name: str, score: float, floor: float) -> None:
    """IntegrityError when the canaries are answered too differently."""
    if score < floor:
        raise IntegrityError(
            f"the recall of the snapshot of {name!r} is {score:.3f}, below the floor of {floor:g}",
            hint="the point does not answer as it did when it was taken: use another",
        )
