"""Replay: give the queue every unfinished task that it lacks, and hold what a restored state should not do unseen."""

from __future__ import annotations

import asyncio
import math
from collections import Counter
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum
from functools import partial
from typing import TYPE_CHECKING, Any

from relight.errors import AgainLaterError, QueueLostError, UnavailableError
from relight.queue.port import ACK_WAIT_S, MAX_AGE_S, Ticket
from relight.tasks.ledger import Kind
from relight.tasks.outbox import publish_from_thread
from relight.tasks.sql import statements

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Sequence

    from relight.clock import Clock
    from relight.queue.port import TaskQueue
    from relight.tasks.ledger import Ledger
    from relight.tasks.timetravel import TimeTravel

SQL = statements("relight.tasks.sql", "replay.sql")

# Tasks a second, so that neither the queue nor the database is overrun by a recovery.
PER_SECOND = 10_000.0
BATCH = 1000
# A statement may have to read all of the backlog from the disk of a standby that was promoted just now.
SCAN_S = 300.0
_LEAST_S = 1.0
# How long rows are waited for that somebody else has locked (longer than the server lets a caller hold them that says
# nothing), and how often a queue may be lost meanwhile.
LOCKED_S = 45.0
TIMES_LOST = 3
_HELD_AT_ONCE = 5000
_GOES_ON = "call it again: it goes on where it was"
_FIRST = (datetime.min.replace(tzinfo=UTC), "")


class Found(StrEnum):
    """Why a task is published: another queue had it or this one lost it, its worker is gone, or no queue confirmed it.

    A task that is `queued` is in this queue, for all that can be known.
    """

    PENDING = "pending"
    RUNNING = "running"
    UNCONFIRMED = "unconfirmed"
    QUEUED = "queued"


LACKING = frozenset({Found.PENDING, Found.RUNNING, Found.UNCONFIRMED})


@dataclass(frozen=True, slots=True, kw_only=True)
class Scope:
    """Which tasks are published: those made since a moment, and found for one of these reasons.

    What is held does not depend on it. What is `queued` is published again only when it is asked for, by somebody who
    knows better: its message comes twice where it was there.
    """

    since: datetime | None = None
    statuses: Collection[Found] = LACKING


