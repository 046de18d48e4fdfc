"""LiteLLM's side of `benchmarks.router`, in an environment that has LiteLLM and nothing of ours: run as a script."""

from __future__ import annotations

import asyncio
import json
import os
import statistics
import sys
import time
from typing import TYPE_CHECKING, Any

# Else it asks the internet for prices when it is imported.
os.environ["LITELLM_LOCAL_MODEL_COST_MAP"] = "True"

import litellm  # type: ignore[import-not-found,unused-ignore]
from openai import AsyncOpenAI

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Mapping

MODEL = "gpt-5-mini"
MESSAGES: list[Any] = [{"role": "user", "content": "hello"}]
WARM = 20
FEW = 3


def _url(ports: Mapping[str, int], what: str) -> str:
    return f"http://127.0.0.1:{ports[what]}/v1"


async def _words(stream: AsyncIterator[Any]) -> str:
    words = []
    async for chunk in stream:
        if chunk.choices and chunk.choices[0].delta.content:
            words.append(chunk.choices[0].delta.content)
    return "".join(words)


def _router(ports: Mapping[str, int], first: str, **settings: Any) -> Callable[[], Awaitable[str]]:
    def entry(name: str, what: str) -> dict[str, Any]:
        params = {"model": f"openai/{MODEL}", "api_base": _url(ports, what), "api_key": "none"}
        return {"model_name": name, "litellm_params": params}

    models = [entry("first", first), entry("next", "answers")]
    router = litellm.Router(model_list=models, fallbacks=[{"first": ["next"]}], **settings)

    async def call() -> str:
        return await _words(await router.acompletion(model="first", messages=MESSAGES, max_tokens=100, stream=True))

    return call


def _bare(ports: Mapping[str, int]) -> Callable[[], Awaitable[str]]:
    client = AsyncOpenAI(api_key="none", base_url=_url(ports, "answers"), max_retries=0)

    async def call() -> str:
        return await _words(
            await client.chat.completions.create(model=MODEL, max_completion_tokens=100, messages=MESSAGES, stream=True)
        )

    return call


async def _timed(call: Callable[[], Awaitable[str]]) -> float:
    began = time.perf_counter()
    assert await call()
    return time.perf_counter() - began


async def _calls(ports: Mapping[str, int], calls: int) -> dict[str, float]:
    """What a call adds to the bare SDK's, in milliseconds."""
    sides = {"bare": _bare(ports), "router": _router(ports, "answers")}
    took: dict[str, list[float]] = {name: [] for name in sides}
    for number in range(-WARM, calls):
        for name, call in sides.items():
            seconds = await _timed(call)
            if number >= 0:
                took[name].append(seconds)
    return {"adds_ms": 1000 * (statistics.median(took["router"]) - statistics.median(took["bare"]))}


async def _waits(ports: Mapping[str, int], bound_s: float) -> dict[str, float]:
    """Milliseconds of a call while the first provider is down, and seconds until the next one's answer where it is
    silent, or `bound_s` where none came by then."""
    waits = {
        f"{what}{how}": _router(ports, what, **settings)
        for what in ("silent", "drips")
        for how, settings in (("", {}), (", timeout=10", {"timeout": 10, "num_retries": 0}))
    }

    async def bounded(call: Callable[[], Awaitable[str]]) -> float:
        try:
            return await asyncio.wait_for(_timed(call), bound_s)
        except TimeoutError:
            return bound_s

    async def while_down(what: str) -> float:
        down = _router(ports, what)
        return 1000 * statistics.median([await _timed(down) for _ in range(FEW)])

    left, closed, fails = await asyncio.gather(
        asyncio.gather(*map(bounded, waits.values())), while_down("closed"), while_down("fails")
    )
    return {**dict(zip(waits, left, strict=True)), "closed_ms": closed, "fails_ms": fails}


async def main() -> None:
    """The server's ports, what to measure, and how many calls or seconds at most."""
    litellm.suppress_debug_info = True
    ports, what, much = json.loads(sys.argv[1]), sys.argv[2], float(sys.argv[3])
    found = await (_calls(ports, int(much)) if what == "calls" else _waits(ports, much))
    print(json.dumps(found))


if __name__ == "__main__":
    asyncio.run(main())
