"""What LLM providers refuse: the documented rules of requests, as pure functions.

A rule that is broken gives the text with which the provider refuses, and the field that it names; a request that keeps
them all gives None. They are the rules that the providers document and that agents run into when they change provider
in the middle of a conversation, and no more: what passes here may still be refused by a real provider.
"""

from __future__ import annotations

import base64
import binascii
import json
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence


@dataclass(frozen=True, slots=True, kw_only=True)
class Refusal:
    """Why a request is refused; `param` and `code` are as OpenAI names them, and empty at Anthropic."""

    message: str
    param: str = ""
    code: str = ""
    status: int = 400


class _Broken(Exception):  # noqa: N818 - never leaves this module
    def __init__(self, message: str, *, param: str = "", code: str = "", status: int = 400) -> None:
        super().__init__(message)
        self.refusal = Refusal(message=message, param=param, code=code, status=status)


IMAGE_TYPES = ("image/jpeg", "image/png", "image/gif", "image/webp")

# -- Anthropic

ANTHROPIC_FIELDS = frozenset(
    (
        "model",
        "messages",
        "max_tokens",
        "cache_control",
        "container",
        "diagnostics",
        "inference_geo",
        "metadata",
        "output_config",
        "service_tier",
        "speed",
        "stop_sequences",
        "stream",
        "system",
        "thinking",
        "tool_choice",
        "tools",
        "user_profile_id",
        "workspace_id",
    )
)
_SAMPLING = ("temperature", "top_p", "top_k")
_SAMPLED = re.compile(r"claude-(opus|sonnet|haiku)-4-[56]\b")
_ANTHROPIC_ID = re.compile(r"[a-zA-Z0-9_-]+")
_ANTHROPIC_TOOL = re.compile(r"[a-zA-Z0-9_-]{1,128}")
_EFFORTS = ("low", "medium", "high", "xhigh", "max")
_BLOCKS = {
    "user": ("text", "image", "tool_result"),
    "assistant": ("text", "tool_use", "thinking", "redacted_thinking"),
}
_BLOCK_FIELDS = {
    "text": {"type", "text", "cache_control", "citations"},
    "image": {"type", "source", "cache_control"},
    "tool_use": {"type", "id", "name", "input", "cache_control", "caller"},
    "tool_result": {"type", "tool_use_id", "content", "is_error", "cache_control"},
    "thinking": {"type", "thinking", "signature"},
    "redacted_thinking": {"type", "data"},
}


def validate_anthropic(body: Any, *, signed: Callable[[str, str, str], bool]) -> Refusal | None:
    """Why `POST /v1/messages` refuses this body; None when it does not.

    `signed(model, thinking, signature)` says whether a signature was given for that thinking by that model; for
    redacted thinking, `thinking` is empty and the data is the signature.
    """
    try:
        _anthropic(body, signed)
    except _Broken as broken:
        return broken.refusal
    return None


def _anthropic(body: Any, signed: Callable[[str, str, str], bool]) -> None:
    _need(isinstance(body, dict), "Input should be a valid dictionary")
    for name in ("model", "max_tokens", "messages"):
        _need(name in body, f"{name}: Field required")
    model = body["model"]
    _need(isinstance(model, str), "model: Input should be a valid string")
    for name in body:
        if name in _SAMPLING:
            _need(_SAMPLED.match(model), f"`{name}` is deprecated for this model.")
            _need(
                _number(body[name]) and (name == "top_k" or 0 <= body[name] <= 1),
                f"{name}: must be from 0 to 1",
            )
        else:
            _need(name in ANTHROPIC_FIELDS, f"{name}: Extra inputs are not permitted")
    _need(_whole(body["max_tokens"]), "max_tokens: Input should be a valid integer")
    _need(body["max_tokens"] >= 1, "max_tokens: Input should be greater than or equal to 1")
    _need(isinstance(body.get("stream", False), bool), "stream: Input should be a valid boolean")
    _anthropic_settings(body)
    _anthropic_tools(body)
    _anthropic_system(body.get("system", ""))
    _anthropic_messages(body["messages"], model, signed)
    _anthropic_thinking(body)
    marked = sum(bool(block.get("cache_control")) for block in _marked(body))
    _need(marked <= 4, f"A maximum of 4 blocks with cache_control may be provided. Found {marked}.")


