"""The vector store of a kind, at an address."""

from __future__ import annotations

from typing import TYPE_CHECKING

from relight.config import MemoryStore

if TYPE_CHECKING:
    from relight.memory.store import VectorStore


def open_store(kind: MemoryStore, dsn: str) -> VectorStore:
    """A client of the store; ConfigError where the extra that brings its driver is not installed."""
    # Each brings a driver of its own, and a function needs one of them.
    if kind is MemoryStore.QDRANT:
        from relight.memory.qdrant import QdrantStore

        return QdrantStore(dsn)
    if kind is MemoryStore.WEAVIATE:
        from relight.memory.weaviate import WeaviateStore

        return WeaviateStore(dsn)
    from relight.memory.pgvector import PgVectorStore

    return PgVectorStore(dsn)
