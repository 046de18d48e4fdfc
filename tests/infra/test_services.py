"""What runs in a region, and how much of it while nothing is wrong: read from the synthesized JSON of each environment,
and of some that differ from the examples in what an operator may choose."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest
from infra.test_network import actions_of, each_region, environment_of, of, ways
from synthesis import ENVIRONMENTS, Synthesis

from relight.config import Role, Settings
from relight_constructs.nats import PASSWORD
from relight_stacks.counts import counts
from relight_stacks.loading import load_named
from relight_stacks.services import VECTOR_SERVERS
from relight_stacks.settings import settings_for

if TYPE_CHECKING:
    from collections.abc import Mapping

with_standby = pytest.mark.parametrize("name", [name for name, parts in ENVIRONMENTS.items() if "standby" in parts])


def services(syntheses: Mapping[str, Synthesis], name: str, part: str) -> dict[str, dict[str, Any]]:
    """The ECS services of a stack by their names."""
    return {body["name"]: body for body in of(syntheses, name, part, "aws_ecs_service").values()}


def tasks(syntheses: Mapping[str, Synthesis], name: str, part: str) -> dict[str, dict[str, Any]]:
    """The task definitions of the services of a stack, by the services' names."""
    definitions = of(syntheses, name, part, "aws_ecs_task_definition")
    return {
        service: definitions[body["task_definition"].split(".")[1]]
        for service, body in services(syntheses, name, part).items()
    }


def container(task: dict[str, Any]) -> dict[str, Any]:
    (only,) = json.loads(task["container_definitions"])
    assert isinstance(only, dict)
    return only


# How much runs


@pytest.mark.parametrize(
    ("name", "agents", "vectors", "nodes"),
    [
        ("customer-facing", "N", 1, 3),
        ("internal", 1, 1, 1),
        ("batch", 0, 0, 0),
    ],
)
def test_a_standby_waits_as_its_tier_says(
    syntheses: Mapping[str, Synthesis], name: str, agents: int | str, vectors: int, nodes: int
) -> None:
    """N and N where both serve; N and 1 with a pilot light, one node and one vector store; N and nothing at all."""
    replicas = environment_of(name).agent.replicas
    primary, standby = (services(syntheses, name, part) for part in ("primary", "standby"))
    assert primary["agent"]["desired_count"] == replicas
    assert standby["agent"]["desired_count"] == (replicas if agents == "N" else agents)
    assert (primary["vector"]["desired_count"], standby["vector"]["desired_count"]) == (1, vectors)
    assert sum(body["desired_count"] for key, body in standby.items() if key.startswith("nats-")) == nodes


@each_region
def test_the_queue_has_the_nodes_that_its_region_needs(
    syntheses: Mapping[str, Synthesis], name: str, part: str
) -> None:
    """All in the primary; in the standby all where both serve, else one, which a recovery starts where it waits."""
    environment = environment_of(name)
    alike = part == "primary" or environment.shape.waiting == "full"
    nodes = [key for key in services(syntheses, name, part) if key.startswith("nats-")]
    assert nodes == [f"nats-{number}" for number in range(environment.queue.nodes if alike else 1)]


@each_region
def test_recovery_decides_how_many_run(syntheses: Mapping[str, Synthesis], name: str, part: str) -> None:
    """A later deployment changes neither how many run nor how few may."""
    for body in services(syntheses, name, part).values():
        assert body["lifecycle"]["ignore_changes"] == ["desired_count"]
    (target,) = of(syntheses, name, part, "aws_appautoscaling_target").values()
    assert target["lifecycle"]["ignore_changes"] == ["min_capacity"]


@each_region
def test_agents_scale_within_bounds(syntheses: Mapping[str, Synthesis], name: str, part: str) -> None:
    """Between what waits and the most that the environment allows, by their CPU."""
    environment = environment_of(name)
    (target,) = of(syntheses, name, part, "aws_appautoscaling_target").values()
    assert (target["min_capacity"], target["max_capacity"]) == (
        counts(environment, Role(part)).agents,
        environment.most_agents,
    )
    assert target["max_capacity"] >= environment.agent.replicas
    (address,) = (key for key, body in of(syntheses, name, part, "aws_ecs_service").items() if body["name"] == "agent")
    assert target["resource_id"] == f"service/relight-{name}/${{aws_ecs_service.{address}.name}}"
    (policy,) = of(syntheses, name, part, "aws_appautoscaling_policy").values()
    tracked = policy["target_tracking_scaling_policy_configuration"]
    assert tracked["predefined_metric_specification"] == {"predefined_metric_type": "ECSServiceAverageCPUUtilization"}


