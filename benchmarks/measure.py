"""Running a command while watching what it and all of its children take."""

from __future__ import annotations

import resource
import subprocess
import sys
import threading
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

import psutil

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

_SAMPLE_S = 0.02


@dataclass(frozen=True, slots=True, kw_only=True)
class Usage:
    """Wall time and processor time in seconds, and the most memory held at one moment, of the command and its
    children, in MiB.

    Memory is the sum of what each has resident, so what they share counts for each. Processor time is what a busy
    machine does not change.
    """

    wall_s: float
    cpu_s: float
    peak_mib: float


def run(command: Sequence[str], *, cwd: Path, environment: Mapping[str, str] | None = None) -> Usage:
    """Run `command` to its end, in our own environment unless another is given; SystemExit with its output when it
    fails."""
    start, before_s = time.monotonic(), _children_s()
    process = subprocess.Popen(
        command, cwd=cwd, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    peak = [0]
    watcher = threading.Thread(target=_watch, args=(process, peak), daemon=True)
    watcher.start()
    output, _ = process.communicate()
    wall_s = time.monotonic() - start
    watcher.join()
    if process.returncode != 0:
        sys.stderr.write(output)
        raise SystemExit(f"bench: {' '.join(command)} failed with exit code {process.returncode}")
    return Usage(wall_s=wall_s, cpu_s=_children_s() - before_s, peak_mib=peak[0] / 2**20)


def _children_s() -> float:
    """The processor time of everything that was started and has been waited for."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def _watch(process: subprocess.Popen[str], peak: list[int]) -> None:
    root = psutil.Process(process.pid)
    while process.poll() is None:
        peak[0] = max(peak[0], _held(root))
        time.sleep(_SAMPLE_S)


def _held(root: psutil.Process) -> int:
    total = 0
    try:
        family = [root, *root.children(recursive=True)]
    except psutil.Error:
        return 0
    for member in family:
        try:
            total += member.memory_info().rss
        except psutil.Error:
            continue
    return total
