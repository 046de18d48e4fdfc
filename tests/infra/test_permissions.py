"""What the drill's emulator does not enforce: the roles of state machines, of schedules and of containers that start,
and who may use which key. Each holds what it needs, derived from what uses it, and no more.

That these would notice is seen by taking each permission away, and by adding one.
"""

from __future__ import annotations

import json
from collections import Counter
from copy import deepcopy
from typing import TYPE_CHECKING, Any

import pytest
from stack_permissions import (
    INLINE_LIMIT,
    Deployment,
    deployment_of,
    execution_problems,
    key_problems,
    machine_problems,
    role_problems,
    schedule_problems,
    states_of,
)
from stack_references import path_of
from stack_rules import listed
from synthesis import ENVIRONMENTS

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from synthesis import Synthesis

CHECKS: dict[str, Callable[[Deployment], list[str]]] = {
    "state machines": machine_problems,
    "schedules and rules": schedule_problems,
    "keys": key_problems,
    "containers that start": execution_problems,
    "roles": role_problems,
}
Stacks = dict[str, dict[str, Any]]


@pytest.mark.parametrize("check", CHECKS)
@pytest.mark.parametrize("environment", ENVIRONMENTS)
def test_each_holds_what_it_needs_and_no_more(syntheses: Mapping[str, Synthesis], environment: str, check: str) -> None:
    """fails when something lacks a permission that its definition, target, container or key asks for, or has one that
    nothing asks for."""
    assert CHECKS[check](deployment_of(environment, syntheses[environment].stacks)) == []


@pytest.mark.parametrize("check", CHECKS)
def test_whatever_an_operator_chooses_each_holds_what_it_needs(variants: Mapping[str, Synthesis], check: str) -> None:
    """The same of environments that no example is like."""
    for name, made in variants.items():
        assert CHECKS[check](deployment_of(name, made.stacks)) == [], name


def test_there_is_something_to_hold(syntheses: Mapping[str, Synthesis]) -> None:
    """fails when nothing is derived, which would make everything else here pass."""
    deployment = deployment_of("internal", syntheses["internal"].stacks)
    machines = [(stack, body) for stack in deployment.stacks.values() for _, body in stack.of("aws_sfn_state_machine")]
    assert {body["name"] for _, body in machines} >= {"relight-internal-recovery"}
    for stack, body in machines:
        actions = {action for action, _ in deployment.machine_needs(stack, body)}
        assert {"lambda:InvokeFunction", "logs:CreateLogDelivery", "xray:PutTraceSegments"} <= actions
    assert "ecs:RunTask" in {item[0] for stack, body in machines for item in deployment.machine_needs(stack, body)}
    with_keys = [role for stack, role in deployment.roles if deployment.needed_keys(stack, role)]
    assert len(with_keys) > len(deployment.roles) / 2
    assert deployment.signing == {"alias/relight-internal-signing"}


def test_states_are_found_at_any_depth() -> None:
    """A state in a branch of a branch, or of a map, needs what it needs."""
    inner = {"StartAt": "b", "States": {"b": {"Type": "Task"}}}
    branch = {"StartAt": "m", "States": {"m": {"Type": "Map", "ItemProcessor": inner}}}
    whole = {"StartAt": "p", "States": {"p": {"Type": "Parallel", "Branches": [branch]}, "e": {"Type": "Fail"}}}
    assert Counter(state["Type"] for state in states_of(whole)) == {"Parallel": 1, "Map": 1, "Task": 1, "Fail": 1}


# Sabotage by rote: take away each permission of each policy, one at a time, and see that it is missed.


def roles_of(stacks: Stacks, *uses: tuple[str, str]) -> set[tuple[str, str]]:
    """The roles, as part and address, that stand in an argument of a type."""
    found = set()
    for part, stack in stacks.items():
        for type_, argument in uses:
            for body in stack["resource"].get(type_, {}).values():
                value: Any = body
                for step in argument.split("."):
                    value = value[step]
                found.add((part, value.removeprefix("${").removesuffix(".arn}")))
    return found


def policies_of(stacks: Stacks, roles: set[tuple[str, str]]) -> Iterator[dict[str, Any]]:
    """The policies of roles."""
    for part, stack in stacks.items():
        for body in stack["resource"].get("aws_iam_role_policy", {}).values():
            if (part, body["role"].removeprefix("${").removesuffix(".name}")) in roles:
                yield body


