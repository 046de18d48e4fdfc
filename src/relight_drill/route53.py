"""Route 53 of the drill: health checkers and what names are answered with, from the deployed checks and records.

A played part. Each health check has a few checkers with phases of their own, which ask at the deployed interval and
change their mind after the deployed threshold of answers in a row, good ones as well as bad ones. A check is healthy
while more than 18 % of its checkers say so (Route 53 Developer Guide, "How Amazon Route 53 determines whether a health
check is healthy"), and until there is data. A checker gives an endpoint 4 s to connect and 2 s more to answer, and does
not look at its certificate. Records that are unhealthy are left out; when all of them are, all are answered with, as if
all were healthy. Of those that count, a failover pair answers its primary, latency records the one of the asker's
nearest region, and weighted records one by chance. A place is a region here, and every other region is further away.
Nothing is sped up; only the time that a changed answer takes to reach every name server (seconds) is left out.
"""

from __future__ import annotations

import asyncio
import random
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import aiohttp

from relight_drill.processes import DrillError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from relight_drill.deployment import HealthCheck, Record

CHECKERS = 3
HEALTHY_SHARE = 0.18
CONNECT_S = 4.0
RESPONSE_S = 2.0
CHAIN = 8


class Probe(Protocol):
    """Asks an endpoint once."""

    async def __call__(self, check: HealthCheck, /) -> bool:
        """Whether the endpoint answered well in time; never raises on an endpoint's account."""
        ...


class HttpProbe:
    """Asks through the proxy of the side that the checkers stand on, with a connection of its own each time."""

    def __init__(self, proxy: str) -> None:
        self._proxy = proxy
        self._session: aiohttp.ClientSession | None = None

    async def __call__(self, check: HealthCheck, /) -> bool:
        if self._session is None:
            self._session = aiohttp.ClientSession(connector=aiohttp.TCPConnector(force_close=True, limit=0))
        timeout = aiohttp.ClientTimeout(total=CONNECT_S + RESPONSE_S, connect=CONNECT_S, sock_read=RESPONSE_S)
        url = f"{check.type.lower()}://{check.fqdn}:{check.port}{check.path}"
        try:
            async with self._session.get(
                url, proxy=self._proxy, ssl=False, timeout=timeout, allow_redirects=False
            ) as response:
                return 200 <= response.status < 400
        except (aiohttp.ClientError, TimeoutError, OSError):
            return False

    async def close(self) -> None:
        """Close what is open."""
        if self._session is not None:
            await self._session.close()


@dataclass(frozen=True, slots=True, kw_only=True)
class Transition:
    """A health check that changed. `at` is monotonic seconds; `first_at` is when the first checker's answer did."""

    at: float
    first_at: float
    check: str
    fqdn: str
    healthy: bool


@dataclass(slots=True, kw_only=True)
class _Checker:
    """What one checker thinks, and how many answers in a row say otherwise, since when."""

    healthy: bool = True
    against: int = 0
    since: float = 0.0

    def hear(self, good: bool, threshold: int, at: float) -> bool:
        """Take an answer; True when it changed the checker's mind."""
        if good == self.healthy:
            self.against = 0
            return False
        if self.against == 0:
            self.since = at
        self.against += 1
        if self.against < threshold:
            return False
        self.healthy, self.against = good, 0
        return True


