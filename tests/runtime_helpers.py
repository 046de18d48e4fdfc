"""What the tests of the runtime share: leases, tools that misbehave, a clean ledger, and waiting for a condition."""

from __future__ import annotations

import asyncio
import json
import threading
import time
from contextlib import asynccontextmanager, contextmanager
from typing import TYPE_CHECKING, Any

from relight.errors import LeaseLostError
from relight.tasks.effects import Answer, EffectStatus
from relight.tasks.ledger import Ledger, Task

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping, Sequence

    from relight.tasks.database import Database
    from relight.tasks.results import Results
    from relight.tasks.worker import Worker

WAIT_S = 30.0


class Held:
    """A lease that is held until it is told otherwise."""

    def __init__(self, epoch: int = 1) -> None:
        self.epoch = epoch
        self.lost = False

    def check(self, for_s: float = 0.0) -> None:
        if self.lost:
            raise LeaseLostError("the region's lease ran out")


class RecordingTool:
    """A tool that keeps what it did, and can fail before it acts, after it acted, or hang.

    `acted` is the world: every act, with its key. `before` and `after` run before and after it, and may raise; `says`
    is what it answers when it is asked: None for the truth.
    """

    def __init__(self, *, name: str = "mail", timeout_s: float = 1.0, honours_keys_s: float = 0.0) -> None:
        self.name = name
        self.timeout_s = timeout_s
        self.honours_keys_s = honours_keys_s
        self.acted: list[tuple[str, Any]] = []
        self.sent: list[tuple[str, Any]] = []
        self.asked: list[str] = []
        self.before: Callable[[], object] = lambda: None
        self.after: Callable[[], object] = lambda: None
        self.says: Answer | Exception | None = None
        self.response: Any = None
        self._lock = threading.Lock()

    def send(self, request: Any, *, key: str) -> Any:
        with self._lock:
            self.sent.append((key, request))
        self.before()
        with self._lock:
            known = any(key == other for other, _ in self.acted)
            if not (known and self.honours_keys_s):
                self.acted.append((key, request))
        self.after()
        return self._answer(key)

    def find(self, request: Any, *, key: str) -> Any | Answer:
        with self._lock:
            self.asked.append(key)
        if isinstance(self.says, Exception):
            raise self.says
        if self.says is not None:
            return self.says
        known = any(key == other for other, _ in self.acted)
        return self._answer(key) if known else Answer.NOT_SENT

    def _answer(self, key: str) -> Any:
        return {"id": key[:8]} if self.response is None else self.response


class Flaky:
    """A function that raises the first `times` times, and counts its calls."""

    def __init__(self, times: int, exc: Exception, result: Any = "done") -> None:
        self.calls = 0
        self._times = times
        self._exc = exc
        self._result = result

    def __call__(self) -> Any:
        self.calls += 1
        if self.calls <= self._times:
            raise self._exc
        return self._result


def clean_ledger(database: Database, *, results: Results | None = None) -> Ledger:
    """A ledger without a task, under the newest epoch."""
    empty(database)
    [(epoch,)] = sql(database, "select max(epoch) from relight.epochs")
    return Ledger(database, epoch=lambda: epoch, results=results)


def empty(database: Database) -> None:
    """Forget every task. Not by truncating, which syncs files."""
    sql(database, "delete from relight.steps; delete from relight.effects; delete from relight.tasks")


def claimed(ledger: Ledger, id_: str, payload: Any = None, *, lease_s: float = 300.0) -> Task:
    """A task that was started and is held by a worker."""
    ledger.start_task(payload, id_=id_)
    return reclaimed(ledger, id_, lease_s=lease_s)


def reclaimed(ledger: Ledger, id_: str, *, lease_s: float = 300.0) -> Task:
    """The task in the hands of the next worker; the worker before, if there was one, is a zombie now."""
    sql(ledger.database, "update relight.tasks set lease_until = now() - interval '1 s' where status = 'running'")
    task = ledger.claim(id_, worker="w", lease_s=lease_s)
    assert task is not None, f"{id_} could not be claimed: {ledger.task(id_)}"
    return task


