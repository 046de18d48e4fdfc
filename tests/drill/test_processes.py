"""The process group: nothing it started outlives it, however it ends."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import textwrap
import time
from typing import TYPE_CHECKING

import psutil
import pytest

from relight_drill.processes import DrillError, ProcessGroup, free_port, last_words, wait_until

if TYPE_CHECKING:
    from pathlib import Path

# A process with a child in its own session, and a grandchild whose parent is gone.
TREE = """
import os, subprocess, sys, time
sleeper = [sys.executable, "-c", "import time; time.sleep(600)"]
child = subprocess.Popen(sleeper, start_new_session=True)
parent = subprocess.run([sys.executable, "-c", "import subprocess, sys; print(subprocess.Popen(sys.argv[1:], "
    "start_new_session=True, stdout=subprocess.DEVNULL).pid)", *sleeper], stdout=subprocess.PIPE, text=True)
print(os.getpid(), child.pid, parent.stdout.strip(), flush=True)
time.sleep(600)
"""

DRILL = """
import sys, time
from pathlib import Path
from relight_drill.processes import ProcessGroup
folder, way = Path(sys.argv[1]), sys.argv[2]
group = ProcessGroup()
group.remove_at_end(folder / "scratch")
process = group.start("tree", [sys.executable, "-c", (folder / "tree.py").read_text()], log_path=folder / "log")
while len((folder / "log").read_text().split()) < 3:
    time.sleep(0.01)
print("up", flush=True)
if way == "raise":
    raise RuntimeError("as tests do")
if way == "exit":
    sys.exit(0)
