"""Take over a collection that Relight did not make, so that its points are backed up and restored like others.

Its points stay where they are, or are copied and the copy verified before anything goes. Safe to run again.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from relight_cli.console import DONE, add_plan, add_region, confirmed, open_region, result, say

if TYPE_CHECKING:
    import argparse


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the verb's options."""
    add_region(parser)
    add_plan(parser)
    parser.set_defaults(role="primary")


def run(args: argparse.Namespace) -> int:
    """Show the steps of each collection that has any, ask, and take them."""
    with open_region(args) as region:
        steps = {spec.name: region.store.adopt(spec, dry_run=True) for spec in region.specs}
        if not any(steps.values()):
            say("there is nothing to adopt")
            return DONE
        plan = {"environment": region.settings.environment, "region": region.settings.region}
        shown = plan | {name: "; ".join(todo) for name, todo in steps.items() if todo}
        if confirmed(args, shown):
            done = {spec.name: region.store.adopt(spec, dry_run=False) for spec in region.specs if steps[spec.name]}
            result(args, {"adopted": done})
    return DONE
