"""The router's decisions, on scripted providers: who is asked, in which order, within which time, and what is told.

What real SDKs make of real faults on the wire is in `tests/contract/test_provider_faults.py`.
"""

from __future__ import annotations

import asyncio
import pickle
import threading
import time
from contextlib import aclosing
from typing import TYPE_CHECKING, Any

import pytest
from fakes import FakeClock

from relight.clock import SystemClock
from relight.errors import (
    AgainLaterError,
    ConfigError,
    IncapableError,
    ProvidersDownError,
    RelightError,
    RequestRefusedError,
    StreamCutError,
    UnavailableError,
    WouldDegradeError,
)
from relight.providers.blocking import Router
from relight.providers.board import Board, Permit
from relight.providers.breaker import INITIAL, BreakerState
from relight.providers.faults import CONSEQUENCES, Fault, FaultKind
from relight.providers.messages import (
    Attempt,
    Event,
    Finished,
    Image,
    Request,
    Restarted,
    Started,
    Stop,
    TextDelta,
    Tool,
    Usage,
    assistant,
    user,
)
from relight.providers.port import Completed
from relight.providers.prompts import Prompt, Prompts, Template
from relight.providers.router import AsyncRouter, Degradation, OnCut
from relight.providers.shared import Seen
from relight.providers.spec import Api, ProviderLimits, ProviderSpec

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable

    from relight.providers.messages import Delta

pytestmark = pytest.mark.anyio

REQUEST = Request(messages=(user("hello"),))
SILENT, PINGS = "silent", "pings"


def spec(name: str, **fields: Any) -> ProviderSpec:
    return ProviderSpec(**{"name": name, "api": Api.ANTHROPIC, "model": f"model-of-{name}", "silence_s": 0.2, **fields})


class Scripted:
    """A provider that does what it is told: words are given out, a Fault is raised, `SILENT` waits for ever, and
    `PINGS` shows signs of life for ever. It answers with what it gave out, unless the script ends otherwise."""

    def __init__(self, name: str, *script: str | Fault, **fields: Any) -> None:
        self.spec = spec(name, **fields)
        self.script = script
        self.asked: list[Request] = []
        self.closed = 0
        self.under_way = 0

    def dropped(self, request: Request) -> tuple[str, ...]:
        return ("temperature",) if request.temperature is not None else ()

    async def stream(self, request: Request, *, heard: Callable[[], None]) -> AsyncGenerator[Delta | Completed, None]:
        self.asked.append(request)
        self.under_way += 1
        said = []
        try:
            for item in self.script:
                await asyncio.sleep(0)
                if isinstance(item, Fault):
                    raise item
                while item in (SILENT, PINGS):
                    await asyncio.sleep(0.05)
                    if item == PINGS:
                        heard()
                heard()
                said.append(item)
                yield TextDelta(text=item)
            usage = Usage(input=3, output=len(said))
            yield Completed(message=assistant("".join(said)), stop=Stop.END, usage=usage, model=self.spec.model)
        finally:
            self.under_way -= 1

    async def check(self, *, timeout_s: float) -> None:
        raise NotImplementedError

    async def close(self) -> None:
        self.closed += 1


def fault(kind: FaultKind, **fields: Any) -> Fault:
    return Fault(kind, "as told", **fields)


DOWN = fault(FaultKind.SERVER_ERROR, status=500)


async def events_of(router: AsyncRouter, **how: Any) -> tuple[list[Event], Exception | None]:
    """What a consumer of the stream saw, and how it ended."""
    seen: list[Event] = []
    try:
        async with aclosing(router.stream(REQUEST, **how)) as events:
            async for event in events:
                seen.append(event)
    except RelightError as exc:
        return seen, exc
    return seen, None


# -- who is asked


async def test_the_first_provider_answers() -> None:
    """The first one is asked alone, and its answer is not degraded."""
    first, second = Scripted("first", "a", "b"), Scripted("second", "c")
    answer = await AsyncRouter([first, second]).complete(REQUEST)
    assert (answer.text, answer.provider, answer.model, answer.degraded) == ("ab", "first", "model-of-first", False)
    assert [attempt.outcome for attempt in answer.attempts] == ["answered"]
    assert answer.attempts[0].usage == answer.usage == Usage(input=3, output=2)
    assert second.asked == []


