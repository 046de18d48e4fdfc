"""What all formats share when a request is rendered. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING

from relight.providers.faults import Fault, FaultKind
from relight.providers.messages import ToolUse
from relight.providers.tools import TOOL_NAME, sendable

if TYPE_CHECKING:
    from relight.providers.messages import Image, Request
    from relight.providers.spec import ProviderSpec

_PICTURES = ("image/jpeg", "image/png", "image/gif", "image/webp")


def check(request: Request) -> None:
    """Raise Fault CALLERS_FAULT for what no provider takes."""
    for tool in request.tools:
        if not TOOL_NAME.fullmatch(tool.name):
            raise wrong(f"tool name {tool.name[:80]!r} is not 1 to 64 letters, digits, '_' and '-'")
    names = [tool.name for tool in request.tools]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise wrong(f"two tools are named {twice!r}")
    if request.tool_use is ToolUse.REQUIRED and not request.tools:
        raise wrong("tool_use is required, and there are no tools")
    if request.tool and (request.tool_use is not ToolUse.REQUIRED or request.tool not in names):
        raise wrong(f"tool {request.tool[:80]!r} must be one of the tools, and tool_use required")
    if request.max_tokens < 1:
        raise wrong(f"max_tokens={request.max_tokens} is not above 0")


def wrong(what: str) -> Fault:
    """The caller's fault."""
    return Fault(FaultKind.CALLERS_FAULT, what, status=400)


def output_tokens(request: Request, spec: ProviderSpec) -> int:
    """How many tokens the answer may have: as many as the model can give."""
    return min(request.max_tokens, spec.max_output_tokens) if spec.max_output_tokens else request.max_tokens


def system_of(request: Request) -> str:
    """The system's text."""
    if not isinstance(request.system, str):
        raise wrong(f"prompt {request.system.name!r} has not been rendered")
    return sendable(request.system) if request.system.strip() else ""


def media_type(image: Image) -> str:
    """What a picture is by its first bytes, because providers compare them; else what it is said to be."""
    data = image.data
    if data.startswith(b"\x89PNG\r\n\x1a\n"):
        return "image/png"
    if data.startswith(b"\xff\xd8\xff"):
        return "image/jpeg"
    if data.startswith((b"GIF87a", b"GIF89a")):
        return "image/gif"
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return "image/webp"
    if image.media_type not in _PICTURES:
        raise wrong(f"a picture is {image.media_type[:80]!r}, which is none of {', '.join(_PICTURES)}")
    return image.media_type
