"""`relight points`, `restore`, `rehearse` and `adopt` as an operator runs them, against real servers."""

from __future__ import annotations

import json
import secrets
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import boto3
import pytest
from memory_helpers import remember, settle, some_points

from relight.adapters import aws
from relight.clock import SystemClock
from relight.config import Connections, Role, Settings
from relight.memory.snapshot import take_snapshot
from relight.objectives import Tier
from relight.recovery.epoch import Lease, LeaseStore
from relight.vault import points
from relight.vault.store import Vault
from relight_cli.main import main
from relight_drill.emulator import SECRET_KEY

if TYPE_CHECKING:
    from collections.abc import Callable

    from benchmarks.seaweed import Seaweed
    from memory_helpers import StateDsns

    from relight.adapters.postgres import Connection
    from relight.memory.api import Memory
    from relight.memory.pgvector import PgVectorStore
    from relight.memory.store import CollectionSpec
    from relight.vault.manifest import Manifest
    from relight_drill.emulator import Emulator
    from relight_drill.nats import NatsServer
    from relight_drill.postgres import PostgresServer

pytestmark = pytest.mark.servers

HERE, PEER = "us-west-2", "us-east-1"


class Standby:
    """A standby region as the CLI finds it: settings in the environment, a secret, two vaults."""

    def __init__(self, emulator: Emulator, settings: Settings) -> None:
        self.settings = settings
        self._secrets = emulator.client("secretsmanager", HERE)
        self.vault = Vault(emulator.client("s3", HERE), settings.vault_bucket, region=HERE)
        self.peer = Vault(emulator.client("s3", PEER), settings.peer_vault_bucket, region=PEER)

    def hold_lease(self) -> None:
        """From now on the region may write."""
        s3 = self.vault._client
        s3.create_bucket(Bucket=self.settings.lease_bucket, CreateBucketConfiguration={"LocationConstraint": HERE})
        lease = Lease(epoch=1, region=HERE, run_id="r", expires_at=SystemClock().now() + timedelta(hours=1))
        LeaseStore(s3, self.settings.lease_bucket).write(lease, instead_of=None)

    def connect(self, **changes: str) -> None:
        """From now on the region's secret says this of its servers."""
        name = self.settings.connections_secret
        value = json.loads(self._secrets.get_secret_value(SecretId=name)["SecretString"]) | changes
        self._secrets.put_secret_value(SecretId=name, SecretString=json.dumps(value))


@pytest.fixture
def standby_region(
    emulator: Emulator,
    state_dsns: StateDsns,
    vector_server: PostgresServer,
    spec: CollectionSpec,
    seaweed_server: Seaweed,
    monkeypatch: pytest.MonkeyPatch,
) -> Standby:
    """The vaults are empty; the state is the primary's own server, so that nobody waits for replication."""
    name = f"cli-{secrets.token_hex(4)}"
    settings = Settings(
        environment="test",
        tier=Tier.INTERNAL,
        role=Role.STANDBY,
        region=HERE,
        primary_region=PEER,
        standby_region=HERE,
        vault_bucket=f"{name}-here",
        peer_vault_bucket=f"{name}-peer",
        lease_bucket=f"{name}-lease",
        lease_region=HERE,
        connections_secret=name,
        service_url="http://127.0.0.1:9",
        primary_url="http://127.0.0.1:9",
        standby_url="http://127.0.0.1:9",
        cluster="c",
        agent_service="a",
        agent_replicas=1,
        collections=(spec,),
        keep_hourly=1,
        keep_daily=1,
        keep_monthly=1,
    )
    connections = Connections(
        state_dsn=state_dsns.primary,
        memory_dsn=vector_server.dsn(),
        queue_url="nats://127.0.0.1:9",
        peer_vault_keys=f"{seaweed_server.access_key}:{seaweed_server.secret_key}",
    )
    emulator.client("secretsmanager", HERE).create_secret(Name=name, SecretString=connections.to_json())
    emulator.client("s3", HERE).create_bucket(
        Bucket=settings.vault_bucket, CreateBucketConfiguration={"LocationConstraint": HERE}
    )
    emulator.client("s3", PEER).create_bucket(Bucket=settings.peer_vault_bucket)
    for key, value in settings.to_env().items():
        monkeypatch.setenv(key, value)
    monkeypatch.setenv("AWS_ENDPOINT_URL", emulator.url)
    session = boto3.Session(aws_access_key_id=emulator.account, aws_secret_access_key=SECRET_KEY)
    monkeypatch.setattr(aws, "_session", lambda: session)
    return Standby(emulator, settings)