def _anthropic_settings(body: dict[str, Any]) -> None:
    metadata = body.get("metadata", {})
    _need(isinstance(metadata, dict) and metadata.keys() <= {"user_id"}, "metadata: Extra inputs are not permitted")
    _need(isinstance(metadata.get("user_id") or "", str), "metadata.user_id: Input should be a valid string")
    stops = body.get("stop_sequences", [])
    _need(isinstance(stops, list), "stop_sequences: Input should be a valid list")
    for number, stop in enumerate(stops):
        _need(isinstance(stop, str), f"stop_sequences.{number}: Input should be a valid string")
        _need(stop.strip(), "stop_sequences: each stop sequence must contain non-whitespace")
    config = body.get("output_config", {})
    _need(isinstance(config, dict), "output_config: Input should be a valid dictionary")
    _need(config.keys() <= {"effort", "format"}, "output_config: Extra inputs are not permitted")
    _need(
        config.get("effort") in (None, *_EFFORTS),
        "output_config.effort: Input should be 'low', 'medium', 'high', 'xhigh' or 'max'",
    )
    shape = config.get("format")
    _need(
        shape is None or (isinstance(shape, dict) and shape.keys() == {"type", "schema"}),
        "output_config.format: Input should be a JSON schema",
    )
    _need(shape is None or shape["type"] == "json_schema", "output_config.format.type: Input should be 'json_schema'")
    _need(
        shape is None or isinstance(shape["schema"], dict),
        "output_config.format.schema: Input should be a valid dictionary",
    )


def _anthropic_tools(body: dict[str, Any]) -> None:
    tools = body.get("tools", [])
    _need(isinstance(tools, list), "tools: Input should be a valid list")
    names = []
    for number, tool in enumerate(tools):
        where = f"tools.{number}.custom"
        _need(isinstance(tool, dict), f"{where}: Input should be a valid dictionary")
        for name in ("name", "input_schema"):
            _need(name in tool, f"{where}.{name}: Field required")
        extra = tool.keys() - {"name", "description", "input_schema", "cache_control", "type", "strict"}
        _need(not extra, f"{where}.{', '.join(sorted(extra))}: Extra inputs are not permitted")
        _need(
            isinstance(tool["name"], str) and _ANTHROPIC_TOOL.fullmatch(tool["name"]),
            f"{where}.name: String should match pattern '^[a-zA-Z0-9_-]{{1,128}}$'",
        )
        _need(isinstance(tool.get("description", ""), str), f"{where}.description: Input should be a valid string")
        schema = tool["input_schema"]
        _need(isinstance(schema, dict), f"{where}.input_schema: Input should be a valid dictionary")
        _need("type" in schema, f"{where}.input_schema.type: Field required")
        _need(schema["type"] == "object", f"{where}.input_schema.type: Input should be 'object'")
        names.append(tool["name"])
    _need(len(names) == len(set(names)), "tools: Tool names must be unique.")
    choice = body.get("tool_choice")
    if choice is None:
        return
    _need(tools, "tool_choice: tool_choice may only be specified while providing tools.")
    _need(
        isinstance(choice, dict) and choice.get("type") in ("auto", "any", "tool", "none"),
        "tool_choice: Input tag does not match any of the expected tags: 'auto', 'any', 'tool', 'none'",
    )
    allowed = {
        "auto": {"disable_parallel_tool_use"},
        "any": {"disable_parallel_tool_use"},
        "tool": {"name", "disable_parallel_tool_use"},
        "none": set(),
    }[choice["type"]]
    extra = choice.keys() - {"type", *allowed}
    _need(not extra, f"tool_choice.{choice['type']}.{', '.join(sorted(extra))}: Extra inputs are not permitted")
    if choice["type"] == "tool":
        _need("name" in choice, "tool_choice.tool.name: Field required")
        _need(choice["name"] in names, f"tool_choice.tool: Tool '{choice['name']}' not found in provided tools")


def _anthropic_system(system: Any) -> None:
    if isinstance(system, str):
        return
    _need(isinstance(system, list), "system: Input should be a valid list")
    for number, block in enumerate(system):
        _need(isinstance(block, dict) and block.get("type") == "text", f"system.{number}: Input should be a text block")
        _anthropic_text(block, f"system.{number}", "system")


