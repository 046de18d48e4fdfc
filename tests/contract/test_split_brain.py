"""Split brain: the old primary comes back with its own PostgreSQL and its own queue, and believes in its epoch."""

from __future__ import annotations

import asyncio
import threading
from contextlib import asynccontextmanager, closing, contextmanager
from typing import TYPE_CHECKING, Any

import pytest
from memory_helpers import wait_for_standby
from runtime_helpers import RecordingTool, sql, statuses, until, working
from servers import StatePair

from relight.adapters import postgres
from relight.clock import SystemClock
from relight.errors import LeaseLostError, StaleEpochError
from relight.queue.queues import open_queue
from relight.recovery.epoch import LeaseKeeper, LeaseStore, take_first, take_next
from relight.recovery.replica import PhysicalReplica
from relight.tasks.database import Database
from relight.tasks.divergence import divergence
from relight.tasks.epochs import EpochLog
from relight.tasks.ledger import Ledger
from relight.tasks.migrate import migrate
from relight.tasks.replay import Found, replay
from relight.tasks.timetravel import TimeTravel
from relight.tasks.worker import Worker
from relight_drill.nats import NatsServer
from relight_drill.network import Link, Mode
from relight_drill.postgres import STANDBY_NAME, PostgresServer

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator
    from pathlib import Path

    from relight.tasks.steps import TaskRun
    from relight_drill.processes import ProcessGroup

pytestmark = pytest.mark.servers

EAST, WEST = "us-east-1", "us-west-2"
TTL_S, MARGIN_S = 2.0, 0.5
CLAIM_S = 1.0


class Side:
    """A region: its own database, its own queue, its lease, and its worker, over one outside world."""

    def __init__(self, name: str, dsn: str, queue: NatsServer, leases: LeaseStore, world: RecordingTool) -> None:
        self.name = name
        self.dsn = dsn
        self.queue = queue
        self.world = world
        self.keeper = LeaseKeeper(leases, region=name, ttl_s=TTL_S, margin_s=MARGIN_S, clock=SystemClock())
        self.database = Database(dsn)
        self.ledger = Ledger(self.database, epoch=lambda: self.keeper.epoch)

    def connect(self) -> Any:
        return open_queue(self.queue.url(), environment="demo", ack_wait_s=2.0)

    def worker(self) -> Worker:
        return Worker(
            self.ledger,
            lease=self.keeper,
            connect=self.connect,
            handler=self.handle,
            name=self.name,
            clock=SystemClock(),
            claim_s=CLAIM_S,
        )

    def handle(self, run: TaskRun) -> Any:
        """What a task does: it thinks, and tells the world."""
        said = run.run("think", lambda: f"{self.name} thought of {run.task.id}")
        return run.effect(self.world, {"task": run.task.id, "says": said.partition(" ")[2]})

    @contextmanager
    def renewing(self) -> Iterator[None]:
        """The region reaches the lease meanwhile."""
        stop = threading.Event()
        self.keeper.renew()
        thread = threading.Thread(target=self.keeper.run, args=[stop])
        thread.start()
        try:
            yield
        finally:
            stop.set()
            thread.join()

    def told(self) -> list[str]:
        """The tasks of which the world was told, by whichever region, in order."""
        return [request["task"] for _, request in self.world.acted]


@asynccontextmanager
async def two_regions(
    group: ProcessGroup, folder: Path, leases: LeaseStore
) -> AsyncIterator[tuple[Side, Side, StatePair, Link]]:
    """Both sides, the primary's commits confirmed by the standby, and the wire between their databases."""
    settings = {"synchronous_standby_names": STANDBY_NAME}
    primary = PostgresServer(group, folder / "primary", name="old", database="relight", settings=settings)
    standby = PostgresServer(group, folder / "standby", name="new", database="relight")
    queues = [NatsServer(group, folder / f"nats-{name}", name=name) for name in (EAST, WEST)]
    link = Link(primary.port)
    await link.start()
    await primary.create()
    await standby.base_backup(primary, source_port=link.port)
    await standby.start()
    await asyncio.gather(*(queue.start() for queue in queues))
    world = RecordingTool(name="mail", timeout_s=0.5)
    sides = [
        Side(name, server.dsn(), queue, leases, world)
        for name, server, queue in zip((EAST, WEST), (primary, standby), queues, strict=True)
    ]
    yield sides[0], sides[1], StatePair(primary=primary, standby=standby), link
    for side in sides:
        side.database.close()
    await link.close()
    for server in (standby, primary):
        await server.stop(immediate=True)
    await asyncio.gather(*(queue.stop() for queue in queues))


def left_alone(server: PostgresServer) -> None:
    """Somebody ends the old primary's wait for a standby that is gone: from now on it confirms by itself."""
    connection = postgres.connect(server.dsn("postgres"), autocommit=True)
    with connection.cursor() as cur:
        cur.execute("alter system set synchronous_standby_names = ''")
        cur.execute("select pg_reload_conf()")
    connection.close()