# How it runs


@each_region
def test_what_keeps_something_has_an_encrypted_volume_of_its_own(
    syntheses: Mapping[str, Synthesis], name: str, part: str
) -> None:
    """A volume for each task, made when it starts and empty then, under the region's key; the agents have none."""
    found = tasks(syntheses, name, part)
    key = syntheses[name].address_of("aws_kms_key", f"{part}/key/key")
    for service, body in services(syntheses, name, part).items():
        if service == "agent":
            assert "volume_configuration" not in body
            continue
        volume = body["volume_configuration"]
        made = volume["managed_ebs_volume"]
        assert (made["encrypted"], made["kms_key_id"]) == (True, f"${{{key}.arn}}")
        assert "snapshot_id" not in made
        declared = {item["name"]: item for item in found[service]["volume"]}
        assert declared[volume["name"]]["configure_at_launch"] is True
        assert [item for item in declared.values() if item.get("configure_at_launch")] == [declared[volume["name"]]]
        folders = {item["sourceVolume"]: item["containerPath"] for item in container(found[service])["mountPoints"]}
        server = VECTOR_SERVERS[environment_of(name).memory.store]
        assert folders[volume["name"]] == (server.data if service == "vector" else "/data")


@each_region
def test_who_makes_volumes_may_touch_no_others(syntheses: Mapping[str, Synthesis], name: str, part: str) -> None:
    """ECS creates, attaches and deletes volumes that it marked itself, and encrypts through EC2 alone."""
    environment = environment_of(name)
    region = environment.names.region(Role(part))
    volumes = f"arn:aws:ec2:{region}:{environment.account}:volume/*"
    for body in services(syntheses, name, part).values():
        if "volume_configuration" not in body:
            continue
        role = body["volume_configuration"]["managed_ebs_volume"]["role_arn"]
        allowed = actions_of(syntheses, name, part, role)
        assert {resource for action, resource in allowed if action.startswith("ec2:")} == {volumes, "*"}
        # What AmazonECSInfrastructureRolePolicyForVolumes looks at in its third version.
        looked_at = {"ec2:DescribeAvailabilityZones", "ec2:DescribeVolumes"}
        assert {action for action, resource in allowed if resource == "*"} == looked_at
        policies = of(syntheses, name, part, "aws_iam_role_policy").values()
        for item in policies:
            if item["role"].split(".")[1] != role.split(".")[1]:
                continue
            for statement in json.loads(item["policy"])["Statement"]:
                bound = json.dumps(statement.get("Condition", {}))
                if statement["Resource"] == [volumes]:
                    assert "AmazonECSManaged" in bound
                elif statement["Action"][0].startswith("kms:") and statement["Action"] != ["kms:DescribeKey"]:
                    assert f"ec2.{region}.amazonaws.com" in bound


@each_region
def test_what_keeps_something_is_never_there_twice(syntheses: Mapping[str, Synthesis], name: str, part: str) -> None:
    """Of a store or a node the old task ends first; agents are replaced one by one, and a bad deployment ends."""
    for service, body in services(syntheses, name, part).items():
        percent = (body["deployment_minimum_healthy_percent"], body["deployment_maximum_percent"])
        assert percent == ((100, 200) if service == "agent" else (0, 100))
        # ECS refuses to move a task to another zone where it may not run two.
        assert body["availability_zone_rebalancing"] == ("ENABLED" if service == "agent" else "DISABLED")
        assert body["deployment_circuit_breaker"] == {"enable": True, "rollback": True}
        assert body["enable_execute_command"] is False


@each_region
def test_a_service_is_made_once_it_can_start(syntheses: Mapping[str, Synthesis], name: str, part: str) -> None:
    """fails when ECS may be asked before its roles hold their policies, or before a target group has a listener."""
    stack = syntheses[name].stacks[part]["resource"]
    for service in stack["aws_ecs_service"].values():
        needed = set(service["depends_on"])
        roles = {stack["aws_ecs_task_definition"][service["task_definition"].split(".")[1]]["execution_role_arn"]}
        if "volume_configuration" in service:
            roles.add(service["volume_configuration"]["managed_ebs_volume"]["role_arn"])
        for address, policy in stack["aws_iam_role_policy"].items():
            if policy["role"].split(".")[1] in {role.split(".")[1] for role in roles}:
                assert f"aws_iam_role_policy.{address}" in needed
        for target in service["load_balancer"]:
            senders = {
                f"aws_lb_listener.{address}"
                for address, listener in stack["aws_lb_listener"].items()
                if listener["default_action"][0]["target_group_arn"] == target["target_group_arn"]
            }
            assert senders
            assert senders <= needed