def each_taken_away(body: dict[str, Any], *, prefix: str = "") -> Iterator[str]:
    """Take each action on each resource from a policy, one at a time, and put it back."""
    whole = body["policy"]
    for number, statement in enumerate(json.loads(whole)["Statement"]):
        if statement["Effect"] != "Allow":
            continue
        for action in listed(statement["Action"]):
            if not action.startswith(prefix):
                continue
            less = json.loads(whole)
            less["Statement"][number]["Action"] = [one for one in listed(statement["Action"]) if one != action]
            body["policy"] = json.dumps(less)
            yield action
        if len(listed(statement["Resource"])) > 1 and not prefix:
            for resource in listed(statement["Resource"]):
                less = json.loads(whole)
                less["Statement"][number]["Resource"] = [one for one in statement["Resource"] if one != resource]
                body["policy"] = json.dumps(less)
                yield resource
    body["policy"] = whole


@pytest.mark.parametrize("environment", ["internal", "batch"])
@pytest.mark.parametrize(
    ("check", "uses"),
    [
        (machine_problems, [("aws_sfn_state_machine", "role_arn")]),
        (schedule_problems, [("aws_scheduler_schedule", "target.role_arn")]),
        (execution_problems, [("aws_ecs_task_definition", "execution_role_arn")]),
    ],
)
def test_each_permission_is_missed(
    syntheses: Mapping[str, Synthesis],
    environment: str,
    check: Callable[[Deployment], list[str]],
    uses: list[tuple[str, str]],
) -> None:
    """Without any one of its permissions, whatever uses the role is said to lack that very one."""
    stacks = deepcopy(syntheses[environment].stacks)
    tried = 0
    for body in policies_of(stacks, roles_of(stacks, *uses)):
        for taken in each_taken_away(body):
            if taken.startswith(("kms:", "arn:aws:kms:")):
                continue  # below
            problems = check(deployment_of(environment, stacks))
            assert problems, f"{body['name']} without {taken} goes unseen"
            assert all(" lacks " in problem for problem in problems), problems
            assert any(taken in problem for problem in problems), problems
            tried += 1
    assert tried


@pytest.mark.parametrize("environment", ["internal", "batch"])
def test_each_use_of_a_key_is_missed(syntheses: Mapping[str, Synthesis], environment: str) -> None:
    """Without any one of its uses of a key a role is said to lack it, unless another of its policies has the same."""
    stacks = deepcopy(syntheses[environment].stacks)
    whole = deployment_of(environment, stacks)
    everyone = {(stack.part, role) for stack, role in whole.roles}
    noticed = doubled = 0
    for body in policies_of(stacks, everyone):
        if '"kms:' not in body["policy"]:
            continue
        for taken in each_taken_away(body, prefix="kms:"):
            problems = key_problems(deployment_of(environment, stacks))
            assert all(f" lacks {taken.removeprefix('kms:')} on " in problem for problem in problems), problems
            if problems:
                noticed += 1
            else:
                doubled += 1
    assert noticed > doubled


# Sabotage by hand: what no permission that is taken away shows.


def find(stacks: Stacks, part: str, type_: str, path: str) -> dict[str, Any]:
    """The resource of a type at a path of its stack."""
    (one,) = [item for item in stacks[part]["resource"][type_].values() if path_of(item, "") == path]
    made: dict[str, Any] = one
    return made


def more(stacks: Stacks, part: str, path: str, action: str, resource: str) -> None:
    """Allow something more in a policy."""
    body = find(stacks, part, "aws_iam_role_policy", path)
    document = json.loads(body["policy"])
    document["Statement"].append({"Effect": "Allow", "Action": [action], "Resource": [resource]})
    body["policy"] = json.dumps(document)


def change(stacks: Stacks, part: str, type_: str, path: str, argument: str, old: str, new: str) -> None:
    """Replace some text of an argument."""
    body = find(stacks, part, type_, path)
    assert old in body[argument]
    body[argument] = body[argument].replace(old, new)


FUNCTION = "arn:aws:lambda:us-west-2:000000000000:function:relight-demo-"
MACHINE = "recovery/machine/role"
SCHEDULE = "prune-schedule/role"


def a_machine_that_calls_another(stacks: Stacks) -> None:
    more(stacks, "standby", f"{MACHINE}/trace", "lambda:InvokeFunction", f"{FUNCTION}prune")


def a_state_that_was_renamed(stacks: Stacks) -> None:
    path = "recovery/machine/machine"
    change(stacks, "standby", "aws_sfn_state_machine", path, "definition", "relight-demo-fence", "relight-demo-fences")


def a_machine_that_is_not_traced(stacks: Stacks) -> None:
    del find(stacks, "standby", "aws_sfn_state_machine", "recovery/machine/machine")["tracing_configuration"]


def a_machine_for_anybody(stacks: Stacks) -> None:
    path = "recovery/machine/role/role"
    change(stacks, "standby", "aws_iam_role", path, "assume_role_policy", "relight-demo-recovery", "another")


