"""Rehearse a restore: the newest eligible point, beside the memory, checked and dropped again.

With `--apart` the environment's state machine does it, as on its schedule: in a store that it starts for that alone, in
a network that nothing live is in, and ends afterwards. The command waits for it, from anywhere that reaches AWS.

The result is recorded in the vault and as metrics. Exit code 3 when the point could not be restored, does not answer as
it did, or does not pass the check.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from relight.errors import ConfigError
from relight.recovery.rehearsal import rehearse_region
from relight.recovery.rehearsal_place import rehearse_apart
from relight_cli.console import (
    DONE,
    MISSED,
    add_into,
    add_plan,
    add_region,
    confirmed,
    dsn_in,
    open_region,
    result,
    say,
)

if TYPE_CHECKING:
    import argparse

    from relight.wiring import Region


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the verb's options."""
    parser.add_argument("--snapshot", metavar="ID", help="as 20260419T020000Z (default: the newest eligible point)")
    parser.add_argument("--apart", action="store_true", help="in the place that the environment has for it")
    add_into(parser, help_="another store of the same kind (default: rehearsal_dsn of the secret, else the region's)")
    parser.add_argument(
        "--check", metavar="CMD", default="", help="exits 0 when RELIGHT_COLLECTION is good (default: the settings')"
    )
    parser.add_argument("--within", type=float, default=300.0, metavar="SECONDS", help="how long the check may take")
    add_region(parser)
    add_plan(parser)


def run(args: argparse.Namespace) -> int:
    """Show what would be restored where, ask, and rehearse."""
    into = dsn_in(args.into_env)
    if args.apart and (into or args.check):
        raise ConfigError(
            "--apart has a store and a check of its own", hint="leave --into-env and --check out, or --apart"
        )
    with open_region(args) as region:
        plan = {
            "environment": region.settings.environment,
            "region": region.settings.region,
            "restore": args.snapshot or "the newest eligible point",
            "into": _place(args, region),
            "check": args.check or region.settings.rehearsal_check or "count and recall",
        }
        if not confirmed(args, plan):
            return DONE
        if args.apart:
            done = rehearse_apart(region, point=args.snapshot)
        else:
            done = rehearse_region(
                region, point=args.snapshot, check=args.check, into=into, within_s=args.within
            ).to_json()
        result(args, done)
    if not done["ok"]:
        say(f"the rehearsal failed: {done['reason']}")
    return DONE if done["ok"] else MISSED


def _place(args: argparse.Namespace, region: Region) -> str:
    if args.apart:
        return "a store that is started for it, and ended afterwards"
    if args.into_env:
        return "the store of --into-env"
    return "the store of rehearsal_dsn" if region.connections.rehearsal_dsn else "the region's store, beside the memory"