class Route53Player:
    """Checks endpoints and answers names. `seed` decides the checkers' phases."""

    def __init__(
        self,
        checks: Iterable[HealthCheck],
        records: Iterable[Record],
        *,
        probe: Probe,
        seed: int,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._checks = {check.id: check for check in checks}
        for check in self._checks.values():
            if check.type not in ("HTTP", "HTTPS"):
                raise DrillError(f"the drill does not play health checks of type {check.type}", hint="use HTTPS")
        self._records: dict[str, list[Record]] = {}
        for record in records:
            self._records.setdefault(_plain(record.name), []).append(record)
        self._probe = probe
        self._random = random.Random(f"route53/{seed}")  # noqa: S311 - phases, not secrets
        self._monotonic = monotonic
        self._checkers = {number: [_Checker() for _ in range(CHECKERS)] for number in self._checks}
        self._healthy = dict.fromkeys(self._checks, True)
        self._jobs: list[asyncio.Task[None]] = []
        self._changed = asyncio.Event()
        self.history: list[Transition] = []

    def play(self) -> None:
        """Begin to check."""
        self._jobs = [
            asyncio.create_task(self._check(check, checker), name=f"route53 {check.fqdn} {number}")
            for check in self._checks.values()
            for number, checker in enumerate(self._checkers[check.id])
        ]

    async def close(self) -> None:
        """Stop checking."""
        for job in self._jobs:
            job.cancel()
        await asyncio.gather(*self._jobs, return_exceptions=True)
        self._jobs = []

    def healthy(self, check: str) -> bool:
        """Whether a health check (by id or by the name it asks) is healthy."""
        found = next((c.id for c in self._checks.values() if check in (c.id, c.fqdn)), None)
        if found is None:
            raise DrillError(f"there is no health check {check!r}", hint=f"there are {', '.join(self._checks)}")
        return self._healthy[found]

    async def until(self, condition: Callable[[], bool], *, what: str, timeout_s: float) -> None:
        """Wait until `condition` holds; it is looked at after every change of a health check."""
        try:
            async with asyncio.timeout(timeout_s):
                while not condition():
                    self._changed.clear()
                    await self._changed.wait()
        except TimeoutError:
            raise DrillError(f"waited {timeout_s:g} s for {what}, in vain", hint="") from None

    def answer(self, name: str, *, near: str = "") -> Record | None:
        """What a name server answers now to somebody near a region; None when the name has no record of its own."""
        records = self._records.get(_plain(name))
        if not records:
            return None
        alive = [r for r in records if not r.health_check or self._healthy[r.health_check]]
        if records[0].weight is not None:
            return self._drawn(alive, records)
        order = sorted(alive or records, key=lambda r: (r.failover == "SECONDARY", r.latency_region != near))
        return order[0]

    def _drawn(self, alive: Sequence[Record], records: Sequence[Record]) -> Record:
        """One by its weight; one that weighs nothing is answered only where no healthy one weighs anything."""
        for among in (alive, records):
            weights = [record.weight or 0 for record in among]
            if any(weights):
                return self._random.choices(among, weights)[0]
            if among:
                return self._random.choice(among)
        raise AssertionError("a name without records has no answer")

    def canonical(self, name: str, *, near: str = "") -> str | None:
        """The name at the end of the chain of CNAMEs, by what is answered now."""
        return follow(name, lambda link: self.answer(link, near=near))

    async def _check(self, check: HealthCheck, checker: _Checker) -> None:
        """One checker: asks at its own phase of the interval, whatever the last answer took."""
        at = self._monotonic() + self._random.uniform(0, check.interval_s)
        while True:
            await asyncio.sleep(at - self._monotonic())
            good = await self._probe(check)
            now = self._monotonic()
            if checker.hear(good, check.threshold, now):
                self._judge(check, now)
            at = max(at + check.interval_s, now)

    def _judge(self, check: HealthCheck, now: float) -> None:
        checkers = self._checkers[check.id]
        healthy = sum(checker.healthy for checker in checkers) > HEALTHY_SHARE * len(checkers)
        if healthy != self._healthy[check.id]:
            self._healthy[check.id] = healthy
            first = min(checker.since for checker in checkers if checker.healthy == healthy)
            self.history.append(Transition(at=now, first_at=first, check=check.id, fqdn=check.fqdn, healthy=healthy))
            self._changed.set()


def follow(name: str, answer: Callable[[str], Record | None]) -> str | None:
    """Follow CNAMEs from `name`; a name without a record ends the chain, a chain that is too long has no end."""
    for _ in range(CHAIN):
        record = answer(name)
        if record is None:
            return name
        if record.type != "CNAME":
            return name
        name = record.values[0]
    return None


def _plain(name: str) -> str:
    return name.lower().rstrip(".")


class Resolver:
    """A client's resolver, which keeps each answer for its TTL.

    `locate` gives the loopback port of the name at the end of a chain (`Internet.locate` with the service's port).
    `near` is the region that the client is nearest to.
    """

    def __init__(
        self,
        player: Route53Player,
        *,
        locate: Callable[[str], int | None] = lambda _: None,
        near: str = "",
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._player = player
        self._near = near
        self._locate = locate
        self._monotonic = monotonic
        self._kept: dict[str, tuple[float, Record | None]] = {}

    def canonical(self, name: str) -> str | None:
        """The name at the end of the chain, as this client sees it."""
        return follow(name, self._answer)

    async def resolve(self, name: str) -> tuple[str, int]:
        """Where to connect; raises OSError when the name leads nowhere, as resolvers do."""
        end = self.canonical(name)
        port = None if end is None else self._locate(end)
        if port is None:
            raise OSError(f"the name {name} does not resolve")
        return "127.0.0.1", port

    def _answer(self, name: str) -> Record | None:
        now, name = self._monotonic(), _plain(name)
        expires, record = self._kept.get(name, (float("-inf"), None))
        if now >= expires:
            record = self._player.answer(name, near=self._near)
            if record is not None:
                self._kept[name] = (now + record.ttl, record)
        return record


class Crowd:
    """The resolvers of clients in several places. Each call is one client's, as likely from one place as from another;
    `seed` decides the order."""

    def __init__(self, resolvers: Sequence[Resolver], *, seed: int) -> None:
        self._resolvers = tuple(resolvers)
        self._random = random.Random(f"crowd/{seed}")  # noqa: S311 - who calls when, not a secret

    async def resolve(self, name: str) -> tuple[str, int]:
        """Where the next client connects to."""
        return await self._random.choice(self._resolvers).resolve(name)
