"""How a region's own copies stand that serves reads beside the one that acts: its database, and its memory."""

from __future__ import annotations

from typing import TYPE_CHECKING

from relight.errors import NotFoundError
from relight.memory import journal
from relight.recovery.gate import Behind, lacks_what_is_pruned
from relight.tasks.sql import statements

if TYPE_CHECKING:
    from collections.abc import Sequence

    from relight.memory.journal import Position
    from relight.memory.store import CollectionSpec, VectorStore
    from relight.tasks.database import Database

SQL = statements("relight.tasks.sql", "follow.sql")

BEATS_WITHIN_BOUND = 6


class JournalEdges:
    """The `Edges` of a region's state database."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def edge(self, collection: str) -> Position:
        """See `Edges.edge`."""
        with self._database.transaction() as cur:
            return journal.edge(cur.connection, collection)


class Following:
    """The `Reads` of a region, from its own servers alone.

    The region that acts calls `beat` all the time; what arrives of that in the other's database tells how far the other
    is behind, whichever way it is replicated. `bound_s` is how far it may be.
    """

    def __init__(
        self, *, database: Database, store: VectorStore, specs: Sequence[CollectionSpec], bound_s: float
    ) -> None:
        self.bound_s = bound_s
        self._database = database
        self._store = store
        self._specs = specs

    def beat(self) -> None:
        """Say in the database that this region acts; called more often than needed, it writes only now and then."""
        self._database.execute(SQL["beat"], {"every_s": self.bound_s / BEATS_WITHIN_BOUND})

    def behind(self) -> Behind:
        """See `Reads.behind`."""
        lags = [0.0]
        with self._database.transaction() as cur:
            cur.execute(SQL["standing"])
            replica, state_s = cur.fetchall()[0]
            for spec in self._specs:
                position = self._store.position(spec.name)
                if position < (edge := journal.edge(cur.connection, spec.name)):
                    raise NotFoundError(lacks_what_is_pruned(spec.name, position, edge))
                journal.check_history(cur.connection, spec.name, position)
                lags.append(journal.lag_s(cur.connection, spec.name, position))
        return Behind(replica=replica, state_s=None if state_s is None else float(state_s), memory_s=max(lags))