def _anthropic_messages(messages: Any, model: str, signed: Callable[[str, str, str], bool]) -> None:
    _need(isinstance(messages, list), "messages: Input should be a valid list")
    _need(messages, "messages: at least one message is required")
    turns: list[tuple[str, list[dict[str, Any]], list[str]]] = []
    for number, message in enumerate(messages):
        _need(isinstance(message, dict), f"messages.{number}: Input should be a valid dictionary")
        role = message.get("role")
        _need(role in _BLOCKS, f"messages.{number}.role: Input should be 'user' or 'assistant'")
        _need("content" in message, f"messages.{number}.content: Field required")
        extra = message.keys() - {"role", "content"}
        _need(not extra, f"messages.{number}.{', '.join(sorted(extra))}: Extra inputs are not permitted")
        content = message["content"]
        _need(content, f"messages.{number}: {role} messages must have non-empty content")
        blocks = [{"type": "text", "text": content}] if isinstance(content, str) else content
        _need(isinstance(blocks, list), f"messages.{number}.content: Input should be a valid list")
        places = [f"messages.{number}.content.{place}" for place in range(len(blocks))]
        for where, block in zip(places, blocks, strict=True):
            _anthropic_block(block, where, role, model, signed)
        # Turns of one role in a row are one turn.
        if turns and turns[-1][0] == role:
            turns[-1][1].extend(blocks)
            turns[-1][2].extend(places)
        else:
            turns.append((role, list(blocks), places))
    _need(turns[0][0] == "user", 'messages: first message must use the "user" role')
    ids = [block["id"] for _, blocks, _ in turns for block in blocks if block["type"] == "tool_use"]
    _need(len(ids) == len(set(ids)), "messages: `tool_use` ids must be unique")
    for place, (_, blocks, found_at) in enumerate(turns):
        before = turns[place - 1][1] if place else []
        _anthropic_results(blocks, found_at, {block["id"] for block in before if block["type"] == "tool_use"})
    last = turns[-1]
    called = [block["id"] for block in last[1] if block["type"] == "tool_use"]
    _need(not called, _unanswered(last[2][0], called))
    _need(
        last[0] == "user",
        "This model does not support assistant message prefill. The conversation must end with a user message.",
    )


def _unanswered(where: str, ids: Sequence[str]) -> str:
    return (
        f"{where.rsplit('.content', 1)[0]}: `tool_use` ids were found without `tool_result` blocks immediately after: "
        f"{', '.join(ids)}. Each `tool_use` block must have a corresponding `tool_result` block in the next message."
    )


def _anthropic_results(blocks: Sequence[dict[str, Any]], places: Sequence[str], called: set[str]) -> None:
    answered: set[str] = set()
    leading = True
    for where, block in zip(places, blocks, strict=True):
        if block["type"] != "tool_result":
            leading = False
            continue
        id_ = block["tool_use_id"]
        _need(
            id_ in called,
            f"{where}: unexpected `tool_use_id` found in `tool_result` blocks: {id_}. Each `tool_result` block must "
            "have a corresponding `tool_use` block in the previous message.",
        )
        _need(
            id_ not in answered,
            f"{where}: each tool_use must have a single result. Found multiple `tool_result` blocks with id: {id_}",
        )
        # What stands before the results hides them: they are not found "immediately after".
        _need(leading, _unanswered(where, [id_]))
        answered.add(id_)
    left = sorted(called - answered)
    _need(not left, _unanswered(places[0], left))


def _anthropic_block(block: Any, where: str, role: str, model: str, signed: Callable[[str, str, str], bool]) -> None:
    _need(isinstance(block, dict), f"{where}: Input should be a valid dictionary")
    kind = block.get("type")
    _need(isinstance(kind, str) and kind in _BLOCK_FIELDS, f"{where}: {kind!r} is none of the expected tags")
    _need(kind in _BLOCKS[role], f"{where}: `{kind}` blocks are not permitted in `{role}` messages")
    extra = block.keys() - _BLOCK_FIELDS[kind]
    _need(not extra, f"{where}.{kind}.{', '.join(sorted(extra))}: Extra inputs are not permitted")
    _cache_control(block, f"{where}.{kind}")
    if kind == "text":
        _anthropic_text(block, where, "messages")
    elif kind == "image":
        _anthropic_image(block, where)
    elif kind == "tool_use":
        for name in ("id", "name", "input"):
            _need(name in block, f"{where}.tool_use.{name}: Field required")
        _need(
            isinstance(block["id"], str) and _ANTHROPIC_ID.fullmatch(block["id"]),
            f"{where}.tool_use.id: String should match pattern '^[a-zA-Z0-9_-]+$'",
        )
        _need(
            isinstance(block["name"], str) and 1 <= len(block["name"]) <= 200,
            f"{where}.tool_use.name: String should have 1 to 200 characters",
        )
        _need(isinstance(block["input"], dict), f"{where}.tool_use.input: Input should be a valid dictionary")
    elif kind == "tool_result":
        _anthropic_result(block, where)
    elif kind == "thinking":
        for name in ("thinking", "signature"):
            _need(isinstance(block.get(name), str), f"{where}.thinking.{name}: Field required")
        _need(signed(model, block["thinking"], block["signature"]), f"{where}: Invalid `signature` in `thinking` block")
    else:
        _need(isinstance(block.get("data"), str), f"{where}.redacted_thinking.data: Field required")
        _need(signed(model, "", block["data"]), f"{where}: Invalid `data` in `redacted_thinking` block")


