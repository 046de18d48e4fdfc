"""Copying to the region's own vault what only the other one's has, where no store replicates it."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Self

from relight.errors import ConflictError, IntegrityError
from relight.objectives import Pattern
from relight.recovery.large import is_large
from relight.vault.copy import Beside, Copied, copy_beside, copy_points, lag_s

if TYPE_CHECKING:
    from collections.abc import Callable

    from relight.wiring import Region

# A function ends at 15 minutes, and has to publish how far it came.
COPY_S = 780.0
LAG = "CopyLagSeconds"
LACKING = "CopyLackingPoints"


@dataclass(frozen=True, slots=True, kw_only=True)
class CaughtUp:
    """What a run copied, and how far behind the own vault still is. `task` is the one that was started for points
    which are too large for a function."""

    points: tuple[Copied, ...]
    beside: tuple[Beside, ...]
    lag_s: float
    task: str = ""

    @property
    def lacking(self) -> tuple[str, ...]:
        """The points that a vault still lacks which the other has, newest first."""
        return tuple(item.point for item in self.points if item.lacking)

    def or_raise(self) -> Self:
        """Itself unless something cannot be copied as it is; IntegrityError then, for callers whose failures are
        watched. What there was no time for is no failure."""
        failed = {item.point: item.reason for item in self.points if item.reason}
        for beside in self.beside:
            failed |= beside.failed
        if failed:
            what, reason = next(iter(failed.items()))
            raise IntegrityError(
                f"{len(failed)} could not be copied, such as {what}: {reason}",
                hint="`relight points verify` in the other region says what is damaged there",
            )
        return self

    def to_json(self) -> dict[str, Any]:
        """As plain JSON values."""
        return {
            "points": [item.to_json() for item in self.points],
            "beside": [item.to_json() for item in self.beside],
            "lag_s": self.lag_s,
            "lacking": list(self.lacking),
            "task": self.task,
        }


def catch_up(region: Region, *, within_s: float | None = None, largest: int | None = None) -> CaughtUp:
    """Give the region's own vault what the other one has and it lacks, and publish how far behind it still is.

    Each region fetches for itself, so that nothing is sent twice and nobody needs the other to be there; in the tier
    without a standby the primary also brings the other vault what that one lacks. Points go first, newest first; see
    `copy_points`. Any number may run at once, and each may be killed anywhere. Nothing new is begun after `within_s`,
    and what is under way then is given up. UnavailableError when a vault does not answer: then nothing is published,
    which the alarm takes for being behind.
    """
    out_of_time = _timer(region, within_s)
    settings = region.settings
    # Where nobody is in the standby to fetch, it is brought there.
    both = settings.pattern is Pattern.SNAPSHOTS
    points = copy_points(
        region.peer_vault,
        region.vault,
        keep_hourly=settings.keep_hourly,
        keep_daily=settings.keep_daily,
        keep_monthly=settings.keep_monthly,
        now=region.clock.now(),
        back=both,
        largest=largest,
        out_of_time=out_of_time,
    )
    beside = [copy_beside(region.peer_vault, region.vault, out_of_time=out_of_time)]
    if both:
        beside.append(copy_beside(region.vault, region.peer_vault, out_of_time=out_of_time))
    behind_s = lag_s(points, now=region.clock.now())
    lacking = sum(item.lacking for item in points)
    region.metrics.put({LAG: behind_s, LACKING: float(lacking)})
    return CaughtUp(points=tuple(points), beside=tuple(beside), lag_s=behind_s)


def catch_up_or_hand_over(region: Region, *, within_s: float = COPY_S) -> CaughtUp:
    """The same in a function's time; what is too large for one is left to a task, which is started."""
    above = region.settings.large_bytes
    done = catch_up(region, within_s=within_s, largest=above or None)
    if not any(item.left and is_large(item.bytes, above=above) for item in done.points):
        return done
    try:
        return replace(done, task=region.tasks.start("copy", alone=True))
    except ConflictError as exc:
        return replace(done, task=exc.problem)


def _timer(region: Region, within_s: float | None) -> Callable[[], bool]:
    if within_s is None:
        return lambda: False
    until = region.clock.monotonic() + within_s
    return lambda: region.clock.monotonic() >= until
