"""What every fault on the wire comes to: real SDKs speak to servers that go wrong, and the router makes the best of it.

`docs/providers-faults.md` is made of what is seen here: RELIGHT_WRITE_FAULTS=1 writes it anew, with the seconds that
each fault takes by the default limits (two minutes, for the longest of them).
"""

from __future__ import annotations

import asyncio
import functools
import gc
import os
import platform
import re
import signal
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import aclosing, closing, contextmanager
from dataclasses import dataclass, fields, replace
from importlib.metadata import version
from operator import methodcaller
from pathlib import Path
from typing import TYPE_CHECKING, Any

import fault_servers as wire
import pytest
from fakes import FakeClock
from fault_servers import ANSWER, AnthropicShape, Certificates, ChatShape, Door, Shape, Stage

from relight.errors import (
    IncapableError,
    ProvidersDownError,
    RelightError,
    RequestRefusedError,
    StreamCutError,
    UnavailableError,
)
from relight.providers import wire as client_wire
from relight.providers.blocking import Router
from relight.providers.breaker import Phase
from relight.providers.faults import FaultKind
from relight.providers.messages import Finished, Request, Restarted, Started, TextDelta, Tool, user
from relight.providers.open import open_provider
from relight.providers.router import AsyncRouter, OnCut
from relight.providers.spec import Api, ProviderLimits, ProviderSpec

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Awaitable, Callable, Collection, Iterator, Sequence

    from fault_servers import Exchange, FaultServer

    from relight.clock import Clock
    from relight.providers.messages import Answer, Attempt, Event

pytestmark = [pytest.mark.servers, pytest.mark.anyio]

PAGE = Path(__file__).resolve().parents[2] / "docs" / "providers-faults.md"
KEY = "sk-played-4f0c1a9e7b2d"
REQUEST = Request(
    messages=(user("Is it lit?"),),
    tools=(Tool(name="weather", description="The weather.", schema={"type": "object", "properties": {}}),),
)
SHAPES: dict[Api, Shape] = {
    Api.ANTHROPIC: AnthropicShape(),
    Api.OPENAI: ChatShape(),
}
NAMES = {Api.ANTHROPIC: "Anthropic", Api.OPENAI: "OpenAI"}
# One failure opens a breaker, so that one call tells whether it counted.
LIMITS = ProviderLimits(failures=1)
# A limit that a test runs into is this short, and all others so long that a busy machine does not.
PATIENCE = ("connect_s", "silence_s", "progress_s")
SHORT_S = 0.4
LONG_S = 60.0
BOUND_S = 20.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """A fault, and what is promised of it. `begun` is after the answer's first piece was given out; `left_after` is
    the limit that ends it, where it does not end itself."""

    name: str
    kind: FaultKind
    play: Callable[[Exchange], Awaitable[None]] = wire.answers
    door: Door = Door.OPEN
    breaker: str = "counts"
    begun: bool = False
    left_after: str = ""
    asked: int = 1
    falls_through: bool = True
    alone: type[RelightError] = ProvidersDownError
    only: tuple[Api, ...] = tuple(SHAPES)

    @property
    def id(self) -> str:
        """For pytest."""
        name = re.sub(r"[^a-z0-9]+", "-", self.name.lower()).strip("-")
        return f"{name}{'-after-pieces' if self.begun else ''}"


def at_the_door(name: str, kind: FaultKind, door: Door, **fields: Any) -> Case:
    """Nothing can be asked."""
    return Case(name=name, kind=kind, door=door, asked=0, **fields)


def refused(name: str, kind: FaultKind, status: str, said: str, *, more: str = "", **fields: Any) -> Case:
    """The provider answers with an error of its own."""
    return Case(name=name, kind=kind, play=wire.refuses(status, said, more=more), **fields)


def streamed(name: str, kind: FaultKind, then: Callable[[Exchange], Awaitable[None]], **fields: Any) -> list[Case]:
    """The same before the first piece of an answer and after it."""
    return [
        Case(name=name, kind=kind, play=wire.streams(pieces, then), begun=bool(pieces), **fields) for pieces in (0, 1)
    ]


HALF, MALFORMED, ALIVE = methodcaller("half"), methodcaller("malformed"), methodcaller("alive")
REASONLESS, UNFINISHED, EMPTY = methodcaller("reasonless"), methodcaller("unfinished"), methodcaller("empty")
BROKEN_CALL, BROKEN_BY_LENGTH = methodcaller("broken_call"), methodcaller("broken_call", "length")
ANTHROPIC, OPENAI = (Api.ANTHROPIC,), (Api.OPENAI,)
COOLS, PAGES, UNCOUNTED = "cools", "cools, pages", "nothing"
CALLERS: dict[str, Any] = {"breaker": UNCOUNTED, "falls_through": False, "alone": RequestRefusedError}
TOO_LONG: dict[str, Any] = {"breaker": UNCOUNTED, "alone": IncapableError}
UNUSABLE: dict[str, Any] = {"breaker": UNCOUNTED, "alone": UnavailableError}

