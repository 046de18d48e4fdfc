"""Read-only: reads and searches are answered, and nothing new is begun, until an operator says otherwise.

The state database refuses it, whoever asks and however old their code is: to start or claim a task, to intend an
effect, to write a memory. What was begun is finished. Snapshots, the gate, replays and recoveries go on, and since the
switch is replicated, a relit region is read-only too. To ask for it costs a statement that begins something about 8 µs
(measured).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from relight.errors import ConfigError
from relight.tasks.sql import statements

if TYPE_CHECKING:
    from datetime import datetime

    from psycopg2.extensions import cursor

    from relight.tasks.database import Database

SQL = statements("relight.tasks.sql", "read_only.sql")


@dataclass(frozen=True, slots=True, kw_only=True)
class ReadOnly:
    """Since when, and why, in the words of whoever switched it on."""

    since: datetime
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class UnderWay:
    """What was begun before, and may still act: tasks in the hands of workers, effects whose call may be on its way."""

    tasks: int
    effects: int


def read_only(database: Database) -> ReadOnly | None:
    """What the state database says; None while it takes writes. Also of a replica."""
    rows = database.execute(SQL["read"]).rows
    return ReadOnly(since=rows[0][0], reason=rows[0][1]) if rows else None


def begin_read_only(database: Database, *, reason: str) -> ReadOnly:
    """From the return on nothing new is begun, here or where a recovery leads to. Called again, it keeps the moment and
    takes the newer reason.

    UnconfirmedError when the standby did not confirm it: nothing is begun here, and a relit region may not know it.
    """
    said = " ".join(reason.replace("\0", " ").split())
    if not said:
        raise ConfigError("no reason is given", hint="say why, for whoever is refused")
    [(since, kept)] = database.execute(SQL["begin"], {"reason": said}, confirmed=True).rows
    return ReadOnly(since=since, reason=kept)


def end_read_only(database: Database) -> bool:
    """Take writes again; False when they were taken."""
    return database.execute(SQL["end"]).rowcount > 0


def under_way(database: Database) -> UnderWay:
    """What still goes on."""
    [(tasks, effects)] = database.execute(SQL["under_way"]).rows
    return UnderWay(tasks=tasks, effects=effects)


def mend(cur: cursor) -> None:
    """Let this transaction write all the same: it is an operator's, who mends what is read meanwhile."""
    cur.execute(SQL["mend"])
