"""The outbox: where the agent's side effects arrive. It lives in neither region and survives both.

A played part: it stands for a mail provider. It never deduplicates, whatever key comes along, because most of what
agents send goes to places that do not; so it counts duplicates by what was sent.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import time
from collections import Counter
from dataclasses import dataclass
from typing import Any

from aiohttp import web

from relight_drill.audit import Sent
from relight_drill.processes import free_port

LARGEST = 1 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Message:
    """One message as it arrived. `at` is monotonic seconds; `key` is the Idempotency-Key header, never acted upon."""

    at: float
    digest: str
    key: str
    body: Any


def digest_of(body: Any) -> str:
    """The SHA-256 of a message's one spelling: sorted keys, no spaces, UTF-8."""
    spelled = json.dumps(body, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(spelled.encode()).hexdigest()


class Outbox:
    """POST /messages keeps a JSON message (201); GET /messages?digest=… says how often it was sent (200)."""

    def __init__(self, *, port: int | None = None) -> None:
        self._runner: web.AppRunner | None = None
        self.port = port or free_port()
        self.messages: list[Message] = []

    async def start(self) -> None:
        """Listen on loopback."""
        app = web.Application(client_max_size=LARGEST)
        app.router.add_post("/messages", self._post)
        app.router.add_get("/messages", self._get)
        self._runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.2)
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", self.port).start()

    async def close(self) -> None:
        """Stop listening; the messages stay."""
        if self._runner is not None:
            await self._runner.cleanup()
            self._runner = None

    def sent(self) -> list[Sent]:
        """Everything that arrived, in the order of arrival."""
        return [Sent(digest=message.digest, task=_task(message.body)) for message in self.messages]

    def duplicates(self) -> dict[str, int]:
        """The digests that arrived more than once, with how often too many."""
        counts = Counter(message.digest for message in self.messages)
        return {digest: count - 1 for digest, count in counts.items() if count > 1}

    async def _post(self, request: web.Request) -> web.Response:
        try:
            body = json.loads(await request.read())
        except ValueError:
            return web.json_response({"error": "the body is not JSON"}, status=400)
        digest = digest_of(body)
        key = request.headers.get("Idempotency-Key", "")
        self.messages.append(Message(at=time.monotonic(), digest=digest, key=key, body=body))
        return web.json_response({"digest": digest, "number": len(self.messages)}, status=201)

    async def _get(self, request: web.Request) -> web.Response:
        digest = request.query.get("digest")
        if digest is None:
            return web.json_response({"error": "ask with ?digest="}, status=400)
        # A question waits its turn behind what is being taken in: an answer "not sent" must not overtake a message.
        await asyncio.sleep(0)
        count = sum(message.digest == digest for message in self.messages)
        return web.json_response({"digest": digest, "count": count})


def _task(body: Any) -> str:
    return str(body.get("task", "")) if isinstance(body, dict) else ""
