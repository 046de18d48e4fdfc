"""Alarms that tell people."""

from __future__ import annotations

from typing import TYPE_CHECKING

from relight_constructs.bindings import CloudwatchMetricAlarm, Construct
from relight_constructs.props import MetricAlarmProps

if TYPE_CHECKING:
    from relight_constructs.function import Function
    from relight_constructs.grants import Tellable


class MetricAlarm(Construct):
    """Define an alarm on one metric: it tells people when the metric crosses its threshold and when it is back."""

    def __init__(self, scope: Construct, id_: str, props: MetricAlarmProps) -> None:
        super().__init__(scope, id_)
        CloudwatchMetricAlarm(
            self,
            "alarm",
            alarm_name=props.name,
            alarm_description=props.description,
            namespace=props.namespace,
            metric_name=props.metric,
            dimensions=dict(props.dimensions),
            statistic=props.statistic,
            comparison_operator=props.comparison,
            threshold=props.threshold,
            period=props.period_s,
            evaluation_periods=props.looks,
            datapoints_to_alarm=props.looks_to_alarm or props.looks,
            treat_missing_data="breaching" if props.missing_is_bad else "notBreaching",
            alarm_actions=[props.topic.arn],
            ok_actions=[props.topic.arn],
        )


def errors_of(
    function: Function,
    *,
    description: str,
    topic: Tellable,
    period_s: int = 60,
    looks: int = 1,
    missing_is_bad: bool = False,
) -> MetricAlarmProps:
    """An alarm on a function that failed in each of `looks` periods; with `missing_is_bad` also on one not called."""
    return MetricAlarmProps(
        name=f"{function.name}-errors",
        description=description,
        namespace="AWS/Lambda",
        metric="Errors",
        dimensions={"FunctionName": function.name},
        topic=topic,
        period_s=period_s,
        looks=looks,
        missing_is_bad=missing_is_bad,
    )
