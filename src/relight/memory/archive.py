"""Moving the journal's past out of the state database: into the own vault, and away once the other region has it."""

from __future__ import annotations

import logging
from dataclasses import asdict, dataclass, field, replace
from typing import TYPE_CHECKING, Any

from relight.errors import IntegrityError, NotFoundError, UnavailableError
from relight.memory import journal
from relight.memory.journal import SQL, START, Position, PrunedError
from relight.memory.segments import Line, fetch, pack, unpack
from relight.vault.points import survey
from relight.vault.segments import prefix

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from datetime import timedelta

    from relight.adapters.postgres import Connection, Cursor
    from relight.clock import Clock
    from relight.memory.journal import Segment
    from relight.memory.segments import Packed
    from relight.tasks.database import Database
    from relight.vault.store import Vault

log = logging.getLogger(__name__)

# A segment is as large as one of these makes it, before compression, or begins with what is older than `MAX_AGE_S`.
SEGMENT_ENTRIES = 5_000
SEGMENT_BYTES = 16 * 1024 * 1024
MAX_AGE_S = 3600.0
# How long a run begins new segments; a snapshot has fifteen minutes.
ARCHIVE_S = 120.0
_READ_ENTRIES = 1_000
# How many old segments are looked for in a run, to see whether they are gone.
_FORGET_AT_ONCE = 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Archived:
    """What a run did with one collection's journal, or would do in a dry run.

    `waiting` says why the state database still holds what is archived, and is empty when it holds none of it.
    """

    collection: str
    segments: int = 0
    entries: int = 0
    bytes: int = 0
    pruned_segments: int = 0
    pruned_entries: int = 0
    waiting: str = ""
    edge: Position = field(default=START)

    def to_json(self) -> dict[str, Any]:
        """As plain JSON values."""
        return asdict(self) | {"edge": str(self.edge)}


def archive_journal(
    *,
    database: Database,
    state: Connection,
    own: Vault,
    peer: Vault,
    collections: Sequence[str],
    clock: Clock,
    forget_after: timedelta,
    carry: bool = False,
    max_age_s: float = MAX_AGE_S,
    within_s: float = ARCHIVE_S,
    dry_run: bool = False,
) -> list[Archived]:
    """Archive what is settled of each collection's journal, and prune what the other region can do without it.

    A segment is put into `own`, noted in the state database, and its entries are deleted there only when the other
    region has an eligible point of this history that holds them, and its vault `peer` gave the whole segment back just
    now. With `carry` it is put there too, where no store replicates. Only what no unfinished transaction can still come
    before is taken. Where a vault does not answer nothing is pruned, and the result says so; UnavailableError when the
    own one takes nothing, DeniedError when either may not be used.

    Any number may run at once, and each may be killed anywhere: what it did not finish the next one does, and what it
    left in a vault nobody reads. A run begins no new segment after `within_s`. `state` and `database` are of the
    primary. Rows of segments that are in neither vault any more are forgotten after `forget_after`.
    """
    until = clock.monotonic() + within_s
    run = _Run(
        database=database, state=state, own=own, peer=peer, clock=clock, until=until, carry=carry, dry_run=dry_run
    )
    done = {name: run.archive(name, max_age_s) for name in collections}
    covered = run.covered(name for name in collections if journal.segments(state, name, _edge(state, name), limit=1))
    result = []
    for name, found in done.items():
        pruned = run.prune(found, covered.get(name))
        if not dry_run:
            run.forget(name, forget_after)
        result.append(replace(pruned, edge=_edge(state, name)))
        log.info("journal_archived", extra=result[-1].to_json())
    return result


