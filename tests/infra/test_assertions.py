"""Rules of ours over the JSON of every stack, where checkov has none: nothing is found but what is excepted with a
reason, every exception is needed, and each rule notices what it is for."""

from __future__ import annotations

import json
import tomllib
from copy import deepcopy
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Any

import pytest
from stack_references import path_of
from stack_rules import RULES, Problem, Stack
from synthesis import ENVIRONMENTS, ROOT

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from synthesis import Synthesis

EXCEPTIONS = ROOT / ".ci" / "assertion-exceptions.toml"
STACKS = [(environment, part) for environment, parts in ENVIRONMENTS.items() for part in parts]
# A reason shorter than this tells a reviewer nothing.
WORDS = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class Exemption:
    """What a rule finds and is left as it is."""

    rule: str
    subjects: tuple[str, ...]
    reason: str


def read() -> list[Exemption]:
    """The exceptions as they are written."""
    written = tomllib.loads(EXCEPTIONS.read_text())["exception"]
    return [Exemption(rule=one["rule"], subjects=tuple(one["subjects"]), reason=one["reason"]) for one in written]


def unexcepted(rule: str, problems: Sequence[Problem], exceptions: Sequence[Exemption]) -> list[str]:
    """The problems that no exception of the rule covers."""
    patterns = [pattern for one in exceptions if one.rule == rule for pattern in one.subjects]
    return [str(problem) for problem in problems if not any(fnmatchcase(problem.subject, one) for one in patterns)]


def found(stack: Stack) -> list[tuple[str, Problem]]:
    """What every rule finds in a stack."""
    return [(name, problem) for name, rule in RULES.items() for problem in rule(stack)]


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize(("environment", "part"), STACKS)
def test_every_stack_keeps_every_rule(
    syntheses: Mapping[str, Synthesis], environment: str, part: str, rule: str
) -> None:
    """fails when a rule finds what has no written reason."""
    stack = Stack(environment, part, syntheses[environment].stacks[part])
    assert unexcepted(rule, list(RULES[rule](stack)), read()) == []


@pytest.mark.parametrize("rule", RULES)
def test_what_an_operator_may_choose_keeps_every_rule(variants: Mapping[str, Synthesis], rule: str) -> None:
    """The same of environments that no example is like, with the same exceptions."""
    for name, made in variants.items():
        for part, document in made.stacks.items():
            assert unexcepted(rule, list(RULES[rule](Stack(name, part, document))), read()) == [], name


def test_every_exception_is_needed(syntheses: Mapping[str, Synthesis], variants: Mapping[str, Synthesis]) -> None:
    """Each of its patterns covers something in some environment, is of a rule that there is, and has a reason."""
    subjects = {
        (rule, problem.subject)
        for environment, made in {**syntheses, **variants}.items()
        for part, document in made.stacks.items()
        for rule, problem in found(Stack(environment, part, document))
    }
    for exception in read():
        assert exception.rule in RULES
        assert len(exception.reason.split()) >= WORDS, exception.reason
        for pattern in exception.subjects:
            covered = any(rule == exception.rule and fnmatchcase(subject, pattern) for rule, subject in subjects)
            assert covered, f"the exception {exception.rule} for {pattern} is not needed: remove it"


# Sabotage: each breaks one stack, and says which rule is to find it, and where.


def body(stack: dict[str, Any], type_: str, path: str) -> dict[str, Any]:
    """The resource of a type at a path of its stack."""
    (one,) = [item for item in stack["resource"][type_].values() if path_of(item, "") == path]
    made: dict[str, Any] = one
    return made


def change_policy(stack: dict[str, Any], type_: str, path: str, name: str, change: Callable[[Any], None]) -> None:
    """Change the statements of a policy."""
    item = body(stack, type_, path)
    document = json.loads(item[name])
    change(document["Statement"])
    item[name] = json.dumps(document)


def add(stack: dict[str, Any], type_: str, item: dict[str, Any]) -> None:
    """Add a resource, at the path `added`."""
    placed = {**item, "//": {"metadata": {"path": "demo/added", "uniqueId": "added"}}}
    stack["resource"].setdefault(type_, {})["added"] = placed


