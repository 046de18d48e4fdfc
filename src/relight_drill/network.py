"""The network of the drill, on loopback: links that can fail, a load balancer per region, and the way between regions.

Played parts. A link stands for the wire between two hosts. `Ingress` stands for a region's load balancer: it terminates
TLS and sends requests to agents that answer `/health`. `Internet` stands for everything between a caller and a public
name: an HTTP proxy, one port per side that calls. A region that falls silent has its bytes swallowed and its
connections left open; a dead one refuses and resets.
"""

from __future__ import annotations

import asyncio
import socket
import ssl
import struct
import time
from contextlib import suppress
from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import aiohttp
import trustme
from aiohttp import hdrs, web
from multidict import CIMultiDict
from yarl import URL

from relight_drill.processes import DrillError, free_port

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping
    from pathlib import Path

    from aiohttp.typedefs import Handler

CHUNK = 1 << 16
# What is no longer than this ends a connection of TLS and asks for nothing.
GOODBYE = 64
HEAD_LIMIT = 1 << 16
CONNECT_S = 5.0
HEAD_S = 30.0
HOP_BY_HOP = frozenset(
    (
        "connection",
        "expect",
        "keep-alive",
        "proxy-authorization",
        "proxy-connection",
        "te",
        "transfer-encoding",
        "upgrade",
    )
)


class Mode(StrEnum):
    """What a piece of the network does with what passes through it."""

    OPEN = "open"
    SILENT = "silent"
    DEAD = "dead"


@dataclass(slots=True, kw_only=True)
class Exchange:
    """Something that a caller sent, at `begun_at`, and when the last of the answer to it was handed over to it.

    `cut` is whether a silence swallowed some of the answer.
    """

    begun_at: float
    answered_at: float | None = None
    cut: bool = False


@dataclass(slots=True, kw_only=True)
class Passage:
    """A connection that was carried onward to the loopback port `to_port`, as the wire saw it, in monotonic seconds.

    The caller's end has the port `caller_port`, and the far end knows us by `our_port` (0: it refused us). `left_at` is
    when the caller ended it, and None where it did not. What was encrypted is not read: a pooled connection's next
    request is what the caller sends after an answer.
    """

    to_port: int
    caller_port: int
    opened_at: float
    our_port: int = 0
    left_at: float | None = None
    exchanges: list[Exchange] = field(default_factory=list)

    def sent(self, size: int) -> None:
        """The caller sent so many bytes."""
        if size > GOODBYE and (not self.exchanges or self.exchanges[-1].answered_at is not None):
            self.exchanges.append(Exchange(begun_at=time.monotonic()))

    def answered(self) -> None:
        """Something of the far end's was handed over."""
        if self.exchanges:
            self.exchanges[-1].answered_at = time.monotonic()

    def lost(self) -> None:
        """Something of the far end's was swallowed."""
        if self.exchanges:
            self.exchanges[-1].cut = True

    def left(self) -> None:
        """The caller ended it."""
        if self.left_at is None:
            self.left_at = time.monotonic()


def reset(transport: asyncio.BaseTransport | None) -> None:
    """Break a connection so that the other end gets a reset, not an orderly end."""
    if not isinstance(transport, asyncio.Transport):
        return
    sock = transport.get_extra_info("socket")
    if sock is not None:
        with suppress(OSError):
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    transport.abort()


