"""Recover by hand: run the states of the recovery here, without the state machine.

For when the state machine itself cannot run, or one state has to be run again: `--run-id` goes on with a run, and
`--state` runs only that state of it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from relight.recovery.run import STATES, Run, run_state
from relight_cli.console import DONE, add_plan, add_region, confirmed, open_region, result, say

if TYPE_CHECKING:
    import argparse


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the verb's options."""
    parser.add_argument("--run-id", metavar="ID", help="go on with this run (default: a new one)")
    parser.add_argument("--state", action="append", choices=[*STATES], help="run only this state; may be repeated")
    add_region(parser)
    add_plan(parser)


def run(args: argparse.Namespace) -> int:
    """Run the states in order; the first that fails ends it, and can be run again."""
    with open_region(args) as region:
        run_id = args.run_id or f"by-hand-{region.clock.now():%Y%m%dT%H%M%SZ}"
        names = [name for name in STATES if not args.state or name in args.state]
        held = region.leases.read()
        plan = {
            "environment": region.settings.environment,
            "recover in": region.settings.region,
            "taking over": "nobody" if held is None else f"epoch {held[0].epoch} of {held[0].region}",
            "run": run_id,
            "states": ", ".join(names),
        }
        if not confirmed(args, plan):
            return DONE
        next_epoch = held[0].epoch + 1 if held is not None and held[0].run_id != run_id else None
        this_run = Run(run_id=run_id, decided_at=region.clock.now().isoformat(), next_epoch=next_epoch)
        done: dict[str, Any] = {"run_id": run_id}
        for name in names:
            say(f"{name} ...")
            done[name] = run_state(name, region, this_run)
        result(args, done)
    return DONE
