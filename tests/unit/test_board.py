"""The board of one process, without others and with others behind a store that is played."""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from dataclasses import replace
from random import Random
from typing import TYPE_CHECKING, Any

import pytest
from fakes import FakeClock

from relight.clock import SystemClock
from relight.errors import ConfigError, RelightError, UnavailableError
from relight.providers import board as module
from relight.providers.board import Board, Permit, Shut
from relight.providers.breaker import INITIAL, Abandoned, BreakerState, Cooled, Denied, Failed, Phase, Succeeded
from relight.providers.shared import Seen
from relight.providers.spec import ProviderLimits

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from relight.providers.breaker import Outcome
    from relight.providers.shared import SharedBreakers

LIMITS = ProviderLimits()
# As short as a test can wait for, on a busy machine too; a probe that nobody gives back blocks for longer than that.
SHORT = ProviderLimits(open_s=0.3, probe_s=60.0)
FAILED, OK = Failed(reason="silence"), Succeeded(first_event_s=0.2)


def permit(board: Board, key: str = "a") -> Permit:
    entry = board.admit(key)
    assert isinstance(entry, Permit), entry
    return entry


def shut(board: Board, key: str = "a") -> Shut:
    entry = board.admit(key)
    assert isinstance(entry, Shut), entry
    return entry


def fail(board: Board, key: str = "a", *, times: int = 3) -> None:
    permits = [permit(board, key) for _ in range(times)]
    for one in permits:
        board.settle(one, FAILED)


def until(condition: Callable[[], Any], *, within_s: float = 20.0) -> None:
    """Wait for a condition, which is looked at often."""
    end = time.monotonic() + within_s
    while not condition():
        assert time.monotonic() < end, "it does not come"
        time.sleep(0.005)


def ended(board: Board, outcome: Outcome) -> bool:
    """Whether a call was let through, which then ended so."""
    entry = board.admit("a")
    if isinstance(entry, Permit):
        board.settle(entry, outcome)
    return isinstance(entry, Permit)


def phase(board: Board, key: str = "a") -> Phase:
    return board.state(key).phase


# -- alone


def test_each_provider_has_its_breaker() -> None:
    """Failures of one leave the other alone, and a board with one provider works as one with two."""
    clock = FakeClock()
    board = Board(["a", "b"], limits=LIMITS, clock=clock)
    fail(board, "a")
    assert shut(board, "a") == Shut(60.0, "open")
    assert not permit(board, "b").probe
    only = Board(["a"], limits=LIMITS, clock=clock)
    fail(only)
    assert shut(only).reason == "open"
    clock.sleep(60)
    probe = permit(only)
    assert probe.probe
    assert shut(only).reason == "probing"
    only.settle(probe, OK)
    assert phase(only) is Phase.CLOSED


def test_an_unknown_provider_is_refused() -> None:
    """fails when a name is misspelt: the error says which there are."""
    board = Board(["a", "b"], limits=LIMITS, clock=FakeClock())
    for ask in (board.admit, board.state):
        with pytest.raises(ConfigError, match=r"'c'; choose from a, b"):
            ask("c")


def test_a_permit_is_settled_once() -> None:
    """fails when a call that is settled twice counts twice."""
    board = Board(["a"], limits=LIMITS, clock=FakeClock())
    one = permit(board)
    for outcome in (FAILED, FAILED, FAILED, Cooled(wait_s=9), OK):
        board.settle(one, outcome)
    assert len(board.state("a").failures) == 1
    assert not board.state("a").is_cooling(0)


def test_a_permit_tells_nothing_but_its_provider() -> None:
    """Its repr is for logs."""
    assert repr(permit(Board(["a"], limits=LIMITS, clock=FakeClock()))) == "Permit(key='a', probe=False)"


def test_without_others_there_is_no_thread() -> None:
    """fails when a board that shares nothing starts a thread."""
    before = set(threading.enumerate())
    board = Board(["a"], limits=replace(LIMITS, open_s=0.001), clock=SystemClock())
    fail(board)
    until(lambda: ended(board, OK))
    board.close()
    board.close()
    assert not set(threading.enumerate()) - before
    assert not permit(board).probe


