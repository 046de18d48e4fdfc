"""IAM policies as values. Pure: nothing here starts node.

A policy is one small document for one grant. A statement on every resource (`*`) is refused unless each of its actions
is listed in `ANY_RESOURCE` with the reason.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from collections.abc import Mapping

VERSION = "2012-10-17"
METRIC_ACTIONS = ("cloudwatch:PutMetricData",)

_ENI = "Lambda makes its network interfaces under the role before any resource exists, and checks for `*`"
_RDS_NETWORK = "RDS looks at a network as whoever restores a database into it, and EC2's descriptions take no resource"
_XRAY = "X-Ray's actions for tracing take no resource"
_DELIVERY = "CloudWatch's log delivery actions take no resource"

# The only actions that may be allowed on every resource, and why. Source: the service authorization reference, where
# these actions have no resource type, or only one that cannot be known beforehand.
ANY_RESOURCE: dict[str, str] = {
    "ec2:AssignPrivateIpAddresses": _ENI,
    "ec2:CreateNetworkInterface": _ENI,
    "ec2:DeleteNetworkInterface": _ENI,
    "ec2:DescribeNetworkInterfaces": _ENI,
    "ec2:DescribeSubnets": _ENI,
    "ec2:UnassignPrivateIpAddresses": _ENI,
    "application-autoscaling:DescribeScalableTargets": "targets are listed by what they scale, and have no resource",
    "autoscaling:DescribeAutoScalingGroups": "descriptions of groups take no resource",
    "cloudwatch:PutMetricData": "metrics have no resource; the statement names the one namespace",
    "ec2:DescribeAccountAttributes": _RDS_NETWORK,
    "ec2:DescribeAvailabilityZones": "EC2's descriptions take no resource",
    "ec2:DescribeInternetGateways": _RDS_NETWORK,
    "ec2:DescribeSecurityGroups": _RDS_NETWORK,
    "ec2:DescribeVpcAttribute": _RDS_NETWORK,
    "ec2:DescribeVpcs": _RDS_NETWORK,
    "ec2:DescribeVolumes": "EC2's descriptions take no resource",
    "ecs:ListTasks": "tasks are listed by cluster, which the statement names as its condition",
    "ecr:GetAuthorizationToken": "a registry's token is for the whole account",
    "logs:CreateLogDelivery": _DELIVERY,
    "logs:DeleteLogDelivery": _DELIVERY,
    "logs:DescribeLogGroups": _DELIVERY,
    "logs:DescribeResourcePolicies": _DELIVERY,
    "logs:GetLogDelivery": _DELIVERY,
    "logs:ListLogDeliveries": _DELIVERY,
    "logs:PutResourcePolicy": _DELIVERY,
    "logs:UpdateLogDelivery": _DELIVERY,
    "rds:DescribeDBInstanceAutomatedBackups": "it lists copied backups, whose ids cannot be known beforehand",
    "xray:GetSamplingRules": _XRAY,
    "xray:GetSamplingTargets": _XRAY,
    "xray:PutTelemetryRecords": _XRAY,
    "xray:PutTraceSegments": _XRAY,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Statement:
    """What is allowed, on what, under which condition. `effect` is only ever `Deny` to narrow what a service needs."""

    actions: tuple[str, ...]
    resources: tuple[str, ...]
    condition: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    effect: str = "Allow"

    def __post_init__(self) -> None:
        if not self.actions or not self.resources:
            raise ValueError(f"a statement needs actions and resources, got {self.actions} on {self.resources}")
        wide = [action for action in self.actions if action not in ANY_RESOURCE]
        if self.effect == "Allow" and "*" in self.resources and wide:
            raise ValueError(
                f"{', '.join(wide)} on every resource; name the resources, or add a reason to ANY_RESOURCE"
            )

    def to_json(self) -> dict[str, Any]:
        """The statement as IAM reads it."""
        document: dict[str, Any] = {
            "Effect": self.effect,
            "Action": sorted(self.actions),
            "Resource": list(self.resources),
        }
        if self.condition:
            document["Condition"] = self.condition
        return document


def policy(*statements: Statement) -> str:
    """A policy document; equal statements make equal text."""
    return _document([statement.to_json() for statement in statements])


def trust(service: str, *, account: str, source_arn: str | None = None) -> str:
    """Who may take on a role: one AWS service, on behalf of our own account alone, and of `source_arn` where given."""
    condition: dict[str, dict[str, str]] = {"StringEquals": {"aws:SourceAccount": account}}
    if source_arn is not None:
        condition["ArnLike"] = {"aws:SourceArn": source_arn}
    statement = {
        "Effect": "Allow",
        "Principal": {"Service": service},
        "Action": "sts:AssumeRole",
        "Condition": condition,
    }
    return _document([statement])


def trust_tasks(*, account: str, region: str) -> str:
    """Who may take on a container's role: ECS, on behalf of this account's tasks in this region."""
    return trust("ecs-tasks.amazonaws.com", account=account, source_arn=f"arn:aws:ecs:{region}:{account}:*")


def trust_replication() -> str:
    """S3's trust for replication: it is documented without conditions, and one that S3 does not meet fails silently.

    Handing a role to S3 needs `iam:PassRole` in the role's own account, so no other account can have it used. Source:
    Amazon S3 user guide, "Setting up permissions for live replication".
    """
    return _trust_unbound("s3.amazonaws.com")


def by_alias(alias: str, *, via: str | None = None) -> dict[str, dict[str, str]]:
    """On the condition that the key carries `alias`, as its id is another stack's and cannot be computed; and that it
    is used through the service `via` alone, such as `s3.eu-west-1`."""
    condition = {"ForAnyValue:StringEquals": {"kms:ResourceAliases": alias}}
    if via is not None:
        condition["StringEquals"] = {"kms:ViaService": f"{via}.amazonaws.com"}
    return condition


def metrics(namespace: str) -> Statement:
    """Publish metrics of one namespace."""
    return Statement(
        actions=METRIC_ACTIONS,
        resources=("*",),
        condition={"StringEquals": {"cloudwatch:namespace": namespace}},
    )


def trust_lambda() -> str:
    """Lambda's trust: it takes on a function's role without naming the account, so a condition would shut it out."""
    return _trust_unbound("lambda.amazonaws.com")


def trust_volumes() -> str:
    """ECS's trust for the volumes of tasks: it is documented without conditions. Source: Amazon ECS developer guide,
    "Amazon ECS infrastructure IAM role"."""
    return _trust_unbound("ecs.amazonaws.com")


def trust_chat() -> str:
    """The trust of whoever delivers to chats: it is documented without conditions, and its role may do nothing."""
    return _trust_unbound("chatbot.amazonaws.com")


def trust_own(service: str) -> str:
    """Who may take on the role of agents that the user's own cluster or machines run; EKS marks a session with the pod
    that it is for. Handing a role to either needs `iam:PassRole` in the role's own account."""
    actions = ["sts:AssumeRole", *(["sts:TagSession"] if service.startswith("pods.") else [])]
    return _document([{"Effect": "Allow", "Principal": {"Service": service}, "Action": actions}])


