"""When an episode becomes an incident, and how it is raised: once, and not lost."""

from __future__ import annotations

import logging
import threading
import time
from dataclasses import replace
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import pytest
from fakes import FakeClock

from relight.errors import RelightError, UnavailableError
from relight.providers import incidents as module
from relight.providers.episodes import (
    Episode,
    Stage,
    degraded,
    denied,
    is_free,
    shifted,
    to_tell,
    together,
    told,
    well,
)
from relight.providers.incidents import Incident, Incidents, Kind
from relight.providers.shared import Seen
from relight.providers.spec import ProviderLimits

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

LIMITS = ProviderLimits()
AFTER_S = LIMITS.incident_after_s


def bad(episode: Episode | None, at: float, began: float | None = None) -> Episode:
    began = at if began is None else began
    return degraded(episode, provider="b", began=began, at=at, after_s=AFTER_S)


# -- episodes


def test_a_fallback_is_due_after_its_time() -> None:
    """Answers from a fallback for half an hour are due, a moment less is not."""
    episode = bad(None, 0.0)
    for at in (600.0, 1200.0, 1799.9):
        episode = bad(episode, at)
        assert to_tell(episode) is None
    assert to_tell(bad(episode, 1800.0)) is Kind.FALLBACK


def test_an_answer_of_the_first_provider_begins_it_anew() -> None:
    """fails when a quarter of an hour before and one after a recovery are taken for half an hour."""
    assert well(bad(bad(None, 0.0), 900.0), provider="a") is None
    assert to_tell(bad(bad(None, 1000.0), 1900.0)) is None


def test_a_gap_without_answers_is_no_fallback() -> None:
    """fails when one call at noon and one at night are taken for half a day on a fallback."""
    episode = bad(bad(None, 0.0), 5000.0)
    assert (to_tell(episode), episode.since) == (None, 5000.0)


def test_a_refused_key_is_due_at_once() -> None:
    """And once for all refusals until the provider answers again."""
    episode = denied(None, provider="a", detail="401", at=1.0)
    assert to_tell(episode) is Kind.DENIED
    after = told(episode, kind=Kind.DENIED)
    assert after is not None
    again = denied(after, provider="a", detail="403", at=2.0)
    assert to_tell(again) is None
    ended = well(again, provider="a")
    assert ended is not None
    assert to_tell(ended) is Kind.RECOVERED
    assert told(ended, kind=Kind.RECOVERED) is None


def test_what_ended_before_it_was_told_is_told() -> None:
    """fails when an incident that could not be raised for a while is dropped because it has ended: both are told."""
    ended = well(denied(None, provider="a", detail="401", at=1.0), provider="a")
    assert ended is not None
    assert to_tell(ended) is Kind.DENIED
    after = told(ended, kind=Kind.DENIED)
    assert after is not None
    assert to_tell(after) is Kind.RECOVERED


def test_what_comes_back_while_its_end_is_told_begins_anew() -> None:
    """Before the end was told it goes on as if there had been none, afterwards it is another episode."""
    raised = replace(bad(None, 0.0), stage=Stage.RAISED)
    ended = well(raised, provider="a")
    assert ended is not None
    back = bad(ended, 10.0)
    assert to_tell(back) is None
    anew = told(back, kind=Kind.RECOVERED)
    assert anew is not None
    assert (anew.stage, anew.since) == (Stage.BEGUN, 10.0)


def test_a_claim_is_one_s_own_until_its_time_is_over() -> None:
    """Others may tell of it afterwards."""
    episode = replace(bad(None, 0.0), claim="x", claim_until=10.0)
    assert is_free(episode, token="x", now=5.0)
    assert not is_free(episode, token="y", now=5.0)
    assert is_free(episode, token="y", now=10.0)


def test_two_views_of_an_episode_become_one() -> None:
    """The further stage, the earlier beginning, and what this process saw last."""
    ours, theirs = replace(bad(None, 5.0), stage=Stage.RAISED), bad(None, 1.0)
    both = together(theirs, ours)
    assert both is not None
    assert (both.stage, both.since, both.last) == (Stage.RAISED, 1.0, 5.0)
    assert together(None, ours) is ours
    assert together(theirs, None) is theirs
    assert shifted(ours, 2.0).since == 7.0


# -- raising them


class Pager:
    """Gets incidents, or fails."""

    def __init__(self) -> None:
        self.got: list[Incident] = []
        self.threads: set[int] = set()
        self.fails: Exception | None = None
        self.tries = 0

    def __call__(self, incident: Incident) -> None:
        self.tries += 1
        self.threads.add(threading.get_ident())
        if self.fails is not None:
            raise self.fails
        self.got.append(incident)

    @property
    def kinds(self) -> list[str]:
        return [incident.kind.value for incident in self.got]


