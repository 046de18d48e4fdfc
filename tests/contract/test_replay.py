"""Replay on a real ledger and a real queue."""

from __future__ import annotations

import asyncio
import json
import math
import multiprocessing
import secrets
import signal
import threading
import time
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from memory_helpers import make_state

from relight.adapters import postgres
from relight.clock import SystemClock
from relight.errors import AgainLaterError, NotFoundError, QueueLostError, UnavailableError
from relight.queue.queues import open_queue
from relight.recovery import states
from relight.recovery.epoch import Lease
from relight.tasks import review
from relight.tasks.database import Database
from relight.tasks.epochs import EpochLog
from relight.tasks.ledger import Kind, Ledger, Status
from relight.tasks.outbox import Relay
from relight.tasks.replay import SCAN_S, SQL, Found, Progress, Replay, Scope, _Run, plan_replay, replay
from relight.tasks.timetravel import TimeTravel

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Iterator, Sequence

    from servers import StatePair

    from relight.queue.port import TaskQueue, Ticket
    from relight_drill.nats import NatsServer
    from relight_drill.redis import RedisServer

pytestmark = pytest.mark.servers

POLICY = TimeTravel()
# As a recovery leaves it: what is in the ledger was written under epoch 1.
EPOCH = 2


class Book:
    """A ledger of its own after a recovery, and the address of a queue of its own."""

    def __init__(self, dsn: str, url: str) -> None:
        self.dsn = dsn
        self.url = url
        self.environment = f"replay-{secrets.token_hex(4)}"
        self.database = Database(dsn)
        self.ledger = Ledger(self.database, epoch=lambda: EPOCH)

    def restored(self, id_: str, *, epoch: int = 1, late_s: float = 0.0, **columns: Any) -> None:
        """A row as an earlier life of the state left it; written beside the trigger, which refuses older epochs."""
        row = {
            "id": id_,
            "payload": "{}",
            "status": "pending",
            "epoch": epoch,
            "due_at": datetime.now(UTC) - timedelta(seconds=late_s),
            **columns,
        }
        if row["status"] == "running":
            row = {"claimed_by": "w", "claimed_epoch": epoch, "lease_until": datetime.now(UTC), **row}
        with self.database.transaction() as cur:
            cur.execute("set local session_replication_role = replica")
            cur.execute(
                f"insert into relight.tasks ({', '.join(row)}) values ({', '.join(['%s'] * len(row))})",
                [*row.values()],
            )

    def many(self, count: int, **columns: Any) -> list[str]:
        """So many pending rows, in their order."""
        row = {"payload": "'{}'", "status": "'pending'", "epoch": "1", **columns}
        with self.database.transaction() as cur:
            cur.execute("set local session_replication_role = replica")
            cur.execute(
                f"insert into relight.tasks (id, due_at, {', '.join(row)})"
                f" select 't' || to_char(i, 'FM00000000'), now() - interval '1 h' + i * interval '1 ms',"
                f" {', '.join(map(str, row.values()))} from generate_series(1, {count}) as i"
            )
        return [f"t{number:08}" for number in range(1, count + 1)]

    def queue(self) -> Any:
        return open_queue(self.url, environment=self.environment)

    def rows(self) -> list[tuple[Any, ...]]:
        return self.database.execute("select * from relight.tasks order by id").rows

    def run(self, **options: Any) -> Replay:
        """One replay over a connection of its own."""

        async def go() -> Replay:
            async with self.queue() as queue:
                return await self.replay(queue, **options)

        return asyncio.run(go())

    async def replay(self, queue: TaskQueue | Through, **options: Any) -> Replay:
        arguments = {"policy": POLICY, "clock": SystemClock(), "per_second": None, **options}
        return await replay(ledger=self.ledger, queue=queue, **arguments)

    def queued(self) -> list[str]:
        """What the queue hands out, in its order; it stays there unacknowledged."""

        async def go() -> list[str]:
            found: list[str] = []
            async with self.queue() as queue:
                while len(found) < await queue.depth():
                    found += [item.task_id for item in await queue.fetch(1000, timeout_s=2)]
            return found

        return asyncio.run(go())

    def depth(self) -> int:
        async def go() -> int:
            async with self.queue() as queue:
                return int(await queue.depth())

        return asyncio.run(go())


