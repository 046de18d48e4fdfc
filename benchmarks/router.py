"""The router beside the bare SDK, and beside pydantic-ai's FallbackModel and LiteLLM's Router, on one loopback server.

The server is a process of its own and writes bytes made beforehand. Everything streams, and every side reads its stream
to the end and gives the text. The sides take turns, call by call, so that what else the machine does meets them alike.
What a side *adds* is the difference of medians: its call's and the bare SDK's. The blocking Router's is beside the same
SDK on an event loop in another thread, because that is what it is; the whole call is also shown beside the SDK's own
blocking client, which needs no loop and is quicker. With 64 at once, a call's time is the batch's over 64: all of them
share one interpreter.

LiteLLM pins an older openai: it runs in an environment of its own, which uv makes; where that cannot be made, it is
left out and said so.
"""

from __future__ import annotations

import asyncio
import json
import logging
import random
import statistics
import subprocess
import sys
import sysconfig
import tempfile
import threading
import time
from collections import defaultdict
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self, TypeVar

from anthropic import Anthropic, AsyncAnthropic
from openai import AsyncOpenAI
from pydantic_ai import ModelRequest
from pydantic_ai.direct import model_request_stream
from pydantic_ai.models.anthropic import AnthropicModel
from pydantic_ai.models.fallback import FallbackModel
from pydantic_ai.providers.anthropic import AnthropicProvider

from benchmarks.child import ROOT
from benchmarks.figure import Figure
from benchmarks.llm_server import ANSWER
from relight.providers.blocking import Router
from relight.providers.breaker import Phase
from relight.providers.messages import Request, user
from relight.providers.open import open_provider
from relight.providers.router import AsyncRouter
from relight.providers.spec import Api, ProviderLimits, ProviderSpec

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

CALLS = 300
AT_ONCE = 64
BATCHES = 10
WARM = 20
FEW = 2
# What the router may add to a call, and to one while the first provider is left alone.
ADDS_MS = 0.2
DOWN_MS = 1.0
# What our providers are left after by default, and theirs where they are told.
SILENT_S = 10.0
BOUND_S = 40.0
LITELLM = "1.106.2"
INSTALL_S = 120.0

KEY = "none"
MODEL = "claude-haiku-4-5"
OPENAI_MODEL = "gpt-5-mini"
MESSAGES: list[Any] = [{"role": "user", "content": "hello"}]
REQUEST = Request(messages=(user("hello"),), max_tokens=100)
FALLBACK_MODEL = "pydantic-ai's FallbackModel"
LITELLM_SCRIPT = Path(__file__).with_name("router_litellm.py")

_Call = Callable[[], Awaitable[str]]
_Side = TypeVar("_Side")


def run(
    calls: int = CALLS, batches: int = BATCHES, bound_s: float = BOUND_S, *, beside_litellm: bool = True
) -> list[Figure]:
    """Measure overhead, the penalty while the first provider is down, and the time until a silent one is left."""
    with _quiet(), served() as ports:
        uv = _uv_with_litellm() if beside_litellm else None
        litellm = _litellm(uv, ports, "calls", calls) if uv else {}
        figures = [
            *asyncio.run(_overhead(ports, calls, batches, litellm)),
            *_blocking_overhead(ports, calls, batches),
        ]
        down = asyncio.run(_while_down(ports, calls))
        # What mostly waits, waits at once.
        with ThreadPoolExecutor() as pool:
            running = pool.submit(_litellm, uv, ports, "waits", bound_s) if uv else None
            left = asyncio.run(_silence(ports, bound_s))
            litellm = running.result() if running else {}
        figures += [*_down_figures(down, litellm), *_left_figures(left, litellm, bound_s)]
    if uv is None:
        print("LiteLLM's Router is not measured: uv could not make its environment", file=sys.stderr, flush=True)
    return figures


@contextmanager
def _quiet() -> Iterator[None]:
    """A fallback that answers is worth a warning, and here it is what is measured."""
    log = logging.getLogger("relight")
    before = log.level
    log.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        log.setLevel(before)


@contextmanager
def served() -> Iterator[dict[str, int]]:
    """The server's ports, by what it does there."""
    command = [sys.executable, "-m", "benchmarks.llm_server"]
    with subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        try:
            yield json.loads(process.stdout.readline())
        finally:
            process.kill()


# -- the sides, each a call that gives the answer's text


def _url(ports: Mapping[str, int], what: str, api: Api = Api.ANTHROPIC) -> str:
    return f"http://127.0.0.1:{ports[what]}{'' if api is Api.ANTHROPIC else '/v1'}"


