"""Workers on a real database and a real queue, of either kind."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
import threading
import uuid
from collections import Counter
from contextlib import asynccontextmanager, suppress
from typing import TYPE_CHECKING, Any

import nats
import pytest
from memory_helpers import make_state
from runtime_helpers import Held, RecordingTool, clean_ledger, effects_of, sql, statuses, until, working

from relight.clock import SystemClock
from relight.errors import AgainLaterError, LeaseLostError, UnavailableError
from relight.queue import jetstream
from relight.queue.port import Ticket
from relight.queue.queues import open_queue
from relight.tasks import verdict as verdict_module
from relight.tasks import worker as worker_module
from relight.tasks.database import Database
from relight.tasks.effects import Answer, Effects, EffectStatus
from relight.tasks.ledger import Ledger, Status
from relight.tasks.outbox import Relay
from relight.tasks.steps import Retry, TaskRun
from relight.tasks.worker import Worker
from relight_drill.nats import NatsServer
from relight_drill.redis import RedisServer

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator
    from pathlib import Path

    from servers import StatePair

    from relight.tasks.aio import AsyncTaskRun
    from relight_drill.processes import ProcessGroup

pytestmark = pytest.mark.servers

RETRY = Retry(first_s=0.05, factor=1.5, at_most_s=0.5, jitter=0.0)
QueueServer = NatsServer | RedisServer


@pytest.fixture(scope="module")
def dsn(state_pair: StatePair) -> str:
    return make_state(state_pair, "worker_tests").primary


@pytest.fixture(scope="module")
def database(dsn: str) -> Iterator[Database]:
    database = Database(dsn, confirm_timeout_s=10)
    yield database
    database.close()


@pytest.fixture
def ledger(database: Database) -> Ledger:
    return clean_ledger(database)


@pytest.fixture(autouse=True)
def _hurried(monkeypatch: pytest.MonkeyPatch) -> None:
    """Look after the queue, and connect again, as soon as there is something to see."""
    monkeypatch.setattr(worker_module, "_LOOK_AFTER_S", 0.1)
    monkeypatch.setattr(worker_module, "_RECONNECT_S", 0.1)


@pytest.fixture(params=["nats", "redis"])
def server(request: pytest.FixtureRequest, server_group: ProcessGroup, server_dir: Path) -> QueueServer:
    """The session's server of a kind, for tests that leave it alone."""
    found: QueueServer = request.getfixturevalue(f"{request.param}_server")
    return found


@pytest.fixture(params=["nats", "redis"])
def own_server(request: pytest.FixtureRequest, server_group: ProcessGroup, server_dir: Path) -> Iterator[QueueServer]:
    """A server that a test may break."""
    kind = NatsServer if request.param == "nats" else RedisServer
    server = kind(server_group, server_dir / f"own-{request.param}-{uuid.uuid4().hex[:6]}", name="own")
    asyncio.run(server.start())
    yield server
    server.kill()


@pytest.fixture
def environment() -> str:
    """A queue that no other test has."""
    return f"w{uuid.uuid4().hex[:8]}"


class Handled:
    """A handler that counts, and does what it is told."""

    def __init__(self, does: Callable[[TaskRun], Any] = lambda run: run.task.payload) -> None:
        self.does = does
        self.lives: Counter[str] = Counter()
        self._lock = threading.Lock()

    def __call__(self, run: TaskRun) -> Any:
        with self._lock:
            self.lives[run.task.id] += 1
        return self.does(run)


def made(
    ledger: Ledger,
    server: QueueServer,
    environment: str,
    handler: Callable[[Any], Any],
    *,
    ack_wait_s: float = 20.0,
    max_deliveries: int = 10,
    **options: Any,
) -> Worker:
    """A worker of a region."""
    return Worker(
        ledger,
        **{
            "lease": Held(),
            "connect": lambda: open_queue(
                server.url(), environment=environment, ack_wait_s=ack_wait_s, max_deliveries=max_deliveries
            ),
            "handler": handler,
            "name": "w",
            "clock": SystemClock(),
            "retry": RETRY,
            **options,
        },
    )