@pytest.fixture
def book(state_pair: StatePair, request: pytest.FixtureRequest) -> Iterator[Book]:
    """Over NATS, or over what a test asks for."""
    server: NatsServer | RedisServer = request.getfixturevalue(getattr(request, "param", "nats_server"))
    dsns = make_state(state_pair, f"replay_{secrets.token_hex(4)}")
    book = Book(dsns.primary, server.url())
    EpochLog(book.database).take(EPOCH, region="us-west-2", run_id="r")
    yield book
    book.database.close()


over_both = pytest.mark.parametrize("book", ["nats_server", "redis_server"], indirect=True)


class Through:
    """A queue, with something done before each publication, or that says that it has an older message."""

    def __init__(self, queue: TaskQueue, before: Callable[[int], Coroutine[Any, Any, None]] | None = None) -> None:
        self._queue = queue
        self._before = before
        self._times = 0
        self.oldest_s: float | None = None

    def __getattr__(self, name: str) -> Any:
        return getattr(self._queue, name)

    async def publish(self, tickets: Sequence[Ticket]) -> int:
        self._times += 1
        if self._before is not None:
            await self._before(self._times)
        return await self._queue.publish(tickets)

    async def age_s(self) -> float:
        return await self._queue.age_s() if self.oldest_s is None else self.oldest_s


@over_both
def test_what_the_queue_lacks_is_published_in_the_order_in_which_it_was_due(book: Book) -> None:
    """What another queue had, what no queue had, and what nobody works on any more; the rest is left alone."""
    incarnation = asyncio.run(_incarnation(book))
    book.restored("c", late_s=25, queued_in="the lost region's", queued_at=datetime.now(UTC))
    book.restored("b", late_s=30)
    book.restored("a", late_s=20, status="running", attempts=3, lease_until=datetime.now(UTC) + timedelta(hours=1))
    book.restored("first", late_s=40, status="running", epoch=EPOCH, lease_until=datetime.now(UTC))
    book.restored("alive", late_s=40, status="running", epoch=EPOCH, lease_until=datetime.now(UTC) + timedelta(hours=1))
    book.restored("here", late_s=40, epoch=EPOCH, queued_in=incarnation, queued_at=datetime.now(UTC))
    book.restored("later", late_s=-3600)
    for status in ("done", "parked", "held", "cancelled"):
        book.restored(status, status=status, late_s=50)
    before = {row[0]: row for row in book.rows()}
    done = book.run()
    assert done.published == {Found.RUNNING: 2, Found.UNCONFIRMED: 1, Found.PENDING: 1}
    assert book.queued() == ["first", "b", "c", "a"]
    after = {row[0]: row for row in book.rows()}
    changed = {id_ for id_ in after if after[id_] != before[id_]}
    assert changed == {"first", "b", "c", "a"}
    for id_ in changed:
        task = book.ledger.task(id_)
        assert (task.status, task.epoch) == (Status.PENDING, EPOCH)
    claimed = book.ledger.claim("a", worker="w2", lease_s=30)
    assert claimed is not None
    assert claimed.attempts == 4


async def _incarnation(book: Book) -> str:
    async with book.queue() as queue:
        return str(await queue.ensure())


@over_both
def test_a_second_replay_changes_nothing(book: Book) -> None:
    """It finds nothing, publishes nothing, and leaves every row as it was."""
    ids = book.many(2500)
    assert book.run().total == 2500
    before = book.rows()
    second = book.run()
    assert (second.total, second.plan.total, second.held) == (0, 0, {})
    assert book.rows() == before
    assert book.queued() == ids


@over_both
def test_a_plan_changes_nothing(book: Book) -> None:
    """Neither in the ledger nor in the queue, which need not even be there, and it says what the replay then does."""
    book.many(120)
    book.restored("old", kind="send", late_s=7200)
    book.restored("credential", kind="credential", late_s=-60)
    book.restored("timer", kind="timer", late_s=-60)
    before = book.rows()

    async def look() -> Any:
        async with book.queue() as queue:
            plan = await plan_replay(ledger=book.ledger, queue=queue, policy=POLICY)
            with pytest.raises(QueueLostError):
                await queue.incarnation()
        return plan

    plan = asyncio.run(look())
    assert book.rows() == before
    assert (plan.total, plan.incarnation) == (120, "")
    assert {(group.kind, group.count) for group in plan.hold} == {(Kind.SEND, 1), (Kind.CREDENTIAL, 1)}
    assert {(group.state, group.count) for group in plan.leave} == {("later", 1)}
    done = book.run()
    assert done.total == plan.total
    assert done.held == {Kind.SEND: 1, Kind.CREDENTIAL: 1}
    assert done.to_json()["for_review"] == 2


