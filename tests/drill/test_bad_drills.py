"""Drills in which the recovery itself is broken: each says so, and none passes."""

from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING, Any

import pytest

from relight.config import Role
from relight.objectives import Tier
from relight_drill import scenarios
from relight_drill.processes import DrillError, ProcessGroup
from relight_drill.world import World
from relight_stacks.loading import load_named

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from pathlib import Path

    from relight_drill.result import Outcome
    from relight_drill.world import RegionPlay

pytestmark = pytest.mark.drill


@pytest.fixture
def folder(server_dir: Path, request: pytest.FixtureRequest) -> Path:
    """A folder that the databases' user may pass through."""
    path = server_dir / str(request.node.name)
    path.mkdir(mode=0o711)
    return path


def run(folder: Path, name: str, sabotage: Callable[[World], Awaitable[None]]) -> Outcome:
    """One scenario in a world in which something was broken before the fault; no process may be left."""

    async def scenario(group: ProcessGroup) -> Outcome:
        async with World(load_named("demo"), folder=folder, group=group, seed=1, say=print) as world:
            await sabotage(world)
            return await scenarios.SCENARIOS[name].run(world, print)

    with ProcessGroup() as group:
        outcome = asyncio.run(scenario(group))
        assert group.processes == []
    assert not outcome.met
    return outcome


def forbid_reading(world: World) -> None:
    """Take from the hydrate function the right to read the vault."""
    iam: Any = world.emulator.client("iam", world.region(Role.PRIMARY))
    lambdas: Any = world.emulator.client("lambda", world.region(Role.STANDBY))
    name = world.environment.names.function("hydrate")
    role = lambdas.get_function_configuration(FunctionName=name)["Role"].rpartition("/")[2]
    for policy in iam.list_role_policies(RoleName=role)["PolicyNames"]:
        document = iam.get_role_policy(RoleName=role, PolicyName=policy)["PolicyDocument"]
        for statement in document["Statement"]:
            actions = [action for action in statement["Action"] if action != "s3:GetObject"]
            statement["Action"] = actions or ["s3:GetObjectTagging"]
        iam.put_role_policy(RoleName=role, PolicyName=policy, PolicyDocument=json.dumps(document))


def fail_to_raise(folder: Path, sabotaged: type[World]) -> str:
    """What is said about a world that cannot be raised; no process may be left."""

    async def scenario(group: ProcessGroup) -> None:
        async with sabotaged(load_named("demo"), folder=folder, group=group, seed=1, say=print):
            pytest.fail("it was raised")

    with ProcessGroup() as group:
        with pytest.raises(DrillError) as failure:
            asyncio.run(scenario(group))
        assert group.processes == []
    return str(failure.value)


def test_a_world_whose_store_never_runs_says_why(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """fails when the primary's vector store cannot be made: what ECS met with is named."""
    monkeypatch.setattr("relight_drill.world.STARTED_S", 5.0)

    class Sabotaged(World):
        def _play(self, region: RegionPlay) -> None:
            monkeypatch.setattr(region.vector, "create", self._fail)
            super()._play(region)

        async def _fail(self) -> None:
            raise DrillError("there is no room for a database", hint="make some")

    told = fail_to_raise(folder, Sabotaged)
    assert "waited 5 s for the vector store of us-east-1 to run, in vain" in told
    assert "there is no room for a database" in told


def test_a_world_whose_standby_is_never_whole_says_why(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """fails when the standby's store cannot be hydrated on boot: the function's own error is named."""
    monkeypatch.setattr("relight_drill.world.STARTED_S", 20.0)

    class Sabotaged(World):
        def _play(self, region: RegionPlay) -> None:
            if region.settings.role is Role.STANDBY:
                forbid_reading(self)
            super()._play(region)

    told = fail_to_raise(folder, Sabotaged)
    assert "for the vector store of us-west-2 to be whole, in vain" in told
    assert "hydrate: DeniedError" in told


def test_a_point_that_was_damaged_is_reported(folder: Path) -> None:
    """fails when a byte of the snapshot is flipped: the point is passed over, nothing is lost, the drill says so."""

    async def flip_a_byte(world: World) -> None:
        bucket = world.settings(Role.STANDBY).vault_bucket
        s3: Any = world.emulator.client("s3", world.region(Role.STANDBY))
        objects = s3.list_objects_v2(Bucket=bucket, Prefix="points/")["Contents"]
        (key,) = [item["Key"] for item in objects if not item["Key"].endswith("manifest.json")]
        body = bytearray(s3.get_object(Bucket=bucket, Key=key)["Body"].read())
        body[len(body) // 2] ^= 1
        s3.put_object(Bucket=bucket, Key=key, Body=bytes(body))

    outcome = run(folder, "standby-boot", flip_a_byte)
    assert outcome.lost.total == 0
    (problem,) = outcome.problems
    assert "was passed over" in problem
    assert "the object was altered or cut" in problem


def test_a_permission_that_is_missing_is_reported(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """fails when hydrate may not read the vault: the drill names the state and the refusal."""
    monkeypatch.setattr(scenarios, "BOOT_S", 20.0)

    async def take_permission(world: World) -> None:
        forbid_reading(world)

    outcome = run(folder, "standby-boot", take_permission)
    assert outcome.rto_s is None
    told = " ".join(outcome.problems)
    assert "hydrate: DeniedError" in told
    assert "s3:GetObject" in told or "GetObject" in told


def try_once(world: World) -> None:
    """Let the state machine try nothing again: how patient it is, tests of its definition hold."""
    machines: Any = world.emulator.client("stepfunctions", world.region(Role.STANDBY))
    arn = world.settings(Role.STANDBY).state_machine_arn
    definition = json.loads(machines.describe_state_machine(stateMachineArn=arn)["definition"])
    for states in (
        definition,
        *(branch for state in definition["States"].values() for branch in state.get("Branches", ())),
    ):
        for state in states["States"].values():
            state.pop("Retry", None)
    machines.update_state_machine(stateMachineArn=arn, definition=json.dumps(definition))


def test_a_queue_that_is_away_is_reported(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """fails when the standby's queue does not start: recovery ends at scale, a person is paged, the drill says why."""

    async def stop_the_queue(world: World) -> None:
        queue = world.play_of(Role.STANDBY).queue
        monkeypatch.setattr(queue, "start", fail)
        await queue.stop()
        try_once(world)

    async def fail() -> None:
        raise DrillError("there is no room for a queue", hint="make some")

    outcome = run(folder, "region-loss", stop_the_queue)
    assert outcome.rto_s is None
    assert outcome.tier is Tier.INTERNAL
    told = " ".join(outcome.problems)
    assert "scale: AgainLaterError: nats-0: 0 of 1 serve, and 1 must" in told
    assert [moment.event for moment in outcome.timeline][-2:] == ["announce started", "announce done"]
