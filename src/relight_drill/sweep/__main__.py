"""`python -m relight_drill.sweep [PLAN]...`: do these runs again, or record the scenarios and say what they send."""

from __future__ import annotations

import asyncio
import sys
import tempfile
from pathlib import Path

from relight_drill.processes import ProcessGroup
from relight_drill.sweep.runs import Lane, Plan, servers
from relight_drill.sweep.shapes import SCENARIOS


def main(plans: list[str]) -> int:
    """Print an outcome for each; 1 when there were violations."""
    folder = Path(tempfile.mkdtemp(prefix="relight-sweep-"))
    folder.chmod(0o711)
    with ProcessGroup() as group:
        group.remove_at_end(folder)
        return asyncio.run(_run(group, folder, plans))


async def _run(group: ProcessGroup, folder: Path, plans: list[str]) -> int:
    broken = 0
    async with servers(group, folder) as found:
        lane = Lane(found, "replay")
        await lane.open()
        for text in plans:
            plan = Plan.parse(text)
            outcome = await lane.run(plan, await lane.record(plan.scenario))
            broken += bool(outcome.violations)
            said = "no violation" if outcome.reached else "the point did not come up"
            print(outcome if outcome.violations else f"{plan}: {said}")  # noqa: T201
        for name in () if plans else SCENARIOS:
            baseline = await lane.record(name)
            print(name, *baseline.statements, sep="\n  ")  # noqa: T201
        await lane.close()
    return 1 if broken else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
