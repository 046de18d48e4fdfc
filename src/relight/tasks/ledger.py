"""The ledger: tasks, steps and side effects, in PostgreSQL."""

from __future__ import annotations

import json
import uuid
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from psycopg2.extras import Json

from relight.config import Acknowledge
from relight.errors import ConflictError, LeaseLostError, NotFoundError
from relight.tasks.sql import statements

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from psycopg2.extensions import cursor

    from relight.tasks.database import Database

SQL = statements("relight.tasks.sql", "ledger.sql")
THE_BEGINNING = datetime(1970, 1, 1, tzinfo=UTC)


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """One thing the agent was asked to do. `claim` is set only on a task that this worker holds."""

    id: str
    payload: dict[str, Any]
    status: str
    epoch: int
    attempts: int
    result: Any = None
    error: str | None = None
    claim: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Effect:
    """One thing done to the outside world, known by what it is: `key` derives from the tool and the request."""

    key: str
    task_id: str
    tool: str
    request: dict[str, Any]
    status: str
    response: Any
    epoch: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Epoch:
    """The newest fencing generation that this database knows, and how far its recovery has come."""

    number: int
    region: str
    opened_at: datetime | None
    verified_at: datetime | None
    replayed_at: datetime | None


class Ledger:
    """Tasks, steps and effects, each written under the epoch that `epoch()` returns at that moment.

    The database refuses a write under an epoch that is not its newest (StaleEpochError).
    """

    def __init__(
        self, database: Database, *, epoch: Callable[[], int], acknowledge: Acknowledge = Acknowledge.REMOTE
    ) -> None:
        self.database = database
        self._epoch = epoch
        self._confirm_tasks = acknowledge is Acknowledge.REMOTE

    # -- tasks

    def start_task(self, task_id: str, payload: dict[str, Any]) -> Task:
        """Record a task and return it once it is acknowledged. The id is the idempotency key.

        Raises ConflictError when the id exists with another payload, UnconfirmedError when it is not acknowledged.
        """
        with self.database.transaction(confirmed=self._confirm_tasks) as cur:
            cur.execute(SQL["start_task"], {"id": task_id, "payload": Json(payload), "epoch": self._epoch()})
            is_new = cur.rowcount == 1
            task = _read_task(cur, task_id)
            if not is_new:
                # An earlier call may have left it unconfirmed. A transaction that writes nothing has nothing to be
                # confirmed; this one writes, and its confirmation covers whatever was committed before it.
                cur.execute(SQL["touch_task"], {"id": task_id, "epoch": self._epoch()})
        if canonical(task.payload) != canonical(payload):
            raise ConflictError(f"task {task_id!r} exists with another payload", hint="use a new id for a new task")
        return task

    def task(self, task_id: str) -> Task:
        """Read a task; NotFoundError when there is none."""
        with self.database.transaction() as cur:
            return _read_task(cur, task_id)

    def claim(self, task_id: str, *, worker: str, lease_s: float) -> Task | None:
        """Take the task for `lease_s` seconds; None when it is finished, or another worker holds it."""
        claim = f"{worker}/{uuid.uuid4().hex[:12]}"
        with self.database.transaction() as cur:
            cur.execute(SQL["claim_task"], {"id": task_id, "claim": claim, "lease_s": lease_s, "epoch": self._epoch()})
            row = cur.fetchone()
        return _task(row, claim=claim) if row else None

    def extend(self, task: Task, *, lease_s: float) -> None:
        """Hold the task for `lease_s` seconds more; LeaseLostError when it is no longer this worker's."""
        self._under_claim(task, "extend_claim", {"lease_s": lease_s})

    def finish(self, task: Task, result: Any) -> None:
        """Record that the task is done, with its result, confirmed in the standby."""
        self._under_claim(task, "finish_task", {"result": Json(result)}, confirmed=self._confirm_tasks)

    def release(self, task: Task, *, error: str, failed: bool) -> None:
        """Give the task back: to be tried again, or `failed` for good. `error` is its reason."""
        self._under_claim(task, "release_task", {"error": error, "status": "failed" if failed else "pending"})

    def unfinished(self, since: datetime = THE_BEGINNING) -> list[Task]:
        """Tasks made since then that nobody is working on under the newest epoch, oldest first; payloads left out."""
        with self.database.transaction() as cur:
            cur.execute(SQL["unfinished_tasks"], {"since": since, "epoch": self._epoch()})
            rows = cur.fetchall()
        return [Task(id=row[0], payload={}, status=row[1], epoch=row[2], attempts=0) for row in rows]

    # -- steps

    def step_result(self, task: Task, key: str) -> tuple[bool, Any]:
        """(True, stored result) when the step is done, else (False, None)."""
        with self.database.transaction() as cur:
            cur.execute(SQL["read_step"], {"task_id": task.id, "key": key})
            row = cur.fetchone()
        return (True, row[0]) if row else (False, None)

    def record_step(
        self, task: Task, *, key: str, name: str, result: Any, also: Callable[[cursor], None] | None = None
    ) -> None:
        """Store a step's result; what `also` writes goes into the same transaction.

        Raises LeaseLostError when the task has gone to another worker, ConflictError when the step was done meanwhile.
        """
        with self.database.transaction(confirmed=self._confirm_tasks and also is not None) as cur:
            values = {"key": key, "name": name, "result": Json(result), "task_id": task.id, "claim": task.claim}
            cur.execute(SQL["record_step"], {**values, "epoch": self._epoch()})
            if cur.rowcount == 0:
                raise _not_ours(task)
            if also is not None:
                also(cur)

    # -- effects

    def effect(self, key: str) -> Effect | None:
        """The effect with that key, or None."""
        with self.database.transaction() as cur:
            cur.execute(SQL["read_effect"], {"key": key})
            row = cur.fetchone()
        return Effect(**dict(zip(Effect.__dataclass_fields__, row, strict=True))) if row else None

    def intend(self, task: Task, *, key: str, tool: str, request: dict[str, Any]) -> None:
        """Record the intent of an effect, or bring one that was never settled under the newest epoch.

        On return it is confirmed in the standby, whatever the environment trades. LeaseLostError when the task is no
        longer this worker's.
        """
        with self.database.transaction(confirmed=True) as cur:
            values = {"key": key, "tool": tool, "request": Json(request), "task_id": task.id, "claim": task.claim}
            cur.execute(SQL["intend_effect"], {**values, "epoch": self._epoch()})
            if cur.rowcount == 0:
                raise _not_ours(task)

    def settle(self, key: str, *, status: str, response: Any = None) -> None:
        """Record what became of an effect: `done` or `unknown`. One that is done stays done."""
        with self.database.transaction() as cur:
            values = {"key": key, "status": status, "response": Json(response), "epoch": self._epoch()}
            cur.execute(SQL["settle_effect"], values)

    def _under_claim(self, task: Task, name: str, values: dict[str, Any], *, confirmed: bool = False) -> None:
        with self.database.transaction(confirmed=confirmed) as cur:
            cur.execute(SQL[name], {**values, "id": task.id, "claim": task.claim, "epoch": self._epoch()})
            if cur.rowcount == 0:
                raise _not_ours(task)