def start(ledger: Ledger, count: int, *, prefix: str = "t") -> None:
    """Start tasks."""
    for n in range(count):
        ledger.start_task({"n": n}, id_=f"{prefix}{n:03}")


async def all_done(ledger: Ledger, count: int, *, within_s: float = 30.0) -> None:
    """Wait until every task is done."""
    try:
        await until(lambda: statuses(ledger) == {"done": count}, f"{count} tasks to be done", within_s=within_s)
    except AssertionError as exc:
        left = "select id, status, attempts, queued_in, error from relight.tasks where status <> 'done' order by id"
        exc.add_note(f"left: {sql(ledger.database, left)[:5]}")
        raise


async def depth(server: QueueServer, environment: str) -> int:
    """How many messages the queue holds."""
    async with open_queue(server.url(), environment=environment) as queue:
        await queue.ensure()
        return await queue.depth()


async def emptied(server: QueueServer, environment: str) -> None:
    """Wait until every message was acknowledged."""

    async def is_empty() -> bool:
        return await depth(server, environment) == 0

    await until(is_empty, "the queue to be empty")


class TestWorking:
    """The ordinary day."""

    @pytest.mark.parametrize("kind", ["function", "coroutine"])
    def test_tasks_are_done_once(self, ledger: Ledger, server: QueueServer, environment: str, kind: str) -> None:
        """Every task is done once, its result is stored, and its message is gone."""
        handled = Handled()

        async def coroutine(run: AsyncTaskRun) -> Any:
            return handled(run.sync)

        async def scenario() -> None:
            start(ledger, 20)
            async with working(
                made(ledger, server, environment, handled if kind == "function" else coroutine, concurrency=5)
            ):
                start(ledger, 20, prefix="later")
                await all_done(ledger, 40)
                await emptied(server, environment)

        asyncio.run(scenario())
        assert set(handled.lives.values()) == {1}
        assert ledger.task("t007").result == {"n": 7}

    def test_two_workers_share(self, ledger: Ledger, server: QueueServer, environment: str) -> None:
        """Workers side by side do each task once, and both work."""
        both = threading.Barrier(2)
        names: list[str] = []

        def meet(name: str) -> Callable[[TaskRun], Any]:
            def does(run: TaskRun) -> None:
                names.append(name)
                if run.task.id in ("t000", "t001"):  # each of the two waits for the other
                    both.wait(20)

            return does

        first, second = Handled(meet("first")), Handled(meet("second"))

        async def scenario() -> None:
            start(ledger, 30)
            async with working(
                made(ledger, server, environment, first, concurrency=1),
                made(ledger, server, environment, second, concurrency=1),
            ):
                await all_done(ledger, 30)

        asyncio.run(scenario())
        assert set((first.lives + second.lives).values()) == {1}
        assert set(names) == {"first", "second"}

    def test_a_handler_that_raises_is_tried_again(self, ledger: Ledger, server: QueueServer, environment: str) -> None:
        """The ledger has the reason before the message is acknowledged; the task comes again through the outbox."""

        def fail_twice(run: TaskRun) -> str:
            if run.task.attempts <= 2:
                raise ValueError(f"attempt {run.task.attempts}\0\ud800")
            return str(ledger.task(run.task.id).error)

        handled = Handled(fail_twice)

        async def scenario() -> None:
            start(ledger, 3)
            async with working(made(ledger, server, environment, handled)):
                await all_done(ledger, 3)
                await emptied(server, environment)

        asyncio.run(scenario())
        assert set(handled.lives.values()) == {3}
        assert ledger.task("t000").result == "ValueError: attempt 2\ufffd?"

    def test_a_task_that_keeps_raising_is_parked(self, ledger: Ledger, server: QueueServer, environment: str) -> None:
        """After its last attempt it waits for a person, who sees why; resumed, it is done, by the queue that had it
        a moment ago."""
        healed = threading.Event()

        def fail(run: TaskRun) -> str:
            if not healed.is_set():
                raise ValueError("never")
            return "done"

        handled = Handled(fail)

        async def scenario() -> None:
            start(ledger, 1)
            async with working(made(ledger, server, environment, handled, max_attempts=3)):
                await until(lambda: statuses(ledger) == {"parked": 1}, "the task to be parked")
                assert ledger.task("t000").error == "ValueError: never"
                healed.set()
                await asyncio.to_thread(ledger.resume, "t000")
                await all_done(ledger, 1)

        asyncio.run(scenario())
        assert handled.lives["t000"] == 4

    def test_a_task_waits_as_long_as_it_says(self, ledger: Ledger, server: QueueServer, environment: str) -> None:
        """A task that says that it is worth another try in an hour is not tried now, and its message is gone."""

        def later(run: TaskRun) -> None:
            raise AgainLaterError("not now", wait_s=3600.0)

        handled = Handled(later)

        async def scenario() -> None:
            start(ledger, 1)
            async with working(made(ledger, server, environment, handled)):
                await until(
                    lambda: ledger.task("t000").error == "AgainLaterError: not now", "the task to be given back"
                )
                await emptied(server, environment)
                handled.does = lambda run: "now"
                sql(ledger.database, "update relight.tasks set due_at = now()")
                await all_done(ledger, 1)

        asyncio.run(scenario())
        assert handled.lives["t000"] == 2

    def test_an_effect_that_nobody_knows_parks_its_task(
        self, ledger: Ledger, server: QueueServer, environment: str
    ) -> None:
        """A tool that lost its answer and cannot tell: nothing is sent again, the task waits for a person, and goes on
        with what the person found."""
        tool = RecordingTool(timeout_s=0.1)
        tool.says = Answer.CANNOT_TELL

        def lose() -> None:
            raise ConnectionResetError

        tool.after = lose

        async def scenario() -> None:
            start(ledger, 1)
            async with working(made(ledger, server, environment, lambda run: run.effect(tool, "pay"))):
                await until(lambda: effects_of(ledger) == [("t000", EffectStatus.UNKNOWN)], "the answer to be lost")
                sql(ledger.database, "update relight.effects set final_from = now()")
                sql(ledger.database, "update relight.tasks set due_at = now() where status = 'pending'")
                await until(lambda: ledger.task("t000").status is Status.PARKED, "the task to be parked")
                error = ledger.task("t000").error
                assert error is not None
                assert "UnknownEffectError" in error
                effects = Effects(ledger)
                [unknown] = effects.list()
                await asyncio.to_thread(effects.resolve, unknown, happened=True, response="paid", who="ops")
                await all_done(ledger, 1)

        asyncio.run(scenario())
        assert (len(tool.sent), ledger.task("t000").result) == (1, "paid")

    @pytest.mark.parametrize("body", [b"no-such-task", b"a\0b", b"\xff\xfe", b"", b"x" * 5000])
    def test_a_message_of_no_task_is_dropped(
        self, ledger: Ledger, nats_server: NatsServer, environment: str, body: bytes
    ) -> None:
        """fails when anybody can stop all workers by putting something odd into the queue."""

        async def scenario() -> None:
            async with open_queue(nats_server.url(), environment=environment) as queue:
                await queue.ensure()
            client = await nats.connect(nats_server.url())
            await client.jetstream().publish(f"relight.{environment}.tasks", body)
            await client.close()
            start(ledger, 3)
            async with working(made(ledger, nats_server, environment, Handled())):
                await all_done(ledger, 3)
                await emptied(nats_server, environment)

        asyncio.run(scenario())

    def test_a_ticket_of_no_task_is_dropped(self, ledger: Ledger, server: QueueServer, environment: str) -> None:
        """A task that the ledger does not have, as after a failover that lost it, is nobody's work."""

        async def scenario() -> None:
            async with open_queue(server.url(), environment=environment) as queue:
                await queue.ensure()
                await queue.publish([Ticket(task_id="divergent", epoch=1), Ticket(task_id="a\0", epoch=1)])
            start(ledger, 3)
            async with working(made(ledger, server, environment, Handled())):
                await all_done(ledger, 3)
                await emptied(server, environment)

        asyncio.run(scenario())

    def test_a_closed_gate_lets_nothing_through(self, ledger: Ledger, server: QueueServer, environment: str) -> None:
        """While the region may not work nothing is fetched and nothing is published; then everything is done."""
        handled, may_work = Handled(), threading.Event()
        asked = threading.Semaphore(0)

        def gate() -> bool:
            asked.release()
            return may_work.is_set()

        async def scenario() -> None:
            start(ledger, 3)
            async with open_queue(server.url(), environment=environment) as queue:
                await queue.ensure()
                await queue.publish([Ticket(task_id="t000", epoch=1, number=-1)])
                async with working(made(ledger, server, environment, handled, may_work=gate)):
                    for _ in range(12):
                        assert await asyncio.to_thread(asked.acquire, timeout=20)
                    assert await queue.depth() == 1
                    assert statuses(ledger) == {"pending": 3}
                    may_work.set()
                    await all_done(ledger, 3)

        asyncio.run(scenario())
        assert set(handled.lives.values()) == {1}

    def test_a_region_without_its_lease_writes_nothing(
        self, ledger: Ledger, server: QueueServer, environment: str
    ) -> None:
        """A worker whose region lost the lease publishes and claims nothing, and works again when it is back."""
        lost = threading.Event()
        lost.set()

        asked = threading.Semaphore(0)

        def epoch() -> int:
            if lost.is_set():
                asked.release()
                raise LeaseLostError("no lease")
            return 1

        handled = Handled()
        leaseless = Ledger(ledger.database, epoch=epoch)

        async def scenario() -> None:
            start(ledger, 3)
            async with open_queue(server.url(), environment=environment) as queue:
                await queue.ensure()
                await queue.publish([Ticket(task_id="t000", epoch=1, number=-1)])
                worker = made(leaseless, server, environment, handled)
                async with working(worker):
                    for _ in range(5):
                        assert await asyncio.to_thread(asked.acquire, timeout=20)
                    assert statuses(ledger) == {"pending": 3}
                    lost.clear()
                    await all_done(ledger, 3)

        asyncio.run(scenario())
        assert set(handled.lives.values()) == {1}