def _anthropic_text(block: dict[str, Any], where: str, what: str) -> None:
    text = block.get("text")
    _need(isinstance(text, str), f"{where}.text.text: Input should be a valid string")
    _need(text or "cache_control" not in block, f"{where}.text: cache_control cannot be set for empty text blocks")
    _need(text, f"{what}: text content blocks must be non-empty")
    _need(str(text).strip(), f"{what}: text content blocks must contain non-whitespace text")
    _cache_control(block, f"{where}.text")


def _anthropic_image(block: dict[str, Any], where: str) -> None:
    source = block.get("source")
    _need(isinstance(source, dict), f"{where}.image.source: Field required")
    assert isinstance(source, dict)  # noqa: S101 - for the type checker
    if source.get("type") == "url":
        _need(isinstance(source.get("url"), str) and source["url"], f"{where}.image.source.url.url: Field required")
        _need(source["url"].startswith("https://"), f"{where}.image.source.url: Only HTTPS URLs are supported.")
        return
    _need(
        source.get("type") == "base64",
        f"{where}.image.source: Input tag does not match any of the expected tags: 'base64', 'url'",
    )
    _need(
        source.get("media_type") in IMAGE_TYPES,
        f"{where}.image.source.base64.media_type: Input should be 'image/jpeg', 'image/png', 'image/gif' or "
        "'image/webp'",
    )
    _need(_base64(source.get("data")), f"{where}.image.source.base64: invalid base64 data")


def _anthropic_result(block: dict[str, Any], where: str) -> None:
    _need("tool_use_id" in block, f"{where}.tool_result.tool_use_id: Field required")
    _need(
        isinstance(block["tool_use_id"], str) and _ANTHROPIC_ID.fullmatch(block["tool_use_id"]),
        f"{where}.tool_result.tool_use_id: String should match pattern '^[a-zA-Z0-9_-]+$'",
    )
    failed = block.get("is_error", False)
    _need(isinstance(failed, bool), f"{where}.tool_result.is_error: Input should be a valid boolean")
    content = block.get("content", "")
    _need(content or not failed, f"{where}.tool_result: content cannot be empty if `is_error` is true")
    if isinstance(content, str):
        return
    _need(isinstance(content, list), f"{where}.tool_result.content: Input should be a valid list")
    for number, part in enumerate(content):
        inner = f"{where}.tool_result.content.{number}"
        _need(isinstance(part, dict), f"{inner}: Input should be a valid dictionary")
        _need(part.get("type") in ("text", "image"), f"{inner}: Input tag does not match any of the expected tags")
        _need(not failed or part["type"] == "text", f"{where}.tool_result: all content must be type text if `is_error`")
        if part["type"] == "text":
            _anthropic_text(part, inner, "messages")
        else:
            _anthropic_image(part, inner)


def _anthropic_thinking(body: dict[str, Any]) -> None:
    thinking = body.get("thinking")
    if thinking is None:
        return
    kinds = ("enabled", "disabled", "adaptive", "between_tools")
    _need(
        isinstance(thinking, dict) and thinking.get("type") in kinds,
        f"thinking: Input tag does not match any of the expected tags: {', '.join(map(repr, kinds))}",
    )
    _need(
        thinking.get("display", "summarized") in ("summarized", "omitted"),
        "thinking.display: Input should be 'summarized' or 'omitted'",
    )
    if thinking["type"] not in ("enabled", "adaptive"):
        return
    _need(
        (body.get("tool_choice") or {}).get("type") not in ("any", "tool"),
        "Thinking may not be enabled when tool_choice forces tool use.",
    )
    if thinking["type"] == "adaptive":
        _need("budget_tokens" not in thinking, "thinking.adaptive.budget_tokens: Extra inputs are not permitted")
        return
    _need(
        _SAMPLED.match(body["model"]),
        '"thinking.type.enabled" is not supported for this model. Use "thinking.type.adaptive" and '
        '"output_config.effort" to control thinking behavior.',
    )
    budget = thinking.get("budget_tokens")
    _need(
        _whole(budget) and budget >= 1024,
        "thinking.enabled.budget_tokens: Input should be greater than or equal to 1024",
    )
    _need(budget < body["max_tokens"], "`max_tokens` must be greater than `thinking.budget_tokens`.")


def _marked(body: dict[str, Any]) -> Iterator[dict[str, Any]]:
    yield {name: value for name, value in body.items() if name == "cache_control"}
    yield from body.get("tools", [])
    for blocks in (body.get("system", ""), *(message["content"] for message in body["messages"])):
        for block in blocks if isinstance(blocks, list) else ():
            yield block
            inner = block.get("content", "")
            yield from inner if isinstance(inner, list) else ()


def _cache_control(block: dict[str, Any], where: str) -> None:
    mark = block.get("cache_control")
    if mark is None:
        return
    _need(isinstance(mark, dict) and mark.get("type") == "ephemeral", f"{where}.cache_control: must be 'ephemeral'")
    _need(mark.get("ttl", "5m") in ("5m", "1h"), f"{where}.cache_control.ttl: Input should be '5m' or '1h'")


