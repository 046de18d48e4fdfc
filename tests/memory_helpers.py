"""What several tests of memory need, beside the fixtures."""

from __future__ import annotations

import random
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from relight.adapters import postgres
from relight.memory.api import Memory, Point
from relight.tasks.database import Database
from relight.tasks.migrate import migrate

if TYPE_CHECKING:
    from servers import StatePair

    from relight.adapters.postgres import Connection

DIMENSION = 16
EPOCH = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class StateDsns:
    """A migrated state database of its own, under epoch 1, as its two servers give it."""

    primary: str
    standby: str


def make_state(pair: StatePair, name: str) -> StateDsns:
    """Make the database, wait until the standby has it."""
    admin = postgres.connect(pair.primary.dsn("postgres"), autocommit=True)
    with admin.cursor() as cursor:
        cursor.execute(f"create database {name}")
    admin.close()
    dsns = StateDsns(primary=pair.primary.dsn(name), standby=pair.standby.dsn(name))
    database = Database(dsns.primary)
    migrate(database)
    with database.transaction() as cursor:
        cursor.execute("insert into relight.epochs (epoch, region, run_id) values (1, 'test', 'test')")
    database.close()
    wait_for_standby(pair)
    return dsns


def wait_for_standby(pair: StatePair) -> None:
    """Return when the standby has replayed everything that the primary has written so far."""
    primary = postgres.connect(pair.primary.dsn("postgres"), autocommit=True)
    standby = postgres.connect(pair.standby.dsn("postgres"), autocommit=True)
    with primary.cursor() as there, standby.cursor() as here:
        there.execute("select pg_current_wal_insert_lsn()::text")
        row = there.fetchone()
        assert row is not None
        until = time.monotonic() + 20
        while True:
            here.execute("select pg_last_wal_replay_lsn() >= %s::pg_lsn", [row[0]])
            answer = here.fetchone()
            if answer is not None and answer[0]:
                break
            assert time.monotonic() < until, "the standby does not follow"
            time.sleep(0.02)
    primary.close()
    standby.close()


def some_points(count: int, *, seed: int = 1, prefix: str = "p") -> list[Point]:
    """Points that differ from one another, the same for the same seed."""
    rng = random.Random(seed)
    return [
        Point(id=f"{prefix}{i}", vector=[rng.uniform(-1, 1) for _ in range(DIMENSION)], payload={"n": i})
        for i in range(count)
    ]


def remember(state: Connection, memory: Memory, points: list[Point]) -> None:
    """Journal `points` in a transaction of their own."""
    with state, state.cursor() as cursor:
        memory.upsert(cursor, points, epoch=EPOCH)
