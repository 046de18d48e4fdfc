"""Numbers for whoever watches: a small port, and CloudWatch behind it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

from relight.adapters import aws

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from datetime import datetime

    from relight.memory.apply import Lag
    from relight.tasks.confirm import Confirmations, Promise

NAMESPACE = "Relight"

# What dashboards and alarms are on. Beside environment and region, the first of a pair is told apart by the second.
GATE_OPEN = "GateOpen"
SERVED = "Served"
EPOCH = "Epoch"
LEASE_EPOCH = "LeaseEpoch"
LEASE_HELD = "LeaseHeld"
REPLICATION_LAG = "ReplicationLagSeconds"
EXPOSURE = "ExposureSeconds"
SURFACE = "surface"
COLLECTION = "collection"
POINT_AGE = "PointAgeSeconds"
# How old the oldest point is that nobody has read here, and how many are known to be damaged.
VERIFY_LAG = "VerifyLagSeconds"
DAMAGED = "DamagedPoints"
BREAKER_OPEN = "ProviderBreakerOpen"
PROVIDER = "provider"
PROVIDERS_AVAILABLE = "ProvidersAvailable"
LOOKS_FAILED = "LooksFailed"
JOURNAL_LAG = "JournalLagSeconds"
PROMISE_BROKEN = "PromiseBrokenSeconds"

# CloudWatch takes 1 MB a call, and a tally of the most values takes some 15 KB.
_AT_ONCE = 50


def dimension(value: str) -> str:
    """A dimension's value as CloudWatch takes it, which is ASCII."""
    return value.encode("ascii", "backslashreplace").decode()


class Metrics(Protocol):
    """Takes numbers."""

    def put(self, values: Mapping[str, float], *, collection: str = "") -> None:
        """Record `values` by name, as of now, of a collection where one is named; UnavailableError or DeniedError."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Tally:
    """How often each value of one name occurred, told apart by `dimensions`; 150 different values at most."""

    name: str
    counts: Mapping[float, int]
    dimensions: Mapping[str, str] = field(default_factory=dict)


class Tallies(Protocol):
    """Takes many numbers at once."""

    def put_tallies(self, tallies: Sequence[Tally], *, at: datetime) -> None:
        """Record `tallies` as of `at`; UnavailableError or DeniedError, and then perhaps some of them."""
        ...


def promise_gauges(promise: Promise, confirmations: Confirmations, *, now: datetime) -> dict[str, float]:
    """How the promise stands that what is acknowledged is in the standby, and how long confirmations take.

    `PromiseBrokenSeconds` is 0 while the promise is kept, else for how long it has not been: what was acknowledged
    since then is exposed. The others are since the process began.
    """
    return {
        PROMISE_BROKEN: 0.0 if promise.kept else max(0.0, (now - promise.since).total_seconds()),
        "ConfirmationMeanSeconds": confirmations.mean_s,
        "ConfirmationP99Seconds": confirmations.percentile_s(0.99),
        "ConfirmationLongestSeconds": confirmations.longest_s,
        "Confirmed": float(confirmations.count),
        "Unconfirmed": float(confirmations.unconfirmed),
        "ProceededUnconfirmed": float(confirmations.proceeded),
    }


def publish_lag(metrics: Metrics, lags: Mapping[str, Lag]) -> None:
    """`JournalLagSeconds` and `JournalLagEntries` of each collection that is there, told apart by `collection`."""
    for collection, lag in lags.items():
        if lag.seconds is not None and lag.entries is not None:
            values = {JOURNAL_LAG: lag.seconds, "JournalLagEntries": float(lag.entries)}
            metrics.put(values, collection=collection)


class CloudWatchMetrics:
    """Metrics in the namespace `Relight`, told apart by environment and region, and by what else is named.

    Seconds are those so named.
    """

    def __init__(self, client: Any, *, environment: str, region: str) -> None:
        self._client = client
        self._dimensions = [
            {"Name": "environment", "Value": environment},
            {"Name": "region", "Value": region},
        ]

    def put(self, values: Mapping[str, float], *, collection: str = "") -> None:
        """See `Metrics.put`."""
        named = {"collection": collection} if collection else {}
        self._send([{"Value": value, **self._named(name, named)} for name, value in values.items()])

    def put_tallies(self, tallies: Sequence[Tally], *, at: datetime) -> None:
        """See `Tallies.put_tallies`."""
        data = [
            {
                "Values": list(tally.counts),
                "Counts": [float(count) for count in tally.counts.values()],
                "Timestamp": at,
                **self._named(tally.name, tally.dimensions),
            }
            for tally in tallies
        ]
        for begin in range(0, len(data), _AT_ONCE):
            self._send(data[begin : begin + _AT_ONCE])

    def _named(self, name: str, dimensions: Mapping[str, str]) -> dict[str, Any]:
        named = [{"Name": key, "Value": dimension(value)} for key, value in dimensions.items()]
        unit = "Seconds" if name.endswith("Seconds") else "None"
        return {"MetricName": name, "Unit": unit, "Dimensions": [*self._dimensions, *named]}

    def _send(self, data: Sequence[Mapping[str, Any]]) -> None:
        with aws.translating():
            self._client.put_metric_data(Namespace=NAMESPACE, MetricData=data)
