"""Runs that are killed at one statement and recovered, and what must be true of what is left.

A run has a state database, a queue and tools; its worker is a process that is killed, or stopped and let go on later.
Time that would have to be waited for is played: once the worker is dead or stopped, and the tools have come to an end,
stored times are moved back in the database, and the workers' monotonic clock forward, by the same number of seconds.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import os
import random
import signal
import struct
import sys
from collections import Counter
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import nats
import psycopg2
from nats.js.errors import NotFoundError as NoStreamError

from relight.errors import RelightError
from relight.queue.jetstream import JetStreamQueue
from relight.queue.port import ACK_WAIT_S
from relight.tasks.database import Database
from relight.tasks.effects import Effects
from relight.tasks.epochs import EpochLog
from relight.tasks.ledger import Ledger, canonical
from relight.tasks.migrate import migrate
from relight_drill.nats import NatsServer
from relight_drill.postgres import STANDBY_NAME, PostgresServer
from relight_drill.processes import DrillError
from relight_drill.sweep.life import LifeConfig, as_line
from relight_drill.sweep.shapes import SCENARIOS, action_of, expected_of
from relight_drill.sweep.tools import HONOURS_S, HttpResults, World, run_of
from relight_drill.sweep.wire import STOPPED, Channel, Point, Proxy, Traffic, When

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
    from pathlib import Path

    from nats.aio.client import Client

    from relight_drill.processes import ProcessGroup
    from relight_drill.sweep.shapes import Scenario
    from relight_drill.sweep.tools import Act

SOON_S, LONG_S = 45.0, 7200.0
# The recovery's queue hands out again what its predecessor held after this.
AGAIN_S = 0.4
QUIET_S = 8.0
# Between two looks at the database.
TURN_S = 0.02
# A statement that waits for a lock of a stopped worker comes to no end by itself.
LANDED_S = 5.0
_LIVES = 4
# How often a person is asked: a tool may lose its answer to the sending that follows.
_ASKED = 2

# What a worker sends that has nothing to do.
_IDLE = frozenset(
    [
        *("begin", "commit", "rollback", "connect", "set-synchronous_commit", "set-idle_in", "standbys"),
        *("outbox", "return_lost", "claim_due", "consumer-msg-next", "stream-info", "stream-msg-get"),
    ]
)
_COUNTS = """
select count(*) filter (where status in ('pending', 'running')), count(*),
       count(*) filter (where status = 'pending' and due_at > now())
  from relight.tasks
"""
# A sending that its sender knows to be over is final at once, and what waits for a time that has nothing else to wait
# for comes at once. One that is on its way in a live worker takes its time.
# A worker that was stopped in a transaction had told its server to end it after `database.IDLE_S`, which is over.
_END_IDLE = """
select pg_terminate_backend(pid, 3000) from pg_stat_activity
 where datname = current_database() and state like 'idle in transaction%'
"""
_AT_WORK = "select from pg_stat_activity where client_port = any (array{ports})"
_MOVE_TASKS = """
set local session_replication_role = replica;
update relight.tasks
   set lease_until = lease_until - {seconds} * interval '1 s', due_at = due_at - {seconds} * interval '1 s',
       queued_at = queued_at - {seconds} * interval '1 s', updated_at = updated_at - {seconds} * interval '1 s',
       created_at = created_at - {seconds} * interval '1 s';
"""
_MOVE_EFFECTS = """
update relight.effects
   set final_from = final_from - {seconds} * interval '1 s', intended_at = intended_at - {seconds} * interval '1 s'
"""
_OPEN = """
select id, status, attempts, queued_in, due_at > now(), error from relight.tasks where status in ('pending', 'running')
"""
_HURRY = """
set local session_replication_role = replica;
update relight.effects set final_from = now() - interval '1 s' where status = 'unknown' and final_from > now();
update relight.tasks set due_at = now()
 where status = 'pending' and due_at > now()
   and not exists (select from relight.effects where status = 'intent' and final_from > now())
"""


def turns(within_s: float) -> range:
    """As many looks at the database as fit into that time on a machine that has nothing else to do.

    A worker's patience is counted in these, not by the clock: a busy machine delays its work and our looks alike.
    """
    return range(max(1, round(within_s / TURN_S)))


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """Where a run is killed, and how it goes on from there."""

    scenario: str
    point: Point
    when: When
    promoted: bool = False
    """Whether the recovery acts under the next epoch."""
    wiped: bool = False
    """Whether the queue's streams are gone by then."""
    long: bool = False
    """Whether hours have passed, or just enough for the claims to run out."""
    repeats: bool = False
    """Whether the caller repeats what was not acknowledged."""
    slow: bool = False
    """Whether the tool acts only when the recovery has begun."""
    second: int = 0
    """The recovery's statement at which it is killed too; 0 for none."""

    def __str__(self) -> str:
        words = [self.scenario, str(self.point), self.when.value]
        words += [name for name in ("promoted", "wiped", "long", "repeats", "slow") if getattr(self, name)]
        return " ".join(words + ([f"second={self.second}"] if self.second else []))

    @classmethod
    def parse(cls, text: str) -> Plan:
        """The inverse of `str`."""
        scenario, point, when, *rest = text.split()
        more: dict[str, Any] = {}
        for word in rest:
            name, _, number = word.partition("=")
            more[name] = int(number) if number else True
        return cls(scenario=scenario, point=Point.parse(point), when=When(when), **more)

    @classmethod
    def seeded(cls, scenario: str, point: Point, when: When, *, seed: int) -> Plan:
        """The plan of a point, which is the same for the same seed."""
        chance = random.Random(f"{seed} {scenario} {point} {when}")  # noqa: S311
        sends = point.channel is Channel.TOOL and point.name.endswith("/send")
        return cls(
            scenario=scenario,
            point=point,
            when=when,
            promoted=chance.random() < 0.5,
            wiped=chance.random() < 0.25 and SCENARIOS[scenario].runner != "direct",
            long=chance.random() < 0.5,
            repeats=chance.random() < 0.5,
            slow=sends and when is When.DURING,
            second=chance.randint(1, 40) if when not in STOPPED and chance.random() < 0.25 else 0,
        )


