"""The tasks that the sweep's workers work on, each of a shape that leans on another promise.

Whatever a function computes holds a number that no other call of it would give, so that a step which ran twice, or a
result that changed, is seen.
"""

from __future__ import annotations

import asyncio
import uuid
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from relight.memory.journal import Op, Write, append
from relight.memory.vectors import pack
from relight.tasks.effects import UnansweredError
from relight.tasks.results import INLINE_BYTES
from relight.tasks.steps import Retry
from relight_drill.sweep.tools import KINDS, HttpTool

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from psycopg2.extensions import cursor

    from relight.tasks.aio import AsyncTaskRun
    from relight.tasks.steps import TaskRun

COLLECTION = "sweep"
# Soon here, and too late to be waited for.
HERE = Retry(first_s=0.01, at_most_s=0.05, here_s=1.0)
LATER = Retry(first_s=0.05, at_most_s=0.05, here_s=0.0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Expected:
    """What a shape does when nothing goes wrong: its steps, which of them remember, and its actions by tool."""

    steps: tuple[str, ...] = ()
    remembers: tuple[str, ...] = ()
    actions: tuple[tuple[str, str], ...] = ()
    ambiguous: tuple[str, ...] = ()
    """Actions whose tool leaves open by itself whether it acted, and cannot say."""
    refused: bool = False


class Tools:
    """The tools, and the name of the run in the world."""

    def __init__(self, port: int) -> None:
        self._tools = {kind: HttpTool(kind, port) for kind in KINDS}

    def __getitem__(self, kind: str) -> HttpTool:
        return self._tools[kind]


def once(value: Any = None) -> dict[str, Any]:
    """What a step computes: never the same twice."""
    return {"value": value, "nonce": uuid.uuid4().hex}


def action_of(task_id: str, name: str) -> str:
    """How an action is called in the world."""
    return f"{task_id}/{name}"


def _memory(run: TaskRun, key: str) -> Callable[[cursor, Any], None]:
    def remember(cur: cursor, result: Any) -> None:
        write = Write(
            collection=COLLECTION,
            op=Op.UPSERT,
            id=f"{run.task.id}/{key}",
            vector=pack([1.0, 0.0, 0.5, 0.25]),
            payload={"nonce": result["nonce"]},
        )
        append(cur, [write], epoch=run.epoch, task_id=run.task.id)

    return remember


def _request(run: TaskRun, name: str, behave: str) -> dict[str, Any]:
    return {"action": action_of(run.task.id, name), "behave": behave}


def _steps(run: TaskRun, tools: Tools) -> dict[str, Any]:  # noqa: ARG001 - every shape gets the tools
    return {"steps": {name: run.run(name, once) for name in ("one", "two", "three")}}


def _memories(run: TaskRun, tools: Tools) -> dict[str, Any]:  # noqa: ARG001
    steps = {"plain": run.run("plain", once)}
    for name in ("first", "second"):
        steps[name] = run.run("learn", once, key=name, remember=_memory(run, name))
    return {"steps": steps}


def _large(run: TaskRun, tools: Tools) -> dict[str, Any]:  # noqa: ARG001
    large = run.run("large", lambda: once("x" * (INLINE_BYTES + 1)))
    return {"steps": {"large": large, "after": run.run("after", once)}}


def _effect(kind: str, behave: str = "") -> Callable[[TaskRun, Tools], dict[str, Any]]:
    def work(run: TaskRun, tools: Tools) -> dict[str, Any]:
        before = run.run("before", once)
        response = run.effect(tools[kind], _request(run, "act", behave))
        return {"steps": {"before": before, "after": run.run("after", once)}, "effects": {"act": response}}

    return work


def _patient(kind: str, behave: str) -> Callable[[TaskRun, Tools], dict[str, Any]]:
    """Goes on when it has no answer, and comes back to the effect: what it may not do is to do it again."""

    def work(run: TaskRun, tools: Tools) -> dict[str, Any]:
        request = _request(run, "act", behave)
        try:
            response = run.effect(tools[kind], request)
        except UnansweredError:
            run.run("after", once)
            raise
        return {"steps": {"after": run.run("after", once)}, "effects": {"act": response}}

    return work


def _flaky(retry: Retry) -> Callable[[TaskRun, Tools], dict[str, Any]]:
    def work(run: TaskRun, tools: Tools) -> dict[str, Any]:
        first = run.run("first", once)

        def fail_once() -> dict[str, Any]:
            marker = f"{run.task.id}/failed"
            if marker not in _failed:
                _failed.add(marker)
                raise OSError("the weather is bad")
            return once()

        flaky = run.run("flaky", fail_once, retry=retry, remember=_memory(run, "flaky"))
        response = run.effect(tools["asked"], _request(run, "act", ""))
        return {"steps": {"first": first, "flaky": flaky}, "effects": {"act": response}}

    return work


# What failed in this life: the next fails once more.
_failed: set[str] = set()


def _several(run: TaskRun, tools: Tools) -> dict[str, Any]:
    effects = {}
    for kind in ("asked", "keyed", "blind"):
        effects[kind] = run.effect(tools[kind], _request(run, kind, ""))
    return {"steps": {"after": run.run("after", once)}, "effects": effects}


def _shared(run: TaskRun, tools: Tools) -> dict[str, Any]:
    """Two tasks, one action: an invoice is paid once, whoever pays it."""
    invoice = run.task.payload["invoice"]
    before = run.run("before", once)
    response = run.effect(tools["asked"], {"action": invoice}, key=invoice)
    return {"steps": {"before": before}, "effects": {invoice: response}}


SHAPES: Mapping[str, Callable[[TaskRun, Tools], dict[str, Any]]] = {
    "steps": _steps,
    "memories": _memories,
    "large": _large,
    "asked": _effect("asked"),
    "blind": _effect("blind"),
    "keyed": _effect("keyed"),
    "forgetful": _effect("forgetful"),
    "lost": _effect("asked", "lose"),
    "dropped": _effect("asked", "drop"),
    "lost-blind": _effect("blind", "lose"),
    "lost-keyed": _patient("keyed", "lose"),
    "dropped-keyed": _patient("keyed", "drop"),
    "unsent": _effect("blind", "unsent"),
    "refused": _effect("blind", "refuse"),
    "flaky": _flaky(HERE),
    "flaky-later": _flaky(LATER),
    "several": _several,
    "shared": _shared,
}

_ACT = {kind: ((kind, "act"),) for kind in KINDS}
EXPECTED: Mapping[str, Expected] = {
    "steps": Expected(steps=("one", "two", "three")),
    "memories": Expected(steps=("plain", "first", "second"), remembers=("first", "second")),
    "large": Expected(steps=("large", "after")),
    **{kind: Expected(steps=("before", "after"), actions=_ACT[kind]) for kind in KINDS},
    "lost": Expected(steps=("before", "after"), actions=_ACT["asked"]),
    "dropped": Expected(steps=("before", "after"), actions=_ACT["asked"]),
    "lost-blind": Expected(steps=("before", "after"), actions=_ACT["blind"], ambiguous=("act",)),
    "lost-keyed": Expected(steps=("after",), actions=_ACT["keyed"]),
    "dropped-keyed": Expected(steps=("after",), actions=_ACT["keyed"]),
    "unsent": Expected(steps=("before", "after"), actions=_ACT["blind"]),
    "refused": Expected(steps=("before",), actions=_ACT["blind"], refused=True),
    "flaky": Expected(steps=("first", "flaky"), remembers=("flaky",), actions=_ACT["asked"]),
    "flaky-later": Expected(steps=("first", "flaky"), remembers=("flaky",), actions=_ACT["asked"]),
    "several": Expected(steps=("after",), actions=tuple((kind, kind) for kind in ("asked", "keyed", "blind"))),
    "shared": Expected(steps=("before",)),
}


def work(run: TaskRun, tools: Tools) -> dict[str, Any]:
    """Do a task, as a handler that is a function does it."""
    return SHAPES[run.task.payload["shape"]](run, tools)


async def work_async(run: AsyncTaskRun, tools: Tools) -> dict[str, Any]:
    """Do a task as a coroutine does it: two steps at once, one effect, one step that remembers."""

    async def compute() -> dict[str, Any]:
        await asyncio.sleep(0)
        return once()

    one, two = await asyncio.gather(run.run("one", compute), run.run("two", once))
    response = await run.effect(tools["asked"], _request(run.sync, "act", ""))
    async with run.step("three", remember=_memory(run.sync, "three")) as step:
        three = step.result if step.done else await step.save(once())
    return {"steps": {"one": one, "two": two, "three": three}, "effects": {"act": response}}


ASYNC = Expected(steps=("one", "two", "three"), remembers=("three",), actions=_ACT["asked"])


@dataclass(frozen=True, slots=True, kw_only=True)
class Scenario:
    """One workload: tasks, and what works on them."""

    shapes: tuple[str, ...]
    runner: str = "queue"
    """`queue`: a Worker with functions; `async`: one with coroutines; `direct`: a loop without a queue."""
    concurrency: int = 1
    fresh: bool = False
    """Whether the queue has to be made first."""


SCENARIOS: Mapping[str, Scenario] = {
    "steps": Scenario(shapes=("steps",), fresh=True),
    "memories": Scenario(shapes=("memories",)),
    "large": Scenario(shapes=("large",)),
    "asked": Scenario(shapes=("asked",)),
    "blind": Scenario(shapes=("blind",)),
    "keyed": Scenario(shapes=("keyed",)),
    "forgetful": Scenario(shapes=("forgetful",)),
    "lost": Scenario(shapes=("lost",)),
    "lost-blind": Scenario(shapes=("lost-blind",)),
    "flaky": Scenario(shapes=("flaky",)),
    "flaky-later": Scenario(shapes=("flaky-later",)),
    "refused": Scenario(shapes=("refused",)),
    "several": Scenario(shapes=("several",)),
    "async": Scenario(shapes=("async",), runner="async"),
    "shared": Scenario(shapes=("shared", "shared"), concurrency=2),
    "crowd": Scenario(shapes=("steps", "asked", "blind", "memories"), concurrency=4),
    "direct": Scenario(shapes=("memories", "asked", "blind", "keyed"), runner="direct"),
    "direct-odd": Scenario(
        shapes=("dropped", "lost-blind", "lost-keyed", "dropped-keyed", "unsent", "refused", "flaky-later"),
        runner="direct",
    ),
    "direct-shared": Scenario(shapes=("shared", "shared"), runner="direct"),
}


def expected_of(shape: str) -> Expected:
    """What a task of that shape does."""
    return ASYNC if shape == "async" else EXPECTED[shape]
