"""The state database in two regions: an Aurora Global Database, an RDS instance with a replica, or with copied backups.

Each region's construct needs nothing of the other but names. What a recovery does to a follower (it is promoted, or
taken out of its global database) a later deployment must not undo, so the arguments that say whom it follows are
ignored once it exists. Passwords are write-only arguments: none is in a state.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from relight_constructs.bindings import (
    Construct,
    DbInstance,
    DbInstanceAutomatedBackupsReplication,
    DbParameterGroup,
    DbParameterGroupParameter,
    DbSubnetGroup,
    RdsCluster,
    RdsClusterInstance,
    RdsClusterParameterGroup,
    RdsClusterParameterGroupParameter,
    RdsGlobalCluster,
    TerraformResourceLifecycle,
)
from relight_constructs.key import Key
from relight_constructs.logs import LogGroup
from relight_constructs.policies import Statement, by_alias
from relight_constructs.props import KeyProps, most_storage_gib

if TYPE_CHECKING:
    from collections.abc import Mapping

    from relight_constructs.policies import Grantee
    from relight_constructs.props import (
        CopiedBackupsProps,
        GlobalClusterProps,
        InstanceProps,
        InstanceReplicaProps,
        RestoreProps,
        SecondaryClusterProps,
        StateProps,
    )

PORT = 5432
DATABASE = "relight"
USER = "relight"
# Of the engines' versions that both services offer; a replica takes its source's.
INSTANCE_VERSION = "17.6"
CLUSTER_VERSION = "17.5"
# One takes writes, and the other takes over within the region.
CLUSTER_INSTANCES = 2
# Free, and enough to see an incident from its beginning.
INSIGHTS_DAYS = 7

PROMOTE_REPLICA_ACTIONS = ("rds:DescribeDBInstances", "rds:PromoteReadReplica")
DETACH_ACTIONS = ("rds:DescribeGlobalClusters", "rds:RemoveFromGlobalCluster")
LOOK_INSTANCE_ACTIONS = ("rds:DescribeDBInstances",)
LOOK_BACKUPS_ACTIONS = ("rds:DescribeDBInstanceAutomatedBackups",)
RESTORE_INSTANCE_ACTIONS = ("rds:RestoreDBInstanceToPointInTime",)
# What RDS looks at on behalf of who restores. Source: AWS's schema of AWS::RDS::DBInstance, what its handlers may do.
RESTORE_NETWORK_ACTIONS = (
    "ec2:DescribeAccountAttributes",
    "ec2:DescribeAvailabilityZones",
    "ec2:DescribeInternetGateways",
    "ec2:DescribeSecurityGroups",
    "ec2:DescribeSubnets",
    "ec2:DescribeVpcAttribute",
    "ec2:DescribeVpcs",
)
# What RDS does with a key on behalf of who restores. Source: Amazon RDS user guide, "AWS KMS key management".
RESTORE_KEY_ACTIONS = (
    "kms:Decrypt",
    "kms:DescribeKey",
    "kms:Encrypt",
    "kms:GenerateDataKey",
    "kms:GenerateDataKeyWithoutPlaintext",
    "kms:ReEncryptFrom",
    "kms:ReEncryptTo",
)

# TLS only, though it is the default of newer versions: a default can change. What runs for seconds is logged, with its
# values, in a log that is encrypted; statements of Relight's own take milliseconds.
_PARAMETERS = {"log_min_duration_statement": "5000", "log_statement": "ddl", "rds.force_ssl": "1"}


class _Ground:
    """What every kind stands on: subnets, a log that is encrypted and ends, and the version's name."""

    def __init__(self, scope: Construct, props: StateProps, *, of: str, logs: tuple[str, ...]) -> None:
        self.subnets = DbSubnetGroup(
            scope,
            "subnets",
            name=props.name,
            description="The state database of Relight",
            subnet_ids=list(props.network.private_subnet_ids),
        )
        # Made beforehand: RDS would make them itself, unencrypted and for ever.
        self.logs = [
            LogGroup(
                scope,
                f"log-{log}",
                place=props.place,
                name=f"/aws/rds/{of}/{props.name}/{log}",
                key=props.key,
                retention_days=props.log_retention_days,
            ).resource
            for log in logs
        ]
        self.groups = [props.network.group_id("state")]
        self.major = props.version.partition(".")[0]


def _final_snapshot(state: StateProps) -> str:
    """What the last snapshot is called. It outlives all else, so it is named after the security group too: whatever is
    made and torn down again has another one, while no plan finds another name meanwhile."""
    return f"{state.name}-final-{state.network.group_id('state')}"


