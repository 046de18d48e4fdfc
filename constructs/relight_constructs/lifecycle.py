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


@dataclass(frozen=True, slots=True, kw_only=True)
class Ladder:
    """How many hourly, daily and monthly points prunes keep."""

    hourly: int = 24
    daily: int = 14
    monthly: int = 12

    @property
    def cool_days(self) -> int | None:
        """The age at which only monthly points are left, and pay to be moved to STANDARD_IA; None where none does.

        An hourly or daily point that was moved would go before the 30 days are over that it is billed for.
        """
        days = max(COOL_DAYS, -(-self.hourly // 24) + 1, self.daily + 1)
        return days if 28 * self.monthly >= days + COOL_DAYS else None

    @property
    def end_days(self) -> int:
        """The age at which the bucket itself ends what no prune has: later than any rung, and than a year's pause."""
        longest = max(-(-self.hourly // 24), self.daily, 31 * self.monthly)
        return max(LEAST_END_DAYS, longest + _MARGIN_DAYS)


USUAL_LADDER = Ladder()
