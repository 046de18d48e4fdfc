"""What both formats share: reading a body with care, and what a face has to do."""

from __future__ import annotations

import base64
import binascii
import json
import re
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Any, Protocol

from relight.providers.json_text import read_json
from relight.providers.messages import Image

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from relight.providers.messages import Answer, Event, Request

At = tuple[str | int, ...]

# A value takes up to thirty times as much memory as its JSON. No conversation has as many.
MOST_VALUES = 1_000_000

_MEDIA_TYPE = re.compile(r"image/[a-z0-9.+-]{1,40}")
_DATA_URL = re.compile(r"data:([^;,]*)((?:;[^;,]*)*),(.*)", re.DOTALL)


class Trouble(StrEnum):
    """Why there is no answer; each face has a status and a type for each."""

    INVALID = "invalid"
    TOO_LARGE = "too_large"
    UNAUTHORIZED = "unauthorized"
    FORBIDDEN = "forbidden"
    NOT_FOUND = "not_found"
    WRONG_METHOD = "wrong_method"
    PROVIDERS_DOWN = "providers_down"
    WOULD_DEGRADE = "would_degrade"
    BUSY = "busy"
    DEADLINE = "deadline"
    UNUSABLE = "unusable_answers"
    CUT = "stream_cut"
    BROKEN = "internal_error"


