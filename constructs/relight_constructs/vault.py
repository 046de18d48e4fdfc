"""The bucket of recovery points, what it replicates, and the bucket of the epoch and the lease."""

from __future__ import annotations

from typing import TYPE_CHECKING

from relight.objectives import REPLICATION_TIME_CONTROL_S
from relight_constructs.access import JOURNAL, POINTS, RESULTS
from relight_constructs.alarm import MetricAlarm
from relight_constructs.bindings import (
    Construct,
    S3Bucket,
    S3BucketLifecycleConfiguration,
    S3BucketLifecycleConfigurationRule,
    S3BucketLifecycleConfigurationRuleAbortIncompleteMultipartUpload,
    S3BucketLifecycleConfigurationRuleExpiration,
    S3BucketLifecycleConfigurationRuleFilter,
    S3BucketLifecycleConfigurationRuleNoncurrentVersionExpiration,
    S3BucketLifecycleConfigurationRuleTransition,
    S3BucketObjectLockConfigurationA,
    S3BucketObjectLockConfigurationRuleA,
    S3BucketObjectLockConfigurationRuleDefaultRetentionA,
    S3BucketOwnershipControls,
    S3BucketOwnershipControlsRule,
    S3BucketPolicy,
    S3BucketPublicAccessBlock,
    S3BucketReplicationConfigurationA,
    S3BucketReplicationConfigurationRule,
    S3BucketReplicationConfigurationRuleDeleteMarkerReplication,
    S3BucketReplicationConfigurationRuleDestination,
    S3BucketReplicationConfigurationRuleDestinationEncryptionConfiguration,
    S3BucketReplicationConfigurationRuleDestinationMetrics,
    S3BucketReplicationConfigurationRuleDestinationMetricsEventThreshold,
    S3BucketReplicationConfigurationRuleDestinationReplicationTime,
    S3BucketReplicationConfigurationRuleDestinationReplicationTimeTime,
    S3BucketReplicationConfigurationRuleFilter,
    S3BucketReplicationConfigurationRuleSourceSelectionCriteria,
    S3BucketReplicationConfigurationRuleSourceSelectionCriteriaSseKmsEncryptedObjects,
    S3BucketServerSideEncryptionConfigurationA,
    S3BucketServerSideEncryptionConfigurationRuleA,
    S3BucketServerSideEncryptionConfigurationRuleApplyServerSideEncryptionByDefaultA,
    S3BucketVersioningA,
    S3BucketVersioningVersioningConfiguration,
)
from relight_constructs.key import Key, ReplicaKey
from relight_constructs.policies import Statement, tls_only, trust_replication
from relight_constructs.props import KeyProps, Lock, MetricAlarmProps, ReplicaKeyProps
from relight_constructs.role import Role

if TYPE_CHECKING:
    from relight_constructs.access import BucketRef, VaultRef
    from relight_constructs.bindings import TerraformProvider
    from relight_constructs.props import LeaseProps, ReplicationAlarmsProps, VaultProps

