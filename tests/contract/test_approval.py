"""A recovery that asks people first: real executions that wait for a task token, the function that asks, the verb that
answers."""

from __future__ import annotations

import asyncio
import io
import json
import secrets
import zipfile
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import pytest
from unit.test_config import SETTINGS

from relight.adapters import aws
from relight.clock import SystemClock
from relight.config import Role
from relight.recovery.awake import WAKE
from relight.recovery.sentinel import running_executions
from relight.recovery.timeline import Timeline
from relight.vault.store import Vault
from relight_cli.console import DONE, FAILED
from relight_cli.main import main
from relight_constructs import awake_machine
from relight_constructs.recovery_machine import APPROVE, VERBS, Step, TaskRun, definition
from relight_constructs.timeouts import Waits
from relight_drill.processes import wait_until
from relight_lambdas.approve import handler

if TYPE_CHECKING:
    from collections.abc import Callable

    from relight_drill.emulator import Emulator

pytestmark = pytest.mark.servers

REGION = "us-west-2"

# Stands in for every function: it only keeps the events that the state machine called it with. What it answers is
# hydrate's for a memory that is too large. In a run that is called so, two functions fail once as one that Lambda has
# put to sleep, or fence as one that another run overtook.
KEEPER = """
import json, os, time, botocore.session

def handler(event, context):
    s3 = botocore.session.get_session().create_client("s3", region_name="us-west-2")
    run, verb = event.get("run_id", ""), os.environ["VERB"]
    if run == "overtaken" and verb == "fence":
        raise type("OvertakenError", (Exception,), {})("epoch 2 is held already")
    if run == "asleep" and verb in ASLEEP:
        try:
            s3.put_object(Bucket=os.environ["BUCKET"], Key=f"woken/{verb}", Body=b"", IfNoneMatch="*")
        except s3.exceptions.ClientError:
            pass  # woken by the call before
        else:
            raise type(ASLEEP[verb], (Exception,), {})("The function is being woken")
    key = f"calls/{time.time_ns()}-{os.environ['VERB']}"
    s3.put_object(Bucket=os.environ["BUCKET"], Key=key, Body=json.dumps(event))
    return {"large": True}
"""
ASLEEP = {"assess": "CodeArtifactUserPendingException", "hydrate": "ResourceNotReadyException"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Machine:
    """A deployed state machine whose functions keep what they are called with."""

    emulator: Emulator
    arn: str
    bucket: str
    queue: str

    def start(self, run_id: str) -> str:
        """Start an execution, as the sentinel does; its ARN."""
        event = {"run_id": run_id, "next_epoch": 2, "reason": "the primary is lost", "at": "2026-04-19T02:00:00+00:00"}
        states = self.emulator.client("stepfunctions", REGION)
        answer = states.start_execution(stateMachineArn=self.arn, name=run_id, input=json.dumps(event))
        return str(answer["executionArn"])

    def calls(self) -> list[tuple[str, dict[str, Any]]]:
        """The verb and the event of every call so far, oldest first."""
        s3 = self.emulator.client("s3", REGION)
        keys = [item["Key"] for item in s3.list_objects_v2(Bucket=self.bucket, Prefix="calls/").get("Contents", [])]
        return [
            (key.partition("-")[2], json.loads(s3.get_object(Bucket=self.bucket, Key=key)["Body"].read()))
            for key in sorted(keys)
        ]

    def called(self, verb: str) -> dict[str, Any]:
        """The event of the first call of a function, as soon as there is one."""
        self.until(lambda: verb in dict(self.calls()), f"a call of {verb}")
        return next(event for name, event in self.calls() if name == verb)

    def ended(self, execution: str) -> dict[str, Any]:
        """How the execution ended, as soon as it has."""
        states = self.emulator.client("stepfunctions", REGION)
        self.until(lambda: states.describe_execution(executionArn=execution)["status"] != "RUNNING", "the end")
        return dict(states.describe_execution(executionArn=execution))

    def told(self) -> list[dict[str, Any]]:
        """What the incidents topic was told."""
        found = self.emulator.client("sqs", REGION).receive_message(
            QueueUrl=self.queue, MaxNumberOfMessages=10, WaitTimeSeconds=10
        )
        return [json.loads(item["Body"]) for item in found.get("Messages", [])]

    def timeline(self, run_id: str) -> list[tuple[str, str]]:
        """The states and how they ended."""
        vault = Vault(self.emulator.client("s3", REGION), self.bucket, region=REGION)
        return [(item.state, item.status) for item in Timeline(vault, run_id, clock=SystemClock()).events()]

    def until(self, true: Callable[[], bool], what: str) -> None:
        """Wait until something is there."""

        async def found() -> bool:
            return true()

        asyncio.run(wait_until(found, what=what, timeout_s=60))


@pytest.fixture
def deploy(emulator: Emulator, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Machine]:
    """Deploys a machine that waits for what it is told, and hydrates by a task where it is told of one; or the one that
    keeps the functions awake."""
    name = f"approval-{secrets.token_hex(4)}"
    iam, sns, sqs = (emulator.client(service, REGION) for service in ("iam", "sns", "sqs"))
    emulator.client("s3", REGION).create_bucket(Bucket=name, CreateBucketConfiguration={"LocationConstraint": REGION})
    topic = sns.create_topic(Name=name)["TopicArn"]
    queue = sqs.create_queue(QueueName=name)["QueueUrl"]
    queue_arn = sqs.get_queue_attributes(QueueUrl=queue, AttributeNames=["QueueArn"])["Attributes"]["QueueArn"]
    may_send = {
        "Effect": "Allow",
        "Principal": {"Service": "sns.amazonaws.com"},
        "Action": "sqs:SendMessage",
        "Resource": queue_arn,
    }
    policy = json.dumps({"Version": "2012-10-17", "Statement": [may_send]})
    sqs.set_queue_attributes(QueueUrl=queue, Attributes={"Policy": policy})
    sns.subscribe(TopicArn=topic, Protocol="sqs", Endpoint=queue_arn)
    trusted = [
        {"Effect": "Allow", "Principal": {"Service": f"{service}.amazonaws.com"}, "Action": "sts:AssumeRole"}
        for service in ("lambda", "states")
    ]
    document = json.dumps({"Version": "2012-10-17", "Statement": trusted})
    role = iam.create_role(RoleName=name, AssumeRolePolicyDocument=document)["Role"]["Arn"]
    allowed = {"Effect": "Allow", "Action": "s3:PutObject", "Resource": f"arn:aws:s3:::{name}/*"}
    iam.put_role_policy(
        RoleName=name,
        PolicyName="keep",
        PolicyDocument=json.dumps({"Version": "2012-10-17", "Statement": [allowed]}),
    )
    code = io.BytesIO()
    with zipfile.ZipFile(code, "w") as archive:
        archive.writestr("keeper.py", f"ASLEEP = {ASLEEP!r}\n{KEEPER}")
    steps = {}
    for verb in (*VERBS, APPROVE):
        made = emulator.client("lambda", REGION).create_function(
            FunctionName=f"{name}-{verb}",
            Runtime="python3.13",
            Role=role,
            Handler="keeper.handler",
            Timeout=60,
            Code={"ZipFile": code.getvalue()},
            Environment={"Variables": {"VERB": verb, "BUCKET": name, "AWS_ENDPOINT_URL": emulator.url}},
        )
        steps[verb] = Step(function_arn=made["FunctionArn"], timeout_s=60)
    settings = replace(
        SETTINGS, role=Role.STANDBY, region=REGION, vault_bucket=name, incidents_topic_arn=topic, state_machine_arn=""
    )
    for key, value in settings.to_env().items():
        monkeypatch.setenv(key, value)
    monkeypatch.setenv("AWS_ENDPOINT_URL", emulator.url)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", emulator.account)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "test")
    aws._session.cache_clear()  # an earlier test may have made it with credentials of its own

    def deployed(waits: Waits, *, large: TaskRun | None = None, awake: bool = False) -> Machine:
        recovers = definition(steps, waits=waits, whole_s=600, large=large)
        document = json.dumps(awake_machine.definition(steps) if awake else recovers)
        for error in ASLEEP.values():
            # Lambda itself raises these; a function of the emulator's cannot raise what has a dot in its name.
            assert f'"Lambda.{error}"' in document
            document = document.replace(f'"Lambda.{error}"', f'"{error}"')
        machine = emulator.client("stepfunctions", REGION).create_state_machine(
            name=name, roleArn=role, definition=document
        )
        return Machine(emulator=emulator, arn=machine["stateMachineArn"], bucket=name, queue=queue)

    return deployed


def test_a_recovery_goes_on_once_a_person_has_approved(
    deploy: Callable[..., Machine], capsys: pytest.CaptureFixture[str]
) -> None:
    """Nothing is fenced before; the topic says how to answer; the verb shows what is asked, and its answer lets the
    waiting execution run to its end."""
    machine = deploy(Waits(approval_s=600))
    execution = machine.start("r1")
    event = machine.called("approve")
    assert handler(event, None)["asked"] == "r1"
    (told,) = machine.told()
    assert told["Subject"] == f"Relight {SETTINGS.environment}: shall the standby take over?"
    message = json.loads(told["Message"])
    assert message["reason"] == "the primary is lost"
    assert message["recover"] == f"relight approve r1 --environment {SETTINGS.environment}"
    assert event["token"] not in told["Message"]
    assert [verb for verb, _ in machine.calls()] == ["assess", "approve"]

    assert main(["approve", "r1", "--dry-run"]) == DONE
    assert "the primary is lost" in capsys.readouterr().err
    assert [verb for verb, _ in machine.calls()] == ["assess", "approve"]

    assert main(["approve", "r1", "--yes", "--json"]) == DONE
    assert json.loads(capsys.readouterr().out) == {"run_id": "r1", "approved": True}
    assert machine.ended(execution)["status"] == "SUCCEEDED"
    verbs = [verb for verb, _ in machine.calls()]
    assert sorted(verbs) == sorted([*VERBS, "approve"])
    assert verbs[:3] == ["assess", "approve", "fence"]
    assert verbs[-1] == "announce"
    assert machine.called("fence")["next_epoch"] == 2, "the answer is nobody's input"
    assert machine.timeline("r1") == [("approve", "started"), ("approve", "done")]

    assert main(["approve", "r1", "--yes"]) == FAILED, "nobody waits any more"
    assert "NotFoundError" in capsys.readouterr().err


def test_a_refused_recovery_fences_nobody_and_pages(
    deploy: Callable[..., Machine], capsys: pytest.CaptureFixture[str]
) -> None:
    """The execution fails with the refusal, and the page says so."""
    machine = deploy(Waits(approval_s=600))
    execution = machine.start("r2")
    handler(machine.called("approve"), None)
    assert main(["approve", "r2", "--refuse", "--yes", "--json"]) == DONE
    assert json.loads(capsys.readouterr().out) == {"run_id": "r2", "approved": False}
    ended = machine.ended(execution)
    assert (ended["status"], ended["error"]) == ("FAILED", "Refused")
    assert [verb for verb, _ in machine.calls()] == ["assess", "approve", "announce"]
    assert machine.called("announce") == {"run_id": "r2", "failed": True, "error": "Refused"}
    assert machine.timeline("r2") == [("approve", "started"), ("approve", "failed")]


def test_a_recovery_that_nobody_answers_ends_and_pages(
    deploy: Callable[..., Machine], capsys: pytest.CaptureFixture[str]
) -> None:
    """An answer that comes too late is refused, and the verb says what to do instead."""
    machine = deploy(Waits(approval_s=1))
    execution = machine.start("r3")
    handler(machine.called("approve"), None)
    ended = machine.ended(execution)
    assert (ended["status"], ended["error"]) == ("FAILED", "States.Timeout")
    assert machine.called("announce")["error"] == "States.Timeout"
    assert main(["approve", "r3", "--yes"]) == FAILED
    assert "start a new one: relight recover" in capsys.readouterr().err


def test_a_run_that_asks_nothing_cannot_be_approved(
    deploy: Callable[..., Machine], capsys: pytest.CaptureFixture[str]
) -> None:
    """The error names the run, and where the right one is to be found."""
    deploy(Waits(approval_s=600))
    assert main(["approve", "r4", "--yes"]) == FAILED
    assert "the run 'r4' has asked for no approval; the incidents topic names" in capsys.readouterr().err


def test_a_recovery_waits_for_functions_that_sleep(deploy: Callable[..., Machine]) -> None:
    """fails when the call that wakes a function fails: it is called again, by itself and beside another, and nobody is
    paged."""
    machine = deploy(Waits())
    assert machine.ended(machine.start("asleep"))["status"] == "SUCCEEDED"
    calls = machine.calls()
    assert {verb for verb, _ in calls} == {*VERBS}
    assert len(calls) == len(VERBS)
    assert "failed" not in dict(calls)["announce"]


def test_every_function_is_called_to_stay_awake(deploy: Callable[..., Machine]) -> None:
    """Each once, the one that asks people too, and whatever the execution was started with, with what asks for
    nothing."""
    machine = deploy(Waits(), awake=True)
    assert machine.ended(machine.start("r1"))["status"] == "SUCCEEDED"
    calls = machine.calls()
    assert sorted(verb for verb, _ in calls) == sorted((*VERBS, APPROVE))
    assert all(event == WAKE for _, event in calls)


def test_a_recovery_that_another_overtook_ends_quietly(deploy: Callable[..., Machine]) -> None:
    """fails when another run has taken the epoch first: nothing comes after the fence, and nobody is paged."""
    machine = deploy(Waits())
    assert machine.ended(machine.start("overtaken"))["status"] == "SUCCEEDED"
    assert [verb for verb, _ in machine.calls()] == ["assess"]


def test_the_sentinel_sees_a_run_that_waits_for_a_person(deploy: Callable[..., Machine]) -> None:
    """As long as it waits, another for the same epoch would ask people twice; one for another epoch would not."""
    machine = deploy(Waits(approval_s=600))
    states = machine.emulator.client("stepfunctions", REGION)
    runs = running_executions(states, machine.arn)
    assert not runs(2)
    execution = machine.start("epoch-2-20260419T020020Z")
    machine.called("approve")
    assert [runs(epoch) for epoch in (1, 2, 20)] == [False, True, False]
    states.stop_execution(executionArn=execution)
    machine.until(lambda: not runs(2), "the end of the run")