@pytest.mark.parametrize("kind", [kind for kind, follows in CONSEQUENCES.items() if follows.falls_through])
async def test_the_next_answers_for_one_that_fails(kind: FaultKind) -> None:
    """Every fault that is not the caller's is made up for by the next provider, and the answer says so."""
    first, second = Scripted("first", fault(kind)), Scripted("second", "c")
    answer = await AsyncRouter([first, second]).complete(REQUEST)
    assert (answer.text, answer.provider) == ("c", "second")
    assert answer.degraded is (kind is not FaultKind.TOO_LONG)
    assert [attempt.outcome for attempt in answer.attempts] == [kind.value, "answered"]


async def test_a_wrong_request_is_not_asked_twice() -> None:
    """fails when the caller's own fault is taken to the next provider, or counts against the first."""
    refused = fault(FaultKind.CALLERS_FAULT, status=422)
    first, second = Scripted("first", refused), Scripted("second", "c")
    router = AsyncRouter([first, second])
    for _ in range(5):
        with pytest.raises(RequestRefusedError, match="first refused the request: as told") as caught:
            await router.complete(REQUEST)
        assert pickle.loads(pickle.dumps(caught.value)).status == 422
    assert (len(first.asked), second.asked) == (5, [])


async def test_an_open_breaker_is_not_asked() -> None:
    """After three failures the first provider is left alone, also when it is the only one."""
    first, second = Scripted("first", DOWN), Scripted("second", "c")
    router = AsyncRouter([first, second])
    for _ in range(5):
        await router.complete(REQUEST)
    assert (len(first.asked), len(second.asked)) == (3, 5)
    alone = Scripted("alone", DOWN)
    router = AsyncRouter([alone])
    for _ in range(5):
        with pytest.raises(ProvidersDownError, match="alone"):
            await router.complete(REQUEST)
    assert len(alone.asked) == 3


async def test_all_breakers_open_are_all_respected() -> None:
    """fails when a provider is asked for want of another: the error says when to come back."""
    first, second = Scripted("first", DOWN), Scripted("second", DOWN)
    router = AsyncRouter([first, second], clock=FakeClock())
    for _ in range(3):
        with pytest.raises(ProvidersDownError):
            await router.complete(REQUEST)
    with pytest.raises(ProvidersDownError, match=r"first: .*; second: ") as caught:
        await router.complete(REQUEST)
    assert caught.value.wait_s == 60
    assert caught.value.waits_for == "providers"
    assert (len(first.asked), len(second.asked)) == (3, 3)


class Alone:
    """A store that a single worker shares with nobody."""

    def __init__(self) -> None:
        self.states: dict[str, BreakerState] = {}

    def read(self) -> Seen[BreakerState]:
        return Seen(now=time.monotonic(), states=dict(self.states))

    def update(self, key: str, change: Callable[[BreakerState, float], BreakerState]) -> BreakerState:
        self.states[key] = change(self.states.get(key, INITIAL), time.monotonic())
        return self.states[key]


async def test_the_first_call_that_may_be_the_probe_is() -> None:
    """fails when a worker that shares its breakers goes on to the fallback while it claims the probe: with few calls
    it would stay there for good."""
    limits = ProviderLimits(failures=1, open_s=0.05)
    board = Board(["first", "second"], limits=limits, clock=SystemClock(), shared=Alone())
    first, second = Scripted("first", DOWN), Scripted("second", "c")
    router = AsyncRouter([first, second], board=board)
    assert (await router.complete(REQUEST)).degraded
    first.script = ("a",)
    await asyncio.sleep(0.2)
    answer = await router.complete(REQUEST)
    assert (answer.text, answer.degraded) == ("a", False)
    await router.close()
    board.close()


async def test_a_limited_provider_is_left_alone_for_as_long_as_it_says() -> None:
    """A 429 with Retry-After cools down without counting: the provider comes back by itself, without a probe."""
    first, second = Scripted("first", fault(FaultKind.LIMITED, status=429, wait_s=0.3)), Scripted("second", "c")
    clock = FakeClock()
    router = AsyncRouter([first, second], clock=clock)
    assert (await router.complete(REQUEST)).degraded
    assert (await router.complete(REQUEST)).degraded
    assert len(first.asked) == 1
    first.script = ("a",)
    asyncio.get_running_loop().call_later(0.05, clock.sleep, 0.3)
    answer = await router.complete(REQUEST, degrade=False, wait_s=5)
    assert (answer.text, len(first.asked)) == ("a", 2)


