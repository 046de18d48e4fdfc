"""What steps, tasks and tools give back: JSON, inline while it is small, in the vault by reference when it is not."""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from relight.errors import IntegrityError, NotFoundError, PermanentError, UnavailableError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from relight.vault.store import Vault

# A row of PostgreSQL up to which a result travels with the write-ahead log, and beyond which it would slow the standby.
INLINE_BYTES = 64 << 10
LARGEST_BYTES = 64 << 20
LARGEST_PAYLOAD_BYTES = 8 << 20
# Parsing takes a frame of the reader's stack for each level, and the reader may be deep in its own program.
DEEPEST = 200
PREFIX = "results/"
_NO_BRACKET = re.compile(r'"[^"\\]*(?:\\.[^"\\]*)*"|[^][{}"]+')


@dataclass(frozen=True, slots=True, kw_only=True)
class Stored:
    """A value as a row holds it: its JSON, or the key of the object that does. One of the two is set."""

    inline: str | None = None
    object: str | None = None


class Results(Protocol):
    """Where values are kept that are too large for a row."""

    def put(self, key: str, data: bytes) -> None:
        """Store it durably under its key; storing it again changes nothing."""
        ...

    def get(self, key: str) -> bytes:
        """Read it; NotFoundError when nobody has it, UnavailableError when it cannot be told now."""
        ...


class UnstorableError(PermanentError):
    """A value is not JSON, or too large to be stored: what made it will make it again."""


class NoResults:
    """For where there is no vault: what is too large for a row is refused."""

    def put(self, key: str, data: bytes) -> None:  # noqa: ARG002 - of the port
        raise UnstorableError(
            f"a value of {len(data)} bytes is larger than the {INLINE_BYTES} that a row takes, and there is no vault",
            hint="give the ledger a vault, or return a reference instead",
        )

    def get(self, key: str) -> bytes:
        raise NotFoundError(f"there is no vault to read {key!r} from", hint="give the ledger a vault")


class VaultResults:
    """Keeps values in the vaults: written to the first that takes them, read from the first that has them.

    The first is the standby's, so that a step that is done there has its result there, whatever becomes of replication.
    """

    def __init__(self, vaults: Sequence[Vault]) -> None:
        self._vaults = vaults

    def put(self, key: str, data: bytes) -> None:
        failure: UnavailableError | None = None
        for vault in self._vaults:
            try:
                vault.put_bytes(key, data, only_if_absent=True)
            except UnavailableError as exc:
                failure = exc
            else:
                return
        raise UnavailableError("no vault took the result", hint="see that a vault can be reached") from failure

    def get(self, key: str) -> bytes:
        failure: UnavailableError | None = None
        for vault in self._vaults:
            try:
                data = vault.get_bytes(key)
            except NotFoundError:
                continue
            except UnavailableError as exc:
                failure = exc
            else:
                return data
        if failure is not None:
            raise failure
        raise NotFoundError(f"no vault has {key!r}", hint="it was lost with its region before it was replicated")


def encode(value: Any, *, what: str, largest: int = LARGEST_BYTES) -> str:
    """`value` as JSON in ASCII, which holds every text exactly."""
    try:
        text = json.dumps(value, allow_nan=False, separators=(",", ":"))
    except (TypeError, ValueError, RecursionError) as exc:
        raise UnstorableError(f"{what} is not JSON: {exc}", hint="return text, numbers, lists and objects") from exc
    if len(text) > largest:
        raise UnstorableError(
            f"{what} has {len(text)} bytes of JSON, and {largest} are allowed", hint="keep it elsewhere, give its place"
        )
    if _is_deeper(text, DEEPEST):
        raise UnstorableError(f"{what} is nested deeper than {DEEPEST} levels", hint="flatten it, or store it as text")
    return text


def copied(value: Any) -> Any:
    """A value of JSON, that shares nothing with the one given."""
    return json.loads(json.dumps(value)) if isinstance(value, (list, dict)) else value


def _is_deeper(text: str, levels: int) -> bool:
    """Whether JSON is nested deeper than that. Without a loop over its characters: it may have millions."""
    if text.count("[") + text.count("{") <= levels:
        return False
    brackets = _NO_BRACKET.sub("", text).replace("{", "[").replace("}", "]")
    for _ in range(levels):
        brackets = brackets.replace("[]", "")
        if not brackets:
            return False
    return True


def store(results: Results, value: Any, *, what: str) -> tuple[Stored, Any]:
    """Keep `value`, in the vault when it is large; and the value as every later reader will get it."""
    text = encode(value, what=what)
    again = json.loads(text)
    if len(text) <= INLINE_BYTES:
        return Stored(inline=text), again
    data = text.encode()
    key = f"{PREFIX}{hashlib.sha256(data).hexdigest()}.json"
    results.put(key, data)
    return Stored(object=key), again


def load(results: Results, inline: Any, key: str | None) -> Any:
    """The value of a row: `inline` as the driver parsed it, or the object's; IntegrityError when that was altered."""
    if key is None:
        return inline
    data = results.get(key)
    if key != f"{PREFIX}{hashlib.sha256(data).hexdigest()}.json":
        raise IntegrityError(f"{key!r} does not hold what its name says", hint="restore the object's earlier version")
    return json.loads(data)
