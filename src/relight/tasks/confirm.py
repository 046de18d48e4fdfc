"""What a commit's confirmation by the standby means, whether it is given now, and how long it took."""

from __future__ import annotations

import logging
import math
import re
import threading
import time
from dataclasses import dataclass
from enum import Enum, StrEnum, auto
from typing import TYPE_CHECKING, Any, NamedTuple

from relight.config import ConfirmBy, OnStandbyAway
from relight.errors import RelightError, UnavailableError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from datetime import datetime

    from relight.clock import Clock

log = logging.getLogger(__name__)

# While the promise is suspended, one commit in this time looks whether the standby is back; while it is kept, one looks
# whether there still is a standby that commits wait for.
LOOK_AWAY_EVERY_S = 1.0
LOOK_KEPT_EVERY_S = 10.0
# The share of the time waited so far after which positions are asked for again, and its bounds.
POLL_SHARE = 0.1
POLL_LEAST_S, POLL_MOST_S = 0.001, 0.1
# The upper bound of the first of the histogram's buckets; each is the square root of two times the one before.
_FIRST_S, _BUCKETS = 0.0001, 42


class Confirm(Enum):
    """Whether a call returns only when its commit is in the standby."""

    NO = auto()
    """It is durable in this region."""
    POLICY = auto()
    """It is in the standby; while the standby is away, what the environment's `on_standby_away` says."""
    ALWAYS = auto()
    """It is in the standby, whatever the environment says: for the intent of a side effect.

    In a region whose database has no standby at all (a region that was just relit), there is nobody to wait for, and it
    counts at once: else such a region could do nothing.
    """


class Standing(StrEnum):
    """How the promise stands that what is acknowledged is in the standby."""

    KEPT = "kept"
    """The standby confirms commits."""
    STALLED = "stalled"
    """The standby is away, and nothing is acknowledged until it is back."""
    SUSPENDED = "suspended"
    """The standby is away, and what is acknowledged is in this region alone."""
    NOBODY = "nobody"
    """This database has no standby, and what is acknowledged is in this region alone."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Promise:
    """How the promise stands, since when (as far as this process has seen), and why; `reason` is "" when it is kept."""

    state: Standing
    since: datetime
    reason: str = ""

    @property
    def kept(self) -> bool:
        """Whether everything that is acknowledged now is in the standby too."""
        return self.state in (Standing.KEPT, Standing.STALLED)


@dataclass(frozen=True, slots=True, kw_only=True)
class Confirmations:
    """How long confirmations took since this process began, as the caller saw it.

    Under `ConfirmBy.COMMIT` that is the commit (or the one statement) with the wait in it, under `POSITION` the wait
    after the local commit. `unconfirmed` counts those that were given up and raised UnconfirmedError, `proceeded` those
    that count without a confirmation. The times of the given up are not among the others.
    """

    count: int
    total_s: float
    longest_s: float
    unconfirmed: int
    proceeded: int
    buckets: tuple[tuple[float, int], ...]
    """How many took at most so many seconds, and longer than the bucket before; empty ones left out."""

    @property
    def mean_s(self) -> float:
        """Seconds; 0 when there was none."""
        return self.total_s / self.count if self.count else 0.0

    def percentile_s(self, share: float) -> float:
        """What `share` (from 0 to 1) of them did not exceed, to within a factor of 1.42; 0 when there was none."""
        left = share * self.count
        for bound_s, count in self.buckets:
            left -= count
            if left <= 0:
                return min(bound_s, self.longest_s)
        return self.longest_s


class Stopwatch:
    """Counts confirmations; safe to share between threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._counts = [0] * _BUCKETS
        self._total_s = 0.0
        self._longest_s = 0.0
        self._unconfirmed = 0
        self._proceeded = 0

    def confirmed(self, seconds: float) -> None:
        """One was confirmed after `seconds`."""
        number = math.ceil(2 * math.log2(seconds / _FIRST_S)) if seconds > _FIRST_S else 0
        with self._lock:
            self._counts[min(number, _BUCKETS - 1)] += 1
            self._total_s += seconds
            self._longest_s = max(self._longest_s, seconds)

    def unconfirmed(self) -> None:
        """One was given up, and its caller told so."""
        with self._lock:
            self._unconfirmed += 1

    def proceeded(self) -> None:
        """One counts without a confirmation."""
        with self._lock:
            self._proceeded += 1

    def read(self) -> Confirmations:
        """The counts up to now."""
        with self._lock:
            return Confirmations(
                count=sum(self._counts),
                total_s=self._total_s,
                longest_s=self._longest_s,
                unconfirmed=self._unconfirmed,
                proceeded=self._proceeded,
                buckets=tuple(
                    (_FIRST_S * 2 ** (number / 2), count) for number, count in enumerate(self._counts) if count
                ),
            )


