"""The state database's bad days: it restarts, it is promoted, its clock is another, and it holds a million tasks."""

from __future__ import annotations

import asyncio
import json
import threading
import uuid
from collections import Counter
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import pytest
from fakes import FakeClock
from memory_helpers import make_state
from runtime_helpers import (
    Held,
    RecordingTool,
    claimed,
    clean_ledger,
    effects_of,
    empty,
    make_final,
    reclaimed,
    sql,
    statuses,
    until,
    working,
)
from servers import StatePair, start_pair

from relight.clock import SystemClock
from relight.errors import LeaseLostError, StaleEpochError, UnavailableError, UnconfirmedError
from relight.queue.port import ACK_WAIT_S, MAX_AGE_S
from relight.queue.queues import open_queue
from relight.recovery.replica import PhysicalReplica
from relight.tasks import verdict as verdict_module
from relight.tasks import worker as worker_module
from relight.tasks.database import Database
from relight.tasks.effects import EffectStatus, TooSoonError
from relight.tasks.epochs import EpochLog
from relight.tasks.ledger import SQL, Ledger
from relight.tasks.migrate import migrate
from relight.tasks.steps import Retry, TaskRun
from relight.tasks.worker import Worker

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from datetime import datetime
    from pathlib import Path

    from relight_drill.nats import NatsServer
    from relight_drill.processes import ProcessGroup

pytestmark = pytest.mark.servers

RETRY = Retry(first_s=0.05, factor=1.5, at_most_s=0.5, jitter=0.0)


@pytest.fixture(scope="module")
def database(state_pair: StatePair) -> Iterator[Database]:
    database = Database(make_state(state_pair, "bad_days").primary, confirm_timeout_s=10)
    yield database
    database.close()


@pytest.fixture
def ledger(database: Database) -> Ledger:
    return clean_ledger(database)


@pytest.fixture(autouse=True)
def _hurried(monkeypatch: pytest.MonkeyPatch) -> None:
    """A tool of these tests acts within the second, so nobody need wait long for what became of a call."""
    monkeypatch.setattr(worker_module, "_LOOK_AFTER_S", 0.1)
    monkeypatch.setattr(worker_module, "_RECONNECT_S", 0.1)
    monkeypatch.setattr(verdict_module, "_UNCONFIRMED_S", 0.1)
    monkeypatch.setitem(TaskRun.__init__.__kwdefaults__ or {}, "begin_within_s", 0.8)


def worker(ledger: Ledger, url: str, environment: str, handler: Callable[[Any], Any], **options: Any) -> Worker:
    """A worker that is quick to try again."""
    return Worker(
        ledger,
        **{
            "lease": Held(),
            "connect": lambda: open_queue(url, environment=environment, ack_wait_s=3.0),
            "handler": handler,
            "name": "w",
            "clock": SystemClock(),
            "concurrency": 6,
            "claim_s": 4.0,
            "retry": RETRY,
            **options,
        },
    )


class Workload:
    """Tasks of two steps and an effect, the middle one of which can be held up; and a caller that starts them."""

    def __init__(self, tool: RecordingTool) -> None:
        self.tool = tool
        self.acknowledged: list[str] = []
        self.steps: Counter[str] = Counter()
        self._lock = threading.Lock()

    def __call__(self, run: TaskRun) -> Any:
        first = run.run("first", lambda: self._count(run, "first"))
        run.run("second", lambda: self._count(run, "second"))
        response = run.effect(self.tool, {"task": run.task.id})
        run.run("third", lambda: self._count(run, "third"))
        return [first, response]

    def _count(self, run: TaskRun, step: str) -> str:
        with self._lock:
            self.steps[f"{run.task.id} {step}"] += 1
        return f"{run.task.id} {step}"

    async def submit(self, ledger: Ledger, count: int, *, prefix: str) -> None:
        """Start tasks as a caller does: again, with the same id, until it is told that the task is acknowledged."""
        for n in range(count):
            id_ = f"{prefix}{n:03}"
            while True:
                try:
                    await asyncio.to_thread(ledger.start_task, {"n": n}, id_=id_)
                except (UnavailableError, UnconfirmedError, LeaseLostError, StaleEpochError):
                    await asyncio.sleep(0.05)
                else:
                    self.acknowledged.append(id_)
                    break

    def check(self, ledger: Ledger) -> None:
        """What was acknowledged is done, every effect once."""
        done = {row[0] for row in sql(ledger.database, "select id from relight.tasks where status = 'done'")}
        assert set(self.acknowledged) <= done
        acts = Counter(request["task"] for _, request in self.tool.acted)
        assert acts == Counter(dict.fromkeys(done, 1))
        assert {status for _, status in effects_of(ledger)} == {EffectStatus.DONE}
        for id_ in done:
            assert ledger.task(id_).result[0] == f"{id_} first"


