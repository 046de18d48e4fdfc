"""Durable steps beside DBOS, on the same server, with every write as durable in the one as in the other.

Each side runs in a process of its own, and the two take turns. A step does nothing, so that what is measured is what
durability adds to it.
"""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import tempfile
import threading
import time
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psycopg2
from psycopg2.extensions import make_dsn, parse_dsn

from benchmarks.child import ROOT
from benchmarks.figure import Figure
from relight.clock import SystemClock
from relight.config import Acknowledge
from relight.tasks.database import Database
from relight.tasks.epochs import EpochLog
from relight.tasks.ledger import Ledger
from relight.tasks.migrate import migrate
from relight.tasks.steps import TaskRun
from relight_drill.postgres import STANDBY_NAME, PostgresServer
from relight_drill.processes import ProcessGroup

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

ROUNDS = 3
TASKS = 30
STEPS = 50
SMALL_TASKS = 600
SMALL_STEPS = 3
THREADS = 8
GROWN = {"10 thousand": 10_000, "2 million": 2_000_000}


class Held:
    """A lease that is held: renewing it is not what is measured."""

    epoch = 1

    def check(self, for_s: float = 0.0) -> None: ...


def run() -> list[Figure]:
    """Measure both sides in turn, and ours again beside a ledger that has grown."""
    with state_pair() as primary:
        figures = [
            *_beside_peer(primary, "local", TASKS, STEPS, threads=1),
            *_beside_peer(primary, "local", TASKS, STEPS, threads=THREADS),
            *_beside_peer(primary, "local", SMALL_TASKS, SMALL_STEPS, threads=1),
            *_beside_peer(primary, "standby", TASKS, STEPS, threads=1),
        ]
        return [*figures, *_growth(primary)]


@contextmanager
def state_pair() -> Iterator[PostgresServer]:
    """A primary whose commits a streaming standby confirms, where that is asked for."""
    folder = Path(tempfile.mkdtemp(prefix="relight-bench-"))
    folder.chmod(0o711)

    async def start(group: ProcessGroup) -> PostgresServer:
        more = {"synchronous_standby_names": STANDBY_NAME, "max_wal_size": "4GB"}
        primary = PostgresServer(group, folder / "primary", name="primary", database="relight", settings=more)
        standby = PostgresServer(group, folder / "standby", name="standby", database="relight")
        await primary.create()
        await standby.base_backup(primary)
        await standby.start()
        return primary

    with ProcessGroup() as group:
        group.remove_at_end(folder)
        yield asyncio.run(start(group))


def _beside_peer(server: PostgresServer, durable: str, tasks: int, steps: int, *, threads: int) -> list[Figure]:
    best: dict[str, dict[str, float]] = {}
    for _ in range(ROUNDS):
        for side in ("ours", "dbos"):
            found = _child(side, server, durable, tasks, steps, threads)
            if side not in best or found["wall_s"] < best[side]["wall_s"]:
                best[side] = found
    ours, peer = best["ours"], best["dbos"]
    label = f"{'small ' if steps == SMALL_STEPS else ''}x{threads} {durable}"
    if steps == SMALL_STEPS:
        rate = Figure(
            name=f"tasks of {steps} steps", unit="/s", ours=tasks / ours["wall_s"], peer=tasks / peer["wall_s"],
            peer_name=f"DBOS workflows, {label}", at_least=1.0,
        )  # fmt: skip
        return [rate]
    count = tasks * steps
    return [
        Figure(
            name=f"steps, {label}", unit="/s", ours=count / ours["wall_s"], peer=count / peer["wall_s"],
            peer_name="DBOS", at_least=1.0,
        ),
        Figure(
            name=f"a step adds, {label}", unit="ms", ours=ours["median_ms"], peer=peer["median_ms"],
            peer_name="DBOS", at_most=1.0,
        ),
    ]  # fmt: skip


def _growth(server: PostgresServer) -> list[Figure]:
    """What claiming, stepping and finishing cost beside a small ledger and beside a large one."""
    found = {}
    for name, rows in GROWN.items():
        dsn = fresh(server, "grown", "local")
        open_ledger(dsn).database.close()
        fill(dsn, rows)
        rounds = [_child_of("ours", dsn, "local", SMALL_TASKS, SMALL_STEPS, 1) for _ in range(ROUNDS)]
        found[name] = min(item["wall_s"] for item in rounds)
    small, large = found.values()
    return [
        Figure(
            name="tasks at 2M rows", unit="/s", ours=SMALL_TASKS / large, peer=SMALL_TASKS / small,
            peer_name="beside 10 thousand rows", at_least=0.8,
        )
    ]  # fmt: skip


def fill(dsn: str, rows: int) -> None:
    """Tasks that have ended, as a ledger has them after some time."""
    connection = psycopg2.connect(dsn)
    connection.autocommit = True
    with connection.cursor() as cur:
        cur.execute(
            "insert into relight.tasks (id, payload, status, epoch, attempts, result, created_at, due_at)"
            " select 'old-' || n, '{\"n\": 1}', 'done', 1, 1, '{\"n\": 1}', yesterday, yesterday"
            " from generate_series(1, %s) as n, (select now() - interval '1 day') as y (yesterday)",
            [rows],
        )
        cur.execute("vacuum analyze relight.tasks")
    connection.close()