def any_action(stack: dict[str, Any]) -> None:
    def change(statements: Any) -> None:
        statements[0]["Action"] = ["s3:*"]

    change_policy(stack, "aws_iam_role_policy", "prune/role/prune-standby-vault", "policy", change)


def any_resource(stack: dict[str, Any]) -> None:
    def change(statements: Any) -> None:
        statements[0]["Resource"] = ["*"]

    change_policy(stack, "aws_iam_role_policy", "prune/role/prune-standby-vault", "policy", change)


def any_of_a_kind(stack: dict[str, Any]) -> None:
    def change(statements: Any) -> None:
        statements[0]["Resource"] = ["arn:aws:lambda:us-west-2:000000000000:function:*"]

    change_policy(stack, "aws_iam_role_policy", "prune/role/prune-standby-vault", "policy", change)


def any_key(stack: dict[str, Any]) -> None:
    def change(statements: Any) -> None:
        for statement in statements:
            statement.get("Condition", {}).pop("ForAnyValue:StringEquals", None)

    change_policy(stack, "aws_iam_role_policy", "prune/role/prune-standby-vault", "policy", change)


def anything_but(stack: dict[str, Any]) -> None:
    def change(statements: Any) -> None:
        statements[0]["NotAction"] = statements[0].pop("Action")

    change_policy(stack, "aws_iam_role_policy", "prune/role/prune-standby-vault", "policy", change)


def anybody_takes_on_a_role(stack: dict[str, Any]) -> None:
    def change(statements: Any) -> None:
        statements[0]["Principal"] = {"AWS": "*"}

    change_policy(stack, "aws_iam_role", "prune/role/role", "assume_role_policy", change)


def anybody_sends_letters(stack: dict[str, Any]) -> None:
    def change(statements: Any) -> None:
        statements[0]["Principal"] = "*"

    change_policy(stack, "aws_sqs_queue_policy", "dead-letters/policy", "policy", change)


def a_second_provider(stack: dict[str, Any]) -> None:
    stack["provider"]["aws"].append({"alias": "away", "region": "us-east-1"})


def an_alarm_elsewhere(stack: dict[str, Any]) -> None:
    alarm = body(stack, "aws_cloudwatch_metric_alarm", "dead-letters/waiting/alarm")
    alarm["alarm_actions"] = ["arn:aws:sns:us-east-1:000000000000:relight-demo-incidents"]


def made_elsewhere(stack: dict[str, Any]) -> None:
    body(stack, "aws_sns_topic", "incidents/topic")["region"] = "us-east-1"


def a_machine_that_calls_elsewhere(stack: dict[str, Any]) -> None:
    machine = body(stack, "aws_sfn_state_machine", "recovery/machine/machine")
    machine["definition"] = machine["definition"].replace("lambda:us-west-2", "lambda:us-east-1", 1)


def a_reference_across(stack: dict[str, Any]) -> None:
    body(stack, "aws_cloudwatch_metric_alarm", "dead-letters/waiting/alarm")["provider"] = "aws.standby"


def a_recovery_that_reaches_away(stack: dict[str, Any]) -> None:
    def change(statements: Any) -> None:
        statements[0]["Resource"] = ["arn:aws:s3:::relight-demo-vault-000000000000-us-east-1"]

    change_policy(stack, "aws_iam_role_policy", "recovery/hydrate/role/restore-standby-vault", "policy", change)


def a_recovery_that_changes_records(stack: dict[str, Any]) -> None:
    def change(statements: Any) -> None:
        statements[0]["Action"] = ["route53:ChangeResourceRecordSets"]

    change_policy(stack, "aws_iam_role_policy", "recovery/hydrate/role/restore-standby-vault", "policy", change)


def ssh(stack: dict[str, Any]) -> None:
    rule = body(stack, "aws_vpc_security_group_ingress_rule", "balancer/public")
    rule["from_port"] = rule["to_port"] = 22


def all_ports(stack: dict[str, Any]) -> None:
    body(stack, "aws_vpc_security_group_ingress_rule", "balancer/public")["to_port"] = 65535


