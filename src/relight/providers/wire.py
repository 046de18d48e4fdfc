"""The HTTP client under an SDK: events are counted on the wire, and nothing is sent anywhere but to the provider."""

from __future__ import annotations

import re
import ssl
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TYPE_CHECKING

import httpx2

from relight.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator

    from relight.providers.spec import ProviderSpec

_LINE_END = re.compile(rb"\r\n?|\n")
# Nothing but whole events with plain line ends, which is what mostly comes.
_WHOLE = re.compile(rb"(?:(?:[^\r\n]+\n)+\n)+")
# What an error says fits into far less; a server that sends more is not read to its end.
_MOST_OF_AN_ERROR = 64 * 1024

_heard: ContextVar[Callable[[], None] | None] = ContextVar("relight_heard", default=None)


def http_client(spec: ProviderSpec) -> httpx2.AsyncClient:
    """A client for one provider: it follows no redirect, because that would take the key elsewhere, and takes proxies
    from the environment. Only connecting has a limit; the router has all others. ConfigError for a bad `ca_file`."""
    return httpx2.AsyncClient(
        verify=_trusted(spec),
        timeout=timeouts(spec),
        limits=httpx2.Limits(max_connections=None, max_keepalive_connections=100, keepalive_expiry=30.0),
        follow_redirects=False,
        # An event stream that is compressed would hide where its events end.
        headers={"Accept-Encoding": "identity"},
        event_hooks={"response": [_listen]},
    )


def timeouts(spec: ProviderSpec) -> httpx2.Timeout:
    """Only connecting has a limit: silence is counted in events, not in bytes, and by the router."""
    return httpx2.Timeout(None, connect=spec.connect_s)


def _trusted(spec: ProviderSpec) -> ssl.SSLContext:
    context = httpx2.create_ssl_context()
    if spec.ca_file:
        try:
            context.load_verify_locations(cafile=spec.ca_file)
        except (OSError, ssl.SSLError) as exc:
            raise ConfigError(
                f"ca_file {spec.ca_file} of provider {spec.name} cannot be read: {exc}",
                hint="give a file of PEM certificates",
            ) from exc
    return context


@contextmanager
def hearing(heard: Callable[[], None]) -> Iterator[None]:
    """Whatever is requested meanwhile calls `heard` for every whole event of its answer."""
    token = _heard.set(heard)
    try:
        yield
    finally:
        _heard.reset(token)


# A hook rather than a transport: a client that is given a transport takes no proxy from the environment.
async def _listen(response: httpx2.Response) -> None:
    heard = _heard.get()
    stream = response.stream
    if not isinstance(stream, httpx2.AsyncByteStream):
        return
    if not response.is_success:
        response.stream = _Beginning(stream)
    elif heard is not None:
        response.stream = _Counted(stream, heard)


class _Counted(httpx2.AsyncByteStream):
    """A body, as it is; every event that it completes is told. One that ends within an event is cut: an SDK would leave
    out what came of the event, and end as if nothing were wrong."""

    def __init__(self, stream: httpx2.AsyncByteStream, heard: Callable[[], None]) -> None:
        self._stream = stream
        self._heard = heard
        self._events = EventCounter()

    async def __aiter__(self) -> AsyncIterator[bytes]:
        last = b""
        async for chunk in self._stream:
            for _ in range(self._events.feed(chunk)):
                self._heard()
            yield chunk
            last = chunk
        # Some servers leave out the blank line after this one.
        if self._events.unfinished and not last.rstrip().endswith(b"[DONE]"):
            raise httpx2.RemoteProtocolError("the stream ended within an event")

    async def aclose(self) -> None:
        await self._stream.aclose()


class _Beginning(httpx2.AsyncByteStream):
    """The beginning of a body."""

    def __init__(self, stream: httpx2.AsyncByteStream) -> None:
        self._stream = stream

    async def __aiter__(self) -> AsyncIterator[bytes]:
        left = _MOST_OF_AN_ERROR
        async for chunk in self._stream:
            yield chunk[:left]
            left -= len(chunk)
            if left <= 0:
                return

    async def aclose(self) -> None:
        await self._stream.aclose()


class EventCounter:
    """Counts the events of a server-sent stream that are whole, wherever its chunks are cut. A comment is one too."""

    def __init__(self) -> None:
        self._lines = False  # the event that is coming has a line already
        self._in_line = False  # the last chunk ended within a line
        self._after_cr = False  # the last chunk ended with a CR, whose LF may follow

    @property
    def unfinished(self) -> bool:
        """Whether an event has begun and is not whole."""
        return self._lines or self._in_line

    def feed(self, chunk: bytes) -> int:
        """How many events `chunk` completes."""
        if not chunk:
            return 0
        if not (self._lines or self._in_line or self._after_cr) and _WHOLE.fullmatch(chunk):
            return chunk.count(b"\n\n")
        start = 1 if self._after_cr and chunk.startswith(b"\n") else 0
        whole = 0
        for match in _LINE_END.finditer(chunk, start):
            if self._in_line or match.start() > start:
                self._lines = True
            elif self._lines:
                whole += 1
                self._lines = False
            self._in_line = False
            start = match.end()
        self._in_line = self._in_line or start < len(chunk)
        self._after_cr = chunk.endswith(b"\r")
        return whole
