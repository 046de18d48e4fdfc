"""The drill's agent: when a part of it ends, and when it is ready."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any

import pytest
from unit.test_config import SETTINGS

from relight.clock import SystemClock
from relight.errors import LeaseLostError
from relight.memory.store import CollectionSpec
from relight.recovery.gate import Readiness
from relight_drill.agent import Agent
from relight_drill.processes import free_port


class Lease:
    """A lease whose keeper does as it is told."""

    epoch = 1
    live = True

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