def _trust_unbound(service: str) -> str:
    return _document([{"Effect": "Allow", "Principal": {"Service": service}, "Action": "sts:AssumeRole"}])


def key_policy(
    *, account: str, logs_region: str | None = None, alarms: bool = False, rules_region: str | None = None
) -> str:
    """A key's own policy: the account's IAM policies decide, and CloudWatch Logs of `logs_region` may use it, and
    `alarms` for topics that the key encrypts, and EventBridge's rules of `rules_region` for queues that it encrypts.

    The resource `*` of a key policy is that one key.
    """
    statements: list[dict[str, Any]] = [
        {
            "Sid": "AccountDecidesByIam",
            "Effect": "Allow",
            "Principal": {"AWS": f"arn:aws:iam::{account}:root"},
            "Action": "kms:*",
            "Resource": "*",
        }
    ]
    if logs_region is not None:
        statements.append(
            {
                "Sid": "LogsEncrypt",
                "Effect": "Allow",
                "Principal": {"Service": f"logs.{logs_region}.amazonaws.com"},
                "Action": ["kms:Decrypt", "kms:DescribeKey", "kms:Encrypt", "kms:GenerateDataKey*", "kms:ReEncrypt*"],
                "Resource": "*",
                "Condition": {
                    "ArnLike": {
                        "kms:EncryptionContext:aws:logs:arn": f"arn:aws:logs:{logs_region}:{account}:log-group:*"
                    }
                },
            }
        )
    if alarms:
        # Documented without conditions, and an alarm that does not meet one tells nobody, silently. Source: AWS
        # Knowledge Center, "How do I configure a CloudWatch alarm to use an encrypted Amazon SNS topic".
        statements.append(
            {
                "Sid": "AlarmsPublish",
                "Effect": "Allow",
                "Principal": {"Service": "cloudwatch.amazonaws.com"},
                "Action": ["kms:Decrypt", "kms:GenerateDataKey*"],
                "Resource": "*",
            }
        )
    if rules_region is not None:
        statements.append(
            {
                "Sid": "RulesSend",
                "Effect": "Allow",
                "Principal": {"Service": "events.amazonaws.com"},
                "Action": ["kms:Decrypt", "kms:GenerateDataKey*"],
                "Resource": "*",
                "Condition": {"ArnLike": {"aws:SourceArn": f"arn:aws:events:{rules_region}:{account}:rule/*"}},
            }
        )
    return _document(statements)


def tls_only(bucket: str) -> str:
    """A bucket's own policy: nobody comes in without TLS."""
    return _document(
        [
            {
                "Sid": "TlsOnly",
                "Effect": "Deny",
                "Principal": "*",
                "Action": "s3:*",
                "Resource": [f"arn:aws:s3:::{bucket}", f"arn:aws:s3:::{bucket}/*"],
                "Condition": {"Bool": {"aws:SecureTransport": "false"}},
            }
        ]
    )


def perimeter(prefix: str, *, account: str, own_resources: bool = False, objects: tuple[str, ...] = ()) -> str:
    """An endpoint's own policy: only principals of this account come through, with `own_resources` only to what this
    account has. `objects` anybody may read, whose address is public or signed.

    It says what the endpoint is for and not who may do what, which the principals' own policies do: hence `*`.
    """
    bound = {"aws:PrincipalAccount": account} | ({"aws:ResourceAccount": account} if own_resources else {})
    statements: list[dict[str, Any]] = [
        {
            "Sid": "ThisAccountAlone",
            "Effect": "Allow",
            "Principal": "*",
            "Action": f"{prefix}:*",
            "Resource": "*",
            "Condition": {"StringEquals": bound},
        }
    ]
    if objects:
        statements.append(
            {
                "Sid": "PublicOrSigned",
                "Effect": "Allow",
                "Principal": "*",
                "Action": "s3:GetObject",
                "Resource": list(objects),
            }
        )
    return _document(statements)


def _document(statements: list[dict[str, Any]]) -> str:
    return json.dumps({"Version": VERSION, "Statement": statements}, separators=(",", ":"))


class Grantee(Protocol):
    """Whoever can be granted something: each grant becomes one policy of its own, called `name`."""

    def allow(self, name: str, *statements: Statement) -> None:
        """Add the policy `name`; the same one again changes nothing, and a different one is a ValueError."""
        ...
