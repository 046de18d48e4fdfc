"""What is too large for a function is done by a task: chosen by bytes, started once, and waited for by the machine."""

from __future__ import annotations

import json
import os
import secrets
import subprocess
import sys
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import pytest
from contract.test_approval import REGION, Machine, deploy
from contract.test_recovery import WEST, Pair, pair, remember

from relight.errors import NotFoundError
from relight.memory.estimate import snapshot_bytes
from relight.recovery.large import bytes_to_restore, bytes_to_take, is_large
from relight.recovery.metrics import DAMAGED, NAMESPACE, VERIFY_LAG
from relight.recovery.points import take_point
from relight.recovery.run import Run, run_state
from relight.vault.points import newest_eligible, status_of
from relight_constructs.recovery_machine import TaskRun
from relight_constructs.timeouts import Waits
from relight_lambdas.hydrate import handler as hydrate_handler
from relight_lambdas.snapshot import handler as snapshot_handler
from relight_lambdas.verify_points import handler as verify_handler

if TYPE_CHECKING:
    from collections.abc import Callable

    from relight.config import Settings

__all__ = ["deploy", "pair"]

pytestmark = pytest.mark.servers

FAMILY = "relight-demo-work"
BOOT = {"source": "aws.ecs", "detail": {"taskArn": "arn:aws:ecs:us-west-2:000000000000:task/c/new-store"}}


@pytest.fixture
def told(pair: Pair, monkeypatch: pytest.MonkeyPatch) -> Callable[[Settings], Settings]:
    """Tells functions that more than a byte is too large for them, and has the task's definition there."""
    for region in ("us-east-1", "us-west-2"):
        ecs = pair.emulator.client("ecs", region)
        ecs.create_cluster(clusterName=WEST.cluster)
        ecs.register_task_definition(
            family=FAMILY, containerDefinitions=[{"name": "work", "image": "agent", "memory": 64}]
        )

    def tell(settings: Settings) -> Settings:
        told = replace(
            settings, large_bytes=1, large_task=FAMILY, large_subnets=("subnet-1", "subnet-2"), large_groups=("sg-1",)
        )
        for key, value in told.to_env().items():
            monkeypatch.setenv(key, value)
        return told

    return tell


def task(settings: Settings, *arguments: str) -> subprocess.CompletedProcess[str]:
    """The task's container: its entry point, with the region's settings and nothing of what a function is told."""
    env = {name: value for name, value in os.environ.items() if not name.startswith("RELIGHT_")} | settings.to_env()
    command = [sys.executable, "-P", "-m", "relight_lambdas.task", *arguments]
    return subprocess.run(command, env=env, capture_output=True, text=True, check=False, timeout=120)


def started(pair: Pair, region: str) -> list[dict[str, Any]]:
    """The tasks of a region, oldest first."""
    ecs = pair.emulator.client("ecs", region)
    arns = ecs.list_tasks(cluster=WEST.cluster, family=FAMILY)["taskArns"]
    found = ecs.describe_tasks(cluster=WEST.cluster, tasks=arns)["tasks"] if arns else []
    return sorted(found, key=lambda item: str(item["createdAt"]))


def commands(pair: Pair, region: str) -> list[list[str]]:
    """What each of them runs."""
    return [item["overrides"]["containerOverrides"][0]["command"] for item in started(pair, region)]


def published(pair: Pair, name: str) -> list[float]:
    """The most that the standby said of itself."""
    now = datetime.now(UTC)
    found = pair.emulator.client("cloudwatch", WEST.region).get_metric_statistics(
        Namespace=NAMESPACE,
        MetricName=name,
        Dimensions=[{"Name": "environment", "Value": WEST.environment}, {"Name": "region", "Value": WEST.region}],
        StartTime=now - timedelta(hours=1),
        EndTime=now + timedelta(hours=1),
        Period=7200,
        Statistics=["Maximum"],
    )
    return [item["Maximum"] for item in found["Datapoints"]]


