"""A vector store whose task, and with that its volume, is replaced in the primary, once its journal is pruned."""

from __future__ import annotations

from contextlib import closing
from dataclasses import replace
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import pytest
from contract.test_keep_applied import Loop
from contract.test_recovery import EAST, WEST, Pair, pair, remember, renewing
from memory_helpers import Ticking, settle, some_points
from memory_helpers import remember as remember_in

from relight.adapters import postgres
from relight.clock import SystemClock
from relight.errors import IntegrityError, NotFoundError, UnavailableError
from relight.memory import journal
from relight.memory.api import Applier, Make
from relight.memory.apply import HYDRATED_WITHIN_S
from relight.memory.hydrate import hydrate, verify_memory
from relight.memory.journal import START, Job
from relight.memory.pgvector import PgVectorStore
from relight.memory.reader import GapError
from relight.memory.segments import Archive
from relight.memory.snapshot import take_snapshot
from relight.recovery.first_day import prepare
from relight.recovery.follow import Following
from relight.recovery.gate import Readiness, readiness
from relight.recovery.points import archive_region, take_point
from relight.vault.points import PREFIX as POINTS
from relight.vault.points import newest_id, survey_both
from relight.vault.segments import PREFIX
from relight.vault.store import Vault
from relight.wiring import Region
from relight_lambdas.hydrate import handler

if TYPE_CHECKING:
    from journal_helpers import Past
    from memory_helpers import StateDsns

    from relight.adapters.postgres import Connection
    from relight.config import Settings
    from relight.memory.api import Memory
    from relight.memory.store import CollectionSpec, SnapshotSink, Taken
    from relight.recovery.epoch import LeaseKeeper
    from relight_drill.postgres import PostgresServer

__all__ = ["pair"]

pytestmark = pytest.mark.servers


def forget_archive(past: Past) -> None:
    """As after `forget_after`: the archived parts are in no vault, and no row says that they were."""
    for vault in (past.own, past.peer):
        vault.delete([*vault.list_keys(PREFIX)])
    past.archive(forget_after=timedelta())
    assert journal.segments(past.state, past.spec.name, START) == []


class Later(SystemClock):
    """Real time, and so much more."""

    more_s = 0.0

    def monotonic(self) -> float:
        return super().monotonic() + self.more_s


def test_an_applier_leaves_what_the_store_lost_to_hydration(
    past: Past, store: PgVectorStore, state_dsns: StateDsns
) -> None:
    """fails when it makes from the journal what a snapshot is to bring back; it goes on with what hydration made."""
    past.write(20, "a")
    past.prune()
    point = past.take()
    past.write(3, "b")
    past.store.drop(past.spec.name)
    with Loop(store, [past.spec], state_dsns.primary, archive=Archive(past.own)) as loop:
        for _ in range(3):
            loop.caught_up(past.spec, None)
        assert past.store.describe(past.spec.name) is None
        assert loop.opened == 1
        hydrate(store=past.store, vault=past.peer, state=past.state, specs=[past.spec], clock=past.clock)
        past.write(2, "c")
        loop.wait(lambda lags: lags[past.spec.name].entries == 0)
    found = past.store.describe(past.spec.name)
    assert found is not None
    assert (found.restored_from, found.points) == (point.id, 25)


def test_the_journal_stands_in_for_a_hydration_that_never_comes(
    past: Past, store: PgVectorStore, state_dsns: StateDsns
) -> None:
    """After as long as a function may take, what the archive still has whole is applied."""
    past.write(20, "a")
    past.prune()
    past.store.drop(past.spec.name)
    clock = Later()
    with Loop(store, [past.spec], state_dsns.primary, archive=Archive(past.own), clock=clock) as loop:
        loop.caught_up(past.spec, None)
        assert past.store.describe(past.spec.name) is None
        clock.more_s = HYDRATED_WITHIN_S
        loop.caught_up(past.spec)
    assert verify_memory(store=past.store, state=past.state, spec=past.spec).points == 20


def test_nobody_makes_a_collection_that_is_being_hydrated(
    store: PgVectorStore, memory: Memory, spec: CollectionSpec, state: Connection, state_dsns: StateDsns
) -> None:
    """fails when an applier overtakes a hydration that has just begun, also where nothing is archived yet."""
    remember_in(state, memory, some_points(5))
    settle(state)
    applier = Applier(store=store, spec=spec, state=state)
    with closing(postgres.connect(state_dsns.primary)) as other:
        with journal.alone(other, Job.HYDRATE, spec.name, clock=SystemClock(), within_s=0):
            for make in (Make.YOUNG, Make.ALWAYS):
                with pytest.raises(NotFoundError, match="there is no collection"):
                    applier.catch_up(make=make)
            assert store.describe(spec.name) is None
        assert applier.catch_up(make=Make.YOUNG).entries == 5


