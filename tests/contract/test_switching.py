"""Conversations that change provider in the middle: whatever they hold, each provider takes what is rendered for it.

What is rendered is checked against the types of the providers' own SDKs and against the rules of the played servers.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from functools import cache
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from pydantic import TypeAdapter

from relight.providers import anthropic_form, openai_form
from relight.providers.messages import (
    Effort,
    Image,
    Message,
    Request,
    Role,
    Text,
    Thinking,
    Tool,
    ToolCall,
    ToolResult,
    ToolUse,
    assistant,
    user,
)
from relight.providers.spec import Api, ProviderSpec
from relight.providers.tools import CONTINUE, INTERRUPTED, repaired
from relight_drill.llm_rules import validate_anthropic, validate_openai

if TYPE_CHECKING:
    from collections.abc import Iterator

    from relight.providers.messages import Part

OPUS = ProviderSpec(name="first", api=Api.ANTHROPIC, model="claude-opus-5", thinks=True)
SONNET = ProviderSpec(name="older", api=Api.ANTHROPIC, model="claude-sonnet-4-5", thinks=True)
GPT = ProviderSpec(name="second", api=Api.OPENAI, model="gpt-5.6-sol", thinks=True)
LOCAL = ProviderSpec(
    name="local", api=Api.COMPATIBLE, model="qwen3", base_url="http://llm/v1", keyless=True, thinks=True
)
SPECS = (OPUS, SONNET, GPT, LOCAL)
LOOK = Tool(name="look", description="Looks.", schema={"properties": {"at": {"type": "string"}}})
PNG = b"\x89PNG\r\n\x1a\n" + b"0" * 8


def render(request: Request, spec: ProviderSpec) -> dict[str, Any]:
    """The body that `spec` would be sent."""
    form: Any = anthropic_form if spec.api is Api.ANTHROPIC else openai_form
    body: dict[str, Any] = form.render(request, spec)
    return body


@cache
def types_of(api: Api) -> TypeAdapter[Any]:
    """The type of a request by an SDK."""
    if api is Api.ANTHROPIC:
        from anthropic.types.message_create_params import MessageCreateParamsStreaming

        return TypeAdapter(MessageCreateParamsStreaming)
    from openai.types.chat.completion_create_params import CompletionCreateParamsStreaming

    return TypeAdapter(CompletionCreateParamsStreaming)


def consumed(value: Any) -> Any:
    """`value` with all its iterators consumed: pydantic checks what is declared as iterable only then."""
    if isinstance(value, dict):
        return {name: consumed(item) for name, item in value.items()}
    if isinstance(value, str | bytes | int | float | None):
        return value
    return [consumed(item) for item in value]


def without(message: dict[str, Any], name: str) -> dict[str, Any]:
    """A message without one field."""
    return {key: value for key, value in message.items() if key != name}


def sign(spec: ProviderSpec, thought: str) -> str:
    """The signature of a thought of this model of this provider."""
    return hashlib.sha256(f"{spec.name}/{spec.model}/{thought}".encode("utf-8", "replace")).hexdigest()


def valid(body: dict[str, Any], spec: ProviderSpec) -> None:
    """Fail unless the SDK's types and the played server take the request."""
    # What some compatible servers add to the format is no part of OpenAI's types.
    known = {**body, "messages": [without(message, "reasoning_content") for message in body["messages"]]}
    assert consumed(types_of(spec.api).validate_python(known)) == known, "the SDK's types do not know all of it"
    json.dumps(body, allow_nan=False, ensure_ascii=False).encode()
    if spec.api is Api.ANTHROPIC:
        refused = validate_anthropic(
            body,
            signed=lambda model, thought, signature: model == spec.model and signature == sign(spec, thought),
        )
    else:
        refused = validate_openai(body, compatible=spec.api is Api.COMPATIBLE)
    assert refused is None, refused
    if spec.api is Api.ANTHROPIC and (body.get("thinking") or {}).get("type") == "enabled":
        # The played server does not hold this rule: a loop must have begun with thoughts.
        last = body["messages"][-1]["content"]
        if last[0]["type"] == "tool_result":
            assert body["messages"][-2]["content"][0]["type"] in ("thinking", "redacted_thinking")


