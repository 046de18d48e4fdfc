"""The breakers of one process, safe to share between threads and loops, and alike in all workers where they are shared.

A caller waits for nothing but the board's lock, which is held for microseconds: what concerns the other workers is
done by a thread of the board's own. Only a call that would be the probe had better wait until it has been claimed.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
import math
import secrets
import threading
from dataclasses import replace
from typing import TYPE_CHECKING

from relight.errors import ConfigError, RelightError
from relight.providers.breaker import (
    INITIAL,
    BreakerState,
    Call,
    Failed,
    Phase,
    Reason,
    Shut,
    admit,
    given_back,
    merged,
    plausible,
    probed,
    settle,
    shifted,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from relight.clock import Clock
    from relight.providers.breaker import Outcome
    from relight.providers.shared import Seen, SharedBreakers
    from relight.providers.spec import ProviderLimits

__all__ = ["Board", "Permit", "Shut"]

_log = logging.getLogger(__name__)

# How often the other workers' breakers are looked at.
LOOK_S = 1.0
# What was last seen so long ago is not known: the process decides for itself then.
FRESH_S = 5.0
# How long a new board waits for what the others know before it answers for the first time.
START_S = 2.0
# A probe is claimed where somebody asked for it so lately, and given up when nobody comes for it: others may be asked.
ASKED_S = 5.0
CLAIM_S = 2.0
# The others respect a claim for longer, by so much: time to tell them that the probe was sent.
TELL_S = 3.0
# A caller that would be the probe comes again after this, and again, until it is known whether this process may probe:
# a claim takes some milliseconds, and what takes longer than `DECIDED_S` is as good as away.
CLAIMED_S = 0.02
DECIDED_S = 2.5
_CLOSE_S = 1.0


class Permit:
    """A call that may go to the provider `key`, as its breaker's probe or as one of many. Settle it, once it ended."""

    __slots__ = ("_settled", "call", "key")

    def __init__(self, key: str, call: Call) -> None:
        self.key = key
        self.call = call
        self._settled = False

    def __repr__(self) -> str:
        return f"Permit(key={self.key!r}, probe={self.probe})"

    @property
    def probe(self) -> bool:
        """Whether the breaker closes by this call's success."""
        return self.call.probe

    def end(self) -> bool:
        """Whether this is the first time; under the board's lock."""
        first, self._settled = not self._settled, True
        return first


