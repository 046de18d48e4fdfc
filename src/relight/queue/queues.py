"""Opens the queue that an address names."""

from __future__ import annotations

from contextlib import asynccontextmanager
from enum import StrEnum
from typing import TYPE_CHECKING

from relight.errors import ConfigError
from relight.queue.port import ACK_WAIT_S, MAX_DELIVERIES

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from relight.queue.port import TaskQueue


class QueueKind(StrEnum):
    """The queues that Relight works with; an address says by its scheme which one it names."""

    NATS = "nats"
    REDIS = "redis"


@asynccontextmanager
async def open_queue(
    url: str, *, environment: str, ack_wait_s: float = ACK_WAIT_S, max_deliveries: int = MAX_DELIVERIES
) -> AsyncIterator[TaskQueue]:
    """A connected queue, closed on leaving: JetStream for `nats://` and `tls://`, Redis for `redis://`, `rediss://`."""
    queue = await connect_queue(url, environment=environment, ack_wait_s=ack_wait_s, max_deliveries=max_deliveries)
    try:
        yield queue
    finally:
        await queue.close()


async def connect_queue(
    url: str, *, environment: str, ack_wait_s: float = ACK_WAIT_S, max_deliveries: int = MAX_DELIVERIES
) -> TaskQueue:
    """The same for an owner that outlives a block, and closes it."""
    # What comes before the first colon holds no password.
    scheme = url.partition(":")[0].lower() if "://" in url else ""
    # Late, because a process needs one of the drivers.
    if scheme in ("nats", "tls"):
        from relight.queue.jetstream import JetStreamQueue

        return await JetStreamQueue.connect(
            url, environment=environment, ack_wait_s=ack_wait_s, max_deliveries=max_deliveries
        )
    if scheme in ("redis", "rediss"):
        from relight.queue.redis_streams import RedisQueue

        return await RedisQueue.connect(
            url, environment=environment, ack_wait_s=ack_wait_s, max_deliveries=max_deliveries
        )
    raise ConfigError(
        "the queue's address begins with neither nats://, tls://, redis:// nor rediss://",
        hint="see the queue's address in the region's secret",
    )
