"""Which values AWS takes, as far as its own API models say, and what a synthesized body has that they do not take.

The models come with botocore: lists of what may be chosen, smallest and largest numbers, lengths and patterns of names.
Where the model of a service says nothing, the limit is written here with its source. The provider checks most of these
itself when it validates.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any

import botocore.session
from provider_schema import EXPRESSION

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping


@dataclass(frozen=True, slots=True, kw_only=True)
class Limit:
    """What a value may be: of a string its length, of a number itself."""

    least: float | None = None
    most: float | None = None
    pattern: str = ""
    among: tuple[Any, ...] = ()


# By type and argument: the service's shape, or a limit of ours where the model has none.
VALUES: dict[str, dict[str, str | Limit]] = {
    "aws_acm_certificate": {"domain_name": "acm.DomainNameString", "validation_method": "acm.ValidationMethod"},
    "aws_appautoscaling_policy": {
        "name": Limit(least=1, most=256),
        "policy_type": "application-autoscaling.PolicyType",
        "target_tracking_scaling_policy_configuration.predefined_metric_specification.predefined_metric_type": (
            "application-autoscaling.MetricType"
        ),
    },
    "aws_appautoscaling_target": {
        "scalable_dimension": "application-autoscaling.ScalableDimension",
        "service_namespace": "application-autoscaling.ServiceNamespace",
    },
    "aws_chatbot_slack_channel_configuration": {
        "configuration_name": "chatbot.ConfigurationName",
        "slack_channel_id": "chatbot.SlackChannelId",
        "slack_team_id": "chatbot.SlackTeamId",
    },
    "aws_cloudwatch_dashboard": {"dashboard_name": Limit(least=1, most=255, pattern="[A-Za-z0-9_-]+")},
    "aws_cloudwatch_event_rule": {
        "description": "events.RuleDescription",
        "event_pattern": "events.EventPattern",
        "name": "events.RuleName",
    },
    "aws_cloudwatch_event_target": {
        "retry_policy.maximum_event_age_in_seconds": "events.MaximumEventAgeInSeconds",
        "retry_policy.maximum_retry_attempts": "events.MaximumRetryAttempts",
        "target_id": "events.TargetId",
    },
    # Source: the reference of PutRetentionPolicy is in `stack_rules`, which asserts it.
    "aws_cloudwatch_log_group": {"name": "logs.LogGroupName"},
    "aws_cloudwatch_metric_alarm": {
        "alarm_description": "cloudwatch.AlarmDescription",
        "alarm_name": "cloudwatch.AlarmName",
        "comparison_operator": "cloudwatch.ComparisonOperator",
        "metric_name": "cloudwatch.MetricName",
        "namespace": "cloudwatch.Namespace",
        "period": "cloudwatch.Period",
        "statistic": "cloudwatch.Statistic",
        "treat_missing_data": Limit(among=("missing", "ignore", "breaching", "notBreaching")),
    },
    # Source: Amazon RDS user guide, "Naming constraints in Amazon RDS".
    "aws_db_instance": {
        "identifier": Limit(least=1, most=63, pattern="[a-z](-?[a-z0-9]+)*"),
        "backup_retention_period": Limit(least=0, most=35),
        "performance_insights_retention_period": Limit(among=(7, *(31 * month for month in range(1, 24)), 731)),
        "port": Limit(least=1150, most=65535),
    },
    "aws_db_parameter_group": {"parameter.apply_method": "rds.ApplyMethod", "name": Limit(most=255)},
    "aws_ecr_replication_configuration": {
        "replication_configuration.rule.repository_filter.filter_type": "ecr.RepositoryFilterType",
        "replication_configuration.rule.repository_filter.filter": Limit(least=2, most=256),
    },
    # Source: the reference of CreateCluster, CreateService and RegisterTaskDefinition.
    "aws_ecs_cluster": {
        "name": Limit(least=1, most=255, pattern="[A-Za-z0-9_-]+"),
        "setting.name": "ecs.ClusterSettingName",
        "setting.value": Limit(among=("enabled", "enhanced", "disabled")),
    },
    "aws_ecs_service": {
        "availability_zone_rebalancing": "ecs.AvailabilityZoneRebalancing",
        "launch_type": "ecs.LaunchType",
        "name": Limit(least=1, most=255, pattern="[A-Za-z0-9_-]+"),
    },
    "aws_ecs_task_definition": {
        "family": Limit(least=1, most=255, pattern="[A-Za-z0-9_-]+"),
        "network_mode": "ecs.NetworkMode",
        "requires_compatibilities": "ecs.Compatibility",
        # Source: Amazon ECS developer guide, "Fargate task ephemeral storage".
        "ephemeral_storage.size_in_gib": Limit(least=21, most=200),
    },
    "aws_flow_log": {
        "log_destination_type": "ec2.LogDestinationType",
        "max_aggregation_interval": Limit(among=(60, 600)),
        "traffic_type": "ec2.TrafficType",
    },
    "aws_iam_instance_profile": {"name": "iam.instanceProfileNameType"},
    "aws_iam_role": {"name": "iam.roleNameType", "assume_role_policy": Limit(most=2048)},
    "aws_iam_role_policy": {"name": "iam.policyNameType", "policy": "iam.policyDocumentType"},
    "aws_kms_alias": {"name": "kms.AliasNameType"},
    "aws_kms_key": {
        "customer_master_key_spec": "kms.KeySpec",
        "deletion_window_in_days": Limit(least=7, most=30),
        "description": "kms.DescriptionType",
        "key_usage": "kms.KeyUsageType",
        "policy": Limit(most=32768),
    },
    "aws_kms_replica_key": {"deletion_window_in_days": Limit(least=7, most=30)},
    "aws_lambda_function": {
        "architectures": "lambda.Architecture",
        "function_name": Limit(least=1, most=64, pattern="[A-Za-z0-9_-]+"),
        "handler": "lambda.Handler",
        "logging_config.log_format": "lambda.LogFormat",
        "memory_size": Limit(least=128, most=10240),
        "runtime": "lambda.Runtime",
        "timeout": Limit(least=1, most=900),
        "tracing_config.mode": "lambda.TracingMode",
    },
    "aws_lambda_function_event_invoke_config": {
        "maximum_event_age_in_seconds": "lambda.MaximumEventAgeInSeconds",
    },
    "aws_lambda_permission": {"principal": "lambda.Principal", "statement_id": "lambda.StatementId"},
    # Source: the reference of CreateLoadBalancer: no hyphen first or last, and never "internal-".
    "aws_lb": {
        "load_balancer_type": "elbv2.LoadBalancerTypeEnum",
        "name": Limit(least=1, most=32, pattern="(?!internal-)[A-Za-z0-9]([A-Za-z0-9-]*[A-Za-z0-9])?"),
    },
    "aws_lb_listener": {
        "default_action.type": "elbv2.ActionTypeEnum",
        "port": "elbv2.Port",
        "protocol": "elbv2.ProtocolEnum",
    },
    "aws_lb_target_group": {
        "health_check.healthy_threshold": "elbv2.HealthCheckThresholdCount",
        "health_check.interval": "elbv2.HealthCheckIntervalSeconds",
        "health_check.path": "elbv2.Path",
        "health_check.protocol": "elbv2.ProtocolEnum",
        "health_check.timeout": "elbv2.HealthCheckTimeoutSeconds",
        "health_check.unhealthy_threshold": "elbv2.HealthCheckThresholdCount",
        "name": Limit(least=1, most=32, pattern="[A-Za-z0-9]([A-Za-z0-9-]*[A-Za-z0-9])?"),
        "port": "elbv2.Port",
        "protocol": "elbv2.ProtocolEnum",
        "target_type": "elbv2.TargetTypeEnum",
    },
    "aws_rds_cluster": {
        "backup_retention_period": Limit(least=1, most=35),
        "cluster_identifier": Limit(least=1, most=63, pattern="[a-z](-?[a-z0-9]+)*"),
    },
    "aws_rds_cluster_instance": {"identifier": Limit(least=1, most=63, pattern="[a-z](-?[a-z0-9]+)*")},
    "aws_route53_health_check": {
        "failure_threshold": "route53.FailureThreshold",
        "request_interval": Limit(among=(10, 30)),
        "type": "route53.HealthCheckType",
    },
    "aws_route53_record": {
        "name": "route53.DNSName",
        "set_identifier": "route53.ResourceRecordSetIdentifier",
        "ttl": "route53.TTL",
        "type": "route53.RRType",
    },
    "aws_route53recoverycontrolconfig_safety_rule": {"rule_config.type": "route53-recovery-control-config.RuleType"},
    # Source: Amazon S3 user guide, "General purpose bucket naming rules".
    "aws_s3_bucket": {"bucket": Limit(least=3, most=63, pattern="[a-z0-9]([a-z0-9-]*[a-z0-9])")},
    "aws_s3_bucket_lifecycle_configuration": {"rule.transition.storage_class": "s3.TransitionStorageClass"},
    "aws_s3_bucket_object_lock_configuration": {"rule.default_retention.mode": "s3.ObjectLockRetentionMode"},
    "aws_s3_bucket_ownership_controls": {"rule.object_ownership": "s3.ObjectOwnership"},
    "aws_s3_bucket_replication_configuration": {
        "rule.status": "s3.ReplicationRuleStatus",
        # Source: the reference of ReplicationTimeValue: 15 is the only one.
        "rule.destination.replication_time.time.minutes": Limit(among=(15,)),
        "rule.destination.metrics.event_threshold.minutes": Limit(among=(15,)),
    },
    "aws_s3_bucket_server_side_encryption_configuration": {
        "rule.apply_server_side_encryption_by_default.sse_algorithm": "s3.ServerSideEncryption"
    },
    "aws_s3_bucket_versioning": {"versioning_configuration.status": "s3.BucketVersioningStatus"},
    "aws_scheduler_schedule": {
        "flexible_time_window.mode": "scheduler.FlexibleTimeWindowMode",
        "name": "scheduler.Name",
        "schedule_expression": Limit(most=256, pattern=r"(rate\(\d+ (minute|hour|day)s?\)|cron\([^()]+\))"),
        "target.retry_policy.maximum_event_age_in_seconds": "scheduler.MaximumEventAgeInSeconds",
        "target.retry_policy.maximum_retry_attempts": "scheduler.MaximumRetryAttempts",
    },
    "aws_secretsmanager_secret": {
        "description": "secretsmanager.DescriptionType",
        "name": Limit(least=1, most=512, pattern="[A-Za-z0-9/_+=.@-]+"),
    },
    # Source: the reference of CreateSecurityGroup.
    "aws_security_group": {
        "description": Limit(most=255, pattern=r"[\w .:/()#,@\[\]+=&;{}!$*-]*"),
        "name": Limit(least=1, most=255, pattern=r"(?!sg-)[\w .:/()#,@\[\]+=&;{}!$*-]+"),
    },
    "aws_sfn_state_machine": {
        "definition": "stepfunctions.Definition",
        "logging_configuration.level": "stepfunctions.LogLevel",
        "name": Limit(least=1, most=80, pattern="[A-Za-z0-9_-]+"),
    },
    "aws_sns_topic": {"name": Limit(least=1, most=256, pattern="[A-Za-z0-9_-]+")},
    "aws_sns_topic_subscription": {"protocol": Limit(among=("email", "https", "lambda", "sqs"))},
    "aws_sqs_queue": {
        "message_retention_seconds": Limit(least=60, most=1_209_600),
        "name": Limit(least=1, most=80, pattern="[A-Za-z0-9_-]+"),
    },
    "aws_vpc_endpoint": {"vpc_endpoint_type": "ec2.VpcEndpointType", "policy": Limit(most=20480)},
    "aws_vpc_security_group_egress_rule": {"description": Limit(most=255, pattern=r"[\w .:/()#,@\[\]+=&;{}!$*-]*")},
    "aws_vpc_security_group_ingress_rule": {"description": Limit(most=255, pattern=r"[\w .:/()#,@\[\]+=&;{}!$*-]*")},
}


@cache
def _model(service: str) -> Any:
    return botocore.session.get_session().get_service_model(service)


@cache
def limit_of(shape: str) -> Limit:
    """What a service's model says of a shape, `service.Shape`."""
    service, _, name = shape.partition(".")
    metadata = _model(service).shape_for(name).metadata
    limit = Limit(
        least=metadata.get("min"),
        most=metadata.get("max"),
        pattern=metadata.get("pattern", "").removeprefix("^").removesuffix("$"),
        among=tuple(metadata.get("enum", ())),
    )
    assert limit != Limit(), f"the model says nothing of {shape}: write the limit down"
    return limit


