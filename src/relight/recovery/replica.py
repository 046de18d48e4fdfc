"""The standby's PostgreSQL: a physical replica that recovery promotes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from relight.adapters import postgres
from relight.errors import UnavailableError

if TYPE_CHECKING:
    from datetime import datetime

PROMOTION_TIMEOUT_S = 30


@dataclass(frozen=True, slots=True, kw_only=True)
class ReplicaPosition:
    """How far a replica has come. `received_lsn` and `replayed_lsn` are empty on a server that is no replica."""

    promoted: bool
    received_lsn: str
    replayed_lsn: str
    last_commit_at: datetime | None


class Replica(Protocol):
    """A replica that can be made the primary."""

    def position(self) -> ReplicaPosition:
        """How far it has come; changes nothing."""
        ...

    def promote(self) -> bool:
        """Replay all that was received, accept writes, and return; False when it had been promoted before."""
        ...


class PhysicalReplica:
    """Streaming replication, promoted by SQL.

    The user of the DSN needs EXECUTE on `pg_promote` and may ALTER SYSTEM `synchronous_standby_names`.
    """

    def __init__(self, dsn: str) -> None:
        self._dsn = dsn

    def position(self) -> ReplicaPosition:
        with postgres.translating():
            conn = postgres.connect(self._dsn, autocommit=True)
            try:
                with conn.cursor() as cur:
                    # Of one that takes writes nothing of the log is asked, which Aurora would refuse.
                    cur.execute(
                        "select not pg_is_in_recovery(),"
                        " coalesce(case when pg_is_in_recovery() then pg_last_wal_receive_lsn() end::text, ''),"
                        " coalesce(case when pg_is_in_recovery() then pg_last_wal_replay_lsn() end::text, ''),"
                        " case when pg_is_in_recovery() then pg_last_xact_replay_timestamp() end"
                    )
                    row = cur.fetchone()
            finally:
                conn.close()
        assert row is not None  # noqa: S101 - a select without FROM has one row
        return ReplicaPosition(promoted=row[0], received_lsn=row[1], replayed_lsn=row[2], last_commit_at=row[3])

    def promote(self) -> bool:
        """See `Replica.promote`; the copied wish for a synchronous standby goes with it, because there is none now."""
        with postgres.translating():
            conn = postgres.connect(self._dsn, autocommit=True)
            try:
                with conn.cursor() as cur:
                    cur.execute("select pg_is_in_recovery(), current_setting('synchronous_standby_names') <> ''")
                    in_recovery, waits_for_standby = cur.fetchone() or (False, False)
                    if in_recovery:
                        cur.execute("select pg_promote(true, %s)", [PROMOTION_TIMEOUT_S])
                        if cur.fetchone() != (True,):
                            raise UnavailableError(
                                f"the replica was not promoted within {PROMOTION_TIMEOUT_S} s",
                                hint="read the server's log, then run the state again",
                            )
                    if waits_for_standby:
                        # Until a new standby is built every acknowledged commit would wait for one that is gone.
                        cur.execute("alter system set synchronous_standby_names = ''")
                        cur.execute("select pg_reload_conf()")
            finally:
                conn.close()
        return bool(in_recovery)
