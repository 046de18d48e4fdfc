"""The drill's agent: when a part of it ends, and when it is ready."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import aiohttp
import pytest
from aiohttp import web
from servers import serving
from unit.test_config import SETTINGS

from relight.clock import SystemClock
from relight.errors import LeaseLostError
from relight.memory.store import CollectionSpec
from relight.recovery.gate import Readiness
from relight_drill.agent import Agent
from relight_drill.onward import SENT_ON_BY, Onward
from relight_drill.processes import free_port


class Lease:
    """A lease whose keeper does as it is told."""

    epoch = 1
    live = True
    acts: str | None = None

    def acting(self) -> str | None:
        return self.acts

    def run(self, stop: Any) -> None:
        stop.wait()

    def check(self, for_s: float = 0.0) -> None:
        if not self.live:
            raise LeaseLostError("the lease ran out")


@pytest.fixture(scope="module")
def agent() -> Agent:
    """An agent without any server."""
    region: Any = SimpleNamespace(
        settings=SETTINGS,
        clock=SystemClock(),
        lease_keeper=Lease,
        database=None,
        ledger=lambda epoch: SimpleNamespace(epoch=epoch),
        store=None,
        specs=[CollectionSpec(name="memory", dimension=256, embedding_model="test")],
        following=None,
        close=lambda: None,
    )
    return Agent(region, port=free_port(), seed=1)


@pytest.mark.parametrize("part", ["_watch_readiness", "_apply_journal", "_keep_indexed", "_worker"])
def test_an_agent_that_lost_a_part_ends(agent: Agent, part: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """fails when an agent goes on serving without its worker or one of its threads: ECS must start another."""

    def die() -> None:
        raise ZeroDivisionError(part)

    async def die_too() -> None:
        die()

    monkeypatch.setattr(agent, "_watch_readiness", lambda: None)
    monkeypatch.setattr(agent, "_apply_journal", lambda: None)
    worker = SimpleNamespace(run=die_too if part == "_worker" else asyncio.Event().wait)
    monkeypatch.setattr(agent, "_worker", worker)
    if part != "_worker":
        monkeypatch.setattr(agent, part, die)
    agent._stop.clear()

    async def run() -> None:
        await asyncio.wait_for(agent.run(), 10)

    with pytest.raises(ZeroDivisionError, match=part):
        asyncio.run(run())


def test_memory_is_mended_only_under_a_live_lease(agent: Agent, monkeypatch: pytest.MonkeyPatch) -> None:
    """The applier goes by `opened`, and the lease is looked at once more at that moment."""
    only_memory = Readiness(ready=False, reason="memory is not hydrated", epoch=1, opened=True)
    monkeypatch.setattr(agent, "_readiness", only_memory)
    monkeypatch.setattr(agent, "_readiness_at", agent._region.clock.monotonic())
    assert agent.ready() == only_memory
    monkeypatch.setattr(agent._lease, "live", False)
    assert not agent.ready().opened


# Active-active


class Other:
    """The other region: it keeps what it was asked, and answers as it is told."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, str, bytes, str | None]] = []
        self.silent = asyncio.Event()
        self.status = 202

    async def handle(self, request: web.Request) -> web.StreamResponse:
        body = await request.read()
        self.asked.append((request.method, request.raw_path, body, request.headers.get(SENT_ON_BY)))
        if self.status == 0:
            await self.silent.wait()
        return web.json_response({"from": "the other region"}, status=self.status)


def standing(
    agent: Agent, monkeypatch: pytest.MonkeyPatch, readiness: Readiness, *, acts: str | None, port: int
) -> None:
    """Let the agent's region stand so, and the other region's endpoint be on that port."""
    settings = replace(agent._region.settings, primary_url=f"http://127.0.0.1:{port}", confirm_timeout_s=0.1)
    monkeypatch.setattr(agent, "_readiness", readiness)
    monkeypatch.setattr(agent, "_readiness_at", float("inf"))
    monkeypatch.setattr(agent._lease, "acts", acts)
    monkeypatch.setattr(agent, "_onward", Onward(settings))


async def call(agent: Agent, method: str, path: str, **what: Any) -> tuple[int, Any]:
    """One call to the agent's own HTTP side."""
    runner = web.AppRunner(agent._app())
    await runner.setup()
    port = free_port()
    await web.TCPSite(runner, "127.0.0.1", port).start()
    try:
        async with (
            aiohttp.ClientSession() as session,
            session.request(method, f"http://127.0.0.1:{port}{path}", **what) as answer,
        ):
            return answer.status, await answer.json()
    finally:
        await agent._onward.close()
        await runner.cleanup()


