"""Weaviate's REST interface: one call that gives up in time, and errors from the one tree."""

from __future__ import annotations

import json
from typing import Any
from urllib.parse import parse_qs, quote, unquote, urlencode, urlsplit

import urllib3

from relight.errors import ConfigError, DeniedError, NotFoundError, PermanentError, UnavailableError

CONNECT_TIMEOUT_S = 3
READ_TIMEOUT_S = 60


class Weaviate:
    """A server, by a URL whose password is the API key. Safe to share between threads."""

    def __init__(self, url: str) -> None:
        self._base, key, self.options = _parse(url)
        self._headers = {"Content-Type": "application/json"}
        if key:
            self._headers["Authorization"] = f"Bearer {key}"
        self._pool = urllib3.PoolManager(
            maxsize=8,
            timeout=urllib3.Timeout(connect=CONNECT_TIMEOUT_S, read=READ_TIMEOUT_S),
            retries=urllib3.Retry(2, backoff_factor=0.1, redirect=0, status=0),
        )

    def __repr__(self) -> str:
        return f"Weaviate({self._base})"

    def close(self) -> None:
        """Let the connections go."""
        self._pool.clear()

    def call(
        self, method: str, *path: str, query: dict[str, Any] | None = None, body: dict[str, Any] | None = None
    ) -> Any:
        """The answer's JSON, None for an empty one.

        Raises UnavailableError, DeniedError, NotFoundError for 404, and PermanentError for what the server refuses.
        """
        url = "/".join([self._base, *(quote(part, safe="") for part in path)])
        if query:
            url += "?" + urlencode(query)
        what = f"weaviate {method} /{'/'.join(path)}"
        try:
            answer = self._pool.request(
                method, url, headers=self._headers, body=None if body is None else json.dumps(body).encode()
            )
            data = answer.data
        except urllib3.exceptions.HTTPError as exc:
            raise UnavailableError(f"{what} did not answer: {type(exc).__name__}", hint="see whether it runs") from exc
        if 200 <= answer.status < 300:
            try:
                return json.loads(data) if data else None
            except ValueError as exc:
                raise UnavailableError(f"{what} answered with something that is not JSON") from exc
        problem = f"{what} failed: {answer.status}: {_message(data)}"
        if answer.status in (401, 403):
            raise DeniedError(problem, hint="see the API key in the memory's address")
        if answer.status == 404:
            raise NotFoundError(problem)
        if answer.status in (408, 429) or answer.status >= 500:
            raise UnavailableError(problem)
        raise PermanentError(problem)


def _parse(url: str) -> tuple[str, str, dict[str, str]]:
    """The base of every path, the key, and what the query says."""
    # Whatever is wrong with it, its parts stay out of the error and of what caused it: one of them is a key.
    try:
        parts = urlsplit(url)
        user = parts.netloc.rpartition("@")[0]
        port = parts.port or (443 if parts.scheme == "https" else 80)
        good = parts.scheme in ("http", "https") and parts.hostname and not parts.fragment
    except ValueError:
        good = False
    if not good:
        raise ConfigError("the address of Weaviate is not an HTTP URL", hint="use `https://:KEY@host:8080`")
    name = f"[{parts.hostname}]" if ":" in (parts.hostname or "") else parts.hostname
    base = f"{parts.scheme}://{name}:{port}{parts.path.rstrip('/')}/v1"
    return base, unquote(user.partition(":")[2]), {item: values[-1] for item, values in parse_qs(parts.query).items()}


def _message(data: bytes) -> str:
    try:
        value = json.loads(data)
        return "; ".join(item["message"] for item in value["error"])
    except (ValueError, KeyError, TypeError):
        return data[:200].decode(errors="replace") or "no message"
