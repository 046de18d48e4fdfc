"""List the recovery points in a region's vault: what could be restored there, and why not the others."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from relight.vault.points import survey
from relight_cli.console import DONE, add_region, open_region, say

if TYPE_CHECKING:
    import argparse


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the verb's options."""
    parser.add_argument("action", choices=["list"], help="what to do with them")
    parser.add_argument("--json", action="store_true", help="print JSON on stdout")
    add_region(parser)


def run(args: argparse.Namespace) -> int:
    """Print every point, newest first."""
    with open_region(args) as region:
        found = list(survey(region.vault))
        if args.json:
            rows = [{"id": item.id, "eligible": item.eligible, "reason": item.reason} for item in found]
            print(json.dumps(rows, indent=2))
            return DONE
        for item in found:
            size = sum(part.bytes for part in item.manifest.collections) if item.manifest else 0
            print(f"{item.id}  {size:>12,} bytes  {'eligible' if item.eligible else item.reason}")
        say(f"{len(found)} points in {region.settings.vault_bucket}, {sum(item.eligible for item in found)} eligible")
    return DONE