class Listener:
    """A TCP listener on loopback whose connections can fall silent or be reset; base of links and proxies.

    While silent it accepts, swallows what it gets, and keeps everything open. Whatever was open during a silence is
    reset when it ends, because bytes are missing from it.
    """

    def __init__(self, *, port: int | None = None) -> None:
        self.port = port or free_port()
        self.mode = Mode.OPEN
        self.passages: list[Passage] = []
        """What was carried onward, or should have been, in the order of arrival."""
        self._server: asyncio.Server | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._writers: set[asyncio.StreamWriter] = set()
        self._closed = False

    async def start(self) -> None:
        """Listen."""
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", self.port, limit=HEAD_LIMIT)

    async def set_mode(self, mode: Mode) -> None:
        """Change what happens from now on, also to what is open."""
        before, self.mode = self.mode, mode
        if mode is before:
            return
        if mode is Mode.DEAD:
            self._stop_listening()
            self._cut()
        elif mode is Mode.OPEN:
            self._cut()
        if mode is not Mode.DEAD and self._server is None and not self._closed:
            await self.start()

    async def close(self) -> None:
        """Stop listening, reset what is open, and wait until nothing runs."""
        self._closed = True
        self._stop_listening()
        self._cut()
        while self._tasks:
            await asyncio.gather(*self._tasks, return_exceptions=True)

    def _stop_listening(self) -> None:
        if self._server is not None:
            self._server.close()
            self._server = None

    def _cut(self) -> None:
        for writer in self._writers:
            reset(writer.transport)
        for task in self._tasks:
            task.cancel()

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None  # noqa: S101 - a coroutine always runs in one
        if self._closed or self.mode is Mode.DEAD:
            reset(writer.transport)
            return
        self._tasks.add(task)
        self._writers.add(writer)
        try:
            if self.mode is Mode.SILENT:
                await self._swallow(reader)
            else:
                await self._serve(reader, writer)
        except (OSError, asyncio.IncompleteReadError, asyncio.LimitOverrunError, TimeoutError, ValueError):
            reset(writer.transport)
        except asyncio.CancelledError:
            if not writer.transport.is_closing():  # not cut by us: the whole loop is ending
                raise
        finally:
            self._tasks.discard(task)
            self._writers.discard(writer)
            if self.mode is Mode.OPEN:
                writer.close()
            else:
                reset(writer.transport)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        raise NotImplementedError

    async def _swallow(self, reader: asyncio.StreamReader) -> None:
        """Read and forget until the mode changes; the other end going away is not answered either."""
        while await reader.read(CHUNK):
            pass
        await asyncio.get_running_loop().create_future()

    async def _join(
        self, ours: tuple[asyncio.StreamReader, asyncio.StreamWriter], host: str, port: int, first: bytes = b""
    ) -> None:
        """Connect onward and carry bytes both ways until both ends are done."""
        reader, writer = ours
        passage = Passage(
            to_port=port, caller_port=_port(writer.get_extra_info("peername")), opened_at=time.monotonic()
        )
        self.passages.append(passage)

        def left() -> None:
            # What we broke off ourselves, nobody has left.
            if isinstance(reader.exception(), OSError) or not writer.transport.is_closing():
                passage.left()

        async with asyncio.timeout(CONNECT_S):
            far_reader, far_writer = await asyncio.open_connection(host, port)
        passage.our_port = _port(far_writer.get_extra_info("sockname"))
        self._writers.add(far_writer)
        try:
            if first:
                passage.sent(len(first))
                far_writer.write(first)
            async with asyncio.TaskGroup() as group:
                group.create_task(self._carry(reader, far_writer, read=passage.sent, ended=left))
                group.create_task(self._carry(far_reader, writer, wrote=passage.answered, lost=passage.lost))
        except* OSError:
            reset(writer.transport)
        finally:
            self._writers.discard(far_writer)
            reset(far_writer.transport)

    async def _carry(
        self,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        *,
        read: Callable[[int], None] = lambda _: None,
        wrote: Callable[[], None] = lambda: None,
        lost: Callable[[], None] = lambda: None,
        ended: Callable[[], None] = lambda: None,
    ) -> None:
        """Tells how much it has `read`, that it `wrote` or `lost` that, and that the reader's end `ended` it."""
        try:
            while data := await reader.read(CHUNK):
                read(len(data))
                if self.mode is Mode.SILENT:
                    lost()
                    continue
                writer.write(data)
                wrote()
                await writer.drain()
            ended()
        except OSError:
            if reader.exception() is not None:
                ended()
            raise
        if self.mode is Mode.SILENT:
            await asyncio.get_running_loop().create_future()
        if writer.can_write_eof():
            writer.write_eof()


def _port(address: object) -> int:
    return int(address[1]) if isinstance(address, tuple) else 0


class Link(Listener):
    """The wire to one TCP server: what connects to `port` is carried to `target_port`."""

    def __init__(self, target_port: int, *, port: int | None = None) -> None:
        super().__init__(port=port)
        self.target_port = target_port

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await self._join((reader, writer), "127.0.0.1", self.target_port)


class Side(Listener):
    """One caller's way out: an HTTP proxy (CONNECT, and absolute URLs for plain HTTP)."""

    def __init__(self, name: str, find: Callable[[str, int], int | None], *, port: int | None = None) -> None:
        super().__init__(port=port)
        self.name = name
        self._find = find

    @property
    def url(self) -> str:
        """For HTTPS_PROXY and HTTP_PROXY."""
        return f"http://127.0.0.1:{self.port}"

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        async with asyncio.timeout(HEAD_S):
            head = await reader.readuntil(b"\r\n\r\n")
        if self.mode is not Mode.OPEN:
            await self._swallow(reader)
        line, _, headers = head.partition(b"\r\n")
        method, target, version = line.decode("latin-1").split(" ")
        url = urlsplit(f"//{target}" if method == "CONNECT" else target)
        host, port = url.hostname or "", url.port or (443 if method == "CONNECT" else 80)
        found = self._find(host, port)
        if found is None:
            await self._refuse(writer, f"{self.name}: no address for {host}:{port}")
            return
        if method == "CONNECT":
            writer.write(b"HTTP/1.1 200 Connection established\r\n\r\n")
            await self._join((reader, writer), "127.0.0.1", found)
            return
        kept = [item for item in headers.split(b"\r\n") if item and item.split(b":")[0].lower() not in HOP_HEADERS]
        path = (url.path or "/") + (f"?{url.query}" if url.query else "")
        first = [f"{method} {path} {version}".encode("latin-1"), *kept, b"Connection: close", b"", b""]
        await self._join((reader, writer), "127.0.0.1", found, b"\r\n".join(first))

    async def _refuse(self, writer: asyncio.StreamWriter, why: str) -> None:
        body = f"{why}\n".encode()
        writer.write(
            b"HTTP/1.1 502 Bad Gateway\r\nConnection: close\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body)
        )
        await writer.drain()


