"""ECS's player: real processes follow the desired counts that the emulator holds."""

from __future__ import annotations

import asyncio
import io
import json
import sys
import zipfile
from typing import TYPE_CHECKING, Any

import boto3
import pytest
from botocore.exceptions import ClientError

from relight_drill.deployment import Service
from relight_drill.ecs import EcsPlayer
from relight_drill.processes import DrillError, Process, ProcessGroup, wait_until

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from relight_drill.emulator import Emulator

REGION = "us-west-2"
TRUST = {"Effect": "Allow", "Principal": {"Service": ["ecs-tasks.amazonaws.com", "lambda.amazonaws.com"]}}
ROLE = json.dumps({"Version": "2012-10-17", "Statement": [{**TRUST, "Action": "sts:AssumeRole"}]})
LISTENER = """
import json, os, pathlib

def handler(event, context):
    pathlib.Path(os.environ["HEARD"], event["id"]).write_text(json.dumps(event))
"""

pytestmark = pytest.mark.servers


class Sleeper:
    """A task that is a process."""

    def __init__(self, process: Process) -> None:
        self.process = process

    def alive(self) -> bool:
        return self.process.alive

    async def stop(self) -> None:
        await self.process.terminate()


class Fleet:
    """Starts sleepers and remembers what each was told."""

    def __init__(self, group: ProcessGroup, folder: Path) -> None:
        self.group = group
        self.folder = folder
        self.told: list[tuple[str, dict[str, str], dict[str, str]]] = []
        self.failing = False

    async def start(
        self, service: Service, _: str, environment: Mapping[str, str], credentials: Mapping[str, str]
    ) -> Sleeper:
        if self.failing:
            raise DrillError("the image cannot be pulled", hint="")
        self.told.append((service.name, dict(environment), dict(credentials)))
        command = [sys.executable, "-c", "import time; time.sleep(600)"]
        return Sleeper(self.group.start(service.name, command, log_path=self.folder / "log"))


@pytest.fixture(scope="module")
def services(emulator: Emulator) -> tuple[Service, ...]:
    """Two services in a cluster, whose tasks have a role that may list one bucket."""
    iam, ecs = emulator.client("iam", REGION), emulator.client("ecs", REGION)
    role = iam.create_role(RoleName="ecs-test", AssumeRolePolicyDocument=ROLE)["Role"]["Arn"]
    allowed = {"Effect": "Allow", "Action": "s3:ListBucket", "Resource": "arn:aws:s3:::ecs-test"}
    policy = json.dumps({"Version": "2012-10-17", "Statement": [allowed]})
    iam.put_role_policy(RoleName="ecs-test", PolicyName="p", PolicyDocument=policy)
    where: Any = {"LocationConstraint": REGION}
    emulator.client("s3", REGION).create_bucket(Bucket="ecs-test", CreateBucketConfiguration=where)
    cluster = ecs.create_cluster(clusterName="ecs-test")["cluster"]["clusterArn"]
    made = []
    for name, count in (("agent", 2), ("vector", 1)):
        container = {"name": name, "image": "x", "environment": [{"name": "RELIGHT_REGION", "value": REGION}]}
        ecs.register_task_definition(family=f"ecs-test-{name}", containerDefinitions=[container], taskRoleArn=role)
        ecs.create_service(
            cluster=cluster,
            serviceName=name,
            taskDefinition=f"ecs-test-{name}",
            desiredCount=count,
            launchType="FARGATE",
        )
        made.append(Service(region=REGION, cluster=cluster, name=name))
    return tuple(made)


def scale(emulator: Emulator, service: Service, count: int) -> None:
    emulator.client("ecs", REGION).update_service(cluster=service.cluster, service=service.name, desiredCount=count)


def shown(emulator: Emulator, services: tuple[Service, ...]) -> dict[str, tuple[int, int]]:
    """How many tasks of each service are asked for, and how many run, as whoever asks ECS is told."""
    names = [service.name for service in services]
    found = emulator.client("ecs", REGION).describe_services(cluster=services[0].cluster, services=names)["services"]
    return {item["serviceName"]: (item["desiredCount"], item["runningCount"]) for item in found}


def counts(player: EcsPlayer) -> dict[str, int]:
    return {name: len(tasks) for name, tasks in player.running.items()}


