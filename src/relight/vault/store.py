"""A vault: one bucket of an S3-compatible store. Bytes pass through in bounded memory and are hashed on the way."""

from __future__ import annotations

import base64
import hashlib
import io
import json
import threading
import zlib
from collections import deque
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

from relight.adapters.aws import md5, translating
from relight.errors import ConfigError, ConflictError, IntegrityError, NotFoundError, RelightError, UnavailableError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from relight.vault.signing import Signer

# As many as S3 takes at once.
DELETE_BATCH = 1000

# How many parts travel at once, in either direction: one connection to S3 carries some 80 MB/s.
THREADS = 4
PART_BYTES = 8 * 1024 * 1024
MOST_PARTS = 10_000

# What a writer holds at most, but for the largest parts, and what a reader is ahead at most.
BUFFER_BYTES = 64 * 1024 * 1024
READ_AHEAD = 6

# A range whose connection broke is asked for again from where it stopped, after these pauses.
_PAUSES_S = (0.1, 0.2, 0.4, 0.8)
_CHUNK_BYTES = 1024 * 1024
_SEND_BYTES = 128 * 1024


def part_bytes(number: int) -> int:
    """The size of an upload's part, counted from one.

    S3 takes 10,000 parts, so they grow: 8 MiB to 4 GiB, 16 MiB to 12 GiB, then 52 MiB to 502 GB. Of the largest one
    is filled while one is uploaded, which makes 104 MiB the most memory in use.
    """
    if number <= 512:
        return PART_BYTES
    return 2 * PART_BYTES if number <= 1024 else 13 * PART_BYTES // 2


