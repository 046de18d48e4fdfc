"""Whoever plans or deploys an environment may do what its stacks need, to what is the environment's, and no more."""

from __future__ import annotations

import fnmatch
import importlib.util
import json
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import botocore.session
import pytest
from infra.variants import variations
from synthesis import ENVIRONMENTS, ROOT

from relight.errors import ConfigError
from relight_cli.console import DONE, USAGE
from relight_cli.main import main
from relight_stacks import deploy_policy
from relight_stacks.deploy_calls import CALLS, UNBOUND
from relight_stacks.deploy_policy import LIMIT, MOST, May, policies, read_stacks, size, types_of
from relight_stacks.loading import environments_folder, examples_folder, load_environment

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from synthesis import Synthesis

    from relight_stacks.environment import Environment

# What IAM calls a service, where botocore calls it otherwise.
MODELS = {
    "elasticloadbalancing": "elbv2",
    "iam": "iam",
    "states": "stepfunctions",
}
# What IAM calls an action, where the API's operation has another name. Source: the Service Authorization Reference.
NOT_OPERATIONS = {
    "ec2:CreateTags",
    "iam:PassRole",
    "s3:GetAccelerateConfiguration",
    "s3:GetBucketObjectLockConfiguration",
    "s3:GetBucketCORS",
    "s3:GetBucketPublicAccessBlock",
    "s3:GetEncryptionConfiguration",
    "s3:GetLifecycleConfiguration",
    "s3:GetReplicationConfiguration",
    "s3:ListBucket",
    "s3:ListTagsForResource",
    "s3:PutBucketObjectLockConfiguration",
    "s3:PutBucketPublicAccessBlock",
    "s3:PutEncryptionConfiguration",
    "s3:PutLifecycleConfiguration",
    "s3:PutReplicationConfiguration",
    "vpce:AllowMultiRegion",
}
# The name that a resource is made with, and the ARN that it then has.
NAMED = {
    "aws_chatbot_slack_channel_configuration": (
        "configuration_name",
        "arn:aws:chatbot::{account}:chat-configuration/slack-channel/{name}",
    ),
    "aws_cloudwatch_event_rule": ("name", "arn:aws:events:{region}:{account}:rule/{name}"),
    "aws_cloudwatch_log_group": ("name", "arn:aws:logs:{region}:{account}:log-group:{name}"),
    "aws_cloudwatch_metric_alarm": ("alarm_name", "arn:aws:cloudwatch:{region}:{account}:alarm:{name}"),
    "aws_cloudwatch_dashboard": ("dashboard_name", "arn:aws:cloudwatch::{account}:dashboard/{name}"),
    "aws_db_instance": ("identifier", "arn:aws:rds:{region}:{account}:db:{name}"),
    "aws_db_parameter_group": ("name", "arn:aws:rds:{region}:{account}:pg:{name}"),
    "aws_db_subnet_group": ("name", "arn:aws:rds:{region}:{account}:subgrp:{name}"),
    "aws_ecs_cluster": ("name", "arn:aws:ecs:{region}:{account}:cluster/{name}"),
    "aws_ecs_task_definition": ("family", "arn:aws:ecs:{region}:{account}:task-definition/{name}:7"),
    "aws_iam_role": ("name", "arn:aws:iam::{account}:role/{name}"),
    "aws_iam_instance_profile": ("name", "arn:aws:iam::{account}:instance-profile/{name}"),
    "aws_kms_alias": ("name", "arn:aws:kms:{region}:{account}:{name}"),
    "aws_lambda_function": ("function_name", "arn:aws:lambda:{region}:{account}:function:{name}"),
    "aws_lb": ("name", "arn:aws:elasticloadbalancing:{region}:{account}:loadbalancer/app/{name}/50dc6c495c0c9188"),
    "aws_lb_target_group": (
        "name",
        "arn:aws:elasticloadbalancing:{region}:{account}:targetgroup/{name}/50dc6c495c0c9188",
    ),
    "aws_rds_cluster": ("cluster_identifier", "arn:aws:rds:{region}:{account}:cluster:{name}"),
    "aws_rds_cluster_instance": ("identifier", "arn:aws:rds:{region}:{account}:db:{name}"),
    "aws_rds_cluster_parameter_group": ("name", "arn:aws:rds:{region}:{account}:cluster-pg:{name}"),
    "aws_rds_global_cluster": ("global_cluster_identifier", "arn:aws:rds::{account}:global-cluster:{name}"),
    "aws_s3_bucket": ("bucket", "arn:aws:s3:::{name}"),
    "aws_scheduler_schedule": ("name", "arn:aws:scheduler:{region}:{account}:schedule/default/{name}"),
    "aws_secretsmanager_secret": ("name", "arn:aws:secretsmanager:{region}:{account}:secret:{name}-a1b2c3"),
    "aws_sfn_state_machine": ("name", "arn:aws:states:{region}:{account}:stateMachine:{name}"),
    "aws_sns_topic": ("name", "arn:aws:sns:{region}:{account}:{name}"),
    "aws_sqs_queue": ("name", "arn:aws:sqs:{region}:{account}:{name}"),
}


