"""The place in which restores are rehearsed: apart from all that lives, torn down in every case, and watched."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
from unit.test_config import SETTINGS

from relight.config import Role
from relight.recovery.metrics import NAMESPACE
from relight.recovery.rehearsal import AGE
from relight_constructs.access import SigningRef, TopicRef, VaultRef
from relight_constructs.props import Code, Place, RehearsalProps, ScratchStoreProps
from relight_constructs.rehearsal_machine import (
    CLOSE,
    CLOSE_AFTER_FAILURE,
    FAILED,
    IS_LARGE,
    OPEN,
    REHEARSE,
    REHEARSE_TASK,
    whole_s,
)
from relight_stacks.environment import LONGEST_NAME, OtherStore
from relight_stacks.loading import examples_folder, load_environments
from relight_stacks.rehearsal import GRACE_S, longest_gap_s, vault_ports

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from synthesis import Synthesis

PART = "rehearsal"
DAY_S = 24 * 3600
EXAMPLES = {environment.name: environment for environment in load_environments(examples_folder())}
REHEARSED = sorted(name for name, environment in EXAMPLES.items() if environment.rehearsed)
# What AWS knows a resource by.
NAMES = ("name", "function_name", "alarm_name")


def blocks(value: Any) -> dict[str, Any]:
    """The one block of an argument, however it is written."""
    (found,) = value if isinstance(value, list) else [value]
    return dict(found)


def definition(found: Synthesis) -> dict[str, Any]:
    """Of the state machine."""
    (machine,) = found.resources("aws_sfn_state_machine", part=PART).values()
    return dict(json.loads(machine["definition"]))


def allowed(found: Synthesis, role_path: str) -> set[str]:
    """What a role may do, as `action resource`, with what is the environment's own shortened."""
    name, place = found.environment, EXAMPLES[found.environment]
    role = found.address_of("aws_iam_role", f"{PART}/rehearsal/{role_path}")
    short = {
        f"arn:aws:lambda:{place.regions.standby}:{place.account}:function:relight-{name}-": "function ",
        f"arn:aws:logs:{place.regions.standby}:{place.account}:log-group:": "log ",
        f"arn:aws:s3:::relight-{name}-vault-{place.account}-{place.regions.standby}": "vault",
        f"arn:aws:kms:{place.regions.standby}:{place.account}:key/*": "vault-keys",
        f"arn:aws:ecs:{place.regions.standby}:{place.account}:": "",
        f"arn:aws:states:{place.regions.standby}:{place.account}:stateMachine:relight-{name}-rehearsal": "machine",
        f"arn:aws:sqs:{place.regions.standby}:{place.account}:relight-{name}-rehearsal-": "",
        f"${{{found.address_of('aws_kms_key', f'{PART}/rehearsal/key/key')}.arn}}": "own-key",
        f"${{{found.address_of('aws_secretsmanager_secret', f'{PART}/rehearsal/password/secret')}.arn}}": "password",
    }
    may = set()
    for item in found.resources("aws_iam_role_policy", part=PART).values():
        if item["role"] != f"${{{role}.name}}":
            continue
        for statement in json.loads(item["policy"])["Statement"]:
            if statement["Effect"] != "Allow":
                continue
            for resource in statement["Resource"]:
                for long, label in short.items():
                    resource = resource.replace(long, label)
                may |= {f"{action} {resource.replace(f'relight-{name}-', '')}" for action in statement["Action"]}
    return may


LETTERS = {"sqs:SendMessage dead-letters", "kms:Decrypt own-key", "kms:GenerateDataKey own-key"}
METRICS_PUT = {"cloudwatch:PutMetricData *"}
JOIN = {
    f"ec2:{action} *"
    for action in (
        *("AssignPrivateIpAddresses", "CreateNetworkInterface", "DeleteNetworkInterface"),
        *("DescribeNetworkInterfaces", "DescribeSubnets", "UnassignPrivateIpAddresses"),
    )
}
RUN = {
    *("ecs:UpdateService service/rehearsal/scratch", "ecs:UpdateService cluster/rehearsal"),
    *("ecs:ListTasks *", "ecs:DescribeTasks task/rehearsal/*", "states:ListExecutions machine"),
}
TABLE: dict[str, set[str]] = {
    OPEN: RUN,
    CLOSE: RUN,
    REHEARSE: JOIN
    | METRICS_PUT
    | {"secretsmanager:GetSecretValue password", "kms:Verify vault-keys", "kms:Decrypt vault-keys"}
    | {"s3:ListBucket vault", "s3:GetObject vault/points/*"}
    | {"s3:PutObject vault/rehearsals/*", "kms:GenerateDataKey vault-keys"},
    "rehearse-age": METRICS_PUT | {"s3:ListBucket vault", "s3:GetObject vault/rehearsals/*", "kms:Decrypt vault-keys"},
}


