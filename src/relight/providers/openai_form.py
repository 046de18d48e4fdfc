"""OpenAI's Chat Completions format, as OpenAI and as compatible servers speak it: requests rendered, chunks read. Pure,
and without its SDK."""

from __future__ import annotations

import base64
import json
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from relight.providers.assemble import Assembly, count_of, fields_of, member, unknown_reason, words_of
from relight.providers.faults import Fault, FaultKind
from relight.providers.messages import Effort, Image, Role, Stop, Text, Thinking, ToolCall, ToolResult, ToolUse, Usage
from relight.providers.render import check, output_tokens, schema_of, system_of, wrong
from relight.providers.spec import Api
from relight.providers.tools import Rules, Thoughts, repaired

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from relight.providers.messages import Delta, Message, Part, Request
    from relight.providers.port import Completed
    from relight.providers.spec import ProviderSpec

# At most 40 characters are documented, of any kind: some models' own ids hold dots and colons.
_IDS = re.compile(r"[\x21-\x7e]{1,40}")
_MOST_STOPS = 4
# OpenAI's models that think. They take no sampling settings and no stop sequences.
_THINKS = re.compile(r"o\d|codex-mini|gpt-(?:[5-9]|\d\d)(?!.*-chat)")
# Those that know an effort above `high`.
_EXTRA_HIGH = re.compile(r"gpt-5\.(?:[2-9]|\d\d)")
# Those that do not think where there are tools, in this API: from 5.4 on an effort is refused then, and from 5.6 on
# (which think unless told otherwise) anything but an explicit `none`.
_THINKS_OR_CALLS = re.compile(r"gpt-(?:5\.(?:[4-9]|\d\d)|[6-9]|\d\d)(?!.*-chat)")
_MUST_BE_TOLD = re.compile(r"gpt-(?:5\.(?:[6-9]|\d\d)|[6-9]|\d\d)(?!.*-chat)")
# Those that take no `parallel_tool_calls`.
_CALLS_AS_IT_LIKES = re.compile(r"o\d|codex-mini")
# The last ones of each kind are those of compatible servers.
_STOPS = {
    "stop": Stop.END,
    "eos": Stop.END,
    "eos_token": Stop.END,
    "end_turn": Stop.END,
    "stop_sequence": Stop.STOP_SEQUENCE,
    "length": Stop.MAX_TOKENS,
    "max_tokens": Stop.MAX_TOKENS,
    "model_length": Stop.CONTEXT_FULL,
    "tool_calls": Stop.TOOL_CALLS,
    "function_call": Stop.TOOL_CALLS,
    "tool_use": Stop.TOOL_CALLS,
    "content_filter": Stop.REFUSAL,
    "refusal": Stop.REFUSAL,
}
# Compatible servers say so of an answer that they could not give.
_FAILED = {
    "error": FaultKind.SERVER_ERROR,
    "abort": FaultKind.TRUNCATED,
    "aborted": FaultKind.TRUNCATED,
    "cancelled": FaultKind.TRUNCATED,
    "canceled": FaultKind.TRUNCATED,
    "timeout": FaultKind.TRUNCATED,
    "insufficient_system_resource": FaultKind.SERVER_ERROR,
}


def rules(spec: ProviderSpec) -> Rules:
    """What OpenAI and its like take in a conversation."""
    return Rules(
        provider=spec.name,
        model=spec.model,
        ids=_IDS,
        # OpenAI's own thoughts stay with OpenAI; other servers give theirs away, and some want them back.
        thoughts=Thoughts.NONE if spec.api is Api.OPENAI else Thoughts.OF_THE_LOOP,
        markers=0,
        pictures_in_results=False,
        picture_urls=("https://", "http://"),
    )


def dropped(request: Request, spec: ProviderSpec) -> tuple[str, ...]:
    """The settings of `request` that do not reach the model."""
    names = []
    if _fixed(spec):
        names += [name for name in ("temperature", "top_p") if getattr(request, name) is not None]
    if request.effort is not None and _effort(request, spec) in ({}, _NO_EFFORT):
        names.append("effort")
    if not request.parallel_tools and request.tools and not _one_call(request, spec):
        names.append("parallel_tools")
    if len(_stops(request, spec)) < len(request.stop):
        names.append("stop")
    if output_tokens(request, spec) < request.max_tokens:
        names.append("max_tokens")
    return tuple(names)


