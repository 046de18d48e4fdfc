"""A provider's breaker: when it is left alone, and when it is tried again.

Pure: state, limits and time in, state out. All times are seconds of one clock that never runs backwards. Calls and
changes are known by tokens, which no two calls share: so a change that is heard of twice, from this process and from
the others, is known to be one.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

    from relight.providers.spec import ProviderLimits

# What a caller that comes while a probe is on its way is told to wait at most: a probe mostly ends within seconds.
PROBE_WAIT_S = 1.0
# Over how many slots of the window calls are counted, where a share of them matters.
_SLOTS = 60
# A sample moves the baseline as if it were at most so many times longer, or shorter.
_CLIP = math.log(2)
# A slow answer moves the baseline by a tenth of what another does: an outage of an hour at most doubles it.
_SLOW_WEIGHT = 0.1


class Phase(StrEnum):
    """Closed lets calls through, open none, half-open has one on its way, the probe."""

    CLOSED = "closed"
    OPEN = "open"
    HALF_OPEN = "half_open"


class Reason(StrEnum):
    """Why a call is not let through."""

    OPEN = "open"
    CLAIMING = "claiming"
    PROBING = "probing"
    LIMITED = "rate_limited"
    DENIED = "denied"


# -- how a call ended


@dataclass(frozen=True, slots=True, kw_only=True)
class Succeeded:
    """With a whole answer; `first_event_s` after it was sent the first event had come."""

    first_event_s: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Failed:
    """With a fault that counts against the provider."""

    reason: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Cooled:
    """The provider asks to be left alone, for `wait_s` if it said so."""

    wait_s: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Denied:
    """The provider does not take the key, or the account has no right to it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Abandoned:
    """With nothing that says anything about the provider: the caller went away, or was at fault."""


Outcome = Succeeded | Failed | Cooled | Denied | Abandoned


# -- the state


@dataclass(frozen=True, slots=True, kw_only=True)
class Failure:
    """When a call failed, and which."""

    at: float
    token: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Slot:
    """How many calls ended in one part of the window, how many of them failed, and how many were answered slowly."""

    number: int
    calls: int
    failures: int
    slow: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Baseline:
    """How soon the model's first event usually comes: the mean of the logarithm, which a single late one moves little.

    The latest of `samples` weigh most, once there are enough.
    """

    log_mean: float = 0.0
    samples: int = 0

    @property
    def usual_s(self) -> float | None:
        """The usual time to the first event; None before the first sample."""
        return math.exp(self.log_mean) if self.samples else None


@dataclass(frozen=True, slots=True, kw_only=True)
class BreakerState:
    """Where a breaker stands.

    `change` is the token of the call that opened or closed it last, at `since`; `version` counts how often that has
    happened. `probe` is the token of the probe that is on its way. `failures` are the latest that count, as many as
    open it, here or in the worker that needs most. `slow` is when each answer of a streak of slow ones came. It is
    this process's alone, as are the baseline, `denied_until`, for another process may have another key, and the
    `slots`, which are counted only where a share of the calls matters.
    """

    phase: Phase = Phase.CLOSED
    since: float = -math.inf
    change: str = ""
    version: int = 0
    open_until: float = -math.inf
    probe: str = ""
    probe_until: float = -math.inf
    failures: tuple[Failure, ...] = ()
    cool_until: float = -math.inf
    cooled_by: str = ""
    cool_reason: str = ""
    denied_until: float = -math.inf
    baseline: Baseline = field(default=Baseline())
    slots: tuple[Slot, ...] = ()
    slow: tuple[float, ...] = ()

    def is_cooling(self, now: float) -> bool:
        """Whether it is left alone because the provider asked for it, or does not take the key."""
        return now < self.cool_until or self.is_denied(now)

    def is_denied(self, now: float) -> bool:
        """Whether it is left alone because it does not take this process's key."""
        return now < self.denied_until


INITIAL = BreakerState()


@dataclass(frozen=True, slots=True)
class Call:
    """A call that was let through at `at`, as the probe or as one of many."""

    token: str
    at: float
    probe: bool


