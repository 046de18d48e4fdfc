"""The played LLM providers, asked by the providers' own SDKs."""

from __future__ import annotations

import asyncio
import base64
import json
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import anthropic
import httpx2
import openai
import pytest

from relight.providers.messages import Stop
from relight_drill.llm import Call, PlayedAnthropic, PlayedOpenAI, Reply, Trouble

if TYPE_CHECKING:
    from collections.abc import Iterator

CLAUDE, GPT = "claude-opus-5-5", "gpt-6-astra"
HELLO: list[Any] = [{"role": "user", "content": "Hello"}]
WEATHER = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
CLAUDE_TOOL: Any = {"name": "weather", "description": "The weather.", "input_schema": WEATHER}
GPT_TOOL: Any = {"type": "function", "function": {"name": "weather", "description": "…", "parameters": WEATHER}}


@pytest.fixture
def claude() -> Iterator[PlayedAnthropic]:
    """A played Anthropic with one model."""
    with PlayedAnthropic(models=[CLAUDE]) as played:
        yield played


@pytest.fixture
def gpt() -> Iterator[PlayedOpenAI]:
    """A played OpenAI with one model."""
    with PlayedOpenAI(models=[GPT]) as played:
        yield played


def anthropic_client(played: PlayedAnthropic, key: str | None = None) -> anthropic.Anthropic:
    return anthropic.Anthropic(
        api_key=key or played.key, base_url=played.base_url, max_retries=0, timeout=httpx2.Timeout(0.5)
    )


def openai_client(played: PlayedOpenAI, key: str | None = None) -> openai.OpenAI:
    return openai.OpenAI(
        api_key=key or played.key or "none", base_url=played.base_url, max_retries=0, timeout=httpx2.Timeout(0.5)
    )


def stream_claude(played: PlayedAnthropic, **more: Any) -> anthropic.types.Message:
    asked: dict[str, Any] = {"model": CLAUDE, "max_tokens": 2000, "messages": HELLO, **more}
    with anthropic_client(played) as client, client.messages.stream(**asked) as stream:
        return stream.get_final_message()


def stream_gpt(played: PlayedOpenAI, **more: Any) -> list[Any]:
    asked: dict[str, Any] = {"model": GPT, "messages": HELLO, "stream": True, **more}
    with openai_client(played) as client, client.chat.completions.create(**asked) as stream:
        return list(stream)


def test_claude_streams_words_and_thoughts(claude: PlayedAnthropic) -> None:
    """The SDK puts a streamed answer together: a signed thought, the words, the reason to stop, and the usage."""
    message = stream_claude(claude, thinking={"type": "adaptive"}, metadata={"user_id": "t-1"})
    assert [block.type for block in message.content] == ["thinking", "text"]
    assert message.content[1].text == "You said: Hello"  # type: ignore[union-attr]
    assert message.stop_reason == "end_turn"
    assert message.usage.output_tokens > 1
    assert [item.tag for item in claude.bill] == ["t-1"]
    assert claude.paid("t-1")[0].id in message.id


def test_claude_takes_its_own_thought_back_and_no_other(claude: PlayedAnthropic) -> None:
    """fails when a thought is accepted that this server did not sign, or that another model had."""
    said = stream_claude(claude, thinking={"type": "adaptive"}).content
    again: Any = [*HELLO, {"role": "assistant", "content": [block.to_dict() for block in said]}, *HELLO]
    assert stream_claude(claude, messages=again).stop_reason == "end_turn"
    claude.models = None
    with pytest.raises(anthropic.BadRequestError, match="Invalid `signature` in `thinking` block"):
        stream_claude(claude, messages=again, model="claude-sonnet-5-5")
    again[1]["content"][0]["thinking"] = "something else"
    with pytest.raises(anthropic.BadRequestError, match="Invalid `signature` in `thinking` block"):
        stream_claude(claude, messages=again)
    assert len(claude.bill) == 2


def test_claude_calls_tools(claude: PlayedAnthropic) -> None:
    """Two calls at once arrive with ids and arguments, and their results are taken."""
    calls = [Call(name="weather", arguments={"city": "Paris"}), Call(name="weather", arguments={"city": "Rome"})]
    claude.answer = lambda _: Reply(text="I look.", calls=calls)
    message = stream_claude(claude, tools=[CLAUDE_TOOL])
    assert message.stop_reason == "tool_use"
    called = [block for block in message.content if block.type == "tool_use"]
    assert [block.input for block in called] == [{"city": "Paris"}, {"city": "Rome"}]
    results: Any = [{"type": "tool_result", "tool_use_id": block.id, "content": "fine"} for block in called]
    turns: Any = [*HELLO, {"role": "assistant", "content": message.content}, {"role": "user", "content": results}]
    claude.answer = lambda asked: Reply(text=asked.said)
    assert stream_claude(claude, messages=turns, tools=[CLAUDE_TOOL]).content[0].text == "fine\nfine"  # type: ignore[union-attr]