CASES = [
    at_the_door("connection refused", FaultKind.REFUSED_CONNECTION, Door.REFUSED),
    at_the_door("name that does not resolve", FaultKind.DNS, Door.NAMELESS),
    at_the_door("connect unanswered", FaultKind.CONNECT_TIMEOUT, Door.FULL, left_after="connect_s"),
    at_the_door("TLS: certificate of an unknown authority", FaultKind.TLS, Door.UNTRUSTED),
    at_the_door("TLS: certificate of another name", FaultKind.TLS, Door.MISNAMED),
    at_the_door("TLS: certificate expired", FaultKind.TLS, Door.EXPIRED),
    at_the_door("TLS: the server speaks none", FaultKind.TLS, Door.NOT_TLS),
    at_the_door("TLS: handshake hangs", FaultKind.CONNECT_TIMEOUT, Door.HANDSHAKE_HANGS, left_after="connect_s"),
    at_the_door("accepted and closed", FaultKind.CONNECTION, Door.CLOSES),
    Case(name="request taken, connection closed", kind=FaultKind.CONNECTION, play=wire.closes),
    Case(name="request taken, connection reset", kind=FaultKind.CONNECTION, play=wire.resets),
    Case(name="request taken, connection half-closed", kind=FaultKind.CONNECTION, play=wire.half_closes),
    Case(name="accepted, then silence", kind=FaultKind.SILENCE, play=wire.silent, left_after="silence_s"),
    Case(
        name="accepted over TLS, then silence", kind=FaultKind.SILENCE, play=wire.silent, door=Door.TLS,
        left_after="silence_s",
    ),
    Case(name="half of the headers", kind=FaultKind.SILENCE, play=wire.half_a_head, left_after="silence_s"),
    Case(
        name="headers, then silence", kind=FaultKind.SILENCE, play=wire.streams(-1, wire.silent),
        left_after="silence_s",
    ),
    Case(
        name="slow drip from the first byte", kind=FaultKind.SILENCE,
        play=wire.streams(-1, wire.drips(HALF)), left_after="silence_s",
    ),
    Case(
        name="white space for ever", kind=FaultKind.SILENCE,
        play=wire.streams(-1, wire.repeats(lambda _: b" ")), left_after="silence_s",
    ),
    Case(
        name="blank lines for ever", kind=FaultKind.SILENCE,
        play=wire.streams(-1, wire.repeats(lambda _: b"\n")), left_after="silence_s",
    ),
    refused("500", FaultKind.SERVER_ERROR, "500 Internal Server Error", "server"),
    Case(
        name="502 with an HTML page", kind=FaultKind.SERVER_ERROR,
        play=wire.shows("502 Bad Gateway", b"<html><body><h1>502 Bad Gateway</h1></body></html>"),
    ),
    refused("503", FaultKind.SERVER_ERROR, "503 Service Unavailable", "overloaded"),
    refused(
        "503 with Retry-After", FaultKind.SERVER_ERROR, "503 Service Unavailable", "overloaded",
        more="Retry-After: 20\r\n", breaker=COOLS,
    ),
    refused("504", FaultKind.SERVER_ERROR, "504 Gateway Timeout", "timeout"),
    refused("529", FaultKind.OVERLOADED, "529 Overloaded", "overloaded"),
    refused(
        "529 with Retry-After", FaultKind.OVERLOADED, "529 Overloaded", "overloaded",
        more="Retry-After: 20\r\n", breaker=COOLS,
    ),
    refused("429", FaultKind.LIMITED, "429 Too Many Requests", "limited", breaker=COOLS),
    refused(
        "429 with Retry-After", FaultKind.LIMITED, "429 Too Many Requests", "limited", more="Retry-After: 20\r\n",
        breaker=COOLS,
    ),
    refused(
        "429, the quota is used up", FaultKind.DENIED, "429 Too Many Requests", "quota", breaker=PAGES, only=OPENAI
    ),
    refused("401", FaultKind.DENIED, "401 Unauthorized", "key", breaker=PAGES),
    refused("402", FaultKind.DENIED, "402 Payment Required", "billing", breaker=PAGES),
    refused("403", FaultKind.DENIED, "403 Forbidden", "forbidden", breaker=PAGES),
    refused("404 of the model", FaultKind.DENIED, "404 Not Found", "model", breaker=PAGES),
    refused("400", FaultKind.CALLERS_FAULT, "400 Bad Request", "caller", **CALLERS),
    refused("422", FaultKind.CALLERS_FAULT, "422 Unprocessable Entity", "caller", **CALLERS),
    refused("400, the context is too long", FaultKind.TOO_LONG, "400 Bad Request", "long", **TOO_LONG),
    refused("413", FaultKind.TOO_LONG, "413 Request Entity Too Large", "large", **TOO_LONG),
    refused("408", FaultKind.SERVER_ERROR, "408 Request Timeout", "timeout"),
    refused("409", FaultKind.SERVER_ERROR, "409 Conflict", "conflict"),
    Case(
        name="redirected to another host", kind=FaultKind.MALFORMED, play=wire.redirects("http://127.0.0.1:9/v1"),
    ),
    Case(
        name="200 with an HTML page", kind=FaultKind.MALFORMED,
        play=wire.shows("200 OK", b"<html><body>Sign in to continue</body></html>"),
    ),
    Case(
        name="200 with an empty body", kind=FaultKind.TRUNCATED,
        play=wire.shows("200 OK", b"", type_="text/event-stream"),
    ),
    Case(name="not compressed as it says", kind=FaultKind.MALFORMED, play=wire.breaks_gzip),
    *streamed("chunks that are none", FaultKind.TRUNCATED, wire.breaks_chunks),
    *streamed("malformed JSON", FaultKind.MALFORMED, wire.sends(MALFORMED)),
    *streamed("cut in the middle of an event", FaultKind.TRUNCATED, wire.cuts(HALF)),
    *streamed("cut between two events", FaultKind.TRUNCATED, wire.cuts(ALIVE)),
    *streamed("reset in the middle of an event", FaultKind.TRUNCATED, wire.cuts(HALF, reset=True)),
    *streamed("ends without a stop reason", FaultKind.TRUNCATED, wire.sends(REASONLESS)),
    *streamed("ends in the middle of an event", FaultKind.TRUNCATED, wire.sends(HALF)),
    *streamed("no message_stop", FaultKind.TRUNCATED, wire.sends(UNFINISHED), only=ANTHROPIC),
    *streamed("stalls", FaultKind.STALLED, wire.silent, left_after="silence_s"),
    *streamed("drips without end", FaultKind.STALLED, wire.drips(HALF), left_after="silence_s"),
    *streamed("signs of life alone", FaultKind.NO_PROGRESS, wire.repeats(ALIVE), left_after="progress_s"),
    *streamed("error event: server", FaultKind.SERVER_ERROR, wire.sends(methodcaller("failed", "server"))),
    *streamed(
        "error event: overloaded", FaultKind.OVERLOADED, wire.sends(methodcaller("failed", "overloaded")),
        only=ANTHROPIC,
    ),
    *streamed(
        "error event: rate limit", FaultKind.LIMITED, wire.sends(methodcaller("failed", "limited")),
        breaker=COOLS,
    ),
    *streamed(
        "error event: the request", FaultKind.CALLERS_FAULT, wire.sends(methodcaller("failed", "caller")),
        **CALLERS,
    ),
    Case(
        name="empty answer", kind=FaultKind.EMPTY, play=wire.streams(-1, wire.sends(EMPTY)), **UNUSABLE
    ),
    Case(
        name="tool call with broken arguments", kind=FaultKind.BROKEN_CALL, begun=True,
        play=wire.streams(-1, wire.sends(BROKEN_CALL)), **UNUSABLE,
    ),
    Case(
        name="tool call cut by max_tokens", kind=FaultKind.BROKEN_CALL, begun=True,
        play=wire.streams(-1, wire.sends(BROKEN_BY_LENGTH)), **UNUSABLE,
    ),
]  # fmt: skip


