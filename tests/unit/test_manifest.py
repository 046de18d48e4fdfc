"""The manifest's text."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relight.errors import IntegrityError
from relight.memory.journal import Position
from relight.memory.parity import recall
from relight.memory.vectors import pack, unpack
from relight.vault.manifest import Canary, CollectionPart, Manifest, StatePosition

AT = datetime(2026, 4, 19, 2, 0, 0, 123456, tzinfo=UTC)

text = st.text(st.characters(blacklist_categories=["Cs"]), max_size=30)
counts = st.integers(0, 2**60)
parts = st.builds(
    CollectionPart,
    name=text,
    store=text,
    server_version=text,
    object=text,
    bytes=counts,
    sha256=text,
    points=counts,
    dimension=counts,
    distance=text,
    embedding_model=text,
    position=text,
    canaries=st.lists(
        st.builds(Canary, vector=st.binary(max_size=64), ids=st.lists(text, max_size=10).map(tuple)), max_size=3
    ).map(tuple),
)
times = st.datetimes(timezones=st.just(UTC), min_value=datetime(2000, 1, 1), max_value=datetime(2100, 1, 1))
manifests = st.builds(
    Manifest,
    id=text,
    environment=text,
    region=text,
    instead_of=st.none() | text,
    taken_at=times,
    sealed_at=times,
    software=text,
    previous=st.none() | text,
    state=st.builds(StatePosition, lsn=text, timeline=counts),
    collections=st.lists(parts, max_size=3).map(tuple),
)


def example() -> Manifest:
    return Manifest(
        id="20260419T020000Z",
        environment="demo",
        region="us-west-2",
        instead_of=None,
        taken_at=AT,
        sealed_at=AT,
        software="0.1.0",
        previous=None,
        state=StatePosition(lsn="0/1", timeline=1),
        collections=(),
    )


@given(manifests)
def test_what_is_written_is_read_back(manifest: Manifest) -> None:
    """Every manifest reads back equal, and is written again as the same text."""
    written = manifest.to_json()
    back = Manifest.from_json(written, source="x")
    assert back == manifest
    assert back.to_json() == written


def test_the_text_depends_on_the_value_alone() -> None:
    """The same moment in another offset, and keys in any order, give the same bytes."""
    elsewhere = AT.astimezone(timezone(timedelta(hours=9)))
    manifest = example()
    same = Manifest.from_json(json.dumps(dict(reversed(json.loads(manifest.to_json()).items()))), source="x")
    assert same.to_json() == manifest.to_json()
    assert elsewhere == AT
    assert json.loads(manifest.to_json())["taken_at"] == "2026-04-19T02:00:00.123456Z"


@pytest.mark.parametrize("version", [0, 2, "1", None, True])
def test_an_unknown_version_is_refused_with_advice(version: object) -> None:
    """fails when a manifest that this Relight does not understand is read anyway."""
    value = json.loads(example().to_json()) | {"version": version}
    with pytest.raises(IntegrityError, match="use the Relight that wrote it"):
        Manifest.from_json(json.dumps(value), source="x")


@pytest.mark.parametrize(
    "change",
    [
        {"surprise": 1},
        {"taken_at": "yesterday"},
        {"taken_at": "2026-04-19T02:00:00"},
        {"taken_at": None},
        {"state": {}},
        {"state": None},
        {"collections": [{}]},
        {"collections": {"name": "x"}},
        {"collections": None},
    ],
)
def test_what_is_no_manifest_is_refused(change: dict[str, object]) -> None:
    """fails when a damaged manifest raises anything but an integrity error that names it."""
    value = json.loads(example().to_json()) | change
    with pytest.raises(IntegrityError, match=r"points/x/manifest\.json"):
        Manifest.from_json(json.dumps(value), source="points/x/manifest.json")


@pytest.mark.parametrize("data", ["", "[]", "1", "null", "{", "\x00"])
def test_foreign_text_is_refused(data: str) -> None:
    """fails when text that is no manifest at all raises anything but an integrity error."""
    with pytest.raises(IntegrityError):
        Manifest.from_json(data, source="x")


def test_a_byte_that_is_no_text_is_refused() -> None:
    """fails when bytes that are no UTF-8 raise anything but an integrity error."""
    with pytest.raises(IntegrityError):
        Manifest.from_json(b"\xff\xfe\x00", source="x")


@given(st.lists(st.floats(width=32, allow_nan=False, allow_infinity=False), max_size=50))
def test_vectors_survive_packing(vector: list[float]) -> None:
    """Four bytes for each component, and every 32-bit float comes back exactly."""
    packed = pack(vector)
    assert len(packed) == 4 * len(vector)
    assert list(unpack(packed)) == vector


@given(st.integers(0, 2**63), st.integers(0, 2**63))
def test_positions_survive_their_text(xid: int, seq: int) -> None:
    """And order as pairs do."""
    assert Position.parse(str(Position(xid, seq))) == Position(xid, seq)
    assert Position(xid, seq) < Position(xid + 1, 0)


@pytest.mark.parametrize("bad", ["", "1", "1:", ":1", "a:1", "-1:1", "1:2:3"])
def test_what_is_no_position_is_refused(bad: str) -> None:
    """fails when a position is guessed from a damaged text."""
    with pytest.raises(IntegrityError):
        Position.parse(bad)


def test_recall_is_the_share_of_expected_answers() -> None:
    """It is 1 when none is expected."""
    assert recall([]) == 1
    assert recall([([], ["a"])]) == 1
    assert recall([(["a", "b"], ["b", "c"]), (["d", "e"], ["e", "d"])]) == 0.75
