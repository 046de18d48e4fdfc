"""Incidents: a person is told when a fallback has answered for long, and when a provider refuses its key."""

from __future__ import annotations

import logging
import math
import secrets
import threading
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import TYPE_CHECKING

from relight.clock import SystemClock
from relight.errors import RelightError
from relight.providers.episodes import (
    FALLBACK_KEY,
    Kind,
    degraded,
    denied,
    denied_key,
    is_free,
    shifted,
    to_tell,
    together,
    told,
    well,
)

if TYPE_CHECKING:
    from collections.abc import Callable
    from datetime import datetime

    from relight.clock import Clock
    from relight.providers.episodes import Episode
    from relight.providers.shared import SharedEpisodes
    from relight.providers.spec import ProviderLimits

__all__ = ["Incident", "Incidents", "Kind"]

_log = logging.getLogger(__name__)

# How often what goes on is said again, at most.
AGAIN_S = 30.0
# How often all workers look for what another has left untold, and for how long one may take to tell it.
LOOK_S = 30.0
CLAIM_S = 120.0
# When telling fails it is tried again, later and later.
_RETRY_S, _RETRY_AT_MOST_S = 1.0, 60.0
_CLOSE_S = 2.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Incident:
    """What a person is to be told; `provider` is the fallback that answers, the provider that refuses, or the one that
    answers again, and `since` is when it began. `ended` are the kinds of what is over."""

    kind: Kind
    provider: str
    since: datetime
    text: str
    ended: tuple[Kind, ...] = ()