def next_life(ledger: Ledger, task: Task) -> Task:
    """The same task, claimed anew after its worker died."""
    return reclaimed(ledger, task.id)


def sql(database: Database, text: str, params: Sequence[Any] | Mapping[str, Any] | None = None) -> list[Any]:
    """Run a statement behind the library's back, whatever its triggers say."""
    with database.transaction() as cur:
        cur.execute("set local session_replication_role = replica")
        cur.execute(text, params)
        return cur.fetchall() if cur.description else []


def books(database: Database) -> dict[str, list[Any]]:
    """Everything that the ledger has, to compare with."""
    return {
        table: sql(database, f"select row_to_json(it)::text from relight.{table} it order by 1")
        for table in ("tasks", "steps", "effects")
    }


def make_final(ledger: Ledger) -> None:
    """From here on whatever was on its way to a tool has arrived, or never will."""
    sql(ledger.database, "update relight.effects set final_from = clock_timestamp() - interval '1 s'")


def effects_of(ledger: Ledger) -> list[tuple[str, EffectStatus]]:
    """The task and the status of every effect."""
    rows = sql(ledger.database, "select task_id, status from relight.effects order by intended_at, key")
    return [(row[0], EffectStatus(row[1])) for row in rows]


def as_json(value: Any) -> Any:
    """The value as JSON gives it back."""
    return json.loads(json.dumps(value))


def together(*calls: Callable[[], Any]) -> list[Any]:
    """Make the calls at once, each in a thread; what each returned or raised, in their order."""
    results: list[Any] = [None] * len(calls)
    ready = threading.Barrier(len(calls))

    def make(number: int, call: Callable[[], Any]) -> None:
        ready.wait()
        try:
            results[number] = call()
        except Exception as exc:  # noqa: BLE001 - the caller looks at it
            results[number] = exc

    threads = [threading.Thread(target=make, args=item) for item in enumerate(calls)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return results


@contextmanager
def in_thread(call: Callable[[], Any]) -> Iterator[list[Any]]:
    """Make the call meanwhile; on leaving it has ended, and the list holds what it returned or raised."""
    found: list[Any] = []

    def make() -> None:
        try:
            found.append(call())
        except Exception as exc:  # noqa: BLE001 - the caller looks at it
            found.append(exc)

    thread = threading.Thread(target=make)
    thread.start()
    try:
        yield found
    finally:
        thread.join()


def wait_for(condition: Callable[[], Any], what: str, *, within_s: float = WAIT_S) -> Any:
    """The first true answer of `condition`; fails when there is none in time."""
    until = time.monotonic() + within_s
    while True:
        answer = condition()
        if answer:
            return answer
        assert time.monotonic() < until, f"waited {within_s:g} s in vain for {what}"
        time.sleep(0.01)


async def until(
    condition: Callable[[], Any] | Callable[[], Awaitable[Any]], what: str, *, within_s: float = WAIT_S
) -> Any:
    """The same for coroutines; a plain `condition` is asked in a thread, because it may ask a server."""
    is_async = asyncio.iscoroutinefunction(condition)
    ends = time.monotonic() + within_s
    while True:
        answer = await condition() if is_async else await asyncio.to_thread(condition)
        if answer:
            return answer
        assert time.monotonic() < ends, f"waited {within_s:g} s in vain for {what}"
        await asyncio.sleep(0.02)


@asynccontextmanager
async def working(*workers: Worker) -> AsyncIterator[None]:
    """The workers work meanwhile; one that ends by itself fails the test."""
    jobs = [asyncio.create_task(worker.run()) for worker in workers]
    try:
        yield
        for job in jobs:
            assert not job.done(), f"a worker ended: {job}"
    finally:
        for job in jobs:
            job.cancel()
        _, left = await asyncio.wait(jobs, timeout=WAIT_S)
    assert not left, f"a worker that was cancelled goes on: {left}"


def statuses(ledger: Ledger) -> dict[str, int]:
    """How many tasks are in each status."""
    return dict(sql(ledger.database, "select status, count(*)::int from relight.tasks group by 1"))
