"""The scenarios: what is destroyed, and what must be true afterwards."""

from __future__ import annotations

import asyncio
import random
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any

from relight.config import Role
from relight.errors import RelightError
from relight.objectives import OBJECTIVES, PATTERNS, Objectives, Pattern
from relight_drill.audit import (
    audit,
    divergence,
    memories_expected,
    read_books,
    read_summaries,
    recalled,
    unacknowledged,
)
from relight_drill.corpus import documents
from relight_drill.network import Mode
from relight_drill.outage import LEARNED_WITHIN_S, Fault, Summary, Try, judge, opened
from relight_drill.processes import DrillError, wait_until
from relight_drill.result import Moment, Outcome
from relight_drill.workload import green_since, working_since

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence

    from relight.recovery.timeline import Event
    from relight_drill.audit import Audit
    from relight_drill.workload import Callers
    from relight_drill.world import World
    from relight_stacks.environment import Environment

# The workload: three steps each, before, during and after the fault.
TASKS_BEFORE, TASKS_AROUND, TASKS_AFTER = 35, 75, 15
AROUND_S = 30.0
# The fault waits for this many: one that struck an idle agent would prove less.
IN_FLIGHT = 2
IN_FLIGHT_S = 90.0
GREEN_S = 15.0
TICK_S = 0.05
SENTINEL_WATCHES_S = 120.0
SETTLED_S = 90.0
BOOT_S = 120.0
# The first provider is cut off among the second of these, and the third go on until it is asked again.
OUTAGE_BEFORE, OUTAGE_AROUND, OUTAGE_MEANWHILE, OUTAGE_AFTER = 8, 30, 90, 8
OUTAGE_AROUND_S, OUTAGE_MEANWHILE_S = 8.0, 90.0
# The provider is away for so long at least while every worker knows that its breaker is open.
HEEDED_S = 8.0
# All tasks go on with the next provider within so many seconds; nothing may be lost, whatever the tier.
GOES_ON_S = 30.0


async def region_loss(world: World, say: Callable[[str], None]) -> Outcome:
    """The primary region dies while tasks are in flight; the sentinel notices, and the standby is relit."""
    chooser = random.Random(world.seed)  # noqa: S311 - chosen to be repeated
    mode = chooser.choice([Mode.DEAD, Mode.SILENT])
    strike_after_s = chooser.uniform(5.0, 15.0)
    texts = documents(TASKS_BEFORE + TASKS_AROUND + TASKS_AFTER, seed=world.seed + 1)
    before, around = texts[:TASKS_BEFORE], texts[TASKS_BEFORE : TASKS_BEFORE + TASKS_AROUND]
    async with world.callers() as callers:
        say("waiting for the sentinel's first watch, while the agent works")
        # Nothing that is measured depends on when it was: only that there was one.
        await asyncio.to_thread(world.watch_now)
        await asyncio.gather(
            wait_until(world.sentinel_watches, what="the sentinel's first watch", timeout_s=SENTINEL_WATCHES_S),
            callers.submit(before, prefix="before", over_s=15.0),
        )
        async with asyncio.TaskGroup() as group:
            group.create_task(callers.submit(around, prefix="around", over_s=AROUND_S))
            await asyncio.sleep(strike_after_s)
            in_flight = await _tasks_in_flight(world, callers)
            fault_at = world.clock.monotonic()
            what = f"{world.region(Role.PRIMARY)} {'dies' if mode is Mode.DEAD else 'falls silent'}"
            say(f"{what} with {in_flight} tasks in flight")
            await world.lose(Role.PRIMARY, mode)
            green_at, problems = await _green(world, callers, fault_at, say)
        if green_at is not None:
            await callers.submit(texts[-TASKS_AFTER:], prefix="after", over_s=4.0)
            problems += await _settled(world, Role.STANDBY, callers)
        problems += await asyncio.to_thread(world.recovery_failures)
        found = await _audit(world, Role.STANDBY, callers, fault_at)
    async with world.autopsy(Role.PRIMARY) as old_dsn:
        diverged = await asyncio.to_thread(divergence, old_dsn, world.state_dsn(Role.STANDBY))
    return _outcome(
        world,
        found,
        fault_at=fault_at,
        green_at=green_at,
        runs=await asyncio.to_thread(recovery_runs, world),
        diverged=unacknowledged(diverged, found, fault_at=fault_at),
        faults=[Moment(at_s=0.0, event="fault", detail=f"{what}, tasks_in_flight={in_flight}")],
        problems=[*problems, *_lost(found)],
    )


