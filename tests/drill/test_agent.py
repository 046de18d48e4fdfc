"""The primary's agents, when one of their servers came back with nothing: no recovery is needed, and none is run."""

from __future__ import annotations

import asyncio
import shutil
from contextlib import closing
from typing import TYPE_CHECKING

import pytest

from relight.config import Role
from relight.tasks.database import Database
from relight.tasks.read_only import begin_read_only, end_read_only
from relight_drill.audit import read_summaries
from relight_drill.corpus import documents
from relight_drill.network import Mode
from relight_drill.processes import wait_until

if TYPE_CHECKING:
    from drill.conftest import Stage

pytestmark = pytest.mark.drill


def test_a_primary_whose_store_lost_its_volume_mends_it(stage: Stage) -> None:
    """fails when the store stays empty and the primary down: its memory is rebuilt from the journal, and it serves."""
    world = stage.world

    async def scenario() -> None:
        vector = world.play_of(Role.PRIMARY).vector
        await world.lose_volume(Role.PRIMARY)
        await wait_until(lambda: vector.running, what="another task of the store", timeout_s=60)
        await world.until_memory_is_whole(Role.PRIMARY, timeout_s=60)
        async with world.callers() as callers:

            def served() -> bool:
                return any(ask.answered for ask in callers.record.asks)

            await wait_until(served, what="the primary to serve again", timeout_s=60)

    stage.run(scenario())
    assert world.runs("epoch-") == []


def test_a_queue_that_lost_its_store_is_made_again(stage: Stage) -> None:
    """fails when tasks that are submitted after the queue's server came back empty are not worked on."""
    world = stage.world

    async def scenario() -> None:
        queue = world.play_of(Role.PRIMARY).queue
        queue.kill()
        await asyncio.to_thread(shutil.rmtree, queue.store_dir)
        await queue.start()
        async with world.callers() as callers:
            await callers.submit(documents(2, seed=9), prefix="mended", over_s=0.5)

            def reported() -> bool:
                return {message.task for message in world.outbox.sent()} >= {"mended-0000", "mended-0001"}

            await wait_until(reported, what="the tasks to be done", timeout_s=60)

    stage.run(scenario())


def test_a_task_goes_on_with_the_next_provider(stage: Stage) -> None:
    """fails when a task is not done because the first LLM provider refuses its connections, or when a key is logged."""
    world = stage.world
    first, second = world.models.all

    async def scenario() -> None:
        await first.set_mode(Mode.DEAD)
        try:
            async with world.callers() as callers:
                await callers.submit(documents(2, seed=11), prefix="elsewhere", over_s=0.5)

                def reported() -> bool:
                    return {message.task for message in world.outbox.sent()} >= {"elsewhere-0000", "elsewhere-0001"}

                await wait_until(reported, what="the tasks to be done", timeout_s=60)
        finally:
            await first.set_mode(Mode.OPEN)

    stage.run(scenario())
    summaries = read_summaries(world.state_dsn(Role.PRIMARY))
    for name in ("elsewhere-0000", "elsewhere-0001"):
        assert (summaries[name]["provider"], summaries[name]["degraded"]) == (second.name, True)
        assert summaries[name]["tries"][-1][:2] == [second.name, "answered"]
        assert len(second.server.paid(name)) == 1
    logs = [path.read_text() for role in Role for path in world.play_of(role).folder.glob("*.log")]
    assert logs
    assert not any(key in log for key in world.models.keys().values() for log in logs)


def test_an_agent_that_changes_nothing_answers(stage: Stage) -> None:
    """fails when a task or a memory is taken while all is read-only, a question refused, or anything lost by it: what
    was sent meanwhile is done once writes are taken, once."""
    world = stage.world
    names = [f"meanwhile-{number:04}" for number in range(2)]

    async def scenario() -> None:
        async with world.callers() as callers:
            task, memory = {"id": "refused", "payload": {"topic": "t"}}, {"id": "refused", "text": "t"}
            with closing(Database(world.state_dsn(Role.PRIMARY))) as database:
                await asyncio.to_thread(begin_read_only, database, reason="a test")
                try:
                    for path, body in (("/tasks", task), ("/memories", memory)):
                        assert await callers.call("POST", path, body) == (503, {"error": "ReadOnlyModeError"})
                    status, found = await callers.call("POST", "/ask", {"question": "what is a lock?"})
                    assert (status, len(found["hits"])) == (200, 5)
                    status, found = await callers.call("GET", "/ready")
                    assert (status, found["works"]) == (200, True)
                    await callers.submit(documents(2, seed=13), prefix="meanwhile", over_s=0.5)
                    assert callers.waiting >= len(names)
                    assert not set(names) & set(callers.record.tasks)
                finally:
                    await asyncio.to_thread(end_read_only, database)

            def reported() -> bool:
                return {message.task for message in world.outbox.sent()} >= set(names)

            await wait_until(reported, what="the tasks to be done", timeout_s=60)

    stage.run(scenario())
    assert all(sum(message.task == name for message in world.outbox.sent()) == 1 for name in names)
    assert world.runs("epoch-") == []
