"""Every argument of every synthesized resource is one that provider aws 6.25.0 has, in the shape that it has it.

It stands in for `terraform validate` where no provider can be run: what is compared is cdktf's output with the
provider's schema, as the bindings were generated from it.
"""

from __future__ import annotations

import json
from copy import deepcopy
from typing import TYPE_CHECKING, Any

import pytest
from aws_values import (
    EXACTLY_ONE,
    OF_THE_SOURCE,
    TOGETHER,
    VALUES,
    combination_problems,
    value_problems,
    values_at,
)
from provider_schema import VERSION, Many, Nested, Scalar, bindings_of, problems_of, provider_problems
from stack_references import bodies, reference_problems
from synthesis import ENVIRONMENTS

from relight_stacks.environment import LONGEST_NAME

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from synthesis import Synthesis

STACKS = [(environment, part) for environment, parts in ENVIRONMENTS.items() for part in parts]


def shape_problems(stack: Mapping[str, Any]) -> list[str]:
    """What is wrong with a stack's bodies, each by its address."""
    found = [
        f"{address}: {problem}"
        for address, kind, type_, body in bodies(stack)
        for problem in problems_of(type_, body, data=kind != "resource")
    ]
    for provider in stack["provider"]["aws"]:
        found += [f"provider aws: {problem}" for problem in provider_problems(provider)]
    return found


@pytest.mark.parametrize(("environment", "part"), STACKS)
def test_every_argument_is_one_of_the_provider(syntheses: Mapping[str, Synthesis], environment: str, part: str) -> None:
    """It exists, has its type, is given where it is required, is not computed only, and nested blocks are where and
    what the provider has; ephemeral resources are compared with the data sources of the same name."""
    assert shape_problems(syntheses[environment].stacks[part]) == []


@pytest.mark.parametrize(("environment", "part"), STACKS)
def test_every_reference_is_to_something_there(syntheses: Mapping[str, Synthesis], environment: str, part: str) -> None:
    """Resource, attribute and provider exist, in the same stack, in the one plain form, and in no circle."""
    assert reference_problems(syntheses[environment].stacks[part]) == []


def test_what_an_operator_may_choose_is_of_the_provider_too(variants: Mapping[str, Synthesis]) -> None:
    """The same of environments that no example is like: another cluster's agents, a network and vaults of the
    operator's own, switches for the names."""
    for name, made in variants.items():
        for part, stack in made.stacks.items():
            assert shape_problems(stack) == [], (name, part)
            assert reference_problems(stack) == [], (name, part)


def refused_values(stack: Mapping[str, Any]) -> list[str]:
    """What AWS or the provider would not take of a stack's values, each by its address."""
    return [
        f"{address}: {problem}"
        for address, kind, type_, body in bodies(stack)
        if kind == "resource"
        for problem in (*value_problems(type_, body), *combination_problems(type_, body))
    ]


def test_every_value_is_one_that_aws_takes(
    syntheses: Mapping[str, Synthesis], variants: Mapping[str, Synthesis]
) -> None:
    """Names are within their lengths and letters, also those of an environment with the longest name; numbers are
    within their bounds; what is to be one of a list is; and no two arguments exclude or lack each other."""
    for name, made in {**syntheses, **variants}.items():
        for part, stack in made.stacks.items():
            assert refused_values(stack) == [], (name, part)
    assert max(map(len, variants)) == LONGEST_NAME


def test_every_limit_is_of_something(syntheses: Mapping[str, Synthesis], variants: Mapping[str, Synthesis]) -> None:
    """fails when a limit is of an argument that no stack gives, or that there is not."""
    given = {
        (type_, argument)
        for made in (*syntheses.values(), *variants.values())
        for stack in made.stacks.values()
        for _, kind, type_, body in bodies(stack)
        if kind == "resource"
        for argument in VALUES.get(type_, {})
        if list(values_at(body, argument.split(".")))
    }
    assert {(type_, argument) for type_ in VALUES for argument in VALUES[type_]} == given