def test_claude_answers_at_once(claude: PlayedAnthropic) -> None:
    """A request that does not stream has the same answer in one piece."""
    with anthropic_client(claude) as client:
        message = client.messages.create(
            model=CLAUDE, max_tokens=100, messages=HELLO, tools=[CLAUDE_TOOL], tool_choice={"type": "any"}
        )
        assert client.models.retrieve(CLAUDE).id == CLAUDE
        assert [model.id for model in client.models.list()] == [CLAUDE]
    assert [block.type for block in message.content] == ["tool_use"]
    assert len(claude.bill) == 1


def test_gpt_streams_words_and_usage(gpt: PlayedOpenAI) -> None:
    """The SDK reads the chunks: words, the reason to stop, and the usage in a chunk without choices."""
    chunks = stream_gpt(gpt, stream_options={"include_usage": True}, user="t-2")
    words = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
    assert words == "You said: Hello"
    assert [chunk.choices[0].finish_reason for chunk in chunks if chunk.choices][-1] == "stop"
    assert chunks[-1].choices == []
    assert chunks[-1].usage.total_tokens > 0
    assert [item.tag for item in gpt.bill] == ["t-2"]


def test_gpt_calls_tools(gpt: PlayedOpenAI) -> None:
    """Calls stream their arguments in pieces by index, and tool messages answer them."""
    calls = [Call(name="weather", arguments={"city": "Paris"}), Call(name="weather", arguments={"city": "Rome" * 20})]
    gpt.answer = lambda _: Reply(calls=calls)
    chunks = stream_gpt(gpt, tools=[GPT_TOOL], reasoning_effort="none")
    deltas = [call for chunk in chunks for call in chunk.choices[0].delta.tool_calls or ()]
    arguments = ["".join(item.function.arguments for item in deltas if item.index == index) for index in (0, 1)]
    assert [json.loads(text) for text in arguments] == [{"city": "Paris"}, {"city": "Rome" * 20}]
    assert chunks[-1].choices[0].finish_reason == "tool_calls"
    with openai_client(gpt) as client:
        asked: Any = {"model": GPT, "messages": HELLO, "tools": [GPT_TOOL], "reasoning_effort": "none"}
        message = client.chat.completions.create(**asked).choices[0].message
        assert client.models.list().data[0].id == GPT
    results: Any = [{"role": "tool", "tool_call_id": call.id, "content": "fine"} for call in message.tool_calls or ()]
    gpt.answer = lambda asked: Reply(text=asked.said)
    turns = [*HELLO, message.to_dict(), *results]
    assert "".join(chunk.choices[0].delta.content or "" for chunk in stream_gpt(gpt, messages=turns)) == "fine"


def test_a_compatible_server_needs_no_key() -> None:
    """A server of one's own is asked without a key, takes `max_tokens`, and reads the arguments of calls."""
    with PlayedOpenAI(compatible=True, alternating=True) as played:
        assert stream_gpt(played, model="llama", max_tokens=5)[-1].choices[0].finish_reason == "stop"
        with pytest.raises(openai.BadRequestError, match="roles must alternate"):
            stream_gpt(played, model="llama", messages=[*HELLO, *HELLO])


def test_a_wrong_key_is_refused_in_the_providers_own_words(claude: PlayedAnthropic, gpt: PlayedOpenAI) -> None:
    """fails when a request with another key is answered; OpenAI's refusal holds a part of the key, as in life."""
    with anthropic_client(claude, "sk-ant-wrong") as client, pytest.raises(anthropic.AuthenticationError, match="inv"):
        client.messages.create(model=CLAUDE, max_tokens=10, messages=HELLO)
    wrong = openai_client(gpt, "sk-wrong-key-that-is-long")
    with wrong as client2, pytest.raises(openai.AuthenticationError, match=r"sk-wrong\*+long") as failure:
        client2.chat.completions.create(model=GPT, messages=HELLO)
    assert failure.value.code == "invalid_api_key"
    assert claude.bill == gpt.bill == []
    assert [item.status for item in [*claude.refused, *gpt.refused]] == [401, 401]


