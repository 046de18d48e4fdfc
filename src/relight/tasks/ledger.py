"""The ledger: tasks and their steps, in PostgreSQL. Side effects are in `effects`, epochs in `epochs`."""

from __future__ import annotations

import json
import math
import uuid
from contextlib import suppress
from dataclasses import dataclass
from enum import StrEnum
from time import monotonic
from typing import TYPE_CHECKING, Any

from relight.config import Acknowledge
from relight.errors import (
    ConflictError,
    LeaseLostError,
    NotFoundError,
    PermanentError,
    RelightError,
    UnconfirmedError,
)
from relight.queue.port import ACK_WAIT_S, MAX_AGE_S
from relight.tasks import results
from relight.tasks.confirm import Confirm
from relight.tasks.results import LARGEST_PAYLOAD_BYTES, NoResults, encode
from relight.tasks.sql import statements

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence
    from datetime import datetime

    from psycopg2.extensions import cursor

    from relight.tasks.database import Database
    from relight.tasks.results import Results

SQL = statements("relight.tasks.sql", "ledger.sql")
READ_ONLY = statements("relight.tasks.sql", "read_only.sql")
# A task that was claimed this often and never ended may be what ends its workers; already so often when its message too
# was handed out time and again.
MAX_ATTEMPTS = 20
SUSPICIOUS_ATTEMPTS = 5
# Of many that wait for one thing, the first comes back in its time, to look; the others up to so many times that later,
# and seconds.
_BEHIND, _BEHIND_S = 4.0, 240.0
_WOKEN_AT_ONCE = 5000
_LONGEST_ID = 512


class Status(StrEnum):
    """Where a task is. What waits for a person is `parked` (it cannot go on) or `held` (it should not go on unseen)."""

    PENDING = "pending"
    RUNNING = "running"
    DONE = "done"
    PARKED = "parked"
    HELD = "held"
    CANCELLED = "cancelled"


ENDED = frozenset({Status.DONE, Status.CANCELLED})


class Kind(StrEnum):
    """What a task does to the world, by which the time travel policy judges how old it may be."""

    WORK = "work"
    TIMER = "timer"
    SEND = "send"
    CREDENTIAL = "credential"


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """One thing the agent was asked to do.

    `queued` says whether a queue confirmed it; if not, it is in the outbox, or nobody is to work on it. `waits_for` is
    what a pending task goes on for before it is due, and for a parked one the key of its effect. `claim` is set only on
    a task that this worker holds, and `first` then says that no earlier life can have left steps behind.
    """

    id: str
    kind: Kind
    payload: Any
    status: Status
    epoch: int
    attempts: int
    due_at: datetime
    queued: bool = False
    result: Any = None
    error: str | None = None
    waits_for: str | None = None
    claim: str = ""
    first: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """What the ledger knows of a step: its result when it is done, else how often it failed and why it last did."""

    done: bool
    result: Any = None
    failures: int = 0
    error: str | None = None