@pytest.mark.parametrize("verb", sorted(TABLE))
@pytest.mark.parametrize("name", REHEARSED)
def test_a_function_may_do_what_the_table_says(syntheses: Mapping[str, Synthesis], name: str, verb: str) -> None:
    """Fails when a permission is added or taken; nothing reads the connections, and nothing writes a point."""
    region = EXAMPLES[name].regions.standby
    own = {f"logs:{action} log /aws/lambda/{verb}:*" for action in ("CreateLogStream", "PutLogEvents")}
    own |= {"xray:PutTelemetryRecords *", "xray:PutTraceSegments *"} | LETTERS
    read = {f"s3:GetObject vault/verified/{region}/*"} if verb == REHEARSE else set()
    assert allowed(syntheses[name], f"{verb}/role/role") == TABLE[verb] | read | own


@pytest.mark.parametrize("name", REHEARSED)
def test_the_task_may_do_what_it_stands_in_for(syntheses: Mapping[str, Synthesis], name: str) -> None:
    """What the function may that rehearses, but to join a network, to leave letters and to trace, which Lambda does."""
    read = {f"s3:GetObject vault/verified/{EXAMPLES[name].regions.standby}/*"}
    own = {"kms:Decrypt own-key"}
    assert allowed(syntheses[name], "work/role/role") == (TABLE[REHEARSE] - JOIN) | read | own


@pytest.mark.parametrize("name", REHEARSED)
def test_the_machine_and_the_schedules_may_call_what_is_theirs(syntheses: Mapping[str, Synthesis], name: str) -> None:
    """The machine its three functions and the task; each schedule what it calls, or leave a dead letter."""
    found = syntheses[name]
    calls = {item for item in allowed(found, "machine/role/role") if not item.startswith(("logs:", "xray:"))}
    assert {item for item in calls if item.startswith("lambda:")} == {
        f"lambda:InvokeFunction function {verb}" for verb in (OPEN, REHEARSE, CLOSE)
    }
    assert {item.split()[0] for item in calls if not item.startswith("lambda:")} == {
        *("ecs:RunTask", "ecs:DescribeTasks", "ecs:StopTask", "iam:PassRole"),
        *("events:DescribeRule", "events:PutRule", "events:PutTargets"),
    }
    assert "ecs:RunTask task-definition/rehearsal-work:*" in calls
    assert allowed(found, "schedule/role/role") == {"states:StartExecution machine"} | LETTERS
    assert allowed(found, "age-schedule/role/role") == {"lambda:InvokeFunction function rehearse-age"} | LETTERS
    schedule = found.one("aws_scheduler_schedule", f"{PART}/rehearsal/schedule/schedule")
    assert schedule["schedule_expression"] == EXAMPLES[name].shape.rehearse
    assert blocks(schedule["target"])["arn"] == f"{EXAMPLES[name].names.rehearsal_machine_arn}"


@pytest.mark.parametrize("name", REHEARSED)
def test_nothing_is_shared_with_what_lives(syntheses: Mapping[str, Synthesis], name: str) -> None:
    """fails when the place has a name, a network, a key, a password or a cluster in common with the standby."""
    found = syntheses[name]
    called = {
        part: {(type_, body[key]) for at, type_, _, body in found.every() if at == part for key in NAMES if key in body}
        for part in ("standby", PART)
    }
    assert called[PART], "the resources have names"
    shared = {item for item in called[PART] & called["standby"] if item[0] != "aws_iam_role_policy"}
    assert shared == set()
    assert len(found.resources("aws_vpc", part=PART)) == 1
    kinds = {type_ for part, type_, _, _ in found.every() if part == PART}
    assert not kinds & {"aws_internet_gateway", "aws_nat_gateway", "aws_eip", "aws_vpc_peering_connection", "aws_lb"}
    assert "connections" not in "".join(
        item["policy"] for item in found.resources("aws_iam_role_policy", part=PART).values()
    )
    password = found.one("aws_secretsmanager_secret", f"{PART}/rehearsal/password/secret")
    assert password["name"] == f"relight/{name}/rehearsal-password"
    (version,) = found.resources("aws_secretsmanager_secret_version", part=PART).values()
    assert "random_password" in version["secret_string_wo"]
    assert "secret_string" not in version


