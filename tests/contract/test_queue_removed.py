"""Messages that somebody removed from a queue in use, and workers that notice."""

from __future__ import annotations

import asyncio
import secrets
from functools import partial
from typing import TYPE_CHECKING, Any

import nats
import pytest
from memory_helpers import make_state
from runtime_helpers import Held, clean_ledger, sql, until, working

from relight.clock import SystemClock
from relight.queue.queues import open_queue
from relight.tasks import worker as worker_module
from relight.tasks.database import Database
from relight.tasks.ledger import Ledger, Status
from relight.tasks.outbox import Relay
from relight.tasks.worker import Worker
from relight_drill.redis import RedisServer

if TYPE_CHECKING:
    from collections.abc import Iterator

    from servers import StatePair

    from relight.queue.port import TaskQueue
    from relight_drill.nats import NatsServer

    QueueServer = NatsServer | RedisServer

pytestmark = pytest.mark.servers


@pytest.fixture
def ledger(state_pair: StatePair) -> Iterator[Ledger]:
    database = Database(make_state(state_pair, f"removed_{secrets.token_hex(4)}").primary, confirm_timeout_s=10)
    yield clean_ledger(database)
    database.close()


@pytest.fixture(params=["nats", "redis"])
def server(request: pytest.FixtureRequest) -> QueueServer:
    found: QueueServer = request.getfixturevalue(f"{request.param}_server")
    return found


async def depth_is(queue: TaskQueue, count: int) -> bool:
    return await queue.depth() == count


async def remove_all(server: QueueServer, environment: str) -> None:
    """As somebody does it with the server's own tools."""
    if isinstance(server, RedisServer):
        await server.command("XTRIM", f"relight:{{{environment}}}:tasks", "MAXLEN", "0")
        return
    client = await nats.connect(server.url())
    await client.jetstream().purge_stream(f"RELIGHT-{environment.upper()}")
    await client.close()


def test_what_was_removed_from_a_queue_that_is_never_empty_is_done(
    ledger: Ledger, server: QueueServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """fails when somebody purges a queue in steady use: its tasks are done all the same, while another is worked on
    the whole time, and one whose message is there is not published twice."""
    environment = f"r{secrets.token_hex(4)}"
    monkeypatch.setattr(worker_module, "_LOOK_AFTER_S", 0.1)
    begun: list[str] = []
    may_end = asyncio.Event()

    async def handler(run: Any) -> None:
        begun.append(run.task.id)
        if run.task.id == "long":
            await may_end.wait()

    def queued_ago(id_: str, seconds: float) -> None:
        sql(ledger.database, f"update relight.tasks set queued_at = now() - interval '{seconds} s' where id = '{id_}'")

    async def scenario() -> None:
        worker = Worker(
            ledger,
            lease=Held(),
            connect=lambda: open_queue(server.url(), environment=environment),
            handler=handler,
            name="w",
            clock=SystemClock(),
            concurrency=1,
        )
        async with open_queue(server.url(), environment=environment) as queue:
            incarnation = await queue.ensure()
            ledger.start_task({}, id_="removed")
            await Relay(ledger).empty(queue, incarnation=incarnation)
            await remove_all(server, environment)
            assert await queue.depth() == 0
            for id_ in ("long", "waits"):
                ledger.start_task({}, id_=id_)
                await Relay(ledger).empty(queue, incarnation=incarnation)
            queued_ago("waits", 30)
            async with working(worker):
                await until(lambda: begun == ["long"], "the long task to be begun")
                assert ledger.task("removed").status is Status.PENDING
                queued_ago("removed", 300)
                await until(partial(depth_is, queue, 3), "the removed task to be published again")
                may_end.set()
                await until(lambda: len(begun) == 3, "all to be begun")
                await until(partial(depth_is, queue, 0), "all to be done")
            assert begun == ["long", "waits", "removed"]
            assert (await queue.position()).last_sequence == 4

    asyncio.run(scenario())