class Clients:
    """The SDK's clients of one loop, closed with it."""

    def __init__(self) -> None:
        self._stack = AsyncExitStack()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._stack.aclose()

    def anthropic(self, ports: Mapping[str, int], what: str, **settings: Any) -> AsyncAnthropic:
        """One of Anthropic's."""
        client = AsyncAnthropic(api_key=KEY, base_url=_url(ports, what), **settings)
        self._stack.push_async_callback(client.close)
        return client

    def openai(self, ports: Mapping[str, int], what: str, **settings: Any) -> AsyncOpenAI:
        """One of OpenAI's."""
        client = AsyncOpenAI(api_key=KEY, base_url=_url(ports, what, Api.OPENAI), **settings)
        self._stack.push_async_callback(client.close)
        return client

    def router(self, *arguments: Any, **settings: Any) -> AsyncRouter:
        """One of ours."""
        router = _router(*arguments, **settings)
        self._stack.push_async_callback(router.close)
        return router


def _async_bare(client: AsyncAnthropic) -> _Call:

    async def call() -> str:
        stream = await client.messages.create(model=MODEL, max_tokens=100, messages=MESSAGES, stream=True)
        words = []
        async for event in stream:
            if event.type == "content_block_delta" and event.delta.type == "text_delta":
                words.append(event.delta.text)
        return "".join(words)

    return call


def _async_bare_openai(client: AsyncOpenAI) -> _Call:

    async def call() -> str:
        stream = await client.chat.completions.create(
            model=OPENAI_MODEL, max_completion_tokens=100, messages=MESSAGES, stream=True
        )
        words = []
        async for chunk in stream:
            if chunk.choices and chunk.choices[0].delta.content:
                words.append(chunk.choices[0].delta.content)
        return "".join(words)

    return call


def _router(
    ports: Mapping[str, int], *first: str, api: Api = Api.ANTHROPIC, limits: ProviderLimits | None = None
) -> AsyncRouter:
    """Providers that do as they are told, and one that answers behind them."""
    model = MODEL if api is Api.ANTHROPIC else OPENAI_MODEL
    specs = [
        ProviderSpec(name=f"{number}-{what}", api=api, model=model, base_url=_url(ports, what, api), unlisted=True)
        for number, what in enumerate((*first, "answers"))
    ]
    return AsyncRouter([open_provider(spec, KEY) for spec in specs], limits=limits)


def _ours(router: AsyncRouter) -> _Call:
    async def call() -> str:
        return (await router.complete(REQUEST)).text

    return call


def _fallback_model(clients: Clients, ports: Mapping[str, int], *first: str, **settings: Any) -> _Call:
    """The same providers in pydantic-ai; `settings` are of the SDK's clients, otherwise as it has them."""

    def model(what: str) -> AnthropicModel:
        client = clients.anthropic(ports, what, **settings)
        return AnthropicModel(MODEL, provider=AnthropicProvider(anthropic_client=client))

    router = FallbackModel(*[model(what) for what in (*first, "answers")])
    messages = [ModelRequest.user_text_prompt("hello")]

    async def call() -> str:
        async with model_request_stream(router, messages, model_settings={"max_tokens": 100}) as stream:
            async for _ in stream:
                pass
            return stream.get().text or ""

    return call


# -- a call's overhead


async def _overhead(ports: Mapping[str, int], calls: int, batches: int, litellm: Mapping[str, float]) -> list[Figure]:
    async with Clients() as clients:
        sides = {
            "bare": _async_bare(clients.anthropic(ports, "answers", max_retries=0)),
            "ours": _ours(clients.router(ports)),
            "theirs": _fallback_model(clients, ports, max_retries=0),
            "bare openai": _async_bare_openai(clients.openai(ports, "answers", max_retries=0)),
            "ours openai": _ours(clients.router(ports, api=Api.OPENAI)),
        }
        one = await _one_by_one(sides, calls)
        many = await _at_once(sides, batches)
    figures = []
    for label, took in (("x1", one), (f"x{AT_ONCE}", many)):
        ours, theirs = took["ours"] - took["bare"], took["theirs"] - took["bare"]
        figures += [
            _aimed(f"adds, asyncio {label}", ours, ADDS_MS, took["bare"]),
            _aimed(f"adds, openai {label}", took["ours openai"] - took["bare openai"], ADDS_MS, took["bare openai"]),
            _beside(f"adds, asyncio {label}", ours, theirs, FALLBACK_MODEL),
        ]
    if litellm:
        openai = one["ours openai"] - one["bare openai"]
        figures.append(_beside("adds, openai x1", openai, litellm["adds_ms"], f"LiteLLM's Router {LITELLM}"))
    return figures


