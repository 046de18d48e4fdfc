"""Durable steps for asyncio: the same guarantees, with functions and coroutines alike."""

from __future__ import annotations

import asyncio
import inspect
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from psycopg2.extensions import cursor

    from relight.tasks.effects import Tool
    from relight.tasks.ledger import Task
    from relight.tasks.steps import OpenStep, Retry, TaskRun


class AsyncOpenStep:
    """A step while it is open; see `OpenStep`."""

    def __init__(self, step: OpenStep) -> None:
        self._step = step

    @property
    def done(self) -> bool:
        """Whether there is a result."""
        return self._step.done

    @property
    def result(self) -> Any:
        """The stored result."""
        return self._step.result

    async def save(self, result: Any) -> Any:
        """Store the result, and return it as every later life will get it."""
        return await asyncio.to_thread(self._step.save, result)


class AsyncTaskRun:
    """One life of a task, for coroutines: every method is that of `TaskRun`, and never blocks the event loop."""

    def __init__(self, run: TaskRun) -> None:
        self.sync = run

    @property
    def task(self) -> Task:
        """The task as it was claimed."""
        return self.sync.task

    @property
    def epoch(self) -> int:
        """The epoch of the region's lease."""
        return self.sync.epoch

    def check(self, for_s: float = 0.0) -> None:
        """Return when both the region's lease and this worker's claim are live for `for_s` seconds more."""
        self.sync.check(for_s)

    async def run(
        self,
        name: str,
        fn: Callable[[], Any],
        *,
        key: str = "",
        retry: Retry | None = None,
        remember: Callable[[cursor, Any], None] | None = None,
    ) -> Any:
        """Run `fn` unless it is done: a coroutine function, or a function (in a thread), whose result is awaited where
        it is a coroutine. See `TaskRun.run`."""
        while True:
            async with self.step(name, key=key, remember=remember) as step:
                if step.done:
                    return step.result
                try:
                    result = await fn() if inspect.iscoroutinefunction(fn) else await asyncio.to_thread(fn)
                    if inspect.isawaitable(result):
                        result = await result
                except Exception as exc:  # noqa: BLE001 - a step may raise anything; its failure is recorded
                    wait_s = await asyncio.to_thread(self.sync.failed, name, key=key, exc=exc, retry=retry)
                else:
                    return await step.save(result)
            await asyncio.sleep(wait_s)

    @asynccontextmanager
    async def step(
        self, name: str, *, key: str = "", remember: Callable[[cursor, Any], None] | None = None
    ) -> AsyncIterator[AsyncOpenStep]:
        """A step as a block; see `TaskRun.step`."""
        block = self.sync.step(name, key=key, remember=remember)
        step = await asyncio.to_thread(block.__enter__)
        try:
            yield AsyncOpenStep(step)
        finally:
            block.__exit__(None, None, None)

    async def effect(self, tool: Tool, request: Any, *, key: str = "") -> Any:
        """Do something to the outside world at most once; the tool is called in a thread. See `TaskRun.effect`."""
        return await asyncio.to_thread(self.sync.effect, tool, request, key=key)
