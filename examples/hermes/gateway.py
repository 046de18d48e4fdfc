"""What stands in for Hermes here: starts workers, calls the plugin's tool, and shows what happens until all is done."""

from __future__ import annotations

import argparse
import json
import sys
import time
from contextlib import closing
from typing import TYPE_CHECKING

from examples.common import Place, add_effects, log_to, plainly, resolve, say, show_unknown
from examples.hermes.plugin import research_report

from relight.tasks.database import Database
from relight.tasks.effects import Effects
from relight.tasks.ledger import Ledger, Status
from relight_drill.processes import DrillError, ProcessGroup

if TYPE_CHECKING:
    from pathlib import Path

UNFINISHED = (Status.PENDING, Status.RUNNING)


class Tail:
    """Shows what is added to a file."""

    def __init__(self, path: Path) -> None:
        path.touch()
        self._file = path.open()
        self._file.seek(0, 2)

    def show(self) -> None:
        sys.stdout.write(self._file.read())
        sys.stdout.flush()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("topic", nargs="?", help="what to look into; without it, only go on with what is unfinished")
    parser.add_argument("--workers", type=int, default=2, help="how many processes work (default: 2)")
    add_effects(parser)
    args = parser.parse_args()
    place = Place.from_env()
    log_to(place.folder / "gateway.log")
    with plainly(), closing(Database(place.state_dsn)) as database, ProcessGroup() as group:
        ledger = Ledger(database, epoch=lambda: 1)
        resolve(Effects(ledger), args)
        if args.topic:
            say(f"research_report: {json.loads(research_report({'topic': args.topic}))}")
        tails = []
        for name in [f"worker-{number}" for number in range(1, args.workers + 1)]:
            output = place.folder / f"{name}.out"
            tails.append(Tail(output))
            group.start(name, [sys.executable, "-P", "-m", "examples.hermes.worker", name], log_path=output)
        while ledger.tasks(UNFINISHED):
            if not group.processes:
                raise DrillError("no worker is left", hint="run it again")
            time.sleep(0.2)
            for tail in tails:
                tail.show()
        for tail in tails:
            tail.show()
        for task in ledger.tasks([Status.PARKED]):
            say(f"{task.id} is parked: {task.error}")
        show_unknown(Effects(ledger))


if __name__ == "__main__":
    main()
