"""The task queue on Redis Streams."""

from __future__ import annotations

import asyncio
import math
import re
import secrets
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from redis.asyncio import BlockingConnectionPool, Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import AuthenticationError, AuthorizationError, NoPermissionError, RedisError

from relight.errors import ConfigError, DeniedError, QueueLostError, RelightError, UnavailableError
from relight.queue.port import (
    ACK_WAIT_S,
    DEAD_REASON,
    DEDUPE_WINDOW_S,
    MAX_AGE_S,
    MAX_DELIVERIES,
    DeadLetter,
    age_of,
)
from relight.tasks.sql import statements
from relight.vault.manifest import QueuePosition

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from relight.queue.port import Ticket

_LUA = statements("relight.queue.lua", "redis.lua")
_GROUP = "workers"
_TIMEOUT_S = 5.0
_CLOSE_S = 2.0
_CONNECTIONS = 32
# Tickets that one script stores: Redis does nothing else meanwhile.
_CHUNK = 250
# Chunks whose answers are outstanding.
_IN_FLIGHT = 8
# How long one blocking read lasts at most: what comes due or loses its worker meanwhile waits for the next.
_READ_S = 1.0
# A worker that left without a word is forgotten after a day.
_IDLE_MS = 24 * 3600 * 1000
_OLDEST = (6, 2)
_CODES = re.compile(r"\b(OOM|READONLY|LOADING|MISCONF|NOREPLICAS|BUSY|MASTERDOWN|CLUSTERDOWN|TRYAGAIN)\b")
_REFUSED = re.compile(r"\b(NOPERM|NOAUTH|WRONGPASS)\b")


class RedisDelivery:
    """A message of the stream, held by this worker under its name in the group."""

    def __init__(self, queue: RedisQueue, *, id: str, task_id: str, deliveries: int, times: int) -> None:  # noqa: A002
        self._queue = queue
        self._id = id
        self._times = times
        self.task_id = task_id
        self.deliveries = deliveries

    async def ack(self) -> None:
        with _translating("acknowledge a task"):
            await self._queue.run("ack", self._id)

    async def nak(self, delay_s: float) -> None:
        delay_ms = max(math.ceil(delay_s * 1000), 0)
        with _translating("give a task back"):
            _kept(
                await self._queue.run(
                    "nak", self._queue.consumer, self._id, self._times, self.task_id, self.deliveries, delay_ms
                )
            )

    async def in_progress(self) -> None:
        with _translating("keep a task"):
            _kept(await self._queue.run("in_progress", self._queue.consumer, self._id, self._times))


