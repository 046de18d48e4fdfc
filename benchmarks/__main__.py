"""`python -m benchmarks [NAME]... [--json PATH]`: run them all, or those named, and print a line per figure."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks import hydrate, journal, pgvector, queue, replay, router, snapshot, steps, sweep, synth
from benchmarks.figure import Figure, table_line

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

# One module each; a benchmark's function returns its figures.
BENCHMARKS: dict[str, Callable[[], list[Figure]]] = {
    "hydrate": hydrate.run,
    "journal": journal.run,
    "pgvector": pgvector.run,
    "queue": queue.run,
    "replay": replay.run,
    "router": router.run,
    "snapshot": snapshot.run,
    "steps": steps.run,
    "sweep": sweep.run,
    "synth": synth.run,
}


MISSED = 3


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; 0 when done, 2 for a name that there is not, 3 when an aim was missed."""
    parser = argparse.ArgumentParser(prog="bench", description="Measure Relight beside its peers.")
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"one of {', '.join(BENCHMARKS)}; all by default")
    parser.add_argument("--json", type=Path, metavar="PATH", help="write the figures there too")
    options = parser.parse_args(arguments)
    unknown = [name for name in options.names if name not in BENCHMARKS]
    if unknown:
        parser.error(f"no benchmark {', '.join(map(repr, unknown))}; there are: {', '.join(BENCHMARKS)}")
    figures: list[Figure] = []
    for name in dict.fromkeys(options.names or BENCHMARKS):
        print(f"running {name}", file=sys.stderr, flush=True)
        for figure in BENCHMARKS[name]():
            print(table_line(figure), flush=True)
            figures.append(figure)
    if options.json:
        options.json.write_text(json.dumps({"figures": [figure.to_json() for figure in figures]}, indent=2) + "\n")
    return MISSED if any(figure.missed for figure in figures) else 0


if __name__ == "__main__":
    sys.exit(main())
