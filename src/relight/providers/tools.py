"""Makes a conversation that one provider began one that another takes.

Pure, and the conversation itself stays as it is: so its ids and signed thoughts are there again when it goes back.
"""

from __future__ import annotations

import base64
import hashlib
import re
from collections import defaultdict
from dataclasses import dataclass, field, replace
from enum import Enum
from itertools import groupby
from typing import TYPE_CHECKING

from relight.providers.json_text import sendable
from relight.providers.messages import Image, Message, Role, Text, Thinking, ToolCall, ToolResult

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from relight.providers.messages import Part

# What is said where a provider wants something to be said.
CONTINUE = "Continue."
INTERRUPTED = "This call was interrupted: no result of it is known."
NO_OUTPUT = "(no output)"

# Both providers' rule for the name of a tool.
TOOL_NAME = re.compile(r"[a-zA-Z0-9_-]{1,64}")


_PICTURES = ("image/jpeg", "image/png", "image/gif", "image/webp")


class Thoughts(Enum):
    """Which of its own thoughts a provider takes back: none, those that it signed or redacted, or those of the tool
    loop that is going on, as plain text."""

    NONE = "none"
    SIGNED = "signed"
    OF_THE_LOOP = "of the loop"


@dataclass(frozen=True, slots=True, kw_only=True)
class Rules:
    """What a provider takes in a conversation.

    `provider` and `model` are those that thoughts may go back to, of the kind that `thoughts` says. `ids` is what a
    tool call's id must match. `markers` is how many cache markers there may be. `pictures_in_results` is whether a
    tool's result may hold pictures, and `picture_urls` how the address of a picture may begin.
    """

    provider: str
    model: str
    ids: re.Pattern[str]
    thoughts: Thoughts
    markers: int
    pictures_in_results: bool
    picture_urls: tuple[str, ...]


@dataclass(slots=True)
class _Call:
    call: ToolCall
    run: int
    id: str
    result: ToolResult | None = None


@dataclass(slots=True)
class _Run:
    """Parts that one role speaks without a break."""

    role: Role
    parts: list[Part] = field(default_factory=list)
    calls: list[_Call] = field(default_factory=list)


def repaired(messages: Sequence[Message], rules: Rules) -> tuple[Message, ...]:
    """The conversation in a form that follows `rules`: user and assistant by turns, the user first and last, nothing
    empty; every call answered once and right after it, in the order of the calls.

    - A call without a result is answered with an error that says that it was interrupted; a result without a call
      becomes words of the user. Of several results of a call the first that is no error stands.
    - An id that fits is kept; one that does not, or that an earlier call has, is replaced by one made from it and from
      how often it came before, so that it is the same in every later request.
    - Thoughts go back only to the provider and model that they came from.
    - A picture that cannot be sent becomes a note that names it.
    - A conversation that ends with the assistant is continued by the user's `Continue.`: current models refuse to go on
      in the middle of a message.
    """
    runs = _runs(messages, rules)
    if rules.thoughts is Thoughts.OF_THE_LOOP:
        _forget_thoughts(runs)
    loose = _pair(runs)
    _rename(runs, rules)
    turns: list[tuple[Role, list[Part]]] = []
    for number, run in enumerate(runs):
        if run.role is Role.ASSISTANT:
            parts = _spoken(run)
            if parts:
                turns.append((Role.ASSISTANT, parts))
                turns.append((Role.USER, _answers(run.calls, rules)))
        else:
            turns.append((Role.USER, _with_loose(run, loose[number])))
    merged = [
        (role, [part for _, parts in group for part in parts])
        for role, group in groupby(((role, parts) for role, parts in turns if parts), key=lambda turn: turn[0])
    ]
    if not merged or merged[0][0] is Role.ASSISTANT:
        merged.insert(0, (Role.USER, [Text(text=CONTINUE)]))
    if merged[-1][0] is Role.ASSISTANT:
        merged.append((Role.USER, [Text(text=CONTINUE)]))
    return _marked(merged, rules)


def _runs(messages: Iterable[Message], rules: Rules) -> list[_Run]:
    runs: list[_Run] = []
    for message in messages:
        for part in message.content:
            kept = _kept(part, rules)
            if kept is None:
                continue
            role = _speaker(kept, message.role)
            if not runs or runs[-1].role is not role:
                runs.append(_Run(role=role))
            runs[-1].parts.append(kept)
    return runs


def _speaker(part: Part, role: Role) -> Role:
    # Results and pictures are the user's in every wire format, calls and thoughts the assistant's.
    if isinstance(part, ToolResult | Image):
        return Role.USER
    return Role.ASSISTANT if isinstance(part, ToolCall | Thinking) else role


def _kept(part: Part, rules: Rules) -> Part | None:
    if isinstance(part, Text):
        return _text(part)
    if isinstance(part, Image):
        return _picture(part, rules)
    if isinstance(part, ToolResult):
        content = tuple(kept for item in part.content if (kept := _kept(item, rules)) is not None)
        content = content or (Text(text=NO_OUTPUT),)
        return part if content == part.content else replace(part, content=content)  # type: ignore[arg-type]
    if isinstance(part, ToolCall):
        return part if TOOL_NAME.fullmatch(part.name) else replace(part, name=_name(part.name))
    if part.provider != rules.provider or part.model != rules.model:
        return None
    bound = bool(part.signature or part.redacted)
    fits = {Thoughts.NONE: False, Thoughts.SIGNED: bound, Thoughts.OF_THE_LOOP: bool(part.text) and not bound}
    return part if fits[rules.thoughts] else None


