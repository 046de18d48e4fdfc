"""A worker: takes tasks from the queue, runs them under a claim, and acknowledges what is done."""

from __future__ import annotations

import asyncio
import inspect
import logging
import random
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Any

from relight.errors import (
    LeaseLostError,
    NotFoundError,
    PermanentError,
    QueueLostError,
    ReadOnlyModeError,
    RelightError,
    StaleEpochError,
    UnavailableError,
    UnconfirmedError,
)
from relight.tasks.aio import AsyncTaskRun
from relight.tasks.ledger import MAX_ATTEMPTS, Status, check_id
from relight.tasks.migrate import check_schema
from relight.tasks.outbox import Relay
from relight.tasks.steps import CLAIM_S, Retry, TaskRun
from relight.tasks.verdict import Again, Leave, Park, give_back, judge
from relight.tasks.waiting import leaves

if TYPE_CHECKING:
    from collections.abc import Callable
    from concurrent.futures import Executor
    from contextlib import AbstractAsyncContextManager

    from relight.clock import Clock
    from relight.queue.port import Delivery, TaskQueue
    from relight.recovery.epoch import HeldLease
    from relight.tasks.ledger import Ledger, Task

_log = logging.getLogger(__name__)

# The parts of a claim and of an ack wait after which both are renewed.
_KEEP_EVERY_S = 5.0
_RECONNECT_S = 1.0
# How often dead letters and tasks whose message is gone are looked for.
_LOOK_AFTER_S = 10.0


