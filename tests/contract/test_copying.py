"""A standby whose vault is not in AWS: it fetches its points itself, and is relit from them."""

from __future__ import annotations

import json
import os
import secrets
import subprocess
import sys
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import boto3
import pytest
from contract.test_large_work import FAMILY, commands
from contract.test_other_stores import bucket, certificates, rules, store
from contract.test_recovery import EAST, WEST, Pair, pair, remember, renewing
from other_stores import KEY_ID, R2, SECRET, Store

from relight.adapters import aws
from relight.config import Connections
from relight.errors import ConfigError, IntegrityError, UnavailableError
from relight.objectives import Tier
from relight.recovery.copying import LACKING, LAG, catch_up
from relight.recovery.metrics import NAMESPACE
from relight.recovery.points import take_point
from relight.recovery.run import Run, run_state
from relight.vault.points import NoPointError, newest_eligible, status_of
from relight.wiring import Region
from relight_drill.emulator import SECRET_KEY
from relight_lambdas.copy_points import handler

if TYPE_CHECKING:
    from collections.abc import Iterator

    from relight.config import Settings
    from relight_drill.emulator import Emulator

__all__ = ["bucket", "certificates", "pair", "rules", "store"]

KEYS = "vault-keys"
pytestmark = [pytest.mark.servers, pytest.mark.parametrize("rules", [R2], ids=["r2"], indirect=True)]


def there(settings: Settings, store: Store, bucket: str, **changes: Any) -> Settings:
    """The settings of a region where the standby's vault is in `store`."""
    own = "" if settings.region == WEST.region else "peer_"
    where: dict[str, Any] = {f"{own}vault_bucket": bucket, f"{own}vault_endpoint": store.url}
    return replace(settings, tier=Tier.BATCH, vault_keys_secret=KEYS, **where, **changes)


@pytest.fixture
def sides(pair: Pair, store: Store, bucket: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[Region, Region]]:
    """The regions of such a pair; functions of the standby are told of it too."""
    for region in (EAST.region, WEST.region):
        pair.emulator.client("secretsmanager", region).create_secret(
            Name=KEYS, SecretString=json.dumps({"standby": f"{KEY_ID}:{SECRET}"})
        )
    for key, value in there(WEST, store, bucket).to_env().items():
        monkeypatch.setenv(key, value)
    with Region(there(EAST, store, bucket)) as east, Region(there(WEST, store, bucket)) as west:
        yield east, west


@pytest.fixture
def secrets_of(emulator: Emulator, monkeypatch: pytest.MonkeyPatch) -> Any:
    """The standby's secrets, where functions look for them; nothing else of the region is there."""
    monkeypatch.setenv("AWS_ENDPOINT_URL", emulator.url)
    session = boto3.Session(aws_access_key_id=emulator.account, aws_secret_access_key=SECRET_KEY)
    monkeypatch.setattr(aws, "_session", lambda: session)
    return emulator.client("secretsmanager", WEST.region)


def published(emulator: Emulator, name: str, environment: str = WEST.environment) -> list[float]:
    """What the standby said of itself."""
    now = datetime.now(UTC)
    found = emulator.client("cloudwatch", WEST.region).get_metric_statistics(
        Namespace=NAMESPACE,
        MetricName=name,
        Dimensions=[{"Name": "environment", "Value": environment}, {"Name": "region", "Value": WEST.region}],
        StartTime=now - timedelta(hours=1),
        EndTime=now + timedelta(hours=1),
        Period=3600,
        Statistics=["Maximum"],
    )
    return [point["Maximum"] for point in found["Datapoints"]]


