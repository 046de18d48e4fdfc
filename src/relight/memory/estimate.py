"""How long a restore takes, before it is done: part of what an environment can promise."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from relight.memory.store import HnswIndex
    from relight.vault.manifest import CollectionPart

# Measured with PostgreSQL 18 and pgvector 0.8 on 2 cores and a local disk, 6 to 250 MB of 16 to 1536 dimensions: the
# COPY, the key, the count and the exact canaries. A vault that gives its bytes more slowly bounds it instead.
LOAD_BYTES_PER_S = 110e6
LOAD_S_PER_POINT = 1.5e-6

# Of the same, built by 2 cores with the graph in memory; where it does not fit, three times as long (18 s and 52 s).
BUILD_S_PER_STEP = 7e-6
BUILD_S_PER_STEP_AND_DIMENSION = 9e-9

# Whose snapshots leave the index out, so that it is built afterwards.
_BUILT_AFTERWARDS = ("pgvector",)


# A point's id, its key in the index and what pages leave free; payloads come on top, and are not known beforehand.
BYTES_PER_POINT = 100
BYTES_PER_DIMENSION = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class Estimate:
    """Seconds until the collection serves, and from then on until its index is built; searches are exact meanwhile."""

    load_s: float
    index_s: float


def estimate(part: CollectionPart, index: HnswIndex | None) -> Estimate:
    """What a restore of `part` takes on a small server; pure.

    Loading is linear in bytes and points. A build takes a step for each point and level of the graph, which is longer
    with the dimension, the links and (as its 0.8th power, measured from 64 to 200) the candidates. Other stores than
    pgvector are taken to load as fast, which was not measured, and bring their index with them.
    """
    load_s = part.bytes / LOAD_BYTES_PER_S + part.points * LOAD_S_PER_POINT
    if index is None or part.store not in _BUILT_AFTERWARDS or part.points < 2:
        return Estimate(load_s=load_s, index_s=0.0)
    step_s = BUILD_S_PER_STEP + part.embedding.dimension * BUILD_S_PER_STEP_AND_DIMENSION
    effort = index.m / 16 * (index.ef_construction / 64) ** 0.8
    return Estimate(load_s=load_s, index_s=part.points * math.log2(part.points) * step_s * effort)


def snapshot_bytes(*, points: int, dimension: int) -> int:
    """How large a snapshot of that many points is at least; pure."""
    return points * (BYTES_PER_POINT + BYTES_PER_DIMENSION * dimension)
