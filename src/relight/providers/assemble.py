"""Makes one whole message of the pieces in which an answer comes. Pure."""

from __future__ import annotations

import re
import uuid
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeVar

from relight.providers.faults import Fault, FaultKind
from relight.providers.json_text import read_json, sendable
from relight.providers.messages import (
    Message,
    Role,
    Stop,
    Text,
    TextDelta,
    Thinking,
    ThinkingDelta,
    ToolArguments,
    ToolCall,
    ToolCallStarted,
    Usage,
)
from relight.providers.port import Completed

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from relight.providers.messages import Delta, Part
    from relight.providers.spec import ProviderSpec


_REASON = re.compile(r"[a-z_]{1,40}")


@dataclass(slots=True)
class _Words:
    pieces: list[str] = field(default_factory=list)
    half: str = ""


@dataclass(slots=True)
class _Thoughts:
    pieces: list[str] = field(default_factory=list)
    half: str = ""
    signature: str = ""
    redacted: str = ""


@dataclass(slots=True)
class _Call:
    index: int = 0
    id: str = ""
    name: str = ""
    pieces: list[str] = field(default_factory=list)
    half: str = ""


_Block = TypeVar("_Block", _Words, _Thoughts, _Call)


class Assembly:
    """The blocks of one answer, in the order in which they began. Each method gives what an agent may see of it."""

    def __init__(self, spec: ProviderSpec) -> None:
        self._spec = spec
        self._blocks: list[_Words | _Thoughts | _Call] = []
        self._calls: list[_Call] = []
        self.id = ""
        self.model = ""
        self.usage = Usage()

    def text(self, piece: str, block: _Words | None = None) -> Iterator[Delta]:
        """More words, of the last block unless `block` says of which. Half a character waits for its other half."""
        if piece:
            piece = _add(block or self._last(_Words), piece)
            if piece:
                yield TextDelta(text=piece)

    def thought(self, piece: str, block: _Thoughts | None = None) -> Iterator[Delta]:
        """More thoughts, likewise."""
        if piece:
            piece = _add(block or self._last(_Thoughts), piece)
            if piece:
                yield ThinkingDelta(text=piece)

    def over(self, block: object) -> Iterator[Delta]:
        """A block has ended. Of thoughts that are signed or redacted the whole is told, because they have to go back
        with what they are signed by."""
        if isinstance(block, _Thoughts) and (block.signature or block.redacted):
            yield ThinkingDelta(text="", whole=self._thinking(block))

    def words(self) -> _Words:
        """A new block of words."""
        return self._add(_Words())

    def thoughts(self, *, signature: str = "", redacted: str = "") -> _Thoughts:
        """A new block of thoughts."""
        return self._add(_Thoughts(signature=signature, redacted=redacted))

    def call(self) -> _Call:
        """A new call of a tool; it is told when it is named."""
        call = self._add(_Call(index=len(self._calls)))
        self._calls.append(call)
        return call

    def name(self, call: _Call, *, id_: str, name: str) -> Iterator[Delta]:
        """Names a call, once. One without an id, or with another's, gets its own, because calls are answered by it."""
        if not call.id:
            call.id = sendable(id_)
        if call.name or not name:
            return
        if not call.id or any(other.id == call.id for other in self._calls if other is not call and other.name):
            call.id = f"call_{uuid.uuid4().hex[:24]}"
        call.name = sendable(name)
        yield ToolCallStarted(index=call.index, id=call.id, name=call.name)
        if call.pieces:
            yield ToolArguments(index=call.index, json="".join(call.pieces))

    def arguments(self, call: _Call, piece: str) -> Iterator[Delta]:
        """More of a call's arguments, which are told once it is named."""
        if piece:
            piece = _add(call, piece)
            if piece and call.name:
                yield ToolArguments(index=call.index, json=piece)

    @property
    def has_calls(self) -> bool:
        """Whether the model asks for a tool."""
        return bool(self._calls)

    def complete(self, stop: Stop, *, stop_sequence: str = "") -> Completed:
        """The whole answer. Fault EMPTY where there is nothing in it, BROKEN_CALL where a call's arguments are no JSON
        object: also where the tokens ran out within them, because nothing can be done with half a call."""
        content = tuple(part for block in self._blocks for part in self._part(block, stop))
        message = Message(role=Role.ASSISTANT, content=content)
        if stop is Stop.END and self.has_calls:
            stop = Stop.TOOL_CALLS  # some servers say `stop` all the same
        elif stop is Stop.TOOL_CALLS and not self.has_calls:
            stop = Stop.END
        if stop is Stop.END and not message.text.strip():
            raise Fault(FaultKind.EMPTY, "the answer holds neither words nor a call")
        return Completed(
            message=message,
            stop=stop,
            usage=self.usage,
            model=self.model or self._spec.model,
            id=self.id,
            stop_sequence=stop_sequence,
        )

    def _part(self, block: _Words | _Thoughts | _Call, stop: Stop) -> Iterator[Part]:
        if isinstance(block, _Call):
            yield ToolCall(id=block.id, name=block.name, arguments=self._arguments(block, stop))
            return
        if isinstance(block, _Thoughts):
            if block.pieces or block.signature or block.redacted:
                yield self._thinking(block)
        elif text := "".join(block.pieces):
            yield Text(text=text)

    def _thinking(self, block: _Thoughts) -> Thinking:
        return Thinking(
            text="".join(block.pieces),
            signature=block.signature,
            redacted=block.redacted,
            provider=self._spec.name,
            model=self._spec.model,
        )

    def _arguments(self, call: _Call, stop: Stop) -> dict[str, Any]:
        why = " because the tokens ran out" if stop is Stop.MAX_TOKENS else ""
        if not call.name:
            raise Fault(FaultKind.BROKEN_CALL, f"a call names no tool{why}")
        text = "".join(call.pieces)
        found = _parsed(text) if text.strip() else {}
        if not isinstance(found, dict):
            raise Fault(FaultKind.BROKEN_CALL, f"the arguments of a call are no JSON object{why}")
        return found

    def _last(self, kind: type[_Block]) -> _Block:
        last = self._blocks[-1] if self._blocks else None
        return last if isinstance(last, kind) else self._add(kind())

    def _add(self, block: _Block) -> _Block:
        self._blocks.append(block)
        return block


