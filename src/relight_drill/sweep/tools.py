"""The outside world of the sweep: tools that count what they did, and a place for large results.

Played parts. `asked` can say whether it acted, `blind` cannot; `keyed` and `forgetful` act once per idempotency key and
cannot say, the second for an hour only. All keep every request that they got; none leaves anything out to be kind.
"""

from __future__ import annotations

import asyncio
import http.client
import json
import time
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, unquote

from relight.errors import NotFoundError, UnavailableError
from relight.tasks.effects import Answer, NotSentError, RefusedError
from relight_drill.processes import free_port
from relight_drill.sweep.wire import PIECE, http_size

if TYPE_CHECKING:
    from collections.abc import Mapping

TIMEOUT_S = 5.0
# On the monotonic clock, which all processes of a machine share.
SENT_AT = "sent-at"
KINDS = ("asked", "blind", "keyed", "forgetful")
HONOURS_S: Mapping[str, float] = {"asked": 0.0, "blind": 0.0, "keyed": 7 * 86400.0, "forgetful": 3600.0}


@dataclass(frozen=True, slots=True, kw_only=True)
class Act:
    """Something that a tool did, and cannot undo."""

    tool: str
    action: str
    key: str
    receipt: int


@dataclass(slots=True)
class World:
    """The tools' server, and their memory."""

    acts: list[Act] = field(default_factory=list)
    sends: list[tuple[str, str]] = field(default_factory=list)
    """Each request to act, as (action, key), whatever came of it."""
    objects: dict[str, bytes] = field(default_factory=dict)
    held: dict[tuple[str, str, int], asyncio.Event] = field(default_factory=dict)
    """The requests to act, as (whose, tool, the so-many-th), that a tool is slow to do, and what it waits for."""
    busy: Counter[str] = field(default_factory=Counter)
    """Requests that are being worked on, by whose they are."""
    forgotten: dict[str, int] = field(default_factory=dict)
    """The keys of how many of the acts `forgetful` has forgotten, by whose they are."""
    late: set[str] = field(default_factory=set)
    """Actions whose answer took so long, on a busy machine, that the worker may have given it up."""
    port: int = field(default_factory=free_port)
    _counts: Counter[tuple[str, str]] = field(default_factory=Counter)
    _server: asyncio.Server | None = None

    async def start(self) -> None:
        """Listen on loopback."""
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", self.port)

    async def close(self) -> None:
        """Stop listening."""
        if self._server is not None:
            self._server.close()

    def forget(self, run: str) -> None:
        """More than an hour passed."""
        self.forgotten[run] = len(self.acts)

    def done(self, action: str) -> list[Act]:
        """How often an action was done."""
        return [act for act in self.acts if act.action == action]

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        data = b""
        try:
            with suppress(OSError):
                while True:
                    while (size := http_size(data)) is None or len(data) < size:
                        more = await reader.read(PIECE)
                        if not more:
                            return
                        data += more
                    request, data = data[:size], data[size:]
                    # What arrived is worked on to its end, whether its sender lives or not.
                    answer = await self._answer(request)
                    if answer is None:
                        return
                    status, body = answer
                    writer.write(b"HTTP/1.1 %d .\r\nContent-Length: %d\r\n\r\n%b" % (status, len(body), body))
                    await writer.drain()
        finally:
            writer.close()

    async def _answer(self, request: bytes) -> tuple[int, bytes] | None:
        head, _, body = request.partition(b"\r\n\r\n")
        first, *lines = head.decode().split("\r\n")
        method, path, _ = first.split()
        headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
        _, kind, name = unquote(path.partition("?")[0]).split("/", 2)
        if kind == "objects":
            return self._object(method, unquote(path.partition("?")[2]), body)
        if name == "find":
            return self._find(kind, unquote(path.partition("?")[2]))
        sent = json.loads(body)
        answer = await self._send(kind, sent, headers.get("idempotency-key", ""))
        if time.monotonic() - float(headers[SENT_AT]) > TIMEOUT_S / 2:
            self.late.add(sent["action"])
        return answer

    def _object(self, method: str, name: str, body: bytes) -> tuple[int, bytes]:
        if method == "PUT":
            self.objects.setdefault(name, body)
            return 201, b""
        return (200, self.objects[name]) if name in self.objects else (404, b"")

    def _find(self, kind: str, action: str) -> tuple[int, bytes]:
        if kind != "asked":
            return 501, b""
        acts = self.done(action)
        return (200, _receipt(acts[-1])) if acts else (404, b"")

    async def _send(self, kind: str, request: Any, key: str) -> tuple[int, bytes] | None:
        action, behave = request["action"], request.get("behave", "")
        first = not any(sent == action for sent, _ in self.sends)
        self.sends.append((action, key))
        run = run_of(action)
        self._counts[run, kind] += 1
        held = self.held.get((run, kind, self._counts[run, kind]))
        if held is not None:
            self.busy[run] += 1
            await held.wait()
            self.busy[run] -= 1
        if behave == "refuse":
            return 422, b""
        if behave == "unsent" and first:
            return 503, b""
        if behave == "drop" and first:
            return None
        begin = {"keyed": 0, "forgetful": self.forgotten.get(run, 0)}.get(kind, len(self.acts))
        known = [act for act in self.acts[begin:] if act.key == key]
        if not known:
            known = [Act(tool=kind, action=action, key=key, receipt=1000 + len(self.acts))]
            self.acts += known
        return None if behave == "lose" and first else (201, _receipt(known[0]))