def test_an_unknown_model_is_not_found(claude: PlayedAnthropic, gpt: PlayedOpenAI) -> None:
    """fails when a model that the provider does not have answers."""
    with pytest.raises(anthropic.NotFoundError):
        stream_claude(claude, model="claude-1")
    with pytest.raises(openai.NotFoundError) as failure:
        stream_gpt(gpt, model="gpt-1")
    assert failure.value.code == "model_not_found"


WHOLE = (Trouble.EMPTY, Trouble.BROKEN_ARGUMENTS)


def read(url: str, headers: dict[str, str], body: dict[str, Any], trouble: Trouble) -> tuple[int, str]:
    """The status, and the whole of an answer that ends; of one that may not, as much as comes in a while, and 0 when
    none begins."""
    status, text = 0, ""

    async def ask() -> None:
        nonlocal status, text
        async with (
            httpx2.AsyncClient(headers=headers) as http,
            http.stream("POST", url, json=body) as answer,
        ):
            status = answer.status_code
            async for piece in answer.aiter_text():
                text += piece

    async def for_a_while() -> None:
        with suppress(TimeoutError, httpx2.HTTPError):
            await asyncio.wait_for(ask(), 30.0 if trouble in WHOLE else 0.4)

    asyncio.run(for_a_while())
    return status, text


@pytest.mark.parametrize("trouble", Trouble)
def test_each_trouble_of_claude_is_no_whole_answer(claude: PlayedAnthropic, trouble: Trouble) -> None:
    """fails when a trouble gives a whole answer; but an empty one and a broken call are whole, and paid."""
    claude.trouble = trouble
    headers = {"x-api-key": claude.key or "", "anthropic-version": "2023-06-01"}
    body = {"model": CLAUDE, "max_tokens": 99, "messages": HELLO, "stream": True}
    status, text = read(f"{claude.base_url}/v1/messages", headers, body, trouble)
    whole = status == 200 and "event: message_stop" in text
    assert whole is (trouble in WHOLE)
    assert len(claude.bill) == whole


@pytest.mark.parametrize("trouble", Trouble)
def test_each_trouble_of_gpt_is_no_whole_answer(gpt: PlayedOpenAI, trouble: Trouble) -> None:
    """fails when a trouble gives a whole answer; but an empty one and a broken call are whole, and paid."""
    gpt.trouble = lambda _: trouble
    headers = {"Authorization": f"Bearer {gpt.key}"}
    status, text = read(
        f"{gpt.base_url}/chat/completions", headers, {"model": GPT, "messages": HELLO, "stream": True}, trouble
    )
    whole = status == 200 and "data: [DONE]" in text
    assert whole is (trouble in WHOLE)
    assert len(gpt.bill) == whole


def test_a_503_says_when_to_come_back(claude: PlayedAnthropic) -> None:
    """The header is what was asked for."""
    claude.trouble = Trouble.UNAVAILABLE
    with pytest.raises(anthropic.APIStatusError) as failure:
        stream_claude(claude)
    assert failure.value.response.headers["retry-after"] == "7"


def test_it_runs_in_the_callers_loop_too() -> None:
    """In one loop with its caller, and its port refuses afterwards."""

    async def scenario() -> None:
        async with PlayedAnthropic(answer=lambda _: Reply(text="Yes", stop=Stop.REFUSAL)) as played:
            async with anthropic.AsyncAnthropic(api_key=played.key, base_url=played.base_url, max_retries=0) as client:
                message = await client.messages.create(model=CLAUDE, max_tokens=10, messages=HELLO)
                assert message.stop_reason == "refusal"
            await played.close()
            with pytest.raises(ConnectionRefusedError):
                await asyncio.open_connection("127.0.0.1", played.port)

    asyncio.run(scenario())


def test_it_opens_again_at_its_port(claude: PlayedAnthropic) -> None:
    """fails when a provider that was away is not reached again."""
    claude.shut()
    with pytest.raises(anthropic.APIConnectionError):
        stream_claude(claude)
    claude.open()
    assert stream_claude(claude).stop_reason == "end_turn"
    claude.wait(lambda: len(claude.bill) == 1, what="the answer")


def test_limits_of_a_request_cut_the_answer(claude: PlayedAnthropic, gpt: PlayedOpenAI) -> None:
    """An answer ends at `max_tokens`, and at a stop sequence, and says so."""
    claude.answer = gpt.answer = lambda _: Reply(text="one two three four five six")
    assert stream_claude(claude, max_tokens=2).stop_reason == "max_tokens"
    stopped = stream_claude(claude, stop_sequences=["three"])
    assert (stopped.stop_reason, stopped.stop_sequence) == ("stop_sequence", "three")
    assert stream_gpt(gpt, max_completion_tokens=2)[-1].choices[0].finish_reason == "length"


