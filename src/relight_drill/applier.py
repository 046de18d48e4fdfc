"""Applies synthesized Terraform JSON to the emulator, so that a drill runs what `cdktf deploy` would deploy.

It knows the resource types that the stacks use and one form of expression, `${type.name.attribute}`. Every argument of
a resource is either used or named as not emulated here; any other one is an error, and so is any other type. Stacks are
applied in the order of the manifest, a stack's resources in the order of their references, side by side where they can.
"""

from __future__ import annotations

import asyncio
import graphlib
import json
import re
import threading
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from botocore.exceptions import BotoCoreError, ClientError

from relight_drill.processes import DrillError, first_failure

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence
    from pathlib import Path

    from relight_drill.emulator import Emulator

EXPRESSION = re.compile(r"\$\$\{|\$\{([^}]*)\}")
REFERENCE = re.compile(r"((?:data\.)?[a-z][a-z0-9_]*\.[A-Za-z0-9_-]+)\.([a-z][a-z0-9_]*)")
META = ("//", "provider", "depends_on", "lifecycle")
SECTIONS = ("//", "terraform", "provider", "resource", "data")
AT_ONCE = 8
ASSETS = "relight-drill-assets"


@dataclass(frozen=True, slots=True, kw_only=True)
class Resource:
    """A resource as it was applied: its arguments with every reference resolved, its attributes as they were given."""

    stack: str
    region: str
    type: str
    name: str
    arguments: Mapping[str, Any]
    attributes: Mapping[str, Any]

    @property
    def address(self) -> str:
        return f"{self.stack}: {self.type}.{self.name}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Service:
    """A deployed ECS service."""

    region: str
    cluster: str
    name: str


@dataclass(frozen=True, slots=True, kw_only=True)
class HealthCheck:
    """A deployed Route 53 health check."""

    id: str
    type: str
    fqdn: str
    port: int
    path: str
    interval_s: float
    threshold: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """A deployed Route 53 record; `failover` is PRIMARY, SECONDARY, or empty for a plain one."""

    name: str
    type: str
    ttl: float
    values: tuple[str, ...]
    failover: str = ""
    health_check: str = ""


@dataclass(frozen=True, slots=True)
class Deployment:
    """Everything that was applied."""

    resources: tuple[Resource, ...]

    def of(self, kind: str, *, region: str | None = None) -> tuple[Resource, ...]:
        """The resources of a type, of one region or of all."""
        return tuple(r for r in self.resources if r.type == kind and region in (None, r.region))

    def one(self, kind: str, *, region: str | None = None, name: str | None = None) -> Resource:
        """The only resource of a type that fits; `name` is what AWS calls it."""
        found = [r for r in self.of(kind, region=region) if name in (None, r.attributes.get("name"))]
        if len(found) != 1:
            where = f" in {region}" if region else ""
            called = f" called {name}" if name else ""
            raise DrillError(
                f"{len(found)} resources of type {kind}{where}{called}, not one", hint="look at the stacks"
            )
        return found[0]

    @property
    def buckets(self) -> dict[str, str]:
        """Each bucket's region."""
        return {r.attributes["id"]: r.region for r in self.of("aws_s3_bucket")}

    def functions(self, region: str) -> dict[str, str]:
        """The functions of a region: name to ARN."""
        return {
            r.attributes["function_name"]: r.attributes["arn"] for r in self.of("aws_lambda_function", region=region)
        }

    @property
    def services(self) -> tuple[Service, ...]:
        """Every ECS service."""
        return tuple(
            Service(region=r.region, cluster=r.attributes["cluster"], name=r.attributes["name"])
            for r in self.of("aws_ecs_service")
        )

    @property
    def health_checks(self) -> tuple[HealthCheck, ...]:
        """Every health check."""
        return tuple(
            HealthCheck(
                id=r.attributes["id"],
                type=r.arguments["type"],
                fqdn=r.arguments["fqdn"],
                port=int(r.arguments["port"]),
                path=r.arguments["resource_path"],
                interval_s=float(r.arguments["request_interval"]),
                threshold=int(r.arguments["failure_threshold"]),
            )
            for r in self.of("aws_route53_health_check")
        )

    @property
    def records(self) -> tuple[Record, ...]:
        """Every DNS record."""
        return tuple(
            Record(
                name=r.arguments["name"],
                type=r.arguments["type"],
                ttl=float(r.arguments["ttl"]),
                values=tuple(r.arguments["records"]),
                failover=_single(r.arguments.get("failover_routing_policy"), {}).get("type", ""),
                health_check=r.arguments.get("health_check_id", ""),
            )
            for r in self.of("aws_route53_record")
        )