_NO_EFFORT = {"reasoning_effort": "none"}


def _fixed(spec: ProviderSpec) -> bool:
    return spec.api is Api.OPENAI and (spec.thinks or _THINKS.match(spec.model) is not None)


def _stops(request: Request, spec: ProviderSpec) -> tuple[str, ...]:
    return () if _fixed(spec) else request.stop[:_MOST_STOPS]


def _one_call(request: Request, spec: ProviderSpec) -> bool:
    """Whether the model is told to call one tool at a time."""
    unable = spec.api is Api.OPENAI and _CALLS_AS_IT_LIKES.match(spec.model) is not None
    return bool(request.tools) and not request.parallel_tools and not unable


def _effort(request: Request, spec: ProviderSpec) -> dict[str, str]:
    ours = spec.api is Api.OPENAI
    if ours and request.tools and _THINKS_OR_CALLS.match(spec.model):
        return _NO_EFFORT if _MUST_BE_TOLD.match(spec.model) else {}
    if request.effort is None or not spec.thinks:
        return {}
    if request.effort is not Effort.MAX:
        return {"reasoning_effort": request.effort.value}
    return {"reasoning_effort": "xhigh" if ours and _EXTRA_HIGH.match(spec.model) else "high"}


def render(request: Request, spec: ProviderSpec) -> dict[str, Any]:
    """The request's body. Fault CALLERS_FAULT where it cannot be written."""
    check(request)
    ours = spec.api is Api.OPENAI
    messages = [turn for message in repaired(request.messages, rules(spec)) for turn in _turns(message, ours)]
    system = system_of(request)
    if system:
        messages.insert(0, {"role": "developer" if ours else "system", "content": system})
    body: dict[str, Any] = {
        "model": spec.model,
        "messages": messages,
        "stream": True,
        "stream_options": {"include_usage": True},
        "max_completion_tokens" if ours else "max_tokens": output_tokens(request, spec),
    }
    if not _fixed(spec):
        body |= {
            name: getattr(request, name) for name in ("temperature", "top_p") if getattr(request, name) is not None
        }
    stops = _stops(request, spec)
    if stops:
        body["stop"] = list(stops)
    body |= _effort(request, spec)
    if request.answer_schema is not None:
        schema = {"name": "answer", "schema": dict(request.answer_schema), "strict": _strict(request.answer_schema)}
        body["response_format"] = {"type": "json_schema", "json_schema": schema}
    return body | _tools(request, spec)


def _tools(request: Request, spec: ProviderSpec) -> dict[str, Any]:
    if not request.tools:
        return {}
    found: dict[str, Any] = {
        "tools": [
            {
                "type": "function",
                "function": {
                    "name": tool.name,
                    "description": tool.description,
                    "parameters": schema_of(tool),
                },
            }
            for tool in request.tools
        ]
    }
    if request.tool:
        found["tool_choice"] = {"type": "function", "function": {"name": request.tool}}
    elif request.tool_use is not ToolUse.AUTO:
        found["tool_choice"] = request.tool_use.value
    if _one_call(request, spec):
        found["parallel_tool_calls"] = False
    return found


_SCALARS = ("string", "number", "integer", "boolean", "null")
_DEEPEST = 5
_WORDS = {"title", "description"}


def _strict(schema: Mapping[str, Any]) -> bool:
    """Whether OpenAI certainly takes `schema` as strict. It refuses one that is not of the subset that it documents; so
    one that might not be is sent as one to follow, and not to be held to."""
    definitions = schema.get("$defs", {})
    root = {name: value for name, value in schema.items() if name != "$defs"}
    if root.get("type") != "object" or not isinstance(definitions, dict):
        return False
    return all(_of_the_subset(part, definitions, 1) for part in (root, *definitions.values()))


