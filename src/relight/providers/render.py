"""What all formats share when a request is rendered. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from relight.providers.faults import Fault, FaultKind
from relight.providers.json_text import sendable
from relight.providers.messages import ToolUse
from relight.providers.tools import TOOL_NAME

if TYPE_CHECKING:
    from relight.providers.messages import Request, Tool
    from relight.providers.spec import ProviderSpec


def check(request: Request) -> None:
    """Raise Fault CALLERS_FAULT for what no provider takes."""
    for number, tool in enumerate(request.tools):
        if not TOOL_NAME.fullmatch(tool.name):
            raise wrong(f"the name of tools[{number}] is not 1 to 64 letters, digits, '_' and '-'")
        if tool.schema.get("type", "object") != "object":
            raise wrong(f"the schema of tools[{number}] is not that of an object")
    names = [tool.name for tool in request.tools]
    twice = next((number for number, name in enumerate(names) if name in names[:number]), None)
    if twice is not None:
        raise wrong(f"tools[{twice}] has the name of one before it")
    if request.tool_use is ToolUse.REQUIRED and not request.tools:
        raise wrong("tool_use is required, and there are no tools")
    if request.tool and (request.tool_use is not ToolUse.REQUIRED or request.tool not in names):
        raise wrong("tool must be the name of one of the tools, and tool_use required")
    if request.max_tokens < 1:
        raise wrong(f"max_tokens={request.max_tokens} is not above 0")


def wrong(what: str) -> Fault:
    """The caller's fault. `what` names places of the request, and nothing that stands there: it comes into logs."""
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