@pytest.mark.parametrize("name", REHEARSED)
def test_who_reaches_whom(syntheses: Mapping[str, Synthesis], name: str) -> None:
    """The function reaches the store on its port, both reach AWS's endpoints and S3; nobody else reaches anybody."""
    found = syntheses[name]
    groups = {
        f"${{{found.address_of('aws_security_group', path)}.id}}": path.rsplit("/", 1)[1].removesuffix("-group")
        for path in found.resources("aws_security_group", part=PART)
    }
    ingress = {
        (groups[rule["referenced_security_group_id"]], groups[rule["security_group_id"]], rule["from_port"])
        for rule in found.resources("aws_vpc_security_group_ingress_rule", part=PART).values()
    }
    store = found.one("aws_ecs_task_definition", f"{PART}/rehearsal/store/task")
    port = json.loads(store["container_definitions"])[0]["portMappings"][0]["containerPort"]
    assert ingress == {
        ("functions", "vector", port),
        ("functions", "endpoints", 443),
        ("vector", "endpoints", 443),
    }
    egress = found.resources("aws_vpc_security_group_egress_rule", part=PART).values()
    assert not [rule for rule in egress if "cidr_ipv4" in rule]
    (service,) = found.resources("aws_ecs_service", part=PART).values()
    assert blocks(service["network_configuration"])["assign_public_ip"] is False


def test_it_can_be_taken_alone(tmp_path: Path) -> None:
    """In somebody's own stack, of an image in no registry of ECR: then a NAT gateway is the way to it, and to AWS; and
    what asks for no such thing has none."""
    from relight_constructs.bindings import App, AwsProvider, TerraformStack
    from relight_constructs.rehearsal import Rehearsal

    place = Place(account="111122223333", region="eu-west-1", prefix="theirs")
    props = RehearsalProps(
        place=place,
        name="theirs-rehearsal",
        environment=SETTINGS.to_env(),
        code=Code(path="relight.zip", sha256="abc="),
        vault=VaultRef(label="vault", bucket="theirs", region=place.region, account=place.account, key_alias="alias/v"),
        signing=SigningRef(alias="alias/s", region=place.region, account=place.account),
        topic=TopicRef(name="theirs", region=place.region, account=place.account, key_alias="alias/t"),
        store=ScratchStoreProps(
            image="docker.io/qdrant/qdrant:v1.15.4",
            cpu=512,
            memory=1024,
            storage_gib=20,
            port=6333,
            data="/data",
            password_variable="QDRANT__SERVICE__API_KEY",
            health_command="true",
            form="http://:{password}@{host}:6333",
        ),
        key_alias="alias/theirs-rehearsal",
        password_secret="theirs/rehearsal",
        password_version=1,
        rate="rate(30 days)",
        late_after_s=DAY_S,
        internet=True,
        log_retention_days=30,
    )
    app = App(outdir=str(tmp_path))
    made = {"with": props, "without": replace(props, internet=False), "vault": replace(props, ports_out=(9000,))}
    for name, said in made.items():
        theirs = TerraformStack(app, name)
        AwsProvider(theirs, "aws", region=place.region)
        Rehearsal(theirs, "rehearsal", said)
    app.synth()
    ways = {}
    for name in made:
        resources = json.loads((tmp_path / "stacks" / name / "cdk.tf.json").read_text())["resource"]
        out = resources["aws_vpc_security_group_egress_rule"].values()
        anywhere = {rule["from_port"] for rule in out if rule.get("cidr_ipv4") == "0.0.0.0/0"}
        endpoints = {item["service_name"].rsplit("eu-west-1.")[1] for item in resources["aws_vpc_endpoint"].values()}
        assert {group["retention_in_days"] for group in resources["aws_cloudwatch_log_group"].values()} == {30}
        ways[name] = (len(resources.get("aws_nat_gateway", {})), anywhere, endpoints)
    assert ways["with"] == (1, {443}, {"s3"})
    private = {"s3", "ecr.api", "ecr.dkr", "kms", "logs", "monitoring", "secretsmanager"}
    assert ways["without"] == (0, set(), private)
    assert ways["vault"] == (1, {443, 9000}, {"s3"}), "a vault outside AWS may be on a port of its own"
    with pytest.raises(ValueError, match=r"ports_out=\(9000,\) with internet=False"):
        replace(props, internet=False, ports_out=(9000,))