async def test_a_capable_provider_is_chosen() -> None:
    """A provider that lacks what the request needs is passed over, and that is no degradation."""
    small = Scripted("small", "s", context_tokens=50, tools=False, images=False)
    large = Scripted("large", "l", context_tokens=100_000)
    router = AsyncRouter([small, large])
    tool = Tool(name="look", description="Looks.", schema={"type": "object"})
    wants = {
        "tools": Request(messages=(user("hello"),), tools=(tool,), max_tokens=10),
        "images": Request(messages=(user(Image(media_type="image/png", data=b"x")),), max_tokens=10),
        "context": Request(messages=(user("long " * 100),), max_tokens=10),
        "room for the answer": Request(messages=(user("hello"),), max_tokens=50),
    }
    for what, request in wants.items():
        answer = await router.complete(request)
        assert (answer.provider, answer.degraded) == ("large", False), what
    assert (await router.complete(Request(messages=(user("hello"),), max_tokens=10))).provider == "small"
    with pytest.raises(IncapableError, match=r"small has a context of 50 tokens.*; large has a context of 100000"):
        await router.complete(Request(messages=(user("long " * 100_000),)))


async def test_what_is_too_long_everywhere_is_said() -> None:
    """A refusal for length goes to the next provider, and when all refuse, the caller is told that it is too long."""
    first, second = (Scripted(name, fault(FaultKind.TOO_LONG, status=400)) for name in ("first", "second"))
    for degrade in (True, False):
        router = AsyncRouter([first, second])
        with pytest.raises(IncapableError, match="too long"):
            await router.complete(REQUEST, degrade=degrade)
    second.script = ("b",)
    answer = await AsyncRouter([first, second]).complete(REQUEST, degrade=False)
    assert (answer.provider, answer.degraded) == ("second", False)


async def test_nonsense_opens_no_breaker() -> None:
    """A conversation that a model answers with nothing must not take the model from all others, and the caller may not
    believe that time will mend it."""
    first = Scripted("first", fault(FaultKind.EMPTY))
    router = AsyncRouter([first, Scripted("second", fault(FaultKind.BROKEN_CALL))])
    for _ in range(5):
        with pytest.raises(UnavailableError, match="no provider gave a usable answer") as caught:
            await router.complete(REQUEST)
        assert not isinstance(caught.value, AgainLaterError)
    assert len(first.asked) == 5


def test_a_fault_survives_pickling() -> None:
    """A fault that is the cause of a stored error can be read back."""
    found = pickle.loads(pickle.dumps(fault(FaultKind.LIMITED, status=429, wait_s=3.0)))
    assert (str(found), found.kind, found.status, found.wait_s) == ("rate_limited: as told", "rate_limited", 429, 3.0)


async def test_one_that_answers_nonsense_hides_no_outage() -> None:
    """While a provider is down that could answer, the caller is told when to come back, whatever another one said."""
    first, second = Scripted("first", DOWN), Scripted("second", fault(FaultKind.EMPTY))
    router = AsyncRouter([first, second], limits=ProviderLimits(failures=1), clock=FakeClock())
    for wait_s in (1, 60):
        with pytest.raises(ProvidersDownError, match="empty_answer") as caught:
            await router.complete(REQUEST)
        assert caught.value.wait_s == wait_s
    longer = AsyncRouter([Scripted("first", fault(FaultKind.TOO_LONG)), Scripted("second", DOWN)])
    with pytest.raises(ProvidersDownError):
        await longer.complete(REQUEST)


async def test_a_broken_server_that_says_come_back_at_once_is_broken() -> None:
    """fails when a 503 with `Retry-After: 0` never opens the breaker."""
    first = Scripted("first", fault(FaultKind.SERVER_ERROR, status=503, wait_s=0.0))
    router = AsyncRouter([first, Scripted("second", "c")])
    for _ in range(5):
        await router.complete(REQUEST)
    assert len(first.asked) == 3


# -- waiting rather than degrading


