"""Amazon RDS, as far as a recovery asks it: databases that follow another one, and copied backups.

Every call goes to the region of the client, which is the standby's own.
"""

from __future__ import annotations

import math
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from botocore import exceptions as botocore

from relight.adapters import aws
from relight.errors import AgainLaterError, ConflictError, DeniedError, NotFoundError, PermanentError, RelightError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from datetime import datetime

# Seconds after which a database that is at something else is worth another look.
LOOK_EVERY_S = 5.0

# RDS refuses a limit that is not a tenth above what is allocated, and wants 26 %. Source: Amazon RDS user guide,
# "Managing capacity automatically with Amazon RDS storage autoscaling".
ROOM = 1.26

# What RDS says in words of its own; `aws` knows the rest, by status.
BY_CODE: dict[str, type[RelightError]] = {
    "DBInstanceAlreadyExists": ConflictError,
    "InstanceQuotaExceeded": PermanentError,
    "InsufficientDBInstanceCapacity": AgainLaterError,
    "InvalidDBClusterStateFault": AgainLaterError,
    "InvalidDBInstanceState": AgainLaterError,
    "InvalidGlobalClusterStateFault": AgainLaterError,
    "InvalidVPCNetworkStateFault": PermanentError,
    "KMSKeyNotAccessibleFault": DeniedError,
    "PointInTimeRestoreNotEnabled": PermanentError,
    "StorageQuotaExceeded": PermanentError,
}


@contextmanager
def translating() -> Iterator[None]:
    """Turn RDS's errors into Relight's; AgainLaterError for what is refused as the database is at something else."""
    try:
        with aws.translating():
            yield
    except RelightError as exc:
        cause = exc.__cause__
        code = cause.response.get("Error", {}).get("Code", "") if isinstance(cause, botocore.ClientError) else ""
        kind = BY_CODE.get(code)
        if kind is None:
            raise
        if kind is AgainLaterError:
            raise AgainLaterError(exc.problem, hint="it is asked again by itself", wait_s=LOOK_EVERY_S) from cause
        raise kind(exc.problem, hint=exc.hint) from cause


@dataclass(frozen=True, slots=True, kw_only=True)
class Instance:
    """An RDS instance as it is now. `host` is empty while it is being made."""

    status: str
    follows: bool
    host: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Backup:
    """An instance's copied backups; `until` is the last moment that they can be restored to, `gib` its storage."""

    arn: str
    until: datetime
    gib: int


class Rds:
    """One region's RDS, through a client of boto3."""

    def __init__(self, client: Any) -> None:
        self._client = client

    def instance(self, id_: str) -> Instance | None:
        """The instance called `id_`; None where there is none."""
        try:
            with translating():
                found = self._client.describe_db_instances(DBInstanceIdentifier=id_)["DBInstances"][0]
        except NotFoundError:
            return None
        return Instance(
            status=found["DBInstanceStatus"],
            follows=bool(found.get("ReadReplicaSourceDBInstanceIdentifier")),
            host=found.get("Endpoint", {}).get("Address", ""),
        )

    def promote(self, id_: str, *, backup_days: int) -> None:
        """Ask that a replica be promoted, and backed up from then on; AgainLaterError while it is at something else."""
        with translating():
            self._client.promote_read_replica(DBInstanceIdentifier=id_, BackupRetentionPeriod=backup_days)

    def follows_in(self, global_id: str, cluster_id: str) -> str | None:
        """The ARN of the cluster called `cluster_id` while it is a follower in the global database; None when it is
        not, or not any more."""
        region = self._client.meta.region_name
        try:
            with translating():
                found = self._client.describe_global_clusters(GlobalClusterIdentifier=global_id)["GlobalClusters"]
        except NotFoundError:
            return None
        members = [member for whole in found for member in whole.get("GlobalClusterMembers", [])]
        return next(
            (
                arn
                for arn in (str(member["DBClusterArn"]) for member in members if not member.get("IsWriter"))
                if arn.split(":")[3] == region and arn.split(":")[-1] == cluster_id
            ),
            None,
        )

    def detach(self, global_id: str, cluster_arn: str) -> None:
        """Ask that a cluster be taken out of its global database: it takes writes from then on."""
        with translating():
            self._client.remove_from_global_cluster(GlobalClusterIdentifier=global_id, DbClusterIdentifier=cluster_arn)

    def newest_backup(self, source_arn: str) -> Backup:
        """The copied backups of an instance of another region; NotFoundError where there are none yet."""
        with translating():
            pages = self._client.get_paginator("describe_db_instance_automated_backups").paginate(
                DBInstanceIdentifier=source_arn.rpartition(":")[2]
            )
            found = [
                Backup(
                    arn=item["DBInstanceAutomatedBackupsArn"],
                    until=item["RestoreWindow"]["LatestTime"],
                    gib=item["AllocatedStorage"],
                )
                for page in pages
                for item in page["DBInstanceAutomatedBackups"]
                if item["DBInstanceArn"] == source_arn and "LatestTime" in item.get("RestoreWindow", {})
            ]
        if not found:
            raise NotFoundError(
                f"no backup of {source_arn} was copied to {self._client.meta.region_name}",
                hint="see whether the primary's stack is deployed; the first copy takes as long as a backup",
            )
        return max(found, key=lambda backup: backup.until)

    def restore(self, backup: Backup, *, as_: str, group: str, most_gib: int) -> None:
        """Ask for a new instance `as_` with all that the backups have, on the subnets and the parameters called alike,
        in the security group `group`. ConflictError where it is there already.

        Its storage grows by itself up to `most_gib` (0: not at all), and always by as much as RDS wants to be room: a
        source that has grown to its limit must not keep anybody from being restored.
        """
        grows = {"MaxAllocatedStorage": max(most_gib, math.ceil(backup.gib * ROOM))} if most_gib else {}
        with translating():
            self._client.restore_db_instance_to_point_in_time(
                SourceDBInstanceAutomatedBackupsArn=backup.arn,
                TargetDBInstanceIdentifier=as_,
                UseLatestRestorableTime=True,
                DBSubnetGroupName=as_,
                DBParameterGroupName=as_,
                VpcSecurityGroupIds=[group],
                EnableCloudwatchLogsExports=["postgresql", "upgrade"],
                PubliclyAccessible=False,
                DeletionProtection=True,
                CopyTagsToSnapshot=True,
                AutoMinorVersionUpgrade=False,
                **grows,
            )