def test_open_effects_are_in_the_plan(book: Book) -> None:
    """What may have happened waits for a reconciler or a person, and the plan says how much of it there is."""
    book.restored("t", status="running")
    with book.database.transaction() as cur:
        cur.execute("set local session_replication_role = replica")
        for key, status in (("a", "intent"), ("b", "unknown"), ("c", "unknown"), ("d", "done"), ("e", "failed")):
            cur.execute(
                "insert into relight.effects (key, task_id, tool, request, status, epoch)"
                " values (%s, 't', 'mail', '{}', %s, 1)",
                [key, status],
            )
    done = book.run()
    assert [(item.tool, item.status, item.count) for item in done.plan.effects] == [
        ("mail", "intent", 1),
        ("mail", "unknown", 2),
    ]
    assert done.to_json()["open_effects"] == 3


@over_both
def test_a_replay_that_failed_goes_on_where_it_was(book: Book) -> None:
    """fails when the queue goes away in the middle: what was published stays so, and the rest follows."""
    ids = book.many(5000)

    async def fail(times: int) -> None:
        if times == 3:
            raise UnavailableError("the queue is away")

    async def go() -> None:
        async with book.queue() as queue:
            await book.replay(Through(queue, fail))

    with pytest.raises(UnavailableError, match="is away"):
        asyncio.run(go())
    second = book.run()
    assert (second.plan.total, second.total) == (3000, 3000)
    assert book.queued() == ids


def _replay_slowly(dsn: str, url: str, environment: str) -> None:
    book = Book(dsn, url)
    book.environment = environment
    book.run(per_second=2000.0)


def test_a_replay_that_was_killed_goes_on_where_it_was(book: Book) -> None:
    """fails when its process is killed in the middle: a second one publishes what is left, and nothing comes twice."""
    ids = book.many(8000)
    asyncio.run(_incarnation(book))
    process = multiprocessing.get_context("spawn").Process(
        target=_replay_slowly, args=[book.dsn, book.url, book.environment]
    )
    process.start()
    try:
        deadline = time.monotonic() + 60
        while not 1000 < book.depth() < 8000:
            assert time.monotonic() < deadline, "the replay publishes nothing"
        assert process.pid is not None
    finally:
        process.kill()
        process.join()
    assert process.exitcode == -signal.SIGKILL
    published = book.database.execute("select count(*) from relight.tasks where queued_in is not null").rows[0][0]
    assert 0 < published < 8000
    # Its connection's transaction ends when the server notices, and its rows are free then.
    assert book.run().total == 8000 - published
    assert book.queued() == ids


def test_a_queue_that_is_lost_in_the_middle_is_filled_again(book: Book) -> None:
    """fails when the stream is deleted while it is filled: all of it is published into the new one."""
    ids = book.many(4000)

    async def go() -> Replay:
        async with book.queue() as queue:

            async def lose(times: int) -> None:
                if times == 3:
                    await queue._api(f"STREAM.DELETE.{queue._stream}")

            return await book.replay(Through(queue, lose))

    assert asyncio.run(go()).total == 4000
    assert book.queued() == ids


@over_both
def test_two_replays_at_once_publish_each_task_once(book: Book) -> None:
    """No task is handed out by two, and both end only when all is published."""
    book.many(6000)

    async def go() -> tuple[Replay, Replay]:
        async with book.queue() as first, book.queue() as second:
            return await asyncio.gather(book.replay(first), book.replay(second))

    one, two = asyncio.run(go())
    assert one.total + two.total == 6000
    assert book.depth() == 6000


def test_a_task_that_somebody_has_locked_is_waited_for(book: Book) -> None:
    """A replay is over when everything is published, and not when it could not get at the rest."""
    book.many(10)
    other = postgres.connect(book.dsn)
    with other.cursor() as cur:
        cur.execute("select 1 from relight.tasks where id = 't00000004' for update")
    seen = threading.Event()

    def progress(now: Progress) -> None:
        if now.published == 9:
            threading.Timer(0.3, other.rollback).start()
            seen.set()

    assert book.run(progress=progress).total == 10
    assert seen.is_set()
    other.close()


