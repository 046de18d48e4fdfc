"""A worker is killed, or stopped, at any statement that it sends, and what it was doing is recovered as promised.

200 points of the sweep that `scripts/bench sweep` does in whole, and what shows that the sweep can fail.
"""

from __future__ import annotations

import asyncio
import secrets
import tempfile
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from relight.tasks import database
from relight_drill.sweep.runs import (
    SOON_S,
    Baseline,
    Lane,
    Outcome,
    Plan,
    plans_for,
    playing,
    record_all,
    sweep,
    table_of,
)

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence

    from servers import StatePair

    from relight_drill.nats import NatsServer
    from relight_drill.processes import ProcessGroup

pytestmark = pytest.mark.servers

POINTS = 200
SEED = 1
LANES = 6
TESTS = str(Path(__file__).resolve().parents[1])


class Place:
    """Where a sweep is done: the session's servers."""

    def __init__(self, group: ProcessGroup, pair: StatePair, queue: NatsServer) -> None:
        self._group = group
        self._pair = pair
        self._queue = queue

    @asynccontextmanager
    async def lanes(self, hooks: Sequence[str]) -> AsyncIterator[list[Lane]]:
        """A lane for each hook, with a database and a queue of its own; one that breaks the library gives up soon."""
        with tempfile.TemporaryDirectory(prefix="relight-sweep-") as folder:
            async with playing(
                self._group, Path(folder), self._pair.primary, self._queue, python_path=[TESTS]
            ) as found:
                lanes = [
                    Lane(found, f"sweep{secrets.token_hex(4)}", hook=f"sabotage:{hook}", quiet_s=2.0)
                    if hook
                    else Lane(found, f"sweep{secrets.token_hex(4)}")
                    for hook in hooks
                ]
                try:
                    for lane in lanes:
                        await lane.open()
                    yield lanes
                finally:
                    for lane in lanes:
                        await lane.close()


@pytest.fixture
def place(server_group: ProcessGroup, state_pair: StatePair, nats_server: NatsServer) -> Place:
    return Place(server_group, state_pair, nats_server)


def test_a_worker_may_be_killed_at_any_statement(place: Place) -> None:
    """No acknowledged task is lost, no side effect happens twice, what nobody can know is unknown, none is guessed."""

    async def run() -> list[Outcome]:
        async with place.lanes([""] * LANES) as lanes:
            baselines = await record_all(lanes)
            return await sweep(lanes, plans_for(baselines, seed=SEED), baselines, points=POINTS)

    outcomes = asyncio.run(run())
    broken = [str(outcome) for outcome in outcomes if outcome.violations]
    assert not broken, "\n\n".join(broken)
    reached = sum(outcome.reached for outcome in outcomes)
    assert reached >= POINTS, table_of(outcomes)


# How the library is broken (see tests/sabotage.py), a run that must show it, and what it then says.
BROKEN = {
    "send_again_unasked": ("asked tool:post/asked/send#1 after", "happened 2 times"),
    "guess_that_nothing_was_sent": ("blind tool:post/blind/send#1 after", "happened 2 times"),
    "guess_that_it_was_done": ("blind tool:post/blind/send#1 before", "is done, and never happened"),
    "never_wait_for_the_tool": ("asked tool:post/asked/send#1 during slow", "happened 2 times"),
    "look_at_no_clock": ("asked pg:intend_effect#1 stalled", "went on to act"),
    "acknowledge_before_the_commit": ("steps pg:start_task#1 before", "was acknowledged, and"),
    "acknowledge_before_the_work": ("steps pg:record_step#1 after", "only when hours had passed"),
    "remember_afterwards": ("memories pg:append#1 before", "the journal has 0 of its entries"),
    "believe_that_it_was_published": ("asked nats:publish#1 before", "only when hours had passed"),
    "write_without_a_claim": ("memories pg:record_step#1 frozen", "its result holds what a step did not store"),
    "forget_what_is_done": ("steps pg:end_task#1 before", "the result of step one changed"),
    "end_at_once": ("steps pg:record_step#1 after", "a worker ended by itself with exit code 1"),
}


@pytest.fixture(scope="module")
def found(server_group: ProcessGroup, state_pair: StatePair, nats_server: NatsServer) -> dict[tuple[str, str], Outcome]:
    """Each of those runs, by how the library was broken, and once with the library as it is (""); all side by side."""
    place = Place(server_group, state_pair, nats_server)
    outcomes: dict[tuple[str, str], Outcome] = {}

    async def run(lane: Lane, hook: str, plan: str, baselines: dict[str, Baseline]) -> None:
        outcomes[hook, plan] = await lane.run(Plan.parse(plan), baselines[plan.split()[0]])

    async def run_whole(lanes: list[Lane], baselines: dict[str, Baseline]) -> None:
        plans = sorted({plan for plan, _ in BROKEN.values()})
        for plan in plans:
            await run(lanes[0], "", plan, baselines)

    async def run_all() -> None:
        async with place.lanes(["", *BROKEN]) as [whole, *broken]:
            names = sorted({plan.split()[0] for plan, _ in BROKEN.values()})
            baselines = {name: await whole.record(name) for name in names}
            async with asyncio.TaskGroup() as group:
                group.create_task(run_whole([whole], baselines))
                for lane, (hook, (plan, _)) in zip(broken, BROKEN.items(), strict=True):
                    group.create_task(run(lane, hook, plan, baselines))

    asyncio.run(run_all())
    return outcomes


@pytest.mark.parametrize("hook", BROKEN)
def test_fails_when_the_library_breaks_a_promise(found: dict[tuple[str, str], Outcome], hook: str) -> None:
    """fails when the sweep does not notice what it is there for; the same run of the library as it is finds nothing."""
    plan, problem = BROKEN[hook]
    outcome = found[hook, plan]
    assert outcome.reached or hook == "end_at_once"
    assert any(problem in violation for violation in outcome.violations), str(outcome)
    assert f"python -m relight_drill.sweep '{plan}'" in str(outcome)
    outcome = found["", plan]
    assert outcome.reached
    assert outcome.violations == [], str(outcome)


def test_an_idle_transaction_is_over_by_then() -> None:
    """The sweep plays that the server ended what a stopped worker had begun: the library asks for that, and sooner."""
    assert database.IDLE_S < SOON_S


def test_a_plan_is_read_as_it_is_written() -> None:
    """What a violation prints does the same run again."""
    for text in (
        "asked tool:post/asked/send#1 during promoted wiped long repeats slow second=7",
        "direct pg:commit#12 frozen",
    ):
        assert str(Plan.parse(text)) == text