@pytest.mark.parametrize(
    ("size", "above", "expected"),
    [(0, 0, False), (10**15, 0, False), (40, 40, False), (41, 40, True), (0, 40, False)],
)
def test_the_choice_is_by_bytes(size: int, above: int, *, expected: bool) -> None:
    """Beyond the limit, and never where there is none."""
    assert is_large(size, above=above) is expected


def test_a_snapshot_is_estimated_from_below() -> None:
    """A million vectors of 768 dimensions are 3 GB and more: their numbers alone are."""
    assert snapshot_bytes(points=1_000_000, dimension=768) == 3_172_000_000


def test_a_large_memory_is_hydrated_by_a_task(pair: Pair, told: Callable[[Settings], Settings]) -> None:
    """The function says that it is too large and does nothing, a task's process does it under the same run, and then
    there is nothing left that would be large."""
    remember(pair.east, "a", "b", "c")
    take_point(pair.east)
    for name in ("fence", "promote"):
        run_state(name, pair.west, Run(run_id="r"))
    told(WEST)
    size = bytes_to_restore(pair.west.store, pair.west.vault, pair.west.specs)
    manifest = newest_eligible(pair.west.vault).manifest
    assert manifest is not None
    assert size == manifest.total_bytes

    assert hydrate_handler({"run_id": "r"}, None) == {"large": True, "bytes": size}
    assert pair.west.store.describe("memory") is None
    assert started(pair, "us-west-2") == [], "the state machine starts it, and waits for it"

    done = task(WEST, "hydrate", "--run-id", "r")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["collections"][0]["points"] == 3
    states = [(event.state, event.status) for event in pair.west.timeline("r").events()]
    assert states[-2:] == [("hydrate", "started"), ("hydrate", "done")]
    assert ("hydrate", "done") not in states[:-1], "not said to be done before the task was"

    assert bytes_to_restore(pair.west.store, pair.west.vault, pair.west.specs) == 0
    assert hydrate_handler({"run_id": "r"}, None)["large"] is False


def test_a_store_that_starts_empty_has_its_task_started(pair: Pair, told: Callable[[Settings], Settings]) -> None:
    """Nobody waits outside of a recovery, so the function starts it, and again for the next store: one that fills a
    store which is gone must not keep the next from being filled."""
    remember(pair.east, "a")
    take_point(pair.east)
    told(WEST)
    first = hydrate_handler(BOOT, None)
    assert first["large"] is False
    assert first["task"] == started(pair, "us-west-2")[0]["taskArn"]
    hydrate_handler(BOOT, None)
    assert commands(pair, "us-west-2") == [["hydrate", "--run-id", "boot-new-store"]] * 2


def test_a_large_snapshot_is_taken_by_one_task_at_a_time(pair: Pair, told: Callable[[Settings], Settings]) -> None:
    """The schedule's next call finds it running and says so; its process seals the point."""
    remember(pair.east, "a", "b")
    take_point(pair.east)  # which applies the journal, so that there is something to estimate
    settings = told(replace(pair.east.settings))
    size = bytes_to_take(pair.east.store, pair.east.specs)
    assert size == snapshot_bytes(points=2, dimension=4)
    first = snapshot_handler({}, None)
    assert first == {"bytes": size, "task": started(pair, "us-east-1")[0]["taskArn"]}
    second = snapshot_handler({}, None)
    assert second["skipped"] == f"{first['task']} runs snapshot already"
    assert commands(pair, "us-east-1") == [["snapshot"]]

    before = newest_eligible(pair.west.vault).id
    done = task(pair.east.settings, "snapshot")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["id"] == newest_eligible(pair.west.vault).id > before
    assert settings.large_bytes == 1


