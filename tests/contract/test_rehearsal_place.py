"""The stack in which restores are rehearsed, deployed on the emulator, with its functions' own code and permissions.

Its state machine is really executed; its store is a real PostgreSQL, which runs all along: that ECS starts and ends it
is seen in the service's count.
"""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
import threading
from contextlib import closing, contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from fakes import FakeClock
from memory_helpers import DIMENSION, remember, some_points

from relight.adapters import aws, postgres
from relight.clock import SystemClock
from relight.config import Role
from relight.errors import AgainLaterError, ConfigError
from relight.memory.api import Memory
from relight.memory.snapshot import take_snapshot
from relight.memory.store import CollectionSpec
from relight.recovery.rehearsal import AGE, seconds_since_good
from relight.recovery.rehearsal_place import Place
from relight.vault.points import manifest_key
from relight.vault.signing import open_signer
from relight.vault.store import Vault
from relight.wiring import Region
from relight_cli.console import DONE, MISSED, USAGE
from relight_cli.main import main
from relight_constructs.bundle import build_bundle, host_target
from relight_constructs.rehearsal import SERVICE
from relight_drill.applier import apply
from relight_drill.conditions import let_conditions_through
from relight_drill.emulator import Emulator
from relight_drill.postgres import USER, PostgresServer
from relight_drill.processes import wait_until
from relight_drill.wire import Gate
from relight_stacks.loading import load_named
from relight_stacks.settings import settings_for

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from relight.adapters.postgres import Connection
    from relight.config import Settings
    from relight.memory.pgvector import PgVectorStore
    from relight.vault.manifest import Manifest
    from relight_drill.processes import ProcessGroup

pytestmark = [pytest.mark.servers, pytest.mark.timeout(600)]

ROOT = Path(__file__).resolve().parents[2]
WEST = "us-west-2"
MEMORY = CollectionSpec(name="rehearsed", dimension=DIMENSION, embedding_model="test-16")
SETTINGS = replace(settings_for(load_named("demo"), Role.STANDBY), collections=(MEMORY,))
NAME = "relight-demo-rehearsal"


@dataclass(frozen=True, slots=True, kw_only=True)
class Deployed:
    """The stack as it was applied, and what stands for its store."""

    emulator: Emulator
    scratch: PostgresServer
    vault: Vault
    settings: Settings

    @property
    def machine_arn(self) -> str:
        """The state machine's."""
        return self.settings.rehearsal_machine_arn

    def client(self, service: str) -> Any:
        """With every right."""
        return self.emulator.client(service, WEST)

    def start(self, **event: str) -> str:
        """Start an execution; its ARN."""
        answer = self.client("stepfunctions").start_execution(stateMachineArn=self.machine_arn, input=json.dumps(event))
        return str(answer["executionArn"])

    def until(self, true: Callable[[], bool], what: str) -> None:
        """Wait until something is there."""

        async def found() -> bool:
            return await asyncio.to_thread(true)

        asyncio.run(wait_until(found, what=what, timeout_s=240))

    def ended(self, execution: str) -> dict[str, Any]:
        """How the execution ended, as soon as it has."""
        describe = self.client("stepfunctions").describe_execution
        self.until(lambda: describe(executionArn=execution)["status"] != "RUNNING", "the execution's end")
        return dict(describe(executionArn=execution))

    def states(self, execution: str) -> list[str]:
        """The states that it entered."""
        events = self.client("stepfunctions").get_execution_history(executionArn=execution)["events"]
        return [item["stateEnteredEventDetails"]["name"] for item in events if "stateEnteredEventDetails" in item]

    def count(self) -> int:
        """How many stores the service is to run."""
        (service,) = self.client("ecs").describe_services(cluster=NAME, services=[SERVICE])["services"]
        return int(service["desiredCount"])

    def scale(self, count: int) -> None:
        """As if somebody did."""
        self.client("ecs").update_service(cluster=NAME, service=SERVICE, desiredCount=count)

    def records(self) -> list[dict[str, Any]]:
        """What rehearsals were recorded, oldest first."""
        return [self.vault.get_json(key) for key in self.vault.list_keys("rehearsals/")]

    def region(self) -> Region:
        """The region as the functions have it."""
        return Region(replace(self.settings, rehearsal_cluster=NAME, rehearsal_service=SERVICE))

    @contextmanager
    def held(self) -> Iterator[None]:
        """Keep every restore waiting in the middle."""
        connection = postgres.connect(self.scratch.dsn())
        with closing(connection), connection, connection.cursor() as cursor:
            cursor.execute("lock table relight.collections in access exclusive mode")
            yield

    def waits(self) -> bool:
        """Whether a restore does."""
        connection = postgres.connect(self.scratch.dsn(), autocommit=True)
        with closing(connection), connection.cursor() as cursor:
            cursor.execute("select count(*) from pg_locks where not granted")
            row = cursor.fetchone()
        return row is not None and row[0] > 0

    def dropped(self) -> bool:
        """Whether nothing that was restored is left in the store."""
        connection = postgres.connect(self.scratch.dsn(), autocommit=True)
        with connection.cursor() as cursor:
            cursor.execute("select count(*) from pg_tables where tablename like 'relight\\_rehearsal%%'")
            row = cursor.fetchone()
        connection.close()
        return row == (0,)


