"""A point restored beside the live memory, to look at; nobody else is disturbed, and nothing of it stays."""

from __future__ import annotations

import hashlib
import os
import signal
import subprocess
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from relight.errors import ConfigError, RelightError
from relight.memory.hydrate import usable
from relight.memory.transfer import PointSource

if TYPE_CHECKING:
    from collections.abc import Iterator

    from relight.memory.store import CollectionSpec, Restored, VectorStore
    from relight.vault.manifest import CollectionPart
    from relight.vault.points import PointStatus
    from relight.vault.store import Vault


@dataclass(frozen=True, slots=True, kw_only=True)
class Scratch:
    """A restored collection, by the name that it has in the store."""

    name: str
    part: CollectionPart
    restored: Restored


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """A user's own command. Exit code 0 means that the memory is good.

    It runs in a shell with the collection's name and the store's address, which holds a password, in its environment
    as RELIGHT_COLLECTION and RELIGHT_MEMORY_DSN; what it prints goes to stderr.
    """

    command: str
    within_s: float = 300.0

    def run(self, collection: str, dsn: str) -> str:
        """What is wrong with the collection, empty when nothing is. The command and all its children end in time."""
        env = os.environ | {"RELIGHT_COLLECTION": collection, "RELIGHT_MEMORY_DSN": dsn}
        try:
            process = subprocess.Popen(
                ["/bin/sh", "-c", self.command], env=env, stdin=subprocess.DEVNULL, stdout=2, start_new_session=True
            )
        except OSError as exc:
            raise ConfigError(f"the check cannot be run: {exc.strerror}", hint="it needs /bin/sh") from exc
        try:
            code = process.wait(self.within_s)
        except subprocess.TimeoutExpired:
            return f"the check did not end within {self.within_s:g} s"
        finally:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        return "" if code == 0 else f"the check ended with exit code {code}"


@contextmanager
def scratch(
    *, store: VectorStore, vault: Vault, spec: CollectionSpec, status: PointStatus, purpose: str, floor: float
) -> Iterator[Scratch]:
    """Restore a point's collection under a name of its own in `store`, and drop it in every case.

    What a kill left there is dropped by the next one of the same purpose; one at a time, therefore. Raises what a
    restore raises: IntegrityError or NotFoundError when the point is no use for `spec`, ConfigError when `store` has no
    place for it beside the memory.
    """
    part, _ = usable(status, spec, store)
    name = scratch_name(spec.name, purpose)
    store.drop(name)
    try:
        restored = store.restore(
            replace(spec, name=name), PointSource(vault, part), point=status.id, floor=floor, replace=False
        )
        yield Scratch(name=name, part=part, restored=restored)
    except BaseException:
        # The error under way is the one to see.
        with suppress(RelightError):
            store.drop(name)
        raise
    store.drop(name)


def scratch_name(collection: str, purpose: str) -> str:
    """A name that any store takes, that no agent's collection has, and that is the same the next time."""
    return f"relight_{purpose}_{hashlib.sha256(collection.encode()).hexdigest()[:12]}"
