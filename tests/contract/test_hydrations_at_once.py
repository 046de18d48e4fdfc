"""A hydration that is not alone, and one that the journal cannot replace."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
from memory_helpers import remember, some_points

from relight.adapters import postgres
from relight.clock import SystemClock
from relight.errors import ConflictError, NotFoundError, UnavailableError
from relight.memory.api import Applier
from relight.memory.hydrate import hydrate
from relight.memory.pgvector import PgVectorStore
from relight.memory.snapshot import take_snapshot

if TYPE_CHECKING:
    from memory_helpers import StateDsns

    from relight.adapters.postgres import Connection
    from relight.memory.api import Memory
    from relight.memory.hydrate import Hydration
    from relight.memory.store import CollectionSpec, Restored, SnapshotSource
    from relight.vault.store import Vault
    from relight_drill.postgres import PostgresServer

pytestmark = pytest.mark.servers


@pytest.fixture
def point(store: PgVectorStore, memory: Memory, spec: CollectionSpec, state: Connection, vault: Vault) -> str:
    """A point of thirty vectors, of a memory that is gone since."""
    remember(state, memory, some_points(30))
    manifest = take_snapshot(
        store=store, specs=[spec], state=state, vault=vault, fallback=None, environment="test", clock=SystemClock()
    )
    store.drop(spec.name)
    return manifest.id


def test_of_two_hydrations_at_once_the_second_finds_what_the_first_did(
    store: PgVectorStore, spec: CollectionSpec, state_dsns: StateDsns, vault: Vault, point: str
) -> None:
    """The rule on a task's start may call twice: one restores, the other waits for it and leaves the memory alone."""

    def run(_: int) -> Hydration:
        with closing(postgres.connect(state_dsns.primary)) as state:
            [done] = hydrate(store=store, vault=vault, state=state, specs=[spec], clock=SystemClock())
        return done

    with ThreadPoolExecutor(3) as threads:
        found = list(threads.map(run, range(3)))

    assert sorted(item.restored or "" for item in found) == ["", "", point]
    assert {item.points for item in found} == {30}
    assert all("already holds 30 points" in (item.skipped or "") for item in found if item.restored is None)


class Overtaken(PgVectorStore):
    """A store in which somebody beyond this region's locks is restoring, too."""

    def restore(
        self, spec: CollectionSpec, source: SnapshotSource, *, point: str, floor: float, replace: bool
    ) -> Restored:
        raise ConflictError("another restore began")


def test_the_journal_is_not_applied_to_nothing_while_another_restores(
    vector_server: PostgresServer, spec: CollectionSpec, state: Connection, vault: Vault, point: str
) -> None:
    """fails when a restore is overtaken before the other is done: it is tried again, and no empty memory is made."""
    store = Overtaken(vector_server.dsn())
    with pytest.raises(UnavailableError, match="another restore began; another restore is under way; try again"):
        hydrate(store=store, vault=vault, state=state, specs=[spec], clock=SystemClock())
    assert store.describe(spec.name) is None
    store.close()


def test_what_is_not_all_journalled_needs_a_point(
    store: PgVectorStore, memory: Memory, spec: CollectionSpec, state: Connection, vault: Vault
) -> None:
    """fails when the journal's part of a memory would be taken for the whole."""
    remember(state, memory, some_points(3))
    store.drop(spec.name)
    direct = replace(spec, journalled=False)
    with pytest.raises(NotFoundError, match="of which the journal has only a part"):
        hydrate(store=store, vault=vault, state=state, specs=[direct], clock=SystemClock())
    with pytest.raises(NotFoundError, match="there is no collection"):
        Applier(store=store, spec=direct, state=state).catch_up()
    assert store.describe(spec.name) is None