def _forget_thoughts(runs: Sequence[_Run]) -> None:
    """What was thought before the user last spoke is over."""
    over = False
    for run in reversed(runs):
        if over and run.role is Role.ASSISTANT:
            run.parts = [part for part in run.parts if not isinstance(part, Thinking)]
        over = over or (run.role is Role.USER and any(not isinstance(part, ToolResult) for part in run.parts))


def _picture(part: Image, rules: Rules) -> Image | Text | None:
    if part.url.startswith("data:") and not part.data:
        head, _, data = part.url.partition(",")
        try:
            part = Image(media_type=head[len("data:") :].split(";")[0], data=base64.b64decode(data, validate=True))
        except ValueError:
            return Text(text="(a picture that cannot be read)")
    if part.data:
        type_ = _media_type(part)
        if type_ not in _PICTURES:
            return Text(text=f"(a picture that cannot be shown: {sendable(type_)[:80] or 'of unknown type'})")
        return Image(media_type=type_, data=part.data)
    if not part.url:
        return None
    return part if part.url.startswith(rules.picture_urls) else Text(text=f"(a picture: {sendable(part.url)})")


def _media_type(image: Image) -> str:
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
    return image.media_type


def _text(part: Text) -> Text | None:
    if not part.text.strip():
        return None
    text = sendable(part.text)
    return part if text is part.text else replace(part, text=text)


def _name(name: str) -> str:
    # What a model made up; a name that a tool has is refused when the request is rendered.
    return re.sub(r"[^a-zA-Z0-9_-]", "_", name)[:64] or "unknown"


def _pair(runs: Sequence[_Run]) -> dict[int, list[ToolResult]]:
    """Gives each call its result; returns the results without a call, by the run that they are in."""
    seen: dict[str, list[_Call]] = defaultdict(list)
    loose: dict[int, list[ToolResult]] = defaultdict(list)
    for number, run in enumerate(runs):
        for part in run.parts:
            if isinstance(part, ToolCall):
                run.calls.append(_Call(call=part, run=number, id=part.id))
                seen[part.id].append(run.calls[-1])
            elif isinstance(part, ToolResult):
                # Where ids repeat, a result belongs to the last turn that used its id, and there to the first call
                # that has none.
                named = seen[part.call_id]
                latest = [call for call in named if call.run == named[-1].run] if named else []
                open_ = [call for call in latest if call.result is None]
                if not open_:
                    open_ = [call for call in reversed(named) if call.result is None]
                if open_:
                    open_[0].result = part
                elif named:
                    failed = [call for call in latest if call.result is not None and call.result.error]
                    if failed and not part.error:
                        failed[0].result = part
                else:
                    loose[number].append(part)
    return loose


def _rename(runs: Sequence[_Run], rules: Rules) -> None:
    used: set[str] = set()
    for run in runs:
        for call in run.calls:
            times = 0
            while call.id in used or not rules.ids.fullmatch(call.id):
                made = f"{times}:{call.call.id}".encode("utf-8", "surrogatepass")
                call.id, times = f"call_{hashlib.sha256(made).hexdigest()[:24]}", times + 1
            used.add(call.id)


def _spoken(run: _Run) -> list[Part]:
    calls = iter(run.calls)
    parts = [_renamed(part, next(calls).id) if isinstance(part, ToolCall) else part for part in run.parts]
    # Thoughts belong to what is said or done after them; a message may not end with them.
    while parts and isinstance(parts[-1], Thinking):
        parts.pop()
    return parts


def _renamed(call: ToolCall, id_: str) -> ToolCall:
    return call if call.id == id_ else replace(call, id=id_)


def _answers(calls: Sequence[_Call], rules: Rules) -> list[Part]:
    results: list[Part] = []
    pictures: list[Part] = []
    for call in calls:
        result = call.result or ToolResult(call_id="", content=(Text(text=INTERRUPTED),), error=True)
        content = result.content
        # Anthropic takes no pictures in a result that is an error.
        may = rules.pictures_in_results and not result.error
        if not may and any(isinstance(item, Image) for item in content):
            pictures += [Text(text=f"What {call.call.name} gave back (call {call.id}):")]
            pictures += [item for item in content if isinstance(item, Image)]
            content = tuple(item for item in content if isinstance(item, Text))
            content = (*content, Text(text="(pictures follow)"))
        results.append(ToolResult(call_id=call.id, content=content, error=result.error))
    return results + pictures


def _with_loose(run: _Run, loose: Sequence[ToolResult]) -> list[Part]:
    parts: list[Part] = []
    for part in run.parts:
        if not isinstance(part, ToolResult):
            parts.append(part)
        elif any(part is item for item in loose):
            parts.append(Text(text="A tool, whose call is no longer known, gave back:"))
            parts += part.content
    return parts


def _marked(turns: Sequence[tuple[Role, list[Part]]], rules: Rules) -> tuple[Message, ...]:
    """Keeps the last cache markers alone: each covers everything before it."""
    left = rules.markers
    messages: list[Message] = []
    for role, parts in reversed(turns):
        content: list[Part] = []
        for part in reversed(parts):
            if isinstance(part, Text) and part.cached:
                left -= 1
                part = part if left >= 0 else replace(part, cached=False)
            elif isinstance(part, ToolResult) and any(isinstance(item, Text) and item.cached for item in part.content):
                left -= 1
                part = _marked_result(part, kept=left >= 0)
            content.append(part)
        messages.append(Message(role=role, content=tuple(reversed(content))))
    return tuple(reversed(messages))


def _marked_result(result: ToolResult, *, kept: bool) -> ToolResult:
    """With one marker, on its last words, or none."""
    content: list[Text | Image] = []
    for item in reversed(result.content):
        if isinstance(item, Text):
            item = replace(item, cached=kept)
            kept = False
        content.append(item)
    return replace(result, content=tuple(reversed(content)))
