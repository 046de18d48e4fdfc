"""Transactions on the state database: reused connections, translated errors, and commits confirmed in the standby."""

from __future__ import annotations

import threading
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from psycopg2.extensions import TRANSACTION_STATUS_IDLE

from relight.adapters import postgres
from relight.clock import SystemClock
from relight.config import ConfirmBy, OnStandbyAway
from relight.errors import UnconfirmedError
from relight.tasks.confirm import Confirm, Promise, Standing

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from psycopg2.extensions import connection, cursor

    from relight.clock import Clock

# A server that accepts and then says nothing is given up after this. Statements take milliseconds; a migration asks for
# more.
TRANSACTION_S = 15.0
# What PostgreSQL says when a commit's wait for the standby was ended early, by anybody; the commit then succeeds.
_NOT_CONFIRMED = "canceling wait for synchronous replication"


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """What one statement returned, and how many rows it touched."""

    rows: list[tuple[Any, ...]]
    rowcount: int


class Database:
    """A small pool of connections to one PostgreSQL.

    Safe to share between threads. A connection that saw an error, or that was told to stop waiting, is closed and never
    used again.
    """

    def __init__(
        self,
        dsn: str,
        *,
        confirm_timeout_s: float = 5.0,
        confirm_by: ConfirmBy = ConfirmBy.COMMIT,
        confirm_replicas: int = 1,
        on_standby_away: OnStandbyAway = OnStandbyAway.WAIT,
        size: int = 16,
        clock: Clock | None = None,
    ) -> None:
        self._clock = clock or SystemClock()
        self._dsn = dsn
        self._confirm_timeout_s = confirm_timeout_s
        self._idle: list[connection] = []
        self._lock = threading.Lock()
        self._closed = False

    @contextmanager
    def transaction(
        self, *, confirmed: Confirm | bool = Confirm.NO, within_s: float = TRANSACTION_S
    ) -> Iterator[cursor]:
        """Commit on leaving, roll back on an error.

        With `confirmed`, leaving means that the standby has received the commit (`synchronous_commit = remote_write`).
        Where no synchronous standby is configured there is nobody to confirm, and the commit counts at once: see
        `promise`. Raises UnconfirmedError when the commit is durable here but was not confirmed within the bound, and
        UnavailableError when the server says nothing for `within_s`; other errors leave nothing behind, but for one: a
        connection lost during the commit leaves it undecided, so callers use idempotent statements.
        """
        confirmed = confirmed is True or confirmed in (Confirm.POLICY, Confirm.ALWAYS)
        with postgres.translating():
            conn = self._take()
            try:
                with postgres.deadline(conn, within_s), conn.cursor() as cur:
                    cur.execute(
                        "select set_config('synchronous_commit', %s, true)",
                        ["remote_write" if confirmed else "local"],
                    )
                    yield cur
                    if confirmed:
                        self._commit_confirmed(conn)
                    else:
                        conn.commit()
            except BaseException:
                self._discard(conn)
                raise
            self._give_back(conn)

    def execute(
        self,
        sql: str,
        params: Sequence[Any] | Mapping[str, Any] | None = None,
        *,
        confirmed: Confirm | bool = Confirm.NO,
        within_s: float = TRANSACTION_S,
    ) -> Result:
        """Run one statement as a transaction of its own, in one round trip; see `transaction` for the rest."""
        with self.transaction(confirmed=confirmed, within_s=within_s) as cur:
            cur.execute(sql, params)
            return Result(rows=cur.fetchall() if cur.description else [], rowcount=cur.rowcount)

    def promise(self) -> Promise:
        """How the promise stands that what is acknowledged is in the standby; asks the server."""
        with self.transaction() as cur:
            cur.execute("select current_setting('synchronous_standby_names') <> ''")
            row = cur.fetchone()
        state = Standing.KEPT if row and row[0] else Standing.NOBODY
        return Promise(state=state, since=self._clock.now())

    def close(self) -> None:
        """Close the idle connections; those in use are closed when they come back."""
        with self._lock:
            self._closed = True
            idle, self._idle = self._idle, []
        for conn in idle:
            conn.close()

    def _commit_confirmed(self, conn: connection) -> None:
        """Bound the wait for the standby.

        The server keeps no timeout while it waits for a synchronous standby, so a cancel request ends the wait; by then
        the commit is durable here. The cancel may also arrive after the commit and would then hit the next statement:
        that connection is not used again.
        """
        gave_up = threading.Event()

        def give_up() -> None:
            gave_up.set()
            conn.cancel()

        conn.notices.clear()
        timer = threading.Timer(self._confirm_timeout_s, give_up)
        timer.daemon = True
        timer.start()
        try:
            conn.commit()
        finally:
            timer.cancel()
        if gave_up.is_set() or any(_NOT_CONFIRMED in notice for notice in conn.notices):
            raise UnconfirmedError(
                f"the standby did not confirm a commit within {self._confirm_timeout_s:g} s",
                hint="it is committed here and not acknowledged; call again with the same id",
            )

    def _take(self) -> connection:
        with self._lock:
            if self._idle:
                return self._idle.pop()
        return postgres.connect(self._dsn)

    def _give_back(self, conn: connection) -> None:
        with self._lock:
            if not self._closed and not conn.closed and conn.info.transaction_status == TRANSACTION_STATUS_IDLE:
                self._idle.append(conn)
                return
        conn.close()

    def _discard(self, conn: connection) -> None:
        # Closing is the rollback: the server ends the transaction of a connection that has gone.
        if not conn.closed:
            conn.close()
