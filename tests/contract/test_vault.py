"""A vault on a real S3-compatible server."""

from __future__ import annotations

import hashlib
import io
from dataclasses import replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import pytest
from botocore.exceptions import ConnectionClosedError

from relight.errors import ConflictError, IntegrityError, NotFoundError, UnavailableError
from relight.vault import points
from relight.vault.manifest import Canary, CollectionPart, Manifest, StatePosition
from relight.vault.store import PART_BYTES, Vault

if TYPE_CHECKING:
    from collections.abc import Callable

pytestmark = pytest.mark.servers

POINT = "20260419T020000Z"
AT = datetime(2026, 4, 19, 2, tzinfo=UTC)


def seal(vault: Vault, point: str = POINT, *, data: bytes = b"the bytes", **changes: object) -> Manifest:
    """A point with one small object."""
    key = f"points/{point}/memory-0a1b.pgcopy"
    vault.put_bytes(key, data)
    part = CollectionPart(
        name="memory",
        store="pgvector",
        server_version="PostgreSQL 18, pgvector 0.8",
        object=key,
        bytes=len(data),
        sha256=hashlib.sha256(data).hexdigest(),
        points=1,
        dimension=2,
        distance="cosine",
        embedding_model="test",
        position="10:1",
        canaries=(Canary(vector=b"\0\0\0\0\0\0\0\0", ids=("a",)),),
    )
    manifest = Manifest(
        id=point,
        environment="test",
        region=vault.region,
        instead_of=None,
        taken_at=AT,
        sealed_at=AT,
        software="0",
        previous=None,
        state=StatePosition(lsn="0/1", timeline=1),
        collections=(replace(part, **changes),),  # type: ignore[arg-type]
    )
    vault.put_bytes(points.manifest_key(point), manifest.to_json().encode(), only_if_absent=True)
    return manifest


def uploads(s3: Any, bucket: str) -> list[Any]:
    """Multipart uploads that were begun and neither finished nor aborted."""
    found: list[Any] = s3.list_multipart_uploads(Bucket=bucket).get("Uploads", [])
    return found


def cut(s3: Any, operation: str, *, at_call: int) -> None:
    """Break the connection at that call of the operation, and at every one after it."""
    calls = 0

    def before_send(**_: object) -> None:
        nonlocal calls
        calls += 1
        if calls >= at_call:
            raise ConnectionClosedError(endpoint_url="test")

    s3.meta.events.register(f"before-send.s3.{operation}", before_send)