async def test_a_caller_may_rather_wait() -> None:
    """With `degrade=False` no other provider is paid, and the error says what to wait for and how long."""
    first, second = Scripted("first", DOWN), Scripted("second", "c")
    router = AsyncRouter([first, second], clock=FakeClock())
    for _ in range(4):
        with pytest.raises(WouldDegradeError) as caught:
            await router.complete(REQUEST, degrade=False)
    assert (caught.value.waits_for, len(first.asked), second.asked) == ("provider:first", 3, [])
    assert caught.value.wait_s == 60
    assert pickle.loads(pickle.dumps(caught.value)).waits_for == "provider:first"


async def test_a_call_may_wait_for_a_provider() -> None:
    """`wait_s` is spent until a provider can be asked, and not a moment longer than the deadline allows."""
    only = Scripted("only", DOWN)
    clock = FakeClock()
    router = AsyncRouter([only], limits=ProviderLimits(open_s=0.3, failures=1), clock=clock)
    with pytest.raises(ProvidersDownError):
        await router.complete(REQUEST)
    only.script = ("a",)
    with pytest.raises(ProvidersDownError):
        await router.complete(REQUEST, wait_s=5, deadline_s=0.01)
    asyncio.get_running_loop().call_later(0.05, clock.sleep, 0.3)
    assert (await router.complete(REQUEST, wait_s=5)).text == "a"


# -- time


@pytest.mark.parametrize(
    ("script", "fields", "kind"),
    [
        ((SILENT,), {}, FaultKind.SILENCE),
        (("a", SILENT), {}, FaultKind.STALLED),
        ((PINGS,), {"progress_s": 0.5}, FaultKind.NO_PROGRESS),
    ],
)
async def test_a_silent_provider_is_left(script: tuple[str, ...], fields: dict[str, Any], kind: FaultKind) -> None:
    """Silence at the start, silence between pieces, and signs of life without progress each have a limit."""
    first, second = Scripted("first", *script, **fields), Scripted("second", "c")
    answer = await AsyncRouter([first, second]).complete(REQUEST)
    assert [attempt.outcome for attempt in answer.attempts] == [kind.value, "answered"]
    assert (answer.text, first.under_way) == ("c", 0)


async def test_thought_is_told_from_silence() -> None:
    """A provider that shows signs of life for longer than the silence limit is not left."""
    first = Scripted("first", "a", silence_s=0.3)

    async def thinks(request: Request, *, heard: Callable[[], None]) -> AsyncGenerator[Delta | Completed, None]:
        for _ in range(10):
            await asyncio.sleep(0.1)
            heard()
        async for piece in Scripted.stream(first, request, heard=heard):
            yield piece

    first.stream = thinks  # type: ignore[method-assign]
    assert (await AsyncRouter([first]).complete(REQUEST)).text == "a"


async def test_a_slow_consumer_is_not_the_providers_silence() -> None:
    """The time that the caller takes between two pieces is not held against the provider."""
    router = AsyncRouter([Scripted("first", "a", "b", silence_s=0.1)])
    seen = []
    async for event in router.stream(REQUEST):
        seen.append(event)
        await asyncio.sleep(0.15)
    assert isinstance(seen[-1], Finished)


async def test_one_deadline_is_spent_across_attempts() -> None:
    """The deadline is the call's, however many are tried; whom it strikes is not to blame."""
    first, second = Scripted("first", SILENT, silence_s=0.1), Scripted("second", SILENT, silence_s=30)
    tried: list[Attempt] = []
    router = AsyncRouter([first, second], limits=ProviderLimits(failures=1), on_attempt=tried.append)
    with pytest.raises(UnavailableError, match="deadline passed while second was asked"):
        await router.complete(REQUEST, deadline_s=0.4)
    assert [attempt.outcome for attempt in tried] == ["silence", "abandoned"]
    second.script = ("c",)
    assert (await router.complete(REQUEST)).provider == "second"
    assert len(first.asked) == 1


async def test_a_call_with_little_time_has_some_for_the_next() -> None:
    """fails when a silent provider may use up all of a call's time, or is blamed for the caller's hurry."""
    first, second = Scripted("first", SILENT, silence_s=30), Scripted("second", "c")
    router = AsyncRouter([first, second])
    for _ in range(4):
        answer = await router.complete(REQUEST, deadline_s=0.2)
        assert [attempt.outcome for attempt in answer.attempts] == ["hurried", "answered"]
    assert len(first.asked) == 4