def environment_of(name: str) -> Environment:
    """The environment that was synthesized under that name."""
    folder = environments_folder() if name == "demo" else examples_folder()
    return load_environment(folder / f"{name}.toml")


def statements(documents: Mapping[str, Mapping[str, Any]]) -> Iterator[Mapping[str, Any]]:
    """Those of every policy."""
    for document in documents.values():
        yield from document["Statement"]


@pytest.fixture(scope="session", params=ENVIRONMENTS)
def environment(request: pytest.FixtureRequest) -> Environment:
    """Each environment that is synthesized."""
    return environment_of(request.param)


@pytest.fixture(scope="session")
def stacks(environment: Environment, syntheses: Mapping[str, Synthesis]) -> dict[str, dict[str, Any]]:
    """Its stacks."""
    return read_stacks(syntheses[environment.name].folder, environment.name)


@pytest.fixture(scope="session")
def deploy(environment: Environment, stacks: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """The policies of its deploying role."""
    return policies(stacks, environment, May.DEPLOY)


def allows(documents: Mapping[str, Mapping[str, Any]], action: str, arn: str) -> bool:
    """Whether a policy allows it, whatever its conditions."""
    return any(
        action in item["Action"] and any(fnmatch.fnmatchcase(arn, pattern) for pattern in item["Resource"])
        for item in statements(documents)
    )


def test_every_type_is_known_and_no_entry_is_unused(syntheses: Mapping[str, Synthesis]) -> None:
    """What constructs can make is what the bindings module takes from the provider; the rest is in the stacks."""
    source = (ROOT / "constructs" / "relight_constructs" / "bindings.py").read_text()
    modules = set(re.findall(r"^from cdktf_cdktf_provider_aws\.(\w+) import", source, re.MULTILINE))
    bound = {_type(module) for module in modules if not module.startswith(("data_", "provider"))}
    used: set[str] = set()
    for name, synthesis in syntheses.items():
        used |= types_of(read_stacks(synthesis.folder, name))
    assert used - set(CALLS) == set()
    assert bound - set(CALLS) == set()
    assert set(CALLS) - used - bound == set()


def _type(module: str) -> str:
    """What the provider calls what a module of the bindings is about: its documentation begins with it."""
    (package,) = importlib.util.find_spec("cdktf_cdktf_provider_aws").submodule_search_locations  # type: ignore[union-attr, misc]
    with (Path(package) / module / "__init__.py").open() as file:
        found = re.search(r"# `(\w+)`", file.read(200))
    assert found is not None, module
    return found[1]


def test_unbound_calls_are_made_by_somebody() -> None:
    """No reason to allow something on every resource outlives its use."""
    made = {f"{item.service}:{call}" for calls in CALLS.values() for item in calls for call in _calls(item)}
    assert {f"{service}:{call}" for service, calls in UNBOUND.items() for call in calls.split()} <= made


def _calls(item: Any) -> set[str]:
    return set(f"{item.look} {item.change}".split())


def test_every_action_is_one_that_aws_has() -> None:
    """A misspelt one would be found out by a failing deployment alone."""
    session = botocore.session.get_session()
    operations: dict[str, set[str]] = {}
    wrong = set()
    for calls in CALLS.values():
        for item in calls:
            actions = {f"{item.service}:{call}" for call in _calls(item)} - NOT_OPERATIONS
            if actions and item.service not in operations:
                model = session.get_service_model(MODELS.get(item.service, item.service))
                operations[item.service] = set(model.operation_names)
            wrong |= {action for action in actions if action.split(":")[1] not in operations[item.service]}
    assert wrong == set()


def test_all_within_the_limits(environment: Environment, deploy: dict[str, dict[str, Any]], stacks: Any) -> None:
    """IAM takes each policy, and a role takes all of them."""
    for documents in (deploy, policies(stacks, environment, May.PLAN)):
        assert 0 < len(documents) <= MOST
        assert all(0 < size(document) <= LIMIT for document in documents.values())


def test_what_is_made_is_allowed(environment: Environment, syntheses: Mapping[str, Synthesis]) -> None:
    """Each name that a stack gives is within what its type's calls are bound to."""
    hold_names(environment, syntheses[environment.name])


def test_what_an_operator_may_choose_is_allowed_too(variants: Mapping[str, Synthesis]) -> None:
    """Networks, clusters and stores of their own, switches, no lock: known, within the limits, and by name."""
    chosen = {item.name: item for item in variations()}
    assert set(chosen) == set(variants)
    for name, synthesis in variants.items():
        hold_names(chosen[name], synthesis)


def hold_names(environment: Environment, synthesis: Synthesis) -> None:
    """The deploying role may make what the stacks name, and has no more policies than a role takes."""
    deploy = policies(read_stacks(synthesis.folder, environment.name), environment, May.DEPLOY)
    assert 0 < len(deploy) <= MOST
    assert all(size(document) <= LIMIT for document in deploy.values())
    checked = set()
    for part, type_, path, resource in synthesis.every():
        if type_ not in NAMED:
            continue
        attribute, pattern = NAMED[type_]
        for region in (environment.regions.primary, environment.regions.standby):
            arn = pattern.format(region=region, account=environment.account, name=resource[attribute])
            for item in CALLS[type_][:1]:
                for call in _calls(item):
                    if call not in UNBOUND.get(item.service, "").split():
                        assert allows(deploy, f"{item.service}:{call}", arn), f"{part}/{path}: {call} on {arn}"
        checked.add(type_)
    assert len(checked) > 10
    unnamed = {type_ for _, type_, _, body in synthesis.every() if _named(body)} - set(NAMED)
    assert unnamed <= {
        *("aws_appautoscaling_policy", "aws_ecs_service", "aws_iam_role_policy", "aws_route53_record"),
        *("aws_route53_zone", "aws_security_group"),
        *("aws_route53recoverycontrolconfig_cluster", "aws_route53recoverycontrolconfig_control_panel"),
        *("aws_route53recoverycontrolconfig_routing_control", "aws_route53recoverycontrolconfig_safety_rule"),
    }, "these have names, and their ARNs have none, or are bound to something else's name"


def _named(body: Mapping[str, Any]) -> bool:
    return "${" not in str(body.get("name", "${"))


def test_nothing_of_another_environment(environment: Environment, deploy: dict[str, dict[str, Any]]) -> None:
    """Neither another's resources nor the bucket of one's own state are touched, however alike the names are."""
    account, region = environment.account, environment.regions.primary
    other = f"{environment.names.prefix}ling"
    for action, arn in (
        ("lambda:DeleteFunction", f"arn:aws:lambda:{region}:{account}:function:{other}-snapshot"),
        ("iam:PutRolePolicy", f"arn:aws:iam::{account}:role/{other}-agent-{region}"),
        ("iam:PutRolePolicy", f"arn:aws:iam::{account}:role/administrator"),
        ("iam:PassRole", f"arn:aws:iam::{account}:role/administrator"),
        ("s3:DeleteBucket", f"arn:aws:s3:::{environment.names.state_bucket(region)}"),
        ("s3:PutBucketPolicy", f"arn:aws:s3:::{environment.names.state_bucket(region)}"),
        ("ecs:DeleteService", f"arn:aws:ecs:{region}:{account}:service/{other}/agent"),
        ("secretsmanager:PutSecretValue", f"arn:aws:secretsmanager:{region}:{account}:secret:relight/other/x"),
        ("ec2:DeleteVpc", f"arn:aws:ec2:ap-south-1:{account}:vpc/vpc-1"),
    ):
        assert not allows(deploy, action, arn), f"{action} on {arn}"


def test_every_resource_is_named_but_for_what_cannot_be(deploy: dict[str, dict[str, Any]]) -> None:
    """`*` is for the calls of UNBOUND alone, and in the environment's regions where their services have any."""
    for item in statements(deploy):
        assert not any("*" in action for action in item["Action"])
        if item["Resource"] == ["*"]:
            services = {action.split(":")[0] for action in item["Action"]}
            assert {action.split(":")[1] for action in item["Action"]} <= set(" ".join(UNBOUND.values()).split())
            global_ = services <= {"route53", "route53-recovery-control-config", "chatbot"}
            assert global_ or set(item["Condition"]["StringEquals"]) == {"aws:RequestedRegion"}
        else:
            assert "*" not in item["Resource"]


def test_roles_are_passed_to_those_who_trust_them(
    deploy: dict[str, dict[str, Any]], syntheses: Mapping[str, Synthesis], environment: Environment
) -> None:
    """The environment's own roles, to the services that the stacks' roles are for."""
    (item,) = [item for item in statements(deploy) if "iam:PassRole" in item["Action"]]
    assert item["Action"] == ["iam:PassRole"]
    assert item["Resource"] == [f"arn:aws:iam::{environment.account}:role/{environment.names.prefix}-*"]
    trusting = {
        statement["Principal"]["Service"]
        for role in syntheses[environment.name].resources("aws_iam_role").values()
        for statement in json.loads(role["assume_role_policy"])["Statement"]
    }
    assert set(item["Condition"]["StringEquals"]["iam:PassedToService"]) == trusting


def test_service_linked_roles_are_of_the_services_used(deploy: dict[str, dict[str, Any]]) -> None:
    """Each for one service, which its ARN and its condition name."""
    items = [item for item in statements(deploy) if "iam:CreateServiceLinkedRole" in item["Action"]]
    services = {item["Condition"]["StringEquals"]["iam:AWSServiceName"] for item in items}
    assert services >= {
        "ecs.amazonaws.com",
        "ecs.application-autoscaling.amazonaws.com",
        "elasticloadbalancing.amazonaws.com",
    }
    for item in items:
        service = item["Condition"]["StringEquals"]["iam:AWSServiceName"]
        assert all(f"role/aws-service-role/{service}/" in arn for arn in item["Resource"])


def test_endpoints_of_another_region_are_allowed(deploy: dict[str, dict[str, Any]]) -> None:
    """What AWS asks for beside the call itself, and no error names."""
    assert any("vpce:AllowMultiRegion" in item["Action"] for item in statements(deploy))


def test_who_plans_changes_nothing(environment: Environment, stacks: dict[str, dict[str, Any]]) -> None:
    """It reads: values of the environment's own secrets too, which a plan has to pass on, and never writes a state."""
    found = {action for item in statements(policies(stacks, environment, May.PLAN)) for action in item["Action"]}
    odd = {action for action in found if not action.split(":")[1].startswith(("Get", "Describe", "List"))}
    assert odd <= {"kms:Decrypt", "states:ValidateStateMachineDefinition"}
    assert "s3:GetObject" in found


def test_who_rehearses_starts_that_machine_alone(environment: Environment, stacks: dict[str, dict[str, Any]]) -> None:
    """And reads what it recorded; where nothing is rehearsed there is nothing to allow."""
    if not environment.rehearsed:
        with pytest.raises(ConfigError, match=f"{environment.name} rehearses nothing"):
            policies(stacks, environment, May.REHEARSE)
        return
    found = policies(stacks, environment, May.REHEARSE)
    assert list(found) == [f"{environment.names.prefix}-rehearse-1"]
    actions = {action for item in statements(found) for action in item["Action"]}
    assert actions == {
        "kms:Decrypt",
        "s3:GetObject",
        "s3:ListBucket",
        "states:DescribeExecution",
        "states:StartExecution",
    }
    machines = {
        body["name"] for body in stacks[f"{environment.name}-rehearsal"]["resource"]["aws_sfn_state_machine"].values()
    }
    (start,) = [item for item in statements(found) if item["Action"] == ["states:StartExecution"]]
    assert {arn.rpartition(":")[2] for arn in start["Resource"]} == machines


def test_who_rehearses_reads_that_environments_keys_alone() -> None:
    """Where vaults are elsewhere: the one secret, however AWS ends its ARN, and none whose name goes on."""
    (environment,) = [item for item in variations() if item.vaults.other]
    found = policies({}, environment, May.REHEARSE)
    names = environment.names
    secret = f"arn:aws:secretsmanager:{names.standby_region}:{names.account}:secret:{names.vault_keys_secret}"
    assert allows(found, "secretsmanager:GetSecretValue", f"{secret}-a1B2c3")
    assert not allows(found, "secretsmanager:GetSecretValue", f"{secret}-of-others-a1B2c3")
    assert not allows(found, "secretsmanager:GetSecretValue", secret.replace("vault-keys", "connections") + "-a1B2c3")


@pytest.mark.parametrize(
    ("limit", "most", "said"),
    [
        (LIMIT, 1, "demo needs [0-9]+ policies to deploy, and a role has 1 at most"),
        (200, MOST, "the statement of [a-z]+:[A-Za-z]+ takes [0-9]+ characters, and IAM takes 200"),
    ],
)
def test_fails_when_iam_would_not_take_them(
    syntheses: Mapping[str, Synthesis], monkeypatch: pytest.MonkeyPatch, limit: int, most: int, said: str
) -> None:
    """Rather than writing what cannot be used."""
    monkeypatch.setattr(deploy_policy, "LIMIT", limit)
    monkeypatch.setattr(deploy_policy, "MOST", most)
    with pytest.raises(ConfigError, match=said):
        policies(read_stacks(syntheses["demo"].folder, "demo"), environment_of("demo"), May.DEPLOY)


def test_states_are_those_of_the_stacks(environment: Environment, deploy: dict[str, dict[str, Any]]) -> None:
    """One key for each stack, in the bucket of its home, and the lock beside it; nothing else in that bucket."""
    names = environment.names
    put = {arn for item in statements(deploy) if "s3:PutObject" in item["Action"] for arn in item["Resource"]}
    assert all(any(names.state_bucket(region) in arn for region in (names.primary_region, names.standby_region))
               for arn in put)  # fmt: skip
    for part in ENVIRONMENTS[environment.name]:
        home = names.primary_region if part == "primary" else names.standby_region
        arn = f"arn:aws:s3:::{names.state_bucket(home)}/{names.stack(part)}.tfstate"
        assert {arn, f"{arn}.tflock"} <= put
        assert not allows(deploy, "s3:DeleteObject", arn), "no deployment removes a state"
        assert allows(deploy, "s3:DeleteObject", f"{arn}.tflock")


def test_fails_when_a_type_is_not_known(environment: Environment, stacks: dict[str, dict[str, Any]]) -> None:
    """Rather than leaving a deployment to find out."""
    more = stacks | {"more": {"terraform": stacks[f"{environment.name}-vault"]["terraform"],
                              "resource": {"aws_odd_thing": {}}}}  # fmt: skip
    with pytest.raises(ConfigError, match="it is not written which calls aws_odd_thing needs"):
        policies(more, environment, May.DEPLOY)


def test_the_command_writes_a_file_for_each(
    syntheses: Mapping[str, Synthesis], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The same as on stdout; as text that IAM takes as it is."""
    folder = str(syntheses["internal"].folder)
    assert main(["env", "policy", "internal", "--stacks", folder]) == DONE
    shown = json.loads(capsys.readouterr().out)
    assert main(["env", "policy", "internal", "--stacks", folder, "--out", str(tmp_path / "new")]) == DONE
    paths = capsys.readouterr().out.split()
    assert {path.rpartition("/")[2].removesuffix(".json") for path in paths} == set(shown)
    assert {name: json.loads((tmp_path / "new" / f"{name}.json").read_text()) for name in shown} == shown
    assert main(["env", "policy", "internal", "--may", "plan", "--stacks", f"{folder}/stacks"]) == DONE
    assert set(json.loads(capsys.readouterr().out)) == {"relight-internal-plan-1", "relight-internal-plan-2"}


def test_a_folder_without_the_environment_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """It says what to do."""
    assert main(["env", "policy", "internal", "--stacks", str(tmp_path)]) == USAGE
    assert f"{tmp_path} has no stack of internal; synthesize it there" in capsys.readouterr().err
