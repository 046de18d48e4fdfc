"""A user's own check of a memory."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from relight.memory.scratch import Check, scratch_name


def test_a_check_is_told_what_to_look_at(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """Collection and address are in its environment, and what it prints is talk, not data."""
    told = tmp_path / "told"
    command = f'echo "$RELIGHT_COLLECTION at $RELIGHT_MEMORY_DSN" >{told}; echo looking'
    assert Check(command=command).run("notes", "postgres://:secret@host/db") == ""
    assert told.read_text() == "notes at postgres://:secret@host/db\n"
    said = capfd.readouterr()
    assert (said.out, said.err) == ("", "looking\n")


@pytest.mark.parametrize(
    ("command", "says"), [("exit 3", "exit code 3"), ("kill -9 $$", "exit code -9"), ("nosuch", "127")]
)
def test_a_check_that_fails_says_how(command: str, says: str) -> None:
    """fails when anything but exit code 0 passes."""
    assert says in Check(command=command).run("notes", "dsn")


def test_a_check_that_hangs_ends_with_its_children(tmp_path: Path) -> None:
    """fails when a check outlives its time, or leaves a process behind."""
    child = tmp_path / "child"
    found = Check(command=f"sleep 600 & echo $! >{child}; wait", within_s=2).run("notes", "dsn")
    assert "did not end within 2 s" in found
    pid = int(child.read_text())
    until = time.monotonic() + 10
    while time.monotonic() < until and _runs(pid):
        time.sleep(0.01)
    assert not _runs(pid)


def _runs(pid: int) -> bool:
    """Whether the process is there and no zombie that nobody has reaped yet."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_the_scratch_name_is_safe_everywhere() -> None:
    """The same for the same collection, apart for others and for each purpose, and of letters that any store takes."""
    names = {scratch_name(name, purpose) for name in ("a", "b", "../ü" * 60) for purpose in ("bisect", "rehearsal")}
    assert len(names) == 6
    assert all(name.isascii() and name.replace("_", "").isalnum() and len(name) < 40 for name in names)
    assert scratch_name("a", "bisect") in names
