"""Text and JSON that came from a model or a client, as what any provider could be sent of it."""

from __future__ import annotations

import json
import math
import re
from typing import Any

_HALF, _HALF_IN_BYTES = re.compile("\\\\u[dD]|[\ud800-\udfff]"), re.compile(rb"\\u[dD]|\xed[\xa0-\xbf]")


def sendable(text: str) -> str:
    """`text` without half a surrogate pair, which no provider takes and UTF-8 cannot hold; the same object where there
    is none."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    return text


def read_json(text: str | bytes) -> Any:
    """The value of that JSON, without half a surrogate pair; ValueError when it is none, is nested too deep, or holds a
    number that no JSON can hold."""
    # Most text has none, and a large body takes long to walk through.
    half = _HALF.search(text) if isinstance(text, str) else _HALF_IN_BYTES.search(text)
    try:
        value = json.loads(text, parse_constant=_refuse, parse_float=_finite)
        return _sendable(value) if half else value
    except RecursionError:
        raise ValueError("nested too deep") from None


def _refuse(constant: str) -> None:
    raise ValueError(constant)


def _finite(number: str) -> float:
    # Python reads 1e999 as infinity.
    found = float(number)
    if not math.isfinite(found):
        raise ValueError("too large")
    return found


def _sendable(value: Any) -> Any:
    if isinstance(value, str):
        return sendable(value)
    if isinstance(value, list):
        return [_sendable(item) for item in value]
    if isinstance(value, dict):
        return {sendable(name): _sendable(item) for name, item in value.items()}
    return value
