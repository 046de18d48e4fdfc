"""The stacks of a world, synthesized once for all worlds that would get the same.

A synthesis starts node and takes a core 6 s, and each scenario of a drill has a world of its own.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
import shutil
import sys
from importlib import metadata, util
from pathlib import Path
from typing import TYPE_CHECKING

from relight_constructs.bundle import one_at_a_time

if TYPE_CHECKING:
    from collections.abc import Sequence

    from relight_drill.processes import ProcessGroup

SYNTH_S = 180.0
# What the stacks are made from: these packages, with the environments in them, and these distributions.
_PACKAGES = ("relight", "relight_constructs", "relight_stacks")
_DISTRIBUTIONS = ("cdktf", "cdktf-cdktf-provider-aws", "constructs", "jsii")
# The newest ones: another process may still be reading an earlier one.
_KEPT = 5


async def synthesize(arguments: Sequence[str | Path], *, cache: Path, group: ProcessGroup, folder: Path) -> Path:
    """What `python -m relight_stacks.app` writes when it is called with `arguments`: `folder`/cdktf.out.

    That is mostly a link into `cache`, whose entries are named by a hash of all that they were made from. Raises
    DrillError with what the command said when it fails.
    """
    out, scratch = folder / "cdktf.out", folder / "synth"
    found = cache / await asyncio.to_thread(_digest, arguments)
    if not found.is_dir():
        scratch.mkdir()
        await group.run(
            "synth",
            [sys.executable, "-P", "-m", "relight_stacks.app", "--output", scratch / "out", *arguments],
            log_path=folder / "synth.log",
            timeout_s=SYNTH_S,
            # What node unpacks goes with the world, even when it is killed half-way.
            env={**os.environ, "TMPDIR": str(scratch)},
        )
        if cache / await asyncio.to_thread(_digest, arguments) != found:
            # Somebody edited it meanwhile: nobody knows from which text it was made.
            return (scratch / "out").rename(out)
        await asyncio.to_thread(_keep, scratch / "out", found)
    out.symlink_to(found)
    return out


def _digest(arguments: Sequence[str | Path]) -> str:
    digest = hashlib.sha256()
    parts = [sys.version, *map(str, arguments), *(f"{name} {metadata.version(name)}" for name in _DISTRIBUTIONS)]
    for package in _PACKAGES:
        spec = util.find_spec(package)
        assert spec is not None and spec.origin is not None, package  # noqa: S101 - imported by the drill
        root = Path(spec.origin).parent
        for path in sorted(path for path in root.rglob("*") if path.is_file() and path.suffix != ".pyc"):
            parts += [f"{package}/{path.relative_to(root)}", hashlib.sha256(path.read_bytes()).hexdigest()]
    for part in parts:
        digest.update(part.encode() + b"\0")
    return digest.hexdigest()[:16]


def _keep(made: Path, place: Path) -> None:
    """Put it where others find it whole or not at all."""
    place.parent.mkdir(parents=True, exist_ok=True)
    with one_at_a_time(place.parent / "lock"):
        if place.is_dir():
            return
        for left in place.parent.glob("*.part"):
            shutil.rmtree(left)
        part = place.with_suffix(".part")
        shutil.copytree(made, part)
        part.rename(place)
        earlier = sorted(
            (path for path in place.parent.iterdir() if path.is_dir()), key=lambda path: path.stat().st_mtime
        )
        for path in earlier[:-_KEPT]:
            shutil.rmtree(path)
