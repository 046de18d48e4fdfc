"""A Lambda function with a role, a log group, a place for dead letters where calls count, and nothing else allowed."""

from __future__ import annotations

from typing import TYPE_CHECKING

from relight_constructs.bindings import (
    Construct,
    LambdaFunction,
    LambdaFunctionDeadLetterConfig,
    LambdaFunctionEnvironment,
    LambdaFunctionEventInvokeConfig,
    LambdaFunctionLoggingConfig,
    LambdaFunctionTracingConfig,
    LambdaFunctionVpcConfig,
    LambdaPermission,
)
from relight_constructs.logs import LogGroup
from relight_constructs.policies import Statement, trust_lambda
from relight_constructs.role import Role

if TYPE_CHECKING:
    from relight_constructs.policies import Grantee
    from relight_constructs.props import FunctionProps

RUNTIME = "python3.13"
ARCHITECTURE = "arm64"

TRACE_ACTIONS = ("xray:PutTelemetryRecords", "xray:PutTraceSegments")
JOIN_NETWORK_ACTIONS = (
    "ec2:AssignPrivateIpAddresses",
    "ec2:CreateNetworkInterface",
    "ec2:DeleteNetworkInterface",
    "ec2:DescribeNetworkInterfaces",
    "ec2:DescribeSubnets",
    "ec2:UnassignPrivateIpAddresses",
)
INVOKE_ACTIONS = ("lambda:InvokeFunction",)


class Function(Construct):
    """Define a function that may write its own log, traces and dead letters.

    It is a Grantee: everything else is granted to it.
    """

    def __init__(self, scope: Construct, id_: str, props: FunctionProps) -> None:
        super().__init__(scope, id_)
        self.name = props.name
        self.verb = props.verb
        self.timeout_s = props.timeout_s
        self.arn = f"arn:aws:lambda:{props.place.region}:{props.place.account}:function:{props.name}"
        self._role = Role(self, "role", name=props.place.role_name(props.verb), trust=trust_lambda())
        log_group = LogGroup(
            self,
            "log",
            place=props.place,
            name=f"/aws/lambda/{props.name}",
            key=props.logs_key,
            retention_days=props.log_retention_days,
        )
        log_group.grant_write(self)
        self.allow("trace", Statement(actions=TRACE_ACTIONS, resources=("*",)))
        letters = None if props.dropped_after_s else props.dead_letters
        if letters is not None:
            letters.grant_send(self)
        if props.network is not None:
            self.allow(
                "join-network",
                Statement(actions=JOIN_NETWORK_ACTIONS, resources=("*",)),
                # Lambda needs these actions, the handler does not. Source: AWS Lambda developer guide, "Giving Lambda
                # functions access to resources in an Amazon VPC". A service that looks at the network on behalf of the
                # handler, as RDS does when it restores a database, is not the handler.
                Statement(
                    effect="Deny",
                    actions=JOIN_NETWORK_ACTIONS,
                    resources=("*",),
                    condition={
                        "ArnEquals": {"lambda:SourceFunctionArn": self.arn},
                        "Bool": {"aws:ViaAWSService": "false"},
                    },
                ),
            )
        self._function = LambdaFunction(
            self,
            "function",
            function_name=props.name,
            role=self._role.arn,
            runtime=RUNTIME,
            architectures=[ARCHITECTURE],
            handler=props.handler,
            filename=props.code.path,
            source_code_hash=props.code.sha256,
            timeout=props.timeout_s,
            memory_size=props.memory_mib,
            reserved_concurrent_executions=props.at_once,
            dead_letter_config=None if letters is None else LambdaFunctionDeadLetterConfig(target_arn=letters.arn),
            environment=LambdaFunctionEnvironment(variables=dict(props.environment)),
            tracing_config=LambdaFunctionTracingConfig(mode="Active"),
            logging_config=LambdaFunctionLoggingConfig(log_format="JSON", log_group=log_group.name),
            vpc_config=None
            if props.network is None
            else LambdaFunctionVpcConfig(
                subnet_ids=list(props.network.subnet_ids),
                security_group_ids=list(props.network.security_group_ids),
            ),
            # Lambda refuses a function whose role may not yet join its network, or send to its queue.
            depends_on=list(self._role.policies),
        )
        if props.dropped_after_s is not None:
            # Else calls that find the function at work wait for six hours, in a row that grows with each.
            LambdaFunctionEventInvokeConfig(
                self,
                "dropped",
                function_name=self._function.function_name,
                maximum_event_age_in_seconds=props.dropped_after_s,
            )

    @property
    def role_arn(self) -> str:
        """A reference to the ARN of the function's role."""
        return self._role.arn

    def allow(self, name: str, *statements: Statement) -> None:
        """Add one policy to the function's role."""
        self._role.allow(name, *statements)

    def grant_invoke(self, grantee: Grantee) -> None:
        """Call the function."""
        grantee.allow(f"invoke-{self.verb}", Statement(actions=INVOKE_ACTIONS, resources=(self.arn,)))

    def admit(self, id_: str, *, service: str, source_arn: str) -> None:
        """Let an AWS service that takes on no role call the function, on behalf of `source_arn` alone."""
        LambdaPermission(
            self,
            id_,
            statement_id=id_,
            action="lambda:InvokeFunction",
            function_name=self._function.function_name,
            principal=service,
            source_arn=source_arn,
        )
