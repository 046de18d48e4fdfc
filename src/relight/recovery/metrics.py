"""Numbers for whoever watches: a small port, and CloudWatch behind it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

from relight.adapters import aws

if TYPE_CHECKING:
    from collections.abc import Mapping

NAMESPACE = "Relight"


class Metrics(Protocol):
    """Takes numbers."""

    def put(self, values: Mapping[str, float]) -> None:
        """Record `values` by name, as of now; UnavailableError or DeniedError."""
        ...


class CloudWatchMetrics:
    """Metrics in the namespace `Relight`, told apart by environment and region. Seconds are those so named."""

    def __init__(self, client: Any, *, environment: str, region: str) -> None:
        self._client = client
        self._dimensions = [
            {"Name": "environment", "Value": environment},
            {"Name": "region", "Value": region},
        ]

    def put(self, values: Mapping[str, float]) -> None:
        """See `Metrics.put`."""
        data = [
            {
                "MetricName": name,
                "Value": value,
                "Unit": "Seconds" if name.endswith("Seconds") else "None",
                "Dimensions": self._dimensions,
            }
            for name, value in values.items()
        ]
        with aws.translating():
            self._client.put_metric_data(Namespace=NAMESPACE, MetricData=data)
