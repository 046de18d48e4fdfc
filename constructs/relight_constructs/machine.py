"""The recovery state machine as a resource."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from relight_constructs.alarm import MetricAlarm
from relight_constructs.bindings import (
    Construct,
    SfnStateMachine,
    SfnStateMachineLoggingConfiguration,
    SfnStateMachineTracingConfiguration,
)
from relight_constructs.logs import LogGroup
from relight_constructs.policies import Statement, trust
from relight_constructs.props import MetricAlarmProps
from relight_constructs.recovery_machine import Step, definition
from relight_constructs.role import Role

if TYPE_CHECKING:
    from relight_constructs.policies import Grantee
    from relight_constructs.props import RecoveryMachineProps

START_ACTIONS = ("states:StartExecution",)
# Step Functions asks for the sampling rules itself, where Lambda does not. Source: AWS Step Functions developer guide,
# "Trace Step Functions request data in AWS X-Ray".
TRACE_ACTIONS = (
    "xray:GetSamplingRules",
    "xray:GetSamplingTargets",
    "xray:PutTelemetryRecords",
    "xray:PutTraceSegments",
)
DELIVER_LOG_ACTIONS = (
    "logs:CreateLogDelivery",
    "logs:DeleteLogDelivery",
    "logs:DescribeLogGroups",
    "logs:DescribeResourcePolicies",
    "logs:GetLogDelivery",
    "logs:ListLogDeliveries",
    "logs:PutResourcePolicy",
    "logs:UpdateLogDelivery",
)

# A failed state pages by itself; these tell of what the machine cannot say: that the paging failed, that an execution
# took too long, or that it was not even let go on.
ALARMS = {
    "ExecutionsFailed": "A recovery has failed: its timeline is in the standby's vault under runs/",
    "ExecutionsTimedOut": "A recovery took longer than a recovery may, and was ended: go on with its run by hand",
    "ExecutionThrottled": "A recovery waits because the account's quota of state transitions is used up",
}


class RecoveryMachine(Construct):
    """Define the state machine that recovers, logged, traced, watched, and allowed to call its own functions only."""

    def __init__(self, scope: Construct, id_: str, props: RecoveryMachineProps) -> None:
        super().__init__(scope, id_)
        place = props.place
        self.arn = f"arn:aws:states:{place.region}:{place.account}:stateMachine:{props.name}"
        role = Role(
            self,
            "role",
            name=place.role_name("recovery"),
            trust=trust("states.amazonaws.com", account=place.account, source_arn=self.arn),
        )
        for function in props.functions.values():
            function.grant_invoke(role)
        if props.work is not None:
            props.work.grant_run(role)
        role.allow("deliver-log", Statement(actions=DELIVER_LOG_ACTIONS, resources=("*",)))
        role.allow("trace", Statement(actions=TRACE_ACTIONS, resources=("*",)))
        log_group = LogGroup(
            self,
            "log",
            place=place,
            name=f"/aws/vendedlogs/states/{props.name}",
            key=props.logs_key,
            retention_days=props.log_retention_days,
        )
        steps = {
            verb: Step(function_arn=function.arn, timeout_s=function.timeout_s)
            for verb, function in props.functions.items()
        }
        document = definition(
            steps,
            waits=props.waits,
            whole_s=props.whole_s,
            large=None if props.work is None else props.work.run,
        )
        SfnStateMachine(
            self,
            "machine",
            name=props.name,
            role_arn=role.arn,
            definition=json.dumps(document, separators=(",", ":")),
            logging_configuration=SfnStateMachineLoggingConfiguration(
                level="ALL", include_execution_data=True, log_destination=f"{log_group.arn}:*"
            ),
            tracing_configuration=SfnStateMachineTracingConfiguration(enabled=True),
            # Step Functions refuses a logged machine whose role may not yet deliver its log.
            depends_on=list(role.policies),
        )
        for metric, description in ALARMS.items():
            MetricAlarm(
                self,
                metric,
                MetricAlarmProps(
                    name=f"{props.name}-{metric}",
                    description=description,
                    namespace="AWS/States",
                    metric=metric,
                    dimensions={"StateMachineArn": self.arn},
                    topic=props.topic,
                ),
            )

    def grant_start(self, grantee: Grantee) -> None:
        """Start a recovery."""
        grantee.allow("start-recovery", Statement(actions=START_ACTIONS, resources=(self.arn,)))
