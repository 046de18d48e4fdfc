"""Look after the recovery points of both regions.

list    what each region's vault holds, what could be restored there and why not the others, and what would be lost now
show    the manifest of one point
verify  read the points that this region never verified, or the one that is named, and compare checksums
prune   remove what the retention ladder does not keep from this region's vault
copy    carry points across to the vault that lacks them, both ways
probe   try whether the stores of both vaults do what is relied upon, with small objects that are removed again
bisect  find the newest point from before a corruption, by restoring some of them beside the memory
hold    keep one point of this region's vault, whatever the ladder says, until it is released
release let the ladder decide about it again
undelete
        show a point again that a deletion hides; without an id, which there are
"""

from __future__ import annotations

import argparse
import json
import math
from contextlib import closing
from typing import TYPE_CHECKING, Any

from relight.errors import ConfigError, NotFoundError, RelightError
from relight.memory.bisect import bisect, candidates
from relight.memory.scratch import Check
from relight.memory.stores import open_store
from relight.recovery.exposure import vector_exposure
from relight.recovery.points import VERIFY_S, copy_region, prune_points, verify_region
from relight.vault.holding import hidden_point, hidden_points, hold, undelete
from relight.vault.points import find, status_of, survey
from relight.vault.probe import probe
from relight_cli.console import (
    DONE,
    FAILED,
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
    from collections.abc import Callable

    from relight.memory.bisect import Tried
    from relight.memory.store import CollectionSpec
    from relight.recovery.exposure import Exposure
    from relight.vault.points import PointStatus
    from relight.vault.store import Vault
    from relight.wiring import Region


# Actions on one point, which is named.
OF_ONE = ("show", "verify", "hold", "release", "undelete")


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the verb's options."""
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("action", choices=[*ACTIONS], help="what to do with them")
    parser.add_argument("id", nargs="?", metavar="ID", help=f"{', '.join(OF_ONE)}: which point, as 20260419T020000Z")
    parser.add_argument(
        "--within", type=float, default=VERIFY_S, metavar="SECONDS", help="verify: begin no point after this long"
    )
    parser.add_argument("--good", metavar="ID", help="bisect: a point known to be good (default: the oldest eligible)")
    parser.add_argument("--collection", metavar="NAME", help="bisect: which, where there are several")
    parser.add_argument(
        "--floor", type=float, metavar="RECALL", help="bisect: how alike is good (default: the settings')"
    )
    add_into(parser, help_="bisect: another store of the same kind (default: the region's)")
    parser.add_argument("--check", metavar="CMD", help="bisect: a command that exits 0 when RELIGHT_COLLECTION is good")
    add_region(parser)
    add_plan(parser)


def run(args: argparse.Namespace) -> int:
    """Do what `action` says."""
    if args.id and args.action not in OF_ONE:
        raise ConfigError(f"`points {args.action}` takes no point", hint="leave the id out")
    with open_region(args) as region:
        return ACTIONS[args.action](args, region)


def _list(args: argparse.Namespace, region: Region) -> int:
    """Print both vaults; one that cannot be reached is said so, and the other still shown."""
    vaults: list[dict[str, Any]] = []
    restored_from: list[PointStatus] = []
    unread = ""
    for vault in (region.vault, region.peer_vault):
        restores = vault.region == region.settings.standby_region
        try:
            found = list(survey(vault))
        except RelightError as exc:
            vaults.append({"region": vault.region, "bucket": vault.bucket, "error": str(exc), "points": []})
            unread = str(exc) if restores else unread
            continue
        restored_from = found if restores else restored_from
        rows = [_row(status) for status in found]
        vaults.append({"region": vault.region, "bucket": vault.bucket, "error": None, "points": rows})
    exposed = [_exposed(item, unread) for item in vector_exposure(region, restored_from)]
    if args.json:
        print(json.dumps({"vaults": vaults, "exposure": exposed}, indent=2))
    else:
        _print_vaults(vaults)
        for item in exposed:
            amount = "everything" if item["seconds"] is None else f"{item['seconds']:.0f} s"
            told = f"{amount}, {item['why']}" if item["known"] else f"not known: {item['why']}"
            print(f"exposure of {item['collection']}: {told}")
    return FAILED if all(vault["error"] for vault in vaults) else DONE


def _exposed(item: Exposure, unread: str) -> dict[str, Any]:
    """A collection's exposure; not known where it hangs on points of a vault that could not be read, and why not."""
    known = item.seconds is not None or not unread
    return {
        "collection": item.collection,
        "known": known,
        "seconds": item.seconds,
        "why": item.why if known else unread,
    }


def _row(status: PointStatus) -> dict[str, Any]:
    manifest = status.manifest
    return {
        "id": status.id,
        "eligible": status.eligible,
        "reason": status.reason,
        "sealed": status.sealed,
        "verified_at": status.verified_at.isoformat() if status.verified_at else None,
        "uploaded_to": manifest.region if manifest else None,
        "instead_of": manifest.instead_of if manifest else None,
        "signed": manifest.signature is not None if manifest else None,
        "bytes": status.bytes,
        "vectors": sum(part.points for part in manifest.collections) if manifest else None,
    }


def _print_vaults(vaults: list[dict[str, Any]]) -> None:
    for vault in vaults:
        rows = vault["points"]
        if vault["error"]:
            print(f"{vault['region']}, {vault['bucket']}: CANNOT BE READ: {vault['error']}")
            continue
        fit = sum(row["eligible"] for row in rows)
        print(f"{vault['region']}, {vault['bucket']}: {len(rows)} points, {fit} eligible")
        for row in rows:
            verdict = row["reason"] or ("eligible, verified" if row["verified_at"] else "eligible, not verified yet")
            where = f", uploaded to {row['uploaded_to']}" if row["uploaded_to"] else ""
            where += f" instead of {row['instead_of']}" if row["instead_of"] else ""
            print(f"  {row['id']}  {row['bytes']:>15,} bytes  {verdict}{where}")


def _hold(args: argparse.Namespace, region: Region) -> int:
    held = args.action == "hold"
    point = _point(args)
    status = status_of(region.vault, point)
    shown = {"vault": _named(region.vault), args.action: point, "bytes": f"{status.bytes:,}"}
    if held:
        shown["note"] = "each region's vault holds its own: add --role for the other"
    if not confirmed(args, shown):
        return DONE
    result(args, {"point": point, "held": held, "objects": hold(region.vault, point, held=held)})
    return DONE


def _undelete(args: argparse.Namespace, region: Region) -> int:
    if not args.id:
        found = hidden_points(region.vault)
        if args.json:
            print(json.dumps([point.to_json() for point in found], indent=2))
        for point in found if not args.json else ():
            print(f"  {point.id}  {point.bytes:>15,} bytes  hidden since {point.hidden_at:%Y-%m-%dT%H:%M:%SZ}")
        say(f"{_named(region.vault)} hides {len(found)} points")
        return DONE
    hidden = hidden_point(region.vault, args.id)
    shown = {
        "vault": _named(region.vault),
        "undelete": f"{hidden.id}, hidden since {hidden.hidden_at:%Y-%m-%dT%H:%M:%SZ}",
        "bytes": f"{hidden.bytes:,}",
        "note": "the next prune hides it again unless a rung keeps it: `relight points hold` keeps it",
    }
    if not confirmed(args, shown):
        return DONE
    status = undelete(region.vault, hidden.id)
    result(args, {"point": status.id, "eligible": status.eligible, "reason": status.reason})
    return DONE if status.eligible else FAILED


def _point(args: argparse.Namespace) -> str:
    if not args.id:
        raise ConfigError("no point is named", hint="`relight points list` shows them")
    return str(args.id)


def _show(args: argparse.Namespace, region: Region) -> int:
    """Print the manifest, from whichever vault has it, and where the point can be restored from."""
    point, manifest = _point(args), None
    for vault in (region.vault, region.peer_vault):
        try:
            manifest = manifest or find(vault, point)
            say(f"{vault.region}: {status_of(vault, point).reason or 'eligible'}")
        except RelightError as exc:
            say(f"{vault.region}: {exc}")
    if manifest is None:
        return FAILED
    print(manifest.to_json(), end="")
    return DONE


def _verify(args: argparse.Namespace, region: Region) -> int:
    """Reading changes nothing but what is known, so nobody is asked."""
    if args.dry_run:
        raise ConfigError("verifying has no plan to show", hint="leave --dry-run out")
    done = verify_region(region, point=args.id, within_s=args.within)
    result(args, done.to_json())
    if not args.json and not done.findings:
        say("every eligible point is verified")
    return FAILED if done.damaged else DONE


def _prune(args: argparse.Namespace, region: Region) -> int:
    plan = prune_points(region, dry_run=True).plan
    shown = {
        "vault": _named(region.vault),
        "keep": f"{len(plan.keep)} points",
        "locked": ", ".join(f"{point} until {until:%Y-%m-%d}" for point, until in plan.locked.items()) or "none",
        "remove": ", ".join(plan.remove) or "none",
        "leftovers": ", ".join(plan.leftovers) or "none",
    }
    if not confirmed(args, shown):
        if args.json and args.dry_run:
            print(json.dumps(plan.to_json(), indent=2))
        return DONE
    done = prune_points(region)
    result(args, done.to_json())
    return FAILED if done.failed else DONE


def _copy(args: argparse.Namespace, region: Region) -> int:
    plan = copy_region(region, dry_run=True)
    shown = {
        "between": f"{_named(region.vault)} and {_named(region.peer_vault)}",
        "copy": f"{len(plan)} points, {sum(item.bytes for item in plan):,} bytes",
    } | {item.point: f"to {item.region}, {item.bytes:,} bytes" for item in plan}
    if not confirmed(args, shown):
        return DONE
    done = copy_region(region)
    result(
        args,
        {
            "copied": [item.to_json() for item in done if not item.reason],
            "failed": [item.to_json() for item in done if item.reason],
        },
    )
    return FAILED if any(item.reason for item in done) else DONE


def _probe(args: argparse.Namespace, region: Region) -> int:
    """Try both; one that cannot be reached is a trial that fails."""
    vaults = (region.vault, region.peer_vault)
    if not confirmed(args, {_named(vault): "some small objects are put under probe/, and removed" for vault in vaults}):
        return DONE
    found = [(vault, [*probe(vault)]) for vault in vaults]
    if args.json:
        print(
            json.dumps(
                [{"vault": _named(vault), "trials": [item.to_json() for item in tried]} for vault, tried in found]
            )
        )
    else:
        for vault, tried in found:
            print(_named(vault))
            for item in tried:
                print(f"  {'ok' if item.ok else 'NOT OK':<6}  {item.what}: {item.found}")
    return DONE if all(item.ok for _, tried in found for item in tried) else FAILED


def _bisect(args: argparse.Namespace, region: Region) -> int:
    spec = _spec(region, args.collection)
    floor = region.settings.recall_floor if args.floor is None else args.floor
    points = candidates(region.vault, spec, args.good)
    into = dsn_in(args.into_env)
    where = "in the store of --into-env" if into else f"beside {spec.name}"
    shown = {
        "vault": _named(region.vault),
        "reference": points[0].id,
        "candidates": f"{len(points)} points, up to {points[-1].id}",
        "restores": f"at most {math.ceil(math.log2(len(points))) + 1}, one at a time, {where}",
        "good is": f"a recall of at least {floor:g} of the reference's canaries"
        + (", and the check" if args.check else ""),
    }
    if not confirmed(args, shown):
        return DONE
    dsn = into or region.connections.memory_dsn
    with closing(open_store(region.settings.memory_store, dsn)) as store:
        done = bisect(
            store=store,
            vault=region.vault,
            spec=spec,
            floor=floor,
            good=args.good,
            check=Check(command=args.check) if args.check else None,
            dsn=dsn,
            progress=_say_tried,
        )
    result(args, done.to_json())
    if done.newest_good is None:
        say(f"none is good, not even the reference {done.reference}: name a better one with --good, or lower --floor")
        return FAILED
    if done.oldest_bad is None:
        say(f"all are good, up to the newest, {done.newest_good}")
    else:
        say(f"restore it with: relight restore --snapshot {done.newest_good}")
        say("what is in the journal is applied after it: wrong writes that went through the journal come back with it")
    return DONE


def _say_tried(tried: Tried) -> None:
    verdict = {True: "good", False: "bad", None: "cannot be told"}[tried.good]
    recall = "" if tried.recall is None else f", recall {tried.recall:.3f}"
    say(f"{tried.point}: {verdict}{recall}{': ' if tried.reason else ''}{tried.reason}")


def _spec(region: Region, name: str | None) -> CollectionSpec:
    names = ", ".join(spec.name for spec in region.specs)
    if name is None and len(region.specs) > 1:
        raise ConfigError("there are several collections", hint=f"give --collection, one of {names}")
    found = next((spec for spec in region.specs if name in (None, spec.name)), None)
    if found is None:
        raise NotFoundError(f"there is no collection {name!r}", hint=f"it is one of {names}")
    return found


def _named(vault: Vault) -> str:
    return f"{vault.bucket} in {vault.region}"


ACTIONS: dict[str, Callable[[argparse.Namespace, Region], int]] = {
    "list": _list,
    "show": _show,
    "verify": _verify,
    "prune": _prune,
    "copy": _copy,
    "probe": _probe,
    "bisect": _bisect,
    "hold": _hold,
    "release": _hold,
    "undelete": _undelete,
}
