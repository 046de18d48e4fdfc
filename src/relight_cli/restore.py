"""Restore the vector memory from a recovery point, to a moment, or without the writes of tasks.

From a point, nothing is overwritten: each collection's snapshot goes into a new place, is verified, switched to at once
and brought up to the journal; the memory that was there is kept under another name.

With --until or --without-task the journal itself takes the writes back: what they changed is what it was, in every
region, and what is written from then on stays. The result names the restore; --without-task with that name undoes it.
That is done in the region that serves: add --role primary.
"""

from __future__ import annotations

import argparse
import json
from typing import TYPE_CHECKING

from relight.errors import ConfigError
from relight.memory.cut import Selection
from relight.memory.estimate import estimate
from relight.memory.hydrate import hydrate
from relight.recovery.cuts import cut_region, plan_region_cut
from relight.vault.points import find, newest_eligible
from relight_cli.console import DONE, add_into, add_plan, add_region, confirmed, dsn_in, moment, open_region, result

if TYPE_CHECKING:
    from relight.memory.cut import CutPlan
    from relight.vault.manifest import Manifest
    from relight.wiring import Region

# How many tasks are shown, those with the most entries first.
_SHOWN = 10


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the verb's options."""
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    which = parser.add_mutually_exclusive_group()
    which.add_argument("--snapshot", metavar="ID", help="as 20260419T020000Z (default: the newest eligible point)")
    which.add_argument("--before", metavar="TIME", type=moment, help="the newest eligible point taken until then")
    which.add_argument("--until", metavar="TIME", type=moment, help="take back what was written after that")
    which.add_argument(
        "--without-task", metavar="ID", action="append", help="take back what this task wrote; may be given repeatedly"
    )
    add_into(
        parser,
        help_="--until, --without-task: a store of the same kind for what is read from a snapshot (default: beside it)",
    )
    add_region(parser)
    add_plan(parser)


def run(args: argparse.Namespace) -> int:
    """Show what would be restored over what, ask, and restore."""
    with open_region(args) as region:
        if args.until is not None or args.without_task:
            return _take_back(args, region)
        if args.into_env:
            raise ConfigError("--into-env goes with --until or --without-task", hint="leave it out")
        chosen = _chosen(args, region)
        plan = {
            "environment": region.settings.environment,
            "region": region.settings.region,
            "restore": f"{chosen.id}, {sum(part.points for part in chosen.collections)} vectors",
            **{f"over {spec.name}": _there(region, spec.name) for spec in region.specs},
            "takes about": _duration(chosen, region),
            "then": "bring it up to the journal",
        }
        if confirmed(args, plan):
            with region.state() as state:
                done = hydrate(
                    store=region.store,
                    vault=region.vault,
                    state=state,
                    specs=region.specs,
                    clock=region.clock,
                    point=chosen.id,
                    force=True,
                    recall_floor=region.settings.recall_floor,
                    peer=region.peer_vault,
                )
            if args.json:
                result(args, {"collections": [item.to_json() for item in done]})
            else:
                for item in done:
                    result(args, item.to_json())
    return DONE


def _take_back(args: argparse.Namespace, region: Region) -> int:
    into = dsn_in(args.into_env)
    selection = Selection(moment=args.until, tasks=frozenset(args.without_task or ()))
    plans = plan_region_cut(region, selection)
    what = f"what was written after {args.until:%Y-%m-%dT%H:%M:%SZ}" if args.until else "what these tasks wrote"
    shown = {"environment": region.settings.environment, "region": region.settings.region, "take back": what}
    shown |= {item.spec.name: _told(item) for item in plans} or {"nothing": "was written, so there is nothing to do"}
    if not confirmed(args, shown):
        if args.json and args.dry_run:
            print(json.dumps([item.to_json() for item in plans], indent=2))
        return DONE
    result(args, cut_region(region, plans, into=into))
    return DONE


def _told(plan: CutPlan) -> str:
    tasks = sorted(plan.left_out.items(), key=lambda item: -item[1])
    some = ", ".join(f"{count} of {task or 'no task'}" for task, count in tasks[:_SHOWN])
    more = f" and {sum(count for _, count in tasks[_SHOWN:])} of {len(tasks) - _SHOWN} others" * (len(tasks) > _SHOWN)
    base = "the beginning of the journal" if plan.base is None else plan.base.id
    return (
        f"{sum(plan.left_out.values())} entries ({some}{more}), from {plan.first_at:%Y-%m-%dT%H:%M:%SZ} to "
        f"{plan.last_at:%Y-%m-%dT%H:%M:%SZ}; {plan.points} points get back what they were, as of {base}"
    )


def _chosen(args: argparse.Namespace, region: Region) -> Manifest:
    if args.snapshot:
        return find(region.vault, args.snapshot)
    return find(region.vault, newest_eligible(region.vault, before=args.before).id)


def _duration(chosen: Manifest, region: Region) -> str:
    """Of the collections that are to be restored, one after the other, on a small server."""
    each = [
        estimate(part, spec.index) for spec in region.specs for part in chosen.collections if part.name == spec.name
    ]
    load_s, index_s = sum(item.load_s for item in each), sum(item.index_s for item in each)
    more = f", and {_rounded(index_s)} until its index is built; it is searched exactly meanwhile" if index_s else ""
    return f"{_rounded(load_s)} until it serves{more}"


def _rounded(seconds: float) -> str:
    return f"{max(1, round(seconds))} s" if seconds < 120 else f"{seconds / 60:.0f} min"


def _there(region: Region, name: str) -> str:
    now = region.store.describe(name)
    return f"{now.points} vectors, which are kept" if now else "nothing"
