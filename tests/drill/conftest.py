"""A world that the tests of one file share."""

from __future__ import annotations

import asyncio
import shutil
import tempfile
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import pytest

from relight_drill.processes import ProcessGroup
from relight_drill.world import World
from relight_stacks.loading import load_named

if TYPE_CHECKING:
    from collections.abc import Coroutine, Iterator

T = TypeVar("T")


class Stage:
    """A world that lives on in an event loop of its own, so that plain tests can work in it."""

    def __init__(self, world: World) -> None:
        self.world = world
        self._loop = asyncio.get_running_loop()
        self._over = asyncio.Event()

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        """Run `work` in the world's loop, to its end."""
        return asyncio.run_coroutine_threadsafe(work, self._loop).result()

    def end(self) -> None:
        """Let the world end."""
        self._loop.call_soon_threadsafe(self._over.set)

    async def over(self) -> None:
        """Wait for `end`."""
        await self._over.wait()


@pytest.fixture(scope="module")
def stage() -> Iterator[Stage]:
    """The two regions of `demo`, raised once for a file; what a test does to them stays done for the next."""
    folder = Path(tempfile.mkdtemp(prefix="relight-stage-"))
    folder.chmod(0o711)  # the databases' own user has to pass through
    told: list[str] = []
    raised: Future[Stage] = Future()

    async def live(group: ProcessGroup) -> None:
        async with World(load_named("demo"), folder=folder, group=group, seed=1, say=told.append) as world:
            stage = Stage(world)
            raised.set_result(stage)
            await stage.over()

    try:
        with ProcessGroup() as group, ThreadPoolExecutor(1) as thread:
            group.remove_at_end(folder)
            life = thread.submit(asyncio.run, live(group))
            either: list[Future[Any]] = [raised, life]
            wait(either, return_when=FIRST_COMPLETED)
            if not raised.done():
                life.result()
            try:
                yield raised.result()
            finally:
                raised.result().end()
                life.result()
    finally:
        with suppress(OSError):
            shutil.rmtree(folder)
