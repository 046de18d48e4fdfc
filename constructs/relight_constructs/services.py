"""The containers of a region: a cluster, and Fargate services on it."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from relight_constructs.bindings import (
    AppautoscalingPolicy,
    AppautoscalingPolicyTargetTrackingScalingPolicyConfiguration,
    AppautoscalingPolicyTargetTrackingScalingPolicyConfigurationPredefinedMetricSpecification,
    AppautoscalingTarget,
    Construct,
    EcsCluster,
    EcsClusterSetting,
    EcsService,
    EcsServiceDeploymentCircuitBreaker,
    EcsServiceLoadBalancer,
    EcsServiceNetworkConfiguration,
    EcsServiceVolumeConfiguration,
    EcsServiceVolumeConfigurationManagedEbsVolume,
    EcsTaskDefinition,
    EcsTaskDefinitionVolume,
    IamInstanceProfile,
    TerraformResourceLifecycle,
)
from relight_constructs.logs import LogGroup
from relight_constructs.policies import Statement, trust_own, trust_tasks, trust_volumes
from relight_constructs.pull import grant_pull
from relight_constructs.role import Role

if TYPE_CHECKING:
    from relight_constructs.bindings import ITerraformDependable
    from relight_constructs.policies import Grantee
    from relight_constructs.props import (
        AutoscalingProps,
        ClusterProps,
        OwnAgentsProps,
        Place,
        ServiceProps,
        VolumeProps,
    )

SCALE_ACTIONS = ("ecs:DescribeServices", "ecs:UpdateService")

BOUND_ACTIONS = ("application-autoscaling:RegisterScalableTarget",)
LOOK_AT_BOUNDS_ACTIONS = ("application-autoscaling:DescribeScalableTargets",)

# What ECS does to the volumes of tasks, which it marks with two tags of its own. Source: the managed policy
# AmazonECSInfrastructureRolePolicyForVolumes, without what it allows for volumes from snapshots and on EC2's instances.
CREATE_VOLUME_ACTIONS = ("ec2:CreateVolume",)
MARK_VOLUME_ACTIONS = ("ec2:CreateTags",)
ATTACH_VOLUME_ACTIONS = ("ec2:AttachVolume", "ec2:DetachVolume")
DELETE_VOLUME_ACTIONS = ("ec2:DeleteVolume",)
LOOK_AT_VOLUMES_ACTIONS = ("ec2:DescribeAvailabilityZones", "ec2:DescribeVolumes")
GRANT_KEY_ACTIONS = ("kms:CreateGrant",)
DATA_KEY_ACTIONS = ("kms:GenerateDataKeyWithoutPlaintext",)
LOOK_AT_KEY_ACTIONS = ("kms:DescribeKey",)

PODS = "pods.eks.amazonaws.com"
MACHINES = "ec2.amazonaws.com"

# What an agent may take to start before the load balancer's opinion of it counts. Without it ECS may end, again and
# again, a task that was asked too early.
HEALTH_GRACE_S = 120


class Cluster(Construct):
    """Define a cluster that reports its metrics.

    Container Insights makes its log group by itself where there is none, without our key, and outside Terraform.
    """

    def __init__(self, scope: Construct, id_: str, props: ClusterProps) -> None:
        super().__init__(scope, id_)
        self.name = props.name
        self.arn = f"arn:aws:ecs:{props.place.region}:{props.place.account}:cluster/{props.name}"
        log_group = LogGroup(
            self,
            "insights",
            place=props.place,
            name=f"/aws/ecs/containerinsights/{props.name}/performance",
            key=props.logs_key,
            retention_days=props.log_retention_days,
        )
        self._cluster = EcsCluster(
            self,
            "cluster",
            name=props.name,
            setting=[EcsClusterSetting(name="containerInsights", value="enabled")],
            depends_on=[log_group.resource],
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
        grant_pull(props.image, execution)
        for secret in props.secrets.values():
            secret.grant_read(execution)
        volumes = [EcsTaskDefinitionVolume(name=_volume(path)) for path in props.writable]
        # ECS pulls, reads secrets and attaches volumes under roles that must be allowed to by then, and registers with
        # target groups that a listener sends to.
        needed: list[ITerraformDependable] = [*execution.policies, *(target.listener for target in props.targets)]
        if props.volume is not None:
            volumes.append(EcsTaskDefinitionVolume(name=_volume(props.volume.path), configure_at_launch=True))
            attaching = _volumes_role(self, place, props.name, props.volume)
            needed += attaching.policies
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
            volume=volumes,
            container_definitions=json.dumps([_container(props, log_group)], separators=(",", ":")),
        )
        service = EcsService(
            self,
            "service",
            name=props.name,
            cluster=props.cluster.id,
            task_definition=task.arn,
            desired_count=props.desired_count,
            launch_type="FARGATE",
            platform_version="LATEST",
            enable_execute_command=False,
            # A deployment whose tasks do not stay up ends, and the one before it comes back.
            deployment_circuit_breaker=EcsServiceDeploymentCircuitBreaker(enable=True, rollback=True),
            deployment_minimum_healthy_percent=0 if props.alone else 100,
            deployment_maximum_percent=100 if props.alone else 200,
            # It starts a task before it ends the other.
            availability_zone_rebalancing="DISABLED" if props.alone else "ENABLED",
            network_configuration=EcsServiceNetworkConfiguration(
                subnets=list(props.network.subnet_ids),
                security_groups=list(props.network.security_group_ids),
                assign_public_ip=False,
            ),
            load_balancer=[
                EcsServiceLoadBalancer(
                    container_name=props.name, container_port=target.port, target_group_arn=target.arn
                )
                for target in props.targets
            ]
            or None,
            health_check_grace_period_seconds=HEALTH_GRACE_S if props.targets else None,
            volume_configuration=None
            if props.volume is None
            else EcsServiceVolumeConfiguration(
                name=_volume(props.volume.path),
                managed_ebs_volume=EcsServiceVolumeConfigurationManagedEbsVolume(
                    role_arn=attaching.arn,
                    encrypted=True,
                    kms_key_id=props.volume.key.arn,
                    size_in_gb=props.volume.size_gib,
                    volume_type="gp3",
                    file_system_type="xfs",
                ),
            ),
            # How many run is the recovery's to decide once the service exists.
            lifecycle=TerraformResourceLifecycle(ignore_changes=["desired_count"]),
            depends_on=needed,
        )
        # How Application Auto Scaling calls it, once it is there.
        self.scaling_id = f"service/{props.cluster.name}/{service.name}"

    def allow(self, name: str, *statements: Statement) -> None:
        """Add one policy to the role that the container runs under."""
        self._role.allow(name, *statements)

    def grant_scale(self, grantee: Grantee) -> None:
        """Change and watch how many run.

        AWS authorizes this by the service. The drill's emulator does by the cluster, which is no resource of these
        actions in AWS and so allows nothing there.
        """
        grantee.allow(f"scale-{self.name}", Statement(actions=SCALE_ACTIONS, resources=(self.arn, self.cluster_arn)))


class Autoscaling(Construct):
    """Define how many tasks of a service run while it serves.

    A recovery raises the least number, so that it is not undone: a later deployment leaves that alone.
    """

    def __init__(self, scope: Construct, id_: str, props: AutoscalingProps) -> None:
        super().__init__(scope, id_)
        self._name = props.service.name
        self._target = target = AppautoscalingTarget(
            self,
            "target",
            service_namespace="ecs",
            scalable_dimension="ecs:service:DesiredCount",
            resource_id=props.service.scaling_id,
            min_capacity=props.least,
            max_capacity=props.most,
            lifecycle=TerraformResourceLifecycle(ignore_changes=["min_capacity"]),
        )
        AppautoscalingPolicy(
            self,
            "policy",
            name=f"{props.service.name}-cpu",
            policy_type="TargetTrackingScaling",
            service_namespace=target.service_namespace,
            scalable_dimension=target.scalable_dimension,
            resource_id=target.resource_id,
            target_tracking_scaling_policy_configuration=AppautoscalingPolicyTargetTrackingScalingPolicyConfiguration(
                target_value=props.cpu_percent,
                predefined_metric_specification=AppautoscalingPolicyTargetTrackingScalingPolicyConfigurationPredefinedMetricSpecification(
                    predefined_metric_type="ECSServiceAverageCPUUtilization"
                ),
                scale_in_cooldown=300,
                scale_out_cooldown=60,
            ),
        )

    def grant_scale(self, grantee: Grantee) -> None:
        """Raise the least number; beside the service's own grant, which AWS asks whoever changes its bounds for."""
        grantee.allow(
            f"bounds-{self._name}",
            Statement(actions=BOUND_ACTIONS, resources=(self._target.arn,)),
            Statement(actions=LOOK_AT_BOUNDS_ACTIONS, resources=("*",)),
        )


