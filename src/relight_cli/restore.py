"""Restore the vector memory from a recovery point, and bring it up to the journal.

Nothing is overwritten: the snapshot goes into a new table, is verified, and takes the collection's name in one
transaction; the memory that was there is kept under another name.
"""

from __future__ import annotations

from itertools import islice
from typing import TYPE_CHECKING

from relight.errors import NotFoundError
from relight.memory.hydrate import hydrate
from relight.vault.points import eligible, find
from relight_cli.console import DONE, add_plan, add_region, confirmed, open_region, result

if TYPE_CHECKING:
    import argparse


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the verb's options."""
    parser.add_argument("--snapshot", metavar="ID", help="as 20260419T020000Z (default: the newest eligible point)")
    add_region(parser)
    add_plan(parser)


def run(args: argparse.Namespace) -> int:
    """Show what would be restored over what, ask, and restore."""
    with open_region(args) as region:
        newest = next(islice(eligible(region.vault), 1), None)
        if args.snapshot:
            chosen = find(region.vault, args.snapshot)
        elif newest is not None:
            chosen = newest
        else:
            raise NotFoundError(
                f"{region.settings.vault_bucket} holds no eligible point", hint="`relight points list` says why"
            )
        now = region.store.describe(region.spec.name)
        plan = {
            "environment": region.settings.environment,
            "region": region.settings.region,
            "restore": f"{chosen.id}, {sum(part.points for part in chosen.collections)} vectors",
            "over": f"{region.spec.name}, {now.points} vectors, which are kept" if now else "nothing",
            "then": "bring it up to the journal",
        }
        if confirmed(args, plan):
            with region.state() as state:
                done = hydrate(
                    store=region.store,
                    vault=region.vault,
                    state=state,
                    spec=region.spec,
                    clock=region.clock,
                    point=args.snapshot,
                    force=True,
                )
            result(args, done.to_json())
    return DONE
