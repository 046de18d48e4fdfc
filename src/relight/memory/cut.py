"""Undoing memory writes: what takes them back is written to the journal itself, so that every region follows."""

from __future__ import annotations

import base64
import hashlib
import json
import logging
import os
import secrets
import tempfile
from collections import Counter
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from relight.clock import point_id
from relight.errors import ConfigError, DeniedError, IntegrityError, NotFoundError, UnavailableError
from relight.memory import journal
from relight.memory.hydrate import usable
from relight.memory.journal import SQL, START, Op, Position, Write
from relight.memory.reader import Reader
from relight.memory.scratch import scratch
from relight.tasks.read_only import mend
from relight.vault.points import survey

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from datetime import datetime

    from relight.adapters.postgres import Connection, Cursor
    from relight.clock import Clock
    from relight.memory.journal import Entry
    from relight.memory.segments import Archive
    from relight.memory.store import CollectionSpec, VectorStore
    from relight.tasks.database import Database
    from relight.vault.points import PointStatus
    from relight.vault.store import Vault

log = logging.getLogger(__name__)

# The transaction that takes the writes back may last this long; all but the last of the work is done before it.
CUT_S = 900.0
# How long an older transaction may hold it up.
OLDEST_S = 30.0
_POLL_S = 0.05
_PAGE = 500
_FETCH = 100
_LOOK_UP = 50_000
# How often what was written meanwhile is prepared outside the transaction, before the rest is inside it.
_ROUNDS = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class Selection:
    """Which writes are left out: those of some tasks, or those after a moment. One of the two is given.

    The order of the journal is that of its transactions' ids, and a transaction is kept or left out whole: as of the
    moment means with every transaction whose first write to the collection was made until then, by the clock of the
    server that it was made on. So one that had begun to write by then is kept, though it was committed later.
    """

    moment: datetime | None = None
    tasks: frozenset[str] = frozenset()

    def __post_init__(self) -> None:
        if (self.moment is None) == (not self.tasks):
            raise ConfigError("neither or both of a moment and tasks are named", hint="name one of them")


