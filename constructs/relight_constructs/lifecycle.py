"""How long a vault keeps its points, as a bucket's lifecycle counts it: in days. Pure: nothing here starts node."""

from __future__ import annotations

from dataclasses import dataclass

# No object moves to STANDARD_IA before it is this old, and each that did is billed for as long again. Source: Amazon S3
# user guide, "Transitioning objects using Amazon S3 Lifecycle".
COOL_DAYS = 30
# A ladder counts the hours, days and months that hold a point, a lifecycle counts all: what an agent left behind that
# has paused for a year must still be there.
LEAST_END_DAYS = 400
_MARGIN_DAYS = 30
_HOUR, _DAY = 60, 24 * 60


@dataclass(frozen=True, slots=True, kw_only=True)
class Ladder:
    """How many hourly, daily and monthly points prunes keep, where one is taken every `every_minutes`.

    A ladder counts the hours that hold a point: of one a day, 24 hourly ones are 24 days old.
    """

    hourly: int = 24
    daily: int = 14
    monthly: int = 12
    every_minutes: int = 60

    @property
    def cool_days(self) -> int | None:
        """The age at which only monthly points are left, and pay to be moved to STANDARD_IA; None where none does.

        An hourly or daily point that was moved would go before the 30 days are over that it is billed for.
        """
        days = max(COOL_DAYS, self._dense_days + 1)
        return days if 28 * self.monthly >= days + COOL_DAYS else None

    @property
    def kept_days(self) -> int:
        """How old a point becomes that prunes keep for longest."""
        return max(self._dense_days, 31 * self.monthly)

    @property
    def end_days(self) -> int:
        """The age at which the bucket itself ends what no prune has: later than any rung, and than a year's pause."""
        return max(LEAST_END_DAYS, self.kept_days + _MARGIN_DAYS)

    @property
    def _dense_days(self) -> int:
        """How old an hourly or a daily point becomes."""
        hourly = self.hourly * max(_HOUR, self.every_minutes)
        daily = self.daily * max(_DAY, self.every_minutes)
        return -(-max(hourly, daily) // _DAY)


USUAL_LADDER = Ladder()