@dataclass(frozen=True, slots=True)
class Shut:
    """A call that is not let through: worth another try in `wait_s` seconds."""

    wait_s: float
    reason: str


# -- the decisions


def admit(state: BreakerState, *, token: str, limits: ProviderLimits, now: float) -> tuple[BreakerState, Call | Shut]:
    """Whether a call may go to the provider now; it is known by `token` from then on."""
    if state.is_cooling(now):
        until, reason = max((state.cool_until, state.cool_reason), (state.denied_until, Reason.DENIED))
        until = until if state.phase is Phase.CLOSED else max(until, state.open_until)
        return state, Shut(until - now, reason)
    if state.phase is Phase.CLOSED:
        return state, Call(token, now, False)
    if now < state.open_until:
        return state, Shut(state.open_until - now, Reason.OPEN)
    if state.phase is Phase.HALF_OPEN and now < state.probe_until:
        return state, Shut(min(state.probe_until - now, PROBE_WAIT_S), Reason.PROBING)
    return probed(state, token=token, limits=limits, now=now)


def probed(state: BreakerState, *, token: str, limits: ProviderLimits, now: float) -> tuple[BreakerState, Call]:
    """The probe with this token is on its way from now on."""
    probing = replace(state, phase=Phase.HALF_OPEN, probe=token, probe_until=now + limits.probe_s)
    return probing, Call(token, now, True)


def settle(state: BreakerState, call: Call, outcome: Outcome, *, limits: ProviderLimits, now: float) -> BreakerState:
    """What follows from how a call ended. To be called once for each.

    A call that was let through before the breaker last opened or closed changes nothing by failing or succeeding. One
    slow answer says nothing, for some requests take long to begin: as many in a row as failures that open it do.
    """
    if isinstance(outcome, Succeeded):
        slow = is_slow(state.baseline, outcome.first_event_s, limits=limits)
        baseline = learned(state.baseline, outcome.first_event_s, limits=limits)
        if baseline is not state.baseline:
            state = replace(state, baseline=baseline)
        if slow:
            return _failed(state, call, limits, now) if call.probe else _slowed(state, call, limits, now)
        if state.slow and outcome.first_event_s is not None and _counts(state, call):
            state = replace(state, slow=())
        return _succeeded(state, call, limits, now)
    if isinstance(outcome, Failed):
        return _failed(state, call, limits, now)
    state = given_back(state, call.token)
    if isinstance(outcome, Cooled):
        return _cooled(state, call, _wait_s(outcome.wait_s, limits), now)
    if isinstance(outcome, Denied):
        return replace(state, denied_until=max(state.denied_until, now + limits.denied_s))
    return state


def given_back(state: BreakerState, token: str) -> BreakerState:
    """The probe with this token came to nothing, and the next call may be one; nothing changes if it is another's."""
    if not token or state.probe != token:
        return state
    return replace(state, phase=Phase.OPEN, probe="", probe_until=-math.inf)


def is_slow(baseline: Baseline, first_event_s: float | None, *, limits: ProviderLimits) -> bool:
    """Whether a first event came far too late, beside the model's own baseline."""
    return (
        limits.slow_factor > 0
        and baseline.samples >= limits.slow_samples
        and first_event_s is not None
        and first_event_s > limits.slow_least_s
        and first_event_s > limits.slow_factor * math.exp(baseline.log_mean)
    )


def learned(baseline: Baseline, first_event_s: float | None, *, limits: ProviderLimits) -> Baseline:
    """The baseline after one more answer. A slow one moves it little: an outage is not what is usual."""
    if limits.slow_factor == 0 or first_event_s is None or not 0 <= first_event_s < math.inf:
        return baseline
    step = math.log(max(first_event_s, 0.001)) - baseline.log_mean
    if baseline.samples < limits.slow_samples:
        samples = baseline.samples + 1
        return Baseline(log_mean=baseline.log_mean + step / samples, samples=samples)
    weight = 1 / limits.slow_samples
    if is_slow(baseline, first_event_s, limits=limits):
        weight *= _SLOW_WEIGHT
    step = max(-_CLIP, min(_CLIP, step))
    return Baseline(log_mean=baseline.log_mean + weight * step, samples=baseline.samples)