class TestClaims:
    """Tasks that take long, and workers that end."""

    @pytest.mark.parametrize("kind", ["function", "coroutine"])
    def test_a_long_task_is_run_once(self, ledger: Ledger, server: QueueServer, environment: str, kind: str) -> None:
        """fails when a task that takes longer than its claim and the queue's ack wait is begun a second time; more of
        them than there are processors."""
        handled, renewals = Handled(), Counter[str]()
        extend = ledger.extend
        enough = threading.Event()

        def counting(task: Any, *, lease_s: float) -> None:
            extend(task, lease_s=lease_s)
            renewals[task.id] += 1
            if len(renewals) == 12 and min(renewals.values()) >= 5:  # longer than a claim
                enough.set()

        ledger.extend = counting  # type: ignore[method-assign]

        def long(run: TaskRun) -> str:
            handled(run)
            assert enough.wait(60)
            return "long"

        async def long_coroutine(run: AsyncTaskRun) -> str:
            handled(run.sync)
            await until(enough.is_set, "the claims to be renewed")
            return "long"

        async def scenario() -> None:
            start(ledger, 12)
            options: dict[str, Any] = {"concurrency": 12, "claim_s": 5.0, "ack_wait_s": 4.8}
            handler = long if kind == "function" else long_coroutine
            async with working(*[made(ledger, server, environment, handler, **options) for _ in range(2)]):
                await all_done(ledger, 12)
                await emptied(server, environment)

        try:
            asyncio.run(scenario())
        finally:
            enough.set()
        assert handled.lives == Counter({f"t{n:03}": 1 for n in range(12)})

    def test_a_worker_that_stops_gives_its_coroutines_back(
        self, ledger: Ledger, server: QueueServer, environment: str
    ) -> None:
        """A worker that is told to stop ends its coroutines, and whoever comes next need not wait for the claims; that
        says nothing against the task."""
        begun = asyncio.Event()
        ended: list[str] = []

        async def forever(run: AsyncTaskRun) -> None:
            begun.set()
            try:
                await asyncio.Event().wait()
            finally:
                ended.append(run.task.id)

        handled = Handled()

        async def scenario() -> None:
            start(ledger, 1)
            async with working(made(ledger, server, environment, forever)):
                await begun.wait()
            assert ended == ["t000"]
            found = ledger.task("t000")
            assert (found.status, found.attempts, found.error) == (Status.PENDING, 0, "its worker stopped")
            async with working(made(ledger, server, environment, handled)):
                await all_done(ledger, 1)

        asyncio.run(scenario())
        assert handled.lives == {"t000": 1}

    @pytest.mark.parametrize("into", ["an error", "an answer"])
    def test_a_worker_stops_whatever_its_queue_says_to_it(
        self, ledger: Ledger, server: QueueServer, environment: str, into: str
    ) -> None:
        """fails when a worker that is told to stop goes on, because its queue turned that into an error of its own, or
        into an answer."""

        class Deaf:
            def __init__(self, queue: Any) -> None:
                self._queue = queue

            def __getattr__(self, name: str) -> Any:
                return getattr(self._queue, name)

            async def fetch(self, limit: int, *, timeout_s: float) -> Any:
                fetching.set()
                try:
                    return await self._queue.fetch(limit, timeout_s=timeout_s)
                except asyncio.CancelledError:
                    if into == "an error":
                        raise UnavailableError("the connection broke") from None
                    return []

        @asynccontextmanager
        async def connect() -> AsyncIterator[Any]:
            async with open_queue(server.url(), environment=environment) as queue:
                yield Deaf(queue)

        fetching = asyncio.Event()

        async def scenario() -> None:
            job = asyncio.create_task(made(ledger, server, environment, Handled(), connect=connect).run())
            await fetching.wait()
            job.cancel()
            await asyncio.wait([job], timeout=20)
            assert job.cancelled()

        asyncio.run(scenario())

    def test_a_coroutine_that_lost_its_task_is_ended(
        self, ledger: Ledger, server: QueueServer, environment: str
    ) -> None:
        """A worker that finds at a heartbeat that its claim went to another stops working on it."""
        begun, ended = asyncio.Event(), asyncio.Event()

        async def forever(run: AsyncTaskRun) -> None:
            begun.set()
            try:
                await asyncio.Event().wait()
            finally:
                ended.set()

        async def scenario() -> None:
            start(ledger, 1)
            async with working(made(ledger, server, environment, forever, claim_s=0.4)):
                await begun.wait()
                sql(ledger.database, "update relight.tasks set claimed_by = 'another', lease_until = now() + '1 h'")
                async with asyncio.timeout(20):
                    await ended.wait()
            assert ledger.task("t000").status is Status.RUNNING

        asyncio.run(scenario())

    def test_a_task_that_ends_its_workers_is_parked(
        self, dsn: str, ledger: Ledger, server: QueueServer, environment: str
    ) -> None:
        """fails when a task that kills its worker is tried for ever: after its last attempt it is parked, and what
        else was in the queue is done."""
        start(ledger, 4)
        ledger.start_task({"poison": True}, id_="poison")
        lives = run_mortals(dsn, server, environment, max_attempts=3, until_done=4)
        assert lives == 4
        assert statuses(ledger) == {"done": 4, "parked": 1}
        error = ledger.task("poison").error
        assert error is not None
        assert "begun 3 times and never ended" in error

    def test_a_message_that_ends_its_workers_is_a_dead_letter(
        self, dsn: str, ledger: Ledger, server: QueueServer, environment: str
    ) -> None:
        """The queue gives such a message up too, and its task is parked by whoever sees the dead letter."""
        ledger.start_task({"poison": True}, id_="poison")
        run_mortals(dsn, server, environment, max_attempts=99, max_deliveries=2, until_done=0)
        error = ledger.task("poison").error
        assert error is not None
        assert "handed out 2 times and never acknowledged" in error

        async def discarded() -> None:
            async with open_queue(server.url(), environment=environment) as queue:
                await queue.ensure()

                async def is_gone() -> bool:
                    return not await queue.dead_letters()

                async with working(made(ledger, server, environment, Handled())):
                    await until(is_gone, "the dead letter to be discarded")

        asyncio.run(discarded())
        assert statuses(ledger) == {"parked": 1}