WORKS = Readiness(ready=True, reason="", epoch=1, opened=True)
READS = Readiness(ready=True, reason="", epoch=1)
OTHER_REGION = SETTINGS.primary_region
WRITES = [("POST", "/tasks"), ("POST", "/memories"), ("GET", "/tasks/a%2Fb?x=1")]


@pytest.mark.parametrize(("method", "path"), WRITES)
def test_what_a_reading_region_may_not_do_the_working_one_does(
    agent: Agent, monkeypatch: pytest.MonkeyPatch, method: str, path: str
) -> None:
    """Sent on whole, once, and marked; the answer is the other region's, whatever it is."""
    other = Other()

    async def scenario() -> list[tuple[int, Any]]:
        async with serving(other.handle) as port:
            found = []
            for other.status in (202, 409):
                standing(agent, monkeypatch, READS, acts=OTHER_REGION, port=port)
                found.append(await call(agent, method, path, json={"id": "t"} if method == "POST" else None))
            return found

    assert asyncio.run(scenario()) == [(202, {"from": "the other region"}), (409, {"from": "the other region"})]
    body = b'{"id": "t"}' if method == "POST" else b""
    assert other.asked == [(method, path, body, SETTINGS.region)] * 2


@pytest.mark.parametrize(("method", "path"), WRITES)
def test_nothing_goes_round_in_a_circle(agent: Agent, monkeypatch: pytest.MonkeyPatch, method: str, path: str) -> None:
    """fails when two regions that each think that the other works send a call back and forth: one hop, and no more."""
    other = Other()

    async def scenario() -> tuple[int, Any]:
        async with serving(other.handle) as port:
            standing(agent, monkeypatch, READS, acts=OTHER_REGION, port=port)
            return await call(agent, method, path, headers={SENT_ON_BY: OTHER_REGION})

    status, body = asyncio.run(scenario())
    assert (status, body["error"]) == (503, f"{SETTINGS.region} does not work, and {OTHER_REGION} sent this on to it")
    assert other.asked == []


@pytest.mark.parametrize("acts", [None, SETTINGS.region])
def test_when_nobody_works_the_caller_is_told(agent: Agent, monkeypatch: pytest.MonkeyPatch, acts: str | None) -> None:
    """While the region that works is lost, and until the gate of this one is open."""
    standing(agent, monkeypatch, READS, acts=acts, port=1)
    status, body = asyncio.run(call(agent, "POST", "/tasks", json={}))
    assert (status, body["error"]) == (503, "no region is known to work: one is being recovered, or was lost")


@pytest.mark.parametrize("how", ["refuses", "silent"])
def test_a_working_region_that_does_not_answer_is_given_up(
    agent: Agent, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    """Within the bound, and with a 503 on which callers call again."""
    other = Other()
    other.status = 0
    monkeypatch.setattr("relight_drill.onward.WORK_S", 0.3)

    async def scenario() -> tuple[int, Any]:
        async with serving(other.handle) as port:
            standing(agent, monkeypatch, READS, acts=OTHER_REGION, port=port if how == "silent" else free_port())
            return await call(agent, "POST", "/tasks", json={})

    status, body = asyncio.run(scenario())
    assert (status, body["error"]) == (503, f"{OTHER_REGION} works, and did not answer")


def test_a_region_that_serves_nothing_sends_nothing_on(agent: Agent, monkeypatch: pytest.MonkeyPatch) -> None:
    """Behind a closed gate every call is refused, with the gate's reason; `/ready` says what the region does."""
    shut = Readiness(ready=False, reason="memory is 40 s behind its journal, and 30 s are allowed", epoch=1)
    standing(agent, monkeypatch, shut, acts=OTHER_REGION, port=1)
    for method, path in [*WRITES, ("POST", "/ask")]:
        assert asyncio.run(call(agent, method, path)) == (503, {"error": shut.reason})


@pytest.mark.parametrize(("found", "works"), [(WORKS, True), (READS, False)])
def test_only_a_region_that_works_fetches_tasks(
    agent: Agent, monkeypatch: pytest.MonkeyPatch, found: Readiness, works: bool
) -> None:
    """fails when a region that only reads takes tasks off its queue, or tells the sentinel that it works."""
    standing(agent, monkeypatch, found, acts=OTHER_REGION, port=1)
    monkeypatch.setattr(agent._region, "database", SimpleNamespace(promise_seen=lambda: None))
    assert agent._worker._may_work() is works
    status, body = asyncio.run(call(agent, "GET", "/ready"))
    assert (status, body["ready"], body["works"]) == (200, True, works)