def _succeeded(state: BreakerState, call: Call, limits: ProviderLimits, now: float) -> BreakerState:
    if state.phase is Phase.CLOSED:
        return _counted(state, limits, now) if _counts(state, call) else state
    # One that was given up for being late is still a probe: what takes a minute to answer would never be back.
    if not call.probe or call.at < state.since:
        return state
    return replace(
        state,
        phase=Phase.CLOSED,
        since=now,
        change=call.token,
        version=state.version + 1,
        open_until=-math.inf,
        probe="",
        probe_until=-math.inf,
        failures=(),
        slots=(),
        slow=(),
    )


def _failed(state: BreakerState, call: Call, limits: ProviderLimits, now: float) -> BreakerState:
    if call.probe:
        return _opened(state, at=now, token=call.token, limits=limits) if state.probe == call.token else state
    if state.phase is not Phase.CLOSED or not _counts(state, call):
        return state
    kept = max(_needed(limits), len(state.failures))
    latest = (*state.failures, Failure(at=now, token=call.token))[-kept:]
    state = replace(_counted(state, limits, now, failures=1), failures=latest)
    if _enough(latest, limits) and _is_share(state.slots, limits, lambda slot: slot.failures):
        return _opened(state, at=now, token=call.token, limits=limits)
    return state


def _slowed(state: BreakerState, call: Call, limits: ProviderLimits, now: float) -> BreakerState:
    if state.phase is not Phase.CLOSED or not _counts(state, call):
        return state
    needed = _needed(limits)
    streak = (*state.slow, now)[-needed:]
    state = replace(_counted(state, limits, now, slow=1), slow=streak)
    together = len(streak) == needed and streak[-1] - streak[0] < limits.window_s
    if together and _is_share(state.slots, limits, lambda slot: slot.slow):
        return _opened(state, at=now, token=call.token, limits=limits)
    return state


def _counts(state: BreakerState, call: Call) -> bool:
    """Whether an ordinary call belongs to the time since the breaker was closed."""
    return not call.probe and call.at >= state.since


def _opened(state: BreakerState, *, at: float, token: str, limits: ProviderLimits) -> BreakerState:
    return replace(
        state,
        phase=Phase.OPEN,
        since=at,
        change=token,
        version=state.version + 1,
        open_until=at + limits.open_s,
        probe="",
        probe_until=-math.inf,
        failures=(),
        slots=(),
        slow=(),
    )


def _needed(limits: ProviderLimits) -> int:
    return max(1, math.ceil(limits.failures))


def _enough(latest: tuple[Failure, ...], limits: ProviderLimits) -> bool:
    """Whether so many failures as open a breaker are within one window, which ends with the last of them."""
    return len(latest) >= _needed(limits) and latest[-1].at - latest[-_needed(limits)].at < limits.window_s


def _counted(
    state: BreakerState, limits: ProviderLimits, now: float, *, failures: int = 0, slow: int = 0
) -> BreakerState:
    if limits.failure_share == 0:
        return state
    number = math.floor(now * _SLOTS / limits.window_s)
    kept = tuple(slot for slot in state.slots if number - _SLOTS < slot.number < number)
    last = state.slots[-1] if state.slots and state.slots[-1].number == number else None
    last = last or Slot(number=number, calls=0, failures=0)
    counted = replace(last, calls=last.calls + 1, failures=last.failures + failures, slow=last.slow + slow)
    return replace(state, slots=(*kept, counted))


def _is_share(slots: tuple[Slot, ...], limits: ProviderLimits, of: Callable[[Slot], int]) -> bool:
    if limits.failure_share == 0:
        return True
    return sum(of(slot) for slot in slots) >= limits.failure_share * sum(slot.calls for slot in slots)


def _wait_s(wait_s: float | None, limits: ProviderLimits) -> float:
    """How long a provider that asked for it is left alone. What is no time is as if it had not said how long."""
    if wait_s is None or not wait_s >= 0:
        return min(limits.cool_s, limits.cool_at_most_s)
    return min(wait_s, limits.cool_at_most_s)