def the_agent_itself(stack: dict[str, Any]) -> None:
    agent = body(stack, "aws_security_group", "network/agent-group")["//"]["metadata"]["uniqueId"]
    rule = {"ip_protocol": "tcp", "from_port": 443, "to_port": 443, "cidr_ipv6": "::/0"}
    add(
        stack,
        "aws_vpc_security_group_ingress_rule",
        {**rule, "security_group_id": f"${{aws_security_group.{agent}.id}}"},
    )


def inline_ingress(stack: dict[str, Any]) -> None:
    body(stack, "aws_security_group", "network/agent-group")["ingress"] = [{"cidr_blocks": ["0.0.0.0/0"]}]


def plain_http(stack: dict[str, Any]) -> None:
    listener = body(stack, "aws_lb_listener", "balancer/listener")
    listener |= {"port": 80, "protocol": "HTTP"}


def old_tls(stack: dict[str, Any]) -> None:
    body(stack, "aws_lb_listener", "balancer/listener")["ssl_policy"] = "ELBSecurityPolicy-2016-08"


def the_inner_balancer_outside(stack: dict[str, Any]) -> None:
    body(stack, "aws_lb", "inner/balancer")["internal"] = False


def a_public_address(stack: dict[str, Any]) -> None:
    body(stack, "aws_ecs_service", "agent/service")["network_configuration"]["assign_public_ip"] = True


def a_public_bucket(stack: dict[str, Any]) -> None:
    body(stack, "aws_s3_bucket_public_access_block", "lease/bucket/public-access")["block_public_policy"] = False


def a_function_with_an_address(stack: dict[str, Any]) -> None:
    add(stack, "aws_lambda_function_url", {"function_name": "x", "authorization_type": "NONE"})


def agents_in_a_public_subnet(stack: dict[str, Any]) -> None:
    public = body(stack, "aws_subnet", "network/public-a")["//"]["metadata"]["uniqueId"]
    service = body(stack, "aws_ecs_service", "agent/service")
    service["network_configuration"]["subnets"] = [f"${{aws_subnet.{public}.id}}"]


def a_bucket_without_kms(stack: dict[str, Any]) -> None:
    item = body(stack, "aws_s3_bucket_server_side_encryption_configuration", "lease/bucket/encryption")
    item["rule"] = [{"apply_server_side_encryption_by_default": {"sse_algorithm": "AES256"}}]


def a_bucket_without_anything(stack: dict[str, Any]) -> None:
    add(stack, "aws_s3_bucket", {"bucket": "relight-demo-notes"})


def a_topic_without_a_key(stack: dict[str, Any]) -> None:
    del body(stack, "aws_sns_topic", "incidents/topic")["kms_master_key_id"]


def a_topic_with_the_service_key(stack: dict[str, Any]) -> None:
    body(stack, "aws_sns_topic", "incidents/topic")["kms_master_key_id"] = "alias/aws/sns"


def a_volume_without_a_key(stack: dict[str, Any]) -> None:
    volume = body(stack, "aws_ecs_service", "vector/service")["volume_configuration"]["managed_ebs_volume"]
    del volume["kms_key_id"]


def a_key_that_stays(stack: dict[str, Any]) -> None:
    body(stack, "aws_kms_key", "key/key")["enable_key_rotation"] = False


def an_unknown_store(stack: dict[str, Any]) -> None:
    add(stack, "aws_dynamodb_table", {"name": "relight-demo-notes"})


def a_database_without_a_key(stack: dict[str, Any]) -> None:
    del body(stack, "aws_db_instance", "state/instance")["kms_key_id"]


def a_database_without_tls(stack: dict[str, Any]) -> None:
    group = body(stack, "aws_db_parameter_group", "state/parameters")
    group["parameter"] = [item for item in group["parameter"] if item["name"] != "rds.force_ssl"]


def a_replica_without_a_key(stack: dict[str, Any]) -> None:
    del body(stack, "aws_secretsmanager_secret", "state-password/secret")["replica"][0]["kms_key_id"]


def plain_callers(stack: dict[str, Any]) -> None:
    def change(statements: Any) -> None:
        del statements[1]

    change_policy(stack, "aws_sqs_queue_policy", "dead-letters/policy", "policy", change)