def test_time_that_is_over_is_no_failure(book: Book) -> None:
    """At its time the replay stops and says how far it came; called again, it goes on."""
    ids = book.many(3500)

    class Ticking(SystemClock):
        """A second passes at each look."""

        def __init__(self) -> None:
            self.at = 0.0

        def monotonic(self) -> float:
            self.at += 1.0
            return self.at

    with pytest.raises(AgainLaterError, match=r"the time is over, and \d000 of 3500 tasks were published"):
        book.run(clock=Ticking(), until=5.0)
    left = book.run()
    assert 0 < left.plan.total < 3500
    assert book.queued() == ids


def test_time_that_is_over_within_a_statement_is_no_failure(book: Book) -> None:
    """fails when the backlog takes longer to read than there is time: the statement is ended then, and the next call
    begins again."""
    book.many(10)
    other = postgres.connect(book.dsn)
    with other.cursor() as cur:
        cur.execute("lock table relight.tasks")
    clock = SystemClock()
    with pytest.raises(AgainLaterError, match="within a statement"):
        book.run(clock=clock, until=clock.monotonic() + 1.5)
    other.close()
    assert book.run().total == 10


def test_a_cold_backlog_has_time_to_be_read(book: Book, monkeypatch: pytest.MonkeyPatch) -> None:
    """fails when what reads all of the backlog is given up like what reads a row: the bound is a scan's."""
    given: dict[str, float] = {}
    execute = Database.execute

    def noted(database: Database, sql: str, *args: Any, **named: Any) -> Any:
        given[next(name for name, text in SQL.items() if text == sql)] = named.get("within_s", 0.0)
        return execute(database, sql, *args, **named)

    monkeypatch.setattr(Database, "execute", noted)
    book.restored("mail", kind="send", late_s=7200)
    book.run()
    assert given["plan"] == given["hold"] == SCAN_S


def test_only_a_whole_replay_is_recorded(book: Book) -> None:
    """The recovery's state records it once everything is published, and not when its time was over before."""
    book.many(10)
    epochs = EpochLog(book.database)
    lease = Lease(epoch=EPOCH, region="us-west-2", run_id="r", expires_at=datetime.now(UTC))

    async def state(until: float | None) -> dict[str, Any]:
        async with book.queue() as queue:
            return await states.replay(
                ledger=book.ledger,
                queue=queue,
                epochs=epochs,
                lease=lease,
                policy=POLICY,
                clock=SystemClock(),
                until=until,
            )

    with pytest.raises(AgainLaterError):
        asyncio.run(state(0.0))
    assert _newest(epochs).replayed_at is None
    assert asyncio.run(state(None))["published"] == 10
    assert _newest(epochs).replayed_at is not None


def _newest(epochs: EpochLog) -> Any:
    newest = epochs.newest()
    assert newest is not None
    return newest


def test_what_is_held_is_not_published(book: Book) -> None:
    """It is listed with its reason, and goes on when a person lets it; a later replay does not hold it again."""
    book.restored("mail", kind="send", late_s=7200)
    book.restored("fresh mail", kind="send", late_s=60)
    book.restored("half sent", kind="send", late_s=7200, status="running")
    book.restored("token", kind="credential", late_s=-3600)
    done = book.run()
    assert done.held == {Kind.SEND: 2, Kind.CREDENTIAL: 1}
    assert book.queued() == ["fresh mail"]
    listed = {task.id: task.error for task in book.ledger.tasks([Status.HELD])}
    assert listed.keys() == {"mail", "half sent", "token"}
    assert listed["token"] == POLICY.reason(Kind.CREDENTIAL)
    assert "more than 900 s ago" in (listed["mail"] or "")
    assert book.ledger.claim("mail", worker="w", lease_s=30) is None
    book.ledger.resume("mail")
    assert review.resume_held(book.ledger, [Kind.CREDENTIAL]) == 1
    again = book.run()
    assert (again.total, again.held) == (2, {})
    assert sorted(task.id for task in book.ledger.tasks([Status.HELD])) == ["half sent"]
    assert review.count_held(book.database) == {Kind.SEND: 1}


