"""Watch the primary until the next watch begins, and start the recovery when it is lost."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from relight.recovery.run import watch_primary
from relight.wiring import Region


def handler(_event: dict[str, Any], _context: object) -> dict[str, Any]:
    """Run on a schedule of one minute; return the last verdict and its reasons."""
    with Region.from_env() as region:
        return asdict(watch_primary(region))