async def test_an_opening_breaker_ends_what_has_heard_nothing() -> None:
    """A call that began just before the breaker opened does not wait for the silence limit of its own, and one that
    hears something goes on."""
    first, second = Scripted("first", SILENT, silence_s=30), Scripted("second", "c")
    speaks = Scripted("first", "a", SILENT, silence_s=30)
    router = AsyncRouter([first, second], limits=ProviderLimits(failures=1))
    events = AsyncRouter([speaks], board=router.board).stream(REQUEST)
    waiting = [asyncio.ensure_future(router.complete(REQUEST)) for _ in range(3)]
    assert isinstance(await anext(events), Started)
    await asyncio.sleep(0)
    first.script = (DOWN,)
    await router.complete(REQUEST)
    answers = await asyncio.gather(*waiting)
    assert [answer.attempts[0].outcome for answer in answers] == ["silence"] * 3
    assert isinstance(await anext(events), TextDelta)
    await events.aclose()


# -- streams


async def test_a_failure_before_the_first_piece_is_invisible() -> None:
    """A stream whose first provider fails at once looks like any other, but for being degraded."""
    router = AsyncRouter([Scripted("first", DOWN), Scripted("second", "c", "d")])
    seen, error = await events_of(router)
    assert error is None
    assert seen[0] == Started(provider="second", model="model-of-second", degraded=True)
    assert [event.text for event in seen if isinstance(event, TextDelta)] == ["c", "d"]
    assert isinstance(seen[-1], Finished)
    assert seen[-1].answer.text == "cd"


async def test_a_cut_stream_is_an_error() -> None:
    """fails when a stream that ended in the middle is followed by another's words, or ends as if all were well."""
    second = Scripted("second", "c")
    seen, error = await events_of(AsyncRouter([Scripted("first", "a", fault(FaultKind.TRUNCATED)), second]))
    assert isinstance(error, StreamCutError)
    assert [type(event) for event in seen] == [Started, TextDelta]
    assert second.asked == []


async def test_a_restart_is_announced() -> None:
    """With `RESTART` the consumer is told to forget what it has, and the whole answer is the next provider's alone."""
    router = AsyncRouter([Scripted("first", "a", fault(FaultKind.TRUNCATED)), Scripted("second", "c", "d")])
    seen, error = await events_of(router, on_cut=OnCut.RESTART)
    assert error is None
    assert [type(event) for event in seen] == [Started, TextDelta, Restarted, TextDelta, TextDelta, Finished]
    restarted, finished = seen[2], seen[-1]
    assert isinstance(restarted, Restarted)
    assert isinstance(finished, Finished)
    assert (restarted.provider, restarted.degraded) == ("second", True)
    assert "first: truncated" in restarted.reason
    assert (finished.answer.text, finished.answer.degraded) == ("cd", True)


async def test_a_consumer_that_leaves_gives_the_probe_back() -> None:
    """fails when a probe whose caller went away is never given back, or counts against the provider."""
    only = Scripted("only", DOWN)
    router = AsyncRouter([only], limits=ProviderLimits(failures=1, open_s=0.05))
    with pytest.raises(ProvidersDownError):
        await router.complete(REQUEST)
    only.script = ("a", SILENT)
    for leave in ("closes", "is cancelled"):
        await asyncio.sleep(0.06)
        events = router.stream(REQUEST)
        assert isinstance(await anext(events), Started)
        with pytest.raises(ProvidersDownError):
            await router.complete(REQUEST)
        if leave == "closes":
            await events.aclose()
        else:
            assert isinstance(await anext(events), TextDelta)
            task = asyncio.ensure_future(events.__anext__())
            await asyncio.sleep(0.01)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
        assert only.under_way == 0
    only.script = ("a",)
    assert (await router.complete(REQUEST)).text == "a"


# -- what is told