def _single(value: Any, default: Any = None) -> Any:
    """A nested block, which the JSON writes as an object or as a list of one."""
    if isinstance(value, list):
        return value[0] if value else default
    return default if value is None else value


class Arguments:
    """The arguments of a resource or of a block in it; remembers which were used, so that none is overlooked."""

    def __init__(self, values: Mapping[str, Any], where: str) -> None:
        self._values = values
        self._where = where
        self._used: set[str] = set()
        self._blocks: list[Arguments] = []

    def take(self, name: str, default: Any = None) -> Any:
        """The argument's value."""
        self._used.add(name)
        value = self._values.get(name)
        return default if value is None else value

    def need(self, name: str) -> Any:
        """The value of an argument that must be there."""
        if self._values.get(name) is None:
            raise DrillError(f"{self._where} has no argument {name!r}", hint="the provider requires it")
        return self.take(name)

    def blocks(self, name: str) -> list[Arguments]:
        """The nested blocks of a name."""
        value = self.take(name, [])
        values = value if isinstance(value, list) else [value]
        made = [Arguments(item, f"{self._where}.{name}") for item in values]
        self._blocks.extend(made)
        return made

    def block(self, name: str) -> Arguments | None:
        """The only nested block of a name."""
        made = self.blocks(name)
        if len(made) > 1:
            raise DrillError(f"{self._where}.{name} is there {len(made)} times", hint="the provider takes one")
        return made[0] if made else None

    def not_emulated(self, *names: str) -> None:
        """Arguments that mean something on AWS and nothing here; tests on the JSON hold them."""
        self._used.update(names)

    def check(self) -> None:
        """Raise DrillError that names what was neither used nor declared as not emulated."""
        for name in self._values:
            if name not in self._used:
                raise DrillError(
                    f"the drill does not know the argument {self._where}.{name}",
                    hint="use it in relight_drill/applier.py, or list it there as not emulated",
                )
        for block in self._blocks:
            block.check()


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Where a resource is made."""

    emulator: Emulator
    region: str
    folder: Path
    environment: Callable[[str, str], Mapping[str, str]]
    uploads: threading.Lock

    def client(self, service: str) -> Any:
        return self.emulator.client(service, self.region)

    def arn(self, service: str, resource: str) -> str:
        return f"arn:aws:{service}:{self.region}:{self.emulator.account}:{resource}"


MAKERS: dict[str, Callable[[Place, Arguments], dict[str, Any]]] = {}
READERS: dict[str, Callable[[Place, Arguments], dict[str, Any]]] = {}


def _makes(
    kind: str,
) -> Callable[[Callable[[Place, Arguments], dict[str, Any]]], Callable[[Place, Arguments], dict[str, Any]]]:
    def register(make: Callable[[Place, Arguments], dict[str, Any]]) -> Callable[[Place, Arguments], dict[str, Any]]:
        MAKERS[kind] = make
        return make

    return register


def _given(**values: Any) -> dict[str, Any]:
    """The keyword arguments that have a value."""
    return {name: value for name, value in values.items() if value is not None}


# S3 and KMS


@_makes("aws_s3_bucket")
def _s3_bucket(place: Place, a: Arguments) -> dict[str, Any]:
    name = a.need("bucket")
    a.not_emulated("force_destroy")
    where = {} if place.region == "us-east-1" else {"CreateBucketConfiguration": {"LocationConstraint": place.region}}
    place.client("s3").create_bucket(
        Bucket=name, ObjectLockEnabledForBucket=bool(a.take("object_lock_enabled")), **where
    )
    return {"id": name, "bucket": name, "arn": f"arn:aws:s3:::{name}", "region": place.region, "name": name}


@_makes("aws_s3_bucket_versioning")
def _s3_versioning(place: Place, a: Arguments) -> dict[str, Any]:
    name, block = a.need("bucket"), a.block("versioning_configuration")
    status = block.need("status") if block else "Suspended"
    place.client("s3").put_bucket_versioning(Bucket=name, VersioningConfiguration={"Status": status})
    return {"id": name}


@_makes("aws_s3_bucket_policy")
def _s3_policy(place: Place, a: Arguments) -> dict[str, Any]:
    name = a.need("bucket")
    place.client("s3").put_bucket_policy(Bucket=name, Policy=a.need("policy"))
    return {"id": name}


@_makes("aws_s3_bucket_public_access_block")
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


@_makes("aws_s3_bucket_ownership_controls")
def _s3_ownership(place: Place, a: Arguments) -> dict[str, Any]:
    name = a.need("bucket")
    rules = [{"ObjectOwnership": rule.need("object_ownership")} for rule in a.blocks("rule")]
    place.client("s3").put_bucket_ownership_controls(Bucket=name, OwnershipControls={"Rules": rules})
    return {"id": name}


@_makes("aws_s3_bucket_server_side_encryption_configuration")
def _s3_encryption(place: Place, a: Arguments) -> dict[str, Any]:
    name = a.need("bucket")
    rules = []
    for rule in a.blocks("rule"):
        default = rule.block("apply_server_side_encryption_by_default")
        if default is None:
            raise DrillError(f"the encryption of {name} has a rule without a default", hint="")
        by = _given(SSEAlgorithm=default.need("sse_algorithm"), KMSMasterKeyID=default.take("kms_master_key_id"))
        rules.append(
            {"ApplyServerSideEncryptionByDefault": by, "BucketKeyEnabled": bool(rule.take("bucket_key_enabled"))}
        )
    place.client("s3").put_bucket_encryption(Bucket=name, ServerSideEncryptionConfiguration={"Rules": rules})
    return {"id": name}


LIFECYCLE_ACTIONS = (
    ("expiration", "Expiration", "days", "Days"),
    ("noncurrent_version_expiration", "NoncurrentVersionExpiration", "noncurrent_days", "NoncurrentDays"),
    (
        *("abort_incomplete_multipart_upload", "AbortIncompleteMultipartUpload"),
        *("days_after_initiation", "DaysAfterInitiation"),
    ),
)


@_makes("aws_s3_bucket_lifecycle_configuration")
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
        made["Transitions"] = [
            {"Days": item.need("days"), "StorageClass": item.need("storage_class")}
            for item in rule.blocks("transition")
        ]
        rules.append({key: value for key, value in made.items() if value != []})
    place.client("s3").put_bucket_lifecycle_configuration(Bucket=name, LifecycleConfiguration={"Rules": rules})
    return {"id": name}


@_makes("aws_s3_bucket_replication_configuration")
def _s3_replication(place: Place, a: Arguments) -> dict[str, Any]:
    name, role = a.need("bucket"), a.need("role")
    rules = [_replication_rule(rule) for rule in a.blocks("rule")]
    place.client("s3").put_bucket_replication(Bucket=name, ReplicationConfiguration={"Role": role, "Rules": rules})
    return {"id": name}


def _replication_rule(rule: Arguments) -> dict[str, Any]:
    match, target = rule.block("filter"), rule.block("destination")
    if target is None:
        raise DrillError("a replication rule has no destination", hint="")
    destination: dict[str, Any] = {"Bucket": target.need("bucket")}
    if storage := target.take("storage_class"):
        destination["StorageClass"] = storage
    if encryption := target.block("encryption_configuration"):
        destination["EncryptionConfiguration"] = {"ReplicaKmsKeyID": encryption.need("replica_kms_key_id")}
    if time := target.block("replication_time"):
        destination["ReplicationTime"] = {"Status": time.need("status"), "Time": _minutes(time.block("time"))}
    if metrics := target.block("metrics"):
        threshold = metrics.block("event_threshold")
        destination["Metrics"] = _given(
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


@_makes("aws_kms_key")
def _kms_key(place: Place, a: Arguments) -> dict[str, Any]:
    a.not_emulated("deletion_window_in_days")
    kms = place.client("kms")
    key = kms.create_key(
        **_given(
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


@_makes("aws_kms_replica_key")
def _kms_replica_key(place: Place, a: Arguments) -> dict[str, Any]:
    a.not_emulated("deletion_window_in_days")
    primary = a.need("primary_key_arn")
    made = place.emulator.client("kms", primary.split(":")[3]).replicate_key(
        KeyId=primary,
        ReplicaRegion=place.region,
        **_given(Description=a.take("description"), Policy=a.take("policy")),
    )["ReplicaKeyMetadata"]
    return {"id": made["KeyId"], "key_id": made["KeyId"], "arn": made["Arn"]}


@_makes("aws_kms_alias")
def _kms_alias(place: Place, a: Arguments) -> dict[str, Any]:
    name = a.need("name")
    place.client("kms").create_alias(AliasName=name, TargetKeyId=a.need("target_key_id"))
    return {"id": name, "name": name, "arn": place.arn("kms", name)}


# IAM, secrets, logs, SNS


@_makes("aws_iam_role")
def _iam_role(place: Place, a: Arguments) -> dict[str, Any]:
    name = a.need("name")
    role = place.client("iam").create_role(
        RoleName=name,
        AssumeRolePolicyDocument=a.need("assume_role_policy"),
        **_given(Description=a.take("description"), MaxSessionDuration=a.take("max_session_duration")),
    )["Role"]
    return {"id": name, "name": name, "arn": role["Arn"], "unique_id": role["RoleId"]}


@_makes("aws_iam_role_policy")
def _iam_role_policy(place: Place, a: Arguments) -> dict[str, Any]:
    role, name = a.need("role"), a.need("name")
    place.client("iam").put_role_policy(RoleName=role, PolicyName=name, PolicyDocument=a.need("policy"))
    return {"id": f"{role}:{name}", "name": name}


@_makes("aws_secretsmanager_secret")
def _secret(place: Place, a: Arguments) -> dict[str, Any]:
    name = a.need("name")
    a.not_emulated("recovery_window_in_days")
    optional = _given(Description=a.take("description"), KmsKeyId=a.take("kms_key_id"))
    arn = place.client("secretsmanager").create_secret(Name=name, **optional)["ARN"]
    return {"id": arn, "arn": arn, "name": name}


@_makes("aws_cloudwatch_log_group")
def _log_group(place: Place, a: Arguments) -> dict[str, Any]:
    name, logs = a.need("name"), place.client("logs")
    logs.create_log_group(logGroupName=name, **_given(kmsKeyId=a.take("kms_key_id")))
    if days := a.take("retention_in_days"):
        logs.put_retention_policy(logGroupName=name, retentionInDays=days)
    return {"id": name, "name": name, "arn": place.arn("logs", f"log-group:{name}")}


@_makes("aws_sns_topic")
def _topic(place: Place, a: Arguments) -> dict[str, Any]:
    name = a.need("name")
    key = a.take("kms_master_key_id")
    attributes = {"KmsMasterKeyId": key} if key else {}
    arn = place.client("sns").create_topic(Name=name, Attributes=attributes)["TopicArn"]
    return {"id": arn, "arn": arn, "name": name}


@_makes("aws_cloudwatch_metric_alarm")
def _alarm(place: Place, a: Arguments) -> dict[str, Any]:
    name = a.need("alarm_name")
    place.client("cloudwatch").put_metric_alarm(
        AlarmName=name,
        Namespace=a.need("namespace"),
        MetricName=a.need("metric_name"),
        Dimensions=[{"Name": key, "Value": value} for key, value in a.take("dimensions", {}).items()],
        Statistic=a.need("statistic"),
        ComparisonOperator=a.need("comparison_operator"),
        Threshold=float(a.need("threshold")),
        Period=a.need("period"),
        EvaluationPeriods=a.need("evaluation_periods"),
        AlarmActions=a.take("alarm_actions", []),
        OKActions=a.take("ok_actions", []),
        **_given(
            AlarmDescription=a.take("alarm_description"),
            DatapointsToAlarm=a.take("datapoints_to_alarm"),
            TreatMissingData=a.take("treat_missing_data"),
        ),
    )
    return {"id": name, "arn": place.arn("cloudwatch", f"alarm:{name}"), "name": name}


# Lambda, EventBridge, Step Functions


@_makes("aws_lambda_function")
def _function(place: Place, a: Arguments) -> dict[str, Any]:
    name = a.need("function_name")
    a.not_emulated("source_code_hash", "vpc_config")
    lambdas = place.client("lambda")
    environment = a.block("environment")
    variables = dict(environment.take("variables", {})) if environment else {}
    tracing, logging = a.block("tracing_config"), a.block("logging_config")
    options: dict[str, Any] = _given(
        Description=a.take("description"),
        MemorySize=a.take("memory_size"),
        Timeout=a.take("timeout"),
        Architectures=a.take("architectures"),
        TracingConfig={"Mode": tracing.need("mode")} if tracing else None,
        KMSKeyArn=a.take("kms_key_arn"),
    )
    if logging:
        options["LoggingConfig"] = _given(
            LogFormat=logging.need("log_format"),
            LogGroup=logging.take("log_group"),
            ApplicationLogLevel=logging.take("application_log_level"),
            SystemLogLevel=logging.take("system_log_level"),
        )
    made = lambdas.create_function(
        FunctionName=name,
        Role=a.need("role"),
        Handler=a.need("handler"),
        Runtime=a.need("runtime"),
        Code=_asset(place, a.need("filename")),
        Environment={"Variables": {**variables, **place.environment(place.region, name)}},
        **options,
    )
    reserved = a.take("reserved_concurrent_executions")
    if reserved is not None and reserved >= 0:
        lambdas.put_function_concurrency(FunctionName=name, ReservedConcurrentExecutions=reserved)
    arn = made["FunctionArn"]
    return {"id": name, "function_name": name, "name": name, "arn": arn, "timeout": made["Timeout"]}


def _asset(place: Place, filename: str) -> dict[str, str]:
    """Upload a function's zip once for each region, however many functions run it there."""
    path = place.folder / filename
    if not path.is_file():
        raise DrillError(f"the asset {path} is missing", hint="synthesize the stacks again")
    bucket, key = f"{ASSETS}-{place.region}", "/".join(path.parts[-2:])
    s3 = place.client("s3")
    with place.uploads:
        try:
            s3.head_object(Bucket=bucket, Key=key)
        except ClientError:
            with suppress(s3.exceptions.BucketAlreadyOwnedByYou):
                s3.create_bucket(Bucket=bucket, **_location(place.region))
            s3.put_object(Bucket=bucket, Key=key, Body=path.read_bytes())
    return {"S3Bucket": bucket, "S3Key": key}