class Store:
    """A store in memory, with a clock that is ahead, that can be away or read-only."""

    def __init__(self, clock: FakeClock) -> None:
        self.clock = clock
        self.episodes: dict[str, Episode] = {}
        self.lock = threading.Lock()
        self.away: RelightError | None = None
        self.writable = True

    def now(self) -> float:
        if self.away is not None:
            raise self.away
        return self.clock.monotonic() + 1e6

    def read(self) -> Seen[Episode]:
        with self.lock:
            return Seen(now=self.now(), states=dict(self.episodes), writable=self.writable)

    def update(self, key: str, change: Callable[[Episode | None, float], Episode | None]) -> Episode | None:
        with self.lock:
            after = change(self.episodes.get(key), self.now())
            self.episodes.pop(key, None)
            if after is not None:
                self.episodes[key] = after
            return after


def until(condition: Callable[[], Any]) -> None:
    end = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < end, "it does not come"
        time.sleep(0.005)


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
def pager() -> Pager:
    return Pager()


@pytest.fixture
def opened(clock: FakeClock, pager: Pager, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Incidents]]:
    """Makes incidents that look and try again often."""
    monkeypatch.setattr(module, "LOOK_S", 0.02)
    monkeypatch.setattr(module, "_RETRY_S", 0.01)
    made: list[Incidents] = []

    def make(shared: Store | None = None, raise_: Callable[[Incident], None] = pager) -> Incidents:
        made.append(Incidents(raise_, limits=LIMITS, clock=clock, shared=shared))
        return made[-1]

    yield make
    for incidents in made:
        incidents.close()


def fall_back(incidents: Incidents, clock: FakeClock, *, minutes: int = 30) -> None:
    """Answers from the fallback, one a minute."""
    for _ in range(minutes):
        incidents.answered("b", degraded=True)
        clock.sleep(60)
    incidents.answered("b", degraded=True)


def test_answers_that_only_another_could_give_end_no_outage(
    opened: Callable[..., Incidents], clock: FakeClock, pager: Pager
) -> None:
    """fails when a request for which the first provider lacks something hides that it has been away."""
    incidents = opened()
    for _ in range(31):
        incidents.answered("b", degraded=True)
        incidents.answered("b", degraded=None)
        clock.sleep(60)
    incidents.answered("b", degraded=True)
    until(lambda: pager.got)
    assert [item.kind for item in pager.got] == [Kind.FALLBACK]


def test_half_an_hour_on_a_fallback_is_an_incident(
    opened: Callable[..., Incidents], clock: FakeClock, pager: Pager
) -> None:
    """One, however long it lasts, and one when it is over; not on the caller's thread."""
    incidents, began = opened(), clock.now()
    fall_back(incidents, clock, minutes=29)
    assert not pager.tries
    clock.sleep(60)
    fall_back(incidents, clock, minutes=60)
    until(lambda: pager.got)
    fall_back(incidents, clock, minutes=60)
    incidents.answered("a", degraded=False)
    until(lambda: len(pager.got) == 2)
    incidents.answered("a", degraded=False)
    first, last = pager.got
    assert (first.kind, first.provider) == (Kind.FALLBACK, "b")
    assert "fallback b" in first.text
    assert "scenario 3" in first.text
    assert abs(first.since - began) < timedelta(seconds=1)
    assert (last.kind, last.provider) == (Kind.RECOVERED, "a")
    assert (first.ended, last.ended) == ((), (Kind.FALLBACK,)), "whoever pages ends what began, and nothing else"
    assert threading.get_ident() not in pager.threads


def test_a_first_provider_that_answers_starts_no_thread(opened: Callable[..., Incidents]) -> None:
    """fails when what is well costs anything."""
    before = set(threading.enumerate())
    opened().answered("a", degraded=False)
    assert set(threading.enumerate()) == before


def test_a_refused_key_is_an_incident_at_once(opened: Callable[..., Incidents], pager: Pager) -> None:
    """One for each provider, until it answers again."""
    incidents = opened()
    for _ in range(3):
        incidents.denied("a", "401: no such key")
        incidents.denied("b", "403")
    until(lambda: len(pager.got) == 2)
    assert sorted((one.kind.value, one.provider) for one in pager.got) == [("denied", "a"), ("denied", "b")]
    assert any("401: no such key" in one.text for one in pager.got)
    incidents.answered("b", degraded=True)
    until(lambda: len(pager.got) == 3)
    assert (pager.got[2].kind, pager.got[2].provider) == (Kind.RECOVERED, "b")
    assert pager.got[2].ended == (Kind.DENIED,)
    incidents.denied("b", "403")
    until(lambda: len(pager.got) == 4)