class RedisQueue:
    """A stream with one consumer group; messages that wait, dead letters and what was published lie beside it.

    Each change is one script, so that a crash leaves nothing half done, and every time is the server's. The keys share
    a hash tag. The duplicate window is 10 minutes. Works with Redis from 6.2 on and with Valkey, not in cluster mode.

    Redis acknowledges what its settings make durable:

    - `appendonly yes` and `appendfsync always`: what was acknowledged survives a restart and a crash of the host, and
      the incarnation stays.
    - anything else (`everysec` loses a second, snapshots lose minutes, a managed server does not say): every restart
      may have lost something, and counts as the loss of the store: another incarnation.
    - replicas are filled asynchronously, so one that was promoted is another incarnation whatever the settings.

    So is one whose stream or state is missing, as after FLUSHALL. Keys must not be evicted: `maxmemory-policy` is
    `noeviction`, or one that takes only keys with a time to live.
    """

    def __init__(
        self,
        client: Redis,
        *,
        environment: str,
        ack_wait_s: float = ACK_WAIT_S,
        max_deliveries: int = MAX_DELIVERIES,
        max_age_s: float = MAX_AGE_S,
        dedupe_window_s: float = DEDUPE_WINDOW_S,
    ) -> None:
        self._client = client
        self.consumer = secrets.token_hex(8)
        self._stream = f"relight:{{{environment}}}:tasks"
        self._keys = [
            f"relight:{{{environment}}}:{name}"
            for name in ("state", "tasks", "published", "delayed", "dead", "deaths", "returned")
        ]
        self._ack_wait_ms = round(ack_wait_s * 1000)
        self._max_deliveries = max_deliveries
        self._max_age_ms = round(max_age_s * 1000)
        self._window_ms = round(dedupe_window_s * 1000)
        self._incarnation = ""
        self._server_run = ""
        self._cursor = "0-0"

    @classmethod
    async def connect(cls, url: str, *, environment: str, **options: Any) -> RedisQueue:
        """Connect, in bounded time; broken connections are replaced later on."""
        try:
            pool = BlockingConnectionPool.from_url(
                url,
                max_connections=_CONNECTIONS,
                timeout=_TIMEOUT_S,
                protocol=2,
                decode_responses=True,
                socket_connect_timeout=3.0,
                socket_timeout=_TIMEOUT_S,
                socket_keepalive=True,
                # A call that failed is the caller's to repeat: it knows for how long it may.
                retry=Retry(NoBackoff(), 0),
                client_name="relight",
            )
        except (ValueError, TypeError):
            # Its text would hold the address.
            raise ConfigError(
                "the queue's address cannot be read", hint="write redis://USER:PASSWORD@HOST:PORT/DATABASE"
            ) from None
        queue = cls(Redis.from_pool(pool), environment=environment, **options)
        try:
            with _translating("connect to the queue"):
                async with asyncio.timeout(_TIMEOUT_S):
                    await queue._command("PING")
        except BaseException:
            await queue._disconnect()
            raise
        return queue

    # -- what it is

    async def ensure(self) -> str:
        with _translating("make the queue"):
            server, memory = await self._info("server"), await self._info("memory")
            _check(server, memory)
            origin = await self._origin(server)
            answer = await self.run("ensure", origin, secrets.token_hex(8), _IDLE_MS, expecting="")
        self._incarnation, self._server_run = answer[1], server["run_id"]
        return self._incarnation

    async def incarnation(self) -> str:
        with _translating("ask the queue who it is"):
            look, server = await self._together(self._call("look", expecting=""), ("INFO", "server"))
            _, incarnation, origin, *_ = _kept(look)
            if server["run_id"] != self._server_run and origin != await self._origin(server):
                # Nobody has called `ensure` since the store may have lost something.
                raise QueueLostError(_LOST, hint=_AGAIN)
        return str(incarnation)

    async def _origin(self, server: dict[str, Any]) -> str:
        """What stays the same exactly as long as nothing that was acknowledged can have been lost."""
        if await self._synced():
            replication = await self._info("replication")
            # A replica that was promoted remembers whose it was, and up to where.
            if replication["second_repl_offset"] < 0:
                return "synced"
            return f"synced, once {replication['master_replid2']}"
        return f"run {server['run_id']}"

    async def _synced(self) -> bool:
        try:
            found: dict[Any, Any] = await self._client.config_get("append*")
        except RedisError as exc:
            # Managed servers do not let one look.
            if "unknown command" in str(exc) or isinstance(exc, NoPermissionError):
                return False
            raise
        return bool(found.get("appendonly") == "yes" and found.get("appendfsync") == "always")

    async def _same_store(self, server: dict[str, Any]) -> None:
        """QueueLostError when the server is another since `ensure`, or ran anew, and the store may have lost by it."""
        if not self._server_run or server["run_id"] == self._server_run:
            return
        look = _kept(await self.run("look"))
        if look[2] != await self._origin(server):
            raise QueueLostError(_LOST, hint=_AGAIN)
        self._server_run = server["run_id"]

    # -- what goes in

    async def publish(self, tickets: Sequence[Ticket]) -> int:
        new = 0
        with _translating("publish tasks"):
            for start in range(0, len(tickets), _CHUNK * _IN_FLIGHT):
                part = tickets[start : start + _CHUNK * _IN_FLIGHT]
                chunks = [part[first : first + _CHUNK] for first in range(0, len(part), _CHUNK)]
                calls = [
                    self._call(
                        "publish", self._window_ms, *(text for one in chunk for text in (one.dedupe_id, one.task_id))
                    )
                    for chunk in chunks
                ]
                *answers, server = await self._together(*calls, ("INFO", "server"))
                new += sum(_kept(answer)[1] for answer in answers)
                await self._same_store(server)
        return new

    # -- what comes out

    async def fetch(self, limit: int, *, timeout_s: float) -> Sequence[RedisDelivery]:
        loop = asyncio.get_running_loop()
        ends = loop.time() + timeout_s
        with _translating("fetch tasks"):
            while True:
                wait_s, taken = await self._take(limit)
                left_s = ends - loop.time()
                if taken or left_s <= 0:
                    return taken
                taken = await self._read(limit, min(wait_s, left_s))
                if taken:
                    return taken

    async def _take(self, limit: int) -> tuple[float, list[RedisDelivery]]:
        """What can be had at once; and how long to wait for more before asking again."""
        answer, server = await self._together(
            self._call(
                "take", self.consumer, limit, self._ack_wait_ms, self._max_deliveries, self._max_age_ms, self._cursor
            ),
            ("INFO", "server"),
        )
        _, self._cursor, due_ms, taken = _kept(answer)
        await self._same_store(server)
        wait_s = min(_READ_S, self._ack_wait_ms / 1000)
        return (
            wait_s if due_ms < 0 else min(due_ms / 1000, wait_s),
            [
                RedisDelivery(self, id=id_, task_id=task_id, deliveries=deliveries, times=times)
                for id_, task_id, deliveries, times in taken
            ],
        )

    async def _read(self, limit: int, wait_s: float) -> list[RedisDelivery]:
        """Wait for something new."""
        command = ("XREADGROUP", "GROUP", _GROUP, self.consumer, "COUNT", limit, "BLOCK", max(round(wait_s * 1000), 1))
        got = await self._command(*command, "STREAMS", self._stream, ">")
        held = []
        for id_, fields in got[0][1] if got else []:
            deliveries = int(fields.get("n", 0)) + 1
            if deliveries > self._max_deliveries:
                _kept(await self.run("bury", self.consumer, id_, fields["t"], deliveries - 1))
            else:
                held.append(RedisDelivery(self, id=id_, task_id=fields["t"], deliveries=deliveries, times=1))
        return held

    # -- what was given up

    async def dead_letters(self, limit: int = 100) -> Sequence[DeadLetter]:
        with _translating("read the dead letters"):
            _, found = _kept(await self.run("dead_letters", limit))
        return [
            DeadLetter(
                task_id=task_id,
                deliveries=deliveries,
                at=datetime.fromtimestamp(float(at_ms) / 1000, UTC),
                reason=DEAD_REASON,
            )
            for task_id, deliveries, at_ms in found
        ]

    async def discard_dead(self, task_id: str) -> None:
        with _translating("discard a dead letter"):
            await self.run("discard_dead", task_id)

    # -- how far it is

    async def position(self) -> QueuePosition:
        with _translating("ask the queue how far it is"):
            return QueuePosition(stream=self._stream, last_sequence=_kept(await self.run("look", expecting=""))[3])

    async def depth(self) -> int:
        with _translating("measure the queue"):
            return int(_kept(await self.run("look", expecting=""))[4])

    async def age_s(self) -> float:
        with _translating("ask the queue how far back it goes"):
            _, now_ms, oldest_ms, newest_ms = _kept(await self.run("age"))
        return 0.0 if oldest_ms < 0 else age_of(oldest_ms / 1000, newest=newest_ms / 1000, now=now_ms / 1000)

    async def close(self) -> None:
        with suppress(RelightError, RedisError, TimeoutError, OSError):
            async with asyncio.timeout(_CLOSE_S):
                await self.run("leave", self.consumer)
        await self._disconnect()

    async def _disconnect(self) -> None:
        with suppress(RedisError, TimeoutError, OSError):
            async with asyncio.timeout(_CLOSE_S):
                await self._client.aclose()
                await self._client.connection_pool.disconnect()

    # -- the wire

    async def run(self, script: str, *args: str | float, expecting: str | None = None) -> Any:
        """Run a script in one step."""
        return await self._command(*self._call(script, *args, expecting=expecting))

    async def _command(self, *words: str | float) -> Any:
        return await self._client.execute_command(*words)  # type: ignore[no-untyped-call]

    def _call(self, script: str, *args: str | float, expecting: str | None = None) -> tuple[str | float, ...]:
        expected = self._incarnation if expecting is None else expecting
        text = f"{_LUA['prelude']}\n{_LUA[script]}"
        return ("EVAL", text, len(self._keys), *self._keys, expected, *args)

    async def _together(self, *commands: tuple[str | float, ...]) -> list[Any]:
        """Send several in one go; the first error among the answers is raised."""
        pipeline = self._client.pipeline(transaction=False)
        for command in commands:
            pipeline.execute_command(*command)
        answers: list[Any] = await pipeline.execute(raise_on_error=False)
        for answer in answers:
            if isinstance(answer, Exception):
                raise answer
        return answers

    async def _info(self, section: str) -> dict[str, Any]:
        found: dict[str, Any] = await self._command("INFO", section)
        return found