@pytest.mark.parametrize(
    ("type_", "body", "said"),
    [
        ("aws_lambda_function", {"runtime": "python4"}, "runtime is 'python4', and may be"),
        ("aws_lambda_function", {"timeout": 901}, "timeout is '901', and may be 900 at most"),
        ("aws_lambda_function", {"function_name": "a b"}, "has to match"),
        ("aws_iam_role", {"name": "r" * 65}, "may be 64 characters at most"),
        ("aws_lb", {"name": "internal-x"}, "has to match"),
        (
            "aws_lb_target_group",
            {"health_check": {"interval": 4}},
            "health_check.interval is '4', and may be 5 at least",
        ),
        ("aws_ecs_task_definition", {"requires_compatibilities": ["FARGATES"]}, "may be EC2, FARGATE"),
        ("aws_kms_key", {"deletion_window_in_days": 6}, "may be 7 at least"),
        ("aws_s3_bucket_versioning", {"versioning_configuration": {"status": "On"}}, "may be Enabled, Suspended"),
        ("aws_scheduler_schedule", {"schedule_expression": "every hour"}, "has to match"),
    ],
)
def test_a_value_that_aws_refuses_is_noticed(type_: str, body: dict[str, Any], said: str) -> None:
    """fails when a name that is too long, a number out of bounds or an unknown choice would go unseen."""
    (problem,) = value_problems(type_, body)
    assert said in problem


@pytest.mark.parametrize(
    ("type_", "body", "said"),
    [
        ("aws_iam_role", {}, "exactly one of name, name_prefix is to be given, got none"),
        ("aws_vpc", {"cidr_block": "10.0.0.0/16", "ipv4_ipam_pool_id": "p"}, "got cidr_block, ipv4_ipam_pool_id"),
        ("aws_secretsmanager_secret_version", {"secret_string_wo": "x"}, "secret_string_wo_version is missing"),
        ("aws_db_instance", {"replicate_source_db": "a", "engine": "postgres"}, "takes engine from its source"),
    ],
)
def test_arguments_that_exclude_each_other_are_noticed(type_: str, body: dict[str, Any], said: str) -> None:
    """fails when the provider would refuse a combination that goes unseen here."""
    (problem,) = combination_problems(type_, body)
    assert said in problem


def test_every_combination_is_of_something(syntheses: Mapping[str, Synthesis]) -> None:
    """fails when what is said of combinations is of a type, or an argument, that there is not."""
    made = {type_ for one in syntheses.values() for _, type_, _, _ in one.every()}
    replicas = {type_: (names,) for type_, (_, names) in OF_THE_SOURCE.items()}
    for type_, groups in (*EXACTLY_ONE.items(), *TOGETHER.items(), *replicas.items()):
        assert type_ in made
        bindings = bindings_of(type_)
        assert bindings is not None
        for names in groups:
            assert set(names) <= set(bindings.arguments(bindings.resource)), type_


def test_the_synthesized_provider_is_the_one_of_the_bindings(syntheses: Mapping[str, Synthesis]) -> None:
    """fails when the bindings are generated from another version than the one that is deployed."""
    versions = {
        stack["terraform"]["required_providers"]["aws"]["version"]
        for made in syntheses.values()
        for stack in made.stacks.values()
    }
    assert versions == {VERSION}


def test_the_reader_knows_the_provider() -> None:
    """What it reads of some types that are known by heart: names, what is required, blocks, shapes and outputs."""
    replication = bindings_of("aws_s3_bucket_replication_configuration")
    assert replication is not None
    arguments = replication.arguments(replication.resource)
    assert {name for name, argument in arguments.items() if argument.required} == {"bucket", "role", "rule"}
    assert arguments["rule"].block
    assert arguments["rule"].shape == Many(
        of=Nested(module=replication.name, struct=f"{replication.resource[:-1]}Rule")
    )
    function = bindings_of("aws_lambda_function")
    assert function is not None
    arguments = function.arguments(function.resource)
    assert arguments["memory_size"].shape is Scalar.NUMBER
    assert arguments["publish"].shape is Scalar.TRUTH
    assert arguments["tags"].shape == Many(of=Scalar.TEXT, keyed=True)
    assert {"arn", "invoke_arn", "function_name", "id"} <= function.outputs
    table = bindings_of("aws_route_table")
    assert table is not None
    assert not table.arguments(table.resource)["route"].block
    zone = bindings_of("aws_route53_zone", data=True)
    assert zone is not None
    assert "zone_id" in zone.outputs
    assert bindings_of("aws_no_such_thing") is None


