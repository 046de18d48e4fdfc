"""What a recovery may scale in each environment: what is granted is what the function is told of, and nothing else."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest
from infra.test_network import of
from synthesis import ENVIRONMENTS

from relight.config import CapacityKind, Settings
from relight.recovery.capacities import AutoScalingGroup, EcsService, EksDeployment
from relight.wiring import AGENTS, Region
from relight_constructs.bundle import SERVICES
from relight_constructs.capacity import SCALERS

if TYPE_CHECKING:
    from collections.abc import Mapping

    from synthesis import Synthesis

REGION = "us-west-2"
with_standby = pytest.mark.parametrize("name", [name for name, parts in ENVIRONMENTS.items() if "standby" in parts])


def scale_of(made: Mapping[str, Synthesis], name: str, part: str = "standby") -> dict[str, Any]:
    """The function that scales."""
    functions = of(made, name, part, "aws_lambda_function").values()
    (only,) = (body for body in functions if body["function_name"] == f"relight-{name}-scale")
    return dict(only)


def told(made: Mapping[str, Synthesis], name: str) -> Settings:
    """What it is told."""
    return Settings.from_env(scale_of(made, name)["environment"]["variables"])


def may(made: Mapping[str, Synthesis], name: str) -> set[tuple[str, str]]:
    """What it may do of capacity: each action, and on what."""
    role = scale_of(made, name)["role"].split(".")[1]
    return {
        (action, resource)
        for item in of(made, name, "standby", "aws_iam_role_policy").values()
        if item["role"].split(".")[1] == role
        for statement in json.loads(item["policy"])["Statement"]
        for action in statement["Action"]
        for resource in statement["Resource"]
        if action.partition(":")[0] in ("ecs", "application-autoscaling", "autoscaling", "eks")
    }


def on_servers(made: Mapping[str, Synthesis], name: str) -> set[tuple[str, str]]:
    """What it may do with Relight's own servers, and with the cluster that they are in."""
    settings, here = told(made, name), account_of(made, name)
    services = [f"service/{settings.cluster}/{server}" for server in settings.server_services]
    return {
        (f"ecs:{action}", f"arn:aws:ecs:{settings.region}:{here}:{what}")
        for action in ("DescribeServices", "UpdateService")
        for what in (*services, f"cluster/{settings.cluster}")
    }


def account_of(made: Mapping[str, Synthesis], name: str) -> str:
    """The account, as the environment's stacks have it."""
    machines = of(made, name, "standby", "aws_sfn_state_machine").values()
    (machine,) = (body for body in machines if body["name"] == f"relight-{name}-recovery")
    arn: str = json.loads(machine["definition"])["States"]["assess"]["Parameters"]["FunctionName"]
    return arn.split(":")[4]


@with_standby
def test_a_recovery_may_scale_all_that_the_region_runs(syntheses: Mapping[str, Synthesis], name: str) -> None:
    """fails when a service is added that a cold standby would lack, or scale may change more than it is told of."""
    settings = told(syntheses, name)
    services = {body["name"] for body in of(syntheses, name, "standby", "aws_ecs_service").values()}
    assert {*settings.server_services, settings.agent_service} == services
    (target,) = of(syntheses, name, "standby", "aws_appautoscaling_target")
    agent = f"arn:aws:ecs:{settings.region}:{account_of(syntheses, name)}:service/{settings.cluster}/agent"
    assert may(syntheses, name) - on_servers(syntheses, name) == {
        ("ecs:DescribeServices", agent),
        ("ecs:UpdateService", agent),
        ("application-autoscaling:RegisterScalableTarget", f"${{aws_appautoscaling_target.{target}.arn}}"),
        ("application-autoscaling:DescribeScalableTargets", "*"),
    }
    assert on_servers(syntheses, name) <= may(syntheses, name)
    assert "vpc_config" not in scale_of(syntheses, name), "it talks to AWS alone, and needs no endpoint"