def value_problems(type_: str, body: Mapping[str, Any]) -> Iterator[str]:
    """What AWS would not take of a body, one sentence for each."""
    for argument, said in VALUES.get(type_, {}).items():
        limit = limit_of(said) if isinstance(said, str) else said
        for value in values_at(body, argument.split(".")):
            if isinstance(value, str) and EXPRESSION.fullmatch(value):
                continue
            if problem := _refused(limit, value):
                yield f"{argument} is {str(value)[:80]!r}, and {problem}"


def values_at(value: Any, steps: list[str]) -> Iterator[Any]:
    """Every value of an argument, by the steps that lead to it."""
    if isinstance(value, list):
        for item in value:
            yield from values_at(item, steps)
    elif not steps:
        if value is not None:
            yield value
    elif isinstance(value, dict) and steps[0] in value:
        yield from values_at(value[steps[0]], steps[1:])


def _refused(limit: Limit, value: Any) -> str:
    if limit.among:
        return "" if value in limit.among else f"may be {', '.join(map(str, limit.among))}"
    # An expression inside stands for something that is there only later, of about its length.
    size = len(value) if isinstance(value, str) else float(value)
    unit = " characters" if isinstance(value, str) else ""
    if limit.least is not None and size < limit.least:
        return f"may be {limit.least:g}{unit} at least"
    if limit.most is not None and size > limit.most:
        return f"may be {limit.most:g}{unit} at most"
    if limit.pattern and isinstance(value, str) and not re.fullmatch(limit.pattern, value):
        return f"has to match {limit.pattern}"
    return ""