def _add(block: _Words | _Thoughts | _Call, piece: str) -> str:
    """What of `piece` is whole, together with what was left before; it is the block's now."""
    if block.half:
        piece, block.half = block.half + piece, ""
    if "\ud800" <= piece[-1] <= "\udbff":
        piece, block.half = piece[:-1], piece[-1]
    piece = sendable(piece)
    if piece:
        block.pieces.append(piece)
    return piece


def _parsed(text: str) -> Any:
    with suppress(ValueError):
        return read_json(text)
    return None


def unknown_reason(reason: str) -> Fault:
    """An answer that ended for a reason of which nobody knows what it means. It is none, because it may be half of one,
    and half an answer that passes for a whole is worse than one from the next provider."""
    shown = repr(reason) if _REASON.fullmatch(reason) else "one that cannot be shown"
    return Fault(FaultKind.MALFORMED, f"the answer ended for an unknown reason: {shown}")


def member(of: Any, name: str) -> Any:
    """`name` of an event, or None. An SDK builds events without checking them: what is malformed may be anything."""
    if isinstance(of, dict):
        return of.get(name)
    # Not getattr: a model of the SDKs takes microseconds to say that it has none, and most have most of them not.
    held = getattr(of, "__dict__", {})
    if name in held:
        return held[name]
    more = getattr(of, "__pydantic_extra__", None)
    return more.get(name) if more else None


def fields_of(of: Any) -> Mapping[str, Any]:
    """All that `member` would find."""
    if isinstance(of, dict):
        return of
    held: dict[str, Any] = getattr(of, "__dict__", {})
    more = getattr(of, "__pydantic_extra__", None)
    return {**more, **held} if more else held


def words_of(value: Any) -> str:
    """`value` where it is text, else nothing."""
    return value if isinstance(value, str) else ""


def count_of(value: Any) -> int:
    """`value` where it is a count, else 0."""
    return value if isinstance(value, int) and not isinstance(value, bool) and value > 0 else 0