def a_machine_of_any_account(stacks: Stacks) -> None:
    path = "recovery/machine/role/role"
    change(stacks, "standby", "aws_iam_role", path, "assume_role_policy", "aws:SourceAccount", "aws:SourceOrgID")


def a_role_that_is_handed_to_anybody(stacks: Stacks) -> None:
    path = f"{MACHINE}/run-work"
    change(stacks, "standby", "aws_iam_role_policy", path, "policy", "iam:PassedToService", "aws:SourceVpc")


def tasks_in_any_cluster(stacks: Stacks) -> None:
    path = f"{MACHINE}/run-work"
    change(stacks, "standby", "aws_iam_role_policy", path, "policy", "ecs:cluster", "ecs:service")


def a_schedule_that_calls_another(stacks: Stacks) -> None:
    more(stacks, "standby", f"{SCHEDULE}/dead-letters", "lambda:InvokeFunction", f"{FUNCTION}snapshot")


def a_schedule_of_another_function(stacks: Stacks) -> None:
    find(stacks, "standby", "aws_scheduler_schedule", "prune-schedule/schedule")["target"]["arn"] = f"{FUNCTION}fence"


def a_schedule_that_loses_calls(stacks: Stacks) -> None:
    del find(stacks, "standby", "aws_scheduler_schedule", "prune-schedule/schedule")["target"]["dead_letter_config"]


def a_rule_that_may_not_call(stacks: Stacks) -> None:
    del stacks["standby"]["resource"]["aws_lambda_permission"]


def anybody_calls(stacks: Stacks) -> None:
    for body in stacks["standby"]["resource"]["aws_lambda_permission"].values():
        del body["source_arn"]


def another_service_calls(stacks: Stacks) -> None:
    for body in stacks["standby"]["resource"]["aws_lambda_permission"].values():
        body["principal"] = "s3.amazonaws.com"


def a_rule_that_may_leave_no_letter(stacks: Stacks) -> None:
    path = "dead-letters/policy"
    change(stacks, "standby", "aws_sqs_queue_policy", path, "policy", "rule/relight-demo-", "rule/another-")


def a_key_that_is_not_needed(stacks: Stacks) -> None:
    key = find(stacks, "standby", "aws_kms_key", "key/key")["//"]["metadata"]["uniqueId"]
    more(stacks, "standby", "prune/role/trace", "kms:Encrypt", f"${{aws_kms_key.{key}.arn}}")


def a_key_through_no_service(stacks: Stacks) -> None:
    path = "prune/role/prune-standby-vault"
    change(stacks, "standby", "aws_iam_role_policy", path, "policy", "kms:ViaService", "kms:CallerAccount")


def a_key_of_another_alias(stacks: Stacks) -> None:
    path = "prune/role/prune-standby-vault"
    change(stacks, "standby", "aws_iam_role_policy", path, "policy", "alias/relight-demo-vault", "alias/relight-demo-v")


def a_bucket_with_another_key(stacks: Stacks) -> None:
    key = find(stacks, "vault", "aws_kms_key", "signing/key")["//"]["metadata"]["uniqueId"]
    path = "lease/bucket/encryption"
    body = find(stacks, "vault", "aws_s3_bucket_server_side_encryption_configuration", path)
    default = body["rule"][0]["apply_server_side_encryption_by_default"]
    default["kms_master_key_id"] = f"${{aws_kms_key.{key}.arn}}"


def a_key_that_logs_may_not_use(stacks: Stacks) -> None:
    change(stacks, "standby", "aws_kms_key", "key/key", "policy", "logs.us-west-2.amazonaws.com", "logs.amazonaws.com")


def a_key_that_alarms_may_not_use(stacks: Stacks) -> None:
    change(stacks, "standby", "aws_kms_key", "key/key", "policy", "cloudwatch.amazonaws.com", "sns.amazonaws.com")


def a_key_that_rules_need_not_use(stacks: Stacks) -> None:
    del stacks["standby"]["resource"]["aws_cloudwatch_event_target"]


def a_volume_key_for_anybody(stacks: Stacks) -> None:
    (path,) = [
        path_of(item, "")
        for item in stacks["standby"]["resource"]["aws_iam_role_policy"].values()
        if "kms:CreateGrant" in item["policy"] and path_of(item, "").startswith("vector/")
    ]
    change(stacks, "standby", "aws_iam_role_policy", path, "policy", "kms:GrantIsForAWSResource", "aws:SecureTransport")


def another_secret(stacks: Stacks) -> None:
    more(
        stacks,
        "standby",
        "vector/execution/log",
        "secretsmanager:GetSecretValue",
        "arn:aws:secretsmanager:a:b:secret:c",
    )