HOP_HEADERS = (b"connection", b"proxy-connection", b"keep-alive", b"proxy-authorization")


class Internet:
    """Public names, and a way to them for each side that calls.

    `canonical` follows a name to the one it ends at (a side's own DNS cache); None means that there is no such name.
    """

    def __init__(self) -> None:
        self.sides: dict[str, Side] = {}
        self._published: dict[tuple[str, int], int] = {}

    def publish(self, name: str, port: int, *, at: int) -> None:
        """Make `name:port` reachable: it is served on the loopback port `at`."""
        self._published[name.lower(), port] = at

    def locate(self, name: str, port: int) -> int | None:
        """The loopback port of a published name; None when there is none."""
        return self._published.get((name.lower().rstrip("."), port))

    async def add_side(self, name: str, *, canonical: Callable[[str], str | None] | None = None) -> Side:
        """Open a side's proxy."""

        def find(host: str, port: int) -> int | None:
            end = canonical(host) if canonical is not None else host
            return None if end is None else self.locate(end, port)

        side = self.sides[name] = Side(name, find)
        await side.start()
        return side

    async def set_mode(self, side: str, mode: Mode) -> None:
        """What becomes of a side's calls, those in flight included."""
        await self.sides[side].set_mode(mode)

    async def close(self) -> None:
        """Close every side."""
        await asyncio.gather(*(side.close() for side in self.sides.values()))


class Authority:
    """The certificate authority of the drill's world."""

    def __init__(self, folder: Path) -> None:
        self._ca = trustme.CA(organization_name="Relight drill")
        self.bundle = folder / "ca.pem"
        folder.mkdir(parents=True, exist_ok=True)
        self._ca.cert_pem.write_to_path(str(self.bundle))

    def server(self, *names: str) -> ssl.SSLContext:
        """What a server of these names presents."""
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        self._ca.issue_cert(*names).configure_cert(context)
        return context

    def client(self) -> ssl.SSLContext:
        """What a client uses that trusts this authority and nobody else."""
        return ssl.create_default_context(cafile=str(self.bundle))


def onward_session() -> aiohttp.ClientSession:
    """A client session for `carry_request`: nothing is added, decoded or retried; connects are bounded."""
    return aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(limit=0, keepalive_timeout=20),
        timeout=aiohttp.ClientTimeout(total=None, sock_connect=CONNECT_S, sock_read=900),
        auto_decompress=False,
        cookie_jar=aiohttp.DummyCookieJar(),
        trust_env=False,
    )


async def carry_request(
    request: web.Request,
    session: aiohttp.ClientSession,
    base: str,
    *,
    headers: Mapping[str, str],
    body: bytes | None = None,
    begun: Callable[[web.StreamResponse], None] = lambda _: None,
    writes: Callable[[int], None] = lambda _: None,
) -> web.StreamResponse:
    """Send a request onward and its answer back, both streamed, with every header but those of the connection.

    `headers` replace the request's; `body` is what was read of it already; `begun` is told when an answer begins,
    and `writes` of every chunk of it, before it goes out.
    Raises aiohttp.ClientError when the server cannot be reached.
    """
    sent: CIMultiDict[str] = CIMultiDict((k, v) for k, v in request.headers.items() if k.lower() not in HOP_BY_HOP)
    for name, value in headers.items():
        sent[name] = value
    data = body if body is not None else request.content if request.body_exists else None
    async with session.request(
        request.method,
        URL(base + request.raw_path, encoded=True),
        headers=sent,
        data=data,
        allow_redirects=False,
        skip_auto_headers=(hdrs.ACCEPT, hdrs.ACCEPT_ENCODING, hdrs.USER_AGENT, hdrs.CONTENT_TYPE),
    ) as answer:
        response = web.StreamResponse(status=answer.status, reason=answer.reason)
        for name, value in answer.headers.items():
            if name.lower() not in HOP_BY_HOP:
                response.headers.add(name, value)
        begun(response)
        await response.prepare(request)
        async for chunk in answer.content.iter_any():
            writes(len(chunk))
            await response.write(chunk)
        await response.write_eof()
        return response


