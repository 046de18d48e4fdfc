"""The breaker's rules, and a machine of calls in any order beside a model of its own."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from relight.providers.breaker import (
    INITIAL,
    PROBE_WAIT_S,
    Abandoned,
    Baseline,
    BreakerState,
    Call,
    Cooled,
    Denied,
    Failed,
    Phase,
    Shut,
    Succeeded,
    admit,
    given_back,
    is_slow,
    learned,
    merged,
    plausible,
    settle,
    shifted,
)
from relight.providers.spec import ProviderLimits

if TYPE_CHECKING:
    from relight.providers.breaker import Outcome

LIMITS = ProviderLimits()
FAILED, OK = Failed(reason="server_error"), Succeeded(first_event_s=0.5)


class Playing:
    """One breaker, a clock and the names of its calls."""

    def __init__(self, **limits: Any) -> None:
        self.limits = replace(LIMITS, **limits)
        self.state = INITIAL
        self.now = 1000.0
        self.calls = 0

    def phase(self) -> Phase:
        return self.state.phase

    def ask(self) -> Call | Shut:
        self.calls += 1
        self.state, entry = admit(self.state, token=f"c{self.calls}", limits=self.limits, now=self.now)
        return entry

    def call(self) -> Call:
        entry = self.ask()
        assert isinstance(entry, Call), entry
        return entry

    def shut(self) -> Shut:
        entry = self.ask()
        assert isinstance(entry, Shut), entry
        return entry

    def end(self, call: Call, outcome: Outcome) -> None:
        self.state = settle(self.state, call, outcome, limits=self.limits, now=self.now)

    def do(self, outcome: Outcome, *, times: int = 1) -> None:
        for _ in range(times):
            self.end(self.call(), outcome)

    def opened(self) -> Playing:
        self.do(FAILED, times=3)
        assert self.phase() is Phase.OPEN
        return self


# -- failures


def test_the_third_failure_opens_it() -> None:
    """Two failures within the window change nothing, the third opens it, and says for how long."""
    it = Playing()
    it.do(FAILED, times=2)
    assert it.phase() is Phase.CLOSED
    it.do(FAILED)
    assert it.phase() is Phase.OPEN
    assert it.shut() == Shut(60.0, "open")


def test_successes_in_between_forgive_nothing() -> None:
    """It is the window that forgets, not a success: a provider that fails every other call is left alone."""
    it = Playing()
    for _ in range(2):
        it.do(FAILED)
        it.do(OK, times=5)
    it.do(FAILED)
    assert it.phase() is Phase.OPEN


def test_the_window_slides() -> None:
    """fails when a failure of a minute ago still counts, or when counting begins anew every minute."""
    it = Playing()
    it.do(FAILED)
    it.now += 50
    it.do(FAILED)
    it.now += 10
    it.do(FAILED)
    assert it.phase() is Phase.CLOSED
    it.now += 49
    it.do(FAILED)
    assert it.phase() is Phase.OPEN


def test_what_says_nothing_of_the_provider_does_not_count() -> None:
    """fails when a caller's fault, or a 429, counts as a failure or as a success."""
    it = Playing(cool_s=1.0, denied_s=1.0)
    it.do(FAILED, times=2)
    for outcome in (Abandoned(), Cooled(), Denied()):
        it.do(outcome)
        it.now += 1
    assert len(it.state.failures) == 2
    it.do(FAILED)
    assert it.phase() is Phase.OPEN


def test_a_share_of_the_calls_may_be_asked_for() -> None:
    """With a share, three failures among many calls open nothing, and the failure that makes the share does."""
    it = Playing(failure_share=0.5)
    it.do(OK, times=4)
    it.do(FAILED, times=3)
    assert it.phase() is Phase.CLOSED
    it.do(FAILED)
    assert it.phase() is Phase.OPEN


def test_calls_past_the_window_make_no_share() -> None:
    """fails when the successes of an hour ago excuse the failures of now."""
    it = Playing(failure_share=0.5)
    it.do(OK, times=1000)
    it.now += 61
    it.do(FAILED, times=3)
    assert it.phase() is Phase.OPEN


def test_what_is_counted_is_bounded() -> None:
    """fails when a busy hour makes the state grow."""
    it = Playing(failure_share=0.9)
    for _ in range(5000):
        it.now += 0.7
        it.do(OK)
        it.do(FAILED)
    assert len(it.state.slots) <= 61
    assert len(it.state.failures) <= 3


