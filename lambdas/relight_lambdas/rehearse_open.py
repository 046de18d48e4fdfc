"""Start the store that a rehearsal restores into. A state of the machine that rehearses."""

from __future__ import annotations

from typing import Any

from relight.recovery.rehearsal_place import Place
from relight.wiring import Region


def handler(event: dict[str, Any], _context: object) -> dict[str, Any]:
    """Return the store's address once it answers."""
    with Region.from_env() as region:
        return {"address": Place.of(region).open(event["execution"])}
