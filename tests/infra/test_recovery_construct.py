"""The recovery alone, in the stack of somebody who has an agent, a database and a network of their own."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
from unit.test_config import SETTINGS

from relight.config import Role, Settings
from relight_constructs.access import LeaseRef, SigningRef, VaultRef
from relight_constructs.policies import Statement
from relight_constructs.props import Attachment, Code, DeadLettersProps, KeyProps, Place, RecoveryProps, TopicProps
from relight_constructs.recovery_machine import VERBS, WAKING_ERRORS
from relight_constructs.timeouts import WAKING_S, Waits

if TYPE_CHECKING:
    from pathlib import Path

    from relight_constructs.policies import Grantee

REGION = "eu-west-1"
ACCOUNT = "111122223333"
KEY_ALIAS = "alias/theirs"
PLACE = Place(account=ACCOUNT, region=REGION, prefix="theirs")
SECRET = f"arn:aws:secretsmanager:{REGION}:{ACCOUNT}:secret:their-database-abcdef"
GROUP = f"arn:aws:autoscaling:{REGION}:{ACCOUNT}:autoScalingGroup:*:autoScalingGroupName/their-agents"
OF_THEIRS = replace(
    SETTINGS,
    role=Role.STANDBY,
    region=REGION,
    standby_region=REGION,
    state_machine_arn=f"arn:aws:states:{REGION}:{ACCOUNT}:stateMachine:theirs-recovery",
)


class TheirSecret:
    """A secret that no construct of ours has made."""

    def grant_read(self, grantee: Grantee) -> None:
        """Read it."""
        grantee.allow("read-theirs", Statement(actions=("secretsmanager:GetSecretValue",), resources=(SECRET,)))


class TheirAgents:
    """Agents that run on machines of their own."""

    def grant_scale(self, grantee: Grantee) -> None:
        """Change how many there are."""
        grantee.allow("scale-theirs", Statement(actions=("autoscaling:SetDesiredCapacity",), resources=(GROUP,)))


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, dict[str, Any]]]:
    """The resources of their stack: by type, and by the path of their construct."""
    from relight_constructs.bindings import App, AwsProvider, TerraformStack
    from relight_constructs.deadletters import DeadLetters
    from relight_constructs.incidents import IncidentsTopic
    from relight_constructs.key import Key
    from relight_constructs.recovery import Recovery

    folder: Path = tmp_path_factory.mktemp("foreign")
    app = App(outdir=str(folder))
    theirs = TerraformStack(app, "theirs")
    AwsProvider(theirs, "aws", region=REGION)
    key = Key(
        theirs,
        "key",
        KeyProps(place=PLACE, alias=KEY_ALIAS, description="Theirs", for_logs=True, for_alarms=True, for_rules=True),
    )
    Recovery(
        theirs,
        "recovery",
        RecoveryProps(
            place=PLACE,
            name="theirs-recovery",
            environment=OF_THEIRS.to_env(),
            code=Code(path="relight.zip", sha256="abc="),
            key=key,
            attachment=Attachment(subnet_ids=("subnet-1",), security_group_ids=("sg-1",)),
            vault=VaultRef(
                label="vault", bucket="their-vault", region=REGION, account=ACCOUNT, key_alias="alias/their-vault"
            ),
            lease=LeaseRef(
                label="lease", bucket="their-lease", region=REGION, account=ACCOUNT, key_alias="alias/their-vault"
            ),
            signing=SigningRef(alias="alias/their-signing", region=REGION, account=ACCOUNT),
            connections=TheirSecret(),
            topic=IncidentsTopic(theirs, "incidents", TopicProps(place=PLACE, name="their-incidents", key=key)),
            rto_s=900,
            dead_letters=DeadLetters(theirs, "dead-letters", DeadLettersProps(place=PLACE, key=key)),
            capacity=(TheirAgents(),),
            waits=Waits(approval_s=600),
        ),
    )
    app.synth()
    document = json.loads((folder / "stacks" / "theirs" / "cdk.tf.json").read_text())
    return {
        type_: {body["//"]["metadata"]["path"].removeprefix("theirs/"): body for body in resources.values()}
        for type_, resources in document["resource"].items()
    }


def allowed(stack: dict[str, dict[str, dict[str, Any]]], verb: str) -> set[str]:
    """The actions of a function's role, beside what every function has."""
    roots = f"recovery/{verb}/role/"
    usual = ("log", "trace", "dead-letters", "join-network")
    return {
        action
        for path, item in stack["aws_iam_role_policy"].items()
        if path.startswith(roots) and path.removeprefix(roots) not in usual
        for statement in json.loads(item["policy"])["Statement"]
        for action in statement["Action"]
    }


