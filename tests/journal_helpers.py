"""A primary whose journal is archived, for tests: what its functions do, called one by one."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING, Any

from memory_helpers import EPOCH, settle, some_points

from relight.memory import journal
from relight.memory.api import Memory
from relight.memory.archive import Archived, archive_journal
from relight.memory.journal import START
from relight.memory.reader import Reader
from relight.memory.segments import Archive
from relight.memory.snapshot import take_snapshot
from relight.vault.segments import PREFIX

if TYPE_CHECKING:
    from memory_helpers import Ticking

    from relight.adapters.postgres import Connection
    from relight.memory.journal import Entry
    from relight.memory.store import CollectionSpec, VectorStore
    from relight.tasks.database import Database
    from relight.vault.manifest import Manifest
    from relight.vault.store import Vault

FORGET_AFTER = timedelta(days=14)


class Past:
    """A collection whose journal is archived: what a primary's functions do, called by a test."""

    def __init__(
        self,
        store: VectorStore,
        spec: CollectionSpec,
        state: Connection,
        database: Database,
        own: Vault,
        peer: Vault,
        clock: Ticking,
    ) -> None:
        self.store, self.spec, self.state, self.database = store, spec, state, database
        self.own, self.peer, self.clock = own, peer, clock
        self.memory = Memory(store=store, spec=spec)
        self.epoch = EPOCH

    def write(self, count: int, prefix: str, *, task: str | None = None, settled: bool = True) -> None:
        """So many points, each of them an entry, which readers may then read."""
        with self.state, self.state.cursor() as cursor:
            self.memory.upsert(cursor, some_points(count, prefix=prefix), epoch=self.epoch, task_id=task)
        if settled:
            settle(self.state)

    def forget(self, *ids: str, task: str | None = None) -> None:
        """Delete them."""
        with self.state, self.state.cursor() as cursor:
            self.memory.delete(cursor, ids, epoch=self.epoch, task_id=task)
        settle(self.state)

    def settle(self) -> None:
        """Wait until all that is committed can be read."""
        settle(self.state)

    def take(self, vault: Vault | None = None) -> Manifest:
        """A point, in the other region unless told otherwise."""
        return take_snapshot(
            store=self.store,
            specs=[self.spec],
            state=self.state,
            vault=vault or self.peer,
            fallback=None,
            environment="test",
            clock=self.clock,
        )

    def archive(self, **options: Any) -> Archived:
        """One run, of everything that is settled."""
        arguments: dict[str, Any] = {
            "database": self.database,
            "state": self.state,
            "own": self.own,
            "peer": self.peer,
            "collections": [self.spec.name],
            "clock": self.clock,
            "forget_after": FORGET_AFTER,
            "max_age_s": -1e9,
        }
        [done] = archive_journal(**arguments | options)
        return done

    def replicate(self) -> None:
        """What S3 does."""
        for key in [*self.own.list_keys(PREFIX)]:
            self.peer.put_bytes(key, self.own.get_bytes(key))

    def prune(self) -> Archived:
        """Everything that is there goes to the vaults, and away."""
        self.take()
        self.archive()
        self.replicate()
        done = self.archive()
        assert (done.waiting, journal.read(self.state, self.spec.name, done.edge).entries) == ("", ())
        return done

    def reader(self, *vaults: Vault, state: Connection | None = None) -> Reader:
        """Of the journal with its archive."""
        return Reader(state or self.state, self.spec.name, Archive(*(vaults or (self.peer, self.own))))

    def entries(self) -> list[Entry]:
        """All of it."""
        return list(self.reader().entries(START))

    def keys(self) -> list[str]:
        """The segments in the own vault."""
        return [*self.own.list_keys(PREFIX)]
