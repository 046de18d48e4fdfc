"""A drill that is interrupted leaves nothing behind, whenever it happens."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from typing import TYPE_CHECKING

import psutil
import pytest

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.drill

# Lines after which the drill is interrupted; a moment after each, because what is under way then differs by machine.
MOMENTS = {
    "at once": "",
    "while servers start": "raising two regions",
    "while the operator prepares": "first day",
    "while the agent works": "is a pilot light",
    "after the fault": "loses its volume",
}


def ours(folder: Path) -> list[str]:
    """The processes that have to do with the folder."""
    found = []
    for process in psutil.process_iter():
        try:
            command = process.cmdline()
            words = [*command, process.cwd(), process.environ().get("TMPDIR", "")]
        except (psutil.NoSuchProcess, psutil.AccessDenied, psutil.ZombieProcess):
            continue
        if any(str(folder) in word for word in words):
            found.append(f"{process.pid} {' '.join(command)}")
    return found


@pytest.mark.parametrize(
    ("how", "moment"),
    [
        *((signal.SIGINT, moment) for moment in MOMENTS),
        (signal.SIGTERM, "while the agent works"),
        (signal.SIGKILL, "while the agent works"),
    ],
    ids=lambda value: value.name if isinstance(value, signal.Signals) else value.replace(" ", "-"),
)
def test_nothing_is_left_behind(server_dir: Path, moment: str, how: signal.Signals) -> None:
    """fails when it is interrupted: no process and no folder stays, and the exit code is not 0."""
    folder = server_dir / f"{how.name}-{moment.replace(' ', '-')}"
    folder.mkdir(mode=0o711)
    log = folder / "drill.log"
    with log.open("w") as output:
        drill = subprocess.Popen(
            [sys.executable, "-P", "-m", "relight_cli.main", "drill", "--scenario", "standby-boot"],
            stdout=output,
            stderr=output,
            env={**os.environ, "TMPDIR": str(folder)},
            start_new_session=True,
        )
    try:
        deadline = time.monotonic() + 120
        while MOMENTS[moment] not in log.read_text() and time.monotonic() < deadline:
            assert drill.poll() is None, log.read_text()
            time.sleep(0.05)
        time.sleep(0.7)
        drill.send_signal(how)
        code = drill.wait(60)
    finally:
        drill.kill()
    assert code != 0, log.read_text()
    if how is not signal.SIGKILL:
        assert "Traceback" not in log.read_text()
    # A drill that was killed cannot clean up; its keeper does, a moment later.
    deadline = time.monotonic() + 30
    while (left := ours(folder)) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert left == []
    while (stays := [path.name for path in folder.iterdir() if path != log]) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert stays == []
