"""An alarm that tells people."""

from __future__ import annotations

from typing import TYPE_CHECKING

from relight_constructs.bindings import CloudwatchMetricAlarm, Construct

if TYPE_CHECKING:
    from relight_constructs.props import ReadinessAlarmProps

# One look that fails, or comes a little late for its period, is no reason to wake somebody.
_LOOKS = 2


class ReadinessAlarm(Construct):
    """Define an alarm on a metric that is 1 while something is ready: it tells people when that ends and when it is
    back. A metric that is not there counts as not ready, because whoever measures it has failed."""

    def __init__(self, scope: Construct, id_: str, props: ReadinessAlarmProps) -> None:
        super().__init__(scope, id_)
        CloudwatchMetricAlarm(
            self,
            "alarm",
            alarm_name=props.name,
            alarm_description=props.description,
            namespace=props.namespace,
            metric_name=props.metric,
            dimensions=dict(props.dimensions),
            statistic="Minimum",
            comparison_operator="LessThanThreshold",
            threshold=1,
            period=props.every_s,
            evaluation_periods=_LOOKS,
            datapoints_to_alarm=_LOOKS,
            treat_missing_data="breaching",
            alarm_actions=[props.topic.arn],
            ok_actions=[props.topic.arn],
        )
