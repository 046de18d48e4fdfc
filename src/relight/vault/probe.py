"""Trying a vault's store: whether it does what Relight relies on, with small objects that are removed again."""

from __future__ import annotations

import hashlib
import secrets
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from relight.adapters.aws import md5, translating
from relight.errors import ConflictError, IntegrityError, NotFoundError, RelightError
from relight.vault.store import PART_BYTES

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from relight.vault.store import Vault

PREFIX = "probe/"


@dataclass(frozen=True, slots=True, kw_only=True)
class Trial:
    """One thing that was tried. With `ok` it is as Relight needs it; `found` says what the store did."""

    what: str
    ok: bool
    found: str

    def to_json(self) -> dict[str, Any]:
        """As plain JSON values."""
        return asdict(self)


def probe(vault: Vault) -> Iterator[Trial]:
    """Try one thing after another; what fails is a trial that says why, and never an exception.

    Whoever asks may put, read, list and delete under `probe/`, where nothing stays unless the last trial says so.
    """
    prefix = f"{PREFIX}{secrets.token_hex(8)}/"
    for what, attempt in (
        ("an object is there once it is put, and in the next listing", _put),
        ("a put on condition that there is nothing", _condition),
        ("a body that was altered on the way", _altered),
        ("an upload in parts, read back in ranges", _parts),
        ("a read of a version that is gone", _version),
        ("a deletion of several at once", _delete),
    ):
        try:
            ok, found = attempt(vault, prefix)
        except RelightError as exc:
            ok, found = False, str(exc)
        yield Trial(what=what, ok=ok, found=found)


_Found = tuple[bool, str]


def _put(vault: Vault, prefix: str) -> _Found:
    vault.put_bytes(f"{prefix}a b+ö", b"first")
    listed = [*vault.list_keys(prefix)] == [f"{prefix}a b+ö"]
    same = vault.get_bytes(f"{prefix}a b+ö") == b"first"
    return listed and same, "it is" if listed and same else "it is not listed" if same else "other bytes came back"


def _condition(vault: Vault, prefix: str) -> _Found:
    key = f"{prefix}condition"
    vault.put_bytes(key, b"first")
    body = b"second"
    try:
        with translating():
            vault.client.put_object(Bucket=vault.bucket, Key=key, Body=body, IfNoneMatch="*", ContentMD5=md5(body))
    except ConflictError:
        return True, "heeded: the second of two that put at once is told so"
    if not vault.elsewhere:
        return False, "ignored: a second point of the same second would take the place of the first"
    return True, "ignored: Relight looks before and after, and of two at the same moment both may be told yes"


def _altered(vault: Vault, prefix: str) -> _Found:
    try:
        with translating():
            vault.client.put_object(
                Bucket=vault.bucket, Key=f"{prefix}altered", Body=b"received", ContentMD5=md5(b"sent")
            )
    except IntegrityError:
        return True, "refused"
    return False, "taken: what a broken proxy makes of a body is kept, and found when the point is verified"


def _parts(vault: Vault, prefix: str) -> _Found:
    data = secrets.token_bytes(1024) * (PART_BYTES // 1024) + b"the end"
    with vault.writer(f"{prefix}parts", size=len(data)) as writer:
        writer.write(data)
    with vault.reader(f"{prefix}parts") as reader:
        while reader.read(1024 * 1024):
            pass
    same = reader.sha256 == hashlib.sha256(data).hexdigest()
    return same, "it is" if same else "other bytes came back"


def _version(vault: Vault, prefix: str) -> _Found:
    key = f"{prefix}version"
    vault.put_bytes(key, b"first")
    refused = _refuses(lambda: _get(vault, key, '"00000000000000000000000000000000"'))
    return refused, "refused" if refused else "given: an object that changes while it is read is not noticed at once"


def _get(vault: Vault, key: str, etag: str) -> None:
    with translating():
        vault.client.get_object(Bucket=vault.bucket, Key=key, IfMatch=etag)


def _refuses(ask: Callable[[], None]) -> bool:
    try:
        ask()
    except ConflictError:
        return True
    return False


def _delete(vault: Vault, prefix: str) -> _Found:
    keys = [*vault.list_keys(prefix)]
    failed = vault.delete([*keys, f"{prefix}never"])
    left = [*vault.list_keys(prefix)]
    if failed or left:
        why = next(iter(failed.values()), "no error was given")
        return False, f"{len(left)} objects stay under {prefix}: {why}"
    try:
        vault.get_bytes(keys[0])
    except NotFoundError:
        return True, "they are gone"
    return False, "one is still given"
