"""Played LLM providers, on loopback: they speak the real wire formats, and their models are played.

`PlayedAnthropic` answers POST /v1/messages and GET /v1/models; `PlayedOpenAI` answers POST /v1/chat/completions and GET
/v1/models, and plays a compatible server (vLLM, llama.cpp, Ollama) too. The shapes of answers, streams and errors are
those of the providers' documentation; requests are refused by the rules in `llm_rules`.

What they do not prove: that a model's words are of any use; how fast a real provider is, and where it limits whom; what
it refuses beyond the documented rules; what its own network does. A signature of thinking is this server's own. Whole
answers are on the bill; what a real provider charges for an answer that was cut, it knows alone.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import hmac
import itertools
import json
import secrets
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import TYPE_CHECKING, Any, NoReturn, Self

from aiohttp import web

from relight.providers.messages import Stop
from relight_drill.llm_rules import Refusal, validate_anthropic, validate_openai
from relight_drill.processes import DrillError, free_port

if TYPE_CHECKING:
    import ssl
    from collections.abc import AsyncIterator, Iterator

__all__ = [
    "Asked",
    "Billed",
    "Call",
    "PlayedAnthropic",
    "PlayedOpenAI",
    "PlayedProvider",
    "Refused",
    "Reply",
    "Trouble",
    "validate_anthropic",
    "validate_openai",
]

LARGEST = 32 << 20
STARTED_S = 10.0
PIECE = 24
DRIP_S = 0.05
TAG_HEADER = "X-Tag"


class Trouble(StrEnum):
    """What a played provider can do wrong."""

    SERVER_ERROR = "500"
    BAD_GATEWAY = "502 with HTML"
    UNAVAILABLE = "503 with Retry-After"
    OVERLOADED = "529"
    RATE_LIMITED = "429"
    NO_QUOTA = "429 without quota"
    UNPAID = "402"
    UNAUTHORIZED = "401"
    FORBIDDEN = "403"
    NO_SUCH_MODEL = "404"
    BAD_REQUEST = "400"
    TOO_LONG = "400 too long"
    TIMED_OUT = "408"
    REDIRECT = "302"
    SILENCE = "silence"
    HEADERS_THEN_SILENCE = "headers then silence"
    PINGS_ONLY = "signs of life only"
    SLOW_DRIP = "slow drip"
    STALLED = "stalled after tokens"
    RESET = "reset at once"
    MALFORMED = "malformed JSON"
    HTML = "HTML with status 200"
    CUT_MID_EVENT = "cut in the middle of an event"
    CUT_BEFORE_END = "cut before the last event"
    NO_STOP_REASON = "ends without a stop reason"
    NO_EVENTS = "ends without an event"
    ERROR_EVENT = "error event in the stream"
    ERROR_EVENT_FIRST = "error event as the first"
    EMPTY = "empty answer"
    BROKEN_ARGUMENTS = "tool call with broken arguments"


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """A request for an answer as it arrived. `at` is monotonic seconds; `body` is None when it was no JSON;
    `caller_port` is the port that its connection came from."""

    number: int
    at: float
    model: str
    tag: str
    body: Any
    headers: Mapping[str, str] = field(repr=False)
    caller_port: int = 0

    @property
    def streams(self) -> bool:
        """Whether a stream was asked for."""
        return bool(self.body.get("stream"))

    @property
    def said(self) -> str:
        """The words of the last message; those of results of tools too."""
        return _words(self.body["messages"][-1].get("content")) if self.body["messages"] else ""

    @property
    def system(self) -> str:
        """The words of the system prompt."""
        if "system" in self.body:
            return _words(self.body["system"])
        return "\n".join(
            _words(item.get("content")) for item in self.body["messages"] if item["role"] in ("system", "developer")
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Billed:
    """An answer that was sent whole, to its last event. `asked` is the number of its request."""

    at: float
    asked: int
    tag: str
    model: str
    id: str
    stop: str
    input_tokens: int
    output_tokens: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Refused:
    """A request that was refused by a rule or for its key, and not for a trouble that was asked for."""

    at: float
    asked: int
    status: int
    message: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """A tool that the played model asks for; without an id it gets one."""

    name: str
    arguments: Mapping[str, Any] = field(default_factory=dict)
    id: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Reply:
    """What the played model says. Without `stop` it is what follows from the rest and the request's limits.

    `first_s` passes before the answer begins, `between_s` between its events.
    """

    text: str = ""
    calls: Sequence[Call] = ()
    thinking: str = ""
    redacted: str = ""
    stop: Stop | None = None
    stop_sequence: str = ""
    first_s: float = 0.0
    between_s: float = 0.0


Answering = Callable[[Asked], Reply]
Troubling = Callable[[Asked], Trouble | None]


def echo(asked: Asked) -> Reply:
    """What was said last, a tool that must be called, and thoughts where the request asks for them."""
    body = asked.body
    thinks = (body.get("thinking") or {}).get("type") in ("enabled", "adaptive")
    calls: tuple[Call, ...] = ()
    if forced := _forced(body):
        calls = (Call(name=forced),)
    return Reply(text="" if calls else f"You said: {asked.said}", calls=calls, thinking="Hm." if thinks else "")


@dataclass(frozen=True, slots=True, kw_only=True)
class _Failure:
    """An answer with an error status, or an error in a stream."""

    status: int
    body: bytes
    headers: Mapping[str, str] = field(default_factory=dict)
    content_type: str = "application/json"


class PlayedProvider(ABC):
    """A played provider: `with` runs it in a thread of its own, `async with` and `start()` in the caller's loop.

    `answer` gives what the model says; `trouble` is what goes wrong with every request, or a function of the request.
    Both may be set while it runs. `asked`, `bill` and `refused` grow and are never changed; so does `looked_up`, the
    paths of all other requests. A request's tag is `tag(asked)`: by default what the request calls its user, or the
    header X-Tag. `key` of None asks for no key; `models` of None takes every name.
    """

    def __init__(
        self,
        *,
        answer: Answering = echo,
        trouble: Trouble | Troubling | None = None,
        key: str | None,
        models: Sequence[str] | None = None,
        tag: Callable[[Asked], str] | None = None,
        retry_after: str | None = "7",
        port: int | None = None,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        self.answer = answer
        self.trouble = trouble
        self.key = key
        self.models = None if models is None else tuple(models)
        self.retry_after = retry_after
        self.port = port or free_port()
        self.asked: list[Asked] = []
        self.bill: list[Billed] = []
        self.refused: list[Refused] = []
        self.looked_up: list[str] = []
        self._tag = tag
        self._tls = tls
        self._numbers = itertools.count()
        self._changed = threading.Condition()
        self._runner: web.AppRunner | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None

    # -- living

    @property
    def origin(self) -> str:
        """Scheme, host and port."""
        return f"{'https' if self._tls else 'http'}://127.0.0.1:{self.port}"

    @property
    @abstractmethod
    def base_url(self) -> str:
        """For the provider's SDK."""

    async def start(self) -> None:
        """Listen on loopback, in this loop."""
        app = web.Application(client_max_size=LARGEST)
        self._route(app.router)
        app.router.add_get("/v1/models", self._get_models)
        app.router.add_get("/v1/models/{id:.+}", self._get_model)
        self._runner = web.AppRunner(app, access_log=None, handler_cancellation=True, shutdown_timeout=0.2)
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", self.port, ssl_context=self._tls).start()

    async def close(self) -> None:
        """Stop listening, and cut what is under way; the bill stays."""
        if self._runner is not None:
            await self._runner.cleanup()
            self._runner = None

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self.close()

    def __enter__(self) -> Self:
        self.open()
        return self

    def __exit__(self, *exc: object) -> None:
        self.shut()

    def open(self) -> None:
        """Run in a thread of its own; at the same port again after `shut`."""
        loop = self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=loop.run_forever, name=f"played-{self.port}", daemon=True)
        self._thread.start()
        asyncio.run_coroutine_threadsafe(self.start(), loop).result(STARTED_S)

    def shut(self) -> None:
        """End the thread; connections are refused from now on."""
        assert self._loop is not None  # noqa: S101 - open() comes first
        assert self._thread is not None  # noqa: S101
        asyncio.run_coroutine_threadsafe(self.close(), self._loop).result(STARTED_S)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(STARTED_S)
        self._loop.close()

    def wait(self, condition: Callable[[], bool], *, what: str, timeout_s: float = 10.0) -> None:
        """Wait, in another thread than the server's, until `condition` holds; DrillError when it does not come."""
        with self._changed:
            if not self._changed.wait_for(condition, timeout_s):
                raise DrillError(f"waited {timeout_s:g} s for {what}, in vain", hint=f"{len(self.asked)} were asked")

    def paid(self, tag: str) -> list[Billed]:
        """The whole answers to requests with this tag."""
        return [item for item in self.bill if item.tag == tag]

    def _note(self, items: list[Any], item: Any) -> None:
        with self._changed:
            items.append(item)
            self._changed.notify_all()

    # -- what a provider's format decides

    @abstractmethod
    def _route(self, router: web.UrlDispatcher) -> None: ...

    @abstractmethod
    def _key_of(self, request: web.Request) -> str: ...

    @abstractmethod
    def _tag_of(self, body: Mapping[str, Any]) -> str: ...

    @abstractmethod
    def _refusal(self, request: web.Request, body: Any) -> Refusal | None: ...

    @abstractmethod
    def _error(
        self, status: int, message: str, *, param: str = "", code: str = "", key: str = ""
    ) -> dict[str, Any]: ...

    @abstractmethod
    def _model(self, name: str) -> dict[str, Any]: ...

    @abstractmethod
    def _events(self, asked: Asked, said: _Said) -> Iterator[bytes]:
        """The events of a stream; the last two or so are its end."""

    @abstractmethod
    def _whole(self, asked: Asked, said: _Said) -> dict[str, Any]: ...

    @abstractmethod
    def _error_event(self) -> bytes: ...

    @property
    @abstractmethod
    def _ping(self) -> bytes: ...

    @property
    @abstractmethod
    def _endings(self) -> tuple[bytes, ...]:
        """What an event that belongs to the end of a stream holds: a stream without a stop reason has none of them."""

    # -- answering

    async def _get_models(self, request: web.Request) -> web.Response:
        self._note(self.looked_up, request.path)
        if failure := self._denied(request, -1):
            return _as_response(failure)
        names = [self._model(name) for name in self.models or ()]
        return web.json_response({"object": "list", "data": names, "has_more": False})

    async def _get_model(self, request: web.Request) -> web.Response:
        self._note(self.looked_up, request.path)
        name = request.match_info["id"]
        if failure := self._denied(request, -1):
            return _as_response(failure)
        if self.models is not None and name not in self.models:
            return _as_response(self._no_model(name))
        return web.json_response(self._model(name))

    async def _post(self, request: web.Request) -> web.StreamResponse:
        """One request: its trouble first, as a provider in trouble has no time for rules."""
        try:
            body = json.loads(await request.read())
        except ValueError:
            body = None
        known = body if isinstance(body, dict) else {}
        asked = Asked(
            number=next(self._numbers),
            at=time.monotonic(),
            model=str(known.get("model", "")),
            tag=self._tag_of(known) or request.headers.get(TAG_HEADER, ""),
            body=body,
            headers=dict(request.headers),
            caller_port=_port_of(request),
        )
        refusal = self._refusal(request, body)
        if self._tag is not None and refusal is None:
            asked = _tagged(asked, self._tag(asked))
        self._note(self.asked, asked)
        trouble = self.trouble(asked) if callable(self.trouble) else self.trouble
        if trouble is Trouble.SILENCE:
            await _forever()
        if trouble is Trouble.RESET:
            _hang_up(request)
        if trouble in _STATUS:
            return _as_response(self._failure(trouble, request))
        if failure := self._denied(request, asked.number):
            return _as_response(failure)
        if refusal is not None:
            return _as_response(self._refuse(asked, refusal))
        if self.models is not None and asked.model not in self.models:
            return _as_response(self._no_model(asked.model))
        try:
            return await self._say(request, asked, trouble)
        except ConnectionError:
            # Who asked has gone away; what is returned goes nowhere, and quietly.
            return web.Response(status=500)

    def _denied(self, request: web.Request, number: int) -> _Failure | None:
        given = self._key_of(request)
        if self.key is None or hmac.compare_digest(given.encode(), self.key.encode()):
            return None
        error = self._error(401, "", key=given)
        self._note(self.refused, Refused(at=time.monotonic(), asked=number, status=401, message="the key is wrong"))
        return _Failure(status=401, body=_json(error))

    def _refuse(self, asked: Asked, refusal: Refusal) -> _Failure:
        self._note(
            self.refused,
            Refused(at=time.monotonic(), asked=asked.number, status=refusal.status, message=refusal.message),
        )
        error = self._error(refusal.status, refusal.message, param=refusal.param, code=refusal.code)
        return _Failure(status=refusal.status, body=_json(error))

    @abstractmethod
    def _no_model(self, name: str) -> _Failure: ...

    @abstractmethod
    def _said_by_trouble(self, trouble: Trouble) -> tuple[str, str]:
        """The message and the code of an error status."""

    def _failure(self, trouble: Trouble, request: web.Request) -> _Failure:
        status = _STATUS[trouble]
        if trouble is Trouble.BAD_GATEWAY:
            page = (
                b"<html>\r\n<head><title>502 Bad Gateway</title></head>\r\n<body>\r\n<center><h1>502 Bad Gateway</h1>"
            )
            return _Failure(status=status, body=page + b"</center>\r\n</body>\r\n</html>\r\n", content_type="text/html")
        if trouble is Trouble.REDIRECT:
            return _Failure(status=status, body=b"", headers={"Location": f"{self.origin}/elsewhere"})
        message, code = self._said_by_trouble(trouble)
        key = self._key_of(request) if trouble is Trouble.UNAUTHORIZED else ""
        headers = {}
        if trouble in (Trouble.UNAVAILABLE, Trouble.RATE_LIMITED) and self.retry_after is not None:
            headers["Retry-After"] = self.retry_after
        return _Failure(status=status, body=_json(self._error(status, message, code=code, key=key)), headers=headers)

    async def _say(self, request: web.Request, asked: Asked, trouble: Trouble | None) -> web.StreamResponse:
        reply = self.answer(asked)
        if trouble is Trouble.EMPTY:
            reply = Reply(stop=Stop.END)
        elif trouble is Trouble.BROKEN_ARGUMENTS:
            reply = Reply(calls=[Call(name=_some_tool(asked.body))])
        said = _said(asked, reply, broken=trouble is Trouble.BROKEN_ARGUMENTS)
        if trouble is Trouble.HTML:
            return web.Response(
                text="<html><body>Welcome to the hotel's network</body></html>", content_type="text/html"
            )
        if not asked.streams:
            return await self._say_at_once(asked, said, reply, trouble)
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream", "Cache-Control": "no-cache"})
        await asyncio.sleep(reply.first_s if trouble is None else 0.0)
        await response.prepare(request)
        if trouble in (None, Trouble.EMPTY, Trouble.BROKEN_ARGUMENTS):
            *events, last = self._events(asked, said)
            for event in events:
                await response.write(event)
                await asyncio.sleep(reply.between_s)
            # On the bill before the client can know that it is whole; nobody is charged who has gone away.
            if request.transport is not None and not request.transport.is_closing():
                self._note(self.bill, _billed(asked, said))
            await response.write(last)
        else:
            async for data in self._troubled(list(self._events(asked, said)), trouble):
                if data is None:
                    _hang_up(request)
                await response.write(data)
        await response.write_eof()
        return response

    async def _say_at_once(
        self, asked: Asked, said: _Said, reply: Reply, trouble: Trouble | None
    ) -> web.StreamResponse:
        if trouble not in (None, Trouble.EMPTY, Trouble.BROKEN_ARGUMENTS):
            if trouble is Trouble.MALFORMED:
                return web.Response(body=b'{"id": "msg', content_type="application/json")
            await _forever()
        await asyncio.sleep(reply.first_s)
        self._note(self.bill, _billed(asked, said))
        return web.json_response(self._whole(asked, said))

    async def _troubled(self, events: list[bytes], trouble: Trouble) -> AsyncIterator[bytes | None]:
        """What is sent of a stream that goes wrong; None hangs up."""
        begun = events[: max(2, len(events) // 2)]
        middle = next((event for event in events if len(event) > 80 and event not in begun[:1]), events[-1])
        if trouble is Trouble.HEADERS_THEN_SILENCE:
            await _forever()
        elif trouble is Trouble.PINGS_ONLY:
            while True:
                yield self._ping
                await asyncio.sleep(DRIP_S)
        elif trouble is Trouble.SLOW_DRIP:
            for byte in itertools.chain(events[0].rstrip(b"\n"), itertools.repeat(ord(" "))):
                yield bytes([byte])
                await asyncio.sleep(DRIP_S)
        elif trouble is Trouble.MALFORMED:
            yield events[0]
            yield middle.replace(b"}", b"", 1).replace(b'":', b'"', 1)
        elif trouble is Trouble.ERROR_EVENT_FIRST:
            yield self._error_event()
        elif trouble is Trouble.CUT_BEFORE_END:
            for event in events[:-1]:
                yield event
            yield None
        elif trouble is Trouble.NO_STOP_REASON:
            for event in events:
                if not any(ending in event for ending in self._endings):
                    yield event
        elif trouble is not Trouble.NO_EVENTS:
            for event in begun:
                yield event
            if trouble is Trouble.STALLED:
                await _forever()
            elif trouble is Trouble.ERROR_EVENT:
                yield self._error_event()
            elif trouble is Trouble.CUT_MID_EVENT:
                yield middle[: len(middle) // 2]
                yield None


_STATUS = {
    Trouble.SERVER_ERROR: 500,
    Trouble.BAD_GATEWAY: 502,
    Trouble.UNAVAILABLE: 503,
    Trouble.OVERLOADED: 529,
    Trouble.RATE_LIMITED: 429,
    Trouble.NO_QUOTA: 429,
    Trouble.UNPAID: 402,
    Trouble.UNAUTHORIZED: 401,
    Trouble.FORBIDDEN: 403,
    Trouble.NO_SUCH_MODEL: 404,
    Trouble.BAD_REQUEST: 400,
    Trouble.TOO_LONG: 400,
    Trouble.TIMED_OUT: 408,
    Trouble.REDIRECT: 302,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class _Said:
    """A reply as it goes out: cut by the request's limits, its calls with ids, and counted."""

    id: str
    text: str
    calls: tuple[tuple[str, str, str], ...]
    """Id, name, and arguments as JSON text."""
    thinking: str
    redacted: str
    stop: Stop
    stop_sequence: str
    input_tokens: int
    output_tokens: int
    thinking_tokens: int


def _said(asked: Asked, reply: Reply, *, broken: bool) -> _Said:
    text, stop, found = reply.text, reply.stop, reply.stop_sequence
    stops = asked.body.get("stop_sequences") or asked.body.get("stop") or ()
    for sequence in [stops] if isinstance(stops, str) else stops:
        if stop is None and sequence in text:
            text, stop, found = text.partition(sequence)[0], Stop.STOP_SEQUENCE, sequence
    most = asked.body.get("max_tokens") or asked.body.get("max_completion_tokens")
    if stop is None and most is not None and _tokens(text) > most:
        text, stop = text.encode()[: 4 * most].decode("utf-8", "ignore"), Stop.MAX_TOKENS
    calls = tuple(
        (call.id, call.name, '{"city": "Par' if broken else json.dumps(dict(call.arguments))) for call in reply.calls
    )
    thought = _tokens(reply.thinking) + _tokens(reply.redacted)
    return _Said(
        id=secrets.token_hex(12),
        text=text,
        calls=calls,
        thinking=reply.thinking,
        redacted=reply.redacted,
        stop=stop or (Stop.TOOL_CALLS if calls else Stop.END),
        stop_sequence=found,
        input_tokens=max(1, _tokens(json.dumps(asked.body))),
        output_tokens=1 + _tokens(text) + thought + sum(_tokens(name + text) for _, name, text in calls),
        thinking_tokens=thought,
    )


def _billed(asked: Asked, said: _Said) -> Billed:
    return Billed(
        at=time.monotonic(),
        asked=asked.number,
        tag=asked.tag,
        model=asked.model,
        id=said.id,
        stop=said.stop,
        input_tokens=said.input_tokens,
        output_tokens=said.output_tokens,
    )


# -- Anthropic


class PlayedAnthropic(PlayedProvider):
    """POST /v1/messages, streaming or not, and GET /v1/models."""

    def __init__(
        self, *, key: str | None = "sk-ant-api03-played-anthropic-key-0001", secret: bytes = b"", **more: Any
    ) -> None:
        super().__init__(key=key, **more)
        self._secret = secret or secrets.token_bytes(16)

    @property
    def base_url(self) -> str:
        """The Anthropic SDK adds /v1 by itself."""
        return self.origin

    def sign(self, model: str, thinking: str) -> str:
        """The signature of a thought of this model; the `data` of a redacted one is the signature of nothing."""
        mac = hmac.new(self._secret, f"{model}\0{thinking}".encode(), hashlib.sha256).digest()
        return base64.b64encode(mac).decode()

    def signed(self, model: str, thinking: str, signature: str) -> bool:
        """Whether this server signed it for this model."""
        return hmac.compare_digest(self.sign(model, thinking).encode(), signature.encode())

    def _route(self, router: web.UrlDispatcher) -> None:
        router.add_post("/{prefix:.*}v1/messages", self._post)

    def _key_of(self, request: web.Request) -> str:
        return request.headers.get("X-Api-Key", "") or _bearer(request)

    def _tag_of(self, body: Mapping[str, Any]) -> str:
        metadata = body.get("metadata")
        return str(metadata.get("user_id") or "") if isinstance(metadata, dict) else ""

    def _refusal(self, request: web.Request, body: Any) -> Refusal | None:
        if "anthropic-version" not in request.headers:
            return Refusal(message="anthropic-version: header is required")
        if body is None:
            return Refusal(message="The request body is not valid JSON")
        return validate_anthropic(body, signed=self.signed)

    def _no_model(self, name: str) -> _Failure:
        return _Failure(status=404, body=_json(self._error(404, f"model: {name}")))

    def _error(self, status: int, message: str, *, param: str = "", code: str = "", key: str = "") -> dict[str, Any]:  # noqa: ARG002
        kind = _ANTHROPIC_ERRORS.get(status, "api_error")
        said = message or "invalid x-api-key"
        return {"type": "error", "error": {"type": kind, "message": said}, "request_id": _request_id()}

    def _said_by_trouble(self, trouble: Trouble) -> tuple[str, str]:
        told = {
            Trouble.OVERLOADED: "Overloaded",
            Trouble.RATE_LIMITED: "This request would exceed your organization's rate limit of 50 requests per minute.",
            Trouble.NO_QUOTA: "This request would exceed your organization's monthly limit.",
            Trouble.UNPAID: "Your credit balance is too low to access the Anthropic API.",
            Trouble.UNAUTHORIZED: "",
            Trouble.FORBIDDEN: "Your API key does not have permission to use the specified resource.",
            Trouble.NO_SUCH_MODEL: "model: claude-nobody",
            Trouble.BAD_REQUEST: "messages.0: something about this request is wrong",
            Trouble.TOO_LONG: "prompt is too long: 210000 tokens > 200000 maximum",
            Trouble.TIMED_OUT: "Request timed out",
        }
        return told.get(trouble, "Internal server error"), ""

    def _model(self, name: str) -> dict[str, Any]:
        return {
            "type": "model",
            "id": name,
            "display_name": name,
            "created_at": "2026-01-01T00:00:00Z",
            "lifecycle": "active",
        }

    def _blocks(self, asked: Asked, said: _Said) -> Iterator[tuple[dict[str, Any], list[dict[str, Any]]]]:
        """Each block as it starts, and what is added to it."""
        if said.thinking:
            shown = said.thinking if (asked.body.get("thinking") or {}).get("display") != "omitted" else ""
            signature = {"type": "signature_delta", "signature": self.sign(asked.model, shown)}
            deltas = [{"type": "thinking_delta", "thinking": piece} for piece in _pieces(shown)]
            yield {"type": "thinking", "thinking": "", "signature": ""}, [*deltas, signature]
        if said.redacted:
            yield {"type": "redacted_thinking", "data": self.sign(asked.model, "")}, []
        if said.text:
            yield {"type": "text", "text": ""}, [{"type": "text_delta", "text": piece} for piece in _pieces(said.text)]
        for id_, name, arguments in said.calls:
            pieces = ["", *_pieces(arguments)]
            yield (
                {"type": "tool_use", "id": id_ or f"toolu_{secrets.token_hex(12)}", "name": name, "input": {}},
                [{"type": "input_json_delta", "partial_json": piece} for piece in pieces],
            )

    def _events(self, asked: Asked, said: _Said) -> Iterator[bytes]:
        usage = {
            "input_tokens": said.input_tokens,
            "cache_creation_input_tokens": 0,
            "cache_read_input_tokens": 0,
            "output_tokens": 1,
            "service_tier": "standard",
        }
        message: dict[str, Any] = {
            "id": f"msg_{said.id}",
            "type": "message",
            "role": "assistant",
            "model": asked.model,
            "content": [],
            "stop_reason": None,
            "stop_sequence": None,
            "usage": usage,
        }
        yield _event({"type": "message_start", "message": message})
        for index, (block, deltas) in enumerate(self._blocks(asked, said)):
            yield _event({"type": "content_block_start", "index": index, "content_block": block})
            if index == 0:
                yield self._ping
            for delta in deltas:
                yield _event({"type": "content_block_delta", "index": index, "delta": delta})
            yield _event({"type": "content_block_stop", "index": index})
        delta = {"stop_reason": _ANTHROPIC_STOPS[said.stop], "stop_sequence": said.stop_sequence or None}
        yield _event({"type": "message_delta", "delta": delta, "usage": self._usage(said)})
        yield _event({"type": "message_stop"})

    def _usage(self, said: _Said) -> dict[str, Any]:
        return {
            "input_tokens": said.input_tokens,
            "cache_creation_input_tokens": 0,
            "cache_read_input_tokens": 0,
            "output_tokens": said.output_tokens,
            "output_tokens_details": {"thinking_tokens": said.thinking_tokens},
        }

    def _whole(self, asked: Asked, said: _Said) -> dict[str, Any]:
        content = []
        for block, deltas in self._blocks(asked, said):
            for delta in deltas:
                for name in ("text", "thinking", "signature"):
                    if name in delta:
                        block[name] = block.get(name, "") + delta[name]
            if block["type"] == "tool_use":
                block["input"] = json.loads("".join(delta["partial_json"] for delta in deltas))
            content.append(block)
        return {
            "id": f"msg_{said.id}",
            "type": "message",
            "role": "assistant",
            "model": asked.model,
            "content": content,
            "stop_reason": _ANTHROPIC_STOPS[said.stop],
            "stop_sequence": said.stop_sequence or None,
            "usage": self._usage(said),
        }

    def _error_event(self) -> bytes:
        return _event({"type": "error", "error": {"type": "overloaded_error", "message": "Overloaded"}})

    @property
    def _ping(self) -> bytes:
        return _event({"type": "ping"})

    @property
    def _endings(self) -> tuple[bytes, ...]:
        return (b"event: message_delta", b"event: message_stop")


_ANTHROPIC_ERRORS = {
    400: "invalid_request_error",
    401: "authentication_error",
    402: "billing_error",
    403: "permission_error",
    404: "not_found_error",
    408: "timeout_error",
    413: "request_too_large",
    429: "rate_limit_error",
    529: "overloaded_error",
}
_ANTHROPIC_STOPS = {
    Stop.END: "end_turn",
    Stop.TOOL_CALLS: "tool_use",
    Stop.MAX_TOKENS: "max_tokens",
    Stop.STOP_SEQUENCE: "stop_sequence",
    Stop.REFUSAL: "refusal",
    Stop.CONTEXT_FULL: "model_context_window_exceeded",
}


def _event(data: Mapping[str, Any]) -> bytes:
    return f"event: {data['type']}\ndata: {json.dumps(data, separators=(',', ':'))}\n\n".encode()


# -- OpenAI


class PlayedOpenAI(PlayedProvider):
    """POST /v1/chat/completions, streaming or not, and GET /v1/models.

    With `compatible` it plays a server of one's own that speaks the format, which asks for no key unless it is given
    one; `alternating` is one whose model insists that user and assistant take turns.
    """

    def __init__(
        self,
        *,
        key: str | None = "",
        compatible: bool = False,
        alternating: bool = False,
        **more: Any,
    ) -> None:
        own = None if compatible else "sk-proj-played-openai-key-0001"
        super().__init__(key=own if key == "" else key, **more)
        self.compatible = compatible
        self.alternating = alternating

    @property
    def base_url(self) -> str:
        """As the OpenAI SDK wants it."""
        return f"{self.origin}/v1"

    def _route(self, router: web.UrlDispatcher) -> None:
        router.add_post("/{prefix:.*}chat/completions", self._post)

    def _key_of(self, request: web.Request) -> str:
        return _bearer(request)

    def _tag_of(self, body: Mapping[str, Any]) -> str:
        return str(body.get("user") or body.get("safety_identifier") or "")

    def _refusal(self, request: web.Request, body: Any) -> Refusal | None:  # noqa: ARG002 - its rules are of bodies alone
        if body is None:
            return Refusal(message="We could not parse the JSON body of your request.")
        return validate_openai(body, compatible=self.compatible, alternating=self.alternating)

    def _no_model(self, name: str) -> _Failure:
        said = f"The model `{name}` does not exist or you do not have access to it."
        return _Failure(status=404, body=_json(self._error(404, said, code="model_not_found")))

    def _error(self, status: int, message: str, *, param: str = "", code: str = "", key: str = "") -> dict[str, Any]:
        if status == 401:
            # As the real one does: a part of the key is in the answer, and must not come into anybody's log from there.
            masked = f"{key[:8]}{'*' * max(0, len(key) - 12)}{key[-4:]}"
            message, code = (
                f"Incorrect API key provided: {masked}. You can find your API key in the settings.",
                _BAD_KEY,
            )
        kind = {429: "requests", 401: "invalid_request_error"}.get(
            status, "server_error" if status >= 500 else "invalid_request_error"
        )
        if code == "insufficient_quota":
            kind = code
        return {"error": {"message": message, "type": kind, "param": param or None, "code": code or None}}

    def _said_by_trouble(self, trouble: Trouble) -> tuple[str, str]:
        told = {
            Trouble.UNAVAILABLE: ("That model is currently overloaded with other requests.", ""),
            Trouble.OVERLOADED: ("The engine is currently overloaded, please try again later.", ""),
            Trouble.RATE_LIMITED: ("Rate limit reached for requests per min (RPM): Limit 3.", "rate_limit_exceeded"),
            Trouble.NO_QUOTA: ("You exceeded your current quota, please check your plan.", "insufficient_quota"),
            Trouble.UNPAID: ("Your account is not active, please check your billing details.", "billing_not_active"),
            Trouble.UNAUTHORIZED: ("", _BAD_KEY),
            Trouble.FORBIDDEN: ("Country, region, or territory not supported", "unsupported_country_region_territory"),
            Trouble.NO_SUCH_MODEL: ("The model `gpt-nobody` does not exist.", "model_not_found"),
            Trouble.BAD_REQUEST: ("Something about this request is wrong.", "invalid_value"),
            Trouble.TOO_LONG: (
                "This model's maximum context length is 128000 tokens. However, your messages resulted in 130000 "
                "tokens. Please reduce the length of the messages.",
                "context_length_exceeded",
            ),
            Trouble.TIMED_OUT: ("Request timed out.", ""),
        }
        return told.get(trouble, ("The server had an error while processing your request. Sorry about that!", ""))

    def _model(self, name: str) -> dict[str, Any]:
        return {"id": name, "object": "model", "created": 1767225600, "owned_by": "played"}

    def _events(self, asked: Asked, said: _Said) -> Iterator[bytes]:
        counted = bool((asked.body.get("stream_options") or {}).get("include_usage"))

        def chunk(delta: Mapping[str, Any] | None, finish: str | None = None, **more: Any) -> bytes:
            choices = [{"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish}]
            data = {
                "id": f"chatcmpl-{said.id}",
                "object": "chat.completion.chunk",
                "created": int(time.time()),
                "model": asked.model,
                "choices": [] if delta is None else choices,
                **({"usage": None} if counted else {}),
                **({} if self.compatible else {"service_tier": "default", "obfuscation": secrets.token_urlsafe(6)}),
                **more,
            }
            return b"data: " + _json(data) + b"\n\n"

        yield chunk({"role": "assistant", "content": "" if said.text or not said.calls else None})
        if said.thinking and self.compatible:
            for piece in _pieces(said.thinking):
                yield chunk({"reasoning_content": piece})
        refused = said.stop is Stop.REFUSAL
        for piece in _pieces(said.text):
            yield chunk({"refusal": piece} if refused else {"content": piece})
        for index, call in enumerate(self._calls(said)):
            arguments = call["function"].pop("arguments")
            call["function"]["arguments"] = ""
            yield chunk({"tool_calls": [{"index": index, **call}]})
            for piece in _pieces(arguments):
                yield chunk({"tool_calls": [{"index": index, "function": {"arguments": piece}}]})
        yield chunk({}, _OPENAI_STOPS[said.stop])
        if counted:
            yield chunk(None, usage=self._usage(said))
        yield b"data: [DONE]\n\n"

    def _calls(self, said: _Said) -> list[dict[str, Any]]:
        return [
            {
                "id": id_ or f"call_{secrets.token_hex(12)}",
                "type": "function",
                "function": {"name": name, "arguments": arguments},
            }
            for id_, name, arguments in said.calls
        ]

    def _usage(self, said: _Said) -> dict[str, Any]:
        return {
            "prompt_tokens": said.input_tokens,
            "completion_tokens": said.output_tokens,
            "total_tokens": said.input_tokens + said.output_tokens,
            "prompt_tokens_details": {"cached_tokens": 0, "audio_tokens": 0},
            "completion_tokens_details": {"reasoning_tokens": said.thinking_tokens, "audio_tokens": 0},
        }

    def _whole(self, asked: Asked, said: _Said) -> dict[str, Any]:
        refused = said.stop is Stop.REFUSAL
        message = {
            "role": "assistant",
            "content": None if refused or (said.calls and not said.text) else said.text,
            "refusal": said.text if refused else None,
            **({"tool_calls": self._calls(said)} if said.calls else {}),
        }
        return {
            "id": f"chatcmpl-{said.id}",
            "object": "chat.completion",
            "created": int(time.time()),
            "model": asked.model,
            "choices": [{"index": 0, "message": message, "logprobs": None, "finish_reason": _OPENAI_STOPS[said.stop]}],
            "usage": self._usage(said),
        }

    def _error_event(self) -> bytes:
        error = self._error(500, "The server had an error while processing your request. Sorry about that!")
        return b"data: " + _json(error) + b"\n\n"

    @property
    def _ping(self) -> bytes:
        return b": keep-alive\n\n"

    @property
    def _endings(self) -> tuple[bytes, ...]:
        return (b'"finish_reason":"', b"[DONE]", b'"choices":[]')


_BAD_KEY = "invalid_api_key"
_OPENAI_STOPS = {
    Stop.END: "stop",
    Stop.TOOL_CALLS: "tool_calls",
    Stop.MAX_TOKENS: "length",
    Stop.STOP_SEQUENCE: "stop",
    Stop.REFUSAL: "content_filter",
    Stop.CONTEXT_FULL: "length",
}


# -- both


def _port_of(request: web.Request) -> int:
    address = request.transport.get_extra_info("peername") if request.transport is not None else None
    return int(address[1]) if address else 0


def _tagged(asked: Asked, tag: str) -> Asked:
    return replace(asked, tag=tag)


def _bearer(request: web.Request) -> str:
    return request.headers.get("Authorization", "").removeprefix("Bearer ").strip()


def _json(value: Any) -> bytes:
    return json.dumps(value, separators=(",", ":")).encode()


def _request_id() -> str:
    return f"req_{secrets.token_hex(12)}"


def _as_response(failure: _Failure) -> web.Response:
    headers = {**failure.headers, "request-id": _request_id(), "Content-Type": failure.content_type}
    return web.Response(status=failure.status, body=failure.body, headers=headers)


def _hang_up(request: web.Request) -> NoReturn:
    """End the connection without a word, as a proxy does that dies."""
    if request.transport is not None:
        # What was written is sent first: it is the end of it that is missing.
        request.transport.close()
    raise asyncio.CancelledError


async def _forever() -> NoReturn:
    """Until the other end goes away, or the server ends."""
    await asyncio.Event().wait()
    raise AssertionError


def _tokens(text: str) -> int:
    return -(-len(text.encode()) // 4)


def _pieces(text: str) -> list[str]:
    return [text[start : start + PIECE] for start in range(0, len(text), PIECE)]


def _words(content: Any) -> str:
    if isinstance(content, str):
        return content
    found = []
    for part in content or ():
        if part.get("type") == "text":
            found.append(part["text"])
        elif part.get("type") == "tool_result":
            found.append(_words(part.get("content")))
    return "\n".join(found)


def _tool_names(body: Mapping[str, Any]) -> list[str]:
    return [tool["function"]["name"] if "function" in tool else tool["name"] for tool in body.get("tools") or ()]


def _some_tool(body: Mapping[str, Any]) -> str:
    return next(iter(_tool_names(body)), "lookup")


def _forced(body: Mapping[str, Any]) -> str:
    """The tool that must be called; empty when none must."""
    choice = body.get("tool_choice")
    if isinstance(choice, dict):
        named = choice.get("function", choice).get("name", "")
        return str(named) or (_some_tool(body) if choice.get("type") == "any" else "")
    return _some_tool(body) if choice == "required" else ""