class Board:
    """One breaker for each of `keys`.

    With `shared`, failures and openings of all workers count, a new board starts with what the others know, and of all
    workers one alone sends a breaker's probe, while the store answers; while it does not, each decides for itself.
    Without it, no thread is started.
    """

    def __init__(
        self, keys: Sequence[str], *, limits: ProviderLimits, clock: Clock, shared: SharedBreakers | None = None
    ) -> None:
        self._limits = limits
        self._clock = clock
        self._shared = shared
        self._lock = threading.Lock()
        self._states = dict.fromkeys(keys, INITIAL)
        self._name = secrets.token_hex(6)
        self._numbers = itertools.count()
        self._hooks: list[Callable[[str], None]] = []
        # -- with others only
        self._fresh_until = -math.inf
        self._asked: dict[str, float] = {}
        self._claims: dict[str, _Claim] = {}
        self._returned: dict[str, set[str]] = {key: set() for key in keys}
        self._standing = ""
        self._closed = False
        self._wake = threading.Event()
        self._looked = threading.Event()
        self._thread: threading.Thread | None = None
        if shared is not None:
            self._thread = threading.Thread(target=self._run, args=[shared], name="relight-breakers", daemon=True)
            self._thread.start()
            self._looked.wait(START_S)

    def admit(self, key: str) -> Permit | Shut:
        """Whether a call may go to this provider now. Each permit is to be settled; ConfigError for an unknown key."""
        with self._lock:
            state = self._state(key)
            now = self._clock.monotonic()
            claim = self._claims.get(key)
            if claim is not None and not self._is_left(key, now) and not state.is_cooling(now):
                return self._as_claimed(key, claim, now)
            after, entry = admit(state, token=self._new_token(), limits=self._limits, now=now)
            if now < self._fresh_until and state.phase is not Phase.CLOSED:
                return self._with_others(key, entry, now)
            self._states[key] = after
            return entry if isinstance(entry, Shut) else Permit(key, entry)

    async def admitted(self, key: str, *, within_s: float = DECIDED_S) -> Permit | Shut:
        """The same for a coroutine, which waits until it is known whether this process may probe, if that is all that
        is lacking: some milliseconds mostly, and `within_s` at most."""
        loop = asyncio.get_running_loop()
        until = loop.time() + min(within_s, DECIDED_S)
        while True:
            entry = self.admit(key)
            if isinstance(entry, Permit) or entry.reason is not Reason.CLAIMING or loop.time() >= until:
                return entry
            await asyncio.sleep(entry.wait_s)

    def settle(self, permit: Permit, outcome: Outcome) -> None:
        """Say how the call ended; a second time does nothing."""
        key = permit.key
        with self._lock:
            if not permit.end():
                return
            now = self._clock.monotonic()
            before = self._states[key]
            after = settle(before, permit.call, outcome, limits=self._limits, now=now)
            self._states[key] = after
            if self._shared is not None:
                if permit.probe and before.probe == permit.call.token and after.change == before.change:
                    self._returned[key].add(permit.call.token)
                if _told(before, self._limits) != _told(after, self._limits):
                    self._wake.set()
        reason = outcome.reason if isinstance(outcome, Failed) else "slow"
        self._tell_changed(key, before, after, reason=reason)

    def state(self, key: str) -> BreakerState:
        """Where this breaker stands, as this process knows it. ConfigError for an unknown key."""
        with self._lock:
            return self._state(key)

    def on_close(self, hook: Callable[[str], None]) -> None:
        """Have `hook` called with the key whenever a breaker closes, on a thread of its own."""
        self._hooks.append(hook)

    def close(self) -> None:
        """Tell the others what they do not know yet, and end the thread; safe to call twice. What is still on its way
        may be settled afterwards."""
        self._closed = True
        self._wake.set()
        if self._thread is not None:
            self._thread.join(_CLOSE_S)

    # -- under the lock

    def _state(self, key: str) -> BreakerState:
        try:
            return self._states[key]
        except KeyError:
            raise ConfigError(
                f"there is no provider {key!r}", hint=f"choose from {', '.join(sorted(self._states))}"
            ) from None

    def _new_token(self) -> str:
        return f"{self._name}-{next(self._numbers)}"

    def _as_claimed(self, key: str, claim: _Claim, now: float) -> Permit:
        """The probe that was claimed. It has a token of its own, by which the others hear that it was sent."""
        del self._claims[key]
        self._asked.pop(key, None)
        self._returned[key].add(claim.token)
        self._states[key], call = probed(self._states[key], token=self._new_token(), limits=self._limits, now=now)
        self._wake.set()
        return Permit(key, call)

    def _with_others(self, key: str, entry: Call | Shut, now: float) -> Shut:
        """The breaker is open or half-open, and only who has claimed it may be the probe."""
        self._asked[key] = now
        if isinstance(entry, Shut):
            return entry
        self._wake.set()
        return Shut(CLAIMED_S, Reason.CLAIMING)

    # -- logs and hooks

    def _tell_changed(self, key: str, before: BreakerState, after: BreakerState, *, reason: str) -> None:
        if (before.phase is Phase.CLOSED) is (after.phase is Phase.CLOSED):
            return
        if after.phase is not Phase.CLOSED:
            _log.warning("llm_breaker_opened", extra={"provider": key, "reason": reason})
            return
        _log.info("llm_breaker_closed", extra={"provider": key})
        if self._hooks:
            thread = threading.Thread(target=self._call_hooks, args=[key], name="relight-breaker-closed", daemon=True)
            try:
                thread.start()
            except RuntimeError:
                # No thread can be started: the process ends, or has too many. The answer that closed it is still one.
                _log.exception("llm_breaker_hook_failed")

    def _call_hooks(self, key: str) -> None:
        for hook in list(self._hooks):
            try:
                hook(key)
            except Exception:  # noqa: BLE001 - the hook is a caller's, and the others are to be called too
                _log.exception("llm_breaker_hook_failed")

    # -- the thread

    def _run(self, shared: SharedBreakers) -> None:
        while not self._closed:
            self._round(shared)
            self._looked.set()
            self._wake.wait(self._until_next_s())
        if self._standing == "shared":
            self._round(shared)
        with self._lock:
            self._fresh_until = -math.inf

    def _round(self, shared: SharedBreakers) -> None:
        self._wake.clear()
        try:
            seen = shared.read()
            news = self._absorb(seen)
            for key in news if seen.writable else []:
                self._exchange(shared, key)
        except RelightError as exc:
            self._stand("away", error=str(exc))
        except Exception:  # noqa: BLE001 - without its thread the board would go on alone, and nobody would know
            _log.exception("llm_breakers_failed")
            self._stand("failed")
        else:
            self._stand("shared" if seen.writable else "read_only")

    def _until_next_s(self) -> float:
        """Until the next look, which is sooner when a breaker for which somebody asks may be probed."""
        with self._lock:
            now = self._clock.monotonic()
            due = [self._states[key].open_until - now for key in self._asked]
        return min([LOOK_S, *(wait for wait in due if wait > 0)])

    def _stand(self, standing: str, *, error: str = "") -> None:
        """How it stands with the others; said once, when it changes."""
        with self._lock:
            self._fresh_until = self._clock.monotonic() + FRESH_S if standing == "shared" else -math.inf
        if standing == self._standing:
            return
        quiet = standing == "shared" and not self._standing
        self._standing = standing
        level = logging.WARNING if standing in ("away", "failed") else logging.DEBUG if quiet else logging.INFO
        _log.log(level, "llm_breakers", extra={"standing": standing, "error": error})

    def _absorb(self, seen: Seen[BreakerState]) -> list[str]:
        """Take over what the others know, and find out of which breakers they do not know everything."""
        news = []
        ahead = seen.now - self._clock.monotonic()
        for key in self._states:
            there = seen.states.get(key, INITIAL)
            theirs = plausible(there, limits=self._limits, now=seen.now)
            self._take_over(key, theirs, ahead)
            with self._lock:
                # What the others do not wait for need not be told them.
                self._returned[key] &= {there.probe}
                together = self._as_told(key, theirs, now=seen.now, ahead=ahead)
                now = self._clock.monotonic()
                if together != there or self._claims_now(key, now) or self._is_left(key, now):
                    news.append(key)
        return news

    def _exchange(self, shared: SharedBreakers, key: str) -> None:
        """Tell the others what is new here, hear what is new there, and claim the probe where it is wanted."""
        token = self._new_token()
        claimed, here, ahead, returned = False, 0.0, 0.0, set[str]()

        def change(there: BreakerState, now: float) -> BreakerState:
            nonlocal claimed, here, ahead, returned
            here = self._clock.monotonic()
            ahead = now - here
            theirs = plausible(there, limits=self._limits, now=now)
            with self._lock:
                if self._is_left(key, here):
                    # Nobody came for it: it is another's turn, until somebody here asks again.
                    left = self._claims.pop(key).token
                    self._asked.pop(key, None)
                    self._returned[key].add(left)
                    self._states[key] = given_back(self._states[key], left)
                returned = set(self._returned[key])
                together = self._as_told(key, theirs, now=now, ahead=ahead)
                wants = self._wants(key, here)
            if wants and together.phase is not Phase.CLOSED:
                together, entry = admit(together, token=token, limits=self._limits, now=now)
                if claimed := isinstance(entry, Call):
                    # Whoever claims and dies keeps the others from it for seconds, not for as long as a probe may take.
                    together = replace(together, probe_until=now + CLAIM_S + TELL_S)
            return together

        after = shared.update(key, change)
        with self._lock:
            self._returned[key] -= returned
            if claimed:
                # Before the state says that it is being probed: who waits for the claim is not told to go away.
                self._claims[key] = _Claim(token, here + CLAIM_S)
        self._take_over(key, after, ahead)

    def _take_over(self, key: str, theirs: BreakerState, ahead: float) -> None:
        with self._lock:
            before = self._states[key]
            theirs = shifted(_without(theirs, self._returned[key]), -ahead)
            ours = before if theirs.probe == before.probe else self._own(before)
            now = self._clock.monotonic()
            after = merged(ours, theirs, limits=self._limits, now=now, theirs_decide=True)
            self._states[key] = after
            if after.phase is Phase.CLOSED:
                self._asked.pop(key, None)
        self._tell_changed(key, before, after, reason="shared")

    # -- the same, under the lock

    def _as_told(self, key: str, theirs: BreakerState, *, now: float, ahead: float) -> BreakerState:
        """What the others would know if they were told all that is known here."""
        ours = shifted(self._own(self._states[key]), ahead)
        known = _without(theirs, self._returned[key])
        return merged(known, ours, limits=self._limits, now=now, theirs_decide=False)

    def _own(self, state: BreakerState) -> BreakerState:
        """The state without another worker's probe: of that, the store alone says whether it is still on its way."""
        return state if state.probe.startswith(f"{self._name}-") else given_back(state, state.probe)

    def _wants(self, key: str, now: float) -> bool:
        """Whether somebody here asked lately, and nothing is claimed for him yet."""
        if self._closed or key in self._claims or self._states[key].is_denied(now):
            return False
        return now - self._asked.get(key, -math.inf) < ASKED_S

    def _claims_now(self, key: str, now: float) -> bool:
        """Whether somebody here would be the probe, if this process may have it."""
        state = self._states[key]
        if state.phase is Phase.CLOSED or not self._wants(key, now):
            return False
        return isinstance(admit(state, token=self._name, limits=self._limits, now=now)[1], Call)

    def _is_left(self, key: str, now: float) -> bool:
        """Whether there is a claim for which nobody came in time, or which is of no use any more."""
        claim = self._claims.get(key)
        return claim is not None and (now >= claim.until or claim.token != self._states[key].probe or self._closed)


class _Claim:
    """A probe that this process may send, and until when somebody must have come for it."""

    __slots__ = ("token", "until")

    def __init__(self, token: str, until: float) -> None:
        self.token = token
        self.until = until


def _without(state: BreakerState, returned: set[str]) -> BreakerState:
    """The state without a probe that has come to nothing."""
    return given_back(state, state.probe) if state.probe in returned else state


def _told(state: BreakerState, limits: ProviderLimits) -> tuple[object, ...]:
    """What of a state concerns the others."""
    return state.change, state.probe, () if limits.failure_share else state.failures, state.cooled_by