def _child(side: str, server: PostgresServer, durable: str, tasks: int, steps: int, threads: int) -> dict[str, float]:
    return _child_of(side, fresh(server, side, durable), durable, tasks, steps, threads)


def _child_of(side: str, dsn: str, durable: str, tasks: int, steps: int, threads: int) -> dict[str, float]:
    command = [sys.executable, "-m", "benchmarks.steps", side, durable, str(tasks), str(steps), str(threads)]
    done = subprocess.run(command, cwd=ROOT, input=dsn, capture_output=True, text=True)
    if done.returncode != 0:
        raise SystemExit(f"bench: {side} failed: {done.stderr[-2000:]}")
    found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return found


def fresh(server: PostgresServer, name: str, durable: str) -> str:
    """An empty database whose commits are as durable as is asked, whoever makes them."""
    connection = psycopg2.connect(server.dsn("postgres"))
    connection.autocommit = True
    with connection.cursor() as cur:
        cur.execute(f"drop database if exists {name} with (force)")
        cur.execute(f"create database {name}")
        level = "remote_write" if durable == "standby" else "local"
        cur.execute(f"alter database {name} set synchronous_commit = '{level}'")
    connection.close()
    return server.dsn(name)


def open_ledger(dsn: str, *, standby: bool = False) -> Ledger:
    database = Database(dsn)
    migrate(database)
    EpochLog(database).take(1, region="here", run_id="first")
    return Ledger(database, epoch=lambda: 1, acknowledge=Acknowledge.REMOTE if standby else Acknowledge.LOCAL)


# -- in a process of its own


def _measure(work: Callable[[int, Callable[[], None]], None], tasks: int, threads: int) -> dict[str, float]:
    """Run `work` for every task, in so many threads; it calls back after each step."""
    gaps: list[float] = []

    def some(numbers: range) -> None:
        for number in numbers:
            last = time.perf_counter()

            def lap() -> None:
                nonlocal last
                now = time.perf_counter()
                gaps.append(now - last)
                last = now

            work(number, lap)

    begun = time.perf_counter()
    running = [threading.Thread(target=some, args=[range(first, tasks, threads)]) for first in range(threads)]
    for thread in running:
        thread.start()
    for thread in running:
        thread.join()
    wall_s = time.perf_counter() - begun
    return {"wall_s": wall_s, "median_ms": 1000 * sorted(gaps)[len(gaps) // 2]}


def _ours(dsn: str, durable: str, tasks: int, steps: int, threads: int) -> dict[str, float]:
    ledger = open_ledger(dsn, standby=durable == "standby")
    # A step that remembers waits for the standby, and one that only computes does not: the peer's waits.
    remember = _nothing if durable == "standby" else None

    def task(number: int, lap: Callable[[], None]) -> None:
        started = ledger.start_task({"n": number}, id_=f"{time.time_ns()}-{number}")
        claimed_at = time.monotonic()
        claimed = ledger.claim(started.id, worker="bench", lease_s=30)
        assert claimed is not None
        run = TaskRun(ledger, claimed, lease=Held(), clock=SystemClock(), claimed_at=claimed_at)
        for step in range(steps):
            run.run("step", lambda: {"n": number}, key=str(step), remember=remember)
            lap()
        run.finish({"n": number})

    task(-1, lambda: None)
    return _measure(task, tasks, threads)


def _nothing(*_: object) -> None:
    """What a step remembers that is only to wait for the standby."""


def _dbos(dsn: str, _: str, tasks: int, steps: int, threads: int) -> dict[str, float]:
    from dbos import DBOS

    parts = parse_dsn(dsn)
    url = f"postgresql://{parts['user']}:{parts['password']}@{parts['host']}:{parts['port']}/{parts['dbname']}"
    DBOS(config={"name": "bench", "system_database_url": url, "log_level": "ERROR", "sys_db_pool_size": 16})
    laps = threading.local()

    @DBOS.step()
    def step(number: int) -> dict[str, int]:
        return {"n": number}

    @DBOS.workflow()
    def workflow(number: int) -> dict[str, int]:
        for _ in range(steps):
            step(number)
            laps.lap()
        return {"n": number}

    def task(number: int, lap: Callable[[], None]) -> None:
        laps.lap = lap
        workflow(number)

    DBOS.launch()
    task(-1, lambda: None)
    found = _measure(task, tasks, threads)
    DBOS.destroy()
    return found


def main() -> None:
    """One side, for the process that takes turns; the DSN comes on stdin, because it holds a password."""
    side, durable, tasks, steps, threads = sys.argv[1:]
    dsn = make_dsn(sys.stdin.read())
    measure: Any = {"ours": _ours, "dbos": _dbos}[side]
    print(json.dumps(measure(dsn, durable, int(tasks), int(steps), int(threads))))


if __name__ == "__main__":
    main()
