"""Each adapter, by its real SDK, against a played provider on loopback: one contract for all."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import pickle
import subprocess
import sys
import traceback
from contextlib import aclosing, asynccontextmanager
from typing import TYPE_CHECKING, Any

import pytest
import trustme

from relight.errors import ConfigError
from relight.providers.faults import Fault, FaultKind
from relight.providers.messages import (
    Effort,
    Request,
    Stop,
    TextDelta,
    ThinkingDelta,
    Tool,
    ToolArguments,
    ToolCallStarted,
    ToolResult,
    ToolUse,
    Usage,
    assistant,
    user,
)
from relight.providers.messages import Text as Words
from relight.providers.open import open_provider
from relight.providers.port import Completed
from relight.providers.spec import Api, ProviderSpec
from relight_drill.llm import Call, PlayedAnthropic, PlayedOpenAI, Reply, Trouble
from relight_drill.processes import free_port

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
    from pathlib import Path

    from relight.providers.port import Provider
    from relight_drill.llm import Asked, PlayedProvider

pytestmark = [pytest.mark.servers, pytest.mark.anyio]

LOOK = Tool(name="look", description="Looks.", schema={"type": "object", "properties": {"at": {"type": "string"}}})
HELLO = Request(messages=(user("Hello."),))


async def ask(provider: Provider, request: Request = HELLO) -> tuple[list[Any], Completed, int]:
    """What is seen on the way, the whole, and how many events were heard."""
    heard = 0

    def count() -> None:
        nonlocal heard
        heard += 1

    async with aclosing(provider.stream(request, heard=count)) as stream:
        events = [event async for event in stream]
    *deltas, whole = events
    assert isinstance(whole, Completed), "the last thing is the whole"
    assert not any(isinstance(delta, Completed) for delta in deltas)
    return deltas, whole, heard


async def fault_of(provider: Provider, request: Request = HELLO) -> Fault:
    """How asking fails."""
    with pytest.raises(Fault) as caught:
        await ask(provider, request)
    return caught.value


async def shown_by(provider: Provider) -> list[str]:
    """All that a fault shows of itself, with the variables of every frame that it went through."""
    try:
        await ask(provider)
    except Fault as fault:
        told = traceback.TracebackException.from_exception(fault, capture_locals=True)
        return [str(fault), repr(fault), repr(fault.__dict__), str(pickle.dumps(fault.__dict__)), *told.format()]
    return []


class ProviderContract:
    """What the router relies on."""

    api: Api
    model: str
    models: tuple[str, ...]  # those that take different settings
    key = "sk-live-0123456789-abcdefghij-KLMNOP"

    def played(self, **more: Any) -> PlayedProvider:
        """The server."""
        raise NotImplementedError

    def spec(self, base_url: str, **more: Any) -> ProviderSpec:
        """The settings."""
        return ProviderSpec(name="one", api=self.api, model=self.model, base_url=base_url, **more)

    @pytest.fixture
    async def server(self) -> AsyncIterator[PlayedProvider]:
        async with self.played(key=self.key) as server:
            yield server

    @pytest.fixture
    async def provider(self, server: PlayedProvider) -> AsyncIterator[Provider]:
        provider = open_provider(self.spec(server.base_url), self.key)
        yield provider
        await provider.close()

    # -- answers

    async def test_words_come_as_they_come_and_then_the_whole(self, server: PlayedProvider, provider: Provider) -> None:
        """The deltas are the answer's text, in pieces; counts, model and id are the provider's."""
        server.answer = lambda asked: Reply(text="A longer answer, which comes in several pieces. " * 5)
        deltas, whole, heard = await ask(provider)
        text = "A longer answer, which comes in several pieces. " * 5
        assert "".join(delta.text for delta in deltas if isinstance(delta, TextDelta)) == whole.message.text == text
        assert len(deltas) > 3
        assert whole.stop is Stop.END
        assert whole.usage.input > 0
        assert whole.usage.output > 0
        assert (whole.model, bool(whole.id)) == (self.model, True)
        assert heard >= len(deltas) + 2
        assert [billed.id in whole.id for billed in server.bill] == [True]

    async def test_parallel_calls_and_their_results_go_round(self, server: PlayedProvider, provider: Provider) -> None:
        """Calls come with ids by which their results are taken back; an argument may hold anything that JSON can."""
        odd = {"at": 'a "quoted" \\ \n \u2028 é 😀', "deep": {"n": [1, 2.5, None, True]}}
        server.answer = lambda asked: Reply(text="Two.", calls=[Call(name="look", arguments=odd), Call(name="look")])
        deltas, whole, _ = await ask(provider, Request(messages=(user("Look."),), tools=(LOOK,)))
        assert whole.stop is Stop.TOOL_CALLS
        first, second = whole.message.tool_calls
        assert (first.name, first.arguments, second.arguments) == ("look", odd, {})
        started = [delta for delta in deltas if isinstance(delta, ToolCallStarted)]
        assert [(item.index, item.id) for item in started] == [(0, first.id), (1, second.id)]
        pieces = [delta.json for delta in deltas if isinstance(delta, ToolArguments) and delta.index == 0]
        assert json.loads("".join(pieces)) == odd
        server.answer = lambda asked: Reply(text="Seen.")
        results = [ToolResult(call_id=call.id, content=(Words(text="ok"),)) for call in (second, first)]
        again = Request(messages=(user("Look."), whole.message, user(*results)), tools=(LOOK,))
        assert (await ask(provider, again))[1].message.text == "Seen."
        assert server.refused == []

    @pytest.mark.parametrize(
        ("reply", "stop"),
        [
            (Reply(text="x" * 4000), Stop.MAX_TOKENS),
            (Reply(text="I will not.", stop=Stop.REFUSAL), Stop.REFUSAL),
            (Reply(text="", stop=Stop.MAX_TOKENS), Stop.MAX_TOKENS),
        ],
    )
    async def test_why_it_stopped(self, server: PlayedProvider, provider: Provider, reply: Reply, stop: Stop) -> None:
        """fails when an answer that was cut or refused looks like one that is whole."""
        server.answer = lambda asked: reply
        _, whole, _ = await ask(provider, Request(messages=(user("Go on."),), max_tokens=100))
        assert whole.stop is stop

    @pytest.mark.parametrize("tools", [(LOOK,), ()], ids=["tools", "no tools"])
    @pytest.mark.parametrize("thinks", [True, False], ids=["thinks", "does not think"])
    async def test_every_setting_is_taken_or_named(
        self, server: PlayedProvider, thinks: bool, tools: tuple[Tool, ...]
    ) -> None:
        """fails when a setting makes the provider refuse, or is dropped without a word."""
        for model in self.models:
            await self._every_setting(server, model, thinks=thinks, tools=tools)

    async def _every_setting(
        self, server: PlayedProvider, model: str, *, thinks: bool, tools: tuple[Tool, ...]
    ) -> None:
        settings: Any = {"name": "one", "api": self.api, "model": model, "base_url": server.base_url}
        provider = open_provider(ProviderSpec(**settings, thinks=thinks, max_output_tokens=1000), self.key)
        request = Request(
            messages=(user("Hello."),),
            system="Be brief.",
            tools=tools,
            tool_use=ToolUse.REQUIRED if tools else ToolUse.AUTO,
            tool="look" if tools else "",
            parallel_tools=not tools,
            max_tokens=2000,
            temperature=0.5,
            top_p=0.5,
            stop=("END",),
            effort=Effort.MAX,
            answer_schema={"type": "object", "properties": {"a": {"type": "string"}}, "required": ["a"]},
        )
        _, whole, _ = await ask(provider, request)
        assert [call.name for call in whole.message.tool_calls] == [tool.name for tool in tools]
        assert server.refused == []
        body = server.asked[-1].body
        effort = body.get("reasoning_effort", body.get("output_config", {}).get("effort"))
        one_call = body.get("parallel_tool_calls", True) is False
        one_call = one_call or body.get("tool_choice", {}).get("disable_parallel_tool_use", False)
        reached = {
            "temperature": body.get("temperature") == 0.5,
            "top_p": body.get("top_p") == 0.5,
            "stop": ["END"] in (body.get("stop"), body.get("stop_sequences")),
            "effort": effort not in (None, "none") or "budget_tokens" in body.get("thinking", {}),
            "parallel_tools": one_call or not tools,
            "max_tokens": False,
        }
        assert {name for name, whether in reached.items() if not whether} == {*provider.dropped(request)}, model
        assert server.asked[-1].system == "Be brief."
        await provider.close()

    async def test_sixty_four_calls_at_once(self, server: PlayedProvider, provider: Provider) -> None:
        """fails when calls wait for one another: a slow answer must not hold up others."""
        gate = asyncio.Event()
        asked = 0

        async def one() -> str:
            nonlocal asked
            async with aclosing(provider.stream(HELLO, heard=lambda: None)) as stream:
                first = await anext(stream)
                asked += 1
                if asked == 64:
                    gate.set()
                await gate.wait()
                return first.text if isinstance(first, TextDelta) else ""

        answers = await asyncio.wait_for(asyncio.gather(*(one() for _ in range(64))), 60)
        assert len(answers) == 64

    # -- faults

    FAULTS = (
        (Trouble.SERVER_ERROR, FaultKind.SERVER_ERROR, 500),
        (Trouble.BAD_GATEWAY, FaultKind.SERVER_ERROR, 502),
        (Trouble.UNAVAILABLE, FaultKind.SERVER_ERROR, 503),
        (Trouble.OVERLOADED, FaultKind.OVERLOADED, 529),
        (Trouble.RATE_LIMITED, FaultKind.LIMITED, 429),
        (Trouble.UNPAID, FaultKind.DENIED, 402),
        (Trouble.UNAUTHORIZED, FaultKind.DENIED, 401),
        (Trouble.FORBIDDEN, FaultKind.DENIED, 403),
        (Trouble.NO_SUCH_MODEL, FaultKind.DENIED, 404),
        (Trouble.BAD_REQUEST, FaultKind.CALLERS_FAULT, 400),
        (Trouble.TOO_LONG, FaultKind.TOO_LONG, 400),
        (Trouble.TIMED_OUT, FaultKind.SERVER_ERROR, 408),
        (Trouble.REDIRECT, FaultKind.MALFORMED, 302),
        (Trouble.RESET, FaultKind.CONNECTION, None),
        (Trouble.MALFORMED, FaultKind.MALFORMED, None),
        (Trouble.HTML, FaultKind.MALFORMED, 200),
        (Trouble.CUT_MID_EVENT, FaultKind.TRUNCATED, None),
        (Trouble.NO_STOP_REASON, FaultKind.TRUNCATED, None),
        (Trouble.NO_EVENTS, FaultKind.TRUNCATED, None),
        (Trouble.EMPTY, FaultKind.EMPTY, None),
        (Trouble.BROKEN_ARGUMENTS, FaultKind.BROKEN_CALL, None),
    )

    @pytest.mark.parametrize(("trouble", "kind", "status"), FAULTS, ids=[str(row[0]) for row in FAULTS])
    async def test_a_fault(
        self, server: PlayedProvider, provider: Provider, trouble: Trouble, kind: FaultKind, status: int | None
    ) -> None:
        """fails when a fault is taken for another, is asked again by the SDK, or carries what it was made from."""
        server.trouble = trouble
        fault = await fault_of(provider, Request(messages=(user("Hello."),), tools=(LOOK,)))
        assert (fault.kind, fault.status) == (kind, status)
        assert fault.wait_s == (7.0 if trouble in (Trouble.UNAVAILABLE, Trouble.RATE_LIMITED) else None)
        assert len(server.asked) == 1, "the SDK must not ask again"
        assert server.looked_up == [], "a redirect must not be followed"
        assert fault.__cause__ is fault.__context__ is None
        server.trouble = None
        assert (await ask(provider))[1].stop is Stop.END

    @pytest.mark.parametrize("trouble", [Trouble.ERROR_EVENT, Trouble.ERROR_EVENT_FIRST])
    async def test_an_error_in_the_stream(self, server: PlayedProvider, provider: Provider, trouble: Trouble) -> None:
        """What has come before it is no answer."""
        server.trouble = trouble
        assert (await fault_of(provider)).kind in (FaultKind.OVERLOADED, FaultKind.SERVER_ERROR)

    async def test_signs_of_life_are_heard_and_bytes_alone_are_not(
        self, server: PlayedProvider, provider: Provider
    ) -> None:
        """Pings and comments are heard although they give nothing; a drip that completes no event is silence."""
        for trouble, most in ((Trouble.PINGS_ONLY, 10**6), (Trouble.SLOW_DRIP, 0), (Trouble.SILENCE, 0)):
            server.trouble = trouble
            enough = asyncio.Event()
            heard = 0

            def hear(enough: asyncio.Event = enough) -> None:
                nonlocal heard
                heard += 1
                if heard >= 3:
                    enough.set()

            stream = provider.stream(HELLO, heard=hear)
            waiting = asyncio.create_task(anext(stream))
            if most:
                await asyncio.wait_for(enough.wait(), 30)
            else:
                await asyncio.wait([waiting], timeout=0.5)
            assert not waiting.done(), trouble
            waiting.cancel()
            with pytest.raises(asyncio.CancelledError):
                await waiting
            await stream.aclose()
            assert heard <= most, trouble

    async def test_an_answer_that_is_left_ends_its_connection(self, server: PlayedProvider, provider: Provider) -> None:
        """fails when a stream that nobody reads any more keeps the provider at work, or the next call from going on."""
        server.trouble = Trouble.STALLED
        server.answer = lambda asked: Reply(text="It begins, and then it does not go on. " * 9)
        async with aclosing(provider.stream(HELLO, heard=lambda: None)) as stream:
            await anext(stream)
        server.trouble = None
        assert (await ask(provider))[1].stop is Stop.END

    @pytest.mark.parametrize(
        ("url", "kind"),
        [("http://nobody.invalid/v1", FaultKind.DNS), ("http://127.0.0.1:{port}/v1", FaultKind.REFUSED_CONNECTION)],
    )
    async def test_a_server_that_is_not_there(self, url: str, kind: FaultKind) -> None:
        """A name that is not known and a port that nobody listens at are told apart."""
        provider = open_provider(self.spec(url.format(port=free_port())), self.key)
        assert (await fault_of(provider)).kind is kind
        await provider.close()

    async def test_certificates_are_checked(self, tmp_path: Path) -> None:
        """A server with a certificate of nobody's is not sent the key; one that `ca_file` vouches for is."""
        import ssl

        authority = trustme.CA()
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        authority.issue_cert("127.0.0.1").configure_cert(context)
        trusted = tmp_path / "ca.pem"
        authority.cert_pem.write_to_path(str(trusted))
        async with self.played(key=self.key, tls=context) as server:
            stranger = open_provider(self.spec(server.base_url), self.key)
            assert (await fault_of(stranger)).kind is FaultKind.TLS
            friend = open_provider(self.spec(server.base_url, ca_file=str(trusted)), self.key)
            assert (await ask(friend))[1].stop is Stop.END
            assert len(server.asked) == 1
            await stranger.close()
            await friend.close()

    async def test_a_request_that_cannot_be_written_is_the_callers_fault(
        self, server: PlayedProvider, provider: Provider
    ) -> None:
        """fails when a request that no provider can be sent looks like the provider's fault."""
        wrong = [
            Request(messages=HELLO.messages, tools=(Tool(name="no such", description="", schema={}),)),
            Request(messages=HELLO.messages, tools=(LOOK, LOOK)),
            Request(messages=HELLO.messages, tools=(Tool(name="a", description="", schema={"type": "string"}),)),
            Request(messages=HELLO.messages, tool_use=ToolUse.REQUIRED),
            Request(messages=HELLO.messages, tools=(LOOK,), tool="look"),
            Request(messages=HELLO.messages, max_tokens=0),
        ]
        from relight.providers.messages import ToolCall

        odd = ToolCall(id="a", name="look", arguments={"at": object()})
        wrong.append(Request(messages=(user("Hi"), assistant(odd), user("?"))))
        for request in wrong:
            assert (await fault_of(provider, request)).kind is FaultKind.CALLERS_FAULT
        assert server.asked == []

    # -- checking, closing

    async def test_check_asks_for_one_token(self, server: PlayedProvider, provider: Provider) -> None:
        """A check is the same path as a call: it costs one token, and tells the same faults."""
        await provider.check(timeout_s=30)
        assert server.asked[-1].body.get("max_tokens", server.asked[-1].body.get("max_completion_tokens")) == 1
        server.trouble = Trouble.EMPTY
        await provider.check(timeout_s=30)
        for trouble, kind in (
            (Trouble.UNAUTHORIZED, FaultKind.DENIED),
            (Trouble.RATE_LIMITED, FaultKind.LIMITED),
            (Trouble.NO_SUCH_MODEL, FaultKind.DENIED),
        ):
            server.trouble = trouble
            with pytest.raises(Fault) as caught:
                await provider.check(timeout_s=30)
            assert caught.value.kind is kind
        for trouble, kind in ((Trouble.SILENCE, FaultKind.SILENCE), (Trouble.STALLED, FaultKind.STALLED)):
            server.trouble = trouble
            with pytest.raises(Fault) as caught:
                await provider.check(timeout_s=0.3)
            assert caught.value.kind is kind

    async def test_it_may_be_closed_twice(self, provider: Provider) -> None:
        """Afterwards it is a connection that failed, not a surprise."""
        await provider.close()
        await provider.close()
        assert (await fault_of(provider)).kind is FaultKind.CONNECTION

    # -- keys, and what the environment may not do

    async def test_no_key_is_ever_shown(
        self, server: PlayedProvider, provider: Provider, caplog: pytest.LogCaptureFixture
    ) -> None:
        """fails when a key, or the part that the provider repeats, is in a log record, an error or a repr."""
        caplog.set_level(logging.DEBUG)
        for name in ("anthropic", "openai", "httpx2", "httpcore2"):
            logging.getLogger(name).setLevel(logging.DEBUG)
        shown = [repr(provider), str(provider), repr(provider.spec)]
        for trouble in [None, *(row[0] for row in self.FAULTS)]:
            server.trouble = trouble
            shown += await shown_by(provider)
        assert len(caplog.records) > 100
        for record in caplog.records:
            shown += [record.getMessage(), repr(record.args), repr(record.exc_text), repr(vars(record))]
            if record.exc_info:
                shown.append("".join(traceback.format_exception(*record.exc_info)))
        text = "\n".join(shown)
        for secret in (self.key, self.key[:8], self.key[-6:], self.key[8:16]):
            assert secret not in text

    async def test_the_environment_names_neither_keys_nor_headers_nor_addresses(
        self, server: PlayedProvider, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """fails when an SDK takes from the environment what was not configured."""
        for name in ("ANTHROPIC", "OPENAI"):
            monkeypatch.setenv(f"{name}_API_KEY", "from-the-environment")
            monkeypatch.setenv(f"{name}_AUTH_TOKEN", "from-the-environment")
            monkeypatch.setenv(f"{name}_ADMIN_KEY", "from-the-environment")
            monkeypatch.setenv(f"{name}_BASE_URL", "http://from-the-environment.invalid")
            monkeypatch.setenv(
                f"{name}_CUSTOM_HEADERS", "X-Custom: from-the-environment\nAuthorization: Bearer from-the-environment"
            )
            monkeypatch.setenv(f"{name}_ORG_ID", "from-the-environment")
            monkeypatch.setenv(f"{name}_PROJECT_ID", "from-the-environment")
        provider = open_provider(self.spec(server.base_url), self.key)
        await ask(provider)
        await provider.close()
        assert "from-the-environment" not in json.dumps(dict(server.asked[-1].headers))
        away = open_provider(self.spec("http://127.0.0.1:9/v1") if self.api is Api.COMPATIBLE else self.spec(""), "k")
        assert "from-the-environment" not in str(away._client.base_url)  # type: ignore[attr-defined]
        await away.close()

    async def test_proxies_of_the_environment_are_used(
        self, server: PlayedProvider, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """A region's way out may be a proxy; NO_PROXY is kept to."""
        asked: list[str] = []

        async def proxy(line: str, head: dict[str, str], reader: Any, writer: asyncio.StreamWriter) -> None:
            asked.append(line)
            writer.write(b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\n\r\n")

        async with raw_server(proxy) as port:
            for name in ("HTTP_PROXY", "http_proxy"):
                monkeypatch.setenv(name, f"http://127.0.0.1:{port}")
            for name in ("NO_PROXY", "no_proxy"):
                monkeypatch.setenv(name, "127.0.0.1")
            provider = open_provider(self.spec("http://llm.example/v1"), self.key)
            assert (await fault_of(provider)).status == 503
            assert [line.split()[1].startswith("http://llm.example/v1/") for line in asked] == [True]
            near = open_provider(self.spec(server.base_url), self.key)
            await ask(near)
            assert len(asked) == 1
            await provider.close()
            await near.close()

    # -- the wire itself

    def whole(self) -> bytes:
        """An answer's stream without its last event."""
        raise NotImplementedError

    last: bytes

    async def test_a_connection_is_used_again(self) -> None:
        """fails when every call connects anew: that is a round trip or three, and its TLS."""
        connections: set[int] = set()

        async def answer(line: str, head: dict[str, str], reader: Any, writer: asyncio.StreamWriter) -> None:
            connections.add(id(writer))
            writer.write(chunked(STREAM, self.whole() + self.last))

        async with raw_server(answer) as port:
            provider = open_provider(self.spec(f"http://127.0.0.1:{port}/v1"), self.key)
            for _ in range(3):
                assert (await ask(provider))[1].message.text == "Hi"
            assert len(connections) == 1
            await provider.close()

    async def test_an_answer_that_is_whole_stands_although_its_stream_does_not_end(self) -> None:
        """fails when an answer that is paid for is thrown away because the connection hangs or breaks after it."""

        async def hang(line: str, head: dict[str, str], reader: Any, writer: asyncio.StreamWriter) -> None:
            writer.write(chunked(STREAM, self.whole() + self.last, ended=False))
            await writer.drain()
            await reader.read()

        async def hang_up(line: str, head: dict[str, str], reader: Any, writer: asyncio.StreamWriter) -> None:
            writer.write(chunked(STREAM, self.whole() + self.last, ended=False))
            await writer.drain()
            writer.close()

        for behaviour in (hang, hang_up):
            async with raw_server(behaviour) as port:
                provider = open_provider(self.spec(f"http://127.0.0.1:{port}/v1"), self.key)
                assert (await ask(provider))[1].message.text == "Hi"
                await provider.close()

    async def test_an_error_without_end_is_not_read_to_its_end(self) -> None:
        """fails when a server's error can fill the memory."""

        async def flood(line: str, head: dict[str, str], reader: Any, writer: asyncio.StreamWriter) -> None:
            writer.write(b"HTTP/1.1 500 Oh\r\nContent-Type: text/plain\r\n\r\n")
            try:
                while True:
                    writer.write(b"x" * 65536)
                    await writer.drain()
            except ConnectionError:
                pass

        async with raw_server(flood) as port:
            provider = open_provider(self.spec(f"http://127.0.0.1:{port}/v1"), self.key)
            fault = await asyncio.wait_for(fault_of(provider), 60)
            assert fault.status == 500
            await provider.close()

    @pytest.mark.parametrize(
        ("head", "kind"),
        [
            (b"HTTP/1.1 307 Go\r\nLocation: {elsewhere}/v1\r\nContent-Length: 0\r\n\r\n", FaultKind.MALFORMED),
            (b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 2\r\n\r\n{}", FaultKind.MALFORMED),
            (b"SSH-2.0-OpenSSH_9.6\r\n\r\n", FaultKind.MALFORMED),
            (b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\ndata: \xff\xfe\r\n\r\n", FaultKind.MALFORMED),
            (b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\nevent: x\ndata: [1]\n\n", FaultKind.TRUNCATED),
            (b"", FaultKind.CONNECTION),
            (
                b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nContent-Length: 99\r\n\r\n:\n\n",
                FaultKind.TRUNCATED,
            ),
        ],
        ids=["redirect", "JSON", "no HTTP", "no UTF-8", "no object", "nothing", "cut"],
    )
    async def test_what_is_no_answer_at_all(self, head: bytes, kind: FaultKind) -> None:
        """fails when the key goes elsewhere, or when anything but a fault comes of nonsense."""
        elsewhere: list[str] = []

        async def note(line: str, head: dict[str, str], reader: Any, writer: asyncio.StreamWriter) -> None:
            elsewhere.append(line)

        async with raw_server(note) as other:

            async def nonsense(line: str, _: dict[str, str], reader: Any, writer: asyncio.StreamWriter) -> None:
                writer.write(head.replace(b"{elsewhere}", f"http://127.0.0.1:{other}".encode()))
                await writer.drain()
                writer.close()

            async with raw_server(nonsense) as port:
                provider = open_provider(self.spec(f"http://127.0.0.1:{port}/v1"), self.key)
                assert (await fault_of(provider)).kind is kind
                await provider.close()
        assert elsewhere == []


STREAM = "text/event-stream; charset=utf-8"


def said(words: str, reason: str | None = None, **more: str) -> bytes:
    """A chunk of OpenAI's."""
    choice = {"index": 0, "delta": {**more, "content": words} if words or more else {}, "finish_reason": reason}
    return f"data: {json.dumps({'id': 'c', 'model': 'x', 'choices': [choice]})}\n\n".encode()


def chunked(content_type: str, body: bytes, *, ended: bool = True) -> bytes:
    """An answer, in one chunk."""
    head = f"HTTP/1.1 200 OK\r\nContent-Type: {content_type}\r\nTransfer-Encoding: chunked\r\n\r\n".encode()
    return head + b"%x\r\n%b\r\n" % (len(body), body) + (b"0\r\n\r\n" if ended else b"")


@asynccontextmanager
async def raw_server(
    behave: Callable[[str, dict[str, str], asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]],
) -> AsyncGenerator[int, None]:
    """A server that reads requests and does with each whatever `behave` does."""
    going: set[asyncio.Task[Any]] = set()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        going.add(task)
        try:
            while line := (await reader.readline()).decode().strip():
                head = {}
                while header := (await reader.readline()).decode().strip():
                    name, _, value = header.partition(":")
                    head[name.lower()] = value.strip()
                await reader.readexactly(int(head.get("content-length", 0)))
                await behave(line, head, reader, writer)
                await writer.drain()
        except (ConnectionError, asyncio.CancelledError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()
        for task in going:
            task.cancel()
        await asyncio.gather(*going, return_exceptions=True)


class TestAnthropic(ProviderContract):
    """Anthropic's Messages."""

    api = Api.ANTHROPIC
    model = "claude-opus-5"
    models = ("claude-opus-5", "claude-sonnet-4-6", "claude-sonnet-4-5", "claude-haiku-4-5-20251001")
    last = b'event: message_stop\ndata: {"type":"message_stop"}\n\n'

    def played(self, **more: Any) -> PlayedProvider:
        """The server."""
        return PlayedAnthropic(**more)

    def whole(self) -> bytes:
        """An answer's stream without its last event."""
        events: list[dict[str, Any]] = [
            {"type": "message_start", "message": {"id": "m", "model": "x", "usage": {"input_tokens": 1}}},
            {"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": ""}},
            {"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": "Hi"}},
            {"type": "message_delta", "delta": {"stop_reason": "end_turn"}, "usage": {"output_tokens": 1}},
        ]
        return b"".join(f"event: {event['type']}\ndata: {json.dumps(event)}\n\n".encode() for event in events)

    async def test_signed_thoughts_go_round(self, server: PlayedProvider) -> None:
        """What the model thought comes with its signature, and is taken back by the server that gave it."""
        server.answer = lambda asked: Reply(thinking="Hm, so.", redacted="secret", calls=[Call(name="look")])
        provider = open_provider(self.spec(server.base_url, thinks=True), self.key)
        request = Request(messages=(user("Think."),), tools=(LOOK,), effort=Effort.HIGH)
        deltas, whole, _ = await ask(provider, request)
        assert "".join(delta.text for delta in deltas if isinstance(delta, ThinkingDelta)) == "Hm, so."
        assert whole.usage.thinking > 0
        assert server.asked[-1].body["thinking"] == {"type": "adaptive"}
        server.answer = lambda asked: Reply(text="Done.")
        result = ToolResult(call_id=whole.message.tool_calls[0].id, content=(Words(text="ok"),))
        again = Request(messages=(*request.messages, whole.message, user(result)), tools=(LOOK,), effort=Effort.HIGH)
        assert (await ask(provider, again))[1].message.text == "Done."
        kinds = [block["type"] for block in server.asked[-1].body["messages"][1]["content"]]
        assert kinds == ["thinking", "redacted_thinking", "tool_use"]
        await provider.close()

    async def test_a_stream_that_is_cut_before_its_last_event_is_truncated(
        self, server: PlayedProvider, provider: Provider
    ) -> None:
        """fails when a stream without message_stop is taken for an answer."""
        server.trouble = Trouble.CUT_BEFORE_END
        assert (await fault_of(provider)).kind is FaultKind.TRUNCATED

    async def test_a_server_without_keys_is_asked(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """fails when a server that asks for no key is not asked at all, or is given the key of somebody else."""
        for name in ("ANTHROPIC_API_KEY", "ANTHROPIC_AUTH_TOKEN"):
            monkeypatch.setenv(name, "from-the-environment")
        async with self.played() as server:
            server.key = None
            provider = open_provider(self.spec(server.base_url, keyless=True))
            assert (await ask(provider))[1].stop is Stop.END
            assert "from-the-environment" not in json.dumps(dict(server.asked[-1].headers))
            await provider.close()

    async def test_an_address_with_v1_is_the_same_as_one_without(self, server: PlayedProvider) -> None:
        """Other providers' addresses end so."""
        provider = open_provider(self.spec(f"{server.base_url}/v1"), self.key)
        assert (await ask(provider))[1].stop is Stop.END
        await provider.close()

    async def test_an_answers_schema_is_made_one_that_is_taken(self, server: PlayedProvider) -> None:
        """Anthropic refuses objects that may hold more than they name."""
        provider = open_provider(self.spec(server.base_url), self.key)
        schema = {"type": "object", "properties": {"n": {"type": "integer", "minimum": 1}}, "required": ["n"]}
        await ask(provider, Request(messages=HELLO.messages, answer_schema=schema))
        sent = server.asked[-1].body["output_config"]["format"]["schema"]
        assert sent["additionalProperties"] is False
        assert "minimum" not in sent["properties"]["n"]
        await provider.close()


class TestOpenAI(ProviderContract):
    """OpenAI's Chat Completions."""

    api = Api.OPENAI
    model = "gpt-5.5"
    models: tuple[str, ...] = ("gpt-4.1", "o3", "o4-mini", "gpt-5", "gpt-5.2", "gpt-5.5", "gpt-5.6-sol")
    # No [DONE] follows: the finish reason is enough.
    last = b'data: {"id":"c","choices":[{"index":0,"delta":{},"finish_reason":"stop"}]}\n\n'

    def played(self, **more: Any) -> PlayedProvider:
        """The server."""
        return PlayedOpenAI(**more)

    def whole(self) -> bytes:
        """An answer's stream without its last event."""
        return b'data: {"id":"c","model":"x","choices":[{"index":0,"delta":{"content":"Hi"}}]}\n\n'

    async def through(
        self, *pieces: bytes, end: bytes = b"0\r\n\r\n", waits: bool = False, silence_s: float = 10.0
    ) -> Completed | Fault:
        """What comes of a stream of these chunks, each a packet of its own; with `waits` the last comes late."""

        async def answer(line: str, head: dict[str, str], reader: Any, writer: asyncio.StreamWriter) -> None:
            writer.write(f"HTTP/1.1 200 OK\r\nContent-Type: {STREAM}\r\nTransfer-Encoding: chunked\r\n\r\n".encode())
            for number, piece in enumerate(pieces):
                if waits and number == len(pieces) - 1:
                    await asyncio.sleep(0.7)  # longer than an adapter waits for the end of a stream that is whole
                writer.write(b"%x\r\n%b\r\n" % (len(piece), piece))
                await writer.drain()
            writer.write(end)
            await writer.drain()
            writer.close()

        async with raw_server(answer) as port:
            provider = open_provider(self.spec(f"http://127.0.0.1:{port}/v1", silence_s=silence_s), self.key)
            try:
                return (await ask(provider))[1]
            except Fault as fault:
                return fault
            finally:
                await provider.close()

    async def test_a_server_that_gives_a_reason_with_every_chunk(self) -> None:
        """fails when half of its answer is an answer: after a pause, a cut, or an end in the middle of an event."""
        first, second = said("Half of the ", "stop"), said("answer.", "stop")
        begun = said("", "stop", role="assistant")
        done, counts = b"data: [DONE]\n\n", b'data: {"id":"c","choices":[],"usage":{"completion_tokens":4}}\n\n'
        for tail in (second + done, second, second + b"data: [DONE]", second + counts):
            whole = await self.through(begun, first, tail, waits=True)
            assert isinstance(whole, Completed), whole
            assert (whole.message.text, whole.stop) == ("Half of the answer.", Stop.END)
        # Its counts say that it is whole, whatever becomes of the stream.
        assert isinstance(await self.through(first, second + counts, end=b""), Completed)
        for pieces, end in (
            ((begun, first), b""),
            ((begun, first, second[:9]), b"0\r\n\r\n"),
            ((begun, first, said("", "stop")), b""),
        ):
            fault = await self.through(*pieces, end=end)
            assert isinstance(fault, Fault), (pieces, end)
            assert fault.kind is FaultKind.TRUNCATED

    async def test_what_comes_after_a_reason_belongs_to_the_answer(self) -> None:
        """fails when a reason that came too early makes half an answer whole, or loses what follows it."""
        early = (said("Half of the "), said("", "stop"))
        whole = await self.through(*early, said("answer.", "stop") + b"data: [DONE]\n\n")
        assert isinstance(whole, Completed)
        assert whole.message.text == "Half of the answer."
        # It may take its time again.
        rest = (said("ans"), said("wer.", "stop") + b"data: [DONE]\n\n")
        whole = await self.through(*early, *rest, waits=True, silence_s=0.2)
        assert isinstance(whole, Completed), whole
        for more in (said("answer."), said("answer.", "stop")):
            fault = await self.through(*early, more, end=b"")
            assert isinstance(fault, Fault)
            assert fault.kind is FaultKind.TRUNCATED

    async def test_counts_may_come_late(self) -> None:
        """fails when what an answer cost is lost because its server takes a second to count."""
        counts = b'data: {"id":"c","choices":[],"usage":{"prompt_tokens":3,"completion_tokens":4}}\n\n'
        whole = await self.through(said("Hi"), said("", "stop"), counts, waits=True)
        assert isinstance(whole, Completed)
        assert whole.usage == Usage(input=3, output=4)

    async def test_quota_that_is_used_up_is_no_limit(self, server: PlayedProvider, provider: Provider) -> None:
        """A 429 that waiting does not help is for a person to look at."""
        server.trouble = Trouble.NO_QUOTA
        assert (await fault_of(provider)).kind is FaultKind.DENIED

    @pytest.mark.parametrize(
        ("model", "effort"), [("gpt-4.1", None), ("gpt-5.2", "xhigh"), ("gpt-5.5", None), ("gpt-5.6-sol", "none")]
    )
    async def test_models_that_think_or_call(self, server: PlayedProvider, model: str, effort: str | None) -> None:
        """From 5.4 on an effort is refused where there are tools, and from 5.6 on anything but `none`."""
        self_spec = ProviderSpec(
            name="one", api=Api.OPENAI, model=model, base_url=server.base_url, thinks=model != "gpt-4.1"
        )
        provider = open_provider(self_spec, self.key)
        request = Request(messages=HELLO.messages, tools=(LOOK,), effort=Effort.MAX)
        await ask(provider, request)
        assert server.asked[-1].body.get("reasoning_effort") == effort
        assert ("effort" in provider.dropped(request)) == (effort != "xhigh")
        await provider.close()

    async def test_a_model_that_cannot_answer_in_so_few_tokens_is_well(
        self, server: PlayedProvider, provider: Provider
    ) -> None:
        """A model that thinks may refuse a check's few tokens; the key, the model and the quota are checked by then."""

        async def refuse(line: str, head: dict[str, str], reader: Any, writer: asyncio.StreamWriter) -> None:
            said = "Could not finish the message because max_tokens or model output limit was reached."
            body = json.dumps({"error": {"type": "invalid_request_error", "message": said}}).encode()
            writer.write(
                b"HTTP/1.1 400 Bad\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n" % len(body)
            )
            writer.write(body)

        async with raw_server(refuse) as port:
            provider = open_provider(self.spec(f"http://127.0.0.1:{port}/v1", thinks=True), self.key)
            await provider.check(timeout_s=30)
            await provider.close()


class TestCompatible(TestOpenAI):
    """A server of one's own that speaks OpenAI's format."""

    api = Api.COMPATIBLE
    model = "qwen3-32b"
    models = ("qwen3-32b",)

    def played(self, **more: Any) -> PlayedProvider:
        """The server."""
        return PlayedOpenAI(compatible=True, **more)

    async def test_a_server_without_keys(self) -> None:
        """A server that asks for no key gets none of anybody's."""
        async with PlayedOpenAI(compatible=True) as server:
            provider = open_provider(self.spec(server.base_url, keyless=True))
            assert (await ask(provider))[1].stop is Stop.END
            await provider.close()

    async def test_thoughts_are_told(self, server: PlayedProvider, provider: Provider) -> None:
        """Compatible servers have fields of their own for what a model thinks."""
        server.answer = lambda asked: Reply(thinking="Hm, so.", text="Yes.")
        deltas, whole, _ = await ask(provider)
        assert "".join(delta.text for delta in deltas if isinstance(delta, ThinkingDelta)) == "Hm, so."
        assert whole.message.text == "Yes."

    async def test_usage_may_be_left_out(self) -> None:
        """A server that does not know `include_usage` still gives an answer."""

        async def answer(line: str, head: dict[str, str], reader: Any, writer: asyncio.StreamWriter) -> None:
            writer.write(chunked("text/event-stream", self.whole() + self.last + b"data: [DONE]\n\n"))

        async with raw_server(answer) as port:
            provider = open_provider(self.spec(f"http://127.0.0.1:{port}/v1"), self.key)
            assert (await ask(provider))[1].usage == Usage()
            await provider.close()

    async def test_models_that_think_or_call(self) -> None:  # type: ignore[override]
        """The rule is OpenAI's own; any other server is sent what was wished."""
        async with self.played(key=self.key) as server:
            provider = open_provider(self.spec(server.base_url, thinks=True), self.key)
            request = Request(messages=HELLO.messages, tools=(LOOK,), effort=Effort.MAX, temperature=0.5, stop=("END",))
            await ask(provider, request)
            body = server.asked[-1].body
            assert (body["reasoning_effort"], body["temperature"], body["stop"]) == ("high", 0.5, ["END"])
            assert provider.dropped(request) == ()
            await provider.close()


# -- a conversation over real servers


async def test_a_conversation_goes_from_provider_to_provider_and_back() -> None:
    """fails when any provider refuses what another began, thoughts, calls and all."""
    claude, gpt, local = PlayedAnthropic(), PlayedOpenAI(), PlayedOpenAI(compatible=True)
    servers: list[tuple[PlayedProvider, Api, str]] = [
        (claude, Api.ANTHROPIC, "claude-opus-5"),
        (gpt, Api.OPENAI, "gpt-5.6-sol"),
        (local, Api.COMPATIBLE, "qwen3"),
    ]

    def reply(asked: Asked) -> Reply:
        two = [Call(name="look", id="call_0"), Call(name="look", id="call_1")]
        return Reply(thinking="Hm.", text="Looking.", calls=two if asked.body.get("tools") else ())

    async with claude, gpt, local:
        providers = []
        for server, api, model in servers:
            server.answer = reply
            spec = ProviderSpec(
                name=api.value, api=api, model=model, base_url=server.base_url, thinks=True, keyless=not server.key
            )
            providers.append(open_provider(spec, server.key or ""))
        messages = [user("Go.")]
        for turn in (0, 1, 2, 0, 2, 1, 0, 0):
            request = Request(messages=tuple(messages), tools=(LOOK,), effort=Effort.LOW)
            _, whole, _ = await ask(providers[turn], request)
            answered = [ToolResult(call_id=call.id, content=(Words(text="seen"),)) for call in whole.message.tool_calls]
            messages += [whole.message, user(*answered)]
        for server, _, _ in servers:
            assert server.refused == []
        for provider in providers:
            await provider.close()


# -- opening


SPEC = ProviderSpec(name="one", api=Api.ANTHROPIC, model="claude-opus-5")


@pytest.mark.parametrize(
    ("spec", "key", "said"),
    [
        (SPEC, "", "has no key"),
        (SPEC, "sk-secret\n", "white space"),
        (SPEC, "sk-sécret", "ASCII"),
        (ProviderSpec(name="one", api=Api.ANTHROPIC, model="claude-opus-55"), "k", "unknown model 'claude-opus-55'"),
        (ProviderSpec(name="one", api=Api.OPENAI, model="gpt-99"), "k", "unknown model 'gpt-99'"),
        (ProviderSpec(name="one", api=Api.OPENAI, model="gpt-5.5", ca_file="/nowhere.pem"), "k", "/nowhere.pem"),
    ],
)
async def test_what_cannot_work_is_refused_at_the_start(spec: ProviderSpec, key: str, said: str) -> None:
    """fails when a mistake in the settings is found by the first call, or when its message shows the key."""
    with pytest.raises(ConfigError) as caught:
        open_provider(spec, key)
    assert said in str(caught.value)
    assert "cret" not in str(caught.value).replace("secret", "", 1) or not key
    assert "one" in str(caught.value)


async def test_an_unlisted_model_is_taken_when_that_is_meant() -> None:
    """A model newer than the SDK, or one behind a gateway's own name."""
    for api in (Api.ANTHROPIC, Api.OPENAI):
        provider = open_provider(ProviderSpec(name="one", api=api, model="new", unlisted=True), "k")
        await provider.close()


@pytest.mark.parametrize("package", ["anthropic", "openai"])
async def test_a_missing_extra_is_named(package: str) -> None:
    """fails when a missing SDK is told by an ImportError, or when importing the package needs one."""
    script = f"""
import sys
sys.modules[{package!r}] = None
import relight.providers.open, relight.providers.messages, relight.providers.spec
assert not {{"anthropic", "openai", "httpx2"}} & {{name for name, found in sys.modules.items() if found}}
from relight.errors import ConfigError
from relight.providers.spec import Api, ProviderSpec
try:
    relight.providers.open.open_provider(ProviderSpec(name="one", api=Api({package!r}), model="x"), "k")
except ConfigError as exc:
    assert "pip install 'relight[{package}]'" in str(exc), exc
else:
    raise AssertionError
"""
    done = await asyncio.to_thread(
        subprocess.run, [sys.executable, "-c", script], env=os.environ, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