# Each breaks one stack in a way that Terraform would refuse, and says what is to be noticed.
def first(stack: dict[str, Any], type_: str) -> dict[str, Any]:
    body: dict[str, Any] = next(iter(stack["resource"][type_].values()))
    return body


def no_such_type(stack: dict[str, Any]) -> None:
    stack["resource"]["aws_lambda_functions"] = stack["resource"].pop("aws_lambda_function")


def no_such_argument(stack: dict[str, Any]) -> None:
    first(stack, "aws_lambda_function")["reserved_concurrency"] = 1


def no_such_nested_argument(stack: dict[str, Any]) -> None:
    first(stack, "aws_scheduler_schedule")["target"]["retry_policy"]["attempts"] = 1


def a_list_for_one_block(stack: dict[str, Any]) -> None:
    schedule = first(stack, "aws_scheduler_schedule")
    schedule["target"] = [schedule["target"]]


def one_block_for_a_list(stack: dict[str, Any]) -> None:
    service = first(stack, "aws_ecs_service")
    service["load_balancer"] = service["load_balancer"][0]


def a_string_for_a_list(stack: dict[str, Any]) -> None:
    service = first(stack, "aws_ecs_service")
    service["network_configuration"]["subnets"] = "subnet-1"


def a_number_for_a_string(stack: dict[str, Any]) -> None:
    first(stack, "aws_ecs_task_definition")["cpu"] = 256


def a_string_for_a_number(stack: dict[str, Any]) -> None:
    first(stack, "aws_lambda_function")["timeout"] = "30"


def a_string_for_a_truth(stack: dict[str, Any]) -> None:
    first(stack, "aws_kms_key")["enable_key_rotation"] = "true"


def a_number_in_a_map(stack: dict[str, Any]) -> None:
    first(stack, "aws_lambda_function")["environment"]["variables"]["RELIGHT_AGENT_REPLICAS"] = 3


def a_required_argument_is_left_out(stack: dict[str, Any]) -> None:
    del first(stack, "aws_iam_role")["assume_role_policy"]


def a_required_argument_is_null(stack: dict[str, Any]) -> None:
    first(stack, "aws_scheduler_schedule")["target"]["arn"] = None


def a_computed_attribute_is_set(stack: dict[str, Any]) -> None:
    first(stack, "aws_kms_key")["arn"] = "arn:aws:kms:us-west-2:000000000000:key/1"


def a_key_of_a_route_is_left_out(stack: dict[str, Any]) -> None:
    for table in stack["resource"]["aws_route_table"].values():
        for route in table.get("route", ()):
            del route["vpc_endpoint_id"]


def a_policy_is_no_json(stack: dict[str, Any]) -> None:
    role = first(stack, "aws_iam_role")
    role["assume_role_policy"] = role["assume_role_policy"][:-1]


def a_change_of_nothing_is_ignored(stack: dict[str, Any]) -> None:
    first(stack, "aws_ecs_service")["lifecycle"] = {"ignore_changes": ["desired_counts"]}


def an_unknown_option_of_the_provider(stack: dict[str, Any]) -> None:
    stack["provider"]["aws"][0]["allowed_accounts"] = ["000000000000"]


SHAPE_SABOTAGE: dict[Callable[[dict[str, Any]], None], str] = {
    no_such_type: "the provider has no resource aws_lambda_functions",
    no_such_argument: "reserved_concurrency is no argument",
    no_such_nested_argument: "target.retry_policy.attempts is no argument",
    a_list_for_one_block: "target is to be an object",
    one_block_for_a_list: "load_balancer is to be a list of blocks",
    a_string_for_a_list: "network_configuration.subnets is to be a list",
    a_number_for_a_string: "cpu is to be a string",
    a_string_for_a_number: "timeout is to be a number",
    a_string_for_a_truth: "enable_key_rotation is to be true or false",
    a_number_in_a_map: "environment.variables.RELIGHT_AGENT_REPLICAS is to be a string",
    a_required_argument_is_left_out: "assume_role_policy is required",
    a_required_argument_is_null: "target.arn is required",
    a_computed_attribute_is_set: "arn is computed, and cannot be set",
    a_key_of_a_route_is_left_out: "route[0].vpc_endpoint_id is not there",
    a_policy_is_no_json: "assume_role_policy is no JSON",
    a_change_of_nothing_is_ignored: "lifecycle.ignore_changes names desired_counts",
    an_unknown_option_of_the_provider: "allowed_accounts is no argument",
}