class Refused(Exception):  # noqa: N818 - the app makes an error of it, in the client's format
    """The client gets no answer. `at` is the field that is wrong, `status` replaces the face's own for `trouble`."""

    def __init__(
        self,
        message: str,
        *,
        at: At = (),
        trouble: Trouble = Trouble.INVALID,
        status: int | None = None,
        wait_s: float | None = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.at = at
        self.trouble = trouble
        self.status = status
        self.wait_s = wait_s


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """What a client asks for. `ignored` names fields that were passed over."""

    request: Request
    stream: bool = False
    include_usage: bool = False
    ignored: tuple[str, ...] = ()


class Writer(Protocol):
    """Writes one stream in a face's format; each piece is whole events."""

    def event(self, event: Event) -> bytes:
        """What the client is sent for this event of the router; may be nothing."""
        ...

    def broken(self, refused: Refused) -> bytes:
        """The end of a stream that gave no answer."""
        ...

    def ping(self) -> bytes:
        """A sign of life, which means nothing."""
        ...


class Face(Protocol):
    """One wire format: pure, and without any state."""

    def parse(self, body: Field, *, max_tokens: int) -> Asked:
        """What the client asks; `max_tokens` is for one that does not say. Raises Refused, which names the field."""
        ...

    def render(self, answer: Answer) -> dict[str, Any]:
        """The whole answer."""
        ...

    def writer(self, asked: Asked) -> Writer:
        """For an answer that streams."""
        ...

    def error(self, refused: Refused) -> tuple[int, dict[str, Any]]:
        """The status and the body of an error."""
        ...

    def models(self, names: tuple[str, ...]) -> dict[str, Any]:
        """The list of models."""
        ...

    def model(self, name: str) -> dict[str, Any]:
        """One of them."""
        ...


@dataclass(frozen=True, slots=True)
class Field:
    """A value in a body, and where it is."""

    value: Any
    at: At = ()

    def find(self, name: str) -> Field | None:
        """The member with that name; None where it is absent or null, which clients do not tell apart."""
        found = self.mapping().get(name)
        return None if found is None else Field(found, (*self.at, name))

    def need(self, name: str) -> Field:
        """The member with that name."""
        found = self.find(name)
        if found is None:
            raise Refused("this field is required", at=(*self.at, name))
        return found

    def mapping(self) -> Mapping[str, Any]:
        """It, as an object."""
        if not isinstance(self.value, dict):
            raise self.wrong("an object")
        return self.value

    def items(self) -> Iterator[Field]:
        """Its items, as a list's."""
        if not isinstance(self.value, list):
            raise self.wrong("a list")
        return (Field(item, (*self.at, index)) for index, item in enumerate(self.value))

    def text(self) -> str:
        """It, as a text."""
        if not isinstance(self.value, str):
            raise self.wrong("a text")
        return self.value

    def flag(self) -> bool:
        """It, as true or false."""
        if not isinstance(self.value, bool):
            raise self.wrong("true or false")
        return self.value

    def number(self) -> float:
        """It, as a number."""
        if isinstance(self.value, bool) or not isinstance(self.value, int | float):
            raise self.wrong("a number")
        return self.value

    def count(self) -> int:
        """It, as a whole number of 1 or more."""
        if isinstance(self.value, bool) or not isinstance(self.value, int) or self.value < 1:
            raise self.wrong("a whole number of 1 or more")
        return self.value

    def wrong(self, rule: str) -> Refused:
        """The refusal of a value that is something else; the value itself is not repeated."""
        return Refused(f"this must be {rule}, and is {_kind(self.value)}", at=self.at)


def _kind(value: object) -> str:
    kinds: dict[type, str] = {dict: "an object", list: "a list", str: "a text", bool: "true or false"}
    return kinds.get(type(value), "a number" if isinstance(value, int | float) else "null")


def read_body(body: bytes) -> Field:
    """The JSON object that the body holds; Refused when it holds none, or one of too many values."""
    if _values(body) > MOST_VALUES and _values(_STRINGS.sub(b"", body)) > MOST_VALUES:
        raise Refused("the body holds too many lists, objects and values: send less", trouble=Trouble.TOO_LARGE)
    try:
        value = read_json(body)
    except ValueError:
        # The decoder's own message may repeat a part of the body.
        raise Refused("the body is not JSON: send one JSON object in UTF-8") from None
    if not isinstance(value, dict):
        raise Refused(f"the body must be a JSON object, and is {_kind(value)}")
    return Field(value)


_STRINGS = re.compile(rb'"(?:[^"\\]++|\\.)*+"', re.DOTALL)


def _values(body: bytes) -> int:
    return body.count(b",") + body.count(b"[") + body.count(b"{")


def unknown(body: Field, known: frozenset[str]) -> tuple[str, ...]:
    """The names of fields that say something which is passed over."""
    return tuple(sorted(name for name, value in body.mapping().items() if name not in known and value is not None))


def refuse_all(body: Field, refused: Mapping[str, str]) -> None:
    """Refuse the fields that would change what the answer is, unless they are at their default."""
    for name, what_to_do in refused.items():
        found = body.find(name)
        if found is not None and found.value not in (False, 0, [], {}, ""):
            raise Refused(f"this is not supported: {what_to_do}", at=found.at)


def image_of_base64(media_type: Field | str, data: str, at: At) -> Image:
    """A picture that came as text."""
    kind = media_type if isinstance(media_type, str) else media_type.text()
    if not _MEDIA_TYPE.fullmatch(kind):
        raise Refused("this is no media type of an image, such as image/png", at=at)
    try:
        return Image(media_type=kind, data=base64.b64decode(data, validate=True))
    except (binascii.Error, ValueError):
        raise Refused("this is not base64", at=at) from None


def image_of_url(url: Field) -> Image:
    """A picture by its address, or in it."""
    text = url.text()
    if text.startswith(("https://", "http://")):
        return Image(url=text)
    found = _DATA_URL.fullmatch(text)
    if found is None or ";base64" not in found[2]:
        raise Refused("this must be an http(s) address, or data:image/…;base64,…", at=url.at)
    return image_of_base64(found[1], found[3], url.at)


def plain_text(field: Field, *, kinds: tuple[str, ...] = ("text",)) -> str:
    """A text, given as one or as a list of blocks that hold text alone."""
    if isinstance(field.value, str):
        return field.value
    parts = []
    for item in field.items():
        kind = item.need("type")
        if kind.value not in kinds:
            raise Refused("only text is supported here", at=kind.at)
        parts.append(item.need("text").text())
    return "\n".join(parts)


def to_json(value: Any) -> str:
    """As it goes over the wire: one line, and plain ASCII, so that no reader splits it."""
    return json.dumps(value, separators=(",", ":"))