def test_closing_is_told_on_another_thread() -> None:
    """Each hook hears of each closing, and not on the caller's thread, whatever the one before it raises."""
    clock = FakeClock()
    board = Board(["a"], limits=LIMITS, clock=clock)
    told: list[tuple[str, int]] = []

    def breaks(key: str) -> None:
        raise ValueError(key)

    board.on_close(breaks)
    board.on_close(lambda key: told.append((key, threading.get_ident())))
    for number in (1, 2):
        fail(board)
        clock.sleep(60)
        board.settle(permit(board), OK)
        until(lambda number=number: len(told) == number)  # type: ignore[misc]
    assert {key for key, _ in told} == {"a"}
    assert threading.get_ident() not in {ident for _, ident in told}


def openings(caplog: pytest.LogCaptureFixture) -> list[tuple[int, str, str]]:
    return [
        (record.levelno, vars(record)["provider"], vars(record)["reason"])
        for record in caplog.records
        if record.message == "llm_breaker_opened"
    ]


def test_an_opening_is_said_once(caplog: pytest.LogCaptureFixture) -> None:
    """With the provider and what the last call failed with; a probe that fails opens nothing that was closed."""
    clock = FakeClock()
    board = Board(["a"], limits=LIMITS, clock=clock)
    fail(board)
    clock.sleep(60)
    board.settle(permit(board), FAILED)
    assert openings(caplog) == [(logging.WARNING, "a", "silence")]
    clock.sleep(60)
    for seconds in (*[0.5] * 20, *[9.0] * 3):
        board.settle(permit(board), Succeeded(first_event_s=seconds))
    assert openings(caplog)[1:] == [(logging.WARNING, "a", "slow")]


