"""The gateway's server: who may ask, what is asked, and how the answer gets back.

It keeps nothing: a conversation lives with its client, keys with the providers, and what comes in is neither stored nor
logged. Everything that an agent must know about an answer that its format has no place for is in a header.
"""

from __future__ import annotations

import asyncio
import hmac
import ipaddress
import logging
import math
import re
import secrets
import traceback
from contextlib import aclosing, asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol
from urllib.parse import urlsplit

from aiohttp import web
from aiohttp.http import HttpProcessingError

from relight.errors import (
    AgainLaterError,
    ConfigError,
    IncapableError,
    RelightError,
    RequestRefusedError,
    StreamCutError,
    UnavailableError,
    WouldDegradeError,
)
from relight.providers.choose import estimated_tokens
from relight.providers.gateway.anthropic_face import AnthropicFace
from relight.providers.gateway.face import Asked, Face, Refused, Trouble, Writer, read_body, to_json
from relight.providers.gateway.openai_face import OpenAIFace
from relight.providers.messages import (
    Finished,
    Started,
    Text,
    TextDelta,
    Thinking,
    ThinkingDelta,
    ToolArguments,
    ToolCall,
    ToolCallStarted,
)
from relight.providers.router import OnCut

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Iterator, Mapping, Sequence

    from relight.providers.messages import Answer, Event, Request
    from relight.providers.spec import ProviderLimits

_log = logging.getLogger(__name__)

# The one model that clients can name; whatever they do name, the router chooses.
MODEL = "relight"

PROVIDER = "x-relight-provider"
DEGRADED = "x-relight-degraded"
DROPPED = "x-relight-dropped"
DEGRADE = "x-relight-degrade"

# Requests under way at the end may finish within this time.
GRACE_S = 10.0

# What takes less time to read than a thread to start.
_LARGE = 256 * 1024

_ID = web.RequestKey("_ID", str)
_ANTHROPIC, _OPENAI = AnthropicFace(), OpenAIFace()
_NAME = re.compile(r"[A-Za-z0-9_.-]{1,64}")


