"""Hydration: a snapshot, then everything that the journal has after it."""

from __future__ import annotations

import logging
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from relight.errors import ConfigError, ConflictError, IntegrityError, NotFoundError, UnavailableError
from relight.memory import journal
from relight.memory.api import Applied, Applier
from relight.memory.journal import Position
from relight.vault.points import PointStatus, status_of, survey

if TYPE_CHECKING:
    from collections.abc import Iterator
    from datetime import datetime

    from relight.adapters.postgres import Connection
    from relight.clock import Clock
    from relight.memory.store import CollectionSpec, Restored, VectorStore
    from relight.vault.manifest import CollectionPart, Manifest
    from relight.vault.store import ObjectReader, Vault

log = logging.getLogger(__name__)

RECALL_FLOOR = 0.9
_POLL_S = 0.1


@dataclass(frozen=True, slots=True, kw_only=True)
class PassedOver:
    """A newer point that was not used, and why."""

    point: str
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Hydration:
    """What a hydration did. `restored` is the point's id, None when no snapshot was used; `skipped` says why."""

    collection: str
    restored: str | None
    skipped: str | None
    passed_over: tuple[PassedOver, ...]
    points: int
    recall: float | None
    kept: str | None
    entries_applied: int
    position: Position

    def to_json(self) -> dict[str, Any]:
        """As plain JSON values."""
        return asdict(self) | {
            "passed_over": [asdict(item) for item in self.passed_over],
            "position": str(self.position),
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class Verified:
    """A memory that holds exactly what the journal says."""

    points: int
    position: Position


def hydrate(
    *,
    store: VectorStore,
    vault: Vault,
    state: Connection,
    spec: CollectionSpec,
    clock: Clock,
    point: str | None = None,
    before: datetime | None = None,
    force: bool = False,
    recall_floor: float = RECALL_FLOOR,
    wait_s: float = 5.0,
) -> Hydration:
    """Fill the collection from the newest eligible point, and bring it forward with the journal.

    A collection that holds data is only brought forward, unless `force`. A point that proves damaged, or that holds
    writes which the state here never received, is passed over for the next older one, and the result says so; without
    any, the journal is applied from its beginning, which it still has. Naming a `point`, or the newest eligible one
    `before` a time, uses that one or raises: ConflictError when the collection holds data, NotFoundError,
    IntegrityError. Run again after any failure, it ends in the same state. `wait_s` bounds the wait for a standby that
    is a little behind.
    """
    if point is not None and before is not None:
        raise ConfigError("both a point and a time were named", hint="name one of them")
    explicit = point is not None or before is not None
    collection = store.describe(spec.name)
    skipped: str | None = None
    passed_over: list[PassedOver] = []
    restored: tuple[str, Restored] | None = None
    if collection is not None and not collection.is_empty and not force and not explicit:
        skipped = f"the collection already holds {collection.points} points, at {collection.position}"
    else:
        for status in _candidates(vault, point, before):
            try:
                part, manifest = _usable(status, spec)
                _wait_for_history(state, manifest, part, clock, wait_s)
                restored = status.id, _restore(store, vault, spec, part, status.id, floor=recall_floor, replace=force)
                break
            except (IntegrityError, NotFoundError) as exc:
                if explicit:
                    raise
                log.warning("point passed over", extra={"point": status.id, "reason": str(exc)})
                passed_over.append(PassedOver(point=status.id, reason=str(exc)))
            except ConflictError as exc:
                if explicit:
                    raise
                skipped = exc.problem  # another hydration, or an agent, was faster
                break
        else:
            if explicit:
                raise NotFoundError(f"{vault} holds no eligible point before {before}", hint="name a later time")
            skipped = "there is no eligible point: the journal was applied from where the collection was"
    applied = bring_forward(store=store, state=state, spec=spec)
    after = store.describe(spec.name)
    return Hydration(
        collection=spec.name,
        restored=restored[0] if restored else None,
        skipped=skipped,
        passed_over=tuple(passed_over),
        points=after.points if after else 0,
        recall=restored[1].recall if restored else None,
        kept=restored[1].kept if restored else None,
        entries_applied=applied.entries,
        position=applied.position,
    )


def bring_forward(*, store: VectorStore, state: Connection, spec: CollectionSpec) -> Applied:
    """Apply what the journal has beyond the collection's position."""
    return Applier(store=store, spec=spec, state=state).catch_up()


def verify_memory(*, store: VectorStore, state: Connection, spec: CollectionSpec) -> Verified:
    """Prove that the collection holds the journal's every readable entry, and as many points as those leave alive.

    Raises IntegrityError otherwise. Counts on a journal that was never pruned.
    """
    collection = store.describe(spec.name)
    if collection is None:
        raise IntegrityError(f"there is no collection {spec.name!r}", hint="hydrate it first")
    if collection.spec != spec:
        raise IntegrityError(
            f"the collection is {collection.spec}, not {spec}", hint="use the settings it was made with"
        )
    position = collection.position
    journal.check_history(state, spec.name, position)
    lacking = journal.read(state, spec.name, position, limit=1).entries
    if lacking:
        raise IntegrityError(
            f"the collection {spec.name!r} is at {position} and lacks the entry {lacking[0].position}",
            hint="run hydrate again",
        )
    alive = journal.alive(state, spec.name, position)
    if alive != collection.points:
        raise IntegrityError(
            f"the collection {spec.name!r} holds {collection.points} points, and the journal leaves {alive} alive",
            hint="hydrate it again with force, and see whether something writes to the store directly",
        )
    return Verified(points=collection.points, position=position)


def _candidates(vault: Vault, point: str | None, before: datetime | None) -> Iterator[PointStatus]:
    if point is not None:
        yield status_of(vault, point)
        return
    for status in survey(vault):
        if before is None:
            yield status
        elif status.eligible and status.manifest is not None and status.manifest.taken_at <= before:
            yield status
            return


def _usable(status: PointStatus, spec: CollectionSpec) -> tuple[CollectionPart, Manifest]:
    """Refuse before any byte moves."""
    manifest = status.manifest
    if manifest is None or not status.eligible:
        raise IntegrityError(f"the point {status.id} is not eligible: {status.reason}", hint="use another")
    part = manifest.collection(spec.name)
    if part is None:
        raise NotFoundError(f"the point {status.id} has no collection {spec.name!r}", hint="use another")
    pinned = (part.dimension, part.distance, part.embedding_model)
    wanted = (spec.dimension, spec.distance.value, spec.embedding_model)
    if pinned != wanted:
        raise IntegrityError(
            f"the point {status.id} holds {spec.name!r} as {pinned}, and the settings say {wanted}",
            hint="restore with the settings that it was taken with",
        )
    return part, manifest


def _wait_for_history(state: Connection, manifest: Manifest, part: CollectionPart, clock: Clock, wait_s: float) -> None:
    """Refuse a point with writes that the state here never received: no later entry would take them back."""
    until = clock.monotonic() + wait_s
    while True:
        reached, shared = journal.covers(state, manifest.state.lsn, manifest.state.timeline)
        if not shared:
            raise IntegrityError(
                f"the point {manifest.id} was taken beyond the place where this region's history began",
                hint="it may hold writes that were never acknowledged; use an older point",
            )
        if reached:
            break
        if clock.monotonic() >= until:
            raise IntegrityError(
                f"the state here has not come to {manifest.state.lsn}, where the point {manifest.id} was taken",
                hint="use an older point, or wait for the standby",
            )
        clock.sleep(_POLL_S)
    try:
        journal.check_history(state, part.name, Position.parse(part.position))
    except UnavailableError as exc:
        raise IntegrityError(exc.problem, hint="use an older point") from exc


def _restore(
    store: VectorStore,
    vault: Vault,
    spec: CollectionSpec,
    part: CollectionPart,
    point: str,
    *,
    floor: float,
    replace: bool,
) -> Restored:
    with vault.reader(part.object) as body:
        restored = store.restore(spec, _Checked(body, part), part, point=point, floor=floor, replace=replace)
    log.info("point restored", extra={"point": point, "collection": spec.name, "points": restored.points})
    return restored


class _Checked:
    """Gives the object's bytes, and at their end an IntegrityError instead when they are not those of the manifest."""

    def __init__(self, body: ObjectReader, part: CollectionPart) -> None:
        self._body = body
        self._part = part

    def read(self, size: int) -> bytes:
        data = self._body.read(size)
        got, part = self._body, self._part
        if got.bytes > part.bytes or (not data and (got.bytes, got.sha256) != (part.bytes, part.sha256)):
            raise IntegrityError(
                f"{part.object} has {got.bytes} bytes with SHA-256 {got.sha256}, "
                f"and the manifest says {part.bytes} with {part.sha256}",
                hint="the object was altered or cut: use another point",
            )
        return data