# -- what is seen


@dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    """What became of a fault: for each way of calling, what the caller got; and what the provider's breaker did.

    `asked` is how many requests reached the faulty server and the next one, in one call of `complete()`.
    """

    kind: str
    complete: str
    on_error: str
    on_restart: str
    alone: str
    alone_on_error: str
    alone_on_restart: str
    breaker: str
    asked: tuple[int, int]
    asked_again: bool


def promised(case: Case) -> Seen:
    """What the case promises, in the words of what is seen."""
    degraded = "" if case.kind is FaultKind.TOO_LONG else ", degraded"
    next_one = f"next answers{degraded}" if case.falls_through else RequestRefusedError.__name__
    begun = "first…" if case.begun else ""
    on_error = next_one
    if case.begun and case.falls_through:
        on_error = StreamCutError.__name__
    restart = f"Restarted, {next_one}" if case.begun and case.falls_through else next_one
    alone = case.alone.__name__
    cut = StreamCutError.__name__ if case.begun and case.falls_through else alone
    return Seen(
        kind=case.kind.value,
        complete=next_one,
        on_error=f"{begun}{on_error}",
        on_restart=f"{begun}{restart}",
        alone=alone,
        alone_on_error=f"{begun}{cut}",
        alone_on_restart=f"{begun}{alone}",
        breaker=case.breaker,
        asked=(case.asked, 1 if case.falls_through else 0),
        asked_again=case.breaker == UNCOUNTED,
    )


class Pages:
    """Stands where incidents are raised, and counts who was denied."""

    def __init__(self) -> None:
        self.denials: list[str] = []

    def answered(self, provider: str, *, degraded: bool) -> None: ...

    def denied(self, provider: str, detail: str) -> None:
        assert KEY not in detail
        self.denials.append(provider)

    def close(self) -> None: ...


@dataclass(slots=True)
class Scene:
    """One router, its servers, and what it told."""

    case: Case
    servers: list[FaultServer]
    router: AsyncRouter
    pages: Pages
    attempts: list[Attempt]


def spec_of(server: FaultServer, name: str, api: Api, *, ca_file: str = "", **limits: Any) -> ProviderSpec:
    """One that takes its time, but for the `limits` given."""
    path = "" if api is Api.ANTHROPIC else "/v1"
    patient: dict[str, Any] = {**dict.fromkeys(PATIENCE, LONG_S), **limits}
    return ProviderSpec(
        name=name, api=api, model="played", unlisted=True, base_url=server.url + path, ca_file=ca_file, **patient
    )