class Asks(Protocol):
    """What the gateway asks: an `AsyncRouter`."""

    @property
    def limits(self) -> ProviderLimits:
        """How long a call may take."""
        ...

    async def complete(self, request: Request, *, degrade: bool = True) -> Answer:
        """See `AsyncRouter.complete`."""
        ...

    def stream(
        self,
        request: Request,
        *,
        degrade: bool = True,
        on_cut: OnCut = OnCut.ERROR,
    ) -> AsyncGenerator[Event, None]:
        """See `AsyncRouter.stream`."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """How the gateway behaves.

    With `on_cut` of `restart` words are sent when the whole answer is there, because no format can take words back.
    After `ping_s` without a word a stream carries a sign of life.
    `token` is what clients must show, where it is not empty. `max_tokens` is for requests that do not say.
    `largest_body` is what the providers take themselves; all bodies under way are `bodies_at_once` bytes at most.
    """

    on_cut: OnCut = OnCut.ERROR
    token: str = field(default="", repr=False)
    max_tokens: int = 8192
    ping_s: float = 10.0
    largest_body: int = 32 * 1024 * 1024
    bodies_at_once: int = 128 * 1024 * 1024


def make_app(router: Asks, options: Options | None = None) -> web.Application:
    """The gateway, to be served by aiohttp with `handler_cancellation`, so that a client that leaves ends its call, and
    without `auto_decompress`."""
    gateway = Gateway(router, options or Options())
    app = web.Application(middlewares=[gateway.guard])
    app.router.add_post("/v1/messages", gateway.messages)
    app.router.add_post("/v1/messages/count_tokens", gateway.count_tokens)
    app.router.add_post("/v1/chat/completions", gateway.chat_completions)
    app.router.add_get("/v1/models", gateway.models)
    app.router.add_get("/v1/models/{name:.+}", gateway.model)
    app.router.add_get("/health", gateway.health)
    return app


@asynccontextmanager
async def serving(
    router: Asks, options: Options | None = None, *, host: str = "127.0.0.1", port: int = 0
) -> AsyncIterator[str]:
    """Serve on `host`, which is loopback, and on a free port where `port` is 0; gives the address.

    At the end no new request is taken, and those under way have `GRACE_S` to finish. ConfigError where the address is
    not this machine's own, or taken.
    """
    check_loopback(host)
    app = make_app(router, options)
    runner = web.AppRunner(
        app,
        handler_cancellation=True,
        auto_decompress=False,
        access_log=None,
        logger=_Connections(_log),
        shutdown_timeout=GRACE_S,
    )
    await runner.setup()
    try:
        site = web.TCPSite(runner, host, port)
        try:
            await site.start()
        except OSError as exc:
            raise ConfigError(
                f"{host}:{port} cannot be listened on: {exc.strerror or exc}",
                hint="give another --port, or 0 for a free one",
            ) from exc
        found = runner.addresses[0]
        yield f"http://[{found[0]}]:{found[1]}" if ":" in found[0] else f"http://{found[0]}:{found[1]}"
    finally:
        await runner.cleanup()


def check_loopback(host: str) -> None:
    """Raise ConfigError for an address that others can reach."""
    if not is_loopback(host):
        raise ConfigError(
            f"host {host!r} is not loopback: whoever reaches the gateway uses the providers' keys, and plain HTTP shows"
            " every prompt on the way",
            hint="listen on 127.0.0.1, and put a server that does TLS and knows its users in front for others",
        )


def is_loopback(host: str) -> bool:
    """Whether that is this machine, by a name that nobody else can give an address to."""
    if host.lower() == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


class Gateway:
    """The handlers."""

    def __init__(self, router: Asks, options: Options) -> None:
        self._router = router
        self.options = options
        self._held = 0  # bytes of the bodies under way
        self._parsing = asyncio.Lock()

    @web.middleware
    async def guard(
        self, request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
    ) -> web.StreamResponse:
        """Let nobody in who should not ask, and answer every error in the client's own format."""
        id_ = f"req_{secrets.token_hex(12)}"
        request[_ID] = id_
        try:
            self._admit(request)
            response = await handler(request)
        except web.HTTPException as exc:
            response = _refusal(request, _of_http(request, exc))
            if allow := exc.headers.get("Allow"):
                response.headers["Allow"] = allow
        except Refused as exc:
            response = _refusal(request, exc)
        except RelightError as exc:
            response = _refusal(request, self._of(exc, late=False))
        except Exception as exc:  # noqa: BLE001 - a client is told in its own format that it is our fault
            response = _refusal(request, _our_fault(exc, id_))
        if not response.prepared:
            _name(response, id_)
        return response

    async def messages(self, request: web.Request) -> web.StreamResponse:
        """Anthropic's."""
        return await self._answer(request, _ANTHROPIC)

    async def chat_completions(self, request: web.Request) -> web.StreamResponse:
        """OpenAI's."""
        return await self._answer(request, _OPENAI)

    async def count_tokens(self, request: web.Request) -> web.StreamResponse:
        """An estimate, which says so: providers count with tokenizers of their own, and none is asked."""
        async with self._reading(request, _ANTHROPIC) as asked:
            return _json(200, _ANTHROPIC.counted(estimated_tokens(asked.request)))

    async def models(self, request: web.Request) -> web.StreamResponse:
        """The one model."""
        return _json(200, _face(request).models((MODEL,)))

    async def model(self, request: web.Request) -> web.StreamResponse:
        """The same, by its name."""
        if request.match_info["name"] != MODEL:
            raise Refused(f"there is no such model: {MODEL} stands for all of them", trouble=Trouble.NOT_FOUND)
        return _json(200, _face(request).model(MODEL))

    async def health(self, request: web.Request) -> web.StreamResponse:  # noqa: ARG002 - a handler has one
        """That it runs, which says nothing about the providers."""
        return _json(200, {"status": "ok"})

    # -- who may ask

    def _admit(self, request: web.Request) -> None:
        # A page in a browser on this machine could reach loopback too: directly, which sends its origin, or by a name
        # of its own that it lets point here.
        if not _names_loopback(request.headers.get("Host", "")):
            raise Refused("the Host header names another machine than this", trouble=Trouble.FORBIDDEN)
        if "Origin" in request.headers or request.headers.get("Sec-Fetch-Site", "none") not in ("none", "same-origin"):
            raise Refused("requests from web pages are not answered", trouble=Trouble.FORBIDDEN)
        if self.options.token and request.path != "/health" and not self._knows_token(request):
            raise Refused("this gateway asks for its token: send it as the API key", trouble=Trouble.UNAUTHORIZED)

    def _knows_token(self, request: web.Request) -> bool:
        shown = [request.headers.get("x-api-key", "")]
        scheme, _, credentials = request.headers.get("Authorization", "").partition(" ")
        if scheme.lower() == "bearer":
            shown.append(credentials.strip())
        wanted = self.options.token.encode()
        return any(hmac.compare_digest(item.encode(errors="surrogateescape"), wanted) for item in shown)

    # -- answers

    @asynccontextmanager
    async def _reading(self, request: web.Request, face: Face) -> AsyncIterator[Asked]:
        """What is asked, its body counted among those under way until the answer is given."""
        if request.headers.get("Content-Encoding", "identity").strip().lower() != "identity":
            raise Refused("a compressed body is not read: send it as it is", status=415)
        body, held = bytearray(), 0
        try:
            try:
                async for chunk in request.content.iter_any():
                    if len(body) + len(chunk) > self.options.largest_body:
                        raise Refused("the body is too large for this gateway: send less", trouble=Trouble.TOO_LARGE)
                    if self._held + len(chunk) > self.options.bodies_at_once:
                        raise Refused("too much is under way here: come back soon", trouble=Trouble.BUSY, wait_s=1.0)
                    self._held += len(chunk)
                    held += len(chunk)
                    body += chunk
            except web.RequestPayloadError:
                raise Refused("the body cannot be read: it does not come as its headers say") from None
            yield await self._parsed(body, face)
        finally:
            self._held -= held

    async def _parsed(self, body: bytearray, face: Face) -> Asked:
        """One large body at a time, and not on the loop; afterwards `body` is empty, for it is not needed any more."""

        def parse() -> Asked:
            text = bytes(body)
            body.clear()
            found = read_body(text)
            del text
            return face.parse(found, max_tokens=self.options.max_tokens)

        if len(body) < _LARGE:
            return parse()
        async with self._parsing:
            return await asyncio.to_thread(parse)

    async def _answer(self, request: web.Request, face: Face) -> web.StreamResponse:
        degrade = _may_degrade(request)
        async with self._reading(request, face) as asked:
            return await self._answer_to(asked, request, face, degrade=degrade)

    async def _answer_to(self, asked: Asked, request: web.Request, face: Face, *, degrade: bool) -> web.StreamResponse:
        if asked.ignored:
            # Names alone, and only what looks like one: it is the client that chose them.
            names = [name for name in asked.ignored if _NAME.fullmatch(name)][:20]
            _log.debug("gateway_fields_ignored", extra={"request_id": request[_ID], "fields": names})
        deadline = asyncio.get_running_loop().time() + self._router.limits.deadline_s
        if asked.stream:
            return await self._stream(request, face, asked, degrade=degrade, deadline=deadline)
        try:
            answer = await self._router.complete(asked.request, degrade=degrade)
        except RelightError as exc:
            raise self._of(exc, late=_is_over(deadline)) from exc
        response = _json(200, face.render(answer))
        response.headers.update(_told(answer.provider, degraded=answer.degraded, dropped=answer.dropped))
        _log_answer(request, answer)
        return response

    async def _stream(
        self, request: web.Request, face: Face, asked: Asked, *, degrade: bool, deadline: float
    ) -> web.StreamResponse:
        writer = face.writer(asked)
        out = _Out(request, ping=writer.ping(), ping_s=self.options.ping_s)
        try:
            async with aclosing(out):
                await self._send(request, asked, writer, out, degrade=degrade)
        except ConnectionResetError:
            # The client has left: nobody reads what is said now.
            _log.info("gateway_client_left", extra={"request_id": request[_ID]})
        except RelightError as exc:
            refused = self._of(exc, late=_is_over(deadline))
            if out.response is None:
                raise refused from exc
            await out.end_with(writer.broken(refused))
        except Exception as exc:  # said in the stream, where the status is gone already
            if out.response is None:
                raise
            await out.end_with(writer.broken(_our_fault(exc, request[_ID])))
        return out.response or web.Response(status=499)  # to a client that left before anything was said

    async def _send(self, request: web.Request, asked: Asked, writer: Writer, out: _Out, *, degrade: bool) -> None:
        if self.options.on_cut is OnCut.RESTART:
            answer = await self._router.complete(asked.request, degrade=degrade)
            await out.begin(_told(answer.provider, degraded=answer.degraded, dropped=answer.dropped))
            for event in played(answer):
                await out.write(writer.event(event))
            _log_answer(request, answer)
            return
        async with aclosing(self._router.stream(asked.request, degrade=degrade, on_cut=OnCut.ERROR)) as events:
            async for event in events:
                if isinstance(event, Started):
                    await out.begin(_told(event.provider, degraded=event.degraded))
                await out.write(writer.event(event))
                if isinstance(event, Finished):
                    _log_answer(request, event.answer)

    def _of(self, exc: RelightError, *, late: bool) -> Refused:
        """The router's error as the client is told. Its text holds no key and nothing of a request."""
        said = str(exc)
        match exc:
            case WouldDegradeError():
                return Refused(said, trouble=Trouble.WOULD_DEGRADE, wait_s=exc.wait_s)
            case AgainLaterError():
                return Refused(said, trouble=Trouble.PROVIDERS_DOWN, wait_s=exc.wait_s)
            case RequestRefusedError():
                return Refused(said, status=exc.status if 400 <= exc.status < 500 else None)
            case IncapableError():
                return Refused(said)
            case StreamCutError():
                return Refused(said, trouble=Trouble.CUT)
            case UnavailableError():
                return Refused(said, trouble=Trouble.DEADLINE if late else Trouble.UNUSABLE)
        return Refused(said, trouble=Trouble.BROKEN)


