"""What LLM providers did is counted without holding anybody up, and published once a minute."""

from __future__ import annotations

import threading
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relight.clock import SystemClock
from relight.errors import DeniedError, PermanentError, UnavailableError
from relight.providers.faults import FaultKind
from relight.providers.messages import Attempt, Usage
from relight.providers.meter import OTHER, OUTCOMES, Meter, _rounded
from relight.recovery.metrics import CloudWatchMetrics, Tally

if TYPE_CHECKING:
    from collections.abc import Sequence

ANSWERED = Attempt(
    provider="anthropic",
    model="m",
    outcome="answered",
    seconds=2.0,
    first_event_s=0.5,
    usage=Usage(input=100, output=10),
)
AT = datetime(2026, 4, 19, 2, 0, tzinfo=UTC)


class Frozen(SystemClock):
    """A clock that shows one moment."""

    def now(self) -> datetime:
        return AT


@dataclass
class Sink:
    """Takes tallies, unless it is told to fail; lets a test wait for the next try."""

    error: Exception | None = None
    got: list[tuple[datetime, list[Tally]]] = field(default_factory=list)
    tried: threading.Semaphore = field(default_factory=lambda: threading.Semaphore(0))

    def put_tallies(self, tallies: Sequence[Tally], *, at: datetime) -> None:
        try:
            if self.error is not None:
                raise self.error
            self.got.append((at, list(tallies)))
        finally:
            self.tried.release()

    def sums(self) -> dict[tuple[str, ...], float]:
        """What CloudWatch would show as the sum of each."""
        found: dict[tuple[str, ...], float] = {}
        for _, tallies in self.got:
            for tally in tallies:
                key = (tally.name, *tally.dimensions.values())
                found[key] = found.get(key, 0) + sum(value * count for value, count in tally.counts.items())
        return found


def meter(sink: Sink, **options: Any) -> Meter:
    return Meter(sink, providers=["anthropic", "openai"], clock=Frozen(), **options)


def test_attempts_are_counted_by_provider_and_outcome() -> None:
    """With their times, their tokens, and whether another should have answered; what is left is sent at the end."""
    counting = meter(sink := Sink())
    counting.attempt(ANSWERED)
    counting.attempt(ANSWERED)
    counting.attempt(replace(ANSWERED, outcome=FaultKind.SILENCE.value, first_event_s=None, usage=Usage()))
    counting.attempt(replace(ANSWERED, provider="openai", degraded=True))
    assert sink.got == []
    counting.close()
    counting.close()
    [(at, _)] = sink.got
    assert at == AT
    sums = sink.sums()
    assert sums["ProviderAttempts", "anthropic", "answered"] == 2
    assert sums["ProviderAttempts", "anthropic", "silence"] == 1
    assert sums["ProviderAttempts", "openai", "answered"] == 1
    assert sums["ProviderSeconds", "anthropic", "answered"] == pytest.approx(4, rel=0.05)
    assert sums["ProviderFirstEventSeconds", "anthropic"] == pytest.approx(1, rel=0.05)
    assert sums["ProviderInputTokens", "anthropic"] == 200
    assert sums["ProviderOutputTokens", "openai"] == 10
    assert {key[1] for key in sums if key[0] == "ProviderDegraded"} == {"openai"}


def test_it_publishes_by_itself() -> None:
    """Nobody has to close it for what was counted to be seen."""
    counting = meter(sink := Sink(), every_s=0.01)
    counting.attempt(ANSWERED)
    assert sink.tried.acquire(timeout=30)
    counting.close()
    assert sink.sums()["ProviderAttempts", "anthropic", "answered"] == 1


@given(st.lists(st.builds(replace, st.just(ANSWERED), provider=st.text(), outcome=st.text(), detail=st.text())))
def test_no_dimension_is_what_somebody_else_wrote(attempts: list[Attempt]) -> None:
    """Whatever a provider, a request or a key is called, names and dimensions are from lists that are known."""
    counting = meter(sink := Sink())
    secret = replace(ANSWERED, provider="sk-hunter2", outcome="sk-hunter2", detail="sk-hunter2", model="sk-hunter2")
    for attempt in (secret, *attempts):
        counting.attempt(attempt)
    counting.close()
    for name, provider, *outcome in sink.sums():
        assert name.startswith("Provider")
        assert provider in {"anthropic", "openai", OTHER}
        assert {*outcome} <= {*OUTCOMES, OTHER}