class Worker:
    """Works on up to `concurrency` tasks at once, and keeps the queue filled from the outbox.

    `handler` is a function of a TaskRun, run in a thread, or a coroutine function of an AsyncTaskRun; what it returns
    is the task's result. A message is acknowledged only when the task's completion is committed and confirmed. When a
    handler raises, the ledger has the reason, and when to try again, before the message is acknowledged. A queue that
    fails is connected to again; one that lost its store is filled again from the ledger.

    `may_work` is the region's gate: while it says no, nothing is fetched and nothing published; nor is it while the
    state database, or the environment, says that all is read-only. `threads` are what functions run in; the worker's
    own calls have others, so that handlers that take long keep no claim from being renewed.
    """

    def __init__(
        self,
        ledger: Ledger,
        *,
        lease: HeldLease,
        connect: Callable[[], AbstractAsyncContextManager[TaskQueue]],
        handler: Callable[[Any], Any],
        name: str,
        clock: Clock,
        concurrency: int = 4,
        claim_s: float = CLAIM_S,
        max_attempts: int = MAX_ATTEMPTS,
        retry: Retry | None = None,
        may_work: Callable[[], bool] = lambda: True,
        chance: random.Random | None = None,
        threads: Executor | None = None,
    ) -> None:
        self._ledger = ledger
        self._lease = lease
        self._connect = connect
        self._handler = handler
        self._name = name
        self._clock = clock
        self._concurrency = concurrency
        self._claim_s = claim_s
        self._max_attempts = max_attempts
        self._retry = retry or Retry()
        self._may_work = may_work
        self._chance = chance or random.Random()  # noqa: S311 - spreads retries
        # A function whose task went to another worker occupies its thread until it returns.
        self._threads = threads or ThreadPoolExecutor(2 * concurrency, thread_name_prefix="relight-handler")
        self._calls = ThreadPoolExecutor(2 * concurrency + 4, thread_name_prefix="relight-worker")
        self._relay = Relay(ledger, threads=self._calls)
        self._ledger_is_away = False
        self._is_read_only = False
        self._running: set[asyncio.Task[None]] = set()

    def announce(self) -> None:
        """Say that a task was started, so that it need not wait for the outbox to be looked at."""
        self._relay.announce()

    async def run(self) -> None:
        """Work until cancelled; tasks that run then are given back."""
        serving: asyncio.Task[None] | None = None
        try:
            while True:
                # In a task of its own: a group in which something failed does not tell, before Python 3.13, whether it
                # was also cancelled.
                serving = asyncio.create_task(self._connected())
                await asyncio.wait([serving])
                serving.result()
                await asyncio.sleep(_RECONNECT_S)
        finally:
            ending = [job for job in (serving, *self._running) if job is not None]
            for job in ending:
                job.cancel()
            await asyncio.gather(*ending, return_exceptions=True)

    async def _connected(self) -> None:
        """Work with one connection until it fails."""
        try:
            async with self._connect() as queue:
                await self._serve(queue)
        except* RelightError as group:
            _log.warning("worker_interrupted", extra={"errors": [str(exc) for exc in leaves(group)]})

    async def _serve(self, queue: TaskQueue) -> None:
        await self._call(check_schema, self._ledger.database)
        await self._look_whether_read_only()
        incarnation = await queue.ensure()
        _heed_cancellation()
        async with asyncio.TaskGroup() as group:
            group.create_task(self._relay.run(queue, incarnation=incarnation, may_publish=self._may_begin))
            group.create_task(self._fetch(queue))
            group.create_task(self._look_after(queue, incarnation))

    def _may_begin(self) -> bool:
        return self._may_work() and not self._is_read_only

    async def _fetch(self, queue: TaskQueue) -> None:
        while True:
            _heed_cancellation()
            free = self._concurrency - len(self._running)
            if free <= 0:
                await asyncio.wait(self._running, return_when=asyncio.FIRST_COMPLETED)
                continue
            if not self._may_work():
                await asyncio.sleep(0.1)
                continue
            if self._ledger_is_away:
                await self._look_for_ledger()
                continue
            if self._is_read_only:
                await asyncio.sleep(_RECONNECT_S)
                await self._look_whether_read_only()
                continue
            for delivery in await queue.fetch(free, timeout_s=1.0):
                # Outside the group: a queue that fails must not end what is being worked on.
                job = asyncio.create_task(self._deliver(delivery))
                self._running.add(job)
                job.add_done_callback(self._running.discard)

    async def _look_for_ledger(self) -> None:
        """While the ledger is away nothing is fetched: each message would be handed out in vain, time and again."""
        try:
            await self._call(self._ledger.ping)
        except RelightError:
            await asyncio.sleep(_RECONNECT_S)
        else:
            self._ledger_is_away = False

    async def _look_whether_read_only(self) -> None:
        """While nothing may be begun nothing is fetched, as above."""
        try:
            reason = await self._call(self._ledger.refuses)
        except RelightError as exc:
            self._ledger_is_away = True
            _log.warning("ledger_failed", extra={"error": str(exc)})
            return
        if (reason is not None) != self._is_read_only:
            _log.warning("worker_read_only" if reason else "worker_begins_again", extra={"reason": reason or ""})
        self._is_read_only = reason is not None

    async def _look_after(self, queue: TaskQueue, incarnation: str) -> None:
        """Publish again what the queue lost, and see to what it gave up."""
        while True:
            if self._may_begin():
                age_s = await queue.age_s()
                try:
                    returned = await self._call(self._ledger.return_lost, incarnation=incarnation, age_s=age_s)
                except RelightError as exc:
                    _log.warning("ledger_failed", extra={"error": str(exc)})
                    returned = 0
                if returned:
                    _log.warning("tasks_returned", extra={"tasks": returned, "incarnation": incarnation})
                    self.announce()
                for letter in await queue.dead_letters():
                    reason = f"its message was handed out {letter.deliveries} times and never acknowledged"
                    try:
                        if _can_be_a_task(letter.task_id):
                            await self._call(self._ledger.give_up_message, letter.task_id, reason=reason)
                    except RelightError as exc:
                        _log.warning("ledger_failed", extra={"error": str(exc)})
                    else:
                        await queue.discard_dead(letter.task_id)
            if await queue.incarnation() != incarnation:
                raise QueueLostError("the queue was made again", hint="it is filled from the ledger")
            _heed_cancellation()
            await asyncio.sleep(_LOOK_AFTER_S)

    # -- one message

    async def _deliver(self, delivery: Delivery) -> None:
        """Work on one message. Whatever is not certain is left, and comes again."""
        try:
            again_s = await self._perform(delivery)
            if again_s is None:
                await delivery.ack()
            else:
                await delivery.nak(again_s)
        except RelightError as exc:
            self._ledger_is_away = self._ledger_is_away or isinstance(exc, UnavailableError)
            if isinstance(exc, ReadOnlyModeError):
                await self._look_whether_read_only()
            _log.warning("delivery_failed", extra={"task_id": delivery.task_id, "error": str(exc)})
            with suppress(RelightError):
                await delivery.nak(self._retry.after(delivery.deliveries, chance=self._chance))

    async def _perform(self, delivery: Delivery) -> float | None:
        """Run the task of a message; return after how many seconds it should come again, None when it has done its
        work."""
        if not _can_be_a_task(delivery.task_id):
            _log.warning("task_is_not_in_the_ledger", extra={"task_id": delivery.task_id})
            return None
        claimed_at = self._clock.monotonic()
        task = await self._call(
            self._ledger.claim,
            delivery.task_id,
            worker=self._name,
            lease_s=self._claim_s,
            max_attempts=self._max_attempts,
        )
        if task is None:
            return await self._unclaimed(delivery.task_id)
        run = TaskRun(
            self._ledger,
            task,
            lease=self._lease,
            clock=self._clock,
            claim_s=self._claim_s,
            claimed_at=claimed_at,
            retry=self._retry,
        )
        working = asyncio.create_task(self._handle(run))
        keeping = asyncio.create_task(self._keep(run, delivery, working))
        try:
            verdict = await working
        except asyncio.CancelledError:
            await self._give_back(task, working)
            raise
        finally:
            keeping.cancel()
        if isinstance(verdict, Leave):
            return self._claim_s
        if verdict is not None:
            await self._call(give_back, self._ledger, task, verdict)
        return None

    async def _handle(self, run: TaskRun) -> Again | Park | Leave | None:
        """Run the handler and record the completion; None when it is done."""
        try:
            if inspect.iscoroutinefunction(self._handler):
                result = await self._handler(AsyncTaskRun(run))
            else:
                result = await asyncio.get_running_loop().run_in_executor(self._threads, self._handler, run)
        except Exception as exc:  # noqa: BLE001 - the boundary of a worker: a task may raise anything
            return self._judged(run, exc)
        try:
            await self._call(run.finish, result)
        except UnconfirmedError as exc:
            # It is done here. Its message comes again, and is acknowledged when that is confirmed.
            _log.warning("completion_unconfirmed", extra={"task_id": run.task.id, "error": str(exc)})
            return Leave(reason=str(exc))
        except RelightError as exc:
            return self._judged(run, exc)
        return None

    def _judged(self, run: TaskRun, exc: Exception) -> Again | Park | Leave:
        verdict = judge(
            exc,
            attempts=run.task.attempts,
            max_attempts=self._max_attempts,
            retry=self._retry,
            chance=self._chance,
        )
        _log.warning(
            "task_failed",
            extra={"task_id": run.task.id, "attempt": run.task.attempts, "error": verdict.reason},
        )
        return verdict

    async def _unclaimed(self, task_id: str) -> float | None:
        """A message whose task could not be claimed: it has done its work, unless nothing else will bring the task
        back."""
        try:
            status, queued = await self._call(self._ledger.status, task_id)
        except NotFoundError:
            _log.warning("task_is_not_in_the_ledger", extra={"task_id": task_id})
            return None
        if status is Status.RUNNING:
            return self._claim_s
        if status is Status.DONE:
            # Its completion may have been committed here and not confirmed.
            await self._call(self._ledger.confirm, task_id)
        return _RECONNECT_S if status is Status.PENDING and queued else None

    async def _keep(self, run: TaskRun, delivery: Delivery, working: asyncio.Task[Any]) -> None:
        """Renew the claim and the delivery while the task is worked on; a coroutine that lost its task is ended."""
        every_s = min(_KEEP_EVERY_S, self._claim_s / 4)
        while True:
            await asyncio.sleep(every_s)
            try:
                await self._call(run.heartbeat)
            except (LeaseLostError, StaleEpochError):
                working.cancel()
                return
            except RelightError as exc:
                _log.warning("heartbeat_failed", extra={"task_id": run.task.id, "error": str(exc)})
            with suppress(RelightError):
                await delivery.in_progress()

    async def _give_back(self, task: Task, working: asyncio.Task[Any]) -> None:
        """The worker stops, or lost its claim: whoever comes next need not wait for the claim to run out."""
        working.cancel()
        await asyncio.gather(working, return_exceptions=True)
        if inspect.iscoroutinefunction(self._handler):  # a thread goes on: its claim must run out by itself
            with suppress(RelightError):
                await self._call(self._ledger.release, task, error="its worker stopped", counted=False)

    async def _call(self, call: Callable[..., Any], *args: Any, **named: Any) -> Any:
        """One of the worker's own calls, in a thread."""
        return await asyncio.get_running_loop().run_in_executor(self._calls, partial(call, *args, **named))


def _heed_cancellation() -> None:
    """Raise what a call swallowed: in Python 3.11 `asyncio.wait_for`, on which drivers build, forgets a cancellation
    that comes in the moment in which its own work is done."""
    current = asyncio.current_task()
    if current is not None and current.cancelling():
        raise asyncio.CancelledError


def _can_be_a_task(id_: str) -> bool:
    """Whether the ledger could have a task of that id; anybody may put anything into a queue."""
    try:
        check_id(id_)
    except PermanentError:
        return False
    return True