@pytest.mark.parametrize("size", [0, 1, PART_BYTES - 1, PART_BYTES, PART_BYTES + 1, 3 * PART_BYTES + 7])
def test_what_is_written_is_read_back(vault: Vault, size: int) -> None:
    """Objects of any size, around the size of a part too, come back whole with their size and checksum."""
    data = (b"0123456789abcdef" * (size // 16 + 1))[:size]
    with vault.writer("points/x/object") as writer:
        source = io.BytesIO(data)
        while piece := source.read(1_000_003):
            writer.write(piece)
    assert (writer.bytes, writer.sha256) == (size, hashlib.sha256(data).hexdigest())
    with vault.reader("points/x/object") as reader:
        back = b"".join(iter(lambda: reader.read(1 << 20), b""))
    assert back == data
    assert (reader.bytes, reader.sha256) == (size, hashlib.sha256(data).hexdigest())


def test_a_cut_upload_leaves_nothing(own_client: Callable[[str], Any], s3: Any, bucket: str) -> None:
    """fails when an upload that was cut in the middle is visible, or keeps its parts."""
    client = own_client("us-east-1")
    cut(client, "UploadPart", at_call=2)
    vault = Vault(client, bucket, region="us-east-1")
    with pytest.raises(UnavailableError), vault.writer("points/x/object") as writer:
        writer.write(b"x" * (3 * PART_BYTES))
    assert writer.error is not None
    assert list(vault.list_keys("")) == []
    assert uploads(s3, bucket) == []


def test_a_failing_origin_leaves_nothing(vault: Vault, s3: Any, bucket: str) -> None:
    """fails when bytes whose origin broke become an object; the vault is not blamed for it."""
    with pytest.raises(ZeroDivisionError), vault.writer("points/x/object") as writer:
        writer.write(b"x" * (PART_BYTES + 1))
        _ = 1 / 0
    assert writer.error is None
    assert list(vault.list_keys("")) == []
    assert uploads(s3, bucket) == []


def test_an_abort_that_fails_too_hides_nothing(own_client: Callable[[str], Any], bucket: str) -> None:
    """fails when the error of the clean-up takes the place of the error that made it necessary."""
    client = own_client("us-east-1")
    cut(client, "UploadPart", at_call=2)
    cut(client, "AbortMultipartUpload", at_call=1)
    vault = Vault(client, bucket, region="us-east-1")
    with pytest.raises(UnavailableError) as caught, vault.writer("points/x/object") as writer:
        writer.write(b"x" * (3 * PART_BYTES))
    assert caught.value is writer.error
    assert list(vault.list_keys("")) == []


def test_the_first_conditional_put_wins(vault: Vault) -> None:
    """A second one with other bytes is a conflict; with the same bytes it is the retry of the first."""
    vault.put_json("points/x/manifest.json", {"a": 1}, only_if_absent=True)
    vault.put_json("points/x/manifest.json", {"a": 1}, only_if_absent=True)
    with pytest.raises(ConflictError):
        vault.put_json("points/x/manifest.json", {"a": 2}, only_if_absent=True)
    assert vault.get_json("points/x/manifest.json") == {"a": 1}


def test_what_is_not_there_is_not_found(vault: Vault, s3: Any) -> None:
    """A missing object, point or bucket is NotFoundError."""
    with pytest.raises(NotFoundError):
        vault.get_bytes("points/none")
    with pytest.raises(NotFoundError), vault.reader("points/none"):
        pass
    with pytest.raises(NotFoundError, match=POINT):
        points.find(vault, POINT)
    with pytest.raises(NotFoundError, match="does not name a recovery point"):
        points.find(vault, "../../etc/passwd")
    with pytest.raises(NotFoundError):
        list(Vault(s3, "no-such-bucket-here", region="us-east-1").list_keys(""))


def test_listing_goes_over_pages(vault: Vault, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every key comes once and in order, however many pages there are."""
    for number in range(7):
        vault.put_bytes(f"points/{number}", b"x")
    client = vault._client
    listing = client.list_objects_v2
    monkeypatch.setattr(client, "list_objects_v2", lambda **kwargs: listing(MaxKeys=3, **kwargs))
    assert list(vault.list_keys("points/")) == [f"points/{number}" for number in range(7)]


def test_points_come_newest_first(vault: Vault) -> None:
    """Eligible points are listed by age, whatever their order of arrival."""
    for hour in ("03", "01", "02"):
        seal(vault, f"20260419T{hour}0000Z")
    ids = [manifest.id for manifest in points.eligible(vault)]
    assert ids == ["20260419T030000Z", "20260419T020000Z", "20260419T010000Z"]
    assert points.newest_id(vault) == ids[0]


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        ("unsealed", "not sealed"),
        ("missing", "is not here"),
        ("truncated", "bytes, and the manifest says"),
        ("foreign", "is no object of this point"),
        ("not json", "is not JSON"),
        ("newer", "manifest version 2"),
        ("other id", "is the manifest of"),
    ],
)
def test_a_point_that_is_not_whole_is_not_eligible(
    vault: Vault, s3: Any, bucket: str, damage: str, reason: str
) -> None:
    """fails when a point is offered whose manifest or object is missing, cut, altered or somebody else's."""
    key = points.manifest_key(POINT)
    if damage == "foreign":
        seal(vault, object="points/20200101T000000Z/other")
    else:
        manifest = seal(vault)
    if damage == "unsealed":
        s3.delete_object(Bucket=bucket, Key=key)
    elif damage == "missing":
        s3.delete_object(Bucket=bucket, Key=manifest.collections[0].object)
    elif damage == "truncated":
        s3.put_object(Bucket=bucket, Key=manifest.collections[0].object, Body=b"the")
    elif damage == "not json":
        s3.put_object(Bucket=bucket, Key=key, Body=manifest.to_json()[:50])
    elif damage == "newer":
        s3.put_object(Bucket=bucket, Key=key, Body=manifest.to_json().replace('"version": 1', '"version": 2'))
    elif damage == "other id":
        s3.put_object(Bucket=bucket, Key=key, Body=manifest.to_json().replace(POINT, "20260419T040000Z"))
    assert list(points.eligible(vault)) == []
    [status] = points.survey(vault)
    assert status == points.status_of(vault, POINT)
    assert not status.eligible
    assert reason in status.reason


def test_a_foreign_key_under_points_is_ignored(vault: Vault) -> None:
    """What does not look like a point is none."""
    vault.put_bytes("points/../etc", b"x")
    vault.put_bytes("points/readme.txt", b"x")
    seal(vault)
    assert [status.id for status in points.survey(vault)] == [POINT]


def test_altered_json_is_an_integrity_error(vault: Vault) -> None:
    """fails when a document that is no JSON is reported as anything but damage."""
    vault.put_bytes("runs/x.json", b"{")
    with pytest.raises(IntegrityError):
        vault.get_json("runs/x.json")
