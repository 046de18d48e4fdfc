"""Divergence: what an old primary had committed that never reached the new one. It is reported, never merged."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

from relight.adapters import postgres
from relight.errors import ConflictError
from relight.tasks.sql import statements

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from psycopg2.extensions import cursor

    from relight.adapters.postgres import Connection

SQL = statements("relight.tasks.sql", "divergence.sql")

# A row carries the time at which its transaction began or wrote it, and was committed later. So far before the newest
# that arrived is looked at too; Relight's own transactions end within seconds.
MARGIN_S = 3600.0
_PAGE = 2000
_ENDED = ("done", "cancelled")


@dataclass(frozen=True, slots=True, kw_only=True)
class DivergedTask:
    """A task that the new side does not have (`here` is None), or whose end there it does not know of."""

    id: str
    at: datetime
    status: str
    here: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class DivergedStep:
    """A finished step whose result the new side does not have; it did the step again, or will."""

    task_id: str
    key: str
    at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class DivergedEffect:
    """A side effect of which the new side does not know (`here` is None), or knows less.

    `status` is what the old side knows: one that is `done` has happened, an `intent` or `unknown` may have, one that
    `failed` has not. `here` is what the new side knows of the same action, which it then did, or will do, by itself.
    """

    key: str
    task_id: str
    tool: str
    at: datetime
    status: str
    here: str | None

    @property
    def happened(self) -> bool:
        """Whether the tool acted for certain."""
        return self.status == "done"


@dataclass(frozen=True, slots=True, kw_only=True)
class DivergedMemory:
    """A write to vector memory that the new side's journal does not have."""

    collection: str
    id: str
    op: str
    at: datetime
    task_id: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Divergence:
    """What diverged, by time. Its size is that of what diverged, not of the ledgers.

    The histories parted where `epoch` began; `shipped_until` is the time of the newest that the new side has of the
    old one.
    """

    epoch: int
    parted_at: datetime
    shipped_until: datetime
    tasks: tuple[DivergedTask, ...]
    steps: tuple[DivergedStep, ...]
    effects: tuple[DivergedEffect, ...]
    memories: tuple[DivergedMemory, ...]

    @property
    def any(self) -> bool:
        """Whether anything diverged."""
        return bool(self.tasks or self.steps or self.effects or self.memories)

    def to_json(self) -> dict[str, Any]:
        """Every field; times in ISO 8601."""
        return {
            "epoch": self.epoch,
            "parted_at": self.parted_at.isoformat(),
            "shipped_until": self.shipped_until.isoformat(),
            "tasks": [
                {"id": item.id, "at": item.at.isoformat(), "status": item.status, "here": item.here}
                for item in self.tasks
            ],
            "steps": [{"task_id": item.task_id, "key": item.key, "at": item.at.isoformat()} for item in self.steps],
            "effects": [
                {
                    "key": item.key,
                    "task_id": item.task_id,
                    "tool": item.tool,
                    "at": item.at.isoformat(),
                    "status": item.status,
                    "here": item.here,
                    "happened": item.happened,
                }
                for item in self.effects
            ],
            "memories": [
                {
                    "collection": item.collection,
                    "id": item.id,
                    "op": item.op,
                    "at": item.at.isoformat(),
                    "task_id": item.task_id,
                }
                for item in self.memories
            ],
        }


def divergence(old: Connection, new: Connection) -> Divergence:
    """Compare the state database of a former primary with the one that took over from it; changes neither.

    Each row of the old side that was written since shortly before the last one arrived is looked for in the new side,
    by its id and by when it was made, so that what a caller submitted again after the recovery is told apart. Rows are
    read in pages. ConflictError when the new side did not take over from the old one.
    """
    with postgres.translating(), old, new, old.cursor() as there, new.cursor() as here:
        for cur in (there, here):
            cur.execute("set transaction isolation level repeatable read, read only")
        epoch, parted_at = _parted(there, here)
        here.execute(SQL["shipped_until"], {"parted_at": parted_at, "epoch": epoch})
        [(shipped_until,)] = here.fetchall()
        compare = _Compare(old, here, shipped_until)
        return Divergence(
            epoch=epoch,
            parted_at=parted_at,
            shipped_until=shipped_until,
            tasks=tuple(sorted(compare.tasks(), key=lambda item: (item.at, item.id))),
            steps=tuple(sorted(compare.steps(), key=lambda item: (item.at, item.task_id, item.key))),
            effects=tuple(sorted(compare.effects(), key=lambda item: (item.at, item.key))),
            memories=tuple(sorted(compare.memories(), key=lambda item: (item.at, item.id))),
        )


