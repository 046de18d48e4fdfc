"""The gateway, asked by the providers' own SDKs, over a router that stands on played providers."""

from __future__ import annotations

import asyncio
import base64
import gzip
import itertools
import json
import logging
import os
import signal
import sys
import uuid
from collections import Counter
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any
from unittest.mock import AsyncMock, Mock

import aiohttp
import anthropic
import openai
import pytest
from aiohttp import web
from aiohttp.test_utils import make_mocked_request
from hypothesis import given, settings
from hypothesis import strategies as st
from runtime_helpers import until
from unit.test_config import SETTINGS

from relight.config import Connections
from relight.errors import ConfigError
from relight.providers.gateway.anthropic_face import AnthropicFace
from relight.providers.gateway.app import Gateway, Options, is_loopback, played, serving
from relight.providers.gateway.config import load_config
from relight.providers.gateway.face import Field, Refused, read_body
from relight.providers.gateway.marks import marked, unmarked
from relight.providers.gateway.openai_face import OpenAIFace
from relight.providers.messages import (
    Answer,
    Effort,
    Finished,
    Image,
    Started,
    Stop,
    Text,
    TextDelta,
    Thinking,
    ThinkingDelta,
    ToolArguments,
    ToolCall,
    ToolCallStarted,
    ToolResult,
    ToolUse,
    Usage,
    assistant,
    user,
)
from relight.providers.open import open_provider
from relight.providers.router import AsyncRouter, OnCut
from relight.providers.spec import Api, ProviderLimits, ProviderSpec
from relight_drill.emulator import SECRET_KEY
from relight_drill.llm import Call, PlayedAnthropic, PlayedOpenAI, PlayedProvider, Reply, Trouble

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterable, Sequence
    from pathlib import Path

    from relight.providers.messages import Attempt, Event, Part, Request
    from relight_drill.emulator import Emulator

pytestmark = [pytest.mark.anyio, pytest.mark.servers]

CLAUDE, GPT, LOCAL = "claude-opus-4-6", "gpt-5.2", "local-model"
PIXEL = base64.b64decode(
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
)
WEATHER = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
CITIES = {
    "type": "object",
    "properties": {"city": {"type": "string"}},
    "required": ["city"],
    "additionalProperties": False,
}
STATUS_ERRORS: Any = (anthropic.APIStatusError, openai.APIStatusError)
BAD_REQUEST: Any = (anthropic.BadRequestError, openai.BadRequestError)
BOTH = pytest.mark.parametrize("face", ["anthropic", "openai"])
STREAMED = pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])


# -- the world


@dataclass(kw_only=True)
class World:
    """A gateway over a router over played providers."""

    url: str
    router: AsyncRouter
    providers: dict[str, PlayedProvider]
    attempts: list[Attempt] = field(default_factory=list)

    def __getitem__(self, name: str) -> PlayedProvider:
        return self.providers[name]

    @property
    def refused(self) -> list[Any]:
        """What any provider found wrong with a request."""
        return [item for provider in self.providers.values() for item in provider.refused]


def _played(name: str) -> PlayedProvider:
    if name == "anthropic":
        return PlayedAnthropic()
    return PlayedOpenAI(compatible=name == "local")


def _spec(name: str, provider: PlayedProvider, **more: Any) -> ProviderSpec:
    model = {"anthropic": CLAUDE, "openai": GPT, "local": LOCAL}[name]
    api = {"anthropic": Api.ANTHROPIC, "openai": Api.OPENAI, "local": Api.COMPATIBLE}[name]
    settings = {"thinks": name != "local", "keyless": name == "local", "unlisted": True, "silence_s": 5.0, **more}
    return ProviderSpec(name=name, api=api, model=model, base_url=provider.base_url, **settings)


@asynccontextmanager
async def world(
    *names: str,
    options: Options | None = None,
    limits: ProviderLimits | None = None,
    answer: Callable[[Any], Reply] | None = None,
    **spec: Any,
) -> AsyncIterator[World]:
    """Providers of these names, asked in this order."""
    async with AsyncExitStack() as stack:
        providers = {name: await stack.enter_async_context(_played(name)) for name in names}
        for provider in providers.values():
            provider.answer = answer or provider.answer
        attempts: list[Attempt] = []
        router = AsyncRouter(
            [open_provider(_spec(name, found, **spec), found.key or "") for name, found in providers.items()],
            limits=limits,
            on_attempt=attempts.append,
        )
        stack.push_async_callback(router.close)
        url = await stack.enter_async_context(serving(router, options))
        yield World(url=url, router=router, providers=providers, attempts=attempts)


class FakeRouter:
    """A router that gives these events, or raises."""

    def __init__(self, *events: Event | Exception, hold: asyncio.Event | None = None) -> None:
        self.limits = ProviderLimits()
        self.events = events
        self.hold = hold
        self.asked: list[Request] = []

    async def complete(self, request: Request, *, degrade: bool = True) -> Answer:
        async for event in self.stream(request):
            if isinstance(event, Finished):
                return event.answer
        raise AssertionError

    async def stream(
        self, request: Request, *, degrade: bool = True, on_cut: OnCut = OnCut.ERROR
    ) -> AsyncGenerator[Event, None]:
        self.asked.append(request)
        for event in self.events:
            if isinstance(event, Exception):
                raise event
            if isinstance(event, Finished) and self.hold is not None:
                await self.hold.wait()
            yield event


def _answer(*parts: Part, stop: Stop = Stop.END) -> Answer:
    return Answer(message=assistant(*parts), stop=stop, usage=Usage(input=9, output=3), provider="p", model="m")


# -- the clients, which say the same things in their own formats


@dataclass(frozen=True, kw_only=True)
class Got:
    """What a client made of an answer. `message` is what it puts into the conversation."""

    text: str
    calls: list[tuple[str, str, dict[str, Any]]]
    stop: str
    model: str
    usage: tuple[int, int]
    headers: Any
    message: Any


class AnthropicClient:
    """Anthropic's SDK; conversations in its format."""

    def __init__(self, url: str, *, sync: bool = False, key: str = "no-key", **headers: str) -> None:
        kind: Any = anthropic.Anthropic if sync else anthropic.AsyncAnthropic
        self.sdk = kind(base_url=url, api_key=key, max_retries=0, default_headers=headers or None)
        self.sync = sync

    async def say(self, messages: Sequence[Any], *, stream: bool = False, tools: bool = False, **more: Any) -> Got:
        body = {"model": "any", "max_tokens": 5000, "messages": list(messages), **more}
        if tools:
            body["tools"] = [{"name": "weather", "description": "The weather.", "input_schema": WEATHER}]
        if self.sync:
            message, headers = await asyncio.to_thread(self._sync, body, stream)
        elif stream:
            async with self.sdk.messages.stream(**body) as events:
                message, headers = await events.get_final_message(), events.response.headers
        else:
            raw = await self.sdk.messages.with_raw_response.create(**body)
            message, headers = await raw.parse(), raw.headers
        calls = [(block.id, block.name, dict(block.input)) for block in message.content if block.type == "tool_use"]
        return Got(
            text="".join(block.text for block in message.content if block.type == "text"),
            calls=calls,
            stop=message.stop_reason,
            model=message.model,
            usage=(message.usage.input_tokens, message.usage.output_tokens),
            headers=headers,
            message={"role": "assistant", "content": [block.to_dict() for block in message.content]},
        )

    def _sync(self, body: dict[str, Any], stream: bool) -> tuple[Any, Any]:
        if stream:
            with self.sdk.messages.stream(**body) as events:
                return events.get_final_message(), events.response.headers
        raw = self.sdk.messages.with_raw_response.create(**body)
        return raw.parse(), raw.headers

    def user(self, text: str) -> dict[str, Any]:
        return {"role": "user", "content": text}

    def results(self, got: Got, *texts: str) -> list[dict[str, Any]]:
        blocks = [
            {"type": "tool_result", "tool_use_id": id_, "content": text}
            for (id_, _, _), text in zip(got.calls, texts, strict=True)
        ]
        return [{"role": "user", "content": blocks}]

    async def close(self) -> None:
        self.sdk.close() if self.sync else await self.sdk.close()


class OpenAIClient:
    """OpenAI's SDK; conversations in its format."""

    def __init__(self, url: str, *, sync: bool = False, key: str = "no-key", **headers: str) -> None:
        kind: Any = openai.OpenAI if sync else openai.AsyncOpenAI
        self.sdk = kind(base_url=f"{url}/v1", api_key=key, max_retries=0, default_headers=headers or None)
        self.sync = sync

    async def say(self, messages: Sequence[Any], *, stream: bool = False, tools: bool = False, **more: Any) -> Got:
        body = {"model": "any", "messages": list(messages), **more}
        if tools:
            function = {"name": "weather", "description": "The weather.", "parameters": WEATHER}
            body["tools"] = [{"type": "function", "function": function}]
        if stream:
            body["stream_options"] = {"include_usage": True}
        if self.sync:
            completion, headers = await asyncio.to_thread(self._sync, body, stream)
        elif stream:
            async with self.sdk.chat.completions.stream(**body) as events:
                headers = events._response.headers
                completion = await events.get_final_completion()
        else:
            raw = await self.sdk.chat.completions.with_raw_response.create(**body)
            completion, headers = raw.parse(), raw.headers
        message = completion.choices[0].message
        return Got(
            text=message.content or "",
            calls=[
                (call.id, call.function.name, json.loads(call.function.arguments)) for call in message.tool_calls or ()
            ],
            stop=completion.choices[0].finish_reason,
            model=completion.model,
            usage=(completion.usage.prompt_tokens, completion.usage.completion_tokens),
            headers=headers,
            message=message.model_dump(exclude_none=True, exclude={"parsed"}),
        )

    def _sync(self, body: dict[str, Any], stream: bool) -> tuple[Any, Any]:
        if stream:
            with self.sdk.chat.completions.stream(**body) as events:
                return events.get_final_completion(), events._response.headers
        raw = self.sdk.chat.completions.with_raw_response.create(**body)
        return raw.parse(), raw.headers

    def user(self, text: str) -> dict[str, Any]:
        return {"role": "user", "content": text}

    def results(self, got: Got, *texts: str) -> list[dict[str, Any]]:
        return [
            {"role": "tool", "tool_call_id": id_, "content": text}
            for (id_, _, _), text in zip(got.calls, texts, strict=True)
        ]

    async def close(self) -> None:
        self.sdk.close() if self.sync else await self.sdk.close()


