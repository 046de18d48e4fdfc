"""Whoever is on call may do what each verb and each command of the runbook needs, and deploys and destroys nothing."""

from __future__ import annotations

import ast
import fnmatch
import json
import re
from typing import TYPE_CHECKING, Any

import botocore.session
import pytest
from botocore import xform_name
from infra.test_deploy_policy import allows, environment_of, statements
from infra.variants import variations
from synthesis import ENVIRONMENTS, ROOT

from relight.config import Role
from relight_stacks.deploy_policy import LIMIT, MOST, May, policies, read_stacks, size

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from synthesis import Synthesis

    from relight_stacks.environment import Environment

Documents = dict[str, dict[str, Any]]

# Lambda does these under the role of a function, and no verb does.
LAMBDAS_OWN = {
    *("ec2:AssignPrivateIpAddresses", "ec2:CreateNetworkInterface", "ec2:DeleteNetworkInterface"),
    *("ec2:DescribeNetworkInterfaces", "ec2:UnassignPrivateIpAddresses"),
    *("logs:CreateLogStream", "logs:PutLogEvents", "sqs:SendMessage"),
    *("xray:PutTelemetryRecords", "xray:PutTraceSegments"),
}
# What a function asks for and a person does not.
FUNCTIONS_OWN = {
    "ecs:ListTasks": "to see whether a task has the large memory already",
    "ecs:RunTask": "to hand a memory that is too large for it to a task",
    "ec2:DescribeSubnets": "Lambda, to join the network",
    "iam:PassRole": "for that task",
}
SERVICES = (
    *("application-autoscaling", "autoscaling", "cloudwatch", "ec2", "ecs", "eks", "kms", "lambda", "logs", "rds"),
    *("s3", "secretsmanager", "sns", "sqs", "stepfunctions"),
)
# What IAM calls a service or an operation, where botocore calls it otherwise. Source: the Service Authorization
# Reference.
PREFIXES = {"stepfunctions": "states"}
ACTIONS = {
    "lambda:Invoke": "lambda:InvokeFunction",
    "s3:CompleteMultipartUpload": "s3:PutObject",
    "s3:CreateMultipartUpload": "s3:PutObject",
    "s3:DeleteObjects": "s3:DeleteObject",
    "s3:HeadObject": "s3:GetObject",
    "s3:ListObjectVersions": "s3:ListBucketVersions",
    "s3:ListObjectsV2": "s3:ListBucket",
    "s3:UploadPart": "s3:PutObject",
}
# Methods of Relight's own that are called as an operation of AWS is, and calls of what no verb runs.
NOT_OPERATIONS = {
    *("execute_command", "list_keys", "start_task", "subscribe", "unsubscribe"),
}
NOT_A_PERSONS = {
    "ecs:DescribeTasks": "the state machine of rehearsals watches its store",
    "ecs:ListTasks": FUNCTIONS_OWN["ecs:ListTasks"],
    "ecs:RunTask": FUNCTIONS_OWN["ecs:RunTask"],
}
# What the commands of the AWS CLI that are no operation call.
COMMANDS = {"logs tail": "logs:FilterLogEvents"}


@pytest.fixture(scope="session")
def operating(syntheses: Mapping[str, Synthesis], variants: Mapping[str, Synthesis]) -> dict[str, Documents]:
    """The policies of whoever operates each environment, and each of what an operator may choose."""
    every = {name: (environment_of(name), syntheses[name]) for name in ENVIRONMENTS}
    every |= {item.name: (item, variants[item.name]) for item in variations()}
    return {
        name: policies(read_stacks(synthesis.folder, name), environment, May.OPERATE)
        for name, (environment, synthesis) in every.items()
    }


@pytest.mark.parametrize("name", ENVIRONMENTS)
def test_a_person_may_do_what_the_functions_may(
    name: str, operating: Mapping[str, Documents], syntheses: Mapping[str, Synthesis]
) -> None:
    """fails when a function may do what the verbs that call its core may not."""
    environment, compared = environment_of(name), 0
    for part in ("primary", "standby"):
        if part not in ENVIRONMENTS[name]:
            continue
        for role, statement in _of_functions(syntheses[name], part):
            for action in {*statement["Action"]} - LAMBDAS_OWN - {*FUNCTIONS_OWN}:
                for resource in statement["Resource"]:
                    assert _covers(operating[name], action, resource), f"{role}: {action} on {resource}"
                    compared += 1
    assert compared > (100 if environment.shape.standby else 20)


