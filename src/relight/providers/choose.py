"""Which providers could do what a request needs; pure."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from relight.providers.messages import Image, Text, Thinking, ToolCall, ToolResult

if TYPE_CHECKING:
    from relight.providers.messages import Part, Request
    from relight.providers.spec import ProviderSpec

# Providers count tokens with tokenizers of their own, which they do not publish, and none is right for all. Four bytes
# of UTF-8 a token is what English text comes to; it is used only to leave out a provider that clearly cannot.
_BYTES_A_TOKEN = 4
_TOKENS_AN_IMAGE = 1600


def lacks(request: Request, spec: ProviderSpec) -> str:
    """What the provider lacks for this request, for a person; empty when it lacks nothing."""
    if request.tools and not spec.tools:
        return "takes no tools"
    if not spec.images and any(_shows_image(part) for message in request.messages for part in message.content):
        return "takes no images"
    if spec.context_tokens:
        needed = estimated_tokens(request) + min(request.max_tokens, spec.max_output_tokens or request.max_tokens)
        if needed > spec.context_tokens:
            return f"has a context of {spec.context_tokens} tokens, and some {needed} are needed"
    return ""


def estimated_tokens(request: Request) -> int:
    """About how many tokens the request's input is; a rough figure, which no provider would confirm.

    A system prompt that is a template counts as nothing.
    """
    size = _length(request.system) if isinstance(request.system, str) else 0
    size += sum(len(tool.name) + _length(tool.description) + _length_as_json(tool.schema) for tool in request.tools)
    images = 0
    for message in request.messages:
        for part in message.content:
            size += _bytes(part)
            images += _shows_image(part)
    return size // _BYTES_A_TOKEN + images * _TOKENS_AN_IMAGE


def _shows_image(part: Part) -> bool:
    if isinstance(part, ToolResult):
        return any(isinstance(item, Image) for item in part.content)
    return isinstance(part, Image)


def _bytes(part: Part) -> int:
    match part:
        case Text(text=text) | Thinking(text=text):
            return _length(text)
        case ToolCall():
            return len(part.name) + _length_as_json(part.arguments)
        case ToolResult():
            return sum(_length(item.text) for item in part.content if isinstance(item, Text))
        case Image():
            return 0


# What cannot be sent is found out when it is: an estimate is no place to refuse it.
def _length(text: str) -> int:
    return len(text.encode(errors="replace"))


def _length_as_json(value: object) -> int:
    return len(json.dumps(value, default=str, skipkeys=True))
