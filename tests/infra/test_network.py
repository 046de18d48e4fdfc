"""Who reaches whom in a region, and how it reaches AWS: read from the synthesized JSON of every environment."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
from synthesis import ENVIRONMENTS

from relight.config import Role
from relight_constructs.balancer import InnerBalancer
from relight_constructs.bindings import App, AwsProvider, TerraformStack
from relight_constructs.bundle import SERVICES
from relight_constructs.endpoints import ENDPOINTS
from relight_constructs.key import Key
from relight_constructs.network import Network
from relight_constructs.props import (
    ClusterProps,
    InnerBalancerProps,
    KeyProps,
    NetworkProps,
    Place,
    QueueProps,
    SecretProps,
)
from relight_constructs.queue import NatsQueue
from relight_constructs.secret import Secret
from relight_constructs.services import Cluster
from relight_stacks.counts import services_called
from relight_stacks.loading import examples_folder, load_environments, load_named
from relight_stacks.services import ports_out

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    from synthesis import Synthesis

    from relight_stacks.environment import Environment

PLACES = [(name, part) for name, parts in ENVIRONMENTS.items() for part in parts if part in ("primary", "standby")]
each_region = pytest.mark.parametrize(("name", "part"), PLACES, ids=["-".join(place) for place in PLACES])

# What the services do by themselves for a function, from outside its network.
BY_LAMBDA = {"ec2", "logs", "sqs", "xray"}
# Permissions that no call is made with.
NO_CALL = {"iam"}
# Asked in the other region: its S3 has an endpoint here, and what KMS is asked there is asked by S3.
REACHED_ELSEWHERE = {"kms", "s3"}
INTERFACE = re.compile(r"com\.amazonaws\.(?P<region>[a-z0-9-]+)\.(?P<service>[a-z0-9.]+)")
PLACE = Place(account="000000000000", region="eu-west-1", prefix="theirs")
ARN = re.compile(r"arn:aws:(?P<service>[a-z0-9-]+):(?P<region>[a-z0-9-]*):")


def environment_of(name: str) -> Environment:
    if name == "demo":
        return load_named(name)
    (found,) = [item for item in load_environments(examples_folder()) if item.name == name]
    return found


def of(syntheses: Mapping[str, Synthesis], name: str, part: str, type_: str) -> dict[str, dict[str, Any]]:
    """The resources of a type in one stack by their address."""
    found: dict[str, dict[str, Any]] = syntheses[name].stacks[part]["resource"].get(type_, {})
    return found


def group(syntheses: Mapping[str, Synthesis], name: str, part: str, reference: str | None) -> str:
    """The short name of the security group that an expression refers to."""
    if not reference:
        return ""
    body = of(syntheses, name, part, "aws_security_group")[reference.split(".")[1]]
    return str(body["description"]).removeprefix("Relight: ")


def ways(
    syntheses: Mapping[str, Synthesis], name: str, part: str, kind: str
) -> Iterator[tuple[str, str, tuple[int, int]]]:
    """Each rule as the group that has it, who or where the other side is, and the ports."""
    for rule in of(syntheses, name, part, f"aws_vpc_security_group_{kind}_rule").values():
        assert rule["ip_protocol"] == "tcp", "nothing but TCP is let in or out"
        other = group(syntheses, name, part, rule.get("referenced_security_group_id"))
        other = other or rule.get("cidr_ipv4") or ("s3" if "prefix_list_id" in rule else "")
        assert other
        yield group(syntheses, name, part, rule["security_group_id"]), other, (rule["from_port"], rule["to_port"])


@each_region
def test_only_443_of_the_load_balancer_is_public(syntheses: Mapping[str, Synthesis], name: str, part: str) -> None:
    """Every other way in is from one group to another."""
    inward = list(ways(syntheses, name, part, "ingress"))
    assert [way for way in inward if "/" in way[1]] == [("balancer", "0.0.0.0/0", (443, 443))]
    for group_ in of(syntheses, name, part, "aws_security_group").values():
        assert not {"ingress", "egress"} & set(group_), "rules are resources of their own"
    (default,) = of(syntheses, name, part, "aws_default_security_group").values()
    assert not {"ingress", "egress"} & set(default)


@each_region
def test_nothing_leaves_but_what_is_needed(syntheses: Mapping[str, Synthesis], name: str, part: str) -> None:
    """Agents and functions reach providers; the load balancers their targets; servers only AWS's endpoints, and each
    other through the inner balancer."""
    outward = list(ways(syntheses, name, part, "egress"))
    anywhere = {(who, ports[0]) for who, where, ports in outward if "/" in where}
    expected = ports_out(environment_of(name), Role(part))
    assert anywhere == {(who, port) for who in ("agent", "functions") for port in expected}
    assert {where for who, where, _ in outward if who == "balancer"} == {"agent"}
    assert {where for who, where, _ in outward if who == "vector"} == {"endpoints", "s3"}
    assert {where for who, where, _ in outward if who == "queue"} <= {"endpoints", "s3", "inner"}
    assert {where for who, where, _ in outward if who == "inner"} == {"queue", "vector"}
    assert not [who for who, _, _ in outward if who in ("endpoints", "state")]


@each_region
def test_who_may_come_in_may_also_go_out_there(syntheses: Mapping[str, Synthesis], name: str, part: str) -> None:
    """fails when a group is admitted somewhere that it cannot reach, or lets out to where it is not admitted."""
    inward = {(other, to, ports) for to, other, ports in ways(syntheses, name, part, "ingress") if "/" not in other}
    outward = {
        (who, where, ports)
        for who, where, ports in ways(syntheses, name, part, "egress")
        if "/" not in where and where != "s3"
    }
    assert inward == outward


@each_region
def test_servers_are_reached_by_agents_and_functions_alone(
    syntheses: Mapping[str, Synthesis], name: str, part: str
) -> None:
    """Nobody reaches a vector store or a queue but through the inner balancer, and only nodes the nodes' own ports."""
    inward = list(ways(syntheses, name, part, "ingress"))
    assert {other for to, other, _ in inward if to in ("vector", "queue")} == {"inner"}
    for to, other, ports in inward:
        if to == "inner":
            routes = ports[0] in range(6222, 6225)
            assert other == "queue" if routes else other in ("agent", "functions")