def test_a_standby_is_relit_from_a_vault_that_is_not_in_aws(
    pair: Pair, sides: tuple[Region, Region], store: Store
) -> None:
    """The point is sealed in the primary's vault, fetched by the standby, and restored when the primary is gone."""
    east, west = sides
    remember(east, *(f"p{number}" for number in range(30)))
    point = take_point(east)
    assert point["region"] == EAST.region
    with pytest.raises(NoPointError):
        newest_eligible(west.vault)

    done = handler({}, None)
    assert [(item["point"], item["reason"]) for item in done["points"]] == [(point["id"], "")]
    assert (done["lacking"], done["lag_s"], published(pair.emulator, LAG), published(pair.emulator, LACKING)) == (
        [],
        0.0,
        [0.0],
        [0.0],
    )
    assert newest_eligible(west.vault).id == point["id"]
    assert handler({}, None)["points"] == []
    pair.state.primary.kill()

    run = Run(run_id="epoch-2-r2")
    with renewing(west.lease_keeper()):
        for name in ("fence", "promote", "hydrate", "verify"):
            run_state(name, west, run)
    collection = west.store.describe("memory")
    assert collection is not None
    assert (collection.points, collection.restored_from) == (30, point["id"])
    events = west.timeline(run.run_id).events()
    assert [(event.state, event.status) for event in events][-1] == ("verify", "done")
    # What AWS gives to a process is never shown to another store.
    assert {request.headers["authorization"].split("=")[1].split("/")[0] for request in store.requests} == {KEY_ID}


def test_what_a_step_gave_back_is_in_the_standby_at_once(sides: tuple[Region, Region]) -> None:
    """fails when a large result of a step that is done waits for a copy, and is lost with the region."""
    east, west = sides
    ledger = east.ledger(lambda: 1)
    ledger.start_task({}, id_="t")
    task = ledger.claim("t", worker="w", lease_s=300)
    assert task is not None
    ledger.finish(task, "x" * 100_000)
    [kept] = west.vault.list_keys("results/")
    assert [*east.vault.list_keys("results/")] == []
    assert len(west.vault.get_bytes(kept)) == 100_002
    found = west.ledger(lambda: 1).task("t")
    assert found.result == "x" * 100_000
    # What the own vault took while the other did not answer comes with the next fetch.
    east.vault.put_bytes("runs/r/event.json", b"{}")
    assert [item.objects for item in catch_up(west).beside] == [1]
    assert west.vault.get_bytes("runs/r/event.json") == b"{}"


def test_nothing_is_said_while_a_vault_does_not_answer(
    emulator: Emulator, secrets_of: Any, store: Store, bucket: str
) -> None:
    """fails when a standby that cannot look is taken for one that lacks nothing."""
    name = f"mute-{secrets.token_hex(4)}"
    secrets_of.create_secret(Name=name, SecretString=json.dumps({"standby": f"{KEY_ID}:{SECRET}"}))
    emulator.client("s3", EAST.region).create_bucket(Bucket=name)
    settings = replace(there(WEST, store, bucket), environment=name, peer_vault_bucket=name, vault_keys_secret=name)
    with Region(replace(settings, vault_endpoint="https://localhost:9")) as west, pytest.raises(UnavailableError):
        catch_up(west)
    assert published(emulator, LAG, name) == []
    with Region(settings) as west:
        assert catch_up(west).lag_s == 0
    assert published(emulator, LAG, name) == [0.0]


def test_a_point_that_cannot_be_copied_is_told(pair: Pair, sides: tuple[Region, Region]) -> None:
    """The invocation fails, which is watched, after the lag that grows was published."""
    east, west = sides
    remember(east, "a", "b")
    point = take_point(east)["id"]
    manifest = status_of(east.vault, point).manifest
    assert manifest is not None
    piece = manifest.pieces[0]
    east.vault.put_bytes(piece.object, bytes(piece.bytes))
    with pytest.raises(IntegrityError, match=r"1 could not be copied, such as .*SHA-256"):
        handler({}, None)
    assert published(pair.emulator, LACKING) == [1.0]
    assert published(pair.emulator, LAG)[0] > 0
    with pytest.raises(NoPointError):
        newest_eligible(west.vault)