def _blocking_overhead(ports: Mapping[str, int], calls: int, batches: int) -> list[Figure]:
    client = Anthropic(api_key=KEY, base_url=_url(ports, "answers"), max_retries=0)

    def bare() -> str:
        stream = client.messages.create(model=MODEL, max_tokens=100, messages=MESSAGES, stream=True)
        return "".join(
            event.delta.text
            for event in stream
            if event.type == "content_block_delta" and event.delta.type == "text_delta"
        )

    def make() -> AsyncRouter:
        return _router(ports)

    with _loop_in_a_thread() as loop, Router(make) as router, ThreadPoolExecutor(AT_ONCE) as pool:
        elsewhere = AsyncAnthropic(api_key=KEY, base_url=_url(ports, "answers"), max_retries=0)
        there = _async_bare(elsewhere)
        sides: dict[str, Callable[[], str]] = {
            "bare": bare,
            "ours": lambda: router.complete(REQUEST).text,
            "bare there": lambda: asyncio.run_coroutine_threadsafe(_awaited(there), loop).result(),
        }
        one, many = defaultdict[str, list[float]](list), defaultdict[str, list[float]](list)
        for number in range(-WARM, calls):
            for name, side in _in_turn(sides, number):
                began = time.perf_counter()
                text = side()
                if number >= 0:
                    one[name].append(time.perf_counter() - began)
                assert text == ANSWER, name
        for number in range(-1, batches):
            for name, side in _in_turn(sides, number):
                began = time.perf_counter()
                running = [pool.submit(side) for _ in range(AT_ONCE)]
                texts = {call.result() for call in running}
                if number >= 0:
                    many[name].append((time.perf_counter() - began) / AT_ONCE)
                assert texts == {ANSWER}, name
        asyncio.run_coroutine_threadsafe(elsewhere.close(), loop).result()
    figures = []
    for label, took in (("x1", _medians(one)), (f"x{AT_ONCE}", _medians(many))):
        added = took["ours"] - took["bare there"]
        figures += [
            _aimed(f"adds, blocking {label}", added, ADDS_MS, took["bare there"]),
            _beside(f"a call, blocking {label}", took["ours"], took["bare"], "the bare blocking SDK"),
        ]
    return figures


async def _awaited(call: _Call) -> str:
    return await call()


@contextmanager
def _loop_in_a_thread() -> Iterator[asyncio.AbstractEventLoop]:
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, daemon=True)
    thread.start()
    yield loop
    loop.call_soon_threadsafe(loop.stop)
    thread.join()
    loop.close()


def _in_turn(sides: Mapping[str, _Side], number: int) -> list[tuple[str, _Side]]:
    """In an order of its own each time: whoever comes after a big one meets cold caches."""
    order = list(sides.items())
    random.Random(number).shuffle(order)
    return order


async def _one_by_one(sides: Mapping[str, _Call], calls: int) -> dict[str, float]:
    """Median milliseconds of a call."""
    took = defaultdict[str, list[float]](list)
    for number in range(-WARM, calls):
        for name, side in _in_turn(sides, number):
            began = time.perf_counter()
            text = await side()
            if number >= 0:
                took[name].append(time.perf_counter() - began)
            assert text == ANSWER, name
    return _medians(took)


async def _at_once(sides: Mapping[str, _Call], batches: int) -> dict[str, float]:
    """Median milliseconds of a call when so many are under way: the batch's time over its calls."""
    took = defaultdict[str, list[float]](list)
    for number in range(-1, batches):
        for name, side in _in_turn(sides, number):
            began = time.perf_counter()
            texts = await asyncio.gather(*(side() for _ in range(AT_ONCE)))
            if number >= 0:
                took[name].append((time.perf_counter() - began) / AT_ONCE)
            assert set(texts) == {ANSWER}, name
    return _medians(took)


def _medians(took: Mapping[str, list[float]]) -> dict[str, float]:
    return {name: 1000 * statistics.median(seconds) for name, seconds in took.items()}


# -- while the first provider is down


DOWN = {"closed": "refuses", "fails": "answers 500"}


async def _while_down(ports: Mapping[str, int], calls: int) -> dict[str, dict[str, float]]:
    """Median milliseconds of a call of each side, by what the first provider does."""
    # The breaker stays open for the time of the measurement: probes are not what is measured.
    limits = ProviderLimits(open_s=3600)
    found = {}
    for what in DOWN:
        async with Clients() as clients:
            down = clients.router(ports, what, limits=limits)
            for _ in range(limits.failures):
                await down.complete(REQUEST)
            assert down.board.state(f"0-{what}").phase is Phase.OPEN
            sides = {
                "ours well": _ours(clients.router(ports)),
                "ours down": _ours(down),
                "theirs well": _fallback_model(clients, ports, max_retries=0),
                "theirs down": _fallback_model(clients, ports, what, max_retries=0),
            }
            found[what] = await _one_by_one(sides, calls)
            found[what]["by default"] = await _few(_fallback_model(clients, ports, what))
    return found


