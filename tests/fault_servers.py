"""Servers on loopback that go wrong as LLM providers do, byte by byte: what they write is what a client reads.

They run on a loop of their own in a thread, so that tasks and sockets which a test finds on its side are the client's.
"""

from __future__ import annotations

import asyncio
import errno
import json
import socket
import ssl
import struct
import threading
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from functools import cached_property
from typing import TYPE_CHECKING, Any, ClassVar, Protocol, TypeVar

import trustme

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Coroutine, Mapping
    from pathlib import Path
    from typing import Self

T = TypeVar("T")

PIECES = ("The pilot light ", "is lit.")
ANSWER = "".join(PIECES)
BROKEN_ARGUMENTS = '{"city": "Par'


# -- what the two formats look like on the wire


class Shape(Protocol):
    """One provider's wire format, in the pieces that faults are made of."""

    name: str

    def begun(self, pieces: int) -> bytes:
        """Whole events from the first on, with so many pieces of the answer."""
        ...

    def ended(self) -> bytes:
        """The events that make an answer whole."""
        ...

    def reasonless(self) -> bytes:
        """The end of a stream that never says why the model stopped."""
        ...

    def unfinished(self) -> bytes:
        """The reason to stop, without the format's own last event."""
        ...

    def alive(self) -> bytes:
        """A sign of life with nothing of an answer in it."""
        ...

    def half(self) -> bytes:
        """The beginning of an event."""
        ...

    def malformed(self) -> bytes:
        """A whole event whose data is no JSON."""
        ...

    def failed(self, kind: str) -> bytes:
        """An error as an event of the stream: `overloaded`, `server`, `limited` or `caller`."""
        ...

    def refused(self, kind: str) -> bytes:
        """The body of an error's answer."""
        ...

    def empty(self) -> bytes:
        """A whole answer with nothing in it."""
        ...

    def broken_call(self, stop: str = "tool") -> bytes:
        """A whole answer that asks for a tool with arguments that are no JSON; `stop` is `tool` or `length`."""
        ...


def _event(name: str, **data: Any) -> bytes:
    return f"event: {name}\ndata: {json.dumps({'type': name, **data})}\n\n".encode()


def _data(value: Mapping[str, Any]) -> bytes:
    return f"data: {json.dumps(value)}\n\n".encode()


class AnthropicShape:
    """The Messages API: named events, from `message_start` to `message_stop`."""

    name = "anthropic"

    _ERRORS: ClassVar[Mapping[str, tuple[str, str]]] = {
        "overloaded": ("overloaded_error", "Overloaded"),
        "server": ("api_error", "Internal server error"),
        "limited": ("rate_limit_error", "This request would exceed your account's rate limit."),
        "quota": ("rate_limit_error", "This request would exceed your account's rate limit."),
        "key": ("authentication_error", "invalid x-api-key"),
        "forbidden": ("permission_error", "Your API key does not have permission to use the specified resource."),
        "billing": ("billing_error", "Your credit balance is too low to access the Anthropic API."),
        "model": ("not_found_error", "model: claude-none"),
        "long": ("invalid_request_error", "prompt is too long: 217312 tokens > 200000 maximum"),
        "large": ("request_too_large", "Request exceeds the maximum size"),
        "caller": ("invalid_request_error", "messages: at least one message is required"),
        "timeout": ("timeout_error", "Request timed out"),
        "conflict": ("api_error", "Conflict"),
    }

    def begun(self, pieces: int) -> bytes:
        return b"".join(
            [
                self._start(),
                _event("content_block_start", index=0, content_block={"type": "text", "text": ""}),
                _event("ping"),
                *(
                    _event("content_block_delta", index=0, delta={"type": "text_delta", "text": piece})
                    for piece in PIECES[:pieces]
                ),
            ]
        )

    def ended(self) -> bytes:
        return self.unfinished() + _event("message_stop")

    def reasonless(self) -> bytes:
        return _event("content_block_stop", index=0) + _event("message_stop")

    def unfinished(self) -> bytes:
        return _event("content_block_stop", index=0) + self._stop("end_turn")

    def alive(self) -> bytes:
        return _event("ping")

    def half(self) -> bytes:
        return b'event: content_block_delta\ndata: {"type": "content_block_delta", "index": 0, "delta": {"typ'

    def malformed(self) -> bytes:
        return b'event: content_block_delta\ndata: {"type": "content_block_delta", "index": 0, "delta": {"typ\n\n'

    def failed(self, kind: str) -> bytes:
        type_, message = self._ERRORS[kind]
        return _event("error", error={"type": type_, "message": message}, request_id="req_played")

    def refused(self, kind: str) -> bytes:
        type_, message = self._ERRORS[kind]
        error = {"type": type_, "message": message}
        return json.dumps({"type": "error", "error": error, "request_id": "req_played"}).encode()

    def empty(self) -> bytes:
        return self._start() + self._stop("end_turn") + _event("message_stop")

    def broken_call(self, stop: str = "tool") -> bytes:
        call = {"type": "tool_use", "id": "toolu_played", "name": "weather", "input": {}}
        return b"".join(
            [
                self._start(),
                _event("content_block_start", index=0, content_block=call),
                _event(
                    "content_block_delta",
                    index=0,
                    delta={"type": "input_json_delta", "partial_json": BROKEN_ARGUMENTS},
                ),
                _event("content_block_stop", index=0),
                self._stop({"tool": "tool_use", "length": "max_tokens"}[stop]),
                _event("message_stop"),
            ]
        )

    def _start(self) -> bytes:
        usage = {"input_tokens": 9, "output_tokens": 1}
        message: dict[str, Any] = {
            "id": "msg_played", "type": "message", "role": "assistant", "model": "claude-played", "content": [],
            "stop_reason": None, "stop_sequence": None, "usage": usage,
        }  # fmt: skip
        return _event("message_start", message=message)

    def _stop(self, reason: str) -> bytes:
        delta = {"stop_reason": reason, "stop_sequence": None}
        return _event("message_delta", delta=delta, usage={"output_tokens": 7})


