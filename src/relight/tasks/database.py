"""Statements and transactions on the state database, and commits that are confirmed in the standby."""

from __future__ import annotations

import threading
import time
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import psycopg2
import psycopg2.errors
from psycopg2.extensions import TRANSACTION_STATUS_INERROR

from relight.adapters import postgres
from relight.adapters.watchdog import Watchdog
from relight.clock import SystemClock
from relight.config import ConfirmBy, OnStandbyAway
from relight.errors import PermanentError, RelightError, TransientError, UnavailableError, UnconfirmedError
from relight.tasks.confirm import (
    Confirm,
    Confirmations,
    Level,
    Mark,
    Positions,
    Promise,
    PromiseLog,
    Seen,
    Standing,
    Stopwatch,
    read_standbys,
)
from relight.tasks.pool import Pool
from relight.tasks.sql import statements

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from contextlib import AbstractContextManager

    from psycopg2.extensions import connection, cursor

    from relight.clock import Clock
    from relight.tasks.pool import Member

SQL = statements("relight.tasks.sql", "database.sql")

# A server that accepts and then says nothing is given up after this. Statements take milliseconds; a migration asks for
# more.
TRANSACTION_S = 15.0
# The same for what carries nothing of a caller's: the first word on a connection, and a look at the standbys.
WORD_S = 3.0
# A transaction whose caller was stopped, or cut off without a word, holds its rows until the server ends it after this.
IDLE_S = 2 * TRANSACTION_S
# How long a caller waits for a connection that others use.
POOL_WAIT_S = 10.0
# What PostgreSQL says when a commit's wait for the standby was ended early, by anybody; the commit then succeeds.
_NOT_CONFIRMED = "canceling wait for synchronous replication"
_READ_ONLY = "25006"


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """What one statement returned, and how many rows it touched."""

    rows: list[tuple[Any, ...]]
    rowcount: int