def _of_the_subset(schema: Any, definitions: Mapping[str, Any], depth: int) -> bool:
    if not isinstance(schema, dict) or depth > _DEEPEST:
        return False
    if schema.keys() == {"$ref"}:
        return schema["$ref"] in [f"#/$defs/{name}" for name in definitions]
    if schema.keys() - _WORDS == {"anyOf"}:
        some = schema["anyOf"]
        return isinstance(some, list) and bool(some) and all(_of_the_subset(one, definitions, depth) for one in some)
    kind, names = schema.get("type"), schema.keys() - _WORDS - {"type"}
    if kind == "object":
        properties, required = schema.get("properties"), schema.get("required")
        return (
            names == {"properties", "required", "additionalProperties"}
            and schema["additionalProperties"] is False
            and isinstance(properties, dict)
            and isinstance(required, list)
            and sorted(map(str, required)) == sorted(map(str, properties))
            and all(_of_the_subset(value, definitions, depth + 1) for value in properties.values())
        )
    if kind == "array":
        return names == {"items"} and _of_the_subset(schema["items"], definitions, depth + 1)
    values = schema.get("enum", [schema.get("const")])
    scalars = isinstance(values, list) and bool(values) and not any(isinstance(value, list | dict) for value in values)
    return scalars and kind in _SCALARS and (names == {"enum"} or names <= {"const"})


def _turns(message: Message, ours: bool) -> Iterator[dict[str, Any]]:
    if message.role is Role.ASSISTANT:
        yield _spoken(message, ours)
        return
    for part in message.content:
        if isinstance(part, ToolResult):
            words = "\n".join(item.text for item in part.content if isinstance(item, Text))
            # There is no other place to say that it failed.
            yield {"role": "tool", "tool_call_id": part.call_id, "content": f"Error: {words}" if part.error else words}
    rest = [part for part in message.content if not isinstance(part, ToolResult)]
    if rest:
        yield {"role": "user", "content": _content(rest)}


def _spoken(message: Message, ours: bool) -> dict[str, Any]:
    words = "\n\n".join(part.text for part in message.content if isinstance(part, Text))
    calls = [
        {
            "id": part.id,
            "type": "function",
            "function": {"name": part.name, "arguments": _json(part)},
        }
        for part in message.content
        if isinstance(part, ToolCall)
    ]
    said: dict[str, Any] = {"role": "assistant"}
    thoughts = "".join(part.text for part in message.content if isinstance(part, Thinking))
    if thoughts:
        said["reasoning_content"] = thoughts
    # Templates of compatible servers trip over a content that is missing.
    if words or not ours:
        said["content"] = words
    if calls:
        said["tool_calls"] = calls
    return said


def _json(call: ToolCall) -> str:
    try:
        return json.dumps(dict(call.arguments), allow_nan=False, ensure_ascii=False)
    except (TypeError, ValueError, RecursionError):
        raise wrong("the arguments of a call are no JSON") from None


def _content(parts: Sequence[Part]) -> str | list[dict[str, Any]]:
    # Some compatible servers take no list where there is nothing but words.
    if all(isinstance(part, Text) for part in parts):
        return "\n\n".join(part.text for part in parts if isinstance(part, Text))
    content: list[dict[str, Any]] = []
    for part in parts:
        if isinstance(part, Text):
            content.append({"type": "text", "text": part.text})
        elif isinstance(part, Image):
            url = part.url
            if part.data:
                url = f"data:{part.media_type};base64,{base64.b64encode(part.data).decode()}"
            content.append({"type": "image_url", "image_url": {"url": url}})
    return content


@dataclass(slots=True)
class _Call:
    """A call as its pieces name it: by the index and the id on the wire, which need not be the call's own."""

    index: Any
    id: str
    made: Any


