"""What whoever is on call may do: the verbs of `relight`, and the `aws` commands of the runbook. Pure.

The verbs call the same core as the functions, so what they need is what the functions' roles have, in both regions.
What only a person does is written here. Two things are left out on purpose: to deploy, and to remove versions of a
vault's objects, which destroys them, and which `relight points undelete ID` takes too.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any

from relight.config import CapacityKind, Role
from relight.recovery.run import STATES
from relight.vault.probe import PREFIX as PROBES
from relight_constructs.access import POINTS
from relight_constructs.props import Place
from relight_stacks.refs import signing_of, vault_of

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from relight_constructs.policies import Statement
    from relight_stacks.environment import Environment

Condition = dict[str, dict[str, Any]]
Allowed = tuple[set[str], tuple[str, ...], Condition]

# Policies of a function's role that are for Lambda, which joins networks, logs, traces and gives up under it; and one
# to hand a memory that is too large for a function to a task, as no verb does.
OF_FUNCTIONS_ALONE = ("dead-letters", "join-network", "log", "start-work", "trace")
# By this key of a condition a function decrypts one secret alone; a person does so through the service (`_by_hand`).
_ONE_VALUE = "kms:EncryptionContext:SecretARN"
_FUNCTIONS = "lambda.amazonaws.com"
_REFERENCE = re.compile(r"\$\{(\w+)\.([\w-]+)\.\w+\}")


@dataclass(slots=True)
class _Person:
    """Somebody to grant to."""

    found: list[Statement] = field(default_factory=list)

    def allow(self, name: str, *statements: Statement) -> None:  # noqa: ARG002 - a person's policies are packed anew
        self.found += statements


def operating(stacks: Mapping[str, Mapping[str, Any]], environment: Environment) -> Iterator[Allowed]:
    """Actions, what they are on, and on what condition."""
    for role in Role:
        if (stack := stacks.get(environment.names.stack(role))) is not None:
            yield from _of_functions(stack, environment, role)
    yield from _of_vaults(environment)
    for role in Role:
        if role is Role.PRIMARY or environment.shape.standby:
            yield from _by_hand(environment, environment.names.region(role))
    yield from _in_the_standby(environment)


def _of_functions(stack: Mapping[str, Any], environment: Environment, role: Role) -> Iterator[Allowed]:
    """What the functions of a region may do; of those that recover the standby, the same in the primary, which a
    person may recover in as well."""
    resources = stack["resource"]
    roles = resources["aws_iam_role"]
    place = Place(account=environment.account, region=environment.names.region(role), prefix=environment.names.prefix)
    recovering = {place.role_name(verb) for verb in STATES}
    for policy in resources["aws_iam_role_policy"].values():
        if policy["name"] in OF_FUNCTIONS_ALONE:
            continue
        holder = roles[policy["role"].split(".")[1]]
        if _FUNCTIONS not in holder["assume_role_policy"]:
            continue
        for statement in json.loads(policy["policy"])["Statement"]:
            if statement["Effect"] != "Allow" or _ONE_VALUE in json.dumps(statement):
                continue
            allowed = _resolved(statement, resources, environment, role)
            yield allowed
            if holder["name"] in recovering:
                yield _exchanged(allowed, environment)


def _resolved(
    statement: Mapping[str, Any], resources: Mapping[str, Any], environment: Environment, role: Role
) -> Allowed:
    """A statement whose references are ARNs by name, as a policy outside the stack has to have them."""
    account, region = environment.account, environment.names.region(role)
    condition: Condition = {operator: dict(keys) for operator, keys in statement.get("Condition", {}).items()}

    def arn(match: re.Match[str]) -> str:
        kind, address = match[1], match[2]
        body = resources[kind][address]
        if kind == "aws_kms_key":  # an id that nobody can compute; its alias says which
            alias = next(
                item["name"] for item in resources["aws_kms_alias"].values() if f".{address}." in item["target_key_id"]
            )
            condition.setdefault("ForAnyValue:StringEquals", {})["kms:ResourceAliases"] = alias
            return f"arn:aws:kms:{region}:{account}:key/*"
        if kind == "aws_secretsmanager_secret":
            return f"arn:aws:secretsmanager:{region}:{account}:secret:{body['name']}-??????"
        if kind == "aws_iam_role":
            return f"arn:aws:iam::{account}:role/{body['name']}"
        if kind == "aws_appautoscaling_target":
            return f"arn:aws:application-autoscaling:{region}:{account}:scalable-target/*"
        if kind == "aws_sns_topic":
            return f"arn:aws:sns:{region}:{account}:{body['name']}"
        raise ValueError(f"nobody knows the ARN of {kind} {address}; write it here")

    on = tuple(sorted(_REFERENCE.sub(arn, item) for item in statement["Resource"]))
    return set(statement["Action"]), on, condition


def _exchanged(allowed: Allowed, environment: Environment) -> Allowed:
    """The same with the regions exchanged, but for the lease, which both have in one place."""
    actions, on, condition = allowed
    names = environment.names
    if any(names.lease_bucket in item for item in on):
        return allowed
    regions = {names.primary_region: names.standby_region, names.standby_region: names.primary_region}
    exchange = partial(re.compile("|".join(map(re.escape, regions))).sub, lambda match: regions[match[0]])
    return actions, tuple(sorted(map(exchange, on))), json.loads(exchange(json.dumps(condition)))


def _of_vaults(environment: Environment) -> Iterator[Allowed]:
    """What the verbs do with both vaults, whichever region a function of theirs is in: `points`, `restore`, `rehearse`,
    `recover` and `approve`."""
    person = _Person()
    for role in Role:
        signing = signing_of(environment, role)
        signing.grant_sign(person)
        signing.grant_check(person)
        for at in Role if environment.vaults.other else (role,):
            vault = vault_of(environment, role, at=at)
            for grant in (
                vault.grant_restore,
                vault.grant_bring_forward,
                vault.grant_verify,
                vault.grant_copy_from,
                vault.grant_copy_to,
                vault.grant_rehearse,
                vault.grant_rehearsed,
                vault.grant_record,
                vault.grant_review,
            ):
                grant(person)
    for statement in person.found:
        yield (
            set(statement.actions),
            tuple(sorted(statement.resources)),
            {operator: dict(keys) for operator, keys in statement.condition.items()},
        )
    for role in {*Role} - {*environment.vaults.other}:
        bucket = f"arn:aws:s3:::{environment.names.vault_bucket(environment.names.region(role))}"
        yield {"s3:ListBucketVersions"}, (bucket,), {"StringLike": {"s3:prefix": f"{POINTS}*"}}
        yield {"s3:PutObjectLegalHold"}, (f"{bucket}/{POINTS}*",), {}
        yield {"s3:ListBucket"}, (bucket,), {"StringLike": {"s3:prefix": f"{PROBES}*"}}
        probing = {"s3:AbortMultipartUpload", "s3:DeleteObject", "s3:GetObject", "s3:PutObject"}
        yield probing, (f"{bucket}/{PROBES}*",), {}


def _by_hand(environment: Environment, region: str) -> Iterator[Allowed]:
    """What the runbook has a person do in a region."""
    account, names = environment.account, environment.names
    logs = tuple(
        f"arn:aws:logs:{region}:{account}:log-group:/{of}/{names.prefix}-*" for of in ("aws/lambda", "relight")
    )
    yield {"logs:FilterLogEvents"}, logs, {}
    yield {"cloudwatch:DescribeAlarms"}, (f"arn:aws:cloudwatch:{region}:{account}:alarm:{names.prefix}-*",), {}
    everywhere: Condition = {"StringEquals": {"aws:RequestedRegion": region}}
    yield {"cloudwatch:GetMetricData", "cloudwatch:ListMetrics", "ec2:DescribeSecurityGroups"}, ("*",), everywhere
    yield {"rds:DescribeDBInstanceAutomatedBackups"}, ("*",), everywhere
    # What a person puts values into, and reads to add to.
    secrets = [names.connections_secret]
    secrets += [names.provider_keys_secret] if environment.composes_connections and environment.providers else []
    secrets += [] if environment.composes_connections else [names.vector_password_secret, names.queue_password_secret]
    secrets += [names.pagerduty_secret] if environment.incidents.pagerduty else []
    secrets += [names.vault_keys_secret] if environment.vaults.other else []
    on = tuple(f"arn:aws:secretsmanager:{region}:{account}:secret:{name}-??????" for name in secrets)
    yield {"secretsmanager:GetSecretValue", "secretsmanager:PutSecretValue"}, on, {}
    actions = {"sqs:DeleteMessage", "sqs:GetQueueAttributes", "sqs:GetQueueUrl", "sqs:ReceiveMessage"}
    yield actions, (f"arn:aws:sqs:{region}:{account}:{names.prefix}-*dead-letters",), {}
    keys = [names.operations_key_alias]
    if environment.rehearsed and region == names.standby_region:
        keys.append(names.rehearsal_key_alias)
    yield (
        {"kms:Decrypt", "kms:GenerateDataKey"},
        (f"arn:aws:kms:{region}:{account}:key/*",),
        {
            "ForAnyValue:StringEquals": {"kms:ResourceAliases": keys},
            "StringEquals": {
                "kms:ViaService": [f"{name}.{region}.amazonaws.com" for name in ("secretsmanager", "sqs")]
            },
        },
    )
    ecs = f"arn:aws:ecs:{region}:{account}"
    clusters = [names.cluster] + ([names.rehearsal] if keys[1:] else [])
    on = tuple(sorted(f"{ecs}:{kind}" for name in clusters for kind in (f"cluster/{name}", f"service/{name}/*")))
    yield {"ecs:DescribeServices", "ecs:UpdateService"}, on, {}
    if environment.capacity.kind is CapacityKind.AUTO_SCALING:
        group = f"arn:aws:autoscaling:{region}:{account}:autoScalingGroup:*:autoScalingGroupName/"
        yield {"autoscaling:SetDesiredCapacity"}, (f"{group}{environment.capacity.group}",), {}
        yield {"autoscaling:DescribeScalingActivities"}, ("*",), everywhere


def _in_the_standby(environment: Environment) -> Iterator[Allowed]:
    """What is in the standby alone: its state machines, and the function that tries LLM providers."""
    if not environment.shape.standby:
        return
    account, names = environment.account, environment.names
    region = names.standby_region
    machines = f"arn:aws:states:{region}:{account}:stateMachine:{names.prefix}-*"
    executions = f"arn:aws:states:{region}:{account}:execution:{names.prefix}-*:*"
    yield {"states:ListExecutions"}, (machines,), {}
    yield {"states:DescribeExecution", "states:GetExecutionHistory"}, (executions,), {}
    if environment.rehearsed:
        yield {"states:StartExecution"}, (names.rehearsal_machine_arn,), {}
    if environment.recovery.approval:
        # These take a token, and no resource.
        answers = {"states:SendTaskFailure", "states:SendTaskSuccess"}
        yield answers, ("*",), {"StringEquals": {"aws:RequestedRegion": region}}
    if environment.providers:
        function = f"arn:aws:lambda:{region}:{account}:function:{names.function('providers')}"
        yield {"lambda:InvokeFunction"}, (function,), {}
