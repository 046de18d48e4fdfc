"""Look after the journal of memory writes.

show     what of it is in the state database and in the vaults, and how far the memory is behind it
archive  archive what is settled to this region's vault now, and prune what the other region has; snapshots do so too
"""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from relight.memory import journal
from relight.memory.apply import lag_of
from relight.recovery.points import archive_region
from relight_cli.console import DONE, add_plan, add_region, confirmed, open_region, result

if TYPE_CHECKING:
    from relight.wiring import Region


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the verb's options."""
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION")
    options = {name: actions.add_parser(name) for name in ACTIONS}
    options["show"].add_argument("--json", action="store_true", help="print it as JSON on stdout")
    add_plan(options["archive"])
    for option in options.values():
        add_region(option, acting=True)


def run(args: argparse.Namespace) -> int:
    """Do what `action` says."""
    with open_region(args) as region:
        ACTIONS[args.action](args, region)
    return DONE


def _show(args: argparse.Namespace, region: Region) -> None:
    with region.state() as state:
        size, alive = journal.sizes(state)
        rows = []
        for spec in region.specs:
            found = journal.holdings(state, spec.name)
            lag = lag_of(region.store, state, spec)
            rows.append(
                {"collection": spec.name, **asdict(found), "edge": str(found.edge)}
                | {"archived_to": str(journal.archived(state, spec.name))}
                | {"lag_seconds": lag.seconds, "behind": lag.entries}
            )
    if args.json:
        print(json.dumps({"bytes": size, "alive_bytes": alive, "collections": rows}, indent=2, default=str))
        return
    print(f"{size:,} bytes in the state database, and {alive:,} of the points alive at the edge")
    for row in rows:
        print(_told(row))


def _told(row: dict[str, Any]) -> str:
    behind = "no memory" if row["behind"] is None else f"memory {row['behind']} entries and {row['lag_seconds']:.1f} s"
    return (
        f"{row['collection']}: {row['entries']} entries after {row['edge']}, the oldest of {row['oldest'] or 'never'}\n"
        f"  archived: {row['segments']} segments up to {row['archived_to']}, {row['archived_bytes']:,} bytes, "
        f"the oldest of {row['oldest_archived'] or 'never'}\n"
        f"  {behind} behind"
    )


def _archive(args: argparse.Namespace, region: Region) -> None:
    plan = archive_region(region, max_age_s=0.0, dry_run=True)
    shown = {
        "from": f"the state database of {region.settings.region}",
        "to": f"{region.vault.bucket} in {region.vault.region}",
    }
    for item in plan:
        waiting = f"; the rest waits: {item.waiting}" if item.waiting else ""
        shown[item.collection] = (
            f"archive {item.entries} entries in {item.segments} segments, "
            f"prune {item.pruned_entries} entries of {item.pruned_segments}{waiting}"
        )
    if not confirmed(args, shown):
        if args.json and args.dry_run:
            print(json.dumps([item.to_json() for item in plan], indent=2))
        return
    done = [item.to_json() for item in archive_region(region, max_age_s=0.0)]
    if args.json:
        print(json.dumps(done, indent=2))
        return
    for row in done:
        result(args, row)


ACTIONS = {"show": _show, "archive": _archive}