# -- OpenAI, and what is compatible with it

OPENAI_FIELDS = frozenset(
    (
        "messages",
        "model",
        "audio",
        "frequency_penalty",
        "function_call",
        "functions",
        "logit_bias",
        "logprobs",
        "max_completion_tokens",
        "max_tokens",
        "metadata",
        "modalities",
        "moderation",
        "n",
        "parallel_tool_calls",
        "prediction",
        "presence_penalty",
        "prompt_cache_key",
        "prompt_cache_options",
        "prompt_cache_retention",
        "reasoning_effort",
        "response_format",
        "safety_identifier",
        "seed",
        "service_tier",
        "stop",
        "store",
        "stream",
        "stream_options",
        "temperature",
        "tool_choice",
        "tools",
        "top_logprobs",
        "top_p",
        "user",
        "verbosity",
        "web_search_options",
    )
)
# What vLLM, llama.cpp and Ollama take beside it.
COMPATIBLE_FIELDS = OPENAI_FIELDS | frozenset(
    (
        "top_k",
        "min_p",
        "repetition_penalty",
        "chat_template_kwargs",
        "cache_prompt",
        "id_slot",
        "options",
        "keep_alive",
        "think",
    )
)
_ROLES = ("developer", "system", "user", "assistant", "tool")
_OPENAI_NAME = re.compile(r"[a-zA-Z0-9_-]{1,64}")
_DATED = re.compile(r"-\d{4}-\d{2}-\d{2}$")
# OpenAI's models that reason, by name, and what they refuse beyond sampling: the oldest, stop sequences and to be told
# not to call in parallel; those from 5.4 on an effort beside tools; and those from 5.6 on, which reason unless told
# otherwise, anything but `none` there.
_NO_STOP = frozenset(("o3", "o4-mini"))
_NO_PARALLEL = frozenset(("o1", "o1-preview", "o1-mini", "o3", "o3-mini", "o4-mini"))
_NO_EFFORT_WITH_TOOLS = frozenset(("gpt-5.4", "gpt-5.4-mini", "gpt-5.4-nano", "gpt-5.5"))
_NONE_WITH_TOOLS = frozenset(
    (
        "gpt-5.6-sol",
        "gpt-5.6-terra",
        "gpt-5.6-luna",
        "gpt-6-astra",
        "gpt-6-sol",
        "gpt-6-luna",
        "gpt-6.1-sol",
        "gpt-6.1-terra",
        "gpt-6.2-astra",
        "gpt-6.2-sol",
    )
)
REASONING = (
    frozenset(
        (
            "codex-mini-latest",
            "gpt-5",
            "gpt-5-mini",
            "gpt-5-nano",
            "gpt-5.1",
            "gpt-5.1-codex",
            "gpt-5.1-mini",
            "gpt-5.2",
            "gpt-5.2-pro",
        )
    )
    | _NO_PARALLEL
    | _NO_EFFORT_WITH_TOOLS
    | _NONE_WITH_TOOLS
)
_REASONING_EFFORTS = ("none", "minimal", "low", "medium", "high", "xhigh", "max")
ID_LENGTH = 40


def validate_openai(body: Any, *, compatible: bool = False, alternating: bool = False) -> Refusal | None:
    """Why `POST /v1/chat/completions` refuses this body; None when it does not.

    `compatible` is a server that speaks the format: it takes some more fields, has no reasoning models of OpenAI's, and
    reads the arguments of calls, so that they must be JSON objects. `alternating` is one whose model's template insists
    that, after the system's words, user and assistant take turns.
    """
    try:
        _openai(body, compatible=compatible)
        if alternating:
            _alternate(body["messages"])
    except _Broken as broken:
        return broken.refusal
    return None


def _openai(body: Any, *, compatible: bool) -> None:
    _need(isinstance(body, dict), "We could not parse the JSON body of your request: an object is expected.")
    _need(isinstance(body.get("model"), str) and body["model"], "you must provide a model parameter")
    unknown = sorted(body.keys() - (COMPATIBLE_FIELDS if compatible else OPENAI_FIELDS))
    _need(not unknown, f"Unrecognized request argument supplied: {', '.join(unknown)}", "", "unknown_parameter")
    model = "" if compatible else undated(body["model"])
    _openai_settings(body, reasoning=model in REASONING)
    _openai_tools(body)
    _openai_model(body, model)
    messages = body.get("messages")
    _need(isinstance(messages, list), "Missing required parameter: 'messages'.", "messages")
    assert isinstance(messages, list)  # noqa: S101 - for the type checker
    _need(messages, "Invalid 'messages': empty array. Expected an array with minimum length 1.", "messages")
    for number, message in enumerate(messages):
        _openai_message(message, f"messages[{number}]", compatible=compatible)
    _openai_results(messages)


