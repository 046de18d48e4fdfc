"""What an SDK, the HTTP client or a provider says when something goes wrong, as a `Fault`."""

from __future__ import annotations

import json
import math
import re
import socket
import ssl
import time
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING, Any

import httpx2

from relight.providers.faults import Fault, FaultKind

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

_SERVER, _CALLER = FaultKind.SERVER_ERROR, FaultKind.CALLERS_FAULT
# What each status means. Another 4xx is the caller's fault, another 5xx the server's.
_STATUSES = {
    401: FaultKind.DENIED,
    402: FaultKind.DENIED,
    403: FaultKind.DENIED,
    # The model or the address is not there: another provider may have its own, and a person must correct this one.
    404: FaultKind.DENIED,
    405: FaultKind.DENIED,
    407: FaultKind.DENIED,
    408: _SERVER,
    409: _SERVER,
    410: FaultKind.DENIED,
    413: FaultKind.TOO_LONG,
    421: _SERVER,
    425: _SERVER,
    429: FaultKind.LIMITED,
    499: _SERVER,
    529: FaultKind.OVERLOADED,
}
# The type of an error that comes within a stream, as the status that it would have had.
_TYPES = {
    "invalid_request_error": 400,
    "authentication_error": 401,
    "billing_error": 402,
    "permission_error": 403,
    "not_found_error": 404,
    "conflict_error": 409,
    "request_too_large": 413,
    "rate_limit_error": 429,
    "rate_limit_exceeded": 429,
    "tokens": 429,
    "requests": 429,
    "insufficient_quota": 429,
    "api_error": 500,
    "server_error": 500,
    "internal_server_error": 500,
    "timeout_error": 504,
    "overloaded_error": 529,
    "badrequesterror": 400,
    "invalid_api_key": 401,
    "model_not_found": 404,
    "context_length_exceeded": 400,
    "exceed_context_size_error": 400,
}
# Codes that say more than the status that they come with.
_CODES = {
    "insufficient_quota": FaultKind.DENIED,
    "billing_hard_limit_reached": FaultKind.DENIED,
    "billing_not_active": FaultKind.DENIED,
    "account_deactivated": FaultKind.DENIED,
    "access_terminated": FaultKind.DENIED,
    "invalid_api_key": FaultKind.DENIED,
    "model_not_found": FaultKind.DENIED,
    "contract_spend_limit_reached": FaultKind.DENIED,
    "enforced_spend_limit_reached": FaultKind.DENIED,
    "linked_organization_billing_unavailable": FaultKind.DENIED,
    "linked_organization_spend_limit_reached": FaultKind.DENIED,
    "organization_on_hold": FaultKind.DENIED,
    "organization_type_not_supported": FaultKind.DENIED,
    "parent_organization_required": FaultKind.DENIED,
    "cmek_key_disabled": FaultKind.DENIED,
    "cmek_key_network_blocked": FaultKind.DENIED,
    "claude_code_key_creator_not_member": FaultKind.DENIED,
    "claude_code_version_too_old": FaultKind.DENIED,
    "request_body_timeout": _SERVER,
    "context_length_exceeded": FaultKind.TOO_LONG,
    "exceed_context_size_error": FaultKind.TOO_LONG,
    "request_body_too_large_after_decoding": FaultKind.TOO_LONG,
    "string_above_max_length": FaultKind.TOO_LONG,
}
# Some say only in words that a request is too long, or that the account is empty.
_TOO_LONG = re.compile(
    r"prompt is too long|maximum context length|maximum model length|exceeds? (?:the )?(?:available )?context|"
    r"context (?:length|window|size) (?:exceeded|of)|exceed context limit|too many (?:input )?tokens|input is too long",
    re.IGNORECASE,
)
_TOO_FEW = re.compile(r"max_tokens or model output limit was reached", re.IGNORECASE)
_NO_CREDIT = re.compile(r"credit balance is too low|exceeded your current quota", re.IGNORECASE)

# What is said in our words of a request that leaves a model too few tokens to answer.
TOO_FEW_TOKENS = "max_tokens is too low for an answer"

_WORD = re.compile(r"[\w.:-]{1,80}", re.ASCII)
# What a field of a request is called, and nothing longer: names of the caller's own may follow it.
_FIELD = re.compile(r"[a-z_]{1,40}(?:\[\d{1,6}\]|\.\d{1,6}|\.[a-z_]{1,40}){0,8}")
_PIECE = 6