def _parted(there: cursor, here: cursor) -> tuple[int, datetime]:
    """The first epoch that the old side does not know, and when it was taken."""
    there.execute(SQL["epochs"])
    old = there.fetchall()
    here.execute(SQL["epochs"])
    new = here.fetchall()
    if not old or not new:
        raise ConflictError(
            f"the {'old' if not old else 'new'} side knows no epoch", hint="see that both are state databases"
        )
    if old[-1] not in new:
        raise ConflictError(
            f"the old side is at epoch {old[-1][0]} of {old[-1][1]}, and the new side does not have it",
            hint="they are of different environments, or the wrong way round",
        )
    later = [row for row in new if row[0] > old[-1][0]]
    if not later:
        raise ConflictError(
            f"both are at epoch {old[-1][0]} of {old[-1][1]}: no recovery came between",
            hint="the new side is the one that a recovery made the primary",
        )
    return later[0][0], later[0][3]


class _Compare:
    """Reads the old side in pages, and asks the new side for each."""

    def __init__(self, old: Connection, here: cursor, shipped_until: datetime) -> None:
        self._old = old
        self._here = here
        self._shipped_until = shipped_until
        self._since = shipped_until - timedelta(seconds=MARGIN_S)

    def tasks(self) -> Iterator[DivergedTask]:
        for page in self._pages("old_tasks"):
            new = {row[0]: row[1:] for row in self._ask("new_tasks", {"ids": [row[0] for row in page]})}
            for id_, created_at, status, updated_at in page:
                made, here = new.get(id_, (None, None))
                if made != created_at:
                    yield DivergedTask(id=id_, at=created_at, status=status, here=None)
                elif status in _ENDED and here not in _ENDED:
                    # An end is final: had it arrived, it would be there.
                    yield DivergedTask(id=id_, at=updated_at, status=status, here=here)

    def steps(self) -> Iterator[DivergedStep]:
        for page in self._pages("old_steps"):
            asked = {"tasks": [row[0] for row in page], "keys": [row[1] for row in page]}
            new = {(row[0], row[1]): row[2] for row in self._ask("new_steps", asked)}
            for task_id, key, finished_at in page:
                if new.get((task_id, key)) != finished_at:
                    yield DivergedStep(task_id=task_id, key=key, at=finished_at)

    def effects(self) -> Iterator[DivergedEffect]:
        for page in self._pages("old_effects"):
            new = {row[0]: row[1:] for row in self._ask("new_effects", {"keys": [row[0] for row in page]})}
            for key, intended_at, status, sending, task_id, tool, at in page:
                made, here, sent = new.get(key, (None, None, 0))
                if made == intended_at and sending <= sent and (status != "done" or here == "done"):
                    continue
                yield DivergedEffect(key=key, task_id=task_id, tool=tool, at=at, status=status, here=here)

    def memories(self) -> Iterator[DivergedMemory]:
        with self._old.cursor() as cur:
            cur.execute(SQL["collections"])
            names = [row[0] for row in cur.fetchall()]
        for name in names:
            yield from self._memories(name)

    def _memories(self, collection: str) -> Iterator[DivergedMemory]:
        for page in self._pages("old_memories", collection=collection):
            if all(row[3] < self._since for row in page):
                return
            asked = {
                "collections": [row[0] for row in page],
                "xids": [row[1] for row in page],
                "seqs": [row[2] for row in page],
                "ats": [row[3] for row in page],
                "shipped_until": self._shipped_until,
            }
            new = {tuple(row) for row in self._ask("new_memories", asked)}
            for row in page:
                if tuple(row[:4]) not in new:
                    _, _, _, at, id_, op, task_id = row
                    yield DivergedMemory(collection=collection, id=id_, op=op, at=at, task_id=task_id)

    def _pages(self, name: str, **values: str) -> Iterator[list[tuple[Any, ...]]]:
        with self._old.cursor(name) as rows:
            rows.execute(SQL[name], {"since": self._since, **values})
            while page := rows.fetchmany(_PAGE):
                yield page

    def _ask(self, name: str, values: Mapping[str, Any]) -> Sequence[tuple[Any, ...]]:
        self._here.execute(SQL[name], values)
        return self._here.fetchall()