class ChatShape:
    """Chat Completions, as OpenAI and the servers compatible with it speak it: unnamed events, `[DONE]` at the end."""

    name = "openai"

    _ERRORS: ClassVar[Mapping[str, tuple[str, str | None, str]]] = {
        "overloaded": ("server_error", "overloaded", "The engine is currently overloaded, please try again later"),
        "server": ("server_error", None, "The server had an error while processing your request. Sorry about that!"),
        "limited": ("requests", "rate_limit_exceeded", "Rate limit reached for requests"),
        "quota": ("insufficient_quota", "insufficient_quota", "You exceeded your current quota"),
        "key": ("invalid_request_error", "invalid_api_key", "Incorrect API key provided"),
        "forbidden": ("invalid_request_error", "unsupported_country_region_territory", "Country not supported"),
        "billing": ("billing_error", None, "Your account has no credit"),
        "model": ("invalid_request_error", "model_not_found", "The model `gpt-none` does not exist"),
        "long": (
            "invalid_request_error", "context_length_exceeded",
            "This model's maximum context length is 128000 tokens. However, your messages resulted in 217312 tokens.",
        ),
        "large": ("invalid_request_error", None, "Request too large"),
        "caller": ("invalid_request_error", None, "[] is too short - 'messages'"),
        "timeout": ("timeout", None, "Request timed out"),
        "conflict": ("server_error", None, "Conflict"),
    }  # fmt: skip

    def begun(self, pieces: int) -> bytes:
        first = self._chunk({"role": "assistant", "content": ""})
        return first + b"".join(self._chunk({"content": piece}) for piece in PIECES[:pieces])

    def ended(self) -> bytes:
        usage = {"prompt_tokens": 9, "completion_tokens": 7, "total_tokens": 16}
        return self.unfinished() + _data({**self._head(), "choices": [], "usage": usage}) + b"data: [DONE]\n\n"

    def reasonless(self) -> bytes:
        return b"data: [DONE]\n\n"

    def unfinished(self) -> bytes:
        return self._chunk({}, "stop")

    def alive(self) -> bytes:
        return b": keep-alive\n\n"

    def half(self) -> bytes:
        return b'data: {"id": "chatcmpl-played", "object": "chat.completion.chunk", "choices": [{"ind'

    def malformed(self) -> bytes:
        return b'data: {"id": "chatcmpl-played", "object": "chat.completion.chunk", "choices": [{"ind\n\n'

    def failed(self, kind: str) -> bytes:
        return _data(self._error(kind))

    def refused(self, kind: str) -> bytes:
        return json.dumps(self._error(kind)).encode()

    def empty(self) -> bytes:
        return self._chunk({"role": "assistant", "content": ""}) + self.ended()

    def broken_call(self, stop: str = "tool") -> bytes:
        call = {"index": 0, "id": "call_played", "type": "function", "function": {"name": "weather", "arguments": ""}}
        more = {"index": 0, "function": {"arguments": BROKEN_ARGUMENTS}}
        return b"".join(
            [
                self._chunk({"role": "assistant", "content": None, "tool_calls": [call]}),
                self._chunk({"tool_calls": [more]}),
                self._chunk({}, {"tool": "tool_calls", "length": "length"}[stop]),
                b"data: [DONE]\n\n",
            ]
        )

    def _error(self, kind: str) -> dict[str, Any]:
        type_, code, message = self._ERRORS[kind]
        return {"error": {"message": message, "type": type_, "param": None, "code": code}}

    def _head(self) -> dict[str, Any]:
        return {
            "id": "chatcmpl-played", "object": "chat.completion.chunk", "created": 1767225600, "model": "gpt-played",
        }  # fmt: skip

    def _chunk(self, delta: Mapping[str, Any], finish: str | None = None) -> bytes:
        return _data({**self._head(), "choices": [{"index": 0, "delta": delta, "finish_reason": finish}]})


