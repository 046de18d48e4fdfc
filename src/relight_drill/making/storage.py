"""Buckets and keys."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from relight_drill.making.arguments import given
from relight_drill.processes import DrillError

if TYPE_CHECKING:
    from relight_drill.making.arguments import Arguments, Make, Place


def _s3_bucket(place: Place, a: Arguments) -> dict[str, Any]:
    name = a.need("bucket")
    a.not_emulated("force_destroy")
    where = {} if place.region == "us-east-1" else {"CreateBucketConfiguration": {"LocationConstraint": place.region}}
    place.client("s3").create_bucket(
        Bucket=name, ObjectLockEnabledForBucket=bool(a.take("object_lock_enabled")), **where
    )
    return {"id": name, "bucket": name, "arn": f"arn:aws:s3:::{name}", "region": place.region, "name": name}


def _s3_versioning(place: Place, a: Arguments) -> dict[str, Any]:
    name, block = a.need("bucket"), a.block("versioning_configuration")
    status = block.need("status") if block else "Suspended"
    place.client("s3").put_bucket_versioning(Bucket=name, VersioningConfiguration={"Status": status})
    return {"id": name}


def _s3_policy(place: Place, a: Arguments) -> dict[str, Any]:
    name = a.need("bucket")
    place.client("s3").put_bucket_policy(Bucket=name, Policy=a.need("policy"))
    return {"id": name}


def _s3_public_access(place: Place, a: Arguments) -> dict[str, Any]:
    name = a.need("bucket")
    place.client("s3").put_public_access_block(
        Bucket=name,
        PublicAccessBlockConfiguration={
            "BlockPublicAcls": bool(a.take("block_public_acls")),
            "BlockPublicPolicy": bool(a.take("block_public_policy")),
            "IgnorePublicAcls": bool(a.take("ignore_public_acls")),
            "RestrictPublicBuckets": bool(a.take("restrict_public_buckets")),
        },
    )
    return {"id": name}


def _s3_ownership(place: Place, a: Arguments) -> dict[str, Any]:
    name = a.need("bucket")
    rules = [{"ObjectOwnership": rule.need("object_ownership")} for rule in a.blocks("rule")]
    place.client("s3").put_bucket_ownership_controls(Bucket=name, OwnershipControls={"Rules": rules})
    return {"id": name}


def _s3_encryption(place: Place, a: Arguments) -> dict[str, Any]:
    name = a.need("bucket")
    rules = []
    for rule in a.blocks("rule"):
        default = rule.block("apply_server_side_encryption_by_default")
        if default is None:
            raise DrillError(f"the encryption of {name} has a rule without a default", hint="give it one in the stack")
        by = given(SSEAlgorithm=default.need("sse_algorithm"), KMSMasterKeyID=default.take("kms_master_key_id"))
        rules.append(
            {"ApplyServerSideEncryptionByDefault": by, "BucketKeyEnabled": bool(rule.take("bucket_key_enabled"))}
        )
    place.client("s3").put_bucket_encryption(Bucket=name, ServerSideEncryptionConfiguration={"Rules": rules})
    return {"id": name}


def _s3_object_lock(place: Place, a: Arguments) -> dict[str, Any]:
    name, rule = a.need("bucket"), a.block("rule")
    default = rule.block("default_retention") if rule else None
    made: dict[str, Any] = {"ObjectLockEnabled": a.take("object_lock_enabled", "Enabled")}
    if default is not None:
        made["Rule"] = {"DefaultRetention": given(Mode=default.need("mode"), Days=default.need("days"))}
    place.client("s3").put_object_lock_configuration(Bucket=name, ObjectLockConfiguration=made)
    return {"id": name}


LIFECYCLE_ACTIONS = (
    ("noncurrent_version_expiration", "NoncurrentVersionExpiration", "noncurrent_days", "NoncurrentDays"),
    (
        *("abort_incomplete_multipart_upload", "AbortIncompleteMultipartUpload"),
        *("days_after_initiation", "DaysAfterInitiation"),
    ),
)


def _s3_lifecycle(place: Place, a: Arguments) -> dict[str, Any]:
    name = a.need("bucket")
    rules = []
    for rule in a.blocks("rule"):
        made: dict[str, Any] = {"ID": rule.need("id"), "Status": rule.need("status")}
        match = rule.block("filter")
        made["Filter"] = {"Prefix": match.take("prefix", "") if match else ""}
        for ours, theirs, argument, member in LIFECYCLE_ACTIONS:
            if block := rule.block(ours):
                made[theirs] = {member: block.need(argument)}
        if block := rule.block("expiration"):
            made["Expiration"] = given(
                Days=block.take("days"), ExpiredObjectDeleteMarker=block.take("expired_object_delete_marker")
            )
        made["Transitions"] = [
            {"Days": item.need("days"), "StorageClass": item.need("storage_class")}
            for item in rule.blocks("transition")
        ]
        rules.append({key: value for key, value in made.items() if value != []})
    place.client("s3").put_bucket_lifecycle_configuration(Bucket=name, LifecycleConfiguration={"Rules": rules})
    return {"id": name}


def _s3_replication(place: Place, a: Arguments) -> dict[str, Any]:
    name, role = a.need("bucket"), a.need("role")
    rules = [_replication_rule(rule) for rule in a.blocks("rule")]
    place.client("s3").put_bucket_replication(Bucket=name, ReplicationConfiguration={"Role": role, "Rules": rules})
    return {"id": name}


def _replication_rule(rule: Arguments) -> dict[str, Any]:
    match, target = rule.block("filter"), rule.block("destination")
    if target is None:
        raise DrillError("a replication rule has no destination", hint="give it one in the stack")
    destination: dict[str, Any] = {"Bucket": target.need("bucket")}
    if storage := target.take("storage_class"):
        destination["StorageClass"] = storage
    if encryption := target.block("encryption_configuration"):
        destination["EncryptionConfiguration"] = {"ReplicaKmsKeyID": encryption.need("replica_kms_key_id")}
    if time := target.block("replication_time"):
        destination["ReplicationTime"] = {"Status": time.need("status"), "Time": _minutes(time.block("time"))}
    if metrics := target.block("metrics"):
        threshold = metrics.block("event_threshold")
        destination["Metrics"] = given(
            Status=metrics.need("status"), EventThreshold=_minutes(threshold) if threshold else None
        )
    made: dict[str, Any] = {
        "ID": rule.need("id"),
        "Status": rule.need("status"),
        "Priority": rule.take("priority", 0),
        "Filter": {"Prefix": match.take("prefix", "") if match else ""},
        "Destination": destination,
        "DeleteMarkerReplication": {"Status": "Disabled"},
    }
    if markers := rule.block("delete_marker_replication"):
        made["DeleteMarkerReplication"] = {"Status": markers.need("status")}
    if criteria := rule.block("source_selection_criteria"):
        encrypted = criteria.block("sse_kms_encrypted_objects")
        if encrypted:
            made["SourceSelectionCriteria"] = {"SseKmsEncryptedObjects": {"Status": encrypted.need("status")}}
    return made


def _minutes(block: Arguments | None) -> dict[str, int]:
    return {"Minutes": block.need("minutes")} if block else {"Minutes": 15}


def _kms_key(place: Place, a: Arguments) -> dict[str, Any]:
    a.not_emulated("deletion_window_in_days")
    kms = place.client("kms")
    key = kms.create_key(
        **given(
            Description=a.take("description"),
            Policy=a.take("policy"),
            KeySpec=a.take("customer_master_key_spec"),
            KeyUsage=a.take("key_usage"),
            MultiRegion=a.take("multi_region"),
        )
    )["KeyMetadata"]
    if a.take("enable_key_rotation"):
        kms.enable_key_rotation(KeyId=key["KeyId"])
    return {"id": key["KeyId"], "key_id": key["KeyId"], "arn": key["Arn"]}


def _kms_replica_key(place: Place, a: Arguments) -> dict[str, Any]:
    a.not_emulated("deletion_window_in_days")
    primary = a.need("primary_key_arn")
    made = place.emulator.client("kms", primary.split(":")[3]).replicate_key(
        KeyId=primary,
        ReplicaRegion=place.region,
        **given(Description=a.take("description"), Policy=a.take("policy")),
    )["ReplicaKeyMetadata"]
    return {"id": made["KeyId"], "key_id": made["KeyId"], "arn": made["Arn"]}


def _kms_alias(place: Place, a: Arguments) -> dict[str, Any]:
    name = a.need("name")
    place.client("kms").create_alias(AliasName=name, TargetKeyId=a.need("target_key_id"))
    return {"id": name, "name": name, "arn": place.arn("kms", name)}


MAKERS: dict[str, Make] = {
    "aws_s3_bucket": _s3_bucket,
    "aws_s3_bucket_versioning": _s3_versioning,
    "aws_s3_bucket_object_lock_configuration": _s3_object_lock,
    "aws_s3_bucket_policy": _s3_policy,
    "aws_s3_bucket_public_access_block": _s3_public_access,
    "aws_s3_bucket_ownership_controls": _s3_ownership,
    "aws_s3_bucket_server_side_encryption_configuration": _s3_encryption,
    "aws_s3_bucket_lifecycle_configuration": _s3_lifecycle,
    "aws_s3_bucket_replication_configuration": _s3_replication,
    "aws_kms_key": _kms_key,
    "aws_kms_replica_key": _kms_replica_key,
    "aws_kms_alias": _kms_alias,
}