def recover(old: Side, new: Side, leases: LeaseStore) -> None:
    """Fence, promote."""
    lease = take_next(leases, region=WEST, run_id="r", ttl_s=TTL_S, margin_s=MARGIN_S, clock=SystemClock())
    assert lease.epoch == 2
    with pytest.raises(LeaseLostError):
        old.keeper.check()
    PhysicalReplica(new.dsn).promote()
    EpochLog(new.database).take(2, region=WEST, run_id="r")


def lives(side: Side, *ids: str) -> list[int]:
    """How often each of the tasks was begun; the claims of those that were given up run out at once."""
    sql(side.database, "update relight.tasks set lease_until = now() - interval '1 s' where status = 'running'")
    return [row[0] for row in sql(side.database, "select attempts from relight.tasks where id = any(%s)", [[*ids]])]


def test_an_old_primary_that_comes_back_changes_nothing(
    server_group: ProcessGroup, server_dir: Path, s3: Any, bucket: str
) -> None:
    """It takes tasks, its queue hands them out again and again, its worker thinks; but its lease is over, so the world
    hears nothing of it, the new database refuses its epoch, and all that it committed alone is listed."""
    leases = LeaseStore(s3, bucket)
    take_first(leases, region=EAST, ttl_s=TTL_S, clock=SystemClock())
    folder = server_dir / "split"
    folder.mkdir(mode=0o711)

    async def scenario() -> None:
        async with two_regions(server_group, folder, leases) as (old, new, state, link):
            await asyncio.to_thread(migrate, old.database)
            await asyncio.to_thread(EpochLog(old.database).take, 1, region=EAST, run_id="first")
            shipped = [f"before-{number}" for number in range(3)]
            with old.renewing():
                for name in shipped:
                    await asyncio.to_thread(old.ledger.start_task, {}, id_=name)
                async with working(old.worker()):
                    await until(lambda: statuses(old.ledger) == {"done": 3}, "the first tasks to be done")
                # In both ledgers and in the old queue, and in nobody's hands.
                await asyncio.to_thread(old.ledger.start_task, {}, id_="both")
                async with old.connect() as queue:
                    incarnation = await queue.ensure()
                    await replay(
                        ledger=old.ledger, queue=queue, policy=TimeTravel(), clock=SystemClock(), per_second=None
                    )
                    assert await queue.depth() == 1
            await asyncio.to_thread(wait_for_standby, state)
            await link.set_mode(Mode.SILENT)
            await asyncio.to_thread(left_alone, state.primary)
            await asyncio.to_thread(recover, old, new, leases)

            alone = [f"alone-{number}" for number in range(3)]
            for name in alone:
                await asyncio.to_thread(old.ledger.start_task, {}, id_=name)
            with new.renewing():
                async with new.connect() as queue:
                    done = await replay(
                        ledger=new.ledger, queue=queue, policy=TimeTravel(), clock=SystemClock(), per_second=None
                    )
                    assert done.published == {Found.PENDING: 1}
                    assert done.plan.incarnation != incarnation
                async with working(old.worker(), new.worker()):
                    await until(lambda: statuses(new.ledger) == {"done": 4}, "the new side to finish")
                    await until(
                        lambda: all(count > 1 for count in lives(old, "both", *alone)),
                        "the old side to have tried everything twice",
                    )
                    await asyncio.to_thread(new.ledger.start_task, {}, id_="after")
                    await until(lambda: statuses(new.ledger) == {"done": 5}, "the new side to go on")

            await asyncio.to_thread(judge, old, new, shipped, alone)

    asyncio.run(scenario())


def judge(old: Side, new: Side, shipped: list[str], alone: list[str]) -> None:
    """What the world heard, what the databases say, and what is listed."""
    # The world heard of each task of the new history once, and of nothing else.
    assert sorted(new.told()) == sorted([*shipped, "both", "after"])
    # The old side still believes in its epoch, and the new side's database does not.
    assert old.keeper.epoch == 1
    newest = EpochLog(old.database).newest()
    assert newest is not None
    assert newest.number == 1
    with pytest.raises(StaleEpochError, match="epoch 1 wrote to tasks, and the newest is 2"):
        Ledger(new.database, epoch=lambda: old.keeper.epoch).start_task({}, id_="stale")
    assert statuses(new.ledger) == {"done": 5}

    with closing(postgres.connect(old.dsn)) as one, closing(postgres.connect(new.dsn)) as two:
        found = divergence(one, two)
    assert found.epoch == 2
    assert [task.id for task in found.tasks] == alone
    assert all(task.here is None for task in found.tasks)
    assert sorted(step.task_id for step in found.steps) == sorted([*alone, "both"])
    # It intended, and knows that it sent nothing.
    assert {(effect.task_id, effect.status, effect.here) for effect in found.effects} <= {
        *((name, status, None) for name in alone for status in ("failed", "intent")),
        *(("both", status, here) for status in ("failed", "intent") for here in ("done", None)),
    }
    assert not any(effect.happened for effect in found.effects)
    assert found.memories == ()
