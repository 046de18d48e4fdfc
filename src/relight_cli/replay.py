"""Rebuild the task queue from the ledger.

Publishes every unfinished task made since a moment, oldest first. Running it twice changes nothing.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from relight.errors import ConflictError
from relight.queue.queues import open_queue
from relight.tasks.ledger import THE_BEGINNING, Ledger
from relight.tasks.replay import replay
from relight_cli.console import DONE, add_plan, add_region, confirmed, moment, open_region, result, say

if TYPE_CHECKING:
    import argparse
    from datetime import datetime

    from relight.wiring import Region


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the verb's options."""
    parser.add_argument(
        "--since",
        type=moment,
        default=THE_BEGINNING,
        metavar="TIME",
        help="2026-04-19T02:00:00Z; default: the beginning",
    )
    add_region(parser)
    add_plan(parser)


def run(args: argparse.Namespace) -> int:
    """Show what would be published, ask, and publish."""
    with open_region(args) as region:
        newest = region.epochs.newest()
        if newest is None:
            raise ConflictError("the ledger knows no epoch yet", hint="run `relight init` first")
        if newest.region != region.settings.region:
            here = region.settings.region
            raise ConflictError(
                f"{newest.region} holds epoch {newest.number}, so nobody works off the queue of {here}",
                hint="give the other --role; a recovery replays by itself",
            )
        ledger = Ledger(region.database, epoch=lambda: newest.number)
        tasks = ledger.unfinished(args.since)
        plan = {
            "environment": region.settings.environment,
            "region": region.settings.region,
            "epoch": newest.number,
            "publish": f"unfinished tasks made since {args.since:%Y-%m-%dT%H:%M:%SZ}: {len(tasks)}",
        }
        if confirmed(args, plan):
            result(args, asyncio.run(_publish(region, ledger, newest.number, args.since)))
    return DONE


async def _publish(region: Region, ledger: Ledger, epoch: int, since: datetime) -> dict[str, Any]:
    async with open_queue(region.connections.queue_url, environment=region.settings.environment) as queue:
        done = await replay(
            ledger=ledger, queue=queue, epoch=epoch, since=since, progress=lambda task: say(f"published {task.id}")
        )
    return {"found": done.found, "published": done.published, "already_queued": done.already_queued}