@each_region
def test_servers_have_names_that_never_change(syntheses: Mapping[str, Synthesis], name: str, part: str) -> None:
    """The vector store and the queue are found in a zone of the network, at the ports that they listen on."""
    names = environment_of(name).names
    (zone,) = of(syntheses, name, part, "aws_route53_zone").values()
    assert zone["name"] == names.inner_domain
    (vpc,) = zone["vpc"]
    assert vpc["vpc_region"] == names.region(Role(part))
    (inner,) = (address for address, body in of(syntheses, name, part, "aws_lb").items() if body["internal"])
    records = {
        record["name"]: record["records"]
        for record in of(syntheses, name, part, "aws_route53_record").values()
        if record["name"].endswith(names.inner_domain)
    }
    address = [f"${{aws_lb.{inner}.dns_name}}"]
    assert records == {names.vector_host: address, names.queue_host: address}
    listened = {
        body["port"]
        for body in of(syntheses, name, part, "aws_lb_listener").values()
        if body["load_balancer_arn"] == f"${{aws_lb.{inner}.arn}}"
    }
    nodes = counts(environment_of(name), Role(part)).nodes
    routes = {6222 + number for number in range(nodes)} if nodes > 1 else set()
    assert listened == {VECTOR_SERVERS[environment_of(name).memory.store].port, 4222} | routes
    reached = {port for to, who, (port, _) in ways(syntheses, name, part, "ingress") if to == "inner"}
    assert reached == listened


@each_region
def test_the_queue_takes_its_password_from_its_secret(syntheses: Mapping[str, Synthesis], name: str, part: str) -> None:
    """The task definition names a variable that ECS takes from the secret, and holds no value."""
    names = environment_of(name).names
    secrets = of(syntheses, name, part, "aws_secretsmanager_secret")
    (address,) = (key for key, body in secrets.items() if body["name"] == names.queue_password_secret)
    for service, task in tasks(syntheses, name, part).items():
        if service.startswith("nats-"):
            node = container(task)
            expected = f"${{aws_secretsmanager_secret.{address}.arn}}"
            assert node["secrets"] == [{"name": PASSWORD, "valueFrom": expected}]
            assert node["environment"] == []
            (script,) = node["command"]
            assert json.loads(script.split("<<END\n")[1].split("\nEND\n")[0])["server_name"] == service


@each_region
def test_containers_write_to_their_folders_only(syntheses: Mapping[str, Synthesis], name: str, part: str) -> None:
    """A read-only root, a health check where the image can run one, and the settings that the functions have too."""
    for service, task in tasks(syntheses, name, part).items():
        found = container(task)
        assert found["readonlyRootFilesystem"] is True
        assert ("healthCheck" in found) is (service != "agent"), "the load balancer judges the agents"
    agent = container(tasks(syntheses, name, part)["agent"])
    told = {item["name"]: item["value"] for item in agent["environment"]}
    Settings.from_env(told)
    known = {key: value for key, value in told.items() if not value.startswith("${")}
    assert known == settings_for(environment_of(name), Role(part)).to_env()


@with_standby
def test_images_are_copied_to_where_they_are_started(syntheses: Mapping[str, Synthesis], name: str) -> None:
    """The primary's registry copies the repositories that the standby starts from; nothing else does."""
    environment = environment_of(name)
    (body,) = of(syntheses, name, "primary", "aws_ecr_replication_configuration").values()
    (rule,) = body["replication_configuration"]["rule"]
    assert rule["destination"] == [{"region": environment.regions.standby, "registry_id": environment.account}]
    copied = {item["filter"] for item in rule["repository_filter"]}
    started = {
        container(task)["image"].partition("/")[2].partition(":")[0]
        for task in tasks(syntheses, name, "standby").values()
    }
    assert copied == started
    assert not of(syntheses, name, "standby", "aws_ecr_replication_configuration")


def test_without_a_standby_nothing_is_copied(syntheses: Mapping[str, Synthesis]) -> None:
    """A sandbox has no second region that starts anything."""
    assert not of(syntheses, "sandbox", "primary", "aws_ecr_replication_configuration")


