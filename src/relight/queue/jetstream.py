"""The task queue on NATS JetStream."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager, contextmanager
from typing import TYPE_CHECKING

import nats
from nats.errors import Error as NatsError
from nats.js.api import AckPolicy, ConsumerConfig, RetentionPolicy, StorageType, StreamConfig
from nats.js.errors import NotFoundError as StreamNotFoundError

from relight.errors import UnavailableError
from relight.vault.manifest import QueuePosition

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator, Sequence

    from nats.aio.client import Client
    from nats.aio.msg import Msg
    from nats.js import JetStreamContext

_CONSUMER = "workers"
_MAX_AGE_S = 7 * 24 * 3600
# Longer than one fetch and shorter than a claim: a message that is being worked on is kept alive by `in_progress`.
_ACK_WAIT_S = 20.0
_TIMEOUT_S = 5.0


class JetStreamDelivery:
    """A message of the work queue."""

    def __init__(self, message: Msg) -> None:
        self._message = message
        self.task_id = message.data.decode()

    async def ack(self) -> None:
        with _translating("acknowledge a task"):
            await self._message.ack_sync(timeout=_TIMEOUT_S)

    async def nak(self, delay_s: float) -> None:
        with _translating("give a task back"):
            await self._message.nak(delay=delay_s)

    async def in_progress(self) -> None:
        with _translating("keep a task"):
            await self._message.in_progress()


class JetStreamQueue:
    """A work-queue stream with file storage, one durable pull consumer, and an age limit of 7 days.

    The Nats-Msg-Id window is 2 minutes, shorter than most recoveries, so duplicates are not kept out here: the claim in
    the ledger is what makes a second delivery harmless.
    """

    def __init__(self, client: Client, *, environment: str) -> None:
        self._client = client
        self._jetstream: JetStreamContext = client.jetstream(timeout=_TIMEOUT_S)
        self._stream = f"RELIGHT-{environment.upper()}"
        self._subject = f"relight.{environment}.tasks"
        self._subscription: JetStreamContext.PullSubscription | None = None

    @classmethod
    async def connect(cls, url: str, *, environment: str) -> JetStreamQueue:
        """Connect; the client reconnects by itself later on."""

        async def quiet(_: Exception) -> None:
            """Errors come back from the calls that they concern."""

        with _translating("connect to the queue"):
            # An unbounded number of reconnects makes the first connect unbounded too.
            async with asyncio.timeout(_TIMEOUT_S):
                client = await nats.connect(
                    url, connect_timeout=3, max_reconnect_attempts=-1, reconnect_time_wait=1, error_cb=quiet
                )
        return cls(client, environment=environment)

    async def ensure(self) -> None:
        with _translating("make the queue"):
            try:
                await self._jetstream.stream_info(self._stream)
            except StreamNotFoundError:
                await self._jetstream.add_stream(
                    StreamConfig(
                        name=self._stream,
                        subjects=[self._subject],
                        retention=RetentionPolicy.WORK_QUEUE,
                        storage=StorageType.FILE,
                        max_age=_MAX_AGE_S,
                    )
                )

    async def publish(self, task_id: str, *, epoch: int) -> bool:
        with _translating("publish a task"):
            stored = await self._jetstream.publish(
                self._subject, task_id.encode(), timeout=_TIMEOUT_S, headers={"Nats-Msg-Id": f"{task_id}.{epoch}"}
            )
        return not stored.duplicate

    async def fetch(self, limit: int, *, timeout_s: float) -> Sequence[JetStreamDelivery]:
        with _translating("fetch tasks"):
            if self._subscription is None:
                self._subscription = await self._jetstream.pull_subscribe(
                    self._subject,
                    durable=_CONSUMER,
                    stream=self._stream,
                    config=ConsumerConfig(ack_policy=AckPolicy.EXPLICIT, ack_wait=_ACK_WAIT_S, max_ack_pending=10_000),
                )
            try:
                messages = await self._subscription.fetch(limit, timeout=timeout_s)
            except TimeoutError:  # nats.errors.TimeoutError is one; fetching several raises the plain one
                return []
        return [JetStreamDelivery(message) for message in messages]

    async def position(self) -> QueuePosition:
        with _translating("ask the queue how far it is"):
            info = await self._jetstream.stream_info(self._stream)
        return QueuePosition(stream=self._stream, last_sequence=info.state.last_seq)

    async def depth(self) -> int:
        with _translating("measure the queue"):
            return (await self._jetstream.stream_info(self._stream)).state.messages

    async def close(self) -> None:
        await self._client.close()


@asynccontextmanager
async def open_queue(url: str, *, environment: str) -> AsyncIterator[JetStreamQueue]:
    """A connected queue, closed on leaving."""
    queue = await JetStreamQueue.connect(url, environment=environment)
    try:
        yield queue
    finally:
        await queue.close()


@contextmanager
def _translating(action: str) -> Iterator[None]:
    try:
        yield
    except (TimeoutError, NatsError, OSError) as exc:
        # The driver's texts may hold the server's address, and with it a password: only its class is passed on.
        raise UnavailableError(
            f"cannot {action}: {type(exc).__name__}", hint="see that NATS is up and JetStream is enabled"
        ) from exc
