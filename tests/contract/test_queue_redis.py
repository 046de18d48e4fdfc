"""What Redis may lose and how it is noticed, and what it refuses."""

from __future__ import annotations

import asyncio
import math
import uuid
from time import monotonic
from typing import TYPE_CHECKING, Any

import pytest
from queue_contract import error_of, ids, run, take, tickets, until

from relight.errors import ConfigError, DeniedError, QueueLostError, UnavailableError
from relight.queue.queues import open_queue
from relight.queue.redis_streams import RedisQueue
from relight_drill.redis import RedisServer

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from relight_drill.processes import ProcessGroup

pytestmark = pytest.mark.servers


@pytest.fixture
def environment() -> str:
    """A name that no other test uses."""
    return f"test-{uuid.uuid4().hex[:8]}"


@pytest.fixture
def make(server_group: ProcessGroup, server_dir: Path) -> Callable[..., RedisServer]:
    """A server that is not started yet, with settings of its own."""

    def make(**settings: str) -> RedisServer:
        folder = server_dir / f"redis-{uuid.uuid4().hex[:8]}"
        named = {key.replace("_", "-"): value for key, value in settings.items()}
        return RedisServer(server_group, folder, name=folder.name, settings=named)

    return make


def keys(environment: str, name: str) -> str:
    """A key of the queue."""
    return f"relight:{{{environment}}}:{name}"


# -- what may have been lost


@pytest.mark.parametrize("fsync", ["everysec", "no"])
def test_a_server_that_may_lose_a_second_is_another_after_a_restart(
    make: Callable[..., RedisServer], environment: str, fsync: str
) -> None:
    """fails when a server restarts that does not sync before it answers: whatever is left, it counts as lost, every
    client is told, and publishing everything again adds only what is missing."""

    async def scenario() -> None:
        server = make(appendfsync=fsync)
        await server.start()
        # Whoever is told by its fetch holds what it fetched, until this is over.
        async with (
            open_queue(server.url(), environment=environment, ack_wait_s=1.0) as queue,
            open_queue(server.url(), environment=environment, ack_wait_s=1.0) as other,
        ):
            before = await queue.ensure()
            assert await other.ensure() == before
            await queue.publish(tickets("a", "b"))
            await server.stop()
            await server.start()
            error = await error_of(until_answered(lambda: queue.publish(tickets("c"))))
            assert isinstance(error, QueueLostError)
            assert isinstance(await error_of(until_answered(queue.incarnation)), QueueLostError)
            assert isinstance(await error_of(until_answered(lambda: other.fetch(1, timeout_s=0.1))), QueueLostError)
            after = await queue.ensure()
            assert after != before
            assert isinstance(await error_of(other.publish(tickets("d"))), QueueLostError)
            assert await other.ensure() == after
            assert await queue.publish(tickets("a", "b", "c", "d")) <= 1
            assert sorted(ids(await take(other, 4))) == [*"abcd"]
        server.kill()

    run(scenario())


async def until_answered(call: Callable[[], Any]) -> Any:
    """What it comes to once the server answers."""
    while True:
        try:
            return await call()
        except QueueLostError:
            raise
        except UnavailableError:
            await asyncio.sleep(0.05)


def test_a_replica_that_was_promoted_is_another(make: Callable[..., RedisServer], environment: str) -> None:
    """fails when the primary dies and its replica takes over: replication is asynchronous, so it counts as lost; a
    replica that is not promoted refuses, and says that it is one."""

    async def scenario() -> None:
        primary, replica = make(), make()
        replica.password = primary.password
        await asyncio.gather(primary.start(), replica.start())
        async with open_queue(primary.url(), environment=environment) as queue:
            before = await queue.ensure()
            await queue.publish(tickets("a"))
        assert await replica.command("REPLICAOF", "127.0.0.1", str(primary.port)) == "+OK"
        async with open_queue(replica.url(), environment=environment) as queue:
            await until(queue.depth, lambda depth: depth == 1)
            for call in (queue.ensure(), queue.publish(tickets("b"))):
                error = await error_of(call)
                assert type(error) is UnavailableError
                assert "READONLY" in error.problem
                assert "primary" in error.hint
            primary.kill()
            assert await replica.command("REPLICAOF", "NO", "ONE") == "+OK"
            assert isinstance(await error_of(queue.incarnation()), QueueLostError)
            after = await queue.ensure()
            assert after != before
            assert ids(await take(queue)) == ["a"]
            assert await queue.incarnation() == await queue.ensure() == after
        replica.kill()

    run(scenario())


@pytest.mark.parametrize("name", ["state", "tasks"])
def test_a_part_that_is_deleted_is_a_loss(redis_server: RedisServer, environment: str, name: str) -> None:
    """fails when one key of the queue is deleted: it is noticed, and everything can be published again at once."""

    async def scenario() -> None:
        async with open_queue(redis_server.url(), environment=environment) as queue:
            before = await queue.ensure()
            await queue.publish(tickets("a"))
            await take(queue)
            assert await redis_server.command("DEL", keys(environment, name)) == ":1"
            assert isinstance(await error_of(queue.publish(tickets("a"))), QueueLostError)
            assert isinstance(await error_of(queue.fetch(1, timeout_s=0.1)), QueueLostError)
            assert await queue.ensure() != before
            await queue.publish(tickets("a", "b"))
            assert await queue.depth() == 2

    run(scenario())