class Reader:
    """Reads the chunks of one answer, also of servers that are less than exact about calls of tools and about why a
    model stops: some give a reason with every chunk."""

    def __init__(self, spec: ProviderSpec) -> None:
        self._made = Assembly(spec)
        self._calls: list[_Call] = []
        self._reason = ""
        self._says = False  # the chunk that is read says something
        self._said = False  # any did
        self._loose = False  # a reason came with what was said, or before it: it does not mean the end
        self._refused = False
        self._sequence = ""
        self._closed = False
        self.counted = False

    @property
    def over(self) -> bool:
        """Whether the model has stopped, as far as can be told before the stream ends; only counts may follow."""
        return self._closed or (self._said and not self._loose and bool(self._reason))

    def feed(self, chunk: Any) -> Iterator[Delta]:
        """What a chunk adds."""
        held = fields_of(chunk)
        self._made.id = self._made.id or words_of(held.get("id"))
        self._made.model = self._made.model or words_of(held.get("model"))
        usage = held.get("usage")
        if usage is not None:
            self._count(usage)
        choices = held.get("choices")
        if not choices:
            # The counts, in a chunk of their own, come after everything else.
            self.counted = self._closed = usage is not None and bool(self._reason)
            return
        if not isinstance(choices, list):
            return
        for choice in choices:
            held = fields_of(choice)
            if held.get("index"):
                continue
            self._says = False
            # A server that does not stream this answer sends it whole.
            yield from self._delta(fields_of(held.get("delta") or held.get("message")))
            reason = words_of(held.get("finish_reason"))
            if self._says:
                self._said = True
                self._closed = False
                self._loose = self._loose or bool(reason or self._reason)
                self._reason = reason
            elif reason:
                self._reason = reason
            self._sequence = words_of(held.get("stop_reason")) or self._sequence

    def finish(self) -> Completed:
        """The whole answer, once the stream has ended."""
        if not self._reason:
            raise Fault(FaultKind.TRUNCATED, "the stream ended without a finish reason")
        if self._reason in _FAILED:
            raise Fault(_FAILED[self._reason], f"the answer ended with {self._reason!r}")
        if self._reason not in _STOPS:
            raise unknown_reason(self._reason)
        stop = _STOPS[self._reason]
        if self._refused and stop is Stop.END:
            stop = Stop.REFUSAL
        elif self._sequence and stop is Stop.END and not self._made.has_calls:
            stop = Stop.STOP_SEQUENCE
        return self._made.complete(stop, stop_sequence=self._sequence if stop is Stop.STOP_SEQUENCE else "")

    def _delta(self, delta: Mapping[str, Any]) -> Iterator[Delta]:
        # The names that compatible servers have for what a model thinks.
        thought = words_of(delta.get("reasoning_content")) or words_of(delta.get("reasoning"))
        if thought:
            self._says = True
            yield from self._made.thought(thought)
        words = words_of(delta.get("content"))
        if words:
            self._says = True
            yield from self._made.text(words)
        refusal = words_of(delta.get("refusal"))
        if refusal:
            self._says = self._refused = True
            yield from self._made.text(refusal)
        calls = delta.get("tool_calls")
        for piece in calls if isinstance(calls, list) else ():
            self._says = True
            yield from self._call(piece, member(piece, "index"), member(piece, "function"))
        old = delta.get("function_call")
        if old is not None:
            self._says = True
            yield from self._call(old, 0, old)

    def _call(self, piece: Any, index: Any, function: Any) -> Iterator[Delta]:
        id_, name = words_of(member(piece, "id")), words_of(member(function, "name"))
        call = self._found(index, id_, name)
        if call is None:
            call = _Call(index, id_, self._made.call())
            self._calls.append(call)
        call.id = call.id or id_
        yield from self._made.name(call.made, id_=id_, name=name)
        arguments = member(function, "arguments")
        if isinstance(arguments, dict):
            arguments = json.dumps(arguments)
        yield from self._made.arguments(call.made, words_of(arguments))

    def _found(self, index: Any, id_: str, name: str) -> _Call | None:
        """The call that a piece goes on with. Some servers give no index, or 0 to every call; then an id or a name that
        is another begins a call."""
        known = [call for call in self._calls if index is None or call.index == index]
        if not known:
            return None
        last = known[-1]
        if id_:
            same = [call for call in known if call.id == id_]
            if same and not (index is None and name and same[-1].made.name):
                return same[-1]
            # An id may come late, but not with a second name.
            return None if last.id or (name and last.made.name) else last
        if index is None and name and last.made.name:
            return None
        return last

    def _count(self, usage: Any) -> None:
        prompt, completion = member(usage, "prompt_tokens_details"), member(usage, "completion_tokens_details")
        self._made.usage = Usage(
            input=count_of(member(usage, "prompt_tokens")),
            output=count_of(member(usage, "completion_tokens")),
            cache_read=count_of(member(prompt, "cached_tokens")),
            cache_written=count_of(member(prompt, "cache_write_tokens")),
            thinking=count_of(member(completion, "reasoning_tokens")),
        )
