"""The names of an environment, for every routing, read from the synthesized JSON."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import pytest
from synthesis import ROOT

from relight_constructs.props import ActiveActiveProps, PairProps
from relight_stacks.loading import load_named
from relight_stacks.tiers import SHAPES, Routing

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

SERVICE = "agent.demo.relight.example"
HALVES = ("primary", "standby")
CASES: dict[str, dict[str, Any]] = {
    **{str(tier): {"tier": str(tier)} for tier in SHAPES},
    "weighted": {"tier": "customer-facing", "given": {"routing": "weighted"}},
    "failover with switches": {"tier": "internal", "routing_controls": True},
    "latency with switches": {"tier": "customer-facing", "routing_controls": True},
    "slow": {"tier": "internal", "given": {"check_interval_s": 30, "primary_threshold": 2, "ttl_s": 20}},
}
# Each case is a stack of its own in one process: node starts once.
PROGRAM = """
import json, sys
from dataclasses import replace
from relight.objectives import Tier
from relight_constructs.bindings import App
from relight_stacks.dns import DnsStack
from relight_stacks.loading import load_named
from relight_stacks.tiers import Routing

demo = load_named("demo")
for number, case in enumerate(json.loads(sys.argv[2]).values()):
    given = dict(case.get("given", {}))
    if "routing" in given:
        given["routing"] = Routing(given["routing"])
    app = App(outdir=f"{sys.argv[1]}/{number}")
    controls = case.get("routing_controls", False)
    DnsStack(app, replace(demo, tier=Tier(case["tier"]), given=given, routing_controls=controls))
    app.synth()