def test_processes_follow_the_desired_counts(
    emulator: Emulator, services: tuple[Service, ...], server_group: ProcessGroup, tmp_path: Path
) -> None:
    """Tasks are started, replaced when they die, stopped when they are too many; a lost region is left alone."""

    async def scenario() -> None:
        fleet = Fleet(server_group, tmp_path)
        player = EcsPlayer(emulator, REGION, services, fleet.start)
        player.play()
        try:
            await wait_until(lambda: counts(player) == {"agent": 2, "vector": 1}, what="all tasks", timeout_s=30)
            first = player.running["agent"][0]
            assert isinstance(first, Sleeper)
            first.process.kill()
            await wait_until(lambda: len(fleet.told) == 4, what="a replacement", timeout_s=30)
            await wait_until(lambda: counts(player)["agent"] == 2, what="two agents again", timeout_s=30)
            await asyncio.to_thread(scale, emulator, services[0], 1)
            await wait_until(lambda: counts(player)["agent"] == 1, what="one agent", timeout_s=30)
            await wait_until(lambda: len(player.history) == 6, what="the events", timeout_s=30)
            statuses = [(event.service, event.status) for event in player.history]
            assert statuses.count(("agent", "STOPPED")) == 2
            assert statuses.count(("agent", "RUNNING")) == 3
            assert not player.errors
            await player.lose()
            last = player.running["agent"][0]
            assert isinstance(last, Sleeper)
            last.process.kill()
            await asyncio.to_thread(scale, emulator, services[0], 2)
            assert counts(player) == {"agent": 0, "vector": 1}
        finally:
            await player.close()
        assert counts(player) == {"agent": 0, "vector": 0}
        assert len(fleet.told) == 4

    asyncio.run(scenario())


def test_a_task_gets_its_environment_and_its_roles_credentials(
    emulator: Emulator, services: tuple[Service, ...], server_group: ProcessGroup, tmp_path: Path
) -> None:
    """The environment is the task definition's, and the credentials may do what the task role says and no more."""

    async def scenario() -> dict[str, str]:
        fleet = Fleet(server_group, tmp_path)
        player = EcsPlayer(emulator, REGION, services[1:], fleet.start)
        player.play()
        await wait_until(lambda: counts(player) == {"vector": 1}, what="the task", timeout_s=30)
        await player.close()
        ((name, environment, credentials),) = fleet.told
        assert (name, environment) == ("vector", {"RELIGHT_REGION": REGION})
        return credentials

    given = asyncio.run(scenario())
    s3 = boto3.client(
        "s3",
        region_name=REGION,
        endpoint_url=emulator.url,
        aws_access_key_id=given["AWS_ACCESS_KEY_ID"],
        aws_secret_access_key=given["AWS_SECRET_ACCESS_KEY"],
        aws_session_token=given["AWS_SESSION_TOKEN"],
    )
    assert s3.list_objects_v2(Bucket="ecs-test")["KeyCount"] == 0
    with pytest.raises(ClientError, match="AccessDenied"):
        s3.put_object(Bucket="ecs-test", Key="k", Body=b"")


def test_a_start_that_fails_is_tried_again(
    emulator: Emulator, services: tuple[Service, ...], server_group: ProcessGroup, tmp_path: Path
) -> None:
    """A task that cannot be started is told of and tried again, and does not stop the other service."""

    async def scenario() -> None:
        fleet = Fleet(server_group, tmp_path)
        fleet.failing = True
        player = EcsPlayer(emulator, REGION, services[1:], fleet.start)
        player.play()
        try:
            await wait_until(lambda: bool(player.errors), what="the failure to be told", timeout_s=30)
            assert "the image cannot be pulled" in player.errors[0]
            fleet.failing = False
            await wait_until(lambda: counts(player) == {"vector": 1}, what="the task", timeout_s=30)
        finally:
            await player.close()

    asyncio.run(scenario())


