"""Anthropic's Messages API as the router's face: pure translation."""

from __future__ import annotations

import dataclasses
import json
import secrets
from typing import TYPE_CHECKING, Any

from relight.providers.gateway.face import (
    Asked,
    Field,
    Refused,
    Trouble,
    image_of_base64,
    image_of_url,
    plain_text,
    refuse_all,
    to_json,
    unknown,
)
from relight.providers.gateway.marks import marked, unmarked
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

STATUSES: dict[Trouble, tuple[int, str]] = {
    Trouble.INVALID: (400, "invalid_request_error"),
    Trouble.TOO_LARGE: (413, "request_too_large"),
    Trouble.UNAUTHORIZED: (401, "authentication_error"),
    Trouble.FORBIDDEN: (403, "permission_error"),
    Trouble.NOT_FOUND: (404, "not_found_error"),
    Trouble.WRONG_METHOD: (405, "invalid_request_error"),
    Trouble.PROVIDERS_DOWN: (529, "overloaded_error"),
    Trouble.WOULD_DEGRADE: (503, "overloaded_error"),
    Trouble.BUSY: (529, "overloaded_error"),
    Trouble.DEADLINE: (504, "timeout_error"),
    Trouble.UNUSABLE: (502, "api_error"),
    Trouble.CUT: (502, "api_error"),
    Trouble.BROKEN: (500, "api_error"),
}

STOPS: dict[Stop, str] = {
    Stop.END: "end_turn",
    Stop.TOOL_CALLS: "tool_use",
    Stop.MAX_TOKENS: "max_tokens",
    Stop.STOP_SEQUENCE: "stop_sequence",
    Stop.REFUSAL: "refusal",
    Stop.CONTEXT_FULL: "model_context_window_exceeded",
}

# Half a step is rounded down: nobody is billed for more thought than was asked for.
_EFFORTS = {
    "low": Effort.LOW,
    "medium": Effort.MEDIUM,
    "high": Effort.HIGH,
    "xhigh": Effort.HIGH,
    "max": Effort.MAX,
}

# Where a model thinks is nothing that every provider can be told, and it is not how much.
_BETWEEN = "between_tools"

_REFUSED = {
    "container": "containers live at one provider",
    "mcp_servers": "servers that a provider calls are not; call them from the agent",
    "inference_geo": "say in the gateway's configuration which providers, and so which places, are asked",
}

_KNOWN = frozenset(
    {
        *_REFUSED,
        "cache_control",
        "max_tokens",
        "messages",
        "model",
        "output_config",
        "output_format",
        "stop_sequences",
        "stream",
        "system",
        "temperature",
        "thinking",
        "tool_choice",
        "tools",
        "top_p",
    }
)


class AnthropicFace:
    """`POST /v1/messages`."""

    def parse(self, body: Field, *, max_tokens: int) -> Asked:
        """See `Face.parse`."""
        refuse_all(body, _REFUSED)
        body.need("model").text()
        limit, stream = body.find("max_tokens"), body.find("stream")
        temperature, top_p, stop = body.find("temperature"), body.find("top_p"), body.find("stop_sequences")
        system, messages = _messages(body)
        tools = tuple(_tool(item) for item in found.items()) if (found := body.find("tools")) else ()
        request = Request(
            messages=messages,
            system=system,
            tools=tools,
            max_tokens=limit.count() if limit else max_tokens,
            temperature=temperature.number() if temperature else None,
            top_p=top_p.number() if top_p else None,
            stop=tuple(item.text() for item in stop.items()) if stop else (),
            effort=_effort(body),
            answer_schema=_answer_schema(body),
            **_tool_choice(body, tools),
        )
        ignored = unknown(body, _KNOWN)
        if (thinking := body.find("thinking")) and thinking.need("type").value == _BETWEEN:
            ignored = (*ignored, "thinking")
        return Asked(request=request, stream=bool(stream and stream.flag()), ignored=ignored)

    def render(self, answer: Answer) -> dict[str, Any]:
        """See `Face.render`."""
        return {
            **_head(answer.model),
            "content": [block for part in answer.message.content if (block := _block(part))],
            "stop_reason": STOPS[answer.stop],
            "stop_sequence": answer.stop_sequence or None,
            "usage": _usage(answer.usage),
        }

    def writer(self, asked: Asked) -> AnthropicWriter:  # noqa: ARG002 - nothing to choose here
        """See `Face.writer`."""
        return AnthropicWriter()

    def error(self, refused: Refused) -> tuple[int, dict[str, Any]]:
        """See `Face.error`."""
        status, kind = STATUSES[refused.trouble]
        where = ".".join(str(part) for part in refused.at)
        message = f"{where}: {refused.message}" if where else refused.message
        return refused.status or status, {"type": "error", "error": {"type": kind, "message": message}}

    def models(self, names: tuple[str, ...]) -> dict[str, Any]:
        """See `Face.models`."""
        data = [self.model(name) for name in names]
        return {"data": data, "has_more": False, "first_id": names[0], "last_id": names[-1]}

    def model(self, name: str) -> dict[str, Any]:
        """See `Face.model`."""
        epoch = "1970-01-01T00:00:00Z"  # as Anthropic says it where it does not know when a model was released
        return {"type": "model", "id": name, "display_name": name, "created_at": epoch, "lifecycle": "active"}

    def counted(self, tokens: int) -> dict[str, Any]:
        """The answer of `count_tokens`: it says that it is an estimate, since no provider was asked."""
        return {"input_tokens": tokens, "estimated": True}