def test_a_group_that_is_deleted_is_made_again(redis_server: RedisServer, environment: str) -> None:
    """fails when somebody destroys the consumer group: QueueLostError, and after `ensure` nothing is missing."""

    async def scenario() -> None:
        async with open_queue(redis_server.url(), environment=environment) as queue:
            made = await queue.ensure()
            await queue.publish(tickets("a", "b"))
            (held,) = await take(queue)
            assert await redis_server.command("XGROUP", "DESTROY", keys(environment, "tasks"), "workers") == ":1"
            assert isinstance(await error_of(queue.fetch(1, timeout_s=0.1)), QueueLostError)
            assert isinstance(await error_of(held.nak(0.0)), QueueLostError)
            assert await queue.ensure() == made
            assert ids(await take(queue, 2)) == ["a", "b"]

    run(scenario())


def test_messages_of_the_future_have_no_age(redis_server: RedisServer, environment: str) -> None:
    """fails when the server's clock was put back: how old its messages are cannot be told, and none counts as lost."""

    async def scenario() -> None:
        async with open_queue(redis_server.url(), environment=environment) as queue:
            await queue.ensure()
            await redis_server.command("XADD", keys(environment, "tasks"), "99999999999999-0", "t", "a")
            assert await queue.age_s() == math.inf

    run(scenario())


def test_what_was_given_back_and_removed_by_hand_is_forgotten(redis_server: RedisServer, environment: str) -> None:
    """fails when the age of a message outlives it: thousands that were given back, with and without a delay, are
    removed, and the queue is as old as what is left."""
    names = [f"task-{number}" for number in range(1200)]

    async def scenario() -> None:
        async with open_queue(redis_server.url(), environment=environment) as queue:
            await queue.ensure()
            await queue.publish(tickets(*names))
            old_s = await until(queue.age_s, lambda age: age > 0.2)
            for number, item in enumerate(await take(queue, len(names))):
                await item.nak(60.0 * (number % 2))
            assert await queue.age_s() > old_s
            await redis_server.command("XTRIM", keys(environment, "tasks"), "MAXLEN", "0")
            assert await queue.age_s() > old_s
            assert await queue.depth() == len(names) / 2
            await redis_server.command("DEL", keys(environment, "delayed"))
            before = monotonic()
            await queue.publish(tickets("new"))
            await until(queue.age_s, lambda age: age < monotonic() - before + 0.01)
            assert await redis_server.command("ZCARD", keys(environment, "returned")) == ":0"

    run(scenario())


# -- what Redis refuses


@pytest.mark.parametrize("policy", ["allkeys-lru", "allkeys-random"])
def test_a_server_that_evicts_is_refused(make: Callable[..., RedisServer], environment: str, policy: str) -> None:
    """fails when the server may drop keys of its own accord: ConfigError with the setting, the rule and what to do."""

    async def scenario() -> None:
        server = make(maxmemory_policy=policy, maxmemory="64mb")
        await server.start()
        async with open_queue(server.url(), environment=environment) as queue:
            error = await error_of(queue.ensure())
            assert isinstance(error, ConfigError)
            assert policy in error.problem
            assert "noeviction" in error.hint
        server.kill()

    run(scenario())


def test_a_key_that_holds_something_else_is_refused(redis_server: RedisServer, environment: str) -> None:
    """fails when a key of the queue is somebody else's: ConfigError, and it keeps what it holds."""

    async def scenario() -> None:
        key = keys(environment, "tasks")
        assert await redis_server.command("SET", key, "theirs") == "+OK"
        async with open_queue(redis_server.url(), environment=environment) as queue:
            error = await error_of(queue.ensure())
            assert isinstance(error, ConfigError)
            assert "something else" in error.problem
        assert await redis_server.command("STRLEN", key) == ":6"

    run(scenario())


def test_a_full_server_drops_nothing(make: Callable[..., RedisServer], environment: str) -> None:
    """fails when Redis reaches maxmemory: the call may succeed later, a batch is never half known as published, and
    workers can still empty the queue."""

    async def scenario() -> None:
        server = make()
        await server.start()
        async with open_queue(server.url(), environment=environment) as queue:
            await queue.ensure()
            await queue.publish(tickets(*"abc"))
            assert await server.command("CONFIG", "SET", "maxmemory", "100kb") == "+OK"
            error = await error_of(queue.publish(tickets(*"de")))
            assert type(error) is UnavailableError
            assert "OOM" in error.problem
            assert "maxmemory" in error.hint
            assert await queue.depth() == 3
            assert await server.command("CONFIG", "SET", "maxmemory", "0") == "+OK"
            assert await queue.publish(tickets(*"abcde")) == 2
            held = await take(queue, 5)
            assert await server.command("CONFIG", "SET", "maxmemory", "100kb") == "+OK"
            await asyncio.gather(*(item.ack() for item in held))
            assert await queue.depth() == 0
        server.kill()

    run(scenario())


