"""How long a restore and a build are said to take, and what a build is given."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relight.memory.estimate import estimate
from relight.memory.pgvector import plan_build, toast_target
from relight.memory.store import HnswIndex
from relight.vault.manifest import CollectionPart, Embedding, Piece

MIB = 2**20
GIB = 2**30


def part(points: int, size: int, dimension: int, *, store: str = "pgvector") -> CollectionPart:
    """A snapshot of `size` bytes."""
    return CollectionPart(
        name="c",
        store=store,
        server_version="",
        pieces=(Piece(object="o", bytes=size, sha256="", node=""),),
        points=points,
        drift=0,
        embedding=Embedding(model="m", dimension=dimension, distance="cosine", prefix=""),
        configuration={},
        position="0:0",
        canaries=(),
    )


@pytest.mark.parametrize(
    ("points", "megabytes", "dimension", "index", "load_s", "index_s"),
    [
        (10_000, 31, 768, HnswIndex(), 0.29, 1.8),
        (50_000, 157, 768, HnswIndex(), 1.45, 10.9),
        (100_000, 57, 128, HnswIndex(), 0.66, 14.8),
        (50_000, 54, 256, HnswIndex(ef_construction=200), 0.41, 16.0),
        (50_000, 54, 256, HnswIndex(m=32), 0.43, 13.5),
        (20_000, 124, 1536, HnswIndex(), 1.38, 8.0),
        (40_000, 248, 1536, None, 2.68, 0.0),
        (400_000, 49, 16, None, 0.91, 0.0),
    ],
)
def test_what_was_measured_is_estimated(
    points: int, megabytes: int, dimension: int, index: HnswIndex | None, load_s: float, index_s: float
) -> None:
    """Within two fifths of what a server of 2 cores took."""
    found = estimate(part(points, megabytes * 1_000_000, dimension), index)
    assert found.load_s == pytest.approx(load_s, rel=0.4)
    assert found.index_s == pytest.approx(index_s, rel=0.4)


@given(points=st.integers(0, 10**8), dimension=st.integers(1, 2000))
def test_more_takes_longer(points: int, dimension: int) -> None:
    """Each point adds to both, and nothing takes nothing."""
    one, two = (estimate(part(n, n * dimension * 4, dimension), HnswIndex()) for n in (points, 2 * points + 2))
    assert 0 <= one.load_s < two.load_s
    assert 0 <= one.index_s < two.index_s


def test_a_store_that_keeps_its_index_builds_none() -> None:
    """Only loading is left where the snapshot holds the index."""
    assert estimate(part(10_000, MIB, 64, store="qdrant"), HnswIndex()).index_s == 0


@pytest.mark.parametrize(
    ("points", "configured", "cache", "default", "memory", "workers"),
    [
        (0, 64 * MIB, 4 * GIB, True, 64 * MIB, 0),
        (15_000, 64 * MIB, 4 * GIB, True, 15_000 * (768 * 4 + 912) + 16 * MIB, 1),
        (50_000, 64 * MIB, 4 * GIB, True, 50_000 * (768 * 4 + 912) + 16 * MIB, 4),
        (10_000_000, 64 * MIB, 4 * GIB, True, 512 * MIB, 4),
        (10_000_000, 64 * MIB, 24 * GIB, False, 6 * GIB, 4),
        (10_000_000, 64 * MIB, 128 * MIB, False, 64 * MIB, 4),
        (100, 2 * GIB, 4 * GIB, True, 2 * GIB, 0),
    ],
)
def test_a_build_gets_what_it_needs_within_bounds(
    points: int, configured: int, cache: int, default: bool, memory: int, workers: int
) -> None:
    """As much as the graph takes, not beyond a quarter of what may be cached, and never less than is configured."""
    assert plan_build(points, 768, HnswIndex(), configured, cache, default, 2, 8) == (memory, workers)


@pytest.mark.parametrize(
    ("dimension", "target"),
    [(1, 8160), (256, 8160), (768, 8160), (1024, 2032), (1536, 8160), (2000, 8160), (3072, 2032)],
)
def test_vectors_are_in_line_where_pages_stay_full(dimension: int, target: int) -> None:
    """Not with 1024 dimensions, of which a page would hold one and be half empty, nor where none fits."""
    assert toast_target(dimension) == target
