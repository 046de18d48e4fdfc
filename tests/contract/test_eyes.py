"""Every metric that a dashboard shows or an alarm is on is one that is published, under those dimensions.

What is published is not listed here: whoever publishes is run, and CloudWatch is asked what it got.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
from contract.test_recovery import EAST, WEST, Pair, pair, remember
from contract.test_status import SPECS, acting
from infra.test_eyes import shown
from synthesis import ENVIRONMENTS, Synthesis, bundle_file, syntheses

from relight.clock import SystemClock
from relight.memory.apply import lag_of
from relight.providers.breaker import BreakerState, Phase
from relight.providers.messages import Attempt, Usage
from relight.providers.meter import Meter
from relight.providers.readiness import ProviderReadiness, publish_readiness
from relight.providers.shared import PostgresBreakers
from relight.recovery.copying import catch_up
from relight.recovery.gauges import observe_region
from relight.recovery.large import verify_or_hand_over
from relight.recovery.metrics import NAMESPACE, promise_gauges, publish_lag
from relight.recovery.points import take_point
from relight.recovery.rehearsal import publish_age, rehearse_region
from relight.wiring import Region

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["bundle_file", "pair", "syntheses"]

pytestmark = pytest.mark.servers


def publish_everything(pair: Pair) -> None:
    """Have everybody publish who does: functions, agents and rehearsals of both regions."""
    remember(pair.east, "a", "b")
    take_point(pair.east)
    with acting(pair.east):
        breakers = PostgresBreakers(pair.east.database)
        breakers.update(SPECS[0].name, lambda _, now: BreakerState(phase=Phase.OPEN, since=now, change="x"))
        for settings in (EAST, WEST):
            with Region(replace(settings, providers=SPECS)) as region:
                observe_region(region)
                verify_or_hand_over(region)
    with Region(replace(EAST, providers=SPECS)) as east, Region(replace(WEST, providers=SPECS)) as west:
        # The agent.
        with east.state() as state:
            publish_lag(east.metrics, {spec.name: lag_of(east.store, state, spec) for spec in east.specs})
        promise = east.database.promise()
        east.metrics.put(promise_gauges(promise, east.database.confirmations(), now=east.clock.now()))
        meter = Meter(east.metrics, providers=[spec.name for spec in SPECS], clock=SystemClock())
        meter.attempt(_attempt())
        meter.close()
        # The functions of the standby alone.
        rehearse_region(west)
        publish_age(west)
        ready = [
            ProviderReadiness(provider=spec.name, model=spec.model, ready=True, seconds=0.1, fault="", detail="")
            for spec in SPECS
        ]
        publish_readiness(west.metrics, ready, region=west)
        catch_up(west)


def _attempt() -> Attempt:
    return Attempt(
        provider=SPECS[0].name,
        model="m",
        outcome="answered",
        seconds=1.0,
        first_event_s=0.5,
        usage=Usage(input=1, output=1),
    )


def published(pair: Pair) -> set[tuple[str, frozenset[str]]]:
    """Each metric by its name and the names of its dimensions."""

    def listed(region: str) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = []
        for page in (
            pair.emulator.client("cloudwatch", region).get_paginator("list_metrics").paginate(Namespace=NAMESPACE)
        ):
            found += page["Metrics"]
        return found

    return {
        (item["MetricName"], frozenset(part["Name"] for part in item["Dimensions"]))
        for region in ("us-east-1", "us-west-2")
        for item in listed(region)
    }


def test_whatever_is_shown_is_published(pair: Pair, syntheses: Mapping[str, Synthesis]) -> None:
    """fails when a widget, or an alarm of any stack, names a metric that nobody publishes, or other dimensions."""
    publish_everything(pair)
    known = published(pair)
    assert len(known) > 20, "the publishers were run"
    for name in ENVIRONMENTS:
        for part in syntheses[name].parts:
            for item in shown(syntheses[name], part):
                if item.namespace == NAMESPACE:
                    assert (item.metric, frozenset(item.dimensions)) in known, f"{name}-{part}: {item}"


def test_a_metric_that_nobody_publishes_would_be_seen(pair: Pair) -> None:
    """fails when the comparison would let a misspelt name, or a dimension too many, pass."""
    publish_everything(pair)
    known = published(pair)
    usual = frozenset({"environment", "region"})
    assert ("GateOpen", usual) in known
    for name, dimensions in (("GateOpened", usual), ("GateOpen", usual | {"tier"}), ("ExposureSeconds", usual)):
        assert (name, dimensions) not in known