async def standby_boot(world: World, say: Callable[[str], None]) -> Outcome:
    """The standby's vector store loses its volume and starts empty; the rule on its task fills it."""
    texts = documents(40, seed=world.seed + 2)
    async with world.callers() as callers:
        await callers.submit(texts, prefix="before", over_s=6.0)
        problems = await _settled(world, Role.PRIMARY, callers)
        known = set(world.runs("boot-"))
        fault_at = world.clock.monotonic()
        say(f"the vector store of {world.region(Role.STANDBY)} loses its volume")
        await world.lose_volume(Role.STANDBY)
        filled_at: float | None = None
        try:
            await world.until_memory_is_whole(Role.STANDBY, timeout_s=BOOT_S)
            filled_at = world.clock.monotonic()
        except DrillError as exc:
            problems.append(str(exc))
        found = await _audit(world, Role.PRIMARY, callers, fault_at, store=Role.STANDBY)
    runs = [world.events(run) for run in world.runs("boot-") if run not in known]
    events = [event for run in runs for event in run]
    moments = {event.status: world.seconds(event.at) for event in events}
    phases = {}
    if filled_at is not None and {"started", "done"} <= moments.keys():
        # The store may be seen to be whole before the function has written down that it is done.
        hydrated_at = min(moments["done"], filled_at)
        phases = {
            "notice": moments["started"] - fault_at,
            "hydrate": hydrated_at - moments["started"],
            "serve": filled_at - hydrated_at,
        }
    return Outcome(
        name="standby-boot",
        tier=world.tier,
        rto_s=None if filled_at is None else filled_at - fault_at,
        rpo_s=found.rpo_s,
        acknowledged=found.acknowledged,
        lost=found.lost,
        duplicated_effects=found.duplicated_effects,
        phases=phases,
        ours_s=phases.get("hydrate", 0.0),
        timeline=_moments(world, fault_at, events, [Moment(at_s=0.0, event="fault", detail="volume lost")]),
        problems=[*problems, *_lost(found), *_failures(runs)],
    )


