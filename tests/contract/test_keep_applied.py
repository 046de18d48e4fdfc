"""The applier that runs all the time: what it may do, how it goes on after errors, and what it says of its lag."""

from __future__ import annotations

import threading
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
from memory_helpers import remember, settle, some_points, wait_for_standby

from relight.adapters import postgres
from relight.clock import SystemClock
from relight.config import Settings
from relight.errors import UnavailableError
from relight.memory import apply
from relight.memory.api import Memory
from relight.memory.apply import Applying, Lag, applying, keep_applied, lag_of
from relight.memory.segments import Archive
from relight.objectives import Tier
from relight.recovery.gate import Readiness
from relight.recovery.metrics import CloudWatchMetrics, publish_lag

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from journal_helpers import Past
    from memory_helpers import StateDsns
    from servers import StatePair

    from relight.adapters.postgres import Connection
    from relight.memory.pgvector import PgVectorStore
    from relight.memory.store import CollectionSpec
    from relight_drill.emulator import Emulator

pytestmark = pytest.mark.servers


class Loop:
    """An applier in a thread; a context manager that ends it."""

    def __init__(self, store: PgVectorStore, specs: list[CollectionSpec], dsn: str, **options: Any) -> None:
        self.mode = Applying.ALL
        self.published: list[Mapping[str, Lag]] = []
        self.opened = 0
        self._heard = threading.Condition()
        self._stop = threading.Event()
        self._dsn = dsn
        arguments: dict[str, Any] = {
            "store": store,
            "specs": specs,
            "state": self.state,
            "archive": None,
            "stop": self._stop,
            "may_apply": lambda: self.mode,
            "publish": self.publish,
            "clock": SystemClock(),
            "every_s": 0.01,
            "publish_every_s": 0.0,
        }
        self._thread = threading.Thread(target=keep_applied, kwargs=arguments | options, daemon=True)

    def __enter__(self) -> Loop:
        self._thread.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._stop.set()
        self._thread.join(timeout=30)
        assert not self._thread.is_alive()

    @contextmanager
    def state(self) -> Iterator[Connection]:
        """A connection, and how often one was asked for."""
        self.opened += 1
        connection = postgres.connect(self._dsn)
        try:
            yield connection
        finally:
            connection.close()

    def publish(self, lags: Mapping[str, Lag]) -> None:
        """Note it."""
        with self._heard:
            self.published.append(lags)
            self._heard.notify_all()

    def wait(self, until: Callable[[Mapping[str, Lag]], bool]) -> None:
        """Return when something was published since now of which that is so."""
        since = len(self.published)
        with self._heard:
            assert self._heard.wait_for(lambda: any(until(item) for item in self.published[since:]), timeout=30)

    def caught_up(self, spec: CollectionSpec, seconds: float | None = 0.0) -> None:
        """Return when the collection is that far behind."""
        self.wait(lambda lags: lags[spec.name].seconds == seconds)


def test_memory_follows_the_journal(
    store: PgVectorStore, memory: Memory, spec: CollectionSpec, state: Connection, state_dsns: StateDsns
) -> None:
    """Over one connection, in order, and the lag is published; a store that lost its volume is filled from nothing."""
    remember(state, memory, some_points(20))
    settle(state)
    with Loop(store, [spec], state_dsns.primary) as loop:
        loop.caught_up(spec)
        remember(state, memory, some_points(5, prefix="more"))
        settle(state)
        loop.wait(lambda lags: lags[spec.name] == Lag(seconds=0.0, entries=0) and _points(store, spec) == 25)
        store.drop(spec.name)
        loop.wait(lambda lags: lags[spec.name].seconds == 0.0 and _points(store, spec) == 25)
        assert loop.opened == 1


def test_in_a_standby_only_what_is_hydrated_is_brought_forward(
    elsewhere: PgVectorStore,
    memory: Memory,
    spec: CollectionSpec,
    state: Connection,
    state_dsns: StateDsns,
    state_pair: StatePair,
) -> None:
    """fails when a standby's applier makes from the journal what hydration is to fill from a snapshot."""
    remember(state, memory, some_points(20))
    settle(state)
    wait_for_standby(state_pair)
    loop = Loop(elsewhere, [spec], state_dsns.standby)
    loop.mode = Applying.HYDRATED
    with loop:
        loop.caught_up(spec, None)
        loop.wait(lambda _: True)
        assert elsewhere.describe(spec.name) is None
        elsewhere.ensure(spec)
        loop.wait(lambda lags: lags[spec.name].seconds == 0.0 and _points(elsewhere, spec) == 20)


def test_what_may_not_be_applied_is_measured_all_the_same(
    store: PgVectorStore, memory: Memory, spec: CollectionSpec, state: Connection, state_dsns: StateDsns
) -> None:
    """Behind a closed gate the lag grows, and everybody can see it."""
    store.ensure(spec)
    remember(state, memory, some_points(20))
    settle(state)
    loop = Loop(store, [spec], state_dsns.primary)
    loop.mode = Applying.NOTHING
    with loop:
        loop.wait(lambda lags: lags[spec.name].entries == 20 and (lags[spec.name].seconds or 0) > 0)
        assert _points(store, spec) == 0
        loop.mode = Applying.ALL
        loop.caught_up(spec)
    assert _points(store, spec) == 20