def _location(region: str) -> dict[str, Any]:
    return {} if region == "us-east-1" else {"CreateBucketConfiguration": {"LocationConstraint": region}}


@_makes("aws_lambda_permission")
def _permission(place: Place, a: Arguments) -> dict[str, Any]:
    statement = a.need("statement_id")
    place.client("lambda").add_permission(
        FunctionName=a.need("function_name"),
        StatementId=statement,
        Action=a.need("action"),
        Principal=a.need("principal"),
        **_given(SourceArn=a.take("source_arn"), SourceAccount=a.take("source_account")),
    )
    return {"id": statement}


@_makes("aws_cloudwatch_event_rule")
def _rule(place: Place, a: Arguments) -> dict[str, Any]:
    name = a.need("name")
    arn = place.client("events").put_rule(
        Name=name,
        State=a.take("state", "ENABLED"),
        **_given(
            EventPattern=a.take("event_pattern"),
            ScheduleExpression=a.take("schedule_expression"),
            Description=a.take("description"),
        ),
    )["RuleArn"]
    return {"id": name, "name": name, "arn": arn}


@_makes("aws_cloudwatch_event_target")
def _target(place: Place, a: Arguments) -> dict[str, Any]:
    rule, name = a.need("rule"), a.need("target_id")
    target = _given(Id=name, Arn=a.need("arn"), RoleArn=a.take("role_arn"), Input=a.take("input"))
    target.update(_retries(a))
    place.client("events").put_targets(Rule=rule, Targets=[target])
    return {"id": f"{rule}-{name}"}