# -- the probe


def test_one_probe_goes_and_its_success_closes() -> None:
    """When its time is over one call is let through; the others wait for its end, which closes the breaker."""
    it = Playing().opened()
    it.now += 59.9
    assert it.shut().reason == "open"
    it.now += 0.1
    probe = it.call()
    assert probe.probe
    assert it.shut() == Shut(PROBE_WAIT_S, "probing")
    assert it.phase() is Phase.HALF_OPEN
    it.end(probe, OK)
    assert it.phase() is Phase.CLOSED
    assert not it.call().probe
    it.do(FAILED, times=2)
    assert it.phase() is Phase.CLOSED


def test_a_failed_probe_opens_anew() -> None:
    """One failure of the probe is enough, and the time counts from it."""
    it = Playing().opened()
    it.now += 100
    it.end(it.call(), FAILED)
    assert it.shut() == Shut(60.0, "open")


@pytest.mark.parametrize("outcome", [Abandoned(), Cooled(wait_s=5.0), Denied()])
def test_a_probe_that_found_nothing_out_is_given_back(outcome: Outcome) -> None:
    """fails when a caller that went away, or a 429 or 401, closes the breaker, or blocks it until the probe is old."""
    it = Playing(denied_s=5.0).opened()
    it.now += 60
    it.do(outcome)
    assert it.phase() is Phase.OPEN
    it.now += 5
    assert it.call().probe


def test_a_probe_that_nobody_settles_is_given_up() -> None:
    """After its time the next call is the probe, and the old one's failure then changes nothing."""
    it = Playing(probe_s=20.0).opened()
    it.now += 60
    old = it.call()
    it.now += 19.5
    assert it.shut() == Shut(0.5, "probing")
    it.now += 0.5
    new = it.call()
    assert new.probe
    before = it.state
    it.end(old, FAILED)
    it.end(old, Abandoned())
    assert it.state == before
    it.end(new, OK)
    assert it.phase() is Phase.CLOSED


def test_a_late_probe_still_closes() -> None:
    """fails when a model that takes longer to answer than a probe may take could never be back."""
    it = Playing(probe_s=20.0).opened()
    it.now += 60
    old = it.call()
    it.now += 30
    new = it.call()
    it.end(old, OK)
    assert it.phase() is Phase.CLOSED
    it.end(new, FAILED)
    assert it.phase() is Phase.CLOSED
    assert not it.state.failures


def test_a_probe_from_before_the_last_failure_does_not_close() -> None:
    """fails when the success of a probe that was given up hides that the next probe has failed since."""
    it = Playing(probe_s=20.0).opened()
    it.now += 60
    old = it.call()
    it.now += 30
    it.end(it.call(), FAILED)
    it.end(old, OK)
    assert it.phase() is Phase.OPEN


# -- calls that end late


def test_a_late_success_does_not_close() -> None:
    """fails when a call that was on its way as the breaker opened closes it."""
    it = Playing()
    late = it.call()
    it.opened()
    it.end(late, OK)
    assert it.phase() is Phase.OPEN


def test_a_late_failure_does_not_open() -> None:
    """fails when calls from before the outage, which time out one after the other, open it after the probe."""
    it = Playing()
    late = [it.call() for _ in range(9)]
    it.opened()
    it.now += 10
    for _ in range(4):
        it.end(late.pop(), FAILED)
    assert it.shut().wait_s == 50.0
    it.now += 50
    it.do(OK)
    for call in late:
        it.end(call, FAILED)
    assert it.phase() is Phase.CLOSED
    assert not it.state.failures


# -- cooling


@pytest.mark.parametrize(
    ("wait_s", "expected"),
    [
        (7.0, 7.0),
        (None, 15.0),
        (-3.0, 15.0),
        (math.nan, 15.0),
        (math.inf, 3600.0),
        (1e12, 3600.0),
        (-math.inf, 15.0),
    ],
)
def test_a_provider_is_left_alone_as_long_as_it_asks(wait_s: float | None, expected: float) -> None:
    """Within bounds: what is no time is as if it had not been said."""
    it = Playing()
    it.do(Cooled(wait_s=wait_s))
    assert it.shut() == Shut(expected, "rate_limited")
    assert it.phase() is Phase.CLOSED
    it.now += expected
    assert not it.call().probe