@pytest.mark.parametrize("name", REHEARSED)
def test_the_store_does_not_run_until_a_rehearsal(syntheses: Mapping[str, Synthesis], name: str) -> None:
    """It is deployed with a count of 0, on an encrypted volume that lives as long as its task."""
    (service,) = syntheses[name].resources("aws_ecs_service", part=PART).values()
    assert service["desired_count"] == 0
    assert "desired_count" in service["lifecycle"]["ignore_changes"]
    volume = blocks(blocks(service["volume_configuration"])["managed_ebs_volume"])
    key = syntheses[name].address_of("aws_kms_key", f"{PART}/rehearsal/key/key")
    assert (volume["encrypted"], volume["kms_key_id"]) == (True, f"${{{key}.arn}}")


@pytest.mark.parametrize("name", REHEARSED)
def test_it_is_torn_down_in_every_case(syntheses: Mapping[str, Synthesis], name: str) -> None:
    """After each state that fails or takes too long comes the closing; what ends an execution otherwise is heard by a
    rule that calls it. Only one that was refused its turn closes nothing."""
    found = syntheses[name]
    document = definition(found)
    states = document["States"]
    assert document["StartAt"] == OPEN
    for state in (OPEN, REHEARSE, REHEARSE_TASK, CLOSE):
        last = states[state]["Catch"][-1]
        assert (last["ErrorEquals"], last["Next"]) == (["States.ALL"], CLOSE_AFTER_FAILURE)
        assert states[state]["TimeoutSeconds"] > 0
    assert [(item["ErrorEquals"], item["Next"]) for item in states[OPEN]["Catch"][:-1]] == [(["ConflictError"], FAILED)]
    assert (states[OPEN]["Next"], states[REHEARSE]["Next"], states[CLOSE]["End"]) == (REHEARSE, IS_LARGE, True)
    (is_large,) = states[IS_LARGE]["Choices"]
    assert (states[IS_LARGE]["Default"], is_large["Next"], states[REHEARSE_TASK]["Next"]) == (
        CLOSE,
        REHEARSE_TASK,
        CLOSE,
    )
    closing = states[CLOSE_AFTER_FAILURE]
    assert closing["Parameters"] == states[CLOSE]["Parameters"]
    assert {closing["Next"], *(item["Next"] for item in closing["Catch"])} == {FAILED}
    rule = found.one("aws_cloudwatch_event_rule", f"{PART}/rehearsal/on-end/rule")
    assert json.loads(rule["event_pattern"]) == {
        "source": ["aws.states"],
        "detail-type": ["Step Functions Execution Status Change"],
        "detail": {
            "stateMachineArn": [EXAMPLES[name].names.rehearsal_machine_arn],
            "status": ["ABORTED", "FAILED", "TIMED_OUT"],
        },
    }
    target = found.one("aws_cloudwatch_event_target", f"{PART}/rehearsal/on-end/target")
    assert target["arn"] == states[CLOSE]["Parameters"]["FunctionName"]
    # The functions, called once more where they were ended, and the task fit into what an execution may take.
    calls = 2 * sum(states[state]["TimeoutSeconds"] for state in (OPEN, REHEARSE, CLOSE, CLOSE_AFTER_FAILURE))
    assert document["TimeoutSeconds"] == whole_s(large=True) > calls + states[REHEARSE_TASK]["TimeoutSeconds"]


@pytest.mark.parametrize(("port", "expected"), [("", ()), (":443", ()), (":9000", (9000,))])
def test_a_vault_elsewhere_is_reached_on_its_port(port: str, expected: tuple[int, ...]) -> None:
    """Of the standby's vault alone: a rehearsal reads no other."""
    internal = EXAMPLES["internal"]
    store = OtherStore(endpoint=f"https://s3.example.com{port}", bucket="ours", lock_days=7)
    for role, ports in ((Role.STANDBY, expected), (Role.PRIMARY, ())):
        assert vault_ports(replace(internal, vaults=replace(internal.vaults, other={role: store}))) == ports