@pytest.mark.parametrize("break_it", SHAPE_SABOTAGE, ids=lambda function: function.__name__)
def test_a_wrong_shape_is_noticed(synthesis: Synthesis, break_it: Callable[[dict[str, Any]], None]) -> None:
    """fails when something that the provider does not take would go unseen."""
    stack = deepcopy(synthesis.stacks["standby"])
    if break_it is a_key_of_a_route_is_left_out:  # the standby of `demo` has no way out, and so no route
        stack = deepcopy(synthesis.stacks["primary"])
    break_it(stack)
    problems = shape_problems(stack)
    assert problems
    assert all(SHAPE_SABOTAGE[break_it] in problem for problem in problems)


def nothing_there(stack: dict[str, Any]) -> None:
    first(stack, "aws_lambda_function")["role"] = "${aws_iam_role.nobody.arn}"


def no_such_attribute(stack: dict[str, Any]) -> None:
    function = first(stack, "aws_lambda_function")
    function["role"] = function["role"].replace(".arn}", ".role_arn}")


def a_function_of_terraform(stack: dict[str, Any]) -> None:
    first(stack, "aws_lambda_function")["role"] = '${join("", ["a", "b"])}'


def an_order_after_nothing(stack: dict[str, Any]) -> None:
    first(stack, "aws_lambda_function")["depends_on"] = ["aws_iam_role.nobody"]


def another_provider(stack: dict[str, Any]) -> None:
    first(stack, "aws_lambda_function")["provider"] = "aws.elsewhere"


def the_state_of_another_stack(stack: dict[str, Any]) -> None:
    first(stack, "aws_lambda_function")["role"] = "${data.terraform_remote_state.primary.outputs}"


def a_circle(stack: dict[str, Any]) -> None:
    (name, role), *_ = stack["resource"]["aws_iam_role"].items()
    policy = next(
        address
        for address, _, type_, body in bodies(stack)
        if type_ == "aws_iam_role_policy" and body["role"] == f"${{aws_iam_role.{name}.name}}"
    )
    role["depends_on"] = [policy]


REFERENCE_SABOTAGE: dict[Callable[[dict[str, Any]], None], str] = {
    nothing_there: "refers to aws_iam_role.nobody, which is not there",
    no_such_attribute: "aws_iam_role has no such attribute",
    a_function_of_terraform: "which is no plain reference",
    an_order_after_nothing: "depends on aws_iam_role.nobody",
    another_provider: "wants the provider aws.elsewhere",
    the_state_of_another_stack: "refers to data.terraform_remote_state.primary, which is not there",
    a_circle: "these need each other",
}


@pytest.mark.parametrize("break_it", REFERENCE_SABOTAGE, ids=lambda function: function.__name__)
def test_a_wrong_reference_is_noticed(synthesis: Synthesis, break_it: Callable[[dict[str, Any]], None]) -> None:
    """fails when something that Terraform would not find would go unseen."""
    stack = deepcopy(synthesis.stacks["standby"])
    break_it(stack)
    problems = reference_problems(stack)
    assert len(problems) == 1
    assert REFERENCE_SABOTAGE[break_it] in problems[0]


def test_nothing_of_the_stacks_is_left_unread(syntheses: Mapping[str, Synthesis]) -> None:
    """fails when a stack has a kind of block that none of these look at."""
    known = {"//", "data", "ephemeral", "provider", "resource", "terraform"}
    for made in syntheses.values():
        for part, stack in made.stacks.items():
            assert set(stack) <= known, part
            assert json.loads(made.text(part)) == stack