class Level(StrEnum):
    """A session's `synchronous_commit`."""

    LOCAL = "local"
    REMOTE = "remote_write"


class Mark(NamedTuple):
    """A position in the log: bytes since its beginning, on a timeline. A promotion begins another timeline."""

    at: int
    timeline: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    """What a server said of its standbys.

    `confirmed` is how far enough of them have come, None while fewer are connected. `nobody` says why there is no
    standby to wait for, `away` what is to be said of those that do not confirm. `blind`: this user may not see the
    standbys that commits wait for, so that only a commit can tell.
    """

    written: Mark
    confirmed: int | None = None
    nobody: str = ""
    away: str = ""
    blind: bool = False

    def has(self, mark: Mark) -> bool:
        """Whether the standbys have come to `mark`."""
        return self.confirmed is not None and self.written.timeline == mark.timeline and self.confirmed >= mark.at


def read_standbys(row: Sequence[Any], *, by: ConfirmBy, replicas: int) -> Seen:
    """What a row of the statement `standbys` says.

    Under `COMMIT` the standbys are those that the server itself waits for, and what counts is `write_lsn`, as it does
    for `synchronous_commit = remote_write`. Under `POSITION` it is `flush_lsn`, of all replicas: an asynchronous
    replica is far away, so that its fsync adds little, and what it has flushed outlives the loss of its host too.
    Clients that only copy the log (a base backup) report no flush. Under `AURORA` the row is that of `aurora_standbys`:
    how far the storage of the other regions has come, of as many as must have it.
    """
    in_recovery, names, written, timeline, unreadable, synchronous, flushed = row
    if in_recovery:
        return Seen(written=Mark(0, 0), nobody="this database is a replica, and commits nothing")
    mark = Mark(written, timeline)
    if by is ConfirmBy.COMMIT:
        needed, positions, kind = _needed(names), synchronous, "synchronous standbys"
        nobody = "" if needed else "synchronous_standby_names is empty"
    else:
        kind = "other regions" if by is ConfirmBy.AURORA else "replicas"
        needed, positions = replicas, flushed
        nobody = "" if needed else "confirm_replicas is 0"
    if nobody:
        return Seen(written=mark, nobody=nobody)
    if len(positions) < needed:
        hidden = f", and {unreadable} that this user may not see: grant it pg_read_all_stats" if unreadable else ""
        away = f"{len(positions)} of {needed} {kind} connected{hidden}"
        return Seen(written=mark, away=away, blind=bool(hidden) and by is ConfirmBy.COMMIT)
    confirmed = sorted(positions, reverse=True)[needed - 1]
    return Seen(written=mark, confirmed=confirmed, away=f"{kind} lack {max(0, written - confirmed)} bytes of the log")


def _needed(names: str) -> int:
    """How many standbys `synchronous_standby_names` makes a commit wait for."""
    if not names.strip():
        return 0
    counted = re.match(r"\s*(?:(?:first|any)\s+)?(\d+)\s*\(", names, re.IGNORECASE)
    return int(counted[1]) if counted else 1