class EpochLog:
    """The epochs as the state database knows them. Every mark is idempotent."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def newest(self) -> Epoch | None:
        """The newest epoch, or None before the first."""
        with self._database.transaction() as cur:
            cur.execute(SQL["newest_epoch"])
            row = cur.fetchone()
        return (
            Epoch(number=row[0], region=row[1], opened_at=row[2], verified_at=row[3], replayed_at=row[4])
            if row
            else None
        )

    def take(self, number: int, *, region: str, run_id: str) -> None:
        """Record that `region` acts under this epoch; from then on the database refuses older ones."""
        self._execute("take_epoch", {"epoch": number, "region": region, "run_id": run_id})
        newest = self.newest()
        if newest is None or (newest.number, newest.region) != (number, region):
            raise ConflictError(f"epoch {number} for {region} came too late: the database has {newest}")

    def mark_verified(self, number: int) -> None:
        """Memory has been hydrated and verified under this epoch."""
        self._execute("mark_verified", {"epoch": number})

    def mark_replayed(self, number: int) -> None:
        """Tasks have been replayed under this epoch."""
        self._execute("mark_replayed", {"epoch": number})

    def mark_opened(self, number: int) -> None:
        """The gate may let traffic in under this epoch."""
        self._execute("mark_opened", {"epoch": number})

    def _execute(self, name: str, values: dict[str, Any]) -> None:
        with self._database.transaction(confirmed=True) as cur:
            cur.execute(SQL[name], values)


def canonical(value: Any) -> str:
    """JSON with one spelling per value, for keys and digests."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False)


def _task(row: Sequence[Any], *, claim: str = "") -> Task:
    names = ("id", "payload", "status", "epoch", "attempts", "result", "error")
    return Task(**dict(zip(names, row, strict=True)), claim=claim)


def _read_task(cur: cursor, task_id: str) -> Task:
    cur.execute(SQL["read_task"], {"id": task_id})
    row = cur.fetchone()
    if row is None:
        raise NotFoundError(f"there is no task {task_id!r}")
    return _task(row)


def _not_ours(task: Task) -> LeaseLostError:
    return LeaseLostError(f"task {task.id!r} is no longer claimed by {task.claim!r}", hint="stop working on it")