class OwnAgents(Construct):
    """Define the role of agents that ECS does not run: pods take it on by EKS Pod Identity, machines by their profile.
    It is a Grantee."""

    def __init__(self, scope: Construct, id_: str, props: OwnAgentsProps) -> None:
        super().__init__(scope, id_)
        self._role = Role(self, "role", name=props.place.role_name("agent"), trust=trust_own(props.service))
        self.profile_name: str | None = None
        if props.service == MACHINES:
            name = props.place.role_name("agent")
            self.profile_name = IamInstanceProfile(self, "profile", name=name, role=self._role.name).name

    @property
    def role_arn(self) -> str:
        """A reference to the role's ARN."""
        return self._role.arn

    def allow(self, name: str, *statements: Statement) -> None:
        """Add one policy to the role."""
        self._role.allow(name, *statements)


def _container(props: ServiceProps, log_group: LogGroup) -> dict[str, Any]:
    folders = [*props.writable, *([] if props.volume is None else [props.volume.path])]
    container: dict[str, Any] = {
        "name": props.name,
        "image": props.image,
        "essential": True,
        "readonlyRootFilesystem": True,
        "portMappings": [{"containerPort": port, "protocol": "tcp"} for port in props.ports],
        "environment": [{"name": name, "value": value} for name, value in sorted(props.environment.items())],
        "secrets": [{"name": name, "valueFrom": secret.arn} for name, secret in sorted(props.secrets.items())],
        "mountPoints": [{"sourceVolume": _volume(path), "containerPath": path} for path in folders],
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
            # What keeps something loses it with its task: it is given longer.
            "retries": 3 if props.volume is None else 10,
            "startPeriod": HEALTH_GRACE_S,
        }
    if props.entry_point:
        container["entryPoint"] = list(props.entry_point)
    if props.command:
        container["command"] = list(props.command)
    return container