# -- what the client asks


def _messages(body: Field) -> tuple[str, tuple[Message, ...]]:
    """The system's words, and the turns. What the system says between turns joins what it said first."""
    system = [plain_text(found)] if (found := body.find("system")) else []
    turns: list[Message] = []
    item = None
    for item in body.need("messages").items():
        role, content = item.need("role"), item.need("content")
        if role.value == "system":
            system.append(plain_text(content))
        elif role.value in (Role.USER, Role.ASSISTANT):
            turns.append(Message(role=Role(role.value), content=tuple(_parts(content))))
        else:
            raise Refused("this must be user, assistant or system", at=role.at)
    if not turns or item is None:
        raise Refused("there must be one message at least", at=("messages",))
    last = turns[-1]
    if last.role is Role.ASSISTANT and not last.tool_calls:
        raise Refused("an answer's beginning cannot be given: end with what the user says", at=item.at)
    if body.find("cache_control"):
        turns[-1] = dataclasses.replace(last, content=_cached(last.content))
    return "\n\n".join(text for text in system if text), tuple(turns)


def _parts(content: Field) -> Iterator[Part]:
    if isinstance(content.value, str):
        yield Text(text=content.value)
        return
    for block in content.items():
        part = _part(block)
        if part is not None:
            yield part


def _part(block: Field) -> Part | None:
    kind = block.need("type")
    match kind.value:
        case "text":
            return Text(text=block.need("text").text(), cached=block.find("cache_control") is not None)
        case "image":
            return _image(block)
        case "tool_use":
            name, arguments = block.need("name").text(), block.need("input").mapping()
            return ToolCall(id=block.need("id").text(), name=name, arguments=arguments)
        case "tool_result":
            return _tool_result(block)
        case "thinking":
            thought = block.need("thinking").text()
            return _thinking(block.need("signature"), text=thought)
        case "redacted_thinking":
            return _thinking(block.need("data"), redacted=True)
    raise Refused("this kind of block is not supported: send it as text or as an image", at=kind.at)


def _thinking(signed: Field, *, text: str = "", redacted: bool = False) -> Thinking | None:
    """Nothing where the mark is not ours: another provider than the one that signed it would refuse the request."""
    whose = unmarked(signed.text())
    if whose is None:
        return None
    provider, model, found = whose
    if redacted:
        return Thinking(redacted=found, provider=provider, model=model)
    return Thinking(text=text, signature=found, provider=provider, model=model)


def _image(block: Field) -> Image:
    source = block.need("source")
    kind = source.need("type")
    if kind.value == "base64":
        data = source.need("data")
        return image_of_base64(source.need("media_type"), data.text(), data.at)
    if kind.value == "url":
        return image_of_url(source.need("url"))
    raise Refused("this must be base64 or url: a file lives at one provider", at=kind.at)


def _tool_result(block: Field) -> ToolResult:
    content, error = block.find("content"), block.find("is_error")
    parts: list[Text | Image] = []
    for part in _parts(content) if content else ():
        if not isinstance(part, Text | Image):
            raise Refused("a result holds text and images alone", at=(*block.at, "content"))
        parts.append(part)
    if block.find("cache_control"):
        parts = list(_cached(tuple(parts)))
    return ToolResult(
        call_id=block.need("tool_use_id").text(), content=tuple(parts), error=bool(error and error.flag())
    )


def _cached(parts: tuple[Any, ...]) -> tuple[Any, ...]:
    """The last text among them marked as the end of what is to be cached; those of a result count."""
    for index in range(len(parts) - 1, -1, -1):
        part = parts[index]
        if isinstance(part, Text) and part.text:
            return (*parts[:index], dataclasses.replace(part, cached=True), *parts[index + 1 :])
        if isinstance(part, ToolResult) and (inner := _cached(part.content)) != part.content:
            return (*parts[:index], dataclasses.replace(part, content=inner), *parts[index + 1 :])
    return parts


