"""What all formats share when a request is rendered. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from relight.providers.faults import Fault, FaultKind
from relight.providers.messages import ToolUse
from relight.providers.tools import TOOL_NAME, sendable

if TYPE_CHECKING:
    from relight.providers.messages import Request, Tool
    from relight.providers.spec import ProviderSpec


def check(request: Request) -> None:
    """Raise Fault CALLERS_FAULT for what no provider takes."""
    for tool in request.tools:
        if not TOOL_NAME.fullmatch(tool.name):
            raise wrong(f"tool name {tool.name[:80]!r} is not 1 to 64 letters, digits, '_' and '-'")
        if tool.schema.get("type", "object") != "object":
            raise wrong(f"the schema of tool {tool.name} is not that of an object")
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


def schema_of(tool: Tool) -> dict[str, Any]:
    """The schema of a tool's arguments; OpenAI refuses one that says nothing of properties."""
    return {"type": "object", "properties": {}, **tool.schema}