def _volume(path: str) -> str:
    return path.strip("/").replace("/", "-")


def _volumes_role(scope: Construct, place: Place, service: str, volume: VolumeProps) -> Role:
    """The role under which ECS makes a volume for each task, and deletes it."""
    role = Role(scope, "volumes", name=place.role_name(f"{service}-volumes"), trust=trust_volumes())
    volumes = (f"arn:aws:ec2:{place.region}:{place.account}:volume/*",)
    tasks = f"arn:aws:ecs:{place.region}:{place.account}:task/*"
    made = {"ArnLike": {"aws:RequestTag/AmazonECSCreated": tasks}}
    marked = {"aws:RequestTag/AmazonECSManaged": "true"}
    role.allow(
        "volumes",
        Statement(actions=CREATE_VOLUME_ACTIONS, resources=volumes, condition={**made, "StringEquals": marked}),
        Statement(
            actions=MARK_VOLUME_ACTIONS,
            resources=volumes,
            condition={**made, "StringEquals": {**marked, "ec2:CreateAction": "CreateVolume"}},
        ),
        Statement(
            actions=ATTACH_VOLUME_ACTIONS,
            resources=volumes,
            condition={"StringEquals": {"aws:ResourceTag/AmazonECSManaged": "true"}},
        ),
        Statement(
            actions=DELETE_VOLUME_ACTIONS,
            resources=volumes,
            condition={
                "ArnLike": {"aws:ResourceTag/AmazonECSCreated": tasks},
                "StringEquals": {"aws:ResourceTag/AmazonECSManaged": "true"},
            },
        ),
        Statement(actions=LOOK_AT_VOLUMES_ACTIONS, resources=("*",)),
    )
    # EC2 encrypts with the key on behalf of ECS, and nobody under this role does by himself.
    through = {
        "StringEquals": {
            "kms:CallerAccount": place.account,
            "kms:ViaService": f"ec2.{place.region}.amazonaws.com",
        },
        "ForAnyValue:StringEquals": {"kms:EncryptionContextKeys": "aws:ebs:id"},
    }
    key = (volume.key.arn,)
    role.allow(
        "encrypt",
        Statement(actions=LOOK_AT_KEY_ACTIONS, resources=key),
        Statement(actions=DATA_KEY_ACTIONS, resources=key, condition=through),
        Statement(
            actions=GRANT_KEY_ACTIONS,
            resources=key,
            condition={**through, "Bool": {"kms:GrantIsForAWSResource": "true"}},
        ),
    )
    return role