"""


@dataclass(frozen=True)
class Names:
    """The dns stack of one case."""

    document: Mapping[str, Any]

    def of(self, kind: str) -> dict[str, dict[str, Any]]:
        """The resources of a type by their path inside the stack."""
        found = self.document["resource"].get(kind, {}).values()
        return {item["//"]["metadata"]["path"].split("/", 1)[1]: item for item in found}

    def refers(self, reference: str) -> tuple[str, str]:
        """The path and the attribute that an expression means."""
        match = re.fullmatch(r"\$\{([a-z0-9_]+)\.([A-Za-z0-9_-]+)\.([a-z_]+)\}", reference)
        assert match is not None, reference
        kind, unique, attribute = match.groups()
        return self.document["resource"][kind][unique]["//"]["metadata"]["path"].split("/", 1)[1], attribute


@pytest.fixture(scope="module")
def names(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Names]:
    """The dns stack of each case."""
    folder: Path = tmp_path_factory.mktemp("dns")
    command = [sys.executable, "-P", "-c", PROGRAM, str(folder), json.dumps(CASES)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    return {
        case: Names(json.loads((folder / str(number) / "stacks" / "demo-dns" / "cdk.tf.json").read_text()))
        for number, case in enumerate(CASES)
    }


def only(value: Any) -> Any:
    """A nested block, which the JSON writes as an object or as a list of one."""
    return value[0] if isinstance(value, list) else value


def policies(record: Mapping[str, Any]) -> dict[str, Any]:
    return {key.removesuffix("_routing_policy"): only(record[key]) for key in record if key.endswith("_routing_policy")}


def pair(found: Names, path: str) -> dict[str, dict[str, Any]]:
    """The records of both regions, which are all that the stack has."""
    records = found.of("aws_route53_record")
    assert set(records) == {f"{path}/{half}-record" for half in HALVES}
    return {half: records[f"{path}/{half}-record"] for half in HALVES}


FAILOVER = [{"failover": {"type": "PRIMARY"}}, {"failover": {"type": "SECONDARY"}}]
LATENCY = [{"latency": {"region": "us-east-1"}}, {"latency": {"region": "us-west-2"}}]
WEIGHTED = [{"weighted": {"weight": 1}}] * 2


@pytest.mark.parametrize(
    ("case", "path", "expected", "interval_s", "thresholds", "ttl_s"),
    [
        ("customer-facing", "latency", LATENCY, 10, None, 10),
        ("internal", "failover", FAILOVER, 10, None, 10),
        ("batch", "failover", FAILOVER, 30, None, 30),
        ("weighted", "weighted", WEIGHTED, 10, None, 10),
        ("slow", "failover", FAILOVER, 30, (2, 1), 20),
    ],
)
def test_each_region_has_a_record_that_its_gate_decides(
    names: Mapping[str, Names],
    case: str,
    path: str,
    expected: list[dict[str, Any]],
    interval_s: int,
    thresholds: tuple[int, int] | None,
    ttl_s: int,
) -> None:
    """One name, a CNAME to each region's own endpoint, chosen as the tier says; HTTPS on /ready as often as the tier
    needs; no answer is kept for longer than an interval."""
    found = names[case]
    shape = SHAPES[CASES[case]["tier"]]
    checks = found.of("aws_route53_health_check")
    assert len(checks) == 2
    asked = thresholds or (shape.primary_threshold, shape.standby_threshold)
    for (half, record), policy, threshold in zip(pair(found, path).items(), expected, asked, strict=True):
        assert (record["name"], record["type"], record["set_identifier"]) == (SERVICE, "CNAME", half)
        assert record["records"] == [f"{half}.{SERVICE}"]
        assert (policies(record), record["ttl"]) == (policy, ttl_s)
        assert "alias" not in record
        assert found.refers(record["zone_id"]) == ("zone/zone", "zone_id")
        assert found.refers(record["health_check_id"]) == (f"{path}/{half}-check", "id")
        check = checks[f"{path}/{half}-check"]
        assert (check["type"], check["fqdn"], check["port"]) == ("HTTPS", f"{half}.{SERVICE}", 443)
        assert (check["resource_path"], check["enable_sni"]) == ("/ready", True)
        assert (check["request_interval"], check["failure_threshold"]) == (interval_s, threshold)
        assert record["ttl"] <= check["request_interval"]


def test_a_sandbox_has_one_plain_record(names: Mapping[str, Names]) -> None:
    """Nothing is checked, and nothing leads to a standby that does not exist."""
    found = names["sandbox"]
    (record,) = found.of("aws_route53_record").values()
    assert (record["name"], record["type"], record["records"]) == (SERVICE, "CNAME", [f"primary.{SERVICE}"])
    assert (record["ttl"], policies(record)) == (60, {})
    assert not {"set_identifier", "health_check_id"} & set(record)
    assert found.of("aws_route53_health_check") == {}
    assert "standby" not in json.dumps(found.document["resource"])


@pytest.mark.parametrize("case", CASES)
def test_the_zone_is_the_same_for_every_routing(names: Mapping[str, Names], case: str) -> None:
    """fails when another tier would make another zone: its name servers are at the registrar."""
    assert list(names[case].of("aws_route53_zone")) == ["zone/zone"]


@pytest.mark.parametrize("case", CASES)
def test_switches_are_there_only_where_they_are_wanted(names: Mapping[str, Names], case: str) -> None:
    """A cluster of ARC costs by the hour, used or not."""
    clusters = names[case].of("aws_route53recoverycontrolconfig_cluster")
    assert len(clusters) == (1 if CASES[case].get("routing_controls") else 0)


@pytest.mark.parametrize(
    ("case", "path"), [("failover with switches", "failover"), ("latency with switches", "latency")]
)
def test_with_switches_a_region_needs_both_its_gate_and_its_switch(
    names: Mapping[str, Names], case: str, path: str
) -> None:
    """The record asks a check that is healthy when both of its two children are."""
    found = names[case]
    checks = found.of("aws_route53_health_check")
    assert len(checks) == 6
    for half, record in pair(found, path).items():
        assert found.refers(record["health_check_id"]) == (f"{path}/{half}-both-check", "id")
        both = checks[f"{path}/{half}-both-check"]
        assert (both["type"], both["child_health_threshold"]) == ("CALCULATED", 2)
        children = [found.refers(child) for child in both["child_healthchecks"]]
        assert children == [(f"{path}/{half}-check", "id"), (f"{path}/{half}-control-check", "id")]
        control = checks[f"{path}/{half}-control-check"]
        assert control["type"] == "RECOVERY_CONTROL"
        assert found.refers(control["routing_control_arn"]) == (f"controls/{half}", "arn")
        assert not {"fqdn", "request_interval", "failure_threshold"} & (set(control) | set(both))
        assert checks[f"{path}/{half}-check"]["type"] == "HTTPS"


def test_one_switch_stays_on(names: Mapping[str, Names]) -> None:
    """fails when both regions can be switched off: Route 53 would then answer with both."""
    found = names["failover with switches"]
    (rule,) = found.of("aws_route53recoverycontrolconfig_safety_rule").values()
    assert [found.refers(arn) for arn in rule["asserted_controls"]] == [(f"controls/{half}", "arn") for half in HALVES]
    assert only(rule["rule_config"]) == {"type": "ATLEAST", "threshold": 1, "inverted": False}
    controls = found.of("aws_route53recoverycontrolconfig_routing_control")
    assert [control["name"] for control in controls.values()] == ["relight-demo-primary", "relight-demo-standby"]
    for item in (rule, *controls.values()):
        assert found.refers(item["control_panel_arn"]) == ("controls/panel", "arn")
    panel = found.of("aws_route53recoverycontrolconfig_control_panel")["controls/panel"]
    for item in (panel, *controls.values()):
        assert found.refers(item["cluster_arn"]) == ("controls/cluster", "arn")


@pytest.mark.parametrize(
    ("key", "value"), [("interval_s", 20), ("ttl_s", 60), ("primary_threshold", 0), ("standby_threshold", 11)]
)
def test_a_pair_that_route_53_would_not_take_is_refused(key: str, value: int) -> None:
    """It offers two intervals and ten thresholds; and an answer must not be remembered for longer than an interval."""
    with pytest.raises(ValueError, match=f"{key}={value}"):
        replace(PAIR, **{key: value})  # type: ignore[arg-type]


@pytest.mark.parametrize("weights", [(0, 0), (256, 1), (-1, 1)])
def test_weights_that_lead_nowhere_are_refused(weights: tuple[int, int]) -> None:
    """From 0 to 255, and not none at all."""
    with pytest.raises(ValueError, match=re.escape(f"weights={weights}")):
        ActiveActiveProps(pair=PAIR, primary_region="us-east-1", standby_region="us-west-2", weights=weights)


PAIR = PairProps(
    zone=None,  # type: ignore[arg-type]
    host="x.a.example",
    primary_host="p.a.example",
    standby_host="s.a.example",
)


def test_every_routing_is_shown_here() -> None:
    """fails when there is a way to route that no case has."""
    demo = load_named("demo")
    shapes = [replace(SHAPES[case["tier"]], **case.get("given", {})) for case in CASES.values()]
    assert {Routing(shape.routing) for shape in shapes} == set(Routing)
    assert demo.names.service_host == SERVICE
