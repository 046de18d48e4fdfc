"""Proxies that understand enough of three protocols to tell one statement of a worker from the next.

A statement is a query to PostgreSQL, a publication to NATS (which is how JetStream is asked for anything), an HTTP
request to a tool, or the opening of a connection to one of them. Each is named by what it is and by how often it came
before (`pg:record_step#2`), so that the same name means the same moment in every run of one scenario.
"""

from __future__ import annotations

import asyncio
import re
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING, Protocol

from relight.memory import journal
from relight.tasks import database, ledger
from relight_drill.processes import free_port

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator

PIECE = 1 << 16
# A server that owes an answer for longer than this will not give one.
ANSWER_S = 3.0


class Channel(StrEnum):
    """What a worker talks to."""

    POSTGRES = "pg"
    NATS = "nats"
    TOOL = "tool"


class When(StrEnum):
    """When the worker is killed, or frozen, in relation to a statement."""

    BEFORE = "before"
    """It has sent the statement, and the server never gets it."""
    AFTER = "after"
    """The server has answered, and the worker never gets the answer."""
    DURING = "during"
    """The server has the statement, and the worker is dead before it can have answered."""
    FROZEN = "frozen"
    """It is stopped before, others recover, and then it goes on, with the statement first."""
    STALLED = "stalled"
    """It is stopped after, others recover, and then it goes on, with the answer first."""


HELD_BACK = frozenset({When.BEFORE, When.FROZEN})
STOPPED = frozenset({When.FROZEN, When.STALLED})


@dataclass(frozen=True, slots=True, order=True)
class Point:
    """One statement of a run: the `number`-th of that name on that channel, from 1."""

    channel: Channel
    name: str
    number: int

    def __str__(self) -> str:
        return f"{self.channel}:{self.name}#{self.number}"

    @classmethod
    def parse(cls, text: str) -> Point:
        """The inverse of `str`."""
        channel, _, rest = text.partition(":")
        name, _, number = rest.rpartition("#")
        return cls(Channel(channel), name, int(number))


@dataclass(eq=False, slots=True)
class Traffic:
    """What one life of a worker sends, and the point where it is to be stopped.

    `strike` kills or freezes the process; the statement waits meanwhile. `held` is what that statement waits for.
    """

    strike: Callable[[], Awaitable[None]]
    point: Point | None = None
    when: When = When.BEFORE
    nth: int = 0
    """Instead of a point: the so-many-th statement, whatever it is."""
    sent: list[Point] = field(default_factory=list)
    struck: asyncio.Event = field(default_factory=asyncio.Event)
    released: asyncio.Event = field(default_factory=asyncio.Event)
    over: bool = False
    _counts: Counter[tuple[Channel, str]] = field(default_factory=Counter)

    def note(self, channel: Channel, name: str) -> bool:
        """Count a statement; whether it is the one."""
        self._counts[channel, name] += 1
        here = Point(channel, name, self._counts[channel, name])
        self.sent.append(here)
        if self.struck.is_set() or self.over:
            return False
        return here == self.point or len(self.sent) == self.nth


class Framing(Protocol):
    """One connection's protocol."""

    holds_all: bool
    """Whether everything that the server says from the statement on is the answer to it."""

    def asked(self, data: bytes) -> Iterator[tuple[bytes, str]]:
        """What the client sent, cut where statements begin: each piece with its statement's name, or ""."""
        ...

    def expect(self) -> None:
        """From here on look for the answer to the statement that `asked` gave last."""
        ...

    def answered(self, data: bytes) -> tuple[bytes, bytes, bool]:
        """What the server sent, cut where the answer ends or, without `holds_all`, begins; and whether it is there."""
        ...


class PostgresFraming:
    """The simple query protocol, as psycopg2 speaks it, without encryption."""

    def __init__(self) -> None:
        self._begun = False
        self._client = b""
        self._server = b""
        self.holds_all = False

    def asked(self, data: bytes) -> Iterator[tuple[bytes, str]]:
        self._client += data
        while True:
            head = 1 if self._begun else 0
            if len(self._client) < head + 4:
                return
            size = head + int.from_bytes(self._client[head : head + 4], "big")
            if len(self._client) < size:
                return
            message, self._client = self._client[:size], self._client[size:]
            if not self._begun:
                self._begun = True
                yield message, "cancel" if message[4:8] == b"\x04\xd2\x16\x2e" else "connect"
            elif message[:1] == b"Q":
                self.holds_all = True
                yield message, statement_name(message[5:-1].decode(errors="replace"))
            else:
                yield message, ""

    def expect(self) -> None:
        self._server = b""

    def answered(self, data: bytes) -> tuple[bytes, bytes, bool]:
        self._server += data
        at = 0
        while len(self._server) >= at + 5:
            size = 1 + int.from_bytes(self._server[at + 1 : at + 5], "big")
            if len(self._server) < at + size:
                break
            if self._server[at : at + 1] == b"Z":
                cut = at + size if self.holds_all else at
                return self._server[:cut], self._server[cut:], True
            at += size
        done, self._server = (b"", self._server) if self.holds_all else (self._server[:at], self._server[at:])
        return done, b"", False


