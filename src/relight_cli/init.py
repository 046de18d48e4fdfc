"""Prepare an environment for its first day: schema, queue, memory, first epoch, open gate.

Run it once, against the primary, after the stacks are deployed and both connection secrets have their values. Running
it again changes nothing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from relight.recovery.first_day import prepare
from relight_cli.console import DONE, add_plan, add_region, confirmed, open_region, result

if TYPE_CHECKING:
    import argparse


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the verb's options."""
    add_region(parser)
    add_plan(parser)
    parser.set_defaults(role="primary")


def run(args: argparse.Namespace) -> int:
    """Prepare the primary."""
    with open_region(args) as region:
        plan = {
            "environment": region.settings.environment,
            "region": region.settings.region,
            "do": "migrate the schema, make the queue and the collection, take the first epoch, open the gate",
        }
        if confirmed(args, plan):
            result(args, prepare(region))
    return DONE