def _cooled(state: BreakerState, call: Call, seconds: float, now: float) -> BreakerState:
    if now + seconds <= max(now, state.cool_until):
        return state
    return replace(state, cool_until=now + seconds, cooled_by=call.token, cool_reason=Reason.LIMITED)


# -- one state of several processes


def shifted(state: BreakerState, by: float) -> BreakerState:
    """The same state by a clock that is `by` seconds ahead. What is counted for this process alone is left out."""
    return replace(
        state,
        since=state.since + by,
        open_until=state.open_until + by,
        probe_until=state.probe_until + by,
        failures=tuple(Failure(at=failure.at + by, token=failure.token) for failure in state.failures),
        cool_until=state.cool_until + by,
        denied_until=INITIAL.denied_until,
        baseline=INITIAL.baseline,
        slots=(),
        slow=(),
    )


def plausible(state: BreakerState, *, limits: ProviderLimits, now: float) -> BreakerState:
    """The state without what cannot be by these limits and this clock: it may be of another database's, or of other
    settings."""
    since = min(state.since, now)
    open_until = min(state.open_until, since + limits.open_s)
    probe_until = min(state.probe_until, now + limits.probe_s)
    cool_until = min(state.cool_until, now + limits.cool_at_most_s)
    failures = tuple(failure for failure in state.failures if failure.at <= now)
    found = replace(
        state,
        since=since,
        open_until=open_until,
        probe_until=probe_until,
        cool_until=cool_until,
        failures=failures,
    )
    return state if found == state else found


def merged(
    ours: BreakerState, theirs: BreakerState, *, limits: ProviderLimits, now: float, theirs_decide: bool
) -> BreakerState:
    """What is known when both are: the newer version, the longer cooling, and all failures since the last change.

    Of two changes of one version, which were made without knowing of each other, the one that was told first counts:
    `theirs_decide` when they are the store. Failures that together are enough open it, but not where a share of the
    calls matters: each process counts its own calls. What both know stays as `ours` has it, to the last digit. Both in
    one clock.
    """
    state = ours
    if theirs.change != ours.change:
        if theirs.version > ours.version or (theirs_decide and theirs.version == ours.version):
            state = replace(
                ours,
                phase=theirs.phase,
                since=theirs.since,
                change=theirs.change,
                version=theirs.version,
                open_until=theirs.open_until,
                probe=theirs.probe,
                probe_until=theirs.probe_until,
                slots=(),
                slow=(),
            )
    elif theirs.probe != ours.probe and now < theirs.probe_until:
        later = (theirs.probe_until, theirs.probe) > (ours.probe_until, ours.probe)
        if later or not now < ours.probe_until:
            state = replace(ours, phase=Phase.HALF_OPEN, probe=theirs.probe, probe_until=theirs.probe_until)
    longer = (theirs.cool_until, theirs.cooled_by) > (ours.cool_until, ours.cooled_by)
    if theirs.cooled_by != ours.cooled_by and longer:
        state = replace(state, cool_until=theirs.cool_until, cooled_by=theirs.cooled_by, cool_reason=theirs.cool_reason)
    failures = _together(state, ours, theirs, limits)
    if failures != state.failures:
        state = replace(state, failures=failures)
    if limits.failure_share == 0 and _enough(failures, limits) and now - failures[-1].at < limits.window_s:
        return _opened(state, at=failures[-1].at, token=failures[-1].token, limits=limits)
    return state


def _together(
    state: BreakerState, ours: BreakerState, theirs: BreakerState, limits: ProviderLimits
) -> tuple[Failure, ...]:
    if state.phase is not Phase.CLOSED:
        return ()
    known = {failure.token: failure for failure in (() if limits.failure_share else theirs.failures)}
    known |= {failure.token: failure for failure in ours.failures}
    late = [failure for failure in known.values() if failure.at >= state.since]
    # As many as the one of them needs that needs most: else workers with other limits would undo each other's news.
    kept = max(_needed(limits), len(ours.failures), 0 if limits.failure_share else len(theirs.failures))
    return tuple(sorted(late, key=lambda failure: (failure.at, failure.token)))[-kept:]