MORTAL = """
import asyncio, json, os, sys
from relight.clock import SystemClock
from relight.queue.queues import open_queue
from relight.tasks import worker
from relight.tasks.database import Database
from relight.tasks.ledger import Ledger
from relight.tasks.steps import Retry

told = json.loads(sys.argv[1])
worker._LOOK_AFTER_S = worker._RECONNECT_S = 0.1
database = Database(os.environ["DSN"])
ledger = Ledger(database, epoch=lambda: 1)

class Held:
    epoch = 1
    def check(self, for_s=0.0): pass

def handle(run):
    if "poison" in run.task.payload:
        os._exit(9)
    return "done"

async def main():
    working = asyncio.create_task(worker.Worker(
        ledger, lease=Held(), handler=handle, name="mortal", clock=SystemClock(), concurrency=1, claim_s=0.3,
        max_attempts=told["max_attempts"], retry=Retry(first_s=0.05, at_most_s=0.2),
        connect=lambda: open_queue(
            os.environ["QUEUE"], environment=told["environment"], ack_wait_s=0.5,
            max_deliveries=told["max_deliveries"],
        ),
    ).run())
    while True:
        await asyncio.sleep(0.05)
        rows = database.execute("select status, count(*)::int from relight.tasks group by 1").rows
        if dict(rows) == told["wanted"]:
            os._exit(0)
        if working.done():
            os._exit(7)

asyncio.run(main())
"""


