"""Databases that AWS promotes: RDS and Aurora at the wire, with real PostgreSQL servers where they are asked by SQL."""

from __future__ import annotations

import asyncio
import json
from contextlib import closing
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import boto3
import pytest
from contract.test_aurora import in_standby
from fakes import FakeClock
from moto import mock_aws
from played_aurora import STANDBY, USER, play_aurora
from rds_player import PlayedInstance, RdsPlayer, RefusedError, playing
from servers import start_pair
from unit.test_config import SETTINGS

from relight.adapters import aws, postgres
from relight.adapters.rds import LOOK_EVERY_S, Rds
from relight.config import Connections, StateKind
from relight.errors import (
    AgainLaterError,
    ConfigError,
    DeniedError,
    NotFoundError,
    PermanentError,
    UnavailableError,
)
from relight.recovery.replica import PhysicalReplica
from relight.recovery.replica_rds import WAIT_S, AuroraSecondary, RdsReplica, RestoredBackup
from relight.recovery.smoke import CHECKS
from relight.wiring import Region
from relight_cli.recover import with_state_group

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from servers import StatePair

    from relight_drill.processes import ProcessGroup

pytestmark = pytest.mark.servers

ID = "relight-demo-state"
SOURCE = f"arn:aws:rds:us-east-1:000000000000:db:{ID}"
CLUSTER = f"arn:aws:rds:us-west-2:000000000000:cluster:{ID}"
NOWHERE = f"host={ID}.not-restored-yet.invalid port=5432 dbname=relight user=relight password=p sslmode=require"
NOW = datetime(2026, 4, 19, 2, 0, tzinfo=UTC)


@pytest.fixture
def player(monkeypatch: pytest.MonkeyPatch) -> Iterator[RdsPlayer]:
    """RDS of the standby's region, found as the emulator is."""
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "testing")
    played = RdsPlayer()
    with playing(played) as address:
        monkeypatch.setenv("AWS_ENDPOINT_URL_RDS", address)
        yield played


@pytest.fixture
def rds(player: RdsPlayer) -> Rds:
    return Rds(aws.client("rds", "us-west-2"))


@pytest.fixture
def own_pair(server_group: ProcessGroup, server_dir: Path, request: pytest.FixtureRequest) -> StatePair:
    """A pair to promote."""
    return asyncio.run(start_pair(server_group, server_dir / request.node.name))


def promote_for_real(pair: StatePair) -> Callable[[PlayedInstance], None]:
    """What RDS does to the server behind a replica, a while after it was asked."""

    def done(instance: PlayedInstance) -> None:
        PhysicalReplica(pair.standby.dsn()).promote()
        instance.status, instance.source = "backing-up", ""

    def asked(instance: PlayedInstance) -> None:
        instance.then = [lambda _: None, done]

    return asked


def replica_of(rds: Rds, dsn: str, clock: FakeClock) -> RdsReplica:
    return RdsReplica(dsn, rds, instance=ID, backup_days=7, clock=clock)


# -- a replica of RDS


def test_a_replica_is_promoted_and_waited_for(player: RdsPlayer, rds: Rds, own_pair: StatePair) -> None:
    """It takes writes when the call returns, its backups begin, and a second time there is nothing to do."""
    player.instances[ID] = PlayedInstance(id=ID, source=SOURCE)
    player.on_promote = promote_for_real(own_pair)
    replica = replica_of(rds, own_pair.standby.dsn(), FakeClock())
    assert not replica.position().promoted
    assert replica.promote() is True
    assert replica.position().promoted
    assert player.asked("PromoteReadReplica") == [{"DBInstanceIdentifier": ID, "BackupRetentionPeriod": 7}]
    with closing(postgres.connect(own_pair.standby.dsn())) as conn, conn.cursor() as cur:
        cur.execute("create table written (x int)")
    asked = len(player.calls)
    assert replica.promote() is False
    assert len(player.calls) == asked, "RDS is not asked about what is done"