def _openai_settings(body: dict[str, Any], *, reasoning: bool) -> None:
    stream = body.get("stream", False)
    _need(stream is None or isinstance(stream, bool), "Invalid type for 'stream': expected a boolean.", "stream")
    _need(
        stream or not body.get("stream_options"),
        "The 'stream_options' parameter is only allowed when 'stream' is enabled.",
        "stream_options",
    )
    for name in ("max_tokens", "max_completion_tokens"):
        value = body.get(name)
        _need(value is None or _whole(value), f"Invalid type for '{name}': expected an integer.", name)
        _need(value is None or value >= 1, f"Invalid '{name}': integer below minimum value.", name)
    _need(
        body.get("max_tokens") is None or body.get("max_completion_tokens") is None,
        "Setting 'max_tokens' and 'max_completion_tokens' at the same time is not supported.",
    )
    effort = body.get("reasoning_effort")
    _need(
        effort is None or effort in _REASONING_EFFORTS,
        f"Invalid value: {effort!r}. Supported values are: {', '.join(map(repr, _REASONING_EFFORTS))}.",
        "reasoning_effort",
    )
    for name, most in (("temperature", 2), ("top_p", 1)):
        value = body.get(name)
        _need(value is None or _number(value), f"Invalid type for '{name}': expected a decimal.", name)
        _need(value is None or 0 <= value <= most, f"Invalid '{name}': must be from 0 to {most}.", name)
        _need(
            not reasoning or value in (None, 1) or effort == "none",
            f"Unsupported value: '{name}' does not support {value} with this model. Only the default (1) value is "
            "supported.",
            name,
            "unsupported_value",
        )
    if reasoning:
        _need(
            body.get("max_tokens") is None,
            "Unsupported parameter: 'max_tokens' is not supported with this model. Use 'max_completion_tokens' "
            "instead.",
            "max_tokens",
            "unsupported_parameter",
        )
    stops = body.get("stop")
    stops = [stops] if isinstance(stops, str) else stops or []
    _need(isinstance(stops, list) and all(isinstance(stop, str) for stop in stops), "Invalid type for 'stop'.", "stop")
    _need(len(stops) <= 4, "Invalid 'stop': array too long. Expected an array with maximum length 4.", "stop")
    _need(isinstance(body.get("user", ""), str), "Invalid type for 'user': expected a string.", "user")
    shape = body.get("response_format") or {"type": "text"}
    kinds = ("text", "json_object", "json_schema")
    _need(
        isinstance(shape, dict) and shape.get("type") in kinds,
        "Invalid value: 'response_format'.",
        "response_format",
    )
    if shape["type"] == "json_schema":
        named: Any = shape.get("json_schema")
        _need(isinstance(named, dict), "Missing required parameter: 'response_format.json_schema'.", "response_format")
        _openai_name(named.get("name"), "response_format.json_schema.name")
        _need(isinstance(named.get("schema", {}), dict), "Invalid schema for response_format.", "response_format")


def undated(model: str) -> str:
    """The model's name without the day of its version."""
    return _DATED.sub("", model)


def _openai_model(body: dict[str, Any], model: str) -> None:
    """What only some of OpenAI's own models refuse."""
    for name, models in (("stop", _NO_STOP), ("parallel_tool_calls", _NO_PARALLEL)):
        _need(
            body.get(name) is None or model not in models,
            f"Unsupported parameter: '{name}' is not supported with this model.",
            name,
            "unsupported_parameter",
        )
    if body.get("tools"):
        effort = body.get("reasoning_effort")
        _need(
            (effort in (None, "none") or model not in _NO_EFFORT_WITH_TOOLS)
            and (effort == "none" or model not in _NONE_WITH_TOOLS),
            f"Function tools with reasoning_effort are not supported for {model} in /v1/chat/completions. Please use "
            "/v1/responses instead.",
            "reasoning_effort",
        )


