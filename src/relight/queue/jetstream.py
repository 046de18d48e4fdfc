"""The task queue on NATS JetStream."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import json
import math
import re
import uuid
from contextlib import contextmanager, suppress
from datetime import datetime
from functools import partial
from time import monotonic
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import nats
from nats.errors import (
    ConnectionReconnectingError,
    MaxPayloadError,
    NoRespondersError,
    OutboundBufferLimitError,
)
from nats.errors import Error as NatsError

from relight.errors import ConfigError, DeniedError, QueueLostError, RelightError, UnavailableError
from relight.queue.jetstream_config import (
    REPLICAS,
    consumer_as_promised,
    dead_as_promised,
    new_stream,
    stream_as_promised,
)
from relight.queue.port import (
    ACK_WAIT_S,
    DEAD_REASON,
    DEDUPE_WINDOW_S,
    MAX_AGE_S,
    MAX_DELIVERIES,
    DeadLetter,
    age_of,
)
from relight.vault.manifest import QueuePosition

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from nats.aio.client import Client
    from nats.aio.msg import Msg

    from relight.queue.port import Ticket

_CONSUMER = "workers"
_API = "$JS.API"
_TIMEOUT_S = 5.0
_CLOSE_S = 2.0
# A server that fell silent is noticed after two of these.
_PING_EVERY_S = 5
# Publications that wait for their acknowledgement.
_IN_FLIGHT = 1000
# The most that the server takes in one batch, and the version that was the first to take any.
_BATCH = 1000
_BATCHES_SINCE = (2, 12)
# The share of the ack wait that a call may take to reach the server.
_LATENCY = 0.1
# How long the rest of a batch may take to follow.
_BATCH_PAUSE_S = 0.05

_NO_STREAM, _NO_CONSUMER = 10059, 10014
_STREAM_EXISTS, _CONSUMER_EXISTS = 10058, 10148
# Too few servers, no room on enough of them, and no cluster at all.
_NOT_SO_MANY = (10005, 10023, 10074)
_PLAIN_ID = re.compile(r"[A-Za-z0-9._:/=+-]{1,200}")


class _ApiError(Exception):
    """What JetStream answered instead; its description names streams and limits, and no address."""

    def __init__(self, error: dict[str, Any]) -> None:
        super().__init__(error.get("description", ""))
        self.code = int(error.get("code", 500))
        self.number = int(error.get("err_code", 0))


class JetStreamDelivery:
    """A message of the work queue."""

    def __init__(self, client: Client, message: Msg, *, arrived_at: float, ack_wait_s: float) -> None:
        self._client = client
        self._reply = message.reply
        self._ack_wait_s = ack_wait_s
        self._held_until = arrived_at + ack_wait_s
        # Whatever somebody put there is handed out, to be thrown away by who looks into the ledger.
        self.task_id = message.data.decode(errors="surrogateescape")
        self.deliveries = message.metadata.num_delivered

    async def ack(self) -> None:
        await self._settle("acknowledge a task", b"+ACK")

    async def nak(self, delay_s: float) -> None:
        # The server would take it from whoever holds the message by the time it reads this. So close to the end that
        # somebody else may, it is handed out again soon enough by itself.
        if monotonic() < self._held_until - _LATENCY * self._ack_wait_s:
            self._held_until = 0.0
            await self._settle("give a task back", f'-NAK {{"delay": {_nanoseconds(max(delay_s, 0.0))}}}'.encode())

    async def in_progress(self) -> None:
        before = monotonic()
        if before < self._held_until:
            await self._settle("keep a task", b"+WPI")
            self._held_until = before + self._ack_wait_s

    async def bury(self) -> None:
        await self._settle("give up a task", b"+TERM " + DEAD_REASON.encode())

    async def _settle(self, action: str, verb: bytes) -> None:
        with _translating(action):
            _check_connected(self._client)
            try:
                await self._client.request(self._reply, verb, timeout=_TIMEOUT_S)
            except NoRespondersError:
                raise QueueLostError(_LOST, hint=_AGAIN) from None


class JetStreamQueue:
    """A work-queue stream with file storage, one durable pull consumer, and a stream of dead letters.

    Three replicas where the cluster has as many servers, one elsewhere. Its incarnation is the stream's time of
    creation: it survives restarts, and changes when the stream is deleted or the disk wiped. JetStream acknowledges
    before it syncs, so set `sync_interval: always`, or have three replicas, that a host's crash loses nothing.

    The duplicate window is 10 minutes; after a restart the server knows only what is still in the
    queue. It refuses a new message when a limit of the stream is reached (`discard: new`), and never drops an old one.
    A server that is killed may forget what it had handed out: the acknowledgement of that is refused, and it comes
    again.
    """

    def __init__(
        self,
        client: Client,
        *,
        url: str,
        environment: str,
        ack_wait_s: float = ACK_WAIT_S,
        max_deliveries: int = MAX_DELIVERIES,
        max_age_s: float = MAX_AGE_S,
        dedupe_window_s: float = DEDUPE_WINDOW_S,
    ) -> None:
        self._client = client
        self._url = url
        self._reconnecting = asyncio.Lock()
        self._left = False
        self._stream = f"RELIGHT-{environment.upper()}"
        self._subject = f"relight.{environment}.tasks"
        # No environment's name has an underscore.
        self._dead_stream = f"{self._stream}_DEAD"
        self._dead_subjects = f"relight.{environment}.dead"
        self._ack_wait_s = ack_wait_s
        self._max_deliveries = max_deliveries
        self._max_age = _nanoseconds(max_age_s)
        self._window = _nanoseconds(min(dedupe_window_s, max_age_s))
        self._incarnation: str | None = None

    @classmethod
    async def connect(cls, url: str, *, environment: str, **options: Any) -> JetStreamQueue:
        """Connect, in bounded time; the client reconnects by itself later on. Several servers stand between commas."""
        return cls(await _connect(url), url=url, environment=environment, **options)

    # -- what it is

    async def ensure(self) -> str:
        with _translating("make the queue"):
            created = await self._ensure_stream(
                self._stream,
                partial(
                    stream_as_promised,
                    subject=self._subject,
                    max_age=self._max_age,
                    window=self._window,
                    in_batches=_takes_batches(self._client),
                ),
            )
            await self._ensure_consumer()
            await self._ensure_stream(self._dead_stream, partial(dead_as_promised, subject=f"{self._dead_subjects}.*"))
        self._incarnation = created
        return created

    async def incarnation(self) -> str:
        with _translating("ask the queue who it is"):
            return str((await self._info())["created"])

    async def _info(self) -> dict[str, Any]:
        return await self._api(f"STREAM.INFO.{self._stream}")

    async def _ensure_stream(self, name: str, as_promised: Callable[[dict[str, Any]], dict[str, Any]]) -> str:
        """Make or reconcile a stream; its time of creation."""
        try:
            info = await self._api(f"STREAM.INFO.{name}")
        except _ApiError as exc:
            if exc.number != _NO_STREAM:
                raise
            try:
                info = await self._with_replicas(f"STREAM.CREATE.{name}", as_promised(new_stream(name)), fewest=1)
            except _ApiError as exc:
                if exc.number != _STREAM_EXISTS:
                    raise
                info = await self._api(f"STREAM.INFO.{name}")  # somebody else made it, and not quite like this
        present = info["config"]
        wanted = as_promised(present)
        clustered = bool(info.get("cluster", {}).get("name"))
        if wanted != present or (clustered and present["num_replicas"] < REPLICAS):
            await self._with_replicas(f"STREAM.UPDATE.{name}", wanted, fewest=present["num_replicas"])
        return str(info["created"])

    async def _with_replicas(self, call: str, config: dict[str, Any], *, fewest: int) -> dict[str, Any]:
        """Ask for as many replicas as are wanted, and take `fewest` where the server has not so many."""
        try:
            return await self._api(call, config | {"num_replicas": max(REPLICAS, fewest)})
        except _ApiError as exc:
            if exc.number not in _NOT_SO_MANY or fewest >= REPLICAS:
                raise
        return await self._api(call, config | {"num_replicas": fewest})

    async def _ensure_consumer(self) -> None:
        as_promised = partial(
            consumer_as_promised, name=_CONSUMER, subject=self._subject, ack_wait=_nanoseconds(self._ack_wait_s)
        )
        info_call = f"CONSUMER.INFO.{self._stream}.{_CONSUMER}"
        call = f"CONSUMER.CREATE.{self._stream}.{_CONSUMER}.{self._subject}"
        try:
            info = await self._api(info_call)
        except _ApiError as exc:
            if exc.number != _NO_CONSUMER:
                raise
            try:
                request = {"stream_name": self._stream, "config": as_promised({}), "action": "create"}
                info = await self._api(call, request)
            except _ApiError as exc:
                if exc.number != _CONSUMER_EXISTS:
                    raise
                info = await self._api(info_call)
        wanted = as_promised(info["config"])
        if wanted != info["config"]:
            await self._api(call, {"stream_name": self._stream, "config": wanted, "action": "update"})

    # -- what goes in

    async def publish(self, tickets: Sequence[Ticket]) -> int:
        if not tickets:
            return 0
        with _translating("publish tasks"):
            new = 0
            for first in range(0, len(tickets), _BATCH):
                part = tickets[first : first + _BATCH]
                new += len(part) if await self._publish_batch(part) else await self._publish(part)
            # The stream may have been deleted, and made again by somebody else, while this ran.
            if self._incarnation not in (None, str((await self._info())["created"])):
                raise QueueLostError(_LOST, hint=_AGAIN)
        return new

    async def _publish_batch(self, tickets: Sequence[Ticket]) -> bool:
        """Store all of them or none, with one sync of the disk for all; False when the server took none.

        It takes none when it knows one of them already: then each has to be told by itself.
        """
        client = await self._connected()
        if len(tickets) == 1 or not _takes_batches(client):
            return False
        batch = uuid.uuid4().hex
        for number, ticket in enumerate(tickets, start=1):
            headers = {
                "Nats-Msg-Id": _message_id(ticket.dedupe_id),
                "Nats-Batch-Id": batch,
                "Nats-Batch-Sequence": str(number),
            }
            if number < len(tickets):
                await client.publish(self._subject, ticket.task_id.encode(), headers=headers)
        try:
            answer = await self._request(
                self._subject, tickets[-1].task_id.encode(), headers | {"Nats-Batch-Commit": "1"}
            )
        except NoRespondersError:
            # The stream is gone, or nobody leads it now: asking for it tells them apart.
            await self._info()
            raise
        return "error" not in answer

    async def _publish(self, tickets: Sequence[Ticket]) -> int:
        client = await self._connected()
        answers: list[dict[str, Any]] = []
        arrived = asyncio.Event()
        no_stream = False

        async def take(message: Msg) -> None:
            nonlocal no_stream
            if _status(message):
                no_stream = True
            else:
                answers.append(json.loads(message.data))
            arrived.set()

        async def until(count: int) -> None:
            """Wait for that many answers, as long as some come."""
            while len(answers) < count and not no_stream:
                arrived.clear()
                async with asyncio.timeout(_TIMEOUT_S):
                    await arrived.wait()

        inbox = client.new_inbox()
        subscription = await client.subscribe(f"{inbox}.*", cb=take)
        try:
            for number, ticket in enumerate(tickets):
                await until(number - _IN_FLIGHT)
                if no_stream:
                    break
                await client.publish(
                    self._subject,
                    ticket.task_id.encode(),
                    reply=f"{inbox}.{number}",
                    headers={"Nats-Msg-Id": _message_id(ticket.dedupe_id)},
                )
            await until(len(tickets))
        finally:
            await self._leave(subscription)
        if no_stream:
            # The stream is gone, or nobody leads it now: asking for it tells them apart.
            await self._info()
            raise NoRespondersError
        for answer in answers:
            if "error" in answer:
                raise _ApiError(answer["error"])
        return sum(not answer.get("duplicate", False) for answer in answers)

    # -- what comes out

    async def fetch(self, limit: int, *, timeout_s: float) -> Sequence[JetStreamDelivery]:
        held, over = [], []
        with _translating("fetch tasks"):
            for arrived_at, message in await self._pull(limit, timeout_s):
                delivery = JetStreamDelivery(self._client, message, arrived_at=arrived_at, ack_wait_s=self._ack_wait_s)
                if delivery.deliveries > self._max_deliveries:
                    over.append((delivery, message))
                else:
                    held.append(delivery)
        try:
            with _translating("give up a task"):
                for delivery, message in over:
                    await self._bury(delivery, message)
        except UnavailableError:
            # It comes again; what can be worked on does not wait for that.
            if not held:
                raise
        return held

    async def _pull(self, limit: int, timeout_s: float) -> list[tuple[float, Msg]]:
        """One pull request, whose messages are either returned, with when they arrived, or given back."""
        client = await self._connected()
        messages: list[tuple[float, Msg]] = []
        ended: list[tuple[str, str]] = []
        arrived = asyncio.Event()

        async def take(message: Msg) -> None:
            status = _status(message)
            if not status:
                messages.append((monotonic(), message))
            elif status != "100":
                ended.append((status, (message.headers or {}).get("Description", "")))
            arrived.set()

        async def more(had: int, within_s: float) -> bool:
            """Wait until there are more than `had`, or it is known that there will be none."""
            with suppress(TimeoutError):
                async with asyncio.timeout(within_s):
                    while len(messages) <= had and not ended:
                        arrived.clear()
                        await arrived.wait()
            return len(messages) > had

        # An inbox of its own, so that nothing that a request of an earlier call still brings is taken for fresh.
        inbox = client.new_inbox()
        subscription = await client.subscribe(inbox, cb=take)
        try:
            request = {"batch": limit, "expires": max(_nanoseconds(timeout_s), 1)}
            await client.publish(
                f"{_API}.CONSUMER.MSG.NEXT.{self._stream}.{_CONSUMER}", json.dumps(request).encode(), reply=inbox
            )
            had, wait_s = 0, timeout_s + min(timeout_s, 1.0)
            while had < limit and await more(had, wait_s):
                had, wait_s = len(messages), _BATCH_PAUSE_S
                if not messages[-1][1].metadata.num_pending:
                    break
            # Until the server has said that it sends no more to this inbox.
            async with asyncio.timeout(_TIMEOUT_S):
                await subscription.drain()  # type: ignore[no-untyped-call]
        except BaseException:
            for _, message in messages:
                with suppress(NatsError):
                    await client.publish(message.reply, b"-NAK")
            await self._leave(subscription)
            raise
        if not messages:
            _check_connected(client)
        if not messages and ended:
            status, description = ended[0]
            if status == "503" or "deleted" in description.lower():
                await self._info()
                await self._api(f"CONSUMER.INFO.{self._stream}.{_CONSUMER}")
                raise NoRespondersError
            if status == "400":
                raise _ApiError({"code": 400, "description": description})
            if status == "409" and not any(word in description for word in ("Leadership", "Shutdown", "Interest")):
                raise _ApiError({"code": 503, "description": description})
        return messages

    async def _bury(self, delivery: JetStreamDelivery, message: Msg) -> None:
        """Whoever is killed in between leaves the message, and the next who fetches it does the same again."""
        letter = {"task_id": delivery.task_id, "deliveries": delivery.deliveries - 1, "reason": DEAD_REASON}
        sequence = message.metadata.sequence.stream
        answer = await self._request(
            self._dead_subject(delivery.task_id),
            json.dumps(letter).encode(),
            headers={"Nats-Msg-Id": f"{sequence}.{message.metadata.timestamp.isoformat()}"},
        )
        if "error" in answer:
            raise _ApiError(answer["error"])
        await delivery.bury()

    # -- what was given up

    async def dead_letters(self, limit: int = 100) -> Sequence[DeadLetter]:
        found: list[DeadLetter] = []
        sequence = 1
        with _translating("read the dead letters"):
            while len(found) < limit:
                try:
                    answer = await self._api(
                        f"STREAM.MSG.GET.{self._dead_stream}",
                        {"seq": sequence, "next_by_subj": f"{self._dead_subjects}.*"},
                    )
                except _ApiError as exc:
                    if exc.code == 404 and exc.number != _NO_STREAM:
                        break
                    raise
                stored = answer["message"]
                letter = json.loads(base64.b64decode(stored["data"]))
                found.append(DeadLetter(**letter, at=_moment(stored["time"])))
                sequence = stored["seq"] + 1
        return found

    async def discard_dead(self, task_id: str) -> None:
        with _translating("discard a dead letter"):
            await self._api(f"STREAM.PURGE.{self._dead_stream}", {"filter": self._dead_subject(task_id)})

    def _dead_subject(self, task_id: str) -> str:
        # A subject holds neither spaces nor dots of an id, and is not longer than a line.
        return f"{self._dead_subjects}.{hashlib.sha256(task_id.encode()).hexdigest()}"

    # -- how far it is

    async def position(self) -> QueuePosition:
        with _translating("ask the queue how far it is"):
            return QueuePosition(stream=self._stream, last_sequence=(await self._info())["state"]["last_seq"])

    async def depth(self) -> int:
        with _translating("measure the queue"):
            return int((await self._info())["state"]["messages"])

    async def age_s(self) -> float:
        with _translating("ask the queue how far back it goes"):
            info = await self._info()
            if self._incarnation not in (None, str(info["created"])):
                raise QueueLostError(_LOST, hint=_AGAIN)
            try:
                # An operator's subjects may be in the stream too.
                found = await self._api(f"STREAM.MSG.GET.{self._stream}", {"seq": 1, "next_by_subj": self._subject})
            except _ApiError as exc:
                if exc.code == 404 and exc.number != _NO_STREAM:
                    return 0.0
                raise
        if "ts" not in info:  # before NATS 2.10
            return math.inf
        return age_of(
            _moment(found["message"]["time"]).timestamp(),
            newest=_moment(info["state"]["last_ts"]).timestamp(),
            now=_moment(info["ts"]).timestamp(),
        )

    async def close(self) -> None:
        self._left = True
        # A server that says nothing keeps nobody.
        with suppress(TimeoutError, OSError, NatsError):
            async with asyncio.timeout(_CLOSE_S):
                await self._client.close()

    # -- the wire

    async def _api(self, call: str, request: dict[str, Any] | None = None) -> dict[str, Any]:
        """Ask JetStream, whole answers: what this client does not know is not lost on the way back."""
        answer = await self._request(f"{_API}.{call}", json.dumps(request).encode() if request else b"")
        if "error" in answer:
            raise _ApiError(answer["error"])
        return answer

    async def _connected(self) -> Client:
        """A client that has a server; ConnectionReconnectingError while it looks for one.

        Some errors of a server close a client for good: then another takes its place.
        """
        if self._client.is_closed and not self._left:
            async with self._reconnecting:
                if self._client.is_closed:
                    self._client = await _connect(self._url)
        _check_connected(self._client)
        return self._client

    async def _request(self, subject: str, body: bytes, headers: dict[str, str] | None = None) -> dict[str, Any]:
        client = await self._connected()
        message = await client.request(subject, body, timeout=_TIMEOUT_S, headers=headers)
        answer: dict[str, Any] = json.loads(message.data)
        return answer

    async def _leave(self, subscription: Any) -> None:
        with suppress(NatsError, OSError):
            await subscription.unsubscribe()


_LOST, _AGAIN = "the queue is gone, or was made again", "call `ensure` and publish again what it must hold"


async def _connect(url: str) -> Client:
    refused = False

    async def note(exc: Exception) -> None:
        """Errors come back from the calls that they concern, but for this one."""
        nonlocal refused
        refused = refused or "authorization" in str(exc).lower()

    servers = url.split(",")
    try:
        for server in servers:
            urlsplit(server).port  # noqa: B018 - a ValueError when it is none
        with _translating("connect to the queue"):
            # An unbounded number of reconnects makes the first connect unbounded too.
            async with asyncio.timeout(_TIMEOUT_S):
                return await nats.connect(
                    servers,
                    name="relight",
                    connect_timeout=3,
                    max_reconnect_attempts=-1,
                    reconnect_time_wait=1,
                    ping_interval=_PING_EVERY_S,
                    error_cb=note,
                )
    except UnavailableError:
        if not refused:
            raise
        raise DeniedError(
            "the queue refuses the user that connects", hint="see the queue's address in the region's secret"
        ) from None
    except (ValueError, TypeError):
        # Its text would hold the address.
        raise ConfigError("the queue's address cannot be read", hint="write nats://USER:PASSWORD@HOST:PORT") from None


def _takes_batches(client: Client) -> bool:
    """Whether the server stores messages in batches: NATS 2.12 and later."""
    version = client.connected_server_version
    return (version.major, version.minor) >= _BATCHES_SINCE


def _check_connected(client: Client) -> None:
    # What is sent while the client reconnects is kept, and may go out long after the caller gave up.
    if not client.is_connected:
        raise ConnectionReconnectingError


def _status(message: Msg) -> str:
    """What the server says instead of a message, or ""."""
    return (message.headers or {}).get("Status", "") if not message.data else ""


def _message_id(dedupe_id: str) -> str:
    """As it is where a header can hold it, else its digest, which is no dedupe id: those have dots."""
    return dedupe_id if _PLAIN_ID.fullmatch(dedupe_id) else hashlib.sha256(dedupe_id.encode()).hexdigest()


def _nanoseconds(seconds: float) -> int:
    return int(seconds * 1_000_000_000)


def _moment(text: str) -> datetime:
    """A time of the server, to the microsecond."""
    whole, _, fraction = text.removesuffix("Z").partition(".")
    return datetime.fromisoformat(f"{whole}.{fraction[:6]:0<6}+00:00")


@contextmanager
def _translating(action: str) -> Iterator[None]:
    # The driver's texts, and what hangs on its exceptions, may hold the server's address, and with it a password: only
    # the class is passed on.
    try:
        yield
    except RelightError:
        raise
    except _ApiError as exc:
        if exc.number in (_NO_STREAM, _NO_CONSUMER):
            raise QueueLostError(_LOST, hint=_AGAIN) from None
        if exc.code == 400:
            raise ConfigError(f"cannot {action}: {exc}", hint="change what the server names, and call again") from None
        raise UnavailableError(f"cannot {action}: {exc}", hint="see the limits and the state of JetStream") from None
    except MaxPayloadError:
        raise ConfigError(
            f"cannot {action}: a task's id is longer than a message may be",
            hint="use shorter ids, or raise max_payload",
        ) from None
    except (TimeoutError, NatsError, OutboundBufferLimitError, OSError) as exc:
        raise UnavailableError(
            f"cannot {action}: {type(exc).__name__}", hint="see that NATS is up and JetStream is enabled"
        ) from None