class TestRestarting:
    """The database goes away and comes back in the middle of everything."""

    @pytest.mark.parametrize("how", ["stopped", "killed"])
    def test_a_restart_loses_and_repeats_nothing(
        self, server_group: ProcessGroup, server_dir: Path, nats_server: NatsServer, how: str
    ) -> None:
        """fails when a database that restarts in the middle of steps and effects loses a task, or makes an effect
        happen twice, or leaves something to a person."""
        pair = asyncio.run(start_pair(server_group, server_dir / f"restart-{how}"))
        database = Database(pair.primary.dsn(), confirm_timeout_s=3)
        migrate(database)
        EpochLog(database).take(1, region="us-east-1", run_id="first")
        ledger, workload = Ledger(database, epoch=lambda: 1), Workload(RecordingTool(timeout_s=0.2))

        async def scenario() -> None:
            async with working(worker(ledger, nats_server.url(), f"r{uuid.uuid4().hex[:8]}", workload)):
                submitting = asyncio.create_task(workload.submit(ledger, 60, prefix="t"))
                for steps in (20, 80):
                    await until(lambda steps=steps: len(workload.steps) >= steps, "work to be under way")
                    if how == "killed":
                        pair.primary.kill()
                    else:
                        await pair.primary.stop(immediate=True)
                    await pair.primary.start()
                await submitting
                await until(lambda: ended(ledger) == {"done": 60}, "every task to be done", within_s=60)

        asyncio.run(scenario())
        workload.check(ledger)
        database.close()
        asyncio.run(stop(pair))


def ended(ledger: Ledger) -> dict[str, int]:
    """How many tasks are in which status; nothing while the database is away."""
    try:
        return statuses(ledger)
    except UnavailableError:
        return {}


async def stop(pair: StatePair) -> None:
    for server in (pair.primary, pair.standby):
        if server.running:
            await server.stop(immediate=True)


class Present:
    """The region's epoch and lease, as they are now."""

    def __init__(self) -> None:
        self.epoch = 1

    def check(self, for_s: float = 0.0) -> None:
        if self.epoch == 0:
            raise LeaseLostError("between two epochs")


def test_a_promotion_loses_and_repeats_nothing(
    server_group: ProcessGroup, server_dir: Path, nats_server: NatsServer
) -> None:
    """fails when a primary that dies in the middle of steps and effects takes an acknowledged task with it, or makes an
    effect happen twice: workers whose DSN names both find the promoted one, and go on under the next epoch."""
    pair = asyncio.run(start_pair(server_group, server_dir / "bad-promotion"))
    hosts = {
        "host": "127.0.0.1,127.0.0.1",
        "port": f"{pair.primary.port},{pair.standby.port}",
        "target_session_attrs": "read-write",
    }
    database = Database(pair.primary.dsn(**hosts), confirm_timeout_s=3)
    migrate(database)
    EpochLog(database).take(1, region="us-east-1", run_id="first")
    present = Present()

    def epoch() -> int:
        present.check()
        return present.epoch

    ledger, workload = Ledger(database, epoch=epoch), Workload(RecordingTool(timeout_s=0.2))

    async def scenario() -> None:
        async with working(
            *[
                worker(ledger, nats_server.url(), "bad-promotion", workload, lease=present, concurrency=3)
                for _ in range(2)
            ]
        ):
            submitting = asyncio.create_task(workload.submit(ledger, 50, prefix="t"))
            await until(lambda: len(workload.steps) >= 20, "work to be under way")
            pair.primary.kill()
            present.epoch = 0
            assert await asyncio.to_thread(PhysicalReplica(pair.standby.dsn()).promote)
            await asyncio.to_thread(EpochLog(database).take, 2, region="us-west-2", run_id="r")
            present.epoch = 2
            await submitting
            await until(lambda: ended(ledger) == {"done": 50}, "every task to be done", within_s=60)

    asyncio.run(scenario())
    workload.check(ledger)
    database.close()
    asyncio.run(stop(pair))


class Wrong(SystemClock):
    """A machine whose wall clock is wrong; its monotonic one is as long as anybody's."""

    def __init__(self, by: timedelta) -> None:
        self._by = by

    def now(self) -> datetime:
        return super().now() + self._by