def another_image(stacks: Stacks) -> None:
    path = "agent/task"
    repository = ".dkr.ecr.us-west-2.amazonaws.com/"
    body = find(stacks, "standby", "aws_ecs_task_definition", path)
    body["container_definitions"] = body["container_definitions"].replace(repository, f"{repository}another-")


def a_role_that_nobody_uses(stacks: Stacks) -> None:
    body = deepcopy(find(stacks, "standby", "aws_iam_role", "prune/role/role"))
    stacks["standby"]["resource"]["aws_iam_role"]["another"] = body


def a_role_of_another_service(stacks: Stacks) -> None:
    path = "prune/role/role"
    change(stacks, "standby", "aws_iam_role", path, "assume_role_policy", "lambda.amazonaws.com", "ec2.aws.internal")


def a_role_with_a_long_name(stacks: Stacks) -> None:
    find(stacks, "standby", "aws_iam_role", "prune/role/role")["name"] = "r" * 65


def a_role_with_long_policies(stacks: Stacks) -> None:
    more(stacks, "standby", "prune/role/trace", "xray:PutTraceSegments", "x" * INLINE_LIMIT)


BY_HAND: list[tuple[Callable[[Stacks], None], str, str]] = [
    (a_machine_that_calls_another, "state machines", f"has no need of lambda:InvokeFunction on {FUNCTION}prune"),
    (a_state_that_was_renamed, "state machines", f"lacks lambda:InvokeFunction on {FUNCTION}fences"),
    (a_machine_that_is_not_traced, "state machines", "has no need of xray:GetSamplingRules on *"),
    (a_machine_for_anybody, "state machines", "is not for arn:aws:states:us-west-2:"),
    (a_machine_of_any_account, "state machines", "may be used on behalf of any account"),
    (a_role_that_is_handed_to_anybody, "state machines", "hands roles to any service"),
    (tasks_in_any_cluster, "state machines", "starts tasks in any cluster"),
    (a_schedule_that_calls_another, "schedules and rules", f"no need of lambda:InvokeFunction on {FUNCTION}snapshot"),
    (a_schedule_of_another_function, "schedules and rules", f"lacks lambda:InvokeFunction on {FUNCTION}fence"),
    (a_schedule_that_loses_calls, "schedules and rules", "loses what it cannot deliver"),
    (a_rule_that_may_not_call, "schedules and rules", "a function's own policy lacks"),
    (anybody_calls, "schedules and rules", "a function's own policy has no need of relight-demo-hydrate on anybody"),
    (another_service_calls, "schedules and rules", "lets in s3.amazonaws.com, expected events.amazonaws.com"),
    (a_rule_that_may_leave_no_letter, "schedules and rules", "may not leave a letter"),
    (a_key_that_is_not_needed, "keys", "has no need of Encrypt on alias/relight-demo-operations"),
    (a_key_through_no_service, "keys", "prune/role/role may kms:Decrypt by itself"),
    (a_key_of_another_alias, "keys", "alias/relight-demo-v in us-west-2, which no stack makes"),
    (a_bucket_with_another_key, "keys", "lacks Decrypt on alias/relight-demo-signing"),
    (a_key_that_logs_may_not_use, "keys", "lacks kms:Decrypt on logs.us-west-2.amazonaws.com"),
    (a_key_that_alarms_may_not_use, "keys", "lacks kms:Decrypt on cloudwatch.amazonaws.com"),
    (a_key_that_rules_need_not_use, "keys", "has no need of kms:Decrypt on events.amazonaws.com"),
    (a_volume_key_for_anybody, "keys", "may hand a key on to anybody"),
    (another_secret, "containers that start", "has no need of secretsmanager:GetSecretValue"),
    (another_image, "containers that start", "lacks ecr:BatchGetImage"),
    (a_role_that_nobody_uses, "roles", "used by []"),
    (a_role_of_another_service, "roles", "is trusted by ['ec2.aws.internal'], and used by ['lambda.amazonaws.com']"),
    (a_role_with_a_long_name, "roles", "has a name of 65 characters"),
    (a_role_with_long_policies, "roles", "characters, IAM takes 10240"),
]


@pytest.mark.parametrize(("break_it", "check", "said"), BY_HAND, ids=lambda item: getattr(item, "__name__", ""))
def test_a_wrong_permission_is_noticed(
    synthesis: Synthesis, break_it: Callable[[Stacks], None], check: str, said: str
) -> None:
    """fails when a role or a key could be wrong unseen."""
    stacks = deepcopy(synthesis.stacks)
    break_it(stacks)
    problems = CHECKS[check](deployment_of("demo", stacks))
    assert any(said in problem for problem in problems), problems