class NatsFraming:
    """The client protocol; an answer is the first message for the inbox that the publication named."""

    holds_all = False

    def __init__(self) -> None:
        self._client = b""
        self._server = b""
        self._inbox = b""
        self._wanted: bytes | None = None

    def asked(self, data: bytes) -> Iterator[tuple[bytes, str]]:
        self._client += data
        while (line := _line(self._client)) is not None:
            words = line.split()
            verb = words[0].upper() if words else b""
            size = len(line) + 2
            if verb in (b"PUB", b"HPUB"):
                size += int(words[-1]) + 2
            if len(self._client) < size:
                return
            message, self._client = self._client[:size], self._client[size:]
            if verb in (b"PUB", b"HPUB"):
                has_inbox = len(words) == (4 if verb == b"PUB" else 5)
                self._inbox = words[2] if has_inbox else b""
                yield message, publication_name(words[1].decode(), message[len(line) + 2 : -2])
            elif verb == b"CONNECT":
                self._inbox = b""
                yield message, "connect"
            else:
                yield message, ""

    def expect(self) -> None:
        self._wanted = self._inbox

    def answered(self, data: bytes) -> tuple[bytes, bytes, bool]:
        self._server += data
        at = 0
        while (line := _line(self._server, at)) is not None:
            words = line.split()
            verb = words[0].upper() if words else b""
            size = len(line) + 2
            if verb in (b"MSG", b"HMSG"):
                size += int(words[-1]) + 2
            if len(self._server) < at + size:
                break
            if self._wanted is not None and (
                (verb in (b"MSG", b"HMSG") and words[1] == self._wanted) if self._wanted else verb == b"PONG"
            ):
                self._wanted = None
                before, rest = self._server[:at], self._server[at:]
                self._server = b""
                return before, rest, True
            at += size
        done, self._server = self._server[:at], self._server[at:]
        return done, b"", False


class HttpFraming:
    """One request after the other, each with its length."""

    holds_all = True

    def __init__(self) -> None:
        self._client = b""
        self._server = b""

    def asked(self, data: bytes) -> Iterator[tuple[bytes, str]]:
        self._client += data
        while (size := http_size(self._client)) is not None and len(self._client) >= size:
            message, self._client = self._client[:size], self._client[size:]
            method, path, *_ = message.split(b"\r\n", 1)[0].decode().split()
            yield message, f"{method.lower()}{path.partition('?')[0]}"

    def expect(self) -> None:
        self._server = b""

    def answered(self, data: bytes) -> tuple[bytes, bytes, bool]:
        self._server += data
        size = http_size(self._server)
        return b"", self._server, size is not None and len(self._server) >= size


FRAMINGS: dict[Channel, Callable[[], Framing]] = {
    Channel.POSTGRES: PostgresFraming,
    Channel.NATS: NatsFraming,
    Channel.TOOL: HttpFraming,
}


class Proxy:
    """Stands in front of one server, for one life after the other."""

    def __init__(self, channel: Channel, server_port: int) -> None:
        self._channel = channel
        self._server_port = server_port
        self._server: asyncio.Server | None = None
        self._links: dict[asyncio.Task[None], _Link] = {}
        self.port = free_port()
        self.traffic: Traffic | None = None
        """Whose connections those are that are opened from now on."""
        self.left: set[int] = set()
        """The ports of connections to the server that have ended; it may still be at what they sent last."""

    @property
    def unanswered(self) -> bool:
        """Whether the server has not yet said anything to what an open connection sent last."""
        return any(link.unanswered for link in self._links.values())

    async def start(self) -> None:
        """Listen on loopback."""
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", self.port)

    async def close(self) -> None:
        """Stop listening, and cut what is open."""
        if self._server is not None:
            self._server.close()
        await self.cut()

    async def cut(self) -> None:
        """Cut every connection."""
        for task in self._links:
            task.cancel()
        await asyncio.gather(*self._links, return_exceptions=True)

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        me = asyncio.current_task()
        assert me is not None and self.traffic is not None  # noqa: S101
        link = self._links[me] = _Link(self._channel, self.traffic)
        try:
            with suppress(OSError):
                await link.carry(reader, writer, self._server_port)
        except asyncio.CancelledError:
            pass  # the stream server logs what a handler raises
        finally:
            del self._links[me]
            self.left.add(link.port)
            writer.close()