def test_a_hydration_and_the_appliers_of_many_agents_at_once(
    past: Past, state_dsns: StateDsns, vector_server: PostgresServer
) -> None:
    """Whoever is first, memory ends whole, and the point was restored."""
    past.write(200, "a")
    past.prune()
    point = past.take()
    past.write(50, "b")
    past.store.drop(past.spec.name)
    loops = [
        Loop(PgVectorStore(vector_server.dsn()), [past.spec], state_dsns.primary, archive=Archive(past.own))
        for _ in range(3)
    ]
    for loop in loops:
        loop.__enter__()
    try:
        [done] = hydrate(store=past.store, vault=past.peer, state=past.state, specs=[past.spec], clock=past.clock)
        past.write(10, "c")
        for loop in loops:
            loop.wait(lambda lags: lags[past.spec.name].entries == 0)
    finally:
        for loop in loops:
            loop.__exit__()
    assert done.restored == point.id
    assert verify_memory(store=past.store, state=past.state, spec=past.spec).points == 260


def test_nothing_is_made_that_nothing_can_fill(past: Past) -> None:
    """fails when a store gets an empty collection, which would pass for a memory, of a journal that has a gap."""
    past.write(20, "a")
    past.prune()
    forget_archive(past)
    past.write(5, "b")
    past.store.drop(past.spec.name)
    for vault in (past.own, past.peer):
        vault.delete([*vault.list_keys(POINTS)])
    with pytest.raises(GapError, match="does not reach back"):
        Applier(store=past.store, spec=past.spec, state=past.state, archive=Archive(past.own)).catch_up()
    with pytest.raises(GapError, match="does not reach back"):
        hydrate(store=past.store, vault=past.own, state=past.state, specs=[past.spec], clock=past.clock)
    assert past.store.describe(past.spec.name) is None


def test_no_point_is_sealed_of_a_store_that_lost_its_memory(past: Past) -> None:
    """fails when an empty collection becomes the newest point: whether it is not there, or there and out of reach."""
    past.write(20, "a")
    past.prune()
    forget_archive(past)
    past.write(5, "b")
    newest = newest_id(past.peer)
    past.store.drop(past.spec.name)
    with pytest.raises(NotFoundError, match="there is no collection"):
        past.take()
    past.store.ensure(past.spec)
    with pytest.raises(GapError, match="does not reach back"):
        past.take()
    found = past.store.describe(past.spec.name)
    assert found is not None
    assert found.is_empty
    assert newest_id(past.peer) == newest
    hydrate(store=past.store, vault=past.peer, state=past.state, specs=[past.spec], clock=past.clock)
    assert past.take().collections[0].points == 25


class Replaced(PgVectorStore):
    """Its task is replaced between being brought up to the journal and being read."""

    def snapshot(self, name: str, sink: SnapshotSink) -> Taken:
        found = self.describe(name)
        assert found is not None
        self.drop(name)
        self.ensure(found.spec)
        return super().snapshot(name, sink)


def test_no_point_is_sealed_of_a_store_that_is_replaced_meanwhile(past: Past, vector_server: PostgresServer) -> None:
    """fails when what was brought up to the journal is another collection than what is read."""
    past.write(20, "a")
    past.take()
    newest = newest_id(past.peer)
    with closing(Replaced(vector_server.dsn())) as store, pytest.raises(IntegrityError, match="went back from"):
        take_snapshot(
            store=store,
            specs=[past.spec],
            state=past.state,
            vault=past.peer,
            fallback=None,
            environment="test",
            clock=past.clock,
        )
    assert newest_id(past.peer) == newest


def away(vault: Vault) -> Vault:
    """The same vault, whose bucket nobody may reach now."""

    class Away(Vault):
        def objects(self, prefix: str, /) -> Any:
            raise UnavailableError(f"{self.bucket} does not answer to {prefix}")

    return Away(vault._client, vault.bucket, region=vault.region)


def test_the_newest_point_of_either_vault_is_restored(past: Past) -> None:
    """The other region's where it is newer, the own one where both have it, and what there is while one is away."""
    past.write(10, "a")
    old = past.take(past.own)
    past.write(10, "b")
    new = past.take(past.peer)
    found = [(vault is past.own, status.id) for vault, status in survey_both(past.own, past.peer)]
    assert found == [(False, new.id), (True, old.id)]

    def restored(own: Vault, peer: Vault | None) -> str | None:
        past.store.drop(past.spec.name)
        [done] = hydrate(store=past.store, vault=own, peer=peer, state=past.state, specs=[past.spec], clock=past.clock)
        assert done.points == 20
        return done.restored

    assert restored(past.own, past.peer) == new.id
    assert restored(past.own, None) == old.id
    assert restored(past.own, away(past.peer)) == old.id
    assert restored(away(past.own), past.peer) == new.id
    for key in [*past.peer.list_keys(POINTS)]:
        past.own.put_bytes(key, past.peer.get_bytes(key))
    both = [(vault is past.own, status.id) for vault, status in survey_both(past.own, past.peer)]
    assert both == [(True, new.id), (False, new.id), (True, old.id)]
    past.peer.delete([*past.peer.list_keys(POINTS)])
    with pytest.raises(UnavailableError, match="does not answer"):
        restored(away(past.own), past.peer)
    assert past.store.describe(past.spec.name) is None