@_makes("aws_scheduler_schedule")
def _schedule(place: Place, a: Arguments) -> dict[str, Any]:
    name, window, target = a.need("name"), a.block("flexible_time_window"), a.block("target")
    if target is None:
        raise DrillError(f"the schedule {name} has no target", hint="")
    to = _given(Arn=target.need("arn"), RoleArn=target.need("role_arn"), Input=target.take("input"))
    to.update(_retries(target))
    arn = place.client("scheduler").create_schedule(
        Name=name,
        ScheduleExpression=a.need("schedule_expression"),
        FlexibleTimeWindow={"Mode": window.need("mode") if window else "OFF"},
        State=a.take("state", "ENABLED"),
        Target=to,
        **_given(
            Description=a.take("description"),
            KmsKeyArn=a.take("kms_key_arn"),
            ScheduleExpressionTimezone=a.take("schedule_expression_timezone"),
        ),
    )["ScheduleArn"]
    return {"id": name, "name": name, "arn": arn}


def _retries(a: Arguments) -> dict[str, Any]:
    policy, dead = a.block("retry_policy"), a.block("dead_letter_config")
    made: dict[str, Any] = {}
    if policy:
        made["RetryPolicy"] = _given(
            MaximumEventAgeInSeconds=policy.take("maximum_event_age_in_seconds"),
            MaximumRetryAttempts=policy.take("maximum_retry_attempts"),
        )
    if dead:
        made["DeadLetterConfig"] = {"Arn": dead.need("arn")}
    return made