def _of_functions(synthesis: Synthesis, part: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """Each statement of a function's role, with the role's name."""
    resources = synthesis.stacks[part]["resource"]
    for policy in resources["aws_iam_role_policy"].values():
        role = resources["aws_iam_role"][policy["role"].split(".")[1]]
        if "lambda.amazonaws.com" in role["assume_role_policy"]:
            for statement in json.loads(policy["policy"])["Statement"]:
                yield role["name"], statement


def _covers(documents: Documents, action: str, resource: str) -> bool:
    """Whether the action is allowed there; on anything, where the resource has no name in the stack."""
    nameless = resource == "*" or resource.startswith("${")
    return any(
        action in item["Action"] and (nameless or any(fnmatch.fnmatchcase(resource, on) for on in item["Resource"]))
        for item in statements(documents)
    )


def test_whoever_recovers_may_do_so_in_either_region(operating: Mapping[str, Documents]) -> None:
    """`relight recover --role primary`, as when the state has to go back, promotes and scales there too."""
    documents, environment = operating["internal"], environment_of("internal")
    for role in Role:
        region = environment.names.region(role)
        for action, arn in (
            ("rds:PromoteReadReplica", f"arn:aws:rds:{region}:{environment.account}:db:relight-internal-state"),
            ("ecs:UpdateService", f"arn:aws:ecs:{region}:{environment.account}:service/relight-internal/agent"),
            ("s3:PutObject", f"arn:aws:s3:::{environment.names.vault_bucket(region)}/runs/x/1.json"),
            ("s3:PutObject", f"arn:aws:s3:::{environment.names.lease_bucket}/lease.json"),
            ("sns:Publish", environment.names.incidents_topic_arn(region)),
        ):
            assert allows(documents, action, arn), f"{action} on {arn}"


def test_every_call_of_the_code_is_allowed(operating: Mapping[str, Documents]) -> None:
    """fails when a verb calls an operation of AWS that nobody on call may."""
    called = set(_called())
    assert {"s3:PutObjectLegalHold", "states:SendTaskSuccess", "lambda:InvokeFunction", "kms:Sign"} <= called
    everybody = {
        action for documents in operating.values() for item in statements(documents) for action in item["Action"]
    }
    assert called - everybody == {*NOT_A_PERSONS} & called
    assert {*NOT_A_PERSONS} <= called


def _called() -> Iterator[str]:
    """The operations of AWS that the library and the verbs call, as IAM names them."""
    operations: dict[str, list[str]] = {}
    session = botocore.session.get_session()
    for service in SERVICES:
        for name in session.get_service_model(service).operation_names:
            operations.setdefault(xform_name(name), []).append(_action(service, name))
    for folder in ("relight", "relight_cli"):
        for path in (ROOT / "src" / folder).rglob("*.py"):
            for node in ast.walk(ast.parse(path.read_text())):
                if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Attribute):
                    continue
                name = node.func.attr
                # botocore's arguments are all given by name, and no name of Relight's begins with a capital letter.
                named = any((item.arg or "A")[:1].isupper() or item.arg in AWS_LOWER for item in node.keywords)
                if name in operations and named and not node.args and name not in NOT_OPERATIONS:
                    yield operations[name][0]


# Services whose arguments begin with a lower-case letter.
AWS_LOWER = {"cluster", "executionArn", "name", "stateMachineArn", "taskToken"}


def _action(service: str, operation: str) -> str:
    found = f"{PREFIXES.get(service, service)}:{operation}"
    return ACTIONS.get(found, found)


def test_every_command_of_the_runbook_is_allowed(operating: Mapping[str, Documents]) -> None:
    """fails when the runbook tells somebody to run a command of the AWS CLI that nobody on call may."""
    text = (ROOT / "docs" / "runbook.md").read_text().partition("## Look first")[2]
    found = {match[1] for match in re.finditer(r"\baws ([a-z-]+ [a-z-]+)", text)}
    assert {"logs tail", "rds promote-read-replica", "ecs update-service"} <= found
    everybody = {
        action for documents in operating.values() for item in statements(documents) for action in item["Action"]
    }
    session = botocore.session.get_session()
    for command in sorted(found):
        service, _, name = command.partition(" ")
        if command not in COMMANDS:
            model = session.get_service_model(service)
            (operation,) = (item for item in model.operation_names if xform_name(item, "-") == name)
        action = COMMANDS.get(command) or _action(service, operation)
        assert action in everybody, f"aws {command}"