@pytest.mark.parametrize("minutes", [-10, 10, 60 * 24 * 365])
class TestSkew:
    """A worker whose clock is minutes, or a year, from that of the database."""

    def life(self, ledger: Ledger, task: Any, minutes: float) -> tuple[TaskRun, FakeClock]:
        """A life on a machine with another time."""
        clock = FakeClock()
        clock.at += timedelta(minutes=minutes)
        return TaskRun(
            ledger, task, lease=Held(), clock=clock, claim_s=30, claimed_at=clock.monotonic(), begin_within_s=10
        ), clock

    def test_a_claim_lasts_as_long_as_on_any_clock(self, ledger: Ledger, minutes: float) -> None:
        """The database's clock decides when a claim is over, the worker's own counts how long it still is."""
        run, clock = self.life(ledger, claimed(ledger, "t", lease_s=30), minutes)
        run.check(29)
        assert ledger.claim("t", worker="another", lease_s=30) is None
        clock.sleep(16)
        run.heartbeat()
        run.check(29)
        assert ledger.claim("t", worker="another", lease_s=30) is None
        clock.sleep(31)
        with pytest.raises(LeaseLostError):
            run.check()
        reclaimed(ledger, "t")
        with pytest.raises(LeaseLostError):
            run.heartbeat()

    def test_an_effect_that_is_open_is_final_when_it_is(self, ledger: Ledger, minutes: float) -> None:
        """What became of a call is asked for when the database's clock says that it is final, and the wait is told in
        seconds from now, whatever the worker's clock shows."""
        tool = RecordingTool(timeout_s=5)

        class KilledError(BaseException):
            """Nothing catches it."""

        def die() -> None:
            raise KilledError

        tool.after = die
        run, _ = self.life(ledger, claimed(ledger, "t"), minutes)
        with pytest.raises(KilledError):
            run.effect(tool, 1)
        tool.after = lambda: None
        later, _ = self.life(ledger, reclaimed(ledger, "t"), -minutes)
        with pytest.raises(TooSoonError) as soon:
            later.effect(tool, 1)
        assert 0 < soon.value.wait_s <= 15
        make_final(ledger)
        later.effect(tool, 1)
        assert (len(tool.acted), len(tool.asked)) == (1, 1)

    def test_a_worker_notices_nothing(self, ledger: Ledger, nats_server: NatsServer, minutes: float) -> None:
        """Tasks that are retried with a delay are done once by workers that disagree about the time."""
        lives: Counter[str] = Counter()

        def handle(run: TaskRun) -> int:
            lives[run.task.id] += 1
            if run.task.attempts == 1:
                raise ValueError("once")
            return 1

        async def scenario() -> None:
            for n in range(6):
                ledger.start_task(n, id_=f"t{n}")
            environment = f"s{uuid.uuid4().hex[:8]}"
            clocks = (Wrong(timedelta(minutes=minutes)), SystemClock())
            async with working(*[worker(ledger, nats_server.url(), environment, handle, clock=it) for it in clocks]):
                await until(lambda: statuses(ledger) == {"done": 6}, "every task to be done")

        asyncio.run(scenario())
        assert lives == Counter({f"t{n}": 2 for n in range(6)})


@pytest.mark.parametrize("kind", ["nats", "redis"])
def test_odd_and_large_things_go_all_the_way(ledger: Ledger, request: pytest.FixtureRequest, kind: str) -> None:
    """Ids of any text, payloads of megabytes, and responses and errors of any kind go through ledger, queue, worker and
    tool, and come back as they were."""
    server = request.getfixturevalue(f"{kind}_server")
    ids = [
        "ü🦉",
        "a b",
        " ",
        "x" * 512,
        "🦉" * 128,
        "%s{}'\";--",
        "line\nbreak\ttab\r",
        "*.>",
        "-",
        "0",
        "{id}",
        "\u2028",
    ]
    payload = {"text": "\0\ud800🦉" * 200_000}
    failed: set[str] = set()
    tool = RecordingTool()
    tool.response = {"\0": ["\udfff", 1e20, -0.0]}

    def handle(run: TaskRun) -> Any:
        if run.task.id not in failed:
            failed.add(run.task.id)
            raise ValueError("\0\ud800" * 50_000)
        assert run.task.payload == payload
        return [
            run.task.id,
            run.effect(tool, {"\0": run.task.id}),
            run.run("ü🦉", lambda: "\ud800"),
        ]

    async def scenario() -> None:
        for id_ in ids:
            ledger.start_task(payload, id_=id_)
        async with working(worker(ledger, server.url(), f"o{uuid.uuid4().hex[:8]}", handle)):
            await until(lambda: statuses(ledger) == {"done": len(ids)}, "every task to be done")

    asyncio.run(scenario())
    for id_ in ids:
        assert repr(ledger.task(id_).result) == repr([id_, {"\0": ["\udfff", 1e20, -0.0]}, "\ud800"])
    assert len(tool.acted) == len(ids)