def replication_of_plain_objects_only(stack: dict[str, Any]) -> None:
    item = body(stack, "aws_s3_bucket_replication_configuration", "standby-vault/replicate")
    item["rule"][0]["source_selection_criteria"]["sse_kms_encrypted_objects"]["status"] = "Disabled"


def a_password_in_the_state(stack: dict[str, Any]) -> None:
    body(stack, "aws_db_instance", "state/instance")["password"] = "${ephemeral.a.b.c}"


def a_secret_in_the_state(stack: dict[str, Any]) -> None:
    add(stack, "aws_secretsmanager_secret_version", {"secret_id": "x", "secret_string": "letters"})


def an_ephemeral_value_that_stays(stack: dict[str, Any]) -> None:
    topic = body(stack, "aws_sns_topic", "incidents/topic")
    topic["display_name"] = "${ephemeral.aws_secretsmanager_random_password.a.random_password}"


def a_password_in_a_variable(stack: dict[str, Any]) -> None:
    variables = body(stack, "aws_lambda_function", "prune/function")["environment"]["variables"]
    variables["RELIGHT_STATE"] = "postgresql://relight:letters@state:5432/relight"


def a_secret_in_a_variable(stack: dict[str, Any]) -> None:
    variables = body(stack, "aws_lambda_function", "prune/function")["environment"]["variables"]
    variables["OPENAI_API_KEY"] = "letters"


def a_log_for_ever(stack: dict[str, Any]) -> None:
    del body(stack, "aws_cloudwatch_log_group", "prune/log/group")["retention_in_days"]


def a_log_that_lambda_makes(stack: dict[str, Any]) -> None:
    del body(stack, "aws_lambda_function", "prune/function")["logging_config"]["log_group"]


def a_container_without_a_log(stack: dict[str, Any]) -> None:
    task = body(stack, "aws_ecs_task_definition", "agent/task")
    containers = json.loads(task["container_definitions"])
    del containers[0]["logConfiguration"]
    task["container_definitions"] = json.dumps(containers)


def a_machine_without_a_log(stack: dict[str, Any]) -> None:
    del body(stack, "aws_sfn_state_machine", "recovery/machine/machine")["logging_configuration"]


def a_database_that_makes_its_log(stack: dict[str, Any]) -> None:
    groups = stack["resource"]["aws_cloudwatch_log_group"]
    (name,) = [name for name, item in groups.items() if path_of(item, "") == "state/log-postgresql/group"]
    del groups[name]


def insights_that_make_their_log(stack: dict[str, Any]) -> None:
    body(stack, "aws_ecs_cluster", "cluster/cluster")["name"] = "relight-demo-2"


@dataclass(frozen=True, slots=True, kw_only=True)
class Sabotage:
    """What breaks a stack, and the one new finding of one rule."""

    breaks: Callable[[dict[str, Any]], None]
    rule: str
    subject: str
    part: str = "standby"
    environment: str = "demo"


def case(breaks: Callable[[dict[str, Any]], None], rule: str, subject: str, **where: str) -> Any:
    """A sabotage by its name."""
    return pytest.param(Sabotage(breaks=breaks, rule=rule, subject=subject, **where), id=breaks.__name__)