@each_region
def test_the_certificate_is_for_the_service_and_both_endpoints(
    syntheses: Mapping[str, Synthesis], name: str, part: str
) -> None:
    """One certificate, proved in the environment's zone, that the listener waits for."""
    names = environment_of(name).names
    (certificate,) = of(syntheses, name, part, "aws_acm_certificate").values()
    assert certificate["domain_name"] == names.service_host
    (wild,) = certificate["subject_alternative_names"]
    for role in Role:
        label, _, rest = names.endpoint_host(role).partition(".")
        assert (wild, label.isalpha()) == (f"*.{rest}", True)
    (validation,) = of(syntheses, name, part, "aws_acm_certificate_validation")
    (listener,) = (
        body for body in of(syntheses, name, part, "aws_lb_listener").values() if body["protocol"] == "HTTPS"
    )
    assert listener["certificate_arn"] == f"${{aws_acm_certificate_validation.{validation}.certificate_arn}}"
    assert (listener["port"], listener["ssl_policy"]) == (443, "ELBSecurityPolicy-TLS13-1-2-Res-2021-06")


@each_region
def test_load_balancers_cannot_be_removed_by_accident(syntheses: Mapping[str, Synthesis], name: str, part: str) -> None:
    """Both are protected; the public one drops what it cannot read, and asks /health."""
    for balancer in of(syntheses, name, part, "aws_lb").values():
        assert balancer["enable_deletion_protection"] is True
        if not balancer["internal"]:
            assert balancer["drop_invalid_header_fields"] is True
            assert balancer["desync_mitigation_mode"] == "defensive"
            assert "access_logs" not in balancer
    (targets,) = (
        body for body in of(syntheses, name, part, "aws_lb_target_group").values() if body["protocol"] == "HTTP"
    )
    assert targets["health_check"]["path"] == "/health"


# What an operator may choose


@pytest.mark.parametrize("part", ["primary", "standby"])
def test_an_existing_network_is_joined_and_not_changed(variants: Mapping[str, Synthesis], part: str) -> None:
    """Nothing of the VPC is made but groups: no subnet, route, gateway, endpoint or log, and no certificate."""
    made = set(variants["existing"].stacks[part]["resource"])
    ours = {"aws_vpc", "aws_subnet", "aws_route_table", "aws_nat_gateway", "aws_vpc_endpoint", "aws_flow_log"}
    assert not made & (ours | {"aws_acm_certificate", "aws_default_security_group", "aws_internet_gateway"})
    for body in services(variants, "existing", part).values():
        assert body["network_configuration"]["subnets"][0] == "subnet-0aaaaaaaaaaaaaaa0"
    (balancer,) = (body for body in of(variants, "existing", part, "aws_lb").values() if not body["internal"])
    assert balancer["subnets"] == ["subnet-0bbbbbbbbbbbbbbb0", "subnet-0bbbbbbbbbbbbbbb1"]
    logs = {"bucket": "logs-of-load-balancers", "prefix": "relight-existing", "enabled": True}
    assert balancer["access_logs"] == logs


def test_servers_of_the_operators_own_are_reached(variants: Mapping[str, Synthesis]) -> None:
    """PostgreSQL, NATS and what the file names, from agents and functions; no queue is made."""
    anywhere = {
        (who, ports[0]) for who, where, ports in ways(variants, "existing", "primary", "egress") if "/" in where
    }
    for who in ("agent", "functions"):
        assert {port for group, port in anywhere if group == who} >= {443, 4222, 5432, 6432}
    # Whose endpoints there are is not known, nor at which addresses.
    assert {port for group, port in anywhere if group == "vector"} == {443}
    assert set(services(variants, "existing", "primary")) == {"agent", "vector"}
    names = [body["name"] for body in of(variants, "existing", "primary", "aws_secretsmanager_secret").values()]
    assert "relight/existing/queue-password" not in names


@pytest.mark.parametrize("part", ["primary", "standby"])
def test_without_nat_nothing_has_a_way_to_the_internet(variants: Mapping[str, Synthesis], part: str) -> None:
    """Private subnets have endpoints and no default route, and S3 gives them the layers of images beside their own."""
    assert not of(variants, "private", part, "aws_nat_gateway")
    tables = of(variants, "private", part, "aws_route_table")
    assert sorted(len(table.get("route", [])) for table in tables.values()) == [0, 0, 1]
    (gateway,) = (
        body
        for body in of(variants, "private", part, "aws_vpc_endpoint").values()
        if body["vpc_endpoint_type"] == "Gateway"
    )
    _, layers = json.loads(gateway["policy"])["Statement"]
    region = load_named("demo").names.region(Role(part))
    assert layers["Resource"] == [f"arn:aws:s3:::prod-{region}-starport-layer-bucket/*"]