def diagnose(exc: BaseException, *, key: str, answering: bool) -> Fault:
    """What `exc` means; `answering` is whether the answer's head had come. The fault holds nothing of `exc` itself,
    so that neither its text nor its traceback can show what was sent."""
    if isinstance(exc, Fault):
        return exc
    response, body = getattr(exc, "response", None), getattr(exc, "body", None)
    if isinstance(response, httpx2.Response) and not response.is_success:
        return from_status(response.status_code, body, response.headers, key=key)
    if body is not None:
        return from_error(body, key=key)
    if isinstance(response, httpx2.Response):
        return Fault(FaultKind.MALFORMED, type(exc).__name__, status=response.status_code)
    return _from_transport(exc, answering=answering)


def from_status(status: int, body: object, headers: Mapping[str, str], *, key: str) -> Fault:
    """What an answer that is no success means."""
    said = _error_of(body)
    request_id = headers.get("request-id") or headers.get("x-request-id") or ""
    if status < 400:
        kind = FaultKind.MALFORMED  # a redirect, which is not followed
    elif _STATUSES.get(status, _CALLER) is _CALLER and status < 500 and "html" in headers.get("content-type", ""):
        kind = FaultKind.MALFORMED  # no provider speaks so: something stands between
    else:
        kind = _kind(status, said)
    return _fault(kind, status, said, request_id, wait_s=retry_after(headers), key=key)


def from_error(body: object, *, key: str) -> Fault:
    """What an error within a stream means: the same as if it had come instead of one."""
    said = _error_of(body)
    status = next((_TYPES[name.lower()] for name in (said.type, said.code) if name.lower() in _TYPES), 0)
    if not status:
        status = int(said.code) if re.fullmatch("[45][0-9]{2}", said.code) else 500
    return _fault(_kind(status, said), status, said, "", wait_s=None, key=key)


def retry_after(headers: Mapping[str, str], *, now: float | None = None) -> float | None:
    """In how many seconds a provider asks to be asked again, from `retry-after-ms` or Retry-After (seconds or a date);
    None where it does not say, or nothing that can be understood."""
    try:
        return _at_least_0(float(headers["retry-after-ms"]) / 1000)
    except (KeyError, ValueError):
        pass
    said = headers.get("retry-after", "").strip()
    try:
        return _at_least_0(float(said))
    except ValueError:
        pass
    try:
        when = parsedate_to_datetime(said)
    except (ValueError, IndexError):
        return None
    if when.tzinfo is None:
        when = when.replace(tzinfo=UTC)
    return max(0.0, (when - datetime.fromtimestamp(time.time() if now is None else now, UTC)).total_seconds())


def _without(text: str, key: str) -> str:
    """`text` without the words that hold the key or six characters of it."""
    pieces = {key[start : start + _PIECE] for start in range(max(1, len(key) - _PIECE + 1))} if key else set()
    if not any(piece in text for piece in pieces):
        return text
    return re.sub(r"\S+", lambda word: "[key]" if any(piece in word[0] for piece in pieces) else word[0], text)


def _at_least_0(seconds: float) -> float | None:
    return max(0.0, seconds) if math.isfinite(seconds) else None


@dataclass(frozen=True, slots=True)
class _Said:
    """What is said of an error. The message is only looked at: many servers repeat in it what they were sent."""

    type: str = ""
    code: str = ""
    param: str = ""
    message: str = ""


def _kind(status: int, said: _Said) -> FaultKind:
    for name in (said.code, said.type):
        if name in _CODES:
            return _CODES[name]
    if status in (400, 422) and _TOO_LONG.search(said.message):
        return FaultKind.TOO_LONG
    if status in (400, 429) and _NO_CREDIT.search(said.message):
        return FaultKind.DENIED
    return _STATUSES.get(status, _SERVER if status >= 500 else _CALLER)