async def provider_outage(world: World, say: Callable[[str], None]) -> Outcome:
    """The first LLM provider is cut off while its answers are awaited; the agent goes on with the next, and returns."""
    chooser = random.Random(f"{world.seed}/provider-outage")  # noqa: S311 - chosen to be repeated
    mode = chooser.choice([Mode.DEAD, Mode.SILENT])
    strike_after_s, away_s = chooser.uniform(0.5, 2.5), chooser.uniform(30.0, 40.0)
    texts = documents(OUTAGE_BEFORE + OUTAGE_AROUND + OUTAGE_MEANWHILE + OUTAGE_AFTER, seed=world.seed + 3)
    before, texts = texts[:OUTAGE_BEFORE], texts[OUTAGE_BEFORE:]
    around, texts = texts[:OUTAGE_AROUND], texts[OUTAGE_AROUND:]
    first = world.models.all[0]
    limits = world.settings(Role.PRIMARY).provider_limits
    async with world.callers() as callers, punctuality() as punctual:
        await callers.submit(before, prefix="before", over_s=2.0)
        async with asyncio.TaskGroup() as group:
            group.create_task(callers.submit(around, prefix="around", over_s=OUTAGE_AROUND_S))
            await asyncio.sleep(strike_after_s)
            # Whatever it is asked from now on it is still thinking about when it is cut off, on a slow machine too.
            first.held = True
            try:
                what = f"answers by {first.name} to be awaited"
                await wait_until(
                    lambda: first.in_flight >= IN_FLIGHT, what=what, timeout_s=IN_FLIGHT_S, interval_s=0.01
                )
            except DrillError as exc:
                raise DrillError(exc.problem, hint=world.agents_said(Role.PRIMARY)) from None
            in_flight = first.in_flight
            fault_at = world.clock.monotonic()
            what = f"{first.name} {'refuses connections' if mode is Mode.DEAD else 'falls silent'}"
            say(f"{what} with {in_flight} answers on their way")
            await first.set_mode(mode)
            first.held = False
        meanwhile = asyncio.create_task(
            callers.submit(texts[:OUTAGE_MEANWHILE], prefix="meanwhile", over_s=OUTAGE_MEANWHILE_S)
        )
        resets, way_out = mode is Mode.DEAD, world.side(Role.PRIMARY)

        def heeded() -> bool:
            """Whether there was the time to see that nobody passes an open breaker."""
            now = world.clock.monotonic()
            in_vain = first.in_vain(way_out, fault_at=fault_at, back_at=now, resets=resets)
            since = opened(in_vain, failures=limits.failures)
            return since is not None and now > since + LEARNED_WITHIN_S + punctual.late_s + HEEDED_S

        await asyncio.sleep(fault_at + away_s - world.clock.monotonic())
        with suppress(DrillError):  # the judge says that it was too slow
            await wait_until(heeded, what="its breaker to be heeded", timeout_s=OUTAGE_MEANWHILE_S, interval_s=0.5)
        back_at = world.clock.monotonic()
        await first.set_mode(Mode.OPEN)
        say(f"  {back_at - fault_at:5.1f} s after the fault: {first.name} is back")
        problems = []
        try:
            # What opened the breaker, it may have met half a minute after the fault.
            await wait_until(
                lambda: any(bill.tag and bill.at > back_at for bill in first.server.bill),
                what=f"an answer by {first.name}",
                timeout_s=limits.open_s + GOES_ON_S,
            )
            say(f"  {world.clock.monotonic() - fault_at:5.1f} s after the fault: {first.name} answers again")
        except DrillError as exc:
            problems.append(f"{exc}; {world.agents_said(Role.PRIMARY)}")
        meanwhile.cancel()
        await asyncio.sleep(LEARNED_WITHIN_S + punctual.late_s)
        await callers.submit(texts[OUTAGE_MEANWHILE:], prefix="after", over_s=2.0)
        if unsettled := await _settled(world, Role.PRIMARY, callers):
            problems += [*unsettled, world.agents_said(Role.PRIMARY)]
        found = await _audit(world, Role.PRIMARY, callers, fault_at)
    stored = await asyncio.to_thread(read_summaries, world.state_dsn(Role.PRIMARY))
    findings = judge(
        first=first.name,
        accounts={model.name: model.account() for model in world.models.all},
        summaries={task: _summary(world, value) for task, value in stored.items()},
        afterwards=[task for task in callers.record.tasks if task.startswith("after")],
        in_vain=first.in_vain(way_out, fault_at=fault_at, back_at=back_at, resets=resets),
        fault=Fault(
            at=fault_at,
            back_at=back_at,
            resets=resets,
            failures=limits.failures,
            open_s=limits.open_s,
            silence_s=world.settings(Role.PRIMARY).providers[0].silence_s,
            late_s=punctual.late_s,
        ),
    )
    refused = [
        f"{model.name} refused a request: {it.message}" for model in world.models.all for it in model.server.refused
    ]
    recoveries = [f"the region was recovered in run {run}" for run in world.runs("epoch-")]
    moments = [
        Moment(at_s=0.0, event="fault", detail=f"{what}, answers_on_their_way={in_flight}"),
        Moment(at_s=back_at - fault_at, event=f"{first.name} is back"),
        *findings.moments,
    ]
    return Outcome(
        name="provider-outage",
        tier=world.tier,
        own_objectives=Objectives(rto_s=GOES_ON_S, rpo_s=0.0),
        rto_s=findings.rto_s,
        rpo_s=found.rpo_s,
        acknowledged=found.acknowledged,
        lost=found.lost,
        duplicated_effects=found.duplicated_effects,
        phases=findings.phases,
        ours_s=findings.ours_s,
        figures=findings.figures,
        timeline=sorted(moments, key=lambda moment: moment.at_s),
        problems=[*problems, *_lost(found), *findings.problems, *refused, *recoveries],
    )


@dataclass(slots=True)
class Punctuality:
    """How late this process was at most, in seconds: on a machine that is too busy, everything else is as late."""

    late_s: float = 0.0


@asynccontextmanager
async def punctuality() -> AsyncIterator[Punctuality]:
    """Measured for as long as this lasts."""
    found = Punctuality()

    async def watch() -> None:
        loop = asyncio.get_running_loop()
        while True:
            due = loop.time() + TICK_S
            await asyncio.sleep(TICK_S)
            found.late_s = max(found.late_s, loop.time() - due)

    watching = asyncio.create_task(watch())
    try:
        yield found
    finally:
        watching.cancel()