# -- what is refused


def use(*ids: str, **more: Any) -> dict[str, Any]:
    return {
        "role": "assistant",
        "content": [{"type": "tool_use", "id": id_, "name": "weather", "input": {}, **more} for id_ in ids],
    }


def results(*ids: str, **more: Any) -> dict[str, Any]:
    return {
        "role": "user",
        "content": [{"type": "tool_result", "tool_use_id": id_, "content": "x", **more} for id_ in ids],
    }


TEXT = {"type": "text", "text": "hm"}
PNG = base64.b64encode(b"\x89PNG").decode()


def image(media: str, data: str = PNG) -> dict[str, Any]:
    source = {"type": "base64", "media_type": media, "data": data}
    return {"role": "user", "content": [{"type": "image", "source": source}]}


def marked(count: int) -> list[dict[str, Any]]:
    return [{"role": "user", "content": [{**TEXT, "cache_control": {"type": "ephemeral"}}] * count}]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"max_tokens": 0}, "max_tokens: Input should be greater than or equal to 1"),
        ({"messages": []}, "at least one message"),
        ({"messages": [*HELLO, use("a")]}, "`tool_use` ids were found without `tool_result` blocks"),
        ({"messages": [*HELLO, use("a"), *HELLO]}, "`tool_use` ids were found without `tool_result` blocks"),
        ({"messages": [*HELLO, use("a", "b"), results("a")]}, "without `tool_result` blocks immediately after: b"),
        ({"messages": [*HELLO, use("a"), *HELLO, results("a")]}, "without `tool_result` blocks"),
        ({"messages": [*HELLO, use("a"), results("a", "b")]}, "unexpected `tool_use_id`"),
        ({"messages": [*HELLO, use("a"), results("a", "a")]}, "multiple `tool_result` blocks with id: a"),
        ({"messages": [results("a")]}, "unexpected `tool_use_id`"),
        ({"messages": [*HELLO, use("a", "a"), results("a")]}, "`tool_use` ids must be unique"),
        ({"messages": [*HELLO, use("a"), results("a"), use("a"), results("a")]}, "`tool_use` ids must be unique"),
        ({"messages": [*HELLO, use("a|b"), results("a|b")]}, "String should match pattern"),
        ({"messages": [*HELLO, use("a", input="{}"), results("a")]}, "Input should be a valid dictionary"),
        ({"messages": [*HELLO, use("a"), results("a", content="", is_error=True)]}, "cannot be empty if `is_error`"),
        ({"messages": [{"role": "user", "content": ""}]}, "must have non-empty content"),
        ({"messages": [{"role": "user", "content": []}]}, "must have non-empty content"),
        ({"messages": [{"role": "user", "content": [{"type": "text", "text": ""}]}]}, "must be non-empty"),
        ({"messages": [{"role": "user", "content": " \n"}]}, "must contain non-whitespace text"),
        ({"messages": [{"role": "assistant", "content": "hm"}, *HELLO]}, 'first message must use the "user" role'),
        ({"messages": [*HELLO, {"role": "assistant", "content": "hm"}]}, "does not support assistant message prefill"),
        ({"messages": [{"role": "system", "content": "hm"}]}, "Input should be 'user' or 'assistant'"),
        ({"messages": [{"role": "user", "content": use("a")["content"]}]}, "not permitted in `user` messages"),
        ({"messages": [image("image/tiff")]}, "media_type"),
        ({"messages": [image("image/png", "%%")]}, "invalid base64 data"),
        ({"messages": marked(5)}, "A maximum of 4 blocks with cache_control may be provided. Found 5."),
        ({"messages": HELLO, "temperature": 0.5}, "deprecated for this model"),
        ({"messages": HELLO, "seed": 1}, "seed: Extra inputs are not permitted"),
        ({"tools": [{**CLAUDE_TOOL, "name": "a b"}]}, "String should match pattern"),
        ({"tools": [CLAUDE_TOOL, CLAUDE_TOOL]}, "Tool names must be unique"),
        ({"tools": [{"name": "a", "input_schema": {}}]}, "input_schema.type: Field required"),
        ({"tool_choice": {"type": "auto"}}, "may only be specified while providing tools"),
        ({"tools": [CLAUDE_TOOL], "tool_choice": {"type": "tool", "name": "x"}}, "not found in provided tools"),
        ({"thinking": {"type": "enabled", "budget_tokens": 1024}}, "is not supported for this model"),
        (
            {"thinking": {"type": "adaptive"}, "tools": [CLAUDE_TOOL], "tool_choice": {"type": "any"}},
            "Thinking may not be enabled when tool_choice forces tool use",
        ),
        ({"stop_sequences": [" "]}, "must contain non-whitespace"),
        ({"output_config": {"effort": "most"}}, "output_config.effort"),
        ({"system": [{"type": "text", "text": ""}]}, "system: text content blocks must be non-empty"),
    ],
)
def test_what_claude_refuses(claude: PlayedAnthropic, change: dict[str, Any], said: str) -> None:
    """fails when a request that breaks a documented rule is answered: it is a 400 that says which rule."""
    body = {"model": CLAUDE, "max_tokens": 2000, "messages": HELLO, **change}
    with anthropic_client(claude) as client, pytest.raises(anthropic.BadRequestError) as failure:
        client.post("/v1/messages", body=body, cast_to=object)
    assert said in str(failure.value)
    assert failure.value.body["error"]["type"] == "invalid_request_error"  # type: ignore[index]
    assert (len(claude.refused), claude.bill) == (1, [])