class Starting:
    """ECS whose tasks have not been found healthy yet."""

    def __init__(self, ecs: Any) -> None:
        self._ecs = ecs

    def __getattr__(self, name: str) -> Any:
        return getattr(self._ecs, name)

    def describe_tasks(self, **named: Any) -> dict[str, Any]:
        """The tasks, as they are in their first seconds."""
        answer = self._ecs.describe_tasks(**named)
        return {"tasks": [task | {"healthStatus": "UNKNOWN"} for task in answer["tasks"]]}


@pytest.fixture(scope="module")
def deployed(server_group: ProcessGroup, server_dir: Path) -> Iterator[Deployed]:
    """The stacks `demo-vault` and `demo-rehearsal`, whose functions are the real ones and go through the gate."""
    folder = server_dir / "rehearsal-place"
    folder.mkdir(mode=0o711)
    bundle = build_bundle(host_target(), ROOT / ".relight" / "bundles")
    command = [sys.executable, "-P", "-m", "relight_stacks.app", "--environment", "demo", "--bundle", str(bundle)]
    done = subprocess.run(
        [*command, "--output", str(folder / "out")], capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, done.stderr
    emulator = Emulator(server_group, folder / "emulator")
    scratch = PostgresServer(server_group, folder / "scratch", name="scratch", database="memory")
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, daemon=True)
    thread.start()

    def within(work: Any) -> Any:
        return asyncio.run_coroutine_threadsafe(work, loop).result(timeout=400)

    async def raise_all() -> Gate:
        async with asyncio.TaskGroup() as group:
            group.create_task(emulator.start())
            group.create_task(scratch.create())
        gate = Gate(emulator, buckets={})
        await gate.add_side(WEST)
        form = f"host={{host}} port={scratch.port} user={USER} dbname=memory password={{password}} connect_timeout=3"
        told = {
            "AWS_ENDPOINT_URL": gate.url(WEST),
            "RELIGHT_REHEARSAL_FORM": form,
            "RELIGHT_COLLECTIONS": SETTINGS.to_env()["RELIGHT_COLLECTIONS"],
        }
        deployment = await apply(
            emulator, folder / "out", stacks=["demo-vault", "demo-rehearsal"], environment=lambda *_: told
        )
        gate.buckets.update(deployment.buckets)
        await asyncio.to_thread(let_conditions_through, emulator, deployment, region=WEST)
        return gate

    gate = within(raise_all())
    password = emulator.client("secretsmanager", WEST).get_secret_value(SecretId="relight/demo/rehearsal-password")
    with postgres.connect(scratch.dsn(), autocommit=True).cursor() as cursor:
        cursor.execute(f"alter user {USER} password %s", [password["SecretString"]])
    scratch.password = password["SecretString"]
    signer = open_signer(SETTINGS.signing_key, kms=lambda: emulator.client("kms", WEST))
    vault = Vault(emulator.client("s3", WEST), SETTINGS.vault_bucket, region=WEST, signer=signer)
    yield Deployed(emulator=emulator, scratch=scratch, vault=vault, settings=SETTINGS)
    within(gate.close())

    async def stop() -> None:
        await emulator.stop()
        await scratch.stop(immediate=True)

    within(stop())
    loop.call_soon_threadsafe(loop.stop)
    thread.join()


