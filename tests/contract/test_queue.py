"""What a task queue guarantees, on real servers."""

from __future__ import annotations

import asyncio
import uuid
from typing import TYPE_CHECKING

import pytest

from relight.errors import UnavailableError
from relight.queue.jetstream import JetStreamQueue, open_queue

if TYPE_CHECKING:
    from collections.abc import Callable
    from contextlib import AbstractAsyncContextManager

    from relight.queue.port import TaskQueue
    from relight_drill.nats import NatsServer

pytestmark = pytest.mark.servers


class QueueContract:
    """Subclassed by each queue, which gives `connect`."""

    @pytest.fixture
    def connect(self) -> Callable[[], AbstractAsyncContextManager[TaskQueue]]:
        raise NotImplementedError

    def test_what_is_published_is_handed_out_and_gone_after_its_ack(
        self, connect: Callable[[], AbstractAsyncContextManager[TaskQueue]]
    ) -> None:
        """A message comes once, in order, and is gone when it is acknowledged."""

        async def scenario() -> None:
            async with connect() as queue:
                await queue.ensure()
                for name in ("a", "b", "ü/ü"):
                    assert await queue.publish(name, epoch=1)
                got = await queue.fetch(10, timeout_s=5)
                assert [item.task_id for item in got] == ["a", "b", "ü/ü"]
                for item in got:
                    await item.ack()
                assert await queue.depth() == 0
                for limit in (1, 4):
                    assert list(await queue.fetch(limit, timeout_s=0.2)) == []

        asyncio.run(scenario())

    def test_the_same_id_and_epoch_is_stored_once(
        self, connect: Callable[[], AbstractAsyncContextManager[TaskQueue]]
    ) -> None:
        """A second publication under one epoch is dropped; one under the next epoch is not."""

        async def scenario() -> None:
            async with connect() as queue:
                await queue.ensure()
                published = [await queue.publish("a", epoch=epoch) for epoch in (1, 1, 2)]
                assert published == [True, False, True]
                assert await queue.depth() == 2

        asyncio.run(scenario())

    def test_a_message_given_back_comes_again(
        self, connect: Callable[[], AbstractAsyncContextManager[TaskQueue]]
    ) -> None:
        """After a nak with a delay the message is handed out again."""

        async def scenario() -> None:
            async with connect() as queue:
                await queue.ensure()
                await queue.publish("a", epoch=1)
                (first,) = await queue.fetch(1, timeout_s=5)
                await first.in_progress()
                await first.nak(0.1)
                (again,) = await queue.fetch(1, timeout_s=5)
                assert again.task_id == "a"

        asyncio.run(scenario())

    def test_making_it_again_keeps_it(self, connect: Callable[[], AbstractAsyncContextManager[TaskQueue]]) -> None:
        """`ensure` leaves a queue and what is in it alone, from another connection too."""

        async def scenario() -> None:
            async with connect() as queue:
                await queue.ensure()
                await queue.publish("a", epoch=1)
            async with connect() as queue:
                await queue.ensure()
                assert await queue.depth() == 1

        asyncio.run(scenario())


class TestJetStream(QueueContract):
    """The contract on NATS JetStream."""

    @pytest.fixture
    def connect(self, nats_server: NatsServer) -> Callable[[], AbstractAsyncContextManager[TaskQueue]]:
        environment = f"test-{uuid.uuid4().hex[:8]}"
        return lambda: open_queue(nats_server.url(), environment=environment)

    def test_the_stream_is_what_was_promised(self, nats_server: NatsServer) -> None:
        """File storage, work-queue retention and an age limit of seven days."""

        async def scenario() -> None:
            async with open_queue(nats_server.url(), environment="shape") as queue:
                await queue.ensure()
                config = (await queue._jetstream.stream_info("RELIGHT-SHAPE")).config
                assert (config.retention, config.storage) == ("workqueue", "file")
                assert config.max_age == 7 * 24 * 3600

        asyncio.run(scenario())

    def test_a_server_that_is_not_there(self) -> None:
        """fails when nobody listens: a clear error without the address, which may hold a password."""
        with pytest.raises(UnavailableError, match="see that NATS is up") as caught:
            asyncio.run(JetStreamQueue.connect("nats://user:hunter2@127.0.0.1:1", environment="x"))
        assert "hunter2" not in str(caught.value)