def _openai_tools(body: dict[str, Any]) -> None:
    tools = body.get("tools")
    if tools is None:
        for name in ("tool_choice", "parallel_tool_calls"):
            _need(body.get(name) is None, f"'{name}' is only allowed when 'tools' are specified.", name)
        return
    _need(isinstance(tools, list), "Invalid type for 'tools': expected an array.", "tools")
    _need(tools, "Invalid 'tools': empty array. Expected an array with minimum length 1.", "tools", "empty_array")
    _need(len(tools) <= 128, "Invalid 'tools': array too long. Expected an array with maximum length 128.", "tools")
    names = []
    for number, tool in enumerate(tools):
        where = f"tools[{number}]"
        _need(isinstance(tool, dict) and tool.get("type") == "function", f"Invalid value for '{where}.type'.", where)
        function: Any = tool.get("function")
        _need(isinstance(function, dict), f"Missing required parameter: '{where}.function'.", where)
        _openai_name(function.get("name"), f"{where}.function.name")
        names.append(function["name"])
        _need(
            isinstance(function.get("description", ""), str),
            f"Invalid type for '{where}.function.description'.",
            f"{where}.function.description",
        )
        schema = function.get("parameters", {"type": "object", "properties": {}})
        place, bad = f"{where}.function.parameters", "invalid_function_parameters"
        start = f"Invalid schema for function '{function['name']}': "
        _need(isinstance(schema, dict), f"{start}an object is expected.", place, bad)
        got = json.dumps(schema.get("type")).strip('"')
        wanted = f"schema must be a JSON Schema of 'type: \"object\"', got 'type: \"{got}\"'."
        _need(schema.get("type") == "object", f"{start}{wanted}", place, bad)
        missing = "In context=(), object schema missing properties."
        _need(isinstance(schema.get("properties"), dict), f"{start}{missing}", place, bad)
    choice = body.get("tool_choice")
    if isinstance(choice, dict):
        _need(choice.get("type") == "function", "Invalid value for 'tool_choice.type'.", "tool_choice")
        named: Any = choice.get("function")
        _need(isinstance(named, dict), "Missing required parameter: 'tool_choice.function'.", "tool_choice.function")
        _need(
            named.get("name") in names,
            f"Tool choice 'function' '{named.get('name')}' not found in 'tools' parameter.",
            "tool_choice",
        )
    else:
        _need(choice in (None, "none", "auto", "required"), f"Invalid value: {choice!r}.", "tool_choice")


def _openai_message(message: Any, where: str, *, compatible: bool) -> None:
    _need(isinstance(message, dict), f"Invalid type for '{where}': expected an object.", where)
    role = message.get("role")
    _need(
        role in _ROLES,
        f"Invalid value: {role!r}. Supported values are: {', '.join(map(repr, _ROLES))}.",
        f"{where}.role",
        "invalid_value",
    )
    known = {"role", "content", "name"}
    known |= {"tool_call_id"} if role == "tool" else set()
    known |= {"tool_calls", "refusal", "audio"} if role == "assistant" else set()
    known |= {"reasoning_content", "reasoning"} if role == "assistant" and compatible else set()
    extra = sorted(message.keys() - known)
    _need(not extra, f"Unknown parameter: '{where}.{', '.join(extra)}'.", f"{where}.{extra[:1]}", "unknown_parameter")
    calls = message.get("tool_calls")
    content = message.get("content")
    if content is None:
        _need(
            role == "assistant" and (calls or message.get("refusal")),
            "Invalid value for 'content': expected a string, got null.",
            f"{where}.content",
        )
    elif not isinstance(content, str):
        _openai_parts(content, f"{where}.content", role)
    if role == "tool":
        _need(
            isinstance(message.get("tool_call_id"), str),
            "Missing parameter 'tool_call_id': messages with role 'tool' must have a 'tool_call_id'.",
            f"{where}.tool_call_id",
        )
        _openai_id(message["tool_call_id"], f"{where}.tool_call_id")
    if "tool_calls" in message:
        _need(isinstance(calls, list) and calls, f"[] is too short - '{where}.tool_calls'", f"{where}.tool_calls")
        for number, call in enumerate(calls or ()):
            _openai_call(call, f"{where}.tool_calls[{number}]", compatible=compatible)


def _openai_parts(content: Any, where: str, role: str) -> None:
    kinds = {"user": ("text", "image_url"), "assistant": ("text", "refusal")}.get(role, ("text",))
    _need(isinstance(content, list), f"Invalid type for '{where}': expected a string or an array.", where)
    _need(content, f"Invalid '{where}': empty array. Expected an array with minimum length 1.", where, "empty_array")
    for number, part in enumerate(content):
        place = f"{where}[{number}]"
        _need(isinstance(part, dict), f"Invalid type for '{place}': expected an object.", place)
        _need(
            part.get("type") in kinds,
            f"Invalid value: {part.get('type')!r}. Supported values are: {', '.join(map(repr, kinds))}.",
            f"{place}.type",
            "invalid_value",
        )
        if part["type"] == "image_url":
            _openai_image(part.get("image_url"), f"{place}.image_url")
        else:
            _need(isinstance(part.get(part["type"]), str), f"Missing required parameter: '{place}.text'.", place)
        allowed = {"type", part["type"], "prompt_cache_breakpoint"}
        extra = sorted(part.keys() - allowed)
        _need(not extra, f"Unknown parameter: '{place}.{', '.join(extra)}'.", place, "unknown_parameter")


