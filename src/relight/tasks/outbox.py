"""The outbox: tasks that are due and that no queue has confirmed are published, so that none is missing from it."""

from __future__ import annotations

import asyncio
import logging
from functools import partial
from typing import TYPE_CHECKING

from relight.errors import RelightError, UnavailableError
from relight.queue.port import Ticket

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from concurrent.futures import Executor

    from relight.queue.port import TaskQueue
    from relight.tasks.ledger import Ledger

_log = logging.getLogger(__name__)

BATCH = 500
# How long a task waits that becomes due, or that nobody announced to the relay.
POLL_S = 0.5
# The rows of a batch are locked meanwhile. Who waits for one of them gives up after 5 s, the bound of a confirmation: a
# queue that says nothing must not take that long.
PUBLISH_S = 3.0


class Relay:
    """Carries the outbox to the queue. Any number may run at once, anywhere: no task is handed out by two."""

    def __init__(self, ledger: Ledger, *, batch: int = BATCH, threads: Executor | None = None) -> None:
        self._ledger = ledger
        self._batch = batch
        self._threads = threads
        self._announced = asyncio.Event()

    def announce(self) -> None:
        """Say that there is something in the outbox; to be called in the relay's own event loop."""
        self._announced.set()

    async def empty(self, queue: TaskQueue, *, incarnation: str) -> int:
        """Publish everything that is due now, and return how many tasks that were."""
        try:
            return await self._empty(queue, incarnation)
        except _QueueError as exc:
            raise exc.error from exc

    async def _empty(self, queue: TaskQueue, incarnation: str) -> int:
        published = 0
        while True:
            count = await self._publish_batch(queue, incarnation)
            published += count
            if count < self._batch:
                return published

    async def run(self, queue: TaskQueue, *, incarnation: str, may_publish: Callable[[], bool] = lambda: True) -> None:
        """Keep the outbox empty until the queue fails, which is raised; the ledger's failures are waited out."""
        while True:
            self._announced.clear()
            if may_publish():
                try:
                    await self._empty(queue, incarnation)
                except _QueueError as exc:
                    raise exc.error from exc
                except RelightError as exc:
                    _log.warning("outbox_failed", extra={"error": str(exc)})
            try:
                async with asyncio.timeout(POLL_S):
                    await self._announced.wait()
            except TimeoutError:
                continue

    async def _publish_batch(self, queue: TaskQueue, incarnation: str) -> int:
        loop = asyncio.get_running_loop()
        epoch = self._ledger.epoch

        def publish(tasks: list[tuple[str, int]]) -> None:
            try:
                publish_from_thread(
                    queue, [Ticket(task_id=id_, epoch=epoch, number=number) for id_, number in tasks], loop=loop
                )
            except RelightError as exc:
                raise _QueueError(exc) from exc

        publishing = partial(self._ledger.publish_outbox, publish, incarnation=incarnation, limit=self._batch)
        return await loop.run_in_executor(self._threads, publishing)


def publish_from_thread(queue: TaskQueue, tickets: Sequence[Ticket], *, loop: asyncio.AbstractEventLoop) -> None:
    """Publish within a thread's transaction over a queue that lives in `loop`; UnavailableError after PUBLISH_S."""
    publishing = asyncio.run_coroutine_threadsafe(queue.publish(tickets), loop)
    try:
        publishing.result(PUBLISH_S)
    except TimeoutError as exc:
        publishing.cancel()
        raise UnavailableError(
            f"the queue took longer than {PUBLISH_S:g} s for {len(tickets)} tasks", hint="see that it is up"
        ) from exc


class _QueueError(Exception):
    """Carries the queue's failure past the ledger's."""

    def __init__(self, error: RelightError) -> None:
        super().__init__(str(error))
        self.error = error