# -- one request and what is done to it


@dataclass(slots=True, kw_only=True)
class Exchange:
    """A request that came, and the connection on which it is answered, or not."""

    shape: Shape
    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter
    over: bool = False

    async def head(self, status: str = "200 OK", *, more: str = "", type_: str = "text/event-stream") -> None:
        """The head of an answer in chunks."""
        await self.raw(
            f"HTTP/1.1 {status}\r\nContent-Type: {type_}\r\nTransfer-Encoding: chunked\r\n{more}\r\n".encode()
        )

    async def chunk(self, data: bytes) -> None:
        """One chunk of the body."""
        await self.raw(f"{len(data):x}\r\n".encode() + data + b"\r\n")

    async def end(self) -> None:
        """The body's proper end."""
        await self.raw(b"0\r\n\r\n")

    async def whole(self, status: str, body: bytes, *, type_: str = "application/json", more: str = "") -> None:
        """An answer that is not a stream."""
        length = f"Content-Length: {len(body)}\r\n"
        await self.raw(f"HTTP/1.1 {status}\r\nContent-Type: {type_}\r\n{length}{more}\r\n".encode() + body)

    async def raw(self, data: bytes) -> None:
        """Whatever bytes."""
        self.writer.write(data)
        await self.writer.drain()

    async def silence(self) -> None:
        """Nothing, until the client goes."""
        while True:
            await self.wait(3600)

    async def wait(self, seconds: float) -> None:
        """Nothing for so long; ConnectionError when the client goes meanwhile."""
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                if not await self.reader.read(65536):
                    raise ConnectionResetError(errno.ECONNRESET, "the client closed the connection")

    async def cut(self) -> None:
        """The connection ends here, as if the process behind it had ended."""
        self.over = True
        self.writer.close()

    async def reset(self) -> None:
        """The connection is torn down: what the client had not read is lost to it."""
        self.over = True
        await asyncio.sleep(0.02)  # what was written before reaches the client, so that it is this that it sees next
        raw: socket.socket = self.writer.get_extra_info("socket")
        raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.writer.transport.abort()

    async def half_close(self) -> None:
        """Nothing more will be sent, and the connection stays open for the client to send."""
        self.writer.write_eof()
        await self.silence()


class Door(StrEnum):
    """What a client meets before anything can be asked."""

    OPEN = "open"
    TLS = "tls"
    REFUSED = "refused"
    NAMELESS = "nameless"
    FULL = "full"
    UNTRUSTED = "untrusted"
    MISNAMED = "misnamed"
    EXPIRED = "expired"
    NOT_TLS = "not tls"
    HANDSHAKE_HANGS = "handshake hangs"
    CLOSES = "closes"


class Certificates:
    """An authority that clients are told to trust, and one that nobody knows."""

    def __init__(self, folder: Path) -> None:
        self._known = trustme.CA()
        self._stranger = trustme.CA()
        self.file = str(folder / "known-authority.pem")
        self._known.cert_pem.write_to_path(self.file)

    @cached_property
    def _contexts(self) -> dict[Door, ssl.SSLContext]:
        past = datetime.now(UTC) - timedelta(days=1)
        return {
            Door.TLS: _context(self._known.issue_cert("127.0.0.1")),
            Door.UNTRUSTED: _context(self._stranger.issue_cert("127.0.0.1")),
            Door.MISNAMED: _context(self._known.issue_cert("another.example")),
            Door.EXPIRED: _context(self._known.issue_cert("127.0.0.1", not_after=past)),
        }

    def context(self, door: Door) -> ssl.SSLContext | None:
        """What a server behind this door shows; None where it speaks no TLS."""
        return self._contexts.get(door)


