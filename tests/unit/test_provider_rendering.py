"""What a request becomes, by model: what reaches it, what is named as dropped, and what its provider would refuse."""

from __future__ import annotations

from typing import Any, get_args

import pytest
from anthropic.types import Model
from openai.types import ChatModel

from relight.providers import anthropic_form, openai_form
from relight.providers.faults import Fault, FaultKind
from relight.providers.messages import (
    Effort,
    Request,
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
from relight_drill.llm_rules import REASONING, undated, validate_anthropic, validate_openai

LOOK = Tool(name="look", description="Looks.", schema={"type": "object", "properties": {"at": {"type": "string"}}})
HELLO = (user("Hello."),)
LOOP = (*HELLO, assistant(ToolCall(id="c", name="look", arguments={})), user(ToolResult(call_id="c", content=())))
CLAUDES: tuple[str, ...] = get_args(get_args(Model)[0])
GPTS: tuple[str, ...] = get_args(ChatModel)
# Those that are given no thinking: they, or the days that are in their names, are older than the settings.
PLAIN = ("gpt-4", "gpt-3.5", "chatgpt-4o", "gpt-audio")

SETTINGS: list[dict[str, Any]] = [
    {"effort": effort, "max_tokens": max_tokens} | more
    for effort in (None, Effort.LOW, Effort.MAX)
    for max_tokens in (500, 4000)
    for more in (
        {},
        {"tools": (LOOK,)},
        {"tools": (LOOK,), "tool_use": ToolUse.REQUIRED, "parallel_tools": False},
        {"tools": (LOOK,), "messages": LOOP, "parallel_tools": False},
        {"temperature": 0.5, "top_p": 0.5, "stop": ("END",)},
    )
]


def requests() -> list[Request]:
    """Requests that differ in what may be dropped of them."""
    return [Request(**{"messages": HELLO, **settings}) for settings in SETTINGS]


def sent(body: dict[str, Any]) -> dict[str, bool]:
    """Which settings of a request are in what is sent."""
    effort = body.get("reasoning_effort", body.get("output_config", {}).get("effort"))
    choice = body.get("tool_choice")
    one_call = isinstance(choice, dict) and choice.get("disable_parallel_tool_use", False)
    return {
        "temperature": "temperature" in body,
        "top_p": "top_p" in body,
        "stop": "stop" in body or "stop_sequences" in body,
        "effort": effort not in (None, "none") or "budget_tokens" in body.get("thinking", {}),
        "parallel_tools": one_call or body.get("parallel_tool_calls") is False,
    }


def asked(request: Request) -> dict[str, bool]:
    """Which settings a request has."""
    return {
        "temperature": request.temperature is not None,
        "top_p": request.top_p is not None,
        "stop": bool(request.stop),
        "effort": request.effort is not None,
        "parallel_tools": not request.parallel_tools,
    }


@pytest.mark.parametrize("thinks", [True, False])
@pytest.mark.parametrize("model", CLAUDES)
def test_every_claude_takes_what_it_is_sent_and_the_rest_is_named(model: str, thinks: bool) -> None:
    """fails when a setting is refused, or does not reach the model without a word."""
    spec = ProviderSpec(name="a", api=Api.ANTHROPIC, model=model, thinks=thinks)
    for request in requests():
        body = anthropic_form.render(request, spec)
        assert validate_anthropic(body, signed=lambda *_: True) is None, body
        lost = {name for name, wished in asked(request).items() if wished and not sent(body)[name]}
        assert lost == {*anthropic_form.dropped(request, spec)}, body


@pytest.mark.parametrize("thinks", [True, False])
@pytest.mark.parametrize("model", GPTS)
def test_every_gpt_takes_what_it_is_sent_and_the_rest_is_named(model: str, thinks: bool) -> None:
    """fails when a setting is refused, or does not reach the model without a word."""
    spec = ProviderSpec(name="o", api=Api.OPENAI, model=model, thinks=thinks)
    for request in requests():
        body = openai_form.render(request, spec)
        assert validate_openai(body) is None, body
        lost = {name for name, wished in asked(request).items() if wished and not sent(body)[name]}
        assert lost == {*openai_form.dropped(request, spec)}, body


def test_a_budget_that_is_sent_is_no_effort_that_is_lost() -> None:
    """Of a model with a budget the effort is dropped only where it may not think: too few tokens, or in a loop that it
    did not begin."""
    spec = ProviderSpec(name="a", api=Api.ANTHROPIC, model="claude-sonnet-4-5", thinks=True)
    thought = Thinking(text="Hm", signature="s", provider="a", model=spec.model)
    begun = (*HELLO, assistant(thought, *LOOP[1].content), LOOP[2])
    for messages, max_tokens, lost in (
        (HELLO, 4000, False),
        (HELLO, 500, True),
        (LOOP, 4000, True),
        (begun, 4000, False),
    ):
        request = Request(messages=messages, tools=(LOOK,), effort=Effort.HIGH, max_tokens=max_tokens)
        assert ("effort" in anthropic_form.dropped(request, spec)) == lost
        assert ("thinking" in anthropic_form.render(request, spec)) == (not lost)


def test_every_model_of_the_sdk_is_known_to_the_played_openai() -> None:
    """fails when the SDK lists a model of which the drill's rules do not say whether it reasons."""
    for model in GPTS:
        plain = model.startswith(PLAIN) or model.endswith("-chat-latest")
        assert plain != (undated(model) in REASONING), model
    assert {undated(model) for model in GPTS} >= REASONING


@pytest.mark.parametrize(
    ("model", "more", "refused"),
    [
        ("o3-2025-04-16", {"stop": ["END"]}, "stop"),
        ("o4-mini", {"stop": "END"}, "stop"),
        ("gpt-4o", {"stop": ["END"]}, None),
        *(
            (model, {"parallel_tool_calls": False}, "parallel_tool_calls")
            for model in ("o1", "o3", "o3-mini", "o4-mini")
        ),
        ("gpt-5", {"parallel_tool_calls": False}, None),
        ("gpt-5.2", {"reasoning_effort": "high"}, None),
        ("gpt-5.4", {"reasoning_effort": "high"}, "reasoning_effort"),
        ("gpt-5.4", {}, None),
        ("gpt-5.6-sol", {}, "reasoning_effort"),
        ("gpt-6-sol", {"reasoning_effort": "low"}, "reasoning_effort"),
        ("gpt-6-sol", {"reasoning_effort": "none"}, None),
        ("gpt-5", {"temperature": 0.5}, "temperature"),
    ],
)
def test_the_played_openai_refuses_what_a_model_does_not_take(
    model: str, more: dict[str, Any], refused: str | None
) -> None:
    """fails when a request that OpenAI refuses passes a drill."""
    function = {"name": "look", "parameters": {"type": "object", "properties": {}}}
    tools = [{"type": "function", "function": function}]
    found = validate_openai({"model": model, "messages": [{"role": "user", "content": "x"}], "tools": tools, **more})
    assert (found.param if found else None) == refused


# -- strict schemas


def obj(**properties: Any) -> dict[str, Any]:
    return {"type": "object", "properties": properties, "required": [*properties], "additionalProperties": False}


WORD = {"type": "string"}


def deep(levels: int) -> dict[str, Any]:
    return obj(a=deep(levels - 1)) if levels else obj(a=WORD)


@pytest.mark.parametrize(
    "schema",
    [
        obj(a=WORD),
        obj(properties=WORD, required={"type": "array", "items": obj(type=WORD)}),
        obj(a={"type": "string", "enum": ["x", "y"], "description": "Which."}, b={"anyOf": [WORD, {"type": "null"}]}),
        obj(a={"$ref": "#/$defs/A"}) | {"$defs": {"A": obj(again={"type": "array", "items": {"$ref": "#/$defs/A"}})}},
        obj(a={"type": "string", "const": "x"}) | {"title": "Answer"},
    ],
)
def test_an_answer_is_held_to_a_schema_of_the_documented_subset(schema: dict[str, Any]) -> None:
    """Whatever its properties are called."""
    assert strictly(schema)


@pytest.mark.parametrize(
    "schema",
    [
        {},
        {"type": "array", "items": WORD},
        {"type": ["object", "null"]},
        {"anyOf": [obj(a=WORD)]},
        {"allOf": [obj(a=WORD)]},
        obj(a=WORD) | {"required": None},
        obj(a=WORD) | {"required": []},
        obj(a=WORD) | {"required": ["b"]},
        obj(a=WORD) | {"properties": None},
        obj(a=WORD) | {"additionalProperties": True},
        obj(a=WORD) | {"additionalProperties": None},
        obj(a=WORD) | {"patternProperties": {}},
        obj(a=WORD) | {"$defs": None},
        obj(a=WORD) | {"$defs": {"A": True}},
        obj(a=True),
        obj(a=None),
        obj(a={}),
        obj(a={"oneOf": [WORD, {"type": "integer"}]}),
        obj(a={"anyOf": []}),
        obj(a={"anyOf": None}),
        obj(a={"type": ["string", "null"]}),
        obj(a={"type": "object"}),
        obj(a={"type": "array"}),
        obj(a={"type": "string", "minLength": 1}),
        obj(a={"type": "string", "default": "x"}),
        obj(a={"type": "string", "enum": []}),
        obj(a={"type": "string", "enum": None}),
        obj(a={"type": "string", "enum": [{}]}),
        obj(a={"const": {"properties": {"x": 1}}}),
        obj(a={"$ref": "#/$defs/B"}),
        obj(a={"$ref": ["x"]}),
        obj(a=obj(b=WORD) | {"required": None}),
        deep(9),
    ],
)
def test_a_schema_that_might_be_refused_is_followed_without(schema: dict[str, Any]) -> None:
    """fails when a request is refused because of a schema that need not be held to strictly."""
    assert not strictly(schema)


def strictly(schema: dict[str, Any]) -> bool:
    """Whether OpenAI is asked to hold an answer to a schema."""
    spec = ProviderSpec(name="o", api=Api.OPENAI, model="gpt-4o")
    body = openai_form.render(Request(messages=HELLO, answer_schema=schema), spec)
    found: bool = body["response_format"]["json_schema"]["strict"]
    return found


# -- what our own faults tell


@pytest.mark.parametrize(
    "more",
    [
        {"tools": (Tool(name="secret plan", description="", schema={}),)},
        {"tools": (Tool(name="secret", description="", schema={"type": "string"}),)},
        {"tools": (Tool(name="secret", description="", schema={}),) * 2},
        {"tools": (LOOK,), "tool_use": ToolUse.REQUIRED, "tool": "secret"},
        {"messages": (*HELLO, assistant(ToolCall(id="secret", name="secret", arguments={"secret": float("nan")})))},
        {"messages": (user(Text(text="secret")),), "max_tokens": 0},
    ],
)
def test_a_fault_of_the_callers_names_places_and_nothing_that_stands_there(more: dict[str, Any]) -> None:
    """fails when something of a request comes into an error, and so into logs."""
    with pytest.raises(Fault) as caught:
        openai_form.render(
            Request(**{"messages": HELLO, **more}), ProviderSpec(name="o", api=Api.OPENAI, model="gpt-4o")
        )
    assert caught.value.kind is FaultKind.CALLERS_FAULT
    assert "secret" not in caught.value.detail