def test_a_replica_that_is_at_something_else_is_asked_again(player: RdsPlayer, rds: Rds, own_pair: StatePair) -> None:
    """fails when RDS refuses because the replica is being modified: it is asked once more, until it is not."""

    def available(instance: PlayedInstance) -> None:
        instance.status = "available"

    player.instances[ID] = PlayedInstance(id=ID, source=SOURCE, status="modifying", then=[lambda _: None, available])
    player.on_promote = promote_for_real(own_pair)
    assert replica_of(rds, own_pair.standby.dsn(), FakeClock()).promote() is True
    assert len(player.asked("PromoteReadReplica")) == 2


def test_a_promotion_that_goes_on_is_waited_for_by_the_next_call(
    player: RdsPlayer, rds: Rds, state_pair: StatePair
) -> None:
    """fails when a promotion takes longer than a function: the call says when to come again, and how it stands."""
    player.instances[ID] = PlayedInstance(id=ID, source=SOURCE)
    clock = FakeClock()
    before = clock.monotonic()
    with pytest.raises(AgainLaterError, match=f"{ID} does not take writes yet: modifying") as caught:
        replica_of(rds, state_pair.standby.dsn(), clock).promote()
    assert caught.value.wait_s == LOOK_EVERY_S
    assert clock.monotonic() - before <= WAIT_S
    assert len(player.asked("PromoteReadReplica")) == 1, "asked once, and then looked at"
    with pytest.raises(AgainLaterError, match="InvalidDBInstanceState"):
        replica_of(rds, state_pair.standby.dsn(), clock).promote()


def test_what_follows_nobody_is_not_promoted(player: RdsPlayer, rds: Rds, state_pair: StatePair) -> None:
    """fails when the instance is no replica and takes no writes: it is only waited for."""
    player.instances[ID] = PlayedInstance(id=ID, status="stopped")
    with pytest.raises(AgainLaterError, match="stopped"):
        replica_of(rds, state_pair.standby.dsn(), FakeClock()).promote()
    assert not player.asked("PromoteReadReplica")


def test_a_server_that_is_started_again_meanwhile_is_waited_for(player: RdsPlayer, rds: Rds) -> None:
    """fails when nobody answers at the database's address: RDS is asked how it stands."""
    player.instances[ID] = PlayedInstance(id=ID, status="rebooting")
    with pytest.raises(AgainLaterError, match="rebooting"):
        replica_of(rds, "host=127.0.0.1 port=9 dbname=relight", FakeClock()).promote()


def test_an_instance_that_is_not_there(player: RdsPlayer, rds: Rds, state_pair: StatePair) -> None:
    """fails when the stack was not deployed: nothing can be promoted, and that says what to do."""
    with pytest.raises(NotFoundError, match=rf"there is no instance {ID}; deploy the standby's stack"):
        replica_of(rds, state_pair.standby.dsn(), FakeClock()).promote()


@pytest.mark.parametrize(
    ("code", "status", "kind"),
    [
        ("AccessDenied", 403, DeniedError),
        ("KMSKeyNotAccessibleFault", 400, DeniedError),
        ("InvalidParameterValue", 400, PermanentError),
        ("InternalFailure", 500, UnavailableError),
    ],
)
def test_what_rds_refuses_is_told(
    player: RdsPlayer, rds: Rds, state_pair: StatePair, code: str, status: int, kind: type[Exception]
) -> None:
    """fails when the function may not promote, or RDS is broken: no wait, and the error is of our tree."""
    player.instances[ID] = PlayedInstance(id=ID, source=SOURCE)
    player.refuse["PromoteReadReplica"] = [RefusedError(code, status)] * 9
    clock = FakeClock()
    before = clock.monotonic()
    with pytest.raises(kind, match=code) as caught:
        replica_of(rds, state_pair.standby.dsn(), clock).promote()
    assert type(caught.value) is kind
    assert clock.monotonic() == before


# -- a secondary of Aurora