def test_what_could_not_be_sent_is_sent_later(caplog: pytest.LogCaptureFixture) -> None:
    """fails when CloudWatch is away: it is said once, nothing is lost, and each minute keeps its time."""
    counting = meter(sink := Sink(error=UnavailableError("away")), every_s=0.01)
    counting.attempt(ANSWERED)
    for _ in range(3):
        assert sink.tried.acquire(timeout=30)
    counting.attempt(ANSWERED)
    for _ in range(3):
        assert sink.tried.acquire(timeout=30)
    assert [record.message for record in caplog.records] == ["provider_metrics_not_published"]
    sink.error = None
    counting.close()
    assert sink.sums()["ProviderAttempts", "anthropic", "answered"] == 2
    assert len(sink.got) == 2


def test_what_cannot_be_sent_for_long_is_dropped_with_its_count(caplog: pytest.LogCaptureFixture) -> None:
    """fails when CloudWatch is away for longer than is kept: the oldest go, how many is logged, and memory stays."""
    counting = meter(sink := Sink(error=DeniedError("no")), every_s=0.001, kept=2)
    for _ in range(5):
        while sink.tried.acquire(blocking=False):
            pass
        counting.attempt(ANSWERED)
        assert sink.tried.acquire(timeout=30)
        assert sink.tried.acquire(timeout=30)
    sink.error = None
    counting.close()
    assert len(sink.got) == 2
    dropped = sum(record.__dict__["dropped"] for record in caplog.records)
    assert dropped == 3 * len(sink.got[0][1])


@pytest.mark.parametrize("error", [PermanentError("invalid"), ValueError("a mistake")])
def test_what_will_never_be_taken_holds_nothing_up(error: Exception, caplog: pytest.LogCaptureFixture) -> None:
    """fails when CloudWatch refuses it for what it is: it is dropped, and what comes after it is sent."""
    counting = meter(sink := Sink(error=error), every_s=0.01)
    counting.attempt(ANSWERED)
    assert sink.tried.acquire(timeout=30)
    sink.error = None
    counting.attempt(replace(ANSWERED, provider="openai"))
    counting.close()
    assert {key[1] for key in sink.sums()} == {"openai"}
    [record] = caplog.records
    assert record.__dict__["dropped"] > 0


def test_a_sink_that_hangs_holds_no_attempt_up() -> None:
    """fails when CloudWatch hangs: attempts are counted meanwhile."""
    begun, release = threading.Event(), threading.Event()

    class Hanging(Sink):
        def put_tallies(self, tallies: Sequence[Tally], *, at: datetime) -> None:
            begun.set()
            release.wait(30)
            super().put_tallies(tallies, at=at)

    counting = meter(sink := Hanging(), every_s=0.01)
    counting.attempt(ANSWERED)
    assert begun.wait(30)
    for _ in range(1000):
        counting.attempt(ANSWERED)
    release.set()
    counting.close()
    assert sink.sums()["ProviderAttempts", "anthropic", "answered"] == 1001


@given(st.floats())
def test_times_are_few_and_near(seconds: float) -> None:
    """Within a twentieth of what was measured; there are no more than CloudWatch takes at once."""
    found = _rounded(seconds)
    if 0.001 < seconds < 1400:
        assert found == pytest.approx(seconds, rel=0.05)
    assert found in STEPS


STEPS = {_rounded(0.001 * 1.1**step) for step in range(400)}


def test_there_are_no_more_different_times_than_cloudwatch_takes() -> None:
    """A tally has 150 values at most."""
    assert len(STEPS) == 150


def test_cloudwatch_gets_values_with_counts() -> None:
    """One datum a tally with its moment, the environment, the region and the tally's own dimensions; 50 a call."""
    calls: list[dict[str, Any]] = []

    class Client:
        def put_metric_data(self, **call: Any) -> None:
            calls.append(call)

    tally = Tally(name="ProviderSeconds", counts={0.5: 3, 1.0: 1}, dimensions={"provider": "a", "outcome": "answered"})
    CloudWatchMetrics(Client(), environment="e", region="r").put_tallies([tally] * 51, at=AT)
    assert [len(call["MetricData"]) for call in calls] == [50, 1]
    assert calls[1] == {
        "Namespace": "Relight",
        "MetricData": [
            {
                "MetricName": "ProviderSeconds",
                "Values": [0.5, 1.0],
                "Counts": [3.0, 1.0],
                "Unit": "Seconds",
                "Timestamp": AT,
                "Dimensions": [
                    {"Name": "environment", "Value": "e"},
                    {"Name": "region", "Value": "r"},
                    {"Name": "provider", "Value": "a"},
                    {"Name": "outcome", "Value": "answered"},
                ],
            }
        ],
    }