Client = AnthropicClient | OpenAIClient


@asynccontextmanager
async def client_of(face: str, url: str, **more: Any) -> AsyncIterator[Client]:
    """A client of a face; closed at the end."""
    made: Client = AnthropicClient(url, **more) if face == "anthropic" else OpenAIClient(url, **more)
    try:
        yield made
    finally:
        await made.close()


PATHS = {"anthropic": "/v1/messages", "openai": "/v1/chat/completions"}


async def post(url: str, path: str, body: Any, **headers: str) -> tuple[int, Any, Any]:
    """Without any SDK: the status, the JSON, and the headers."""
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    async with (
        aiohttp.ClientSession() as session,
        session.post(url + path, data=data, headers={"Content-Type": "application/json", **headers}) as response,
    ):
        return response.status, await response.json(), response.headers


def message_in(body: dict[str, Any]) -> str:
    """An error's message, after looking at its shape."""
    if body.get("type") == "error":
        assert set(body) == {"type", "error"}
        assert set(body["error"]) == {"type", "message"}
    else:
        assert set(body) == {"error"}
        assert set(body["error"]) == {"message", "type", "param", "code"}
    return str(body["error"]["message"])


# -- answers


@pytest.mark.parametrize("sync", [False, True], ids=["async", "sync"])
@STREAMED
@pytest.mark.parametrize("provider", ["anthropic", "openai", "local"])
@BOTH
async def test_answers(face: str, provider: str, stream: bool, sync: bool) -> None:
    """Each SDK gets each provider's answer, with its words, its counts, its model, and who it is from."""
    async with world(provider) as w, client_of(face, w.url, sync=sync) as client:
        got = await client.say([client.user("Good morning, all of you.")], stream=stream)
        assert got.text == "You said: Good morning, all of you."
        assert got.stop in ("end_turn", "stop")
        assert got.model == {"anthropic": CLAUDE, "openai": GPT, "local": LOCAL}[provider]
        assert min(got.usage) > 0
        assert got.headers["x-relight-provider"] == provider
        assert got.headers["x-relight-degraded"] == "false"
        assert got.headers["request-id"] == got.headers["x-request-id"] != ""
        assert w.refused == []


@STREAMED
@BOTH
async def test_degraded_is_told(face: str, stream: bool) -> None:
    """An answer from a fallback says so in its headers, streamed or not."""
    async with world("anthropic", "openai") as w, client_of(face, w.url) as client:
        w["anthropic"].trouble = Trouble.SERVER_ERROR
        got = await client.say([client.user("hello")], stream=stream)
        assert got.text == "You said: hello"
        assert (got.headers["x-relight-provider"], got.headers["x-relight-degraded"]) == ("openai", "true")


@BOTH
async def test_dropped_is_told(face: str) -> None:
    """A setting that the provider does not have is named in a header."""
    more: dict[str, Any] = {"extra_body": {"temperature": 0.2}} if face == "anthropic" else {"temperature": 0.2}
    async with world("anthropic") as w, client_of(face, w.url) as client:
        got = await client.say([client.user("hello")], **more)
        assert got.headers["x-relight-dropped"] == "temperature"


@STREAMED
@pytest.mark.parametrize(
    "order", [("anthropic", "openai"), ("openai", "anthropic"), ("local", "anthropic")], ids="-".join
)
@BOTH
async def test_tools_over_a_switch(face: str, order: tuple[str, str], stream: bool) -> None:
    """A conversation with calls of tools goes on when the provider changes in its middle, and when it changes back; ids
    are given out as they came and come back as they were."""
    first, second = order
    turns = iter(
        [
            Reply(
                text="Two of them.",
                calls=[
                    Call(name="weather", arguments={"city": "Paris"}),
                    Call(name="weather", arguments={"city": "Köln"}),
                ],
            ),
            Reply(calls=[Call(name="weather", arguments={"city": "Rome"})]),
            Reply(calls=[Call(name="weather")]),
            Reply(text="All dry."),
        ]
    )
    # Opened at once and closed after a moment, so that the third turn goes back.
    limits = ProviderLimits(failures=1, open_s=0.05)
    async with world(*order, limits=limits, answer=lambda _: next(turns)) as w, client_of(face, w.url) as client:
        said: list[Any] = [client.user("How is the weather?")]
        one = await client.say(said, stream=stream, tools=True)
        assert (one.text, [call[2] for call in one.calls]) == ("Two of them.", [{"city": "Paris"}, {"city": "Köln"}])
        assert one.stop in ("tool_use", "tool_calls")
        said += [one.message, *client.results(one, "dry", "wet")]
        w[first].trouble = Trouble.SERVER_ERROR
        two = await client.say(said, stream=stream, tools=True)
        assert (two.headers["x-relight-provider"], two.calls[0][2]) == (second, {"city": "Rome"})
        said += [two.message, *client.results(two, "dry")]
        w[first].trouble = None
        await asyncio.sleep(0.06)
        three = await client.say(said, stream=stream, tools=True)
        assert (three.headers["x-relight-provider"], three.calls[0][2]) == (first, {})
        said += [three.message, *client.results(three, "dry")]
        four = await client.say(said, stream=stream, tools=True)
        assert four.text == "All dry."
        assert w.refused == []
        ids = [call[0] for got in (one, two, three) for call in got.calls]
        sent = json.dumps(w[first].asked[-1].body)
        assert all(sent.count(f'"{id_}"') == 2 for id_ in ids)