def test_a_large_point_is_read_by_one_task_at_a_time(pair: Pair, told: Callable[[Settings], Settings]) -> None:
    """The function reads nothing of it, says for how long nobody has, and starts the task once, whose process reads it
    and says of which point in its log; then nothing is left."""
    remember(pair.east, "a", "b")
    point = take_point(pair.east)["id"]
    settings = told(pair.west.settings)
    first, again = verify_handler({}, None), verify_handler({}, None)
    assert (first["findings"], first["left"]) == ([], [point])
    assert first["task"] == started(pair, WEST.region)[0]["taskArn"]
    assert again["skipped"] == f"{first['task']} runs verify already"
    assert commands(pair, WEST.region) == [["verify"]]
    assert published(pair, VERIFY_LAG)[0] > 0

    done = task(settings, "verify")
    assert done.returncode == 0, done.stderr
    assert [item["point"] for item in json.loads(done.stdout)["findings"]] == [point]
    lines = [json.loads(line) for line in done.stderr.splitlines()]
    [read] = [line for line in lines if line["message"] == "point_verified"]
    assert (read["level"], read["point"], read["region"]) == ("INFO", point, WEST.region)
    assert status_of(pair.west.vault, point).verified_at is not None
    assert verify_handler({}, None) == {"findings": [], "left": [], "damaged": [], "known_damaged": []}
    assert published(pair, DAMAGED) == [0.0]


def test_what_a_task_found_damaged_is_published_by_the_function(
    pair: Pair, told: Callable[[Settings], Settings]
) -> None:
    """Nobody watches how a task ends: the function tells of what it found, until the point is mended."""
    remember(pair.east, "a")
    point = take_point(pair.east)["id"]
    manifest = status_of(pair.west.vault, point).manifest
    assert manifest is not None
    piece = manifest.pieces[0]
    pair.west.vault.put_bytes(piece.object, bytes(piece.bytes))
    done = task(told(pair.west.settings), "verify")
    assert (done.returncode, "IntegrityError" in done.stderr) == (1, True)
    assert verify_handler({}, None)["known_damaged"] == [point]
    assert published(pair, DAMAGED) == [1.0]


def test_fails_when_a_task_cannot_do_it(pair: Pair) -> None:
    """Its exit code tells the state machine, and its log why, as a line of JSON."""
    done = task(WEST, "hydrate")
    assert done.returncode == 1
    line = json.loads(done.stderr.strip().splitlines()[-1])
    assert (line["level"], line["message"]) == ("ERROR", "task_failed")
    assert "ConfigError: the event has run_id=''" in line["error"]
    lost = task(replace(WEST, connections_secret="relight/demo/gone"), "hydrate", "--run-id", "r")
    assert lost.returncode == 1
    assert NotFoundError.__name__ in lost.stderr


def test_the_machine_waits_for_the_task(deploy: Callable[..., Machine]) -> None:
    """A real execution goes on to verify when the task has ended, not when hydrate has answered."""
    name = f"work-{secrets.token_hex(4)}"
    large = TaskRun(cluster=name, family=name, container="work", subnet_ids=("subnet-1",), security_group_ids=("sg-1",))
    machine = deploy(Waits(), large=large)
    ecs = machine.emulator.client("ecs", REGION)
    ecs.create_cluster(clusterName=name)
    ecs.register_task_definition(family=name, containerDefinitions=[{"name": "work", "image": "agent", "memory": 64}])
    execution = machine.start("r5")
    machine.until(lambda: bool(ecs.list_tasks(cluster=name)["taskArns"]), "the task")
    (arn,) = ecs.list_tasks(cluster=name)["taskArns"]
    (found,) = ecs.describe_tasks(cluster=name, tasks=[arn])["tasks"]
    assert found["overrides"]["containerOverrides"][0]["command"] == ["hydrate", "--run-id", "r5"]
    machine.called("scale")
    assert "verify" not in dict(machine.calls())
    ecs.stop_task(cluster=name, task=arn)
    assert machine.ended(execution)["status"] == "SUCCEEDED"
    assert "verify" in dict(machine.calls())