def run_mortals(
    dsn: str,
    server: QueueServer,
    environment: str,
    *,
    max_attempts: int,
    until_done: int,
    max_deliveries: int = 10,
) -> int:
    """Start workers that a poisonous task ends, one after the other, until one parks it; how many there were."""
    wanted = {"parked": 1} | ({"done": until_done} if until_done else {})
    told = {
        "environment": environment,
        "max_attempts": max_attempts,
        "max_deliveries": max_deliveries,
        "wanted": wanted,
    }
    env = {**os.environ, "DSN": dsn, "QUEUE": server.url()}
    for life in range(1, 20):
        done = subprocess.run([sys.executable, "-c", MORTAL, json.dumps(told)], env=env, timeout=60, check=False)
        if done.returncode == 0:
            return life
        assert done.returncode == 9
    raise AssertionError("nobody parked the poison")


class TestQueueLost:
    """The queue's bad days: everything that was acknowledged is done in the end, without a person."""

    def test_a_queue_that_is_down_at_first(
        self, ledger: Ledger, own_server: QueueServer, environment: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Tasks are started while the queue is down, and done when it is there."""
        monkeypatch.setattr(jetstream, "_TIMEOUT_S", 1.0)
        own_server.kill()

        async def scenario() -> None:
            start(ledger, 10)
            connects = 0
            worker = made(ledger, own_server, environment, Handled())
            connect = worker._connect

            def counted() -> Any:
                nonlocal connects
                connects += 1
                return connect()

            worker._connect = counted
            async with working(worker):
                await until(lambda: connects >= 2, "the worker to try")
                await own_server.start()
                await all_done(ledger, 10)

        asyncio.run(scenario())

    @pytest.mark.parametrize("how", ["restarted", "killed", "wiped", "stream deleted"])
    def test_a_queue_that_breaks_while_work_is_done(
        self, ledger: Ledger, own_server: QueueServer, environment: str, how: str
    ) -> None:
        """fails when tasks that the queue had are lost with it, or are done twice because it came back."""
        half, go_on = threading.Event(), threading.Event()

        def hold(run: TaskRun) -> str:
            with lock:
                begun.add(run.task.id)
                if len(begun) >= 8:
                    half.set()
            if run.task.payload["n"] < 8:
                assert go_on.wait(60)
            return run.run("once", lambda: "done")  # type: ignore[no-any-return]

        lock, begun = threading.Lock(), set[str]()
        handled = Handled(hold)

        async def scenario() -> None:
            start(ledger, 40)
            async with working(made(ledger, own_server, environment, handled, concurrency=8)):
                assert await asyncio.to_thread(half.wait, 30)
                match how:
                    case "restarted":
                        await own_server.stop()
                        await own_server.start()
                    case "killed":
                        own_server.kill()
                        await own_server.start()
                    case "wiped":
                        own_server.destroy()
                        await own_server.start()
                    case _:
                        await delete_stream(own_server, environment)
                start(ledger, 5, prefix="meanwhile")
                go_on.set()
                await all_done(ledger, 45)

        try:
            asyncio.run(scenario())
        finally:
            go_on.set()
        assert set(handled.lives.values()) == {1}

    def test_a_queue_that_is_full(self, ledger: Ledger, nats_server: NatsServer, environment: str) -> None:
        """fails when there is no room in the queue: tasks stay in the outbox with a clear error, and are published
        when there is room again."""
        handled = Handled()

        async def scenario() -> None:
            async with open_queue(nats_server.url(), environment=environment) as queue:
                await queue.ensure()
                client = await nats.connect(nats_server.url())
                stream = f"RELIGHT-{environment.upper()}"
                config = (await client.jetstream().stream_info(stream)).config
                config.max_bytes = 2_000
                await client.jetstream().update_stream(config)
                start(ledger, 100)
                await asyncio.to_thread(refused, ledger, nats_server, environment)
                assert statuses(ledger) == {"pending": 100}
                assert sql(ledger.database, "select count(*)::int from relight.tasks where queued_in is not null") == [
                    (0,)
                ]
                async with working(made(ledger, nats_server, environment, handled)):
                    config.max_bytes = -1
                    await client.jetstream().update_stream(config)
                    await all_done(ledger, 100)
                await client.close()

        asyncio.run(scenario())
        assert set(handled.lives.values()) == {1}


def refused(ledger: Ledger, server: QueueServer, environment: str) -> None:
    """The relay says what is wrong with the queue."""

    async def empty() -> None:
        async with open_queue(server.url(), environment=environment) as queue:
            incarnation = await queue.ensure()
            with pytest.raises(UnavailableError, match="cannot publish tasks: maximum bytes exceeded"):
                await Relay(ledger).empty(queue, incarnation=incarnation)

    asyncio.run(empty())


async def delete_stream(server: QueueServer, environment: str) -> None:
    """Somebody deletes what the queue holds."""
    if isinstance(server, RedisServer):
        assert await server.command("FLUSHALL") == "+OK"
        return
    client = await nats.connect(server.url())
    await client.jetstream().delete_stream(f"RELIGHT-{environment.upper()}")
    await client.close()


class TestLedgerAway:
    """The state database's bad days, seen by a worker."""

    def test_messages_are_not_used_up_while_the_ledger_is_away(
        self, ledger: Ledger, server: QueueServer, environment: str
    ) -> None:
        """fails when an outage of the database makes dead letters of what waits in the queue, and a person has to
        resume every task."""
        away = threading.Event()
        asked = threading.Semaphore(0)
        database = ledger.database
        execute = database.execute

        def flaky(*args: Any, **named: Any) -> Any:
            if away.is_set():
                asked.release()
                raise UnavailableError("postgres is away")
            return execute(*args, **named)

        handled = Handled()

        async def scenario() -> None:
            start(ledger, 5)
            async with open_queue(server.url(), environment=environment) as queue:
                incarnation = await queue.ensure()

                def publish(tasks: list[tuple[str, int]]) -> None:
                    tickets = [Ticket(task_id=id_, epoch=1, number=n) for id_, n in tasks]
                    asyncio.run_coroutine_threadsafe(queue.publish(tickets), loop).result(20)

                loop = asyncio.get_running_loop()
                await asyncio.to_thread(ledger.publish_outbox, publish, incarnation=incarnation, limit=9)
            database.execute = flaky  # type: ignore[method-assign]
            away.set()
            worker = made(
                ledger, server, environment, handled, max_deliveries=3, retry=Retry(first_s=0.01, at_most_s=0.01)
            )
            async with working(worker):
                for _ in range(40):
                    assert await asyncio.to_thread(asked.acquire, timeout=20)
                away.clear()
                await all_done(ledger, 5)

        try:
            asyncio.run(scenario())
        finally:
            database.execute = execute  # type: ignore[method-assign]
        assert set(handled.lives.values()) == {1}

    def test_a_standby_that_is_away_parks_nothing(
        self,
        state_pair: StatePair,
        dsn: str,
        ledger: Ledger,
        server: QueueServer,
        environment: str,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        """fails when tasks whose effects wait for the standby are parked because it was away for long: nothing is sent
        meanwhile, and everything afterwards, once."""
        monkeypatch.setattr(verdict_module, "_UNCONFIRMED_S", 0.05)
        tool = RecordingTool(timeout_s=1.0)
        tool.says = Answer.CANNOT_TELL
        impatient = Database(dsn, confirm_timeout_s=0.1)
        handled = Handled(lambda run: run.effect(tool, run.task.payload))

        async def scenario() -> None:
            start(ledger, 2)
            worker = made(Ledger(impatient, epoch=lambda: 1), server, environment, handled, max_attempts=2)
            state_pair.standby.process.freeze()
            try:
                async with working(worker):
                    await until(lambda: min(handled.lives.values(), default=0) > 3, "the tasks to be tried in vain")
                    assert tool.sent == []
                    state_pair.standby.process.thaw()
                    await all_done(ledger, 2)
            finally:
                with suppress(Exception):
                    state_pair.standby.process.thaw()

        asyncio.run(scenario())
        impatient.close()
        assert sorted(request["n"] for _, request in tool.acted) == [0, 1]
        assert len(tool.sent) == 2


def test_a_relay_that_publishes_slowly_loses_nothing(
    ledger: Ledger, server: QueueServer, environment: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """fails when a worker gets a message before the relay has recorded that it was published, and takes its task for
    one that is done."""
    handled = Handled()

    async def scenario() -> None:
        publish = ledger.publish_outbox

        def slowly(call: Callable[[list[tuple[str, int]]], None], **named: Any) -> int:
            def lingering(tasks: list[tuple[str, int]]) -> None:
                call(tasks)
                seen.wait(0.3)  # at most: a claim that waits for this row cannot be seen

            return publish(lingering, **named)

        seen = threading.Event()
        ledger.publish_outbox = slowly  # type: ignore[assignment, method-assign]
        start(ledger, 8)
        async with working(made(ledger, server, environment, handled, concurrency=8)):
            await all_done(ledger, 8)

    asyncio.run(scenario())
    assert set(handled.lives.values()) == {1}
