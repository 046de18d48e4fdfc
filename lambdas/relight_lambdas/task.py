"""The same core as an ECS task, for what is too large for a function: `python -P -m relight_lambdas.task VERB`.

It prints the result as JSON, and ends with exit code 1 when the verb failed. Its log is on stderr, a line of JSON
for each record.
"""

from __future__ import annotations

import argparse
import json
import logging
import sys
from typing import TYPE_CHECKING, Any

from relight.errors import RelightError
from relight.recovery.copying import catch_up
from relight.recovery.points import take_point, verify_region
from relight.recovery.rehearsal_place import rehearse_there
from relight.recovery.run import Run, run_state
from relight.wiring import Region

if TYPE_CHECKING:
    from collections.abc import Sequence

_log = logging.getLogger(__name__)


# What every record has; `message` and `asctime` come when one is formatted.
_STANDARD = {*vars(logging.makeLogRecord({})), "message", "asctime"}


class JsonLines(logging.Formatter):
    """A record as Lambda writes it, with what its `extra` says."""

    def format(self, record: logging.LogRecord) -> str:
        """One line of JSON."""
        extra = {name: value for name, value in vars(record).items() if name not in _STANDARD}
        line = {"level": record.levelname, "logger": record.name, "message": record.getMessage()}
        error = {"error": self.formatException(record.exc_info)} if record.exc_info else {}
        return json.dumps(extra | line | error, default=str)


def do(options: argparse.Namespace, region: Region) -> dict[str, Any]:
    """Hydrate under the run's own timeline, take a recovery point, fetch those of the other vault, rehearse one, or
    read all that nobody has read."""
    if options.verb == "copy":
        return catch_up(region).or_raise().to_json()
    if options.verb == "rehearse":
        return rehearse_there(region, options.address, point=options.point).or_raise().to_json()
    if options.verb == "hydrate":
        return run_state("hydrate", region, Run.parse({"run_id": options.run_id}))
    if options.verb == "verify":
        return verify_region(region, within_s=None).or_raise().to_json()
    return take_point(region)


def main(argv: Sequence[str] | None = None) -> int:
    """Run one verb to its end, however long that takes."""
    parser = argparse.ArgumentParser(prog="relight_lambdas.task")
    parser.add_argument("verb", choices=["copy", "hydrate", "rehearse", "snapshot", "verify"])
    parser.add_argument("--run-id", default="", help="the recovery's run, for hydrate")
    parser.add_argument("--address", default="", help="where the store of the rehearsal is")
    parser.add_argument("--point", help="the point to rehearse")
    options = parser.parse_args(argv)
    lines = logging.StreamHandler()
    lines.setFormatter(JsonLines())
    logging.basicConfig(level=logging.INFO, handlers=[lines])
    try:
        with Region.from_env() as region:
            sys.stdout.write(json.dumps(do(options, region), default=str) + "\n")
    except RelightError:
        _log.exception("task_failed")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