def test_coming_back_at_once_is_coming_back_at_once() -> None:
    """Retry-After: 0 keeps nobody away."""
    it = Playing()
    it.do(Cooled(wait_s=0.0))
    assert isinstance(it.ask(), Call)


def test_the_longest_wait_counts() -> None:
    """fails when a shorter Retry-After, on an answer that comes later, shortens what was asked for."""
    it = Playing()
    first, second = it.call(), it.call()
    it.end(first, Cooled(wait_s=100.0))
    it.end(second, Cooled(wait_s=1.0))
    assert it.shut().wait_s == 100.0


def test_a_refused_key_is_left_alone_for_its_own_time() -> None:
    """A 401 is asked again after `denied_s`."""
    it = Playing(denied_s=30.0)
    it.do(Denied())
    assert it.shut() == Shut(30.0, "denied")


def test_a_refused_key_and_a_wait_last_as_long_as_both() -> None:
    """fails when a refused key shortens what a provider asked for, or the other way round; only the wait is told."""
    here, there = two(denied_s=30.0)
    first, second = here.call(), here.call()
    here.end(first, Denied())
    here.end(second, Cooled(wait_s=10.0))
    share(here, there, now=1000.0)
    assert here.shut() == Shut(30.0, "denied")
    assert there.shut() == Shut(10.0, "rate_limited")
    here.now += 30
    assert not here.call().probe


def test_cooling_and_open_together_last_as_long_as_both() -> None:
    """The wait that is told is the longer one, and what follows is a probe."""
    it = Playing()
    late = it.call()
    it.opened()
    it.end(late, Cooled(wait_s=10.0))
    assert it.shut().wait_s == 60.0
    it.now += 10
    assert it.shut().reason == "open"
    it.now += 50
    assert it.call().probe


# -- slowness


def answered(it: Playing, seconds: float, *, times: int = 1) -> None:
    it.do(Succeeded(first_event_s=seconds), times=times)


def test_answers_far_beyond_the_baseline_open_it() -> None:
    """Three first events, ten times later than usual and later than five seconds, are an outage."""
    it = Playing()
    answered(it, 0.6, times=20)
    answered(it, 7.0, times=2)
    assert it.phase() is Phase.CLOSED
    answered(it, 7.0)
    assert it.phase() is Phase.OPEN


def test_slowness_needs_a_baseline_and_a_floor() -> None:
    """Nothing is slow before there are samples, nor under the floor, nor when it is turned off."""
    it = Playing()
    answered(it, 0.1, times=19)
    answered(it, 100.0)
    answered(it, 4.9, times=10)
    assert not it.state.slow
    assert not it.state.failures
    off = Playing(slow_factor=0.0)
    answered(off, 0.1, times=50)
    answered(off, 100.0, times=5)
    assert off.phase() is Phase.CLOSED
    assert off.state.baseline.samples == 0


def test_slow_answers_among_prompt_ones_open_nothing() -> None:
    """fails when requests that take long to begin, as long prompts do, open a provider that answers others promptly."""
    it = Playing()
    answered(it, 0.6, times=20)
    for _ in range(10):
        answered(it, 8.0, times=2)
        answered(it, 0.6)
    it.do(FAILED, times=2)
    assert it.phase() is Phase.CLOSED
    answered(it, 8.0, times=2)
    it.do(Succeeded(first_event_s=None))
    it.now += 61
    answered(it, 8.0, times=2)
    assert it.phase() is Phase.CLOSED
    answered(it, 8.0)
    assert it.phase() is Phase.OPEN


def test_a_prompt_answer_of_before_the_outage_ends_no_streak() -> None:
    """fails when a probe, or a call that was let through before the breaker last changed, speaks for the time since."""
    it = Playing()
    answered(it, 0.6, times=20)
    old = it.call()
    answered(it, 8.0, times=3)
    it.now += 60
    probe = it.call()
    it.end(probe, OK)
    answered(it, 8.0, times=2)
    it.end(old, OK)
    answered(it, 8.0)
    assert it.phase() is Phase.OPEN


def test_slow_answers_are_a_share_of_the_calls_too() -> None:
    """With a share, a streak among many calls opens nothing until it is one."""
    it = Playing(failure_share=0.5)
    answered(it, 0.6, times=20)
    answered(it, 8.0, times=19)
    assert it.phase() is Phase.CLOSED
    answered(it, 8.0)
    assert it.phase() is Phase.OPEN


