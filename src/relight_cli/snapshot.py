"""Take a recovery point now, beside the scheduled ones."""

from __future__ import annotations

from typing import TYPE_CHECKING

from relight.recovery.points import take_point
from relight_cli.console import DONE, add_plan, add_region, confirmed, open_region, result

if TYPE_CHECKING:
    import argparse


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the verb's options."""
    add_region(parser)
    add_plan(parser)
    parser.set_defaults(role="primary")


def run(args: argparse.Namespace) -> int:
    """Take the point."""
    with open_region(args) as region:
        plan = {
            "environment": region.settings.environment,
            "region": region.settings.region,
            "snapshot of": ", ".join(spec.name for spec in region.specs),
        }
        if confirmed(args, plan):
            result(args, take_point(region))
    return DONE