def _context(certificate: trustme.LeafCert) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    certificate.configure_cert(context)
    return context


@dataclass(slots=True, kw_only=True)
class FaultServer:
    """One server, and what reached it.

    `open` are the connections that a client holds, `busy` those of them whose answer is not whole; `wrong` is what the
    server itself did wrong.
    """

    url: str
    shape: Shape
    door: Door
    connections: int = 0
    requests: int = 0
    open: int = 0
    busy: int = 0
    heads: list[bytes] = field(default_factory=list)
    wrong: list[Exception] = field(default_factory=list)

    async def serve(self, play: Callable[[Exchange], Awaitable[None]], reader: Any, writer: Any) -> None:
        """All that happens on one connection."""
        self.connections += 1
        self.open += 1
        exchange = Exchange(shape=self.shape, reader=reader, writer=writer)
        try:
            if self.door is Door.CLOSES:
                return
            if self.door is Door.NOT_TLS:
                await reader.read(1)
                await exchange.raw(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
                return
            if self.door is Door.HANDSHAKE_HANGS:
                self.busy += 1
                try:
                    await exchange.silence()
                finally:
                    self.busy -= 1
            while not exchange.over:
                await self._read(reader)
                self.requests += 1
                self.busy += 1
                try:
                    await play(exchange)
                finally:
                    self.busy -= 1
        except (ConnectionError, asyncio.IncompleteReadError):
            pass  # the client went
        except Exception as exc:  # noqa: BLE001 - a test looks at it
            self.wrong.append(exc)
        finally:
            self.open -= 1
            writer.close()

    async def _read(self, reader: asyncio.StreamReader) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        for line in head.lower().split(b"\r\n"):
            if line.startswith(b"content-length:"):
                await reader.readexactly(int(line.partition(b":")[2]))
        self.heads.append(head)


class Stage:
    """Where servers play: a loop in a thread of its own."""

    def __init__(self, certificates: Certificates) -> None:
        self.certificates = certificates
        self._loop = asyncio.new_event_loop()
        # A handshake that fails is what some servers are for.
        self._loop.set_exception_handler(lambda loop, context: None)
        self._thread = threading.Thread(target=self._loop.run_forever, name="fault-servers", daemon=True)
        self._listening: list[asyncio.Server] = []
        self._sockets: list[socket.socket] = []

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._run(self._end())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def server(
        self, shape: Shape, play: Callable[[Exchange], Awaitable[None]], *, door: Door = Door.OPEN
    ) -> FaultServer:
        """A new server on a free port."""
        return self._run(self._start(shape, play, door))

    def _run(self, work: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result()

    async def _start(self, shape: Shape, play: Callable[[Exchange], Awaitable[None]], door: Door) -> FaultServer:
        listener = socket.socket()
        # So that a port that is refused stays so: nobody else is given it while it is bound.
        listener.bind(("127.0.0.1", 0))
        port = listener.getsockname()[1]
        scheme = "http" if door in (Door.OPEN, Door.REFUSED, Door.NAMELESS, Door.FULL, Door.CLOSES) else "https"
        host = "provider.invalid" if door is Door.NAMELESS else "127.0.0.1"
        server = FaultServer(url=f"{scheme}://{host}:{port}", shape=shape, door=door)
        if door in (Door.REFUSED, Door.NAMELESS):
            self._sockets.append(listener)
        elif door is Door.FULL:
            self._sockets += [listener, *_filled(listener)]
        else:
            self._listening.append(
                await asyncio.start_server(
                    lambda reader, writer: server.serve(play, reader, writer),
                    sock=listener,
                    ssl=self.certificates.context(door),
                )
            )
        return server

    async def _end(self) -> None:
        for server in self._listening:
            server.close()
        for raw in self._sockets:
            raw.close()
        others = asyncio.all_tasks() - {asyncio.current_task()}
        for task in others:
            task.cancel()
        await asyncio.gather(*others, return_exceptions=True)


def _filled(listener: socket.socket) -> list[socket.socket]:
    """Callers that are never accepted: the next one gets no answer to its first packet."""
    listener.listen(0)
    callers = []
    for _ in range(4):
        caller = socket.socket()
        caller.setblocking(False)
        caller.connect_ex(listener.getsockname())
        callers.append(caller)
    return callers


# -- the plays


async def answers(exchange: Exchange) -> None:
    """All is well."""
    await exchange.head()
    await exchange.chunk(exchange.shape.begun(len(PIECES)))
    await exchange.chunk(exchange.shape.ended())
    await exchange.end()


def refuses(status: str, kind: str, *, more: str = "") -> Callable[[Exchange], Awaitable[None]]:
    """An error with the provider's own body."""

    async def play(exchange: Exchange) -> None:
        await exchange.whole(status, exchange.shape.refused(kind), more=more)

    return play


def shows(
    status: str, body: bytes, *, type_: str = "text/html", more: str = ""
) -> Callable[[Exchange], Awaitable[None]]:
    """A page of somebody in between."""

    async def play(exchange: Exchange) -> None:
        await exchange.whole(status, body, type_=type_, more=more)

    return play


async def silent(exchange: Exchange) -> None:
    """The request was taken, and that is all."""
    await exchange.silence()


async def half_a_head(exchange: Exchange) -> None:
    """The head of an answer that never ends."""
    await exchange.raw(b"HTTP/1.1 200 OK\r\nContent-Type: text/ev")
    await exchange.silence()


async def closes(exchange: Exchange) -> None:
    """The request was taken, and the connection closed."""
    await exchange.cut()


async def resets(exchange: Exchange) -> None:
    """The request was taken, and the connection torn down."""
    await exchange.reset()


async def half_closes(exchange: Exchange) -> None:
    """The request was taken, and nothing will ever be sent."""
    await exchange.half_close()


def streams(pieces: int, then: Callable[[Exchange], Awaitable[None]]) -> Callable[[Exchange], Awaitable[None]]:
    """A stream that begins with so many pieces of the answer; -1 is a head alone."""

    async def play(exchange: Exchange) -> None:
        await exchange.head()
        if pieces >= 0:
            await exchange.chunk(exchange.shape.begun(pieces))
        await then(exchange)

    return play


def sends(made: Callable[[Shape], bytes], *, end: bool = True) -> Callable[[Exchange], Awaitable[None]]:
    """What the format has for it, and the body's end."""

    async def play(exchange: Exchange) -> None:
        await exchange.chunk(made(exchange.shape))
        if end:
            await exchange.end()
        else:
            await exchange.silence()

    return play


def cuts(made: Callable[[Shape], bytes], *, reset: bool = False) -> Callable[[Exchange], Awaitable[None]]:
    """What the format has for it, and then the connection ends in the middle of the body."""

    async def play(exchange: Exchange) -> None:
        await exchange.chunk(made(exchange.shape))
        await (exchange.reset() if reset else exchange.cut())

    return play


def repeats(made: Callable[[Shape], bytes], *, every_s: float = 0.02) -> Callable[[Exchange], Awaitable[None]]:
    """The same for ever."""

    async def play(exchange: Exchange) -> None:
        while True:
            await exchange.chunk(made(exchange.shape))
            await exchange.wait(every_s)

    return play


def drips(made: Callable[[Shape], bytes], *, every_s: float = 0.02) -> Callable[[Exchange], Awaitable[None]]:
    """Byte by byte, and never the last one: no event is ever whole."""

    async def play(exchange: Exchange) -> None:
        for byte in made(exchange.shape):
            await exchange.chunk(bytes([byte]))
            await exchange.wait(every_s)
        while True:
            await exchange.chunk(b".")
            await exchange.wait(every_s)

    return play


async def breaks_chunks(exchange: Exchange) -> None:
    """What should be a chunk's size is none."""
    await exchange.raw(b"zz\r\nnot a chunk\r\n")
    await exchange.cut()


async def breaks_gzip(exchange: Exchange) -> None:
    """What is said to be compressed is not."""
    await exchange.head(more="Content-Encoding: gzip\r\n")
    await exchange.chunk(b"this was never compressed")
    await exchange.end()


def redirects(target: str) -> Callable[[Exchange], Awaitable[None]]:
    """Go there instead."""

    async def play(exchange: Exchange) -> None:
        await exchange.whole("307 Temporary Redirect", b"", more=f"Location: {target}\r\n")

    return play
