"""Raise two regions on this machine, take something away (a region, a memory, a model), and measure the recovery.

Exit code 0: every objective was met and nothing was lost or duplicated; 3: not so; 1: the drill itself failed, and what
had been measured by then is reported all the same.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from relight.config import MemoryStore
from relight.errors import ConfigError
from relight.objectives import Tier
from relight.queue.queues import QueueKind
from relight_cli.console import DONE, MISSED, interrupts_held, say

if TYPE_CHECKING:
    import argparse

    from relight_drill.result import Outcome


# As relight_drill.scenarios has them, which no other verb loads.
SCENARIO_NAMES = ("standby-boot", "region-loss", "provider-outage")


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the verb's options."""
    names = f"{', '.join(SCENARIO_NAMES)}; may be repeated (default: what the tiers differ in, and all of the first)"
    parser.add_argument("--scenario", action="append", metavar="NAME", help=names)
    tiers = "may be repeated (default: internal, batch and customer-facing; internal with --scenario)"
    parser.add_argument("--tier", type=Tier, action="append", metavar="TIER", help=tiers)
    parser.add_argument(
        "--memory", type=MemoryStore, metavar="STORE", help="pgvector or qdrant (default: what the environment has)"
    )
    parser.add_argument(
        "--queue", type=QueueKind, default=QueueKind.NATS, metavar="QUEUE", help="nats or redis (default: nats)"
    )
    parser.add_argument("--seed", type=int, default=1, metavar="N", help="how and when the fault strikes (default: 1)")
    parser.add_argument("--json", type=Path, metavar="PATH", help="write the result as JSON: docs/drill-json.md")
    parser.add_argument("--report", type=Path, metavar="PATH", help="write the report as text")
    parser.add_argument("--keep", action="store_true", help="keep the world's folder: logs, databases, stacks")


def _check_place(path: Path) -> None:
    """ConfigError where nothing can be written there, now rather than after minutes; what is there stays."""
    if path.is_dir():
        raise ConfigError(f"{path} is a folder", hint="name a file in it")
    if not path.parent.is_dir():
        raise ConfigError(f"there is no folder {path.parent}", hint="make it, or name another")
    try:
        path.open("a").close()
    except OSError as exc:
        raise ConfigError(f"{path} cannot be written: {exc.strerror}", hint="name another") from exc


def run(args: argparse.Namespace) -> int:
    """Run the scenarios and print the report on stdout."""
    # Late, so that no other verb loads the drill.
    with interrupts_held():
        from relight_drill.report import write
        from relight_drill.result import drill_json
        from relight_drill.run import run_drill

    for path in (args.json, args.report):
        if path is not None:
            _check_place(path)
    outcomes: list[Outcome] = []
    try:
        for outcome in run_drill(
            names=args.scenario,
            tiers=args.tier,
            seed=args.seed,
            keep=args.keep,
            memory=args.memory,
            queue=args.queue,
        ):
            outcomes.append(outcome)
    finally:
        if outcomes:
            write(outcomes, seed=args.seed, file=sys.stdout)
            if args.json is not None:
                args.json.write_text(json.dumps(drill_json(outcomes, seed=args.seed), indent=2) + "\n")
            if args.report is not None:
                with args.report.open("w") as file:
                    write(outcomes, seed=args.seed, file=file, width=120)
    missed = [f"{outcome.name} of tier {outcome.tier}" for outcome in outcomes if not outcome.met]
    if missed:
        say(f"objectives missed: {', '.join(missed)}")
    return MISSED if missed else DONE