@with_standby
def test_servers_are_asked_for_before_the_agents(
    syntheses: Mapping[str, Synthesis], name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One task of each server, and the primary's number of agents."""
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "testing")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "testing")
    settings = told(syntheses, name)
    needs = Region(settings).needs
    assert [need.name for need in needs] == [*settings.server_services, AGENTS]
    assert [need.least for need in needs] == [*(1 for _ in needs[1:]), settings.agent_replicas]
    assert {need.enough for need in needs} == {1}, "the pilot light serves while the others start"


@pytest.mark.parametrize(
    ("name", "kind", "port"),
    [
        ("private", CapacityKind.ECS, EcsService),
        ("pods", CapacityKind.EKS, EksDeployment),
        ("machines", CapacityKind.AUTO_SCALING, AutoScalingGroup),
    ],
)
def test_what_runs_the_agents_reaches_the_function(
    variants: Mapping[str, Synthesis], name: str, kind: CapacityKind, port: type, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From the file to the class that scales it, whose client the bundle has."""
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "testing")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "testing")
    settings = told(variants, name)
    assert settings.capacity is kind
    asked: list[str] = []
    region = Region(settings)
    made = region.aws

    def noted(service: str) -> Any:
        asked.append(service)
        return made(service)

    monkeypatch.setattr(region, "aws", noted)
    assert isinstance(region.agents, port)
    assert asked
    assert {*asked} <= {*SERVICES}


def test_pods_are_scaled_through_their_cluster_alone(variants: Mapping[str, Synthesis]) -> None:
    """The function finds the one cluster, from inside the network, and comes in as a member of one group."""
    settings = told(variants, "pods")
    assert (settings.eks_cluster, settings.eks_namespace, settings.eks_deployment) == ("agents", "default", "agent")
    arn = f"arn:aws:eks:{REGION}:000000000000:cluster/agents"
    assert may(variants, "pods") - on_servers(variants, "pods") == {("eks:DescribeCluster", arn)}
    scale = scale_of(variants, "pods")
    (entry,) = of(variants, "pods", "standby", "aws_eks_access_entry").values()
    assert {key: entry[key] for key in ("cluster_name", "kubernetes_groups", "type")} == {
        "cluster_name": "agents",
        "kubernetes_groups": [SCALERS],
        "type": "STANDARD",
    }
    assert entry["principal_arn"] == scale["role"]
    assert not of(variants, "pods", "primary", "aws_eks_access_entry"), "nobody scales the primary but people"
    functions = of(variants, "pods", "standby", "aws_lambda_function").values()
    (hydrate,) = (body for body in functions if body["function_name"] == "relight-pods-hydrate")
    assert scale["vpc_config"] == hydrate["vpc_config"]
    group = variants["pods"].stacks["standby"]["output"]["functions-security-group"]["value"]
    assert scale["vpc_config"]["security_group_ids"] == [group]


@pytest.mark.parametrize(
    ("name", "part", "expected"), [("pods", "standby", 1), ("pods", "primary", 0), ("machines", "standby", 0)]
)
def test_the_control_plane_of_eks_is_reached_where_it_is_asked(
    variants: Mapping[str, Synthesis], name: str, part: str, expected: int
) -> None:
    """By an endpoint of its own, without NAT."""
    endpoints = of(variants, name, part, "aws_vpc_endpoint").values()
    found = [item for item in endpoints if item["service_name"].endswith(".eks")]
    assert len(found) == expected


def test_machines_are_scaled_by_their_one_group(variants: Mapping[str, Synthesis]) -> None:
    """The group's id cannot be known, its name can; nothing is made for it, and the function stays outside."""
    assert told(variants, "machines").capacity_group == "agents"
    group = f"arn:aws:autoscaling:{REGION}:000000000000:autoScalingGroup:*:autoScalingGroupName/agents"
    assert may(variants, "machines") - on_servers(variants, "machines") == {
        ("autoscaling:UpdateAutoScalingGroup", group),
        ("autoscaling:DescribeAutoScalingGroups", "*"),
    }
    assert "vpc_config" not in scale_of(variants, "machines")


def test_an_own_queue_is_not_started(variants: Mapping[str, Synthesis]) -> None:
    """fails when a recovery waits for a queue that the operator runs."""
    assert told(variants, "existing").server_services == ("vector",)
