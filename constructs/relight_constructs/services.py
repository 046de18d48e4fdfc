"""The containers of a region: a cluster, and Fargate services on it."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any

from relight_constructs.bindings import (
    Construct,
    EcsCluster,
    EcsClusterSetting,
    EcsService,
    EcsServiceLoadBalancer,
    EcsServiceNetworkConfiguration,
    EcsTaskDefinition,
    EcsTaskDefinitionVolume,
    TerraformResourceLifecycle,
)
from relight_constructs.logs import LogGroup
from relight_constructs.policies import Statement, metrics, trust_tasks
from relight_constructs.role import Role

if TYPE_CHECKING:
    from relight_constructs.policies import Grantee
    from relight_constructs.props import ClusterProps, ServiceProps

SCALE_ACTIONS = ("ecs:DescribeServices", "ecs:UpdateService")
PULL_ACTIONS = ("ecr:BatchCheckLayerAvailability", "ecr:BatchGetImage", "ecr:GetDownloadUrlForLayer")

# What an agent may take to start before the load balancer's opinion of it counts. Without it ECS may end, again and
# again, a task that was asked too early.
HEALTH_GRACE_S = 60

_ECR = re.compile(r"(?P<account>[0-9]{12})\.dkr\.ecr\.(?P<region>[a-z0-9-]+)\.amazonaws\.com/(?P<repository>[^:@]+)")


class Cluster(Construct):
    """Define a cluster that reports its metrics."""

    def __init__(self, scope: Construct, id_: str, props: ClusterProps) -> None:
        super().__init__(scope, id_)
        self.name = props.name
        self.arn = f"arn:aws:ecs:{props.place.region}:{props.place.account}:cluster/{props.name}"
        self._cluster = EcsCluster(
            self,
            "cluster",
            name=props.name,
            setting=[EcsClusterSetting(name="containerInsights", value="enabled")],
        )

    @property
    def id(self) -> str:
        """A reference to it."""
        return self._cluster.id


class Service(Construct):
    """Define a Fargate service of one container. It is a Grantee: grants go to the container's role."""

    def __init__(self, scope: Construct, id_: str, props: ServiceProps) -> None:
        super().__init__(scope, id_)
        place = props.place
        self.name = props.name
        self.cluster_arn = props.cluster.arn
        self.arn = f"arn:aws:ecs:{place.region}:{place.account}:service/{props.cluster.name}/{props.name}"
        tasks = trust_tasks(account=place.account, region=place.region)
        self._role = Role(self, "role", name=place.role_name(props.name), trust=tasks)
        execution = Role(self, "execution", name=place.role_name(f"{props.name}-execution"), trust=tasks)
        log_group = LogGroup(
            self,
            "log",
            place=place,
            name=f"/relight/{props.family}",
            key=props.logs_key,
            retention_days=props.log_retention_days,
        )
        log_group.grant_write(execution)
        _grant_pull(props.image, execution)
        for secret in props.secrets.values():
            secret.grant_read(execution)
        task = EcsTaskDefinition(
            self,
            "task",
            family=props.family,
            cpu=str(props.cpu),
            memory=str(props.memory),
            network_mode="awsvpc",
            requires_compatibilities=["FARGATE"],
            task_role_arn=self._role.arn,
            execution_role_arn=execution.arn,
            volume=[EcsTaskDefinitionVolume(name=_volume(path)) for path in props.writable],
            container_definitions=json.dumps([_container(props, log_group)], separators=(",", ":")),
        )
        EcsService(
            self,
            "service",
            name=props.name,
            cluster=props.cluster.id,
            task_definition=task.arn,
            desired_count=props.desired_count,
            launch_type="FARGATE",
            platform_version="LATEST",
            network_configuration=EcsServiceNetworkConfiguration(
                subnets=list(props.network.subnet_ids),
                security_groups=list(props.network.security_group_ids),
                assign_public_ip=False,
            ),
            load_balancer=None
            if props.target_group_arn is None
            else [
                EcsServiceLoadBalancer(
                    container_name=props.name,
                    container_port=props.port,
                    target_group_arn=props.target_group_arn,
                )
            ],
            health_check_grace_period_seconds=None if props.target_group_arn is None else HEALTH_GRACE_S,
            # How many run is the recovery's to decide once the service exists.
            lifecycle=TerraformResourceLifecycle(ignore_changes=["desired_count"]),
        )

    def allow(self, name: str, *statements: Statement) -> None:
        """Add one policy to the role that the container runs under."""
        self._role.allow(name, *statements)

    def allow_metrics(self, namespace: str) -> None:
        """Let the container publish metrics of one namespace."""
        self.allow("metrics", metrics(namespace))

    def grant_scale(self, grantee: Grantee) -> None:
        """Change and watch how many run.

        AWS authorizes this by the service. The drill's emulator does by the cluster, which is no resource of these
        actions in AWS and so allows nothing there.
        """
        grantee.allow(f"scale-{self.name}", Statement(actions=SCALE_ACTIONS, resources=(self.arn, self.cluster_arn)))


def _container(props: ServiceProps, log_group: LogGroup) -> dict[str, Any]:
    container: dict[str, Any] = {
        "name": props.name,
        "image": props.image,
        "essential": True,
        "readonlyRootFilesystem": True,
        "portMappings": [{"containerPort": props.port, "protocol": "tcp"}],
        "environment": [{"name": name, "value": value} for name, value in sorted(props.environment.items())],
        "secrets": [{"name": name, "valueFrom": secret.arn} for name, secret in sorted(props.secrets.items())],
        "mountPoints": [{"sourceVolume": _volume(path), "containerPath": path} for path in props.writable],
        "logConfiguration": {
            "logDriver": "awslogs",
            "options": {
                "awslogs-group": log_group.name,
                "awslogs-region": props.place.region,
                "awslogs-stream-prefix": props.name,
            },
        },
    }
    if props.health_command is not None:
        container["healthCheck"] = {
            "command": ["CMD-SHELL", props.health_command],
            "interval": 10,
            "timeout": 5,
            "retries": 3,
        }
    if props.command:
        container["command"] = list(props.command)
    return container


def _volume(path: str) -> str:
    return path.strip("/").replace("/", "-")


def _grant_pull(image: str, execution: Role) -> None:
    """An image of our own registry needs permission; any other is pulled without."""
    found = _ECR.match(image)
    if found is None:
        return
    repository = f"arn:aws:ecr:{found['region']}:{found['account']}:repository/{found['repository']}"
    execution.allow(
        "pull",
        Statement(actions=PULL_ACTIONS, resources=(repository,)),
        Statement(actions=("ecr:GetAuthorizationToken",), resources=("*",)),
    )