class _Out:
    """One stream on its way to a client, with a sign of life whenever nothing else was sent for a while.

    Where nothing comes at all the sign of life begins the response, before it is known who answers: a client gives up
    on a connection that stays silent, and a model may think in silence for long.
    """

    def __init__(self, request: web.Request, *, ping: bytes, ping_s: float) -> None:
        self.response: web.StreamResponse | None = None
        self._request = request
        self._ping = ping
        self._ping_s = ping_s
        self._wrote_at = asyncio.get_running_loop().time()
        self._beginning = asyncio.Lock()
        self._pinging = asyncio.create_task(self._keep_alive())

    async def begin(self, headers: Mapping[str, str]) -> None:
        """The status and the headers, once: from now on errors are told in the stream."""
        async with self._beginning:
            if self.response is not None:
                return
            response = web.StreamResponse(
                headers={"Content-Type": "text/event-stream; charset=utf-8", "Cache-Control": "no-cache", **headers}
            )
            _name(response, self._request[_ID])
            await response.prepare(self._request)
            self.response = response

    async def write(self, data: bytes) -> None:
        """Whole events, so that nothing comes between the parts of one."""
        if data and self.response is not None:
            self._wrote_at = asyncio.get_running_loop().time()
            await self.response.write(data)

    async def end_with(self, data: bytes) -> None:
        """The last words, which a client that has left does not hear."""
        with suppress(ConnectionResetError):
            await self.write(data)

    async def aclose(self) -> None:
        """Send no more signs of life."""
        self._pinging.cancel()
        await asyncio.gather(self._pinging, return_exceptions=True)

    async def _keep_alive(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            await asyncio.sleep(self._wrote_at + self._ping_s - loop.time())
            if loop.time() >= self._wrote_at + self._ping_s:
                await self.begin({})
                await self.write(self._ping)


def played(answer: Answer) -> Iterator[Event]:
    """A whole answer, as the events of a stream."""
    yield Started(provider=answer.provider, model=answer.model, degraded=answer.degraded)
    calls = 0
    for part in answer.message.content:
        match part:
            case Text(text=text):
                yield TextDelta(text=text)
            case Thinking():
                yield ThinkingDelta(text=part.text, whole=part)
            case ToolCall():
                yield ToolCallStarted(index=calls, id=part.id, name=part.name)
                yield ToolArguments(index=calls, json=to_json(part.arguments))
                calls += 1
    yield Finished(answer=answer)


def _may_degrade(request: web.Request) -> bool:
    said = request.headers.get(DEGRADE, "allow").strip().lower()
    if said not in ("allow", "never"):
        raise Refused(f"the header {DEGRADE} must be never or allow")
    return said == "allow"


def _names_loopback(host: str) -> bool:
    try:
        return is_loopback(urlsplit(f"//{host}").hostname or "")
    except ValueError:
        return False


def _is_over(deadline: float) -> bool:
    return asyncio.get_running_loop().time() >= deadline


def _face(request: web.Request) -> Face:
    """Whose client it is, where both have the path: Anthropic's always say which version they speak."""
    anthropic = request.path.startswith("/v1/messages") or "anthropic-version" in request.headers
    return _ANTHROPIC if anthropic else _OPENAI


def _of_http(request: web.Request, exc: web.HTTPException) -> Refused:
    if isinstance(exc, web.HTTPMethodNotAllowed):
        allowed = ", ".join(sorted(exc.allowed_methods))
        return Refused(f"this takes {allowed} alone", trouble=Trouble.WRONG_METHOD)
    if isinstance(exc, web.HTTPNotFound):
        hint = "an OpenAI client's base URL ends with /v1, an Anthropic client's does not"
        return Refused(f"there is nothing here to {request.method}: {hint}", trouble=Trouble.NOT_FOUND)
    return Refused(exc.reason, status=exc.status, trouble=Trouble.INVALID if exc.status < 500 else Trouble.BROKEN)


class _Connections(logging.LoggerAdapter[logging.Logger]):
    """What aiohttp logs of a connection, without texts and values: they repeat what came in."""

    def log(self, level: int, msg: object, *args: object, **more: Any) -> None:  # noqa: ARG002 - it is all in `more`
        exc = more.get("exc_info")
        if isinstance(exc, HttpProcessingError):
            level = logging.INFO  # what came is no HTTP, which is the client's fault
        if isinstance(exc, BaseException):
            self.logger.log(level, "gateway_connection_failed", extra=_without_values(exc))


def _without_values(exc: BaseException) -> dict[str, Any]:
    """An exception for a log: its text may be a part of a conversation."""
    frames = [f"{Path(item.filename).name}:{item.lineno}" for item in traceback.extract_tb(exc.__traceback__)]
    return {"error": type(exc).__name__, "frames": frames[-8:]}


def _our_fault(exc: Exception, request_id: str) -> Refused:
    _log.error("gateway_failed", extra={"request_id": request_id, **_without_values(exc)})
    return Refused(f"the gateway failed: look for {request_id} in its log", trouble=Trouble.BROKEN)


def _refusal(request: web.Request, refused: Refused) -> web.Response:
    status, body = _face(request).error(refused)
    response = _json(status, body)
    if refused.wait_s is not None:
        response.headers["Retry-After"] = str(max(1, math.ceil(refused.wait_s)))
    _log.info("gateway_refused", extra={"request_id": request[_ID], "status": status, "trouble": refused.trouble.value})
    return response


def _json(status: int, body: dict[str, object]) -> web.Response:
    return web.Response(status=status, text=to_json(body), content_type="application/json")


def _name(response: web.StreamResponse, id_: str) -> None:
    response.headers["request-id"] = id_  # where Anthropic's SDK looks
    response.headers["x-request-id"] = id_  # where OpenAI's does


def _told(provider: str, *, degraded: bool, dropped: Sequence[str] = ()) -> dict[str, str]:
    """What an agent must know about an answer, as headers."""
    found = {PROVIDER: provider, DEGRADED: "true" if degraded else "false"}
    return {**found, DROPPED: ",".join(dropped)} if dropped else found


def _log_answer(request: web.Request, answer: Answer) -> None:
    _log.info(
        "gateway_answered",
        extra={
            "request_id": request[_ID],
            "provider": answer.provider,
            "model": answer.model,
            "degraded": answer.degraded,
            "stop": answer.stop.value,
            "attempts": len(answer.attempts),
        },
    )