def _tool(item: Field) -> Tool:
    kind, description = item.find("type"), item.find("description")
    if kind is not None and kind.value != "custom":
        raise Refused("a tool of one provider is not supported: describe it as a tool of the agent's own", at=kind.at)
    return Tool(
        name=item.need("name").text(),
        description=description.text() if description else "",
        schema=item.need("input_schema").mapping(),
    )


def _tool_choice(body: Field, tools: tuple[Tool, ...]) -> dict[str, Any]:
    choice = body.find("tool_choice")
    if choice is None:
        return {}
    kind, single = choice.need("type"), choice.find("disable_parallel_tool_use")
    parallel = not (single and single.flag())
    match kind.value:
        case "auto":
            return {"tool_use": ToolUse.AUTO, "parallel_tools": parallel}
        case "none":
            return {"tool_use": ToolUse.NONE}
        case "any":
            return {"tool_use": ToolUse.REQUIRED, "parallel_tools": parallel}
        case "tool":
            name = choice.need("name")
            if name.text() not in {tool.name for tool in tools}:
                raise Refused("there is no such tool in tools", at=name.at)
            return {"tool_use": ToolUse.REQUIRED, "tool": name.text(), "parallel_tools": parallel}
    raise Refused("this must be auto, any, tool or none", at=kind.at)


def _effort(body: Field) -> Effort | None:
    config, thinking = body.find("output_config"), body.find("thinking")
    effort = config.find("effort") if config else None
    if effort is not None:
        if effort.text() not in _EFFORTS:
            raise Refused(f"this must be one of {', '.join(_EFFORTS)}", at=effort.at)
        return _EFFORTS[effort.text()]
    if thinking is None:
        return None
    kind = thinking.need("type")
    if kind.value in ("disabled", _BETWEEN):
        return None
    if kind.value not in ("adaptive", "enabled"):
        raise Refused(f"this must be enabled, adaptive, {_BETWEEN} or disabled", at=kind.at)
    budget = thinking.find("budget_tokens")
    if budget is None:
        return Effort.HIGH  # what Anthropic takes where none is said
    return next((effort for limit, effort in _BUDGETS if budget.count() <= limit), Effort.MAX)


_BUDGETS = ((4096, Effort.LOW), (16384, Effort.MEDIUM), (32768, Effort.HIGH))


def _answer_schema(body: Field) -> Mapping[str, Any] | None:
    config = body.find("output_config")
    form = (config.find("format") if config else None) or body.find("output_format")
    if form is None:
        return None
    kind = form.need("type")
    if kind.value != "json_schema":
        raise Refused("this must be json_schema", at=kind.at)
    return form.need("schema").mapping()


# -- what the client gets


def _head(model: str) -> dict[str, Any]:
    return {"id": f"msg_{secrets.token_hex(12)}", "type": "message", "role": "assistant", "model": model}


def _block(part: Part) -> dict[str, Any] | None:
    match part:
        case Text(text=text):
            return {"type": "text", "text": text} if text else None
        case ToolCall():
            return {"type": "tool_use", "id": part.id, "name": part.name, "input": dict(part.arguments)}
        case Thinking(redacted=redacted) if redacted:
            return {"type": "redacted_thinking", "data": _mark(part)}
        case Thinking():
            return {"type": "thinking", "thinking": part.text, "signature": _mark(part)}
    return None


def _mark(part: Thinking) -> str:
    return marked(part.redacted or part.signature, provider=part.provider, model=part.model)


def _usage(usage: Usage) -> dict[str, Any]:
    return {
        "input_tokens": max(0, usage.input - usage.cache_read - usage.cache_written),
        "cache_creation_input_tokens": usage.cache_written,
        "cache_read_input_tokens": usage.cache_read,
        "output_tokens": usage.output,
        **({"output_tokens_details": {"thinking_tokens": usage.thinking}} if usage.thinking else {}),
    }


@dataclasses.dataclass(slots=True)
class _Call:
    """A call, with what has come of its arguments."""

    id: str
    name: str
    index: int
    json: str = ""

    def is_whole(self) -> bool:
        """Whether nothing can come any more; of a call without arguments that is not known before the answer's end."""
        if not self.json.rstrip().endswith("}"):
            return False
        try:
            json.loads(self.json)
        except (ValueError, RecursionError):
            return False
        return True