def _instance_parameters(scope: Construct, props: StateProps, major: str, *, storage_gib: int = 0) -> DbParameterGroup:
    parameters = dict(_PARAMETERS)
    if storage_gib:
        # A replica that is away for long would otherwise fill the primary's storage with the log that it lacks.
        parameters["max_slot_wal_keep_size"] = str(storage_gib * 1024 // 2)
    return DbParameterGroup(
        scope,
        "parameters",
        name=props.name,
        family=f"postgres{major}",
        description="The state database of Relight",
        parameter=[
            DbParameterGroupParameter(
                name=name, value=value, apply_method="pending-reboot" if name == "rds.force_ssl" else "immediate"
            )
            for name, value in parameters.items()
        ],
    )


def _cluster_parameters(
    scope: Construct, props: StateProps, major: str, more: Mapping[str, str]
) -> RdsClusterParameterGroup:
    return RdsClusterParameterGroup(
        scope,
        "parameters",
        name=props.name,
        family=f"aurora-postgresql{major}",
        description="The state database of Relight",
        parameter=[
            RdsClusterParameterGroupParameter(
                name=name, value=value, apply_method="pending-reboot" if name == "rds.force_ssl" else "immediate"
            )
            for name, value in (_PARAMETERS | dict(more)).items()
        ],
    )


class Instance(Construct):
    """Define an RDS instance that takes writes, with its standby in another zone of the region."""

    def __init__(self, scope: Construct, id_: str, props: InstanceProps) -> None:
        super().__init__(scope, id_)
        primary, state = props.primary, props.primary.state
        ground = _Ground(self, state, of="instance", logs=("postgresql", "upgrade"))
        parameters = _instance_parameters(self, state, ground.major, storage_gib=props.storage_gib)
        self._instance = DbInstance(
            self,
            "instance",
            identifier=state.name,
            engine="postgres",
            engine_version=state.version,
            # Minor versions come with a deployment, so that a plan never finds another than it says.
            auto_minor_version_upgrade=False,
            instance_class=primary.instance_class,
            allocated_storage=props.storage_gib,
            max_allocated_storage=most_storage_gib(props.storage_gib),
            storage_type="gp3",
            storage_encrypted=True,
            kms_key_id=state.key.arn,
            multi_az=True,
            db_name=DATABASE,
            username=USER,
            password_wo=primary.password,
            password_wo_version=primary.password_version,
            port=PORT,
            db_subnet_group_name=ground.subnets.name,
            vpc_security_group_ids=ground.groups,
            publicly_accessible=False,
            parameter_group_name=parameters.name,
            backup_retention_period=primary.backup_days,
            delete_automated_backups=False,
            copy_tags_to_snapshot=True,
            deletion_protection=True,
            skip_final_snapshot=False,
            final_snapshot_identifier=_final_snapshot(state),
            enabled_cloudwatch_logs_exports=["postgresql", "upgrade"],
            performance_insights_enabled=True,
            performance_insights_kms_key_id=state.key.arn,
            performance_insights_retention_period=INSIGHTS_DAYS,
            depends_on=ground.logs,
        )

    @property
    def host(self) -> str:
        """A reference to the name that it is reached by."""
        return self._instance.address

    @property
    def arn(self) -> str:
        """A reference to its ARN."""
        return self._instance.arn


class InstanceReplica(Construct):
    """Define an RDS instance that follows one in another region, until it is promoted.

    It has no backups before, which RDS has refused for replicas of PostgreSQL: its promotion begins them. It is in one
    zone, as a pilot light is; making it of two is for the days after.
    """

    def __init__(self, scope: Construct, id_: str, props: InstanceReplicaProps) -> None:
        super().__init__(scope, id_)
        self._follower = follower = props.follower
        state = follower.state
        ground = _Ground(self, state, of="instance", logs=("postgresql", "upgrade"))
        parameters = _instance_parameters(self, state, ground.major)
        self._instance = DbInstance(
            self,
            "instance",
            identifier=state.name,
            replicate_source_db=follower.source,
            instance_class=follower.instance_class,
            auto_minor_version_upgrade=False,
            # It begins with its source's storage, and does not follow when that grows: each instance grows by itself.
            max_allocated_storage=most_storage_gib(props.storage_gib),
            storage_encrypted=True,
            kms_key_id=state.key.arn,
            multi_az=False,
            port=PORT,
            db_subnet_group_name=ground.subnets.name,
            vpc_security_group_ids=ground.groups,
            publicly_accessible=False,
            parameter_group_name=parameters.name,
            backup_retention_period=0,
            delete_automated_backups=False,
            copy_tags_to_snapshot=True,
            deletion_protection=True,
            # RDS refuses a final snapshot of a replica.
            skip_final_snapshot=True,
            enabled_cloudwatch_logs_exports=["postgresql", "upgrade"],
            performance_insights_enabled=True,
            performance_insights_kms_key_id=state.key.arn,
            performance_insights_retention_period=INSIGHTS_DAYS,
            depends_on=ground.logs,
            # Promoted, it follows nobody and is backed up; and its storage may have grown.
            lifecycle=TerraformResourceLifecycle(
                ignore_changes=["allocated_storage", "backup_retention_period", "replicate_source_db"]
            ),
        )

    @property
    def host(self) -> str:
        """A reference to the name that it is reached by, which its promotion does not change."""
        return self._instance.address

    def grant_look(self, grantee: Grantee) -> None:
        """Nothing: how far it has come is asked of the database itself."""

    def grant_promote(self, grantee: Grantee) -> None:
        """Promote it, and see how that goes on."""
        place, name = self._follower.state.place, self._follower.state.name
        grantee.allow(
            "promote-state",
            Statement(
                actions=PROMOTE_REPLICA_ACTIONS, resources=(f"arn:aws:rds:{place.region}:{place.account}:db:{name}",)
            ),
        )


class GlobalCluster(Construct):
    """Define an Aurora Global Database, and the cluster of it that takes writes."""

    def __init__(self, scope: Construct, id_: str, props: GlobalClusterProps) -> None:
        super().__init__(scope, id_)
        primary, state = props.primary, props.primary.state
        whole = RdsGlobalCluster(
            self,
            "global",
            global_cluster_identifier=state.name,
            engine="aurora-postgresql",
            engine_version=state.version,
            storage_encrypted=True,
            deletion_protection=True,
        )
        more = {} if props.rpo_s is None else {"rds.global_db_rpo": str(props.rpo_s)}
        self._cluster = _cluster(
            self,
            state,
            more,
            global_cluster=whole.id,
            backup_days=primary.backup_days,
            password=primary.password,
            password_version=primary.password_version,
        )
        _members(self, state, self._cluster, primary.instance_class, CLUSTER_INSTANCES)

    @property
    def host(self) -> str:
        """A reference to the name of whichever instance takes writes."""
        return self._cluster.endpoint


class SecondaryCluster(Construct):
    """Define the cluster of an Aurora Global Database in another region, which follows until it is taken out.

    It has one instance, by whose own name it is reached: a secondary's name for writers leads nowhere before.
    """

    def __init__(self, scope: Construct, id_: str, props: SecondaryClusterProps) -> None:
        super().__init__(scope, id_)
        self._follower = follower = props.follower
        cluster = _cluster(
            self,
            follower.state,
            {},
            global_cluster=follower.source,
            backup_days=props.backup_days,
            source_region=props.source_region,
        )
        (self._member,) = _members(self, follower.state, cluster, follower.instance_class, 1)

    @property
    def host(self) -> str:
        """A reference to the name of its instance, which reads before and also writes afterwards."""
        return self._member.endpoint

    def grant_look(self, grantee: Grantee) -> None:
        """Nothing: how far it has come is asked of the database itself."""

    def grant_promote(self, grantee: Grantee) -> None:
        """Take it out of its global database, and see whether it is."""
        follower, place = self._follower, self._follower.state.place
        grantee.allow(
            "promote-state",
            Statement(
                actions=DETACH_ACTIONS,
                resources=(
                    f"arn:aws:rds:{place.region}:{place.account}:cluster:{follower.state.name}",
                    f"arn:aws:rds::{place.account}:global-cluster:{follower.source}",
                ),
            ),
        )


def _cluster(
    scope: Construct,
    state: StateProps,
    parameters: Mapping[str, str],
    *,
    global_cluster: str,
    backup_days: int,
    password: str | None = None,
    password_version: int | None = None,
    source_region: str | None = None,
) -> RdsCluster:
    ground = _Ground(scope, state, of="cluster", logs=("postgresql",))
    return RdsCluster(
        scope,
        "cluster",
        cluster_identifier=state.name,
        global_cluster_identifier=global_cluster,
        engine="aurora-postgresql",
        engine_version=state.version,
        # A follower takes the database, its user and the password from its source.
        database_name=DATABASE if password else None,
        master_username=USER if password else None,
        master_password_wo=password,
        master_password_wo_version=password_version,
        source_region=source_region,
        port=PORT,
        storage_encrypted=True,
        kms_key_id=state.key.arn,
        db_subnet_group_name=ground.subnets.name,
        vpc_security_group_ids=ground.groups,
        db_cluster_parameter_group_name=_cluster_parameters(scope, state, ground.major, parameters).name,
        backup_retention_period=backup_days,
        delete_automated_backups=False,
        copy_tags_to_snapshot=True,
        deletion_protection=True,
        skip_final_snapshot=False,
        final_snapshot_identifier=_final_snapshot(state),
        enabled_cloudwatch_logs_exports=["postgresql"],
        depends_on=ground.logs,
        # Taken out by a recovery, it is not to be put back, which would need it to be made anew.
        lifecycle=TerraformResourceLifecycle(
            ignore_changes=["global_cluster_identifier", "replication_source_identifier"]
        ),
    )


def _members(
    scope: Construct, state: StateProps, cluster: RdsCluster, instance_class: str, count: int
) -> list[RdsClusterInstance]:
    return [
        RdsClusterInstance(
            scope,
            f"instance-{number}",
            identifier=f"{state.name}-{number}",
            cluster_identifier=cluster.cluster_identifier,
            engine="aurora-postgresql",
            engine_version=state.version,
            auto_minor_version_upgrade=False,
            instance_class=instance_class,
            publicly_accessible=False,
            copy_tags_to_snapshot=True,
            performance_insights_enabled=True,
            performance_insights_kms_key_id=state.key.arn,
            performance_insights_retention_period=INSIGHTS_DAYS,
        )
        for number in range(1, count + 1)
    ]


class CopiedBackups(Construct):
    """Define that an instance's backups, and its log since, are copied to another region while they are made.

    It is deployed with the instance, not where the copies are: they must exist before the day that they are needed,
    also of an environment that has nothing else there.
    """

    def __init__(self, scope: Construct, id_: str, props: CopiedBackupsProps) -> None:
        super().__init__(scope, id_)
        key = Key(
            self,
            "key",
            KeyProps(
                place=props.place,
                alias=props.key_alias,
                description="Copied backups of Relight's state database",
                provider=props.provider,
            ),
        )
        DbInstanceAutomatedBackupsReplication(
            self,
            "copies",
            source_db_instance_arn=props.source_arn,
            kms_key_id=key.arn,
            retention_period=props.days,
            provider=props.provider,
        )


class RestoreGround(Construct):
    """Define what a database that a recovery restores will stand on. There is no database before."""

    def __init__(self, scope: Construct, id_: str, props: RestoreProps) -> None:
        super().__init__(scope, id_)
        self._props = props
        ground = _Ground(self, props.state, of="instance", logs=("postgresql", "upgrade"))
        _instance_parameters(self, props.state, ground.major)
        # It resolves nowhere, so that what connects too early says why: a recovery writes the real name.
        self.host = f"{props.state.name}.not-restored-yet.invalid"

    def grant_look(self, grantee: Grantee) -> None:
        """See how old the newest copied backup is, and whether one was restored."""
        grantee.allow("look-state", *self._look())

    def grant_promote(self, grantee: Grantee) -> None:
        """Restore the newest copied backup into a new instance, and see how that goes on."""
        place, name = self._props.state.place, self._props.state.name
        here = f"arn:aws:rds:{place.region}:{place.account}"
        # A backup's id cannot be known beforehand; its key is another stack's, and known by its alias.
        ours = by_alias(self._props.key_alias, via=f"rds.{place.region}")
        grantee.allow(
            "promote-state",
            *self._look(),
            Statement(
                actions=RESTORE_INSTANCE_ACTIONS,
                resources=(
                    f"{here}:auto-backup:*",
                    f"{here}:db:{name}",
                    f"{here}:og:default:*",
                    f"{here}:pg:{name}",
                    f"{here}:subgrp:{name}",
                ),
            ),
            Statement(actions=RESTORE_NETWORK_ACTIONS, resources=("*",)),
            Statement(
                actions=RESTORE_KEY_ACTIONS,
                resources=(f"arn:aws:kms:{place.region}:{place.account}:key/*",),
                condition=ours,
            ),
            Statement(
                actions=("kms:CreateGrant",),
                resources=(f"arn:aws:kms:{place.region}:{place.account}:key/*",),
                condition=ours | {"Bool": {"kms:GrantIsForAWSResource": "true"}},
            ),
        )

    def _look(self) -> tuple[Statement, Statement]:
        place, name = self._props.state.place, self._props.state.name
        return (
            Statement(
                actions=LOOK_INSTANCE_ACTIONS, resources=(f"arn:aws:rds:{place.region}:{place.account}:db:{name}",)
            ),
            Statement(actions=LOOK_BACKUPS_ACTIONS, resources=("*",)),
        )