def secondary(rds: Rds, dsn: str) -> AuroraSecondary:
    return AuroraSecondary(dsn, rds, region=STANDBY, cluster=ID, global_cluster=ID, clock=FakeClock())


def test_a_secondary_is_taken_out_and_waited_for(player: RdsPlayer, rds: Rds, own_pair: StatePair) -> None:
    """It takes writes when the call returns, the primary's cluster stays as it is, and again there is nothing to do."""
    name = play_aurora(own_pair)
    dsn = in_standby(own_pair, name)
    writer = CLUSTER.replace("us-west-2", "us-east-1")
    player.members[ID] = [(writer, True), (CLUSTER, False)]

    def detached() -> None:
        PhysicalReplica(own_pair.standby.dsn()).promote()

    player.on_detach = detached
    replica = secondary(rds, dsn)
    before = replica.position()
    assert (before.promoted, before.received_lsn) == (False, before.replayed_lsn)
    assert before.received_lsn
    assert before.last_commit_at is not None
    assert replica.promote() is True
    assert replica.position().promoted
    assert player.asked("RemoveFromGlobalCluster") == [{"GlobalClusterIdentifier": ID, "DbClusterIdentifier": CLUSTER}]
    assert player.members[ID] == [(writer, True)]
    assert replica.promote() is False
    assert len(player.asked("RemoveFromGlobalCluster")) == 1


@pytest.fixture(scope="module")
def following(state_pair: StatePair) -> str:
    """How a secondary's database is reached that nobody promotes."""
    return in_standby(state_pair, play_aurora(state_pair))


def test_a_secondary_that_is_out_already_is_waited_for(player: RdsPlayer, rds: Rds, following: str) -> None:
    """fails when a call before took it out, and it takes no writes yet: it is not taken out again."""
    gone: dict[str, list[tuple[str, bool]]] = {}
    left: dict[str, list[tuple[str, bool]]] = {ID: []}
    for player.members in (gone, left):
        with pytest.raises(AgainLaterError, match=f"it is out of {ID}, and is being promoted"):
            secondary(rds, following).promote()
    assert not player.asked("RemoveFromGlobalCluster")


def test_a_global_database_that_is_at_something_else(player: RdsPlayer, rds: Rds, following: str) -> None:
    """fails when Aurora refuses for its state: it is asked again, and then by the next call."""
    player.members[ID] = [(CLUSTER, False)]
    player.refuse["RemoveFromGlobalCluster"] = [RefusedError("InvalidGlobalClusterStateFault")] * 9
    with pytest.raises(AgainLaterError, match="InvalidGlobalClusterStateFault"):
        secondary(rds, following).promote()
    assert len(player.asked("RemoveFromGlobalCluster")) > 1
    player.refuse["RemoveFromGlobalCluster"] = [RefusedError("AccessDenied", 403)]
    with pytest.raises(DeniedError):
        secondary(rds, following).promote()


def test_a_region_that_was_switched_to_is_promoted_already(player: RdsPlayer, rds: Rds, state_pair: StatePair) -> None:
    """A cluster that takes writes is left in its global database: somebody switched over to it."""
    dsn = state_pair.primary.dsn(play_aurora(state_pair), user=USER)
    player.members[ID] = [(CLUSTER, True)]
    assert secondary(rds, dsn).promote() is False
    assert not player.calls


# -- copied backups


def backup(until: datetime, *, source: str = SOURCE, arn: str = "ab-1", gib: int = 100) -> dict[str, Any]:
    return {
        "AllocatedStorage": gib,
        "DBInstanceArn": source,
        "DBInstanceIdentifier": ID,
        "DBInstanceAutomatedBackupsArn": f"arn:aws:rds:us-west-2:000000000000:auto-backup:{arn}",
        "RestoreWindow": {"EarliestTime": until - timedelta(days=7), "LatestTime": until},
        "Status": "active",
    }


def restored(
    rds: Rds, dsn: str, *, point_at: Callable[[str], None], most_gib: int = 500, group: str = "sg-1"
) -> RestoredBackup:
    return RestoredBackup(
        dsn,
        rds,
        instance=ID,
        source_arn=SOURCE,
        group=group,
        most_gib=most_gib,
        point_at=point_at,
        clock=FakeClock(),
    )


