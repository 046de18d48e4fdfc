"""What each region publishes of itself every minute: on real databases and vaults, read back from the metrics."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import pytest
from contract.test_recovery import EAST, WEST, Pair, pair, remember, renewing
from contract.test_relit_points import darken
from contract.test_status import SPECS, acting

from relight.adapters import aws
from relight.config import Acknowledge, StateKind
from relight.errors import UnavailableError
from relight.providers.breaker import BreakerState, Phase
from relight.providers.shared import PostgresBreakers
from relight.recovery.epoch import Lease, LeaseStore
from relight.recovery.exposure import Exposure
from relight.recovery.gauges import Surface, is_served, observe_region, surfaces
from relight.recovery.metrics import NAMESPACE
from relight.recovery.points import take_point
from relight.recovery.replica import ReplicaPosition
from relight.recovery.run import STATES, Run, run_state
from relight.tasks.confirm import Promise, Standing
from relight.tasks.epochs import Epoch
from relight.wiring import Region
from relight_drill.processes import free_port, wait_until

if TYPE_CHECKING:
    from relight.config import Settings

__all__ = ["pair"]

servers = pytest.mark.servers
NOW = datetime(2026, 4, 19, 2, tzinfo=UTC)


def observed(settings: Settings) -> dict[str, Any]:
    """One invocation of the function."""
    with Region(settings) as region:
        return observe_region(region)


@servers
def test_both_regions_say_how_they_stand(pair: Pair) -> None:
    """The one that acts is open and exposes little; the other is closed, exposes nothing, and is a little behind.

    What is published is what is returned, under the environment and the region.
    """
    remember(pair.east, "a", "b")
    take_point(pair.east)
    with acting(pair.east):
        PostgresBreakers(pair.east.database).update(
            "openai", lambda _, now: BreakerState(phase=Phase.OPEN, since=now, change="x", open_until=now + 3600)
        )
        first = observed(replace(EAST, providers=SPECS))
        known = PostgresBreakers(pair.west.database)
        asyncio.run(wait_until(lambda: bool(known.read().states), what="the breaker in the replica", timeout_s=60))
        second = observed(replace(WEST, providers=SPECS))
    assert (first["failed"], second["failed"]) == ({}, {})
    east, west = first["found"], second["found"]
    for found, acts in ((east, 1.0), (west, 0.0)):
        assert (found["GateOpen"], found["LeaseHeld"], found["Served"]) == (acts, acts, 1.0)
        assert (found["Epoch"], found["LeaseEpoch"], found["LooksFailed"]) == (1.0, 1.0, 0.0)
        assert {f"ExposureSeconds {surface}" for surface in Surface} <= {*found}
    assert (east["ProviderBreakerOpen openai"], east["ProviderBreakerOpen anthropic"]) == (1.0, 0.0)
    assert (east["ProvidersAvailable"], "ProvidersAvailable" in west) == (1.0, False)
    assert east["ExposureSeconds tasks"] == east["ExposureSeconds effects"] == 0.0, "they wait for the standby"
    assert east["ExposureSeconds memory"] <= east["ExposureSeconds state"] < 60
    assert all(west[f"ExposureSeconds {surface}"] == 0.0 for surface in Surface)
    assert (east["ReplicationLagSeconds"], west["ReplicationLagSeconds"] < 600) == (0.0, True)
    assert "PointAgeSeconds" in west
    for name, found in (("us-east-1", east), ("us-west-2", west)):
        told = pair.emulator.client("cloudwatch", name).list_metrics(Namespace=NAMESPACE)["Metrics"]
        names = {
            " ".join(
                [
                    metric["MetricName"],
                    *(d["Value"] for d in metric["Dimensions"] if d["Name"] not in ("environment", "region")),
                ]
            )
            for metric in told
            if {"Name": "region", "Value": name} in metric["Dimensions"]
        }
        assert names == {*found}


@servers
def test_an_idle_primary_is_told_from_one_that_is_cut_off(pair: Pair) -> None:
    """fails when nothing but work moves the replica: each look of the region that acts arrives there."""
    with acting(pair.east):
        observed(EAST)
        before = pair.west.replica.position().last_commit_at
        with pair.east.database.transaction() as cur:
            cur.execute("update relight.heartbeat set at = at - interval '1 hour'")
        observed(EAST)

        def arrived() -> bool:
            after = pair.west.replica.position().last_commit_at
            return after is not None and (before is None or after > before)

        asyncio.run(wait_until(arrived, what="the beat in the replica", timeout_s=60))


@servers
def test_a_region_that_was_relit_says_that_nothing_protects_it(pair: Pair) -> None:
    """Until the recovery has opened the gate nobody is served; afterwards what no replica has is exposed without end,
    so that it is missing and not small."""
    remember(pair.east, "a")
    take_point(pair.east)
    pair.state.primary.kill()
    asyncio.run(wait_until(lambda: not _live(pair.west), what="the lease to run out", timeout_s=30))
    assert observed(WEST)["found"]["Served"] == 0.0
    west = replace(WEST, lease_ttl_s=30.0)
    with Region(west) as region, renewing(region.lease_keeper()):
        for name in STATES:
            run_state(name, region, Run(run_id="r"))
        darken(region)
        page = observe_region(region)
    found = page["found"]
    assert {*page["failed"]} == {"the other vault"}, "which died with the region, and hides nothing else"
    assert (found["Served"], found["GateOpen"], found["Epoch"]) == (1.0, 1.0, 2.0)
    assert found["ReplicationLagSeconds"] == 0.0
    for surface in (Surface.STATE, Surface.TASKS, Surface.EFFECTS):
        assert f"ExposureSeconds {surface}" not in found


@servers
def test_what_cannot_be_looked_at_is_counted_and_the_rest_is_there(pair: Pair) -> None:
    """fails when one server that is away hides all others: here the database, the lease and the other vault are."""
    pair.state.primary.kill()
    with Region(EAST) as region:
        client = aws.client("s3", "us-west-2", endpoint_url=f"http://127.0.0.1:{free_port()}", attempts=1)
        region.__dict__["leases"] = LeaseStore(client, "lease")
        page = observe_region(region)
    assert {*page["failed"]} == {"lease", "epoch"}
    assert page["found"] == {"GateOpen": 0.0, "LooksFailed": 2.0}


@servers
def test_a_standby_of_copied_backups_has_no_database_to_look_at(pair: Pair) -> None:
    """Its lag is the age of the newest copy, and that somebody acts is all that it knows of the gate."""
    copied = datetime.now(UTC) - timedelta(minutes=7)

    class Backups:
        def position(self) -> Any:
            return ReplicaPosition(promoted=False, received_lsn="", replayed_lsn="", last_commit_at=copied)

    settings = replace(WEST, state_kind=StateKind.SNAPSHOTS, providers=SPECS)
    with acting(pair.east), Region(settings) as region:
        region.__dict__["replica"] = Backups()
        pair.state.standby.kill()
        page = observe_region(region)
    assert page["failed"] == {}
    assert page["found"]["ReplicationLagSeconds"] == pytest.approx(420, abs=300)
    assert (page["found"]["Served"], page["found"]["GateOpen"]) == (1.0, 0.0)
    assert not {"Epoch", "ProvidersAvailable"} & {*page["found"]}


@servers
def test_numbers_that_cannot_be_published_are_a_failure(pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    """fails when the function ends well and nobody has the numbers: its errors are what is watched."""
    with Region(EAST) as region:
        region.__dict__["metrics"] = pair.east.metrics
        monkeypatch.setattr(
            pair.east.metrics, "_client", aws.client("cloudwatch", "us-east-1", endpoint_url="http://127.0.0.1:1")
        )
        with pytest.raises(UnavailableError):
            observe_region(region)


def _live(region: Region) -> bool:
    found = region.leases.read()
    return found is not None and found[0].expires_at > datetime.now(UTC)


# -- the arithmetic


def promise(state: Standing) -> Promise:
    return Promise(state=state, since=NOW)


MEMORY = [Exposure(collection="a", seconds=3.0, why=""), Exposure(collection="b", seconds=90.0, why="")]


@pytest.mark.parametrize(
    ("acknowledge", "standing", "lag_s", "tasks", "effects"),
    [
        (Acknowledge.REMOTE, Standing.KEPT, 4.0, 0.0, 0.0),
        (Acknowledge.REMOTE, Standing.STALLED, 4.0, 0.0, 0.0),
        (Acknowledge.REMOTE, Standing.SUSPENDED, 4.0, 4.0, 4.0),
        (Acknowledge.LOCAL, Standing.KEPT, 4.0, 4.0, 0.0),
        (Acknowledge.LOCAL, Standing.NOBODY, None, None, None),
        (Acknowledge.REMOTE, Standing.NOBODY, None, None, None),
    ],
)
def test_what_would_be_lost_of_each_surface(
    acknowledge: Acknowledge, standing: Standing, lag_s: float | None, tasks: float | None, effects: float | None
) -> None:
    """What was confirmed is not lost; an effect's intent is always confirmed, whatever tasks are."""
    found = surfaces(acknowledge=acknowledge, promise=promise(standing), lag_s=lag_s, memory=MEMORY)
    assert found == {Surface.STATE: lag_s, Surface.MEMORY: 90.0, Surface.TASKS: tasks, Surface.EFFECTS: effects}


