"""State databases that AWS promotes: a cross-region replica, a secondary of an Aurora Global Database, copied backups.

Each asks the control plane of its own region alone. A promotion takes longer than a function should wait: `promote`
then raises AgainLaterError, and goes on when it is called again.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from relight.adapters import postgres
from relight.adapters.rds import LOOK_EVERY_S
from relight.clock import looks
from relight.errors import AgainLaterError, ConfigError, ConflictError, NotFoundError, UnavailableError
from relight.recovery.replica import PhysicalReplica, ReplicaPosition

if TYPE_CHECKING:
    from collections.abc import Callable

    from relight.adapters.rds import Instance, Rds
    from relight.clock import Clock

# How long one call waits for what it asked for.
WAIT_S = 20.0
# Of a restored instance: it is backed up for the first time while it already serves.
SERVING = ("available", "backing-up")
# The name of a database that is not there yet ends so, by RFC 2606 in nothing that exists.
NOWHERE = ".invalid"

_AURORA = """
select not pg_is_in_recovery(),
       coalesce((select highest_lsn_written::text from found), ''),
       (select last_lag_calculation_time - make_interval(secs => durability_lag_in_msec / 1000.0) from found)
  from (select) as always
"""
_AURORA_FOUND = """
with found as materialized (
    select * from aurora_global_db_status() where aws_region = %s and durability_lag_in_msec >= 0 limit 1
)
"""


class RdsReplica:
    """A cross-region read replica of RDS. Its user needs no rights on the server but to connect."""

    def __init__(self, dsn: str, rds: Rds, *, instance: str, backup_days: int, clock: Clock) -> None:
        self._server = PhysicalReplica(dsn)
        self._rds = rds
        self._instance = instance
        self._backup_days = backup_days
        self._clock = clock

    def position(self) -> ReplicaPosition:
        return self._server.position()

    def promote(self) -> bool:
        """See `Replica.promote`. NotFoundError where there is no such instance."""
        if _writes(self.position):
            return False
        asked, said = False, ""
        for _ in looks(self._clock, every_s=LOOK_EVERY_S, within_s=WAIT_S):
            found = self._rds.instance(self._instance)
            if found is None:
                raise NotFoundError(f"there is no instance {self._instance}", hint="deploy the standby's stack")
            said = found.status
            if found.follows and not asked:
                try:
                    self._rds.promote(self._instance, backup_days=self._backup_days)
                    asked = True
                except AgainLaterError as exc:
                    said = exc.problem
            elif not found.follows and _writes(self.position):
                return True
        raise _again(f"the instance {self._instance} does not take writes yet: {said}")


class AuroraSecondary:
    """The cluster of an Aurora Global Database in another region than the primary's, promoted by taking it out.

    What the primary's cluster has committed beyond stays in it, to be compared, where Aurora's own failover would
    overwrite it as soon as that region is back.
    """

    def __init__(self, dsn: str, rds: Rds, *, region: str, cluster: str, global_cluster: str, clock: Clock) -> None:
        self._dsn = dsn
        self._rds = rds
        self._region = region
        self._cluster = cluster
        self._global = global_cluster
        self._clock = clock

    def position(self) -> ReplicaPosition:
        """See `Replica.position`; positions are those of Aurora's storage. Its servers refuse PostgreSQL's own words
        for them."""
        with postgres.translating():
            conn = postgres.connect(self._dsn, autocommit=True)
            try:
                with conn.cursor() as cur:
                    cur.execute(_AURORA_FOUND + _AURORA, [self._region])
                    ((promoted, lsn, at),) = cur.fetchall()
            finally:
                conn.close()
        return ReplicaPosition(promoted=promoted, received_lsn=lsn, replayed_lsn=lsn, last_commit_at=at)

    def promote(self) -> bool:
        """See `Replica.promote`."""
        if _writes(self.position):
            return False
        asked, said = False, ""
        for _ in looks(self._clock, every_s=LOOK_EVERY_S, within_s=WAIT_S):
            arn = None if asked else self._rds.follows_in(self._global, self._cluster)
            if arn is not None:
                try:
                    self._rds.detach(self._global, arn)
                    asked = True
                except AgainLaterError as exc:
                    said = exc.problem
            elif _writes(self.position):
                return True
            else:
                said = f"it is out of {self._global}, and is being promoted"
        raise _again(f"the cluster {self._cluster} does not take writes yet: {said}")


class RestoredBackup:
    """The newest copied backup of the primary's instance, restored into a new one.

    Nobody knows the new instance's address beforehand, so it is written into the connections, by `point_at`; who
    connects to the state afterwards must have read them anew, so that also then AgainLaterError is raised, once.
    """

    def __init__(
        self,
        dsn: str,
        rds: Rds,
        *,
        instance: str,
        source_arn: str,
        group: str,
        most_gib: int,
        point_at: Callable[[str], None],
        clock: Clock,
    ) -> None:
        self._server = PhysicalReplica(dsn)
        self._host = postgres.host_of(dsn)
        self._rds = rds
        self._instance = instance
        self._source_arn = source_arn
        self._group = group
        self._most_gib = most_gib
        self._point_at = point_at
        self._clock = clock

    def position(self) -> ReplicaPosition:
        """See `Replica.position`. Before anything is restored, `last_commit_at` is how far the copied backups come."""
        if not self._host.endswith(NOWHERE):
            return self._server.position()
        until = self._rds.newest_backup(self._source_arn).until
        return ReplicaPosition(promoted=False, received_lsn="", replayed_lsn="", last_commit_at=until)

    def promote(self) -> bool:
        """See `Replica.promote`: True once an instance was restored, and is pointed at."""
        if not self._host.endswith(NOWHERE) and _writes(self.position):
            return False
        found: Instance | None = None
        for _ in looks(self._clock, every_s=LOOK_EVERY_S, within_s=WAIT_S):
            found = self._rds.instance(self._instance)
            if found is None:
                self._restore()
            elif found.host == self._host and _writes(self.position):
                return True
            elif found.status in SERVING and found.host not in ("", self._host):
                self._point_at(found.host)
                raise AgainLaterError(
                    f"{self._instance} was restored, and the connections lead to it now",
                    hint="run the state again, which reads them anew",
                    wait_s=1.0,
                )
        status = "asked for" if found is None else found.status
        raise _again(f"the instance {self._instance} is not restored yet: {status}")

    def _restore(self) -> None:
        if not self._group:
            raise ConfigError(
                f"{self._instance} is to be restored, and state_group is empty",
                hint="recover by `relight recover --environment`, or set RELIGHT_STATE_GROUP to its security group",
            )
        newest = self._rds.newest_backup(self._source_arn)
        try:
            self._rds.restore(newest, as_=self._instance, group=self._group, most_gib=self._most_gib)
        except ConflictError:
            return  # somebody else asked in between


def _writes(position: Callable[[], ReplicaPosition]) -> bool:
    """Whether the server takes writes; a server that is started again in the middle does not."""
    try:
        return position().promoted
    except UnavailableError:
        return False


def _again(problem: str) -> AgainLaterError:
    return AgainLaterError(problem, hint="run the state again; it goes on", wait_s=LOOK_EVERY_S)
