"""Tasks through each queue, beside the same messages through the bare driver, which keeps no ledger."""

from __future__ import annotations

import asyncio
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import nats
import redis.asyncio
from nats.js.api import RetentionPolicy, StorageType, StreamConfig

from benchmarks.figure import Figure
from benchmarks.steps import GROWN, Held, fill, fresh, open_ledger, state_pair
from relight.clock import SystemClock
from relight.queue.queues import open_queue
from relight.tasks.worker import Worker
from relight_drill.nats import NatsServer
from relight_drill.processes import ProcessGroup
from relight_drill.redis import RedisServer

if TYPE_CHECKING:
    from relight.tasks.ledger import Ledger
    from relight_drill.postgres import PostgresServer

TASKS = 2000
CONCURRENCY = 16
ROUNDS = 3


def run() -> list[Figure]:
    """Measure both queues, each beside its bare driver, in turn."""
    folder = Path(tempfile.mkdtemp(prefix="relight-bench-"))
    with state_pair() as state, ProcessGroup() as group:
        group.remove_at_end(folder)
        return asyncio.run(_measure(state, group, folder))


async def _measure(state: PostgresServer, group: ProcessGroup, folder: Path) -> list[Figure]:
    nats_server = NatsServer(group, folder / "nats", name="bench")
    redis_server = RedisServer(group, folder / "redis", name="bench")
    await nats_server.start()
    await redis_server.start()
    best: dict[str, float] = {}
    for number in range(ROUNDS):
        for name, measured in (
            ("nats", _tasks(fresh(state, "queued_nats", "local"), nats_server.url(), f"{number}")),
            ("bare nats", _bare_nats(nats_server.url(), number)),
            ("redis", _tasks(fresh(state, "queued_redis", "local"), redis_server.url(), f"{number}")),
            ("bare redis", _bare_redis(redis_server.url(), number)),
        ):
            best[name] = max(best.get(name, 0.0), TASKS / await measured)
    grown = dict.fromkeys(GROWN.values(), 0.0)
    for rows in grown:
        dsn = fresh(state, f"grown{rows}", "local")
        open_ledger(dsn).database.close()
        fill(dsn, rows)
    for number in range(ROUNDS):
        for rows in grown:
            measured = _tasks(state.dsn(f"grown{rows}"), nats_server.url(), f"{rows}-{number}")
            grown[rows] = max(grown[rows], TASKS / await measured)
    small, large = grown.values()
    growth = Figure(
        name="the same at 2M rows", unit="/s", ours=large, peer=small, peer_name="nats beside 10 thousand rows",
        at_least=0.8,
    )  # fmt: skip
    return [
        Figure(
            name=f"tasks through {name}", unit="/s", ours=best[name], peer=best[f"bare {name}"],
            peer_name="messages through the driver alone",
        )
        for name in ("nats", "redis")
    ] + [growth]  # fmt: skip


async def _tasks(dsn: str, url: str, name: str) -> float:
    """Seconds from a full outbox to the last task that is done."""
    ledger = open_ledger(dsn)
    for task in range(TASKS):
        ledger.start_task({"n": task}, id_=f"{name}-{task}")
    worker = Worker(
        ledger,
        lease=Held(),
        connect=lambda: open_queue(url, environment=f"bench{name}"),
        handler=lambda _: {"n": 1},
        name="bench",
        clock=SystemClock(),
        concurrency=CONCURRENCY,
    )
    begun = time.perf_counter()
    working = asyncio.create_task(worker.run())
    await asyncio.to_thread(_until_done, ledger)
    took_s = time.perf_counter() - begun
    working.cancel()
    await asyncio.gather(working, return_exceptions=True)
    ledger.database.close()
    return took_s


def _until_done(ledger: Ledger) -> None:
    # By the indexes of what is unfinished: listing would look through all that has ended, and be measured too.
    unfinished = (
        "select exists (select from relight.tasks where status = 'pending')"
        " or exists (select from relight.tasks where status = 'running')"
    )
    while ledger.database.execute(unfinished).rows[0][0]:
        time.sleep(0.02)


async def _bare_nats(url: str, number: int) -> float:
    client = await nats.connect(url)
    jetstream = client.jetstream()
    subject = f"bare.{number}"
    await jetstream.add_stream(
        StreamConfig(
            name=f"BARE{number}", subjects=[subject], retention=RetentionPolicy.WORK_QUEUE, storage=StorageType.FILE
        )
    )
    begun = time.perf_counter()
    for task in range(TASKS):
        await jetstream.publish(subject, f"t{task}".encode())
    subscription = await jetstream.pull_subscribe(subject, durable="bare")
    done = 0
    while done < TASKS:
        messages = await subscription.fetch(CONCURRENCY, timeout=5)
        await asyncio.gather(*(message.ack_sync() for message in messages))
        done += len(messages)
    took_s = time.perf_counter() - begun
    await client.close()
    return took_s


async def _bare_redis(url: str, number: int) -> float:
    client = redis.asyncio.from_url(url)
    stream = f"bare{number}"
    await client.xgroup_create(stream, "workers", mkstream=True)
    begun = time.perf_counter()
    for task in range(TASKS):
        await client.xadd(stream, {"id": f"t{task}"})
    done = 0
    while done < TASKS:
        answer: Any = await client.xreadgroup("workers", "bare", {stream: ">"}, count=CONCURRENCY, block=5000)
        [(_, messages)] = answer
        for id_, _ in messages:
            await client.xack(stream, "workers", id_)
            await client.xdel(stream, id_)
        done += len(messages)
    took_s = time.perf_counter() - begun
    await client.aclose()
    return took_s
