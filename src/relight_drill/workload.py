"""The agent's callers: they submit tasks, tell it memories and ask it questions, through the service's public name.

They behave as callers do: they resolve the name and keep the answer for its TTL, retry with the same id until they are
told that a thing is acknowledged, and remember what they were told. What they remember is what must not be lost.
"""

from __future__ import annotations

import asyncio
import random
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

import aiohttp

if TYPE_CHECKING:
    import ssl
    from collections.abc import Coroutine, Sequence

    from relight.clock import Clock
    from relight_drill.corpus import Document

CALL_S = 3.0
ASK_EVERY_S = 0.25
RETRY_S = 0.5


class Names(Protocol):
    """A caller's resolver, which honours TTLs."""

    async def resolve(self, name: str) -> tuple[str, int]:
        """The address and port that the name stands for now."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Ask:
    """One question and what came of it. It was asked at `at`; `ended_at` is when it was answered, or given up."""

    at: float
    ended_at: float
    answered: bool
    region: str
    error: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Write:
    """One try to submit a task or a memory. Seconds as those of `Ask`."""

    at: float
    ended_at: float
    acknowledged: bool


@dataclass(slots=True)
class Record:
    """What the callers were told. Times are seconds on the drill's clock."""

    tasks: dict[str, float] = field(default_factory=dict)
    memories: dict[str, float] = field(default_factory=dict)
    asks: list[Ask] = field(default_factory=list)
    writes: list[Write] = field(default_factory=list)


class Callers:
    """Submits until told to stop; everything it was told is in `record`."""

    def __init__(self, *, host: str, names: Names, trust: ssl.SSLContext, clock: Clock, seed: int) -> None:
        self.record = Record()
        self._host = host
        self._names = names
        self._trust = trust
        self._clock = clock
        self._seed = seed
        self._sending: set[asyncio.Task[None]] = set()
        self._asking: set[asyncio.Task[None]] = set()
        self._session: aiohttp.ClientSession | None = None

    async def start(self) -> None:
        """Begin to ask."""
        # A connection a call: a caller that kept one open would not notice that the name has moved.
        connector = aiohttp.TCPConnector(force_close=True, limit=0)
        self._session = aiohttp.ClientSession(connector=connector, timeout=aiohttp.ClientTimeout(total=CALL_S))
        self._spawn(self._ask_on(), self._asking)

    async def close(self) -> None:
        """Stop whatever is under way."""
        jobs = [*self._sending, *self._asking]
        for job in jobs:
            job.cancel()
        await asyncio.gather(*jobs, return_exceptions=True)
        if self._session is not None:
            await self._session.close()

    async def submit(self, documents: Sequence[Document], *, prefix: str, over_s: float) -> None:
        """Submit a task and a memory for each document, spread over `over_s` seconds; return when all are sent off."""
        chooser = random.Random(f"{self._seed}/{prefix}")  # noqa: S311 - a rhythm, not a secret
        pauses = [chooser.random() for _ in documents]
        scale = over_s / sum(pauses)
        for number, (document, pause) in enumerate(zip(documents, pauses, strict=True)):
            name = f"{prefix}-{number:04}"
            task = {"id": name, "payload": {"topic": document.name}}
            memory = {"id": f"note/{name}", "text": document.text}
            self._spawn(self._until_acknowledged("/tasks", task, self.record.tasks), self._sending)
            self._spawn(self._until_acknowledged("/memories", memory, self.record.memories), self._sending)
            await asyncio.sleep(pause * scale)

    @property
    def waiting(self) -> int:
        """Things that were sent and are not acknowledged yet."""
        return len(self._sending)

    async def call(self, method: str, path: str, body: dict[str, Any] | None = None) -> tuple[int, Any]:
        """One call to the service: the status and the JSON answer. Raises OSError or aiohttp.ClientError."""
        assert self._session is not None  # noqa: S101 - start() comes first
        address, port = await self._names.resolve(self._host)
        url = f"https://{address}:{port}{path}"
        async with self._session.request(
            method, url, json=body, ssl=self._trust, server_hostname=self._host, headers={"Host": self._host}
        ) as answer:
            return answer.status, await answer.json()

    def _spawn(self, work: Coroutine[Any, Any, None], jobs: set[asyncio.Task[None]]) -> None:
        job = asyncio.create_task(work)
        jobs.add(job)
        job.add_done_callback(jobs.discard)

    async def _until_acknowledged(self, path: str, body: dict[str, Any], told: dict[str, float]) -> None:
        while True:
            at = self._clock.monotonic()
            try:
                status, _ = await self.call("POST", path, body)
            except (OSError, TimeoutError, aiohttp.ClientError, ValueError):
                status = 0
            now, acknowledged = self._clock.monotonic(), status in (201, 202)
            self.record.writes.append(Write(at=at, ended_at=now, acknowledged=acknowledged))
            if acknowledged:
                told[body["id"]] = now
                return
            await asyncio.sleep(RETRY_S)

    async def _ask_on(self) -> None:
        """Ask at a steady pace, without waiting for the answers: a service that hangs is asked all the same."""
        while True:
            self._spawn(self._ask(self._clock.monotonic()), self._asking)
            await asyncio.sleep(ASK_EVERY_S)

    async def _ask(self, at: float) -> None:
        try:
            status, body = await self.call("POST", "/ask", {"question": "how to read a file line by line"})
        except (OSError, TimeoutError, aiohttp.ClientError, ValueError) as exc:
            now = self._clock.monotonic()
            self.record.asks.append(Ask(at=at, ended_at=now, answered=False, region="", error=type(exc).__name__))
            return
        now = self._clock.monotonic()
        answered = status == 200 and bool(body["hits"])
        error = "" if answered else str(body.get("error", f"status {status}"))
        region = str(body.get("region", ""))
        self.record.asks.append(Ask(at=at, ended_at=now, answered=answered, region=region, error=error))


def green_since(asks: Sequence[Ask], *, after: float, region: str) -> float | None:
    """When the first question was answered from which on every one was, and by `region`; None while the last was not.

    Questions are ordered by when they were asked, because those that fail take longer to come back.
    """
    return _since([(ask.at, ask.ended_at, ask.answered and ask.region == region) for ask in asks], after)


def working_since(writes: Sequence[Write], *, after: float) -> float | None:
    """When the first write was acknowledged from which on every one was; None while the last was not, or without any.

    In active-active questions are answered while nothing can be written: a region serves again when both are so.
    """
    return _since([(write.at, write.ended_at, write.acknowledged) for write in writes], after)


def _since(calls: Sequence[tuple[float, float, bool]], after: float) -> float | None:
    """The end of the first call begun at `after` or later from which on every one was good."""
    since = None
    for at, ended_at, good in sorted(calls):
        if at >= after:
            since = (ended_at if since is None else since) if good else None
    return since
