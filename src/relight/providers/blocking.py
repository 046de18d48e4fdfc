"""The router for code that has no event loop: the same one, on a loop in a thread of its own."""

from __future__ import annotations

import asyncio
import os
import queue
import threading
from concurrent.futures import CancelledError
from contextlib import aclosing
from typing import TYPE_CHECKING, Any, Self, TypeVar

from relight.errors import ConfigError
from relight.providers.router import OnCut, closed

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Iterator
    from concurrent.futures import Future

    from relight.providers.board import Board
    from relight.providers.messages import Answer, Event, Request
    from relight.providers.router import AsyncRouter

_CLOSE_S = 5.0

_T = TypeVar("_T")


class Router:
    """An `AsyncRouter` whose calls block. Any number of threads may call at once. Close it, or use it as a context
    manager.

    `make` is called on the loop's thread; what it raises is raised here. A process that forks needs one of its own in
    each child: a thread does not come along.
    """

    def __init__(self, make: Callable[[], AsyncRouter]) -> None:
        self._pid = os.getpid()
        self._closing = False
        # Held while work is handed over, so that whatever was handed over is there to be ended when it is closed.
        self._lock = threading.Lock()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="relight-router", daemon=True)
        self._thread.start()
        try:
            self._router = self._run(_made(make))
        except BaseException:
            self._closing = True
            self._stop()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    @property
    def board(self) -> Board:
        """The breakers."""
        return self._router.board

    def complete(
        self, request: Request, *, deadline_s: float | None = None, degrade: bool = True, wait_s: float = 0.0
    ) -> Answer:
        """See `AsyncRouter.complete`."""
        return self._run(self._router.complete(request, deadline_s=deadline_s, degrade=degrade, wait_s=wait_s))

    def stream(
        self,
        request: Request,
        *,
        deadline_s: float | None = None,
        degrade: bool = True,
        wait_s: float = 0.0,
        on_cut: OnCut = OnCut.ERROR,
    ) -> Iterator[Event]:
        """See `AsyncRouter.stream`. A consumer that stops early closes the iterator, or drops it."""
        # Without a bound, so that a slow consumer does not look like a silent provider; an answer is not large.
        events: queue.SimpleQueue[Event | None] = queue.SimpleQueue()

        async def pump() -> None:
            call = self._router.stream(request, deadline_s=deadline_s, degrade=degrade, wait_s=wait_s, on_cut=on_cut)
            async with aclosing(call):
                async for event in call:
                    events.put(event)

        running = self._submit(pump())
        # Also when it is ended before it began.
        running.add_done_callback(lambda _: events.put(None))
        try:
            while (event := events.get()) is not None:
                yield event
            self._result(running)
        finally:
            running.cancel()

    def close(self) -> None:
        """End what is under way, and close the providers' connections; safe to call twice."""
        with self._lock:
            first, self._closing = not self._closing, True
        if not first:
            self._thread.join(_CLOSE_S)
            return
        try:
            asyncio.run_coroutine_threadsafe(self._end(), self._loop).result()
        finally:
            self._stop()

    # -- the loop's thread

    def _submit(self, work: Coroutine[Any, Any, _T]) -> Future[_T]:
        with self._lock:
            if os.getpid() == self._pid and not self._closing:
                return asyncio.run_coroutine_threadsafe(work, self._loop)
        work.close()
        raise ConfigError(
            "this router is closed, or was made before the process forked", hint="make one in each process"
        )

    def _run(self, work: Coroutine[Any, Any, _T]) -> _T:
        return self._result(self._submit(work))

    def _result(self, running: Future[_T]) -> _T:
        try:
            return running.result()
        except CancelledError:
            raise closed() from None
        except BaseException:
            # An interrupt leaves the call, and then the call must not go on.
            running.cancel()
            raise

    async def _end(self) -> None:
        this = asyncio.current_task()
        others = [task for task in asyncio.all_tasks() if task is not this]
        for task in others:
            task.cancel()
        if others:
            await asyncio.wait(others, timeout=_CLOSE_S)
        await self._router.close()

    def _stop(self) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(_CLOSE_S)
        if not self._thread.is_alive():
            self._loop.close()


async def _made(make: Callable[[], AsyncRouter]) -> AsyncRouter:
    return make()
