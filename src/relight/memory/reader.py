"""Reading a collection's journal wherever it is: in the vaults as far as it is pruned, then in the state database."""

from __future__ import annotations

from typing import TYPE_CHECKING

from relight.errors import IntegrityError
from relight.memory import journal
from relight.memory.journal import START, Batch, Position, PrunedError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from datetime import datetime

    from relight.adapters.postgres import Connection
    from relight.memory.journal import Entry, Segment
    from relight.memory.segments import Archive


class GapError(IntegrityError):
    """A part of the journal is nowhere any more."""


class Reader:
    """One collection's journal, without a gap. `archive` None reads no further back than the state database goes."""

    def __init__(self, state: Connection, collection: str, archive: Archive | None = None) -> None:
        self.state = state
        self._collection = collection
        self._archive = archive
        self._open: tuple[Segment, tuple[Entry, ...]] | None = None

    def read(self, since: Position, *, limit: int = 500) -> Batch:
        """The next entries after `since`, as from `journal.read`, also where they are archived and pruned.

        Raises PrunedError without an archive, GapError when no segment has what comes after `since`, and IntegrityError
        when one is not what was archived, or does not know `since`.
        """
        try:
            batch = journal.read(self.state, self._collection, since, limit=limit)
        except PrunedError:
            if self._archive is None:
                raise
        else:
            self._open = None
            return batch
        rest = self._after(since)
        page = _bounded(rest[:limit])
        return Batch(since=since, until=page[-1].position, entries=page, complete=False)

    def entries(self, since: Position) -> Iterator[Entry]:
        """Everything after `since` that can be read now, in order and in bounded memory."""
        while True:
            batch = self.read(since)
            yield from batch.entries
            if batch.complete:
                return
            since = batch.until

    def check(self, position: Position) -> None:
        """Raise unless the journal, archived or not, holds the entry that `position` names; see `check_history`."""
        try:
            journal.check_history(self.state, self._collection, position)
        except PrunedError:
            if self._archive is None:
                raise
            self._after(position)

    def written(self, position: Position) -> datetime | None:
        """Until when what `position` names was written; None for the journal's start. It has to be within reach."""
        if position == START:
            return None
        at = journal.written(self.state, self._collection, position)
        if at is not None:
            return at
        within = Position(position.xid, position.seq - 1)
        segment = next(iter(journal.segments(self.state, self._collection, within, limit=1)), None)
        if segment is None or segment.after >= position or self._archive is None:
            raise self._gap(position, segment)
        return next(entry.at for entry in self._archive.read(segment) if entry.position == position)

    def check_reach(self, position: Position) -> None:
        """Raise as `check` does, and GapError unless the archive holds all that is pruned after `position`.

        But for the first, what is in the archive is listed and not read.
        """
        if position >= journal.edge(self.state, self._collection):
            self.check(position)
            return
        if self._archive is None:
            raise PrunedError(f"the journal of {self._collection!r} begins after {position} here")
        found = self._pruned(position)
        if lacking := self._archive.lacks(found):
            raise GapError(
                f"{len(lacking)} archived parts of the journal of {self._collection!r} are in no vault, the first of "
                f"them from {lacking[0].after} to {lacking[0].until}",
                hint="use a newer point",
            )
        self.check(position)

    def _pruned(self, position: Position) -> list[Segment]:
        """The segments after `position` up to the edge, of which each begins where the one before it ends."""
        found = [item for item in journal.segments(self.state, self._collection, position) if item.pruned]
        at = position
        for segment in found:
            if segment.after > at:
                raise self._gap(at, segment)
            at = segment.until
        if at < journal.edge(self.state, self._collection):
            raise self._gap(at, None)
        return found

    def _after(self, since: Position) -> tuple[Entry, ...]:
        """What the segment that follows `since` has after it."""
        if self._archive is None:
            raise AssertionError("there is no archive")
        if self._open is None or not self._open[0].after <= since < self._open[0].until:
            segment = next(iter(journal.segments(self.state, self._collection, since, limit=1)), None)
            if segment is None or segment.after > since:
                raise self._gap(since, segment)
            self._open = segment, self._archive.read(segment)
        segment, entries = self._open
        if since != segment.after and all(entry.position != since for entry in entries):
            raise IntegrityError(
                f"the memory {self._collection!r} is at {since}, which its journal does not hold",
                hint="it was filled under another history: hydrate it again with force",
            )
        return tuple(entry for entry in entries if entry.position > since)

    def _gap(self, since: Position, following: Segment | None) -> GapError:
        where = "is not archived" if following is None else f"begins with what comes after {following.after}"
        return GapError(
            f"the journal of {self._collection!r} does not reach back to {since}: what is left of it {where}",
            hint="use a newer point: archived parts live as long as the oldest daily one",
        )


def _bounded(entries: tuple[Entry, ...]) -> tuple[Entry, ...]:
    """As many as fit into a batch, one at least."""
    size = 0
    for number, entry in enumerate(entries):
        size += len(entry.vector or b"")
        if number and size > journal.BATCH_BYTES:
            return entries[:number]
    return entries