async def test_hooks_are_told_and_stop_nothing() -> None:
    """Every attempt is told, and the two turns of a degradation; a hook that fails costs no answer."""
    attempts: list[Attempt] = []
    turns: list[Degradation] = []

    def told(turn: Degradation) -> None:
        turns.append(turn)
        raise ValueError("a bad hook")

    first = Scripted("first", DOWN)
    router = AsyncRouter([first, Scripted("second", "c")], on_attempt=attempts.append, on_degraded=told)
    await router.complete(REQUEST)
    await router.complete(REQUEST)
    first.script = ("a",)
    await router.complete(REQUEST)
    assert [(turn.degraded, turn.provider) for turn in turns] == [(True, "second"), (False, "first")]
    outcomes = [(attempt.provider, attempt.outcome) for attempt in attempts]
    assert outcomes == [*([("first", "server_error"), ("second", "answered")] * 2), ("first", "answered")]


async def test_settings_that_a_provider_does_not_have_are_named() -> None:
    """An answer names what of the request its provider did not know, and only then."""
    router = AsyncRouter([Scripted("first", "a")])
    answer = await router.complete(Request(messages=(user("hello"),), temperature=0.1))
    assert answer.dropped == ("temperature",)
    assert (await router.complete(REQUEST)).dropped == ()


async def test_each_provider_gets_its_own_form_of_a_prompt() -> None:
    """The prompt is rendered for the provider that is asked."""
    first, second = Scripted("first", DOWN), Scripted("second", "c")
    template = Template(default="You are {who}.", fields=("who",), forms={"second": "Be {who}, briefly."})
    prompts = Prompts({"role": template}, providers=["first", "second"])
    request = Request(messages=(user("hello"),), system=Prompt(name="role", values={"who": "a clerk"}))
    await AsyncRouter([first, second], prompts=prompts).complete(request)
    assert (first.asked[0].system, second.asked[0].system) == ("You are a clerk.", "Be a clerk, briefly.")
    with pytest.raises(ConfigError, match="no prompt 'role'"):
        await AsyncRouter([first]).complete(request)


def test_bad_providers_are_refused() -> None:
    """A router is never made without providers, or with two of one name."""
    with pytest.raises(ConfigError, match="there are no providers"):
        AsyncRouter([])
    with pytest.raises(ConfigError, match="two providers are named same"):
        AsyncRouter([Scripted("same"), Scripted("same")])


def test_a_router_belongs_to_one_loop() -> None:
    """A second event loop is refused with what to do, before anything is asked."""
    first = Scripted("first", "a")
    router = AsyncRouter([first])
    asyncio.run(router.complete(REQUEST))
    with pytest.raises(ConfigError, match="second event loop"):
        asyncio.run(router.complete(REQUEST))
    assert len(first.asked) == 1


class Ending(Scripted):
    """A provider whose streams break when it is closed, as those of a client do, and whose closing may fail."""

    def __init__(self, name: str, *, fails: bool = False) -> None:
        super().__init__(name, silence_s=30)
        self.fails = fails
        self.over = asyncio.Event()
        self.all_asked = asyncio.Event()

    async def stream(self, request: Request, *, heard: Callable[[], None]) -> AsyncGenerator[Delta | Completed, None]:
        self.asked.append(request)
        heard()
        yield TextDelta(text="a")
        if len(self.asked) == 4:
            self.all_asked.set()
        await self.over.wait()
        raise fault(FaultKind.TRUNCATED)

    async def close(self) -> None:
        self.closed += 1
        self.over.set()
        if self.fails:
            raise OSError("cannot be closed")


async def test_closing_blames_no_provider() -> None:
    """fails when the calls that a worker leaves when it stops open the provider's breaker, for all workers."""
    first = Ending("first")
    router = AsyncRouter([first])
    calls = [asyncio.ensure_future(router.complete(REQUEST)) for _ in range(4)]
    await first.all_asked.wait()
    await router.close()
    ended = await asyncio.gather(*calls, return_exceptions=True)
    assert [str(exc).partition(";")[0] for exc in ended] == ["the router was closed during the call"] * 4
    assert isinstance(router.board.admit("first"), Permit)
    with pytest.raises(ConfigError, match="closed"):
        await router.complete(REQUEST)


async def test_every_provider_is_closed() -> None:
    """One that cannot be closed keeps none of the others open."""
    first, second = Ending("first", fails=True), Ending("second", fails=True)
    with pytest.raises(OSError, match="cannot be closed"):
        await AsyncRouter([first, second]).close()
    assert (first.closed, second.closed) == (1, 1)