@_makes("aws_sfn_state_machine")
def _state_machine(place: Place, a: Arguments) -> dict[str, Any]:
    name = a.need("name")
    logging, tracing = a.block("logging_configuration"), a.block("tracing_configuration")
    options: dict[str, Any] = {}
    if logging:
        group = logging.take("log_destination")
        options["loggingConfiguration"] = _given(
            level=logging.take("level"),
            includeExecutionData=logging.take("include_execution_data"),
            destinations=[{"cloudWatchLogsLogGroup": {"logGroupArn": group}}] if group else None,
        )
    if tracing:
        options["tracingConfiguration"] = {"enabled": tracing.need("enabled")}
    arn = place.client("stepfunctions").create_state_machine(
        name=name,
        definition=a.need("definition"),
        roleArn=a.need("role_arn"),
        type=a.take("type", "STANDARD"),
        **options,
    )["stateMachineArn"]
    return {"id": arn, "arn": arn, "name": name}


# ECS


@_makes("aws_ecs_cluster")
def _cluster(place: Place, a: Arguments) -> dict[str, Any]:
    name = a.need("name")
    settings = [{"name": item.need("name"), "value": item.need("value")} for item in a.blocks("setting")]
    arn = place.client("ecs").create_cluster(clusterName=name, settings=settings)["cluster"]["clusterArn"]
    return {"id": arn, "arn": arn, "name": name}


