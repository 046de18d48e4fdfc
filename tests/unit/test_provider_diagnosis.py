"""What goes wrong with a provider, told apart."""

from __future__ import annotations

import errno
import json
import pickle
import socket
import ssl
from typing import TYPE_CHECKING, Any

import anthropic
import httpx2
import openai
import pytest

from relight.providers.diagnosis import diagnose, from_error, from_status, retry_after
from relight.providers.faults import Fault, FaultKind

if TYPE_CHECKING:
    from collections.abc import Iterator

KEY = "sk-ant-api03-Zm9vYmFyYmF6cXV4-AA"
REQUEST = httpx2.Request("POST", "https://llm/v1", headers={"Authorization": f"Bearer {KEY}"})


def response(status: int, body: Any = None, **headers: str) -> httpx2.Response:
    """An answer to the request."""
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return httpx2.Response(status, headers=named, request=REQUEST, content=json.dumps(body).encode())


def subclasses(of: type[BaseException]) -> Iterator[type[BaseException]]:
    """All subclasses, however far down."""
    for found in of.__subclasses__():
        yield found
        yield from subclasses(found)


# -- every exception of the SDKs and of their HTTP client

TOLD = "told by status"
# What each becomes before the answer's head has come, and after.
EXPECTED: dict[str, Any] = {
    "anthropic.APIError": TOLD,
    "anthropic.APIStatusError": TOLD,
    "anthropic.APIConnectionError": "told by cause",
    "anthropic.APITimeoutError": "told by cause",
    "anthropic.APIResponseValidationError": "told by its response",
    "anthropic.InternalServerError": TOLD,
    "anthropic.MutuallyExclusiveAuthError": "not of this API",
    "anthropic.StreamAlreadyConsumed": "not of this API",
    "anthropic.APIWebhookValidationError": "not of this API",
    "anthropic.RetryableError": "not of this API",
    "anthropic.CredentialsError": "not of this API",
    "anthropic.IdentityTokenFileError": "not of this API",
    "anthropic.MissingDependencyError": "not of this API",
    "anthropic.ToolsetClosedError": "not of this API",
    "anthropic.ToolsetConfigError": "not of this API",
    "anthropic.ToolsetContractError": "not of this API",
    "anthropic.ToolsetUsageError": "not of this API",
    "anthropic.ToolsetsFixedError": "not of this API",
    "anthropic.WorkloadIdentityError": "not of this API",
    "openai.APIError": TOLD,
    "openai.APIStatusError": TOLD,
    "openai.APIConnectionError": "told by cause",
    "openai.APITimeoutError": "told by cause",
    "openai.APIResponseValidationError": "told by its response",
    "openai.InternalServerError": TOLD,
    "openai.MutuallyExclusiveAuthError": "not of this API",
    "openai.StreamAlreadyConsumed": "not of this API",
    "openai.LengthFinishReasonError": "not of this API",
    "openai.ContentFilterFinishReasonError": "not of this API",
    "openai.SubjectTokenProviderError": "not of this API",
    "openai.WebSocketConnectionClosedError": "not of this API",
    "openai.WebSocketQueueFullError": "not of this API",
    "openai.APIRemovedInV1": "not of this API",
    "openai._AmbiguousModuleClientUsageError": "not of this API",
    "httpx2.ConnectTimeout": (FaultKind.CONNECT_TIMEOUT, FaultKind.CONNECT_TIMEOUT),
    "httpx2.PoolTimeout": (FaultKind.CONNECT_TIMEOUT, FaultKind.CONNECT_TIMEOUT),
    "httpx2.ReadTimeout": (FaultKind.SILENCE, FaultKind.STALLED),
    "httpx2.WriteTimeout": (FaultKind.SILENCE, FaultKind.STALLED),
    "httpx2.TimeoutException": (FaultKind.SILENCE, FaultKind.STALLED),
    "httpx2.ConnectError": (FaultKind.CONNECTION, FaultKind.TRUNCATED),
    "httpx2.ReadError": (FaultKind.CONNECTION, FaultKind.TRUNCATED),
    "httpx2.WriteError": (FaultKind.CONNECTION, FaultKind.TRUNCATED),
    "httpx2.CloseError": (FaultKind.CONNECTION, FaultKind.TRUNCATED),
    "httpx2.NetworkError": (FaultKind.CONNECTION, FaultKind.TRUNCATED),
    "httpx2.ProxyError": (FaultKind.CONNECTION, FaultKind.TRUNCATED),
    "httpx2.LocalProtocolError": (FaultKind.CONNECTION, FaultKind.TRUNCATED),
    "httpx2.ProtocolError": (FaultKind.CONNECTION, FaultKind.TRUNCATED),
    "httpx2.TransportError": (FaultKind.CONNECTION, FaultKind.TRUNCATED),
    "httpx2.RemoteProtocolError": (FaultKind.MALFORMED, FaultKind.TRUNCATED),
    "httpx2.DecodingError": (FaultKind.MALFORMED, FaultKind.MALFORMED),
    "httpx2.TooManyRedirects": (FaultKind.MALFORMED, FaultKind.MALFORMED),
    "httpx2.UnsupportedProtocol": (FaultKind.DENIED, FaultKind.DENIED),
    "httpx2.InvalidURL": (FaultKind.DENIED, FaultKind.DENIED),
    "httpx2.StreamError": (FaultKind.CONNECTION, FaultKind.TRUNCATED),
    "httpx2.StreamConsumed": (FaultKind.CONNECTION, FaultKind.TRUNCATED),
    "httpx2.StreamClosed": (FaultKind.CONNECTION, FaultKind.TRUNCATED),
    "httpx2.ResponseNotRead": (FaultKind.CONNECTION, FaultKind.TRUNCATED),
    "httpx2.RequestNotRead": (FaultKind.CONNECTION, FaultKind.TRUNCATED),
    "httpx2.RequestError": "a base of others",
    "httpx2.HTTPError": "a base of others",
    "httpx2.HTTPStatusError": TOLD,
    "httpx2.CookieConflict": "not of this API",
    "httpx2.SSEError": (FaultKind.CONNECTION, FaultKind.TRUNCATED),
}