def test_a_streak_is_the_process_s_own() -> None:
    """fails when another's slow answers count here; what they open there is open here."""
    here, there = two()
    for it in (here, there):
        answered(it, 0.6, times=20)
        answered(it, 8.0, times=2)
    store = share(here, there, now=1000.0)
    assert {it.phase() for it in (here, there)} == {Phase.CLOSED}
    assert len(here.state.slow) == 2
    assert not store.slow
    assert not store.failures
    answered(here, 8.0)
    share(here, there, store=store, now=1000.0)
    assert there.phase() is Phase.OPEN
    assert not there.state.slow


def test_a_slow_probe_does_not_close() -> None:
    """fails when a provider that is still far too slow gets its traffic back."""
    it = Playing()
    answered(it, 0.6, times=20)
    answered(it, 9.0, times=3)
    it.now += 60
    answered(it, 9.0)
    assert it.phase() is Phase.OPEN
    it.now += 60
    answered(it, 0.6)
    assert it.phase() is Phase.CLOSED


def test_slow_answers_hardly_move_the_baseline() -> None:
    """fails when an hour of slow probes makes slow usual; and a day of them does, for a model may have changed."""
    baseline = Baseline()
    for _ in range(30):
        baseline = learned(baseline, 0.6, limits=LIMITS)
    for _ in range(60):
        baseline = learned(baseline, 20.0, limits=LIMITS)
    assert is_slow(baseline, 20.0, limits=LIMITS)
    for _ in range(24 * 60):
        baseline = learned(baseline, 20.0, limits=LIMITS)
    assert not is_slow(baseline, 20.0, limits=LIMITS)


@given(st.lists(st.floats(), max_size=60), st.floats(0.01, 10))
def test_no_time_breaks_the_baseline(times: list[float], usual: float) -> None:
    """Whatever a clock gives, the baseline stays a number between what was seen, and one outlier moves it little."""
    baseline = Baseline()
    for _ in range(20):
        baseline = learned(baseline, usual, limits=LIMITS)
    assert baseline.usual_s == pytest.approx(usual)
    for seconds in times:
        after = learned(baseline, seconds, limits=LIMITS)
        assert abs(after.log_mean - baseline.log_mean) <= math.log(2) / 20 + 1e-9
        baseline = after


# -- one state of several processes


def share(*those: Playing, store: BreakerState = INITIAL, now: float) -> BreakerState:
    """Each tells a store what it knows, in turn, and then hears what the store knows."""
    for it in those:
        store = merged(store, it.state, limits=it.limits, now=now, theirs_decide=False)
    for it in those:
        it.state = merged(it.state, store, limits=it.limits, now=now, theirs_decide=True)
    return store


def two(**limits: Any) -> tuple[Playing, Playing]:
    here, there = Playing(**limits), Playing(**limits)
    there.calls = 100
    return here, there


def test_failures_of_two_processes_open_both() -> None:
    """Two failures here and one there are three, and both processes call the opening the same."""
    here, there = two()
    here.do(FAILED, times=2)
    there.now += 1
    there.do(FAILED)
    share(here, there, now=1002.0)
    for it in (here, there):
        assert (it.phase(), it.state.change, it.state.open_until) == (Phase.OPEN, "c101", 1061.0)


def test_workers_with_other_limits_come_to_an_end() -> None:
    """fails when, in a rolling change of the limits, each tells the others for ever what they have dropped."""
    few, many = two()
    many.limits = replace(LIMITS, failures=5)
    store = INITIAL
    for it in (many, many, few, many):
        few.now = many.now = few.now + 61
        it.do(FAILED)
        store = share(few, many, store=store, now=few.now)
    assert few.state.failures == many.state.failures == store.failures
    assert len(store.failures) == 4
    few.do(FAILED)
    store = share(few, many, store=store, now=few.now)
    assert share(few, many, store=store, now=few.now) == store
    assert few.phase() is Phase.CLOSED
    few.do(FAILED)
    share(few, many, store=store, now=few.now)
    assert few.phase() is many.phase() is Phase.OPEN


