"""What an agent calls: memory whose writes are journalled, and the applier that brings a store up to the journal."""

from __future__ import annotations

import heapq
import math
from contextlib import ExitStack
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Any

from relight.clock import SystemClock
from relight.errors import ConflictError, NotFoundError, PermanentError, UnavailableError
from relight.memory import journal
from relight.memory.journal import START, Job, Op, Position, PrunedError, Write
from relight.memory.reader import Reader
from relight.memory.store import Distance, Hit
from relight.memory.vectors import pack, unpack

if TYPE_CHECKING:
    from collections.abc import Sequence
    from contextlib import AbstractContextManager

    from relight.adapters.postgres import Connection, Cursor
    from relight.clock import Clock
    from relight.memory.journal import Entry
    from relight.memory.segments import Archive
    from relight.memory.store import CollectionSpec, VectorStore

# Entries that the store lacks are compared one by one; with more than this, it is brought up to the journal first.
_PAGE = 500
# What it still lacks then, because nobody may apply it yet, is held in memory by each search: not more than this.
_MOST = 20_000
# How long another applier may hold this one up.
_APPLIER_S = 60.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Point:
    """Something to remember."""

    id: str
    vector: Sequence[float]
    payload: dict[str, Any] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Applied:
    """What a catch-up did, and where the store is now."""

    entries: int
    position: Position


class Make(StrEnum):
    """When a collection that is not there is made from its journal. Never while a hydration is at it."""

    NEVER = "never"
    YOUNG = "young"
    """Only while nothing of the journal was archived yet: any other memory is hydration's to make, from a snapshot."""
    ALWAYS = "always"
    """Wherever the journal, archived or not, goes back to its beginning."""


class Applier:
    """Brings one collection up to the journal, in order. Any number may run at once, anywhere.

    With an `archive` also a collection that is further behind than the state database goes back.
    """

    def __init__(
        self,
        *,
        store: VectorStore,
        spec: CollectionSpec,
        state: Connection,
        archive: Archive | None = None,
        clock: Clock | None = None,
        batch: int = 500,
    ) -> None:
        self._store = store
        self._spec = spec
        self._state = state
        self._journal = Reader(state, spec.name, archive)
        self._clock = clock or SystemClock()
        self._batch = batch
        self._known = False

    def catch_up(self, *, make: Make = Make.ALWAYS) -> Applied:
        """Apply everything that can be read now, in batches; makes the collection where there is none, as `make` says.

        Else that is NotFoundError, because hydration is to make it; so it is of one that is not all journalled, because
        the journal has only a part of it. Before anything is made or applied it is made sure that the journal reaches
        back so far. Raises IntegrityError when the store was filled under another history or an archived part of the
        journal is lost, PrunedError when one is needed and there is no archive to read, UnavailableError when this
        standby has not replayed as far as the store is, a vault does not answer, or another applier does not come to
        its end. What was applied until then stays.
        """
        if self._store.transactional:
            return self._catch_up(make=make)
        with journal.alone(self._state, Job.APPLY, self._spec.name, clock=self._clock, within_s=_APPLIER_S):
            return self._catch_up(make=make)

    def _catch_up(self, *, make: Make) -> Applied:
        try:
            position = self._store.position(self._spec.name)
        except NotFoundError as exc:  # new, or the store lost its volume
            self._known = False
            if not self._may_make(make):
                raise
            with ExitStack() as stack:
                try:
                    stack.enter_context(self._no_hydration())
                except UnavailableError:
                    raise exc from None
                return self._make()
        return self._bring_forward(position)

    def _may_make(self, make: Make) -> bool:
        if make is Make.NEVER or not self._spec.journalled:
            return False
        return make is Make.ALWAYS or journal.archived(self._state, self._spec.name) == START

    def _no_hydration(self) -> AbstractContextManager[None]:
        """While it is made here nobody hydrates it; UnavailableError at once when somebody does."""
        return journal.alone(self._state, Job.HYDRATE, self._spec.name, clock=self._clock, within_s=0.0)

    def _make(self) -> Applied:
        # An empty collection that nothing can fill any more would pass for a memory.
        self._journal.check_reach(START)
        self._store.ensure(self._spec)
        return self._bring_forward(self._store.position(self._spec.name))

    def _bring_forward(self, position: Position) -> Applied:
        name = self._spec.name
        if not self._known:
            self._journal.check_reach(position)
            self._store.ensure(self._spec)
            self._known = True
        entries = 0
        while True:
            batch = self._journal.read(position, limit=self._batch)
            if batch.entries:
                try:
                    position = self._store.apply(name, batch.entries, since=batch.since, until=batch.until)
                except ConflictError:
                    # A restore took the collection back meanwhile.
                    position = self._store.position(name)
                    continue
                entries += len(batch.entries)
            if batch.complete:
                return Applied(entries=entries, position=position)

    def lag_s(self) -> float:
        """Seconds since the first entry that is not applied was written; 0 when there is none."""
        return journal.lag_s(self._state, self._spec.name, self._store.position(self._spec.name))