time.sleep(600)
"""


def gone(pids: list[int]) -> bool:
    """Whether none of the processes runs (a zombie does not)."""
    for pid in pids:
        try:
            if psutil.Process(pid).status() != psutil.STATUS_ZOMBIE:
                return False
        except psutil.NoSuchProcess:
            continue
    return True


def until_gone(pids: list[int]) -> bool:
    deadline = time.monotonic() + 20
    while not gone(pids) and time.monotonic() < deadline:
        time.sleep(0.02)
    return gone(pids)


@pytest.mark.servers
@pytest.mark.parametrize("way", ["exit", "raise", signal.SIGINT, signal.SIGTERM, signal.SIGKILL], ids=str)
def test_no_process_and_no_scratch_is_left_however_the_drill_ends(way: str | int, tmp_path: Path) -> None:
    """Children, children in other sessions and orphans end with the drill: normally, by an error, and by signals."""
    (tmp_path / "tree.py").write_text(TREE)
    (tmp_path / "scratch").mkdir()
    drill = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(DRILL), str(tmp_path), str(way)],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    assert drill.stdout is not None
    assert drill.stdout.readline() == "up\n"
    below = [process.pid for process in psutil.Process(drill.pid).children(recursive=True)] if way != "exit" else []
    pids = [int(pid) for pid in (tmp_path / "log").read_text().split()]
    if isinstance(way, int):
        drill.send_signal(way)
    drill.wait(30)
    drill.stdout.close()
    assert until_gone([*pids, *below])
    deadline = time.monotonic() + 20
    while (tmp_path / "scratch").exists() and time.monotonic() < deadline:
        time.sleep(0.02)
    assert not (tmp_path / "scratch").exists()


@pytest.mark.servers
def test_children_die_with_their_keeper(tmp_path: Path) -> None:
    """A keeper that is killed takes its processes along, and the group says that it is gone."""
    with ProcessGroup() as group:
        process = group.start(
            "sleep", [sys.executable, "-c", "import time; time.sleep(600)"], log_path=tmp_path / "log"
        )
        group._keeper.kill()
        assert until_gone([process.pid])
        process.wait(timeout_s=10)
        with pytest.raises(DrillError, match="keeper"):
            group.start("more", [sys.executable], log_path=tmp_path / "log")


@pytest.mark.servers
def test_kill_takes_the_whole_tree(tmp_path: Path) -> None:
    """A killed process leaves no child behind, not even one that left its session, and says what ended it."""
    with ProcessGroup() as group:
        process = group.start(
            "tree",
            [sys.executable, "-c", "import subprocess, sys, time\np = subprocess.Popen([sys.executable, '-c', "
             "'import time; time.sleep(600)'], start_new_session=True)\nprint(p.pid, flush=True)\ntime.sleep(600)"],
            log_path=tmp_path / "log",
        )  # fmt: skip
        deadline = time.monotonic() + 20
        while not (tmp_path / "log").read_text().strip() and time.monotonic() < deadline:
            time.sleep(0.02)
        child = int((tmp_path / "log").read_text())
        process.kill()
        assert process.returncode == -signal.SIGKILL
        assert until_gone([child])
        process.kill()


@pytest.mark.parametrize("code", [0, 3])
def test_a_command_that_fails_shows_its_output(code: int, tmp_path: Path) -> None:
    """`run` returns after exit code 0, and otherwise raises with the code and the end of the output."""
    with ProcessGroup() as group:
        command = [sys.executable, "-c", f"import sys; print('the reason'); sys.exit({code})"]
        call = group.run("it", command, log_path=tmp_path / "log", timeout_s=20)
        if code == 0:
            asyncio.run(call)
        else:
            with pytest.raises(DrillError, match=r"exit code 3[\s\S]*the reason"):
                asyncio.run(call)


def test_a_program_that_does_not_exist_is_named(tmp_path: Path) -> None:
    """Starting fails when the program is missing, and the group goes on."""
    with ProcessGroup() as group:
        with pytest.raises(DrillError, match="no-such-program"):
            group.start("it", ["/no-such-program"], log_path=tmp_path / "log")
        process = group.start("ok", [sys.executable, "-c", ""], log_path=tmp_path / "log")
        assert process.wait(timeout_s=20) == 0


def test_a_wait_says_what_it_waited_for(tmp_path: Path) -> None:
    """A wait in vain names its condition, and ends at once when the process it is about ends."""
    with pytest.raises(DrillError, match="the moon to rise"):
        asyncio.run(wait_until(lambda: False, what="the moon to rise", timeout_s=0.01))
    with ProcessGroup() as group:
        process = group.start("short", [sys.executable, "-c", "print('bye')"], log_path=tmp_path / "log")
        with pytest.raises(DrillError, match=r"short ended with exit code 0 before[\s\S]*bye"):
            asyncio.run(wait_until(lambda: False, what="it to answer", timeout_s=250, process=process))


def test_free_ports_differ_and_lie_below_the_ephemeral_range() -> None:
    """No port is given twice, and none can be taken by an outgoing connection."""
    ports = [free_port() for _ in range(50)]
    assert len(set(ports)) == 50
    assert max(ports) < 32000


def test_the_drill_never_signals_a_process_that_ended(tmp_path: Path) -> None:
    """A signal to an ended process goes nowhere, even when its pid is in use again."""
    with ProcessGroup() as group:
        process = group.start("short", [sys.executable, "-c", ""], log_path=tmp_path / "log")
        process.wait(timeout_s=20)
        process.pid = os.getpid()
        process.send(signal.SIGKILL)


def test_what_processes_said_last(tmp_path: Path) -> None:
    """fails when who waits in vain for a process is not told what it wrote last, nor that it has ended."""
    with ProcessGroup() as group:
        program = "for number in range(9): print('line', number)"
        broken = group.start("broken", [sys.executable, "-c", program], log_path=tmp_path / "broken.log")
        asyncio.run(broken.wait_exit(timeout_s=20))
        said = last_words([broken], lines=2)
    assert said.startswith("broken ended with exit code 0: ")
    assert said.endswith("line 7\nline 8")
    assert last_words([]) == "none of them runs"
