"""A vault: one bucket of an S3-compatible store. Bytes pass through in bounded memory and are hashed on the way."""

from __future__ import annotations

import hashlib
import json
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from relight.adapters.aws import translating
from relight.errors import ConflictError, IntegrityError, RelightError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from relight.vault.signing import Signer

# S3 takes 10,000 parts of an upload, so this size reaches 80 GiB, and two parts' worth of memory is the most in use.
PART_BYTES = 8 * 1024 * 1024

# As many as S3 takes at once.
DELETE_BATCH = 1000


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredObject:
    """An object's key, size, and what changes when it is written again."""

    key: str
    bytes: int
    modified: datetime
    etag: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Hold:
    """What keeps an object: `locked_until` by Object Lock, and `replica` when another vault's replication put it."""

    locked_until: datetime | None
    replica: bool


class Vault:
    """One region's bucket for recovery points. Safe to share between threads.

    Every method raises UnavailableError, DeniedError, or NotFoundError for an object that does not exist.
    """

    def __init__(self, client: Any, bucket: str, *, region: str, signer: Signer | None = None) -> None:
        self._client = client
        self.bucket = bucket
        self.region = region
        self.signer = signer
        """Signs the points that are sealed here and verifies those that are read; None for no signatures."""

    def __repr__(self) -> str:
        return f"Vault(s3://{self.bucket} in {self.region})"

    def __str__(self) -> str:
        return f"the vault {self.bucket} in {self.region}"

    def put_bytes(self, key: str, data: bytes, *, only_if_absent: bool = False) -> None:
        """Put a small object; with `only_if_absent`, ConflictError when the key holds other bytes.

        A retry inside the client may meet the object that its own first attempt put: the same bytes are no conflict.
        """
        condition = {"IfNoneMatch": "*"} if only_if_absent else {}
        try:
            with translating():
                self._client.put_object(Bucket=self.bucket, Key=key, Body=data, **condition)
        except ConflictError:
            if self.get_bytes(key) != data:
                raise

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

    def hold(self, key: str) -> Hold:
        """Whether an object may go. A legal hold is a lock without an end."""
        with translating():
            head = self._client.head_object(Bucket=self.bucket, Key=key)
        locked_until = head.get("ObjectLockRetainUntilDate")
        if head.get("ObjectLockLegalHoldStatus") == "ON":
            locked_until = datetime.max.replace(tzinfo=UTC)
        return Hold(locked_until=locked_until, replica=head.get("ReplicationStatus") == "REPLICA")

    def delete(self, keys: Sequence[str]) -> dict[str, str]:
        """Remove objects, a thousand to a request; returns what went wrong by key. A key without object is no error."""
        failed: dict[str, str] = {}
        for first in range(0, len(keys), DELETE_BATCH):
            batch = [{"Key": key} for key in keys[first : first + DELETE_BATCH]]
            with translating():
                answer = self._client.delete_objects(Bucket=self.bucket, Delete={"Objects": batch, "Quiet": True})
            failed |= {item["Key"]: f"{item.get('Code')}: {item.get('Message')}" for item in answer.get("Errors", [])}
        return failed

    def list_keys(self, prefix: str) -> Iterator[str]:
        """Every key under `prefix`, in order."""
        return (item.key for item in self.objects(prefix))

    @contextmanager
    def writer(self, key: str) -> Iterator[ObjectWriter]:
        """Write an object piece by piece. It appears whole when the block ends, and not at all when the block fails."""
        writer = ObjectWriter(self._client, self.bucket, key)
        try:
            yield writer
            writer.finish()
        except BaseException:
            writer.abort()
            raise

    @contextmanager
    def reader(self, key: str) -> Iterator[ObjectReader]:
        """Read an object piece by piece, hashing it."""
        with translating():
            body = self._client.get_object(Bucket=self.bucket, Key=key)["Body"]
        try:
            yield ObjectReader(body)
        finally:
            body.close()


class ObjectWriter:
    """Collects what is written into parts and uploads each when it is full."""

    def __init__(self, client: Any, bucket: str, key: str) -> None:
        self._client = client
        self._target = {"Bucket": bucket, "Key": key}
        self._buffer = bytearray()
        self._hash = hashlib.sha256()
        self._upload: str | None = None
        self._parts: list[dict[str, Any]] = []
        self.bytes = 0
        self.error: RelightError | None = None
        """What the vault failed with, if it did: so that a caller can tell it from an error of the bytes' origin."""

    @property
    def sha256(self) -> str:
        """Of everything written so far, in hexadecimal."""
        return self._hash.hexdigest()

    def write(self, data: bytes) -> int:
        """Take all of `data`."""
        self._hash.update(data)
        self.bytes += len(data)
        self._buffer += data
        while len(self._buffer) >= PART_BYTES:
            part = bytes(self._buffer[:PART_BYTES])
            del self._buffer[:PART_BYTES]
            self._call(self._put_part, part)
        return len(data)

    def finish(self) -> None:
        """Make the object appear."""
        self._call(self._complete)

    def abort(self) -> None:
        """Give the parts up. What an unreachable vault keeps of them is invisible, and its lifecycle removes it."""
        if self._upload is None:
            return
        upload, self._upload = self._upload, None
        try:
            with translating():
                self._client.abort_multipart_upload(**self._target, UploadId=upload)
        except RelightError as exc:
            self.error = self.error or exc

    def _call(self, action: Any, *arguments: Any) -> None:
        try:
            with translating():
                action(*arguments)
        except RelightError as exc:
            self.error = exc
            raise

    def _put_part(self, part: bytes) -> None:
        if self._upload is None:
            self._upload = self._client.create_multipart_upload(**self._target)["UploadId"]
        number = len(self._parts) + 1
        answer = self._client.upload_part(**self._target, UploadId=self._upload, PartNumber=number, Body=part)
        checksums = {name: value for name, value in answer.items() if name in ("ChecksumCRC32", "ChecksumCRC64NVME")}
        self._parts.append({"PartNumber": number, "ETag": answer["ETag"], **checksums})

    def _complete(self) -> None:
        if self._upload is None:
            self._client.put_object(**self._target, Body=bytes(self._buffer))
            return
        if self._buffer:
            self._put_part(bytes(self._buffer))
        self._client.complete_multipart_upload(
            **self._target, UploadId=self._upload, MultipartUpload={"Parts": self._parts}
        )
        self._upload = None


class ObjectReader:
    """Gives an object's bytes in order and hashes them. A connection that breaks is UnavailableError."""

    def __init__(self, body: Any) -> None:
        self._body = body
        self._hash = hashlib.sha256()
        self.bytes = 0

    @property
    def sha256(self) -> str:
        """Of everything read so far, in hexadecimal."""
        return self._hash.hexdigest()

    def read(self, size: int) -> bytes:
        """Up to `size` bytes, none at the end."""
        with translating():
            data: bytes = self._body.read(size)
        self._hash.update(data)
        self.bytes += len(data)
        return data