def test_of_64_threads_one_is_the_probe() -> None:
    """fails when two of many threads that come at the same moment are let through."""
    clock = FakeClock()
    board = Board(["a"], limits=LIMITS, clock=clock)
    for _ in range(20):
        fail(board)
        clock.sleep(60)
        entries: list[Permit | Shut] = []
        gate = threading.Barrier(64)

        def come(gate: threading.Barrier = gate, entries: list[Permit | Shut] = entries) -> None:
            gate.wait()
            entries.append(board.admit("a"))

        threads = [threading.Thread(target=come, daemon=True) for _ in range(64)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        [probe] = [entry for entry in entries if isinstance(entry, Permit)]
        assert probe.probe
        assert len(entries) == 64
        board.settle(probe, OK)


def test_nothing_is_lost_between_threads() -> None:
    """fails when two threads that settle at the same time overwrite each other: each failure counts."""
    board = Board(["a"], limits=replace(LIMITS, failures=1601), clock=FakeClock())

    def work() -> None:
        for _ in range(100):
            board.settle(permit(board), FAILED)
            board.settle(permit(board), OK)

    threads = [threading.Thread(target=work, daemon=True) for _ in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(board.state("a").failures) == 1600
    assert len({failure.token for failure in board.state("a").failures}) == 1600


# -- with others


class Store:
    """A store in memory with a clock of its own, for any number of boards, that can be away, slow or read-only."""

    def __init__(self) -> None:
        self.states: dict[str, BreakerState] = {}
        self.lock = threading.Lock()
        self.ahead = 1e6
        self.away: RelightError | None = None
        self.writable = True
        self.hangs = threading.Event()
        self.hangs.set()
        self.reads = self.updates = 0

    def now(self) -> float:
        return time.monotonic() + self.ahead

    def answers(self) -> None:
        self.hangs.wait()
        if self.away is not None:
            raise self.away

    def read(self) -> Seen[BreakerState]:
        self.reads += 1
        self.answers()
        with self.lock:
            return Seen(now=self.now(), states=dict(self.states), writable=self.writable)

    def update(self, key: str, change: Callable[[BreakerState, float], BreakerState]) -> BreakerState:
        self.updates += 1
        self.answers()
        assert self.writable
        with self.lock:
            self.states[key] = change(self.states.get(key, INITIAL), self.now())
            return self.states[key]


class Dying:
    """What a worker sees of the store that dies as soon as it has claimed a probe."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self.dead = False

    def read(self) -> Seen[BreakerState]:
        if self.dead:
            raise UnavailableError("dead")
        return self.store.read()

    def update(self, key: str, change: Callable[[BreakerState, float], BreakerState]) -> BreakerState:
        after = self.store.update(key, change)
        self.dead = bool(after.probe)
        return after


@pytest.fixture
def store() -> Store:
    return Store()


@pytest.fixture
def opened(store: Store, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Board]]:
    """Makes boards over one store that look at it often."""
    monkeypatch.setattr(module, "LOOK_S", 0.02)
    made: list[Board] = []

    def make(
        limits: ProviderLimits = LIMITS, keys: tuple[str, ...] = ("a",), shared: SharedBreakers | None = None
    ) -> Board:
        made.append(Board(keys, limits=limits, clock=SystemClock(), shared=shared or store))
        return made[-1]

    yield make
    store.hangs.set()
    for board in made:
        board.close()


def test_failures_of_all_workers_count_together(opened: Callable[..., Board]) -> None:
    """One failure in each of three workers opens the breaker in all of them."""
    boards = [opened() for _ in range(3)]
    for board in boards:
        fail(board, times=1)
    for board in boards:
        until(lambda board=board: phase(board) is Phase.OPEN)  # type: ignore[misc]
        assert shut(board).reason == "open"


def test_cooling_is_for_all_workers(opened: Callable[..., Board]) -> None:
    """What a provider asks of one worker, the others need not find out."""
    one, other = opened(), opened()
    one.settle(permit(one), Cooled(wait_s=100.0))
    until(lambda: isinstance(other.admit("a"), Shut))
    assert 90 < shut(other).wait_s <= 101
    assert shut(other).reason == "rate_limited"


def test_what_another_opened_is_said_here_too(opened: Callable[..., Board], caplog: pytest.LogCaptureFixture) -> None:
    """fails when a worker leaves a provider alone and its log does not say since when."""
    one, other = opened(), opened()
    fail(one)
    until(lambda: phase(other) is Phase.OPEN)
    until(lambda: sorted(reason for _, _, reason in openings(caplog)) == ["shared", "silence"])


def test_a_refused_key_is_one_worker_s(opened: Callable[..., Board], store: Store) -> None:
    """fails when a worker that still has the old key keeps those with the new one from the provider."""
    one, other = opened(), opened()
    one.settle(permit(one), Denied())
    looks = store.reads
    until(lambda: store.reads > looks + 10)
    assert shut(one).reason == "denied"
    assert not permit(other).probe
    assert "a" not in store.states


def test_who_is_refused_claims_no_probe(opened: Callable[..., Board]) -> None:
    """fails when a worker whose key is refused takes the probe from one whose key is not."""
    one, other = opened(SHORT), opened(SHORT)
    fail(one)
    until(lambda: phase(other) is Phase.OPEN)
    until(lambda: ended(one, Denied()))
    claims: list[str] = []

    def goes() -> bool:
        claims.append(shut(one).reason)
        return ended(other, OK)

    until(goes)
    assert set(claims) == {"denied"}
    until(lambda: phase(one) is Phase.CLOSED)


def test_a_new_board_starts_with_what_the_others_know(opened: Callable[..., Board]) -> None:
    """fails when a worker that starts must find the outage out again, with three calls of its own."""
    fail(one := opened())
    one.close()
    assert shut(opened()).reason == "open"


def probing(board: Board, stop: threading.Event, probes: list[Permit]) -> None:
    """Ask until told to stop, and keep what was let through."""
    while not stop.is_set():
        entry = board.admit("a")
        if isinstance(entry, Permit):
            probes.append(entry)
        stop.wait(0.005)


def test_one_probe_goes_over_all_workers(opened: Callable[..., Board], store: Store) -> None:
    """fails when each worker sends a probe of its own; its success closes all, and is told in all."""
    boards = [opened(SHORT) for _ in range(6)]
    told: list[int] = []
    for number, board in enumerate(boards):
        board.on_close(lambda key, number=number: told.append(number))  # type: ignore[misc]
    fail(boards[0])
    for board in boards:
        until(lambda board=board: phase(board) is not Phase.CLOSED)  # type: ignore[misc]
    stop, probes = threading.Event(), list[Permit]()
    threads = [threading.Thread(target=probing, args=[board, stop, probes], daemon=True) for board in boards]
    for thread in threads:
        thread.start()
    until(lambda: probes)
    looks = store.reads
    until(lambda: store.reads > looks + 20 * len(boards))
    stop.set()
    for thread in threads:
        thread.join()
    [probe] = probes
    assert probe.probe
    for board in boards:
        board.settle(probe, OK)
    until(lambda: all(phase(board) is Phase.CLOSED for board in boards))
    until(lambda: sorted(told) == list(range(6)))


@pytest.mark.parametrize("seed", range(2))
def test_probes_never_overlap(opened: Callable[..., Board], monkeypatch: pytest.MonkeyPatch, seed: int) -> None:
    """fails when, whatever becomes of calls and probes in four workers, two probes are on their way at one time, or
    none goes any more."""
    monkeypatch.setattr(module, "FRESH_S", 600.0)
    monkeypatch.setattr(module, "CLAIM_S", 0.05)
    limits = ProviderLimits(failures=2, open_s=0.05, probe_s=600.0, cool_s=0.01, denied_s=0.01)
    boards = [opened(limits) for _ in range(4)]
    under_way, overlaps, kinds = list[Permit](), list[int](), list[type]()
    lock, stop = threading.Lock(), threading.Event()
    probes_end: list[Outcome] = [OK, OK, FAILED, Abandoned(), Cooled(), Denied()]
    calls_end: list[Outcome] = [OK, OK, FAILED]

    def work(number: int) -> None:
        random, board = Random(seed * 10 + number), boards[number]
        while not stop.is_set():
            entry = board.admit("a")
            if isinstance(entry, Permit) and entry.probe:
                with lock:
                    under_way.append(entry)
                    overlaps.append(len(under_way))
                stop.wait(random.choice([0.0, 0.01, 0.05]))
                outcome: Outcome = random.choice(probes_end)
                with lock:
                    under_way.remove(entry)
                    kinds.append(type(outcome))
                board.settle(entry, outcome)
            elif isinstance(entry, Permit):
                board.settle(entry, random.choice(calls_end))
            stop.wait(random.choice([0.001, 0.005, 0.1]))

    threads = [threading.Thread(target=work, args=[number], daemon=True) for number in range(4)]
    for thread in threads:
        thread.start()
    until(lambda: len(kinds) >= 25 and len(set(kinds)) == 5, within_s=60)
    stop.set()
    for thread in threads:
        thread.join()
    assert max(overlaps) == 1


def test_a_probe_given_back_goes_to_another(opened: Callable[..., Board]) -> None:
    """A caller that goes away leaves the probe to whoever asks next, in any worker."""
    one, other = opened(SHORT), opened(SHORT)
    fail(one)
    until(lambda: phase(other) is Phase.OPEN)
    got: list[Permit] = []

    def asks(board: Board) -> Callable[[], bool]:
        def ask() -> bool:
            entry = board.admit("a")
            got.extend([entry] if isinstance(entry, Permit) else [])
            return isinstance(entry, Permit)

        return ask

    until(asks(one))
    until(lambda: phase(other) is Phase.HALF_OPEN)
    assert shut(other).reason == "probing"
    one.settle(got[0], Abandoned())
    until(asks(other))
    assert got[1].probe
    other.settle(got[1], OK)
    until(lambda: phase(one) is Phase.CLOSED)


def test_a_claim_that_nobody_uses_is_given_up(opened: Callable[..., Board], monkeypatch: pytest.MonkeyPatch) -> None:
    """fails when a worker whose caller did not come again keeps the probe from the others."""
    monkeypatch.setattr(module, "CLAIM_S", 0.1)
    one, other = opened(SHORT), opened(SHORT)
    fail(one)
    until(lambda: phase(other) is Phase.OPEN)
    assert shut(one).reason == "open"
    until(lambda: phase(one) is Phase.HALF_OPEN)
    until(lambda: isinstance(other.admit("a"), Permit))


def test_a_rare_call_is_the_probe(opened: Callable[..., Board], monkeypatch: pytest.MonkeyPatch) -> None:
    """fails when calls so rare that each claim is given up before the next one comes never probe, be they all one
    worker's or each another's: every first call that waits for its claim is the probe."""
    monkeypatch.setattr(module, "CLAIM_S", 0.05)
    one, other = opened(SHORT), opened(SHORT)
    fail(one)
    for board in (one, one, other, one, other, other):
        until(lambda: one.state("a").change == other.state("a").change)
        until(lambda board=board: time.monotonic() > board.state("a").open_until + 0.1)  # type: ignore[misc]
        entry = asyncio.run(board.admitted("a"))
        assert isinstance(entry, Permit), entry
        assert entry.probe
        board.settle(entry, FAILED)


def test_a_call_waits_for_nothing_but_its_claim(opened: Callable[..., Board], store: Store) -> None:
    """A breaker that is not due, or that another probes, is no reason to wait, nor is a store that says nothing waited
    for beyond the call's own time."""
    one, other = opened(SHORT), opened(SHORT)
    assert isinstance(asyncio.run(one.admitted("a")), Permit)
    fail(one)
    entry = asyncio.run(one.admitted("a", within_s=600.0))
    assert isinstance(entry, Shut)
    assert entry.reason == "open"
    until(lambda: phase(other) is Phase.OPEN)
    until(lambda: isinstance(one.admit("a"), Permit))
    until(lambda: phase(other) is Phase.HALF_OPEN)
    entry = asyncio.run(other.admitted("a", within_s=600.0))
    assert isinstance(entry, Shut)
    assert entry.reason == "probing"
    late = opened(replace(SHORT, failures=1), keys=("b",))
    fail(late, "b", times=1)
    store.hangs.clear()
    until(lambda: shut(late, "b").reason == "claiming")
    entry = asyncio.run(late.admitted("b", within_s=0.0))
    assert isinstance(entry, Shut)
    assert entry.reason == "claiming"


def test_a_claim_is_kept_for_seconds_and_a_probe_for_its_time(opened: Callable[..., Board], store: Store) -> None:
    """fails when a worker that dies with a claim keeps the others from probing for as long as a probe may take, or one
    that sent it does not."""
    one = opened(replace(SHORT, probe_s=600.0))
    fail(one)
    assert shut(one).reason == "open"
    until(lambda: phase(one) is Phase.HALF_OPEN)
    assert store.states["a"].probe_until - store.now() <= module.CLAIM_S + module.TELL_S
    until(lambda: isinstance(one.admit("a"), Permit))
    until(lambda: store.states["a"].probe_until - store.now() > 500)


def test_who_dies_with_a_claim_leaves_it_to_others(
    opened: Callable[..., Board], store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """fails when a claim of which nothing more is heard is respected for as long as a probe may take."""
    monkeypatch.setattr(module, "TELL_S", 0.2)
    monkeypatch.setattr(module, "CLAIM_S", 0.1)
    other = opened(replace(SHORT, probe_s=600.0))
    fail(other)
    until(lambda: "a" in store.states and store.states["a"].phase is Phase.OPEN)
    dies = opened(replace(SHORT, probe_s=600.0), shared=Dying(store))
    assert shut(dies).reason == "open"
    until(lambda: phase(other) is Phase.HALF_OPEN)
    until(lambda: isinstance(other.admit("a"), Permit))


def test_a_board_that_ends_gives_its_claim_up(opened: Callable[..., Board]) -> None:
    """fails when a worker that is stopped keeps the probe for as long as one may take."""
    one, other = opened(SHORT), opened(SHORT)
    fail(one)
    until(lambda: phase(other) is Phase.OPEN)
    assert shut(one).reason == "open"
    until(lambda: phase(one) is Phase.HALF_OPEN)
    one.close()
    until(lambda: isinstance(other.admit("a"), Permit))


def test_a_failed_probe_keeps_it_open_everywhere(opened: Callable[..., Board]) -> None:
    """The next probe comes after another `open_s`, in whichever worker."""
    one, other = opened(SHORT), opened(SHORT)
    fail(one)
    until(lambda: ended(one, FAILED))
    until(lambda: other.state("a").change == one.state("a").change)
    assert phase(other) is Phase.OPEN
    until(lambda: ended(other, OK))
    until(lambda: phase(one) is Phase.CLOSED)


def away(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [
        f"{record.levelname} {standing}"
        for record in caplog.records
        if (standing := getattr(record, "standing", None)) is not None
    ]


def test_without_the_store_each_decides_for_itself(
    opened: Callable[..., Board], store: Store, caplog: pytest.LogCaptureFixture
) -> None:
    """fails when calls stand still, or every look is logged, while the database is down; back again, all is shared."""
    caplog.set_level(logging.INFO)
    one, other = opened(SHORT), opened(SHORT)
    store.away = UnavailableError("down")
    until(lambda: away(caplog) == ["WARNING away"] * 2)
    fail(one)
    fail(other)
    until(lambda: ended(one, FAILED))
    until(lambda: isinstance(entry := other.admit("a"), Permit) and entry.probe)
    looks = store.reads
    until(lambda: store.reads > looks + 10)
    assert len(away(caplog)) == 2
    store.away = None
    until(lambda: away(caplog) == ["WARNING away"] * 2 + ["INFO shared"] * 2)
    until(lambda: one.state("a").change == other.state("a").change == store.states["a"].change)


def test_a_store_that_says_nothing_holds_nobody_up(
    opened: Callable[..., Board], store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """fails when a database that hangs keeps callers, or the probe, waiting: what was seen is soon too old."""
    monkeypatch.setattr(module, "FRESH_S", 0.2)
    monkeypatch.setattr(module, "START_S", 0.1)
    board = opened(SHORT)
    store.hangs.clear()
    looks = store.reads
    until(lambda: store.reads > looks)
    fail(board)
    until(lambda: isinstance(board.admit("a"), Permit))
    late = opened(SHORT)
    assert not permit(late).probe
    store.hangs.set()


def test_a_replica_s_store_is_read(
    opened: Callable[..., Board], store: Store, caplog: pytest.LogCaptureFixture
) -> None:
    """A standby's database takes no writes: what it says counts, nothing is written, and that is no warning. Once it
    does, what was found out meanwhile is shared."""
    caplog.set_level(logging.INFO)
    one = opened(replace(SHORT, open_s=0.1))
    fail(one)
    until(lambda: "a" in store.states and store.states["a"].phase is Phase.OPEN)
    one.close()
    store.writable = False
    standby = opened(SHORT)
    assert phase(standby) is Phase.OPEN
    until(lambda: ended(standby, OK))
    looks = store.reads
    until(lambda: store.reads > looks + 5)
    assert phase(standby) is Phase.CLOSED
    assert away(caplog) == ["INFO read_only"]
    store.writable = True
    until(lambda: store.states["a"].phase is Phase.CLOSED)


def test_a_quiet_board_only_looks(opened: Callable[..., Board], store: Store) -> None:
    """fails when successes are written, or what all know already: there is nothing to tell."""
    board, other = opened(), opened()
    fail(board, times=2)
    board.settle(permit(board), Cooled(wait_s=0.001))
    until(lambda: other.state("a").failures == board.state("a").failures or len(other.state("a").failures) == 2)
    until(lambda: isinstance(board.admit("a"), Permit))
    looks, updates = store.reads, store.updates
    for _ in range(100):
        board.settle(permit(board), OK)
    until(lambda: store.reads > looks + 20)
    assert store.updates <= updates + 1


def test_a_defect_in_the_store_is_said_once(
    opened: Callable[..., Board], store: Store, caplog: pytest.LogCaptureFixture
) -> None:
    """fails when an error that nobody thought of ends the thread in silence."""
    board = opened()
    store.states = None  # type: ignore[assignment]
    until(lambda: "WARNING failed" in away(caplog))
    fail(board)
    store.states = {}
    until(lambda: store.states.get("a", INITIAL).phase is Phase.OPEN)


def test_close_ends_the_thread(opened: Callable[..., Board], store: Store) -> None:
    """What was not told yet is told, the thread ends, and the board goes on alone."""
    before = set(threading.enumerate())
    board = opened(SHORT)
    fail(board)
    board.close()
    assert store.states["a"].phase is Phase.OPEN
    assert "relight-breakers" not in [thread.name for thread in set(threading.enumerate()) - before]
    until(lambda: isinstance(board.admit("a"), Permit))
