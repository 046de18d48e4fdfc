"""What an estimate counts is what the standby's stacks make: read from the synthesized JSON of each environment."""

from __future__ import annotations

import json
import re
from collections import defaultdict
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
from infra.variants import variations
from synthesis import ENVIRONMENTS

from relight_cli.console import DONE
from relight_cli.main import main
from relight_stacks import costs
from relight_stacks.loading import examples_folder, load_environments, load_named

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from synthesis import Synthesis

    from relight_stacks.environment import Environment

CHOSEN = {item.name: item for item in variations()}
WITH_STANDBY = [*(name for name, parts in ENVIRONMENTS.items() if "standby" in parts), *CHOSEN]
with_standby = pytest.mark.parametrize("name", WITH_STANDBY)


@pytest.fixture(scope="module")
def every(syntheses: Mapping[str, Synthesis], variants: Mapping[str, Synthesis]) -> Mapping[str, Synthesis]:
    """What is shipped, and what an operator may choose."""
    return {**syntheses, **variants}


def environment_of(name: str) -> Environment:
    examples = {item.name: item for item in load_environments(examples_folder())}
    return (examples | CHOSEN).get(name) or load_named(name)


def counted(name: str) -> defaultdict[str, float]:
    """How many units each line of the estimate counts, by the first words of the line; 0 of what has no line."""
    lines = costs.estimate(environment_of(name)).lines
    return defaultdict(float, {line.what.partition(":")[0]: line.quantity for line in lines})


def made(every: Mapping[str, Synthesis], name: str, type_: str, part: str = "standby") -> int:
    return len(every[name].resources(type_, part=part))


def both(every: Mapping[str, Synthesis], name: str, type_: str) -> int:
    """In the standby's own stack and in that of rehearsals, which is in its region."""
    return sum(made(every, name, type_, part) for part in ("standby", "rehearsal"))


def interfaces(every: Mapping[str, Synthesis], name: str, part: str) -> int:
    """How many interfaces the endpoints of a stack's network have: each has one in each zone."""
    endpoints = every[name].resources("aws_vpc_endpoint", part=part).values()
    return sum(len(body["subnet_ids"]) for body in endpoints if body["vpc_endpoint_type"] == "Interface")


@with_standby
def test_what_runs_all_month_is_counted(every: Mapping[str, Synthesis], name: str) -> None:
    """fails when the standby's region gets an endpoint, a gateway, a balancer, a check or a switch that the estimate
    lacks."""
    found = counted(name)
    assert found["interface endpoints"] == interfaces(every, name, "standby") * costs.HOURS
    gateways = made(every, name, "aws_nat_gateway")
    assert found["NAT gateways"] == gateways * costs.HOURS
    balancers = every[name].resources("aws_lb", part="standby").values()
    assert found["load balancers, outer and inner"] == len(balancers) * costs.HOURS
    (zones,) = (len(body["subnets"]) for body in balancers if not body.get("internal"))
    assert found["public addresses"] == (gateways + zones) * costs.HOURS
    checks = [body["type"] for body in every[name].resources("aws_route53_health_check", part="dns").values()]
    assert found["Route 53 health checks"] == checks.count("HTTPS")
    assert found["health checks of the switches"] == len(checks) - checks.count("HTTPS")
    switches = made(every, name, "aws_route53recoverycontrolconfig_cluster", "dns")
    assert found["ARC routing controls"] == switches * costs.HOURS
    assert found["dashboards"] == both(every, name, "aws_cloudwatch_dashboard")
    assert found["rehearsals' interface endpoints"] == interfaces(every, name, "rehearsal") * costs.HOURS
    assert found["rehearsals' NAT gateway"] == made(every, name, "aws_nat_gateway", "rehearsal") * costs.HOURS
    assert made(every, name, "aws_nat_gateway", "rehearsal") + interfaces(every, name, "rehearsal") > 0
    hosted = made(every, name, "aws_route53_zone") + made(every, name, "aws_route53_zone", "dns")
    assert found["zones, public and inner"] == hosted


