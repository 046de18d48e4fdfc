"""The drill's agent: what it does with a task that fails, and when a part of it ends."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest
from unit.test_config import SETTINGS

from relight.clock import SystemClock
from relight.errors import ConflictError, DeniedError, LeaseLostError, NotFoundError, UnavailableError
from relight.memory.store import CollectionSpec
from relight.recovery.gate import Readiness
from relight.tasks.effects import UnknownEffectError
from relight.tasks.ledger import Task
from relight_drill import agent as agents
from relight_drill.agent import Agent
from relight_drill.processes import free_port

if TYPE_CHECKING:
    from collections.abc import Callable


class Lease:
    """A lease whose keeper does as it is told."""

    epoch = 1
    live = True

    def run(self, stop: Any) -> None:
        stop.wait()

    def check(self, for_s: float = 0.0) -> None:
        if not self.live:
            raise LeaseLostError("the lease ran out")


class Ledger:
    """One task, and how it was given back."""

    def __init__(self, attempts: int) -> None:
        self.claimed = Task(id="t", payload={}, status="running", epoch=1, attempts=attempts, claim="c")
        self.released: list[tuple[str, bool]] = []

    def claim(self, task_id: str, **_: object) -> Task:
        return self.claimed

    def finish(self, task: Task, result: Any) -> None: ...

    def release(self, task: Task, *, error: str, failed: bool) -> None:
        self.released.append((error, failed))


@pytest.fixture(scope="module")
def agent() -> Agent:
    """An agent without any server."""
    region: Any = SimpleNamespace(
        settings=SETTINGS,
        clock=SystemClock(),
        lease_keeper=Lease,
        database=None,
        store=None,
        specs=[CollectionSpec(name="memory", dimension=256, embedding_model="test")],
        close=lambda: None,
    )
    return Agent(region, port=free_port(), seed=1)


def failing(exc: Exception) -> Callable[[Any], Any]:
    def report(_: Any) -> Any:
        raise exc

    return report


PASSING = [UnavailableError("u"), NotFoundError("n"), DeniedError("d"), KeyError("topic"), ZeroDivisionError("z")]


@pytest.mark.parametrize("exc", PASSING, ids=lambda exc: type(exc).__name__)
def test_a_task_that_raises_is_given_back_and_parked_in_the_end(
    agent: Agent, exc: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever a task raises, it comes again, later and later, and fails for good in its last attempt alone."""
    monkeypatch.setattr(agent, "_report", failing(exc))
    waits = []
    for attempt in range(1, agents.ATTEMPTS + 1):
        ledger = Ledger(attempt)
        monkeypatch.setattr(agent, "_ledger", ledger)
        waits.append(agent._perform("t"))
        ((error, failed),) = ledger.released
        assert error.startswith(type(exc).__name__)
        assert failed is (attempt == agents.ATTEMPTS)
    assert waits[:3] == [4.0, 8.0, 16.0]
    assert set(waits[4:-1]) == {agents.AGAIN_AT_MOST_S}
    assert waits[-1] is None


def test_a_payload_without_a_topic_ends(agent: Agent, monkeypatch: pytest.MonkeyPatch) -> None:
    """fails when a task that can never be done comes again for ever."""
    ledger = Ledger(agents.ATTEMPTS)
    monkeypatch.setattr(agent, "_ledger", ledger)
    assert agent._perform("t") is None
    assert ledger.released == [("KeyError: 'topic'", True)]


def test_an_effect_that_nobody_can_tell_of_fails_at_once(agent: Agent, monkeypatch: pytest.MonkeyPatch) -> None:
    """It waits for a person, and is not tried again."""
    ledger = Ledger(1)
    monkeypatch.setattr(agent, "_ledger", ledger)
    monkeypatch.setattr(agent, "_report", failing(UnknownEffectError("who knows")))
    assert agent._perform("t") is None
    assert ledger.released == [("UnknownEffectError: who knows", True)]


def test_a_task_that_went_to_another_is_not_touched(agent: Agent, monkeypatch: pytest.MonkeyPatch) -> None:
    """Who lost the claim or the lease writes nothing, however often the task was tried."""
    ledger = Ledger(agents.ATTEMPTS)
    monkeypatch.setattr(agent, "_ledger", ledger)
    monkeypatch.setattr(agent, "_report", failing(LeaseLostError("no longer ours")))
    with pytest.raises(ConflictError):
        agent._perform("t")
    assert ledger.released == []


@pytest.mark.parametrize("part", ["_watch_readiness", "_apply_journal", "_keep_indexed", "_work"])
def test_an_agent_that_lost_a_part_ends(agent: Agent, part: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """fails when an agent goes on serving without its worker or one of its threads: ECS must start another."""

    def die() -> None:
        raise ZeroDivisionError(part)

    async def die_too() -> None:
        die()

    monkeypatch.setattr(agent, "_watch_readiness", lambda: None)
    monkeypatch.setattr(agent, "_apply_journal", lambda: None)
    monkeypatch.setattr(agent, part, die_too if part == "_work" else die)
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