class Positions:
    """Waits until the standbys have come to a position of the log.

    However many wait, one of them asks the server and tells the others. `ask` raises what RelightError it likes, and
    takes seconds at most; `reset` is called when it asked another server than the one that wrote what is waited for.
    """

    def __init__(self, *, ask: Callable[[], Seen], reset: Callable[[], None]) -> None:
        self._ask = ask
        self._reset = reset
        self._changed = threading.Condition(threading.Lock())
        self._newest: Seen | None = None
        self._failed: RelightError | None = None
        self._asked = 0
        self._led = False
        self._on_its_way = False
        self._came_at = 0.0

    def look(self) -> Seen:
        """What the server says now."""
        return self._ask()

    def wait(self, mark: Mark | None, *, within_s: float) -> tuple[bool, Seen]:
        """Wait for `mark`, by default what is written now; whether the standbys have come there, and what was seen.

        True also where there is nothing to wait for: no standby, or none that may be seen. Raises what asking last
        raised when nothing was seen.
        """
        came_at = time.monotonic()
        until = came_at + within_s
        with self._changed:
            self._came_at = came_at
            # The answer to a question that is on its way may be of before.
            first = self._asked + (2 if self._on_its_way else 1)
            while True:
                fresh, seen = self._asked >= first, self._newest
                if seen is not None and (fresh or mark is not None):
                    mark = mark or seen.written
                    if seen.has(mark) or (fresh and (seen.nobody or seen.blind)):
                        return True, seen
                    if fresh and seen.written.timeline != mark.timeline:
                        self._reset()
                left_s = until - time.monotonic()
                if left_s <= 0:
                    if seen is not None:
                        return False, seen
                    raise self._failed or UnavailableError(f"postgres said nothing of its standbys for {within_s:g} s")
                if self._led:
                    self._changed.wait(left_s)
                else:
                    self._lead(left_s if fresh else 0.0)

    def _lead(self, pause_at_most_s: float) -> None:
        """Pause for a share of the time waited so far, ask, and tell everybody."""
        self._led = True
        try:
            waited_s = time.monotonic() - self._came_at
            pause_s = min(max(waited_s * POLL_SHARE, POLL_LEAST_S), POLL_MOST_S, pause_at_most_s)
            if pause_s > 0:
                self._changed.wait_for(lambda: False, pause_s)
            self._ask_unlocked()
        finally:
            self._led = False
            self._changed.notify_all()

    def _ask_unlocked(self) -> None:
        seen, failed = None, None
        self._on_its_way = True
        self._changed.release()
        try:
            seen = self._ask()
        except RelightError as exc:
            failed = exc
        finally:
            self._changed.acquire()
            self._on_its_way = False
            self._newest, self._failed = seen, failed
            self._asked += 1


class PromiseLog:
    """How the promise stands, as the commits and the looks of this process found; each change is logged once."""

    def __init__(self, *, on_away: OnStandbyAway, clock: Clock) -> None:
        self._away = Standing.SUSPENDED if on_away is OnStandbyAway.PROCEED else Standing.STALLED
        self._clock = clock
        self._lock = threading.Lock()
        self._promise: Promise | None = None
        self._looked_at = -math.inf
        self._written: Mark | None = None

    @property
    def now(self) -> Promise | None:
        """None before anything was found."""
        return self._promise

    @property
    def is_away(self) -> bool:
        """Whether the standby did not confirm what it was last asked."""
        return self._promise is not None and self._promise.state is self._away

    def kept(self) -> Promise:
        """The standby confirmed."""
        return self._become(Standing.KEPT, "")

    def nobody(self, reason: str) -> Promise:
        """There is no standby."""
        return self._become(Standing.NOBODY, reason)

    def away(self, reason: str) -> Promise:
        """The standby did not confirm in time."""
        return self._become(self._away, reason)

    def is_due(self) -> bool:
        """Whether it is time to look again; says so to one caller only."""
        every_s = LOOK_AWAY_EVERY_S if self.is_away else LOOK_KEPT_EVERY_S
        now = self._clock.monotonic()
        with self._lock:
            due = now - self._looked_at >= every_s
            if due:
                self._looked_at = now
        return due

    def is_back(self, seen: Seen) -> bool:
        """Whether a standby that was away is worth waiting for: it has all, or what it lacked at the last look."""
        with self._lock:
            before, self._written = self._written, seen.written
        return bool(seen.nobody) or seen.blind or seen.has(seen.written) or (before is not None and seen.has(before))

    def _become(self, state: Standing, reason: str) -> Promise:
        with self._lock:
            before = self._promise
            if before is not None and before.state is state:
                return before
            self._promise = Promise(state=state, since=self._clock.now(), reason=reason)
            if state is not self._away:
                self._written = None
            found = self._promise
        if before is None and state is Standing.KEPT:
            return found  # as it should be: nothing has changed
        log.log(
            logging.INFO if state is Standing.KEPT else logging.WARNING,
            "promise_changed",
            extra={"state": state.value, "before": before and before.state.value, "reason": reason},
        )
        return found
