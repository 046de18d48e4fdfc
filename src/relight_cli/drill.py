"""Raise two regions on this machine, destroy something, and measure the recovery.

Exit code 0: every objective was met and nothing was lost or duplicated; 3: not so; 1: the drill itself failed.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from relight_drill.scenarios import SCENARIOS

from relight.objectives import Tier


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the verb's options."""
    parser.add_argument(
        "--scenario",
        action="append",
        choices=[*SCENARIOS],
        metavar="NAME",
        help=f"one of {', '.join(SCENARIOS)}; may be repeated (default: all)",
    )
    parser.add_argument("--tier", type=Tier, choices=[*Tier], help="only environments of this tier (default: internal)")
    parser.add_argument(
        "--seed", type=int, default=1, metavar="N", help="decides how and when the fault strikes (default: 1)"
    )
    parser.add_argument("--json", type=Path, metavar="PATH", help="write the result as JSON")
    parser.add_argument("--report", type=Path, metavar="PATH", help="write the report as text")
    parser.add_argument(
        "--keep", action="store_true", help="keep the world's folder: logs, databases, synthesized stacks"
    )