def test_the_newest_copied_backup_is_restored_across_calls(player: RdsPlayer, rds: Rds, state_pair: StatePair) -> None:
    """The first call asks for it, later ones look; once it serves it is pointed at, and the next process finds it."""
    player.backups = [
        backup(NOW - timedelta(days=1), arn="ab-old"),
        backup(NOW, arn="ab-new"),
        backup(NOW + timedelta(hours=1), source=SOURCE.replace("us-east-1", "eu-west-1"), arn="ab-other"),
    ]
    told: list[str] = []
    replica = restored(rds, NOWHERE, point_at=told.append)
    position = replica.position()
    assert (position.promoted, position.last_commit_at) == (False, NOW)
    with pytest.raises(AgainLaterError, match="not restored yet: creating"):
        replica.promote()
    [asked] = player.asked("RestoreDBInstanceToPointInTime")
    assert asked["SourceDBInstanceAutomatedBackupsArn"].endswith("ab-new")
    assert asked["UseLatestRestorableTime"] is True
    assert (asked["DBSubnetGroupName"], asked["DBParameterGroupName"]) == (ID, ID)
    assert asked["VpcSecurityGroupIds"] == ["sg-1"]
    assert (asked["PubliclyAccessible"], asked["DeletionProtection"]) == (False, True)
    assert asked["MaxAllocatedStorage"] == 500
    with pytest.raises(AgainLaterError, match="creating"):
        restored(rds, NOWHERE, point_at=told.append).promote()
    assert not told
    player.instances[ID].status, player.instances[ID].host = "backing-up", "127.0.0.1"
    with pytest.raises(AgainLaterError, match="the connections lead to it now"):
        restored(rds, NOWHERE, point_at=told.append).promote()
    assert told == ["127.0.0.1"]
    assert len(player.asked("RestoreDBInstanceToPointInTime")) == 1
    found = restored(rds, state_pair.primary.dsn(), point_at=told.append)
    assert found.promote() is False
    assert found.position().promoted


@pytest.mark.parametrize(("gib", "most_gib", "asked"), [(450, 500, 567), (100, 0, None)])
def test_what_is_restored_may_grow(player: RdsPlayer, rds: Rds, gib: int, most_gib: int, asked: int | None) -> None:
    """A source that has grown nearly to its limit leaves room all the same, without which RDS restores nothing; who
    was told of no limit asks for none."""
    player.backups = [backup(NOW, gib=gib)]
    with pytest.raises(AgainLaterError):
        restored(rds, NOWHERE, point_at=lambda _: None, most_gib=most_gib).promote()
    [call] = player.asked("RestoreDBInstanceToPointInTime")
    assert call.get("MaxAllocatedStorage") == asked


def test_two_who_restore_at_once_make_one(player: RdsPlayer, rds: Rds) -> None:
    """fails when another call asked in between: what it asked for is waited for."""
    player.backups = [backup(NOW)]
    player.refuse["DescribeDBInstances"] = [RefusedError("DBInstanceNotFound", 404)] * 2
    player.instances[ID] = PlayedInstance(id=ID, status="creating", host="")
    with pytest.raises(AgainLaterError, match="creating"):
        restored(rds, NOWHERE, point_at=lambda _: None).promote()
    assert len(player.asked("RestoreDBInstanceToPointInTime")) == 2


def test_no_backup_was_copied(player: RdsPlayer, rds: Rds) -> None:
    """fails when there is nothing to restore, which the look says too; one that is being made is none yet."""
    making = backup(NOW)
    making["RestoreWindow"] = {}
    player.backups = [making]
    replica = restored(rds, NOWHERE, point_at=lambda _: None)
    for call in (replica.position, replica.promote):
        with pytest.raises(NotFoundError, match=f"no backup of {SOURCE} was copied to us-west-2"):
            call()
    player.backups = [backup(NOW)]


