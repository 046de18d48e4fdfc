"""A vault on a real S3-compatible server."""

from __future__ import annotations

import asyncio
import hashlib
import io
import random
import threading
from collections import Counter
from contextlib import AsyncExitStack, contextmanager
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import aiohttp
import boto3
import pytest
import urllib3
from aiohttp import web
from botocore.exceptions import ConnectionClosedError
from servers import serving
from yarl import URL

from relight.adapters import aws
from relight.errors import ConflictError, DeniedError, IntegrityError, NotFoundError, UnavailableError
from relight.vault import points
from relight.vault.manifest import Canary, CollectionPart, Embedding, Manifest, Piece, StatePosition
from relight.vault.store import PART_BYTES, THREADS, Vault, part_bytes
from relight_drill.emulator import SECRET_KEY

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator

    from relight_drill.emulator import Emulator

    Meddle = Callable[[web.Request, bytes], Awaitable[web.StreamResponse | None]]

pytestmark = pytest.mark.servers

POINT = "20260419T020000Z"
AT = datetime(2026, 4, 19, 2, tzinfo=UTC)


def seal(vault: Vault, point: str = POINT, *, data: bytes = b"the bytes", key: str = "") -> Manifest:
    """A point with one small object."""
    key = key or f"points/{point}/memory-0a1b.pgcopy"
    vault.put_bytes(key, data)
    part = CollectionPart(
        name="memory",
        store="pgvector",
        server_version="PostgreSQL 18, pgvector 0.8",
        pieces=(Piece(object=key, bytes=len(data), sha256=hashlib.sha256(data).hexdigest(), node=""),),
        points=1,
        drift=0,
        embedding=Embedding(model="test", dimension=2, distance="cosine", prefix=""),
        configuration={},
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
        state=StatePosition(lsn="0/1", timeline=1, schema_version=1),
        queue=None,
        collections=(part,),
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


@contextmanager
def behind(emulator: Emulator, bucket: str, meddle: Meddle) -> Iterator[Vault]:
    """A vault on that bucket whose requests pass `meddle`, with the answer's body: it may answer itself."""

    async def forward(request: web.Request) -> web.StreamResponse:
        headers = [(name, value) for name, value in request.headers.items() if name != "Expect"]
        url = f"{emulator.url}{request.rel_url.raw_path_qs}"
        async with (
            aiohttp.ClientSession(auto_decompress=False) as session,
            session.request(
                request.method, URL(url, encoded=True), headers=headers, data=await request.read()
            ) as answer,
        ):
            body = await answer.read()
            kept = {name: value for name, value in answer.headers.items() if name not in HOP_BY_HOP}
        if (own := await meddle(request, body)) is not None:
            return own
        if request.method == "HEAD":
            kept["Content-Length"] = answer.headers["Content-Length"]
        return web.Response(status=answer.status, headers=kept, body=body)

    loop, stack = asyncio.new_event_loop(), AsyncExitStack()
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    try:
        port = asyncio.run_coroutine_threadsafe(stack.enter_async_context(serving(forward)), loop).result(10)
        session = boto3.Session(aws_access_key_id=emulator.account, aws_secret_access_key=SECRET_KEY)
        client = aws.client("s3", "us-east-1", session=session, endpoint_url=f"http://127.0.0.1:{port}")
        yield Vault(client, bucket, region="us-east-1")
    finally:
        asyncio.run_coroutine_threadsafe(stack.aclose(), loop).result(10)
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()


HOP_BY_HOP = ("Content-Length", "Transfer-Encoding", "Connection", "Date", "Server")


async def hang_up(request: web.Request) -> web.StreamResponse:
    """Break the connection without an answer."""
    assert request.transport is not None
    request.transport.abort()
    return web.Response()


async def half(request: web.Request, body: bytes) -> web.StreamResponse:
    """Break the connection in the middle of an answer to a ranged read."""
    response = web.StreamResponse(status=206, headers={"Content-Length": str(len(body))})
    await response.prepare(request)
    await response.write(body[: len(body) // 2])
    return await hang_up(request)


def answer_503() -> web.Response:
    """As S3 asks to slow down."""
    return web.Response(status=503, text="<Error><Code>SlowDown</Code><Message>later</Message></Error>")


@pytest.fixture
def small_parts(monkeypatch: pytest.MonkeyPatch) -> bytes:
    """Some thirty parts' worth of bytes."""
    monkeypatch.setattr("relight.vault.store.PART_BYTES", 4096)
    return random.Random(1).randbytes(30 * 4096 + 11)


def write(vault: Vault, data: bytes) -> None:
    """In pieces that do not fit the parts."""
    with vault.writer("points/x/object") as writer:
        for start in range(0, len(data), 1000):
            writer.write(data[start : start + 1000])


def read(vault: Vault) -> bytes:
    """In pieces that do not fit the ranges."""
    with vault.reader("points/x/object") as reader:
        return b"".join(iter(lambda: reader.read(1000), b""))


def test_parts_that_arrive_out_of_order_make_one_object(
    emulator: Emulator, bucket: str, vault: Vault, small_parts: bytes
) -> None:
    """Several travel at once, each as slow as it likes, in both directions; the bytes are in order."""
    under_way: list[int] = [0, 0]

    async def dawdle(request: web.Request, _: bytes) -> None:
        if request.method in ("PUT", "GET"):
            under_way[0] += 1
            under_way[1] = max(under_way)
            await asyncio.sleep(0.01 * (int(request.query.get("partNumber", under_way[0])) % 3))
            under_way[0] -= 1

    with behind(emulator, bucket, dawdle) as slow:
        write(slow, small_parts)
        assert vault.get_bytes("points/x/object") == small_parts
        assert read(slow) == small_parts
    assert 1 < under_way[1] <= THREADS


@pytest.mark.parametrize("fault", ["503", "hang up"])
def test_faults_that_pass_are_tried_again(emulator: Emulator, bucket: str, small_parts: bytes, fault: str) -> None:
    """fails when a server that is busy, or breaks the connection in the middle of a part, fails an upload or a read."""
    seen: Counter[str] = Counter()

    async def fail_twice(request: web.Request, _: bytes) -> web.StreamResponse | None:
        what = request.query.get("partNumber", request.headers.get("Range", ""))
        seen[what] += 1
        if seen[what] > 2 or what not in ("3", "4", "bytes=4096-8191"):
            return None
        return answer_503() if fault == "503" else await hang_up(request)

    with behind(emulator, bucket, fail_twice) as vault:
        write(vault, small_parts)
        assert read(vault) == small_parts
    assert (seen["3"], seen["4"], seen["bytes=4096-8191"]) == (3, 3, 3)


def test_a_part_that_is_refused_gives_up_the_whole(
    emulator: Emulator, bucket: str, s3: Any, small_parts: bytes
) -> None:
    """fails when a part that fails in the middle leaves the others, an object, or no word of what happened."""

    async def refuse(request: web.Request, _: bytes) -> web.StreamResponse | None:
        if request.query.get("partNumber") != "9":
            return None
        return web.Response(status=403, text="<Error><Code>AccessDenied</Code><Message>no</Message></Error>")

    with behind(emulator, bucket, refuse) as vault, pytest.raises(DeniedError), vault.writer("points/x/o") as writer:
        for start in range(0, len(small_parts), 1000):
            writer.write(small_parts[start : start + 1000])
    assert isinstance(writer.error, DeniedError)
    assert s3.list_objects_v2(Bucket=bucket).get("KeyCount") == 0
    assert uploads(s3, bucket) == []


def test_a_read_that_is_cut_goes_on_where_it_stopped(emulator: Emulator, bucket: str, small_parts: bytes) -> None:
    """fails when a connection that breaks in the middle of a range fails the read, or bytes come twice."""
    asked: list[str] = []

    async def cut_whole_ranges(request: web.Request, body: bytes) -> web.StreamResponse | None:
        asked.append(request.headers.get("Range", ""))
        return await half(request, body) if request.method == "GET" and len(body) == 4096 else None

    with behind(emulator, bucket, cut_whole_ranges) as vault:
        write(vault, small_parts)
        assert read(vault) == small_parts
    assert "bytes=6144-8191" in asked


def test_a_read_that_is_always_cut_ends(
    emulator: Emulator, bucket: str, small_parts: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    """fails when a link that never holds is tried for ever, or its end is taken for the object's."""
    monkeypatch.setattr("relight.vault.store._PAUSES_S", (0.01, 0.01))

    async def cut_all(request: web.Request, body: bytes) -> web.StreamResponse | None:
        return await half(request, body) if request.method == "GET" else None

    with behind(emulator, bucket, cut_all) as vault:
        write(vault, small_parts)
        with pytest.raises(UnavailableError):
            read(vault)


def test_an_object_that_changes_while_it_is_read_is_noticed(vault: Vault, small_parts: bytes) -> None:
    """fails when what is read is of two versions of an object."""
    write(vault, small_parts)
    with vault.reader("points/x/object") as reader:
        reader.read(1000)
        vault.put_bytes("points/x/object", small_parts[::-1])
        with pytest.raises(IntegrityError, match="changed while it was read"):
            while reader.read(1000):
                pass


def test_a_reader_that_is_left_early_ends(emulator: Emulator, bucket: str, small_parts: bytes) -> None:
    """fails when what is being fetched outlives its reader, or fetches all of the object unasked."""
    asked: list[str] = []

    async def note(request: web.Request, _: bytes) -> None:
        asked.append(request.headers.get("Range", ""))

    with behind(emulator, bucket, note) as vault:
        write(vault, small_parts)
        with vault.reader("points/x/object") as reader:
            assert reader.read(10) == small_parts[:10]
        assert len([item for item in asked if item]) <= 6
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("vault-")]


def test_ten_thousand_parts_reach_far_in_bounded_memory() -> None:
    """The parts grow so that S3's limit of their number does not bound an object below 500 GB."""
    sizes = [part_bytes(number) for number in range(1, 10_001)]
    assert sizes == sorted(sizes)
    assert sum(sizes) > 500e9
    assert 2 * max(sizes) < 112 * 1024 * 1024


def test_a_presigned_url_gives_the_object_to_who_has_it(own_client: Callable[[str], Any], bucket: str) -> None:
    """It is signed for its region, needs no credentials, and is for that object alone."""
    vault = Vault(own_client("us-east-1"), bucket, region="us-east-1")
    vault.put_bytes("points/x/a b", b"content")
    url = vault.presigned_url("points/x/a b", expires_s=60)
    assert "us-east-1" in url
    assert "X-Amz-Algorithm=AWS4-HMAC-SHA256" in url
    assert urllib3.request("GET", url).data == b"content"
    assert urllib3.request("GET", url.replace("a%20b", "other")).status in (403, 404)


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
        seal(vault, key="runs/other")
    else:
        manifest = seal(vault)
    if damage == "unsealed":
        s3.delete_object(Bucket=bucket, Key=key)
    elif damage == "missing":
        s3.delete_object(Bucket=bucket, Key=manifest.collections[0].pieces[0].object)
    elif damage == "truncated":
        s3.put_object(Bucket=bucket, Key=manifest.collections[0].pieces[0].object, Body=b"the")
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
