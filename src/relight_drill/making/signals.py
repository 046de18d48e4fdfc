"""Logs, topics and alarms."""

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
    "aws_cloudwatch_metric_alarm": _alarm,
}