@each_region
def test_what_runs_is_in_private_subnets_without_public_addresses(
    syntheses: Mapping[str, Synthesis], name: str, part: str
) -> None:
    """A private subnet's way out is the NAT gateway, and no subnet hands out public addresses."""
    subnets = of(syntheses, name, part, "aws_subnet")
    assert not [subnet for subnet in subnets.values() if subnet.get("map_public_ip_on_launch")]
    tables = of(syntheses, name, part, "aws_route_table")
    routes = {
        association["subnet_id"]: [
            {key: value for key, value in route.items() if value} for route in tables[table].get("route", [])
        ]
        for association in of(syntheses, name, part, "aws_route_table_association").values()
        for table in [association["route_table_id"].split(".")[1]]
    }
    public = {subnet for subnet, found in routes.items() if any("gateway_id" in route for route in found)}
    (balancer,) = [item for item in of(syntheses, name, part, "aws_lb").values() if not item["internal"]]
    assert set(balancer["subnets"]) == public
    for service in of(syntheses, name, part, "aws_ecs_service").values():
        network = service["network_configuration"]
        assert network["assign_public_ip"] is False
        assert not public & set(network["subnets"])
    for function in of(syntheses, name, part, "aws_lambda_function").values():
        assert not public & set(function.get("vpc_config", {}).get("subnet_ids", ()))


@each_region
def test_the_gateways_are_as_many_as_the_tier_says(syntheses: Mapping[str, Synthesis], name: str, part: str) -> None:
    """One NAT gateway; where both regions serve, one in each zone."""
    environment = environment_of(name)
    both_serve = environment.shape.standby and environment.shape.waiting == "full"
    expected = len(environment.network(Role(part)).zones) if both_serve else 1
    assert len(of(syntheses, name, part, "aws_nat_gateway")) == expected