# The same, as the primary's functions and agents are deployed.

BOOT = {"source": "aws.ecs", "detail": {"taskArn": "arn:aws:ecs:us-east-1:000000000000:task/relight-demo/abc"}}


def deployed(monkeypatch: pytest.MonkeyPatch, settings: Settings) -> dict[str, Any]:
    """What the rule's function answers in that region."""
    for name, value in settings.to_env().items():
        monkeypatch.setenv(name, value)
    return handler(BOOT, None)


def gate(region: Region, keeper: LeaseKeeper) -> Readiness:
    return readiness(
        region=region.settings.region,
        lease=keeper,
        epochs=region.epochs,
        memory=region.store,
        edges=region.edges,
        collections=["memory"],
    )


def prune_all(pair: Pair) -> None:
    """Everything up to here is archived, and then in no vault any more; the standby's vault has a point of it."""
    east = pair.east
    with east.state() as state:
        settle(state)
    take_point(east)
    archive_region(east, max_age_s=-1e9)
    for key in [*east.vault.list_keys(PREFIX)]:
        east.peer_vault.put_bytes(key, east.vault.get_bytes(key))
    [done] = archive_region(east, max_age_s=-1e9)
    assert (done.waiting, done.edge > START) == ("", True)
    for vault in (east.vault, east.peer_vault):
        vault.delete([*vault.list_keys(PREFIX)])
    east.database.execute("delete from relight.journal_segments")


def test_the_primarys_store_comes_back_when_its_task_was_replaced(pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    """Until its hydration the gate is closed, no point is sealed, and nobody makes an empty memory; the point is in the
    standby's vault alone."""
    east, keeper = pair.east, pair.east.lease_keeper()
    remember(east, *(f"note-{number}" for number in range(30)))
    with renewing(keeper):
        prune_all(pair)
        remember(east, "since")
        assert gate(east, keeper).ready
        east.store.drop("memory")
        assert gate(east, keeper).reason == "memory is not hydrated"
        prepare(east)
        assert east.store.describe("memory") is None
        with pytest.raises(NotFoundError):
            take_point(east)
        east.store.ensure(east.specs[0])
        answer = gate(east, keeper)
        assert (answer.ready, answer.opened, answer.reason) == (False, True, "memory is not hydrated")
        assert "is at 0:0, and the journal begins after" in answer.detail
        with pytest.raises(GapError):
            take_point(east)
        assert not gate(east, keeper).ready

        [done] = deployed(monkeypatch, EAST)["collections"]
        assert (done["points"], done["entries_applied"]) == (31, 1)
        assert done["restored"] == newest_id(east.peer_vault)
        assert newest_id(east.vault) is None
        assert gate(east, keeper).ready
        with Region(EAST, clock=Ticking()) as later:
            assert take_point(later)["points"] == 31
    assert [event.status for event in east.timeline("boot-abc").events()] == ["started", "done"]


def test_a_reader_of_an_empty_memory_serves_nothing(pair: Pair) -> None:
    """fails when a region that serves reads is ready because nothing is left of the journal that it could lack."""
    remember(pair.east, "one", "two")
    prune_all(pair)
    with pair.east.state() as state:
        assert journal.lag_s(state, "memory", START) == 0
    east = pair.east
    following = Following(database=east.database, store=east.store, specs=east.specs, bound_s=30.0)
    assert following.behind().memory_s == 0
    east.store.drop("memory")
    east.store.ensure(east.specs[0])
    with pytest.raises(NotFoundError, match="the journal begins after"):
        following.behind()


def test_a_store_that_starts_before_the_first_day_is_no_error(pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    """No secret yet, or no schema; and after it, without any point, the collections are made."""
    found = deployed(monkeypatch, replace(EAST, connections_secret="nobody-put-it-there"))
    assert "the first day has not begun" in found["skipped"]
    with closing(postgres.connect(pair.state.primary.dsn("postgres"), autocommit=True)) as admin:
        admin.cursor().execute("create database blank")
    secrets = pair.emulator.client("secretsmanager", "us-east-1")
    blank = replace(pair.east.connections, state_dsn=pair.state.primary.dsn("blank"))
    secrets.create_secret(Name="blank", SecretString=blank.to_json())
    found = deployed(monkeypatch, replace(EAST, connections_secret="blank"))
    assert found == {"large": False, "skipped": "the first day has not begun: the state database has no schema"}
    pair.east.store.drop("memory")
    [done] = deployed(monkeypatch, EAST)["collections"]
    assert (done["restored"], done["points"]) == (None, 0)
    assert pair.east.store.position("memory") == START


def test_a_standby_needs_no_vault_but_its_own(pair: Pair) -> None:
    """fails when a hydration in the standby would ask the lost region for its points."""
    assert pair.west.restores_beside is None
    assert pair.east.restores_beside is pair.east.peer_vault
    assert (WEST.vault_bucket, pair.east.peer_vault.bucket) == ("vault-west", "vault-west")
