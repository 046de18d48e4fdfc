"""What calls a function by itself: a clock, and events such as that a vector store has just started."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from relight_constructs.bindings import (
    CloudwatchEventRule,
    CloudwatchEventTarget,
    CloudwatchEventTargetDeadLetterConfig,
    CloudwatchEventTargetRetryPolicy,
    Construct,
    SchedulerSchedule,
    SchedulerScheduleFlexibleTimeWindow,
    SchedulerScheduleTarget,
    SchedulerScheduleTargetDeadLetterConfig,
    SchedulerScheduleTargetRetryPolicy,
)
from relight_constructs.policies import trust
from relight_constructs.props import EventRuleProps
from relight_constructs.role import Role

if TYPE_CHECKING:
    from relight_constructs.props import BootRuleProps, ScheduleProps

# What could not be delivered for an hour has been noticed by then.
_EVENT_LATE_S = 3600


class Schedule(Construct):
    """Define a schedule that calls one function or state machine or leaves a dead letter, and may do nothing else."""

    def __init__(self, scope: Construct, id_: str, props: ScheduleProps) -> None:
        super().__init__(scope, id_)
        place = props.place
        role = Role(
            self,
            "role",
            name=place.role_name(f"{props.function.verb}-schedule"),
            trust=trust("scheduler.amazonaws.com", account=place.account),
        )
        props.function.grant_invoke(role)
        props.dead_letters.grant_send(role)
        SchedulerSchedule(
            self,
            "schedule",
            name=props.name,
            schedule_expression=props.rate,
            flexible_time_window=SchedulerScheduleFlexibleTimeWindow(mode="OFF"),
            target=SchedulerScheduleTarget(
                arn=props.function.arn,
                role_arn=role.arn,
                input="{}",
                dead_letter_config=SchedulerScheduleTargetDeadLetterConfig(arn=props.dead_letters.arn),
                retry_policy=SchedulerScheduleTargetRetryPolicy(
                    maximum_event_age_in_seconds=props.late_s, maximum_retry_attempts=2
                ),
            ),
        )


class CallOnEvent(Construct):
    """Define a rule that calls one function with each event that matches, or leaves a dead letter."""

    def __init__(self, scope: Construct, id_: str, props: EventRuleProps) -> None:
        super().__init__(scope, id_)
        rule = CloudwatchEventRule(
            self,
            "rule",
            name=props.name,
            description=props.description,
            event_pattern=json.dumps(props.pattern, separators=(",", ":")),
        )
        CloudwatchEventTarget(
            self,
            "target",
            rule=rule.name,
            target_id=props.function.verb,
            arn=props.function.arn,
            dead_letter_config=CloudwatchEventTargetDeadLetterConfig(arn=props.dead_letters.arn),
            retry_policy=CloudwatchEventTargetRetryPolicy(
                maximum_event_age_in_seconds=_EVENT_LATE_S, maximum_retry_attempts=10
            ),
        )
        props.function.admit(id_, service="events.amazonaws.com", source_arn=rule.arn)


class HydrateOnBoot(CallOnEvent):
    """Define the rule that hydrates a vector store as soon as its task runs, with no recovery and no person."""

    def __init__(self, scope: Construct, id_: str, props: BootRuleProps) -> None:
        rule = EventRuleProps(
            name=f"{props.function.name}-on-boot",
            description="A vector store has started: fill it if it is empty",
            pattern={
                "source": ["aws.ecs"],
                "detail-type": ["ECS Task State Change"],
                "detail": {
                    "clusterArn": [props.service.cluster_arn],
                    "group": [f"service:{props.service.name}"],
                    "lastStatus": ["RUNNING"],
                },
            },
            function=props.function,
            dead_letters=props.dead_letters,
        )
        super().__init__(scope, id_, rule)
