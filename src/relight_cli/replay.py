"""Give the task queue every unfinished task that it lacks, in the order in which they were due.

What a restored state should not do unseen is held first: credentials, and timers and sends that are older than the
environment allows; `relight tasks list` shows them. Killed in the middle, it goes on where it was; run again, it finds
nothing.
"""

from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING, Any

from relight.errors import ConfigError
from relight.queue.queues import open_queue
from relight.tasks.replay import LACKING, PER_SECOND, Found, Scope, count, plan_replay, replay
from relight.tasks.timetravel import TimeTravel
from relight_cli.console import (
    DONE,
    acting_ledger,
    add_plan,
    add_region,
    ago,
    confirmed,
    lasting,
    moment,
    open_region,
    result,
    say,
    several,
)

if TYPE_CHECKING:
    import argparse
    from collections.abc import Iterable
    from datetime import datetime

    from relight.tasks.ledger import Ledger
    from relight.tasks.replay import Group, Plan, Progress, Replay
    from relight.wiring import Region

_SAY_EVERY_S = 1.0


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the verb's options."""
    parser.add_argument("--since", type=moment, metavar="TIME", help="only tasks made since, as 2026-04-19T02:00:00Z")
    parser.add_argument(
        "--status",
        action="extend",
        type=several(Found),
        metavar="STATUS",
        help="only tasks that are pending (another queue had them, or this one lost them), running (their worker is"
        " gone), or unconfirmed (no queue had them); or queued: what this queue should have, published again for"
        " somebody who knows that it has not; several with commas (default: all but queued)",
    )
    parser.add_argument(
        "--per-second", type=float, default=PER_SECOND, metavar="N", help=f"at most so many (default: {PER_SECOND:g})"
    )
    add_region(parser)
    add_plan(parser)


def run(args: argparse.Namespace) -> int:
    """Show what would be held and published, ask, and do it."""
    if not args.per_second > 0:
        raise ConfigError(f"--per-second {args.per_second:g} would never end", hint="give more than 0")
    scope = Scope(since=args.since, statuses=frozenset(args.status or LACKING))
    with open_region(args) as region:
        ledger = acting_ledger(region)
        plan = asyncio.run(_plan(region, ledger, scope, args.per_second))
        if confirmed(args, _shown(region, ledger, plan, args)):
            done = asyncio.run(_replay(region, ledger, scope, args.per_second))
            result(args, done.to_json())
            if done.held:
                say("see what is held with: relight tasks list --status held")
        elif args.json and args.dry_run:
            print(json.dumps(plan.to_json(), indent=2))
    return DONE


async def _plan(region: Region, ledger: Ledger, scope: Scope, per_second: float) -> Plan:
    async with open_queue(region.connections.queue_url, environment=region.settings.environment) as queue:
        policy = TimeTravel.of(region.settings)
        return await plan_replay(ledger=ledger, queue=queue, policy=policy, scope=scope, per_second=per_second)


async def _replay(region: Region, ledger: Ledger, scope: Scope, per_second: float) -> Replay:
    said_at = float("-inf")

    def progress(now: Progress) -> None:
        nonlocal said_at
        if now.published >= now.total or region.clock.monotonic() - said_at >= _SAY_EVERY_S:
            said_at = region.clock.monotonic()
            say(f"published {now.published:,} of {now.total:,}")

    async with open_queue(region.connections.queue_url, environment=region.settings.environment) as queue:
        return await replay(
            ledger=ledger,
            queue=queue,
            policy=TimeTravel.of(region.settings),
            clock=region.clock,
            scope=scope,
            per_second=per_second,
            progress=progress,
        )


def _shown(region: Region, ledger: Ledger, plan: Plan, args: argparse.Namespace) -> dict[str, Any]:
    now = region.clock.now()
    since = f", made since {args.since:%Y-%m-%dT%H:%M:%SZ}" if args.since else ""
    lines = {
        "environment": region.settings.environment,
        "region": region.settings.region,
        "epoch": ledger.epoch,
        "publish": f"{plan.total:,} tasks{since}{_due(plan.publish, now)}",
    }
    for group in plan.publish:
        lines[f"  {group.state} {group.kind}"] = f"{group.count:,}{_due([group], now)}"
    for group in plan.hold:
        lines[f"hold {group.kind}"] = f"{group.count:,}{_due([group], now)}: {plan.reasons[group.kind]}"
    for state, why in _LEFT.items():
        left = [group for group in plan.leave if group.state == state]
        if left:
            lines[f"leave {state}"] = f"{count(left):,} {why}"
    for group in plan.for_review:
        lines[f"{group.state} {group.kind}"] = f"{group.count:,}, waiting for a person: relight tasks list"
    for item in plan.effects:
        lines[f"{item.status} {item.tool}"] = (
            f"{item.count:,} effects that may have happened, the oldest {ago(item.oldest, now)}: relight effects list"
        )
    if plan.at_least_s is not None:
        lines["takes about"] = f"{lasting(plan.at_least_s)} at {plan.per_second:,.0f} a second, or as the queue can"
    return lines


_LEFT = {
    "queued": "that this queue has",
    "just queued": "that this queue has since a moment ago",
    "worked on": "whose workers are alive",
    "later": "that are not due yet, and are published when they are",
    "older": "that were made before",
    **{found.value: "that were not asked for" for found in sorted(LACKING)},
}


def _due(groups: Iterable[Group], now: datetime) -> str:
    ends = [(group.oldest, group.newest) for group in groups]
    if not ends:
        return ""
    oldest, newest = min(end[0] for end in ends), max(end[1] for end in ends)
    return f", due {ago(oldest, now)}" + ("" if oldest == newest else f" to {ago(newest, now)}")
