"""Anthropic's Messages format: requests rendered, events read. Pure, and without its SDK."""

from __future__ import annotations

import base64
import json
import re
from typing import TYPE_CHECKING, Any

from relight.providers.assemble import Assembly, count_of, member, unknown_reason, words_of
from relight.providers.faults import Fault, FaultKind
from relight.providers.messages import (
    Effort,
    Image,
    Role,
    Stop,
    Text,
    Thinking,
    ToolCall,
    ToolResult,
    ToolUse,
    Usage,
)
from relight.providers.render import check, output_tokens, schema_of, system_of, wrong
from relight.providers.tools import Rules, Thoughts, repaired

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from relight.providers.messages import Delta, Message, Part, Request
    from relight.providers.port import Completed
    from relight.providers.spec import ProviderSpec

_IDS = re.compile(r"[a-zA-Z0-9_-]+")
_STOPS = {
    "end_turn": Stop.END,
    "tool_use": Stop.TOOL_CALLS,
    "max_tokens": Stop.MAX_TOKENS,
    "stop_sequence": Stop.STOP_SEQUENCE,
    "refusal": Stop.REFUSAL,
    "model_context_window_exceeded": Stop.CONTEXT_FULL,
    # Only tools that Anthropic runs itself pause a turn, and none are asked for: what came is the answer.
    "pause_turn": Stop.END,
}
# These think by a budget of tokens alone; all others decide for themselves.
_BUDGETED = re.compile(r"claude-(?:haiku-4-5|sonnet-4-5|opus-4-5)(?:-\d{8})?")
_BUDGETS = {Effort.LOW: 2048, Effort.MEDIUM: 8192, Effort.HIGH: 16384, Effort.MAX: 32768}
_LEAST_BUDGET = 1024


def rules(spec: ProviderSpec) -> Rules:
    """What Anthropic takes in a conversation."""
    return Rules(
        provider=spec.name,
        model=spec.model,
        ids=_IDS,
        thoughts=Thoughts.SIGNED,
        markers=4,
        pictures_in_results=True,
        picture_urls=("https://",),
    )


def dropped(request: Request, spec: ProviderSpec) -> tuple[str, ...]:
    """The settings of `request` that do not reach the model."""
    names = [name for name in ("temperature", "top_p") if getattr(request, name) is not None]
    if request.effort is not None and not _may_try(request, spec):
        names.append("effort")
    if any(not text.strip() for text in request.stop):
        names.append("stop")
    if output_tokens(request, spec) < request.max_tokens:
        names.append("max_tokens")
    return tuple(names)


def render(
    request: Request, spec: ProviderSpec, *, schema: Callable[[dict[str, Any]], dict[str, Any]] = dict
) -> dict[str, Any]:
    """The request's body; `schema` makes the answer's schema one that Anthropic takes. Fault CALLERS_FAULT where it
    cannot be written."""
    check(request)
    messages = repaired(request.messages, rules(spec))
    body: dict[str, Any] = {
        "model": spec.model,
        "max_tokens": output_tokens(request, spec),
        "messages": [_message(message) for message in messages],
        "stream": True,
    }
    system = system_of(request)
    if system:
        body["system"] = system
    stop = [text for text in request.stop if text.strip()]
    if stop:
        body["stop_sequences"] = stop
    body |= _tools(request, messages)
    body |= _thinking(request, spec, messages, body["max_tokens"])
    output = _output(request, spec, schema)
    return body | ({"output_config": output} if output else {})


def _tools(request: Request, messages: tuple[Message, ...]) -> dict[str, Any]:
    tools = [
        {"name": tool.name, "description": tool.description, "input_schema": schema_of(tool)} for tool in request.tools
    ]
    if not tools:
        # A conversation with calls in it is refused where no tools are declared.
        called = dict.fromkeys(call.name for message in messages for call in message.tool_calls)
        if not called:
            return {}
        tools = [{"name": name, "input_schema": {"type": "object"}} for name in called]
        return {"tools": tools, "tool_choice": {"type": "none"}}
    if request.tool_use is ToolUse.NONE:
        return {"tools": tools, "tool_choice": {"type": "none"}}
    choice: dict[str, Any] = {"type": "auto"}
    if request.tool_use is ToolUse.REQUIRED:
        choice = {"type": "tool", "name": request.tool} if request.tool else {"type": "any"}
    if not request.parallel_tools:
        choice["disable_parallel_tool_use"] = True
    return {"tools": tools} if choice == {"type": "auto"} else {"tools": tools, "tool_choice": choice}


