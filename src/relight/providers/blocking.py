"""The router for code that has no event loop: the same one, on a loop in a thread of its own."""

from __future__ import annotations

import asyncio
import os
import queue
import threading
from concurrent.futures import CancelledError
from contextlib import aclosing
from typing import TYPE_CHECKING, Any, Self, TypeVar

from relight.errors import ConfigError, UnavailableError
from relight.providers.router import OnCut

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
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="relight-router", daemon=True)
        self._thread.start()
        try:
            self._router = self._run(_made(make))
        except BaseException:
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
        events: queue.SimpleQueue[Event | Exception | None] = queue.SimpleQueue()

        async def pump() -> None:
            try:
                call = self._router.stream(
                    request, deadline_s=deadline_s, degrade=degrade, wait_s=wait_s, on_cut=on_cut
                )
                async with aclosing(call):
                    async for event in call:
                        events.put(event)
                events.put(None)
            except asyncio.CancelledError:
                events.put(_closed())
                raise
            except Exception as exc:  # noqa: BLE001 - raised again in the consumer's thread
                events.put(exc)

        running = self._submit(pump())
        try:
            while True:
                event = events.get()
                if event is None:
                    return
                if isinstance(event, Exception):
                    raise event
                yield event
        finally:
            running.cancel()

    def close(self) -> None:
        """End what is under way, and close the providers' connections; safe to call twice."""
        if self._loop.is_closed():
            return
        self._run(self._end())
        self._stop()

    # -- the loop's thread

    def _submit(self, work: Coroutine[Any, Any, _T]) -> Future[_T]:
        if os.getpid() != self._pid or self._loop.is_closed():
            work.close()
            raise ConfigError(
                "this router is closed, or was made before the process forked", hint="make one in each process"
            )
        return asyncio.run_coroutine_threadsafe(work, self._loop)

    def _run(self, work: Coroutine[Any, Any, _T]) -> _T:
        running = self._submit(work)
        try:
            return running.result()
        except CancelledError:
            raise _closed() from None
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


def _closed() -> UnavailableError:
    return UnavailableError("the router was closed during the call", hint="ask again elsewhere")


async def _made(make: Callable[[], AsyncRouter]) -> AsyncRouter:
    return make()