def test_what_is_no_restored_state_is_not_held(book: Book) -> None:
    """Under the present epoch nothing travelled in time: a queue that was down for hours holds nothing up."""
    book.restored("mail", kind="send", late_s=7200, epoch=EPOCH)
    book.ledger.start_task({}, id_="token", kind=Kind.CREDENTIAL)
    done = book.run()
    assert (done.total, done.held) == (2, {})


def test_a_restored_state_does_not_believe_its_queue(book: Book) -> None:
    """A state that was restored to an earlier moment, under a new epoch, publishes again what the same queue had
    confirmed: it may have been done and acknowledged since."""
    incarnation = asyncio.run(_incarnation(book))
    book.restored("t", late_s=60, queued_in=incarnation, queued_at=datetime.now(UTC))
    assert book.run().published == {Found.PENDING: 1}
    assert book.queued() == ["t"]
    assert book.run().total == 0


@over_both
def test_what_was_removed_by_hand_is_published_again(book: Book) -> None:
    """fails when a queue loses messages while others come and go: what it confirmed well before the oldest that it has
    is published again, what it has just confirmed is not, and a queue that has one as old is believed."""
    incarnation = asyncio.run(_incarnation(book))
    ago = datetime.now(UTC) - timedelta(minutes=5)
    book.restored("gone", late_s=600, epoch=EPOCH, queued_in=incarnation, queued_at=ago)
    book.ledger.start_task({}, id_="there")

    async def relay() -> None:
        async with book.queue() as queue:
            assert await Relay(book.ledger).empty(queue, incarnation=incarnation) == 1

    asyncio.run(relay())
    assert book.depth() == 1
    assert {(group.state, group.count) for group in asyncio.run(_plan(book)).publish} == {("pending", 1)}
    assert book.run().published == {Found.PENDING: 1}
    assert book.queued() == ["there", "gone"]
    book.restored("believed", late_s=600, epoch=EPOCH, queued_in=incarnation, queued_at=ago)

    async def replay_into_an_older_one() -> Replay:
        async with book.queue() as queue:
            older = Through(queue)
            older.oldest_s = 300.0
            return await book.replay(older)

    assert asyncio.run(replay_into_an_older_one()).total == 0


async def _plan(book: Book, **options: Any) -> Any:
    async with book.queue() as queue:
        return await plan_replay(ledger=book.ledger, queue=queue, policy=POLICY, **options)


@over_both
def test_who_knows_better_has_published_again_what_the_queue_is_said_to_have(book: Book) -> None:
    """Never unasked; asked for, each time anew, and no queue takes the second message for the first."""
    for id_ in ("a", "b"):
        book.ledger.start_task({}, id_=id_)
    book.restored("later", late_s=-3600)
    assert book.run().total == 2
    assert book.run().total == 0
    queued = Scope(statuses={Found.QUEUED})
    for times in (2, 3):
        plan = asyncio.run(_plan(book, scope=queued))
        assert {(group.state, group.count) for group in plan.publish} == {("queued", 2)}
        assert book.run(scope=queued).published == {Found.QUEUED: 2}
        assert book.depth() == 2 * times
    assert book.run().total == 0
    assert book.run(scope=Scope(statuses={Found.QUEUED, Found.UNCONFIRMED})).published == {Found.QUEUED: 2}


@over_both
def test_a_queue_that_is_silent_does_not_keep_callers_from_their_tasks(book: Book) -> None:
    """fails when a batch is locked for longer than a caller waits: while the queue says nothing to relays and replays,
    a task that is in their batch is started again, as after a call that ended in doubt."""
    ids = book.many(3, epoch=str(EPOCH))
    began = threading.Semaphore(0)

    async def never(_: int) -> None:
        began.release()
        await asyncio.Event().wait()

    async def go() -> None:
        async with book.queue() as queue:
            incarnation = await queue.ensure()
            silent = Through(queue, never)
            for working in (Relay(book.ledger).empty(silent, incarnation=incarnation), book.replay(silent)):
                task = asyncio.create_task(working)
                await asyncio.to_thread(began.acquire)
                again = await asyncio.gather(*(asyncio.to_thread(book.ledger.start_task, {}, id_=id_) for id_ in ids))
                assert {found.status for found in again} == {Status.PENDING}
                with pytest.raises(UnavailableError, match="the queue took longer than 3 s for 3 tasks"):
                    await task

    asyncio.run(go())
    assert book.run().total == 3