@_makes("aws_ecs_task_definition")
def _task_definition(place: Place, a: Arguments) -> dict[str, Any]:
    family = a.need("family")
    a.not_emulated("runtime_platform", "ephemeral_storage")
    # A Fargate volume is a name and nothing else.
    volumes = [{"name": volume.need("name")} for volume in a.blocks("volume")]
    made = place.client("ecs").register_task_definition(
        family=family,
        containerDefinitions=json.loads(a.need("container_definitions")),
        volumes=volumes,
        **_given(
            cpu=a.take("cpu"),
            memory=a.take("memory"),
            networkMode=a.take("network_mode"),
            requiresCompatibilities=a.take("requires_compatibilities"),
            taskRoleArn=a.take("task_role_arn"),
            executionRoleArn=a.take("execution_role_arn"),
        ),
    )["taskDefinition"]
    arn, revision = made["taskDefinitionArn"], made["revision"]
    return {"id": family, "arn": arn, "family": family, "revision": revision, "name": family}


@_makes("aws_ecs_service")
def _service(place: Place, a: Arguments) -> dict[str, Any]:
    name, cluster = a.need("name"), a.need("cluster")
    # The load balancer and the network are played by relight_drill.network; deployments by relight_drill.ecs.
    a.not_emulated("load_balancer", "platform_version", "health_check_grace_period_seconds")
    a.not_emulated("deployment_circuit_breaker", "deployment_minimum_healthy_percent", "deployment_maximum_percent")
    a.not_emulated("wait_for_steady_state", "enable_execute_command", "propagate_tags", "network_configuration")
    made = place.client("ecs").create_service(
        cluster=cluster,
        serviceName=name,
        taskDefinition=a.need("task_definition"),
        desiredCount=a.take("desired_count", 0),
        **_given(launchType=a.take("launch_type")),
    )["service"]
    return {"id": made["serviceArn"], "arn": made["serviceArn"], "name": name, "cluster": made["clusterArn"]}


# Route 53


@_makes("aws_route53_zone")
def _zone(place: Place, a: Arguments) -> dict[str, Any]:
    name = a.need("name")
    a.not_emulated("comment", "force_destroy")
    made = place.client("route53").create_hosted_zone(Name=name, CallerReference=f"{name}-{place.folder.name}")
    number = made["HostedZone"]["Id"].rpartition("/")[2]
    servers = made.get("DelegationSet", {}).get("NameServers", [])
    return {"id": number, "zone_id": number, "name": name, "name_servers": servers}


def _find_zone(place: Place, a: Arguments) -> dict[str, Any]:
    name, private = a.need("name"), bool(a.take("private_zone"))
    zones = place.client("route53").list_hosted_zones()["HostedZones"]
    found = [
        zone
        for zone in zones
        if zone["Name"].rstrip(".") == name.rstrip(".") and zone.get("Config", {}).get("PrivateZone", False) == private
    ]
    if len(found) != 1:
        raise DrillError(f"{len(found)} hosted zones are called {name!r}, not one", hint="apply the dns stack first")
    number = found[0]["Id"].rpartition("/")[2]
    return {"id": number, "zone_id": number, "name": name}


READERS["aws_route53_zone"] = _find_zone