def call_ids(body: dict[str, Any]) -> list[str]:
    """The ids of calls, in order."""
    found = []
    for message in body["messages"]:
        found += [call["id"] for call in message.get("tool_calls", ())]
        if isinstance(message.get("content"), list):
            found += [block["id"] for block in message["content"] if block["type"] == "tool_use"]
    return found


def words_of(body: dict[str, Any]) -> str:
    """Every text in the messages."""

    def texts(value: Any) -> Iterator[str]:
        if isinstance(value, str):
            yield value
        elif isinstance(value, dict):
            for name in ("text", "content"):
                yield from texts(value.get(name))
        elif isinstance(value, list):
            for item in value:
                yield from texts(item)

    return "\n".join(texts(body["messages"]))


# -- generated conversations

words = st.text(max_size=12) | st.sampled_from(["", " ", "\n\t", "hello", "a\ud800b", "\x00", "\u2028", "0" * 300])
ids = st.sampled_from(["", "0", "call_0", "toolu_01A", "functions.look:0", "a b", "ü", "x" * 40, "x" * 41, "é" * 70])
ids = ids | st.text(max_size=50)
names = st.sampled_from(["look", "look", "write", "functions.look", "", "n" * 70, "naïve tool"])
json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=3), inner, max_size=2),
    max_leaves=4,
)
texts = st.builds(Text, text=words, cached=st.booleans())
images = st.sampled_from(
    [
        Image(media_type="image/png", data=PNG),
        Image(media_type="image/jpeg", data=PNG),
        Image(data=b"\xff\xd8\xff0"),
        Image(media_type="image/svg+xml", data=b"<svg/>"),
        Image(data=b"?"),
        Image(),
        Image(url="https://example.org/a.png"),
        Image(url="http://example.org/a.png"),
        Image(url="data:image/png;base64,iVBORw0KGgo="),
        Image(url="data:image/png;base64,?"),
        Image(url="file:///etc/passwd"),
    ]
)
calls = st.builds(ToolCall, id=ids, name=names, arguments=st.dictionaries(st.text(max_size=3), json_values, max_size=2))
results = st.builds(
    ToolResult, call_id=ids, content=st.lists(texts | images, max_size=3).map(tuple), error=st.booleans()
)


def thought(spec: ProviderSpec, text: str, kind: str) -> Thinking:
    """What a model of `spec` thought: signed, redacted or neither."""
    if kind == "signed":
        return Thinking(text=text, signature=sign(spec, text), provider=spec.name, model=spec.model)
    if kind == "redacted":
        return Thinking(redacted=sign(spec, ""), provider=spec.name, model=spec.model)
    return Thinking(text=text, provider=spec.name, model=spec.model)


thoughts = st.builds(
    thought, st.sampled_from(SPECS), st.text(max_size=8), st.sampled_from(["signed", "redacted", "plain"])
)
anything = st.lists(
    st.builds(
        Message,
        role=st.sampled_from(Role),
        content=st.lists(texts | images | calls | results | thoughts, max_size=5).map(tuple),
    ),
    max_size=8,
).map(tuple)
wishes = st.fixed_dictionaries(
    {
        "system": st.sampled_from(["", "Be brief.", " "]),
        "tools": st.sampled_from([(), (LOOK,)]),
        "effort": st.sampled_from([None, *Effort]),
        "temperature": st.sampled_from([None, 0.5]),
        "top_p": st.sampled_from([None, 0.9]),
        "stop": st.sampled_from([(), ("END",), (" ", "a", "b", "c", "d", "e")]),
        "max_tokens": st.sampled_from([1, 1500, 64000]),
        "parallel_tools": st.booleans(),
        "answer_schema": st.sampled_from([None, {"type": "object", "properties": {"a": {"type": "string"}}}]),
    }
)


