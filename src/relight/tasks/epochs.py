"""The epochs as the state database knows them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from relight.errors import ConflictError
from relight.tasks.sql import statements

if TYPE_CHECKING:
    from datetime import datetime

    from relight.tasks.database import Database

SQL = statements("relight.tasks.sql", "ledger.sql")


@dataclass(frozen=True, slots=True, kw_only=True)
class Epoch:
    """The newest fencing generation that this database knows, and how far its recovery has come."""

    number: int
    region: str
    opened_at: datetime | None
    verified_at: datetime | None
    replayed_at: datetime | None


class EpochLog:
    """Reads and marks them. Every mark is idempotent."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def newest(self) -> Epoch | None:
        """The newest epoch, or None before the first."""
        with self._database.transaction() as cur:
            cur.execute(SQL["newest_epoch"])
            row = cur.fetchone()
        return (
            Epoch(number=row[0], region=row[1], opened_at=row[2], verified_at=row[3], replayed_at=row[4])
            if row
            else None
        )

    def take(self, number: int, *, region: str, run_id: str) -> None:
        """Record that `region` acts under this epoch; from then on the database refuses older ones."""
        self._execute("take_epoch", {"epoch": number, "region": region, "run_id": run_id})
        newest = self.newest()
        if newest is None or (newest.number, newest.region) != (number, region):
            raise ConflictError(f"epoch {number} for {region} came too late: the database has {newest}")

    def mark_verified(self, number: int) -> None:
        """Memory has been hydrated and verified under this epoch."""
        self._execute("mark_verified", {"epoch": number})

    def mark_replayed(self, number: int) -> None:
        """Tasks have been replayed under this epoch."""
        self._execute("mark_replayed", {"epoch": number})

    def mark_opened(self, number: int) -> None:
        """The gate may let traffic in under this epoch."""
        self._execute("mark_opened", {"epoch": number})

    def _execute(self, name: str, values: dict[str, Any]) -> None:
        with self._database.transaction(confirmed=True) as cur:
            cur.execute(SQL[name], values)
