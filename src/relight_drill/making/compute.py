"""Functions and what calls them, and containers."""

from __future__ import annotations

import json
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from botocore.exceptions import ClientError

from relight_drill.making.arguments import given
from relight_drill.processes import DrillError

if TYPE_CHECKING:
    from relight_drill.making.arguments import Arguments, Make, Place

ASSETS = "relight-drill-assets"


def _function(place: Place, a: Arguments) -> dict[str, Any]:
    name = a.need("function_name")
    a.not_emulated("source_code_hash", "vpc_config")
    lambdas = place.client("lambda")
    environment = a.block("environment")
    variables = dict(environment.take("variables", {})) if environment else {}
    tracing, logging, letters = a.block("tracing_config"), a.block("logging_config"), a.block("dead_letter_config")
    options: dict[str, Any] = given(
        Description=a.take("description"),
        MemorySize=a.take("memory_size"),
        Timeout=a.take("timeout"),
        Architectures=a.take("architectures"),
        TracingConfig={"Mode": tracing.need("mode")} if tracing else None,
        KMSKeyArn=a.take("kms_key_arn"),
        DeadLetterConfig={"TargetArn": letters.need("target_arn")} if letters else None,
    )
    if logging:
        options["LoggingConfig"] = given(
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


def _permission(place: Place, a: Arguments) -> dict[str, Any]:
    statement = a.need("statement_id")
    place.client("lambda").add_permission(
        FunctionName=a.need("function_name"),
        StatementId=statement,
        Action=a.need("action"),
        Principal=a.need("principal"),
        **given(SourceArn=a.take("source_arn"), SourceAccount=a.take("source_account")),
    )
    return {"id": statement}


def _rule(place: Place, a: Arguments) -> dict[str, Any]:
    name = a.need("name")
    arn = place.client("events").put_rule(
        Name=name,
        State=a.take("state", "ENABLED"),
        **given(
            EventPattern=a.take("event_pattern"),
            ScheduleExpression=a.take("schedule_expression"),
            Description=a.take("description"),
        ),
    )["RuleArn"]
    return {"id": name, "name": name, "arn": arn}


def _target(place: Place, a: Arguments) -> dict[str, Any]:
    rule, name = a.need("rule"), a.need("target_id")
    target = given(Id=name, Arn=a.need("arn"), RoleArn=a.take("role_arn"), Input=a.take("input"))
    target.update(_retries(a))
    place.client("events").put_targets(Rule=rule, Targets=[target])
    return {"id": f"{rule}-{name}"}


def _schedule(place: Place, a: Arguments) -> dict[str, Any]:
    name, window, target = a.need("name"), a.block("flexible_time_window"), a.block("target")
    if target is None:
        raise DrillError(f"the schedule {name} has no target", hint="give it one in the stack")
    to = given(Arn=target.need("arn"), RoleArn=target.need("role_arn"), Input=target.take("input"))
    to.update(_retries(target))
    arn = place.client("scheduler").create_schedule(
        Name=name,
        ScheduleExpression=a.need("schedule_expression"),
        FlexibleTimeWindow={"Mode": window.need("mode") if window else "OFF"},
        State=a.take("state", "ENABLED"),
        Target=to,
        **given(
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
        made["RetryPolicy"] = given(
            MaximumEventAgeInSeconds=policy.take("maximum_event_age_in_seconds"),
            MaximumRetryAttempts=policy.take("maximum_retry_attempts"),
        )
    if dead:
        made["DeadLetterConfig"] = {"Arn": dead.need("arn")}
    return made


def _state_machine(place: Place, a: Arguments) -> dict[str, Any]:
    name = a.need("name")
    logging, tracing = a.block("logging_configuration"), a.block("tracing_configuration")
    options: dict[str, Any] = {}
    if logging:
        group = logging.take("log_destination")
        options["loggingConfiguration"] = given(
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


def _cluster(place: Place, a: Arguments) -> dict[str, Any]:
    name = a.need("name")
    settings = [{"name": item.need("name"), "value": item.need("value")} for item in a.blocks("setting")]
    arn = place.client("ecs").create_cluster(clusterName=name, settings=settings)["cluster"]["clusterArn"]
    return {"id": arn, "arn": arn, "name": name}


def _task_definition(place: Place, a: Arguments) -> dict[str, Any]:
    family = a.need("family")
    a.not_emulated("runtime_platform", "ephemeral_storage")
    volumes = [
        given(name=volume.need("name"), configuredAtLaunch=volume.take("configure_at_launch"))
        for volume in a.blocks("volume")
    ]
    made = place.client("ecs").register_task_definition(
        family=family,
        containerDefinitions=json.loads(a.need("container_definitions")),
        volumes=volumes,
        **given(
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


def _service(place: Place, a: Arguments) -> dict[str, Any]:
    name, cluster = a.need("name"), a.need("cluster")
    # Load balancers and the network are played by relight_drill.network; deployments by relight_drill.ecs, whose tasks'
    # volumes are folders.
    a.not_emulated("availability_zone_rebalancing", "volume_configuration")
    a.not_emulated("load_balancer", "platform_version", "health_check_grace_period_seconds")
    a.not_emulated("deployment_circuit_breaker", "deployment_minimum_healthy_percent", "deployment_maximum_percent")
    a.not_emulated("wait_for_steady_state", "enable_execute_command", "propagate_tags", "network_configuration")
    made = place.client("ecs").create_service(
        cluster=cluster,
        serviceName=name,
        taskDefinition=a.need("task_definition"),
        desiredCount=a.take("desired_count", 0),
        **given(launchType=a.take("launch_type")),
    )["service"]
    return {"id": made["serviceArn"], "arn": made["serviceArn"], "name": name, "cluster": made["clusterArn"]}


def _scalable_target(place: Place, a: Arguments) -> dict[str, Any]:
    """What a recovery calls too: `relight_drill.emulator_scaling` keeps it."""
    named = {name: a.need(name) for name in ("service_namespace", "resource_id", "scalable_dimension")}
    namespace, resource, dimension = named.values()
    arn = place.client("application-autoscaling").register_scalable_target(
        ServiceNamespace=namespace,
        ResourceId=resource,
        ScalableDimension=dimension,
        MinCapacity=a.need("min_capacity"),
        MaxCapacity=a.need("max_capacity"),
    )["ScalableTargetARN"]
    return {"id": resource, "arn": arn, **named}


MAKERS: dict[str, Make] = {
    "aws_lambda_function": _function,
    "aws_lambda_permission": _permission,
    "aws_cloudwatch_event_rule": _rule,
    "aws_cloudwatch_event_target": _target,
    "aws_scheduler_schedule": _schedule,
    "aws_sfn_state_machine": _state_machine,
    "aws_ecs_cluster": _cluster,
    "aws_ecs_task_definition": _task_definition,
    "aws_ecs_service": _service,
    "aws_appautoscaling_target": _scalable_target,
}
