"""The kill sweep: at least 2,000 kill points, each a worker that is killed or stopped at one statement, and recovered.

The statements are those to PostgreSQL (a primary that waits for its standby), to NATS JetStream and to tools, in 19
workloads: tasks of several shapes, with a queue and without. Each point is a statement and a moment: before the server
has it, after it answered, in between, or stopped there while others recover and let go on afterwards. The recovery is
seeded: the same epoch or the next, the queue kept or wiped, the claims just over or hours ago, a caller that repeats
what was not acknowledged or does not, a second kill. Waits of seconds and hours are played; see `relight_drill.sweep`.

Every violation is printed with the command that does its run again.
"""

from __future__ import annotations

import asyncio
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks.figure import Figure
from relight_drill.processes import ProcessGroup
from relight_drill.sweep.runs import Lane, plans_for, record_all, servers, sweep, table_of

if TYPE_CHECKING:
    from relight_drill.sweep.runs import Outcome

POINTS = 2_000
SEED = 4
LANES = 6


def run() -> list[Figure]:
    """How many points were reached, and in how many runs a promise was broken."""
    folder = Path(tempfile.mkdtemp(prefix="relight-sweep-"))
    folder.chmod(0o711)
    with ProcessGroup() as group:
        group.remove_at_end(folder)
        outcomes = asyncio.run(_sweep(group, folder))
    print(table_of(outcomes), flush=True)
    points = sum(outcome.reached for outcome in outcomes)
    broken = sum(bool(outcome.violations) for outcome in outcomes)
    return [
        Figure(
            name="kill_points", unit="points", ours=points, peer=POINTS, peer_name=f"asked, seed {SEED}", at_least=1.0
        ),
        Figure(
            name="kill_violations", unit="runs", ours=broken, peer=max(points, 1), peer_name="points", at_most=0.0
        ),
    ]  # fmt: skip


async def _sweep(group: ProcessGroup, folder: Path) -> list[Outcome]:
    async with servers(group, folder) as found:
        lanes = [Lane(found, f"sweep{number}") for number in range(LANES)]
        for lane in lanes:
            await lane.open()
        try:
            baselines = await record_all(lanes)
            plans = plans_for(baselines, seed=SEED)
            print(f"{len(plans)} points in {len(baselines)} workloads", file=sys.stderr, flush=True)
            began = time.monotonic()

            def say(outcome: Outcome, reached: int) -> None:
                if outcome.violations:
                    print(outcome, file=sys.stderr, flush=True)
                if outcome.reached and reached % 100 == 0:
                    print(f"{reached} points in {time.monotonic() - began:.0f} s", file=sys.stderr, flush=True)

            return await sweep(lanes, plans, baselines, points=POINTS, say=say)
        finally:
            for lane in lanes:
                await lane.close()