def equal_part_bytes(size: int | None) -> int:
    """The size of every part of an upload to a store that wants all but the last alike, as Cloudflare's R2 does.

    Of an upload whose `size` is not known, 10,000 of them make 335 GB.
    """
    if size is None:
        return 4 * PART_BYTES
    least = -(-size // MOST_PARTS)
    return max(PART_BYTES, -(-least // _CHUNK_BYTES) * _CHUNK_BYTES)


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredObject:
    """An object's key, size, and what changes when it is written again."""

    key: str
    bytes: int
    modified: datetime
    etag: str


@dataclass(frozen=True, slots=True, kw_only=True)
class HiddenObject:
    """An object that a deletion hides: since when, the size of what it hides, and the markers that do."""

    key: str
    bytes: int
    hidden_at: datetime
    markers: tuple[str, ...]


class Vault:
    """One region's bucket for recovery points. Safe to share between threads.

    Every method raises UnavailableError, DeniedError, or NotFoundError for an object that does not exist. Of a store
    `elsewhere` than in AWS nothing is taken for granted in which such stores differ: docs/other-stores.md. Its bucket
    lets go of no object `holds_for` that long after it was put, and tells nobody.
    """

    def __init__(
        self,
        client: Any,
        bucket: str,
        *,
        region: str,
        signer: Signer | None = None,
        elsewhere: bool = False,
        holds_for: timedelta = timedelta(),
    ) -> None:
        self._client = client
        self.bucket = bucket
        self.region = region
        self.elsewhere = elsewhere
        self._holds_for = holds_for
        self.signer = signer
        """Signs the points that are sealed here and verifies those that are read; None for no signatures."""

    @property
    def client(self) -> Any:
        """The store's S3 client, for whoever tries the store itself. Its errors are not translated."""
        return self._client

    def __repr__(self) -> str:
        return f"Vault(s3://{self.bucket} in {self.region})"

    def __str__(self) -> str:
        return f"the vault {self.bucket} in {self.region}"

    def put_bytes(self, key: str, data: bytes, *, only_if_absent: bool = False) -> None:
        """Put a small object; with `only_if_absent`, ConflictError when the key holds other bytes.

        A retry inside the client may meet the object that its own first attempt put: the same bytes are no conflict.
        In a store that does not know the condition, two that put at the same moment may both be told that they did.
        """
        if only_if_absent and self.elsewhere and self._holds_other(key, data):
            raise ConflictError(f"s3://{self.bucket}/{key} holds other bytes", hint="nothing was written")
        condition = {"IfNoneMatch": "*"} if only_if_absent else {}
        try:
            with translating():
                answer = self._client.put_object(
                    Bucket=self.bucket, Key=key, Body=data, **condition, **_protected(self._client, memoryview(data))
                )
        except ConflictError:
            if self.get_bytes(key) != data:
                raise
        else:
            if only_if_absent and self.elsewhere and self._etag(key) != answer["ETag"] and self._holds_other(key, data):
                raise ConflictError(f"s3://{self.bucket}/{key} holds other bytes", hint="somebody else was later")

    def _holds_other(self, key: str, data: bytes) -> bool:
        """Whether the key holds something, and other bytes. Google's store ignores the condition of a put, and answers
        as if it had been met."""
        try:
            return self.get_bytes(key) != data
        except NotFoundError:
            return False

    def _etag(self, key: str) -> str:
        with translating():
            return str(self._client.head_object(Bucket=self.bucket, Key=key)["ETag"])

    def get_bytes(self, key: str) -> bytes:
        """A small object."""
        with translating():
            body: bytes = self._client.get_object(Bucket=self.bucket, Key=key)["Body"].read()
        return body

    def put_json(self, key: str, value: Any, *, only_if_absent: bool = False) -> None:
        """Put a small JSON document; see `put_bytes`."""
        self.put_bytes(key, json.dumps(value, sort_keys=True).encode(), only_if_absent=only_if_absent)

    def get_json(self, key: str) -> Any:
        """A small JSON document; IntegrityError when it is none."""
        try:
            return json.loads(self.get_bytes(key))
        except ValueError as exc:
            raise IntegrityError(f"s3://{self.bucket}/{key} is not JSON") from exc

    def objects(self, prefix: str) -> Iterator[StoredObject]:
        """Every object under `prefix`, by key."""
        arguments: dict[str, Any] = {"Bucket": self.bucket, "Prefix": prefix}
        while True:
            with translating():
                page = self._client.list_objects_v2(**arguments)
            for item in page.get("Contents", []):
                yield StoredObject(
                    key=item["Key"], bytes=item["Size"], modified=item["LastModified"], etag=item["ETag"]
                )
            if not page.get("IsTruncated"):
                return
            arguments["ContinuationToken"] = page["NextContinuationToken"]

    def locked_until(self, key: str) -> datetime | None:
        """Until when Object Lock keeps an object, None when nothing does. A legal hold is a lock without an end."""
        with translating():
            head = self._client.head_object(Bucket=self.bucket, Key=key)
        if head.get("ObjectLockLegalHoldStatus") == "ON":
            return datetime.max.replace(tzinfo=UTC)
        until: datetime | None = head.get("ObjectLockRetainUntilDate")
        if self._holds_for:
            held: datetime = head["LastModified"] + self._holds_for
            return held if until is None else max(until, held)
        return until

    def delete(self, keys: Sequence[str]) -> dict[str, str]:
        """Remove objects, a thousand to a request; returns what went wrong by key. A key without object is no error."""
        failed: dict[str, str] = {}
        for first in range(0, len(keys), DELETE_BATCH):
            batch = [{"Key": key} for key in keys[first : first + DELETE_BATCH]]
            with translating():
                answer = self._client.delete_objects(Bucket=self.bucket, Delete={"Objects": batch, "Quiet": True})
            failed |= {item["Key"]: f"{item.get('Code')}: {item.get('Message')}" for item in answer.get("Errors", [])}
        return failed

    def hidden(self, prefix: str) -> list[HiddenObject]:
        """The objects under `prefix` that a deletion hides, and whose bytes are still there; by key."""
        self._need_versions()
        arguments: dict[str, Any] = {"Bucket": self.bucket, "Prefix": prefix}
        versions: dict[str, Any] = {}
        markers: dict[str, list[Any]] = {}
        while True:
            with translating():
                page = self._client.list_object_versions(**arguments)
            for item in page.get("Versions", []):  # the newest of a key comes first
                versions.setdefault(item["Key"], item)
            for item in page.get("DeleteMarkers", []):
                markers.setdefault(item["Key"], []).append(item)
            if not page.get("IsTruncated"):
                break
            arguments |= {"KeyMarker": page["NextKeyMarker"], "VersionIdMarker": page["NextVersionIdMarker"]}
        return [
            HiddenObject(
                key=key,
                bytes=versions[key]["Size"],
                hidden_at=max(item["LastModified"] for item in found),
                markers=tuple(item["VersionId"] for item in found),
            )
            for key, found in sorted(markers.items())
            if key in versions and not versions[key]["IsLatest"]
        ]

    def unhide(self, item: HiddenObject) -> None:
        """Show the object's newest bytes again. It removes markers alone, and takes a permission that no role has."""
        for marker in item.markers:
            with translating():
                self._client.delete_object(Bucket=self.bucket, Key=item.key, VersionId=marker)

    def hold(self, key: str, *, held: bool) -> None:
        """Put a legal hold on an object, or end it: until then nobody may destroy it, however old it is."""
        self._need_versions()
        with translating():
            self._client.put_object_legal_hold(
                Bucket=self.bucket, Key=key, LegalHold={"Status": "ON" if held else "OFF"}
            )

    def _need_versions(self) -> None:
        if self.elsewhere:
            raise ConfigError(
                f"{self} is not in S3, and has neither versions nor holds that Relight knows",
                hint="see what its store offers: docs/other-stores.md",
            )

    def list_keys(self, prefix: str) -> Iterator[str]:
        """Every key under `prefix`, in order."""
        return (item.key for item in self.objects(prefix))

    @contextmanager
    def writer(self, key: str, *, size: int | None = None) -> Iterator[ObjectWriter]:
        """Write an object piece by piece. It appears whole when the block ends, and not at all when the block fails.

        `size` is how many bytes it will have, where that is known: it need not be, up to 335 GB.
        """
        writer = ObjectWriter(self._client, self.bucket, key, alike=equal_part_bytes(size) if self.elsewhere else None)
        try:
            yield writer
            writer.finish()
        except BaseException:
            writer.abort()
            raise

    @contextmanager
    def reader(self, key: str) -> Iterator[ObjectReader]:
        """Read an object piece by piece, hashing it; see `ObjectReader`."""
        reader = ObjectReader(self._client, self.bucket, key)
        try:
            yield reader
        finally:
            reader.close()

    def presigned_url(self, key: str, *, expires_s: int) -> str:
        """A URL from which whoever has it may read the object for that long, or until our own credentials expire."""
        with translating():
            url: str = self._client.generate_presigned_url(
                "get_object", Params={"Bucket": self.bucket, "Key": key}, ExpiresIn=expires_s
            )
        return url


class ObjectWriter:
    """Collects what is written into parts and uploads several at once, while the caller goes on writing.

    For one thread. Memory is bounded by BUFFER_BYTES, and by two of the largest parts; see `part_bytes`. With `alike`
    each but the last is that large.
    """

    def __init__(self, client: Any, bucket: str, key: str, *, alike: int | None = None) -> None:
        self._client = client
        self._alike = alike
        self._target = {"Bucket": bucket, "Key": key}
        self._hash = hashlib.sha256()
        self._part = bytearray()
        self._filled = 0
        self._upload: str | None = None
        self._pool: ThreadPoolExecutor | None = None
        self._sent = 0
        self._pending: dict[Future[dict[str, Any]], int] = {}
        self._parts: list[dict[str, Any]] = []
        self._checksums = _checksums(client)
        self.bytes = 0
        self.error: RelightError | None = None
        """What the vault failed with, if it did: so that a caller can tell it from an error of the bytes' origin."""

    @property
    def sha256(self) -> str:
        """Of everything written so far, in hexadecimal."""
        return self._hash.hexdigest()

    def write(self, data: bytes) -> int:
        """Take all of `data`; raises what the upload of an earlier part failed with."""
        self._hash.update(data)
        self.bytes += len(data)
        rest = memoryview(data)
        while rest:
            if not self._part:
                self._begin_part()
            taken = rest[: len(self._part) - self._filled]
            self._part[self._filled : self._filled + len(taken)] = taken
            self._filled += len(taken)
            rest = rest[len(taken) :]
            if self._filled == len(self._part):
                self._send_part()
        return len(data)

    def finish(self) -> None:
        """Make the object appear."""
        if self._upload is None:
            with self._noting_errors():
                body = bytes(memoryview(self._part)[: self._filled])
                self._client.put_object(**self._target, Body=body, **_protected(self._client, memoryview(body)))
            return
        if self._filled:
            self._send_part()
        self._collect(all_of_them=True)
        with self._noting_errors():
            self._client.complete_multipart_upload(
                **self._target,
                UploadId=self._upload,
                MultipartUpload={"Parts": sorted(self._parts, key=lambda part: part["PartNumber"])},
            )
        self._upload = None
        self._end_threads()

    def abort(self) -> None:
        """Give the parts up. What an unreachable vault keeps of them is invisible, and its lifecycle removes it."""
        self._end_threads()  # first, because a part that arrives after the abort would stay
        if self._upload is None:
            return
        upload, self._upload = self._upload, None
        try:
            with translating():
                self._client.abort_multipart_upload(**self._target, UploadId=upload)
        except RelightError as exc:
            self.error = self.error or exc

    def _begin_part(self) -> None:
        size = self._alike or part_bytes(self._sent + 1)
        while self._pending and sum(self._pending.values()) + size > max(BUFFER_BYTES, 2 * size):
            self._collect()
        self._part = bytearray(size)

    def _send_part(self) -> None:
        self._collect(wait_for_one=False)
        if self._upload is None or self._pool is None:
            with self._noting_errors():
                checksum = {"ChecksumAlgorithm": "CRC32"} if self._checksums else {}
                self._upload = self._client.create_multipart_upload(**self._target, **checksum)["UploadId"]
            self._pool = ThreadPoolExecutor(THREADS, thread_name_prefix="vault-writer")
        self._sent += 1
        body = memoryview(self._part)[: self._filled]
        self._pending[self._pool.submit(self._put_part, self._upload, self._sent, body)] = len(self._part)
        self._part, self._filled = bytearray(), 0

    def _collect(self, *, wait_for_one: bool = True, all_of_them: bool = False) -> None:
        """Take the results of parts that are through, so that their memory is free."""
        if wait_for_one and self._pending:
            wait(self._pending, return_when=FIRST_COMPLETED)
        for future in [*self._pending] if all_of_them else [item for item in self._pending if item.done()]:
            with self._noting_errors():
                self._parts.append(future.result())
            del self._pending[future]

    def _put_part(self, upload: str, number: int, body: memoryview) -> dict[str, Any]:
        # botocore's own way, a trailer over TLS, copies each part again and again: 2.7 s of a core per GB, and 2.2 so.
        checksum = {"ChecksumCRC32": _crc32(body)} if self._checksums else {}
        with translating():
            answer = self._client.upload_part(
                **self._target,
                UploadId=upload,
                PartNumber=number,
                Body=_Body(body),
                **(checksum or _protected(self._client, body)),
            )
        return {"PartNumber": number, "ETag": answer["ETag"], **checksum}

    def _end_threads(self) -> None:
        if self._pool is not None:
            self._pool.shutdown(cancel_futures=True)
            self._pool = None
        self._pending.clear()
        self._part, self._filled = bytearray(), 0

    @contextmanager
    def _noting_errors(self) -> Iterator[None]:
        try:
            with translating():
                yield
        except RelightError as exc:
            self.error = self.error or exc
            raise


class ObjectReader:
    """Gives an object's bytes in order and hashes them, while the next ranges are fetched, several at once.

    All are of one version of the object: IntegrityError when it changes meanwhile. A connection that breaks is made
    again from where it stopped, a few times for each range; then it is UnavailableError. For one thread.
    """

    def __init__(self, client: Any, bucket: str, key: str) -> None:
        self._client = client
        with translating():
            head = client.head_object(Bucket=bucket, Key=key)
        self._target = {"Bucket": bucket, "Key": key, "IfMatch": head["ETag"]}
        self._size: int = head["ContentLength"]
        self._asked = 0
        self._ranges: deque[Future[deque[bytes]]] = deque()
        self._chunks: deque[bytes] = deque()
        self._pool = ThreadPoolExecutor(THREADS, thread_name_prefix="vault-reader")
        self._closed = threading.Event()
        self._hash = hashlib.sha256()
        self.bytes = 0

    @property
    def sha256(self) -> str:
        """Of everything read so far, in hexadecimal."""
        return self._hash.hexdigest()

    def read(self, size: int) -> bytes:
        """Up to `size` bytes, none at the end."""
        while self._asked < self._size and len(self._ranges) < READ_AHEAD:
            end = min(self._asked + PART_BYTES, self._size)
            self._ranges.append(self._pool.submit(self._fetch, self._asked, end))
            self._asked = end
        while not self._chunks:
            if not self._ranges:
                return b""
            self._chunks = self._ranges.popleft().result()
        data = self._chunks.popleft()
        if len(data) > size:
            self._chunks.appendleft(data[size:])
            data = data[:size]
        self._hash.update(data)
        self.bytes += len(data)
        return data

    def close(self) -> None:
        """End what is being fetched."""
        self._closed.set()
        self._pool.shutdown(cancel_futures=True)

    def _fetch(self, start: int, end: int) -> deque[bytes]:
        chunks: deque[bytes] = deque()
        for pause_s in (*_PAUSES_S, None):
            try:
                for chunk in self._range(start, end):
                    chunks.append(chunk)
                    start += len(chunk)
                return chunks
            except UnavailableError:
                if pause_s is None or self._closed.wait(pause_s):
                    raise
        raise AssertionError("unreachable")

    def _range(self, start: int, end: int) -> Iterator[bytes]:
        try:
            with translating():
                body = self._client.get_object(**self._target, Range=f"bytes={start}-{end - 1}")["Body"]
        except ConflictError as exc:
            raise IntegrityError(
                f"{self._target['Key']} changed while it was read", hint="nothing may write there: use another point"
            ) from exc
        try:
            while start < end and not self._closed.is_set():
                with translating():
                    chunk: bytes = body.read(_CHUNK_BYTES)
                if not chunk:
                    raise UnavailableError(f"{self._target['Key']} ended {end - start} bytes early")
                start += len(chunk)
                yield chunk
        finally:
            body.close()


class _Body(io.RawIOBase):
    """A part as botocore sends it, without a copy, and in larger pieces than the 16 KiB that it asks for."""

    def __init__(self, data: memoryview) -> None:
        self._data = data
        self._at = 0

    def __len__(self) -> int:
        return len(self._data)

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._at

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        self._at = offset + {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: len(self._data)}[whence]
        return self._at

    def read(self, size: int | None = -1) -> memoryview:
        end = len(self._data) if size is None or size < 0 else self._at + max(size, _SEND_BYTES)
        piece = self._data[self._at : end]
        self._at += len(piece)
        return piece


def _checksums(client: Any) -> bool:
    """Whether botocore sends checksums; a server for which they are switched off gets none from here either."""
    return bool(client.meta.config.request_checksum_calculation != "when_required")


def _protected(client: Any, data: memoryview) -> dict[str, str]:
    """What makes the store refuse bytes that were altered on the way, where botocore adds nothing: over TLS it does not
    sign them either."""
    if _checksums(client):
        return {}
    return {"ContentMD5": md5(data)}


def _crc32(data: memoryview) -> str:
    return base64.b64encode(zlib.crc32(data).to_bytes(4, "big")).decode()