@st.composite
def tool_loops(draw: st.DrawFn) -> list[tuple[ProviderSpec, Message, list[Message]]]:
    """Turns as agents have them: who is asked, what it says in its own style, and what the agent adds."""
    turns = []
    for number in range(draw(st.integers(1, 5))):
        spec = draw(st.sampled_from(SPECS))
        parts: list[Part] = []
        if draw(st.booleans()):
            kind = {Api.ANTHROPIC: "signed", Api.OPENAI: "plain", Api.COMPATIBLE: "plain"}[spec.api]
            parts.append(thought(spec, draw(st.text(max_size=5)), kind))
        parts += draw(st.lists(texts, max_size=2))
        style = {
            Api.ANTHROPIC: lambda n, turn=number: f"toolu_{turn}_{n}",
            Api.OPENAI: lambda n, turn=number: f"call_{turn}_{n}",
            Api.COMPATIBLE: draw(st.sampled_from([lambda n: f"call_{n}", lambda n: "", lambda n: str(n)])),
        }[spec.api]
        made = [ToolCall(id=style(n), name=draw(names), arguments={}) for n in range(draw(st.integers(0, 3)))]
        answers: list[Part] = [
            ToolResult(call_id=call.id, content=tuple(draw(st.lists(texts | images, max_size=2))))
            for call in made
            if draw(st.integers(0, 9))
        ]
        if draw(st.booleans()):
            answers = draw(st.permutations(answers))
        said = draw(st.lists(texts, max_size=1))
        added = [user(*answers, *said)] if draw(st.booleans()) else [user(part) for part in [*answers, *said]]
        turns.append((spec, assistant(*parts, *made), added))
    return turns


# -- the properties


@settings(max_examples=300, deadline=None)
@given(messages=anything, wish=wishes)
@example(messages=(), wish={})
@example(messages=(assistant("So"),), wish={})
@example(
    messages=(user(ToolResult(call_id="a", content=())), assistant(ToolCall(id="a", name="", arguments={}))), wish={}
)
def test_every_provider_takes_what_is_rendered_of_anything(messages: tuple[Message, ...], wish: dict[str, Any]) -> None:
    """fails when a request that is rendered of any messages at all is refused, or differs when rendered again."""
    request = Request(messages=messages, **wish)
    for spec in SPECS:
        body = render(request, spec)
        valid(body, spec)
        assert render(request, spec) == body


@settings(max_examples=300, deadline=None)
@given(turns=tool_loops(), wish=wishes)
def test_a_tool_loop_may_change_provider_at_every_turn(
    turns: list[tuple[ProviderSpec, Message, list[Message]]], wish: dict[str, Any]
) -> None:
    """fails when any provider refuses to go on after any turn of a conversation that others had."""
    messages = [user("Go.")]
    before: dict[str, list[str]] = {spec.name: [] for spec in SPECS}
    for _, said, added in turns:
        messages += [said, *added]
        for spec in SPECS:
            body = render(Request(messages=tuple(messages), **wish), spec)
            valid(body, spec)
            # What was sent before is sent again, or the provider's cache would be of no use.
            now = call_ids(body)
            assert now[: len(before[spec.name])] == before[spec.name]
            assert len(now) == sum(len(message.tool_calls) for message in messages)
            before[spec.name] = now


@settings(max_examples=200, deadline=None)
@given(turns=tool_loops())
def test_its_own_ids_are_there_again_when_a_conversation_comes_back(
    turns: list[tuple[ProviderSpec, Message, list[Message]]],
) -> None:
    """fails when a provider is not sent its own ids, as far as it would take them."""
    messages = [user("Go.")]
    for _, said, added in turns:
        messages += [said, *added]
    given_ids = [call.id for message in messages for call in message.tool_calls]
    once = [id_ for id_, count in Counter(given_ids).items() if count == 1 and id_]
    for spec in SPECS:
        sent = call_ids(render(Request(messages=tuple(messages)), spec))
        assert [id_ for id_ in sent if id_ in once] == [id_ for id_ in given_ids if id_ in once]
        assert len(set(sent)) == len(sent)


@settings(max_examples=200, deadline=None)
@given(messages=anything)
def test_no_words_are_lost(messages: tuple[Message, ...]) -> None:
    """fails when words that somebody said do not reach the provider."""
    for spec in SPECS:
        sent = words_of(render(Request(messages=messages), spec))
        for message in messages:
            for part in message.content:
                if isinstance(part, Text) and part.text.strip() and "\ud800" not in part.text:
                    assert part.text in sent


# -- single rules, each as an agent meets it


def turns_of(body: dict[str, Any]) -> list[tuple[str, list[str]]]:
    """Role and kinds of what is in each message."""
    return [
        (message["role"], [part["type"] for part in message["content"]])
        if isinstance(message["content"], list)
        else (message["role"], ["string"])
        for message in body["messages"]
    ]


def call(id_: str, **arguments: Any) -> ToolCall:
    """A call of `look`."""
    return ToolCall(id=id_, name="look", arguments=arguments)