def _may_try(request: Request, spec: ProviderSpec) -> bool:
    """Whether the effort of a request reaches the model: as such, or as a budget of thoughts."""
    if not spec.thinks or not _BUDGETED.fullmatch(spec.model):
        return spec.thinks
    return bool(_thinking(request, spec, repaired(request.messages, rules(spec)), output_tokens(request, spec)))


def _thinking(request: Request, spec: ProviderSpec, messages: tuple[Message, ...], max_tokens: int) -> dict[str, Any]:
    # A tool that is forced leaves no room for thought.
    if request.effort is None or not spec.thinks or request.tool_use is ToolUse.REQUIRED:
        return {}
    if not _BUDGETED.fullmatch(spec.model):
        return {"thinking": {"type": "adaptive"}}
    budget = min(_BUDGETS[request.effort], max_tokens - 1)
    if budget < _LEAST_BUDGET or not _may_think(messages):
        return {}
    return {"thinking": {"type": "enabled", "budget_tokens": budget}}


def _output(request: Request, spec: ProviderSpec, schema: Callable[[dict[str, Any]], dict[str, Any]]) -> dict[str, Any]:
    output: dict[str, Any] = {}
    if request.effort is not None and spec.thinks and not _BUDGETED.fullmatch(spec.model):
        output["effort"] = request.effort.value
    if request.answer_schema is not None:
        try:
            output["format"] = {"type": "json_schema", "schema": schema(dict(request.answer_schema))}
        except (ValueError, TypeError, KeyError, RecursionError):
            raise wrong("answer_schema is no JSON Schema that can be followed") from None
    return output


def _may_think(messages: tuple[Message, ...]) -> bool:
    """Within a tool loop a model with a budget may only think where it did so from the loop's beginning: the last turn
    of the assistant must begin with its thoughts. After a switch they are missing until the loop is over."""
    if not any(isinstance(part, ToolResult) for part in messages[-1].content):
        return True
    return isinstance(messages[-2].content[0], Thinking)


def _message(message: Message) -> dict[str, Any]:
    parts: list[Part] = list(message.content)
    if message.role is Role.USER:
        parts.sort(key=lambda part: not isinstance(part, ToolResult))  # results first; otherwise as they were
    return {"role": message.role.value, "content": [_part(part) for part in parts]}


def _part(part: Part) -> dict[str, Any]:
    if isinstance(part, Text):
        return {"type": "text", "text": part.text} | (_MARKER if part.cached else {})
    if isinstance(part, Image):
        if not part.data:
            return {"type": "image", "source": {"type": "url", "url": part.url}}
        data = base64.b64encode(part.data).decode()
        return {"type": "image", "source": {"type": "base64", "media_type": part.media_type, "data": data}}
    if isinstance(part, ToolCall):
        return {"type": "tool_use", "id": part.id, "name": part.name, "input": dict(part.arguments)}
    if isinstance(part, ToolResult):
        result = {"type": "tool_result", "tool_use_id": part.call_id, "content": [_part(item) for item in part.content]}
        return result | ({"is_error": True} if part.error else {})
    if part.redacted:
        return {"type": "redacted_thinking", "data": part.redacted}
    return {"type": "thinking", "thinking": part.text, "signature": part.signature}


_MARKER = {"cache_control": {"type": "ephemeral"}}


