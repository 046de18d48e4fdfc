"""The contract of a task queue: subclassed for every one that Relight has."""

from __future__ import annotations

import asyncio
import uuid
from contextlib import asynccontextmanager
from time import monotonic
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

import pytest

from relight.errors import DeniedError, QueueLostError, RelightError, UnavailableError
from relight.queue.port import Ticket
from relight.queue.queues import connect_queue, open_queue

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Sequence

    from relight.queue.port import Delivery, TaskQueue
    from relight_drill.processes import Process

T = TypeVar("T")

# Every wait of the suite ends here, and fails.
PATIENCE_S = 30.0
# What a call may take when nobody answers.
BOUND_S = 15.0

ODD_IDS = [
    "ü/ü",
    "任务 🌍 задача",
    "a b.c>d*e",
    "line\r\nbreak: x\n\n",
    "-1.2.3",
    "e\u0301 \u202e rtl",
    "\U0010ffff",
    '{"a": "\\"}',
    "x" * 10_000,
    "ü" * 5_000,
]


class Server(Protocol):
    """What `relight_drill` starts for either queue."""

    port: int
    password: str

    @property
    def process(self) -> Process: ...
    def url(self, *, port: int | None = None) -> str: ...
    async def start(self) -> None: ...
    async def stop(self) -> None: ...
    def kill(self) -> None: ...
    def destroy(self) -> None: ...


def run(scenario: Coroutine[Any, Any, None]) -> None:
    """Run a test's scenario; one that hangs fails."""

    async def bounded() -> None:
        async with asyncio.timeout(4 * PATIENCE_S):
            await scenario

    asyncio.run(bounded())


def tickets(*ids: str, epoch: int = 1, number: int = 0) -> list[Ticket]:
    """A ticket for each."""
    return [Ticket(task_id=id_, epoch=epoch, number=number) for id_ in ids]


async def take(queue: TaskQueue, count: int = 1) -> list[Delivery]:
    """That many messages, as they come."""
    held: list[Delivery] = []
    ends = monotonic() + PATIENCE_S
    while len(held) < count and monotonic() < ends:
        held += await queue.fetch(count - len(held), timeout_s=1.0)
    assert len(held) == count
    return held


async def until(call: Callable[[], Awaitable[T]], holds: Callable[[T], bool] = lambda _: True) -> T:
    """What the call returns once it returns, and `holds`."""
    ends = monotonic() + PATIENCE_S
    while True:
        try:
            if holds(found := await call()):
                return found
        except UnavailableError:
            if monotonic() > ends:
                raise
        assert monotonic() < ends
        await asyncio.sleep(0.05)


async def error_of(call: Awaitable[Any]) -> RelightError:
    """What the call raises, within the bound."""
    async with asyncio.timeout(BOUND_S):
        try:
            got = await call
        except RelightError as exc:
            return exc
    raise AssertionError(f"it returned {got!r}")


def ids(items: Sequence[Any]) -> list[str]:
    """Of deliveries or of dead letters."""
    return [item.task_id for item in items]