def test_an_image_from_the_internet_is_let_out_for(variants: Mapping[str, Synthesis]) -> None:
    """Only the group that pulls it; it is copied to no registry."""
    anywhere = {who for who, where, _ in ways(variants, "public", "standby", "egress") if "/" in where}
    assert anywhere == {"agent", "functions", "queue"}
    assert not of(variants, "public", "primary", "aws_ecr_replication_configuration")


@pytest.mark.parametrize(
    ("name", "service", "targets", "outputs"),
    [
        ("pods", "pods.eks.amazonaws.com", "ip", {"role", "security-group", "target-group"}),
        ("machines", "ec2.amazonaws.com", "instance", {"instance-profile", "role", "security-group", "target-group"}),
    ],
)
def test_agents_of_the_users_own_are_given_what_they_need(
    variants: Mapping[str, Synthesis], name: str, service: str, targets: str, outputs: set[str]
) -> None:
    """A role with an agent's permissions, a target group and a security group; no service of ECS and no autoscaling."""
    stack = variants[name].stacks["standby"]
    assert {key.removeprefix("agent-") for key in stack["output"] if key.startswith("agent-")} == outputs
    assert "agent" not in services(variants, name, "standby")
    assert "aws_appautoscaling_target" not in stack["resource"]
    (group,) = (item for item in stack["resource"]["aws_lb_target_group"].values() if item["protocol"] == "HTTP")
    assert group["target_type"] == targets
    role = stack["output"]["agent-role"]["value"]
    trust = json.loads(stack["resource"]["aws_iam_role"][role.split(".")[1]]["assume_role_policy"])
    assert trust["Statement"][0]["Principal"] == {"Service": service}
    (ecs,) = (item for item in of(variants, "private", "standby", "aws_iam_role").values()
              if item["name"] == "relight-private-agent-us-west-2")  # fmt: skip
    address = next(key for key, item in of(variants, "private", "standby", "aws_iam_role").items() if item is ecs)
    alike = {action for action, _ in actions_of(variants, "private", "standby", f"aws_iam_role.{address}")}
    assert {action for action, _ in actions_of(variants, name, "standby", role)} == alike


@pytest.mark.parametrize("part", ["primary", "standby"])
def test_a_vector_store_has_the_volume_that_is_asked_for(variants: Mapping[str, Synthesis], part: str) -> None:
    """`vector.storage_gib` of the file, else its default."""
    for name, gib in (("private", 77), ("public", 50)):
        volume = services(variants, name, part)["vector"]["volume_configuration"]["managed_ebs_volume"]
        assert volume["size_in_gb"] == gib


@pytest.mark.parametrize("part", ["primary", "standby"])
def test_agents_are_told_to_change_nothing(variants: Mapping[str, Synthesis], part: str) -> None:
    """fails when `read_only = true` stays in the file: each region's agents and functions get it as a setting."""
    for name, expected in (("private", True), ("public", False)):
        told = {item["name"]: item["value"] for item in container(tasks(variants, name, part)["agent"])["environment"]}
        assert Settings.from_env(told).read_only is expected
        functions = of(variants, name, part, "aws_lambda_function").values()
        settings = [body["environment"]["variables"] for body in functions]
        assert {Settings.from_env(item).read_only for item in settings} == {expected}


@pytest.mark.parametrize("part", ["primary", "standby"])
def test_what_is_too_large_for_a_function_has_an_image(variants: Mapping[str, Synthesis], part: str) -> None:
    """fails when a task would be defined without one: the agent's, or that of `large_work` where agents are yours."""
    region = load_named("demo").names.region(Role(part))
    for name, image in (("public", "agent:1"), ("pods", "worker:1"), ("machines", "worker:1")):
        (task,) = (
            body
            for body in of(variants, name, part, "aws_ecs_task_definition").values()
            if body["family"] == f"relight-{name}-work"
        )
        assert container(task)["image"] == f"000000000000.dkr.ecr.{region}.amazonaws.com/{image}"
    (copies,) = of(variants, "pods", "primary", "aws_ecr_replication_configuration").values()
    assert "worker" in json.dumps(copies)
