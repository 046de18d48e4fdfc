"""Tools whose pins clash with the project's: each in an environment of its own, made from hashed requirements.

An environment lives under the interpreter's prefix and is named by what it was made from, so that a new pin makes a new
one and nothing is done when it exists.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import sys
import sysconfig
from contextlib import contextmanager
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING

from relight_drill.processes import DrillError, ProcessGroup

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

NAMES = ("checkov", "emulator")
INSTALL_S = 600.0


def python_of(
    name: str, *, group: ProcessGroup | None = None, base: Path | None = None, say: Callable[[str], None] | None = None
) -> Path:
    """The interpreter of the tool's environment, which is made first where it is missing (blocks for a minute then).

    `say` is told when there is something to wait for; `base` is the folder of the environments.
    """
    if name not in NAMES:
        raise DrillError(f"there is no tool {name!r}", hint=f"the tools are {', '.join(NAMES)}")
    requirements = files("relight_drill").joinpath("requirements", f"{name}.txt").read_bytes()
    digest = hashlib.sha256(requirements + sys.version.encode()).hexdigest()[:16]
    base = base or Path(sys.prefix) / "relight-tools"
    place = base / f"{name}-{digest}"
    python = place / "bin" / "python"
    stamp = place / "complete"
    if stamp.is_file():
        return python
    base.mkdir(parents=True, exist_ok=True)
    with _lock(base / f"{name}.lock"):
        if stamp.is_file():
            return python
        if say is not None:
            say(f"installing {name} into an environment of its own (once)")
        shutil.rmtree(place, ignore_errors=True)
        pins = base / f"{name}-{digest}.txt"
        pins.write_bytes(requirements)
        if group is not None:
            _make(group, place, pins)
        else:
            with ProcessGroup() as own:
                _make(own, place, pins)
        stamp.touch()
    return python


def _make(group: ProcessGroup, place: Path, pins: Path) -> None:
    uv = Path(sysconfig.get_path("scripts")) / "uv"
    log = pins.with_suffix(".log")
    log.unlink(missing_ok=True)
    env = {name: value for name, value in os.environ.items() if name not in ("VIRTUAL_ENV", "PYTHONPATH")}
    commands: tuple[list[str | Path], ...] = (
        [uv, "venv", "--quiet", "--no-project", "--python", sys.executable, place],
        [uv, "pip", "install", "--quiet", "--python", place / "bin" / "python", "--compile-bytecode",
         "--require-hashes", "--requirement", pins],
    )  # fmt: skip
    for command in commands:
        process = group.start(f"uv {command[1]}", command, log_path=log, env=env, cwd=pins.parent)
        try:
            code = process.wait(timeout_s=INSTALL_S)
        finally:
            process.kill()
        if code != 0:
            raise DrillError(f"making the environment {place} failed with exit code {code}", hint=process.log_tail())


@contextmanager
def _lock(path: Path) -> Iterator[None]:
    """Only one process makes an environment; the lock goes with its holder."""
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