def test_a_share_is_each_process_s_own() -> None:
    """With a share of the calls, the failures of others are not added to it."""
    here, there = two(failure_share=0.5)
    here.do(FAILED, times=2)
    there.do(FAILED)
    share(here, there, now=1001.0)
    assert len(here.state.failures) == 2
    assert here.phase() is Phase.CLOSED


def test_the_later_change_counts() -> None:
    """A closing that came after the opening closes it elsewhere too, whatever the clocks say."""
    here, there = two()
    store = share(here.opened(), there, now=1000.0)
    assert there.phase() is Phase.OPEN
    there.now = 1060.0
    there.do(OK)
    there.state = shifted(there.state, -300.0)
    share(here, there, store=store, now=1060.0)
    assert here.phase() is Phase.CLOSED


def test_an_opening_that_was_not_known_of_takes_no_probe_away() -> None:
    """fails when a worker that had not heard yet, and opens its breaker by itself, makes others send a second probe."""
    here, there = two()
    store = share(here.opened(), now=1000.0)
    here.now = there.now = 1060.0
    probe = here.call()
    store = share(here, store=store, now=1060.0)
    there.opened()
    share(here, there, store=store, now=1060.0)
    assert (there.phase(), there.state.probe) == (Phase.HALF_OPEN, probe.token)
    assert here.shut().reason == there.shut().reason == "probing"


def test_what_cannot_be_is_not_believed() -> None:
    """fails when a database whose clock went back, or that had other settings, keeps a provider away for hours."""
    state = replace(shifted(Playing().opened().state, 7200.0), cool_until=1e9, probe_until=1e9)
    seen = plausible(state, limits=LIMITS, now=1000.0)
    assert (seen.since, seen.open_until, seen.probe_until, seen.cool_until) == (1000.0, 1060.0, 1060.0, 4600.0)
    assert plausible(seen, limits=LIMITS, now=1000.0) is seen


ENDS: list[Outcome] = [FAILED, FAILED, FAILED, OK, Abandoned(), Cooled(wait_s=30.0)]


@st.composite
def pairs(draw: st.DrawFn) -> tuple[BreakerState, BreakerState, float]:
    """What two processes may know that began with the same, and a time at which they tell each other."""
    start = Playing()

    def goes_on(it: Playing, name: str) -> Playing:
        for _ in range(draw(st.integers(0, 10))):
            it.now += draw(st.sampled_from([0.0, 0.5, 20.0, 61.0]))
            it.calls += 1
            it.state, entry = admit(it.state, token=f"{name}{it.calls}", limits=LIMITS, now=it.now)
            if isinstance(entry, Call) and draw(st.booleans()):
                it.end(entry, draw(st.sampled_from(ENDS)))
        return it

    goes_on(start, "x")
    one, other = Playing(), Playing()
    for it, name in ((one, "a"), (other, "b")):
        it.state, it.now = start.state, start.now
        goes_on(it, name)
    now = max(one.now, other.now) + draw(st.sampled_from([0.0, 1.0, 30.0, 100.0]))
    return shifted(one.state, 0.0), shifted(other.state, 0.0), now


@given(pairs())
def test_telling_again_changes_nothing(pair: tuple[BreakerState, BreakerState, float]) -> None:
    """What was told once may be told again, and as another clock sees it slightly differently: nothing creeps."""
    one, other, now = pair
    both = merged(one, other, limits=LIMITS, now=now, theirs_decide=False)
    for again in (one, other, both, shifted(both, 0.01), shifted(both, -0.01)):
        assert merged(both, again, limits=LIMITS, now=now, theirs_decide=False) == both


@given(pairs())
def test_all_come_to_the_same(pair: tuple[BreakerState, BreakerState, float]) -> None:
    """fails when two processes that told a store all they know, and heard what it knows, go on differently."""
    here, there = Playing(), Playing()
    here.state, there.state, now = pair
    store = share(here, there, now=now)

    def awaited(state: BreakerState) -> BreakerState:
        # A probe whose time is over is not told: whoever asks next is the probe, whether it is known or not.
        return given_back(state, state.probe if now >= state.probe_until else "")

    for it in (here, there):
        assert awaited(it.state) == awaited(store)


@given(pairs())
def test_telling_closes_nothing_by_itself(pair: tuple[BreakerState, BreakerState, float]) -> None:
    """A breaker is closed afterwards only if it was closed where the newest change was made."""
    here, there = Playing(), Playing()
    here.state, there.state, now = pair
    newest = max(here.state.version, there.state.version)
    closed = {it.phase() for it in (here, there) if it.state.version == newest}
    if share(here, there, now=now).phase is Phase.CLOSED:
        assert Phase.CLOSED in closed