def _openai_image(image: Any, where: str) -> None:
    _need(isinstance(image, dict) and isinstance(image.get("url"), str), f"Missing parameter: '{where}.url'.", where)
    url = image["url"]
    if not url.startswith("data:"):
        _need(url.startswith(("http://", "https://")), f"Invalid '{where}.url'. Expected a valid URL.", where)
        return
    head, _, data = url.partition(",")
    media = head.removeprefix("data:").removesuffix(";base64")
    _need(head.endswith(";base64") and _base64(data), "Invalid base64 image_url.", where, "invalid_base64")
    _need(
        media in IMAGE_TYPES,
        f"Invalid MIME type. Only image types are supported: {media}",
        where,
        "invalid_image_format",
    )


def _openai_call(call: Any, where: str, *, compatible: bool) -> None:
    _need(isinstance(call, dict) and call.get("type") == "function", f"Invalid value for '{where}.type'.", where)
    _need(call.keys() <= {"id", "type", "function"}, f"Unknown parameter in '{where}'.", where, "unknown_parameter")
    _openai_id(call.get("id"), f"{where}.id")
    function: Any = call.get("function")
    _need(isinstance(function, dict), f"Missing required parameter: '{where}.function'.", where)
    _openai_name(function.get("name"), f"{where}.function.name")
    arguments = function.get("arguments")
    place = f"{where}.function.arguments"
    _need(isinstance(arguments, str), f"Invalid type for '{place}': expected a string.", place, "invalid_type")
    if compatible:
        _need(_is_object(arguments), f"Failed to parse tool call arguments as JSON: '{place}'", place)


def _openai_results(messages: Sequence[dict[str, Any]]) -> None:
    open_ids: list[str] = []
    seen: set[str] = set()
    for number, message in enumerate(messages):
        where = f"messages[{number}]"
        if message["role"] == "tool":
            _need(
                message["tool_call_id"] in open_ids,
                "Invalid parameter: messages with role 'tool' must be a response to a preceding message with "
                "'tool_calls'.",
                f"{where}.role",
            )
            open_ids.remove(message["tool_call_id"])
            continue
        _need(not open_ids, _no_response(open_ids), f"{where}.role")
        open_ids = [call["id"] for call in message.get("tool_calls") or ()]
        again = seen.intersection(open_ids) if len(set(open_ids)) == len(open_ids) else set(open_ids)
        _need(not again, f"Duplicate value for 'tool_call_id' of {', '.join(sorted(again))}", where)
        seen.update(open_ids)
    _need(not open_ids, _no_response(open_ids), "messages")


def _no_response(ids: Sequence[str]) -> str:
    return (
        "An assistant message with 'tool_calls' must be followed by tool messages responding to each 'tool_call_id'. "
        f"The following tool_call_ids did not have response messages: {', '.join(ids)}"
    )


def _openai_id(value: Any, where: str) -> None:
    _need(isinstance(value, str), f"Missing required parameter: '{where}'.", where)
    _need(value, f"Invalid '{where}': empty string. Expected a string with minimum length 1.", where)
    _need(
        len(value) <= ID_LENGTH,
        f"Invalid '{where}': string too long. Expected a string with maximum length {ID_LENGTH}, but got a string with "
        f"length {len(value)} instead.",
        where,
        "string_above_max_length",
    )


def _openai_name(value: Any, where: str) -> None:
    _need(isinstance(value, str), f"Missing required parameter: '{where}'.", where, "missing_required_parameter")
    _need(
        _OPENAI_NAME.fullmatch(value),
        f"Invalid '{where}': string does not match pattern. Expected a string that matches the pattern "
        "'^[a-zA-Z0-9_-]{1,64}$'.",
        where,
        "invalid_value",
    )


def _alternate(messages: Sequence[dict[str, Any]]) -> None:
    said = "Conversation roles must alternate user/assistant/user/assistant/..."
    before = "assistant"
    for number, message in enumerate(messages):
        role = message["role"]
        if role in ("system", "developer"):
            _need(number == 0, "System message must be at the beginning.", f"messages[{number}].role")
        elif role in ("user", "assistant"):
            _need(role != before and not (before == "tool" and role == "user"), said, f"messages[{number}].role")
            before = role
        else:
            before = "tool"


# -- both


def _need(kept: object, message: str, param: str = "", code: str = "") -> None:
    if not kept:
        raise _Broken(message, param=param, code=code)


def _whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _base64(value: Any) -> bool:
    try:
        return isinstance(value, str) and bool(base64.b64decode(value, validate=True))
    except binascii.Error:
        return False


def _is_object(value: str) -> bool:
    try:
        return isinstance(json.loads(value), dict)
    except ValueError:
        return False
