"""Replay of 100,000 tasks beside publishing them one at a time, and beside a ledger that has grown."""

from __future__ import annotations

import asyncio
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

import psycopg2

from benchmarks.figure import Figure
from benchmarks.steps import GROWN, fill, fresh, open_ledger, state_pair
from relight.clock import SystemClock
from relight.queue.port import Ticket
from relight.queue.queues import open_queue
from relight.tasks.replay import replay
from relight.tasks.timetravel import TimeTravel
from relight_drill.nats import NatsServer
from relight_drill.processes import ProcessGroup
from relight_drill.redis import RedisServer

if TYPE_CHECKING:
    from relight_drill.postgres import PostgresServer

TASKS = 100_000
# What one at a time is measured on: its rate does not depend on how many there are.
ONE_BY_ONE = 3000
GROWTH_TASKS = 20_000
ROUNDS = 2


def run() -> list[Figure]:
    """Measure both queues and the growth."""
    folder = Path(tempfile.mkdtemp(prefix="relight-bench-"))
    with state_pair() as state, ProcessGroup() as group:
        group.remove_at_end(folder)
        return asyncio.run(_measure(state, group, folder))


async def _measure(state: PostgresServer, group: ProcessGroup, folder: Path) -> list[Figure]:
    nats_server = NatsServer(group, folder / "nats", name="bench")
    redis_server = RedisServer(group, folder / "redis", name="bench")
    await nats_server.start()
    await redis_server.start()
    figures = []
    for name, url in (("nats", nats_server.url()), ("redis", redis_server.url())):
        at_once, one_by_one = 0.0, 0.0
        for number in range(ROUNDS):
            dsn = fresh(state, "replayed", "local")
            at_once = max(at_once, await _replay(dsn, url, f"{name}{number}", TASKS))
            one_by_one = max(one_by_one, await _one_by_one(url, f"single{number}"))
        figures.append(
            Figure(
                name=f"replay to {name}", unit="/s", ours=at_once, peer=one_by_one,
                peer_name="publishing one at a time", at_least=10.0,
            )
        )  # fmt: skip
    rates = {}
    for grown, rows in GROWN.items():
        rates[grown] = 0.0
        for number in range(ROUNDS):
            dsn = fresh(state, "replayed", "local")
            open_ledger(dsn).database.close()
            fill(dsn, rows)
            rate = await _replay(dsn, nats_server.url(), f"grown{rows}-{number}", GROWTH_TASKS)
            rates[grown] = max(rates[grown], rate)
    small, large = rates.values()
    figures.append(
        Figure(
            name="replay at 2M rows", unit="/s", ours=large, peer=small, peer_name="beside 10 thousand rows",
            at_least=0.8,
        )
    )  # fmt: skip
    return figures


async def _replay(dsn: str, url: str, environment: str, tasks: int) -> float:
    """Tasks a second, the plan and every transaction included."""
    ledger = open_ledger(dsn)
    _start(dsn, tasks)
    async with open_queue(url, environment=environment) as queue:
        begun = time.perf_counter()
        done = await replay(ledger=ledger, queue=queue, policy=TimeTravel(), clock=SystemClock(), per_second=None)
        took_s = time.perf_counter() - begun
        if done.total != tasks or await queue.depth() != tasks:
            raise SystemExit(f"bench: {done.total} of {tasks} tasks were replayed")
    ledger.database.close()
    return tasks / took_s


async def _one_by_one(url: str, environment: str) -> float:
    """Messages a second, and no ledger at all."""
    async with open_queue(url, environment=environment) as queue:
        await queue.ensure()
        begun = time.perf_counter()
        for number in range(ONE_BY_ONE):
            await queue.publish([Ticket(task_id=f"t{number:06}", epoch=1)])
        return ONE_BY_ONE / (time.perf_counter() - begun)


def _start(dsn: str, tasks: int) -> None:
    """Tasks that another queue had, as a promoted ledger holds them."""
    connection = psycopg2.connect(dsn)
    connection.autocommit = True
    with connection.cursor() as cur:
        cur.execute(
            "insert into relight.tasks (id, payload, status, epoch, queued_in, queued_at)"
            " select 't' || lpad(n::text, 6, '0'), '{\"n\": 1}', 'pending', 1, 'gone', now()"
            " from generate_series(1, %s) as n",
            [tasks],
        )
    connection.close()