@each_region
def test_flows_are_logged_encrypted_and_end(syntheses: Mapping[str, Synthesis], name: str, part: str) -> None:
    """What was refused and what was not, for a year."""
    (flow,) = of(syntheses, name, part, "aws_flow_log").values()
    assert flow["traffic_type"] == "ALL"
    log = of(syntheses, name, part, "aws_cloudwatch_log_group")[flow["log_destination"].split(".")[1]]
    assert (log["retention_in_days"], bool(log["kms_key_id"])) == (365, True)
    role = of(syntheses, name, part, "aws_iam_role")[flow["iam_role_arn"].split(".")[1]]
    (statement,) = json.loads(role["assume_role_policy"])["Statement"]
    assert statement["Principal"] == {"Service": "vpc-flow-logs.amazonaws.com"}
    assert statement["Condition"]["StringEquals"] == {"aws:SourceAccount": environment_of(name).account}


# Endpoints


def actions_of(syntheses: Mapping[str, Synthesis], name: str, part: str, role: str) -> set[tuple[str, str]]:
    """Every action that a role is allowed, with the resource, by the role's expression."""
    address = role.split(".")[1]
    return {
        (action, resource)
        for item in of(syntheses, name, part, "aws_iam_role_policy").values()
        if item["role"].split(".")[1] == address
        for statement in json.loads(item["policy"])["Statement"]
        if statement["Effect"] == "Allow"
        for action in statement["Action"]
        for resource in statement["Resource"]
    }


def called(syntheses: Mapping[str, Synthesis], name: str, part: str) -> set[tuple[str, str]]:
    """The services that functions in the network and containers are allowed to call, as region and prefix; what is
    named by a reference, or is anything, is of the stack's own region."""
    home = environment_of(name).names.region(Role(part))
    found = set()
    for function in of(syntheses, name, part, "aws_lambda_function").values():
        if "vpc_config" in function:
            allowed = actions_of(syntheses, name, part, function["role"])
            found |= {item for item in allowed if item[0].split(":")[0] not in BY_LAMBDA}
    for task in of(syntheses, name, part, "aws_ecs_task_definition").values():
        for role in (task["task_role_arn"], task["execution_role_arn"]):
            found |= actions_of(syntheses, name, part, role)
    calls = {(action.split(":")[0], ARN.match(resource)) for action, resource in found}
    return {((arn["region"] if arn else "") or home, prefix) for prefix, arn in calls if prefix not in NO_CALL}


def endpoints(syntheses: Mapping[str, Synthesis], name: str, part: str) -> dict[tuple[str, str], dict[str, Any]]:
    """The endpoints of a stack by region and service."""
    found = {}
    for body in of(syntheses, name, part, "aws_vpc_endpoint").values():
        match = INTERFACE.fullmatch(body["service_name"])
        assert match
        found[
            match["region"], f"{match['service']}{'' if body['vpc_endpoint_type'] == 'Interface' else ' gateway'}"
        ] = body
    return found


@each_region
def test_there_is_an_endpoint_for_what_is_called_and_no_other(
    syntheses: Mapping[str, Synthesis], name: str, part: str
) -> None:
    """fails when something in the network may call a service that it reaches through the NAT gateway alone, and when
    an endpoint is paid for that nobody calls."""
    home = environment_of(name).names.region(Role(part))
    calls = called(syntheses, name, part)
    assert {prefix for _, prefix in calls} - {"s3"} <= {prefix for prefix, _ in ENDPOINTS.values()}, "a row is missing"
    assert {prefix for region, prefix in calls if region != home} <= REACHED_ELSEWHERE
    needed = {prefix for region, prefix in calls if region == home}
    expected = {service for service, (prefix, _) in ENDPOINTS.items() if prefix in needed} | {"s3 gateway"}
    assert {service for region, service in endpoints(syntheses, name, part) if region == home} == expected


@pytest.mark.parametrize("role", Role)
def test_nobody_pays_for_a_way_to_tell_people_that_nobody_takes(role: Role) -> None:
    """Agents tell of LLM providers alone: without any there is no endpoint of SNS."""
    demo = environment_of("demo")
    assert demo.providers
    assert "sns" in services_called(demo, role)
    assert "sns" not in services_called(replace(demo, providers=()), role)