def named(kind: type[BaseException]) -> str:
    """Its name in the table."""
    return f"{kind.__module__.split('.')[0]}.{kind.__name__}"


def of_the_libraries() -> list[type[BaseException]]:
    """All exception classes of both SDKs and their HTTP client, those with a status of their own left out."""
    found = {*subclasses(anthropic.AnthropicError), *subclasses(openai.OpenAIError)}
    found |= {*subclasses(httpx2.HTTPError), *subclasses(httpx2.StreamError)}
    found |= {item for item in vars(httpx2).values() if isinstance(item, type) and issubclass(item, Exception)}
    ours = [kind for kind in found if kind.__module__.split(".")[0] in ("anthropic", "openai", "httpx2")]
    return sorted((kind for kind in ours if not hasattr(kind, "status_code")), key=named)


@pytest.mark.parametrize("kind", of_the_libraries(), ids=named)
def test_every_exception_of_the_libraries_has_a_meaning(kind: type[Exception]) -> None:
    """fails when an SDK or its HTTP client grows an exception of which nobody has decided what it means."""
    assert named(kind) in EXPECTED, f"decide what {named(kind)} means, and put it into diagnosis.py and here"
    expected = EXPECTED[named(kind)]
    if not isinstance(expected, tuple):
        return
    made = kind.__new__(kind)
    Exception.__init__(made, "text")
    for answering, meant in zip((False, True), expected, strict=True):
        assert diagnose(made, key=KEY, answering=answering).kind is meant


def with_a_status() -> list[type[BaseException]]:
    found = {*subclasses(anthropic.APIStatusError), *subclasses(openai.APIStatusError)}
    return sorted((kind for kind in found if hasattr(kind, "status_code")), key=named)


@pytest.mark.parametrize("kind", with_a_status(), ids=named)
def test_every_exception_with_a_status_means_what_its_status_means(kind: Any) -> None:
    """fails when an SDK's exception is read otherwise than the answer that it is made of."""
    body = {"error": {"type": "some_error", "message": "said"}}
    answer = response(kind.status_code, body, request_id="req_1")
    made = kind(response=answer, body=body) if kind is openai.OAuthError else kind("said", response=answer, body=body)
    fault = diagnose(made, key=KEY, answering=False)
    assert fault.kind is from_status(kind.status_code, body, answer.headers, key=KEY).kind
    assert fault.status == kind.status_code
    assert fault.detail.startswith(f"status {kind.status_code}, some_error, request req_1")


def test_an_answer_that_an_sdk_does_not_understand_is_malformed() -> None:
    """Also an exception that comes with an answer that says success, and with no error in it."""
    for sdk in (anthropic, openai):
        made = sdk.APIResponseValidationError(response(200, {}), None)
        assert diagnose(made, key=KEY, answering=True).kind is FaultKind.MALFORMED


def test_server_errors_without_a_class_of_their_own_are_told_by_their_status() -> None:
    """A 520 is a server's error too."""
    for sdk in (anthropic, openai):
        made = sdk.InternalServerError("said", response=response(520, {}), body=None)
        assert diagnose(made, key=KEY, answering=False).kind is FaultKind.SERVER_ERROR