def proxy_runner(handler: Handler) -> web.AppRunner:
    """A server that hands every request to `handler` unread, undecoded, and without answering an `Expect`."""

    async def unanswered(_: web.Request) -> None:
        return None

    app = web.Application()
    app.router.add_route("*", "/{path:.*}", handler, expect_handler=unanswered)
    return web.AppRunner(
        app,
        access_log=None,
        handle_signals=False,
        handler_cancellation=True,
        auto_decompress=False,
        max_field_size=HEAD_LIMIT,
        max_line_size=HEAD_LIMIT,
        keepalive_timeout=75,
        shutdown_timeout=0.2,
    )


async def expected(request: web.Request) -> None:
    """Tell a client that waits for permission to send its body."""
    if request.headers.get(hdrs.EXPECT, "").lower() == "100-continue" and request.transport is not None:
        request.transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")


class Ingress:
    """A region's load balancer: TLS for `names`, and HTTP to the targets that answer `/health` with 200.

    Targets are probed every second by a task of each target's own; one good answer lets a target in, two bad ones put
    it out. With no healthy target it answers 503, as load balancers do.
    """

    PROBE_S = 1.0
    PROBE_TIMEOUT_S = 2.0
    UNHEALTHY_AFTER = 2

    def __init__(self, authority: Authority, names: Iterable[str]) -> None:
        self._context = authority.server(*names)
        self._link: Link | None = None
        self._runner: web.AppRunner | None = None
        self._session: aiohttp.ClientSession | None = None
        self._probes: dict[int, asyncio.Task[None]] = {}
        self._healthy: dict[int, None] = {}
        self._turn = 0

    @property
    def port(self) -> int:
        """Where the load balancer is, past its wire."""
        if self._link is None:
            raise DrillError("the load balancer is not running", hint="start it first")
        return self._link.port

    @property
    def healthy(self) -> tuple[int, ...]:
        """The targets that get requests."""
        return tuple(self._healthy)

    async def start(self) -> None:
        """Listen."""
        self._session = onward_session()
        self._runner = proxy_runner(self._handle)
        await self._runner.setup()
        inner = free_port()
        await web.TCPSite(self._runner, "127.0.0.1", inner, ssl_context=self._context).start()
        self._link = Link(inner)
        await self._link.start()

    def register(self, port: int) -> None:
        """Add a target on loopback; it gets requests once it is healthy."""
        if port not in self._probes:
            self._probes[port] = asyncio.create_task(self._probe(port), name=f"probe {port}")

    def deregister(self, port: int) -> None:
        """Take a target out."""
        self._healthy.pop(port, None)
        task = self._probes.pop(port, None)
        if task is not None:
            task.cancel()

    async def set_mode(self, mode: Mode) -> None:
        """The region's public side open, silent or dead."""
        if self._link is not None:
            await self._link.set_mode(mode)

    async def close(self) -> None:
        """Stop listening and probing."""
        probes = list(self._probes.values())
        for port in list(self._probes):
            self.deregister(port)
        await asyncio.gather(*probes, return_exceptions=True)
        if self._link is not None:
            await self._link.close()
        if self._runner is not None:
            await self._runner.cleanup()
        if self._session is not None:
            await self._session.close()

    async def _probe(self, port: int) -> None:
        assert self._session is not None  # noqa: S101 - register() comes after start()
        timeout = aiohttp.ClientTimeout(total=self.PROBE_TIMEOUT_S)
        failures = 0
        while True:
            try:
                async with self._session.get(f"http://127.0.0.1:{port}/health", timeout=timeout) as response:
                    good = response.status == 200
            except (aiohttp.ClientError, TimeoutError, OSError):
                good = False
            failures = 0 if good else failures + 1
            if good:
                self._healthy[port] = None
            elif failures >= self.UNHEALTHY_AFTER:
                self._healthy.pop(port, None)
            # A target that is coming up is asked more often, as a load balancer does on registration.
            await asyncio.sleep(self.PROBE_S if good else self.PROBE_S / 4)

    async def _handle(self, request: web.Request) -> web.StreamResponse:
        assert self._session is not None  # noqa: S101 - it serves after start()
        healthy = self.healthy
        if not healthy:
            return web.Response(status=503, text="no healthy target\n")
        self._turn += 1
        target = healthy[self._turn % len(healthy)]
        await expected(request)
        headers = {"X-Forwarded-Proto": "https", "X-Forwarded-For": "127.0.0.1"}
        try:
            return await carry_request(request, self._session, f"http://127.0.0.1:{target}", headers=headers)
        except (aiohttp.ClientError, TimeoutError):
            # To a caller that has given up this goes nowhere, and quietly.
            return web.Response(status=502, text="the target did not answer\n")