def _down_figures(found: Mapping[str, Mapping[str, float]], litellm: Mapping[str, float]) -> list[Figure]:
    figures = []
    for what, took in found.items():
        name, well = f"down adds, {DOWN[what]}", took["theirs well"]
        ours = took["ours down"] - took["ours well"]
        figures += [
            _aimed(name, ours, DOWN_MS, took["ours well"]),
            _beside(name, ours, took["theirs down"] - well, f"{FALLBACK_MODEL}, no retries"),
            _beside(name, ours, took["by default"] - well, FALLBACK_MODEL),
        ]
        if litellm:
            figures.append(_beside(name, ours, litellm[f"{what}_ms"], f"LiteLLM's Router {LITELLM}"))
    return figures


async def _few(call: _Call) -> float:
    """Median milliseconds of a few calls, each of which takes long."""
    took = []
    for _ in range(FEW):
        began = time.perf_counter()
        await call()
        took.append(1000 * (time.perf_counter() - began))
    return statistics.median(took)


# -- until a silent provider is left


async def _silence(ports: Mapping[str, int], bound_s: float) -> dict[str, float]:
    """Seconds to the next provider's answer, all at once, because all of them wait."""
    told = {"timeout": SILENT_S, "max_retries": 0}
    waits: dict[str, _Call] = {}
    async with Clients() as clients:
        for what in ("silent", "drips"):
            waits[f"ours {what}"] = _ours(clients.router(ports, what))
            waits[f"default {what}"] = _fallback_model(clients, ports, what)
            waits[f"told {what}"] = _fallback_model(clients, ports, what, **told)
        seconds = await asyncio.gather(*(_bounded(call, bound_s) for call in waits.values()))
    return dict(zip(waits, seconds, strict=True))


def _left_figures(took: Mapping[str, float], litellm: Mapping[str, float], bound_s: float) -> list[Figure]:
    figures = []
    for what, label in (("silent", "silence"), ("drips", "drip")):
        ours = took[f"ours {what}"]
        figures.append(
            Figure(name=f"left after {label}", unit="s", ours=ours, peer=SILENT_S, peer_name="silence_s", at_most=1.1)
        )
        peers = {
            FALLBACK_MODEL: took[f"default {what}"],
            f"{FALLBACK_MODEL}, timeout={SILENT_S:g}": took[f"told {what}"],
            **{f"LiteLLM's Router{how}": litellm[f"{what}{how}"] for how in ("", ", timeout=10") if litellm},
        }
        for name, seconds in peers.items():
            shown = f"{name}: > {bound_s:g} s" if seconds >= bound_s else name
            figures.append(Figure(name=f"left after {label}", unit="s", ours=ours, peer=seconds, peer_name=shown))
    return figures


async def _bounded(call: _Call, bound_s: float) -> float:
    """Seconds to the answer, or `bound_s` where none came by then."""
    began = time.perf_counter()
    try:
        async with asyncio.timeout(bound_s):
            assert await call() == ANSWER
    except TimeoutError:
        return bound_s
    return time.perf_counter() - began


# -- LiteLLM, in an environment of its own


def _uv_with_litellm() -> Path | None:
    """The uv that can run it; None where it cannot be had."""
    uv = Path(sysconfig.get_path("scripts")) / "uv"
    if not uv.is_file():
        return None
    try:
        done = subprocess.run([*_litellm_command(uv), "-c", "import litellm"], capture_output=True, timeout=INSTALL_S)
    except subprocess.TimeoutExpired:
        return None
    return uv if done.returncode == 0 else None


def _litellm_command(uv: Path) -> list[str]:
    python = f"{sys.version_info.major}.{sys.version_info.minor}"
    return [str(uv), "run", "--quiet", "--no-project", "--python", python, "--with", f"litellm=={LITELLM}", "python"]


def _litellm(uv: Path, ports: Mapping[str, int], what: str, much: float) -> dict[str, float]:
    # -P: the script's own folder holds modules that have the names of Python's.
    command = [*_litellm_command(uv), "-P", str(LITELLM_SCRIPT), json.dumps(dict(ports)), what, str(much)]
    done = subprocess.run(command, cwd=tempfile.gettempdir(), capture_output=True, text=True)
    if done.returncode != 0:
        raise SystemExit(f"bench: LiteLLM failed: {done.stderr[-2000:]}")
    found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return found


# -- figures


def _aimed(name: str, ours: float, aim: float, bare: float) -> Figure:
    return Figure(name=name, unit="ms", ours=ours, peer=aim, peer_name=f"aim; a call takes {bare:.2f}", at_most=1.0)


def _beside(name: str, ours: float, theirs: float, peer_name: str) -> Figure:
    # What is too small to be told from nothing would make the ratio nonsense.
    return Figure(name=name, unit="ms", ours=ours, peer=max(theirs, 0.001), peer_name=peer_name)