# -- what lies behind a connection that failed


def caused(by: Exception) -> Exception:
    """As an SDK, the HTTP client and its network library wrap it."""
    group = ExceptionGroup("multiple connection attempts failed", [by])
    middle = OSError("All connection attempts failed")
    middle.__cause__ = group
    outer = httpx2.ConnectError("All connection attempts failed")
    outer.__context__ = middle
    sdk = anthropic.APIConnectionError(request=REQUEST)
    sdk.__cause__ = outer
    return sdk


@pytest.mark.parametrize(
    ("cause", "kind", "detail"),
    [
        (socket.gaierror(-2, "Name or service not known"), FaultKind.DNS, "gaierror: Name or service not known"),
        (ConnectionRefusedError(errno.ECONNREFUSED, "Connection refused"), FaultKind.REFUSED_CONNECTION, "refused"),
        (ssl.SSLCertVerificationError(1, "certificate verify failed"), FaultKind.TLS, "certificate verify failed"),
        (OSError(errno.ENETUNREACH, "Network is unreachable"), FaultKind.CONNECTION, "unreachable"),
        (ConnectionResetError(errno.ECONNRESET, "reset by peer"), FaultKind.CONNECTION, "ConnectError"),
    ],
)
def test_a_connection_that_failed_is_told_by_its_cause(cause: Exception, kind: FaultKind, detail: str) -> None:
    """DNS, a refused connection and TLS are told apart, however deep they lie."""
    fault = diagnose(caused(cause), key=KEY, answering=False)
    assert fault.kind is kind
    assert detail in fault.detail or fault.detail in ("ConnectError", "OSError")


@pytest.mark.parametrize(
    ("exc", "before", "after"),
    [
        (json.JSONDecodeError("Expecting value", "x", 0), FaultKind.CALLERS_FAULT, FaultKind.MALFORMED),
        (UnicodeDecodeError("utf-8", b"\xff", 0, 1, "bad"), FaultKind.CALLERS_FAULT, FaultKind.MALFORMED),
        (TypeError("not JSON serializable"), FaultKind.CALLERS_FAULT, FaultKind.MALFORMED),
        (AttributeError("x"), FaultKind.MALFORMED, FaultKind.MALFORMED),
        (ssl.SSLError(1, "record layer failure"), FaultKind.TLS, FaultKind.TRUNCATED),
        (httpx2.RemoteProtocolError("Server disconnected without sending a response."), FaultKind.CONNECTION, None),
        (RuntimeError("Cannot send a request, as the client has been closed."), FaultKind.CONNECTION, None),
        (ZeroDivisionError(), FaultKind.CONNECTION, FaultKind.TRUNCATED),
    ],
)
def test_what_is_no_error_of_the_connection(exc: Exception, before: FaultKind, after: FaultKind | None) -> None:
    """What cannot be written is the caller's fault, what cannot be read the provider's."""
    assert diagnose(exc, key=KEY, answering=False).kind is before
    assert diagnose(exc, key=KEY, answering=True).kind is (after or FaultKind.TRUNCATED)


# -- what providers say