def test_what_is_too_large_for_a_function_is_a_tasks(
    pair: Pair, sides: tuple[Region, Region], store: Store, bucket: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The function starts it once and copies nothing of it; the task's process copies it whole."""
    east, west = sides
    ecs = pair.emulator.client("ecs", WEST.region)
    ecs.register_task_definition(family=FAMILY, containerDefinitions=[{"name": "work", "image": "agent", "memory": 64}])
    remember(east, "a", "b")
    point = take_point(east)["id"]
    told = there(
        WEST, store, bucket, large_bytes=1, large_task=FAMILY, large_subnets=("subnet-1",), large_groups=("sg-1",)
    )
    for key, value in told.to_env().items():
        monkeypatch.setenv(key, value)
    first, again = handler({}, None), handler({}, None)
    assert (first["lacking"], commands(pair, WEST.region)) == ([point], [["copy"]])
    assert "runs copy already" in again["task"]
    assert [*west.vault.list_keys("points/")] == []

    task = subprocess.run(
        [sys.executable, "-P", "-m", "relight_lambdas.task", "copy"],
        env={**os.environ, **told.to_env()},
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert task.returncode == 0, task.stderr
    assert json.loads(task.stdout)["lacking"] == []
    assert newest_eligible(west.vault).id == point


@pytest.mark.parametrize(
    ("secret", "said"),
    [
        (None, "has no value yet"),
        ("not json", "does not hold JSON"),
        ("[]", "does not hold a JSON object"),
        ('{"primary": "id:secret"}', "has no keys of the vault of us-west-2, which is not in AWS"),
        ('{"standby": "id"}', "has no keys of the vault of us-west-2"),
        ('{"standby": 7}', "has no keys of the vault of us-west-2"),
    ],
)
def test_without_keys_nobody_is_asked(
    secrets_of: Any, store: Store, bucket: str, secret: str | None, said: str
) -> None:
    """fails when what AWS gives to the process is sent to another store, or the error shows what the secret holds."""
    name = f"keys-{secrets.token_hex(4)}"
    if secret is not None:
        secrets_of.create_secret(Name=name, SecretString=secret)
    settings = replace(there(WEST, store, bucket), vault_keys_secret=name)
    with Region(settings) as west, pytest.raises(ConfigError, match=said) as caught:
        _ = west.vault
    assert "id:secret" not in str(caught.value)
    assert store.requests == []


def test_the_keys_may_be_in_the_connections(secrets_of: Any, store: Store, bucket: str) -> None:
    """Where no stack made a secret for them; without them there, the error names the connections."""
    name = f"connections-{secrets.token_hex(4)}"
    plain = replace(there(WEST, store, bucket), vault_keys_secret="", connections_secret=name)
    connections = Connections(state_dsn="a", memory_dsn="b", queue_url="c")
    secrets_of.create_secret(Name=name, SecretString=connections.to_json())
    with Region(plain) as west, pytest.raises(ConfigError, match='put "vault_keys": "ID:SECRET"'):
        _ = west.vault
    keys = replace(connections, vault_keys=f"{KEY_ID}:{SECRET}")
    secrets_of.put_secret_value(SecretId=name, SecretString=keys.to_json())
    with Region(plain) as west:
        west.vault.put_bytes("runs/x", b"1")
        assert [*west.vault.list_keys("runs/")] == ["runs/x"]


def test_without_a_standby_the_primary_brings_it_there(sides: tuple[Region, Region], pair: Pair) -> None:
    """fails when a sandbox's points stay in the region that may be lost, because nobody is in the other to fetch."""
    remember(sides[0], "a")
    with Region(replace(sides[0].settings, tier=Tier.SANDBOX)) as east:
        point = take_point(east)["id"]
        done = catch_up(east)
    assert [(item.point, item.region, item.lacking) for item in done.points] == [(point, WEST.region, False)]
    assert newest_eligible(sides[1].vault).id == point
