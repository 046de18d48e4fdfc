"""Where an operator sees whether what is acknowledged is in the standby."""

from __future__ import annotations

import asyncio
import secrets
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import pytest

from relight.config import ConfirmBy, Connections, OnStandbyAway, Role, Settings
from relight.memory.store import CollectionSpec
from relight.objectives import Tier
from relight.recovery.exposure import vector_exposure
from relight.recovery.metrics import promise_gauges
from relight.recovery.smoke import CHECKS, CONFIRMATIONS
from relight.tasks.confirm import Promise, Standing, Stopwatch
from relight.wiring import Region
from relight_drill.processes import wait_until

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from servers import StatePair

    from relight_drill.postgres import PostgresServer

pytestmark = pytest.mark.servers

SETTINGS = Settings(
    environment="test",
    tier=Tier.INTERNAL,
    role=Role.PRIMARY,
    region="us-east-1",
    primary_region="us-east-1",
    standby_region="us-west-2",
    vault_bucket="v1",
    peer_vault_bucket="v2",
    lease_bucket="l",
    lease_region="us-west-2",
    connections_secret="none",
    service_url="http://127.0.0.1:9",
    primary_url="http://127.0.0.1:9",
    standby_url="http://127.0.0.1:9",
    cluster="c",
    agent_service="a",
    agent_replicas=1,
    collections=(CollectionSpec(name="memory", dimension=2, embedding_model="m"),),
    confirm_timeout_s=0.3,
)


@pytest.fixture
def opened() -> Iterator[Callable[..., Region]]:
    """Makes regions whose state is the database given, and closes them at the end."""
    made: list[Region] = []

    def make(server: PostgresServer, **settings: object) -> Region:
        region = Region(replace(SETTINGS, **settings))  # type: ignore[arg-type]
        region.__dict__["connections"] = Connections(state_dsn=server.dsn(), memory_dsn="none", queue_url="none")
        made.append(region)
        return region

    yield make
    for region in made:
        region.close()


def acknowledged(region: Region) -> tuple[bool, str]:
    return CHECKS["acknowledged"](region)


@pytest.mark.parametrize("by", [ConfirmBy.COMMIT, ConfirmBy.POSITION])
def test_the_smoke_test_measures_confirmations(
    opened: Callable[..., Region], state_pair: StatePair, by: ConfirmBy
) -> None:
    """Where the standby confirms, the check says by what, how long it took, and what would become of it."""
    ok, found = acknowledged(region := opened(state_pair.primary, confirm_by=by, confirm_timeout_s=30.0))
    assert ok
    assert found.startswith(f"the standby confirms commits by {by} in ")
    assert found.endswith("nothing is acknowledged while it is away")
    assert region.database.confirmations().count == CONFIRMATIONS


def test_the_smoke_test_says_that_nobody_confirms(opened: Callable[..., Region], vector_server: PostgresServer) -> None:
    """fails when the database has no standby: the check says so, and why."""
    ok, found = acknowledged(opened(vector_server))
    assert not ok
    assert found.startswith("NOBODY confirms commits (synchronous_standby_names is empty)")


@pytest.mark.parametrize(
    ("policy", "says"),
    [
        (OnStandbyAway.WAIT, "the promise is stalled, nothing is acknowledged"),
        (OnStandbyAway.PROCEED, "the promise is suspended, while it is away what is acknowledged is in this region"),
    ],
)
def test_a_silent_standby_is_shown(
    opened: Callable[..., Region], state_pair: StatePair, policy: OnStandbyAway, says: str
) -> None:
    """fails when the standby is silent: the check says what the policy makes of it, and the exposure rises."""
    region = opened(state_pair.primary, on_standby_away=policy)
    region.database.execute("create table if not exists exposed (x int)")

    def exposure_s() -> float:
        [found] = vector_exposure(region, [])
        return found.seconds if found.seconds is not None else float("inf")

    asyncio.run(wait_until(lambda: exposure_s() == 0, what="the standby to have everything", timeout_s=30))
    state_pair.standby.process.freeze()
    try:
        region.database.execute("insert into exposed values (1)")
        ok, found = acknowledged(region)
        assert not ok
        assert says in found
        before = exposure_s()
        assert before > 0
        asyncio.run(wait_until(lambda: exposure_s() > before, what="the exposure to rise", timeout_s=30))
    finally:
        state_pair.standby.process.thaw()
    asyncio.run(wait_until(lambda: acknowledged(region)[0], what="the standby to confirm again", timeout_s=30))


def test_who_may_not_see_the_replicas_knows_no_exposure(opened: Callable[..., Region], state_pair: StatePair) -> None:
    """fails when the user may not see how far the replicas are: the exposure is not called 0."""
    admin = opened(state_pair.primary).database
    role, password = f"r{secrets.token_hex(4)}", secrets.token_hex(8)
    admin.execute(f"create role {role} login password '{password}'")
    region = opened(state_pair.primary)
    region.__dict__["connections"] = Connections(
        state_dsn=state_pair.primary.dsn(user=role, password=password), memory_dsn="none", queue_url="none"
    )
    [found] = vector_exposure(region, [])
    assert found.seconds is None
    assert "no replica can be asked" in found.why


def test_the_gauges_say_for_how_long_the_promise_is_broken() -> None:
    """The gauge is 0 while the promise is kept, and then rises; the waits are beside it."""
    now = datetime(2026, 4, 19, 2, 0, tzinfo=UTC)
    stopwatch = Stopwatch()
    stopwatch.confirmed(0.2)
    stopwatch.proceeded()
    gauges = {
        state: promise_gauges(Promise(state=state, since=now - timedelta(seconds=90)), stopwatch.read(), now=now)
        for state in Standing
    }
    broken = {state: found["PromiseBrokenSeconds"] for state, found in gauges.items()}
    assert broken == {Standing.KEPT: 0, Standing.STALLED: 0, Standing.SUSPENDED: 90, Standing.NOBODY: 90}
    assert gauges[Standing.KEPT]["ConfirmationLongestSeconds"] == 0.2
    assert gauges[Standing.KEPT]["ProceededUnconfirmed"] == 1