def test_one_answer_that_ends_two_episodes_is_one_incident(
    opened: Callable[..., Incidents], clock: FakeClock, pager: Pager
) -> None:
    """The first provider's key was refused, a fallback answered for long, and both are over with one answer."""
    incidents = opened()
    incidents.denied("a", "401")
    fall_back(incidents, clock)
    until(lambda: sorted(pager.kinds) == ["denied", "fallback"])
    incidents.answered("a", degraded=False)
    until(lambda: len(pager.got) == 3)
    incidents.close()
    assert pager.kinds[2:] == ["recovered"]


def test_what_could_not_be_raised_is_raised_again(
    opened: Callable[..., Incidents], pager: Pager, caplog: pytest.LogCaptureFixture
) -> None:
    """fails when an incident is lost, or calls are held up, while the pager is away."""
    incidents, pager.fails = opened(), OSError("no route")
    incidents.denied("a", "401")
    until(lambda: pager.tries > 3)
    incidents.answered("a", degraded=False)
    pager.fails = None
    until(lambda: pager.kinds == ["denied", "recovered"])
    [first, *_] = [record for record in caplog.records if record.message == "llm_incident_not_raised"]
    assert "no route" in str(vars(first))


def test_a_pager_that_hangs_holds_nobody_up(opened: Callable[..., Incidents], pager: Pager) -> None:
    """fails when an answer waits for a page."""
    hangs, begun = threading.Event(), threading.Event()

    def hang(incident: Incident) -> None:
        begun.set()
        hangs.wait()
        pager(incident)

    incidents = opened(raise_=hang)
    incidents.denied("a", "401")
    assert begun.wait(20)
    for _ in range(100):
        incidents.denied("a", "401")
        incidents.answered("b", degraded=True)
    assert not pager.got
    hangs.set()
    until(lambda: pager.kinds == ["denied"])


def test_what_stays_untold_at_the_end_is_logged(
    opened: Callable[..., Incidents], pager: Pager, caplog: pytest.LogCaptureFixture
) -> None:
    """fails when a process that ends takes an incident with it in silence."""
    incidents, pager.fails = opened(), OSError("no route")
    incidents.denied("a", "401")
    incidents.close()
    [lost] = [record for record in caplog.records if record.levelno == logging.ERROR]
    assert lost.message == "llm_incident_not_raised"
    assert "401" in str(vars(lost))
    incidents.answered("a", degraded=True)


# -- over all workers


def test_all_workers_raise_one(opened: Callable[..., Incidents], clock: FakeClock, pager: Pager) -> None:
    """fails when each of ten workers pages, or each says that it is over."""
    store = Store(clock)
    workers = [opened(store) for _ in range(10)]
    for _ in range(31):
        for worker in workers:
            worker.answered("b", degraded=True)
            worker.denied("a", "401")
        clock.sleep(60)
        until(lambda: all(not worker._news for worker in workers))
    until(lambda: sorted(pager.kinds) == ["denied", "fallback"])
    for worker in workers:
        worker.answered("a", degraded=False)
    until(lambda: len(pager.got) == 3)
    until(lambda: not store.episodes)
    for worker in workers:
        worker.close()
    assert pager.kinds[2:] == ["recovered"]


def test_a_worker_that_starts_takes_over(opened: Callable[..., Incidents], clock: FakeClock, pager: Pager) -> None:
    """The time on a fallback counts on past a restart, and who starts afterwards says that it is over."""
    store = Store(clock)
    for _ in range(4):
        worker = opened(store)
        fall_back(worker, clock, minutes=10)
        worker.close()
    assert pager.kinds == ["fallback"]
    opened(store).answered("a", degraded=False)
    until(lambda: pager.kinds == ["fallback", "recovered"])


def test_what_one_worker_cannot_raise_another_does(
    opened: Callable[..., Incidents], clock: FakeClock, pager: Pager
) -> None:
    """fails when the worker that found it due is the only one that tries."""
    store = Store(clock)

    def fails(incident: Incident) -> None:
        raise OSError("no route")

    one, other = opened(store, raise_=fails), opened(store)
    other.answered("b", degraded=True)
    one.denied("a", "401")
    until(lambda: pager.kinds == ["denied"])
    one.close()


def test_what_a_dead_worker_had_claimed_is_raised_later(
    opened: Callable[..., Incidents], clock: FakeClock, pager: Pager
) -> None:
    """fails when a worker that died while it raised an incident has taken it along."""
    store = Store(clock)
    episode = denied(None, provider="a", detail="401", at=store.now())
    store.episodes["denied:a"] = replace(episode, claim="dead", claim_until=store.now() + 60)
    other = opened(store)
    other.answered("b", degraded=True)
    until(lambda: other._episodes)
    assert not pager.got
    clock.sleep(60)
    until(lambda: pager.kinds == ["denied"])