VAULT_POLICY = "prune/role/prune-standby-vault"
CASES = [
    case(any_action, "wildcards", f"{VAULT_POLICY}#s3:*"),
    case(any_resource, "wildcards", f"{VAULT_POLICY}#s3:ListBucket *"),
    case(any_of_a_kind, "wildcards", f"{VAULT_POLICY}#lambda:function:*"),
    case(any_key, "wildcards", f"{VAULT_POLICY}#kms:key/*"),
    case(anything_but, "wildcards", VAULT_POLICY),
    case(anybody_takes_on_a_role, "wildcards", "prune/role/role#anybody"),
    case(anybody_sends_letters, "wildcards", "dead-letters/policy#RulesSend anybody"),
    case(a_second_provider, "regions", "provider#aws.away"),
    case(an_alarm_elsewhere, "regions", "dead-letters/waiting/alarm#alarm_actions"),
    case(made_elsewhere, "regions", "incidents/topic#region"),
    case(a_machine_that_calls_elsewhere, "regions", "recovery/machine/machine#definition.*"),
    case(
        a_reference_across,
        "regions",
        "dead-letters/waiting/alarm#to aws_sns_topic",
        part="primary",
        environment="batch",
    ),
    case(a_recovery_that_reaches_away, "recovery", "recovery/hydrate/function#arn:aws:s3:::*-us-east-1"),
    case(a_recovery_that_changes_records, "recovery", "recovery/hydrate/function#route53:ChangeResourceRecordSets"),
    case(ssh, "public", "balancer/public"),
    case(all_ports, "public", "balancer/public"),
    case(the_agent_itself, "public", "added"),
    case(inline_ingress, "public", "network/agent-group"),
    case(plain_http, "public", "balancer/listener"),
    case(old_tls, "public", "balancer/listener"),
    case(the_inner_balancer_outside, "public", "inner/*-listener"),
    case(a_public_address, "public", "agent/service#network_configuration.assign_public_ip"),
    case(a_public_bucket, "public", "lease/bucket/public-access#block_public_policy", part="vault"),
    case(a_function_with_an_address, "public", "added"),
    case(agents_in_a_public_subnet, "public", "agent/service", part="primary", environment="internal"),
    case(a_bucket_without_kms, "encryption", "lease/bucket/bucket", part="vault"),
    case(a_bucket_without_anything, "encryption", "added", part="vault"),
    case(a_topic_without_a_key, "encryption", "incidents/topic"),
    case(a_topic_with_the_service_key, "encryption", "incidents/topic"),
    case(a_volume_without_a_key, "encryption", "vector/service"),
    case(a_key_that_stays, "encryption", "key/key"),
    case(an_unknown_store, "encryption", "added"),
    case(a_database_without_a_key, "encryption", "state/instance", part="primary", environment="internal"),
    case(a_database_without_tls, "encryption", "state/parameters", part="primary", environment="internal"),
    case(a_replica_without_a_key, "encryption", "state-password/secret", part="primary", environment="internal"),
    case(plain_callers, "encryption", "dead-letters/policy"),
    case(replication_of_plain_objects_only, "encryption", "standby-vault/replicate", part="vault"),
    case(a_password_in_the_state, "secrets", "state/instance#password", part="primary", environment="internal"),
    case(a_secret_in_the_state, "secrets", "added#secret_string"),
    case(an_ephemeral_value_that_stays, "secrets", "incidents/topic#display_name"),
    case(a_password_in_a_variable, "secrets", "prune/function#environment.variables.RELIGHT_STATE"),
    case(a_secret_in_a_variable, "secrets", "prune/function#environment.variables.OPENAI_API_KEY"),
    case(a_log_for_ever, "logs", "prune/log/group"),
    case(a_log_that_lambda_makes, "logs", "prune/function"),
    case(a_container_without_a_log, "logs", "agent/task"),
    case(a_machine_without_a_log, "logs", "recovery/machine/machine"),
    case(a_database_that_makes_its_log, "logs", "state/instance", part="primary", environment="internal"),
    case(insights_that_make_their_log, "logs", "cluster/cluster"),
]


@pytest.mark.parametrize("sabotage", CASES)
def test_a_broken_rule_is_noticed(syntheses: Mapping[str, Synthesis], sabotage: Sabotage) -> None:
    """fails when a stack could break a rule unseen: the rule finds what was broken, and nothing that was not."""
    broken = deepcopy(syntheses[sabotage.environment].stacks[sabotage.part])
    sabotage.breaks(broken)
    stack = Stack(sabotage.environment, sabotage.part, broken)
    problems = list(RULES[sabotage.rule](stack))
    left = [problem for problem in problems if unexcepted(sabotage.rule, [problem], read())]
    assert left, "the rule does not notice"
    for problem in left:
        assert fnmatchcase(problem.subject, f"{sabotage.part}/{sabotage.subject}"), problem


def test_each_rule_has_a_sabotage() -> None:
    """A rule that was never seen to notice anything is none."""
    assert {item.values[0].rule for item in CASES} == set(RULES)


def test_each_rule_is_explained() -> None:
    """fails when docs/assertions.md has no line of a rule."""
    text = (ROOT / "docs" / "assertions.md").read_text()
    assert [rule for rule in RULES if f"| {rule} |" not in text] == []
