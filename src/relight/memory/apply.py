"""Keeping collections at the journal, beside whatever searches them."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING

from relight.errors import NotFoundError, RelightError
from relight.memory import journal
from relight.memory.api import Applier, Make
from relight.memory.journal import PrunedError
from relight.objectives import Pattern

if TYPE_CHECKING:
    import threading
    from collections.abc import Callable, Mapping, Sequence
    from contextlib import AbstractContextManager

    from relight.adapters.postgres import Connection
    from relight.clock import Clock
    from relight.config import Settings
    from relight.memory.segments import Archive
    from relight.memory.store import CollectionSpec, VectorStore
    from relight.recovery.gate import Readiness

log = logging.getLogger(__name__)

EVERY_S = 0.3
PUBLISH_EVERY_S = 60.0
# A hydration that was called when the store started has come to its end by then, or is still at work and says so.
HYDRATED_WITHIN_S = 900.0
# After an error the next round is later and later.
_AGAIN_S, _AGAIN_AT_MOST_S = 0.5, 30.0


class Applying(StrEnum):
    """What an applier may do now."""

    NOTHING = "nothing"
    HYDRATED = "hydrated"
    """Bring forward the collections that there are: one that is not there is hydration's to make, with a snapshot."""
    ALL = "all"
    """As HYDRATED, and make from the journal what is new; and, once hydration had its time, what it did not make."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Lag:
    """How far a collection is behind the journal, in seconds and in entries; None where it is not there yet."""

    seconds: float | None
    entries: int | None


def applying(settings: Settings, readiness: Readiness) -> Applying:
    """What a region's applier may do: all behind an open gate, and in an active-active standby always what is hydrated.

    In the other tiers the standby's store is brought up to the journal when it is needed.
    """
    if readiness.opened:
        return Applying.ALL
    return Applying.HYDRATED if settings.pattern is Pattern.ACTIVE_ACTIVE else Applying.NOTHING


def keep_applied(
    *,
    store: VectorStore,
    specs: Sequence[CollectionSpec],
    state: Callable[[], AbstractContextManager[Connection]],
    archive: Archive | None,
    stop: threading.Event,
    may_apply: Callable[[], Applying],
    publish: Callable[[Mapping[str, Lag]], None],
    clock: Clock,
    every_s: float = EVERY_S,
    publish_every_s: float = PUBLISH_EVERY_S,
) -> None:
    """Bring the collections up to the journal, again and again until `stop`, and publish how far they are behind.

    `state` opens a connection to the region's state database, which is kept for as long as it works. `may_apply` is
    asked before each round, and must not wait. `publish` gets the lag of each collection every `publish_every_s`,
    whatever may be applied; an error of it is logged and no reason to stop. After an error a round comes later, up to
    half a minute; one collection that cannot be brought forward does not hold up the others. One that the store lost
    with its volume is left to hydration, which has a snapshot, for a quarter of an hour. Any number may run.
    """
    published_at = float("-inf")
    names = [spec.name for spec in specs]
    wait_s = every_s
    absent: dict[str, float] = {}
    while not stop.wait(wait_s):
        try:
            with state() as connection:
                appliers = [
                    Applier(store=store, spec=spec, state=connection, archive=archive, clock=clock) for spec in specs
                ]
                while True:
                    failed = _apply(dict(zip(names, appliers, strict=True)), may_apply(), absent, clock.monotonic())
                    if clock.monotonic() - published_at >= publish_every_s:
                        published_at = clock.monotonic()
                        _publish(publish, {spec.name: lag_of(store, connection, spec) for spec in specs})
                    if failed is not None:
                        raise failed
                    wait_s = every_s
                    if stop.wait(every_s):
                        return
        except RelightError as exc:
            wait_s = min(max(wait_s * 2, _AGAIN_S), _AGAIN_AT_MOST_S)
            log.warning("applier_failed", extra={"error": str(exc), "again_s": wait_s})


def _apply(
    appliers: Mapping[str, Applier], mode: Applying, absent: dict[str, float], now: float
) -> RelightError | None:
    """Bring each collection forward that may be; the first error, when all were tried.

    `absent` is since when those have been awaited that hydration is to make.
    """
    if mode is not Applying.ALL:
        absent.clear()
    failed: RelightError | None = None
    for name, applier in appliers.items() if mode is not Applying.NOTHING else ():
        try:
            applier.catch_up(make=_make(mode, now - absent.get(name, now)))
        except RelightError as exc:
            if isinstance(exc, NotFoundError) and not isinstance(exc, PrunedError):
                absent.setdefault(name, now)
            else:
                failed = failed or exc
        else:
            absent.pop(name, None)
    return failed


def _make(mode: Applying, waited_s: float) -> Make:
    if mode is not Applying.ALL:
        return Make.NEVER
    return Make.YOUNG if waited_s < HYDRATED_WITHIN_S else Make.ALWAYS


def lag_of(store: VectorStore, state: Connection, spec: CollectionSpec) -> Lag:
    """How far the collection is behind what the journal of this region has."""
    try:
        position = store.position(spec.name)
    except NotFoundError:
        return Lag(seconds=None, entries=None)
    return Lag(seconds=journal.lag_s(state, spec.name, position), entries=journal.behind(state, spec.name, position))


def _publish(publish: Callable[[Mapping[str, Lag]], None], lag: Mapping[str, Lag]) -> None:
    try:
        publish(lag)
    except RelightError as exc:
        log.warning("lag_not_published", extra={"error": str(exc)})
