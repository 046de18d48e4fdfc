"""Look after the state database: its schema, and whether a standby confirms what it acknowledges.

status   which migrations it has and lacks, and how the promise stands that what is acknowledged is in the standby
migrate  apply the migrations that it lacks, in one transaction; safe to run by two at once
"""

from __future__ import annotations

import argparse
import json
from typing import TYPE_CHECKING, Any

from relight.tasks.migrate import migrate, schema_status
from relight_cli.console import DONE, FAILED, add_plan, add_region, confirmed, open_region, result, say

if TYPE_CHECKING:
    from relight.tasks.migrate import SchemaStatus
    from relight.wiring import Region


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the verb's options."""
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION")
    options = {name: actions.add_parser(name) for name in ACTIONS}
    options["status"].add_argument("--json", action="store_true", help="print it as JSON on stdout")
    add_plan(options["migrate"])
    for option in options.values():
        add_region(option, acting=True)


def run(args: argparse.Namespace) -> int:
    """Do what `action` says."""
    with open_region(args) as region:
        return ACTIONS[args.action](args, region)


def _migrate(args: argparse.Namespace, region: Region) -> int:
    status = schema_status(region.database)
    status.check_history()
    pending = ", ".join(map(str, status.pending))
    plan = {
        "environment": region.settings.environment,
        "region": region.settings.region,
        "apply": pending or "nothing, the schema is this version's",
    }
    if confirmed(args, plan):
        result(args, {"applied": migrate(region.database)})
    return DONE


def _status(args: argparse.Namespace, region: Region) -> int:
    """Print both; fail where the schema is not this version's."""
    status = schema_status(region.database)
    promise = region.database.promise()
    settings = region.settings
    found = {
        "schema": "current" if _is_current(status) else "not this version's",
        "migrations": _rows(status),
        "promise": promise.state.value,
        "reason": promise.reason,
        "acknowledge": settings.acknowledge.value,
        "confirm_by": settings.confirm_by.value,
        "on_standby_away": settings.on_standby_away.value,
        "confirm_timeout_s": settings.confirm_timeout_s,
    }
    if args.json:
        print(json.dumps(found, indent=2))
    else:
        for row in _rows(status):
            print(f"{row['migration']:<32} {row['state']:<8} {row['applied_at'] or ''}")
        print(f"promise: {promise.state}{promise.reason and f': {promise.reason}'}")
        print(
            f"acknowledge = {settings.acknowledge}, confirm_by = {settings.confirm_by},"
            f" on_standby_away = {settings.on_standby_away}, after {settings.confirm_timeout_s:g} s"
        )
    if _is_current(status):
        return DONE
    say("the schema is not this version's: `relight db migrate` applies what is pending")
    return FAILED


def _is_current(status: SchemaStatus) -> bool:
    return not (status.pending or status.changed or status.newer)


def _rows(status: SchemaStatus) -> list[dict[str, Any]]:
    odd = {**dict.fromkeys(status.changed, "changed"), **dict.fromkeys(status.newer, "unknown")}
    return [
        {
            "migration": str(item),
            "state": "pending" if item.applied_at is None else odd.get(item, "applied"),
            "applied_at": item.applied_at and item.applied_at.isoformat(timespec="seconds"),
        }
        for item in (*status.applied, *status.pending)
    ]


ACTIONS = {"status": _status, "migrate": _migrate}