class Ledger:
    """Tasks and steps, each written under the epoch that `epoch()` returns at that moment.

    The database refuses a write under an epoch that is not its newest (StaleEpochError), and writes of a worker whose
    claim went to another write nothing (LeaseLostError). `acknowledge` decides whether starting and finishing a task,
    and steps that remember, wait for the standby; `results` takes what is too large for a row.
    """

    def __init__(
        self,
        database: Database,
        *,
        epoch: Callable[[], int],
        acknowledge: Acknowledge = Acknowledge.REMOTE,
        results: Results | None = None,
    ) -> None:
        self.database = database
        self.results = results or NoResults()
        self._epoch = epoch
        self._confirm = Confirm.POLICY if acknowledge is Acknowledge.REMOTE else Confirm.NO

    @property
    def epoch(self) -> int:
        """The epoch to write under now."""
        return self._epoch()

    # -- tasks

    def start_task(
        self, payload: Any, *, id_: str = "", kind: Kind = Kind.WORK, due_at: datetime | None = None
    ) -> Task:
        """Record a task and return it once it is acknowledged; it is in the outbox of the queue from then on.

        The id is the idempotency key: a call that ended in doubt is repeated with the same id. Without one, a new one
        is made up, and named by UnconfirmedError. ConflictError when the id exists with another payload or kind; when
        it is due stays as the first call said.
        """
        id_ = check_id(id_ or uuid.uuid4().hex)
        if due_at is not None and due_at.tzinfo is None:
            raise PermanentError(
                f"task {id_!r} is due at {due_at.isoformat()}, which has no offset", hint="give it a time zone"
            )
        text = encode(payload, what=f"the payload of task {id_!r}", largest=LARGEST_PAYLOAD_BYTES)
        values = {"id": id_, "kind": kind.value, "payload": text, "due_at": due_at, "epoch": self._epoch()}
        try:
            [row] = self.database.execute(SQL["start_task"], values, confirmed=self._confirm).rows
        except UnconfirmedError as exc:
            raise UnconfirmedError(
                f"task {id_!r} is not acknowledged: {exc.problem}", hint="it is committed here; repeat it with this id"
            ) from exc
        task = self._task(row)
        for what, same in (
            ("payload", canonical(task.payload) == canonical(json.loads(text))),
            ("kind", task.kind is kind),
        ):
            if not same:
                raise ConflictError(f"task {id_!r} exists with another {what}", hint="use a new id for a new task")
        return task

    def task(self, id_: str) -> Task:
        """Read a task; NotFoundError when there is none.

        What it says is what this region's database has: `confirm` before telling somebody that it is done.
        """
        rows = self.database.execute(SQL["read_task"], {"id": check_id(id_)}).rows
        if not rows:
            raise NotFoundError(f"there is no task {id_!r}", hint="see `relight tasks list`")
        return self._task(rows[0])

    def status(self, id_: str) -> tuple[Status, bool]:
        """A task's status and whether a queue confirmed it, without its payload and result; NotFoundError when there is
        none."""
        rows = self.database.execute(SQL["read_status"], {"id": check_id(id_)}).rows
        if not rows:
            raise NotFoundError(f"there is no task {id_!r}", hint="see `relight tasks list`")
        return Status(rows[0][0]), rows[0][1]

    def confirm(self, id_: str) -> None:
        """Return when all that was written of a task up to now is in the standby, by the environment's policy;
        UnconfirmedError otherwise."""
        self.database.execute(
            SQL["confirm_task"], {"id": check_id(id_), "epoch": self._epoch()}, confirmed=self._confirm
        )

    def ping(self) -> None:
        """Return when the state database answers."""
        self.database.execute(SQL["ping"])

    def refuses(self) -> str | None:
        """Why nothing is begun now, in an operator's or the environment's words; None while tasks may be started and
        claimed."""
        reason: str | None = self.database.execute(READ_ONLY["reason"]).rows[0][0]
        return reason

    def tasks(self, statuses: Iterable[Status], *, limit: int = 100) -> list[Task]:
        """Tasks in these statuses, oldest first, without their payloads and results.

        What waits for a person is found by an index; the other statuses are looked for among all tasks.
        """
        values = {"statuses": [item.value for item in statuses], "limit": limit}
        return [self._task(row) for row in self.database.execute(SQL["list_tasks"], values).rows]

    def claim(self, id_: str, *, worker: str, lease_s: float, max_attempts: int = MAX_ATTEMPTS) -> Task | None:
        """Take the task for `lease_s` seconds; None when it is not due, ended, parked, or another worker holds it."""
        claimed = self._claim(
            "claim_task", {"id": check_id(id_)}, worker=worker, lease_s=lease_s, max_attempts=max_attempts
        )
        return claimed[0] if claimed else None

    def claim_due(self, limit: int, *, worker: str, lease_s: float, max_attempts: int = MAX_ATTEMPTS) -> list[Task]:
        """Take up to `limit` tasks that are due, or whose worker is gone, oldest first: for agents without a queue."""
        return self._claim("claim_due", {"limit": limit}, worker=worker, lease_s=lease_s, max_attempts=max_attempts)

    def _claim(
        self, name: str, values: Mapping[str, Any], *, worker: str, lease_s: float, max_attempts: int
    ) -> list[Task]:
        claim = f"{worker}/{uuid.uuid4().hex[:12]}"
        values = {**values, "claim": claim, "lease_s": lease_s, "epoch": self._epoch()}
        rows = self.database.execute(SQL[name], values).rows
        tasks = [self._task(row, claim=claim, stepped=stepped) for *row, stepped in rows]
        claimed = [task for task in tasks if task.attempts <= max_attempts]
        for task in tasks:
            if task.attempts > max_attempts:
                # One that cannot be parked now comes again, and must not keep the others from being worked on.
                with suppress(RelightError):
                    self.park(task, reason=f"it was begun {max_attempts} times and never ended: it may end its workers")
        return sorted(claimed, key=lambda task: (task.due_at, task.id))

    def extend(self, task: Task, *, lease_s: float) -> None:
        """Hold the task for `lease_s` seconds from now; LeaseLostError when it is no longer this worker's."""
        self._under_claim(task, "extend_claim", {"lease_s": lease_s})

    def finish(self, task: Task, result: Any) -> Any:
        """Record that the task is done, and return its result as every reader will get it.

        An effect that the task intended in an earlier life, and in this one neither repeated nor gave up, is unknown
        from here on.
        """
        kept, again = results.store(self.results, result, what=f"the result of task {task.id!r}")
        self._end(task, Status.DONE, result=kept.inline, result_object=kept.object)
        return again

    def release(
        self,
        task: Task,
        *,
        error: str,
        delay_s: float = 0.0,
        counted: bool = True,
        waits_for: str | None = None,
    ) -> None:
        """Give the task back, to be tried again after `delay_s`; `error` is why. A life that is not `counted` says
        nothing against the task.

        One that `waits_for` something comes as soon as that is woken (`wake`). By itself only the first of those that
        wait for one thing comes after `delay_s`, and the others up to five times as late, but four minutes later at
        most, so that the many do not all come in vain for what one finds out.
        """
        values = {"error": printable(error), "delay_s": delay_s, "uncounted": 0 if counted else 1}
        values |= {"waits_for": waits_for and printable(waits_for), "behind_s": min(_BEHIND * delay_s, _BEHIND_S)}
        self._under_claim(task, "release_task", values)

    def wake(self, key: str) -> int:
        """Let all pending tasks go on now that wait for this key, and return how many there were.

        They are in the outbox from then on, in batches, so that no transaction is long. Any number may call at once,
        and again: a task is woken once. What somebody holds locked at that moment comes when it is due.
        """
        values = {"key": printable(key), "epoch": self._epoch(), "limit": _WOKEN_AT_ONCE}
        woken = 0
        while True:
            count = self.database.execute(SQL["wake"], values).rowcount
            woken += count
            if count < _WOKEN_AT_ONCE:
                return woken

    def park(self, task: Task, *, reason: str, waits_for: str | None = None) -> None:
        """Give the task up until a person resumes it, or finds out about the effect whose key it waits for."""
        self._end(task, Status.PARKED, error=printable(reason), waits_for=waits_for)

    def give_up_message(self, id_: str, *, reason: str) -> Status | None:
        """The queue gave up a task's message: park the task if its worker is gone and not the first one, else put it
        into the outbox again. The status that it has by that; None when it has ended, or is being worked on."""
        values = {"id": check_id(id_), "error": printable(reason), "epoch": self._epoch()}
        values |= {"suspicious": SUSPICIOUS_ATTEMPTS}
        rows = self.database.execute(SQL["give_up_message"], values, confirmed=self._confirm).rows
        return Status(rows[0][0]) if rows else None

    def resume(self, id_: str) -> None:
        """Let a parked or held task run again, with its attempts counted anew; its finished steps stay finished."""
        check_id(id_)
        with self.database.transaction(confirmed=self._confirm) as cur:
            if self.resume_within(cur, id_, of=[Status.PARKED, Status.HELD]):
                return
        raise ConflictError(f"task {id_!r} is {self.status(id_)[0]}", hint="only what is parked or held is resumed")

    def resume_within(self, cur: cursor, id_: str, *, of: Iterable[Status]) -> bool:
        """The same within the caller's transaction, for a task in one of these statuses; False when it is in none."""
        values = {"id": id_, "epoch": self._epoch(), "of": [status.value for status in of]}
        cur.execute(SQL["resume_task"], values)
        if cur.rowcount == 0:
            return False
        cur.execute(SQL["forget_failures"], values)
        return True

    def resume_waiting(self, cur: cursor, key: str) -> list[str]:
        """Let every task run again, within the caller's transaction, that is parked because of the effect with this
        key; their ids."""
        cur.execute(SQL["waiting_for"], {"key": key})
        ids = [row[0] for row in cur.fetchall()]
        return [id_ for id_ in ids if self.resume_within(cur, id_, of=[Status.PARKED])]

    def cancel(self, id_: str, *, reason: str) -> None:
        """End a task that nobody works on, for good."""
        values = {"id": check_id(id_), "error": printable(reason), "epoch": self._epoch()}
        if self.database.execute(SQL["cancel_task"], values, confirmed=self._confirm).rowcount == 0:
            raise ConflictError(
                f"task {id_!r} is {self.status(id_)[0]}", hint="what is pending, parked or held is cancelled"
            )

    # -- steps

    def steps(self, task: Task) -> dict[str, Step]:
        """What the ledger knows of the task's steps, by key."""
        rows = self.database.execute(SQL["read_steps"], {"task_id": task.id}).rows
        return {
            row[0]: Step(
                done=row[5],
                result=results.load(self.results, row[1], row[2]) if row[5] else None,
                failures=row[3],
                error=row[4],
            )
            for row in rows
        }

    def record_step(
        self, task: Task, *, key: str, name: str, result: Any, also: Callable[[cursor, Any], None] | None = None
    ) -> Any:
        """Store a step's result and return it as every later life will get it.

        What `also` writes goes into the same transaction. LeaseLostError when the task has gone to another worker,
        ConflictError when the step was done meanwhile.
        """
        kept, again = results.store(self.results, result, what=f"the result of step {name!r} of task {task.id!r}")
        values = self._claimed(task) | {"key": check_id(key), "name": name}
        values |= {"result": kept.inline, "result_object": kept.object}
        if also is None:
            written = self.database.execute(SQL["record_step"], values).rowcount
        else:
            with self.database.transaction(confirmed=self._confirm) as cur:
                cur.execute(SQL["record_step"], values)
                written = cur.rowcount
                if written:
                    also(cur, again)
        if written == 0:
            self.check_claim(task)
            raise ConflictError(f"step {key!r} of task {task.id!r} was done meanwhile", hint="use its stored result")
        return again

    def record_failure(self, task: Task, *, key: str, name: str, error: str) -> int:
        """Count a failure of a step, and return how many there were, earlier lives included."""
        values = self._claimed(task) | {"key": check_id(key), "name": name, "error": printable(error)}
        rows = self.database.execute(SQL["record_failure"], values).rows
        if not rows:
            raise not_ours(task)
        return int(rows[0][0])

    def check_claim(self, task: Task) -> None:
        """LeaseLostError unless the task is this worker's."""
        if not self.database.execute(SQL["is_claimed"], self._claimed(task)).rows[0][0]:
            raise not_ours(task)

    # -- the outbox

    def publish_outbox(self, publish: Callable[[list[tuple[str, int]]], None], *, incarnation: str, limit: int) -> int:
        """Hand the oldest due tasks that no queue has confirmed to `publish`, and record that the queue of this
        incarnation has them; return how many.

        Each is handed over as (id, number). The number is the same while nothing was recorded, and another each time
        that the task came back: an attempt's would repeat itself in a task that is resumed, and a queue would take it
        for one that it had.

        No two callers hand out one task at once. When `publish` raises, nothing is recorded, and all come again.
        """
        with self.database.transaction() as cur:
            cur.execute(SQL["outbox"], {"limit": limit, "epoch": self._epoch()})
            rows = cur.fetchall()
            if rows:
                publish([(row[0], row[1]) for row in rows])
                ids = [row[0] for row in rows]
                cur.execute(SQL["mark_queued"], {"ids": ids, "incarnation": incarnation, "epoch": self._epoch()})
        return len(rows)

    def return_lost(self, *, incarnation: str, age_s: float = math.inf, limit: int = 5000) -> int:
        """Put tasks into the outbox again that the queue of this incarnation does not hold, and return how many.

        These are the ones that another incarnation confirmed, those whose message is past the queue's age limit, and
        those whose worker is gone and whose message has not come again in its time. `age_s` is the age of the oldest
        message that the queue has: what it confirmed well before that, and nobody claimed, somebody removed from it.
        """
        grace_s = 3 * ACK_WAIT_S
        asked_at = monotonic()
        values = {"incarnation": incarnation, "epoch": self._epoch(), "limit": limit, "grace_s": grace_s}
        returned = 0
        while True:
            # Ages are compared, because the two servers have clocks of their own; the message grows older meanwhile.
            values["max_age_s"] = min(MAX_AGE_S, age_s + grace_s + monotonic() - asked_at)
            count = self.database.execute(SQL["return_lost"], values).rowcount
            returned += count
            if count < limit:
                return returned

    # -- within

    def _end(self, task: Task, status: Status, **fields: str | None) -> None:
        values = self._claimed(task) | {"id": task.id, "status": status.value}
        values |= {"result": None, "result_object": None, "error": None, "waits_for": None, **fields}
        if not self.database.execute(SQL["end_task"], values, confirmed=self._confirm).rows:
            raise not_ours(task)

    def _under_claim(self, task: Task, name: str, values: dict[str, Any]) -> None:
        if self.database.execute(SQL[name], self._claimed(task) | {"id": task.id, **values}).rowcount == 0:
            raise not_ours(task)

    def _claimed(self, task: Task) -> dict[str, Any]:
        return {"task_id": task.id, "claim": task.claim, "epoch": self._epoch()}

    def _task(self, row: Sequence[Any], *, claim: str = "", stepped: bool = True) -> Task:
        id_, kind, payload, status, epoch, attempts, due_at, queued, result, result_object, error, waits_for = row
        return Task(
            id=id_,
            kind=Kind(kind),
            payload=payload,
            status=Status(status),
            epoch=epoch,
            attempts=attempts,
            due_at=due_at,
            queued=queued,
            result=results.load(self.results, result, result_object),
            error=error,
            waits_for=waits_for,
            claim=claim,
            # Attempts count anew once a task is resumed, and a step that commits while the claim waits is not seen.
            first=attempts <= 1 and not stepped,
        )


def canonical(value: Any) -> str:
    """JSON with one spelling per value, for keys and digests."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False)


def check_id(id_: str) -> str:
    """`id_`, when it can be the id of a task or the key of a step; PermanentError otherwise."""
    try:
        fits = 0 < len(id_.encode()) <= _LONGEST_ID and "\0" not in id_
    except UnicodeEncodeError:
        fits = False
    if not fits:
        shown = id_ if len(id_) <= 40 else f"{id_[:40]}…"
        raise PermanentError(
            f"{shown!r} cannot be an id or a key", hint=f"use 1 to {_LONGEST_ID} bytes of UTF-8, and no NUL"
        )
    return id_


def printable(text: str) -> str:
    """`text` as PostgreSQL takes it: what cannot be stored is replaced."""
    return text.replace("\0", "\ufffd").encode("utf-8", "replace").decode()[:10_000]


def not_ours(task: Task) -> LeaseLostError:
    """The error of a worker whose task went to another."""
    return LeaseLostError(f"task {task.id!r} is no longer claimed by {task.claim!r}", hint="stop working on it")