@_makes("aws_route53_health_check")
def _health_check(place: Place, a: Arguments) -> dict[str, Any]:
    fqdn, path = a.need("fqdn"), a.take("resource_path", "")
    made = place.client("route53").create_health_check(
        CallerReference=f"{fqdn}{path}",
        HealthCheckConfig=_given(
            Type=a.need("type"),
            FullyQualifiedDomainName=fqdn,
            Port=a.need("port"),
            ResourcePath=path,
            RequestInterval=a.need("request_interval"),
            FailureThreshold=a.need("failure_threshold"),
            EnableSNI=a.take("enable_sni"),
            MeasureLatency=a.take("measure_latency"),
        ),
    )["HealthCheck"]
    return {"id": made["Id"], "arn": f"arn:aws:route53:::healthcheck/{made['Id']}"}


@_makes("aws_route53_record")
def _record(place: Place, a: Arguments) -> dict[str, Any]:
    name, kind, zone = a.need("name"), a.need("type"), a.need("zone_id")
    failover = a.block("failover_routing_policy")
    record = _given(
        Name=name,
        Type=kind,
        TTL=a.need("ttl"),
        ResourceRecords=[{"Value": value} for value in a.need("records")],
        SetIdentifier=a.take("set_identifier"),
        HealthCheckId=a.take("health_check_id"),
        Failover=failover.need("type") if failover else None,
    )
    a.not_emulated("allow_overwrite")
    place.client("route53").change_resource_record_sets(
        HostedZoneId=zone, ChangeBatch={"Changes": [{"Action": "CREATE", "ResourceRecordSet": record}]}
    )
    return {"id": f"{zone}_{name}_{kind}", "name": name, "fqdn": name}


@dataclass(slots=True, kw_only=True)
class _Node:
    """A resource or data source of a stack, as written."""

    address: str
    kind: str
    name: str
    raw: Mapping[str, Any]
    region: str
    depends_on: frozenset[str]


@dataclass(slots=True, kw_only=True)
class _Stack:
    name: str
    folder: Path
    nodes: dict[str, _Node] = field(default_factory=dict)


async def apply(
    emulator: Emulator,
    out: Path,
    *,
    stacks: Sequence[str] | None = None,
    environment: Callable[[str, str], Mapping[str, str]] = lambda _region, _function: {},
) -> Deployment:
    """Make what the synthesized stacks in `out` describe (all of them, or those named).

    `environment(region, function)` is added to each function's own variables. Raises DrillError that names the stack,
    the resource and the argument or the emulator's refusal; what was made until then stays.
    """
    manifest = json.loads((out / "manifest.json").read_text())["stacks"]
    names = list(manifest) if stacks is None else list(stacks)
    if unknown := sorted(set(names) - set(manifest)):
        raise DrillError(f"there are no stacks {', '.join(unknown)} in {out}", hint=f"there are {', '.join(manifest)}")
    loaded = {name: _load(out / manifest[name]["synthesizedStackPath"], name, emulator.account) for name in names}
    made: list[Resource] = []
    slots, uploads = asyncio.Semaphore(AT_ONCE), threading.Lock()
    order = graphlib.TopologicalSorter({name: set(manifest[name]["dependencies"]) & set(names) for name in names})
    order.prepare()
    while order.is_active():
        ready = order.get_ready()
        try:
            async with asyncio.TaskGroup() as group:
                tasks = [
                    group.create_task(_apply_stack(emulator, loaded[name], environment, uploads, slots))
                    for name in ready
                ]
        except* DrillError as failures:
            raise first_failure(failures) from None
        for task in tasks:
            made.extend(task.result())
        order.done(*ready)
    return Deployment(tuple(made))


def _load(path: Path, name: str, account: str) -> _Stack:
    """Read one stack; everything it names must be known before anything is made."""
    document = json.loads(path.read_text())
    if unknown := sorted(set(document) - set(SECTIONS)):
        raise DrillError(f"{name}: the drill does not know the sections {', '.join(unknown)}", hint="")
    regions: dict[str, str] = {}
    for provider, blocks in document.get("provider", {}).items():
        for block in blocks:
            if account not in block.get("allowed_account_ids", [account]):
                raise DrillError(f"{name}: its accounts are {block['allowed_account_ids']}, not {account}", hint="")
            regions[f"{provider}.{block['alias']}" if "alias" in block else provider] = block["region"]
    stack = _Stack(name=name, folder=path.parent)
    for section, known, prefix in (("resource", MAKERS, ""), ("data", READERS, "data.")):
        for kind, items in document.get(section, {}).items():
            if kind not in known:
                raise DrillError(
                    f"{name}: the drill does not know the {section} type {kind}",
                    hint="teach relight_drill/applier.py to make it",
                )
            for key, raw in items.items():
                address = f"{prefix}{kind}.{key}"
                stack.nodes[address] = _Node(
                    address=address,
                    kind=kind,
                    name=key,
                    raw={argument: value for argument, value in raw.items() if argument not in META},
                    region=regions[raw.get("provider", "aws")],
                    depends_on=frozenset(raw.get("depends_on", ())) | frozenset(_references(raw, f"{name}: {address}")),
                )
    for node in stack.nodes.values():
        if missing := sorted(node.depends_on - stack.nodes.keys()):
            raise DrillError(f"{name}: {node.address} refers to {', '.join(missing)}, which is not there", hint="")
    return stack


