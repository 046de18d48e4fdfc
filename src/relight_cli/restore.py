"""Restore the vector memory from a recovery point, and bring it up to the journal.

Nothing is overwritten: each collection's snapshot goes into a new place, is verified, and is switched to at once; the
memory that was there is kept under another name.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from relight.errors import NotFoundError
from relight.memory.estimate import estimate
from relight.memory.hydrate import hydrate
from relight.vault.points import eligible, find
from relight_cli.console import DONE, add_plan, add_region, confirmed, moment, open_region, result

if TYPE_CHECKING:
    import argparse

    from relight.vault.manifest import Manifest
    from relight.wiring import Region


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the verb's options."""
    which = parser.add_mutually_exclusive_group()
    which.add_argument("--snapshot", metavar="ID", help="as 20260419T020000Z (default: the newest eligible point)")
    which.add_argument("--before", metavar="TIME", type=moment, help="the newest eligible point taken until then")
    add_region(parser)
    add_plan(parser)


def run(args: argparse.Namespace) -> int:
    """Show what would be restored over what, ask, and restore."""
    with open_region(args) as region:
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
                )
            if args.json:
                result(args, {"collections": [item.to_json() for item in done]})
            else:
                for item in done:
                    result(args, item.to_json())
    return DONE


def _chosen(args: argparse.Namespace, region: Region) -> Manifest:
    if args.snapshot:
        return find(region.vault, args.snapshot)
    for manifest in eligible(region.vault):
        if args.before is None or manifest.taken_at <= args.before:
            return manifest
    until = f" of before {args.before:%Y-%m-%dT%H:%M:%SZ}" if args.before else ""
    raise NotFoundError(
        f"{region.settings.vault_bucket} holds no eligible point{until}", hint="`relight points list` says why"
    )


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