def result(id_: str, text: str = "seen", *, error: bool = False) -> ToolResult:
    """What `look` gave back."""
    return ToolResult(call_id=id_, content=(Text(text=text),), error=error)


def test_parallel_calls_are_answered_in_their_order_by_the_next_message() -> None:
    """Results come first and in the order of their calls, whatever was said between them."""
    messages = (
        user("Go."),
        assistant("Two.", call("a"), call("b")),
        user(result("b", "B"), "Hurry."),
        user(result("a", "A")),
    )
    body = render(Request(messages=messages), OPUS)
    assert turns_of(body)[2] == ("user", ["tool_result", "tool_result", "text"])
    assert [block["tool_use_id"] for block in body["messages"][2]["content"][:2]] == ["a", "b"]
    body = render(Request(messages=messages), GPT)
    assert [(m["role"], m["content"]) for m in body["messages"][2:]] == [
        ("tool", "A"),
        ("tool", "B"),
        ("user", "Hurry."),
    ]


def test_a_call_without_a_result_was_interrupted() -> None:
    """An orphan call is closed by an error, and what follows it stays as it was."""
    messages = (user("Go."), assistant(call("a")), user("Never mind."))
    block = render(Request(messages=messages), OPUS)["messages"][2]["content"][0]
    assert block["is_error"]
    assert block["content"][0]["text"] == INTERRUPTED
    assert render(Request(messages=messages), LOCAL)["messages"][2]["content"] == f"Error: {INTERRUPTED}"


def test_a_result_without_a_call_becomes_words() -> None:
    """An orphan result is told by the user, because it may matter."""
    body = render(Request(messages=(user("Go."), user(result("gone", "42 apples")))), GPT)
    assert [message["role"] for message in body["messages"]] == ["user"]
    assert "42 apples" in body["messages"][0]["content"]


def test_a_late_result_replaces_the_interruption() -> None:
    """Of several results of a call the first that is no error stands."""
    messages = (
        user("Go."),
        assistant(call("a")),
        user(result("a", "lost", error=True), result("a", "found"), result("a", "again")),
    )
    blocks = render(Request(messages=messages), OPUS)["messages"][2]["content"]
    assert [block["content"][0]["text"] for block in blocks] == ["found"]


def test_a_repeated_id_belongs_to_the_last_turn_that_has_it() -> None:
    """fails when a result is given to an earlier call of the same id."""
    messages = (
        user("Go."),
        assistant(call("call_0", turn=1)),
        user("Wait."),
        assistant(call("call_0", turn=2)),
        user(result("call_0", "of the second")),
    )
    body = render(Request(messages=messages), OPUS)
    first, second = body["messages"][2]["content"][0], body["messages"][4]["content"][0]
    assert first["content"][0]["text"] == INTERRUPTED
    assert second["content"][0]["text"] == "of the second"
    assert first["tool_use_id"] == "call_0" != second["tool_use_id"]


def test_thoughts_go_back_to_their_own_model_alone() -> None:
    """Signed thoughts go to the provider and model that signed them; plain ones to their server within a tool loop."""
    signed, plain = thought(OPUS, "deep", "signed"), thought(LOCAL, "plain", "plain")
    messages = (user("Go."), assistant(signed, plain, call("a")), user(result("a")))
    kinds = {spec.name: turns_of(render(Request(messages=messages), spec))[1] for spec in (OPUS, SONNET)}
    assert kinds == {"first": ("assistant", ["thinking", "tool_use"]), "older": ("assistant", ["tool_use"])}
    assert "reasoning_content" not in render(Request(messages=messages), GPT)["messages"][1]
    assert render(Request(messages=messages), LOCAL)["messages"][1]["reasoning_content"] == "plain"
    over = (*messages, assistant("Done."), user("And now?"))
    assert "reasoning_content" not in render(Request(messages=over), LOCAL)["messages"][1]


def test_a_message_never_ends_with_thoughts() -> None:
    """Thoughts to which nothing was said are left out: Anthropic refuses a message that ends with them."""
    hm = thought(OPUS, "hm", "signed")
    body = render(Request(messages=(user("Go."), assistant("So.", hm), user("?"), assistant(hm), user("!"))), OPUS)
    assert turns_of(body) == [("user", ["text"]), ("assistant", ["text"]), ("user", ["text", "text"])]