@over_both
def test_a_task_that_was_replayed_before_is_published_again(book: Book) -> None:
    """fails when a queue takes a task, which a person resumed after the first replay, for the message that it had."""

    async def acknowledge() -> None:
        async with book.queue() as queue:
            for delivery in await queue.fetch(10, timeout_s=2):
                await delivery.ack()

    book.ledger.start_task({}, id_="t")
    for _ in range(3):
        assert book.run().total == 1
        assert book.depth() == 1
        asyncio.run(acknowledge())
        task = book.ledger.claim("t", worker="w", lease_s=30)
        assert task is not None
        book.ledger.park(task, reason="for a person")
        book.ledger.resume("t")


def test_a_scope_leaves_the_rest(book: Book) -> None:
    """Only tasks made since the moment, and only in the statuses; what is held is held whatever the scope."""
    hour = timedelta(hours=1)
    book.restored("older", created_at=datetime.now(UTC) - 2 * hour)
    book.restored("newer", created_at=datetime.now(UTC) - hour / 2)
    book.restored("dead", status="running", created_at=datetime.now(UTC) - hour / 2)
    book.restored("mail", kind="send", late_s=7200, created_at=datetime.now(UTC) - 2 * hour)
    scope = Scope(since=datetime.now(UTC) - hour, statuses={Found.UNCONFIRMED})
    done = book.run(scope=scope)
    assert (done.published, done.held) == ({Found.UNCONFIRMED: 1}, {Kind.SEND: 1})
    assert {(group.state, group.count) for group in done.plan.leave} == {("older", 1), ("running", 1)}
    assert book.queued() == ["newer"]
    assert book.run(scope=Scope(statuses={Found.RUNNING})).published == {Found.RUNNING: 1}


KINDS = st.sampled_from([*Kind])
LATE = st.one_of(st.integers(-7200, 7200).map(float), st.sampled_from([-1e-6, 0.0, 1e-6]))


def is_too_late(kind: Kind, late: timedelta, policy: TimeTravel) -> bool:
    """What the statements are held to: 0 holds a kind always, infinity never, work is never held."""
    after_s = policy.limits.get(kind, math.inf)
    return after_s == 0 or (after_s < math.inf and late > timedelta(seconds=after_s))


@given(
    rows=st.lists(st.tuples(KINDS, LATE, st.booleans(), st.sampled_from([1, EPOCH])), max_size=20),
    limits=st.tuples(*[st.sampled_from([0.0, 0.5, 60.0, 3600.0, float("inf")])] * 3),
    at_limit=st.booleans(),
)
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_the_ledger_holds_what_the_policy_says(
    book: Book, rows: list[tuple[Kind, float, bool, int]], limits: tuple[float, float, float], at_limit: bool
) -> None:
    """The statements hold what the policy's own words say, to the microsecond at the limit itself."""
    policy = TimeTravel(timers_after_s=limits[0], sends_after_s=limits[1], credentials_after_s=limits[2])
    with book.database.transaction() as cur:
        cur.execute("truncate relight.tasks cascade")
    run = _Run(book.ledger, None, "x", math.inf, policy, Scope(), None)  # type: ignore[arg-type]
    expected = {}
    for number, (kind, late_s, running, epoch) in enumerate(rows):
        limit = policy.limits.get(kind, 0.0)
        base = run._now - timedelta(seconds=limit if at_limit and limit < 1e9 else 0.0)
        due_at = base - timedelta(seconds=late_s)
        book.restored(
            str(number), kind=kind.value, due_at=due_at, status="running" if running else "pending", epoch=epoch
        )
        late = epoch != EPOCH and is_too_late(kind, run._now - due_at, policy)
        expected[str(number)] = policy.reason(kind) if late else None
    planned = sum(group.count for group in run.plan().hold)
    held = run._hold()
    found = book.database.execute("select id, case when status = 'held' then error end from relight.tasks").rows
    assert dict(found) == expected
    assert sum(held.values()) == planned == sum(reason is not None for reason in expected.values())