REPLICATION_TIME_MIN = int(REPLICATION_TIME_CONTROL_S // 60)
# The one rule of a replication, by which its metrics are known.
REPLICATION_RULE = "everything"

REPLICATE_FROM_BUCKET_ACTIONS = ("s3:GetReplicationConfiguration", "s3:ListBucket")
REPLICATE_FROM_ACTIONS = (
    "s3:GetObjectVersionAcl",
    "s3:GetObjectVersionForReplication",
    "s3:GetObjectVersionTagging",
)
# Of a locked object its lock is copied too. Source: Amazon S3 user guide, "Using Object Lock with S3 Replication".
REPLICATE_LOCK_ACTIONS = ("s3:GetObjectLegalHold", "s3:GetObjectRetention")
REPLICATE_TO_ACTIONS = ("s3:ReplicateDelete", "s3:ReplicateObject", "s3:ReplicateTags")


class PrivateBucket(Construct):
    """Define a bucket that is encrypted with `key`, answers over TLS only, and is never public."""

    def __init__(
        self,
        scope: Construct,
        id_: str,
        *,
        ref: BucketRef,
        key: Key | ReplicaKey,
        provider: TerraformProvider | None = None,
    ) -> None:
        super().__init__(scope, id_)
        # Terraform destroys the bucket first, which S3 refuses while something is in it: so the key stays too.
        self._bucket = S3Bucket(self, "bucket", bucket=ref.bucket, depends_on=[key.resource], provider=provider)
        S3BucketPublicAccessBlock(
            self,
            "public-access",
            bucket=self._bucket.id,
            block_public_acls=True,
            block_public_policy=True,
            ignore_public_acls=True,
            restrict_public_buckets=True,
            provider=provider,
        )
        S3BucketOwnershipControls(
            self,
            "ownership",
            bucket=self._bucket.id,
            rule=S3BucketOwnershipControlsRule(object_ownership="BucketOwnerEnforced"),
            provider=provider,
        )
        S3BucketServerSideEncryptionConfigurationA(
            self,
            "encryption",
            bucket=self._bucket.id,
            rule=[
                S3BucketServerSideEncryptionConfigurationRuleA(
                    bucket_key_enabled=True,
                    apply_server_side_encryption_by_default=S3BucketServerSideEncryptionConfigurationRuleApplyServerSideEncryptionByDefaultA(
                        sse_algorithm="aws:kms", kms_master_key_id=key.arn
                    ),
                )
            ],
            provider=provider,
        )
        S3BucketPolicy(self, "policy", bucket=self._bucket.id, policy=tls_only(ref.bucket), provider=provider)

    @property
    def id(self) -> str:
        """A reference to its name."""
        return self._bucket.id

    @property
    def arn(self) -> str:
        """A reference to its ARN."""
        return self._bucket.arn


class Vault(Construct):
    """Define a private, versioned, encrypted bucket for recovery points, locked against deletion.

    Access is by grants of `ref` alone: the bucket's own policy allows nobody anything. None of them allows to delete a
    version, to end a lock, or to change one.
    """

    def __init__(self, scope: Construct, id_: str, props: VaultProps) -> None:
        super().__init__(scope, id_)
        self.ref = props.ref
        self._props = props
        self.key: Key | ReplicaKey = self._key()
        self.bucket = PrivateBucket(self, "bucket", ref=props.ref, key=self.key, provider=props.provider)
        self.versioning = S3BucketVersioningA(
            self,
            "versioning",
            bucket=self.bucket.id,
            versioning_configuration=S3BucketVersioningVersioningConfiguration(status="Enabled"),
            provider=props.provider,
        )
        self.lock = None if props.lock is Lock.NONE else self._lock(props.lock)
        self._lifecycle()

    def _key(self) -> Key | ReplicaKey:
        props, description = self._props, "Recovery points of Relight"
        if props.key_of is None:
            return Key(
                self,
                "key",
                KeyProps(
                    place=props.place,
                    alias=props.ref.key_alias,
                    description=description,
                    multi_region=True,
                    provider=props.provider,
                ),
            )
        return ReplicaKey(
            self,
            "key",
            ReplicaKeyProps(
                place=props.place,
                alias=props.ref.key_alias,
                description=description,
                source=props.key_of.key,
                provider=props.provider,
            ),
        )

    def _lock(self, lock: Lock) -> S3BucketObjectLockConfigurationA:
        """The bucket's own switch for locks is left alone: one that is changed later would replace the bucket."""
        retention = S3BucketObjectLockConfigurationRuleDefaultRetentionA(mode=lock.name, days=self._props.lock_days)
        return S3BucketObjectLockConfigurationA(
            self,
            "lock",
            bucket=self.bucket.id,
            rule=S3BucketObjectLockConfigurationRuleA(default_retention=retention),
            depends_on=[self.versioning],
            provider=self._props.provider,
        )

    def _lifecycle(self) -> None:
        props = self._props
        ladder = props.ladder
        rules = [
            _rule(
                "unfinished-uploads",
                "",
                abort_incomplete_multipart_upload=[
                    S3BucketLifecycleConfigurationRuleAbortIncompleteMultipartUpload(days_after_initiation=1)
                ],
            ),
            # A lock outlasts this rule where it ends later; a marker that hides nothing any more is in a listing's way.
            _rule(
                "earlier-versions",
                "",
                noncurrent_version_expiration=[
                    S3BucketLifecycleConfigurationRuleNoncurrentVersionExpiration(noncurrent_days=props.lock_days)
                ],
                expiration=[S3BucketLifecycleConfigurationRuleExpiration(expired_object_delete_marker=True)],
            ),
            _rule(
                "points",
                POINTS,
                transition=None
                if ladder.cool_days is None
                else [S3BucketLifecycleConfigurationRuleTransition(days=ladder.cool_days, storage_class="STANDARD_IA")],
                expiration=[S3BucketLifecycleConfigurationRuleExpiration(days=ladder.end_days)],
            ),
            # What brings a point forward was archived after it, and so never ends before it.
            _rule(
                "journal",
                JOURNAL,
                expiration=[S3BucketLifecycleConfigurationRuleExpiration(days=ladder.end_days)],
            ),
        ]
        if props.results_days:
            ending = [S3BucketLifecycleConfigurationRuleExpiration(days=props.results_days)]
            rules.append(_rule("results", RESULTS, expiration=ending))
        S3BucketLifecycleConfiguration(
            self,
            "lifecycle",
            bucket=self.bucket.id,
            rule=rules,
            depends_on=[self.versioning],
            provider=props.provider,
        )

    def replicate_to(self, peer: Vault, *, time_control: bool = True) -> None:
        """Copy every object with its lock, and no deletion, to `peer`; with `time_control` within the 15 minutes that
        S3 promises then."""
        props = self._props
        if self.lock is not None and peer.lock is None:
            raise ValueError(
                f"{props.ref.bucket} has lock={props.lock} and {peer.ref.bucket} has none: s3 replicates no locked "
                "object there; give both the same lock"
            )
        role = Role(
            self,
            "replication",
            name=props.place.role_name("replication"),
            trust=trust_replication(),
            provider=props.provider,
        )
        locks = () if self.lock is None else REPLICATE_LOCK_ACTIONS
        role.allow(
            "replicate",
            Statement(actions=REPLICATE_FROM_BUCKET_ACTIONS, resources=(self.bucket.arn,)),
            Statement(actions=(*REPLICATE_FROM_ACTIONS, *locks), resources=(f"{self.bucket.arn}/*",)),
            Statement(actions=REPLICATE_TO_ACTIONS, resources=(f"{peer.bucket.arn}/*",)),
            Statement(
                actions=("kms:Decrypt",),
                resources=(self.key.arn,),
                condition={"StringEquals": {"kms:ViaService": f"s3.{self.ref.region}.amazonaws.com"}},
            ),
            Statement(
                actions=("kms:Encrypt", "kms:GenerateDataKey"),
                resources=(peer.key.arn,),
                condition={"StringEquals": {"kms:ViaService": f"s3.{peer.ref.region}.amazonaws.com"}},
            ),
        )
        S3BucketReplicationConfigurationA(
            self,
            "replicate",
            bucket=self.bucket.id,
            role=role.arn,
            rule=[
                S3BucketReplicationConfigurationRule(
                    id=REPLICATION_RULE,
                    status="Enabled",
                    priority=1,
                    filter=S3BucketReplicationConfigurationRuleFilter(prefix=""),
                    # Each region keeps a ladder of its own, over what can be restored there.
                    delete_marker_replication=S3BucketReplicationConfigurationRuleDeleteMarkerReplication(
                        status="Disabled"
                    ),
                    source_selection_criteria=S3BucketReplicationConfigurationRuleSourceSelectionCriteria(
                        sse_kms_encrypted_objects=S3BucketReplicationConfigurationRuleSourceSelectionCriteriaSseKmsEncryptedObjects(
                            status="Enabled"
                        )
                    ),
                    destination=S3BucketReplicationConfigurationRuleDestination(
                        bucket=peer.bucket.arn,
                        encryption_configuration=S3BucketReplicationConfigurationRuleDestinationEncryptionConfiguration(
                            replica_kms_key_id=peer.key.arn
                        ),
                        replication_time=S3BucketReplicationConfigurationRuleDestinationReplicationTime(
                            status="Enabled",
                            time=S3BucketReplicationConfigurationRuleDestinationReplicationTimeTime(
                                minutes=REPLICATION_TIME_MIN
                            ),
                        )
                        if time_control
                        else None,
                        metrics=S3BucketReplicationConfigurationRuleDestinationMetrics(
                            status="Enabled",
                            event_threshold=S3BucketReplicationConfigurationRuleDestinationMetricsEventThreshold(
                                minutes=REPLICATION_TIME_MIN
                            )
                            if time_control
                            else None,
                        ),
                    ),
                )
            ],
            # S3 refuses to replicate between buckets that are not versioned yet, or from a locked one to one that is
            # not.
            depends_on=[item for vault in (self, peer) for item in (vault.versioning, vault.lock) if item is not None],
            provider=props.provider,
        )


class ReplicationAlarms(Construct):
    """Define alarms on what comes late to a vault and on what fails to leave it.

    S3 tells of the first where the objects go, and of the second where they come from; an alarm sees what is in its own
    region. One that is lost says nothing of itself: what it had sent is no longer late. Source: Amazon S3 user guide,
    "Using S3 Replication metrics".
    """

    def __init__(self, scope: Construct, id_: str, props: ReplicationAlarmsProps) -> None:
        super().__init__(scope, id_)
        own, peer = props.own, props.peer
        MetricAlarm(
            self,
            "late",
            MetricAlarmProps(
                name=f"{props.place.prefix}-replication-late",
                description=f"What {peer.bucket} holds comes later than {props.late_s} s to {own.bucket}",
                namespace="AWS/S3",
                metric="ReplicationLatency",
                dimensions=_replication(source=peer, target=own),
                statistic="Maximum",
                threshold=props.late_s,
                period_s=300,
                topic=props.topic,
            ),
        )
        MetricAlarm(
            self,
            "failed",
            MetricAlarmProps(
                name=f"{props.place.prefix}-replication-failed",
                description=f"Objects of {own.bucket} are not replicated: `relight points copy` carries points over",
                namespace="AWS/S3",
                metric="OperationsFailedReplication",
                dimensions=_replication(source=own, target=peer),
                period_s=300,
                topic=props.topic,
            ),
        )


def _replication(*, source: VaultRef, target: VaultRef) -> dict[str, str]:
    return {"SourceBucket": source.bucket, "DestinationBucket": target.bucket, "RuleId": REPLICATION_RULE}


class LeaseBucket(Construct):
    """Define the small bucket of the epoch and the lease: neither replicated, nor locked, nor versioned.

    It has one truth, in one region, changed by conditional write; a copy of it could only be stale.
    """

    def __init__(self, scope: Construct, id_: str, props: LeaseProps) -> None:
        super().__init__(scope, id_)
        self.ref = props.ref
        PrivateBucket(self, "bucket", ref=props.ref, key=props.key)


def _rule(
    id_: str,
    prefix: str,
    *,
    abort_incomplete_multipart_upload: list[S3BucketLifecycleConfigurationRuleAbortIncompleteMultipartUpload]
    | None = None,
    noncurrent_version_expiration: list[S3BucketLifecycleConfigurationRuleNoncurrentVersionExpiration] | None = None,
    transition: list[S3BucketLifecycleConfigurationRuleTransition] | None = None,
    expiration: list[S3BucketLifecycleConfigurationRuleExpiration] | None = None,
) -> S3BucketLifecycleConfigurationRule:
    return S3BucketLifecycleConfigurationRule(
        id=id_,
        status="Enabled",
        filter=[S3BucketLifecycleConfigurationRuleFilter(prefix=prefix)],
        abort_incomplete_multipart_upload=abort_incomplete_multipart_upload,
        noncurrent_version_expiration=noncurrent_version_expiration,
        transition=transition,
        expiration=expiration,
    )
