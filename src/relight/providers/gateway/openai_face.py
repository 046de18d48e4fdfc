"""OpenAI's Chat Completions API as the router's face: pure translation."""

from __future__ import annotations

import secrets
import time
from typing import TYPE_CHECKING, Any

from relight.providers.gateway.face import (
    Asked,
    Field,
    Refused,
    Trouble,
    image_of_url,
    plain_text,
    refuse_all,
    to_json,
    unknown,
)
from relight.providers.json_text import read_json
from relight.providers.messages import (
    Effort,
    Finished,
    Image,
    Message,
    Request,
    Role,
    Started,
    Stop,
    Text,
    TextDelta,
    Thinking,
    ThinkingDelta,
    Tool,
    ToolArguments,
    ToolCall,
    ToolCallStarted,
    ToolResult,
    ToolUse,
)

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from relight.providers.messages import Answer, Event, Part, Usage

STATUSES: dict[Trouble, tuple[int, str, str | None]] = {
    Trouble.INVALID: (400, "invalid_request_error", None),
    Trouble.TOO_LARGE: (413, "invalid_request_error", "request_too_large"),
    Trouble.UNAUTHORIZED: (401, "invalid_request_error", "invalid_api_key"),
    Trouble.FORBIDDEN: (403, "invalid_request_error", "forbidden"),
    Trouble.NOT_FOUND: (404, "invalid_request_error", "not_found"),
    Trouble.WRONG_METHOD: (405, "invalid_request_error", "method_not_allowed"),
    Trouble.PROVIDERS_DOWN: (503, "server_error", "providers_down"),
    Trouble.WOULD_DEGRADE: (503, "server_error", "would_degrade"),
    Trouble.BUSY: (503, "server_error", "gateway_busy"),
    Trouble.DEADLINE: (504, "server_error", "deadline_exceeded"),
    Trouble.UNUSABLE: (502, "server_error", "unusable_answers"),
    Trouble.CUT: (502, "server_error", "stream_cut"),
    Trouble.BROKEN: (500, "server_error", "internal_error"),
}

STOPS: dict[Stop, str] = {
    Stop.END: "stop",
    Stop.TOOL_CALLS: "tool_calls",
    Stop.MAX_TOKENS: "length",
    Stop.STOP_SEQUENCE: "stop",
    Stop.REFUSAL: "content_filter",
    Stop.CONTEXT_FULL: "length",
}

# Half a step is rounded down: nobody is billed for more thought than was asked for.
_EFFORTS: dict[str, Effort | None] = {
    "none": None,
    "minimal": Effort.LOW,
    "low": Effort.LOW,
    "medium": Effort.MEDIUM,
    "high": Effort.HIGH,
    "xhigh": Effort.HIGH,
    "max": Effort.MAX,
}

_REFUSED = {
    "audio": "ask for text alone",
    "function_call": "use tool_choice",
    "functions": "use tools",
    "logit_bias": "not every provider has it",
    "logprobs": "not every provider has them",
    "moderation": "ask for it by itself",
    "top_logprobs": "not every provider has them",
    "web_search_options": "give the agent a tool that searches",
}

_KNOWN = frozenset(
    {
        *_REFUSED,
        "max_completion_tokens",
        "max_tokens",
        "messages",
        "modalities",
        "model",
        "n",
        "parallel_tool_calls",
        "reasoning_effort",
        "response_format",
        "stop",
        "stream",
        "stream_options",
        "temperature",
        "tool_choice",
        "tools",
        "top_p",
    }
)

_JSON_ALONE = "Answer with one JSON object and nothing else."