def test_errors_are_gone_on_from(
    store: PgVectorStore,
    memory: Memory,
    spec: CollectionSpec,
    state: Connection,
    state_dsns: StateDsns,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A connection that breaks is opened again, a collection that fails holds up no other, nor does who publishes."""
    monkeypatch.setattr(apply, "_AGAIN_S", 0.01)
    monkeypatch.setattr(apply, "_AGAIN_AT_MOST_S", 0.02)
    wrong = replace(spec, name=f"{spec.name}-wrong")
    store.ensure(wrong)
    remember(state, Memory(store=store, spec=wrong), some_points(1))
    remember(state, memory, some_points(5))
    settle(state)
    seen: list[Mapping[str, Lag]] = []

    def publish(lags: Mapping[str, Lag]) -> None:
        seen.append(lags)
        loop.publish(lags)
        raise UnavailableError("nobody listens")

    specs = [replace(wrong, dimension=3), spec]
    loop = Loop(store, specs, state_dsns.primary, publish=publish)
    with loop:
        loop.wait(lambda lags: lags[spec.name].entries == 0)
        assert _points(store, spec) == 5
        assert _points(store, wrong) == 0
        with state, state.cursor() as cursor:
            cursor.execute(
                "select pg_terminate_backend(pid) from pg_stat_activity"
                " where datname = current_database() and pid <> pg_backend_pid() and backend_type = 'client backend'"
            )
        remember(state, memory, some_points(5, prefix="more"))
        settle(state)
        loop.wait(lambda lags: lags[spec.name].entries == 0 and _points(store, spec) == 10)
    assert loop.opened > 1
    assert seen


def test_an_error_is_not_answered_with_haste(
    store: PgVectorStore, spec: CollectionSpec, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After each failure the next round is twice as late, up to half a minute; a round that works ends that."""
    waits: list[float] = []

    class Stop(threading.Event):
        def wait(self, timeout: float | None = None) -> bool:
            waits.append(timeout or 0.0)
            return len(waits) > 10

    @contextmanager
    def away() -> Iterator[Any]:
        raise UnavailableError("away")
        yield

    keep_applied(
        store=store,
        specs=[spec],
        state=away,
        archive=None,
        stop=Stop(),
        may_apply=lambda: Applying.ALL,
        publish=lambda _: None,
        clock=SystemClock(),
    )
    assert waits == [0.3, 0.6, 1.2, 2.4, 4.8, 9.6, 19.2, 30.0, 30.0, 30.0, 30.0]


def test_what_is_archived_is_applied(past: Past, elsewhere: PgVectorStore, state_dsns: StateDsns) -> None:
    """One that was away for longer than the database remembers reads the vaults; without them it says so, and waits."""
    past.write(10, "a")
    elsewhere.ensure(past.spec)
    past.prune()
    past.write(2, "b")
    with Loop(elsewhere, [past.spec], state_dsns.primary) as loop:
        loop.wait(lambda lags: lags[past.spec.name].entries == 12)
        assert _points(elsewhere, past.spec) == 0
    with Loop(elsewhere, [past.spec], state_dsns.primary, archive=Archive(past.peer)) as loop:
        loop.caught_up(past.spec)
    assert _points(elsewhere, past.spec) == 12
    assert lag_of(elsewhere, past.state, past.spec) == Lag(seconds=0.0, entries=0)


@pytest.mark.parametrize("tier", list(Tier))
@pytest.mark.parametrize("opened", [False, True])
def test_what_a_regions_applier_may_do(tier: Tier, opened: bool) -> None:
    """Everything behind an open gate; what is hydrated in an active-active standby; nothing in any other."""
    found = applying(_settings(tier), Readiness(ready=False, reason="", opened=opened))
    closed = Applying.HYDRATED if tier is Tier.CUSTOMER_FACING else Applying.NOTHING
    assert found is (Applying.ALL if opened else closed)


def test_lag_is_a_metric(emulator: Emulator) -> None:
    """Told apart by environment, region and collection; what is not known is not there."""
    client = emulator.client("cloudwatch", "us-east-1")
    metrics = CloudWatchMetrics(client, environment="lag", region="us-east-1")
    publish_lag(metrics, {"mémoire": Lag(seconds=1.5, entries=3), "gone": Lag(seconds=None, entries=None)})
    listed = client.list_metrics(Namespace="Relight", Dimensions=[{"Name": "environment", "Value": "lag"}])["Metrics"]
    found = {(item["MetricName"], *(part["Value"] for part in item["Dimensions"])) for item in listed}
    assert found == {
        ("JournalLagSeconds", "lag", "us-east-1", "m\\xe9moire"),
        ("JournalLagEntries", "lag", "us-east-1", "m\\xe9moire"),
    }


def _points(store: PgVectorStore, spec: CollectionSpec) -> int | None:
    found = store.describe(spec.name)
    return found.points if found else None


def _settings(tier: Tier) -> Settings:
    return Settings(
        environment="test",
        tier=tier,
        role="standby",  # type: ignore[arg-type]
        **dict.fromkeys(
            (
                *("region", "primary_region", "standby_region", "vault_bucket", "peer_vault_bucket", "lease_bucket"),
                *("lease_region", "connections_secret", "service_url", "primary_url", "standby_url", "cluster"),
                "agent_service",
            ),
            "x",
        ),  # type: ignore[arg-type]
        agent_replicas=1,
    )
