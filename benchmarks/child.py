"""A transfer in a Python process of its own, which says how long it took and how much memory it added."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

ROOT = Path(__file__).resolve().parent.parent


@dataclass(frozen=True, slots=True, kw_only=True)
class Cost:
    """Wall time in seconds, and the most memory held above what the process held before it began, in MiB."""

    wall_s: float
    extra_mib: float


def run(module: str, *arguments: str, environment: Mapping[str, str]) -> Cost:
    """Run `python -m MODULE ARGUMENTS`, whose last act is `report`; SystemExit with its output when it fails."""
    command = [sys.executable, "-m", module, *arguments]
    done = subprocess.run(command, cwd=ROOT, env={**os.environ, **environment}, capture_output=True, text=True)
    if done.returncode != 0:
        sys.stderr.write(done.stderr)
        raise SystemExit(f"bench: {' '.join(command)} failed with exit code {done.returncode}")
    return Cost(**json.loads(done.stdout))


def quickest(costs: list[Cost]) -> Cost:
    """The one of several rounds that others on the machine disturbed least, with the most memory of any round."""
    return Cost(wall_s=min(cost.wall_s for cost in costs), extra_mib=max(cost.extra_mib for cost in costs))


def report(action: Callable[[], None]) -> None:
    """Do it, and print its cost for `run`."""
    before = _memory_mib("VmRSS")
    start = time.monotonic()
    action()
    wall_s = time.monotonic() - start
    print(json.dumps(asdict(Cost(wall_s=wall_s, extra_mib=_memory_mib("VmHWM") - before))))


def _memory_mib(what: str) -> float:
    # Not getrusage: what it calls the most of this process may be its parent's.
    for line in Path("/proc/self/status").read_text().splitlines():
        name, _, value = line.partition(":")
        if name == what:
            return int(value.split()[0]) / 1024
    raise SystemExit(f"bench: this system does not tell {what}")
