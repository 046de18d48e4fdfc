"""List what a former primary had committed that never reached the region that took over. Nothing is merged.

The region of --role (the standby, unless told otherwise) took over; its former primary's state database is found
through the other region's secret, or in the environment variable that --old-dsn-env names.
"""

from __future__ import annotations

import json
from contextlib import ExitStack, closing
from typing import TYPE_CHECKING

from relight.adapters import postgres
from relight.config import Role
from relight.errors import ConfigError
from relight.tasks.divergence import divergence
from relight_cli.console import DONE, add_region, dsn_in, open_region, say

if TYPE_CHECKING:
    import argparse

    from relight.adapters.postgres import Connection
    from relight.tasks.divergence import Divergence

# A listing for people; --json has everything.
_SHOWN = 50


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the verb's options."""
    parser.add_argument(
        "--old-dsn-env", metavar="NAME", help="the variable that holds the old database's connection string"
    )
    parser.add_argument("--json", action="store_true", help="print everything as JSON on stdout")
    add_region(parser)


def run(args: argparse.Namespace) -> int:
    """Compare the two and print what diverged; that something did is no failure."""
    with ExitStack() as stack:
        region = stack.enter_context(open_region(args))
        old = _old(args, stack)
        found = divergence(old, stack.enter_context(region.state()))
    if args.json:
        print(json.dumps(found.to_json(), indent=2))
    else:
        _print(found)
    return DONE


def _old(args: argparse.Namespace, stack: ExitStack) -> Connection:
    if args.old_dsn_env:
        return stack.enter_context(closing(postgres.connect(dsn_in(args.old_dsn_env))))
    if not args.environment:
        raise ConfigError(
            "the old state database is not named", hint="give --environment NAME, or --old-dsn-env VARIABLE"
        )
    # Late, as in `open_region`.
    from relight.wiring import Region
    from relight_stacks.loading import load_named
    from relight_stacks.settings import settings_for

    former = stack.enter_context(Region(settings_for(load_named(args.environment), Role(args.role).other)))
    return stack.enter_context(former.state())


def _print(found: Divergence) -> None:
    say(
        f"the histories parted at epoch {found.epoch}, taken at {found.parted_at:%Y-%m-%dT%H:%M:%SZ};"
        f" the newest that arrived is of {found.shipped_until:%Y-%m-%dT%H:%M:%SZ}"
    )
    lines = {
        "tasks": [f"{task.id}  {task.status} there, {task.here or 'not known'} here" for task in found.tasks],
        "steps": [f"{step.key} of task {step.task_id}" for step in found.steps],
        "effects": [
            f"{'HAPPENED' if effect.happened else effect.status}: {effect.tool} of task {effect.task_id},"
            f" {effect.key[:12]}, {effect.here or 'not known'} here"
            for effect in found.effects
        ],
        "memories": [f"{memory.op} of {memory.id} in {memory.collection}" for memory in found.memories],
    }
    for kind, rows in lines.items():
        print(f"{kind}: {len(rows)}")
        for row in rows[:_SHOWN]:
            print(f"  {row}")
        if len(rows) > _SHOWN:
            print(f"  and {len(rows) - _SHOWN} more: --json has them all")
