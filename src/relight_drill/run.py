"""Runs scenarios, each in a world of its own, and says what happens meanwhile."""

from __future__ import annotations

import asyncio
import logging
import shutil
import signal
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console

from relight.errors import ConfigError, RelightError
from relight.objectives import Tier
from relight.queue.queues import QueueKind
from relight_drill.processes import DrillError, ProcessGroup, first_failure
from relight_drill.scenarios import SCENARIOS
from relight_drill.world import PLAYED, World
from relight_stacks.loading import load_named
from relight_stacks.tiers import SHAPES

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from relight.config import MemoryStore
    from relight_drill.result import Outcome
    from relight_stacks.environment import Environment


# The tiers that are drilled when nobody says which: the first in all scenarios, the others in what differs by tier.
TIERS = (Tier.INTERNAL, Tier.BATCH, Tier.CUSTOMER_FACING)


def run_drill(
    *,
    names: Sequence[str] | None,
    tiers: Sequence[Tier] | None,
    seed: int,
    keep: bool,
    memory: MemoryStore | None = None,
    queue: QueueKind = QueueKind.NATS,
) -> Iterator[Outcome]:
    """Run scenarios one after the other, and give what each measured as soon as it has.

    Without `names` the first of `tiers` has all scenarios that it can have, and each other tier those that differ by
    tier; without `tiers` these are `TIERS`, or the first of them where scenarios are named. `memory` is the vector
    store that is played instead of the environment's own; `queue` is what holds the tasks.

    Raises ConfigError, before anything runs, for a name that there is no scenario for, a scenario that a tier cannot
    have, and a tier that has no standby; DrillError when the drill itself fails, which takes nothing from what was
    given before. Whatever happens, no process is left behind; the world's folder goes too, unless it is to be kept.
    """
    if memory is not None and memory not in PLAYED:
        raise ConfigError(f"memory in {memory.value} cannot be played", hint=f"choose from {', '.join(PLAYED)}")
    unknown = [name for name in names or () if name not in SCENARIOS]
    if unknown:
        raise ConfigError(f"there is no scenario {unknown[0]!r}", hint=f"choose from {', '.join(SCENARIOS)}")
    environments = [_environment(tier) for tier in dict.fromkeys(tiers or (TIERS[:1] if names else TIERS))]
    if memory is not None:
        environments = [environment.with_store(memory) for environment in environments]
    plan = [
        (name, environment)
        for environment in environments
        for name in names or _usual(environment, first=environment is environments[0])
    ]
    for name, environment in plan:
        if lacks := SCENARIOS[name].lacks(environment):
            raise ConfigError(f"{name} needs {lacks}", hint="choose other scenarios, or another tier")
    return _outcomes(plan, queue=queue, seed=seed, keep=keep)


def _usual(environment: Environment, *, first: bool) -> list[str]:
    """The scenarios of an environment when none is named."""
    return [
        name
        for name, scenario in SCENARIOS.items()
        if (first or scenario.differs_by_tier) and not scenario.lacks(environment)
    ]


def _outcomes(plan: Sequence[tuple[str, Environment]], *, queue: QueueKind, seed: int, keep: bool) -> Iterator[Outcome]:
    say = _speaker()
    for name, environment in plan:
        say(f"{name}, tier {environment.tier}: {SCENARIOS[name].summary}")
        folder = Path(tempfile.mkdtemp(prefix="relight-drill-"))
        folder.chmod(0o711)  # the databases' own user has to pass through
        try:
            outcome = asyncio.run(_run(name, environment, queue=queue, folder=folder, seed=seed, keep=keep, say=say))
        except asyncio.CancelledError:
            raise DrillError("the drill was told to end by SIGTERM", hint=f"{name} measured nothing") from None
        except BaseExceptionGroup as failures:
            # What is done side by side fails as a group.
            ours, _ = failures.split(RelightError)
            if ours is None:
                raise
            raise first_failure(ours) from failures
        say(f"{name}, tier {environment.tier}: {'met' if outcome.met else 'MISSED'}")
        yield outcome


async def _run(
    name: str,
    environment: Environment,
    *,
    queue: QueueKind,
    folder: Path,
    seed: int,
    keep: bool,
    say: Callable[[str], None],
) -> Outcome:
    this = asyncio.current_task()
    assert this is not None  # noqa: S101 - asyncio.run made one
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, this.cancel)
    with ProcessGroup() as group:
        if keep:
            say(f"the world's folder is {folder}, and stays")
        else:
            group.remove_at_end(folder)
        try:
            async with World(environment, queue=queue, folder=folder, group=group, seed=seed, say=say) as world:
                return await SCENARIOS[name].run(world, say)
        finally:
            if not keep:
                await asyncio.to_thread(shutil.rmtree, folder, ignore_errors=True)


def _environment(tier: Tier) -> Environment:
    """The drill's own environment, `demo`, in a tier."""
    environment = load_named("demo").with_tier(tier)
    if not environment.shape.standby:
        drilled = ", ".join(tier for tier, shape in SHAPES.items() if shape.standby)
        raise ConfigError(
            f"an environment of tier {tier.value!r} has no standby that could be relit: it is restored by hand",
            hint=f"choose from {drilled}",
        )
    return environment


def _speaker() -> Callable[[str], None]:
    """Progress on stderr: with colours on a terminal, in plain lines elsewhere; seconds since the start before each."""
    console = Console(file=sys.stderr, highlight=False)
    began = time.monotonic()
    # botocore and asyncio say in warnings what the drill does on purpose.
    logging.getLogger("asyncio").setLevel(logging.ERROR)
    # wordllama turns on what every library says, and httpx says every request.
    logging.getLogger("httpx").setLevel(logging.WARNING)

    def say(text: str) -> None:
        console.print(f"[dim]{time.monotonic() - began:6.1f} s[/]  {text}", markup=True, soft_wrap=True)

    return say