class _Link:
    """One connection through a proxy."""

    def __init__(self, channel: Channel, traffic: Traffic) -> None:
        self._channel = channel
        self._traffic = traffic
        self._framing = FRAMINGS[channel]()
        self._waiting = False
        self._answer = asyncio.Event()
        self.port = 0
        self.unanswered = False

    async def carry(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, port: int) -> None:
        upstream, onward = await asyncio.open_connection("127.0.0.1", port)
        self.port = onward.get_extra_info("sockname")[1]
        try:
            async with asyncio.TaskGroup() as group:
                ways = (
                    group.create_task(self._ask(reader, onward)),
                    group.create_task(self._answered(upstream, writer)),
                )
                await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
                for way in ways:
                    way.cancel()
        except* OSError:
            pass
        finally:
            onward.close()

    async def _ask(self, reader: asyncio.StreamReader, onward: asyncio.StreamWriter) -> None:
        while data := await reader.read(PIECE):
            for piece, name in self._framing.asked(data):
                if not name or not self._traffic.note(self._channel, name):
                    self.unanswered = True
                    onward.write(piece)
                    continue
                await self._trap(piece, onward)
            await onward.drain()
        # What the server still has to say to who has gone is dropped, as a dead host would drop it.

    async def _trap(self, piece: bytes, onward: asyncio.StreamWriter) -> None:
        when = self._traffic.when
        if when in HELD_BACK:
            await self._struck()
            onward.write(piece)
            return
        if when is When.DURING:
            onward.write(piece)
            await onward.drain()
            await self._struck()
            return
        self._framing.expect()
        self._waiting = True
        onward.write(piece)
        await onward.drain()
        with suppress(TimeoutError):
            async with asyncio.timeout(ANSWER_S):
                await self._answer.wait()
        await self._struck()

    async def _answered(self, upstream: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        held = b""
        while data := await upstream.read(PIECE):
            self.unanswered = False
            done, there = data, False
            if not self._traffic.struck.is_set() and (self._waiting or isinstance(self._framing, NatsFraming)):
                done, rest, there = self._framing.answered(data)
                held, done = (done + rest, b"") if self._framing.holds_all else (rest, done)
            if done:
                writer.write(done)
                await writer.drain()
            if there:
                self._waiting = False
                self._answer.set()
                await self._traffic.released.wait()
                writer.write(held)
                held = b""
        if self._waiting:
            self._answer.set()  # the end of the connection is an answer too
            await self._traffic.released.wait()

    async def _struck(self) -> None:
        """Kill or freeze the process, and wait for whoever lets the statement go on; mostly nobody does."""
        await self._traffic.strike()
        self._traffic.struck.set()
        await self._traffic.released.wait()


def _line(data: bytes, at: int = 0) -> bytes | None:
    end = data.find(b"\r\n", at)
    return None if end < 0 else data[at:end]


def http_size(data: bytes) -> int | None:
    """The length of the message that `data` begins with; None while its headers are not whole."""
    end = data.find(b"\r\n\r\n")
    if end < 0:
        return None
    found = re.search(rb"(?i)\r\ncontent-length: *(\d+)", data[: end + 2])
    return end + 4 + (int(found[1]) if found else 0)


def _beginnings() -> list[tuple[str, str]]:
    """How each named statement begins, the longest first."""
    found = []
    for module in (ledger, database, journal):
        for name, text in module.SQL.items():
            found.append((re.split(r"%\(|%s", text)[0].rstrip(), name))
    return sorted(found, key=lambda item: -len(item[0]))


_BEGINNINGS = _beginnings()


def statement_name(text: str) -> str:
    """The name of one of the library's statements, else its first words."""
    text = text.strip()
    for beginning, name in _BEGINNINGS:
        if text.startswith(beginning):
            return name
    return "-".join(re.findall(r"\w+", text.lower())[:2])


def publication_name(subject: str, body: bytes) -> str:
    """What is asked of JetStream, without the names of streams and consumers."""
    if subject.startswith("$JS.API."):
        words = subject.split(".")[2:]
        return "-".join(word.lower() for word in words if word.isupper() and "RELIGHT" not in word)
    if subject.startswith("$JS.ACK."):
        return body.split()[0].decode().lower().strip("+-") if body else "ack"
    return "publish" if subject.endswith(".tasks") else subject.split(".")[-2]
