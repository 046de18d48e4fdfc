"""Requests, answers and what streams in between, in one typed form for every provider.

The form is neutral: nothing in it belongs to one provider's wire format, except `Thinking`, which says whose it is. An
adapter renders it to its provider's format and parses what comes back.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping

    from relight.providers.prompts import Prompt


class Role(StrEnum):
    """Who speaks. Results of tools are spoken by the user; the system speaks in `Request.system`."""

    USER = "user"
    ASSISTANT = "assistant"


@dataclass(frozen=True, slots=True, kw_only=True)
class Text:
    """Words. `cached` asks that everything up to here be kept in the provider's prompt cache, where it has one."""

    text: str
    cached: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Image:
    """A picture: its bytes with their media type, or the address of one."""

    media_type: str = ""
    data: bytes = field(default=b"", repr=False)
    url: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class ToolCall:
    """The model asks for a tool. `id` is as its provider gave it, and is rewritten where another would not take it."""

    id: str
    name: str
    arguments: Mapping[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class ToolResult:
    """What a tool gave back, or why it failed, for the call with `call_id` in the assistant's last message."""

    call_id: str
    content: tuple[Text | Image, ...]
    error: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Thinking:
    """What the model thought. What is signed or redacted is bound to the provider and model that it came from."""

    text: str = ""
    signature: str = ""
    redacted: str = ""
    provider: str = ""
    model: str = ""


Part = Text | Image | ToolCall | ToolResult | Thinking


@dataclass(frozen=True, slots=True, kw_only=True)
class Message:
    """One turn."""

    role: Role
    content: tuple[Part, ...]

    @property
    def text(self) -> str:
        """Its words alone."""
        return "".join(part.text for part in self.content if isinstance(part, Text))

    @property
    def tool_calls(self) -> tuple[ToolCall, ...]:
        """Its calls of tools, in order."""
        return tuple(part for part in self.content if isinstance(part, ToolCall))


def user(*content: str | Part) -> Message:
    """What the user says: words, pictures, and results of tools."""
    return Message(role=Role.USER, content=_parts(content))


def assistant(*content: str | Part) -> Message:
    """What the model said."""
    return Message(role=Role.ASSISTANT, content=_parts(content))


def _parts(content: tuple[str | Part, ...]) -> tuple[Part, ...]:
    return tuple(Text(text=part) if isinstance(part, str) else part for part in content)


@dataclass(frozen=True, slots=True, kw_only=True)
class Tool:
    """What the model may ask for; `schema` is the JSON Schema of an object."""

    name: str
    description: str
    schema: Mapping[str, Any]


class ToolUse(StrEnum):
    """Whether the model may, must or must not ask for a tool."""

    AUTO = "auto"
    NONE = "none"
    REQUIRED = "required"


class Effort(StrEnum):
    """How hard a model that thinks should try; a provider that knows fewer steps takes its nearest."""

    LOW = "low"
    MEDIUM = "medium"
    HIGH = "high"
    MAX = "max"


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """What an agent asks of a model, whichever it will be.

    `system` is text, or a prompt that has a form for each provider. `tool` is the one tool that the model must call,
    with `tool_use` required. `answer_schema` is the JSON Schema that the answer's text must follow. `temperature` and
    `effort` are wishes: where a provider has no such setting, the answer's `dropped` names it.
    """

    messages: tuple[Message, ...]
    system: str | Prompt = ""
    tools: tuple[Tool, ...] = ()
    tool_use: ToolUse = ToolUse.AUTO
    tool: str = ""
    parallel_tools: bool = True
    max_tokens: int = 4096
    temperature: float | None = None
    top_p: float | None = None
    stop: tuple[str, ...] = ()
    effort: Effort | None = None
    answer_schema: Mapping[str, Any] | None = None


class Stop(StrEnum):
    """Why a model stopped. A stream that ends without a reason is no answer."""

    END = "end"
    TOOL_CALLS = "tool_calls"
    MAX_TOKENS = "max_tokens"
    STOP_SEQUENCE = "stop_sequence"
    REFUSAL = "refusal"
    CONTEXT_FULL = "context_full"


@dataclass(frozen=True, slots=True, kw_only=True)
class Usage:
    """Tokens, as the provider counted them: `input` includes what was read from its cache and written to it, `output`
    includes thinking. All are 0 where it did not say."""

    input: int = 0
    output: int = 0
    cache_read: int = 0
    cache_written: int = 0
    thinking: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Attempt:
    """One provider's try at a request, for metrics and for whoever asks why it took so long.

    `outcome` is `answered` or the kind of fault; `first_event_s`, until the first piece of the answer, is None when
    none came. `degraded` tells that the provider was not the first choice.
    """

    provider: str
    model: str
    outcome: str
    seconds: float
    first_event_s: float | None = None
    detail: str = ""
    usage: Usage = Usage()
    degraded: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What came back, and from whom.

    `model` is what the provider says answered. `degraded` tells that it was not the first choice. `dropped` names
    settings of the request that this provider does not have. `attempts` are all tries in order, this one last.
    """

    message: Message
    stop: Stop
    usage: Usage
    provider: str
    model: str
    id: str = ""
    stop_sequence: str = ""
    degraded: bool = False
    dropped: tuple[str, ...] = ()
    attempts: tuple[Attempt, ...] = ()

    @property
    def text(self) -> str:
        """The answer's words."""
        return self.message.text

    @property
    def tool_calls(self) -> tuple[ToolCall, ...]:
        """The tools that the model asks for."""
        return self.message.tool_calls


# -- what streams


@dataclass(frozen=True, slots=True, kw_only=True)
class Started:
    """A provider begins to answer; the first event of a stream."""

    provider: str
    model: str
    degraded: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class TextDelta:
    """More words."""

    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ThinkingDelta:
    """More thoughts. The last piece of a signed or redacted block has the `whole` of it, with what it is signed by."""

    text: str
    whole: Thinking | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ToolCallStarted:
    """A call of a tool begins; `index` counts the calls of this answer from 0."""

    index: int
    id: str
    name: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ToolArguments:
    """More of a call's arguments, as JSON text that is whole only when the answer is."""

    index: int
    json: str


Delta = TextDelta | ThinkingDelta | ToolCallStarted | ToolArguments


@dataclass(frozen=True, slots=True, kw_only=True)
class Restarted:
    """The stream was cut after it had begun: forget everything since `Started`; another provider begins anew."""

    provider: str
    model: str
    degraded: bool
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Finished:
    """The whole answer; the last event of a stream. A stream without it is no answer."""

    answer: Answer


Event = Started | Delta | Restarted | Finished
