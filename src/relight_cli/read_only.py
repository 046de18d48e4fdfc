"""Let an environment answer and change nothing, or take writes again: no deployment, nothing is restarted.

show  whether nothing is begun, since when and why, and what still goes on
on    from now on no task is started or claimed, no side effect carried out, no memory written; what was begun is
      finished, reads are answered, and snapshots and recoveries go on, whatever region a recovery leads to
off   take writes again
"""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from relight.tasks.read_only import begin_read_only, end_read_only, read_only, under_way
from relight_cli.console import DONE, add_plan, add_region, ago, confirmed, open_region, result, say

if TYPE_CHECKING:
    from collections.abc import Callable

    from relight.wiring import Region


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the verb's options."""
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION")
    options = {name: actions.add_parser(name) for name in ACTIONS}
    options["on"].add_argument("--reason", required=True, metavar="TEXT", help="why, for whoever is refused")
    options["show"].add_argument("--json", action="store_true", help="print it as JSON on stdout")
    for name in ("on", "off"):
        add_plan(options[name])
    for option in options.values():
        add_region(option, acting=True)


def run(args: argparse.Namespace) -> int:
    """Do what `action` says."""
    with open_region(args) as region:
        ACTIONS[args.action](args, region)
    return DONE


def _show(args: argparse.Namespace, region: Region) -> None:
    found = _found(region)
    if args.json:
        print(json.dumps(found, indent=2, default=str))
        return
    print(_told(region))
    if found["tasks"] or found["effects"]:
        print(_going_on(found))


def _on(args: argparse.Namespace, region: Region) -> None:
    plan = {
        **_where(region),
        "now": _told(region),
        "then": f"nothing is begun: {args.reason}",
        "goes on": _going_on(_found(region)),
    }
    if confirmed(args, plan):
        begin_read_only(region.database, reason=args.reason)
        result(args, _found(region))


def _off(args: argparse.Namespace, region: Region) -> None:
    plan = {**_where(region), "now": _told(region), "then": "tasks, side effects and memories are taken"}
    if confirmed(args, plan):
        ended = end_read_only(region.database)
        if region.settings.read_only:
            say("the environment says read_only = true: what was deployed so changes nothing until it is deployed anew")
        result(args, {"ended": ended, **_found(region)})


def _where(region: Region) -> dict[str, str]:
    return {"environment": region.settings.environment, "region": region.settings.region}


def _found(region: Region) -> dict[str, Any]:
    """What is said, by the state database and by the environment, and what goes on."""
    found = read_only(region.database)
    return {
        "read_only": found is not None or region.settings.read_only,
        "since": found and found.since.isoformat(),
        "reason": found and found.reason,
        "by_environment": region.settings.read_only,
        **asdict(under_way(region.database)),
    }


def _told(region: Region) -> str:
    found = read_only(region.database)
    if found is not None:
        return f"read-only, switched on {ago(found.since, region.clock.now())}: {found.reason}"
    if region.settings.read_only:
        return "read-only: the environment says read_only = true"
    return "writes are taken"


def _going_on(found: dict[str, Any]) -> str:
    return f"{found['tasks']:,} tasks in the hands of workers, {found['effects']:,} effects on their way"


ACTIONS: dict[str, Callable[[argparse.Namespace, Region], None]] = {"show": _show, "on": _on, "off": _off}
