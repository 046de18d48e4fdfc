"""A bounded pool of connections to one PostgreSQL, safe to share between threads."""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from psycopg2.extensions import TRANSACTION_STATUS_IDLE

from relight.adapters import postgres
from relight.errors import UnavailableError

if TYPE_CHECKING:
    from psycopg2.extensions import connection

    from relight.tasks.confirm import Level


@dataclass(slots=True, eq=False)
class Member:
    """A connection in autocommit, and what is known of it.

    `level` is its session's `synchronous_commit`, None while that is what the server gave it. One that is `spoiled` is
    not used again.
    """

    conn: connection
    generation: int
    writable: bool
    level: Level | None = None
    spoiled: bool = False

    @property
    def usable(self) -> bool:
        return (
            not self.spoiled and not self.conn.closed and self.conn.info.transaction_status == TRANSACTION_STATUS_IDLE
        )


class Pool:
    """At most `size` connections. One that is not usable, or older than the last `flush`, is closed on its return."""

    def __init__(self, dsn: str, *, size: int) -> None:
        self._dsn = dsn
        self._size = size
        self._idle: list[Member] = []
        self._in_use = 0
        self._generation = 0
        self._closed = False
        self._changed = threading.Condition(threading.Lock())

    def take(self, level: Level, *, within_s: float, fresh: bool = False) -> tuple[Member, bool]:
        """A connection, idle at `level` where there is one, and whether it was opened just now; `fresh` asks for that.

        Waits until one is free; UnavailableError when none is within the bound, or when the server cannot be reached.
        """
        found = self._idle_or_room(level, within_s=within_s, fresh=fresh)
        if found is not None:
            return found, False
        generation = self._generation
        try:
            conn = postgres.connect(self._dsn, autocommit=True)
        except BaseException:
            with self._changed:
                self._in_use -= 1
                self._changed.notify()
            raise
        return Member(conn=conn, generation=generation, writable=postgres.wants_writable(conn)), True

    def give_back(self, member: Member) -> None:
        """Let others use it."""
        with self._changed:
            keep = member.usable and not self._closed and member.generation == self._generation
            if keep:
                self._idle.append(member)
            self._in_use -= 1
            self._changed.notify()
        if not keep and not member.conn.closed:
            # Closing is the rollback: the server ends the transaction of a connection that has gone.
            member.conn.close()

    def flush(self) -> None:
        """Use none of the present connections again: where one of them led is not where the others should lead."""
        with self._changed:
            self._generation += 1
            idle, self._idle = self._idle, []
        for member in idle:
            member.conn.close()

    def close(self) -> None:
        """Close the idle connections; those in use are closed when they come back."""
        with self._changed:
            self._closed = True
        self.flush()

    def _idle_or_room(self, level: Level, *, within_s: float, fresh: bool) -> Member | None:
        """An idle connection that nothing speaks against, or None with room for a new one."""
        until = time.monotonic() + within_s
        dead = []
        try:
            with self._changed:
                while True:
                    while self._idle:
                        member = self._pick(level)
                        if fresh or postgres.has_word(member.conn):
                            dead.append(member)
                            continue
                        self._in_use += 1
                        return member
                    if self._in_use < self._size:
                        self._in_use += 1
                        return None
                    if not self._changed.wait(until - time.monotonic()):
                        raise UnavailableError(
                            f"all {self._size} connections to postgres are in use, and none came free within"
                            f" {within_s:g} s",
                            hint="do fewer things at once, or give the pool a larger size",
                        )
        finally:
            for member in dead:
                member.conn.close()

    def _pick(self, level: Level) -> Member:
        """The idle connection that was used last, at `level` if there is one."""
        for number in range(len(self._idle) - 1, -1, -1):
            if self._idle[number].level is level:
                return self._idle.pop(number)
        return self._idle.pop()