class Incidents:
    """Raises one incident when a fallback has answered for `incident_after_s` without the first provider in between,
    one when a provider refuses its key, and one when that is over; with `shared`, one for all workers.

    `raise_` is called on a thread that starts when it is first needed. When it raises, it is called again until it does
    not; an incident may reach a person twice, when a worker dies at that moment, and is never dropped. While the
    shared store is away, each process raises its own.
    """

    def __init__(
        self,
        raise_: Callable[[Incident], None],
        *,
        limits: ProviderLimits,
        clock: Clock | None = None,
        shared: SharedEpisodes | None = None,
    ) -> None:
        self._raise = raise_
        self._after_s = limits.incident_after_s
        self._again_s = min(AGAIN_S, self._after_s / 20)
        # A worker whose key is refused says so again within this, if it is alive.
        self._quiet_s = 2 * max(limits.denied_s, self._again_s)
        self._clock = clock or SystemClock()
        self._shared = shared
        self._token = secrets.token_hex(6)
        self._lock = threading.Lock()
        self._news: dict[str, _News] = {}
        # What was last said of each episode, and when what goes on is to be said again.
        self._bad: dict[str, bool] = {}
        self._say_at: dict[str, float] = {}
        self._wake = threading.Event()
        self._thread: threading.Thread | None = None
        self._closed = False
        # -- the thread's own
        self._episodes: dict[str, Episode] = {}
        self._alone: dict[str, str] = {}
        self._away = False
        self._failures = 0

    def answered(self, provider: str, degraded: bool | None) -> None:
        """A provider has answered; `degraded` tells that it was not the first choice, and None that it says nothing of
        how the first one is."""
        with self._lock:
            now = self._clock.monotonic()
            if degraded:
                self._say_bad(FALLBACK_KEY, provider, "", now)
            elif degraded is False:
                self._say_well(FALLBACK_KEY, provider)
            self._say_well(denied_key(provider), provider)

    def denied(self, provider: str, detail: str) -> None:
        """A provider does not take its key, or the account has no right to it."""
        with self._lock:
            self._say_bad(denied_key(provider), provider, detail, self._clock.monotonic())

    def close(self) -> None:
        """Try once more to raise what is due, and end the thread; what stays untold is logged. Safe to call twice."""
        self._closed = True
        self._wake.set()
        if self._thread is not None:
            self._thread.join(_CLOSE_S)

    # -- under the lock

    def _say_bad(self, key: str, provider: str, detail: str, now: float) -> None:
        if self._bad.get(key) and now < self._say_at[key]:
            return
        self._bad[key] = True
        self._say_at[key] = now + self._again_s
        news = self._news.setdefault(key, _News(provider))
        news.provider, news.detail, news.last = provider, detail, now
        if news.began is None:
            news.began = now
        self._wake_thread()

    def _say_well(self, key: str, provider: str) -> None:
        bad = self._bad.get(key)
        # A process that was just started may be the one that hears the end of what others have begun.
        if bad is False or (bad is None and self._shared is None):
            return
        self._bad[key] = False
        # Another worker may have another key: its answer does not say that the one that was refused is taken now.
        quiet_s = 0.0 if bad or key == FALLBACK_KEY else self._quiet_s
        self._news[key] = _News(provider, well=True, quiet_s=quiet_s)
        self._wake_thread()

    def _wake_thread(self) -> None:
        if self._thread is None and not self._closed:
            thread = threading.Thread(target=self._run, name="relight-incidents", daemon=True)
            try:
                thread.start()
            except RuntimeError:
                # No thread can be started: the process ends, or has too many. The answer is still one, and what comes
                # next tries again.
                _log.exception("llm_incidents_failed")
            else:
                self._thread = thread
        self._wake.set()

    # -- the thread

    def _run(self) -> None:
        while True:
            self._wake.wait(self._until_next_s())
            self._wake.clear()
            last = self._closed
            try:
                self._round()
            except Exception:  # noqa: BLE001 - without its thread nothing would be raised any more
                _log.exception("llm_incidents_failed")
            if last:
                break
        for episode in self._episodes.values():
            if to_tell(episode) is not None and is_free(episode, token=self._token, now=self._clock.monotonic()):
                _log.error("llm_incident_not_raised", extra={"incident": str(self._incident([episode]))})

    def _until_next_s(self) -> float | None:
        if self._failures:
            return min(_RETRY_S * 2.0 ** min(self._failures - 1, 10), _RETRY_AT_MOST_S)
        return LOOK_S if self._shared is not None else None

    def _round(self) -> None:
        with self._lock:
            news, self._news = self._news, {}
        for key, item in news.items():
            change = item.applied(key, here=self._clock.monotonic(), after_s=self._after_s)
            try:
                self._update(key, change, provider=item.provider)
            except Exception:  # noqa: BLE001 - whatever one episode's is, the others' news are not lost by it
                _log.exception("llm_incidents_failed")
        self._look()
        failed = [keys for (kind, _), keys in self._due().items() if not self._tell(kind, keys)]
        self._failures = self._failures + 1 if failed else 0

    def _due(self) -> dict[tuple[Kind, str], list[str]]:
        """What is to be told: each by itself, but in one what the same provider's answer has ended."""
        found: dict[tuple[Kind, str], list[str]] = {}
        for key, episode in self._episodes.items():
            kind = to_tell(episode)
            if kind is not None and is_free(episode, token=self._token, now=self._clock.monotonic()):
                found.setdefault((kind, episode.back if kind is Kind.RECOVERED else key), []).append(key)
        return found

    def _tell(self, kind: Kind, keys: list[str]) -> bool:
        """Whether it has been told, by this process or by another."""
        mine = [key for key in keys if self._claim(key, kind)]
        if not mine:
            return True
        incident = self._incident([self._episodes[key] for key in mine])
        try:
            self._raise(incident)
        except Exception as exc:  # noqa: BLE001 - the caller's, and whatever it was, the person has not been told
            _log.warning("llm_incident_not_raised", extra={"incident": str(incident), "error": str(exc)})
            for key in mine:
                self._update(key, _release)
            return False
        for key in mine:
            self._update(key, lambda episode, _: told(episode, kind=kind))
        if kind is not Kind.RECOVERED:
            # It may have ended while it was told.
            self._wake.set()
        return True

    def _claim(self, key: str, kind: Kind) -> bool:
        mine = False

        def change(episode: Episode | None, now: float) -> Episode | None:
            nonlocal mine
            mine = episode is not None and to_tell(episode) is kind and is_free(episode, token=self._token, now=now)
            return _claimed(episode, self._token, now + CLAIM_S) if mine else episode

        self._update(key, change)
        return mine

    def _incident(self, episodes: list[Episode]) -> Incident:
        first = min(episodes, key=lambda episode: episode.since)
        lasted_s = max(0.0, self._clock.monotonic() - first.since)
        lasted = f"{lasted_s / 60:.0f} min" if lasted_s >= 60 else f"{lasted_s:.0f} s"
        kind = to_tell(first) or first.kind
        if kind is Kind.FALLBACK:
            text = f"LLM answers come from the fallback {first.provider}, for {lasted} now; see the runbook, scenario 3"
        elif kind is Kind.DENIED:
            text = f"LLM provider {first.provider} refuses its key or account ({first.detail}); look at both"
        else:
            text = f"LLM provider {first.back} answers again, after {lasted}"
        return Incident(
            kind=kind,
            provider=first.back if kind is Kind.RECOVERED else first.provider,
            since=self._clock.now() - timedelta(seconds=lasted_s),
            text=text,
            ended=tuple(sorted({item.kind for item in episodes})) if kind is Kind.RECOVERED else (),
        )

    # -- the store

    def _update(
        self, key: str, change: Callable[[Episode | None, float], Episode | None], *, provider: str = ""
    ) -> None:
        """Change an episode in the store, or here alone while the store is away."""
        if self._shared is not None:
            ahead = 0.0

            def shared(theirs: Episode | None, now: float) -> Episode | None:
                nonlocal ahead
                ahead = now - self._clock.monotonic()
                return change(self._caught_up(key, theirs, ahead), now)

            try:
                after = self._shared.update(key, shared)
            except RelightError as exc:
                self._stand(away=True, error=str(exc))
                self._alone[key] = provider or self._alone.get(key, "")
            else:
                self._stand(away=False)
                self._alone.pop(key, None)
                self._keep(key, after and shifted(after, -ahead))
                return
        self._keep(key, change(self._episodes.get(key), self._clock.monotonic()))

    def _caught_up(self, key: str, theirs: Episode | None, ahead: float) -> Episode | None:
        """What the store has, with what happened here while it was away."""
        if key not in self._alone:
            return theirs
        ours = self._episodes.get(key)
        if ours is None:
            return well(theirs, provider=self._alone[key])
        return together(theirs, shifted(ours, ahead))

    def _look(self) -> None:
        """See what the others know, and tell them what happened while the store was away."""
        if self._shared is None:
            return
        try:
            seen = self._shared.read()
        except RelightError as exc:
            self._stand(away=True, error=str(exc))
            return
        if not seen.writable:
            return
        ahead = seen.now - self._clock.monotonic()
        for key in list(self._alone):
            self._update(key, lambda episode, _: episode)
        for key in (self._episodes.keys() | seen.states.keys()) - self._alone.keys():
            theirs = seen.states.get(key)
            self._keep(key, theirs and shifted(theirs, -ahead))
        with self._lock:
            for key, theirs in seen.states.items():
                # What was well here is not, elsewhere: who began it may have died, and the next answer here ends it.
                if not theirs.back and self._bad.get(key) is False:
                    del self._bad[key]

    def _keep(self, key: str, episode: Episode | None) -> None:
        if episode is None:
            self._episodes.pop(key, None)
        else:
            self._episodes[key] = episode

    def _stand(self, *, away: bool, error: str = "") -> None:
        if away is not self._away:
            self._away = away
            level = logging.WARNING if away else logging.INFO
            _log.log(level, "llm_incidents", extra={"shared": not away, "error": error})