@pytest.mark.parametrize("name", [*WITH_STANDBY, "sandbox"])
def test_secrets_of_the_standbys_region_are_counted(every: Mapping[str, Synthesis], name: str) -> None:
    """Those of the stacks that are there, and what the primary's replicate to it, each of which AWS counts as one."""
    standby = environment_of(name).regions.standby
    primary = every[name].resources("aws_secretsmanager_secret", part="primary").values()
    replicas = [item for body in primary for item in body.get("replica", ()) if item["region"] == standby]
    assert counted(name)["secrets"] == both(every, name, "aws_secretsmanager_secret") + len(replicas)


@with_standby
def test_keys_of_the_standbys_region_are_counted(every: Mapping[str, Synthesis], name: str) -> None:
    """Those of its own stacks, those of the vaults' stack that are in its region, and that of copied backups."""
    keys = 0
    for part, elsewhere in (("standby", None), ("rehearsal", None), ("vault", None), ("primary", "aws.standby")):
        for type_ in ("aws_kms_key", "aws_kms_replica_key"):
            bodies = every[name].resources(type_, part=part).values()
            keys += sum(body.get("provider") == elsewhere for body in bodies)
    assert counted(name)["KMS keys"] == keys


@with_standby
def test_containers_are_counted_as_they_run(every: Mapping[str, Synthesis], name: str) -> None:
    """fails when something runs in the standby all the time that the estimate lacks, or the other way about."""
    lines = {line.what.partition(":")[0]: line.what for line in costs.estimate(environment_of(name)).lines}
    services = every[name].resources("aws_ecs_service", part="standby").values()
    running = {"agents": 0, "vector store": 0, "queue": 0}
    for body in services:
        what = {"agent": "agents", "vector": "vector store"}.get(body["name"], "queue")
        running[what] += body["desired_count"]
    for what, count in running.items():
        assert lines.get(what) == (f"{what}: {count} on Fargate" if count else None)


@with_standby
def test_what_the_cluster_reports_is_counted(every: Mapping[str, Synthesis], name: str) -> None:
    """fails when Container Insights, which is on, costs nothing here: a cluster's metrics, and those of each service
    that runs something; a cluster in which nothing runs reports none."""
    (cluster,) = every[name].resources("aws_ecs_cluster", part="standby").values()
    assert cluster["setting"] == [{"name": "containerInsights", "value": "enabled"}]
    services = every[name].resources("aws_ecs_service", part="standby").values()
    running = sum(bool(body["desired_count"]) for body in services)
    assert counted(name)["Container Insights"] == (8 + 17 * running if running else 0)


@with_standby
def test_alarms_are_counted(every: Mapping[str, Synthesis], name: str) -> None:
    """fails when the standby's stacks have another number of alarms than the estimate."""
    assert counted(name)["alarms"] == both(every, name, "aws_cloudwatch_metric_alarm")


def test_what_has_no_price_is_in_the_headline(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """fails when a total without the database's price looks like a total with it."""
    path = tmp_path / "mine.toml"
    text = (examples_folder() / "internal.toml").read_text()
    path.write_text(text.replace('instance_class = "db.r6g.large"', 'instance_class = "db.x2g.large"'))
    assert 'instance_class = "db.x2g.large"' in path.read_text()
    assert main(["env", "check", str(path)]) == DONE
    told = capsys.readouterr().out
    sum_ = re.search(r"in a month: at least ([0-9]+) USD, and what is not known", told)
    assert sum_ is not None
    assert "not known  state database: db.x2g.large" in told
    assert "of the standby alone" in told
    assert main(["env", "check", str(path), "--json"]) == DONE
    cost = json.loads(capsys.readouterr().out)["cost"]
    assert cost["unknown"] == ["state database: db.x2g.large"]
    assert int(sum_[1]) == cost["rounded"] <= cost["monthly"]
    assert main(["env", "check", "internal"]) == DONE
    assert "in a month: about " in capsys.readouterr().out


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
