"""The manifest's text."""

from __future__ import annotations

import json
from dataclasses import fields, replace
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from jsonschema import Draft202012Validator

from relight.errors import IntegrityError
from relight.memory.journal import Position
from relight.memory.parity import recall
from relight.memory.vectors import pack, unpack
from relight.vault.manifest import (
    Canary,
    CollectionPart,
    Embedding,
    Manifest,
    Piece,
    QueuePosition,
    Signature,
    StatePosition,
)

AT = datetime(2026, 4, 19, 2, 0, 0, 123456, tzinfo=UTC)

text = st.text(st.characters(blacklist_categories=["Cs"]), max_size=30)
counts = st.integers(0, 2**60)
times = st.datetimes(timezones=st.just(UTC), min_value=datetime(2000, 1, 1), max_value=datetime(2100, 1, 1))
json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | text,
    lambda inner: st.lists(inner) | st.dictionaries(text, inner),
    max_leaves=5,
)
canaries = st.builds(Canary, vector=st.binary(max_size=64), ids=st.lists(text, max_size=10).map(tuple))
parts = st.builds(
    CollectionPart,
    name=text,
    store=text,
    server_version=text,
    pieces=st.lists(st.builds(Piece, object=text, bytes=counts, sha256=text, node=text), max_size=3).map(tuple),
    points=counts,
    drift=counts,
    embedding=st.builds(Embedding, model=text, dimension=counts, distance=text, prefix=text),
    configuration=st.dictionaries(text, json_values, max_size=3),
    position=text,
    canaries=st.lists(canaries, max_size=3).map(tuple),
)
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
    state=st.builds(StatePosition, lsn=text, timeline=counts, schema_version=counts),
    queue=st.none() | st.builds(QueuePosition, stream=text, last_sequence=counts),
    collections=st.lists(parts, max_size=3).map(tuple),
    signature=st.none() | st.builds(Signature, algorithm=text, key=text, value=st.binary(max_size=80)),
)

SCHEMA = json.loads((Path(__file__).parents[2] / "docs" / "manifest.schema.json").read_text())


def example() -> Manifest:
    """With one of everything."""
    part = CollectionPart(
        name="notes ü/..",
        store="qdrant",
        server_version="1.15.1",
        pieces=(
            Piece(object="points/20260419T020000Z/notes-0a-n1.snapshot", bytes=10, sha256="0a" * 32, node="n1"),
            Piece(object="points/20260419T020000Z/notes-0a-n2.snapshot", bytes=0, sha256="0b" * 32, node="n2"),
        ),
        points=3,
        drift=1,
        embedding=Embedding(model="m", dimension=2, distance="cosine", prefix="query: "),
        configuration={"aliases": ["a"], "hnsw": {"m": 16}},
        position="10:1",
        canaries=(Canary(vector=bytes(8), ids=("a", "b")),),
    )
    return Manifest(
        id="20260419T020000Z",
        environment="demo",
        region="us-west-2",
        instead_of=None,
        taken_at=AT,
        sealed_at=AT,
        software="0.1.0",
        previous=None,
        state=StatePosition(lsn="0/1A", timeline=1, schema_version=2),
        queue=QueuePosition(stream="tasks", last_sequence=7),
        collections=(part,),
        signature=Signature(algorithm="ECDSA_SHA_256", key="arn", value=bytes(70)),
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


def altered(path: str, value: object) -> dict[str, Any]:
    """The example with what is at `path` replaced, or added; LACKING takes it out."""
    found: dict[str, Any] = json.loads(example().to_json())
    *way, last = [int(step) if step.isdecimal() else step for step in path.split(".")]
    inner: Any = found
    for step in way:
        inner = inner[step]
    if value is LACKING:
        del inner[last]
    else:
        inner[last] = value
    return found


LACKING = object()
PART = "collections.0"

# What neither Relight nor the schema takes.
REFUSED_BY_BOTH = [
    ("surprise", 1),
    ("id", 5),
    ("environment", None),
    ("instead_of", True),
    ("taken_at", "yesterday"),
    ("taken_at", "2026-04-19T02:00:00"),
    ("taken_at", None),
    ("sealed_at", LACKING),
    ("state", {}),
    ("state", None),
    ("state.timeline", -1),
    ("state.schema_version", "2"),
    ("queue", LACKING),
    ("queue.last_sequence", 1.5),
    ("queue.surprise", 1),
    ("collections", [{}]),
    ("collections", {"name": "x"}),
    ("collections", None),
    (f"{PART}.name", 5),
    (f"{PART}.points", True),
    (f"{PART}.drift", -1),
    (f"{PART}.drift", LACKING),
    (f"{PART}.configuration", []),
    (f"{PART}.embedding", "m"),
    (f"{PART}.embedding.prefix", None),
    (f"{PART}.pieces.0.object", None),
    (f"{PART}.pieces.0.bytes", "10"),
    (f"{PART}.pieces.0.node", LACKING),
    (f"{PART}.canaries.0.vector", "*"),
    (f"{PART}.canaries.0.ids", "ab"),
    (f"{PART}.canaries.0.ids", [1]),
    ("signature", "x"),
    ("signature.value", "é"),
    ("signature.key", LACKING),
]

# What can be read, and is noticed where it is used.
REFUSED_BY_THE_SCHEMA = [
    ("id", "../../etc"),
    ("previous", "yesterday"),
    (f"{PART}.store", "faiss"),
    (f"{PART}.position", "10"),
    (f"{PART}.embedding.distance", "near"),
    (f"{PART}.embedding.dimension", 0),
    (f"{PART}.pieces.0.object", "runs/x"),
    (f"{PART}.pieces.0.sha256", "0A" * 32),
    ("state.lsn", "here"),
    ("signature.algorithm", "none"),
]


def complaints(value: object) -> list[str]:
    return [error.message for error in Draft202012Validator(SCHEMA).iter_errors(value)]


@pytest.mark.parametrize(("path", "value"), REFUSED_BY_BOTH)
def test_what_is_no_manifest_is_refused(path: str, value: object) -> None:
    """fails when a damaged manifest passes, or raises anything but an integrity error that names it."""
    found = altered(path, value)
    with pytest.raises(IntegrityError, match=r"points/x/manifest\.json"):
        Manifest.from_json(json.dumps(found), source="points/x/manifest.json")
    assert complaints(found)


@pytest.mark.parametrize(("path", "value"), REFUSED_BY_THE_SCHEMA)
def test_the_schema_says_what_a_value_looks_like(path: str, value: object) -> None:
    """fails when the published schema passes a value that Relight never writes."""
    assert complaints(altered(path, value))


def test_the_schema_takes_what_is_written() -> None:
    """With everything there is, with as little as there can be, and in the types that the code has."""
    Draft202012Validator.check_schema(SCHEMA)
    whole = example()
    [part] = whole.collections
    bare = replace(whole, queue=None, signature=None, previous=whole.id, instead_of="us-east-1")
    empty = replace(bare, collections=(replace(part, pieces=(), canaries=(), configuration={}),))
    for manifest in (whole, bare, empty, replace(bare, collections=())):
        assert complaints(json.loads(manifest.to_json())) == []
    for kind in (Manifest, CollectionPart, Piece, Embedding, Canary, StatePosition, QueuePosition, Signature):
        described = SCHEMA["$defs"][kind.__name__]
        names = {item.name for item in fields(kind)} | ({"version"} if kind is Manifest else set())
        assert set(described["properties"]) == set(described["required"]) == names
        assert described["additionalProperties"] is False


@pytest.mark.parametrize("data", ["", "[]", "1", "null", "{", "\x00", "[" * 100_000])
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