def test_it_needs_nothing_of_relights_own_stacks(stack: dict[str, dict[str, dict[str, Any]]]) -> None:
    """The functions, the state machines, the sentinel, the schedules and the alarms; no cluster, database, network or
    bucket is made, and nothing is asked of anybody while it is planned."""
    assert {path.split("/")[1] for path in stack["aws_lambda_function"]} == {*VERBS, "approve", "sentinel"}
    assert {*stack["aws_sfn_state_machine"]} == {"recovery/machine/machine", "recovery/awake/machine"}
    schedules = {"recovery/awake-schedule/schedule", "recovery/sentinel-schedule/schedule"}
    assert {*stack["aws_scheduler_schedule"]} == schedules
    assert {*stack} == {
        *("aws_cloudwatch_log_group", "aws_cloudwatch_metric_alarm", "aws_iam_role", "aws_iam_role_policy"),
        *("aws_kms_alias", "aws_kms_key", "aws_lambda_function", "aws_scheduler_schedule", "aws_sfn_state_machine"),
        *("aws_sns_topic", "aws_sqs_queue", "aws_sqs_queue_policy"),
    }


def test_functions_are_told_what_they_are_given(stack: dict[str, dict[str, dict[str, Any]]]) -> None:
    """Their own settings, network and names, and the machine that the sentinel starts is the one that is deployed."""
    for path, function in stack["aws_lambda_function"].items():
        assert function["function_name"] == f"theirs-{path.split('/')[1]}"
        assert Settings.from_env(function["environment"]["variables"]) == OF_THEIRS
    assert stack["aws_sfn_state_machine"]["recovery/machine/machine"]["name"] == "theirs-recovery"
    network = stack["aws_lambda_function"]["recovery/promote/function"]["vpc_config"]
    assert (network["subnet_ids"], network["security_group_ids"]) == (["subnet-1"], ["sg-1"])


def test_what_is_theirs_is_granted_by_them(stack: dict[str, dict[str, dict[str, Any]]]) -> None:
    """Their secret is read by whoever is in the network, their agents are scaled by scale alone."""
    readers = {verb for verb in (*VERBS, "approve") if "secretsmanager:GetSecretValue" in allowed(stack, verb)}
    assert readers == {"assess", "promote", "hydrate", "verify", "replay", "open-gate"}
    assert [verb for verb in VERBS if "autoscaling:SetDesiredCapacity" in allowed(stack, verb)] == ["scale"]
    assert "ecs:UpdateService" not in allowed(stack, "scale")


def test_who_asks_people_may_do_nothing_else(stack: dict[str, dict[str, dict[str, Any]]]) -> None:
    """It keeps the question and tells the topic; the answer is given by a person's own permissions."""
    assert allowed(stack, "approve") == {"s3:PutObject", "kms:GenerateDataKey", "kms:Decrypt", "sns:Publish"}


def test_people_are_told_of_what_the_machine_cannot_say(stack: dict[str, dict[str, dict[str, Any]]]) -> None:
    """fails when an execution may fail, time out or be throttled, or nobody watch the primary, without an alarm."""
    watched = dict(stack["aws_cloudwatch_metric_alarm"])
    awake = watched.pop("recovery/awake/ExecutionsFailed/alarm")
    alarms = {(item["namespace"], item["metric_name"]): item for item in watched.values()}
    metrics = ("ExecutionsFailed", "ExecutionsTimedOut", "ExecutionThrottled")
    assert {*alarms} == {*(("AWS/States", name) for name in metrics), ("AWS/Lambda", "Errors")}
    assert len(watched) == len(alarms), "none hides another"
    assert awake["dimensions"]["StateMachineArn"].endswith(":theirs-recovery-awake")
    assert awake["alarm_actions"] == awake["ok_actions"] != []
    for name in metrics:
        arn = f"arn:aws:states:{REGION}:{ACCOUNT}:stateMachine:theirs-recovery"
        assert alarms["AWS/States", name]["dimensions"] == {"StateMachineArn": arn}
        assert alarms["AWS/States", name]["treat_missing_data"] == "notBreaching"
    sentinel = alarms["AWS/Lambda", "Errors"]
    assert sentinel["dimensions"] == {"FunctionName": "theirs-sentinel"}
    assert sentinel["treat_missing_data"] == "breaching", "one that is not called at all reports nothing"
    assert all(item["alarm_actions"] == item["ok_actions"] != [] for item in alarms.values())