class Database:
    """One PostgreSQL, or the one of several that takes writes, through a pool of at most `size` connections.

    Safe to share between threads. The DSN may name several hosts, with `target_session_attrs=read-write`: after a
    promotion the connections to the old primary are dropped, and the next call finds the new one. A connection that had
    died while it was idle, or whose server takes no more writes, is replaced before anything of the caller's is sent;
    nothing of a caller's is ever sent twice. So a call that loses its server raises UnavailableError and may or may not
    have been committed: callers use idempotent statements, and call again.

    Under `confirm_by = POSITION`, `confirm_replicas` of the server's replicas must have a commit, under `AURORA` the
    storage of so many other regions, as `aurora_global_db_status()` says; 0 says that it has none, as in a region that
    was relit, and then a commit counts at once, as it does under `COMMIT` where the server's
    `synchronous_standby_names` is empty. `promise` says so.

    With `read_only` nothing new is begun through it (ReadOnlyModeError), whatever the database itself says; see
    `read_only`.
    """

    def __init__(
        self,
        dsn: str,
        *,
        confirm_timeout_s: float = 5.0,
        confirm_by: ConfirmBy = ConfirmBy.COMMIT,
        confirm_replicas: int = 1,
        on_standby_away: OnStandbyAway = OnStandbyAway.WAIT,
        read_only: bool = False,
        size: int = 16,
        clock: Clock | None = None,
    ) -> None:
        self._confirm_timeout_s = confirm_timeout_s
        self._by = confirm_by
        self._replicas = confirm_replicas
        self._on_away = on_standby_away
        self._first_words = f"set idle_in_transaction_session_timeout = '{IDLE_S:g}s'"
        if read_only:
            self._first_words += "; set relight.read_only = 'on'"
        self._watchdog = Watchdog()
        self._pool = Pool(dsn, size=size)
        # Positions are asked for on a connection of their own: those of the pool may all be in use by who waits.
        self._looker = Pool(dsn, size=1)
        self._positions = Positions(ask=self._look, reset=self._looker.flush)
        self._promise = PromiseLog(on_away=on_standby_away, clock=clock or SystemClock())
        self._stopwatch = Stopwatch()

    @contextmanager
    def transaction(
        self, *, confirmed: Confirm | bool = Confirm.NO, within_s: float = TRANSACTION_S
    ) -> Iterator[cursor]:
        """Commit on leaving, roll back on an error: `begin`, the caller's statements, `commit`, and nothing more.

        `confirmed` says whether leaving means that the standby has the commit; True is `Confirm.POLICY`. Raises
        UnconfirmedError when the commit is durable here but was not confirmed within the bound and may not count, and
        UnavailableError when the server says nothing for `within_s`, or no connection came free; other errors leave
        nothing behind, but for one: a connection lost during the commit leaves it undecided.
        """
        confirm = _confirm(confirmed)
        with postgres.translating():
            wait = self._waits(confirm)
            with self._borrowed(self._level(wait), within_s, begin=True) as member:
                with self._deadline(member, within_s), member.conn.cursor() as cur:
                    try:
                        yield cur
                    except Exception:
                        _roll_back(member)
                        raise
                    _refuse_failed(member)
                with self._deadline(member, self._commit_bound_s(within_s, wait)), member.conn.cursor() as cur:
                    found = self._commit(member, cur, "commit", None, wait=wait)
            self._settle(found, confirm)

    def execute(
        self,
        sql: str,
        params: Sequence[Any] | Mapping[str, Any] | None = None,
        *,
        confirmed: Confirm | bool = Confirm.NO,
        within_s: float = TRANSACTION_S,
    ) -> Result:
        """Run one statement as a transaction of its own, in one round trip; see `transaction` for the rest.

        Under `ConfirmBy.COMMIT` the bound of the confirmation holds for the statement and its commit together.
        """
        confirm = _confirm(confirmed)
        with postgres.translating():
            wait = self._waits(confirm)
            with (
                self._borrowed(self._level(wait), within_s, begin=False) as member,
                self._deadline(member, self._commit_bound_s(within_s, wait)),
                member.conn.cursor() as cur,
            ):
                found = self._commit(member, cur, sql, params, wait=wait)
                result = Result(rows=found.rows, rowcount=found.rowcount)
            try:
                self._settle(found, confirm)
            except UnconfirmedError as exc:
                exc.rows = result.rows
                raise
        return result

    def promise(self) -> Promise:
        """How the promise stands now that what is acknowledged is in the standby.

        Asks the server, and waits up to the bound of a confirmation until the standby has what is written now; while it
        is away, it only looks. Raises UnavailableError when the server cannot be asked.
        """
        with postgres.translating():
            before = self._promise.now
            if before is not None and self._promise.is_away and not self._promise.is_back(self._positions.look()):
                return before
            there, seen = self._positions.wait(None, within_s=self._confirm_timeout_s)
        if seen.nobody:
            return self._promise.nobody(seen.nobody)
        if seen.blind and before is not None:
            return before
        return self._promise.kept() if there else self._promise.away(f"{seen.away}, {self._given_up}")

    def try_confirmation(self, *, times: int) -> Confirmations:
        """Commit so many messages to the log, which change no table, as an effect's intent is committed; how long the
        confirmations of this process took. UnconfirmedError when one is not confirmed."""
        for _ in range(times):
            self.execute(self._sql("message"), confirmed=Confirm.ALWAYS)
        return self.confirmations()

    def promise_seen(self) -> Promise | None:
        """How the promise stood when a commit or a look last found out; asks nobody. None before the first."""
        return self._promise.now

    def confirmations(self) -> Confirmations:
        """How long the confirmations of this process took."""
        return self._stopwatch.read()

    def close(self) -> None:
        """Close the idle connections; those in use are closed when they come back."""
        self._pool.close()
        self._looker.close()
        self._watchdog.close()

    # -- connections

    @contextmanager
    def _borrowed(self, level: Level, within_s: float, *, begin: bool) -> Iterator[Member]:
        """A connection at `level`, with a transaction begun or none; whatever it ends with is drawn from it."""
        member = self._ready(self._pool, level, within_s, begin=begin)
        try:
            yield member
        except RelightError as exc:
            if getattr(exc.__cause__, "pgcode", None) == _READ_ONLY:
                member.spoiled = True
                self._pool.flush()
            raise
        finally:
            if member.conn.closed:
                self._pool.flush()
            self._pool.give_back(member)

    def _ready(self, pool: Pool, level: Level, within_s: float, *, begin: bool) -> Member:
        """Take a connection; one that fails before anything of the caller's was sent is replaced by a new one, once."""
        member, fresh = pool.take(level, within_s=min(within_s, POOL_WAIT_S))
        if not fresh:
            try:
                self._address(member, level, within_s, begin=begin)
            except (UnavailableError, _ReadOnlyError):
                _drop(pool, member)
                member, _ = pool.take(level, within_s=min(within_s, POOL_WAIT_S), fresh=True)
            except BaseException:
                _drop(pool, member)
                raise
            else:
                return member
        try:
            self._address(member, level, within_s, begin=begin)
        except BaseException:
            _drop(pool, member)
            raise
        return member

    def _address(self, member: Member, level: Level, within_s: float, *, begin: bool) -> None:
        """Send the words before the caller's: none where the session is at `level` and no transaction is to begin."""
        # Not one message of two statements: the setting would be part of the transaction, and end with it.
        words = [f"set synchronous_commit = {level}"] if member.level is not level else []
        if member.level is None:
            words = [f"{self._first_words}; {words[0]}"]
        if words or begin:
            with self._deadline(member, min(within_s, WORD_S)), member.conn.cursor() as cur:
                for word in [*words, "begin"] if begin else words:
                    cur.execute(word)
        member.level = level
        if member.writable and postgres.is_read_only(member.conn):
            raise _ReadOnlyError("postgres takes no writes any more", hint="call again when a primary is there")

    def _deadline(self, member: Member, seconds: float) -> AbstractContextManager[None]:
        return postgres.deadline(member.conn, seconds, watchdog=self._watchdog)

    # -- confirmations

    def _waits(self, confirm: Confirm) -> bool:
        """Whether a commit waits for the standby: not for one that is known to be away, where the policy lets it."""
        if confirm is Confirm.POLICY and self._on_away is OnStandbyAway.PROCEED and self._promise.is_away:
            return self._is_back()
        return confirm is not Confirm.NO

    def _is_back(self) -> bool:
        """Whether a standby that was away answers again; one caller in a while looks, and the others believe it."""
        if not self._promise.is_due():
            return False
        try:
            seen = self._positions.look()
        except RelightError:
            return False
        back = self._promise.is_back(seen)
        if seen.nobody:
            self._promise.nobody(seen.nobody)
        elif seen.has(seen.written):
            self._promise.kept()
        return back

    def _level(self, wait: bool) -> Level:
        return Level.REMOTE if wait and self._by is ConfirmBy.COMMIT else Level.LOCAL

    def _commit_bound_s(self, within_s: float, wait: bool) -> float:
        return max(within_s, self._confirm_timeout_s + WORD_S) if wait else within_s

    def _commit(
        self,
        member: Member,
        cur: cursor,
        sql: str,
        params: Sequence[Any] | Mapping[str, Any] | None,
        *,
        wait: bool,
    ) -> _Done:
        """Run the statement that commits."""
        started = time.monotonic()
        confirmed = wait
        if wait and self._by is ConfirmBy.COMMIT:
            confirmed = self._within_bound(member, cur, sql, params)
        else:
            cur.execute(sql, params)
        took_s = time.monotonic() - started
        rows, rowcount = cur.fetchall() if cur.description else [], cur.rowcount
        mark = None
        if wait and self._by is not ConfirmBy.COMMIT and self._replicas:
            cur.execute(self._sql("written"))
            mark = Mark(*cur.fetchall()[0])
        return _Done(rows=rows, rowcount=rowcount, waited=wait, confirmed=confirmed, took_s=took_s, mark=mark)

    def _within_bound(
        self, member: Member, cur: cursor, sql: str, params: Sequence[Any] | Mapping[str, Any] | None
    ) -> bool:
        """Run the statement that commits, and give up waiting for the standby in time; whether it confirmed.

        The server keeps no timeout while it waits for a synchronous standby, so a cancel request ends the wait; by then
        the commit is durable here. The cancel may also arrive after the commit and would then hit the next statement:
        that connection is not used again.
        """
        conn = member.conn
        conn.notices.clear()
        alarm = self._watchdog.arm(self._confirm_timeout_s, lambda: _cancel(conn))
        try:
            cur.execute(sql, params)
        except psycopg2.errors.QueryCanceled as exc:
            if not self._watchdog.disarm(alarm):
                raise UnavailableError(
                    f"a statement took longer than {self._confirm_timeout_s:g} s, the bound of its confirmation",
                    hint="nothing of it was committed; call again",
                ) from exc
            raise
        finally:
            member.spoiled = not self._watchdog.disarm(alarm)
        return not member.spoiled and not any(_NOT_CONFIRMED in notice for notice in conn.notices)

    def _settle(self, done: _Done, confirm: Confirm) -> None:
        """Wait for the replicas where that is how commits are confirmed, and draw the conclusions."""
        if not done.waited:
            if confirm is not Confirm.NO:
                self._stopwatch.proceeded()
            return
        confirmed, took_s, why = done.confirmed, done.took_s, "no confirmation"
        if done.mark is not None:
            started = time.monotonic()
            try:
                confirmed, seen = self._positions.wait(done.mark, within_s=self._confirm_timeout_s)
                why = seen.away
            except RelightError as exc:
                confirmed, why = False, exc.problem
            took_s = time.monotonic() - started
        if confirmed:
            if self._conclude(by_commit=done.mark is None).state is not Standing.NOBODY:
                self._stopwatch.confirmed(took_s)
            return
        self._promise.away(f"{why}, {self._given_up}")
        if confirm is Confirm.POLICY and self._on_away is OnStandbyAway.PROCEED:
            self._stopwatch.proceeded()
            return
        self._stopwatch.unconfirmed()
        raise UnconfirmedError(
            f"the standby did not confirm a commit within {self._confirm_timeout_s:g} s",
            hint="it is committed here and not acknowledged; call again with the same id",
        )

    def _conclude(self, *, by_commit: bool) -> Promise:
        """A commit counted: because it was confirmed, or because the server waits for nobody, which it does not say."""
        if not by_commit:
            return self._promise.kept()
        before = self._promise.now
        if before is not None and not self._promise.is_away and not self._promise.is_due():
            return before
        nobody = ""
        with suppress(RelightError):
            nobody = self._positions.look().nobody
        return self._promise.nobody(nobody) if nobody else self._promise.kept()

    def _look(self) -> Seen:
        member = self._ready(self._looker, Level.LOCAL, WORD_S, begin=False)
        try:
            with self._deadline(member, WORD_S), member.conn.cursor() as cur:
                cur.execute(self._sql("standbys"))
                return read_standbys(cur.fetchall()[0], by=self._by, replicas=self._replicas)
        finally:
            self._looker.give_back(member)

    def _sql(self, name: str) -> str:
        """The statement, in the words that the server understands."""
        return SQL[f"aurora_{name}" if self._by is ConfirmBy.AURORA else name]

    @property
    def _given_up(self) -> str:
        return f"given up after {self._confirm_timeout_s:g} s"


