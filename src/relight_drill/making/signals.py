"""Logs, topics, queues and alarms."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from relight_drill.making.arguments import given

if TYPE_CHECKING:
    from relight_drill.making.arguments import Arguments, Make, Place


def _log_group(place: Place, a: Arguments) -> dict[str, Any]:
    name, logs = a.need("name"), place.client("logs")
    logs.create_log_group(logGroupName=name, **given(kmsKeyId=a.take("kms_key_id")))
    if days := a.take("retention_in_days"):
        logs.put_retention_policy(logGroupName=name, retentionInDays=days)
    return {"id": name, "name": name, "arn": place.arn("logs", f"log-group:{name}")}


def _topic(place: Place, a: Arguments) -> dict[str, Any]:
    name = a.need("name")
    key = a.take("kms_master_key_id")
    attributes = {"KmsMasterKeyId": key} if key else {}
    arn = place.client("sns").create_topic(Name=name, Attributes=attributes)["TopicArn"]
    return {"id": arn, "arn": arn, "name": name}


def _subscription(place: Place, a: Arguments) -> dict[str, Any]:
    arn = place.client("sns").subscribe(
        TopicArn=a.need("topic_arn"),
        Protocol=a.need("protocol"),
        Endpoint=a.need("endpoint"),
        ReturnSubscriptionArn=True,
    )["SubscriptionArn"]
    return {"id": arn, "arn": arn}


def _dashboard(place: Place, a: Arguments) -> dict[str, Any]:
    name = a.need("dashboard_name")
    place.client("cloudwatch").put_dashboard(DashboardName=name, DashboardBody=a.need("dashboard_body"))
    return {"id": name, "dashboard_arn": f"arn:aws:cloudwatch::{place.emulator.account}:dashboard/{name}"}


def _queue(place: Place, a: Arguments) -> dict[str, Any]:
    name, sqs = a.need("name"), place.client("sqs")
    attributes = given(
        KmsMasterKeyId=a.take("kms_master_key_id"),
        MessageRetentionPeriod=a.take("message_retention_seconds"),
        VisibilityTimeout=a.take("visibility_timeout_seconds"),
    )
    url = sqs.create_queue(QueueName=name, Attributes={key: str(value) for key, value in attributes.items()})[
        "QueueUrl"
    ]
    return {"id": url, "url": url, "name": name, "arn": place.arn("sqs", name)}


def _queue_policy(place: Place, a: Arguments) -> dict[str, Any]:
    url = a.need("queue_url")
    place.client("sqs").set_queue_attributes(QueueUrl=url, Attributes={"Policy": a.need("policy")})
    return {"id": url}


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
        **given(
            AlarmDescription=a.take("alarm_description"),
            DatapointsToAlarm=a.take("datapoints_to_alarm"),
            TreatMissingData=a.take("treat_missing_data"),
        ),
    )
    return {"id": name, "arn": place.arn("cloudwatch", f"alarm:{name}"), "name": name}


MAKERS: dict[str, Make] = {
    "aws_cloudwatch_log_group": _log_group,
    "aws_sns_topic": _topic,
    "aws_sns_topic_subscription": _subscription,
    "aws_cloudwatch_dashboard": _dashboard,
    "aws_sqs_queue": _queue,
    "aws_sqs_queue_policy": _queue_policy,
    "aws_cloudwatch_metric_alarm": _alarm,
}