def test_no_function_of_a_recovery_falls_asleep(stack: dict[str, dict[str, dict[str, Any]]]) -> None:
    """Once a day a machine of its own calls each of them, the one that asks people too, with what asks for nothing, and
    may call nothing else; the sentinel is called every minute."""
    machine = json.loads(stack["aws_sfn_state_machine"]["recovery/awake/machine"]["definition"])
    called = {}
    for branch in machine["States"]["awake"]["Branches"]:
        (state,) = branch["States"].values()
        called[branch["StartAt"]] = state["Parameters"]
        assert list(WAKING_ERRORS) in [retry["ErrorEquals"] for retry in state["Retry"]]
        assert 2 * state["TimeoutSeconds"] + WAKING_S < machine["TimeoutSeconds"]
    functions = f"arn:aws:lambda:{REGION}:{ACCOUNT}:function:theirs-"
    asked = (*VERBS, "approve")
    assert called == {verb: {"FunctionName": functions + verb, "Payload": {"wake": True}} for verb in asked}
    may = {
        resource
        for path, item in stack["aws_iam_role_policy"].items()
        if path.startswith("recovery/awake/role/")
        for statement in json.loads(item["policy"])["Statement"]
        if statement["Action"] == ["lambda:InvokeFunction"]
        for resource in statement["Resource"]
    }
    assert may == {functions + verb for verb in asked}
    schedule = stack["aws_scheduler_schedule"]["recovery/awake-schedule/schedule"]
    assert schedule["schedule_expression"] == "rate(1 day)"
    assert schedule["target"]["arn"].endswith(":stateMachine:theirs-recovery-awake")


def test_the_sentinel_sees_what_runs(stack: dict[str, dict[str, dict[str, Any]]]) -> None:
    """Of the machine that recovers alone: it starts no second execution beside one that runs."""
    (policy,) = (
        json.loads(item["policy"])["Statement"]
        for path, item in stack["aws_iam_role_policy"].items()
        if path == "recovery/sentinel/role/look-for-others"
    )
    machine = f"arn:aws:states:{REGION}:{ACCOUNT}:stateMachine:theirs-recovery"
    assert policy == [{"Effect": "Allow", "Action": ["states:ListExecutions"], "Resource": [machine]}]


def test_what_is_given_up_is_kept_and_encrypted(stack: dict[str, dict[str, dict[str, Any]]]) -> None:
    """Every function, and the schedule that could not reach one, leaves its letter in the one queue, for 14 days."""
    (queue,) = stack["aws_sqs_queue"].values()
    arn = f"arn:aws:sqs:{REGION}:{ACCOUNT}:theirs-dead-letters"
    assert (queue["name"], queue["message_retention_seconds"]) == ("theirs-dead-letters", 1_209_600)
    assert queue["kms_master_key_id"].startswith("${aws_kms_key.key")
    for function in stack["aws_lambda_function"].values():
        assert function["dead_letter_config"] == {"target_arn": arn}
    for schedule in stack["aws_scheduler_schedule"].values():
        assert schedule["target"]["dead_letter_config"] == {"arn": arn}


def test_a_memory_is_never_too_large_where_there_is_no_task(stack: dict[str, dict[str, dict[str, Any]]]) -> None:
    """Without one, the machine has no choice after hydrate and the function is told of no limit."""
    machine = json.loads(stack["aws_sfn_state_machine"]["recovery/machine/machine"]["definition"])
    branch = machine["States"]["scale-and-hydrate"]["Branches"][1]["States"]
    assert [*branch] == ["hydrate"]
    assert OF_THEIRS.large_bytes == 0