@dataclass(frozen=True, slots=True, kw_only=True)
class CutPlan:
    """What would be left out of a collection.

    `base` is the recovery point that former values are taken from where the journal after it has none, None for the
    beginning of the journal. `left_out` counts entries by their tasks, under "" those of none. `points` is how many
    points are no more what the last of these entries made them; the other entries were replaced since.
    """

    spec: CollectionSpec
    selection: Selection
    base: PointStatus | None
    left_out: dict[str, int]
    points: int
    first_at: datetime | None
    last_at: datetime | None

    def to_json(self) -> dict[str, Any]:
        """As plain JSON values."""
        return {
            "collection": self.spec.name,
            "until": _iso(self.selection.moment),
            "without_tasks": sorted(self.selection.tasks),
            "base": _named(self.base),
            "left_out": self.left_out,
            "points": self.points,
            "first_at": _iso(self.first_at),
            "last_at": _iso(self.last_at),
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class Cut:
    """What was done to a collection: so many points have a former value again, and so many are gone again.

    `id` is that of the cut, and the task of its entries; None when there was nothing to do.
    """

    id: str | None
    collection: str
    base: str
    left_out: dict[str, int]
    restored: int
    deleted: int

    def to_json(self) -> dict[str, Any]:
        """As plain JSON values."""
        return {
            "id": self.id,
            "collection": self.collection,
            "base": self.base,
            "left_out": self.left_out,
            "restored": self.restored,
            "deleted": self.deleted,
        }


def plan_cut(
    *,
    store: VectorStore,
    state: Connection,
    vault: Vault,
    archive: Archive,
    specs: Sequence[CollectionSpec],
    selection: Selection,
    clock: Clock,
) -> list[CutPlan]:
    """What leaving out would change; changes nothing. The collections that it does not touch are not in the list.

    Raises ConfigError for a moment in the future, and for one from which a collection is not all journalled;
    NotFoundError for a task that does not exist or wrote nothing that the journal still has, and where neither a point
    nor the journal goes back far enough: it says how far they do.
    """
    if selection.moment is not None and selection.moment > clock.now():
        raise ConfigError(f"{_iso(selection.moment)} is in the future", hint="name a moment that has been")
    begins = _firsts(state, archive, specs, selection.tasks) if selection.tasks else {}
    plans = []
    for spec in specs:
        if selection.tasks and spec.name not in begins:
            continue
        base = _base(
            store=store,
            state=state,
            vault=vault,
            archive=archive,
            spec=spec,
            before=begins.get(spec.name),
            moment=selection.moment,
        )
        with _Undo(spec=spec, selection=selection, base=base, reader=Reader(state, spec.name, archive)) as undo:
            undo.follow(undo.reader)
            if selection.moment is not None and base is None and undo.left_out and not undo.kept:
                raise NotFoundError(
                    f"the memory {spec.name!r} has nothing from before {_iso(selection.moment)}: its first write is of "
                    f"{_iso(undo.first_at)}",
                    hint="name a later moment",
                )
            if undo.left_out:
                plans.append(undo.plan())
    return plans


def cut(
    *,
    plans: Sequence[CutPlan],
    database: Database,
    state: Connection,
    beside: VectorStore,
    vault: Vault,
    archive: Archive,
    clock: Clock,
    recall_floor: float,
) -> list[Cut]:
    """Take the planned writes back, and those of the same kind made since, in all collections at once.

    For every point whose last write is left out its former value is appended to the journal, or its deletion where it
    had none, in one transaction that comes after all writes that it takes back and before all that are made later. The
    appliers of every region follow, and every later hydration. Where a former value is in a snapshot alone, that is
    restored into `beside` for as long as this takes. Done again, it finds nothing to do. `state` is of the primary.

    Raises UnavailableError when an older transaction does not end, and UnconfirmedError when all was done and the
    standby did not confirm it; otherwise an error leaves nothing changed.
    """
    with ExitStack() as stack, ExitStack() as beside_it:
        undone = [
            stack.enter_context(
                _Undo(
                    spec=plan.spec,
                    selection=plan.selection,
                    base=plan.base,
                    reader=Reader(state, plan.spec.name, archive),
                    snapshot=_Snapshot(beside, vault, plan.spec, plan.base, recall_floor, beside_it),
                )
            )
            for plan in plans
        ]
        for _ in range(_ROUNDS):
            for undo in undone:
                undo.prepare(undo.reader)
        if not any(undo.left_out for undo in undone):
            return []
        id_ = f"restore-{point_id(clock.now())}-{secrets.token_hex(3)}"
        with database.transaction(confirmed=True, within_s=CUT_S) as cursor:
            # To be read-only is how one keeps others from writing more of what is taken back.
            mend(cursor)
            cursor.execute(SQL["begin_cut"], {"within_ms": int(CUT_S * 1000)})
            [(epoch, *_)] = cursor.fetchall()
            _wait_until_oldest(cursor, clock)
            # Nothing can come before us any more: what is read now is all.
            for undo in undone:
                undo.prepare(Reader(cursor.connection, undo.spec.name, archive))
            beside_it.close()
            done = [undo.write(cursor, id_, epoch) for undo in undone]
        for item in done:
            log.info("memory_cut", extra=item.to_json())
        return done


class _Selector:
    """Tells entries apart, given one after the other in the order of the journal."""

    def __init__(self, selection: Selection, base: Position) -> None:
        self._selection = selection
        # What a point was taken in the middle of had begun before it.
        self._xid, self._out = base.xid, False

    def leaves_out(self, entry: Entry) -> bool:
        """Whether this one is left out."""
        moment = self._selection.moment
        if moment is None:
            return entry.task_id in self._selection.tasks
        if entry.position.xid != self._xid:
            self._xid, self._out = entry.position.xid, entry.at > moment
        return self._out


class _Snapshot:
    """A point beside the memory, restored when it is first asked for, and dropped with the rest."""

    def __init__(
        self,
        store: VectorStore,
        vault: Vault,
        spec: CollectionSpec,
        status: PointStatus | None,
        floor: float,
        stack: ExitStack,
    ) -> None:
        self._store, self._vault, self._spec, self._status = store, vault, spec, status
        self._floor, self._stack = floor, stack
        self._name: str | None = None

    def values(self, ids: Sequence[str]) -> Iterator[Write]:
        """Those of the points that it has."""
        if self._status is None:
            raise AssertionError("there is no point")
        if self._name is None:
            restored = scratch(
                store=self._store,
                vault=self._vault,
                spec=self._spec,
                status=self._status,
                purpose="cut",
                floor=self._floor,
            )
            self._name = self._stack.enter_context(restored).name
        for first in range(0, len(ids), _FETCH):
            for point in self._store.fetch(self._name, ids[first : first + _FETCH]):
                yield Write(
                    collection=self._spec.name, op=Op.UPSERT, id=point.id, vector=point.vector, payload=point.payload
                )


@dataclass(slots=True, kw_only=True)
class _Undo:
    """One collection's cut: follows the journal from the base, and knows for each point that a left-out entry touched
    whether such an entry was the last, and what it was before.

    Former values are on the disk; in memory is what tells points apart.
    """

    spec: CollectionSpec
    selection: Selection
    base: PointStatus | None
    reader: Reader
    snapshot: _Snapshot | None = None
    left_out: Counter[str] = field(default_factory=Counter)
    kept: int = 0
    first_at: datetime | None = None
    last_at: datetime | None = None
    _begins: Position = field(init=False)
    _at: Position = field(init=False)
    _selector: _Selector = field(init=False)
    # What the last entry made of a point, when it is left out; None when it is not.
    _made: dict[str, bytes | None] = field(default_factory=dict)
    # Where on the disk the last entry is that is not left out; None for a point that there was not.
    _former: dict[str, int | None] = field(default_factory=dict)
    _spool: Any = None

    def __post_init__(self) -> None:
        self._begins = self._at = _position(self.base, self.spec)
        self._selector = _Selector(self.selection, self._begins)

    def __enter__(self) -> _Undo:
        self._spool = tempfile.TemporaryFile()
        return self

    def __exit__(self, *exc: object) -> None:
        self._spool.close()

    def plan(self) -> CutPlan:
        """What was found so far."""
        return CutPlan(
            spec=self.spec,
            selection=self.selection,
            base=self.base,
            left_out=dict(sorted(self.left_out.items())),
            points=sum(made is not None for made in self._made.values()),
            first_at=self.first_at,
            last_at=self.last_at,
        )

    def follow(self, reader: Reader) -> None:
        """Take in what was written since the last time."""
        for entry in reader.entries(self._at):
            self._at = entry.position
            if self._selector.leaves_out(entry):
                self.left_out[entry.task_id or ""] += 1
                self.first_at = self.first_at or entry.at
                self.last_at = entry.at
                self._made[entry.id] = _digest(entry.op, entry.vector, entry.payload)
                continue
            self.kept += 1
            if entry.id in self._made:
                self._made[entry.id] = None
                self._keep(entry)

    def prepare(self, reader: Reader) -> None:
        """Take in what was written since the last time, and find what the points were before."""
        self.follow(reader)
        unknown = {id_ for id_, made in self._made.items() if made is not None and id_ not in self._former}
        if not unknown:
            return
        selector = _Selector(self.selection, self._begins)
        for entry in reader.entries(self._begins):
            if entry.position > self._at:
                break
            if not selector.leaves_out(entry) and entry.id in unknown:
                self._keep(entry)
        rest = [id_ for id_ in unknown if id_ not in self._former]
        if self.base is not None:
            rest = self._look_up(reader, rest) if self.spec.journalled else rest
            for write in self.snapshot.values(rest) if self.snapshot is not None and rest else ():
                self._keep(write)
        for id_ in unknown:
            self._former.setdefault(id_, None)

    def write(self, cursor: Cursor, id_: str, epoch: int) -> Cut:
        """Append the former values."""
        restored = deleted = 0
        writes: list[Write] = []
        for point, made in self._made.items():
            if made is None:
                continue
            write = self._value(point)
            if _digest(write.op, write.vector, write.payload) == made:
                continue
            restored += write.op is Op.UPSERT
            deleted += write.op is Op.DELETE
            writes.append(write)
            if len(writes) == _PAGE:
                journal.append(cursor, writes, epoch=epoch, task_id=id_)
                writes = []
        if writes:
            journal.append(cursor, writes, epoch=epoch, task_id=id_)
        done = Cut(
            id=id_ if restored or deleted else None,
            collection=self.spec.name,
            base=_named(self.base),
            left_out=dict(sorted(self.left_out.items())),
            restored=restored,
            deleted=deleted,
        )
        if done.id is not None:
            tasks = sorted(self.selection.tasks) or None
            said = {"epoch": epoch, "moment": self.selection.moment, "tasks": tasks}
            cursor.execute(SQL["record_cut"], done.to_json() | said | {"left_out": self.left_out.total()})
        return done

    def _look_up(self, reader: Reader, ids: list[str]) -> list[str]:
        """Learn from the state database what it knows of these as of the base, and return those that it does not."""
        left = []
        for first in range(0, len(ids), _LOOK_UP):
            page = ids[first : first + _LOOK_UP]
            found = journal.as_of(reader.state, self.spec.name, page, self._begins)
            if found is None:  # the journal begins after the base here
                return [id_ for id_ in ids if id_ not in self._former]
            known, unknown = found
            for write in known:
                self._keep(write)
            left += unknown
        return left

    def _keep(self, item: Entry | Write) -> None:
        """Remember it as what its point is without the entries that are left out."""
        if item.op is Op.DELETE:
            self._former[item.id] = None
            return
        self._former[item.id] = self._spool.seek(0, os.SEEK_END)
        vector = base64.b64encode(item.vector or b"").decode()
        self._spool.write(json.dumps([vector, item.payload]).encode() + b"\n")

    def _value(self, id_: str) -> Write:
        offset = self._former[id_]
        if offset is None:
            return Write(collection=self.spec.name, op=Op.DELETE, id=id_)
        self._spool.seek(offset)
        vector, payload = json.loads(self._spool.readline())
        return Write(collection=self.spec.name, op=Op.UPSERT, id=id_, vector=base64.b64decode(vector), payload=payload)


def _base(
    *,
    store: VectorStore,
    state: Connection,
    vault: Vault,
    archive: Archive,
    spec: CollectionSpec,
    before: tuple[Position, datetime] | None,
    moment: datetime | None,
) -> PointStatus | None:
    """The newest point that has none of what is to be left out, and from which the journal goes on; None for its start.

    A point was sealed after the last write that it holds, so one sealed until then holds nothing of later.
    """
    if moment is not None and not spec.journalled:
        raise ConfigError(
            f"the memory {spec.name!r} is not all journalled: what was written to it directly cannot be taken back",
            hint="use `relight restore --before TIME`, or --without-task",
        )
    at = moment if before is None else before[1]
    reader = Reader(state, spec.name, archive)
    reasons: list[str] = []
    oldest: str | None = None
    for status in survey(vault):
        try:
            part, manifest = usable(status, spec, store)
            if journal.covers(state, manifest.state.lsn, manifest.state.timeline) != (True, True):
                raise IntegrityError(f"the point {status.id} is of another history")
            position = Position.parse(part.position)
            reader.check_reach(position)
        except (IntegrityError, NotFoundError, UnavailableError) as exc:
            reasons.append(f"{status.id}: {exc.problem}")
            continue
        oldest = status.id
        # By the sealer's clock, which nothing holds to the server's, and by what it surely holds.
        if at is not None and manifest.sealed_at <= at and (before is None or position < before[0]):
            written = reader.written(position)
            if written is None or written <= at:
                return status
    if spec.journalled:
        try:
            reader.check_reach(START)
        except (IntegrityError, DeniedError, UnavailableError) as exc:
            reasons.append(f"the beginning: {exc.problem}")
        else:
            return None
    raise NotFoundError(
        f"no point of {spec.name!r} in {vault} is from before {_iso(at)} and can be brought forward"
        + (f" ({reasons[-1]})" if reasons else ""),
        hint=f"what is possible begins with {oldest}" if oldest else "there is no usable point at all",
    )


def _firsts(
    state: Connection, archive: Archive, specs: Sequence[CollectionSpec], tasks: frozenset[str]
) -> dict[str, tuple[Position, datetime]]:
    """The first entry of any of these tasks by collection; NotFoundError for a task that has none anywhere."""
    found: dict[str, tuple[Position, datetime]] = {}
    seen: set[str] = set()
    reach: list[str] = []
    for spec in specs:
        # Older than what is lost is out of reach.
        segments = [segment for segment in journal.segments(state, spec.name, START) if segment.pruned]
        lost = max((segment.until for segment in archive.lacks(segments)), default=START)
        entries = [
            (entry.position, entry.at, entry.task_id)
            for segment in segments
            if segment.after >= lost
            for entry in archive.read(segment)
            if entry.task_id in tasks
        ]
        entries += [(position, at, task) for task, position, at in journal.first_of_tasks(state, spec.name, tasks)]
        reach.append(f"{spec.name!r} from {lost} on")
        if entries:
            position, at, _ = min(entries)
            found[spec.name] = position, at
            seen |= {task for _, _, task in entries if task is not None}
    if missing := sorted(tasks - seen):
        known = journal.known_tasks(state, missing)
        strange = [task for task in missing if task not in known]
        raise NotFoundError(
            f"there is no task {strange[0]!r}"
            if strange
            else f"the task {missing[0]!r} wrote nothing that the journal still has",
            hint=f"the journal can be read of {', '.join(reach)}",
        )
    return found


def _wait_until_oldest(cursor: Cursor, clock: Clock) -> None:
    """Return when every transaction that began before ours has ended: then none can write before us any more."""
    until = clock.monotonic() + OLDEST_S
    while True:
        cursor.execute(SQL["is_oldest"])
        if (cursor.fetchone() or (False,))[0]:
            return
        if clock.monotonic() >= until:
            raise UnavailableError(
                f"a transaction has been open for more than {OLDEST_S:g} s", hint="end it, and try again"
            )
        clock.sleep(_POLL_S)


def _position(status: PointStatus | None, spec: CollectionSpec) -> Position:
    manifest = None if status is None else status.manifest
    part = None if manifest is None else manifest.collection(spec.name)
    return START if part is None else Position.parse(part.position)


def _digest(op: Op, vector: bytes | None, payload: dict[str, Any] | None) -> bytes:
    said = json.dumps([op.value, payload], sort_keys=True).encode()
    return hashlib.blake2b(said + b"\0" + (vector or b""), digest_size=16).digest()


def _named(status: PointStatus | None) -> str:
    return "the beginning of the journal" if status is None else status.id


def _iso(at: datetime | None) -> str | None:
    return None if at is None else at.isoformat()
