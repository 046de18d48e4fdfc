"""Counts what LLM providers did, and publishes it once a minute."""

from __future__ import annotations

import logging
import math
import threading
from collections import Counter, defaultdict, deque
from typing import TYPE_CHECKING

from relight.errors import DeniedError, RelightError
from relight.providers.faults import FaultKind
from relight.recovery.metrics import Tally

if TYPE_CHECKING:
    from collections.abc import Collection
    from datetime import datetime

    from relight.clock import Clock
    from relight.providers.messages import Attempt
    from relight.recovery.metrics import Tallies

_log = logging.getLogger(__name__)

EVERY_S = 60.0
# What cannot be sent is kept for half an hour, and then dropped from its oldest end.
KEPT = 30
# Whoever closes the meter waits so long for what is left to be sent.
CLOSE_S = 5.0

OUTCOMES = frozenset({"answered", "abandoned", *FaultKind})
OTHER = "other"

# Times are rounded to steps of a tenth, so that a minute has few different ones however many calls there were: from
# 1 ms up to 25 minutes they are 150, which is also what CloudWatch takes.
_LEAST_S, _STEP, _STEPS = 0.001, 1.1, 150
_MOST_S = _LEAST_S * _STEP ** (_STEPS - 1)

_Key = tuple[str, str, str]


class Meter:
    """Counts attempts in memory, and publishes them every `every_s` from a thread of its own.

    `ProviderAttempts` and `ProviderSeconds` are of a provider and an outcome, `ProviderFirstEventSeconds`,
    `ProviderInputTokens`, `ProviderOutputTokens` and `ProviderDegraded` (answers that another should have given) of a
    provider. Dimensions are names of `providers` and known outcomes, and everything else is `other`: nothing that a
    request, an answer or an error holds becomes one.

    What could not be sent is sent later; after `kept` times it is dropped, and how much is logged.
    """

    def __init__(
        self,
        sink: Tallies,
        *,
        providers: Collection[str],
        clock: Clock,
        every_s: float = EVERY_S,
        kept: int = KEPT,
    ) -> None:
        self._sink = sink
        self._providers = frozenset(providers)
        self._clock = clock
        self._every_s = every_s
        self._kept = kept
        self._lock = threading.Lock()
        self._counts: dict[_Key, Counter[float]] = defaultdict(Counter)
        self._sums: Counter[_Key] = Counter()
        self._waiting: deque[tuple[datetime, list[Tally]]] = deque()
        self._failing = False
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="provider-meter", daemon=True)
        self._thread.start()

    def attempt(self, attempt: Attempt) -> None:
        """Count one attempt; takes some microseconds and never raises. The router's `on_attempt`."""
        provider = attempt.provider if attempt.provider in self._providers else OTHER
        outcome = attempt.outcome if attempt.outcome in OUTCOMES else OTHER
        usage = attempt.usage
        with self._lock:
            self._counts["ProviderAttempts", provider, outcome][1.0] += 1
            self._counts["ProviderSeconds", provider, outcome][_rounded(attempt.seconds)] += 1
            if attempt.first_event_s is not None:
                self._counts["ProviderFirstEventSeconds", provider, ""][_rounded(attempt.first_event_s)] += 1
            if attempt.outcome == "answered" and attempt.degraded:
                self._counts["ProviderDegraded", provider, ""][1.0] += 1
            for name, tokens in (("ProviderInputTokens", usage.input), ("ProviderOutputTokens", usage.output)):
                if tokens > 0:
                    self._sums[name, provider, ""] += tokens

    def close(self) -> None:
        """Publish what is left, for some seconds at most; safe to call twice."""
        self._stop.set()
        self._thread.join(CLOSE_S)

    def _run(self) -> None:
        while not self._stop.wait(self._every_s):
            self._flush()
        self._flush()

    def _flush(self) -> None:
        if tallies := self._taken():
            self._waiting.append((self._clock.now(), tallies))
        try:
            while self._waiting:
                at, tallies = self._waiting[0]
                self._sink.put_tallies(tallies, at=at)
                self._waiting.popleft()
        except RelightError as exc:
            self._failed(exc, keep=exc.retryable or isinstance(exc, DeniedError))
        except Exception as exc:  # noqa: BLE001 - a thread that dies counts nothing any more, and nobody would know
            self._failed(exc, keep=False)
        else:
            self._failing = False

    def _taken(self) -> list[Tally]:
        with self._lock:
            counts, sums = self._counts, self._sums
            self._counts, self._sums = defaultdict(Counter), Counter()
        return [
            *(_tally(key, dict(found)) for key, found in counts.items()),
            *(_tally(key, {float(total): 1}) for key, total in sums.items()),
        ]

    def _failed(self, exc: Exception, *, keep: bool) -> None:
        dropped = 0
        # What will not be taken now will not be taken later, and would hold up what comes after it.
        while self._waiting and (len(self._waiting) > self._kept or not keep):
            dropped += len(self._waiting.popleft()[1])
            keep = True
        if dropped or not self._failing:
            fields = {"error": f"{type(exc).__name__}: {exc}", "waiting": len(self._waiting), "dropped": dropped}
            _log.warning("provider_metrics_not_published", extra=fields)
        self._failing = True


def _tally(key: _Key, counts: dict[float, int]) -> Tally:
    name, provider, outcome = key
    return Tally(
        name=name, counts=counts, dimensions={"provider": provider} | ({"outcome": outcome} if outcome else {})
    )


def _rounded(seconds: float) -> float:
    """The nearest step; what is no number counts as the least."""
    if not seconds > _LEAST_S:
        return _LEAST_S
    step = round(math.log(min(seconds, _MOST_S) / _LEAST_S, _STEP))
    return float(f"{_LEAST_S * _STEP**step:.4g}")