def test_what_functions_call_is_in_their_bundle(syntheses: Mapping[str, Synthesis]) -> None:
    """The bundle leaves out the definitions of other services: a call to one would fail in its first minute."""
    assert {prefix for prefix, _ in ENDPOINTS.values()} - {"ecr", "logs"} <= set(SERVICES)


@each_region
def test_s3_of_both_regions_is_reached_privately(syntheses: Mapping[str, Synthesis], name: str, part: str) -> None:
    """Its own by a gateway in each private table, the other's under its own name by an interface."""
    names = environment_of(name).names
    home, peer = names.region(Role(part)), names.region(Role.STANDBY if part == "primary" else Role.PRIMARY)
    found = endpoints(syntheses, name, part)
    gateway, across = found[home, "s3 gateway"], found[peer, "s3"]
    private = {
        f"${{aws_route_table.{address}.id}}"
        for address, table in of(syntheses, name, part, "aws_route_table").items()
        if any(route.get("nat_gateway_id") for route in table.get("route", []))
    }
    assert set(gateway["route_table_ids"]) == private
    assert (across["service_region"], across["private_dns_enabled"]) == (peer, True)
    assert across["dns_options"] == {"private_dns_only_for_inbound_resolver_endpoint": False}
    assert [service for region, service in found if region != home] == ["s3"]


@each_region
def test_endpoints_are_for_this_account_alone(syntheses: Mapping[str, Synthesis], name: str, part: str) -> None:
    """Nobody's credentials but the account's own go through them, and to S3 nothing but to the account's own buckets;
    what is public or signed may be read there, as anywhere on the internet."""
    account = environment_of(name).account
    for (_, service), body in endpoints(syntheses, name, part).items():
        first, *others = json.loads(body["policy"])["Statement"]
        bound = first["Condition"]["StringEquals"]
        s3 = service.startswith("s3")
        assert bound == {"aws:PrincipalAccount": account} | ({"aws:ResourceAccount": account} if s3 else {})
        assert first["Action"] == f"{'s3' if s3 else ENDPOINTS[service][0]}:*"
        read = [(["*"], "s3:GetObject")] if service == "s3 gateway" else []
        assert [(item["Resource"], item["Action"]) for item in others] == read
        if body["vpc_endpoint_type"] == "Interface":
            assert [group(syntheses, name, part, item) for item in body["security_group_ids"]] == ["endpoints"]
            assert body["private_dns_enabled"] is True


# What a recovery needs


def recovering(syntheses: Mapping[str, Synthesis], name: str) -> dict[str, dict[str, Any]]:
    """The functions that the recovery machine calls, and those that start it or fill an empty store, by their verbs."""
    machines = of(syntheses, name, "standby", "aws_sfn_state_machine").values()
    called_ = {function for item in machines for function in re.findall(r":function:([a-z0-9-]+)", item["definition"])}
    prefix = f"relight-{name}-"
    also = {f"{prefix}{verb}" for verb in ("hydrate", "sentinel")}
    return {
        body["function_name"].removeprefix(prefix): body
        for body in of(syntheses, name, "standby", "aws_lambda_function").values()
        if body["function_name"] in called_ | also
    }


@pytest.mark.parametrize("name", [name for name, part in PLACES if part == "standby"])
def test_no_recovery_needs_the_nat_gateway(syntheses: Mapping[str, Synthesis], name: str) -> None:
    """Whatever a recovery's functions may touch is in their own region, behind an endpoint of their network, or they
    are outside any."""
    names = environment_of(name).names
    found = recovering(syntheses, name)
    assert {"assess", "fence", "promote", "hydrate", "replay", "sentinel"} <= set(found)
    buckets = {names.vault_bucket(names.standby_region), names.lease_bucket}
    for verb, function in found.items():
        if "vpc_config" not in function:
            continue
        for action, resource in actions_of(syntheses, name, "standby", function["role"]):
            if action.startswith("s3:"):
                assert resource.removeprefix("arn:aws:s3:::").split("/")[0] in buckets, (verb, resource)
            elif match := ARN.match(resource):
                assert match["region"] in ("", names.standby_region), (verb, action, resource)