def test_a_rule_on_a_running_task_calls_its_function(
    emulator: Emulator, services: tuple[Service, ...], server_group: ProcessGroup, tmp_path: Path
) -> None:
    """The hydration rule's pattern matches the event of the vector service's task, and no other service's."""
    pattern = {
        "source": ["aws.ecs"],
        "detail-type": ["ECS Task State Change"],
        "detail": {"clusterArn": [services[0].cluster], "group": ["service:vector"], "lastStatus": ["RUNNING"]},
    }
    code, heard = io.BytesIO(), tmp_path / "heard"
    heard.mkdir()
    with zipfile.ZipFile(code, "w") as archive:
        archive.writestr("listener.py", LISTENER)
    lambdas, events = emulator.client("lambda", REGION), emulator.client("events", REGION)
    role = emulator.client("iam", REGION).get_role(RoleName="ecs-test")["Role"]["Arn"]
    function = lambdas.create_function(
        FunctionName="ecs-test",
        Runtime="python3.13",
        Role=role,
        Handler="listener.handler",
        Code={"ZipFile": code.getvalue()},
        Environment={"Variables": {"HEARD": str(heard)}},
    )["FunctionArn"]
    rule = events.put_rule(Name="ecs-test", EventPattern=json.dumps(pattern))["RuleArn"]
    for statement, source in (("other", rule + "-not"), ("this", rule)):
        lambdas.add_permission(
            FunctionName="ecs-test",
            StatementId=statement,
            Action="lambda:InvokeFunction",
            Principal="events.amazonaws.com",
            SourceArn=source,
        )
    events.put_targets(Rule="ecs-test", Targets=[{"Id": "t", "Arn": function}])

    async def scenario() -> None:
        fleet = Fleet(server_group, tmp_path)
        player = EcsPlayer(emulator, REGION, services, fleet.start)
        player.play()
        try:
            await wait_until(lambda: counts(player) == {"agent": 2, "vector": 1}, what="all tasks", timeout_s=30)
            await wait_until(lambda: any(heard.iterdir()), what="the function to be called", timeout_s=30)
        finally:
            await player.close()
        assert not player.errors
        (event,) = [json.loads(path.read_text()) for path in heard.iterdir()]
        assert event["detail"]["group"] == "service:vector"
        assert event["detail"]["clusterArn"] == services[0].cluster
        assert event["region"] == REGION

    asyncio.run(scenario())


def test_a_service_runs_what_was_started_and_no_more(
    emulator: Emulator, services: tuple[Service, ...], server_group: ProcessGroup, tmp_path: Path
) -> None:
    """fails when a recovery of a drill is told that tasks run which are only asked for."""
    for service in services:
        scale(emulator, service, 0)

    async def scenario() -> None:
        fleet = Fleet(server_group, tmp_path)
        player = EcsPlayer(emulator, REGION, services, fleet.start)
        player.play()

        async def none_runs() -> bool:
            return await asyncio.to_thread(shown, emulator, services) == {"agent": (0, 0), "vector": (0, 0)}

        async def both_run() -> bool:
            return (await asyncio.to_thread(shown, emulator, services))["agent"] == (2, 2)

        try:
            await wait_until(none_runs, what="nothing to run", timeout_s=30)
            fleet.failing = True
            await asyncio.to_thread(scale, emulator, services[0], 2)
            await wait_until(lambda: bool(player.errors), what="agents that do not start", timeout_s=30)
            assert (await asyncio.to_thread(shown, emulator, services))["agent"] == (2, 0)
            fleet.failing = False
            await wait_until(both_run, what="both agents to run", timeout_s=60)
        finally:
            await player.close()
            await asyncio.to_thread(scale, emulator, services[1], 1)

    asyncio.run(scenario())


def test_a_function_that_does_not_let_a_rule_call_it_is_not_called(
    emulator: Emulator, services: tuple[Service, ...], server_group: ProcessGroup, tmp_path: Path
) -> None:
    """fails when the permission of the deployed rule is missing: the player says so, and calls nobody."""
    emulator.client("lambda", REGION).remove_permission(FunctionName="ecs-test", StatementId="this")

    async def scenario() -> None:
        fleet = Fleet(server_group, tmp_path)
        player = EcsPlayer(emulator, REGION, services, fleet.start)
        player.play()
        try:
            await wait_until(lambda: bool(player.errors), what="the refusal", timeout_s=30)
            assert "does not let" in player.errors[0]
        finally:
            await player.close()

    asyncio.run(scenario())
