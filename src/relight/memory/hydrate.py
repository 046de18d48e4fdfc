"""Hydration: a snapshot, then everything that the journal has after it."""

from __future__ import annotations

import logging
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from relight.errors import ConfigError, ConflictError, IntegrityError, NotFoundError, UnavailableError
from relight.memory import journal
from relight.memory.api import Applied, Applier, Make
from relight.memory.journal import Job, Position, PrunedError
from relight.memory.reader import GapError, Reader
from relight.memory.segments import Archive
from relight.memory.transfer import PointSource
from relight.vault.points import PointStatus, newest_eligible, status_of, survey_both

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from datetime import datetime

    from relight.adapters.postgres import Connection
    from relight.clock import Clock
    from relight.memory.store import CollectionSpec, Restored, VectorStore
    from relight.vault.manifest import CollectionPart, Manifest
    from relight.vault.store import Vault

log = logging.getLogger(__name__)

RECALL_FLOOR = 0.9
# How long another hydration may take: less than a function may run.
_ANOTHER_S = 780.0
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
    specs: Sequence[CollectionSpec],
    clock: Clock,
    point: str | None = None,
    before: datetime | None = None,
    force: bool = False,
    recall_floor: float = RECALL_FLOOR,
    wait_s: float = 5.0,
    peer: Vault | None = None,
) -> list[Hydration]:
    """Fill each collection from the newest eligible point, and bring it forward with the journal.

    A point is taken from `vault`, or from `peer` where that has a newer one; so is what the state database has let go
    of the journal. Before a byte of a point moves it is made sure that all of that is there. A collection that holds
    data is only brought forward, unless `force`, or the journal does not reach back to it any more: then it is restored
    over, and what it held is kept. A point that proves damaged, that the journal does not reach back to, or that holds
    writes which the state here never received, is passed over for the next older one, and the result says so; without
    any, the journal is applied from its beginning: IntegrityError when that is archived no more, and nothing is made.
    Naming a `point`, or the newest eligible one `before` a time, uses that one, of `vault` alone, or raises:
    ConflictError when a collection holds data, NotFoundError, IntegrityError. Of a collection that is not all
    journalled the journal alone is no replacement: NotFoundError. One hydration works on a collection at a time. Run
    again after any failure, it ends in the same state. `wait_s` bounds the wait for a standby that is a little behind.
    """
    if point is not None and before is not None:
        raise ConfigError("both a point and a time were named", hint="name one of them")
    candidates = _Candidates(_chosen(vault, peer, point, before))
    explicit = point is not None or before is not None
    archive = Archive(vault) if peer is None else Archive(vault, peer)
    done = []
    for spec in specs:
        # The rule on a task's start may call twice, and a recovery come on top: the second finds what the first did.
        with journal.alone(state, Job.HYDRATE, spec.name, clock=clock, within_s=_ANOTHER_S):
            hydration = _hydrate_one(
                store=store,
                vault=vault,
                state=state,
                archive=archive,
                spec=spec,
                clock=clock,
                candidates=candidates,
                explicit=explicit,
                force=force,
                recall_floor=recall_floor,
                wait_s=wait_s,
            )
        done.append(hydration)
    return done


def _hydrate_one(
    *,
    store: VectorStore,
    vault: Vault,
    state: Connection,
    archive: Archive,
    spec: CollectionSpec,
    clock: Clock,
    candidates: _Candidates,
    explicit: bool,
    force: bool,
    recall_floor: float,
    wait_s: float,
) -> Hydration:
    collection = store.describe(spec.name)
    skipped: str | None = None
    passed_over: list[PassedOver] = []
    restored: tuple[str, Restored] | None = None
    reader = Reader(state, spec.name, archive)
    if collection is not None and not collection.is_empty and not force and not explicit:
        force = not _reaches(reader, collection.position)
    if collection is not None and not collection.is_empty and not force and not explicit:
        skipped = f"the collection already holds {collection.points} points, at {collection.position}"
    else:
        for where, status in candidates:
            try:
                part, manifest = usable(status, spec, store)
                _wait_for_history(state, manifest, clock, wait_s)
                _check_reach(reader, Position.parse(part.position))
                source = PointSource(where, part, near=where is vault)
                restored = status.id, _restore(store, source, spec, status.id, floor=recall_floor, replace=force)
                break
            except (IntegrityError, NotFoundError) as exc:
                if explicit:
                    raise
                log.warning("point_passed_over", extra={"point": status.id, "reason": str(exc)})
                passed_over.append(PassedOver(point=status.id, reason=str(exc)))
            except ConflictError as exc:
                if explicit:
                    raise
                now = store.describe(spec.name)
                if now is None or now.is_empty:
                    # The journal must not be applied to nothing while somebody else restores.
                    raise UnavailableError(exc.problem, hint="another restore is under way; try again") from exc
                skipped = exc.problem  # an agent was faster
                break
        else:
            if not spec.journalled:
                raise NotFoundError(
                    f"{vault} holds no eligible point of {spec.name!r}, of which the journal has only a part",
                    hint="`relight points list` says why; take a point of what is left with `relight snapshot`",
                )
            skipped = "there is no eligible point: the journal was applied from where the collection was"
    applied = bring_forward(store=store, state=state, spec=spec, archive=archive)
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