def test_without_the_store_each_raises_its_own(
    opened: Callable[..., Incidents], clock: FakeClock, pager: Pager, caplog: pytest.LogCaptureFixture
) -> None:
    """fails when an incident waits for the database; back again, the others know that it was raised."""
    store = Store(clock)
    one, other = opened(store), opened(store)
    store.away = UnavailableError("down")
    one.denied("a", "401")
    until(lambda: pager.kinds == ["denied"])
    store.away = None
    until(lambda: "denied:a" in store.episodes and store.episodes["denied:a"].stage is Stage.RAISED)
    other.denied("a", "401")
    other.answered("a", degraded=False)
    until(lambda: pager.kinds == ["denied", "recovered"])
    said = [record for record in caplog.records if record.message == "llm_incidents"]
    assert len(said) == 1


def test_an_end_that_came_while_the_store_was_away_is_not_lost(
    opened: Callable[..., Incidents], clock: FakeClock, pager: Pager
) -> None:
    """fails when a worker that starts without the database never tells that all is well again."""
    store = Store(clock)
    episode = denied(None, provider="a", detail="401", at=store.now())
    store.episodes["denied:a"] = replace(episode, stage=Stage.RAISED)
    store.away = UnavailableError("down")
    worker = opened(store)
    worker.answered("a", degraded=False)
    until(lambda: "denied:a" in worker._alone)
    store.away = None
    until(lambda: pager.kinds == ["recovered"])
    until(lambda: not store.episodes)


def test_who_was_well_ends_what_another_began_and_died(
    opened: Callable[..., Incidents], clock: FakeClock, pager: Pager
) -> None:
    """fails when an episode whose worker died goes on for ever, because the others were well before it began: none of
    them tells that it is over, and the next one is never raised."""
    store = Store(clock)
    other = opened(store)
    other.answered("a", degraded=False)
    until(lambda: other._bad and not other._news)
    one = opened(store)
    one.denied("a", "401")
    until(lambda: pager.kinds == ["denied"])
    one.close()
    clock.sleep(3600)

    def over() -> bool:
        other.answered("a", degraded=False)
        return len(pager.got) == 2

    until(over)
    until(lambda: not store.episodes)
    other.denied("a", "401")
    until(lambda: pager.kinds == ["denied", "recovered", "denied"])


def test_another_s_answers_end_no_refusal_that_goes_on(
    opened: Callable[..., Incidents], clock: FakeClock, pager: Pager
) -> None:
    """fails when one worker with an old key, among those with the new one, pages a person every minute."""
    store = Store(clock)
    old, new = opened(store), opened(store)
    for _ in range(10):
        old.denied("a", "401")
        for _ in range(5):
            new.answered("a", degraded=False)
            until(lambda: not old._news and not new._news)
            until(lambda: new._bad.get("denied:a") is None)
            clock.sleep(12)
    assert pager.kinds == ["denied"]
    old.answered("a", degraded=False)
    until(lambda: pager.kinds == ["denied", "recovered"])


def test_an_answer_is_not_lost_where_no_thread_can_be_started(
    opened: Callable[..., Incidents], pager: Pager, monkeypatch: pytest.MonkeyPatch
) -> None:
    """fails when a process with too many threads raises out of an answer that was paid for, or raises no incident once
    it has fewer."""

    def refuse(thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    incidents = opened()
    with monkeypatch.context() as patched:
        patched.setattr(threading.Thread, "start", refuse)
        incidents.answered("b", degraded=True)
        incidents.denied("a", "401")
    incidents.denied("c", "401")
    until(lambda: sorted(one.provider for one in pager.got) == ["a", "c"])


def test_what_breaks_one_episode_leaves_the_others(
    opened: Callable[..., Incidents], clock: FakeClock, pager: Pager, monkeypatch: pytest.MonkeyPatch
) -> None:
    """fails when an error that nobody thought of drops what else was to be told."""
    store = Store(clock)
    update = store.update

    def breaks(key: str, change: Callable[[Episode | None, float], Episode | None]) -> Episode | None:
        if key == "denied:a":
            raise ValueError(key)
        return update(key, change)

    monkeypatch.setattr(store, "update", breaks)
    incidents = opened(store)
    with incidents._lock:
        incidents._say_bad("denied:a", "a", "401", clock.monotonic())
        incidents._say_bad("denied:b", "b", "401", clock.monotonic())
    until(lambda: pager.got)
    assert [one.provider for one in pager.got] == ["b"]
