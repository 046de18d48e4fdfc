"""Several collections are one recovery point."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
from memory_helpers import DIMENSION, remember, some_points

from relight.clock import SystemClock
from relight.errors import ConflictError
from relight.memory.api import Memory
from relight.memory.hydrate import hydrate, verify_memory
from relight.memory.snapshot import take_snapshot
from relight.memory.store import CollectionSpec, Distance
from relight.vault import points

if TYPE_CHECKING:
    from collections.abc import Sequence

    from relight.adapters.postgres import Connection
    from relight.memory.pgvector import PgVectorStore
    from relight.vault.manifest import Manifest
    from relight.vault.store import Vault

pytestmark = pytest.mark.servers


@pytest.fixture
def specs(spec: CollectionSpec) -> list[CollectionSpec]:
    """Three collections of different shape; the last one stays empty."""
    return [
        spec,
        replace(spec, name=f"{spec.name}/notes", distance=Distance.EUCLIDEAN, index=None),
        replace(spec, name=f"{spec.name} ∅", prefix="passage: "),
    ]


def take(store: PgVectorStore, specs: Sequence[CollectionSpec], state: Connection, vault: Vault) -> Manifest:
    return take_snapshot(
        store=store, specs=specs, state=state, vault=vault, fallback=None, environment="test", clock=SystemClock()
    )


@pytest.fixture
def manifest(store: PgVectorStore, specs: list[CollectionSpec], state: Connection, vault: Vault) -> Manifest:
    """A point of all three."""
    for number, spec in enumerate(specs[:2], start=1):
        remember(state, Memory(store=store, spec=spec), some_points(number * 20, seed=number))
    return take(store, specs, state, vault)


def test_one_point_brings_all_of_them_back(
    store: PgVectorStore, specs: list[CollectionSpec], state: Connection, vault: Vault, manifest: Manifest
) -> None:
    """Each is restored from the same point, verified, and brought forward by its own entries of the journal."""
    assert [(part.name, part.points) for part in manifest.collections] == [
        (specs[0].name, 20),
        (specs[1].name, 40),
        (specs[2].name, 0),
    ]
    remember(state, Memory(store=store, spec=specs[1]), some_points(3, seed=9, prefix="later"))
    for spec in specs:
        store.drop(spec.name)

    done = hydrate(store=store, vault=vault, state=state, specs=specs, clock=SystemClock())

    assert [(item.collection, item.restored, item.points, item.entries_applied) for item in done] == [
        (specs[0].name, manifest.id, 20, 0),
        (specs[1].name, manifest.id, 43, 3),
        (specs[2].name, manifest.id, 0, 0),
    ]
    assert [verify_memory(store=store, state=state, spec=spec).points for spec in specs] == [20, 43, 0]


def test_a_collection_that_a_point_lacks_comes_from_the_journal(
    store: PgVectorStore, specs: list[CollectionSpec], state: Connection, vault: Vault, manifest: Manifest
) -> None:
    """One that was added since is not a reason to pass the point over for the others."""
    added = CollectionSpec(name=f"{specs[0].name} added", dimension=DIMENSION, embedding_model="test-16")
    remember(state, Memory(store=store, spec=added), some_points(5))
    store.drop(specs[0].name)

    done = hydrate(store=store, vault=vault, state=state, specs=[added, specs[0]], clock=SystemClock())

    assert [(item.restored, item.points) for item in done] == [(None, 5), (manifest.id, 20)]
    assert [item.point for item in done[0].passed_over] == [manifest.id]


def test_a_damaged_part_is_no_reason_to_pass_over_the_others(
    store: PgVectorStore, specs: list[CollectionSpec], state: Connection, vault: Vault, manifest: Manifest
) -> None:
    """Each collection takes the newest point whose part of it is whole; the journal brings all to the same place."""
    newer = take_snapshot_later(store, specs, state, vault, manifest)
    piece = newer.collections[0].pieces[0]
    vault.put_bytes(piece.object, bytes(piece.bytes))
    for spec in specs:
        store.drop(spec.name)

    done = hydrate(store=store, vault=vault, state=state, specs=specs, clock=SystemClock())

    assert [item.restored for item in done] == [manifest.id, newer.id, newer.id]
    assert [verify_memory(store=store, state=state, spec=spec).points for spec in specs] == [20, 40, 0]


def take_snapshot_later(
    store: PgVectorStore, specs: Sequence[CollectionSpec], state: Connection, vault: Vault, before: Manifest
) -> Manifest:
    """A point of a later second."""
    while points.newest_id(vault) == before.id:
        try:
            return take(store, specs, state, vault)
        except ConflictError:
            SystemClock().sleep(0.2)
    raise AssertionError("another point was sealed meanwhile")
