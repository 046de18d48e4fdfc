"""Look after a region's vector memory: what is in it, its indexes, and the former data that restores kept.

show       what each collection holds, how far it is behind the journal, how it is searched, what is kept of former ones
index      build the indexes that lack; the memory is searched and written to meanwhile
drop-kept  drop the former data of the collections, but for the newest `--keep` of each
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from relight.errors import ConfigError, RelightError
from relight.memory.apply import Lag, lag_of
from relight.memory.index import build_indexes
from relight.memory.store import DEGRADED
from relight_cli.console import DONE, add_plan, add_region, confirmed, open_region, result

if TYPE_CHECKING:
    import argparse

    from relight.memory.store import CollectionSpec
    from relight.wiring import Region


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the verb's options."""
    parser.add_argument("action", choices=[*ACTIONS], help="what to do")
    parser.add_argument("--keep", type=int, default=1, metavar="N", help="how many to keep of each (default: 1)")
    add_region(parser)
    add_plan(parser)


def run(args: argparse.Namespace) -> int:
    """Do what `action` says."""
    if args.keep < 0:
        raise ConfigError(f"--keep {args.keep} is less than none", hint="give 0 or more")
    with open_region(args) as region:
        ACTIONS[args.action](args, region)
    return DONE


def _show(args: argparse.Namespace, region: Region) -> None:
    rows = [_row(region, spec) for spec in region.specs]
    if args.json:
        print(json.dumps(rows, indent=2))
        return
    for row in rows:
        print(f"{row['collection']}: {row['points']} points at {row['position']}, {_behind(row)}, index {row['index']}")
        for kept in row["kept"]:
            print(f"  kept: {kept}")


def _row(region: Region, spec: CollectionSpec) -> dict[str, Any]:
    found = region.store.describe(spec.name)
    lag, unknown = Lag(seconds=None, entries=None), ""
    try:
        with region.state() as state:
            lag = lag_of(region.store, state, spec)
    except RelightError as exc:
        unknown = exc.problem
    return {
        "collection": spec.name,
        "points": found.points if found else None,
        "position": str(found.position) if found else None,
        "lag_seconds": lag.seconds,
        "behind": lag.entries,
        "lag_unknown": unknown,
        "index": found.index.value if found else None,
        "restored_from": found.restored_from if found else None,
        "kept": region.store.kept(spec.name),
    }


def _behind(row: dict[str, Any]) -> str:
    if row["behind"] is None:
        return "behind by what nobody knows" + (f" ({row['lag_unknown']})" if row["lag_unknown"] else "")
    return f"{row['behind']} entries and {row['lag_seconds']:.1f} s behind the journal"


def _index(args: argparse.Namespace, region: Region) -> None:
    found = {spec.name: region.store.describe(spec.name) for spec in region.specs}
    lacking = [name for name, item in found.items() if item is not None and item.index in DEGRADED]
    if confirmed(args, {"build": ", ".join(lacking) or "nothing lacks an index"}):
        result(args, build_indexes(store=region.store, specs=region.specs))


def _drop_kept(args: argparse.Namespace, region: Region) -> None:
    old = {spec.name: region.store.kept(spec.name)[args.keep :] for spec in region.specs}
    if confirmed(args, {f"drop of {name}": ", ".join(kept) or "nothing" for name, kept in old.items()}):
        for name, kept in old.items():
            for item in kept:
                region.store.drop_kept(name, item)
        result(args, {"dropped": [item for kept in old.values() for item in kept]})


ACTIONS = {"show": _show, "index": _index, "drop-kept": _drop_kept}