# -- as a region opens them


def region_of(kind: StateKind, **more: Any) -> Region:
    source = ID if kind is StateKind.AURORA_GLOBAL else SOURCE
    settings = replace(SETTINGS, region="us-west-2", state_kind=kind, state_id=ID, state_source=source, **more)
    return Region(settings, clock=FakeClock())


def test_a_region_opens_what_its_settings_name(player: RdsPlayer) -> None:
    """Each kind of state has its own way of being promoted, and a database of the user's own is promoted by SQL."""
    kinds = {
        StateKind.EXISTING: PhysicalReplica,
        StateKind.RDS_REPLICA: RdsReplica,
        StateKind.AURORA_GLOBAL: AuroraSecondary,
        StateKind.SNAPSHOTS: RestoredBackup,
    }
    for kind, made in kinds.items():
        with region_of(kind) as region:
            region.__dict__["connections"] = Connections(state_dsn=NOWHERE, memory_dsn="m", queue_url="q")
            assert type(region.replica) is made


def test_the_smoke_test_says_how_far_copied_backups_come(player: RdsPlayer) -> None:
    """A standby without a database is whole while its backups are there, and promises nothing that it cannot."""
    player.backups = [backup(NOW)]
    with region_of(StateKind.SNAPSHOTS) as region:
        region.__dict__["connections"] = Connections(state_dsn=NOWHERE, memory_dsn="m", queue_url="q")
        ok, found = CHECKS["state"](region)
        assert ok
        assert "copied backups up to 2026-04-19 02:00:00Z" in found
        ok, found = CHECKS["acknowledged"](region)
        assert ok
        assert "as its backups are copied" in found


def test_by_hand_the_group_of_what_is_restored_is_found_by_its_name() -> None:
    """fails when `relight recover`, whose settings come from the environment's file, restores into no group."""
    with mock_aws(), region_of(StateKind.SNAPSHOTS) as region:
        with pytest.raises(NotFoundError, match="us-west-2 has 0 security groups named relight-demo-state"):
            with_state_group(region)
        ec2 = boto3.client("ec2", region_name="us-west-2")
        vpc = ec2.describe_vpcs()["Vpcs"][0]["VpcId"]
        for name in ("relight-demo-state", "relight-demo-state-of-others"):
            ec2.create_security_group(GroupName=name, Description="x", VpcId=vpc)
        group = with_state_group(region).state_group
        assert ec2.describe_security_groups(GroupIds=[group])["SecurityGroups"][0]["GroupName"] == "relight-demo-state"


def test_nothing_is_restored_into_no_group(player: RdsPlayer, rds: Rds) -> None:
    """fails when a database is asked for that nobody may reach, because no setting says its security group."""
    player.backups = [backup(NOW)]
    with pytest.raises(ConfigError, match="state_group is empty; recover by"):
        restored(rds, NOWHERE, point_at=lambda _: None, group="").promote()
    assert player.instances == {}


def test_pointing_at_a_restored_database_changes_nothing_else(
    player: RdsPlayer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The connections keep the password, the other servers, and whatever else they hold."""
    player.instances[ID] = PlayedInstance(id=ID, status="available", host="restored.example")
    kept = {"memory_dsn": "m", "queue_url": "q", "provider_keys": {"a": "k"}}
    with mock_aws():
        client = boto3.client("secretsmanager", region_name="us-west-2")
        client.create_secret(Name=SETTINGS.connections_secret, SecretString=json.dumps({"state_dsn": NOWHERE, **kept}))
        with region_of(StateKind.SNAPSHOTS, state_group="sg-1") as region:
            region._point_state_at("restored.example")
        value = json.loads(client.get_secret_value(SecretId=SETTINGS.connections_secret)["SecretString"])
    dsn = value.pop("state_dsn")
    assert value == kept
    assert postgres.host_of(dsn) == "restored.example"
    for part in ("password=p", "sslmode=require", "user=relight"):
        assert part in dsn
