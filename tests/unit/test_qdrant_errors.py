"""Every error of qdrant-client, and of httpx below it, becomes one of the one tree; addresses are never quoted."""

from __future__ import annotations

import inspect
import sys

import httpx
import pytest
from pydantic import BaseModel, ValidationError
from qdrant_client.common import client_exceptions
from qdrant_client.http import exceptions
from qdrant_client.http.exceptions import ResponseHandlingException, UnexpectedResponse

from relight.adapters import qdrant
from relight.errors import (
    ConfigError,
    ConflictError,
    DeniedError,
    IntegrityError,
    NotFoundError,
    PermanentError,
    RelightError,
    UnavailableError,
)
from relight.memory.qdrant import QdrantStore

KINDS = sorted(
    {
        name
        for module in (exceptions, client_exceptions, httpx)
        for name, kind in inspect.getmembers(module, inspect.isclass)
        if issubclass(kind, Exception)
    }
)


@pytest.mark.parametrize("name", KINDS)
def test_every_exception_of_the_driver_is_mapped(name: str) -> None:
    """fails when qdrant-client or httpx grows an exception that nobody decided about."""
    assert name in qdrant.BY_CLASS


def unexpected(status: int, content: bytes = b'{"status": {"error": "why"}}') -> UnexpectedResponse:
    return UnexpectedResponse(status_code=status, reason_phrase="", content=content, headers=httpx.Headers())


@pytest.mark.parametrize(
    ("exc", "kind"),
    [
        (unexpected(400), PermanentError),
        (unexpected(401), DeniedError),
        (unexpected(403), DeniedError),
        (unexpected(404), NotFoundError),
        (unexpected(409), ConflictError),
        (unexpected(429), UnavailableError),
        (unexpected(500), UnavailableError),
        (unexpected(503, b"<html>"), UnavailableError),
        (unexpected(400, b'{"status": {"error": "Snapshot checksum mismatch"}}'), IntegrityError),
        (ResponseHandlingException(httpx.ReadTimeout("slow")), UnavailableError),
        (ResponseHandlingException(httpx.ConnectError("refused")), UnavailableError),
        (client_exceptions.ResourceExhaustedResponse("later", 3), UnavailableError),
        (httpx.RemoteProtocolError("cut"), UnavailableError),
        (httpx.UnsupportedProtocol("ftp"), ConfigError),
    ],
)
def test_an_error_is_read_by_status_and_then_by_class(exc: Exception, kind: type[RelightError]) -> None:
    """An answer's own words are in the text, and what was raised is the cause."""
    with pytest.raises(RelightError) as caught, qdrant.translating():
        raise exc
    assert type(caught.value) is kind
    assert caught.value.__cause__ is exc
    if getattr(exc, "content", b"").startswith(b'{"status": {"error": "why"'):
        assert str(caught.value).endswith("why")


def test_an_answer_that_is_not_understood_is_permanent() -> None:
    """fails when a server that speaks otherwise is asked again and again."""

    class Answer(BaseModel):
        result: int

    with pytest.raises(ValidationError) as invalid:
        Answer.model_validate({})
    assert type(qdrant.error_for(ResponseHandlingException(invalid.value))) is PermanentError


@pytest.mark.parametrize(
    "dsn",
    [
        "",
        "s3cret",
        "host=127.0.0.1 password=s3cret",
        "postgresql://u:s3cret@127.0.0.1/d",
        "http://:s3cret@",
        "http://:s3cret@host:port",
        "http://:s3cret@host:99999",
        "http://:s3cret@one:6333,,two:6333",
        "http://:s3cret@[::1",
        "http://:s3c/ret@host",
        "http://:s3cret@host?x=1",
    ],
)
def test_a_bad_address_is_never_quoted(dsn: str) -> None:
    """fails when a part of the key shows in the error, or in what caused it."""
    with pytest.raises(ConfigError) as caught:
        QdrantStore(dsn)
    seen: BaseException | None = caught.value
    while seen is not None:
        assert "s3c" not in str(seen)
        seen = seen.__cause__ or (None if seen.__suppress_context__ else seen.__context__)


@pytest.mark.parametrize(
    ("dsn", "urls"),
    [
        ("http://host", ["http://host:6333"]),
        ("https://:k@one:443,two/prefix/", ["https://one:443/prefix", "https://two:6333/prefix"]),
        ("http://[::1]:80", ["http://[::1]:80"]),
    ],
)
def test_an_address_names_every_node(dsn: str, urls: list[str]) -> None:
    """Each with its port and the path that all of them are behind."""
    nodes = qdrant.connect(dsn)
    assert [str(node.http.base_url).rstrip("/") for node in nodes] == [str(httpx.URL(url)) for url in urls]
    for node in nodes:
        node.close()


def test_without_the_extra_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    """fails when an environment that lacks the driver gets a traceback instead of the command."""
    monkeypatch.setitem(sys.modules, "qdrant_client", None)
    with pytest.raises(ConfigError, match=r"pip install relight\[qdrant\]"):
        QdrantStore("http://127.0.0.1:1")