class OpenAIFace:
    """`POST /v1/chat/completions`."""

    def parse(self, body: Field, *, max_tokens: int) -> Asked:
        """See `Face.parse`."""
        _refuse(body)
        body.need("model").text()
        limit = body.find("max_completion_tokens") or body.find("max_tokens")
        temperature, top_p = body.find("temperature"), body.find("top_p")
        stream, options, parallel = body.find("stream"), body.find("stream_options"), body.find("parallel_tool_calls")
        usage = options.find("include_usage") if options else None
        tools = tuple(_tool(item) for item in found.items()) if (found := body.find("tools")) else ()
        tools, choice = _tool_choice(body.find("tool_choice"), tools)
        answer_schema, json_alone = _answer_schema(body.find("response_format"))
        system, messages = _messages(body.need("messages"))
        request = Request(
            messages=messages,
            system="\n\n".join(text for text in [*system, json_alone] if text),
            tools=tools,
            parallel_tools=parallel.flag() if parallel else True,
            max_tokens=limit.count() if limit else max_tokens,
            temperature=temperature.number() if temperature else None,
            top_p=top_p.number() if top_p else None,
            stop=_stop(body.find("stop")),
            effort=_effort(body.find("reasoning_effort")),
            answer_schema=answer_schema,
            **choice,
        )
        return Asked(
            request=request,
            stream=bool(stream and stream.flag()),
            include_usage=bool(usage and usage.flag()),
            ignored=unknown(body, _KNOWN),
        )

    def render(self, answer: Answer) -> dict[str, Any]:
        """See `Face.render`."""
        calls = [
            {"id": call.id, "type": "function", "function": {"name": call.name, "arguments": to_json(call.arguments)}}
            for call in answer.tool_calls
        ]
        thought = "".join(part.text for part in answer.message.content if isinstance(part, Thinking))
        message = {
            "role": "assistant",
            "content": answer.text or (None if calls else ""),
            "refusal": None,
            **({"reasoning_content": thought} if thought else {}),
            **({"tool_calls": calls} if calls else {}),
        }
        choice = {"index": 0, "message": message, "logprobs": None, "finish_reason": STOPS[answer.stop]}
        return {**_head("chat.completion", answer.model), "choices": [choice], "usage": _usage(answer.usage)}

    def writer(self, asked: Asked) -> OpenAIWriter:
        """See `Face.writer`."""
        return OpenAIWriter(include_usage=asked.include_usage)

    def error(self, refused: Refused) -> tuple[int, dict[str, Any]]:
        """See `Face.error`."""
        status, kind, code = STATUSES[refused.trouble]
        where = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in refused.at).lstrip(".")
        message = f"{where}: {refused.message}" if where else refused.message
        return refused.status or status, {
            "error": {"message": message, "type": kind, "param": where or None, "code": code}
        }

    def models(self, names: tuple[str, ...]) -> dict[str, Any]:
        """See `Face.models`."""
        return {"object": "list", "data": [self.model(name) for name in names]}

    def model(self, name: str) -> dict[str, Any]:
        """See `Face.model`."""
        return {"id": name, "object": "model", "created": 0, "owned_by": "relight"}


# -- what the client asks


def _refuse(body: Field) -> None:
    refuse_all(body, _REFUSED)
    count, modalities = body.find("n"), body.find("modalities")
    if count is not None and count.count() != 1:
        raise Refused("only one choice is supported: leave n out, and ask again for another", at=count.at)
    for item in modalities.items() if modalities else ():
        if item.value != "text":
            raise Refused("this is not supported: ask for text alone", at=item.at)


def _messages(turns: Field) -> tuple[list[str], tuple[Message, ...]]:
    """The system's words, and the turns. What the system says between turns joins what it said first."""
    system: list[str] = []
    messages: list[Message] = []
    legacy: list[ToolCall] = []  # calls of the old form, which has no ids, that have no result yet
    results = False  # whether the last message holds results of tools
    for item in turns.items():
        role = item.need("role")
        match role.value:
            case "system" | "developer":
                system.append(plain_text(item.need("content")))
                continue
            case "user":
                messages.append(Message(role=Role.USER, content=tuple(_parts(item.need("content")))))
            case "assistant":
                message = _assistant(item)
                legacy = [call for call in message.tool_calls if call.id.startswith(_LEGACY)] or legacy
                messages.append(message)
            case "tool" | "function":
                result = _result(item) if role.value == "tool" else _legacy_result(item, legacy)
                before = messages.pop().content if results else ()
                messages.append(Message(role=Role.USER, content=(*before, result)))
            case _:
                raise Refused("this must be system, developer, user, assistant or tool", at=role.at)
        results = role.value in ("tool", "function")
    if not messages:
        raise Refused("there must be one message at least that is not the system's", at=turns.at)
    return system, tuple(messages)