def test_nobody_on_call_deploys_destroys_or_reaches_another_environment(operating: Mapping[str, Documents]) -> None:
    """Least: by name, and `*` only in the environment's regions or where AWS knows no resource."""
    for name, documents in operating.items():
        assert 0 < len(documents) <= MOST
        assert all(size(document) <= LIMIT for document in documents.values())
        text = json.dumps(documents)
        assert "${" not in text
        for action in ("s3:DeleteObjectVersion", "s3:BypassGovernanceRetention", "iam:", "Create", "kms:Schedule"):
            assert action not in text.replace("kms:CreateGrant", ""), f"{name}: {action}"
        for item in statements(documents):
            if item["Resource"] == ["*"]:
                assert "Condition" in item or {*item["Action"]} <= UNBOUND, item["Action"]
            elif not item["Resource"][0].startswith("arn:aws:kms:"):
                assert all(_own(arn, name) for arn in item["Resource"]), item["Resource"]
            else:
                assert item["Condition"]["ForAnyValue:StringEquals"]["kms:ResourceAliases"]


UNBOUND = {
    "application-autoscaling:DescribeScalableTargets",
    "autoscaling:DescribeAutoScalingGroups",
    *("ec2:DescribeAccountAttributes", "ec2:DescribeAvailabilityZones", "ec2:DescribeInternetGateways"),
    *("ec2:DescribeSecurityGroups", "ec2:DescribeSubnets", "ec2:DescribeVpcAttribute", "ec2:DescribeVpcs"),
    "rds:DescribeDBInstanceAutomatedBackups",
}


def _own(arn: str, name: str) -> bool:
    """Whether the ARN is of what the environment has: by name, or what has none."""
    named = f"relight-{name}" in arn or f"relight/{name}/" in arn
    nameless = ("scalable-target/*", ":auto-backup:*", ":og:default:*", "autoScalingGroupName/agents", "cluster/agents")
    return named or arn.endswith(nameless) or "our-points" in arn


def test_a_sandbox_has_no_machine_to_ask(operating: Mapping[str, Documents]) -> None:
    """Without a standby there is nothing to start, and nobody to approve."""
    actions = {action for item in statements(operating["sandbox"]) for action in item["Action"]}
    assert not {action for action in actions if action.startswith(("states:", "lambda:"))}
    assert "s3:PutObjectLegalHold" in actions


def test_who_may_approve_is_only_where_somebody_is_asked(operating: Mapping[str, Documents]) -> None:
    """Answers take a token and no resource, so they are allowed only where there is a question."""
    for name in ENVIRONMENTS:
        environment: Environment = environment_of(name)
        actions = {action for item in statements(operating[name]) for action in item["Action"]}
        assert ("states:SendTaskSuccess" in actions) == environment.recovery.approval


@pytest.mark.parametrize("name", ("customer-facing", "internal", "batch"))
def test_the_host_of_the_runbook_reaches_what_the_verbs_talk_to(name: str, syntheses: Mapping[str, Synthesis]) -> None:
    """fails when a group that the runbook names is not made, or is not admitted by database, memory and queue."""
    text = (ROOT / "docs" / "runbook.md").read_text().partition("## From where")[2].partition("## Look first")[0]
    named = {match[1] for match in re.finditer(r"relight-prod-(\w+)`", text)}
    assert named == {"agent", "endpoints"}
    for part in ("primary", "standby"):
        resources = syntheses[name].stacks[part]["resource"]
        groups = {
            f"${{aws_security_group.{address}.id}}": body["name"].removeprefix(f"relight-{name}-")
            for address, body in resources["aws_security_group"].items()
        }
        assert named <= {*groups.values()}
        admitted = {
            (groups[body["security_group_id"]], body["from_port"])
            for body in resources["aws_vpc_security_group_ingress_rule"].values()
            if groups.get(body.get("referenced_security_group_id", "")) == "agent"
        }
        assert {("state", 5432), ("inner", 4222), ("endpoints", 443)} <= admitted
        assert len({port for to, port in admitted if to == "inner"}) == 2, "the memory's and the queue's"
        out = [
            body
            for body in resources["aws_vpc_security_group_egress_rule"].values()
            if groups[body["security_group_id"]] == "agent" and body.get("cidr_ipv4") == "0.0.0.0/0"
        ]
        assert 443 in [body["from_port"] for body in out], "packages, Systems Manager"
        services = resources["aws_ecs_service"].values()
        (vector,) = (body for body in services if body["name"] == "vector")
        private = {f"${{aws_subnet.{address}.id}}" for address in resources["aws_subnet"] if "private" in address}
        assert {*vector["network_configuration"]["subnets"]} <= private