def _references(value: Any, where: str) -> Iterable[str]:
    """The addresses that a value refers to; any other expression is an error."""
    if isinstance(value, str):
        for match in EXPRESSION.finditer(value):
            if match.group(1) is not None:
                yield _parse(match.group(1), where)[0]
    elif isinstance(value, dict):
        for key, item in value.items():
            if key != "//":
                yield from _references(item, where)
    elif isinstance(value, list):
        for item in value:
            yield from _references(item, where)


def _parse(expression: str, where: str) -> tuple[str, str]:
    match = REFERENCE.fullmatch(expression)
    if match is None:
        raise DrillError(
            f"{where} has the expression ${{{expression}}}", hint="only ${type.name.attribute} can be applied"
        )
    return match.group(1), match.group(2)


async def _apply_stack(
    emulator: Emulator,
    stack: _Stack,
    environment: Callable[[str, str], Mapping[str, str]],
    uploads: threading.Lock,
    slots: asyncio.Semaphore,
) -> list[Resource]:
    graph = graphlib.TopologicalSorter({node.address: node.depends_on for node in stack.nodes.values()})
    try:
        order = list(graph.static_order())
    except graphlib.CycleError as exc:
        raise DrillError(f"{stack.name}: resources refer to each other in a circle: {exc.args[1]}", hint="") from exc
    made: dict[str, Resource] = {}
    tasks: dict[str, asyncio.Task[None]] = {}

    async def make(node: _Node) -> None:
        for address in node.depends_on:
            await asyncio.shield(tasks[address])
        place = Place(
            emulator=emulator, region=node.region, folder=stack.folder, environment=environment, uploads=uploads
        )
        where = f"{stack.name}: {node.address}"
        resolved = _resolve(node.raw, {address: made[address].attributes for address in node.depends_on}, where)
        async with slots:
            attributes = await asyncio.to_thread(_make, place, node, resolved, where)
        made[node.address] = Resource(
            stack=stack.name,
            region=node.region,
            type=node.address.rpartition(".")[0],
            name=node.name,
            arguments=resolved,
            attributes=attributes,
        )

    async with asyncio.TaskGroup() as group:
        for address in order:
            tasks[address] = group.create_task(make(stack.nodes[address]), name=address)
    return [made[address] for address in order]


def _make(place: Place, node: _Node, resolved: Mapping[str, Any], where: str) -> dict[str, Any]:
    arguments = Arguments(resolved, where)
    make = READERS[node.kind] if node.address.startswith("data.") else MAKERS[node.kind]
    try:
        attributes = make(place, arguments)
    except (ClientError, BotoCoreError) as exc:
        raise DrillError(f"{where} was refused by the emulator: {exc}", hint="") from exc
    arguments.check()
    return attributes


def _resolve(value: Any, known: Mapping[str, Mapping[str, Any]], where: str) -> Any:
    """A value with its references replaced; one that is nothing but a reference keeps the attribute's type."""
    if isinstance(value, dict):
        return {key: _resolve(item, known, where) for key, item in value.items()}
    if isinstance(value, list):
        return [_resolve(item, known, where) for item in value]
    if not isinstance(value, str):
        return value

    def look_up(expression: str) -> Any:
        address, attribute = _parse(expression, where)
        if attribute not in known[address]:
            raise DrillError(
                f"{where} uses ${{{expression}}}, an attribute that the drill does not know",
                hint=f"known of {address}: {', '.join(sorted(known[address]))}",
            )
        return known[address][attribute]

    whole = EXPRESSION.fullmatch(value)
    if whole is not None and whole.group(1) is not None:
        return look_up(whole.group(1))
    return EXPRESSION.sub(lambda m: "${" if m.group(1) is None else str(look_up(m.group(1))), value)