def may_be(scenario: str, point: Point, when: When) -> bool:
    """Whether a run can be stopped there.

    A tool must not get a request later than it says that it takes them. So a worker is not stopped, to go on later,
    with a request on the wire, nor where another of its threads may be about to send one: between the last look at its
    clock and the sending nothing can hold back a process that is stopped there for longer than its tools take.
    """
    if when in STOPPED:
        alone = SCENARIOS[scenario].concurrency == 1
        return alone and point.channel is not Channel.TOOL and point.name != "connect"
    return when is not When.DURING or point.name != "connect"


@dataclass(slots=True, kw_only=True)
class Outcome:
    """What became of a run."""

    plan: Plan
    reached: bool
    violations: list[str] = field(default_factory=list)
    unknown: int = 0
    """Side effects of which nobody could know: left to a person, and then done."""
    late: bool = False
    """Whether a task came back only when hours had passed."""
    log: str = ""

    def __str__(self) -> str:
        command = f"python -m relight_drill.sweep {str(self.plan)!r}"
        return "\n  ".join([f"{command}:", *self.violations]) + (f"\n{self.log}" if self.violations else "")


@dataclass(frozen=True, slots=True, kw_only=True)
class Baseline:
    """A run that nobody killed: its statements, and each shape's result, without what differs between runs."""

    statements: tuple[Point, ...]
    results: Mapping[str, str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """What the ledger says of a task, with all that hangs on it."""

    status: str
    error: str
    queued: bool
    result: Any
    steps: Mapping[str, tuple[bool, Any]]
    effects: Mapping[str, tuple[str, str, Any]]
    """By action: the key, the status, and the response."""
    memories: Mapping[str, list[Any]]


class Nursery:
    """The process that lives are forked from, and what they say."""

    def __init__(self, group: ProcessGroup, folder: Path, *, python_path: Sequence[str] = ()) -> None:
        self._group = group
        self._folder = folder
        self._python_path = python_path
        self._control: asyncio.StreamWriter | None = None
        self._ready = asyncio.Event()
        self._lives: dict[int, Life] = {}
        self._servers: list[asyncio.Server] = []
        self._readers: set[asyncio.Task[None]] = set()

    async def start(self) -> None:
        """Start it, and wait until it has imported everything."""
        control, self.report = self._folder / "control", str(self._folder / "report")
        self._servers = [
            await asyncio.start_unix_server(self._controlled, control),
            await asyncio.start_unix_server(self._reported, self.report),
        ]
        path = os.pathsep.join([*self._python_path, os.environ.get("PYTHONPATH", "")]).strip(os.pathsep)
        self._group.start(
            "lives",
            [sys.executable, "-m", "relight_drill.sweep.life", control],
            log_path=self._folder / "lives.log",
            env={**os.environ, "PYTHONPATH": path},
        )
        async with asyncio.timeout(60):
            await self._ready.wait()

    def close(self) -> None:
        """Let it end."""
        for server in self._servers:
            server.close()
        if self._control is not None:
            self._control.close()

    def bear(self, life: Life, config: LifeConfig) -> None:
        """Begin a life."""
        assert self._control is not None  # noqa: S101 - it has started
        self._lives[config.number] = life
        self._control.write(as_line(config))

    async def _controlled(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._control = writer
        self._ready.set()
        with suppress(asyncio.CancelledError):  # the stream server logs what a handler raises
            while line := await reader.readline():
                said = json.loads(line)
                if "born" in said:
                    self._lives[said["born"]].pid.set_result(said["pid"])
                else:
                    self._lives[said["died"]].died.set_result(said["code"])

    async def _reported(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            if not (line := await reader.readline()):
                return
            life = self._lives[json.loads(line)["life"]]
            life.speaks = True
            while line := await reader.readline():
                life.acknowledged.add(json.loads(line)["acknowledged"])
            life.heard.set()
        finally:
            writer.close()


class Life:
    """A worker's process, as the sweep sees it."""

    def __init__(self, traffic: Traffic | None, starts: Iterable[str]) -> None:
        loop = asyncio.get_running_loop()
        self.pid: asyncio.Future[int] = loop.create_future()
        self.died: asyncio.Future[int] = loop.create_future()
        self.acknowledged: set[str] = set()
        self.speaks = False
        self.heard = asyncio.Event()
        self.traffic = traffic
        self.starts = set(starts)

    async def signal(self, number: int) -> None:
        """Send it a signal; nothing happens when it is dead."""
        pid = await self.pid
        if not self.died.done():
            with suppress(ProcessLookupError):
                os.kill(pid, number)

    async def kill(self) -> None:
        """Kill it, and hear its last word."""
        await self.signal(signal.SIGKILL)
        await self.died
        # What it said before it died is there by now, and has only to be read.
        await asyncio.sleep(0.02)
        if self.speaks:
            async with asyncio.timeout(10):
                await self.heard.wait()


@dataclass(slots=True, kw_only=True)
class Servers:
    """What all lanes share."""

    group: ProcessGroup
    folder: Path
    primary: PostgresServer
    nats: NatsServer
    world: World
    nursery: Nursery
    numbers: itertools.count[int] = field(default_factory=lambda: itertools.count(1))


@asynccontextmanager
async def servers(group: ProcessGroup, folder: Path, *, python_path: Sequence[str] = ()) -> AsyncIterator[Servers]:
    """A primary that waits for its standby, NATS, the tools, and the process that lives are forked from."""
    primary = PostgresServer(
        group,
        folder / "primary",
        name="sweep-primary",
        database="relight",
        settings={"synchronous_standby_names": STANDBY_NAME},
    )
    standby = PostgresServer(group, folder / "standby", name="sweep-standby", database="relight")
    queue = NatsServer(group, folder / "nats", name="sweep")
    await primary.create()
    await standby.base_backup(primary)
    await asyncio.gather(standby.start(), queue.start())
    async with playing(group, folder, primary, queue, python_path=python_path) as found:
        yield found


@asynccontextmanager
async def playing(
    group: ProcessGroup,
    folder: Path,
    primary: PostgresServer,
    queue: NatsServer,
    *,
    python_path: Sequence[str] = (),
) -> AsyncIterator[Servers]:
    """The tools and the process that lives are forked from, beside servers that run already."""
    world = World()
    await world.start()
    nursery = Nursery(group, folder, python_path=python_path)
    await nursery.start()
    try:
        yield Servers(group=group, folder=folder, primary=primary, nats=queue, world=world, nursery=nursery)
    finally:
        nursery.close()
        await world.close()


class Lane:
    """One run after the other, on a state database and a queue of its own."""

    def __init__(self, servers: Servers, name: str, *, hook: str = "", quiet_s: float = QUIET_S) -> None:
        """`hook` (`module:function`) is called in each worker's process first, to break the library on purpose;
        `quiet_s` is how long a worker may take to come to the end of all tasks."""
        self._servers = servers
        self.quiet_s = quiet_s
        self._hook = hook
        self._name = name
        self._clock = servers.folder / f"{name}.clock"
        self._log = servers.folder / f"{name}.log"
        self._dsn_params = {"sslmode": "disable", "gssencmode": "disable"}
        self._proxies = {
            Channel.POSTGRES: Proxy(Channel.POSTGRES, servers.primary.port),
            Channel.NATS: Proxy(Channel.NATS, servers.nats.port),
            Channel.TOOL: Proxy(Channel.TOOL, servers.world.port),
        }
        self._client: Client | None = None

    async def open(self) -> None:
        """Make the database and the queue."""
        primary = self._servers.primary
        await asyncio.to_thread(self._make_database)
        self._conn = psycopg2.connect(primary.dsn(self._name, **self._dsn_params))
        self._conn.autocommit = True
        with self._conn.cursor() as cur:
            cur.execute("set lock_timeout = '5s'")
        self._database = Database(primary.dsn(self._name), confirm_timeout_s=10.0)
        await asyncio.to_thread(migrate, self._database)
        self._client = await nats.connect(self._servers.nats.url())
        self._queue = await JetStreamQueue.connect(
            self._servers.nats.url(), environment=self._name, ack_wait_s=ACK_WAIT_S
        )
        for proxy in self._proxies.values():
            await proxy.start()

    async def close(self) -> None:
        """Leave the servers."""
        for proxy in self._proxies.values():
            await proxy.close()
        if self._client is not None:
            await self._queue.close()
            await self._client.close()
        self._conn.close()
        self._database.close()

    def _make_database(self) -> None:
        conn = psycopg2.connect(self._servers.primary.dsn("postgres"))
        try:
            conn.autocommit = True
            with conn.cursor() as cur:
                cur.execute(f"create database {self._name}")
        finally:
            conn.close()

    # -- runs

    async def record(self, name: str) -> Baseline:
        """Let a scenario run to its end, and note what it sends."""
        run = _Run(self, Plan(scenario=name, point=Point(Channel.TOOL, "nothing", 1), when=When.BEFORE))
        outcome = await run.go()
        if outcome.violations:
            raise DrillError(f"the scenario {name} fails without a kill", hint=str(outcome))
        return Baseline(statements=tuple(run.sent), results=run.results)

    async def run(self, plan: Plan, baseline: Baseline) -> Outcome:
        """Kill, recover, and judge. A run in which a task came back only when hours had passed is done once more: on a
        machine that is busy with other things it may have been that."""
        outcome = await _Run(self, plan, baseline).go()
        if outcome.late and not outcome.violations:
            outcome = await _Run(self, plan, baseline).go()
            if outcome.late:
                outcome.violations.append("a task came back only when hours had passed")
                outcome.log = self.log_tail()
        return outcome

    # -- what a run asks for

    async def reset(self, scenario: Scenario) -> None:
        """Begin with an empty ledger under epoch 1."""
        await self.sql("delete from relight.effects; delete from relight.steps; delete from relight.journal;"
                       "delete from relight.tasks; delete from relight.epochs")  # fmt: skip
        await self.promote(1)
        self._play(0.0)
        self._log.write_text("")
        if scenario.runner != "direct":
            if scenario.fresh:
                await self.wipe()
            else:
                await self._queue.ensure()
                assert self._client is not None  # noqa: S101
                await self._client.jetstream().purge_stream(f"RELIGHT-{self._name.upper()}")

    async def wipe(self) -> None:
        """Delete the queue's streams."""
        assert self._client is not None  # noqa: S101
        for stream in (f"RELIGHT-{self._name.upper()}", f"RELIGHT-{self._name.upper()}_DEAD"):
            with suppress(NoStreamError):
                await self._client.jetstream().delete_stream(stream)

    async def promote(self, epoch: int) -> None:
        """Take an epoch."""
        await asyncio.to_thread(EpochLog(self._database).take, epoch, region=f"region-{epoch}", run_id=f"run-{epoch}")

    def ledger(self, epoch: int, results: Any) -> Ledger:
        """The ledger, as an operator uses it."""
        return Ledger(self._database, epoch=lambda: epoch, results=results)

    async def bear(
        self, plan: Plan, *, epoch: int, start: Iterable[tuple[str, Any]], traffic: Traffic | None, first: bool
    ) -> Life:
        """Begin a life: through the proxies when its statements are counted, else straight to the servers."""
        servers, scenario = self._servers, SCENARIOS[plan.scenario]
        start = list(start)
        life = Life(traffic, (id_ for id_, _ in start))
        if traffic is not None:
            for proxy in self._proxies.values():
                proxy.traffic = traffic
                proxy.left.clear()
        ports = {channel: proxy.port for channel, proxy in self._proxies.items()}
        if traffic is None:
            ports = {Channel.POSTGRES: servers.primary.port, Channel.NATS: servers.nats.port}
        servers.nursery.bear(
            life,
            LifeConfig(
                number=next(servers.numbers),
                report=servers.nursery.report,
                log=str(self._log),
                clock=str(self._clock),
                dsn=servers.primary.dsn(self._name, **self._dsn_params, port=ports[Channel.POSTGRES]),
                nats=servers.nats.url(port=ports[Channel.NATS]),
                environment=self._name,
                tools=ports.get(Channel.TOOL, servers.world.port),
                epoch=epoch,
                runner=scenario.runner,
                concurrency=scenario.concurrency,
                ack_wait_s=ACK_WAIT_S if first else AGAIN_S,
                start=start,
                hook=self._hook,
            ),
        )
        return life

    async def landed(self) -> None:
        """Wait until the database is at nothing that a stopped or killed life had sent: a moment later it is there."""
        proxy = self._proxies[Channel.POSTGRES]
        for _ in range(10):
            await asyncio.sleep(0)  # what is in a socket comes into this loop, and through it
        with suppress(TimeoutError):
            async with asyncio.timeout(LANDED_S):
                while proxy.unanswered or (proxy.left and await self.sql(_AT_WORK.format(ports=sorted(proxy.left)))):  # noqa: ASYNC110
                    await asyncio.sleep(0.01)

    async def cut(self) -> None:
        """Cut what a dead life left open."""
        for proxy in self._proxies.values():
            await proxy.cut()

    def _play(self, seconds: float) -> None:
        with self._clock.open("r+b" if self._clock.exists() else "wb") as file:
            file.write(struct.pack("d", seconds))

    async def pass_time(self, seconds: float, *, of_effects: bool = True) -> None:
        """Play that so many seconds passed, for everybody."""
        (played,) = struct.unpack("d", self._clock.read_bytes())
        self._play(played + seconds)
        await self.sql(_END_IDLE)
        await self.sql(
            _MOVE_TASKS.format(seconds=seconds) + (_MOVE_EFFECTS.format(seconds=seconds) if of_effects else "")
        )

    async def sql(self, text: str) -> list[tuple[Any, ...]]:
        """Run statements as one transaction, straight to the server."""
        return await asyncio.to_thread(self._sql, text)

    def _sql(self, text: str) -> list[tuple[Any, ...]]:
        with self._conn.cursor() as cur:
            cur.execute(text)
            return cur.fetchall() if cur.description else []

    def log_tail(self, lines: int = 25) -> str:
        """The end of what the lives wrote."""
        return "\n".join(self._log.read_text(errors="replace").splitlines()[-lines:])

    @property
    def world(self) -> World:
        """The tools."""
        return self._servers.world

    def next_number(self) -> int:
        """For names that no other run has."""
        return next(self._servers.numbers)


class _Run:
    """One run in a lane."""

    def __init__(self, lane: Lane, plan: Plan, baseline: Baseline | None = None) -> None:
        self._lane = lane
        self._plan = plan
        self._baseline = baseline
        self._scenario = SCENARIOS[plan.scenario]
        self._epoch = 1
        self._name = f"r{lane.next_number()}"
        self._slow = (self._name, plan.point.name.split("/")[1] if plan.slow else "", plan.point.number)
        self._tasks: dict[str, Any] = {}
        for number, shape in enumerate(self._scenario.shapes):
            self._tasks[f"{self._name}-{number}"] = {"shape": shape, "invoice": f"{self._name}-invoice"}
        self._acknowledged: set[str] = set()
        self._seen: list[Mapping[str, Row]] = []
        self._raced = False
        self._forgot = False
        self._outcome = Outcome(plan=plan, reached=False)
        self.sent: list[Point] = []
        self.results: dict[str, str] = {}

    async def go(self) -> Outcome:
        """Do it."""
        try:
            await self._lane.reset(self._scenario)
            await self._kill_and_recover()
        except TimeoutError as exc:
            self._fail(f"the sweep itself waited in vain: {exc!r}")
        finally:
            if self._slow in self._lane.world.held:
                self._lane.world.held.pop(self._slow).set()
            await self._lane.cut()
        if self._outcome.violations:
            self._outcome.log = self._lane.log_tail()
        return self._outcome

    async def _kill_and_recover(self) -> None:
        plan, lane = self._plan, self._lane
        held = asyncio.Event()
        if plan.slow:
            lane.world.held[self._slow] = held
        life = await self._begin(self._tasks.items(), point=plan.point, when=plan.when, first=True)
        assert life.traffic is not None  # noqa: S101
        if not await self._until_struck(life):
            # The point did not come up this time, or this is a recording.
            await asyncio.sleep(0.3)
        self._outcome.reached = life.traffic.struck.is_set()
        self.sent = list(life.traffic.sent)
        if plan.when not in STOPPED or not self._outcome.reached:
            await self._end(life)
        if not plan.slow:
            await self._tools_rest()
        await self._look(raced=plan.when is When.DURING)
        if self._outcome.reached:
            await self._change_the_world(held)
            if plan.when in STOPPED:
                await self._go_on(life)
            else:
                await self._finish()
        rows = await self._read()
        self._judge(rows)
        await self._ask_a_person(rows)

    async def _until_struck(self, life: Life) -> bool:
        """Wait until the trap has sprung, or all is done."""
        assert life.traffic is not None  # noqa: S101
        struck = asyncio.create_task(life.traffic.struck.wait())
        quiet = asyncio.create_task(self._quiet(self._lane.quiet_s, life))
        try:
            await asyncio.wait((struck, quiet, life.died), return_when=asyncio.FIRST_COMPLETED)
            return struck.done()
        finally:
            struck.cancel()
            quiet.cancel()
            await asyncio.gather(struck, quiet, return_exceptions=True)

    async def _change_the_world(self, held: asyncio.Event) -> None:
        """What happens between the kill and the recovery, and the recovery's own accident."""
        plan, lane = self._plan, self._lane
        await self._pass(LONG_S if plan.long else SOON_S, of_effects=not plan.slow)
        if plan.promoted:
            self._epoch += 1
            await lane.promote(self._epoch)
        if plan.wiped:
            await lane.wipe()
        if plan.slow:
            second = await self._begin(self._repeated())
            sends = len(lane.world.sends)
            await self._until(lambda: self._has_looked(sends), QUIET_S)
            held.set()
            await self._tools_rest()
            await self._end(second)
            await self._look(raced=True)
            await self._pass(LONG_S if plan.long else SOON_S)
        if plan.second:
            second = await self._begin(self._repeated(), nth=plan.second)
            await self._until_struck(second)
            await self._end(second)
            await self._tools_rest()
            await self._look(raced=True)
            await self._pass(LONG_S if plan.long else SOON_S)

    async def _go_on(self, life: Life) -> None:
        """Recover beside the stopped worker, then let it go on, and see that it comes to nothing."""
        assert life.traffic is not None  # noqa: S101
        recovery = await self._recovered()
        before = len(life.traffic.sent)
        life.traffic.released.set()
        await life.signal(signal.SIGCONT)
        await self._still(life.traffic)
        acted = [str(point) for point in life.traffic.sent[before:] if point.name.endswith("/send")]
        if acted:
            self._fail(f"a worker that was stopped for {SOON_S:g} s and more went on to act: {acted}")
        await self._end(life)
        if recovery is not None:
            await self._end(recovery)
        if not await self._quiet(0.1):
            # What the worker had started when it went on, or had claimed: its claims have to run out.
            await self._pass(LONG_S)
            await self._finish()

    async def _finish(self) -> None:
        recovery = await self._recovered()
        if recovery is not None:
            await self._end(recovery)

    async def _recovered(self) -> Life | None:
        """Let workers live until nothing is left to do; the last of them, None when that never came."""
        for number in range(_LIVES):
            life = await self._begin(self._repeated())
            if await self._quiet(self._lane.quiet_s, life):
                return life
            await self._end(life)
            self._outcome.late = self._outcome.late or number == 0
            await self._pass(LONG_S)
        self._fail(f"tasks never came to an end: {await self._lane.sql(_OPEN)}")
        return None

    # -- lives

    async def _begin(
        self,
        start: Iterable[tuple[str, Any]],
        *,
        point: Point | None = None,
        when: When = When.BEFORE,
        nth: int = 0,
        first: bool = False,
    ) -> Life:
        traffic: Traffic | None = None
        if point is not None or nth:

            async def strike() -> None:
                await life.signal(signal.SIGSTOP if when in STOPPED else signal.SIGKILL)

            traffic = Traffic(strike=strike, point=point, when=when, nth=nth)
        life = await self._lane.bear(self._plan, epoch=self._epoch, start=start, traffic=traffic, first=first)
        return life

    async def _end(self, life: Life) -> None:
        struck = life.traffic is not None and life.traffic.struck.is_set()
        if life.died.done() and not struck:
            self._fail(f"a worker ended by itself with exit code {life.died.result()}")
        await life.kill()
        self._acknowledged |= life.acknowledged
        if life.traffic is not None:
            life.traffic.over = True
            await self._lane.cut()

    def _repeated(self) -> list[tuple[str, Any]]:
        if not self._plan.repeats:
            return []
        return [(id_, payload) for id_, payload in self._tasks.items() if id_ not in self._acknowledged]

    async def _still(self, traffic: Traffic) -> None:
        """Wait until a worker sends nothing more than it does when there is nothing to do."""
        for _ in range(20):
            count = sum(point.name not in _IDLE for point in traffic.sent)
            await asyncio.sleep(0.1)
            if sum(point.name not in _IDLE for point in traffic.sent) == count:
                return

    async def _pass(self, seconds: float, *, of_effects: bool = True) -> None:
        await self._lane.pass_time(seconds, of_effects=of_effects)
        if seconds > HONOURS_S["forgetful"]:
            self._lane.world.forget(self._name)
            self._forgot = True

    # -- the ledger

    async def _quiet(self, within_s: float, life: Life | None = None) -> bool:
        """Whether all tasks come to an end in time; short waits of theirs are played, not waited for."""
        for _ in turns(within_s):
            wanted = self._acknowledged | (life.starts if life is not None else set())
            [(open_, total, waiting)] = await self._lane.sql(_COUNTS)
            if not open_ and total >= len(wanted):
                return True
            if life is not None and life.died.done():
                return False
            if waiting and not self._lane.world.busy[self._name]:
                await self._lane.sql(_HURRY)
            await asyncio.sleep(TURN_S)
        return False

    async def _until(self, holds: Callable[[], Any], within_s: float) -> None:
        for _ in turns(within_s):
            if await holds():
                return
            await asyncio.sleep(TURN_S)

    async def _has_looked(self, sends: int) -> bool:
        """Whether the recovery has come to the effect whose tool is slow: it finds that it is too soon, or acts."""
        looked = await self._lane.sql("select from relight.tasks where error like 'TooSoon%'")
        return bool(looked) or any(self._is_mine(action) for action, _ in self._lane.world.sends[sends:])

    async def _tools_rest(self) -> None:
        async with asyncio.timeout(10):
            while self._lane.world.busy[self._name]:  # noqa: ASYNC110 - rare, and soon over
                await asyncio.sleep(0.01)

    def _is_mine(self, action: str) -> bool:
        return run_of(action) == self._name

    async def _read(self) -> dict[str, Row]:
        return await asyncio.to_thread(self._read_now)

    def _read_now(self) -> dict[str, Row]:
        lane = self._lane
        objects = lane.world.objects

        def value(inline: Any, key: str | None) -> Any:
            return inline if key is None else json.loads(objects[key])

        rows: dict[str, Row] = {}
        for id_, status, error, queued, result, object_ in lane._sql(
            "select id, status, error, queued_in is not null, result, result_object from relight.tasks"
        ):
            rows[id_] = Row(
                status=status, error=error or "", queued=queued, result=value(result, object_),
                steps={}, effects={}, memories={},
            )  # fmt: skip
        for id_, key, done, result, object_ in lane._sql(
            "select task_id, key, finished_at is not null, result, result_object from relight.steps"
        ):
            rows[id_].steps[key] = (done, value(result, object_))  # type: ignore[index]
        for id_, key, request, status, response in lane._sql(
            "select task_id, key, request, status, response from relight.effects"
        ):
            rows[id_].effects[request["action"]] = (key, status, response)  # type: ignore[index]
        for id_, name, payload in lane._sql("select task_id, id, payload from relight.journal"):
            rows[id_].memories.setdefault(name.rpartition("/")[2], []).append(payload["nonce"])  # type: ignore[attr-defined]
        return rows

    # -- the judge

    async def _look(self, *, raced: bool) -> None:
        """Note what is left, and see that nothing happened of which the ledger does not know."""
        await self._lane.landed()
        rows = await self._read()
        for id_ in self._acknowledged - rows.keys():
            self._fail(f"task {id_} was acknowledged, and the ledger does not have it")
        known = {action for row in rows.values() for action in row.effects}
        for action, _ in self._lane.world.sends:
            if self._is_mine(action) and action not in known:
                self._fail(f"{action} was sent, and the ledger has no intent")
        self._seen.append(rows)
        self._raced = raced

    def _judge(self, rows: Mapping[str, Row]) -> None:
        """What must be true when nothing is left to do."""
        for id_ in self._acknowledged - rows.keys():
            self._fail(f"task {id_} was acknowledged, and is lost")
        if self._plan.repeats or not self._outcome.reached:
            for id_ in self._tasks.keys() - rows.keys():
                self._fail(f"task {id_} was started, and is not there")
        for id_ in rows.keys() - self._tasks.keys():
            self._fail(f"nobody started task {id_}")
        effects = {action: found for row in rows.values() for action, found in row.effects.items()}
        for id_, row in rows.items():
            shape = self._tasks[id_]["shape"]
            for problem in (
                *self._steps_of(id_, row),
                *self._actions_of(id_, row, effects),
                *self._end_of(id_, row, effects),
            ):
                self._fail(f"{id_} ({shape}): {problem}")

    def _actions(self, id_: str) -> list[tuple[str, str]]:
        """The actions of a task, as (tool, action)."""
        shape, invoice = self._tasks[id_]["shape"], self._tasks[id_]["invoice"]
        if shape == "shared":
            return [("asked", invoice)]
        return [(tool, action_of(id_, name)) for tool, name in expected_of(shape).actions]

    def _steps_of(self, id_: str, row: Row) -> Iterable[str]:
        expected = expected_of(self._tasks[id_]["shape"])
        for key, (done, result) in row.steps.items():
            if key not in expected.steps:
                yield f"step {key} is not one of its own"
            before = [seen[id_].steps[key] for seen in self._seen if id_ in seen and key in seen[id_].steps]
            if any(was_done and (not done or was != result) for was_done, was in before):
                yield f"the result of step {key} changed"
            count = len(row.memories.get(key, []))
            wanted = int(done and key in expected.remembers)
            if count != wanted:
                yield f"step {key} is{'' if done else ' not'} done, and the journal has {count} of its entries"
            elif wanted and row.memories[key] != [result["nonce"]]:
                yield f"the journal's entry of step {key} is of another life"
        for key in row.memories.keys() - row.steps.keys():
            yield f"the journal has an entry of step {key}, which the ledger does not have"
        if row.status == "done" and {key for key, (done, _) in row.steps.items() if done} != set(expected.steps):
            yield f"it is done, and its steps are {sorted(row.steps)}"

    def _actions_of(self, id_: str, row: Row, effects: Mapping[str, tuple[str, str, Any]]) -> Iterable[str]:
        expected = expected_of(self._tasks[id_]["shape"])
        for tool, action in self._actions(id_):
            acts = self._lane.world.done(action)
            keys = {key for sent, key in self._lane.world.sends if sent == action}
            key, status, response = effects.get(action, ("", "none", None))
            if len(acts) > 1:
                yield f"{action} happened {len(acts)} times"
            if len(keys) > 1 or (keys and keys != {key}):
                yield f"{action} was sent under {len(keys)} keys, and the ledger has {key!r}"
            yield from _status_and_acts(action, status, response, acts)
            if row.status == "done" and status != "done" and not expected.refused:
                yield f"it is done, and {action} is {status}"
            open_before = [
                seen[id_].effects[action][1] for seen in self._seen if id_ in seen and action in seen[id_].effects
            ]
            was_open = "intent" in open_before or "unknown" in open_before
            cannot_say = tool == "blind" or (tool == "forgetful" and self._forgot)
            if status == "unknown" and not cannot_say:
                yield f"{action} is unknown, and {tool} can say what became of it"
            ambiguous = action.rpartition("/")[2] in expected.ambiguous or action in self._lane.world.late
            if status == "unknown" and not (was_open or ambiguous):
                yield f"{action} is unknown, and nothing was left open when the worker was killed"
            certain = not self._raced and self._plan.when not in STOPPED
            if cannot_say and open_before == ["intent"] and certain and status != "unknown":
                yield f"nobody can know what became of {action}, and it is {status}"

    def _end_of(self, id_: str, row: Row, effects: Mapping[str, tuple[str, str, Any]]) -> Iterable[str]:
        expected = expected_of(self._tasks[id_]["shape"])
        statuses = {effects[action][1] for _, action in self._actions(id_) if action in effects}
        if row.status == "parked":
            # Who was stopped may know more than who asked in the meantime.
            told = self._plan.when in STOPPED and row.error.startswith("UnknownEffectError")
            waits = "unknown" in statuses or (told and statuses <= {"failed", "done"})
            if not waits and not (expected.refused and row.error.startswith("RefusedError")):
                yield f"it is parked, and nobody knows why: {row.error!r}"
            return
        if row.status != "done":
            yield f"it is {row.status}"
            return
        if expected.refused:
            yield "it is done, and its tool refused"
            return
        result = row.result
        stored = {key: value for key, (_, value) in row.steps.items()}
        if any(stored.get(key) != value for key, value in result["steps"].items()):
            yield "its result holds what a step did not store"
        for name, response in result.get("effects", {}).items():
            action = name if name == self._tasks[id_]["invoice"] else action_of(id_, name)
            if effects[action][2] != response:
                yield f"its result holds what {action} did not answer"
        shape = self._tasks[id_]["shape"]
        plain = canonical(_plain(result, self._tasks[id_]["invoice"]))
        self.results[shape] = plain
        if self._baseline is not None and self._baseline.results[shape] != plain:
            yield f"its result is not that of a run that nobody killed: {plain[:200]}"

    async def _ask_a_person(self, rows: Mapping[str, Row]) -> None:
        """Resolve what nobody can know, as a person would who found out, and see the tasks done."""
        lane = self._lane
        ledger = lane.ledger(self._epoch, HttpResults(lane.world.port))
        for _ in range(_ASKED):
            waiting = {
                id_: row
                for id_, row in rows.items()
                if row.status == "parked" and not expected_of(self._tasks[id_]["shape"]).refused
            }
            if not waiting or self._outcome.violations:
                return
            await self._pass(SOON_S)
            for id_, row in waiting.items():
                unknown = [(action, key) for action, (key, status, _) in row.effects.items() if status == "unknown"]
                self._outcome.unknown += len(unknown)
                for action, key in unknown:
                    try:
                        await asyncio.to_thread(self._resolve, ledger, key, lane.world.done(action))
                    except RelightError as exc:
                        self._fail(f"{id_}: {action} cannot be resolved: {exc}")
                if not unknown:
                    await asyncio.to_thread(ledger.resume, id_)
            self._seen.append(rows)
            await self._finish()
            rows = await self._read()
            self._judge(rows)
        for id_ in waiting:
            if rows[id_].status != "done":
                self._fail(f"{id_}: a person said what became of its effects, and it is {rows[id_].status}")

    @staticmethod
    def _resolve(ledger: Ledger, key: str, acts: Sequence[Act]) -> None:
        effects = Effects(ledger)
        effect = effects.named(key)
        response = {"receipt": acts[0].receipt} if acts else None
        effects.resolve(effect, happened=bool(acts), response=response, who="the sweep")

    def _fail(self, problem: str) -> None:
        self._outcome.violations.append(problem)


def _status_and_acts(action: str, status: str, response: Any, acts: Sequence[Act]) -> Iterable[str]:
    match status:
        case "done":
            if not acts:
                yield f"{action} is done, and never happened"
            elif response != {"receipt": acts[0].receipt}:
                yield f"{action} is done, and its response is {response}"
        case "failed" | "none":
            if acts:
                yield f"{action} is {status}, and it happened"
        case "intent":
            yield f"{action} is still only intended"


def _plain(value: Any, invoice: str) -> Any:
    """A result without what differs between runs."""
    if isinstance(value, dict):
        return {
            key.replace(invoice, "invoice"): "..." if key in ("nonce", "receipt") else _plain(item, invoice)
            for key, item in value.items()
        }
    return value


COLUMNS = ("points", "recovered", "unknown", "late", "missed", "violations")


def count_by(outcomes: Iterable[Outcome], key: Callable[[Plan], str]) -> dict[str, Counter[str]]:
    """By what `key` says: kill points that were reached, those recovered without a violation, effects that were left to
    a person, runs in which a task came back only when hours had passed, points that did not come up, and runs with
    violations."""
    table: dict[str, Counter[str]] = {}
    for outcome in outcomes:
        row = table.setdefault(key(outcome.plan), Counter())
        row["violations"] += bool(outcome.violations)
        if outcome.reached:
            row["points"] += 1
            row["recovered"] += not outcome.violations
            row["unknown"] += outcome.unknown
            row["late"] += outcome.late
        else:
            row["missed"] += 1
    return dict(sorted(table.items()))


def table_of(outcomes: Sequence[Outcome]) -> str:
    """The same for people: by channel and moment, by scenario, and in all."""
    lines = [f"{'':<24}" + "".join(f"{name:>12}" for name in COLUMNS)]
    for key in (lambda plan: f"{plan.point.channel} {plan.when}", lambda plan: plan.scenario, lambda _: "all"):
        for name, row in count_by(outcomes, key).items():
            lines.append(f"{name:<24}" + "".join(f"{row[column]:>12}" for column in COLUMNS))
        lines.append("")
    return "\n".join(lines)


def plans_for(baselines: Mapping[str, Baseline], *, seed: int) -> list[Plan]:
    """Every statement of every scenario with every moment it can be stopped at, each with a seeded recovery, in a
    seeded order; requests to tools, which are few and matter most, are among the first."""
    plans = [
        Plan.seeded(name, point, when, seed=seed)
        for name, baseline in baselines.items()
        for point in baseline.statements
        for when in When
        if may_be(name, point, when)
    ]
    chance = random.Random(seed)  # noqa: S311
    return sorted(plans, key=lambda plan: chance.random() * (0.02 if plan.point.channel is Channel.TOOL else 1))


async def record_all(lanes: Sequence[Lane]) -> dict[str, Baseline]:
    """Record every scenario."""
    left = list(SCENARIOS)
    found: dict[str, Baseline] = {}

    async def record(lane: Lane) -> None:
        while left:
            name = left.pop(0)
            found[name] = await lane.record(name)

    async with asyncio.TaskGroup() as group:
        for lane in lanes:
            group.create_task(record(lane))
    return {name: found[name] for name in SCENARIOS}


async def sweep(
    lanes: Sequence[Lane],
    plans: Iterable[Plan],
    baselines: Mapping[str, Baseline],
    *,
    points: int,
    say: Callable[[Outcome, int], None] = lambda *_: None,
) -> list[Outcome]:
    """Do runs until `points` kill points were reached, or there are no more plans."""
    left = iter(plans)
    outcomes: list[Outcome] = []
    reached = 0

    async def work(lane: Lane) -> None:
        nonlocal reached
        while reached < points and (plan := next(left, None)) is not None:
            outcome = await lane.run(plan, baselines[plan.scenario])
            outcomes.append(outcome)
            reached += outcome.reached
            say(outcome, reached)

    async with asyncio.TaskGroup() as group:
        for lane in lanes:
            group.create_task(work(lane))
    return outcomes