@pytest.mark.parametrize(
    ("status", "error", "kind"),
    [
        (400, {"type": "invalid_request_error", "message": "messages.0: wrong"}, FaultKind.CALLERS_FAULT),
        (400, {"message": "Your credit balance is too low to access the API."}, FaultKind.DENIED),
        (400, {"type": "x", "details": {"error_code": "organization_on_hold"}}, FaultKind.DENIED),
        (400, {"message": "prompt is too long: 210000 tokens > 200000 maximum"}, FaultKind.TOO_LONG),
        (400, {"message": "input length and `max_tokens` exceed context limit: 1 + 2 > 2"}, FaultKind.TOO_LONG),
        (400, {"code": "context_length_exceeded", "message": "Too long."}, FaultKind.TOO_LONG),
        (400, {"message": "This model's maximum context length is 4096 tokens."}, FaultKind.TOO_LONG),
        (400, {"type": "exceed_context_size_error", "message": "the request exceeds"}, FaultKind.TOO_LONG),
        (400, {"message": "The decoder prompt is longer than the maximum model length of 1"}, FaultKind.TOO_LONG),
        (401, {"type": "authentication_error"}, FaultKind.DENIED),
        (402, {"type": "billing_error"}, FaultKind.DENIED),
        (403, {"type": "permission_error"}, FaultKind.DENIED),
        (404, {"type": "not_found_error"}, FaultKind.DENIED),
        (405, {}, FaultKind.DENIED),
        (408, {}, FaultKind.SERVER_ERROR),
        (409, {}, FaultKind.SERVER_ERROR),
        (413, {"type": "request_too_large"}, FaultKind.TOO_LONG),
        (422, {}, FaultKind.CALLERS_FAULT),
        (425, {}, FaultKind.SERVER_ERROR),
        (429, {"type": "rate_limit_error"}, FaultKind.LIMITED),
        (429, {"type": "rate_limit_error", "details": {"error_code": "ramp_limit_exceeded"}}, FaultKind.LIMITED),
        (429, {"details": {"error_code": "contract_spend_limit_reached"}}, FaultKind.DENIED),
        (429, {"type": "insufficient_quota", "code": "insufficient_quota"}, FaultKind.DENIED),
        (429, {"message": "You exceeded your current quota, please check your plan"}, FaultKind.DENIED),
        (499, {}, FaultKind.SERVER_ERROR),
        (500, {"type": "api_error"}, FaultKind.SERVER_ERROR),
        (501, {}, FaultKind.SERVER_ERROR),
        (503, {}, FaultKind.SERVER_ERROR),
        (529, {"type": "overloaded_error"}, FaultKind.OVERLOADED),
        (302, {}, FaultKind.MALFORMED),
    ],
)
def test_a_status_with_what_is_said_to_it(status: int, error: dict[str, Any], kind: FaultKind) -> None:
    """Codes and words say what a status alone does not: an empty account, a request that is too long."""
    for body in ({"error": error}, error):
        assert from_status(status, body, {}, key=KEY).kind is kind


@pytest.mark.parametrize(
    "body", [None, "", "<html>", "[]", "{}", [], 5, {"error": "no"}, {"error": None}, {"detail": 1}]
)
def test_an_error_may_have_any_form(body: object) -> None:
    """fails when the form of an error's body matters to what its status means."""
    assert from_status(500, body, {}, key=KEY).kind is FaultKind.SERVER_ERROR
    assert from_status(400, body, {}, key=KEY).kind is FaultKind.CALLERS_FAULT


def test_a_refusal_in_html_is_not_the_providers() -> None:
    """What stands between speaks HTML: it is no word on the request, so that the next provider is asked."""
    for status in (400, 422, 431):
        assert from_status(status, "<html>", {"content-type": "text/html"}, key=KEY).kind is FaultKind.MALFORMED
    assert from_status(403, "<html>", {"content-type": "text/html"}, key=KEY).kind is FaultKind.DENIED


@pytest.mark.parametrize(
    ("error", "kind", "status"),
    [
        ({"type": "overloaded_error", "message": "Overloaded"}, FaultKind.OVERLOADED, 529),
        ({"type": "api_error"}, FaultKind.SERVER_ERROR, 500),
        ({"type": "rate_limit_error"}, FaultKind.LIMITED, 429),
        ({"type": "authentication_error"}, FaultKind.DENIED, 401),
        ({"type": "invalid_request_error", "message": "prompt is too long: 9"}, FaultKind.TOO_LONG, 400),
        ({"type": "server_error", "code": "rate_limit_exceeded"}, FaultKind.SERVER_ERROR, 500),
        ({"code": "rate_limit_exceeded"}, FaultKind.LIMITED, 429),
        ({"code": "context_length_exceeded"}, FaultKind.TOO_LONG, 400),
        ({"type": "BadRequestError", "code": 400, "message": "no"}, FaultKind.CALLERS_FAULT, 400),
        ({"code": 503, "message": "Loading model"}, FaultKind.SERVER_ERROR, 503),
        ({"type": "never_heard_of"}, FaultKind.SERVER_ERROR, 500),
        ("plain words", FaultKind.SERVER_ERROR, 500),
    ],
)
def test_an_error_within_a_stream_means_what_it_would_have_meant_before(
    error: Any, kind: FaultKind, status: int
) -> None:
    """Its type or code stands for the status that it no longer can have."""
    fault = from_error({"error": error}, key=KEY)
    assert (fault.kind, fault.status) == (kind, status)


NOW = 1_700_000_000.0  # Tue, 14 Nov 2023 22:13:20 GMT