class QueueContract:
    """Each subclass gives `server`, `own_server`, `erase`, `trim`, `interrupt_burial` and `connected`."""

    @pytest.fixture
    def server(self) -> Server:
        """Shared with other tests."""
        raise NotImplementedError

    @pytest.fixture
    def own_server(self) -> Server:
        """Running, for a test that breaks it."""
        raise NotImplementedError

    async def erase(self, server: Any, environment: str) -> None:
        """Take the queue from under its users: the stream deleted, the database flushed."""
        raise NotImplementedError

    async def trim(self, server: Any, environment: str, *, keep: int) -> None:
        """Remove all messages but the newest by hand, from a queue that stays."""
        raise NotImplementedError

    def interrupt_burial(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """The next time that a message becomes a dead letter, its worker dies in the middle (CancelledError)."""
        raise NotImplementedError

    @pytest.fixture
    def environment(self) -> str:
        """A name that no other test uses."""
        return f"test-{uuid.uuid4().hex[:8]}"

    @asynccontextmanager
    async def made(self, server: Server, environment: str, **options: Any) -> AsyncIterator[TaskQueue]:
        async with open_queue(server.url(), environment=environment, **options) as queue:
            await queue.ensure()
            yield queue

    # -- in and out

    def test_messages_come_in_order_and_are_gone_when_acknowledged(self, server: Server, environment: str) -> None:
        """A message comes once, in the order of publication, whatever its id is made of, and is gone after its ack."""

        async def scenario() -> None:
            async with self.made(server, environment) as queue:
                assert await queue.publish(tickets(*ODD_IDS)) == len(ODD_IDS)
                assert await queue.depth() == len(ODD_IDS)
                held = await take(queue, len(ODD_IDS))
                assert ids(held) == ODD_IDS
                assert {item.deliveries for item in held} == {1}
                for item in held:
                    await item.ack()
                    await item.ack()
                assert await queue.depth() == 0
                for limit in (1, 4):
                    assert list(await queue.fetch(limit, timeout_s=0.2)) == []

        run(scenario())

    def test_nothing_is_published_by_nothing(self, server: Server, environment: str) -> None:
        """No tickets, no messages."""

        async def scenario() -> None:
            async with self.made(server, environment) as queue:
                assert await queue.publish([]) == 0
                assert await queue.depth() == 0

        run(scenario())

    def test_a_fetch_ends_as_soon_as_something_comes(self, server: Server, environment: str) -> None:
        """A worker that waits is woken by a publication, long before its time is over."""

        async def scenario() -> None:
            async with self.made(server, environment) as queue, self.made(server, environment) as other:
                waiting = asyncio.create_task(queue.fetch(10, timeout_s=10 * PATIENCE_S))
                await other.publish(tickets("a"))
                async with asyncio.timeout(PATIENCE_S):
                    assert ids(await waiting) == ["a"]

        run(scenario())

    def test_the_same_ticket_is_stored_once(self, server: Server, environment: str) -> None:
        """Within the window a second publication is dropped, whoever makes it; another epoch or number is not."""

        async def scenario() -> None:
            async with self.made(server, environment) as queue, self.made(server, environment) as other:
                assert await queue.publish(tickets("a", "a", "b")) == 2
                assert await other.publish(tickets("a", "c")) == 1
                assert await other.publish(tickets("a", epoch=2)) == 1
                assert await other.publish(tickets("a", number=1)) == 1
                # The id alone does not tell where it ends and the epoch begins.
                assert await other.publish(tickets("a.1", "a.1.0")) == 2
                assert await queue.publish(tickets("ü\n")) == 1
                assert await queue.publish(tickets("ü\n")) == 0
                assert await queue.depth() == 8
                for item in await take(queue, 8):
                    await item.ack()
                assert await queue.publish(tickets("a", "b", "c")) == 0

        run(scenario())

    def test_after_the_window_a_ticket_is_new_again(self, server: Server, environment: str) -> None:
        """A queue forgets what it knew once the duplicate window is over."""

        async def scenario() -> None:
            async with self.connected(server, environment, dedupe_window_s=0.3) as queue:
                await queue.ensure()
                assert await queue.publish(tickets("a")) == 1
                await until(lambda: queue.publish(tickets("a")), lambda new: new == 1)
                assert await queue.depth() == 2

        run(scenario())

    def test_thousands_are_published_in_order(self, server: Server, environment: str) -> None:
        """One call stores thousands, in order, and says how many were new; twice changes nothing."""
        names = [f"task-{number}" for number in range(5_000)]

        async def scenario() -> None:
            async with self.made(server, environment) as queue:
                assert await queue.publish(tickets(*names[:10])) == 10
                assert await queue.publish(tickets(*names)) == len(names) - 10
                assert await queue.publish(tickets(*names)) == 0
                assert await queue.depth() == len(names)
                got: list[str] = []
                while len(got) < len(names):
                    part = await take(queue, min(700, len(names) - len(got)))
                    await asyncio.gather(*(item.ack() for item in part))
                    got += ids(part)
                assert got == names
                assert await queue.depth() == 0

        run(scenario())

    def test_workers_never_hold_one_message_at_once(self, server: Server, environment: str) -> None:
        """Several workers get every message, each held by one at a time, also when some are given back."""
        names = {f"task-{number}" for number in range(600)}
        held: set[str] = set()
        done: set[str] = set()

        async def work(queue: TaskQueue) -> None:
            while len(done) < len(names):
                for item in await queue.fetch(20, timeout_s=0.5):
                    assert item.task_id not in held | done
                    held.add(item.task_id)
                    await asyncio.sleep(0)
                    held.discard(item.task_id)
                    if item.deliveries == 1 and item.task_id.endswith("7"):
                        await item.nak(0.01)
                    else:
                        done.add(item.task_id)
                        await item.ack()

        async def scenario() -> None:
            async with self.made(server, environment) as one, self.made(server, environment) as other:
                await one.publish(tickets(*sorted(names)))
                async with asyncio.TaskGroup() as group:
                    for queue in (one, one, other, other):
                        group.create_task(work(queue))
                assert done == names
                assert await one.depth() == 0

        run(scenario())

    # -- messages that are not acknowledged

    def test_what_a_dead_worker_held_comes_to_another(self, server: Server, environment: str) -> None:
        """fails when a worker dies with messages in its hands: another gets them after the ack wait, counted."""

        async def scenario() -> None:
            async with self.made(server, environment, ack_wait_s=1.0) as queue:
                async with self.made(server, environment, ack_wait_s=1.0) as dying:
                    await queue.publish(tickets("a", "b", "c"))
                    first, *_ = await take(dying, 3)
                    await first.ack()
                again = await take(queue, 2)
                assert sorted(ids(again)) == ["b", "c"]
                assert {item.deliveries for item in again} == {2}

        run(scenario())

    def test_a_message_that_is_worked_on_stays(self, server: Server, environment: str) -> None:
        """Long work keeps its message for as long as it says so, and no longer."""

        async def scenario() -> None:
            async with (
                self.made(server, environment, ack_wait_s=1.0) as queue,
                self.made(server, environment, ack_wait_s=1.0) as other,
            ):
                await queue.publish(tickets("a"))
                (item,) = await take(queue)
                ends = monotonic() + 3.0
                while monotonic() < ends:
                    await item.in_progress()
                    assert list(await other.fetch(1, timeout_s=0.2)) == []
                (again,) = await take(other)
                assert (again.task_id, again.deliveries) == ("a", 2)

        run(scenario())

    def test_a_message_given_back_waits_for_its_delay(self, server: Server, environment: str) -> None:
        """After a nak a message is nobody's until its delay is over, then it comes again, counted, and is not lost."""

        async def scenario() -> None:
            async with self.made(server, environment) as queue:
                await queue.publish(tickets("ü \n", "b"))
                (first,) = await take(queue)
                await first.nak(1.5)
                before = monotonic()
                (other,) = await take(queue)
                assert other.task_id == "b"
                await other.ack()
                assert await queue.depth() == 1
                (again,) = await take(queue)
                assert (again.task_id, again.deliveries) == ("ü \n", 2)
                assert monotonic() - before > 1.0
                await again.nak(0.0)
                (third,) = await take(queue)
                assert third.deliveries == 3
                await third.ack()
                assert await queue.depth() == 0

        run(scenario())

    def test_who_lost_a_message_takes_it_from_nobody(self, server: Server, environment: str) -> None:
        """fails when a worker comes back after its ack wait: its nak and its in-progress change nothing, its ack
        removes the message, because the task is done."""

        async def scenario() -> None:
            async with (
                self.made(server, environment, ack_wait_s=1.0) as late,
                self.made(server, environment, ack_wait_s=1.0) as queue,
            ):
                await queue.publish(tickets("a"))
                (lost,) = await take(late)
                (held,) = await take(queue)
                await held.in_progress()
                await lost.nak(0.0)
                await lost.in_progress()
                assert list(await late.fetch(1, timeout_s=0.1)) == []
                await lost.ack()
                await held.ack()
                assert await queue.depth() == 0
                assert list(await late.fetch(1, timeout_s=1.5)) == []

        run(scenario())

    def test_a_fetch_that_is_cancelled_loses_nothing(self, server: Server, environment: str) -> None:
        """fails when a worker is told to end while it waits: what was on its way to it comes to another."""

        async def scenario() -> None:
            async with self.made(server, environment, ack_wait_s=1.0) as queue:
                names = [f"task-{number}" for number in range(40)]
                async with self.made(server, environment, ack_wait_s=1.0) as ending:
                    for name in names:
                        waiting = asyncio.create_task(ending.fetch(1, timeout_s=PATIENCE_S))
                        await asyncio.sleep(0)
                        publishing = asyncio.create_task(queue.publish(tickets(name)))
                        for _ in range(len(name) + int(name.split("-")[1]) % 7):
                            await asyncio.sleep(0)
                        waiting.cancel()
                        await asyncio.gather(waiting, return_exceptions=True)
                        await publishing
                got: set[str] = set()
                while got != set(names):
                    for item in await take(queue):
                        got.add(item.task_id)
                        await item.ack()

        run(scenario())

    # -- dead letters

    def test_what_kills_its_workers_is_given_up(self, server: Server, environment: str) -> None:
        """fails when nobody ever acknowledges: after the allowed deliveries a message is a dead letter, is not handed
        out again, and stays until it is discarded."""

        async def scenario() -> None:
            async with self.made(server, environment, ack_wait_s=0.5, max_deliveries=2) as queue:
                poison = "ü poison\n.>*"
                await queue.publish(tickets(poison))
                assert [(await take(queue))[0].deliveries for _ in range(2)] == [1, 2]
                letters = await until(lambda: self._fetched_letters(queue), bool)
                assert [(letter.task_id, letter.deliveries) for letter in letters] == [(poison, 2)]
                assert "without an acknowledgement" in letters[0].reason
                assert letters[0].at.tzinfo is not None
                assert await queue.depth() == 0
                assert list(await queue.fetch(1, timeout_s=1.0)) == []
                assert len(await queue.dead_letters()) == 1
                await queue.discard_dead("another")
                assert len(await queue.dead_letters()) == 1
                await queue.discard_dead(poison)
                await queue.discard_dead(poison)
                assert list(await queue.dead_letters()) == []

        run(scenario())

    def test_messages_given_back_too_often_are_given_up(self, server: Server, environment: str) -> None:
        """A nak counts as a delivery, whoever waits for the next one; letters come oldest first, one for each task."""

        async def scenario() -> None:
            async with self.made(server, environment, max_deliveries=1) as queue:
                for name in ("b", "a", "c"):
                    await queue.publish(tickets(name))
                    (item,) = await take(queue)
                    waiting = asyncio.create_task(queue.fetch(1, timeout_s=1.0))
                    await asyncio.sleep(0)
                    await item.nak(0.0)
                    assert list(await waiting) == []
                assert ids(await until(lambda: self._fetched_letters(queue), lambda got: len(got) == 3)) == [*"bac"]
                assert ids(await queue.dead_letters(2)) == ["b", "a"]
                await queue.publish(tickets("b", number=1))
                (item,) = await take(queue)
                await item.nak(0.0)
                assert ids(await until(lambda: self._fetched_letters(queue), lambda got: ids(got)[0] == "a")) == [
                    *"acb"
                ]
                assert await queue.depth() == 0

        run(scenario())

    def test_a_worker_that_dies_while_it_gives_up_a_message(
        self, server: Server, environment: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """fails when whoever moves a message to the dead letters is killed in the middle: it is moved once all the
        same, and never handed out."""

        async def scenario() -> None:
            async with self.made(server, environment, ack_wait_s=0.5, max_deliveries=1) as queue:
                await queue.publish(tickets("poison"))
                (item,) = await take(queue)
                with monkeypatch.context() as patch:
                    self.interrupt_burial(patch)
                    waiting = asyncio.create_task(queue.fetch(1, timeout_s=PATIENCE_S))
                    await asyncio.sleep(0)
                    await item.nak(0.0)
                    with pytest.raises(asyncio.CancelledError):
                        await waiting
                assert await queue.depth() == 1
                for _ in range(3):
                    assert list(await queue.fetch(1, timeout_s=0.6)) == []
                assert ids(await queue.dead_letters()) == ["poison"]
                assert await queue.depth() == 0

        run(scenario())

    async def _fetched_letters(self, queue: TaskQueue) -> Sequence[Any]:
        """Who fetches moves what is to be given up."""
        assert list(await queue.fetch(10, timeout_s=0.2)) == []
        return await queue.dead_letters()

    # -- how far it is, and which it is

    def test_the_position_counts_what_was_put_in(self, server: Server, environment: str) -> None:
        """The position grows with each new message, and neither with duplicates nor with what is given back."""

        async def scenario() -> None:
            async with self.made(server, environment) as queue:
                assert (await queue.position()).last_sequence == 0
                await queue.publish(tickets("a", "b", "a"))
                (item, other) = await take(queue, 2)
                await item.nak(0.0)
                await other.ack()
                (again,) = await take(queue)
                await again.ack()
                position = await queue.position()
                assert position.last_sequence == 2
                assert environment in position.stream.lower()

        run(scenario())

    def test_the_age_is_that_of_the_oldest_message(self, server: Server, environment: str) -> None:
        """A message counts from its first publication until it is acknowledged, whether it is handed out, given back or
        waits for its delay; a queue without one has no age."""

        async def scenario() -> None:
            async with self.made(server, environment) as queue, self.made(server, environment) as other:
                assert await queue.age_s() == 0.0
                await queue.publish(tickets("old"))
                old_s = await until(queue.age_s, lambda age: age > 0.5)
                before = monotonic()
                await queue.publish(tickets("new"))
                first, second = await take(queue, 2)
                assert await other.age_s() > old_s
                for delay_s in (0.0, 0.3, 0.0):
                    await first.nak(delay_s)
                    assert await other.age_s() > old_s
                    (first,) = await take(queue)
                    await first.in_progress()
                    assert first.task_id == "old"
                await first.ack()
                assert 0.0 < await other.age_s() < monotonic() - before + 0.01
                await second.ack()
                assert await other.age_s() == 0.0

        run(scenario())

    def test_what_is_removed_by_hand_shows_in_the_age(self, server: Server, environment: str) -> None:
        """fails when somebody trims a queue that is in use: it is as old as what is left, though it was never empty."""

        async def scenario() -> None:
            async with self.made(server, environment) as queue:
                made = await queue.incarnation()
                await queue.publish(tickets("a", "b", "c"))
                for item in await take(queue, 2):
                    await item.nak(0.0)
                old_s = await until(queue.age_s, lambda age: age > 0.5)
                before = monotonic()
                await queue.publish(tickets("new"))
                assert await queue.age_s() > old_s
                await self.trim(server, environment, keep=1)
                assert await queue.age_s() < monotonic() - before + 0.01
                assert await queue.incarnation() == made
                assert ids(await take(queue)) == ["new"]

        run(scenario())

    def test_making_it_again_changes_nothing(self, server: Server, environment: str) -> None:
        """`ensure`, again, from another connection and by many at once, keeps the queue and what is in it."""

        async def scenario() -> None:
            async with self.made(server, environment) as queue, self.made(server, environment) as other:
                await queue.publish(tickets("a"))
                first = await queue.ensure()
                assert {first} == set(await asyncio.gather(*(item.ensure() for item in (queue, other) * 5)))
                assert await other.incarnation() == first
                assert await queue.depth() == 1
                assert ids(await take(other)) == ["a"]

        run(scenario())

    def test_many_make_it_at_once(self, server: Server, environment: str) -> None:
        """Workers that start together make one queue."""

        async def scenario() -> None:
            queues = [await connect_queue(server.url(), environment=environment) for _ in range(6)]
            try:
                made = await asyncio.gather(*(queue.ensure() for queue in queues))
                assert len(set(made)) == 1
                await queues[0].publish(tickets("a"))
                assert ids(await take(queues[5])) == ["a"]
            finally:
                await asyncio.gather(*(queue.close() for queue in queues))

        run(scenario())

    def test_environments_do_not_see_each_other(self, server: Server, environment: str) -> None:
        """Two environments on one server are two queues, whatever they are called."""

        async def scenario() -> None:
            async with self.made(server, environment) as one, self.made(server, f"{environment}-dead") as other:
                await one.publish(tickets("a"))
                await other.publish(tickets("b"))
                assert ids(await take(one)) == ["a"]
                assert ids(await take(other)) == ["b"]

        run(scenario())

    @pytest.mark.parametrize("how", ["stop", "kill"])
    def test_a_restart_loses_nothing(self, own_server: Server, environment: str, how: str) -> None:
        """fails when the server restarts, in good order or killed: the same incarnation, with all that was published,
        and its clients go on by themselves."""

        async def scenario() -> None:
            async with self.made(own_server, environment, ack_wait_s=2.0) as queue:
                before = await queue.incarnation()
                await queue.publish(tickets(*(f"task-{number}" for number in range(500))))
                acknowledged = [f"task-{number}" for number in range(100)]
                for item in await take(queue, 100):
                    await item.ack()
                await take(queue)
                waiting = asyncio.create_task(queue.fetch(1, timeout_s=1.0))
                if how == "kill":
                    own_server.kill()
                else:
                    await own_server.stop()
                await asyncio.gather(waiting, return_exceptions=True)
                await own_server.start()
                assert await until(queue.incarnation) == before
                assert await until(lambda: queue.publish(tickets("task-450"))) == 0
                got: set[str] = set()
                while await until(queue.depth):
                    for item in await queue.fetch(50, timeout_s=1.0):
                        got.add(item.task_id)
                        await item.ack()
                # What was acknowledged may come again when the server was killed.
                if how == "stop":
                    assert got.isdisjoint(acknowledged)
                assert got - {*acknowledged} == {f"task-{number}" for number in range(100, 500)}
                assert await queue.ensure() == before

        run(scenario())

    def test_a_disk_that_is_lost_is_noticed(self, own_server: Server, environment: str) -> None:
        """fails when the server comes back with an empty disk: QueueLostError, another incarnation, and everything can
        be published again at once."""

        async def scenario() -> None:
            async with self.made(own_server, environment) as queue:
                before = await queue.incarnation()
                await queue.publish(tickets("a", "b"))
                own_server.destroy()
                await own_server.start()
                with pytest.raises(QueueLostError):
                    await self._settled(lambda: queue.publish(tickets("a")))
                with pytest.raises(QueueLostError):
                    await self._settled(lambda: queue.fetch(1, timeout_s=0.2))
                with pytest.raises(QueueLostError):
                    await queue.incarnation()
                after = await queue.ensure()
                assert after != before
                assert await queue.publish(tickets("a", "b")) == 2
                assert ids(await take(queue, 2)) == ["a", "b"]

        run(scenario())

    def test_a_queue_that_is_erased_is_noticed(self, server: Server, environment: str) -> None:
        """fails when somebody deletes the queue from a server that runs on: every worker gets a QueueLostError, also
        the one that comes after another has made it again."""

        async def scenario() -> None:
            async with self.made(server, environment) as queue, self.made(server, environment) as other:
                before = await queue.incarnation()
                await queue.publish(tickets("a"))
                (held,) = await take(queue)
                await self.erase(server, environment)
                for call in (
                    queue.publish(tickets("b")),
                    queue.fetch(1, timeout_s=0.2),
                    held.nak(0.0),
                    queue.incarnation(),
                    queue.depth(),
                    queue.age_s(),
                    queue.position(),
                ):
                    error = await error_of(call)
                    assert isinstance(error, QueueLostError)
                    assert error.retryable
                after = await other.ensure()
                assert after != before
                assert isinstance(await error_of(queue.publish(tickets("c"))), QueueLostError)
                assert isinstance(await error_of(queue.age_s()), QueueLostError)
                assert await queue.incarnation() == after
                assert await queue.ensure() == after
                await queue.publish(tickets("a", "b", "c"))
                assert ids(await take(other, 3)) in (["a", "b", "c"], ["c", "a", "b"])

        run(scenario())

    def test_a_queue_that_is_erased_under_a_waiting_worker(self, server: Server, environment: str) -> None:
        """fails when the queue is deleted while a worker waits: within its next fetches it is told."""

        async def scenario() -> None:
            async with self.made(server, environment) as queue:
                waiting = asyncio.create_task(queue.fetch(1, timeout_s=3.0))
                await asyncio.sleep(0.05)
                await self.erase(server, environment)
                with pytest.raises(QueueLostError):
                    await waiting
                    await queue.fetch(1, timeout_s=0.1)

        run(scenario())

    async def _settled(self, call: Callable[[], Awaitable[Any]]) -> Any:
        """What it comes to once the server answers."""
        ends = monotonic() + PATIENCE_S
        while True:
            try:
                return await call()
            except QueueLostError:
                raise
            except UnavailableError:
                assert monotonic() < ends
                await asyncio.sleep(0.05)

    # -- a server that does not answer

    @pytest.mark.parametrize("how", ["killed", "silent"])
    def test_a_server_that_does_not_answer(self, own_server: Server, environment: str, how: str) -> None:
        """fails when the server is gone, or accepts and says nothing: every call ends with UnavailableError, within
        its bound, and without the password."""

        async def scenario() -> None:
            async with self.made(own_server, environment) as queue:
                await queue.publish(tickets("a", "b"))
                held, other = await take(queue, 2)
                if how == "killed":
                    own_server.kill()
                else:
                    own_server.process.freeze()
                try:
                    calls = (
                        queue.fetch(1, timeout_s=0.5),
                        queue.publish(tickets("c")),
                        held.ack(),
                        other.nak(1.0),
                        queue.ensure(),
                        queue.incarnation(),
                        queue.depth(),
                        queue.age_s(),
                        queue.dead_letters(),
                        connect_queue(own_server.url(), environment=environment),
                    )
                    for error in await asyncio.gather(*(error_of(call) for call in calls)):
                        assert type(error) is UnavailableError
                        assert own_server.password not in _everything(error)
                    async with asyncio.timeout(BOUND_S):
                        await queue.close()
                finally:
                    if how == "silent":
                        own_server.process.thaw()

        run(scenario())

    def test_a_server_that_was_silent_is_used_again(self, own_server: Server, environment: str) -> None:
        """fails when the server falls silent for a while: what it had acknowledged is there, and work goes on."""

        async def scenario() -> None:
            async with self.made(own_server, environment, ack_wait_s=1.0) as queue:
                await queue.publish(tickets("a"))
                own_server.process.freeze()
                try:
                    assert isinstance(await error_of(queue.publish(tickets("b"))), UnavailableError)
                finally:
                    own_server.process.thaw()
                assert await until(lambda: queue.publish(tickets("a", "b"))) in (0, 1)
                got: set[str] = set()
                while got != {"a", "b"}:
                    for item in await until(lambda: queue.fetch(2, timeout_s=1.0)):
                        got.add(item.task_id)
                        await item.ack()
                assert await queue.depth() == 0

        run(scenario())

    def test_a_wrong_password(self, server: Server, environment: str) -> None:
        """fails when the secret has another password than the server: DeniedError, and the password is nowhere."""
        url = server.url().replace(server.password, "hunter2")
        error = asyncio.run(error_of(connect_queue(url, environment=environment)))
        assert isinstance(error, DeniedError)
        assert "hunter2" not in _everything(error)
        assert "secret" in error.hint

    def connected(self, server: Server, environment: str, **options: Any) -> Any:
        """A queue with options that only tests have."""
        raise NotImplementedError


def _everything(error: BaseException) -> str:
    """All that a log could show of it."""
    said = ""
    seen: BaseException | None = error
    while seen is not None:
        said += f"{seen!r} {seen} "
        seen = seen.__cause__ or (None if seen.__suppress_context__ else seen.__context__)
    return said