class _News:
    """What callers have said of one episode since the thread last looked: an end, a beginning, or both in order.

    The end is one only if nobody has seen the episode go on for `quiet_s`.
    """

    __slots__ = ("began", "detail", "last", "provider", "quiet_s", "well")

    def __init__(self, provider: str, *, well: bool = False, quiet_s: float = 0.0) -> None:
        self.provider = provider
        self.quiet_s = quiet_s
        self.detail = ""
        self.well = well
        self.began: float | None = None
        self.last = -math.inf

    def applied(self, key: str, *, here: float, after_s: float) -> Callable[[Episode | None, float], Episode | None]:
        """The change that it means, by whatever clock; `here` is the time now by this process's."""

        def change(episode: Episode | None, now: float) -> Episode | None:
            if self.well and episode is not None and now - episode.last >= self.quiet_s:
                episode = well(episode, provider=self.provider)
            if self.began is None:
                return episode
            began, last = now - (here - self.began), now - (here - self.last)
            if key == FALLBACK_KEY:
                return degraded(episode, provider=self.provider, began=began, at=last, after_s=after_s)
            return denied(episode, provider=self.provider, detail=self.detail, at=last)

        return change


def _claimed(episode: Episode | None, token: str, until: float) -> Episode | None:
    return episode and replace(episode, claim=token, claim_until=until)


def _release(episode: Episode | None, _: float) -> Episode | None:
    return _claimed(episode, "", -math.inf)