def scene_of(
    stage: Stage, case: Case, api: Api, *, alone: bool = False, defaults: bool = False, clock: Clock | None = None
) -> Scene:
    """The faulty provider first, and one that is well behind it, unless it is `alone`."""
    shape = SHAPES[api]
    first = stage.server(shape, case.play, door=case.door)
    ca_file = stage.certificates.file if first.url.startswith("https") else ""
    specs = [spec_of(first, "first", api, ca_file=ca_file, **patience_of(case))]
    servers = [first]
    if not alone:
        servers.append(stage.server(shape, wire.answers))
        specs.append(spec_of(servers[1], "next", api))
    if defaults:
        usual = {item.name: item.default for item in fields(ProviderSpec) if item.name in PATIENCE}
        specs = [replace(spec, **usual) for spec in specs]  # type: ignore[arg-type]
    pages = Pages()
    attempts: list[Attempt] = []
    incidents: Any = pages
    router = AsyncRouter(
        [open_provider(spec, KEY) for spec in specs],
        limits=ProviderLimits() if defaults else LIMITS,
        incidents=incidents,
        on_attempt=attempts.append,
        clock=clock,
    )
    return Scene(case, servers, router, pages, attempts)


def patience_of(case: Case) -> dict[str, float]:
    """Only the limit that ends the fault is short, and longer where an answer has to begin within it."""
    heard_first = case.begun or case.kind is FaultKind.STALLED
    return {case.left_after: 3 * SHORT_S if heard_first else SHORT_S} if case.left_after else {}


def told(answer: Answer) -> str:
    assert answer.text == ANSWER
    return f"{answer.provider} answers{', degraded' if answer.degraded else ''}"


def told_error(exc: RelightError) -> str:
    chain: BaseException | None = exc
    while chain is not None:
        assert KEY not in f"{chain!s}{chain!r}"
        chain = chain.__cause__ or chain.__context__
    return type(exc).__name__


class Watched:
    """What a consumer of a stream sees, in a few words."""

    def __init__(self) -> None:
        self._words: list[str] = []
        self._text = ""

    def see(self, event: Event) -> None:
        match event:
            case Started(provider="first"):
                self._words.append("first…")
            case Restarted():
                self._words.append("Restarted, ")
                self._text = ""
            case TextDelta(text=text):
                self._text += text
            case Finished(answer=answer):
                assert self._text == answer.text
                self._words.append(told(answer))
            case _:
                pass

    def ended(self, exc: RelightError | None) -> str:
        if exc is not None:
            self._words.append(told_error(exc))
        return "".join(self._words)


async def completed(router: AsyncRouter) -> str:
    try:
        return told(await router.complete(REQUEST))
    except RelightError as exc:
        return told_error(exc)


async def streamed_by(router: AsyncRouter, on_cut: OnCut) -> str:
    watched, error = Watched(), None
    try:
        async with aclosing(router.stream(REQUEST, on_cut=on_cut)) as events:
            async for event in events:
                watched.see(event)
    except RelightError as exc:
        error = exc
    return watched.ended(error)


def breaker_of(scene: Scene) -> str:
    """What the call did to the faulty provider's breaker."""
    state = scene.router.board.state("first")
    words = ["counts"] if state.phase is Phase.OPEN else []
    words += ["cools"] if state.is_cooling(time.monotonic()) else []
    words += ["pages"] if scene.pages.denials == ["first"] else []
    return ", ".join(words) or UNCOUNTED


async def until(reached: Callable[[], bool], what: str) -> None:
    """Wait for a condition; the bound only ends a test that would fail anyway."""
    ends = time.monotonic() + BOUND_S
    while not reached():
        assert time.monotonic() < ends, f"waited {BOUND_S:g} s in vain: {what}"
        await asyncio.sleep(0.01)


async def assert_nothing_under_way(scenes: Sequence[Scene], before: Collection[asyncio.Task[Any]] = ()) -> None:
    """No task is left of a call that has ended, and no connection whose answer did not come to its end."""
    known = {*before, asyncio.current_task()}
    await until(lambda: asyncio.all_tasks() <= known, "no task is left")
    for scene in scenes:
        for server in scene.servers:
            await until(lambda server=server: server.busy == 0, f"{server.url} is let go")  # type: ignore[misc]


async def assert_closed(scenes: Sequence[Scene]) -> None:
    """No connection is left of a router that was closed."""
    for scene in scenes:
        for server in scene.servers:
            assert server.wrong == []
            await until(lambda server=server: server.open == 0, f"{server.url} has no connection")  # type: ignore[misc]


@contextmanager
def held(loops: Collection[asyncio.AbstractEventLoop], scenes: Sequence[Scene]) -> Iterator[None]:
    """The clock of `loops` stands still until each faulty server that can be asked has been: what a request takes to
    get there, on a machine that has no time for it, is not the provider's silence."""
    since = time.monotonic()
    waiting = [scene.servers[0] for scene in scenes if scene.case.asked]
    held_s: list[float] = []

    def now() -> float:
        if held_s:
            return time.monotonic() - held_s[0]
        if any(server.requests == 0 for server in waiting):
            return since
        held_s.append(time.monotonic() - since)
        return since

    with pytest.MonkeyPatch.context() as patch:
        for loop in loops:
            patch.setattr(loop, "time", now)
        yield


