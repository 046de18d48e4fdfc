"""State machines as resources, the recovery's first."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from relight_constructs.alarm import MetricAlarm
from relight_constructs.bindings import (
    Construct,
    SfnStateMachine,
    SfnStateMachineLoggingConfiguration,
    SfnStateMachineTracingConfiguration,
)
from relight_constructs.logs import LogGroup
from relight_constructs.policies import Statement, trust
from relight_constructs.props import MetricAlarmProps, StateMachineProps
from relight_constructs.recovery_machine import Step, definition
from relight_constructs.role import Role

if TYPE_CHECKING:
    from collections.abc import Mapping

    from relight_constructs.grants import Tellable
    from relight_constructs.key import Key
    from relight_constructs.policies import Grantee
    from relight_constructs.props import RecoveryMachineProps

START_ACTIONS = ("states:StartExecution",)
SEE_RUNNING_ACTIONS = ("states:ListExecutions",)
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


class StateMachine(Construct):
    """Define a state machine that is logged, traced, watched, and may call what it is granted and nothing else.

    It is a Grantee; once all is granted, `define` says what it does.
    """

    def __init__(self, scope: Construct, id_: str, props: StateMachineProps) -> None:
        super().__init__(scope, id_)
        place = props.place
        self._place = place
        self._name = props.name
        self.verb = props.verb
        self.arn = f"arn:aws:states:{place.region}:{place.account}:stateMachine:{props.name}"
        self._role = Role(
            self,
            "role",
            name=place.role_name(props.verb),
            trust=trust("states.amazonaws.com", account=place.account, source_arn=self.arn),
        )

    def allow(self, name: str, *statements: Statement) -> None:
        """Add one policy to the machine's role."""
        self._role.allow(name, *statements)

    def define(self, document: Mapping[str, Any], *, logs_key: Key, log_retention_days: int) -> None:
        """Do what `document` says, in Amazon States Language; whoever granted afterwards was too late."""
        self.allow("deliver-log", Statement(actions=DELIVER_LOG_ACTIONS, resources=("*",)))
        self.allow("trace", Statement(actions=TRACE_ACTIONS, resources=("*",)))
        log_group = LogGroup(
            self,
            "log",
            place=self._place,
            name=f"/aws/vendedlogs/states/{self._name}",
            key=logs_key,
            retention_days=log_retention_days,
        )
        SfnStateMachine(
            self,
            "machine",
            name=self._name,
            role_arn=self._role.arn,
            definition=json.dumps(document, separators=(",", ":")),
            logging_configuration=SfnStateMachineLoggingConfiguration(
                level="ALL", include_execution_data=True, log_destination=f"{log_group.arn}:*"
            ),
            tracing_configuration=SfnStateMachineTracingConfiguration(enabled=True),
            # Step Functions refuses a logged machine whose role may not yet deliver its log.
            depends_on=list(self._role.policies),
        )

    def watch(self, alarms: Mapping[str, str], *, topic: Tellable) -> None:
        """Tell people of each metric of its executions, with the description beside it."""
        for metric, description in alarms.items():
            MetricAlarm(
                self,
                metric,
                MetricAlarmProps(
                    name=f"{self._name}-{metric}",
                    description=description,
                    namespace="AWS/States",
                    metric=metric,
                    dimensions={"StateMachineArn": self.arn},
                    topic=topic,
                ),
            )

    def grant_invoke(self, grantee: Grantee) -> None:
        """Start an execution."""
        grantee.allow(f"start-{self.verb}", Statement(actions=START_ACTIONS, resources=(self.arn,)))

    def grant_see_running(self, grantee: Grantee) -> None:
        """See which executions run, and how earlier ones ended."""
        grantee.allow("look-for-others", Statement(actions=SEE_RUNNING_ACTIONS, resources=(self.arn,)))


class RecoveryMachine(StateMachine):
    """Define the state machine that recovers, allowed to call its own functions only."""

    def __init__(self, scope: Construct, id_: str, props: RecoveryMachineProps) -> None:
        super().__init__(scope, id_, StateMachineProps(place=props.place, name=props.name, verb="recovery"))
        for function in props.functions.values():
            function.grant_invoke(self)
        if props.work is not None:
            props.work.grant_run(self)
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
        self.define(document, logs_key=props.logs_key, log_retention_days=props.log_retention_days)
        self.watch(ALARMS, topic=props.topic)