class Reader:
    """Reads the events of one answer."""

    def __init__(self, spec: ProviderSpec) -> None:
        self._made = Assembly(spec)
        self._blocks: dict[Any, Any] = {}
        self._inputs: dict[Any, dict[str, Any]] = {}
        self._reason: Any = None
        self._sequence = ""
        self.over = False

    @property
    def counted(self) -> bool:
        """Counts come before the end."""
        return True

    def feed(self, event: Any) -> Iterator[Delta]:
        """What an event adds; nothing, once the answer is whole."""
        if self.over:
            return
        kind = member(event, "type")
        if kind == "content_block_delta":
            yield from self._delta(member(event, "index"), member(event, "delta"))
        elif kind == "content_block_start":
            yield from self._start(member(event, "index"), member(event, "content_block"))
        elif kind == "content_block_stop":
            yield from self._stop(member(event, "index"))
        elif kind == "message_start":
            message = member(event, "message")
            self._made.id = words_of(member(message, "id"))
            self._made.model = words_of(member(message, "model"))
            self._count(member(message, "usage"))
        elif kind == "message_delta":
            delta = member(event, "delta")
            self._reason = member(delta, "stop_reason") or self._reason
            self._sequence = words_of(member(delta, "stop_sequence"))
            self._count(member(event, "usage"))
        elif kind == "message_stop":
            for index in tuple(self._inputs):
                yield from self._whole_input(index)
            self.over = True

    def finish(self) -> Completed:
        """The whole answer, once the stream has ended."""
        if not self.over or not isinstance(self._reason, str):
            missing = "message_stop" if self._reason else "a stop reason"
            raise Fault(FaultKind.TRUNCATED, f"the stream ended without {missing}")
        if self._reason not in _STOPS:
            raise unknown_reason(self._reason)
        return self._made.complete(_STOPS[self._reason], stop_sequence=self._sequence)

    def _start(self, index: Any, block: Any) -> Iterator[Delta]:
        kind = member(block, "type")
        if kind == "text":
            self._blocks[index] = self._made.words()
            yield from self._made.text(words_of(member(block, "text")), self._blocks[index])
        elif kind == "thinking":
            self._blocks[index] = self._made.thoughts(signature=words_of(member(block, "signature")))
            yield from self._made.thought(words_of(member(block, "thinking")), self._blocks[index])
        elif kind == "redacted_thinking":
            self._blocks[index] = self._made.thoughts(redacted=words_of(member(block, "data")))
        elif kind == "tool_use":
            self._blocks[index] = call = self._made.call()
            yield from self._made.name(call, id_=words_of(member(block, "id")), name=words_of(member(block, "name")))
            input_ = member(block, "input")
            if input_ and isinstance(input_, dict):
                self._inputs[index] = input_

    def _stop(self, index: Any) -> Iterator[Delta]:
        yield from self._whole_input(index)
        yield from self._made.over(self._blocks.get(index))

    def _whole_input(self, index: Any) -> Iterator[Delta]:
        """Arguments that came with a call's beginning: some servers do not give them in pieces."""
        input_ = self._inputs.pop(index, None)
        if input_ is not None and not self._blocks[index].pieces:
            yield from self._made.arguments(self._blocks[index], json.dumps(input_, ensure_ascii=False))

    def _delta(self, index: Any, delta: Any) -> Iterator[Delta]:
        kind = member(delta, "type")
        block = self._blocks.get(index)
        if kind == "text_delta":
            yield from self._made.text(words_of(member(delta, "text")), block)
        elif kind == "thinking_delta":
            yield from self._made.thought(words_of(member(delta, "thinking")), block)
        elif kind == "signature_delta" and block is not None:
            block.signature += words_of(member(delta, "signature"))
        elif kind == "input_json_delta" and block is not None:
            yield from self._made.arguments(block, words_of(member(delta, "partial_json")))

    def _count(self, usage: Any) -> None:
        """Counts are of the whole answer so far; those that the last event leaves out stand as they were."""
        old = self._made.usage
        read = member(usage, "cache_read_input_tokens")
        written = member(usage, "cache_creation_input_tokens")
        fresh = member(usage, "input_tokens")
        cache_read = old.cache_read if read is None else count_of(read)
        cache_written = old.cache_written if written is None else count_of(written)
        before = old.input - old.cache_read - old.cache_written
        self._made.usage = Usage(
            input=(before if fresh is None else count_of(fresh)) + cache_read + cache_written,
            output=count_of(member(usage, "output_tokens")) or old.output,
            cache_read=cache_read,
            cache_written=cache_written,
            thinking=count_of(member(member(usage, "output_tokens_details"), "thinking_tokens")) or old.thinking,
        )