@dataclass(frozen=True, slots=True, kw_only=True)
class _Run:
    database: Database
    state: Connection
    own: Vault
    peer: Vault
    clock: Clock
    until: float
    carry: bool
    dry_run: bool

    def archive(self, name: str, max_age_s: float) -> Archived:
        """Put what is settled into the own vault, segment by segment."""
        done = Archived(collection=name)
        at = journal.archived(self.state, name)
        while self.clock.monotonic() < self.until:
            try:
                lines = self._next(name, at, max_age_s)
            except PrunedError:  # another archiver was faster
                at = journal.archived(self.state, name)
                continue
            if not lines:
                break
            packed = pack(name, at, lines)
            if not self.dry_run:
                self.own.put_bytes(packed.object, packed.data, only_if_absent=True)
                with self.database.transaction() as cursor:
                    cursor.execute(SQL["record_segment"], _row(packed))
            done = replace(
                done,
                segments=done.segments + 1,
                entries=done.entries + packed.entries,
                bytes=done.bytes + len(packed.data),
            )
            now = packed.until if self.dry_run else journal.archived(self.state, name)
            if now <= at:
                raise IntegrityError(f"the archive of {name!r} ends at {now}, and {packed.until} was noted")
            at = now
        return done

    def _next(self, name: str, since: Position, max_age_s: float) -> list[Line]:
        """The entries of the next segment; none when there are too few and they are too young."""
        lines: list[Line] = []
        size = 0
        while True:
            batch = journal.read(self.state, name, since, limit=_READ_ENTRIES)
            for entry in batch.entries:
                lines.append(Line.of(entry))
                size += len(lines[-1].data)
                if len(lines) >= SEGMENT_ENTRIES or size >= SEGMENT_BYTES:
                    return lines
            if batch.complete:
                break
            since = batch.until
        young = not lines or (self.clock.now() - lines[0].at).total_seconds() < max_age_s
        return [] if young else lines

    def covered(self, names: Iterable[str]) -> dict[str, Position | str]:
        """How far the newest eligible point of the other region holds each of these, or why that is not known."""
        lacking = set(names)
        found: dict[str, Position | str] = {}
        try:
            for status in survey(self.peer) if lacking else ():
                manifest = status.manifest
                if manifest is None or not status.eligible:
                    continue
                parts = [part for part in manifest.collections if part.name in lacking]
                # What a lost history sealed covers nothing of this one.
                if not parts or journal.covers(self.state, manifest.state.lsn, manifest.state.timeline) != (True, True):
                    continue
                found |= {part.name: Position.parse(part.position) for part in parts}
                lacking -= found.keys()
                if not lacking:
                    break
        except (UnavailableError, NotFoundError, IntegrityError) as exc:
            return found | dict.fromkeys(lacking, f"{self.peer} cannot be asked for its points: {exc.problem}")
        return found

    def prune(self, done: Archived, covered: Position | str | None) -> Archived:
        """Delete the entries of each segment that the other region can do without, in order."""
        name = done.collection
        for segment in journal.segments(self.state, name, _edge(self.state, name)):
            why = self._why_not(segment, covered)
            if why:
                return replace(done, waiting=why)
            if self.dry_run or self._delete(segment):
                done = replace(
                    done,
                    pruned_segments=done.pruned_segments + 1,
                    pruned_entries=done.pruned_entries + segment.entries,
                )
        return done

    def _why_not(self, segment: Segment, covered: Position | str | None) -> str:
        """Why a segment may not be pruned yet; empty when it may. It is then in both vaults."""
        if isinstance(covered, str):
            return covered
        if covered is None or covered < segment.until:
            have = "none" if covered is None else f"the newest comes to {covered}"
            return f"no eligible point in {self.peer.region} holds the journal up to {segment.until}: {have}"
        if self.clock.monotonic() >= self.until:
            return "the time is over: the next run goes on"
        try:
            data = self._carried(segment)
            unpack(data, segment)
            if self.dry_run:
                return ""
            if all(item.bytes != segment.bytes for item in self.own.objects(segment.object)):
                self.own.put_bytes(segment.object, data)
        except NotFoundError:
            return f"{segment.object} is not in {self.peer} yet"
        except (UnavailableError, IntegrityError) as exc:
            return f"{segment.object} cannot be read back: {exc.problem}"
        return ""

    def _carried(self, segment: Segment) -> bytes:
        """The segment as the other region's vault has it; NotFoundError where it has not."""
        try:
            return fetch(self.peer, segment.object)
        except NotFoundError:
            if not self.carry:
                raise
        data = fetch(self.own, segment.object)
        if not self.dry_run:
            unpack(data, segment)
            self.peer.put_bytes(segment.object, data)
            data = fetch(self.peer, segment.object)
        return data

    def _delete(self, segment: Segment) -> bool:
        """Delete its entries and move the edge, at once; False when another archiver did."""
        with self.database.transaction() as cursor:
            cursor.execute(SQL["lock_edge"], {"collection": segment.collection})
            xid, seq = _one(cursor)
            if Position(int(xid), seq) != segment.after:
                return False
            cursor.execute(SQL["prune"], _span(segment))
            [gone] = _one(cursor)
            if gone != segment.entries:
                raise IntegrityError(
                    f"the journal of {segment.collection!r} holds {gone} entries from {segment.after} to "
                    f"{segment.until}, and {segment.entries} were archived",
                    hint="nothing was deleted: something else than Relight wrote to the journal",
                )
        return True

    def forget(self, name: str, after: timedelta) -> None:
        """Drop the rows of the oldest segments that both vaults let go, so that they do not add up for ever."""
        since = self.clock.now() - after
        old = [
            segment
            for segment in journal.segments(self.state, name, START, limit=_FORGET_AT_ONCE)
            if segment.pruned and segment.archived_at < since
        ]
        if not old:
            return
        try:
            held = {key for vault in (self.own, self.peer) for key in vault.list_keys(prefix(name))}
        except UnavailableError:
            return
        for segment in old:
            if segment.object in held:
                return
            with self.database.transaction() as cursor:
                cursor.execute(SQL["forget_segment"], _span(segment))


def _edge(state: Connection, name: str) -> Position:
    return journal.edge(state, name)


def _one(cursor: Cursor) -> tuple[Any, ...]:
    row = cursor.fetchone()
    if row is None:
        raise IntegrityError("postgres gave no row where there is always one")
    return row


def _span(segment: Segment | Packed) -> dict[str, Any]:
    return {
        "collection": segment.collection,
        "after_xid": str(segment.after.xid),
        "after_seq": segment.after.seq,
        "until_xid": str(segment.until.xid),
        "until_seq": segment.until.seq,
    }


def _row(packed: Packed) -> dict[str, Any]:
    return _span(packed) | {
        "object": packed.object,
        "sha256": packed.sha256,
        "bytes": len(packed.data),
        "entries": packed.entries,
        "first_at": packed.first_at,
        "last_at": packed.last_at,
    }