class Ago(SystemClock):
    """So many minutes before now."""

    def __init__(self, minutes: float) -> None:
        self._behind = timedelta(minutes=minutes)

    def now(self) -> Any:
        return super().now() - self._behind


@pytest.fixture
def take(
    store: PgVectorStore, spec: CollectionSpec, state: Connection, memory: Memory
) -> Callable[[Vault, float], Manifest]:
    """Takes a point into a vault, as of so many minutes ago; the memory has twenty points."""
    remember(state, memory, some_points(20))

    def run(vault: Vault, minutes: float, fallback: Vault | None = None) -> Manifest:
        return take_snapshot(
            store=store,
            specs=[spec],
            state=state,
            vault=vault,
            fallback=fallback,
            environment="test",
            clock=Ago(minutes),
        )

    return run


def test_the_list_shows_both_vaults(
    standby_region: Standby, take: Any, spec: CollectionSpec, capsys: pytest.CaptureFixture[str]
) -> None:
    """What is there, what is eligible and why not, verified or not, and the exposure; for people and for programs."""
    old, new = take(standby_region.vault, 100), take(standby_region.vault, 10)
    gone = take(standby_region.peer, 5)
    standby_region.peer.delete([gone.pieces[0].object])
    assert main(["points", "verify", old.id]) == 0
    capsys.readouterr()
    assert main(["points", "list", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    here, peer = found["vaults"]
    assert [(row["id"], row["eligible"], bool(row["verified_at"])) for row in here["points"]] == [
        (new.id, True, False),
        (old.id, True, True),
    ]
    assert (here["region"], here["error"], here["points"][0]["vectors"]) == (HERE, None, 20)
    assert [(row["id"], row["eligible"], "is not here" in row["reason"]) for row in peer["points"]] == [
        (gone.id, False, True)
    ]
    [exposure] = found["exposure"]
    assert exposure["collection"] == spec.name
    assert "journalled" in exposure["why"]
    assert exposure["seconds"] < 600
    assert main(["points", "list"]) == 0
    told = capsys.readouterr().out
    assert "eligible, not verified yet, uploaded to us-west-2" in told
    assert f"exposure of {spec.name}" in told


def test_a_vault_that_cannot_be_reached_is_said_so(
    standby_region: Standby, take: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """fails when the points of the region that is left are hidden by the one that is gone."""
    manifest = take(standby_region.vault, 10)
    monkeypatch.setenv("RELIGHT_PEER_VAULT_BUCKET", "never-made-by-anybody")
    assert main(["points", "list"]) == 0
    told = capsys.readouterr().out
    assert "never-made-by-anybody: CANNOT BE READ" in told
    assert manifest.id in told
    monkeypatch.setenv("RELIGHT_VAULT_BUCKET", "never-made-by-anybody")
    assert main(["points", "list", "--json"]) == 1
    assert all(vault["error"] for vault in json.loads(capsys.readouterr().out)["vaults"])


def test_what_would_be_lost_is_not_known_of_a_vault_that_cannot_be_read(
    standby_region: Standby, take: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """fails when "everything is lost" is said of points that nobody could look at."""
    take(standby_region.vault, 10)
    standby_region.connect(state_dsn="host=127.0.0.1 port=9 user=x dbname=x password=hidden")
    monkeypatch.setenv("RELIGHT_VAULT_BUCKET", "never-made-by-anybody")
    assert main(["points", "list", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    [exposure] = found["exposure"]
    assert (exposure["known"], exposure["seconds"]) == (False, None)
    assert exposure["why"] == found["vaults"][0]["error"]
    assert main(["points", "list"]) == 0
    told = capsys.readouterr().out
    assert f"exposure of {exposure['collection']}: not known: {exposure['why']}" in told
    assert "everything" not in told


def test_what_is_not_journalled_is_as_old_as_its_point(
    standby_region: Standby, take: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """For a collection that is not all journalled the age of the newest eligible point counts, if there is any."""
    collections = json.loads(standby_region.settings.to_env()["RELIGHT_COLLECTIONS"])
    monkeypatch.setenv(
        "RELIGHT_COLLECTIONS", json.dumps([*collections, collections[0] | {"name": "direct", "journalled": False}])
    )
    take(standby_region.vault, 10)
    assert main(["points", "list", "--json"]) == 0
    [_, exposed] = json.loads(capsys.readouterr().out)["exposure"]
    assert (exposed["collection"], exposed["seconds"]) == ("direct", None)
    assert "no eligible point" in exposed["why"]


def test_the_exposure_is_what_the_replica_lacks(
    standby_region: Standby, take: Any, state_dsns: StateDsns, capsys: pytest.CaptureFixture[str]
) -> None:
    """Asked of the replica itself; where no database can be asked the point's age counts, and that is said."""
    take(standby_region.vault, 10)
    standby_region.connect(state_dsn=state_dsns.standby)
    assert main(["points", "list", "--json"]) == 0
    [exposure] = json.loads(capsys.readouterr().out)["exposure"]
    assert "journalled" in exposure["why"]
    assert exposure["seconds"] >= 0
    standby_region.connect(state_dsn="host=127.0.0.1 port=9 user=x dbname=x password=hidden")
    assert main(["points", "list", "--json"]) == 0
    told = capsys.readouterr().out
    [exposure] = json.loads(told)["exposure"]
    assert "cannot be asked for its replica's lag" in exposure["why"]
    assert 600 <= exposure["seconds"] < 900
    assert "hidden" not in told


def test_points_are_pruned_and_carried_across_after_a_yes(
    standby_region: Standby, take: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    """The plan comes first, `--dry-run` stops there, and both vaults have the same points in the end."""
    old, new = take(standby_region.vault, 0.2), take(standby_region.vault, 0.1)
    assert main(["points", "prune", "--dry-run", "--json"]) == 0
    told = capsys.readouterr()
    assert json.loads(told.out)["remove"] == [old.id]
    assert "dry run: nothing was done" in told.err
    assert len(list(points.eligible(standby_region.vault))) == 2
    assert main(["points", "copy", "--yes", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["copied"][0]["point"] == new.id
    assert main(["points", "prune", "--yes"]) == 0
    assert next(points.eligible(standby_region.vault)) == next(points.eligible(standby_region.peer)) == new
    capsys.readouterr()
    assert main(["points", "show", new.id]) == 0
    assert capsys.readouterr().out == new.to_json()
    assert main(["points", "show", "20200101T000000Z"]) == 1
    assert main(["points", "show"]) == 2
    assert main(["points", "list", new.id]) == 2


def test_damage_is_a_failure_of_verify(standby_region: Standby, take: Any, capsys: pytest.CaptureFixture[str]) -> None:
    """fails when a script that verifies points learns nothing of a damaged one."""
    [piece] = take(standby_region.vault, 10).pieces
    assert main(["points", "verify", "--json"]) == 0
    standby_region.vault.put_bytes(piece.object, bytes(piece.bytes))
    capsys.readouterr()
    assert main(["points", "verify", "--json"]) == 1
    assert json.loads(capsys.readouterr().out)["damaged"]


def test_the_newest_good_point_is_found_and_restored(
    standby_region: Standby, take: Any, store: PgVectorStore, spec: CollectionSpec, capsys: pytest.CaptureFixture[str]
) -> None:
    """Bisecting names it, and restoring takes it by its id or by a time before which it was taken."""
    old, new = take(standby_region.vault, 100), take(standby_region.vault, 10)
    assert main(["points", "bisect", "--yes", "--json"]) == 0
    told = capsys.readouterr()
    assert json.loads(told.out)["newest_good"] == new.id
    assert "all are good" in told.err
    assert main(["points", "bisect", "--yes", "--check", "exit 1"]) == 1
    assert "none is good" in capsys.readouterr().err
    before = f"{new.taken_at - timedelta(minutes=1):%Y-%m-%dT%H:%M:%SZ}"
    assert main(["restore", "--before", before, "--yes", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["collections"][0]["restored"] == old.id
    assert main(["restore", "--snapshot", new.id, "--yes"]) == 0
    told = capsys.readouterr()
    assert "takes about  1 s until it serves, and 1 s until its index is built" in told.err
    assert f"restored: {new.id}" in told.out
    found = store.describe(spec.name)
    assert found is not None
    assert (found.restored_from, found.points) == (new.id, 20)
    assert main(["restore", "--before", "2020-01-01T00:00:00Z", "--yes"]) == 1


def test_bisecting_can_be_done_on_another_server(
    standby_region: Standby,
    vector_server: PostgresServer,
    take: Any,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """With --into-env the region's own store is not asked, and a check looks at the other."""
    point = take(standby_region.vault, 10)
    standby_region.connect(memory_dsn="postgresql://127.0.0.1:9/away")
    check = 'case "$RELIGHT_MEMORY_DSN" in */away) exit 1;; esac'
    monkeypatch.setenv("OTHER", vector_server.dsn())
    assert main(["points", "bisect", "--yes", "--json", "--check", check, "--into-env", "OTHER"]) == 0
    assert json.loads(capsys.readouterr().out)["newest_good"] == point.id


def test_a_rehearsal_that_fails_is_an_objective_missed(
    standby_region: Standby, take: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    """Exit code 3 and the reason; 0 when the point is good, with the figures on stdout."""
    assert main(["rehearse", "--yes"]) == 3
    assert "no eligible point" in capsys.readouterr().err
    take(standby_region.vault, 10)
    assert main(["rehearse", "--yes", "--json", "--check", 'test -n "$RELIGHT_COLLECTION"']) == 0
    assert json.loads(capsys.readouterr().out)["points"] == 20
    assert main(["rehearse", "--yes", "--check", "exit 1"]) == 3
    assert len(list(standby_region.vault.list_keys("rehearsals/"))) >= 1


def test_a_point_is_carried_to_a_vault_that_nothing_replicates_to(
    standby_region: Standby,
    take: Any,
    seaweed_server: Seaweed,
    nats_server: NatsServer,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """As far as the ladder keeps it; a vault that is not there is an error that is said."""
    settings, vault = standby_region.settings, standby_region.vault
    standby_region.connect(queue_url=nats_server.url())
    monkeypatch.setenv("RELIGHT_TIER", "batch")  # whose points go to the own vault
    monkeypatch.setenv("RELIGHT_PEER_VAULT_ENDPOINT", seaweed_server.url)
    standby_region.hold_lease()
    old = take(vault, 24 * 60)
    assert main(["points", "copy", "--yes"]) == 1
    assert "NoSuchBucket" in capsys.readouterr().err
    seaweed_server.client().create_bucket(Bucket=settings.peer_vault_bucket)
    away = Vault(seaweed_server.client(), settings.peer_vault_bucket, region=PEER)
    assert main(["snapshot", "--yes", "--json"]) == 0
    done = json.loads(capsys.readouterr().out)
    newest = next(points.eligible(vault))
    assert (done["id"], done["region"]) == (newest.id, HERE)
    assert [item["waiting"] for item in done["journal"]] == [""]
    assert main(["points", "copy", "--yes", "--json"]) == 0
    copied = json.loads(capsys.readouterr().out)["copied"]
    assert [item["point"] for item in copied] == [newest.id]  # which holds the only rung of each kind
    assert [manifest.id for manifest in points.eligible(away)] == [newest.id]
    assert [manifest.id for manifest in points.eligible(vault)] == [newest.id, old.id]
    assert main(["points", "list"]) == 0
    assert capsys.readouterr().out.count(newest.id) == 2


def test_adopting_shows_its_steps(standby_region: Standby, capsys: pytest.CaptureFixture[str]) -> None:
    """Where every collection is Relight's own there is nothing to do, and nobody is asked."""
    assert standby_region.settings.environment == "test"
    assert main(["adopt"]) == 0
    assert "nothing to adopt" in capsys.readouterr().err


def test_a_rehearsal_takes_the_store_that_the_secret_names_for_it(
    standby_region: Standby, take: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    """fails when the region's own store is used all the same, or the address is shown."""
    take(standby_region.vault, 10)
    standby_region.connect(rehearsal_dsn="host=127.0.0.1 port=9 user=x dbname=x password=hidden")
    assert main(["rehearse", "--yes"]) == 3
    told = capsys.readouterr()
    assert "the store of rehearsal_dsn" in told.err
    assert "the rehearsal failed" in told.err
    assert "hidden" not in told.err + told.out


def test_the_journal_is_archived_and_shown(
    standby_region: Standby, take: Any, spec: CollectionSpec, state: Connection, capsys: pytest.CaptureFixture[str]
) -> None:
    """A dry run says what would be done; in a region without the lease nothing is; what there is can be seen."""
    take(standby_region.peer, 10)
    settle(state)
    assert main(["journal", "archive", "--yes"]) == 1
    standby_region.hold_lease()
    capsys.readouterr()
    assert main(["journal", "archive", "--dry-run", "--json"]) == 0
    [plan] = json.loads(capsys.readouterr().out)
    assert (plan["segments"], plan["entries"], plan["pruned_entries"]) == (1, 20, 0)
    assert main(["journal", "archive", "--yes", "--json"]) == 0
    [done] = json.loads(capsys.readouterr().out)
    assert (done["entries"], "is not in the vault" in done["waiting"]) == (20, True)
    for key in standby_region.vault.list_keys("journal/"):
        standby_region.peer.put_bytes(key, standby_region.vault.get_bytes(key))
    assert main(["journal", "archive", "--yes"]) == 0
    told = capsys.readouterr()
    assert "pruned entries: 20" in told.out
    assert "the rest waits" not in told.err
    assert main(["journal", "show", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    [row] = found["collections"]
    assert (row["entries"], row["alive"], row["segments"], row["behind"], row["lag_seconds"]) == (0, 20, 1, 0, 0)
    assert found["bytes"] > 0
    assert main(["journal", "show"]) == 0
    assert f"{spec.name}: 0 entries after" in capsys.readouterr().out
    assert main(["memory", "show"]) == 0
    assert "0 entries and 0.0 s behind the journal" in capsys.readouterr().out


def test_what_a_task_wrote_is_taken_back(
    standby_region: Standby,
    take: Any,
    store: PgVectorStore,
    memory: Memory,
    spec: CollectionSpec,
    state: Connection,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """The plan counts entries by task and changes nothing; then the memory is as it was, and that can be undone."""
    with state, state.cursor() as cursor:
        memory.upsert(cursor, some_points(3, seed=9, prefix="bad"), epoch=1, task_id="wrong")
    settle(state)
    assert main(["restore", "--without-task", "wrong", "--yes"]) == 1
    standby_region.hold_lease()
    capsys.readouterr()
    assert main(["restore", "--without-task", "wrong", "--dry-run", "--json"]) == 0
    told = capsys.readouterr()
    assert json.loads(told.out)[0]["left_out"] == {"wrong": 3}
    assert "3 entries (3 of wrong), from 20" in told.err
    assert main(["restore", "--without-task", "wrong", "--without-task", "nobody", "--yes"]) == 1
    assert "there is no task 'nobody'" in capsys.readouterr().err
    assert main(["restore", "--without-task", "wrong", "--yes", "--json"]) == 0
    [done] = json.loads(capsys.readouterr().out)["cuts"]
    assert (done["deleted"], done["restored"], _points(store, spec)) == (3, 0, 20)
    settle(state)
    assert main(["restore", "--without-task", done["id"], "--yes"]) == 0
    assert _points(store, spec) == 23


def test_the_memory_goes_back_to_a_moment(
    standby_region: Standby,
    take: Any,
    store: PgVectorStore,
    memory: Memory,
    spec: CollectionSpec,
    state: Connection,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """What was written since is taken back; the future and a time before the first write are refused in words."""
    standby_region.hold_lease()
    with state.cursor() as cursor:
        cursor.execute("select clock_timestamp()")
        [at] = cursor.fetchone() or (None,)
    state.rollback()
    with state, state.cursor() as cursor:
        memory.upsert(cursor, some_points(2, seed=9, prefix="later"), epoch=1)
        memory.delete(cursor, ["p0"], epoch=1)
    settle(state)
    assert main(["restore", "--until", at.isoformat(), "--yes"]) == 0
    told = capsys.readouterr()
    assert "3 entries (3 of no task)" in told.err
    assert _points(store, spec) == 20
    assert main(["restore", "--until", "2999-01-01T00:00:00Z", "--yes"]) == 2
    assert "in the future" in capsys.readouterr().err
    assert main(["restore", "--until", "2020-01-01T00:00:00Z", "--yes"]) == 1
    assert "its first write is of 20" in capsys.readouterr().err
    assert main(["restore", "--into-env", "X", "--yes"]) == 2
    assert "--into-env goes with --until or --without-task" in capsys.readouterr().err


def _points(store: PgVectorStore, spec: CollectionSpec) -> int:
    found = store.describe(spec.name)
    assert found is not None
    return found.points


def test_the_stores_of_both_vaults_are_tried(standby_region: Standby, capsys: pytest.CaptureFixture[str]) -> None:
    """After a yes, and nothing stays; one that cannot be reached is a trial that fails and is said."""
    assert main(["points", "probe", "--dry-run"]) == 0
    assert [*standby_region.vault.list_keys("")] == []
    capsys.readouterr()
    assert main(["points", "probe", "--yes", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert [vault["vault"] for vault in found] == [
        f"{item.bucket} in {item.region}" for item in (standby_region.vault, standby_region.peer)
    ]
    assert all(trial["ok"] for vault in found for trial in vault["trials"])
    assert [*standby_region.vault.list_keys("")] == [*standby_region.peer.list_keys("")] == []
    standby_region.peer._client.delete_bucket(Bucket=standby_region.peer.bucket)
    assert main(["points", "probe", "--yes"]) == 1
    told = capsys.readouterr().out
    assert told.count("NOT OK") == 6
    assert "NoSuchBucket" in told