def run_of(action: str) -> str:
    """Whose an action is."""
    return action.partition("-")[0]


def _receipt(act: Act) -> bytes:
    return json.dumps({"receipt": act.receipt}).encode()


class HttpTool:
    """One of the tools, as a worker calls it."""

    timeout_s = TIMEOUT_S

    def __init__(self, kind: str, port: int) -> None:
        self.name = kind
        self.honours_keys_s = HONOURS_S[kind]
        self._port = port

    def send(self, request: Any, *, key: str) -> Any:
        status, body = _call(
            self._port,
            "POST",
            f"/{self.name}/send",
            json.dumps(request).encode(),
            {"Idempotency-Key": key, SENT_AT: str(time.monotonic())},
        )
        if status == 503:
            raise NotSentError("the tool is closed today")
        if status == 422:
            raise RefusedError("the tool does not do that")
        return json.loads(body)

    def find(self, request: Any, *, key: str) -> Any | Answer:  # noqa: ARG002 - of the port
        status, body = _call(self._port, "GET", f"/{self.name}/find?{quote(request['action'])}")
        if status == 501:
            return Answer.CANNOT_TELL
        return json.loads(body) if status == 200 else Answer.NOT_SENT


class HttpResults:
    """Large results, kept in the outside world."""

    def __init__(self, port: int) -> None:
        self._port = port

    def put(self, key: str, data: bytes) -> None:
        status, _ = _call(self._port, "PUT", f"/objects/-?{quote(key, safe='')}", data)
        if status != 201:
            raise UnavailableError(f"the vault answered {status}")

    def get(self, key: str) -> bytes:
        status, body = _call(self._port, "GET", f"/objects/-?{quote(key, safe='')}")
        if status != 200:
            raise NotFoundError(f"there is no {key!r}")
        return body


def _call(
    port: int, method: str, path: str, body: bytes | None = None, headers: Mapping[str, str] | None = None
) -> tuple[int, bytes]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=TIMEOUT_S)
    try:
        connection.request(method, path, body=body, headers=dict(headers or {}))
        response = connection.getresponse()
        return response.status, response.read()
    except (OSError, http.client.HTTPException) as exc:
        raise UnavailableError(f"the tool did not answer: {type(exc).__name__}") from exc
    finally:
        connection.close()