def call(*ids: str, arguments: Any = "{}") -> dict[str, Any]:
    return {
        "role": "assistant",
        "content": None,
        "tool_calls": [
            {"id": id_, "type": "function", "function": {"name": "weather", "arguments": arguments}} for id_ in ids
        ],
    }


def tool(id_: str) -> dict[str, Any]:
    return {"role": "tool", "tool_call_id": id_, "content": "x"}


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"messages": []}, "empty array"),
        ({"messages": [*HELLO, call("a"), *HELLO]}, "must be followed by tool messages"),
        ({"messages": [*HELLO, call("a", "b"), tool("a")]}, "did not have response messages: b"),
        ({"messages": [*HELLO, tool("a")]}, "must be a response to a preceding message with 'tool_calls'"),
        ({"messages": [*HELLO, call("a"), tool("a"), tool("a")]}, "must be a response to a preceding message"),
        ({"messages": [*HELLO, call("a", "a"), tool("a"), tool("a")]}, "Duplicate value"),
        ({"messages": [*HELLO, call("a" * 41), tool("a" * 41)]}, "maximum length 40"),
        ({"messages": [*HELLO, call("a", arguments={}), tool("a")]}, "expected a string"),
        ({"messages": [*HELLO, {"role": "assistant", "content": None}]}, "expected a string, got null"),
        ({"messages": [*HELLO, {"role": "assistant", "content": "", "tool_calls": []}]}, "[] is too short"),
        ({"messages": [{"role": "user", "content": []}]}, "empty array"),
        ({"messages": [{"role": "model", "content": "x"}]}, "Supported values are"),
        ({"messages": [{"role": "system", "content": [{"type": "image_url"}]}]}, "Supported values are"),
        ({"messages": [{"role": "user", "content": "x", "cache_control": {}}]}, "Unknown parameter"),
        (
            {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "data:x,y"}}]}]},
            "Invalid base64 image_url",
        ),
        ({"max_tokens": 5}, "Use 'max_completion_tokens' instead"),
        ({"temperature": 0.5}, "Only the default (1) value is supported"),
        ({"thinking": {}}, "Unrecognized request argument supplied: thinking"),
        ({"tools": []}, "empty array"),
        ({"tools": [{"type": "function", "function": {"name": "a b"}}]}, "does not match pattern"),
        ({"tools": [{"type": "function", "function": {"name": "a", "parameters": {}}}]}, "JSON Schema of 'type"),
        ({"tool_choice": "auto"}, "only allowed when 'tools' are specified"),
        ({"parallel_tool_calls": True}, "only allowed when 'tools' are specified"),
        ({"stream_options": {"include_usage": True}}, "only allowed when 'stream' is enabled"),
        ({"stop": list("abcde")}, "maximum length 4"),
    ],
)
def test_what_gpt_refuses(gpt: PlayedOpenAI, change: dict[str, Any], said: str) -> None:
    """fails when a request that breaks a documented rule is answered: it is a 400 that says which rule."""
    body = {"model": GPT, "messages": HELLO, **change}
    with openai_client(gpt) as client, pytest.raises(openai.BadRequestError) as failure:
        client.post("/chat/completions", body=body, cast_to=object)
    assert said in str(failure.value)
    assert (len(gpt.refused), gpt.bill) == (1, [])