def _summary(world: World, stored: dict[str, Any]) -> Summary:
    """What the agent stored of a summary; a provider's id of an answer is the bill's after what kind of id it is."""
    return Summary(
        provider=stored["provider"],
        answer=stored["answer"].partition("_")[2] or stored["answer"].partition("-")[2],
        began_at=world.seconds(datetime.fromisoformat(stored["began_at"])),
        tries=[Try(provider=provider, outcome=outcome, seconds=s) for provider, outcome, s in stored["tries"]],
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Scenario:
    """A scenario and what it is for.

    It needs an environment with `providers` LLM providers at least and, with `boots`, one whose standby has a vector
    store that fills itself. What `differs_by_tier` is worth drilling in each.
    """

    run: Callable[[World, Callable[[str], None]], Awaitable[Outcome]]
    summary: str
    providers: int = 0
    boots: bool = False
    differs_by_tier: bool = False

    def lacks(self, environment: Environment) -> str:
        """What the environment lacks for it; empty when it can be run."""
        if self.providers > len(environment.providers):
            has = f"{environment.name} has {len(environment.providers)}"
            return f"{self.providers} LLM providers, and {has}"
        if self.boots and not environment.shape.hydrates_on_boot:
            return f"a vector store in the standby, where tier {environment.tier.value!r} has nothing running"
        return ""


SCENARIOS: Mapping[str, Scenario] = {
    "standby-boot": Scenario(
        run=standby_boot, summary="the standby's vector store starts empty and fills itself", boots=True
    ),
    "region-loss": Scenario(
        run=region_loss, summary="the primary region dies and the standby is relit", differs_by_tier=True
    ),
    "provider-outage": Scenario(
        run=provider_outage,
        summary="the first LLM provider is cut off and the agent goes on with the next",
        providers=2,
    ),
}


async def _tasks_in_flight(world: World, callers: Callers) -> int:
    """Wait for tasks that were acknowledged and have not sent their report yet; return how many there are."""

    def count() -> int:
        reported = {message.task for message in world.outbox.sent()}
        return len(callers.record.tasks.keys() - reported)

    await wait_until(lambda: count() >= IN_FLIGHT, what="tasks in flight", timeout_s=AROUND_S, interval_s=0.01)
    return count()


async def _green(
    world: World, callers: Callers, fault_at: float, say: Callable[[str], None]
) -> tuple[float | None, list[str]]:
    """Wait until callers have been served from the standby for a while; None and why when that does not come."""
    region = world.region(Role.STANDBY)
    told: list[Event] = []
    deadline = fault_at + OBJECTIVES[world.tier].rto_s + GREEN_S
    while True:
        since = green_since(callers.record.asks, after=fault_at, region=region)
        if PATTERNS[world.tier] is Pattern.ACTIVE_ACTIVE:
            # The other region answered questions all along; what was lost is the one that works.
            working = working_since(callers.record.writes, after=fault_at)
            since = None if since is None or working is None else max(since, working)
        if since is not None and world.clock.monotonic() - since >= GREEN_S:
            return since, []
        for events in await asyncio.to_thread(recovery_runs, world):
            for event in events:
                if event not in told:
                    told.append(event)
                    line = f"{event.state} {event.status}"
                    say(f"  {world.seconds(event.at) - fault_at:5.1f} s after the fault: {line}")
        if await asyncio.to_thread(world.recovery_gave_up):
            return None, []  # why, is among the failures of all recoveries
        if world.clock.monotonic() > deadline:
            return None, [f"nobody was served from {region} within {deadline - fault_at:.0f} s"]
        await asyncio.sleep(0.5)


async def _settled(world: World, role: Role, callers: Callers) -> list[str]:
    """Wait until everything that was sent is acknowledged and every task is done; return what is not."""

    def done() -> bool:
        books = read_books(world.state_dsn(role))
        return all(books.tasks.get(name) == "done" for name in callers.record.tasks)

    try:
        await wait_until(lambda: callers.waiting == 0, what="callers to be told", timeout_s=SETTLED_S)
        await wait_until(lambda: asyncio.to_thread(done), what="every task to be done", timeout_s=SETTLED_S)
    except DrillError as exc:
        return [f"{exc.problem}; {callers.waiting} calls are not acknowledged"]
    return []


async def _audit(world: World, role: Role, callers: Callers, fault_at: float, *, store: Role | None = None) -> Audit:
    """Set what callers were told beside a region's ledger and a region's vector store (the same one's by default)."""

    def look() -> Audit:
        books = read_books(world.state_dsn(role))
        expected = memories_expected(callers.record, corpus=world.corpus, books=books)
        vectors = {name: vector for name, vector in books.memories.items() if name in expected}
        return audit(
            callers.record,
            memories=expected,
            books=books,
            recalled=recalled(world.store(store or role), world.collection, vectors),
            outbox=world.outbox.sent(),
            fault_at=fault_at,
        )

    try:
        return await asyncio.to_thread(look)
    except RelightError as exc:
        raise DrillError(f"{world.region(store or role)} cannot be audited: {exc}") from exc


def _lost(found: Audit) -> list[str]:
    one = {"tasks": "task", "memories": "memory", "effects": "the effect of task"}
    lost = [
        f"{one[kind]} {name} was acknowledged and is lost"
        for kind, names in found.missing.items()
        for name in sorted(names)
    ]
    return lost + [f"task {name} was acknowledged and is not done" for name in found.unfinished]


def recovery_runs(world: World) -> list[list[Event]]:
    """The timeline of every recovery, oldest first; one that failed early may have been followed by another."""
    return [world.events(run) for run in world.runs("epoch-")]


def run_that_opened(runs: Sequence[Sequence[Event]]) -> Sequence[Event]:
    """The timeline of the recovery that opened the gate; of the newest when none did."""
    opened = [run for run in runs if any((event.state, event.status) == ("open-gate", "done") for event in run)]
    return [*runs[-1:], *opened][-1] if runs else []


def _outcome(
    world: World,
    found: Audit,
    *,
    fault_at: float,
    green_at: float | None,
    runs: Sequence[Sequence[Event]],
    diverged: dict[str, list[str]],
    faults: Sequence[Moment],
    problems: Sequence[str],
) -> Outcome:
    events = run_that_opened(runs)
    done = {event.state: world.seconds(event.at) for event in events if event.status == "done"}
    decided = [event.detail["decided_at"] for event in events if event.detail.get("decided_at")]
    phases: dict[str, float] = {}
    ours_s = 0.0
    if green_at is not None and decided and done.keys() >= {*STATE_OF_PHASE.values()}:
        decided_at = world.seconds(datetime.fromisoformat(decided[0]))
        phases = {"detect": decided_at - fault_at}
        before = decided_at
        for phase, state in STATE_OF_PHASE.items():
            phases[phase] = done[state] - before
            # Scale runs beside hydrate: both are counted from the same moment, and what follows waits for the later.
            if phase == "hydrate":
                before = max(done["scale"], done["hydrate"])
            elif phase != "scale":
                before = done[state]
        phases["dns"] = green_at - done["open-gate"]
        ours_s = done["open-gate"] - decided_at
    back = [Moment(at_s=green_at - fault_at, event="served", detail="and stayed green")] if green_at is not None else []
    return Outcome(
        name="region-loss",
        tier=world.tier,
        rto_s=None if green_at is None else green_at - fault_at,
        rpo_s=found.rpo_s,
        acknowledged=found.acknowledged,
        lost=found.lost,
        duplicated_effects=found.duplicated_effects,
        divergence=diverged,
        phases=phases,
        ours_s=ours_s,
        timeline=_moments(world, fault_at, [event for run in runs for event in run], [*faults, *back]),
        problems=[*problems, *_failures(runs)],
    )


# The phases of the report and the states of the recovery, in the order of a run.
STATE_OF_PHASE = {
    "assess": "assess",
    "fence": "fence",
    "promote": "promote",
    "scale": "scale",
    "hydrate": "hydrate",
    "verify": "verify",
    "replay": "replay",
    "gate": "open-gate",
}


def _moments(world: World, fault_at: float, events: Sequence[Event], more: Sequence[Moment]) -> list[Moment]:
    found = [
        Moment(
            at_s=world.seconds(event.at) - fault_at,
            event=f"{event.state} {event.status}",
            detail=", ".join(f"{name}={value}" for name, value in event.detail.items()),
        )
        for event in events
    ]
    switches = [
        Moment(at_s=at - fault_at, event=f"health check {name}", detail="healthy" if healthy else "unhealthy")
        for at, name, healthy in world.health_changes()
        if at >= fault_at
    ]
    return sorted([*found, *switches, *more], key=lambda moment: moment.at_s)


def _failures(runs: Sequence[Sequence[Event]]) -> list[str]:
    """What went wrong on the way, for a person: states that did not end well, and points that could not be restored.

    The last word of each state of each run counts: a state may have been tried again, and a run that failed is no less
    wrong because a later one went well.
    """
    if not any(runs):
        return ["nothing was started: see the log of the sentinel, or of the rule's function"]
    last = [event for run in runs for event in {event.state: event for event in run}.values()]
    failed = [f"{event.state}: {event.detail.get('error', 'did not end')}" for event in last if event.status != "done"]
    passed_over = [
        f"{event.state}: recovery point {item['point']} was passed over: {item['reason']}"
        for event in last
        for hydration in event.detail.get("collections", [])
        for item in hydration.get("passed_over", [])
    ]
    return failed + passed_over
