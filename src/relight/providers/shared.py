"""What several workers know together about providers: ports for it, and the state database behind them.

Nobody waits long for any of it: writes are not confirmed in the standby, statements have a short bound, and without the
database each process goes on alone. The clock that counts is the database's.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Generic, Protocol, TypeVar

from relight.providers.breaker import INITIAL, BreakerState, Failure, Phase
from relight.providers.episodes import Episode, Kind, Stage
from relight.tasks.sql import statements

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from psycopg2.extensions import cursor

    from relight.tasks.database import Database

SQL = statements("relight.tasks.sql", "providers.sql")

# What takes longer than this is as good as away: each process then decides for itself.
WITHIN_S = 2.0

_T = TypeVar("_T")
_T_co = TypeVar("_T_co", covariant=True)


@dataclass(frozen=True, slots=True, kw_only=True)
class Seen(Generic[_T_co]):
    """What the store held at `now` by its own clock, and whether it takes writes."""

    now: float
    states: Mapping[str, _T_co]
    writable: bool = True


class SharedBreakers(Protocol):
    """Keeps the state of breakers for all workers, by a clock of its own.

    Both raise RelightError when the store cannot be asked, within seconds; nothing says then whether an update was
    made. What was updated, everybody reads from then on.
    """

    def read(self) -> Seen[BreakerState]:
        """All of them."""
        ...

    def update(self, key: str, change: Callable[[BreakerState, float], BreakerState]) -> BreakerState:
        """Put `change(state, now)` in the place of the state, while nobody else may change it; returns it."""
        ...


class SharedEpisodes(Protocol):
    """Keeps the episodes that become incidents, likewise. None stands for no episode, before and after."""

    def read(self) -> Seen[Episode]:
        """All of them."""
        ...

    def update(self, key: str, change: Callable[[Episode | None, float], Episode | None]) -> Episode | None:
        """Put `change(episode, now)` in the place of the episode, while nobody else may change it; returns it."""
        ...


class PostgresBreakers:
    """The breakers in the state database. On a standby's, which takes no writes, what its primary knew can be read."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def read(self) -> Seen[BreakerState]:
        return _read(self._database, "read_breakers", _state)

    def update(self, key: str, change: Callable[[BreakerState, float], BreakerState]) -> BreakerState:
        with self._database.transaction(within_s=WITHIN_S) as cur:
            row, now = _locked(cur, "read_breakers", key)
            before = _state(row) if row else INITIAL
            after = change(before, now)
            if after != before:
                cur.execute(SQL["write_breaker"], {"key": key} | _values(after))
        return after


class PostgresEpisodes:
    """The episodes in the state database, likewise.

    One of a kind or a stage that is not known here is a newer version's worker's: it is left to that.
    """

    def __init__(self, database: Database) -> None:
        self._database = database

    def read(self) -> Seen[Episode]:
        seen = _read(self._database, "read_episodes", _episode)
        known = {key: episode for key, episode in seen.states.items() if episode is not None}
        return Seen(now=seen.now, states=known, writable=seen.writable)

    def update(self, key: str, change: Callable[[Episode | None, float], Episode | None]) -> Episode | None:
        with self._database.transaction(within_s=WITHIN_S) as cur:
            row, now = _locked(cur, "read_episodes", key)
            before = _episode(row) if row else None
            if row and before is None:
                return None
            after = change(before, now)
            if after is None and before is not None:
                cur.execute(SQL["end_episode"], {"key": key})
            elif after is not None and after != before:
                cur.execute(SQL["write_episode"], {"key": key} | asdict(after))
        return after


def _read(database: Database, name: str, make: Callable[[Sequence[Any]], _T]) -> Seen[_T]:
    rows = database.execute(SQL[name], {"key": None}, within_s=WITHIN_S).rows
    now, read_only = rows[0][:2]
    return Seen(now=now, states={row[2]: make(row[3:]) for row in rows if row[2] is not None}, writable=not read_only)


def _locked(cur: cursor, name: str, key: str) -> tuple[Sequence[Any] | None, float]:
    """The row, if there is one, which nobody else changes until the transaction ends, and the time now."""
    cur.execute(SQL["lock"], {"what": name, "key": key})
    cur.execute(SQL[name], {"key": key})
    now, _, found, *row = cur.fetchall()[0]
    return row if found is not None else None, now


def _state(row: Sequence[Any]) -> BreakerState:
    phase, since, change, version, open_until, probe, probe_until, failed_at, failed_by = row[:9]
    cool_until, cooled_by, reason = row[9:]
    if phase != Phase.CLOSED:
        phase = Phase.HALF_OPEN if probe else Phase.OPEN
    return BreakerState(
        phase=Phase(phase),
        since=since,
        change=change,
        version=version,
        open_until=open_until,
        probe=probe,
        probe_until=probe_until,
        failures=tuple(Failure(at=at, token=token) for at, token in zip(failed_at, failed_by, strict=True)),
        cool_until=cool_until,
        cooled_by=cooled_by,
        cool_reason=reason,
    )


def _values(state: BreakerState) -> dict[str, Any]:
    return {
        "phase": (Phase.CLOSED if state.phase is Phase.CLOSED else Phase.OPEN).value,
        "since": state.since,
        "change": state.change,
        "version": state.version,
        "open_until": state.open_until,
        "probe": state.probe,
        "probe_until": state.probe_until,
        "failed_at": [failure.at for failure in state.failures],
        "failed_by": [failure.token for failure in state.failures],
        "cool_until": state.cool_until,
        "cooled_by": state.cooled_by,
        "cool_reason": str(state.cool_reason),
    }


def _episode(row: Sequence[Any]) -> Episode | None:
    """None for what is not known here."""
    kind, provider, detail, since, last, stage, back, claim, claim_until = row
    if kind not in list(Kind) or stage not in list(Stage):
        return None
    return Episode(
        kind=Kind(kind),
        provider=provider,
        detail=detail,
        since=since,
        last=last,
        stage=Stage(stage),
        back=back,
        claim=claim,
        claim_until=claim_until,
    )
