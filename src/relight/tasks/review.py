"""What a person sees of tasks that wait for one, and lets go on."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from relight.errors import NotFoundError
from relight.tasks.ledger import Kind, Status, check_id
from relight.tasks.sql import statements

if TYPE_CHECKING:
    from collections.abc import Collection
    from datetime import datetime

    from relight.tasks.database import Database
    from relight.tasks.ledger import Ledger

SQL = statements("relight.tasks.sql", "review.sql")
_AT_ONCE = 5000


@dataclass(frozen=True, slots=True, kw_only=True)
class SeenStep:
    """A step, without its result."""

    key: str
    name: str
    finished_at: datetime | None
    failures: int
    error: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class SeenEffect:
    """An effect, without what was requested."""

    key: str
    tool: str
    status: str
    error: str | None
    intended_at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class SeenTask:
    """A task with all that was done for it."""

    id: str
    kind: Kind
    status: Status
    epoch: int
    attempts: int
    created_at: datetime
    due_at: datetime
    updated_at: datetime
    worker: str | None
    error: str | None
    waits_for: str | None
    payload: Any
    steps: tuple[SeenStep, ...]
    effects: tuple[SeenEffect, ...]

    def to_json(self) -> dict[str, Any]:
        """Every field; times in ISO 8601."""
        return {
            "id": self.id,
            "kind": self.kind.value,
            "status": self.status.value,
            "epoch": self.epoch,
            "attempts": self.attempts,
            "created_at": self.created_at.isoformat(),
            "due_at": self.due_at.isoformat(),
            "updated_at": self.updated_at.isoformat(),
            "worker": self.worker,
            "error": self.error,
            "waits_for": self.waits_for,
            "payload": self.payload,
            "steps": [
                {
                    "key": step.key,
                    "name": step.name,
                    "finished_at": step.finished_at and step.finished_at.isoformat(),
                    "failures": step.failures,
                    "error": step.error,
                }
                for step in self.steps
            ],
            "effects": [
                {
                    "key": effect.key,
                    "tool": effect.tool,
                    "status": effect.status,
                    "error": effect.error,
                    "intended_at": effect.intended_at.isoformat(),
                }
                for effect in self.effects
            ],
        }


def look_up(database: Database, id_: str) -> SeenTask:
    """The task with its steps and effects; NotFoundError when there is none."""
    values = {"id": check_id(id_)}
    rows = database.execute(SQL["look_up"], values).rows
    if not rows:
        raise NotFoundError(f"there is no task {id_!r}", hint="see `relight tasks list`")
    id_, kind, status, epoch, attempts, created_at, due_at, updated_at, worker, error, waits_for, payload = rows[0]
    return SeenTask(
        id=id_,
        kind=Kind(kind),
        status=Status(status),
        epoch=epoch,
        attempts=attempts,
        created_at=created_at,
        due_at=due_at,
        updated_at=updated_at,
        worker=worker,
        error=error,
        waits_for=waits_for,
        payload=payload,
        steps=tuple(
            SeenStep(key=row[0], name=row[1], finished_at=row[2], failures=row[3], error=row[4])
            for row in database.execute(SQL["steps"], values).rows
        ),
        effects=tuple(
            SeenEffect(key=row[0], tool=row[1], status=row[2], error=row[3], intended_at=row[4])
            for row in database.execute(SQL["effects"], values).rows
        ),
    )


def count_held(database: Database) -> dict[Kind, int]:
    """How many tasks of each kind are held."""
    return {Kind(row[0]): row[1] for row in database.execute(SQL["count_held"]).rows}


def resume_held(ledger: Ledger, kinds: Collection[Kind]) -> int:
    """Let every held task of these kinds go on, and return how many there were.

    What a person let go on is not held again by a later replay.
    """
    values = {"kinds": [kind.value for kind in kinds], "epoch": ledger.epoch, "limit": _AT_ONCE}
    resumed = 0
    while True:
        found = ledger.database.execute(SQL["resume_held"], values, confirmed=True).rowcount
        resumed += found
        if found < _AT_ONCE:
            return resumed