@pytest.fixture(scope="module")
def many(database: Database) -> Iterator[Database]:
    """Most are done; 200,000 wait in the queue, 50,000 for a provider, and some of each other kind are among them."""
    empty(database)
    with database.transaction(within_s=200) as cur:
        cur.execute("set local session_replication_role = replica")
        cur.execute("set local synchronous_commit = off")
        cur.execute(
            """
            insert into relight.tasks (id, payload, epoch, status, due_at, created_at, claimed_by, claimed_epoch,
                                       lease_until, queued_in, queued_at)
            select 't' || n, '{"n": 1}', 1, status, now() - n * interval '1 s', now() - n * interval '1 s',
                   case status when 'running' then 'w' end, case status when 'running' then 1 end,
                   case status when 'running' then now() + (n %% 7 - 1) * interval '1 h' end,
                   case when n %% 5003 = 0 then null when n %% 4999 = 0 then 'lost' else 'q' end, now()
              from (select n, case when n %% 5 = 0 then 'pending' when n %% 997 = 0 then 'running'
                                   when n %% 10007 = 0 then 'parked' else 'done' end as status
                      from generate_series(1, %s) n) made
            """,
            [1_000_000],
        )
        cur.execute(
            "insert into relight.tasks (id, payload, epoch, due_at, waits_for)"
            " select 'w' || n, '1', 1, now() + interval '1 h' + n * interval '1 ms', 'provider:a'"
            " from generate_series(1, 50_000) n"
        )
        cur.execute("set local session_replication_role = origin")
    sql(database, "analyze relight.tasks")
    yield database
    with database.transaction(within_s=200) as cur:
        cur.execute("truncate relight.tasks, relight.steps, relight.effects")


# A worker gives back one more that waits for the provider.
RELEASED: dict[str, Any] = {"id": "t997", "claim": "w", "error": "e", "waits_for": "provider:a"}
RELEASED |= {"delay_s": 60, "behind_s": 240, "uncounted": 1}


class TestAMillionTasks:
    """What is asked all the time reads a handful of rows, however many tasks there are."""

    VALUES: Mapping[str, Any] = {
        "epoch": 1,
        "claim": "w/1",
        "lease_s": 30,
        "incarnation": "q",
        "max_age_s": MAX_AGE_S,
        "grace_s": 3 * ACK_WAIT_S,
    }

    def plan(self, database: Database, name: str, **values: Any) -> list[dict[str, Any]]:
        """Every node of a statement's plan, as it was run; what it changed is undone."""
        nodes: list[dict[str, Any]] = []

        def walk(node: dict[str, Any]) -> None:
            nodes.append(node)
            for child in node.get("Plans", []):
                walk(child)

        with database.transaction(within_s=60) as cur:
            cur.execute(f"explain (analyze, format json) {SQL[name]}", {**self.VALUES, **values})
            [(found,)] = cur.fetchall()
            cur.execute("rollback; begin")
        walk((json.loads(found) if isinstance(found, str) else found)[0]["Plan"])
        return nodes

    @pytest.mark.parametrize(
        ("name", "values"),
        [
            ("claim_due", {"limit": 50}),
            ("claim_task", {"id": "t5"}),
            ("outbox", {"limit": 50}),
            ("return_lost", {"limit": 50}),
            ("start_task", {"id": "t7", "kind": "work", "payload": "1", "due_at": None}),
            ("read_task", {"id": "t7"}),
            ("give_up_message", {"id": "t5", "error": "e", "suspicious": 5}),
            ("release_task", RELEASED),
            ("release_task", {**RELEASED, "delay_s": 9999}),
            ("wake", {"key": "provider:a", "limit": 50}),
        ],
    )
    def test_a_handful_of_rows_is_read(self, many: Database, name: str, values: dict[str, Any]) -> None:
        """fails when a statement that workers send all the time scans the table, or reads more rows than it takes and
        than are being worked on, of which there are 803."""
        scans = [node for node in self.plan(many, name, **values) if node.get("Relation Name") == "tasks"]
        assert scans
        for node in scans:
            assert node["Node Type"] != "Seq Scan", node
            read = node["Actual Loops"] * (node["Actual Rows"] + node.get("Rows Removed by Filter", 0))
            assert read <= 1000, node