@dataclass(frozen=True, slots=True, kw_only=True)
class Group:
    """Tasks of one kind that were found alike, and when the first and the last of them were due."""

    state: str
    kind: Kind
    count: int
    oldest: datetime
    newest: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class OpenEffects:
    """Side effects of one tool of which it is not known whether they happened."""

    tool: str
    status: str
    count: int
    oldest: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What a replay would do.

    Of what is left alone, `queued` is in this queue, `just queued` since this began, `worked on` is held by a live
    worker, `later` is not due, `older` was made before the scope begins, and `for_review` and `effects` wait for a
    person.
    """

    incarnation: str
    publish: tuple[Group, ...]
    hold: tuple[Group, ...]
    reasons: dict[Kind, str]
    leave: tuple[Group, ...]
    for_review: tuple[Group, ...]
    effects: tuple[OpenEffects, ...]
    per_second: float | None

    @property
    def total(self) -> int:
        """How many tasks would be published."""
        return count(self.publish)

    @property
    def at_least_s(self) -> float | None:
        """How long that takes at this speed, if the servers keep up; None without a bound."""
        return None if self.per_second is None else self.total / self.per_second

    def to_json(self) -> dict[str, Any]:
        """Counts, with what they are of."""
        return {
            "incarnation": self.incarnation,
            "publish": [_row(group) for group in self.publish],
            "hold": [{**_row(group), "reason": self.reasons[group.kind]} for group in self.hold],
            "leave": [_row(group) for group in self.leave],
            "for_review": [_row(group) for group in self.for_review],
            "effects": [
                {"tool": item.tool, "status": item.status, "count": item.count, "oldest": item.oldest.isoformat()}
                for item in self.effects
            ],
            "total": self.total,
            "at_least_s": self.at_least_s,
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class Replay:
    """What a replay did: how many tasks it published, for which reasons, and how many of each kind it held."""

    plan: Plan
    published: dict[Found, int]
    held: dict[Kind, int]

    @property
    def total(self) -> int:
        """How many tasks were published."""
        return sum(self.published.values())

    def to_json(self) -> dict[str, Any]:
        """For a timeline, and for people."""
        return {
            "published": self.total,
            "published_by_status": {found.value: number for found, number in self.published.items()},
            "held": {kind.value: number for kind, number in self.held.items()},
            "for_review": sum(self.held.values()) + count(self.plan.for_review),
            "open_effects": sum(item.count for item in self.plan.effects),
            "later": count(group for group in self.plan.leave if group.state == "later"),
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """How far a replay is, of what it found when it began."""

    published: int
    total: int


async def plan_replay(
    *,
    ledger: Ledger,
    queue: TaskQueue,
    policy: TimeTravel,
    scope: Scope | None = None,
    per_second: float | None = PER_SECOND,
) -> Plan:
    """What `replay` would do now; changes nothing, in the queue neither."""
    try:
        incarnation, age_s = await queue.incarnation(), await queue.age_s()
    except QueueLostError:
        incarnation, age_s = "", math.inf
    run = await asyncio.to_thread(_Run, ledger, queue, incarnation, age_s, policy, scope or Scope(), per_second)
    return await asyncio.to_thread(run.plan)


async def replay(
    *,
    ledger: Ledger,
    queue: TaskQueue,
    policy: TimeTravel,
    clock: Clock,
    scope: Scope | None = None,
    per_second: float | None = PER_SECOND,
    until: float | None = None,
    progress: Callable[[Progress], None] = lambda _: None,
) -> Replay:
    """Hold what the policy holds, and then publish, in the order in which they were due, the due tasks that the queue
    lacks. On return it lacks none of the scope that was due at the beginning.

    Held are tasks that nobody has touched since an earlier epoch, which is what a state is after a recovery or after it
    was restored under a new epoch. What is published is marked in the same transaction, so that a replay that was
    killed goes on where it was when it is called again, and a second one finds nothing; but what is `queued` is found
    by each that is asked for it. `per_second` bounds its speed; None lets it go as fast as the queue. `until` is a time
    of the clock's `monotonic` at which AgainLaterError is raised: what was published stays so. Memory does not grow
    with the number of tasks.
    """

    def within_s() -> float:
        return SCAN_S if until is None else min(SCAN_S, max(until - clock.monotonic(), _LEAST_S))

    for _ in range(TIMES_LOST):
        try:
            incarnation, age_s = await queue.ensure(), await queue.age_s()
            run = await asyncio.to_thread(
                _Run, ledger, queue, incarnation, age_s, policy, scope or Scope(), per_second, within_s
            )
            return await run.replay(clock, until, progress)
        except QueueLostError as exc:
            lost = exc  # what went into it is found again, because another incarnation has it
        except UnavailableError as exc:
            if until is None or clock.monotonic() < until:
                raise
            raise AgainLaterError("the time was over within a statement", hint=_GOES_ON) from exc
    raise lost


def count(groups: Any) -> int:
    """How many tasks are in these groups."""
    return sum(group.count for group in groups)


def pause_s(published: int, elapsed_s: float, per_second: float | None) -> float:
    """How long to wait so that no more than `per_second` were published a second."""
    return 0.0 if per_second is None else max(0.0, published / per_second - elapsed_s)


def batch_size(per_second: float | None) -> int:
    """How many at once: at a low speed fewer, so that they do not come in bursts."""
    return BATCH if per_second is None else min(BATCH, max(1, int(per_second / 4)))


class _Run:
    """One replay into one incarnation of a queue."""

    def __init__(
        self,
        ledger: Ledger,
        queue: TaskQueue,
        incarnation: str,
        age_s: float,
        policy: TimeTravel,
        scope: Scope,
        per_second: float | None,
        within_s: Callable[[], float] = lambda: SCAN_S,
    ) -> None:
        self._ledger = ledger
        self._database = ledger.database
        self._queue = queue
        self._policy = policy
        self._scope = scope
        self._per_second = per_second
        self._within_s = within_s
        self._epoch = ledger.epoch
        # The database's clock says what is due, as it does for workers.
        self._now: datetime = self._database.execute(SQL["now"]).rows[0][0]
        befores = {kind: policy.due_before(kind, self._now) for kind in policy.limits}
        held = {kind: before for kind, before in befores.items() if before is not None}
        self._reasons = {kind: policy.reason(kind) for kind in held}
        self._values: dict[str, Any] = {
            "epoch": self._epoch,
            "incarnation": incarnation,
            "now": self._now,
            "since": scope.since,
            # What the queue confirmed well before the oldest message that it has, it lost: see `return_lost`.
            "max_age_s": min(MAX_AGE_S, age_s + 3 * ACK_WAIT_S),
            "kinds": [kind.value for kind in held],
            "befores": [*held.values()],
            "reasons": [*self._reasons.values()],
            "found": [found.value for found in scope.statuses],
        }
        self._published: Counter[Found] = Counter()

    def plan(self) -> Plan:
        groups = self._groups()
        effects = self._database.execute(SQL["open_effects"]).rows
        publish = {found.value for found in self._scope.statuses}
        return Plan(
            incarnation=str(self._values["incarnation"]),
            publish=tuple(group for group in groups if group.state in publish),
            hold=tuple(group for group in groups if group.state == "hold"),
            reasons=self._reasons,
            leave=tuple(group for group in groups if group.state not in {*publish, "hold"}),
            for_review=tuple(_group(row) for row in self._database.execute(SQL["for_review"]).rows),
            effects=tuple(OpenEffects(tool=row[0], status=row[1], count=row[2], oldest=row[3]) for row in effects),
            per_second=self._per_second,
        )

    def _groups(self) -> list[Group]:
        rows = self._database.execute(SQL["plan"], self._values, within_s=self._within_s()).rows
        return [_group(row) for row in rows]

    def _left(self) -> int:
        return count(group for group in self._groups() if group.state in self._scope.statuses)

    async def replay(self, clock: Clock, until: float | None, progress: Callable[[Progress], None]) -> Replay:
        plan = await asyncio.to_thread(self.plan)
        held = await asyncio.to_thread(self._hold) if plan.hold else {}
        begun = clock.monotonic()
        locked_until: float | None = None
        after = _FIRST
        while True:
            if until is not None and clock.monotonic() >= until:
                raise AgainLaterError(
                    f"the time is over, and {self._published.total()} of {plan.total} tasks were published",
                    hint=_GOES_ON,
                )
            taken = await self._publish_batch(after)
            if taken is not None:
                after, locked_until = taken, None
                progress(Progress(published=self._published.total(), total=plan.total))
                await asyncio.sleep(pause_s(self._published.total(), clock.monotonic() - begun, self._per_second))
                continue
            left = await asyncio.to_thread(self._left)
            if left == 0:
                return Replay(plan=plan, published=dict(self._published), held=held)
            # Somebody else has their rows, and publishes or works on them.
            locked_until = locked_until or clock.monotonic() + LOCKED_S
            if clock.monotonic() >= locked_until:
                raise AgainLaterError(f"{left} tasks are locked by others", hint="see what works on the database")
            after = _FIRST
            await asyncio.sleep(0.1)

    def _hold(self) -> dict[Kind, int]:
        held: Counter[Kind] = Counter()
        while True:
            values = {**self._values, "limit": _HELD_AT_ONCE}
            rows = self._database.execute(SQL["hold"], values, within_s=self._within_s()).rows
            held.update(Kind(row[0]) for row in rows)
            if len(rows) < _HELD_AT_ONCE:
                return dict(held)

    async def _publish_batch(self, after: tuple[datetime, str]) -> tuple[datetime, str] | None:
        """Publish and mark the next tasks after a place in their order, and return the new place; None at the end."""
        publish = partial(publish_from_thread, self._queue, loop=asyncio.get_running_loop())
        return await asyncio.to_thread(self._move, publish, after)

    def _move(
        self, publish: Callable[[Sequence[Ticket]], None], after: tuple[datetime, str]
    ) -> tuple[datetime, str] | None:
        values = {**self._values, "after_due_at": after[0], "after_id": after[1]}
        with self._database.transaction(within_s=self._within_s()) as cur:
            cur.execute(SQL["in_order"])
            cur.execute(SQL["take"], {**values, "limit": batch_size(self._per_second)})
            rows = cur.fetchall()
            if not rows:
                return None
            publish([Ticket(task_id=row[0], epoch=self._epoch, number=row[2]) for row in rows])
            cur.execute(SQL["mark"], {**values, "ids": [row[0] for row in rows]})
        self._published.update(Found(row[3]) for row in rows)
        return rows[-1][1], rows[-1][0]


def _group(row: Sequence[Any]) -> Group:
    return Group(state=row[0], kind=Kind(row[1]), count=row[2], oldest=row[3], newest=row[4])


def _row(group: Group) -> dict[str, Any]:
    return {
        "status": group.state,
        "kind": group.kind.value,
        "count": group.count,
        "oldest": group.oldest.isoformat(),
        "newest": group.newest.isoformat(),
    }