@pytest.mark.parametrize(
    ("headers", "wait_s"),
    [
        ({}, None),
        ({"retry-after": "7"}, 7.0),
        ({"retry-after": " 1.5 "}, 1.5),
        ({"retry-after-ms": "250", "retry-after": "7"}, 0.25),
        ({"retry-after-ms": "soon", "retry-after": "7"}, 7.0),
        ({"retry-after": "Tue, 14 Nov 2023 22:13:50 GMT"}, 30.0),
        ({"retry-after": "Tue, 14 Nov 2023 22:13:50 -0000"}, 30.0),
        ({"retry-after": "Tue, 14 Nov 2023 22:13:00 GMT"}, 0.0),
        ({"retry-after": "-5"}, 0.0),
        ({"retry-after": "inf"}, None),
        ({"retry-after": "nan"}, None),
        ({"retry-after": "soon"}, None),
        ({"retry-after": ""}, None),
    ],
)
def test_when_to_come_back(headers: dict[str, str], wait_s: float | None) -> None:
    """Seconds, milliseconds and dates are understood; anything else is as if nothing had been said."""
    assert retry_after(headers, now=NOW) == wait_s


# -- what may not be told


@pytest.mark.parametrize("status", [400, 401, 403, 404, 408, 413, 429, 500, 503, 529])
@pytest.mark.parametrize(
    "said",
    [
        f"Incorrect API key provided: {KEY}.",
        f"Incorrect API key provided: {KEY[:8]}*******{KEY[-4:]}.",
        f"Bearer {KEY[:12]}",
        f"key {KEY[7:]} is wrong " + "x" * 600,
    ],
)
def test_no_key_and_no_part_of_one_is_told(status: int, said: str) -> None:
    """fails when a provider that repeats the key, whole or in part, brings it into a fault."""
    headers = {"request-id": KEY, "content-type": "application/json"}
    for error in ({"type": KEY, "code": KEY, "message": said}, {"type": "x", "message": said}):
        fault = from_status(status, {"error": error}, headers, key=KEY)
        for shown in (fault.detail, str(fault), repr(fault), repr(fault.__dict__)):
            assert KEY not in shown
            assert KEY[:8] not in shown
            assert KEY[-6:] not in shown
            assert KEY[7:20] not in shown
        assert len(fault.detail) < 600


PROMPT = "my history is XYZZY"
ECHOES: list[dict[str, Any]] = [
    {"error": {"type": "invalid_request_error", "message": f"Invalid value: '{PROMPT}'", "param": PROMPT}},
    {"error": {"type": PROMPT, "code": PROMPT, "message": {"input": PROMPT}}},
    {"error": f"failed on input {PROMPT}"},
    {"object": "error", "type": "BadRequestError", "code": 400, "message": f"1 error: {{'input': '{PROMPT}'}}"},
    {"detail": [{"type": "missing", "loc": ["body", "messages"], "msg": "Field required", "input": PROMPT}]},
    {"message": f"maximum context length is 10 tokens: {PROMPT}"},
    {"error": {"type": "invalid_request_error", "param": f"tools[0].{PROMPT.split()[-1]}", "message": PROMPT}},
]


@pytest.mark.parametrize("body", ECHOES)
@pytest.mark.parametrize("status", [400, 401, 404, 413, 422, 429, 500, 503, 529])
def test_nothing_of_a_request_is_told_although_a_provider_repeats_it(status: int, body: dict[str, Any]) -> None:
    """fails when a server that repeats what it was sent brings it into a fault, and so into logs and the ledger."""
    answer = response(status, body, request_id="req_1")
    made = openai.APIStatusError(json.dumps(body), response=answer, body=body)
    for fault in (
        from_status(status, body, answer.headers, key=KEY),
        from_error(body, key=KEY),
        diagnose(made, key=KEY, answering=False),
    ):
        for shown in (fault.detail, str(fault), repr(fault), repr(fault.__dict__), repr(fault.args)):
            assert "XYZZY" not in shown
            assert "history" not in shown


def test_where_to_ask_for_more_is_told() -> None:
    """What a provider said is found by the request's id; the field that it names helps, and is never of the request."""
    error = {"type": "invalid_request_error", "code": "invalid_value", "param": "messages[0].content", "message": "No."}
    fault = from_status(400, {"error": error}, {"x-request-id": "req_1"}, key=KEY)
    assert fault.detail == "status 400, invalid_request_error, invalid_value, at messages[0].content, request req_1"


def test_a_fault_holds_nothing_of_what_it_was_made_from() -> None:
    """fails when a fault leads to the exception whose text, request or response holds the key."""
    made = anthropic.AuthenticationError(KEY, response=response(401, {"error": {"message": KEY}}), body=None)
    fault = diagnose(made, key=KEY, answering=False)
    assert fault.__cause__ is fault.__context__ is None
    assert isinstance(fault, Fault)
    assert KEY.encode() not in pickle.dumps(fault.__dict__)