# Of these arguments exactly one is given. Source: the provider's documentation of each type.
EXACTLY_ONE: dict[str, tuple[tuple[str, ...], ...]] = {
    "aws_cloudwatch_event_rule": (("event_pattern", "schedule_expression"),),
    "aws_cloudwatch_metric_alarm": (
        ("metric_name", "metric_query"),
        ("statistic", "extended_statistic", "metric_query"),
    ),
    "aws_flow_log": (("vpc_id", "subnet_id", "eni_id", "transit_gateway_id"),),
    "aws_iam_role": (("name", "name_prefix"),),
    "aws_lambda_function": (("filename", "image_uri", "s3_bucket"),),
    "aws_lb_target_group": (("name", "name_prefix"),),
    "aws_route53_record": (("alias", "records"), ("alias", "ttl")),
    "aws_secretsmanager_secret_version": (("secret_string", "secret_binary", "secret_string_wo"),),
    "aws_subnet": (("availability_zone", "availability_zone_id"),),
    "aws_vpc": (("cidr_block", "ipv4_ipam_pool_id"),),
    "aws_vpc_security_group_egress_rule": (
        ("cidr_ipv4", "cidr_ipv6", "prefix_list_id", "referenced_security_group_id"),
    ),
    "aws_vpc_security_group_ingress_rule": (
        ("cidr_ipv4", "cidr_ipv6", "prefix_list_id", "referenced_security_group_id"),
    ),
}
# These are given together or not at all.
TOGETHER: dict[str, tuple[tuple[str, ...], ...]] = {
    "aws_db_instance": (("password_wo", "password_wo_version"),),
    "aws_rds_cluster": (
        ("master_password_wo", "master_password_wo_version"),
        ("master_username", "master_password_wo"),
    ),
    "aws_secretsmanager_secret_version": (("secret_string_wo", "secret_string_wo_version"),),
    "aws_vpc_security_group_egress_rule": (("from_port", "to_port"),),
    "aws_vpc_security_group_ingress_rule": (("from_port", "to_port"),),
}
# What a replica takes from its source, and refuses to be told.
OF_THE_SOURCE: dict[str, tuple[str, tuple[str, ...]]] = {
    "aws_db_instance": (
        "replicate_source_db",
        ("allocated_storage", "db_name", "engine", "engine_version", "password_wo", "username"),
    ),
}


def combination_problems(type_: str, body: Mapping[str, Any]) -> Iterator[str]:
    """Which arguments of a body exclude each other, or lack each other."""
    given = {name for name, value in body.items() if value is not None}
    for names in EXACTLY_ONE.get(type_, ()):
        if len(found := sorted(given & set(names))) != 1:
            yield f"exactly one of {', '.join(names)} is to be given, got {', '.join(found) or 'none'}"
    for names in TOGETHER.get(type_, ()):
        if (found := sorted(set(names) - given)) and len(found) < len(names):
            yield f"{', '.join(names)} are given together, and {', '.join(found)} is missing"
    source, its_own = OF_THE_SOURCE.get(type_, ("", ()))
    if source in given and (found := sorted(given & set(its_own))):
        yield f"a replica takes {', '.join(found)} from its source"