def test_a_server_that_still_loads(make: Callable[..., RedisServer], environment: str) -> None:
    """fails when the server reads its files: UnavailableError that says so, and then everything is there."""

    async def scenario() -> None:
        server = make(save="1 1", appendonly="no", rdbcompression="no")
        await server.start()
        async with open_queue(server.url(), environment=environment) as queue:
            await queue.ensure()
            await queue.publish(tickets("a"))
            # It answers between parts of 2 MB only.
            for number in range(20):
                await server.command("SET", f"other-{number}", "x" * 500_000)
            await server.stop()
            server._settings |= {"key-load-delay": "100000"}
            starting = asyncio.create_task(server.start())
            error = None
            while not starting.done():
                if "LOADING" in str(error := await error_of_any(queue.depth())):
                    break
                await asyncio.sleep(0.02)
            assert error is not None
            assert "LOADING" in error.problem
            assert "try again" in error.hint
            await starting
            assert await until(queue.ensure)
            assert ids(await take(queue)) == ["a"]
        server.kill()

    run(scenario())


async def error_of_any(call: Any) -> Any:
    """What it raises or returns."""
    try:
        return await call
    except UnavailableError as exc:
        return exc


def test_a_user_without_rights(make: Callable[..., RedisServer], environment: str) -> None:
    """fails when the user may not run scripts, or the password was changed: DeniedError."""

    async def scenario() -> None:
        server = make()
        await server.start()
        rights = ("on", f">{server.password}", "~*", "+@all", "-@scripting")
        assert await server.command("ACL", "SETUSER", "weak", *rights) == "+OK"
        url = server.url().replace("redis://:", "redis://weak:")
        async with open_queue(url, environment=environment) as queue:
            error = await error_of(queue.ensure())
            assert isinstance(error, DeniedError)
            assert server.password not in str(error)
        server.kill()

    run(scenario())


def test_a_managed_server_that_does_not_show_its_settings(make: Callable[..., RedisServer], environment: str) -> None:
    """Where nobody may ask how Redis syncs, each restart counts as a loss."""

    async def scenario() -> None:
        server = make(rename_command='CONFIG ""')
        await server.start()
        async with open_queue(server.url(), environment=environment) as queue:
            before = await queue.ensure()
            await queue.publish(tickets("a"))
            await server.stop()
            await server.start()
            assert await until(queue.ensure) != before
            assert ids(await take(queue)) == ["a"]
        server.kill()

    run(scenario())


# -- what lies beside the stream


def test_old_messages_go(redis_server: RedisServer, environment: str) -> None:
    """A message older than the age limit is not handed out, whether it was held by a dead worker or by nobody."""

    async def scenario() -> None:
        queue = await RedisQueue.connect(redis_server.url(), environment=environment, ack_wait_s=0.3, max_age_s=0.3)
        await queue.ensure()
        await queue.publish(tickets("a", "b"))
        await take(queue)

        async def depth() -> int:
            await queue.fetch(1, timeout_s=0.01)
            return await queue.depth()

        await until(depth, lambda depth: depth == 0)
        assert list(await queue.fetch(5, timeout_s=0.5)) == []
        await queue.publish(tickets("c"))
        assert ids(await take(queue)) == ["c"]
        await queue.close()

    run(scenario())


def test_workers_that_left_are_forgotten(redis_server: RedisServer, environment: str) -> None:
    """A worker that leaves takes its name with it, unless it still holds something, which another takes over."""

    async def names(queue: Any) -> set[str]:
        found = await queue._client.xinfo_consumers(keys(environment, "tasks"), "workers")
        return {item["name"] for item in found}

    async def scenario() -> None:
        async with open_queue(redis_server.url(), environment=environment, ack_wait_s=0.5) as queue:
            await queue.ensure()
            await queue.publish(tickets("a"))
            left = []
            for hold in (True, False):
                async with open_queue(redis_server.url(), environment=environment, ack_wait_s=0.5) as other:
                    assert len(await other.fetch(1, timeout_s=0.1)) == hold
                    left.append(other.consumer)  # type: ignore[attr-defined]
            assert await names(queue) >= {left[0]}
            assert left[1] not in await names(queue)
            assert ids(await take(queue)) == ["a"]

    run(scenario())


def test_a_delay_is_the_servers(redis_server: RedisServer, environment: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """fails when a client's clock is wrong by minutes: delays, windows and ages are told by the server's clock."""

    async def scenario() -> None:
        async with open_queue(redis_server.url(), environment=environment) as queue:
            await queue.ensure()
            monkeypatch.setattr("time.time", lambda: 0.0)
            await queue.publish(tickets("a"))
            assert await queue.publish(tickets("a")) == 0
            (item,) = await take(queue)
            await item.nak(0.05)
            (again,) = await take(queue)
            assert again.deliveries == 2

    run(scenario())