@dataclass(frozen=True, slots=True, kw_only=True)
class _Done:
    """A statement that committed; `mark` is a position of the log that has the commit."""

    rows: list[tuple[Any, ...]]
    rowcount: int
    waited: bool
    confirmed: bool
    took_s: float
    mark: Mark | None


class _ReadOnlyError(TransientError):
    """The server takes no writes."""


def _confirm(confirmed: Confirm | bool) -> Confirm:
    if isinstance(confirmed, Confirm):
        return confirmed
    return Confirm.POLICY if confirmed else Confirm.NO


def _refuse_failed(member: Member) -> None:
    """A transaction that failed would be rolled back by its commit, in silence."""
    if member.conn.info.transaction_status == TRANSACTION_STATUS_INERROR:
        raise PermanentError(
            "a statement of the transaction had failed, and nothing of it was committed",
            hint="let the error out of the block, or use a savepoint",
        )


def _roll_back(member: Member) -> None:
    """A connection on which that fails is not used again."""
    with suppress(psycopg2.Error), member.conn.cursor() as cur:
        cur.execute("rollback")


def _drop(pool: Pool, member: Member) -> None:
    member.spoiled = True
    pool.give_back(member)


def _cancel(conn: connection) -> None:
    """Ask the server to end what the connection waits for; in a thread, because reaching it may take long."""

    def cancel() -> None:
        with suppress(psycopg2.Error):
            conn.cancel()

    threading.Thread(target=cancel, name="relight-cancel", daemon=True).start()