@pytest.mark.parametrize("name", [name for name, part in PLACES if part == "standby"])
def test_no_recovery_pulls_an_image_from_elsewhere(syntheses: Mapping[str, Synthesis], name: str) -> None:
    """Containers start from the standby's own registry, whose endpoints and layers are reached without the internet."""
    environment = environment_of(name)
    registry = f"{environment.account}.dkr.ecr.{environment.regions.standby}.amazonaws.com/"
    for task in of(syntheses, name, "standby", "aws_ecs_task_definition").values():
        for container in json.loads(task["container_definitions"]):
            assert container["image"].startswith(registry)


@pytest.mark.parametrize("name", [name for name, part in PLACES if part == "standby"])
def test_no_recovery_changes_a_name(syntheses: Mapping[str, Synthesis], name: str) -> None:
    """Route 53's control plane is in us-east-1: nothing that starts may have to be registered there. ECS registers with
    target groups, in its own region."""
    stack = syntheses[name].stacks["standby"]["resource"]
    assert not [type_ for type_ in stack if type_.startswith("aws_service_discovery")]
    for service in of(syntheses, name, "standby", "aws_ecs_service").values():
        assert not {"service_registries", "service_connect_configuration"} & set(service)
        assert service["load_balancer"]


@pytest.mark.parametrize(
    ("said", "message"),
    [
        ({"vpc_id": "vpc-1"}, "vpc_id='vpc-1' without private_subnet_ids; name the private subnet"),
        ({"zones": tuple("abcdefghi")}, "zones=.*; the range is cut for 1 to 8 zones, so name as many"),
        ({"zones": ()}, r"zones=\(\); the range is cut for 1 to 8"),
        ({"public": False}, "nat=True with public=False; a NAT gateway needs a public subnet: use nat=False"),
    ],
)
def test_a_network_that_cannot_be_is_refused(said: dict[str, Any], message: str) -> None:
    """Whoever takes the construct alone is told the value and what to say instead, before anything is made."""
    key: Any = None
    with pytest.raises(ValueError, match=message):
        NetworkProps(place=PLACE, logs_key=key, **said)
    assert NetworkProps(place=PLACE, logs_key=key, zones=tuple("abcdefgh")).nat


def test_logs_are_kept_for_as_long_as_is_said(tmp_path: Path) -> None:
    """fails when a network's or a queue's logs are kept for another time than whoever composes them says."""
    app = App(outdir=str(tmp_path))
    stack = TerraformStack(app, "theirs")
    AwsProvider(stack, "aws", region=PLACE.region)
    key = Key(stack, "key", KeyProps(place=PLACE, alias="alias/theirs", description="Theirs", for_logs=True))
    network = Network(stack, "network", NetworkProps(place=PLACE, logs_key=key, log_retention_days=30))
    NatsQueue(
        stack,
        "queue",
        QueueProps(
            place=PLACE,
            cluster=Cluster(
                stack, "cluster", ClusterProps(place=PLACE, name="theirs", logs_key=key, log_retention_days=30)
            ),
            network=network,
            inner=InnerBalancer(
                stack, "inner", InnerBalancerProps(place=PLACE, network=network, domain="theirs.internal")
            ),
            image="docker.io/library/nats:2.15-alpine",
            host="nats.theirs.internal",
            nodes=1,
            running=1,
            cpu=256,
            memory=512,
            storage_gib=10,
            key=key,
            password=Secret(stack, "password", SecretProps(name="theirs", description="Theirs", key=key)),
            log_retention_days=30,
        ),
    )
    app.synth()
    made = json.loads((tmp_path / "stacks" / "theirs" / "cdk.tf.json").read_text())["resource"]
    kept = {body["name"]: body["retention_in_days"] for body in made["aws_cloudwatch_log_group"].values()}
    assert len(kept) == 3
    assert set(kept.values()) == {30}
