"""Breakers and incidents that workers share, on a real PostgreSQL: one probe, a failover, a database that is away."""

from __future__ import annotations

import asyncio
import logging
import math
import secrets
import subprocess
import sys
import threading
import time
from contextlib import ExitStack
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
from memory_helpers import make_state, wait_for_standby
from servers import start_pair
from unit.test_config import SETTINGS

from relight.clock import SystemClock
from relight.config import Connections
from relight.errors import TransientError, UnavailableError
from relight.providers import board as board_module
from relight.providers import shared as module
from relight.providers.board import Board, Permit, Shut
from relight.providers.breaker import INITIAL, BreakerState, Cooled, Failed, Failure, Phase, Succeeded
from relight.providers.episodes import Episode, Kind, Stage, denied, denied_key
from relight.providers.incidents import Incident, Incidents
from relight.providers.shared import PostgresBreakers, PostgresEpisodes
from relight.providers.spec import Api, ProviderLimits, ProviderSpec
from relight.recovery.replica import PhysicalReplica
from relight.tasks.database import Database
from relight.wiring import Region

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from memory_helpers import StateDsns
    from servers import StatePair

    from relight_drill.processes import ProcessGroup

pytestmark = pytest.mark.servers

SHORT = ProviderLimits(open_s=0.5, probe_s=30.0)
LONG = ProviderLimits(open_s=600.0)
FAILED, OK = Failed(reason="silence"), Succeeded(first_event_s=0.2)


def until(condition: Callable[[], Any], *, within_s: float = 30.0) -> None:
    end = time.monotonic() + within_s
    while not condition():
        assert time.monotonic() < end, "it does not come"
        time.sleep(0.01)


@pytest.fixture
def databases() -> Iterator[Callable[..., Database]]:
    """Makes databases, and closes them at the end."""
    made: list[Database] = []

    def make(dsn: str, **options: Any) -> Database:
        made.append(Database(dsn, size=2, **options))
        return made[-1]

    yield make
    for database in made:
        database.close()


@pytest.fixture
def key() -> str:
    """A provider that no other test knows."""
    return f"p{secrets.token_hex(4)}"


@pytest.fixture
def opened(databases: Callable[..., Database], key: str) -> Iterator[Callable[..., Board]]:
    """Makes boards, each with a database connection of its own, as each worker has."""
    made: list[Board] = []

    def make(dsn: str, limits: ProviderLimits = SHORT) -> Board:
        shared = PostgresBreakers(databases(dsn))
        made.append(Board([key], limits=limits, clock=SystemClock(), shared=shared))
        return made[-1]

    yield make
    for board in made:
        board.close()


def fail(board: Board, key: str, *, times: int = 3) -> None:
    permits = [board.admit(key) for _ in range(times)]
    for permit in permits:
        assert isinstance(permit, Permit)
        board.settle(permit, FAILED)


def ended(board: Board, key: str, outcome: Failed | Succeeded) -> bool:
    """Whether a call was let through, which then ended so."""
    entry = board.admit(key)
    if isinstance(entry, Permit):
        board.settle(entry, outcome)
    return isinstance(entry, Permit)


def phase(board: Board, key: str) -> Phase:
    return board.state(key).phase


# -- the store


@pytest.mark.parametrize(
    "state",
    [
        INITIAL,
        BreakerState(failures=(Failure(at=1.7e9 + 0.25, token="x-1"), Failure(at=1.7e9 + 0.5, token="x-2"))),
        BreakerState(phase=Phase.OPEN, since=1.7e9, change="x-3", open_until=1.7e9 + 60.125, version=3),
        BreakerState(
            phase=Phase.HALF_OPEN,
            since=1.7e9,
            change="x-3",
            open_until=1.7e9 + 60,
            probe="y-1",
            probe_until=1.7e9 + 90,
            cool_until=1.7e9 + 5,
            cooled_by="z-9",
            cool_reason="rate_limited",
        ),
    ],
)
def test_a_state_is_kept_as_it_is(
    state: BreakerState, state_dsns: StateDsns, databases: Callable[..., Database], key: str
) -> None:
    """What was put there is what is read, to the microsecond, and what is changed once may be changed again."""
    store = PostgresBreakers(databases(state_dsns.primary))
    for wanted in (state, INITIAL, state):
        assert store.update(key, lambda before, now, wanted=wanted: wanted) == wanted  # type: ignore[misc]
        seen = store.read()
        assert seen.states.get(key, INITIAL) == wanted
        assert seen.writable


