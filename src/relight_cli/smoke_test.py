"""Look at everything a recovery in this region would need, and change nothing."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import TYPE_CHECKING

from relight.recovery.smoke import smoke_test
from relight_cli.console import DONE, FAILED, add_region, open_region, say

if TYPE_CHECKING:
    import argparse


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the verb's options."""
    parser.add_argument("--json", action="store_true", help="print JSON on stdout")
    add_region(parser)


def run(args: argparse.Namespace) -> int:
    """Print one line per check; fail when one of them does."""
    with open_region(args) as region:
        checks = []
        for check in smoke_test(region):
            checks.append(check)
            if not args.json:
                print(f"{'ok  ' if check.ok else 'FAIL'}  {check.name:<17} {check.found}")
    if args.json:
        print(json.dumps([asdict(check) for check in checks], indent=2))
    failed = [check.name for check in checks if not check.ok]
    say(f"{len(failed)} of {len(checks)} checks failed: {', '.join(failed)}" if failed else "all checks passed")
    return FAILED if failed else DONE