@pytest.fixture(autouse=True)
def as_an_operator(deployed: Deployed, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the test itself calls reaches the same AWS, with every right."""
    monkeypatch.setenv("AWS_ENDPOINT_URL", deployed.emulator.url)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", deployed.emulator.account)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "test")
    aws._session.cache_clear()


@pytest.fixture(scope="module")
def clock() -> FakeClock:
    """Of the last hour: each point is of a second of its own, as its name has to be."""
    clock = FakeClock(step_s=1.0)
    clock.at = datetime.now(UTC) - timedelta(hours=1)
    return clock


@pytest.fixture
def point(deployed: Deployed, state: Connection, store: PgVectorStore, clock: FakeClock) -> Manifest:
    """A signed point of twenty memories, in the standby's vault."""
    remember(state, Memory(store=store, spec=MEMORY), some_points(20))
    return take_snapshot(
        store=store,
        specs=[MEMORY],
        state=state,
        vault=deployed.vault,
        fallback=None,
        environment="demo",
        clock=clock,
    )


def test_a_rehearsal_restores_into_its_own_store_and_ends_it(deployed: Deployed, point: Manifest) -> None:
    """The newest point is restored with the functions' own permissions and the generated password; it is recorded, and
    the count is 0 again."""
    execution = deployed.start()
    ended = deployed.ended(execution)
    assert ended["status"] == "SUCCEEDED", (ended.get("error"), ended.get("cause"))
    assert deployed.states(execution) == ["rehearse-open", "rehearse", "is-memory-large", "rehearse-close"]
    record = deployed.records()[-1]
    assert (record["ok"], record["point"], record["points"], record["recall"]) == (True, point.id, 20, 1.0)
    assert deployed.count() == 0
    assert deployed.dropped()


def test_a_rehearsal_that_fails_ends_its_store_too(deployed: Deployed, point: Manifest) -> None:
    """fails when a point that is no good leaves the store running, or the execution succeeds: people would not know."""
    pieces = [piece.object for piece in point.pieces]
    before = {key: deployed.vault.get_bytes(key) for key in pieces}
    for key, data in before.items():
        deployed.vault.put_bytes(key, data[:-30] + bytes(30))
    execution = deployed.start(point=point.id)
    ended = deployed.ended(execution)
    assert (ended["status"], ended["error"]) == ("FAILED", "IntegrityError")
    assert deployed.states(execution) == ["rehearse-open", "rehearse", "rehearse-close-after-failure", "failed"]
    record = deployed.records()[-1]
    assert (record["ok"], record["point"]) == (False, point.id)
    assert record["reason"] in ended["cause"]
    assert deployed.count() == 0
    for key, data in before.items():
        deployed.vault.put_bytes(key, data)


def test_what_ends_a_rehearsal_from_outside_ends_its_store(deployed: Deployed, point: Manifest) -> None:
    """fails when the store of an execution that was stopped by a person runs, and costs, until somebody looks."""
    with deployed.held():
        execution = deployed.start()
        deployed.until(deployed.waits, "a restore that waits")
        assert deployed.count() == 1
        deployed.client("stepfunctions").stop_execution(executionArn=execution)
        deployed.until(lambda: deployed.count() == 0, "the rule to have the store ended")
    assert deployed.ended(execution)["status"] == "ABORTED"


def test_a_second_rehearsal_leaves_the_first_alone(deployed: Deployed, point: Manifest) -> None:
    """It is refused, and neither it nor the rule, which closes for what failed, ends the store of the first."""
    with deployed.held():
        first = deployed.start()
        deployed.until(deployed.waits, "a restore that waits")
        second = deployed.start()
        ended = deployed.ended(second)
        assert (ended["status"], ended["error"]) == ("FAILED", "ConflictError")
        assert first in ended["cause"]
        assert deployed.states(second) == ["rehearse-open", "failed"]
        with deployed.region() as region:
            assert Place.of(region).close(second) == {"closed": False, "used_by": first}
        assert deployed.count() == 1
    assert deployed.ended(first)["status"] == "SUCCEEDED"
    assert deployed.count() == 0


def test_what_is_too_large_for_a_function_is_rehearsed_by_the_task(deployed: Deployed, point: Manifest) -> None:
    """The function says by which command; the machine starts the task with it, and waits for its end before it ends the
    store. The task is run here, as its container would be, with what its definition tells it."""
    lambdas, ecs = deployed.client("lambda"), deployed.client("ecs")
    name = "relight-demo-rehearse"
    before = lambdas.get_function_configuration(FunctionName=name)["Environment"]["Variables"]

    def told(variables: dict[str, str]) -> None:
        lambdas.update_function_configuration(FunctionName=name, Environment={"Variables": variables})

    def tasks() -> list[str]:
        return list(ecs.list_tasks(cluster=NAME, family=f"{NAME}-work")["taskArns"])

    told(before | {"RELIGHT_LARGE_BYTES": "1"})
    try:
        execution = deployed.start()
        deployed.until(lambda: bool(tasks()), "the task")
    finally:
        told(before)
    (task,) = ecs.describe_tasks(cluster=NAME, tasks=tasks())["tasks"]
    (container,) = task["overrides"]["containerOverrides"]
    assert container["command"] == ["rehearse", "--address", "127.0.0.1", "--point", point.id]
    found = ecs.describe_task_definition(taskDefinition=task["taskDefinitionArn"])["taskDefinition"]
    variables = {item["name"]: item["value"] for item in found["containerDefinitions"][0]["environment"]}
    here = {key: before[key] for key in ("RELIGHT_REHEARSAL_FORM", "RELIGHT_COLLECTIONS")}
    done = subprocess.run(
        [sys.executable, "-P", "-m", "relight_lambdas.task", *container["command"]],
        env={**os.environ, **variables, **here},
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["points"] == 20
    assert deployed.count() == 1, "the store runs as long as the task"
    ecs.stop_task(cluster=NAME, task=task["taskArn"])
    assert deployed.ended(execution)["status"] == "SUCCEEDED"
    states = ["rehearse-open", "rehearse", "is-memory-large", "rehearse-as-task", "rehearse-close"]
    assert deployed.states(execution) == states
    assert deployed.count() == 0


def test_an_operator_rehearses_apart(
    deployed: Deployed, point: Manifest, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """`relight rehearse --apart` shows the plan, waits for the machine, prints what was recorded, and misses the
    objective when it failed; it needs no server of the region."""
    for name, value in deployed.settings.to_env().items():
        monkeypatch.setenv(name, value)
    before = deployed.records()
    assert main(["rehearse", "--apart", "--dry-run"]) == DONE
    assert "a store that is started for it" in capsys.readouterr().err
    assert deployed.records() == before
    assert main(["rehearse", "--apart", "--yes", "--json"]) == DONE
    shown = json.loads(capsys.readouterr().out)
    assert (shown["ok"], shown["point"], shown["points"]) == (True, point.id, 20)
    assert main(["rehearse", "--apart", "--yes", "--snapshot", "20200101T000000Z"]) == MISSED
    assert "holds nothing of point 20200101T000000Z" in capsys.readouterr().err
    monkeypatch.delenv("RELIGHT_REHEARSAL_MACHINE_ARN")
    assert main(["rehearse", "--apart", "--yes"]) == USAGE
    assert "rehearses nowhere" in capsys.readouterr().err
    assert main(["rehearse", "--apart", "--yes", "--check", "true"]) == USAGE


def test_the_store_is_called_once_it_is_healthy(deployed: Deployed) -> None:
    """fails when a store is restored into that has only just begun, or that nobody has told the place of."""
    deployed.client("ecs").update_service(cluster=NAME, service=SERVICE, desiredCount=0)
    with deployed.region() as region:
        place = Place.of(region)
        unhealthy = Place(
            ecs=Starting(region.aws("ecs")),
            states=region.aws("stepfunctions"),
            cluster=NAME,
            service=SERVICE,
            machine_arn=deployed.machine_arn,
        )
        with pytest.raises(AgainLaterError, match="RUNNING UNKNOWN"):
            unhealthy.open("mine")
        assert place.open("mine") == "127.0.0.1"
        assert place.close("mine") == {"closed": True}
        assert place.close("mine") == {"closed": True}
    with Region(deployed.settings) as region, pytest.raises(ConfigError, match="no place for rehearsals"):
        Place.of(region)


def test_the_age_is_of_the_newest_that_went_well(vault: Vault, deployed: Deployed) -> None:
    """Failures do not count; before the first it is the age of the oldest point; without any there is none to speak
    of."""

    class At(SystemClock):
        def now(self) -> datetime:
            return datetime(2026, 4, 20, tzinfo=UTC)

    def age() -> float:
        return seconds_since_good(vault=vault, clock=At())

    assert age() == 0
    for id_ in ("20260418T000000Z", "20260419T000000Z"):
        vault.put_bytes(manifest_key(id_), b"{}")
    assert age() == 2 * 86_400
    vault.put_json("rehearsals/20260419T120000Z.json", {"ok": True, "at": "2026-04-19T12:00:00+00:00"})
    vault.put_json("rehearsals/20260419T180000Z.json", {"ok": False, "at": "2026-04-19T18:00:00+00:00"})
    assert age() == 43_200


def test_the_age_is_published_by_its_function(deployed: Deployed, point: Manifest) -> None:
    """With the function's own permissions, under the dimensions that the alarm is on."""
    lambdas = deployed.client("lambda")
    answer = lambdas.invoke(FunctionName="relight-demo-rehearse-age", Payload=b"{}")
    assert json.loads(answer["Payload"].read()).keys() == {"age_s"}
    (alarm,) = deployed.client("cloudwatch").describe_alarms(AlarmNames=[f"{NAME}-late"])["MetricAlarms"]
    found = deployed.client("cloudwatch").list_metrics(Namespace="Relight", MetricName=AGE)["Metrics"]
    assert {item["Value"] for metric in found for item in metric["Dimensions"]} == {"demo", WEST}
    assert (alarm["MetricName"], alarm["Dimensions"]) == (AGE, found[0]["Dimensions"])