def test_a_probe_is_given_back_by_its_own_call_alone() -> None:
    """A token that is not the probe's gives nothing back."""
    it = Playing().opened()
    it.now += 60
    it.call()
    assert given_back(it.state, "other") is it.state
    assert given_back(INITIAL, "") is INITIAL


# -- calls in any order, beside a model


@dataclass
class Flight:
    """A call on its way, as the model knows it: in which era it was let through."""

    call: Call
    era: int
    probe: bool


TIMES = st.sampled_from([0.0, 0.1, 1.0, 9.9, 10.0, 19.9, 20.0, 29.9, 30.0, 100.0])


class Calls(RuleBasedStateMachine):
    """The model counts eras, one for each opening and closing, and keeps every failure with its time."""

    def __init__(self) -> None:
        super().__init__()
        self.limits = ProviderLimits(window_s=30.0, open_s=20.0, probe_s=10.0, cool_s=5.0, denied_s=9.0)
        self.state = INITIAL
        self.now = 0.0
        self.count = 0
        self.flights: list[Flight] = []
        # -- the model
        self.era = 0
        self.open_since: float | None = None
        self.failures: list[float] = []
        self.probe: Flight | None = None
        self.probe_since = 0.0
        self.cool_until = -1.0

    @rule(seconds=TIMES)
    def time_passes(self, seconds: float) -> None:
        self.now += seconds

    @rule()
    def is_asked(self) -> None:
        self.count += 1
        self.state, entry = admit(self.state, token=str(self.count), limits=self.limits, now=self.now)
        due = self.open_since is not None and self.now >= self.open_since + 20.0
        probing = self.probe is not None and self.now < self.probe_since + 10.0
        may = self.now >= self.cool_until and (self.open_since is None or (due and not probing))
        assert isinstance(entry, Call) == may
        if isinstance(entry, Shut):
            assert entry.wait_s > 0
            return
        assert entry.probe == (self.open_since is not None)
        flight = Flight(call=entry, era=self.era, probe=entry.probe)
        if entry.probe:
            self.probe, self.probe_since = flight, self.now
        self.flights.append(flight)

    @precondition(lambda self: self.flights)
    @rule(
        pick=st.integers(0, 20),
        outcome=st.sampled_from([FAILED, FAILED, FAILED, OK, Abandoned(), Cooled(wait_s=3.0), Cooled(), Denied()]),
    )
    def ends(self, pick: int, outcome: Outcome) -> None:
        flight = self.flights.pop(pick % len(self.flights))
        self.state = settle(self.state, flight.call, outcome, limits=self.limits, now=self.now)
        of_this_era = flight.era == self.era
        if isinstance(outcome, Failed) and flight is self.probe and of_this_era:
            self.opens()
        elif isinstance(outcome, Failed) and of_this_era and not flight.probe and self.open_since is None:
            self.failures.append(self.now)
            if sum(self.now - at < 30.0 for at in self.failures) == 3:
                self.opens()
        elif isinstance(outcome, Succeeded) and flight.probe and of_this_era:
            self.era += 1
            self.open_since, self.probe, self.failures = None, None, []
        elif not isinstance(outcome, Failed | Succeeded) and flight is self.probe:
            self.probe = None
        if isinstance(outcome, Cooled):
            self.cool_until = max(self.cool_until, self.now + (5.0 if outcome.wait_s is None else outcome.wait_s))
        if isinstance(outcome, Denied):
            self.cool_until = max(self.cool_until, self.now + 9.0)

    def opens(self) -> None:
        self.era += 1
        self.open_since, self.probe, self.failures = self.now, None, []

    @invariant()
    def phases_agree(self) -> None:
        assert (self.state.phase is Phase.CLOSED) == (self.open_since is None)
        assert (self.state.phase is Phase.HALF_OPEN) == (self.probe is not None)
        assert self.state.is_cooling(self.now) == (self.now < self.cool_until)

    @invariant()
    def memory_is_bounded(self) -> None:
        assert len(self.state.failures) <= 3
        assert not self.state.slots


TestCalls = Calls.TestCase
TestCalls.settings = settings(max_examples=300, stateful_step_count=60, deadline=None)