def test_a_model_with_a_budget_does_not_begin_to_think_in_a_tool_loop() -> None:
    """fails when thinking is asked for although the loop began elsewhere: Anthropic refuses that."""
    begun_elsewhere = (user("Go."), assistant(call("a")), user(result("a")))
    begun_here = (user("Go."), assistant(thought(SONNET, "hm", "signed"), call("a")), user(result("a")))
    ask: dict[str, Any] = {"effort": Effort.HIGH, "max_tokens": 20000}
    assert "thinking" not in render(Request(messages=begun_elsewhere, **ask), SONNET)
    assert "thinking" in render(Request(messages=begun_here, **ask), SONNET)
    assert "thinking" in render(Request(messages=(*begun_elsewhere, assistant("Ok."), user("So?")), **ask), SONNET)


def test_pictures_in_results_move_behind_all_results_where_they_must() -> None:
    """OpenAI's tool messages hold words alone, and Anthropic's errors too."""
    seen = ToolResult(call_id="a", content=(Text(text="a cat"), Image(data=PNG)))
    messages = (user("Go."), assistant(call("a"), call("b")), user(seen, result("b")))
    body = render(Request(messages=messages), GPT)
    assert [message["role"] for message in body["messages"]] == ["user", "assistant", "tool", "tool", "user"]
    assert [part["type"] for part in body["messages"][4]["content"]] == ["text", "image_url"]
    assert turns_of(render(Request(messages=messages), OPUS))[2] == ("user", ["tool_result", "tool_result"])
    failed = ToolResult(call_id="a", content=(Image(data=PNG),), error=True)
    body = render(Request(messages=(user("Go."), assistant(call("a")), user(failed))), OPUS)
    assert turns_of(body)[2] == ("user", ["tool_result", "text", "image"])


def test_four_cache_markers_at_most_reach_anthropic_and_none_others() -> None:
    """The last markers stand, because each covers what is before it."""
    messages = tuple(user(Text(text=str(n), cached=True)) for n in range(6))
    blocks = render(Request(messages=messages), OPUS)["messages"][0]["content"]
    assert ["cache_control" in block for block in blocks] == [False, False, True, True, True, True]
    assert "cache_control" not in json.dumps(render(Request(messages=messages), GPT))


def test_a_conversation_that_the_assistant_ends_is_continued_by_the_user() -> None:
    """Current models refuse to go on within a message, so that no provider is asked to."""
    for spec in SPECS:
        body = render(Request(messages=(user("Go."), assistant("The answer is"))), spec)
        assert [message["role"] for message in body["messages"]] == ["user", "assistant", "user"]
        assert CONTINUE in json.dumps(body["messages"][2])


def test_tools_of_the_past_are_declared_to_anthropic() -> None:
    """Calls in a conversation need tools, which must not be called where none are given."""
    body = render(Request(messages=(user("Go."), assistant(call("a")), user(result("a")))), OPUS)
    assert [tool["name"] for tool in body["tools"]] == ["look"]
    assert body["tool_choice"] == {"type": "none"}


@pytest.mark.parametrize("spec", SPECS, ids=lambda spec: spec.name)
@pytest.mark.parametrize("use", list(ToolUse))
@pytest.mark.parametrize("effort", [None, Effort.MAX])
def test_the_use_of_tools_is_said_in_each_format(spec: ProviderSpec, use: ToolUse, effort: Effort | None) -> None:
    """fails when a provider refuses how tools must be used, or does not hear of it."""
    ask: dict[str, Any] = {"tools": (LOOK,), "tool_use": use, "effort": effort, "max_tokens": 9000}
    forced = {"tool": "look"} if use is ToolUse.REQUIRED else {}
    for more in ({}, forced, {"parallel_tools": False}):
        body = render(Request(messages=(user("Go."),), **ask, **more), spec)
        valid(body, spec)
        assert ("tool_choice" in body) == (use is not ToolUse.AUTO or ("parallel_tools" in more and spec in SPECS[:2]))


def test_repair_leaves_a_repaired_conversation_alone() -> None:
    """fails when a conversation is not the same after a second repair."""
    messages = (
        user("Go.", Image(data=PNG, media_type="image/png")),
        assistant(thought(OPUS, "hm", "signed"), "Two.", call("a"), call("b")),
        user(result("a"), result("b", error=True), "Well?"),
    )
    rules = anthropic_form.rules(OPUS)
    assert repaired(messages, rules) == messages == repaired(repaired(messages, rules), rules)