async def seen_by_asyncio(stage: Stage, case: Case, api: Api) -> Seen:
    before = asyncio.all_tasks()
    scenes = [scene_of(stage, case, api, alone=alone) for alone in (False, True) for _ in range(3)]
    first = scenes[0]
    calls = [
        call
        for group in (scenes[:3], scenes[3:])
        for call in (
            completed(group[0].router),
            streamed_by(group[1].router, OnCut.ERROR),
            streamed_by(group[2].router, OnCut.RESTART),
        )
    ]
    with held([asyncio.get_running_loop()], scenes):
        got = await asyncio.gather(*calls)
    await assert_nothing_under_way(scenes, before)
    breaker = breaker_of(first)
    asked, connections = [server.requests for server in first.servers], first.servers[0].connections
    await completed(first.router)
    again = first.servers[0].requests > asked[0] or first.servers[0].connections > connections
    for scene in scenes:
        await scene.router.close()
    await assert_closed(scenes)
    return _seen(first, got, breaker, asked, again=again)


def seen_by_threads(stage: Stage, case: Case, api: Api) -> Seen:
    before = set(threading.enumerate())
    scenes: list[Scene] = []

    def make(alone: bool) -> AsyncRouter:
        scenes.append(scene_of(stage, case, api, alone=alone))
        return scenes[-1].router

    def complete(router: Router) -> str:
        try:
            return told(router.complete(REQUEST))
        except RelightError as exc:
            return told_error(exc)

    def stream(router: Router, on_cut: OnCut) -> str:
        watched, error = Watched(), None
        try:
            for event in router.stream(REQUEST, on_cut=on_cut):
                watched.see(event)
        except RelightError as exc:
            error = exc
        return watched.ended(error)

    routers = [Router(functools.partial(make, alone)) for alone in (False, True) for _ in range(3)]
    first = scenes[0]
    with held([router._loop for router in routers], scenes), ThreadPoolExecutor(len(routers)) as pool:
        running = [
            future
            for group in (routers[:3], routers[3:])
            for future in (
                pool.submit(complete, group[0]),
                pool.submit(stream, group[1], OnCut.ERROR),
                pool.submit(stream, group[2], OnCut.RESTART),
            )
        ]
        got = [future.result() for future in running]
    for router in routers:
        loop = router._loop
        asyncio.run_coroutine_threadsafe(assert_nothing_under_way([]), loop).result()
    asyncio.run(assert_nothing_under_way(scenes))
    breaker = breaker_of(first)
    asked, connections = [server.requests for server in first.servers], first.servers[0].connections
    complete(routers[0])
    again = first.servers[0].requests > asked[0] or first.servers[0].connections > connections
    for router in routers:
        router.close()
    asyncio.run(assert_closed(scenes))
    asyncio.run(until(lambda: set(threading.enumerate()) <= before, "no thread is left"))
    return _seen(first, got, breaker, asked, again=again)


def _seen(first: Scene, got: Sequence[str], breaker: str, asked: Sequence[int], *, again: bool) -> Seen:
    return Seen(
        kind=first.attempts[0].outcome,
        complete=got[0],
        on_error=got[1],
        on_restart=got[2],
        alone=got[3],
        alone_on_error=got[4],
        alone_on_restart=got[5],
        breaker=breaker,
        asked=(asked[0], asked[1]),
        asked_again=again,
    )


