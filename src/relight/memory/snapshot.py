"""Taking a recovery point: stream every collection into a vault, then seal the manifest."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from relight import __version__
from relight.clock import point_id
from relight.errors import ConflictError, IntegrityError, UnavailableError
from relight.memory import journal
from relight.memory.api import Applier, Make
from relight.memory.segments import Archive
from relight.memory.transfer import PointSink
from relight.vault import points
from relight.vault.manifest import Manifest

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from datetime import datetime

    from relight.adapters.postgres import Connection
    from relight.clock import Clock
    from relight.memory.journal import Position
    from relight.memory.store import CollectionSpec, VectorStore
    from relight.vault.manifest import CollectionPart, QueuePosition
    from relight.vault.store import Vault

log = logging.getLogger(__name__)


class _VaultUnavailableError(Exception):
    """The vault failed, as opposed to the servers that the bytes come from."""


def take_snapshot(
    *,
    store: VectorStore,
    specs: Sequence[CollectionSpec],
    state: Connection,
    vault: Vault,
    fallback: Vault | None,
    environment: str,
    clock: Clock,
    queue: QueuePosition | None = None,
) -> Manifest:
    """Seal a recovery point of `specs` in `vault`, or in `fallback` when `vault` cannot be reached; the point says so.

    Until the manifest is there, the point does not exist for anybody; what a failure leaves in the vault carries names
    of its own and is never part of another point. Raises ConflictError when a point of the same second exists already.
    Nothing is sealed of a store that lost its memory: NotFoundError until it is hydrated, IntegrityError when it holds
    less than the journal here can add to.
    """
    taken_at = clock.now()
    archive = Archive(vault) if fallback is None else Archive(vault, fallback)
    reached = {}
    for spec in specs:
        # A point that begins late in the journal makes a short hydration.
        applier = Applier(store=store, spec=spec, state=state, archive=archive, clock=clock)
        reached[spec.name] = applier.catch_up(make=Make.YOUNG).position

    def attempt(target: Vault, instead_of: str | None) -> Manifest:
        return _take(
            store=store,
            specs=specs,
            reached=reached,
            state=state,
            vault=target,
            instead_of=instead_of,
            environment=environment,
            taken_at=taken_at,
            clock=clock,
            queue=queue,
        )

    try:
        return attempt(vault, None)
    except _VaultUnavailableError as exc:
        cause = exc.__cause__
        if fallback is None:
            raise UnavailableError(f"the vault in {vault.region} cannot be reached: {cause}") from cause
        log.warning("vault_unavailable", extra={"region": vault.region, "fallback": fallback.region})
    try:
        return attempt(fallback, vault.region)
    except _VaultUnavailableError as exc:
        raise UnavailableError(
            f"neither the vault in {vault.region} nor the one in {fallback.region} can be reached: {exc.__cause__}",
            hint="no point was taken; the next run tries again",
        ) from exc.__cause__


def _take(
    *,
    store: VectorStore,
    specs: Sequence[CollectionSpec],
    reached: Mapping[str, Position],
    state: Connection,
    vault: Vault,
    instead_of: str | None,
    environment: str,
    taken_at: datetime,
    clock: Clock,
    queue: QueuePosition | None,
) -> Manifest:
    point = point_id(taken_at)
    try:
        previous = points.newest_id(vault)
    except UnavailableError as exc:
        raise _VaultUnavailableError from exc
    if previous == point:
        raise ConflictError(f"the point {point} is sealed already", hint="another snapshot of this second was first")
    parts = tuple(_upload(store, spec, vault, point, since=reached[spec.name]) for spec in specs)
    # Read last: by now the log holds every entry that is in the snapshots.
    position = journal.state_position(state)
    unsigned = Manifest(
        id=point,
        environment=environment,
        region=vault.region,
        instead_of=instead_of,
        taken_at=taken_at,
        sealed_at=clock.now(),
        software=__version__,
        previous=previous,
        state=position,
        queue=queue,
        collections=parts,
    )
    manifest = points.sign(vault, unsigned)
    try:
        points.seal(vault, manifest)
    except UnavailableError as exc:
        raise _VaultUnavailableError from exc
    log.info("point_sealed", extra={"point": point, "region": vault.region, "bytes": manifest.total_bytes})
    return manifest


def _upload(store: VectorStore, spec: CollectionSpec, vault: Vault, point: str, *, since: Position) -> CollectionPart:
    sink = PointSink(vault, point, spec.name, store.extension)
    try:
        taken = store.snapshot(spec.name, sink)
    except UnavailableError as exc:
        if sink.error is not None:
            raise _VaultUnavailableError from exc
        raise
    if taken.spec != spec:
        raise IntegrityError(
            f"the collection {spec.name!r} is {taken.spec}, and the settings say {spec}",
            hint="correct the settings; nothing was sealed",
        )
    if taken.position < since:
        # Its task was replaced, or an older point restored, since it was brought up to the journal.
        raise IntegrityError(
            f"the collection {spec.name!r} went back from {since} to {taken.position} while it was read",
            hint="nothing was sealed; the next run tries again once it is hydrated",
        )
    return taken.part(store.kind, sink.pieces)
