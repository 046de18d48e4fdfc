"""Create or refresh `.venv` from the pinned, hashed constraints. Needs Python 3.11 or newer and nothing else.

Prints what it does; does nothing when nothing changed. The pins go in first, then the project without dependencies,
because pip refuses an editable project under --require-hashes.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import subprocess
import sys
import venv
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
VENV = ROOT / ".venv"
STAMP = VENV / "relight-setup"
LOCK = ROOT / ".relight" / "setup.lock"
INPUTS = [ROOT / "constraints.txt", ROOT / "pyproject.toml", Path(__file__).resolve()]


def fingerprint() -> str:
    """What the environment was made from: the inputs, the interpreter and the place."""
    digest = hashlib.sha256(f"{sys.version} {ROOT}".encode())
    for path in INPUTS:
        digest.update(path.read_bytes())
    return digest.hexdigest()


def run(*command: str | Path) -> None:
    """Run one step; its output is shown only when it fails."""
    done = subprocess.run([str(part) for part in command], cwd=ROOT, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        sys.stderr.write(done.stdout + done.stderr)
        raise SystemExit(f"setup: {' '.join(str(part) for part in command)} failed with exit code {done.returncode}")


def say(text: str) -> None:
    """Talk on stderr, so that a command's stdout stays its own."""
    print(f"setup: {text}", file=sys.stderr, flush=True)


def main() -> None:
    if sys.version_info < (3, 11):  # noqa: UP036 - this file is what an older interpreter gets to run
        raise SystemExit(f"setup: Python {sys.version.split()[0]} is too old; run with Python 3.11 or newer")
    if is_current():
        return
    LOCK.parent.mkdir(exist_ok=True)
    with LOCK.open("w") as lock:
        # Two commands started at once would both write to .venv.
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not is_current():
            refresh()


def is_current() -> bool:
    """Whether .venv was made from what is here now."""
    return STAMP.is_file() and STAMP.read_text() == fingerprint()


def refresh() -> None:
    """Bring .venv to the pins, in place: a failure leaves what was there, and the next try goes on from it."""
    python = VENV / "bin" / "python"
    if not is_usable(python):
        say(f"creating .venv with Python {sys.version.split()[0]}")
        venv.create(VENV, clear=VENV.exists(), with_pip=True, symlinks=os.name != "nt")
    else:
        say("the pins or the project changed: refreshing .venv")
    STAMP.unlink(missing_ok=True)
    uv_pin = VENV / "uv-pin.txt"
    uv_pin.write_text(pin_of("uv", (ROOT / "constraints.txt").read_text()))
    say("installing uv")
    run(python, "-m", "pip", "install", "--quiet", "--no-deps", "--require-hashes", "-r", uv_pin)
    say("installing the pinned dependencies (about 900 MB unpacked, a minute on a good line)")
    install: list[str | Path] = [VENV / "bin" / "uv", "pip", "install", "--quiet", "--python", python]
    run(*install, "--require-hashes", "--requirement", "constraints.txt")
    say("installing the project")
    run(*install, "--no-deps", "--editable", ".")
    STAMP.write_text(fingerprint())
    say("ready")


def is_usable(python: Path) -> bool:
    """Whether the environment's interpreter runs, has pip, and is of this version."""
    ask = "import sys, pip; print(sys.version)"
    done = subprocess.run([python, "-c", ask], capture_output=True, text=True, check=False) if python.exists() else None
    return done is not None and done.returncode == 0 and done.stdout.strip() == sys.version


def pin_of(name: str, constraints: str) -> str:
    """The lines of one pin with its hashes."""
    lines = constraints.splitlines()
    start = next(i for i, line in enumerate(lines) if line.startswith(f"{name}=="))
    end = next((i for i in range(start + 1, len(lines)) if not lines[i].startswith("    --hash")), len(lines))
    return "\n".join(lines[start:end]).rstrip(" \\") + "\n"


if __name__ == "__main__":
    main()