_LOST, _AGAIN = "the queue is gone, or was made again", "call `ensure` and publish again what it must hold"


def _kept(answer: Any) -> Any:
    """A script's answer; QueueLostError when it found another incarnation, or none."""
    if answer[0] == 0:
        raise QueueLostError(_LOST, hint=_AGAIN)
    return answer


def _check(server: dict[str, Any], memory: dict[str, Any]) -> None:
    version = str(server["redis_version"])
    if tuple(int(part) for part in version.split(".")[:2]) < _OLDEST:
        raise ConfigError(f"the queue runs on Redis {version}, and needs 6.2", hint="upgrade the server")
    policy = str(memory.get("maxmemory_policy", "noeviction"))
    if policy.startswith("allkeys"):
        raise ConfigError(
            f"Redis has the maxmemory-policy {policy!r}, under which it may drop tasks, and a queue needs noeviction",
            hint="set maxmemory-policy to noeviction",
        )


@contextmanager
def _translating(action: str) -> Iterator[None]:
    # The driver's texts, and what hangs on its exceptions, may hold the server's address: only classes and the codes
    # that Redis itself puts before its errors are passed on.
    try:
        yield
    except RelightError:
        raise
    except (AuthenticationError, AuthorizationError, NoPermissionError):
        raise _refused(action) from None
    except (RedisError, TimeoutError, OSError) as exc:
        text = str(exc)
        if _REFUSED.search(text):
            raise _refused(action) from None
        if "NOGROUP" in text or "UNBLOCKED" in text:
            raise QueueLostError(_LOST, hint=_AGAIN) from None
        if "WRONGTYPE" in text:
            raise ConfigError(
                f"cannot {action}: a key of the queue holds something else",
                hint="give Relight a database of its own, or delete the keys that begin with `relight:`",
            ) from None
        # The driver cuts off some codes, and scripts put them in the middle of their errors.
        found = _CODES.search(f"{getattr(exc, 'status_code', None)} {text}")
        what = found[1] if found else type(exc).__name__
        raise UnavailableError(f"cannot {action}: {what}", hint=_HINTS.get(what, "see that Redis is up")) from None


_HINTS = {
    "OOM": "Redis has reached maxmemory: raise it, or let workers finish",
    "READONLY": "this is a replica: give the address of the primary",
    "LOADING": "Redis reads its files: try again",
    "MISCONF": "Redis cannot write to its disk: see its log",
    "NOREPLICAS": "Redis has fewer replicas than min-replicas-to-write",
}


def _refused(action: str) -> DeniedError:
    return DeniedError(f"cannot {action}: Redis refuses the user", hint="see the queue's address in the secret")