def bring_forward(
    *, store: VectorStore, state: Connection, spec: CollectionSpec, archive: Archive | None = None
) -> Applied:
    """Apply what the journal has beyond the collection's position."""
    return Applier(store=store, spec=spec, state=state, archive=archive).catch_up(make=Make.ALWAYS)


def verify_memory(*, store: VectorStore, state: Connection, spec: CollectionSpec) -> Verified:
    """Prove that the collection holds the journal's every readable entry, and as many points as those leave alive.

    Raises IntegrityError otherwise. What was pruned of the journal counts as it was when it went. Of a collection that
    is not all journalled the journal cannot tell how many points it holds; the restore has compared them with the
    manifest.
    """
    collection = store.describe(spec.name)
    if collection is None:
        raise IntegrityError(f"there is no collection {spec.name!r}", hint="hydrate it first")
    if collection.spec != spec:
        raise IntegrityError(
            f"the collection {spec.name!r} is {collection.spec}, not {spec}", hint="use the settings it was made with"
        )
    position = collection.position
    try:
        lacking = journal.read(state, spec.name, position, limit=1).entries
        journal.check_history(state, spec.name, position)
    except PrunedError as exc:
        raise IntegrityError(exc.problem, hint="run hydrate again") from exc
    if lacking:
        raise IntegrityError(
            f"the collection {spec.name!r} is at {position} and lacks the entry {lacking[0].position}",
            hint="run hydrate again",
        )
    alive = journal.alive(state, spec.name, position) if spec.journalled else collection.points
    if alive != collection.points:
        raise IntegrityError(
            f"the collection {spec.name!r} holds {collection.points} points, and the journal leaves {alive} alive",
            hint="hydrate it again with force, and see whether something writes to the store directly",
        )
    return Verified(points=collection.points, position=position)


class _Candidates:
    """The points to try, in order, surveyed once however many collections ask: all are filled from the same ones."""

    def __init__(self, found: Iterator[tuple[Vault, PointStatus]]) -> None:
        self._rest = found
        self._seen: list[tuple[Vault, PointStatus]] = []

    def __iter__(self) -> Iterator[tuple[Vault, PointStatus]]:
        yield from self._seen
        for found in self._rest:
            self._seen.append(found)
            yield found


def _chosen(
    vault: Vault, peer: Vault | None, point: str | None, before: datetime | None
) -> Iterator[tuple[Vault, PointStatus]]:
    if point is not None:
        yield vault, status_of(vault, point)
    elif before is not None:
        yield vault, newest_eligible(vault, before=before)
    else:
        yield from survey_both(vault, peer)


def usable(status: PointStatus, spec: CollectionSpec, store: VectorStore) -> tuple[CollectionPart, Manifest]:
    """Refuse before any byte moves."""
    manifest = status.manifest
    if manifest is None or not status.eligible:
        raise IntegrityError(f"the point {status.id} is not eligible: {status.reason}", hint="use another")
    part = manifest.collection(spec.name)
    if part is None:
        raise NotFoundError(f"the point {status.id} has no collection {spec.name!r}", hint="use another")
    pinned = part.embedding
    if pinned != spec.embedding:
        raise IntegrityError(
            f"the point {status.id} holds {spec.name!r} as {pinned}, and the settings say {spec.embedding}",
            hint="restore with the settings that it was taken with",
        )
    if part.store != store.kind:
        raise IntegrityError(
            f"the point {status.id} holds {spec.name!r} as {part.store} writes it, and memory lives in {store.kind}",
            hint="use a point that was taken since, or memory_store as it was",
        )
    return part, manifest


def _wait_for_history(state: Connection, manifest: Manifest, clock: Clock, wait_s: float) -> None:
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
            return
        if clock.monotonic() >= until:
            raise IntegrityError(
                f"the state here has not come to {manifest.state.lsn}, where the point {manifest.id} was taken",
                hint="use an older point, or wait for the standby",
            )
        clock.sleep(_POLL_S)


def _check_reach(reader: Reader, position: Position) -> None:
    """Refuse a point that the journal here cannot bring forward."""
    try:
        reader.check_reach(position)
    except UnavailableError as exc:
        raise IntegrityError(exc.problem, hint="use an older point") from exc


def _reaches(reader: Reader, position: Position) -> bool:
    """Whether the journal goes back to where a collection is; raises as `Applier.catch_up` does."""
    try:
        reader.check_reach(position)
    except GapError as exc:
        log.warning("collection_not_within_reach", extra={"position": str(position), "reason": str(exc)})
        return False
    return True


def _restore(
    store: VectorStore, source: PointSource, spec: CollectionSpec, point: str, *, floor: float, replace: bool
) -> Restored:
    restored = store.restore(spec, source, point=point, floor=floor, replace=replace)
    log.info("point_restored", extra={"point": point, "collection": spec.name, "points": restored.points})
    return restored