@pytest.mark.parametrize("name", REHEARSED)
def test_people_are_told_when_one_fails_is_not_begun_or_leaves_its_store(
    syntheses: Mapping[str, Synthesis], name: str
) -> None:
    """Each alarm is on what is really put, and tells the standby's topic, which the place knows by its name."""
    found, environment = syntheses[name], EXAMPLES[name]
    alarms = {
        body["alarm_name"].removeprefix(f"relight-{name}-rehearsal-"): body
        for body in found.resources("aws_cloudwatch_metric_alarm", part=PART).values()
    }
    assert alarms.keys() == {
        *("ExecutionsFailed", "ExecutionsTimedOut", "ExecutionsAborted", "late", "left-open", "dead-letters")
    }
    region, account = environment.regions.standby, environment.account
    topic = f"arn:aws:sns:{region}:{account}:relight-{name}-incidents"
    assert all(alarm["alarm_actions"] == [topic] for alarm in alarms.values())
    (made,) = (body["name"] for body in found.resources("aws_sns_topic", part="standby").values())
    assert topic.endswith(f":{made}")
    late = alarms["late"]
    assert (late["namespace"], late["metric_name"], late["treat_missing_data"]) == (NAMESPACE, AGE, "breaching")
    assert late["dimensions"] == {"environment": name, "region": region}
    assert late["threshold"] == longest_gap_s(environment.shape.rehearse) + GRACE_S
    left = alarms["left-open"]
    assert left["period"] * left["datapoints_to_alarm"] > whole_s(large=True)
    (service,) = found.resources("aws_ecs_service", part=PART).values()
    assert left["dimensions"] == {"ClusterName": f"relight-{name}-rehearsal", "ServiceName": service["name"]}


@pytest.mark.parametrize(
    ("rate", "days"),
    [
        ("rate(30 days)", 30),
        ("rate(1 day)", 1),
        ("rate(12 hours)", 0.5),
        ("rate(90 minutes)", 0.0625),
        ("cron(0 4 1 * ? *)", 31),
        ("cron(0 4 L * ? *)", 31),
        ("cron(0 4 * * ? *)", 1),
        ("cron(0 4 ? * SUN *)", 7),
        ("cron(0 4 ? * MON-FRI *)", 7),
        ("cron(0 4 ? * 2#1 *)", 35),
        ("cron(0 4 ? * 6L *)", 35),
        ("cron(0 4 1 */3 ? *)", 366),
        ("cron(0 4 1 1 ? *)", 366),
        ("cron(0 4 ? * * *)", 1),
    ],
)
def test_a_rehearsal_is_late_after_its_schedules_longest_gap(rate: str, days: float) -> None:
    """fails when an alarm would tell of a rehearsal that is not due yet, or of one that is missed only much later."""
    assert longest_gap_s(rate) == days * DAY_S


def test_one_that_never_rehearses_has_no_place() -> None:
    """`recovery.rehearse = "never"`, and a tier without a standby."""
    internal = EXAMPLES["internal"]
    assert internal.rehearsed
    assert not replace(internal, given={**internal.given, "rehearse": ""}).rehearsed
    assert not EXAMPLES["sandbox"].rehearsed


@pytest.mark.parametrize("image", ["docker.io/pgvector/pgvector:pg17", "ghcr.io/ours/agent:1"])
def test_the_way_out_is_there_for_what_is_not_in_aws_alone(image: str) -> None:
    """fails when a place would pull an image that it cannot reach, or has a NAT gateway for nothing."""
    internal = EXAMPLES["internal"]
    assert not internal.rehearsed_over_internet
    assert replace(internal, vector=replace(internal.vector, image=image)).rehearsed_over_internet
    assert replace(internal, agent=replace(internal.agent, image=image)).rehearsed_over_internet


@pytest.mark.parametrize("name", REHEARSED)
def test_the_longest_names_fit(syntheses: Mapping[str, Synthesis], name: str) -> None:
    """IAM takes 64 characters of a role's name, and Lambda of a function's, however the environment and the region are
    called."""
    longest = {name: "x" * LONGEST_NAME, EXAMPLES[name].regions.standby: "ap-southeast-2"}
    for type_, key in (("aws_iam_role", "name"), ("aws_lambda_function", "function_name")):
        for body in syntheses[name].resources(type_, part=PART).values():
            called = body[key]
            for part, text in longest.items():
                called = called.replace(part, text)
            assert len(called) <= 64, body[key]
