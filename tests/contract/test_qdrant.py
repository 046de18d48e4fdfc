"""Qdrant under the contract of a vector store, on the stand-in and on a real server, and what is its own."""

from __future__ import annotations

import asyncio
import os
from typing import TYPE_CHECKING

import pytest
from vector_store_contract import VectorStoreContract

from relight.memory.qdrant import CATALOGUE, QdrantStore
from relight_drill.qdrant import QdrantServer

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from relight.memory.store import CollectionSpec
    from relight_drill.processes import ProcessGroup

pytestmark = pytest.mark.servers

REAL = os.environ.get("RELIGHT_TEST_QDRANT_URL", "")


@pytest.fixture(scope="session")
def standin(server_group: ProcessGroup, server_dir: Path) -> QdrantServer:
    """A stand-in, shared by the session."""
    server = QdrantServer(server_group, server_dir / "qdrant", name="shared")
    asyncio.run(server.start())
    return server


def held(store: QdrantStore, spec: CollectionSpec) -> list[str]:
    """Everything on the server that is of `spec` or of a copy of it, snapshots and entries of the catalogue included,
    beside what the public names stand for and what is kept."""
    api = store._nodes[0].api
    here = set(store._aliases().values())
    found = []
    for _, said in [*store._entries("collection"), *store._entries("snapshot")]:
        if said["name"].startswith(spec.name):
            if said["kind"] == "snapshot":
                found.append(f"claim {said}")
            elif said["physical"] not in here and said["physical"] not in store.kept(said["name"]):
                found.append(f"record of {said['physical']}")
    known = {said["physical"] for _, said in store._entries("collection")}
    for item in api.get_collections().collections:
        if item.name not in known and item.name != CATALOGUE and item.name.startswith(spec.name):
            found.append(f"collection {item.name}")
        if item.name.startswith(spec.name):
            found += [snapshot.name for snapshot in api.list_snapshots(item.name)]
    return found


class QdrantContract(VectorStoreContract):
    """On either server."""

    index_travels = True
    dsn: str

    @pytest.fixture
    def store(self, spec: CollectionSpec) -> Iterator[QdrantStore]:
        """A store whose collections that a test makes under its own name go with it."""
        store = QdrantStore(self.dsn)
        yield store
        for said in [said for _, said in store._entries("collection")]:
            if said["name"].startswith(spec.name):
                store.drop(said["name"])
        store.close()

    @pytest.fixture
    def again(self, store: QdrantStore) -> Iterator[QdrantStore]:
        again = QdrantStore(self.dsn)
        yield again
        again.close()

    def leftovers(self, spec: CollectionSpec) -> list[str]:
        store = QdrantStore(self.dsn)
        try:
            return held(store, spec)
        finally:
            store.close()


class TestQdrantStandIn(QdrantContract):
    """The stand-in."""

    @pytest.fixture(autouse=True)
    def _server(self, standin: QdrantServer) -> None:
        self.dsn = standin.dsn()


@pytest.mark.skipif(not REAL, reason="RELIGHT_TEST_QDRANT_URL is not set")
class TestQdrantServer(QdrantContract):
    """A real server."""

    dsn = REAL
