"""What a task queue guarantees, on real servers."""

from __future__ import annotations

import asyncio
import uuid
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import nats
import pytest
from queue_contract import QueueContract, Server

from relight.errors import ConfigError
from relight.queue.jetstream import JetStreamDelivery, JetStreamQueue
from relight.queue.queues import connect_queue
from relight.queue.redis_streams import RedisQueue
from relight_drill.nats import NatsServer
from relight_drill.redis import RedisServer

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from relight_drill.processes import ProcessGroup

pytestmark = pytest.mark.servers


class TestJetStream(QueueContract):
    """The contract on NATS JetStream."""

    @pytest.fixture
    def server(self, nats_server: NatsServer) -> Server:
        return nats_server

    @pytest.fixture
    def own_server(self, server_group: ProcessGroup, server_dir: Path) -> Server:
        server = NatsServer(server_group, server_dir / f"nats-{uuid.uuid4().hex[:8]}", name="own")
        asyncio.run(server.start())
        return server

    async def erase(self, server: Any, environment: str) -> None:
        client = await nats.connect(server.url())
        await client.jetstream().delete_stream(f"RELIGHT-{environment.upper()}")
        await client.close()

    async def trim(self, server: Any, environment: str, *, keep: int) -> None:
        client = await nats.connect(server.url())
        await client.jetstream().purge_stream(f"RELIGHT-{environment.upper()}", keep=keep)
        await client.close()

    def interrupt_burial(self, monkeypatch: pytest.MonkeyPatch) -> None:
        async def die(_: JetStreamDelivery) -> None:
            raise asyncio.CancelledError

        monkeypatch.setattr(JetStreamDelivery, "bury", die)

    @asynccontextmanager
    async def connected(self, server: Server, environment: str, **options: Any) -> AsyncIterator[JetStreamQueue]:
        queue = await JetStreamQueue.connect(server.url(), environment=environment, **options)
        yield queue
        await queue.close()


class TestRedis(QueueContract):
    """The contract on Redis Streams."""

    @pytest.fixture
    def server(self, redis_server: RedisServer) -> Server:
        return redis_server

    @pytest.fixture
    def own_server(self, server_group: ProcessGroup, server_dir: Path) -> Server:
        server = RedisServer(server_group, server_dir / f"redis-{uuid.uuid4().hex[:8]}", name="own")
        asyncio.run(server.start())
        return server

    async def erase(self, server: Any, environment: str) -> None:
        assert await server.command("FLUSHALL") == "+OK"

    async def trim(self, server: Any, environment: str, *, keep: int) -> None:
        await server.command("XTRIM", f"relight:{{{environment}}}:tasks", "MAXLEN", str(keep))

    def interrupt_burial(self, monkeypatch: pytest.MonkeyPatch) -> None:
        whole = RedisQueue.run

        async def die(queue: RedisQueue, script: str, *args: Any, **options: Any) -> Any:
            if script == "bury":
                raise asyncio.CancelledError
            return await whole(queue, script, *args, **options)

        monkeypatch.setattr(RedisQueue, "run", die)

    @asynccontextmanager
    async def connected(self, server: Server, environment: str, **options: Any) -> AsyncIterator[RedisQueue]:
        queue = await RedisQueue.connect(server.url(), environment=environment, **options)
        yield queue
        await queue.close()


@pytest.mark.parametrize(
    "url",
    [
        "",
        "hunter2",
        "kafka://user:hunter2@127.0.0.1:1",
        "user:hunter2@127.0.0.1:1",
        "nats://user:hunter2@127.0.0.1:port",
        "redis://user:hunter2@127.0.0.1:port",
        "redis://user:hunter2@127.0.0.1:1/?socket_timeout=hunter2",
    ],
)
def test_an_address_that_names_no_queue(url: str) -> None:
    """fails when the address is none: a ConfigError that does not quote it, since it may hold a password."""
    with pytest.raises(ConfigError) as caught:
        asyncio.run(connect_queue(url, environment="x"))
    assert "hunter2" not in f"{caught.value}{caught.value.__cause__}"
    assert caught.value.hint