def _fault(kind: FaultKind, status: int, said: _Said, request_id: str, *, wait_s: float | None, key: str) -> Fault:
    """Told by status, type, code, field and request id, with which the provider can say more; never by its message."""
    words = [f"status {status}", *(word for word in (said.type, said.code) if _WORD.fullmatch(word))]
    if _FIELD.fullmatch(said.param):
        words.append(f"at {said.param}")
    if _WORD.fullmatch(request_id):
        words.append(f"request {request_id}")
    detail = _without(", ".join(dict.fromkeys(words)), key)
    if kind is _CALLER and _TOO_FEW.search(said.message):
        detail += f": {TOO_FEW_TOKENS}"
    return Fault(kind, detail, status=status, wait_s=wait_s)


def _error_of(body: object) -> _Said:
    """Type, code, field and message of an error, in any of the forms in which it comes."""
    if isinstance(body, str):
        try:
            body = json.loads(body)
        except (ValueError, RecursionError):
            return _Said()
    if not isinstance(body, dict):
        return _Said()
    error: Any = body.get("error", body)
    if isinstance(error, str):
        return _Said(message=error)
    if not isinstance(error, dict):
        return _Said()
    details = error.get("details")
    code = details.get("error_code") if isinstance(details, dict) else None
    if code is None:
        code = error.get("code")
    message = error.get("message", error.get("detail", ""))
    return _Said(
        type=_str(error.get("type")),
        code=_str(code),
        param=_str(error.get("param")),
        message=message if isinstance(message, str) else json.dumps(message),
    )


def _str(value: object) -> str:
    return str(value) if isinstance(value, str | int) else ""


def _causes(exc: BaseException | None) -> Iterator[BaseException]:
    seen: set[int] = set()
    waiting = [exc]
    while waiting:
        found = waiting.pop()
        if found is None or id(found) in seen:
            continue
        seen.add(id(found))
        yield found
        waiting += [found.__context__, found.__cause__]
        if isinstance(found, BaseExceptionGroup):
            waiting += found.exceptions


# Before the answer's head has come, and after. The first that is found among the causes decides.
_TRANSPORT: tuple[tuple[type[BaseException] | tuple[type[BaseException], ...], FaultKind, FaultKind], ...] = (
    # A handshake that hangs is in the middle of TLS: the error that says so is among its causes.
    ((httpx2.ConnectTimeout, httpx2.PoolTimeout), FaultKind.CONNECT_TIMEOUT, FaultKind.CONNECT_TIMEOUT),
    (socket.gaierror, FaultKind.DNS, FaultKind.DNS),
    (ssl.SSLError, FaultKind.TLS, FaultKind.TRUNCATED),
    (ConnectionRefusedError, FaultKind.REFUSED_CONNECTION, FaultKind.REFUSED_CONNECTION),
    (httpx2.TimeoutException, FaultKind.SILENCE, FaultKind.STALLED),
    # It says so itself when the other side went away; else what it sent was no HTTP.
    (httpx2.RemoteProtocolError, FaultKind.MALFORMED, FaultKind.TRUNCATED),
    ((httpx2.DecodingError, httpx2.TooManyRedirects), FaultKind.MALFORMED, FaultKind.MALFORMED),
    ((httpx2.UnsupportedProtocol, httpx2.InvalidURL), FaultKind.DENIED, FaultKind.DENIED),
    ((httpx2.TransportError, httpx2.StreamError, OSError), FaultKind.CONNECTION, FaultKind.TRUNCATED),
    # Ours could not be written, or theirs could not be read.
    ((ValueError, TypeError, RecursionError), _CALLER, FaultKind.MALFORMED),
    ((LookupError, AttributeError), FaultKind.MALFORMED, FaultKind.MALFORMED),
)


def _from_transport(exc: BaseException, *, answering: bool) -> Fault:
    causes = list(_causes(exc))
    for kinds, before, after in _TRANSPORT:
        for cause in causes:
            if not isinstance(cause, kinds):
                continue
            kind = after if answering else before
            if kind is FaultKind.MALFORMED and str(cause).startswith("Server disconnected"):
                kind = FaultKind.CONNECTION
            return Fault(kind, _told(cause))
    return Fault(FaultKind.TRUNCATED if answering else FaultKind.CONNECTION, type(exc).__name__)


def _told(cause: BaseException) -> str:
    # The text of other errors may hold bytes of what was sent, or of what came.
    if isinstance(cause, OSError) and cause.strerror:
        return f"{type(cause).__name__}: {cause.strerror}"
    return type(cause).__name__