class AnthropicWriter:
    """One message as events. One block is open at a time, as clients expect, and each is written from its beginning to
    its end: what comes while a call is not whole is held back until it is."""

    def __init__(self) -> None:
        self._next = 0
        self._open = ""  # the kind of the block that is open
        self._started: Started | None = None
        self._call: _Call | None = None  # whose block is open
        self._held: list[TextDelta | ThinkingDelta | _Call] = []

    def event(self, event: Event) -> bytes:
        """See `Writer.event`."""
        return b"".join(_sse(item) for item in self._items(event))

    def broken(self, refused: Refused) -> bytes:
        """See `Writer.broken`."""
        return _sse(AnthropicFace().error(refused)[1])

    def ping(self) -> bytes:
        """See `Writer.ping`."""
        return _sse({"type": "ping"})

    def _items(self, event: Event) -> Iterator[dict[str, Any]]:
        match event:
            case Started():
                self._started = event
                # What came in is counted when the answer is whole; `message_delta` corrects it.
                usage = {"input_tokens": 0, "output_tokens": 0}
                empty: dict[str, Any] = {"content": [], "stop_reason": None, "stop_sequence": None, "usage": usage}
                yield {"type": "message_start", "message": {**_head(event.model), **empty}}
            case TextDelta() | ThinkingDelta():
                self._held.append(event)
                yield from self._release()
            case ToolCallStarted(index=index):
                self._held.append(_Call(event.id, event.name, index))
                yield from self._release()
            case ToolArguments(index=index, json=text) if text:
                yield from self._argue(index, text)
            case Finished(answer=answer):
                yield from self._release(whole=True)
                yield from self._close()
                reason = {"stop_reason": STOPS[answer.stop], "stop_sequence": answer.stop_sequence or None}
                yield {"type": "message_delta", "delta": reason, "usage": _usage(answer.usage)}
                yield {"type": "message_stop"}

    def _release(self, *, whole: bool = False) -> Iterator[dict[str, Any]]:
        """Write what was held back, up to the next call that is not whole; all of it where the answer is `whole`."""
        while self._held and (whole or self._call is None or self._call.is_whole()):
            match self._held.pop(0):
                case TextDelta(text=text):
                    if text:
                        yield from self._go_on("text", {"type": "text", "text": ""})
                        yield self._delta({"type": "text_delta", "text": text})
                case ThinkingDelta() as thought:
                    yield from self._thought(thought)
                case _Call() as call:
                    yield from self._close()
                    yield self._start({"type": "tool_use", "id": call.id, "name": call.name, "input": {}})
                    self._call = call
                    if call.json:
                        yield self._delta({"type": "input_json_delta", "partial_json": call.json})

    def _thought(self, event: ThinkingDelta) -> Iterator[dict[str, Any]]:
        whole = event.whole
        if whole is not None and whole.redacted:
            yield from self._close()
            yield self._start({"type": "redacted_thinking", "data": _mark(whole)})
            yield self._stop()
            return
        if event.text or whole is not None:
            yield from self._go_on("thinking", {"type": "thinking", "thinking": "", "signature": ""})
        if event.text:
            yield self._delta({"type": "thinking_delta", "thinking": event.text})
        if whole is not None:
            yield self._delta({"type": "signature_delta", "signature": _mark(whole)})
            yield self._stop()

    def _argue(self, index: int, text: str) -> Iterator[dict[str, Any]]:
        """Arguments go to their own call alone. Behind a call that was whole nothing but blanks can come."""
        if self._call is not None and self._call.index == index:
            self._call.json += text
            yield self._delta({"type": "input_json_delta", "partial_json": text})
            yield from self._release()
        for held in self._held:
            if isinstance(held, _Call) and held.index == index:
                held.json += text

    def _go_on(self, kind: str, block: dict[str, Any]) -> Iterator[dict[str, Any]]:
        if self._open != kind:
            yield from self._close()
            yield self._start(block)

    def _close(self) -> Iterator[dict[str, Any]]:
        if not self._open:
            return
        if self._open == "thinking" and self._started is not None:
            # Never signed: marked all the same, so that it is known whose it is when it comes back.
            mark = marked("", provider=self._started.provider, model=self._started.model)
            yield self._delta({"type": "signature_delta", "signature": mark})
        yield self._stop()

    def _start(self, block: dict[str, Any]) -> dict[str, Any]:
        self._open = block["type"]
        return {"type": "content_block_start", "index": self._next, "content_block": block}

    def _delta(self, delta: dict[str, Any]) -> dict[str, Any]:
        return {"type": "content_block_delta", "index": self._next, "delta": delta}

    def _stop(self) -> dict[str, Any]:
        self._open, self._call = "", None
        self._next += 1
        return {"type": "content_block_stop", "index": self._next - 1}


def _sse(item: dict[str, Any]) -> bytes:
    return f"event: {item['type']}\ndata: {to_json(item)}\n\n".encode()