def _parts(content: Field) -> Iterator[Text | Image]:
    if isinstance(content.value, str):
        yield Text(text=content.value)
        return
    for item in content.items():
        kind = item.need("type")
        match kind.value:
            case "text":
                yield Text(text=item.need("text").text())
            case "refusal":
                yield Text(text=item.need("refusal").text())
            case "image_url":
                url = item.need("image_url")
                # Some clients give the address itself, as the Responses API has it.
                yield image_of_url(url if isinstance(url.value, str) else url.need("url"))
            case _:
                raise Refused("this kind of part is not supported: send it as text or as an image", at=kind.at)


def _assistant(item: Field) -> Message:
    content, refusal, audio = item.find("content"), item.find("refusal"), item.find("audio")
    if audio is not None:
        raise Refused("this is not supported: send what was said as text", at=audio.at)
    parts: list[Part] = list(_parts(content)) if content else []
    if refusal:
        parts.append(Text(text=refusal.text()))
    parts = [part for part in parts if not isinstance(part, Text) or part.text]
    made = [_call(call) for call in calls.items()] if (calls := item.find("tool_calls")) else []
    if call := item.find("function_call"):
        made.append(_called(call, id_=f"{_LEGACY}{item.at[-1]}"))
    parts += [Text(text=broken) for _, broken in made if broken]
    return Message(role=Role.ASSISTANT, content=(*parts, *(call for call, _ in made)))


_LEGACY = "call_of_message_"


def _call(item: Field) -> tuple[ToolCall, str]:
    kind = item.find("type")
    if kind is not None and kind.value != "function":
        raise Refused("this kind of tool is not supported: use a function", at=kind.at)
    return _called(item.need("function"), id_=item.need("id").text())


def _called(function: Field, *, id_: str) -> tuple[ToolCall, str]:
    """The call, and its arguments as they stand where they are no JSON object.

    A model wrote those, and its client has told it so in the call's result: refused, the conversation could never go
    on. Not every provider takes them, so the call keeps none, and they stay as words that the model has said.
    """
    name, found = function.need("name").text(), function.find("arguments")
    if found is None or not found.text().strip():
        return ToolCall(id=id_, name=name, arguments={}), ""
    try:
        arguments = read_json(found.text())
    except ValueError:
        arguments = None
    if not isinstance(arguments, dict):
        return ToolCall(id=id_, name=name, arguments={}), found.text()
    return ToolCall(id=id_, name=name, arguments=arguments), ""


def _result(item: Field) -> ToolResult:
    content = item.find("content")
    return ToolResult(call_id=item.need("tool_call_id").text(), content=tuple(_parts(content)) if content else ())


def _legacy_result(item: Field, legacy: list[ToolCall]) -> ToolResult:
    name, content = item.need("name"), item.find("content")
    for call in legacy:
        if call.name == name.text():
            legacy.remove(call)
            return ToolResult(call_id=call.id, content=tuple(_parts(content)) if content else ())
    raise Refused("no call of this function came before", at=name.at)


def _tool(item: Field) -> Tool:
    kind = item.need("type")
    if kind.value != "function":
        raise Refused("this kind of tool is not supported: use a function", at=kind.at)
    function = item.need("function")
    description, parameters = function.find("description"), function.find("parameters")
    return Tool(
        name=function.need("name").text(),
        description=description.text() if description else "",
        schema=parameters.mapping() if parameters else {"type": "object", "properties": {}},
    )


def _tool_choice(choice: Field | None, tools: tuple[Tool, ...]) -> tuple[tuple[Tool, ...], dict[str, Any]]:
    """The tools that may be used, and how."""
    if choice is None:
        return tools, {}
    if isinstance(choice.value, str):
        return tools, {"tool_use": _mode(choice)}
    kind = choice.need("type")
    if kind.value in tuple(ToolUse):
        return tools, {"tool_use": _mode(kind)}
    if kind.value == "function":
        name = _known(choice.need("function").need("name"), tools)
        return tools, {"tool_use": ToolUse.REQUIRED, "tool": name}
    if kind.value == "allowed_tools":
        allowed = choice.need("allowed_tools")
        names = {_known(item.need("function").need("name"), tools) for item in allowed.need("tools").items()}
        return tuple(tool for tool in tools if tool.name in names), {"tool_use": _mode(allowed.need("mode"))}
    raise Refused("this must be function or allowed_tools", at=kind.at)


def _mode(field: Field) -> ToolUse:
    if field.value not in tuple(ToolUse):
        raise Refused(f"this must be one of {', '.join(ToolUse)}, or name a function", at=field.at)
    return ToolUse(field.value)


