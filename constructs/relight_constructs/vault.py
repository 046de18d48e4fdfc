"""The bucket of recovery points, and the one of the epoch and the lease."""

from __future__ import annotations

from typing import TYPE_CHECKING

from relight_constructs.access import POINTS
from relight_constructs.bindings import (
    Construct,
    S3Bucket,
    S3BucketLifecycleConfiguration,
    S3BucketLifecycleConfigurationRule,
    S3BucketLifecycleConfigurationRuleAbortIncompleteMultipartUpload,
    S3BucketLifecycleConfigurationRuleExpiration,
    S3BucketLifecycleConfigurationRuleFilter,
    S3BucketLifecycleConfigurationRuleNoncurrentVersionExpiration,
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
from relight_constructs.key import Key
from relight_constructs.policies import Statement, tls_only, trust_replication
from relight_constructs.props import KeyProps
from relight_constructs.role import Role

if TYPE_CHECKING:
    from relight_constructs.access import BucketRef
    from relight_constructs.bindings import TerraformProvider
    from relight_constructs.props import LeaseProps, VaultProps

# The only value that S3 Replication Time Control and its metrics offer, in minutes.
REPLICATION_TIME_MIN = 15

REPLICATE_FROM_BUCKET_ACTIONS = ("s3:GetReplicationConfiguration", "s3:ListBucket")
REPLICATE_FROM_ACTIONS = (
    "s3:GetObjectVersionAcl",
    "s3:GetObjectVersionForReplication",
    "s3:GetObjectVersionTagging",
)
REPLICATE_TO_ACTIONS = ("s3:ReplicateDelete", "s3:ReplicateObject", "s3:ReplicateTags")


class PrivateBucket(Construct):
    """Define a bucket that is encrypted with `key`, answers over TLS only, and is never public."""

    def __init__(
        self, scope: Construct, id_: str, *, ref: BucketRef, key: Key, provider: TerraformProvider | None = None
    ) -> None:
        super().__init__(scope, id_)
        self._bucket = S3Bucket(self, "bucket", bucket=ref.bucket, provider=provider)
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
    """Define a private, versioned, encrypted bucket for recovery points, with a key of its own."""

    def __init__(self, scope: Construct, id_: str, props: VaultProps) -> None:
        super().__init__(scope, id_)
        self.ref = props.ref
        self._props = props
        self.key = Key(
            self,
            "key",
            KeyProps(
                place=props.place,
                alias=props.ref.key_alias,
                description="Recovery points of Relight",
                provider=props.provider,
            ),
        )
        self.bucket = PrivateBucket(self, "bucket", ref=props.ref, key=self.key, provider=props.provider)
        self.versioning = S3BucketVersioningA(
            self,
            "versioning",
            bucket=self.bucket.id,
            versioning_configuration=S3BucketVersioningVersioningConfiguration(status="Enabled"),
            provider=props.provider,
        )
        S3BucketLifecycleConfiguration(
            self,
            "lifecycle",
            bucket=self.bucket.id,
            rule=[
                _rule(
                    "unfinished-uploads",
                    "",
                    abort_incomplete_multipart_upload=[
                        S3BucketLifecycleConfigurationRuleAbortIncompleteMultipartUpload(days_after_initiation=1)
                    ],
                ),
                _rule(
                    "earlier-versions",
                    "",
                    noncurrent_version_expiration=[
                        S3BucketLifecycleConfigurationRuleNoncurrentVersionExpiration(
                            noncurrent_days=props.earlier_versions_expire_days
                        )
                    ],
                ),
                _rule(
                    "points",
                    POINTS,
                    expiration=[S3BucketLifecycleConfigurationRuleExpiration(days=props.points_expire_days)],
                ),
            ],
            depends_on=[self.versioning],
            provider=props.provider,
        )

    def replicate_to(self, peer: Vault) -> None:
        """Copy every object, and no deletion, to `peer` within the 15 minutes that S3 promises."""
        props = self._props
        role = Role(
            self,
            "replication",
            name=props.place.role_name("replication"),
            trust=trust_replication(),
            provider=props.provider,
        )
        role.allow(
            "replicate",
            Statement(actions=REPLICATE_FROM_BUCKET_ACTIONS, resources=(self.bucket.arn,)),
            Statement(actions=REPLICATE_FROM_ACTIONS, resources=(f"{self.bucket.arn}/*",)),
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
                    id="everything",
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
                        ),
                        metrics=S3BucketReplicationConfigurationRuleDestinationMetrics(
                            status="Enabled",
                            event_threshold=S3BucketReplicationConfigurationRuleDestinationMetricsEventThreshold(
                                minutes=REPLICATION_TIME_MIN
                            ),
                        ),
                    ),
                )
            ],
            # S3 refuses to replicate between buckets that are not versioned yet.
            depends_on=[self.versioning, peer.versioning],
            provider=props.provider,
        )


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
    expiration: list[S3BucketLifecycleConfigurationRuleExpiration] | None = None,
) -> S3BucketLifecycleConfigurationRule:
    return S3BucketLifecycleConfigurationRule(
        id=id_,
        status="Enabled",
        filter=[S3BucketLifecycleConfigurationRuleFilter(prefix=prefix)],
        abort_incomplete_multipart_upload=abort_incomplete_multipart_upload,
        noncurrent_version_expiration=noncurrent_version_expiration,
        expiration=expiration,
    )
