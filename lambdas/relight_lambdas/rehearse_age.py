"""Say how long ago the newest rehearsal was that went well. Runs on a schedule where there are rehearsals."""

from __future__ import annotations

from typing import Any

from relight.recovery.rehearsal import publish_age
from relight.wiring import Region


def handler(_event: dict[str, Any], _context: object) -> dict[str, Any]:
    """Return what was published."""
    with Region.from_env() as region:
        return publish_age(region)