def test_an_episode_is_kept_as_it_is(state_dsns: StateDsns, databases: Callable[..., Database], key: str) -> None:
    """Likewise; None ends it."""
    store = PostgresEpisodes(databases(state_dsns.primary))
    assert store.update(key, lambda before, now: before) is None
    begun = denied(None, provider="a", detail="it's a 401", at=1.7e9)
    claimed = Episode(
        kind=Kind.FALLBACK,
        provider="b",
        since=1.7e9,
        last=1.7e9 + 60.5,
        stage=Stage.RAISED,
        back="a",
        claim="x",
        claim_until=1.7e9 + 100,
    )
    for wanted in (begun, claimed, begun):
        assert store.update(key, lambda before, now, wanted=wanted: wanted) == wanted  # type: ignore[misc]
        assert store.read().states[key] == wanted
    assert begun.claim_until == -math.inf
    assert store.update(key, lambda before, now: None) is None
    assert key not in store.read().states


def test_no_update_is_lost(state_dsns: StateDsns, databases: Callable[..., Database], key: str) -> None:
    """fails when two workers that change a breaker at once, the first time too, overwrite each other's change."""
    stores = [PostgresBreakers(databases(state_dsns.primary)) for _ in range(4)]
    times: list[float] = []

    def work(name: int, store: PostgresBreakers) -> None:
        for number in range(10):
            new = Failure(at=1.7e9, token=f"{name}-{number}")

            def add(state: BreakerState, now: float, new: Failure = new) -> BreakerState:
                times.append(now)
                return BreakerState(failures=(*state.failures, new))

            store.update(key, add)

    threads = [threading.Thread(target=work, args=item, daemon=True) for item in enumerate(stores)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len({failure.token for failure in stores[0].read().states[key].failures}) == 40
    assert times == sorted(times)


def test_a_breaker_in_use_is_not_waited_for(
    state_dsns: StateDsns, databases: Callable[..., Database], key: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """fails when a worker that stands still in the middle keeps the others waiting for good."""
    monkeypatch.setattr(module, "WITHIN_S", 0.3)
    store = PostgresBreakers(databases(state_dsns.primary))
    with databases(state_dsns.primary).transaction() as cur:
        cur.execute(module.SQL["lock"], {"what": "read_breakers", "key": key})
        with pytest.raises(UnavailableError):
            store.update(key, lambda before, now: before)
        assert store.read().states.get(key) is None
    assert store.update(key, lambda before, now: before) == INITIAL


def test_a_write_does_not_wait_for_the_standby(
    state_pair: StatePair, state_dsns: StateDsns, databases: Callable[..., Database], key: str
) -> None:
    """fails when a breaker that opens is held up by a standby that is away."""
    store = PostgresBreakers(databases(state_dsns.primary))
    store.read()
    state_pair.standby.process.freeze()
    try:
        store.update(key, lambda before, now: BreakerState(phase=Phase.OPEN, since=now, change="x", open_until=now))
    finally:
        state_pair.standby.process.thaw()
    assert store.read().states[key].phase is Phase.OPEN


# -- boards


def test_one_probe_goes_over_all_workers(state_dsns: StateDsns, opened: Callable[..., Board], key: str) -> None:
    """fails when of five workers two send a probe; its success closes the breaker in all of them."""
    boards = [opened(state_dsns.primary) for _ in range(5)]
    for _ in range(3):
        for board in boards[:3]:
            fail(board, key, times=1)
        for board in boards:
            until(lambda board=board: phase(board, key) is Phase.OPEN)  # type: ignore[misc]
        stop, probes = threading.Event(), list[tuple[Board, Permit]]()

        def ask(board: Board, stop: threading.Event = stop, probes: list[tuple[Board, Permit]] = probes) -> None:
            while not stop.is_set():
                entry = board.admit(key)
                if isinstance(entry, Permit):
                    probes.append((board, entry))
                stop.wait(0.01)

        threads = [threading.Thread(target=ask, args=[board], daemon=True) for board in boards]
        for thread in threads:
            thread.start()
        until(lambda probes=probes: probes)  # type: ignore[misc]
        until(lambda: all(phase(board, key) is Phase.HALF_OPEN for board in boards))
        stop.set()
        for thread in threads:
            thread.join()
        [(prober, probe)] = probes
        prober.settle(probe, OK)
        for board in boards:
            until(lambda board=board: phase(board, key) is Phase.CLOSED)  # type: ignore[misc]


def test_a_rare_call_is_the_probe(state_dsns: StateDsns, opened: Callable[..., Board], key: str) -> None:
    """fails when calls that come now and then, to one worker or to another, never probe a provider that may be back."""
    one, other = opened(state_dsns.primary), opened(state_dsns.primary)
    fail(one, key)
    for board in (other, one, one, other):
        until(lambda: phase(one, key) is phase(other, key) is Phase.OPEN)
        until(lambda: one.state(key).change == other.state(key).change)
        until(lambda board=board: time.monotonic() > board.state(key).open_until + 0.2)  # type: ignore[misc]
        entry = asyncio.run(board.admitted(key))
        assert isinstance(entry, Permit), entry
        assert entry.probe
        board.settle(entry, FAILED)


PROCESS = """
import sys, time
from relight.clock import SystemClock
from relight.providers.board import Board, Permit
from relight.providers.breaker import Failed, Phase
from relight.providers.shared import PostgresBreakers
from relight.providers.spec import ProviderLimits
from relight.tasks.database import Database

dsn, key = sys.argv[1:]
limits = ProviderLimits(failures=1, open_s=1.0, probe_s=120.0)
board = Board([key], limits=limits, clock=SystemClock(), shared=PostgresBreakers(Database(dsn)))
print("up", flush=True)
sys.stdin.readline()
until, probes = time.monotonic() + 60, 0
while time.monotonic() < until:
    entry = board.admit(key)
    if isinstance(entry, Permit):
        probes += entry.probe
        if not entry.probe:
            board.settle(entry, Failed(reason="refused"))
    elif entry.reason == "probing" and board.state(key).probe:
        break
    time.sleep(0.005)
print(probes, flush=True)
sys.stdin.readline()
"""


def test_one_probe_goes_over_several_processes(state_dsns: StateDsns, key: str) -> None:
    """fails when of four processes that come at the same time two send a probe."""
    command = [sys.executable, "-c", PROCESS, state_dsns.primary, key]
    both = [
        subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1) for _ in range(4)
    ]
    try:
        for process in both:
            assert process.stdout is not None
            assert process.stdout.readline() == "up\n"
        for process in both:
            assert process.stdin is not None
            process.stdin.write("go\n")
        said = [process.stdout.readline() for process in both if process.stdout is not None]
        assert sorted(said) == ["0\n", "0\n", "0\n", "1\n"]
    finally:
        for process in both:
            process.kill()
            process.communicate()


def test_cooling_is_shared(state_dsns: StateDsns, opened: Callable[..., Board], key: str) -> None:
    """What a provider asks of one worker holds for another, and lasts as long there."""
    one, other = opened(state_dsns.primary), opened(state_dsns.primary)
    permit = one.admit(key)
    assert isinstance(permit, Permit)
    one.settle(permit, Cooled(wait_s=300.0))
    until(lambda: isinstance(other.admit(key), Shut))
    entry = other.admit(key)
    assert isinstance(entry, Shut)
    assert (200 < entry.wait_s < 301, entry.reason) == (True, "rate_limited")


# -- a failover, and a database that is away


@pytest.fixture
def own_pair(server_group: ProcessGroup, server_dir: Path) -> Iterator[StatePair]:
    """A pair for tests that break it."""
    pair = asyncio.run(start_pair(server_group, server_dir / f"pair-{secrets.token_hex(4)}"))
    yield pair
    pair.primary.kill()
    pair.standby.kill()


def standings(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [f"{record.levelname} {record.standing}" for record in caplog.records if hasattr(record, "standing")]


def test_an_open_breaker_is_kept_across_a_failover(
    own_pair: StatePair, opened: Callable[..., Board], key: str, caplog: pytest.LogCaptureFixture
) -> None:
    """fails when the workers of the region that was relit begin with a provider that is down. Before the promotion they
    read what the primary's know, which is no error, and afterwards they share."""
    caplog.set_level(logging.INFO)
    dsns = make_state(own_pair, "failover")
    primary = opened(dsns.primary, LONG)
    fail(primary, key)
    primary.close()
    wait_for_standby(own_pair)
    before = opened(dsns.standby, LONG)
    assert phase(before, key) is Phase.OPEN
    assert standings(caplog) == ["INFO read_only"]
    own_pair.primary.kill()
    assert PhysicalReplica(dsns.standby).promote()
    after = opened(dsns.standby, LONG)
    entry = after.admit(key)
    assert isinstance(entry, Shut)
    assert (entry.wait_s > 500, entry.reason) == (True, "open")
    until(lambda: standings(caplog) == ["INFO read_only", "INFO shared"])
    assert after.state(key).change == before.state(key).change


def test_without_the_database_each_worker_decides(
    own_pair: StatePair,
    opened: Callable[..., Board],
    key: str,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """fails when calls stand still while the database is down, frozen, or refuses; once it is back, all share again."""
    monkeypatch.setattr(board_module, "LOOK_S", 0.1)
    monkeypatch.setattr(board_module, "FRESH_S", 1.0)
    caplog.set_level(logging.INFO)
    dsns = make_state(own_pair, "away")
    one, other = opened(dsns.primary), opened(dsns.primary)
    own_pair.primary.process.freeze()
    fail(one, key)
    until(lambda: ended(one, key, OK))
    until(lambda: standings(caplog) == ["WARNING away"] * 2)
    assert phase(one, key) is Phase.CLOSED
    own_pair.primary.process.thaw()
    until(lambda: standings(caplog) == ["WARNING away"] * 2 + ["INFO shared"] * 2)
    caplog.clear()
    own_pair.primary.kill()
    until(lambda: len(standings(caplog)) == 2)
    for board in (one, other):
        fail(board, key)
        until(lambda board=board: ended(board, key, FAILED))  # type: ignore[misc]
    late = opened(dsns.primary)
    assert isinstance(late.admit(key), Permit)
    until(lambda: standings(caplog) == ["WARNING away"] * 3)
    asyncio.run(own_pair.primary.start())
    until(lambda: sorted(standings(caplog)) == ["INFO shared"] * 3 + ["WARNING away"] * 3)
    until(lambda: one.state(key).change == other.state(key).change == late.state(key).change)
    until(lambda: ended(late, key, OK))
    until(lambda: {phase(board, key) for board in (one, other, late)} == {Phase.CLOSED})


def test_a_database_that_was_not_migrated_is_as_none(
    state_pair: StatePair, opened: Callable[..., Board], key: str, caplog: pytest.LogCaptureFixture
) -> None:
    """fails when a table that is lacking stops a worker: it is said, and the worker decides for itself."""
    board = opened(state_pair.primary.dsn("postgres"))
    fail(board, key)
    until(lambda: ended(board, key, OK))
    [said] = [record for record in caplog.records if hasattr(record, "standing")]
    assert "does not exist" in str(vars(said))


def test_busy_tasks_do_not_cut_a_worker_off(
    state_pair: StatePair, databases: Callable[..., Database], caplog: pytest.LogCaptureFixture
) -> None:
    """fails when breakers wait for connections that tasks have, and 16 busy tasks make a worker decide for itself."""
    caplog.set_level(logging.INFO)
    dsn = make_state(state_pair, "busy").primary
    spec = ProviderSpec(name="local", api=Api.COMPATIBLE, model="any", base_url="http://127.0.0.1:1", keyless=True)
    store = PostgresBreakers(databases(dsn))
    with Region(replace(SETTINGS, providers=(spec,))) as region, ExitStack() as busy:
        region.__dict__["connections"] = Connections(state_dsn=dsn, memory_dsn="none", queue_url="none")
        region.__dict__["metrics"] = None
        for _ in range(16):
            busy.enter_context(region.database.transaction())
        board = region.async_router().board
        for _ in range(3):
            permit = board.admit("local")
            assert isinstance(permit, Permit)
            board.settle(permit, FAILED)
        until(lambda: store.read().states.get("local", INITIAL).phase is Phase.OPEN)
    assert not standings(caplog)
    others = "select 1 from pg_stat_activity where datname = 'busy' and pid <> pg_backend_pid()"
    until(lambda: not store._database.execute(others).rows)


def test_a_closed_board_leaves_no_thread(state_dsns: StateDsns, opened: Callable[..., Board], key: str) -> None:
    """What it knows is told on the way out, and a second time closing does nothing."""
    others = threading.enumerate()
    board = opened(state_dsns.primary, LONG)
    fail(board, key)
    board.close()
    board.close()
    # On a slow machine what is on its way outlasts what closing waits.
    until(lambda: "relight-breakers" not in {thread.name for thread in threading.enumerate() if thread not in others})
    assert phase(opened(state_dsns.primary, LONG), key) is Phase.OPEN


# -- incidents


def test_one_worker_of_several_raises(
    state_dsns: StateDsns, databases: Callable[..., Database], key: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """fails when each of four workers pages for a provider that refuses its key, or says that it is over."""
    got: list[Incident] = []
    limits = ProviderLimits()
    workers = [
        Incidents(got.append, limits=limits, shared=PostgresEpisodes(databases(state_dsns.primary))) for _ in range(4)
    ]
    for worker in workers:
        worker.denied(key, "401")
    until(lambda: got)
    # Who is slow to write it down would begin another one after the answer.
    until(lambda: all(denied_key(key) in worker._episodes for worker in workers))
    for worker in workers:
        worker.answered(key, degraded=True)
    until(lambda: len(got) == 2)
    for worker in workers:
        worker.close()
    assert [(one.kind, one.provider) for one in got] == [(Kind.DENIED, key), (Kind.RECOVERED, key)]
    store = PostgresEpisodes(databases(state_dsns.primary))
    store.update("fallback", lambda before, now: None)


def test_what_a_newer_version_began_is_left_to_it(
    state_pair: StatePair, databases: Callable[..., Database], caplog: pytest.LogCaptureFixture
) -> None:
    """fails when a kind or a stage that only a newer version's workers know, in a rolling update, stops the others'
    incidents, or is overwritten."""
    database = databases(make_state(state_pair, "newer").primary)
    with database.transaction() as cur:
        for column in ("kind", "stage"):
            cur.execute(f"alter table relight.provider_episodes drop constraint provider_episodes_{column}_check")
        for key, kind, stage in (("denied:a", "denied", "put_off"), ("price:a", "price", "due")):
            cur.execute(
                "insert into relight.provider_episodes values (%s, %s, 'a', '', now(), now(), %s, '', '', '-infinity')",
                (key, kind, stage),
            )
    got: list[Incident] = []
    store = PostgresEpisodes(database)
    incidents = Incidents(got.append, limits=ProviderLimits(), shared=store)
    incidents.denied("a", "401")
    incidents.denied("b", "401")
    until(lambda: got)
    incidents.close()
    assert [one.provider for one in got] == ["b"]
    assert list(store.read().states) == ["denied:b"]
    stages = database.execute("select key, stage from relight.provider_episodes order by key").rows
    assert stages == [("denied:a", "put_off"), ("denied:b", "raised"), ("price:a", "due")]
    assert not caplog.records


def test_a_standby_takes_no_episode(state_dsns: StateDsns, databases: Callable[..., Database], key: str) -> None:
    """Its store says so, and a change is refused as one that may succeed later; an incident is raised all the same."""
    store, got = PostgresEpisodes(databases(state_dsns.standby)), list[Incident]()
    assert not store.read().writable
    with pytest.raises(TransientError):
        store.update(key, lambda before, now: denied(before, provider=key, detail="401", at=now))
    incidents = Incidents(got.append, limits=ProviderLimits(), shared=store)
    incidents.denied(key, "401")
    until(lambda: got)
    incidents.close()
    assert [one.kind for one in got] == [Kind.DENIED]
