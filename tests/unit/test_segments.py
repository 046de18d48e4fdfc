"""Archived parts of the journal: what they say of themselves, and how long they stay."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from point_helpers import make_manifest

from relight.errors import IntegrityError
from relight.memory.journal import START, Entry, Op, Position, Segment
from relight.memory.segments import Line, pack, unpack
from relight.memory.vectors import pack as pack_vector
from relight.vault.points import PointStatus
from relight.vault.segments import parse_key, plan_segments, segment_key
from relight.vault.store import StoredObject

if TYPE_CHECKING:
    from collections.abc import Mapping

NOW = datetime(2026, 4, 19, 2, tzinfo=UTC)
NAMES = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), min_size=1, max_size=60)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | NAMES,
    lambda inner: st.lists(inner) | st.dictionaries(NAMES, inner),
    max_leaves=8,
)


def entry(seq: int, id_: str = "a", payload: dict[str, Any] | None = None, **changes: Any) -> Entry:
    return replace(
        Entry(
            position=Position(10, seq),
            at=NOW + timedelta(microseconds=seq),
            epoch=1,
            collection="c",
            op=Op.UPSERT,
            id=id_,
            vector=pack_vector([0.1, 1e-30, -3.5]),
            payload=payload,
            task_id=None,
        ),
        **changes,
    )


def segment_of(*entries: Entry, collection: str = "c", after: Position = START) -> tuple[bytes, Segment]:
    packed = pack(collection, after, [Line.of(item) for item in entries])
    return packed.data, Segment(
        collection=collection,
        after=after,
        until=packed.until,
        object=packed.object,
        sha256=packed.sha256,
        bytes=len(packed.data),
        entries=packed.entries,
        first_at=packed.first_at,
        last_at=packed.last_at,
        archived_at=NOW,
        pruned=True,
    )


@given(collection=NAMES, ids=st.lists(NAMES, min_size=1, max_size=5), payload=st.none() | st.dictionaries(NAMES, JSON))
def test_what_is_packed_is_unpacked(collection: str, ids: list[str], payload: dict[str, Any] | None) -> None:
    """Every entry, whatever its texts and its payload are; and the same entries are the same bytes."""
    entries = tuple(entry(n, id_, payload, collection=collection, task_id=id_) for n, id_ in enumerate(ids, start=1))
    entries += (entry(len(ids) + 1, collection=collection, op=Op.DELETE, vector=None),)
    data, segment = segment_of(*entries, collection=collection)
    assert unpack(data, segment) == entries
    assert segment_of(*entries, collection=collection)[0] == data
    assert parse_key(segment.object) == (collection, (10, len(ids) + 1))


def test_a_segment_of_something_else_is_refused() -> None:
    """fails when bytes are taken for a segment whose collection, span, order or count they are not."""
    data, segment = segment_of(entry(1), entry(2))
    for wrong in (
        replace(segment, collection="d"),
        replace(segment, after=Position(1, 1)),
        replace(segment, until=Position(10, 3)),
        replace(segment, entries=3),
        replace(segment, sha256="0" * 64),
    ):
        with pytest.raises(IntegrityError):
            unpack(data, wrong)
    disordered, said = segment_of(entry(2), entry(1), entry(3))
    with pytest.raises(IntegrityError):
        unpack(disordered, said)
    for other in (b"", b"x", data[:20]):
        with pytest.raises(IntegrityError):
            unpack(other, segment)


@pytest.mark.parametrize("key", ["journal/c/x.jsonl.gz", "points/x", "journal//0_0", "journal/c/1-1_2-2_00.jsonl.gz"])
def test_other_keys_are_no_segments(key: str) -> None:
    """Nothing else under the prefix is ever removed."""
    assert parse_key(key) is None


def stored(collection: str, until: int, *, days: int = 0) -> StoredObject:
    key = segment_key(collection, (until - 1, 0), (until, 0), "0" * 64)
    return StoredObject(key=key, bytes=1, modified=NOW - timedelta(days=days), etag="")


def point(id_: str, position: int | None, *, reason: str = "") -> PointStatus:
    manifest = None
    if position is not None:
        manifest = make_manifest(id_, {"a": b""})
        manifest = replace(manifest, collections=(replace(manifest.collections[0], position=f"{position}:0"),))
    return PointStatus(id=id_, manifest=manifest, reason=reason, sealed=True, bytes=0, modified=NOW)


def going(
    rungs: Mapping[str, tuple[str, ...]], *points: PointStatus, objects: list[StoredObject] | None = None
) -> list[int]:
    keys = plan_segments(
        objects or [stored("memory", n) for n in (900, 1000, 1001, 2000)],
        {item.id: item for item in points},
        rungs,
        keep_daily=14,
        now=NOW,
    )
    return [found[1][0] for key in keys if (found := parse_key(key))]


def test_segments_live_as_long_as_the_oldest_daily_rung() -> None:
    """A point needs what comes after it; one that only a month keeps is not brought forward."""
    month, day, hour = point("20260301T000000Z", 10), point("20260405T000000Z", 1000), point("20260419T000000Z", 2000)
    rungs = {month.id: ("monthly",), day.id: ("daily", "monthly"), hour.id: ("daily", "hourly", "newest")}
    assert going(rungs, month, day, hour) == [900, 1000]
    assert going({hour.id: ("newest",)}, hour) == [900, 1000, 1001, 2000]
    assert going({month.id: ("monthly",)}, month) == []
    assert going({}, hour) == []


def test_a_point_whose_manifest_cannot_be_read_keeps_what_it_may_need() -> None:
    """fails when it is passed over: the other vault may mend it."""
    old, unread, new = point("20260405T000000Z", 1000), point("20260406T000000Z", None), point("20260419T000000Z", 2000)
    rungs = {item.id: ("daily",) for item in (old, unread, new)}
    assert going(rungs, old, unread, new) == [900, 1000]
    assert going({unread.id: ("daily",), new.id: ("daily",)}, unread, new) == []
    # One that is not eligible for another reason says where it is.
    assert going(rungs, replace(old, reason="not here"), unread, new) == [900, 1000]


def test_a_collection_that_no_point_has_keeps_its_segments_for_a_while() -> None:
    """A new one has no point yet, and one that was given up has none any more."""
    new = point("20260419T000000Z", 2000)
    objects = [stored("given up", 5, days=15), stored("new", 6, days=13)]
    assert going({new.id: ("newest",)}, new, objects=objects) == [5]
