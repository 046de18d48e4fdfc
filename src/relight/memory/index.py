"""Keeping collections indexed, beside whatever searches and writes to them."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from relight.errors import NotFoundError, RelightError
from relight.memory.store import DEGRADED

if TYPE_CHECKING:
    import threading
    from collections.abc import Sequence

    from relight.memory.store import CollectionSpec, IndexState, VectorStore

log = logging.getLogger(__name__)

EVERY_S = 10.0


def build_indexes(*, store: VectorStore, specs: Sequence[CollectionSpec]) -> dict[str, IndexState]:
    """Build the index of each collection that lacks it, and return the states afterwards; blocks while it builds.

    Any number of processes may do so: one of them builds. Collections that do not exist are left out.
    """
    found = {}
    for spec in specs:
        try:
            found[spec.name] = store.build_index(spec.name)
        except NotFoundError:  # a restore has yet to make it
            continue
    return found


def keep_indexed(*, store: VectorStore, specs: Sequence[CollectionSpec], stop: threading.Event) -> None:
    """Look every ten seconds until `stop`: a restore serves exact search at once and leaves the index to this."""
    degraded: set[str] = set()
    while not stop.wait(EVERY_S):
        try:
            states = build_indexes(store=store, specs=specs)
        except RelightError as exc:
            log.warning("index_failed", extra={"error": str(exc)})
            continue
        now = {name for name, state in states.items() if state in DEGRADED}
        if now != degraded:
            log.info("index", extra={"degraded": sorted(now)})
        degraded = now