def test_no_statement_reads_what_has_ended(book: Book) -> None:
    """A replay does not take longer for a ledger of millions: each statement goes by the partial indexes."""
    with book.database.transaction(within_s=120) as cur:
        cur.execute(
            "insert into relight.tasks (id, payload, status, result, epoch)"
            f" select 'done' || i, '{{}}', 'done', '1', {EPOCH} from generate_series(1, 30000) as i"
        )
        cur.execute(
            "insert into relight.effects (key, task_id, tool, request, status, epoch)"
            f" select 'e' || i, 'done1', 'mail', '{{}}', 'done', {EPOCH} from generate_series(1, 5000) as i"
        )
    book.many(2000)
    book.database.execute("analyze", within_s=60)
    run = _Run(book.ledger, None, "x", math.inf, POLICY, Scope(), None)  # type: ignore[arg-type]
    values = {**run._values, "after_due_at": datetime(1, 1, 1, tzinfo=UTC), "after_id": "", "limit": 1000}
    for name in ("plan", "for_review", "open_effects", "hold", "take"):
        with book.database.transaction() as cur:
            if name == "take":
                cur.execute(SQL["in_order"])
            cur.execute("explain (analyze, costs off, timing off, buffers off) " + SQL[name], values)
            lines = [row[0] for row in cur.fetchall()]
        assert not [line for line in lines if "Seq Scan on" in line], "\n".join([name, *lines])
        if name == "take":
            assert any("Index Scan using tasks_pending" in line for line in lines), "\n".join(lines)
            assert not any("external" in line for line in lines)


@pytest.mark.parametrize("published", [0, 15_000, 20_000])
def test_a_batch_reads_what_it_takes(book: Book, published: int) -> None:
    """A backlog that is all there is in the ledger is read once for the plan, and by the batches once together: none
    sorts what is left, or looks at what the ones before it published."""
    ids = book.many(20_000)
    after: tuple[datetime, str] = (datetime(1, 1, 1, tzinfo=UTC), "")
    if published:
        [after] = book.database.execute("select due_at, id from relight.tasks where id = %s", [ids[published - 1]]).rows
        book.database.execute(
            "update relight.tasks set queued_in = 'x', queued_at = clock_timestamp(), epoch = %s where id <= %s",
            [EPOCH, after[1]],
            within_s=60,
        )
    book.database.execute("analyze", within_s=60)
    run = _Run(book.ledger, None, "x", math.inf, POLICY, Scope(), None)  # type: ignore[arg-type]
    values = {**run._values, "after_due_at": after[0], "after_id": after[1], "limit": 1000}
    assert _read(book, "take", values) == min(1000, len(ids) - published)
    assert _read(book, "plan", values) == len(ids)


def _read(book: Book, name: str, values: dict[str, Any]) -> int:
    """How many rows of tasks the statement reads, those that it throws away included."""

    def rows(node: dict[str, Any]) -> int:
        below = sum(rows(child) for child in node.get("Plans", []))
        if node.get("Relation Name") != "tasks":
            return below
        return below + int(node["Actual Loops"] * (node["Actual Rows"] + node.get("Rows Removed by Filter", 0)))

    with book.database.transaction(within_s=60) as cur:
        if name == "take":
            cur.execute(SQL["in_order"])
        cur.execute("explain (analyze, format json) " + SQL[name], values)
        [(found,)] = cur.fetchall()
    return rows((json.loads(found) if isinstance(found, str) else found)[0]["Plan"])


def test_a_person_sees_a_whole_task(book: Book) -> None:
    """With its steps, their failures, and its effects; nothing of it is changed by looking."""
    book.ledger.start_task({"to": "Zoë"}, id_="t")
    task = book.ledger.claim("t", worker="w", lease_s=30)
    assert task is not None
    book.ledger.record_step(task, key="a", name="think", result=1)
    book.ledger.record_failure(task, key="b", name="send", error="no answer")
    found = review.look_up(book.database, "t")
    assert (found.payload, found.status, found.attempts) == ({"to": "Zoë"}, Status.RUNNING, 1)
    assert [(step.key, step.finished_at is not None, step.failures, step.error) for step in found.steps] == [
        ("a", True, 0, None),
        ("b", False, 1, "no answer"),
    ]
    assert found.to_json()["steps"][1]["error"] == "no answer"
    with pytest.raises(NotFoundError, match="'nobody'"):
        review.look_up(book.database, "nobody")