class Memory:
    """An agent's memory: one collection. Writes go to the journal; a search sees every one that its caller can see."""

    def __init__(self, *, store: VectorStore, spec: CollectionSpec) -> None:
        self._store = store
        self._spec = spec

    def upsert(self, cursor: Cursor, points: Sequence[Point], *, epoch: int, task_id: str | None = None) -> None:
        """Remember `points` when the caller's transaction commits.

        Raises StaleEpochError when a newer epoch exists, PermanentError for a vector of another dimension.
        """
        writes = [
            Write(
                collection=self._spec.name,
                op=Op.UPSERT,
                id=point.id,
                vector=pack(self._checked(point.vector)),
                payload=point.payload,
            )
            for point in points
        ]
        journal.append(cursor, writes, epoch=epoch, task_id=task_id)

    def delete(self, cursor: Cursor, ids: Sequence[str], *, epoch: int, task_id: str | None = None) -> None:
        """Forget `ids` when the caller's transaction commits; what does not exist is no error."""
        writes = [Write(collection=self._spec.name, op=Op.DELETE, id=id_) for id_ in ids]
        journal.append(cursor, writes, epoch=epoch, task_id=task_id)

    def search(self, state: Connection, vector: Sequence[float], *, k: int = 10) -> list[Hit]:
        """The `k` nearest of everything that `state` sees as written, its own open transaction included.

        The store may be behind; what it lacks is compared here and laid over its answers. UnavailableError when it is
        further behind than the state database goes back: an applier with the archive has to bring it forward first; and
        when it lacks very much that no applier may apply yet, because a transaction is open that began before it.
        """
        query = unpack(pack(self._checked(vector)))
        want, most = k, _PAGE
        while True:
            found = self._store.search(self._spec.name, query, want)
            try:
                # Read after the search, so that no entry is missing between the two.
                lacking = self._lacking(state, found.position, most=most)
                if lacking is None and most < _MOST:
                    Applier(store=self._store, spec=self._spec, state=state).catch_up(make=Make.NEVER)
                    most = _MOST
                    continue
            except PrunedError as exc:
                raise UnavailableError(exc.problem, hint=exc.hint) from exc
            if lacking is None:
                raise UnavailableError(
                    f"the memory {self._spec.name!r} lacks more than {_MOST} entries that cannot be applied yet",
                    hint="end the transaction that has been open since before them, and search again",
                )
            hits = [hit for hit in found.hits if hit.id not in lacking]
            if len(hits) >= k or len(found.hits) < want or want >= k + len(lacking):
                break
            want = k + len(lacking)
        for entry in lacking.values():
            if entry.vector is not None:
                distance = _distance(self._spec.distance, query, unpack(entry.vector))
                hits.append(Hit(id=entry.id, distance=distance, payload=entry.payload))
        return heapq.nsmallest(k, hits, key=lambda hit: (hit.distance, hit.id))

    def _lacking(self, state: Connection, since: Position, *, most: int) -> dict[str, Entry] | None:
        """The last entry after `since` of each point that has any; None when there are more than `most` entries."""
        lacking: dict[str, Entry] = {}
        entries = 0
        while True:
            page = journal.pending(state, self._spec.name, since, limit=_PAGE)
            entries += len(page)
            if entries > most:
                return None
            lacking.update((entry.id, entry) for entry in page)
            if len(page) < _PAGE:
                return lacking
            since = page[-1].position

    def _checked(self, vector: Sequence[float]) -> Sequence[float]:
        if len(vector) != self._spec.dimension:
            raise PermanentError(
                f"a vector has dimension {len(vector)}, and {self._spec.name!r} has {self._spec.dimension}",
                hint="embed with the model of the collection",
            )
        return vector


def _distance(kind: Distance, a: Sequence[float], b: Sequence[float]) -> float:
    if kind is Distance.EUCLIDEAN:
        return math.dist(a, b)
    dot = math.fsum(x * y for x, y in zip(a, b, strict=True))
    if kind is Distance.DOT:
        return -dot
    norm = math.hypot(*a) * math.hypot(*b)
    return 1.0 - dot / norm if norm else math.inf