def test_memory_is_as_exposed_as_its_poorest_collection() -> None:
    """One of which everything would be lost is not hidden by another; none has nothing to lose."""
    lost = [*MEMORY, Exposure(collection="c", seconds=None, why="no point")]
    kept = promise(Standing.KEPT)
    for memory, expected in ((lost, None), ([], 0.0)):
        found = surfaces(acknowledge=Acknowledge.REMOTE, promise=kept, lag_s=1.0, memory=memory)
        assert found[Surface.MEMORY] == expected


LEASE = Lease(epoch=2, region="us-west-2", run_id="r", expires_at=NOW + timedelta(seconds=5))
OPENED = Epoch(number=2, region="us-west-2", opened_at=NOW, verified_at=NOW, replayed_at=NOW)


@pytest.mark.parametrize(
    ("lease", "epoch", "served"),
    [
        (LEASE, OPENED, True),
        (None, OPENED, False),
        (replace(LEASE, expires_at=NOW), OPENED, False),
        (replace(LEASE, epoch=3), OPENED, False),
        (LEASE, replace(OPENED, opened_at=None), False),
        (LEASE, None, False),
    ],
)
def test_somebody_is_served_only_behind_an_open_gate_of_the_lease_that_lives(
    lease: Lease | None, epoch: Epoch | None, served: bool
) -> None:
    """fails when a recovery that is under way, or stopped half-way, counts as serving."""
    assert is_served(lease, epoch, now=NOW) is served