@pytest.mark.parametrize("provider", ["anthropic", "openai"])
@BOTH
async def test_images(face: str, provider: str) -> None:
    """Pictures reach the provider, by their bytes and by their address."""
    data, far = base64.b64encode(PIXEL).decode(), "https://example.com/cat.png"
    if face == "anthropic":
        content: list[Any] = [
            {"type": "text", "text": "What are these?"},
            {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": data}},
            {"type": "image", "source": {"type": "url", "url": far}},
        ]
    else:
        content = [
            {"type": "text", "text": "What are these?"},
            {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{data}", "detail": "low"}},
            {"type": "image_url", "image_url": {"url": far}},
        ]
    async with world(provider) as w, client_of(face, w.url) as client:
        got = await client.say([{"role": "user", "content": content}])
        assert got.text == "You said: What are these?"
        sent = json.dumps(w[provider].asked[0].body)
        assert data in sent
        assert far in sent
        assert w.refused == []


@pytest.mark.parametrize("provider", ["anthropic", "openai"])
@BOTH
async def test_structured_output(face: str, provider: str) -> None:
    """A schema for the answer reaches the provider in its own format."""
    if face == "anthropic":
        more: dict[str, Any] = {"output_config": {"format": {"type": "json_schema", "schema": CITIES}}}
    else:
        form = {"name": "cities", "strict": True, "schema": CITIES}
        more = {"response_format": {"type": "json_schema", "json_schema": form}}
    async with world(provider, answer=lambda _: Reply(text='{"city": "Rome"}')) as w:
        async with client_of(face, w.url) as client:
            got = await client.say([client.user("Where?")], **more)
        assert json.loads(got.text) == {"city": "Rome"}
        body = w[provider].asked[0].body
        sent = body["output_config"]["format"] if provider == "anthropic" else body["response_format"]["json_schema"]
        assert sent["schema"] == CITIES
        assert w.refused == []


async def test_json_of_any_shape() -> None:
    """`json_object` is asked for in words, which every provider takes."""
    async with world("anthropic") as w, client_of("openai", w.url) as client:
        await client.say([client.user("Where?")], response_format={"type": "json_object"})
        assert w["anthropic"].asked[0].system == "Answer with one JSON object and nothing else."


# -- thinking


THOUGHT: dict[str, Any] = {"thinking": {"type": "adaptive"}}


@STREAMED
async def test_thinking_goes_home(stream: bool) -> None:
    """Thoughts come back signed as their provider signed them; another provider never sees them, and they are there
    again when the conversation returns."""
    reply = Reply(
        text="Let me look.", thinking="Rome or Paris?", calls=[Call(name="weather", arguments={"city": "Rome"})]
    )
    limits = ProviderLimits(failures=1, open_s=0.05)
    async with world("anthropic", "openai", limits=limits, answer=lambda _: reply) as w:
        async with client_of("anthropic", w.url) as client:
            said = [client.user("Which?")]
            for trouble in (None, Trouble.SERVER_ERROR, None):
                w["anthropic"].trouble = trouble
                await asyncio.sleep(0.06)
                got = await client.say(said, stream=stream, tools=True, **THOUGHT)
                assert got.headers["x-relight-degraded"] == ("false" if trouble is None else "true")
                said += [got.message, *client.results(got, "dry")]
        assert w.refused == []
        sent = [block for message in w["anthropic"].asked[-1].body["messages"] for block in message["content"]]
        thoughts = [block for block in sent if block["type"] == "thinking"]
        assert [block["thinking"] for block in thoughts] == ["Rome or Paris?"]
        assert "Rome or Paris?" not in json.dumps(w["openai"].asked[-1].body)


@STREAMED
async def test_redacted_thinking_goes_home(stream: bool) -> None:
    """What the provider redacted comes back to it as it was, and in its place."""
    reply = Reply(text="Let me look.", redacted="secret", calls=[Call(name="weather", arguments={"city": "Rome"})])
    async with world("anthropic", answer=lambda _: reply) as w, client_of("anthropic", w.url) as client:
        got = await client.say([client.user("Which?")], stream=stream, tools=True, **THOUGHT)
        assert [block["type"] for block in got.message["content"]] == ["redacted_thinking", "text", "tool_use"]
        await client.say([client.user("Which?"), got.message, *client.results(got, "dry")], tools=True, **THOUGHT)
        assert w.refused == []
        assert w["anthropic"].asked[-1].body["messages"][1]["content"][0]["type"] == "redacted_thinking"


async def test_thinking_of_another_model_is_dropped() -> None:
    """fails when a thought goes to another model than the one that signed it, or when nobody knows whose it is."""
    async with world("anthropic") as w, client_of("anthropic", w.url) as client:
        signed = w["anthropic"].sign("claude-sonnet-4-6", "Hm.")  # type: ignore[attr-defined]
        for signature in (signed, marked(signed, provider="anthropic", model="claude-sonnet-4-6"), "relight.x.y"):
            thought = {"type": "thinking", "thinking": "Hm.", "signature": signature}
            said = {"role": "assistant", "content": [thought, {"type": "text", "text": "Yes."}]}
            await client.say([client.user("Is it?"), said, client.user("Sure?")])
            assert "Hm." not in json.dumps(w["anthropic"].asked[-1].body)
        assert w.refused == []


@STREAMED
async def test_thinking_for_openai(stream: bool) -> None:
    """An OpenAI client sees thoughts where compatible servers show them, and may send them back."""
    reply = Reply(text="Rome.", thinking="Rome or Paris?")
    async with world("anthropic", answer=lambda _: reply) as w, client_of("openai", w.url) as client:
        got = await client.say([client.user("Which?")], stream=stream, reasoning_effort="high")
        assert got.text == "Rome."
        assert got.message["reasoning_content"] == "Rome or Paris?"
        assert w["anthropic"].asked[0].body["thinking"] == {"type": "adaptive"}
        await client.say([client.user("Which?"), got.message, client.user("Sure?")])
        assert w.refused == []


@given(st.text(max_size=20), st.text(max_size=20), st.text(max_size=40))
@settings(max_examples=100, deadline=None)
def test_marks(provider: str, model: str, signed: str) -> None:
    """Whose a thought is comes back with it, whatever was signed."""
    assert unmarked(marked(signed, provider=provider, model=model)) == (provider, model, signed)


@pytest.mark.parametrize(
    "text", ["", "abc", "relight.", "relight.x", "relight.!!!.abc", "relight.e30.abc", "relight.WzEsMl0.x"]
)
def test_what_is_no_mark(text: str) -> None:
    """fails when a signature that is not marked by us is taken for one that is."""
    assert unmarked(text) is None


# -- errors


@STREAMED
@BOTH
async def test_providers_down(face: str, stream: bool) -> None:
    """fails when nobody can be asked: an error of the server's, that says when to come back, and no stream."""
    async with world("anthropic", "openai") as w, client_of(face, w.url) as client:
        w["anthropic"].trouble = w["openai"].trouble = Trouble.SERVER_ERROR
        with pytest.raises(STATUS_ERRORS) as caught:
            await client.say([client.user("hello")], stream=stream)
        exc: Any = caught.value
        assert isinstance(exc, anthropic.OverloadedError | openai.InternalServerError)
        assert exc.status_code == (529 if face == "anthropic" else 503)
        assert int(exc.response.headers["retry-after"]) >= 1
        assert message_in(exc.response.json()).startswith("no provider can be asked")
        assert exc.response.json()["error"]["type"] == ("overloaded_error" if face == "anthropic" else "server_error")


@STREAMED
@BOTH
async def test_would_rather_wait(face: str, stream: bool) -> None:
    """A client that says `never` is told when to come back, and gets no fallback's answer."""
    async with world("anthropic", "openai") as w:
        w["anthropic"].trouble = Trouble.SERVER_ERROR
        async with client_of(face, w.url, **{"x-relight-degrade": "never"}) as client:
            with pytest.raises(STATUS_ERRORS) as caught:
                await client.say([client.user("hello")], stream=stream)
        exc: Any = caught.value
        assert exc.status_code == 503
        assert int(exc.response.headers["retry-after"]) >= 1
        assert w["openai"].asked == []
        status, body, _ = await post(w.url, PATHS[face], {}, **{"x-relight-degrade": "perhaps"})
        assert (status, message_in(body)) == (400, "the header x-relight-degrade must be never or allow")


@STREAMED
@BOTH
async def test_refused_by_the_provider(face: str, stream: bool) -> None:
    """fails when the provider says that the request is wrong: with its status, and nobody else is asked."""
    async with world("anthropic", "openai") as w, client_of(face, w.url) as client:
        w["anthropic"].trouble = Trouble.BAD_REQUEST
        with pytest.raises(BAD_REQUEST) as caught:
            await client.say([client.user("hello")], stream=stream)
        assert "anthropic refused the request" in message_in(caught.value.response.json())
        assert w["openai"].asked == []


@STREAMED
@BOTH
async def test_incapable(face: str, stream: bool) -> None:
    """fails when no provider can do it: a bad request, which says what each lacks."""
    async with world("anthropic", tools=False) as w, client_of(face, w.url) as client:
        with pytest.raises(BAD_REQUEST) as caught:
            await client.say([client.user("hello")], stream=stream, tools=True)
        assert "anthropic takes no tools" in message_in(caught.value.response.json())


@STREAMED
@BOTH
async def test_deadline(face: str, stream: bool) -> None:
    """fails when the call's time is over: 504, which is told from answers that were of no use, 502."""
    async with world("anthropic", limits=ProviderLimits(deadline_s=0.3)) as w, client_of(face, w.url) as client:
        w["anthropic"].trouble = Trouble.SILENCE
        with pytest.raises(STATUS_ERRORS) as caught:
            await client.say([client.user("hello")], stream=stream)
        assert caught.value.status_code == 504
    async with world("anthropic") as w, client_of(face, w.url) as client:
        w["anthropic"].trouble = Trouble.EMPTY
        with pytest.raises(STATUS_ERRORS) as caught:
            await client.say([client.user("hello")], stream=stream)
        assert caught.value.status_code == 502


@pytest.mark.parametrize("trouble", [Trouble.CUT_MID_EVENT, Trouble.ERROR_EVENT, Trouble.NO_STOP_REASON])
@BOTH
async def test_cut(face: str, trouble: Trouble) -> None:
    """fails when a stream is cut after its beginning: the SDK raises, and has no whole answer."""
    long = Reply(text="word " * 100)
    async with world("anthropic", "openai", answer=lambda _: long) as w, client_of(face, w.url) as client:
        w["anthropic"].trouble = trouble
        with pytest.raises((anthropic.APIStatusError, openai.APIError)) as caught:
            await client.say([client.user("hello")], stream=True)
        assert "anthropic broke off" in str(caught.value)
        # Where no stream was asked for, nothing was given out, and the next one answers.
        got = await client.say([client.user("hello")])
        assert (got.text, got.headers["x-relight-degraded"]) == (long.text, "true")


@BOTH
async def test_cut_is_no_end(face: str) -> None:
    """A stream that was cut ends with the error event: neither a stop reason nor `[DONE]` comes before or after it."""
    router = FakeRouter(
        Started(provider="p", model="m", degraded=False), TextDelta(text="half of"), RuntimeError("the prompt")
    )
    async with serving(router) as url:
        body = {"model": "any", "stream": True, "messages": [{"role": "user", "content": "hello"}]}
        async with aiohttp.ClientSession() as session, session.post(url + PATHS[face], json=body) as response:
            text = await response.text()
    assert "half of" in text
    assert not any(end in text for end in ("message_stop", "end_turn", "[DONE]", '"stop"'))
    assert '"error"' in text.strip().rpartition("\n\n")[2]
    assert "the prompt" not in text


@BOTH
async def test_cut_and_restarted(face: str) -> None:
    """With `restart` a stream holds only the words of the provider that finished it."""
    options = Options(on_cut=OnCut.RESTART)
    async with world("anthropic", "openai", options=options) as w, client_of(face, w.url) as client:
        w["anthropic"].answer = lambda _: Reply(text="wrong " * 100)
        w["anthropic"].trouble = Trouble.CUT_MID_EVENT
        reply = Reply(text="Right.", calls=[Call(name="weather", arguments={"city": "Rome"}), Call(name="weather")])
        w["openai"].answer = lambda _: reply
        got = await client.say([client.user("hello")], stream=True, tools=True)
        assert (got.text, [call[2] for call in got.calls]) == ("Right.", [{"city": "Rome"}, {}])
        assert (got.headers["x-relight-provider"], got.headers["x-relight-degraded"]) == ("openai", "true")


@BOTH
async def test_our_own_fault(face: str, caplog: pytest.LogCaptureFixture) -> None:
    """fails when the gateway itself does: 500 in the client's format, and what the error said is not in the log."""
    caplog.set_level(logging.DEBUG)
    async with serving(FakeRouter(RuntimeError("the prompt"))) as url:
        body = {"model": "any", "messages": [{"role": "user", "content": "hello"}]}
        status, found, headers = await post(url, PATHS[face], body)
    assert status == 500
    assert headers["request-id"] in message_in(found)
    record = next(record for record in caplog.records if record.msg == "gateway_failed")
    assert (vars(record)["error"], vars(record)["request_id"]) == ("RuntimeError", headers["request-id"])
    assert "the prompt" not in str([vars(record) for record in caplog.records])


# -- what is asked


def _anthropic(**more: Any) -> dict[str, Any]:
    return {"model": "any", "max_tokens": 10, "messages": [{"role": "user", "content": "hello"}], **more}


def _openai(**more: Any) -> dict[str, Any]:
    return {"model": "any", "messages": [{"role": "user", "content": "hello"}], **more}


def _says(*content: Any, role: str = "user") -> dict[str, Any]:
    return {"messages": [{"role": role, "content": list(content)}]}


_OPENAI_TOOL = {"type": "function", "function": {"name": "weather", "parameters": WEATHER}}
_CALLED = {"id": "c1", "type": "function", "function": {"name": "weather", "arguments": '{"city": "Rome"}'}}

WRONG = [
    ("anthropic", {"messages": None}, "messages: "),
    ("anthropic", {"messages": []}, "messages: "),
    ("anthropic", {"messages": "hello"}, "messages: "),
    ("anthropic", {"model": None}, "model: "),
    ("anthropic", {"model": 3}, "model: "),
    ("anthropic", {"max_tokens": 0}, "max_tokens: "),
    ("anthropic", {"max_tokens": "many"}, "max_tokens: "),
    ("anthropic", {"stream": "yes"}, "stream: "),
    ("anthropic", {"messages": [{"role": "tool", "content": "x"}]}, "messages.0.role: "),
    ("anthropic", {"messages": [{"role": "user", "content": 3}]}, "messages.0.content: "),
    (
        "anthropic",
        {"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]},
        "messages.1: ",
    ),
    ("anthropic", _says({"type": "document", "source": {}}), "messages.0.content.0.type: "),
    (
        "anthropic",
        _says({"type": "server_tool_use", "id": "x", "name": "y", "input": {}}),
        "messages.0.content.0.type: ",
    ),
    ("anthropic", _says({"type": "text"}), "messages.0.content.0.text: "),
    (
        "anthropic",
        _says({"type": "image", "source": {"type": "file", "file_id": "f"}}),
        "messages.0.content.0.source.type: ",
    ),
    (
        "anthropic",
        _says({"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "%%"}}),
        "messages.0.content.0.source.data: ",
    ),
    ("anthropic", {"tools": [{"type": "web_search_20250305", "name": "web_search"}]}, "tools.0.type: "),
    ("anthropic", {"tools": [{"name": "weather"}]}, "tools.0.input_schema: "),
    ("anthropic", {"tool_choice": {"type": "tool", "name": "nobody"}}, "tool_choice.name: "),
    ("anthropic", {"tool_choice": {"type": "perhaps"}}, "tool_choice.type: "),
    ("anthropic", {"container": "c1"}, "container: "),
    ("anthropic", {"mcp_servers": [{"url": "https://x"}]}, "mcp_servers: "),
    ("anthropic", {"inference_geo": "eu"}, "inference_geo: "),
    ("anthropic", {"output_config": {"effort": "huge"}}, "output_config.effort: "),
    ("anthropic", {"output_config": {"format": {"type": "xml"}}}, "output_config.format.type: "),
    ("openai", {"messages": None}, "messages: "),
    ("openai", {"messages": [{"role": "system", "content": "x"}]}, "messages: "),
    ("openai", {"messages": ["hello"]}, "messages[0]: "),
    ("openai", {"messages": [{"role": "robot", "content": "x"}]}, "messages[0].role: "),
    ("openai", {"model": None}, "model: "),
    ("openai", {"n": 2}, "n: "),
    ("openai", {"logprobs": True}, "logprobs: "),
    ("openai", {"top_logprobs": 3}, "top_logprobs: "),
    ("openai", {"logit_bias": {"5": -100}}, "logit_bias: "),
    ("openai", {"audio": {"voice": "alloy", "format": "wav"}}, "audio: "),
    ("openai", {"modalities": ["text", "audio"]}, "modalities[1]: "),
    ("openai", {"web_search_options": {"search_context_size": "low"}}, "web_search_options: "),
    ("openai", {"functions": [{"name": "weather"}]}, "functions: "),
    ("openai", {"max_completion_tokens": 0}, "max_completion_tokens: "),
    ("openai", {"tools": [{"type": "custom", "custom": {"name": "x"}}]}, "tools[0].type: "),
    ("openai", {"tools": [_OPENAI_TOOL], "tool_choice": "perhaps"}, "tool_choice: "),
    (
        "openai",
        {"tools": [_OPENAI_TOOL], "tool_choice": {"type": "function", "function": {"name": "nobody"}}},
        "tool_choice.function.name: ",
    ),
    ("openai", {"response_format": {"type": "grammar"}}, "response_format.type: "),
    ("openai", {"reasoning_effort": "huge"}, "reasoning_effort: "),
    ("openai", {"stop": [3]}, "stop[0]: "),
    ("openai", _says({"type": "input_audio", "input_audio": {}}), "messages[0].content[0].type: "),
    ("openai", _says({"type": "file", "file": {}}), "messages[0].content[0].type: "),
    ("openai", _says({"type": "image_url", "image_url": {"url": "ftp://x"}}), "messages[0].content[0].image_url.url: "),
    (
        "openai",
        _says({"type": "image_url", "image_url": {"url": "data:text/html;base64,AA=="}}),
        "messages[0].content[0].image_url.url: ",
    ),
    ("anthropic", {"thinking": {"type": "sometimes"}}, "thinking.type: this must be enabled, adaptive"),
    ("openai", {"messages": [{"role": "function", "name": "weather", "content": "dry"}]}, "messages[0].name: "),
]


@pytest.mark.parametrize(
    ("face", "more", "says"), WRONG, ids=[f"{face}-{says}{n}" for n, (face, _, says) in enumerate(WRONG)]
)
def test_wrong_requests(face: str, more: dict[str, Any], says: str) -> None:
    """fails when a field is wrong, or would change what the answer is: it is named, and its value is not repeated."""
    body, parser = (_anthropic(**more), AnthropicFace()) if face == "anthropic" else (_openai(**more), OpenAIFace())
    with pytest.raises(Refused) as caught:
        parser.parse(Field(body), max_tokens=100)
    status, found = parser.error(caught.value)
    assert status == 400
    assert message_in(found).startswith(says)
    assert found["error"]["type"] == "invalid_request_error"


@BOTH
async def test_wrong_requests_reach_nobody(face: str) -> None:
    """fails when a request is refused here: as the SDK's own error, and no provider was asked."""
    async with world("anthropic") as w, client_of(face, w.url) as client:
        with pytest.raises(BAD_REQUEST):
            await client.say([{"role": "user", "content": [{"type": "document", "source": {}}]}])
        assert w["anthropic"].asked == []


@pytest.mark.parametrize(
    "data", [b"", b"hello", b"[]", b'{"a": NaN}', b"\xff\xfe", b"[" * 100_000], ids=lambda d: str(d[:8])
)
@BOTH
async def test_no_json(face: str, data: bytes) -> None:
    """fails when the body is no JSON object: 400 in the client's format."""
    async with serving(FakeRouter()) as url:
        status, body, _ = await post(url, PATHS[face], data)
        assert status == 400
        assert message_in(body).startswith("the body ")


@BOTH
async def test_too_large(face: str) -> None:
    """fails when a body is larger than the gateway takes: 413 in the client's format, which the SDK understands."""
    async with serving(FakeRouter(), Options(largest_body=100_000)) as url, client_of(face, url) as client:
        with pytest.raises(STATUS_ERRORS) as caught:
            await client.say([client.user("x" * 5_000_000)])
        assert caught.value.status_code == 413
        assert "too large" in message_in(caught.value.response.json())


@BOTH
async def test_busy(face: str) -> None:
    """fails when the bodies under way may fill the memory: one too many is told to come back, and then taken."""
    hold = asyncio.Event()
    router = FakeRouter(
        Started(provider="p", model="m", degraded=False), Finished(answer=_answer(Text(text="Yes."))), hold=hold
    )
    asked = (_anthropic if face == "anthropic" else _openai)(metadata={"x": "y" * 600})
    async with serving(router, Options(bodies_at_once=1000)) as url:
        first = asyncio.create_task(post(url, PATHS[face], asked))
        await until(lambda: router.asked, "the first call")
        status, body, headers = await post(url, PATHS[face], asked)
        assert (status, headers["Retry-After"]) == (529 if face == "anthropic" else 503, "1")
        assert message_in(body) == "too much is under way here: come back soon"
        hold.set()
        assert (await first)[0] == 200
        assert [(await post(url, PATHS[face], asked))[0] for _ in range(3)] == [200, 200, 200]
        assert (await post(url, PATHS[face], b"[" * 600))[0] == 400
        assert (await post(url, PATHS[face], asked))[0] == 200


@BOTH
async def test_too_many_values(face: str) -> None:
    """fails when a body can fill the memory with thirty times its size; words may hold any number of brackets."""
    values = b'{"model": "m", "metadata": [' + b"[]," * 500_001 + b"[]]}"
    asked = (_anthropic if face == "anthropic" else _openai)(messages=[{"role": "user", "content": '[{,"\\' * 400_000}])
    router = FakeRouter(Finished(answer=_answer(Text(text="Yes."))))
    async with serving(router) as url:
        status, body, _ = await post(url, PATHS[face], values)
        assert (status, message_in(body)) == (413, "the body holds too many lists, objects and values: send less")
        assert (await post(url, PATHS[face], asked))[0] == 200
        assert router.asked[0].messages == (user('[{,"\\' * 400_000),)


@BOTH
async def test_unreadable(face: str, caplog: pytest.LogCaptureFixture) -> None:
    """A body that is compressed, or does not come as its headers say, is the client's fault, and not logged."""
    router = FakeRouter(Finished(answer=_answer(Text(text="Yes."))))
    caplog.set_level(logging.DEBUG)
    async with serving(router) as url:
        for data in (b"secret-words", gzip.compress(b'{"model": "secret-words"}')):
            status, body, _ = await post(url, PATHS[face], data, **{"Content-Encoding": "gzip"})
            assert (status, message_in(body)) == (415, "a compressed body is not read: send it as it is")
    request = _mocked(PATHS[face], error=web.RequestPayloadError("secret-words"))
    gateway = Gateway(router, Options())
    response = await gateway.guard(request, gateway.messages)
    assert response.status == 400
    assert "secret-words" not in caplog.text
    assert [record for record in caplog.records if record.levelno >= logging.WARNING] == []


@pytest.mark.parametrize(
    "data",
    [b"BAD secret-words\r\n\r\n", b"GET /secret-words HTTP/1.1\r\nHost: localhost\r\nHost: secret-words\r\n\r\n"],
)
async def test_no_http(data: bytes, caplog: pytest.LogCaptureFixture) -> None:
    """fails when the server's own log repeats what came in and is no HTTP."""
    caplog.set_level(logging.DEBUG)
    async with serving(FakeRouter()) as url:
        assert b" 400 " in await _raw(url, data)
    assert "secret-words" not in caplog.text
    assert [(record.name, record.levelno) for record in caplog.records if record.name != "asyncio"] == [
        ("relight.providers.gateway.app", logging.INFO)
    ]


async def _raw(url: str, data: bytes) -> bytes:
    """What comes back for these bytes, up to the end of the connection."""
    reader, writer = await asyncio.open_connection("127.0.0.1", int(url.rpartition(":")[2]))
    writer.write(data)
    heard = await reader.read()
    writer.close()
    return heard


def _mocked(path: str, body: Any = None, *, error: Exception | None = None) -> web.Request:
    """A request without a connection, whose body comes, or fails with `error`."""
    payload = aiohttp.StreamReader(Mock(), 2**16, loop=asyncio.get_running_loop())
    payload.feed_data(json.dumps(body).encode())
    if error is not None:
        payload.set_exception(error)
    payload.feed_eof()
    return make_mocked_request("POST", path, headers={"Host": "localhost"}, payload=payload)


@BOTH
async def test_half_a_character(face: str) -> None:
    """Text that was cut in the middle of a character reaches the provider, with the half replaced."""
    body = json.dumps(_anthropic() if face == "anthropic" else _openai()).replace(
        "hello", "cut \\ud83d, whole \\ud83d\\ude00"
    )
    async with world("anthropic") as w:
        status, _, _ = await post(w.url, PATHS[face], body.encode())
        assert status == 200
        assert w["anthropic"].asked[0].said == "cut \ufffd, whole \U0001f600"


def test_half_a_character_anywhere() -> None:
    """Half a character is replaced wherever it is, in names and arguments too; a whole one stays."""
    found = read_body(b'{"a\\uD83D": [{"b": "\\udE00c", "d": 1, "e": "\\ud83d\\ude00"}]}')
    assert found.value == {"a\ufffd": [{"b": "\ufffdc", "d": 1, "e": "\U0001f600"}]}


def _parsed(face: str, **more: Any) -> Any:
    parser: Any = AnthropicFace() if face == "anthropic" else OpenAIFace()
    return parser.parse(Field(_anthropic(**more) if face == "anthropic" else _openai(**more)), max_tokens=77)


def test_anthropic_leniency() -> None:
    """What agents say in several ways is understood in each."""
    blocks = [
        {"type": "text", "text": "Be brief.", "cache_control": {"type": "ephemeral"}},
        {"type": "text", "text": "Be kind."},
    ]
    turns = [
        {"role": "user", "content": "a"},
        {"role": "system", "content": "Now in French."},
        {"role": "assistant", "content": [{"type": "tool_use", "id": "t1", "name": "weather", "input": {}}]},
        {
            "role": "user",
            "content": [
                {
                    "type": "tool_result",
                    "tool_use_id": "t1",
                    "is_error": True,
                    "cache_control": {"type": "ephemeral"},
                    "content": "no",
                },
                {"type": "tool_result", "tool_use_id": "t2"},
            ],
        },
    ]
    asked = _parsed(
        "anthropic", system=blocks, messages=turns, max_tokens=None, unheard_of=1, metadata={"user_id": "u"}
    )
    request = asked.request
    assert request.system == "Be brief.\nBe kind.\n\nNow in French."
    assert request.max_tokens == 77
    assert asked.ignored == ("metadata", "unheard_of")
    assert request.messages == (
        user("a"),
        assistant(ToolCall(id="t1", name="weather", arguments={})),
        user(
            ToolResult(call_id="t1", content=(Text(text="no", cached=True),), error=True),
            ToolResult(call_id="t2", content=()),
        ),
    )


def test_anthropic_settings() -> None:
    """Each setting is read in the forms that it has."""
    tools = [{"name": "weather", "input_schema": WEATHER}]
    choices: list[tuple[dict[str, Any], tuple[ToolUse, str, bool]]] = [
        ({"type": "auto"}, (ToolUse.AUTO, "", True)),
        ({"type": "none"}, (ToolUse.NONE, "", True)),
        ({"type": "any", "disable_parallel_tool_use": True}, (ToolUse.REQUIRED, "", False)),
        ({"type": "tool", "name": "weather"}, (ToolUse.REQUIRED, "weather", True)),
    ]
    for choice, wanted in choices:
        request = _parsed("anthropic", tools=tools, tool_choice=choice).request
        assert (request.tool_use, request.tool, request.parallel_tools) == wanted
    efforts: list[tuple[dict[str, Any], Effort | None]] = [
        ({}, None),
        ({"thinking": {"type": "disabled"}}, None),
        ({"thinking": {"type": "adaptive"}}, Effort.HIGH),
        ({"thinking": {"type": "between_tools"}}, None),
        ({"thinking": {"type": "enabled", "budget_tokens": 2000}}, Effort.LOW),
        ({"thinking": {"type": "enabled", "budget_tokens": 10_000}}, Effort.MEDIUM),
        ({"thinking": {"type": "enabled", "budget_tokens": 60_000}}, Effort.MAX),
        ({"thinking": {"type": "adaptive"}, "output_config": {"effort": "xhigh"}}, Effort.HIGH),
    ]
    for more, effort in efforts:
        assert _parsed("anthropic", **more).request.effort is effort
    assert _parsed("anthropic", thinking={"type": "between_tools"}).ignored == ("thinking",)
    request = _parsed(
        "anthropic", stop_sequences=["a", "b"], temperature=0.5, top_p=1, cache_control={"type": "ephemeral"}
    ).request
    assert (request.stop, request.temperature, request.top_p) == (("a", "b"), 0.5, 1)
    assert request.messages == (user(Text(text="hello", cached=True)),)


def test_openai_leniency() -> None:
    """What agents say in several ways is understood in each."""
    turns = [
        {"role": "developer", "content": [{"type": "text", "text": "Be brief."}]},
        {"role": "user", "content": "a", "name": "ann"},
        {"role": "assistant", "content": None, "tool_calls": [_CALLED, {**_CALLED, "id": "c2", "type": None}]},
        {"role": "tool", "tool_call_id": "c1", "content": "dry"},
        {"role": "tool", "tool_call_id": "c2", "content": [{"type": "text", "text": "wet"}]},
        {"role": "system", "content": "Now in French."},
        {"role": "assistant", "content": "", "function_call": {"name": "weather", "arguments": ""}},
        {"role": "function", "name": "weather", "content": "dry"},
        {"role": "tool", "tool_call_id": "c3", "content": None},
        {"role": "assistant", "refusal": "No.", "reasoning_content": "hm"},
        {
            "role": "user",
            "content": [{"type": "text", "text": "b"}, {"type": "image_url", "image_url": "https://x/y.png"}],
        },
    ]
    asked = _parsed("openai", messages=turns, seed=4, user="u", store=False, metadata=None)
    assert asked.request.system == "Be brief.\n\nNow in French."
    assert asked.request.max_tokens == 77
    assert asked.ignored == ("seed", "store", "user")
    rome = {"city": "Rome"}
    assert asked.request.messages == (
        user("a"),
        assistant(ToolCall(id="c1", name="weather", arguments=rome), ToolCall(id="c2", name="weather", arguments=rome)),
        user(
            ToolResult(call_id="c1", content=(Text(text="dry"),)), ToolResult(call_id="c2", content=(Text(text="wet"),))
        ),
        assistant(ToolCall(id="call_of_message_6", name="weather", arguments={})),
        user(
            ToolResult(call_id="call_of_message_6", content=(Text(text="dry"),)), ToolResult(call_id="c3", content=())
        ),
        assistant("No."),
        user("b", Image(url="https://x/y.png")),
    )


@pytest.mark.parametrize("provider", ["anthropic", "openai", "local"])
async def test_broken_arguments_stay_words(provider: str) -> None:
    """fails when a conversation in which a model once broke a call's arguments can never go on."""
    async with world(provider) as w, client_of("openai", w.url) as client:
        for broken in ('{"city": "Ro', "[1]", '{"much": NaN}', '{"much": 1e999}', "[" * 100_000):
            called = [
                {**_CALLED, "function": {"name": "weather", "arguments": broken}},
                {**_CALLED, "id": "c2"},
            ]
            said = [
                client.user("hello"),
                {"role": "assistant", "content": "Let me look.", "tool_calls": called},
                {"role": "tool", "tool_call_id": "c1", "content": "that was no JSON"},
                {"role": "tool", "tool_call_id": "c2", "content": "dry"},
                client.user("Go on."),
            ]
            assert (await client.say(said, tools=True)).text.endswith("Go on.")
            assert _parsed("openai", messages=said).request.messages[1] == assistant(
                "Let me look.",
                broken,
                ToolCall(id="c1", name="weather", arguments={}),
                ToolCall(id="c2", name="weather", arguments={"city": "Rome"}),
            )
        assert w.refused == []


def test_half_a_character_in_arguments() -> None:
    """fails when half a character hides in the JSON within the JSON, or comes as bytes that are no UTF-8."""
    half = {**_CALLED, "function": {"name": "weather", "arguments": '{"city": "\\ud83d"}'}}
    turns = [{"role": "user", "content": "a"}, {"role": "assistant", "tool_calls": [half]}]
    assert _parsed("openai", messages=turns).request.messages[1].tool_calls[0].arguments == {"city": "\ufffd"}
    assert read_body(b'{"a": "\xed\xa0\xbd"}').value == {"a": "\ufffd"}


def test_openai_settings() -> None:
    """Each setting is read in the forms that it has."""
    other = {"type": "function", "function": {"name": "other"}}
    named = {"type": "function", "function": {"name": "weather"}}
    choices: list[tuple[Any, tuple[ToolUse, str, int]]] = [
        ("auto", (ToolUse.AUTO, "", 2)),
        ("none", (ToolUse.NONE, "", 2)),
        ("required", (ToolUse.REQUIRED, "", 2)),
        ({"type": "required"}, (ToolUse.REQUIRED, "", 2)),
        (named, (ToolUse.REQUIRED, "weather", 2)),
        (
            {"type": "allowed_tools", "allowed_tools": {"mode": "required", "tools": [named]}},
            (ToolUse.REQUIRED, "", 1),
        ),
    ]
    for choice, wanted in choices:
        request = _parsed("openai", tools=[_OPENAI_TOOL, other], tool_choice=choice, parallel_tool_calls=False).request
        assert (request.tool_use, request.tool, len(request.tools)) == wanted
        assert request.parallel_tools is False
    assert _parsed("openai", stop="a").request.stop == ("a",)
    assert _parsed("openai", stop=["a", "b"]).request.stop == ("a", "b")
    assert _parsed("openai", max_tokens=5).request.max_tokens == 5
    assert _parsed("openai", max_tokens=5, max_completion_tokens=6).request.max_tokens == 6
    for said, effort in (("none", None), ("minimal", Effort.LOW), ("medium", Effort.MEDIUM), ("max", Effort.MAX)):
        assert _parsed("openai", reasoning_effort=said).request.effort is effort
    assert _parsed("openai", n=1, logprobs=False, audio=None, logit_bias={}, modalities=["text"]).stream is False
    assert _parsed("openai", stream=True, stream_options={"include_usage": True}).include_usage is True


_words = st.text(st.characters(codec="utf-8"), min_size=1, max_size=20)
_json = st.recursive(
    st.none() | st.booleans() | st.integers() | _words, lambda inner: st.lists(inner, max_size=3), max_leaves=5
)
_parts = st.one_of(
    st.builds(Text, text=_words),
    st.builds(ToolCall, id=_words, name=_words, arguments=st.dictionaries(_words, _json, max_size=3)),
    st.builds(Thinking, text=_words, signature=_words, provider=_words, model=_words),
    st.builds(Thinking, redacted=_words, provider=_words, model=_words),
)


@given(st.lists(_parts, min_size=1, max_size=6), st.booleans())
@settings(max_examples=200, deadline=None)
def test_what_is_given_out_comes_back(parts: list[Part], streamed: bool) -> None:
    """An answer that an Anthropic client puts into its conversation is read as what it was, streamed or not; an OpenAI
    client brings back its words and its calls."""
    answer = _answer(*parts, stop=Stop.TOOL_CALLS)
    turns = [{"role": "user", "content": "hello"}, {"role": "assistant", "content": _told(answer, streamed)}]
    asked = _parsed("anthropic", messages=[*turns, {"role": "user", "content": "more"}])
    assert _one_text(asked.request.messages[1].content) == _one_text(parts)
    message = OpenAIFace().render(answer)["choices"][0]["message"]
    asked = _parsed("openai", messages=[turns[0], message, turns[0]])
    back = asked.request.messages[1]
    assert back.text == answer.text
    assert back.tool_calls == answer.tool_calls


def _told(answer: Answer, streamed: bool) -> list[dict[str, Any]]:
    if not streamed:
        return list(AnthropicFace().render(answer)["content"])
    return _blocks(played(answer))


def _blocks(events: Iterable[Event]) -> list[dict[str, Any]]:
    """What an Anthropic client makes of a stream."""
    writer = AnthropicFace().writer(_parsed("anthropic"))
    lines = b"".join(writer.event(event) for event in events).decode().split("\n")
    blocks: list[dict[str, Any]] = []
    for event in (json.loads(line.removeprefix("data: ")) for line in lines if line.startswith("data: ")):
        if event["type"] == "content_block_start":
            assert event["index"] == len(blocks)
            blocks.append({**event["content_block"], "json": ""})
        elif event["type"] == "content_block_delta":
            assert event["index"] == len(blocks) - 1
            delta = dict(event["delta"])
            del delta["type"]
            if "partial_json" in delta:
                blocks[-1]["json"] += delta["partial_json"]
            else:
                blocks[-1].update({name: blocks[-1][name] + value for name, value in delta.items()})
    return [{**block, "input": json.loads(block["json"])} if block["json"] else block for block in blocks]


def _one_text(parts: Sequence[Part]) -> list[Part]:
    """Texts in a row as one, because a stream does not tell them apart."""
    found: list[Part] = []
    for part in parts:
        if isinstance(part, Text) and found and isinstance(found[-1], Text):
            found[-1] = Text(text=found[-1].text + part.text)
        else:
            found.append(part)
    return found


@given(st.data())
@settings(max_examples=200, deadline=None)
def test_pieces_in_any_order(data: st.DataObject) -> None:
    """fails when an Anthropic client gets a call with other arguments than the model gave, because words, a thought or
    another call came between two of their pieces."""
    count = data.draw(st.integers(1, 3))
    wanted = data.draw(st.lists(st.dictionaries(_words, _json, max_size=2), min_size=count, max_size=count))
    pending: list[list[Event]] = [[TextDelta(text=text)] for text in data.draw(st.lists(_words, max_size=3))]
    pending += [[ThinkingDelta(text=text)] for text in data.draw(st.lists(_words, max_size=2))]
    for index, arguments in enumerate(wanted):
        said = data.draw(st.booleans())
        text = json.dumps(arguments) if arguments or said else ""
        cuts = sorted(data.draw(st.lists(st.integers(0, len(text)), max_size=3)))
        pieces = [text[start:end] for start, end in itertools.pairwise([0, *cuts, len(text)])]
        started = ToolCallStarted(index=index, id=f"id{index}", name="pay")
        pending.append([started, *(ToolArguments(index=index, json=piece) for piece in pieces)])
    events: list[Event] = [Started(provider="p", model="m", degraded=False)]
    words = thoughts = ""
    while any(pending):
        event = data.draw(st.sampled_from([queue for queue in pending if queue])).pop(0)
        words += event.text if isinstance(event, TextDelta) else ""
        thoughts += event.text if isinstance(event, ThinkingDelta) else ""
        events.append(event)
    blocks = _blocks([*events, Finished(answer=_answer(Text(text="x")))])
    calls = {block["id"]: block["input"] for block in blocks if block["type"] == "tool_use"}
    assert calls == {f"id{index}": arguments for index, arguments in enumerate(wanted)}
    assert "".join(block["text"] for block in blocks if block["type"] == "text") == words
    assert "".join(block["thinking"] for block in blocks if block["type"] == "thinking") == thoughts


@pytest.mark.parametrize("between", [TextDelta(text="\n"), ThinkingDelta(text="hm")], ids=["words", "thought"])
@BOTH
async def test_words_within_a_call(face: str, between: Event) -> None:
    """fails when a client's SDK makes an empty call of one whose arguments were interrupted."""
    events: list[Event] = [
        Started(provider="p", model="m", degraded=False),
        ToolCallStarted(index=0, id="a", name="pay"),
        ToolArguments(index=0, json='{"amount":'),
        between,
        ToolArguments(index=0, json="5}"),
    ]
    call = ToolCall(id="a", name="pay", arguments={"amount": 5})
    router = FakeRouter(*events, Finished(answer=_answer(call, stop=Stop.TOOL_CALLS)))
    async with serving(router) as url, client_of(face, url) as client:
        assert (await client.say([client.user("hello")], stream=True)).calls == [("a", "pay", {"amount": 5})]


async def test_calls_at_once() -> None:
    """Calls whose arguments come mixed are given out one after the other, and each has its own."""
    events: list[Event] = [
        Started(provider="p", model="m", degraded=False),
        ThinkingDelta(text="hm"),
        ToolCallStarted(index=0, id="a", name="weather"),
        ToolArguments(index=0, json='{"city":'),
        ToolCallStarted(index=1, id="b", name="weather"),
        ToolArguments(index=1, json='{"city":"Ro'),
        ToolArguments(index=0, json='"Paris"}'),
        ToolArguments(index=1, json='me"}'),
        ToolCallStarted(index=2, id="c", name="weather"),
        ToolCallStarted(index=3, id="d", name="weather"),
        ToolArguments(index=3, json='{"city":"Oslo"}'),
        TextDelta(text="There."),
    ]
    calls = [ToolCall(id=id_, name="weather", arguments={}) for id_ in "abcd"]
    router = FakeRouter(*events, Finished(answer=_answer(*calls, stop=Stop.TOOL_CALLS)))
    wanted = [
        ("a", "weather", {"city": "Paris"}),
        ("b", "weather", {"city": "Rome"}),
        ("c", "weather", {}),
        ("d", "weather", {"city": "Oslo"}),
    ]
    async with serving(router) as url:
        for face in PATHS:
            async with client_of(face, url) as client:
                got = await client.say([client.user("hello")], stream=True)
                assert (got.calls, got.text) == (wanted, "There.")


# -- streams


async def test_usage_only_where_asked() -> None:
    """Counts come in a chunk of their own, and only to a client that asked for them."""
    async with world("anthropic") as w, client_of("openai", w.url) as client:
        for options, count in (({}, 0), ({"stream_options": {"include_usage": True}}, 1)):
            stream: Any = await client.sdk.chat.completions.create(**_openai(stream=True, **options))
            chunks = [chunk async for chunk in stream]
            assert sum(chunk.usage is not None for chunk in chunks) == count
            assert [chunk.choices[0].finish_reason for chunk in chunks if chunk.choices][-1] == "stop"


@pytest.mark.parametrize("on_cut", OnCut)
@BOTH
async def test_signs_of_life(face: str, on_cut: OnCut) -> None:
    """A client hears something while a model is silent before its first word, and its SDK takes it for nothing."""
    played_by = {"anthropic": "local", "openai": "anthropic"}[face]
    async with world(played_by, options=Options(ping_s=0.02, on_cut=on_cut), silence_s=30.0) as w:
        w[played_by].answer = lambda _: Reply(text="Yes.", first_s=10.0)
        body = {"model": "any", "stream": True, "messages": [{"role": "user", "content": "hello"}]}
        async with aiohttp.ClientSession() as session, session.post(w.url + PATHS[face], json=body) as response:
            assert (response.status, response.content_type) == (200, "text/event-stream")
            assert "x-relight-provider" not in response.headers
            assert response.headers["request-id"] != ""
            pings = 0
            while pings < 2:
                pings += b"ping" in await response.content.readline()
        w[played_by].answer = lambda _: Reply(text="Yes.", first_s=0.2)
        async with client_of(face, w.url) as client:
            got = await client.say([client.user("hello")], stream=True)
            assert got.text == "Yes."
            assert "x-relight-provider" not in got.headers


@BOTH
async def test_errors_after_a_sign_of_life(face: str) -> None:
    """fails when an error that comes after the first sign of life is not one to the client's SDK."""
    async with world("local", options=Options(ping_s=0.02), silence_s=0.3) as w, client_of(face, w.url) as client:
        w["local"].trouble = Trouble.SILENCE
        with pytest.raises((anthropic.APIError, openai.APIError)) as caught:
            await client.say([client.user("hello")], stream=True)
        assert "no provider can be asked: local: silence" in str(caught.value)


@BOTH
async def test_dropped_is_told_of_what_is_held_back(face: str) -> None:
    """A stream that is held back begins with all headers, since its whole answer is known."""
    more: dict[str, Any] = {"extra_body": {"temperature": 0.2}} if face == "anthropic" else {"temperature": 0.2}
    async with world("anthropic", options=Options(on_cut=OnCut.RESTART)) as w, client_of(face, w.url) as client:
        got = await client.say([client.user("hello")], stream=True, **more)
        assert (got.headers["x-relight-dropped"], got.headers["x-relight-provider"]) == ("temperature", "anthropic")


@pytest.mark.parametrize("ping_s", [0.0, 10.0], ids=["ping", "answer"])
async def test_leaves_before_the_headers(ping_s: float, caplog: pytest.LogCaptureFixture) -> None:
    """A client that leaves while its response begins is no failure of the gateway."""
    body = {"model": "any", "stream": True, "messages": [{"role": "user", "content": "hello"}]}
    request = _mocked("/v1/messages", body)
    request._prepare_hook = AsyncMock(side_effect=ConnectionResetError)  # type: ignore[method-assign]
    started = Started(provider="p", model="m", degraded=False)
    gateway = Gateway(FakeRouter(started, Finished(answer=_answer(Text(text="Yes.")))), Options(ping_s=ping_s))
    caplog.set_level(logging.INFO)
    await gateway.guard(request, gateway.messages)
    assert [record.msg for record in caplog.records] == ["gateway_client_left"]


@BOTH
async def test_many_streams(face: str) -> None:
    """64 streams at once each get their own words, whole."""
    reply: Callable[[Any], Reply] = lambda asked: Reply(text=f"{asked.said}! " * 20, between_s=0.001)  # noqa: E731
    async with world("anthropic", "openai", answer=reply) as w, client_of(face, w.url) as client:
        w["anthropic"].trouble = lambda asked: Trouble.RATE_LIMITED if asked.number % 3 == 0 else None
        got = await asyncio.gather(*(client.say([client.user(f"n{number}")], stream=True) for number in range(64)))
        assert [item.text for item in got] == [f"n{number}! " * 20 for number in range(64)]
        assert w.refused == []


@STREAMED
@BOTH
async def test_client_leaves(face: str, stream: bool) -> None:
    """A client that goes away ends the call: the provider is asked no further, and nothing is billed."""
    slow = Reply(text="word " * 200, between_s=0.05)
    async with world("anthropic", answer=lambda _: slow) as w:
        body = {"model": "any", "stream": stream, "messages": [{"role": "user", "content": "hello"}]}
        async with aiohttp.ClientSession() as session:
            asking = asyncio.create_task(session.post(w.url + PATHS[face], json=body))
            await until(lambda: w["anthropic"].asked, "the provider to be asked")
            if stream:
                response = await asking
                await response.content.readline()
                response.close()
            else:
                asking.cancel()
        await until(lambda: w.attempts, "the call to end")
        assert [attempt.outcome for attempt in w.attempts] == ["abandoned"]
        assert w["anthropic"].bill == []


# -- who may ask


@BOTH
async def test_pages_are_refused(face: str) -> None:
    """fails when a page in a browser asks: directly, or by a name of its own that points to this machine."""
    async with world("anthropic") as w:
        body = _openai(max_tokens=5)
        port = w.url.rpartition(":")[2]
        for headers in (
            {"Origin": "https://evil.example"},
            {"Origin": "null"},
            {"Sec-Fetch-Site": "cross-site"},
            {"Host": f"evil.example:{port}"},
            {"Host": "127.0.0.1.evil.example"},
            {"Host": "192.168.0.7"},
        ):
            status, found, _ = await post(w.url, PATHS[face], body, **headers)
            assert status == 403
            assert message_in(found)
        assert w["anthropic"].asked == []
        for host in (f"localhost:{port}", "127.0.0.1", f"[::1]:{port}"):
            status, _, _ = await post(w.url, PATHS[face], body, Host=host)
            assert status == 200


@BOTH
async def test_token(face: str) -> None:
    """fails when the gateway asks for a token and the client has another; the SDKs send theirs as their API key."""
    async with world("anthropic", options=Options(token="s3cret-token")) as w:
        for key in ("no-key", "s3cret-toke", "schlüssel"):
            status, found, _ = await post(
                w.url, PATHS[face], _openai(), **{"x-api-key": key, "Authorization": f"Bearer {key}"}
            )
            assert (status, "s3cret" in message_in(found)) == (401, False)
        async with client_of(face, w.url, key="wrong") as client:
            with pytest.raises((anthropic.AuthenticationError, openai.AuthenticationError)):
                await client.say([client.user("hello")])
        async with client_of(face, w.url, key="s3cret-token") as client:
            assert (await client.say([client.user("hello")])).text == "You said: hello"
        assert len(w["anthropic"].asked) == 1
        async with aiohttp.ClientSession() as session, session.get(w.url + "/health") as response:
            assert (response.status, await response.json()) == (200, {"status": "ok"})
        assert "s3cret" not in repr(Options(token="s3cret-token"))


async def test_clients_key_goes_nowhere(caplog: pytest.LogCaptureFixture) -> None:
    """What a client has as its key reaches no provider; no key and nothing of a conversation comes into the log."""
    caplog.set_level(logging.DEBUG, "relight")
    async with world("anthropic", "openai") as w:
        w["anthropic"].trouble = Trouble.UNAUTHORIZED
        for face in PATHS:
            async with client_of(face, w.url, key="sk-client-key") as client:
                more: dict[str, Any] = {"extra_body": {"unheard_of": "a secret wish", "not a name: a secret": 1}}
                await client.say([client.user("a secret plan")], **more)
                with pytest.raises(STATUS_ERRORS):
                    await client.say([client.user("a secret plan")], tools=True, tool_choice={"type": "a secret"})
        sent = [dict(asked.headers) for provider in w.providers.values() for asked in provider.asked]
        assert "sk-client-key" not in str(sent)
        keys = [provider.key or "?" for provider in w.providers.values()]
    logged = str([vars(record) for record in caplog.records if record.name.startswith("relight")])
    assert not any(word in logged for word in ("sk-client-key", "secret", "You said", *keys))
    ignored = [vars(record)["fields"] for record in caplog.records if record.msg == "gateway_fields_ignored"]
    assert ignored == [["unheard_of"], ["unheard_of"]]
    assert Counter(record.msg for record in caplog.records)["gateway_answered"] == 2


async def test_wrong_paths() -> None:
    """fails when the path or the method is wrong: in the format of the client that asks."""
    async with serving(FakeRouter()) as url, aiohttp.ClientSession() as session:
        for path, headers, kind in (
            ("/v1/completions", {}, "invalid_request_error"),
            ("/v1/responses", {}, "invalid_request_error"),
            ("/v1/messages/batches", {}, "not_found_error"),
            ("/v1/v1/messages", {"anthropic-version": "2023-06-01"}, "not_found_error"),
        ):
            async with session.post(url + path, json={}, headers=headers) as response:
                body = await response.json()
                assert (response.status, body["error"]["type"]) == (404, kind)
                assert "base URL" in message_in(body)
        for path in PATHS.values():
            async with session.get(url + path) as response:
                assert (response.status, response.headers["Allow"]) == (405, "POST")
                assert message_in(await response.json()) == "this takes POST alone"


async def test_models() -> None:
    """Both SDKs list the one model, which stands for all that the router may choose."""
    async with serving(FakeRouter()) as url:
        for face in PATHS:
            async with client_of(face, url) as client:
                sdk: Any = client.sdk
                assert [model.id async for model in sdk.models.list()] == ["relight"]
                assert (await sdk.models.retrieve("relight")).id == "relight"
                with pytest.raises((anthropic.NotFoundError, openai.NotFoundError)):
                    await sdk.models.retrieve("gpt-9")


async def test_count_tokens() -> None:
    """The count is an estimate, and says so."""
    async with serving(FakeRouter()) as url, client_of("anthropic", url) as client:
        sdk: Any = client.sdk
        count = await sdk.messages.count_tokens(model="any", messages=[{"role": "user", "content": "x" * 4000}])
        assert (count.input_tokens, count.estimated) == (1000, True)


@pytest.mark.parametrize(
    ("host", "own"),
    [
        ("127.0.0.1", True),
        ("127.1.2.3", True),
        ("::1", True),
        ("localhost", True),
        ("0.0.0.0", False),
        ("::", False),
        ("10.0.0.1", False),
        ("example.com", False),
        ("localhost.example.com", False),
        ("", False),
    ],
)
def test_loopback(host: str, own: bool) -> None:
    """Loopback is told from all else."""
    assert is_loopback(host) is own


async def test_listens_to_this_machine_alone() -> None:
    """fails when it is to listen where others reach it, or on a port that is taken: it says why."""
    with pytest.raises(ConfigError, match="is not loopback: whoever reaches the gateway uses the providers' keys"):
        async with serving(FakeRouter(), host="0.0.0.0"):
            pass
    async with serving(FakeRouter()) as url:
        with pytest.raises(ConfigError, match="cannot be listened on"):
            async with serving(FakeRouter(), port=int(url.rpartition(":")[2])):
                pass


# -- the verb


def _file(path: Path, text: str) -> Path:
    path.write_text(text)
    return path


@asynccontextmanager
async def gateway_process(*args: str, **env: str) -> AsyncIterator[tuple[asyncio.subprocess.Process, str]]:
    """The verb in a process of its own, and its address."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "relight_cli.main",
        "gateway",
        *args,
        env={**os.environ, **env},
        stderr=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
    )
    assert process.stderr is not None
    try:
        lines: list[str] = []
        while "relight gateway: http://127.0.0.1:" not in (lines or [""])[-1]:
            lines.append((await process.stderr.readline()).decode())
            assert lines[-1], lines
        yield process, lines[-1].split()[2]
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()


@pytest.mark.parametrize("signal_", [signal.SIGTERM, signal.SIGINT])
async def test_verb(tmp_path: Path, signal_: signal.Signals) -> None:
    """`relight gateway --config` serves the providers of a file, says where, and ends with what is under way finished;
    it prints no key."""
    async with PlayedAnthropic() as first, PlayedOpenAI(compatible=True) as second:
        first.trouble = Trouble.SERVER_ERROR
        second.answer = lambda _: Reply(text="word " * 40, between_s=0.01)
        config = _file(
            tmp_path / "gateway.toml",
            f"""
            [[providers]]
            name = "first"
            api = "anthropic"
            model = "{CLAUDE}"
            base_url = "{first.base_url}"
            key_env = "FIRST_KEY"
            unlisted = true

            [[providers]]
            name = "local"
            api = "compatible"
            model = "{LOCAL}"
            base_url = "{second.base_url}"
            keyless = true
            silence_s = 20

            [limits]
            failures = 1
            """,
        )
        args = ("--config", str(config), "--port", "0", "--token-env", "TOKEN", "--verbose")
        async with gateway_process(*args, FIRST_KEY=first.key or "", TOKEN="the-token") as (process, url):
            async with client_of("anthropic", url, key="the-token") as client:
                asked = asyncio.create_task(client.say([client.user("hello")], stream=True))
                await until(lambda: second.asked, "the second provider to be asked")
                process.send_signal(signal_)
                assert (await asked).text == "word " * 40
            out, err = await process.communicate()
            assert process.returncode == 0
        assert out == b""
        said = err.decode()
        assert "relight gateway: ending" in said
        assert not any(secret in said for secret in (first.key or "?", "the-token", "hello", "word"))
        events = [json.loads(line) for line in said.splitlines() if line.startswith("{")]
        answered = next(event for event in events if event["event"] == "gateway_answered")
        assert (answered["provider"], answered["degraded"]) == ("local", True)


async def test_verb_of_a_region(emulator: Emulator) -> None:
    """`relight gateway` asks the providers of a region, with the keys in its secret; a state database that is away does
    not keep it from that."""
    name = f"relight/{uuid.uuid4().hex[:8]}/connections"
    async with PlayedAnthropic() as first:
        specs = (_spec("anthropic", first),)
        region = replace(SETTINGS, providers=specs, connections_secret=name, incidents_topic_arn="")
        connections = Connections(
            state_dsn="host=127.0.0.1 port=1 connect_timeout=2",
            memory_dsn="none",
            queue_url="none",
            provider_keys={"anthropic": first.key or ""},
        )
        secrets = emulator.client("secretsmanager", region.region)
        await asyncio.to_thread(secrets.create_secret, Name=name, SecretString=connections.to_json())
        env = {
            **region.to_env(),
            "AWS_ENDPOINT_URL": emulator.url,
            "AWS_ACCESS_KEY_ID": emulator.account,
            "AWS_SECRET_ACCESS_KEY": SECRET_KEY,
        }
        async with gateway_process("--port", "0", **env) as (process, url):
            async with client_of("openai", url) as client:
                assert (await client.say([client.user("hello")], stream=True)).text == "You said: hello"
            process.terminate()
            _, err = await process.communicate()
            assert process.returncode == 0
        assert (first.key or "?") not in err.decode()


@pytest.mark.parametrize(
    ("args", "says"),
    [
        (("--host", "0.0.0.0"), "is not loopback"),
        (("--port", "99999"), "is no port"),
        (("--max-tokens", "0"), "allows no answer"),
        (("--token-env", "NO_SUCH_VARIABLE"), "NO_SUCH_VARIABLE is empty"),
        (("--token-env", "not-a-name!"), "is not the name of an environment variable"),
        (("--token-file", "/nonexistent"), "cannot be read"),
        (("--config", "/nonexistent.toml"), "cannot be read"),
        (("--config", "/nonexistent.toml", "--environment", "demo"), "two sources of providers"),
    ],
)
def test_verb_refuses(args: tuple[str, ...], says: str, capsys: pytest.CaptureFixture[str]) -> None:
    """fails when an option cannot be right: usage, with what to do, and nothing is served."""
    from relight_cli.main import main

    assert main(["gateway", *args]) == 2
    said = capsys.readouterr().err
    assert says in said
    assert "not-a-name" not in said


_LOCAL = '[[providers]]\nname = "local"\napi = "compatible"\nmodel = "m"\nbase_url = "http://127.0.0.1:1/v1"\n'


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("providers = 3", "no list of tables"),
        ("", "there are no providers"),
        ("[[providers]]\nname = 'a'", "lacks api, model"),
        (_LOCAL + "kee = 'sk-secret'", "unknown field kee"),
        (_LOCAL + "key = 'sk-secret'", "unknown field key"),
        (_LOCAL + "key_env = 'sk-secret'", "is not the name of an environment variable"),
        (_LOCAL + "key_env = 'EMPTY'", "EMPTY is empty"),
        (_LOCAL + "silence_s = 'sk-secret'", "silence_s is not of type float"),
        (_LOCAL + "tools = 1", "tools is not of type bool"),
        (_LOCAL.replace("compatible", "sk-secret"), "api is not one of anthropic"),
        (_LOCAL + _LOCAL, "two providers are named local"),
        (_LOCAL + "[limits]\nfailures = 0", "failures is 0"),
        (_LOCAL + "[limit]\nfailures = 3", "unknown field limit"),
        ("sk-secret", "is no TOML"),
    ],
)
def test_wrong_files(tmp_path: Path, text: str, says: str) -> None:
    """fails when a file cannot be right: it says where, and shows nothing that could be a key."""
    with pytest.raises(ConfigError) as caught:
        load_config(_file(tmp_path / "gateway.toml", text), {"EMPTY": " "})
    assert says in str(caught.value)
    assert "sk-secret" not in str(caught.value)


def test_files(tmp_path: Path) -> None:
    """A file gives providers in their order, the limits, and the keys that its variables hold."""
    text = _LOCAL + "key_env = 'KEY'\nsilence_s = 20\nkeyless = true\n[limits]\nopen_s = 5"
    config = load_config(_file(tmp_path / "gateway.toml", text), {"KEY": "sk-secret"})
    assert [(spec.name, spec.silence_s, spec.keyless) for spec in config.providers] == [("local", 20.0, True)]
    assert (config.limits.open_s, config.keys) == (5.0, {"local": "sk-secret"})
    assert "sk-secret" not in repr(config)


def test_played_is_what_streams() -> None:
    """A whole answer told as a stream ends with itself."""
    answer = _answer(Thinking(text="hm"), Text(text="a"), ToolCall(id="x", name="y", arguments={"z": 1}))
    events = list(played(answer))
    assert events[-1] == Finished(answer=answer)
    assert ToolArguments(index=0, json='{"z":1}') in events
