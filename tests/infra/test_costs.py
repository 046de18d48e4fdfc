"""What an estimate counts is what the standby's stacks make: read from the synthesized JSON of each environment."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
from synthesis import ENVIRONMENTS

from relight.config import Role
from relight_stacks import costs
from relight_stacks.loading import examples_folder, load_environments, load_named

if TYPE_CHECKING:
    from collections.abc import Mapping

    from synthesis import Synthesis

    from relight_stacks.environment import Environment

WITH_STANDBY = [name for name, parts in ENVIRONMENTS.items() if "standby" in parts]
with_standby = pytest.mark.parametrize("name", WITH_STANDBY)
ALARM_USD = 5.0


def environment_of(name: str) -> Environment:
    examples = {item.name: item for item in load_environments(examples_folder())}
    return examples.get(name) or load_named(name)


def counted(name: str) -> dict[str, float]:
    """How many units each line of the estimate counts, by the first words of the line."""
    lines = costs.estimate(environment_of(name)).lines
    return {line.what.partition(":")[0]: line.quantity for line in lines}


def made(syntheses: Mapping[str, Synthesis], name: str, type_: str, part: str = "standby") -> int:
    return len(syntheses[name].resources(type_, part=part))


def both(syntheses: Mapping[str, Synthesis], name: str, type_: str) -> int:
    """In the standby's own stack and in that of rehearsals, which is in its region."""
    return sum(made(syntheses, name, type_, part) for part in ("standby", "rehearsal"))


@with_standby
def test_what_runs_all_month_is_counted(syntheses: Mapping[str, Synthesis], name: str) -> None:
    """fails when the standby's region gets an endpoint, a gateway, a balancer, a check or a secret that the estimate
    lacks."""
    found, network = counted(name), environment_of(name).network(Role.STANDBY)
    endpoints = syntheses[name].resources("aws_vpc_endpoint", part="standby").values()
    interfaces = [body for body in endpoints if body["vpc_endpoint_type"] == "Interface"]
    assert found["interface endpoints"] == len(interfaces) * len(network.zones) * costs.HOURS
    assert any(".ecs" in body["service_name"] for body in interfaces)
    gateways = made(syntheses, name, "aws_nat_gateway")
    assert found["NAT gateways"] == gateways * costs.HOURS
    assert found["public addresses"] == (gateways + len(network.zones)) * costs.HOURS
    assert found["load balancers, outer and inner"] == made(syntheses, name, "aws_lb") * costs.HOURS
    checks = syntheses[name].resources("aws_route53_health_check", part="dns")
    assert found["Route 53 health checks"] == len(checks)
    assert found["secrets"] == both(syntheses, name, "aws_secretsmanager_secret")
    assert found["dashboards"] == both(syntheses, name, "aws_cloudwatch_dashboard")
    place = syntheses[name].resources("aws_vpc_endpoint", part="rehearsal").values()
    inside = [body for body in place if body["vpc_endpoint_type"] == "Interface"]
    assert found["rehearsals' interface endpoints"] == len(inside) * costs.HOURS
    assert {len(body["subnet_ids"]) for body in inside} == {1}
    assert made(syntheses, name, "aws_nat_gateway", "rehearsal") == 0
    zones = made(syntheses, name, "aws_route53_zone") + made(syntheses, name, "aws_route53_zone", "dns")
    assert found["zones, public and inner"] == zones


@with_standby
def test_keys_of_the_standbys_region_are_counted(syntheses: Mapping[str, Synthesis], name: str) -> None:
    """Those of its own stacks, those of the vaults' stack that are in its region, and that of copied backups."""
    keys = 0
    for part, elsewhere in (("standby", None), ("rehearsal", None), ("vault", None), ("primary", "aws.standby")):
        for type_ in ("aws_kms_key", "aws_kms_replica_key"):
            bodies = syntheses[name].resources(type_, part=part).values()
            keys += sum(body.get("provider") == elsewhere for body in bodies)
    assert counted(name)["KMS keys"] == keys


@with_standby
def test_containers_are_counted_as_they_run(syntheses: Mapping[str, Synthesis], name: str) -> None:
    """fails when something runs in the standby all the time that the estimate lacks, or the other way about."""
    lines = {line.what.partition(":")[0]: line.what for line in costs.estimate(environment_of(name)).lines}
    services = syntheses[name].resources("aws_ecs_service", part="standby").values()
    running = {"agents": 0, "vector store": 0, "queue": 0}
    for body in services:
        what = {"agent": "agents", "vector": "vector store"}.get(body["name"], "queue")
        running[what] += body["desired_count"]
    for what, count in running.items():
        assert lines.get(what) == (f"{what}: {count} on Fargate" if count else None)


@with_standby
def test_alarms_are_counted_nearly(syntheses: Mapping[str, Synthesis], name: str) -> None:
    """An alarm is ten cents: the estimate may be some of them out, and not a tenth of a small standby."""
    alarms = both(syntheses, name, "aws_cloudwatch_metric_alarm")
    assert abs(counted(name)["alarms"] - alarms) * costs.ALARM_MONTH <= ALARM_USD


def test_the_table_says_what_it_is() -> None:
    """Each price is of a unit, in order: a class of twice the size costs twice as much, but for rounding."""
    for table in (costs.RDS_HOUR, costs.AURORA_HOUR):
        for small, large in (("large", "xlarge"), ("xlarge", "2xlarge"), ("2xlarge", "4xlarge")):
            for family in ("r6g", "m6g"):
                one, two = (table.get(f"db.{family}.{size}") for size in (small, large))
                assert one is None or two is None or two == pytest.approx(2 * one, rel=0.01)
    assert set(costs.AURORA_HOUR) <= set(costs.RDS_HOUR)
    assert all(costs.AURORA_HOUR[name] > costs.RDS_HOUR[name] for name in costs.AURORA_HOUR)
    assert json.loads(json.dumps(costs.to_json(costs.estimate(environment_of("demo")))))["unknown"] == []


def test_a_place_that_reaches_the_internet_has_a_gateway() -> None:
    """A store's image from elsewhere is not reached by endpoints; without rehearsals there is neither."""
    internal = environment_of("internal")
    public = replace(internal, vector=replace(internal.vector, image="pgvector/pgvector:pg18"))
    never = replace(internal, given={**internal.given, "rehearse": ""})
    for environment, gateway, endpoints in ((internal, False, True), (public, True, False), (never, False, False)):
        whats = " ".join(line.what for line in costs.estimate(environment).lines)
        assert ("rehearsals' NAT gateway" in whats) is gateway
        assert ("rehearsals' interface endpoints" in whats) is endpoints