async def test_what_another_can_do_says_nothing_of_the_first() -> None:
    """fails when an answer that only the second provider could give ends the first one's outage."""
    turns: list[Degradation] = []
    first, second = Scripted("first", DOWN, images=False), Scripted("second", "c")
    router = AsyncRouter([first, second], on_degraded=turns.append)
    shows = Request(messages=(user(Image(media_type="image/png", data=b"x")),))
    for request in (REQUEST, shows, REQUEST, shows):
        await router.complete(request)
    assert [turn.degraded for turn in turns] == [True]


@pytest.mark.parametrize("others", [1, 0])
async def test_a_long_silence_counts_whatever_the_deadline(others: int) -> None:
    """fails when callers with little time ask a dead provider first for ever."""
    first = Scripted("first", SILENT, silence_s=30)
    limits = ProviderLimits(failures=1, slow_least_s=0.1)
    router = AsyncRouter([first, *[Scripted("second", "c")] * others], limits=limits)
    for _ in range(3):
        try:
            await router.complete(REQUEST, deadline_s=0.3)
        except UnavailableError:
            assert not others
        except ProvidersDownError:
            assert not others
    assert len(first.asked) == 1


# -- the blocking face


def test_the_blocking_router_is_the_same() -> None:
    """Answers, streams and errors are those of the asynchronous one, from as many threads as like."""
    first, second = Scripted("first", DOWN), Scripted("second", "c", "d")
    with Router(lambda: AsyncRouter([first, second])) as router:
        assert router.complete(REQUEST).text == "cd"
        assert [type(event) for event in router.stream(REQUEST)] == [Started, TextDelta, TextDelta, Finished]
        answers: list[str] = []
        threads = [threading.Thread(target=lambda: answers.append(router.complete(REQUEST).text)) for _ in range(32)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert answers == ["cd"] * 32
        second.script = (DOWN,)
        with pytest.raises(ProvidersDownError):
            list(router.stream(REQUEST))
        with pytest.raises(ProvidersDownError):
            router.complete(REQUEST)
    assert (first.closed, second.closed) == (1, 1)
    router.close()
    with pytest.raises(ConfigError, match="closed"):
        router.complete(REQUEST)


def test_leaving_a_blocking_stream_ends_it() -> None:
    """A consumer that stops early leaves nothing under way."""
    first = Scripted("first", "a", SILENT, silence_s=30)
    with Router(lambda: AsyncRouter([first])) as router:
        events = router.stream(REQUEST)
        assert isinstance(next(events), Started)
        assert first.under_way == 1
        events.close()  # type: ignore[attr-defined]
        deadline = threading.Event()
        while first.under_way:
            deadline.wait(0.01)


def test_closing_ends_calls_under_way() -> None:
    """A thread that waits for an answer is told that the router was closed."""
    first = Scripted("first", SILENT, silence_s=30)
    router = Router(lambda: AsyncRouter([first]))
    told: list[Exception] = []

    def call() -> None:
        try:
            router.complete(REQUEST)
        except UnavailableError as exc:
            told.append(exc)

    thread = threading.Thread(target=call)
    thread.start()
    while not first.under_way:
        thread.join(0.01)
    router.close()
    thread.join(10)
    assert [str(exc).partition(";")[0] for exc in told] == ["the router was closed during the call"]


def test_calls_made_while_it_closes_end() -> None:
    """fails when a thread that calls while another closes the router waits for ever, or a second close is an error."""
    for _ in range(20):
        router = Router(lambda: AsyncRouter([Scripted("first", "a", "b")]))
        ended: list[object] = []

        def call(router: Router = router, ended: list[object] = ended) -> None:
            try:
                while True:
                    router.complete(REQUEST)
                    list(router.stream(REQUEST))
            except (ConfigError, UnavailableError) as exc:
                ended.append(exc)

        threads = [threading.Thread(target=call) for _ in range(4)]
        threads += [threading.Thread(target=router.close) for _ in range(2)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(20)
        assert len(ended) == 4


def test_what_cannot_be_made_is_raised() -> None:
    """Bad configuration is raised where the router is made, and no thread stays."""
    with pytest.raises(ConfigError, match="there are no providers"):
        Router(lambda: AsyncRouter([]))
    assert "relight-router" not in [thread.name for thread in threading.enumerate()]
