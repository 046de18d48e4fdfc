"""Qdrant's REST interface through qdrant-client and httpx: a server's nodes, and errors from the one tree.

Both are imported late: only environments whose memory is in Qdrant have them.
"""

from __future__ import annotations

import json
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote, urlsplit

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

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    import httpx
    from qdrant_client import QdrantClient

DEFAULT_PORT = 6333
CONNECT_TIMEOUT_S = 3
TIMEOUT_S = 10

BY_STATUS: dict[int, type[RelightError]] = {
    401: DeniedError,
    403: DeniedError,
    404: NotFoundError,
    408: UnavailableError,
    409: ConflictError,
    429: UnavailableError,
}

_UNAVAILABLE = (
    "CloseError",
    "ConnectError",
    "ConnectTimeout",
    "DecodingError",
    "HTTPError",
    "NetworkError",
    "PoolTimeout",
    "ProtocolError",
    "ProxyError",
    "ReadError",
    "ReadTimeout",
    "RemoteProtocolError",
    "RequestError",
    "ResourceExhaustedResponse",
    "TimeoutException",
    "TransportError",
    "WriteError",
    "WriteTimeout",
)
_CONFIG = ("InvalidURL", "UnsupportedProtocol", "TooManyRedirects")
_PERMANENT = (
    "ApiException",
    "CookieConflict",
    "HTTPStatusError",
    "LocalProtocolError",
    "QdrantException",
    "RequestNotRead",
    "ResponseHandlingException",
    "ResponseNotRead",
    "StreamClosed",
    "StreamConsumed",
    "StreamError",
    "UnexpectedResponse",
)
# By the class's name, because the classes may not be there.
BY_CLASS: dict[str, type[RelightError]] = {
    **dict.fromkeys(_UNAVAILABLE, UnavailableError),
    **dict.fromkeys(_CONFIG, ConfigError),
    **dict.fromkeys(_PERMANENT, PermanentError),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Node:
    """One node of a server: `api` for what qdrant-client has calls for, `http` for what is streamed."""

    host: str
    api: QdrantClient
    http: httpx.Client

    def close(self) -> None:
        """Let the connections go."""
        self.api.close()
        self.http.close()


def connect(dsn: str) -> tuple[Node, ...]:
    """The nodes of `https://:KEY@host:6333,other:6333`, which names each of a cluster; nothing is asked of them yet.

    Raises ConfigError, which never quotes the address, also where qdrant-client is not installed.
    """
    try:
        import httpx
        from qdrant_client import QdrantClient
    except ImportError as exc:
        raise ConfigError(
            "memory is in Qdrant, and qdrant-client is not installed", hint="pip install relight[qdrant]"
        ) from exc
    scheme, key, hosts, prefix = _parse(dsn)
    headers = {"api-key": key} if key else {}
    trust = httpx.create_ssl_context()  # reading the certificates takes 25 ms
    return tuple(
        Node(
            host=host,
            api=QdrantClient(
                url=f"{scheme}://{host}",
                prefix=prefix or None,
                headers=headers,
                timeout=TIMEOUT_S,
                check_compatibility=False,
                verify=trust,
            ),
            http=httpx.Client(
                base_url=f"{scheme}://{host}{prefix}",
                headers={**headers, "Accept-Encoding": "identity"},
                timeout=httpx.Timeout(TIMEOUT_S, connect=CONNECT_TIMEOUT_S),
                verify=trust,
            ),
        )
        for host in hosts
    )


def _parse(dsn: str) -> tuple[str, str, list[str], str]:
    # Whatever is wrong with it, its parts stay out of the error and of what caused it: one of them is a key.
    try:
        parts = urlsplit(dsn)
        scheme, prefix = parts.scheme, parts.path.rstrip("/")
        user, _, listed = parts.netloc.rpartition("@")
        hosts = [_with_port(host) for host in listed.split(",")]
        good = scheme in ("http", "https") and not parts.query and not parts.fragment and "/" not in user
    except ValueError:
        good = False
    if not good:
        raise ConfigError(
            "the address of the memory is not one of Qdrant", hint="use https://:KEY@host:6333, with each node's host"
        )
    return scheme, unquote(user.partition(":")[2]), hosts, prefix


def _with_port(host: str) -> str:
    parts = urlsplit(f"//{host}")
    if not parts.hostname:
        raise ValueError
    name = f"[{parts.hostname}]" if ":" in parts.hostname else parts.hostname
    return f"{name}:{parts.port or DEFAULT_PORT}"


def answer(response: httpx.Response) -> Any:
    """A raw answer's `result`, None where it was only accepted; raises the error of our tree that it is otherwise."""
    if response.status_code >= 300:
        response.read()
        raise _error_of(response.status_code, response.content)
    try:
        return response.json().get("result")
    except (ValueError, AttributeError) as exc:
        raise PermanentError("qdrant: the answer is not its JSON", hint="is something else at that address?") from exc


def error_for(exc: Exception) -> RelightError:
    """The error of our tree that one of qdrant-client's or httpx's means."""
    status = getattr(exc, "status_code", None)
    if isinstance(status, int):
        return _error_of(status, getattr(exc, "content", b""))
    source = getattr(exc, "source", None)
    if isinstance(source, Exception):
        return error_for(source)
    names = [item.__name__ for item in type(exc).__mro__]
    kind = next((BY_CLASS[name] for name in names if name in BY_CLASS), PermanentError)
    return kind(f"qdrant: {names[0]}: {exc}".rstrip(": "))


def _error_of(status: int, content: bytes) -> RelightError:
    kind = UnavailableError if status >= 500 else BY_STATUS.get(status, PermanentError)
    if b"checksum mismatch" in content:
        kind = IntegrityError
    return kind(f"qdrant answered {status}: {_said(content)}")


def _said(content: bytes) -> str:
    try:
        status: Mapping[str, str] = json.loads(content)["status"]
        return str(status["error"])[:500]
    except (ValueError, KeyError, TypeError):
        return content.decode(errors="replace")[:200] or "no message"


@contextmanager
def translating() -> Iterator[None]:
    """Turn qdrant-client's and httpx's errors into Relight's, with the driver's as the cause."""
    import httpx
    from qdrant_client.common.client_exceptions import QdrantException
    from qdrant_client.http.exceptions import ApiException

    try:
        yield
    except (ApiException, QdrantException, httpx.HTTPError, httpx.InvalidURL, httpx.StreamError) as exc:
        raise error_for(exc) from exc