@pytest.fixture(scope="module")
def stage(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    """Where the module's servers play."""
    with Stage(Certificates(tmp_path_factory.mktemp("certificates"))) as stage:
        yield stage


@pytest.fixture(scope="module", autouse=True)
def _one_context() -> Iterator[None]:
    """Reading the system's certificates takes longer than most faults: once is enough for all clients of the module."""
    with pytest.MonkeyPatch.context() as patch:
        trusted, made = client_wire._trusted, {}

        def cached(spec: ProviderSpec) -> Any:
            if spec.ca_file not in made:
                made[spec.ca_file] = trusted(spec)
            return made[spec.ca_file]

        patch.setattr(client_wire, "_trusted", cached)
        yield


_observed: dict[tuple[str, Api], Seen] = {}


async def observed(stage: Stage, case: Case, api: Api) -> Seen:
    """What `AsyncRouter` does; played once."""
    if (case.id, api) not in _observed:
        _observed[case.id, api] = await seen_by_asyncio(stage, case, api)
    return _observed[case.id, api]


every_fault = pytest.mark.parametrize(
    ("case", "api"),
    [pytest.param(case, api, id=f"{case.id}-{api}") for case in CASES for api in case.only],
)


@every_fault
async def test_a_fault_has_its_consequences(stage: Stage, case: Case, api: Api) -> None:
    """fails when `AsyncRouter` gives a caller anything but what the table says, or leaves a task or connection."""
    assert await observed(stage, case, api) == promised(case)


@every_fault
def test_a_fault_has_the_same_consequences_without_a_loop(stage: Stage, case: Case, api: Api) -> None:
    """fails when the blocking `Router` differs from it, or leaves a task, thread or connection."""
    assert seen_by_threads(stage, case, api) == promised(case)


# -- the page


def words_of(seen: str) -> str:
    """What a caller got, for a person."""
    for told, word in {
        "first…Restarted, ": "pieces, `Restarted`, ",
        "first…": "pieces, then ",
        "next answers, degraded": "the next one's answer, `degraded`",
        "next answers": "the next one's answer",
    }.items():
        seen = seen.replace(told, word)
    return re.sub(r"(\w+Error)", r"`\1`", seen)


def row_of(case: Case, seen: Seen, seconds: str) -> str:
    """A fault's line."""
    name = case.name if len(case.only) > 1 else f"{case.name} ({NAMES[case.only[0]]})"
    got = [seen.complete]
    alone = seen.alone
    if case.begun:
        got += [seen.on_error, seen.on_restart]
    else:
        assert {seen.on_error, seen.on_restart, seen.alone_on_error, seen.alone_on_restart} == {seen.complete, alone}
    limit = f" (`{case.left_after}`)" if case.left_after else ""
    cells = [name, seen.kind, *map(words_of, got), seen.breaker, "{} + {}".format(*seen.asked), words_of(alone)]
    return f"| {' | '.join(cells)} | {seconds}{limit} |\n"


PAGE_TEXT = """\
# What a provider's fault comes to

Written by `tests/contract/test_provider_faults.py` from what it saw; do not edit.

In each row the first of two providers has the fault and the next one is well: what it is taken as, what the caller
gets, what it does to the first one's breaker (*counts* as a failure, *cools* it down, *pages* a person), how many
requests reached the first and the next one in that call, what the caller gets where the faulty one is alone, and the
seconds from the call of `complete()` to its end by the default limits, one of which ends the fault where it is named.
{measured}

Anthropic's and OpenAI's formats, and `AsyncRouter` and `Router`, come to the same, and nothing is left of a call that
has ended: no task, no thread, no connection. Where the request is too long for the first, the next one's answer is not
`degraded`: it is the first choice then.

A call that has less time than these limits leaves a silent provider after half of what is left to it, so that the next
one has some; that is `hurried`, and counts where the silence was longer than `slow_least_s`.

## Before the first piece of an answer

{before}
## After the first piece

`stream()` ends with an error by default, because what was given out cannot be taken back. With one provider it ends
with an error by both policies.

{after}"""


def page_of(seen: dict[tuple[str, Api], Seen], seconds: dict[str, str], measured: str) -> str:
    """The whole page."""
    tables = {
        False: "fault | taken as | `complete()` and `stream()` | breaker | requests | alone | seconds",
        True: 'fault | taken as | `complete()` | `stream()` | with `on_cut="restart"` | breaker | requests | alone'
        " | seconds",
    }
    texts = {}
    for begun, head in tables.items():
        rows = [
            row_of(case, seen[case.id, case.only[0]], seconds.get(case.id, "?"))
            for case in CASES
            if case.begun is begun
        ]
        texts[begun] = f"| {head} |\n|{' --- |' * (head.count('|') + 1)}\n{''.join(rows)}"
    return PAGE_TEXT.format(measured=f"{MEASURED}{measured}", before=texts[False], after=texts[True])


MEASURED = "Measured against servers on loopback, "
SECONDS = re.compile(r"\| [\d.?]+( \(`\w+`\))? \|$", re.MULTILINE)


def without_figures(page: str) -> str:
    """What must not differ from one machine to the next."""
    kept = "\n".join(line for line in page.splitlines() if not line.startswith(MEASURED))
    return SECONDS.sub(r"| s\1 |", kept)


async def seconds_of(scene: Scene) -> float:
    """How long `complete()` takes."""
    began = time.perf_counter()
    await completed(scene.router)
    took = time.perf_counter() - began
    await scene.router.close()
    return took


async def all_seconds(stage: Stage) -> dict[str, str]:
    """By the default limits: those that wait, all at once; the others one by one, so that none waits for another."""
    found: dict[str, float] = {}
    pairs = [(case, api) for case in CASES for api in case.only]
    for case, api in pairs:
        if not case.left_after:
            # The quickest of three, because others may use the machine as well; the slower format.
            took = min([await seconds_of(scene_of(stage, case, api, defaults=True)) for _ in range(3)])
            found[case.id] = max(took, found.get(case.id, 0.0))
    waiting = [scene_of(stage, case, api, defaults=True) for case, api in pairs if case.left_after]
    for scene, seconds in zip(waiting, await asyncio.gather(*map(seconds_of, waiting)), strict=True):
        found[scene.case.id] = max(seconds, found.get(scene.case.id, 0.0))
    return {name: f"{seconds:.1f}" if seconds >= 1 else f"{max(seconds, 0.01):.2f}" for name, seconds in found.items()}


@pytest.mark.timeout(600)
async def test_the_page_says_what_was_seen(stage: Stage) -> None:
    """fails when docs/providers-faults.md differs from what was seen here, its seconds apart."""
    seen = {(case.id, api): await observed(stage, case, api) for case in CASES for api in case.only}
    for case in CASES:
        assert len({seen[case.id, api] for api in case.only}) == 1, f"{case.name} differs between the formats"
    if os.environ.get("RELIGHT_WRITE_FAULTS") == "1":
        on = f"anthropic {version('anthropic')}, openai {version('openai')}, Python {platform.python_version()}"
        measured = f"{os.cpu_count()} cores, {on}."
        PAGE.write_text(page_of(seen, await all_seconds(stage), measured))
    assert without_figures(PAGE.read_text()) == without_figures(page_of(seen, {}, "")), (
        "write it anew with RELIGHT_WRITE_FAULTS=1"
    )


# -- time, and callers that go


def case_of(*plays: Callable[[Exchange], Awaitable[None]], **fields: Any) -> Case:
    """One play for each request, in turn; the last one for all that follow."""
    left = list(plays)

    async def play(exchange: Exchange) -> None:
        await (left.pop(0) if len(left) > 1 else left[0])(exchange)

    return Case(name="in turn", kind=FaultKind.SILENCE, play=play, **fields)


@pytest.mark.parametrize("last", [wire.silent, wire.answers])
async def test_one_deadline_is_spent_across_attempts(stage: Stage, last: Callable[[Exchange], Awaitable[None]]) -> None:
    """Each of silent providers has half of what is left, the last one all: none has the whole for itself."""
    servers = [stage.server(SHAPES[Api.ANTHROPIC], play) for play in (wire.silent, wire.silent, last)]
    names = ("first", "second", "third")
    specs = [spec_of(server, name, Api.ANTHROPIC) for server, name in zip(servers, names, strict=True)]
    attempts: list[Attempt] = []
    router = AsyncRouter([open_provider(spec, KEY) for spec in specs], limits=LIMITS, on_attempt=attempts.append)
    if last is wire.answers:
        answer = await router.complete(REQUEST, deadline_s=LONG_S / 20)
        assert answer.provider == "third"
    else:
        with pytest.raises(UnavailableError, match="deadline passed while third was asked"):
            await router.complete(REQUEST, deadline_s=SHORT_S)
    outcomes = [attempt.outcome for attempt in attempts]
    assert outcomes == ["hurried", "hurried", "answered" if last is wire.answers else "abandoned"]
    assert [server.requests for server in servers] == [1, 1, 1]
    await until(lambda: not any(server.busy for server in servers), "all are let go")
    # It was the call that had little time: nothing is held against a provider that might have answered.
    assert {router.board.state(name).phase for name in names} == {Phase.CLOSED}
    await router.close()


async def test_the_callers_own_time_is_not_the_providers(stage: Stage) -> None:
    """fails when a provider is left for silence while it was the caller who took long between two pieces."""
    case = case_of(wire.answers, left_after="silence_s")
    scene = scene_of(stage, case, Api.ANTHROPIC)
    async with aclosing(scene.router.stream(REQUEST)) as events:
        seen = [event async for event in slowly(events)]
    assert isinstance(seen[-1], Finished)
    await scene.router.close()


async def slowly(events: AsyncGenerator[Event, None]) -> AsyncGenerator[Event, None]:
    async for event in events:
        await asyncio.sleep(SHORT_S * 1.5)
        yield event


async def cancelled(scene: Scene) -> None:
    """The task that waits for the whole answer is cancelled."""
    requests = scene.servers[0].requests
    call = asyncio.create_task(scene.router.complete(REQUEST))
    await until(lambda: scene.servers[0].requests > requests, "the request is on its way")
    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call


async def cancelled_in_stream(scene: Scene) -> None:
    """The task that reads the stream is cancelled after a piece."""
    came = asyncio.Event()

    async def read() -> None:
        async with aclosing(scene.router.stream(REQUEST)) as events:
            async for event in events:
                if isinstance(event, TextDelta):
                    came.set()

    call = asyncio.create_task(read())
    await came.wait()
    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call


async def closed(scene: Scene) -> None:
    """The stream is closed after a piece."""
    async with aclosing(scene.router.stream(REQUEST)) as events:
        async for event in events:
            if isinstance(event, TextDelta):
                return


async def dropped(scene: Scene) -> None:
    """The stream is forgotten after a piece, not even closed."""
    events = scene.router.stream(REQUEST)
    while not isinstance(await anext(events), TextDelta):
        pass
    del events
    gc.collect()


@pytest.mark.parametrize("api", SHAPES)
@pytest.mark.parametrize("goes", [cancelled, cancelled_in_stream, closed, dropped])
async def test_a_caller_that_goes_leaves_nothing(
    stage: Stage, api: Api, goes: Callable[[Scene], Awaitable[None]]
) -> None:
    """fails when a call goes on without its caller, counts against the provider, or keeps the probe that it was."""
    before, clock = asyncio.all_tasks(), FakeClock()
    case = case_of(wire.refuses("500 Internal Server Error", "server"), wire.streams(1, wire.silent), wire.answers)
    scene = scene_of(stage, case, api, clock=clock)
    assert await completed(scene.router) == "next answers, degraded"
    assert scene.router.board.state("first").phase is Phase.OPEN
    clock.sleep(LIMITS.open_s)

    await goes(scene)
    await assert_nothing_under_way([scene], before)
    assert scene.router.board.state("first").phase is Phase.OPEN
    assert scene.attempts[-1].outcome == "abandoned"

    assert await completed(scene.router) == "first answers"
    assert scene.router.board.state("first").phase is Phase.CLOSED
    assert [server.requests for server in scene.servers] == [3, 1]
    await scene.router.close()
    await assert_closed([scene])


def interrupted(router: Router, scene: Scene) -> None:
    """The thread that waits for the whole answer is interrupted, as by Ctrl-C."""
    assert threading.current_thread() is threading.main_thread()
    server, me = scene.servers[0], threading.get_ident()
    requests = server.requests

    def interrupt() -> None:
        asyncio.run(until(lambda: server.requests > requests, "the request is on its way"))
        signal.pthread_kill(me, signal.SIGINT)

    helper = threading.Thread(target=interrupt)
    helper.start()
    with pytest.raises(KeyboardInterrupt):
        router.complete(REQUEST)
    helper.join()


def iterator_closed(router: Router, scene: Scene) -> None:
    """The iterator is closed after a piece."""
    events = router.stream(REQUEST)
    with closing(events):  # type: ignore[type-var]
        while not isinstance(next(events), TextDelta):
            pass


def iterator_dropped(router: Router, scene: Scene) -> None:
    """The iterator is forgotten after a piece."""
    events = router.stream(REQUEST)
    while not isinstance(next(events), TextDelta):
        pass
    del events
    gc.collect()


@pytest.mark.parametrize("api", SHAPES)
@pytest.mark.parametrize("goes", [interrupted, iterator_closed, iterator_dropped])
def test_a_caller_without_a_loop_that_goes_leaves_nothing(
    stage: Stage, api: Api, goes: Callable[[Router, Scene], None]
) -> None:
    """fails when a call goes on without its thread, counts against the provider, or keeps the probe that it was."""
    clock, scenes = FakeClock(), list[Scene]()
    case = case_of(wire.refuses("500 Internal Server Error", "server"), wire.streams(1, wire.silent), wire.answers)

    def make() -> AsyncRouter:
        scenes.append(scene_of(stage, case, api, clock=clock))
        return scenes[-1].router

    with Router(make) as router:
        (scene,) = scenes
        assert router.complete(REQUEST).provider == "next"
        clock.sleep(LIMITS.open_s)
        goes(router, scene)
        asyncio.run(assert_nothing_under_way([scene]))
        asyncio.run_coroutine_threadsafe(assert_nothing_under_way([]), router._loop).result()
        assert [attempt.outcome for attempt in scene.attempts][-1] == "abandoned"
        assert router.board.state("first").phase is Phase.OPEN
        assert router.complete(REQUEST).provider == "first"
        assert router.board.state("first").phase is Phase.CLOSED
    asyncio.run(assert_closed(scenes))


def test_a_router_that_is_closed_ends_its_calls(stage: Stage) -> None:
    """A thread that waits in a call is told so, and nothing is left on the wire."""
    scenes: list[Scene] = []

    def make() -> AsyncRouter:
        scenes.append(scene_of(stage, case_of(wire.silent), Api.OPENAI))
        return scenes[-1].router

    router = Router(make)
    with ThreadPoolExecutor() as pool:
        call = pool.submit(router.complete, REQUEST)
        asyncio.run(until(lambda: scenes[0].servers[0].requests == 1, "the request is on its way"))
        router.close()
        assert isinstance(call.exception(), UnavailableError)
    asyncio.run(assert_closed(scenes))


@pytest.mark.parametrize("api", SHAPES)
async def test_an_answer_that_is_whole_stands(stage: Stage, api: Api) -> None:
    """fails when an answer is thrown away because its connection did not end well: it is whole, and paid for."""

    async def whole(exchange: Exchange) -> None:
        await exchange.head()
        await exchange.chunk(exchange.shape.begun(2) + exchange.shape.ended())

    async def then_silent(exchange: Exchange) -> None:
        await whole(exchange)
        await exchange.silence()

    async def then_reset(exchange: Exchange) -> None:
        await whole(exchange)
        await exchange.reset()

    for play in (then_silent, then_reset):
        scene = scene_of(stage, case_of(play), api)
        assert await completed(scene.router) == "first answers"
        await assert_nothing_under_way([scene], asyncio.all_tasks())
        await scene.router.close()


@pytest.mark.parametrize("api", SHAPES)
async def test_a_trusted_certificate_is_taken(stage: Stage, api: Api) -> None:
    """What the tests of TLS refuse is refused for its fault: with a good certificate the same client is answered."""
    scene = scene_of(stage, case_of(wire.answers, door=Door.TLS), api)
    assert await completed(scene.router) == "first answers"
    await scene.router.close()
    await assert_closed([scene])


@pytest.mark.parametrize("api", SHAPES)
async def test_the_key_goes_to_the_provider_alone(stage: Stage, api: Api) -> None:
    """fails when a redirect takes the key, or the request, to another host."""
    other = stage.server(SHAPES[api], wire.answers)
    scene = scene_of(stage, case_of(wire.redirects(other.url)), api)
    assert await completed(scene.router) == "next answers, degraded"
    assert KEY.encode() in scene.servers[0].heads[0]
    assert other.connections == 0
    await scene.router.close()