def _known(name: Field, tools: tuple[Tool, ...]) -> str:
    if name.text() not in {tool.name for tool in tools}:
        raise Refused("there is no such tool in tools", at=name.at)
    return name.text()


def _answer_schema(form: Field | None) -> tuple[Mapping[str, Any] | None, str]:
    """The schema that the answer follows, or the words that ask for it."""
    if form is None:
        return None, ""
    kind = form.need("type")
    match kind.value:
        case "text":
            return None, ""
        case "json_object":
            # Not every provider has a mode for JSON of any shape; all of them take it said.
            return None, _JSON_ALONE
        case "json_schema":
            return form.need("json_schema").need("schema").mapping(), ""
    raise Refused("this must be text, json_object or json_schema", at=kind.at)


def _stop(stop: Field | None) -> tuple[str, ...]:
    if stop is None:
        return ()
    return (stop.value,) if isinstance(stop.value, str) else tuple(item.text() for item in stop.items())


def _effort(effort: Field | None) -> Effort | None:
    if effort is None:
        return None
    if effort.text() not in _EFFORTS:
        raise Refused(f"this must be one of {', '.join(_EFFORTS)}", at=effort.at)
    return _EFFORTS[effort.text()]


# -- what the client gets


def _head(kind: str, model: str) -> dict[str, Any]:
    return {"id": f"chatcmpl-{secrets.token_hex(12)}", "object": kind, "created": int(time.time()), "model": model}


def _usage(usage: Usage) -> dict[str, Any]:
    return {
        "prompt_tokens": usage.input,
        "completion_tokens": usage.output,
        "total_tokens": usage.input + usage.output,
        "prompt_tokens_details": {"cached_tokens": usage.cache_read, "cache_write_tokens": usage.cache_written},
        "completion_tokens_details": {"reasoning_tokens": usage.thinking},
    }


class OpenAIWriter:
    """One completion as chunks."""

    def __init__(self, *, include_usage: bool) -> None:
        self._usage = include_usage
        self._head: dict[str, Any] = {}
        self._argued: set[int] = set()

    def event(self, event: Event) -> bytes:
        """See `Writer.event`."""
        return b"".join(_sse(item) for item in self._items(event)) + (_DONE if isinstance(event, Finished) else b"")

    def broken(self, refused: Refused) -> bytes:
        """See `Writer.broken`. No `[DONE]` follows: it would say that the answer is whole."""
        return _sse(OpenAIFace().error(refused)[1])

    def ping(self) -> bytes:
        """See `Writer.ping`."""
        return b": ping\n\n"

    def _items(self, event: Event) -> Iterator[dict[str, Any]]:
        match event:
            case Started(model=model):
                self._head = _head("chat.completion.chunk", model)
                yield self._chunk({"role": "assistant", "content": ""})
            case TextDelta(text=text) if text:
                yield self._chunk({"content": text})
            case ThinkingDelta(text=text) if text:
                yield self._chunk({"reasoning_content": text})
            case ToolCallStarted(index=index):
                function = {"name": event.name, "arguments": ""}
                yield self._call(index, {"id": event.id, "type": "function", "function": function})
            case ToolArguments(index=index, json=text) if text:
                self._argued.add(index)
                yield self._call(index, {"function": {"arguments": text}})
            case Finished(answer=answer):
                # A call without arguments: clients read them as JSON, and an empty text is none.
                for index in set(range(len(answer.tool_calls))) - self._argued:
                    yield self._call(index, {"function": {"arguments": "{}"}})
                yield self._chunk({}, finish=STOPS[answer.stop])
                if self._usage:
                    yield {**self._head, "choices": [], "usage": _usage(answer.usage)}

    def _call(self, index: int, call: dict[str, Any]) -> dict[str, Any]:
        return self._chunk({"tool_calls": [{"index": index, **call}]})

    def _chunk(self, delta: dict[str, Any], *, finish: str | None = None) -> dict[str, Any]:
        choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish}
        return {**self._head, "choices": [choice], **({"usage": None} if self._usage else {})}


_DONE = b"data: [DONE]\n\n"


def _sse(item: dict[str, Any]) -> bytes:
    return f"data: {to_json(item)}\n\n".encode()
