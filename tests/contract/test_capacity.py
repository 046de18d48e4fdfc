"""What a recovery scales: one contract, on ECS, on an EKS cluster and on an Auto Scaling group."""

from __future__ import annotations

import json
import pickle
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import boto3
import pytest
import yaml
from botocore.config import Config
from fakes import FakeClock
from kubernetes_player import KubernetesPlayer, PlayedDeployment, PlayedScaler, playing
from moto import mock_aws

from relight.adapters.aws import client
from relight.errors import AgainLaterError, DeniedError, NotFoundError, PermanentError, RelightError, UnavailableError
from relight.recovery.capacities import AutoScalingGroup, EcsService, EksDeployment
from relight.recovery.capacity import WAIT_S, Capacity, Found, Need, Raised, scale
from relight_constructs.capacity import SCALERS
from relight_drill.ecs import RUNNING_TAG

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from relight_drill.emulator import Emulator

pytestmark = pytest.mark.servers

REGION = "us-west-2"
KEY_ID, SECRET = "AKIAEXAMPLE", "a-secret-of-nobody"


@dataclass
class Platform:
    """Something that runs `asked`, and how a test plays with it."""

    capacity: Capacity
    ghost: Capacity
    """The same of a name that nothing has."""
    serve: Callable[[int], None]
    """Let so many of them serve."""
    bounds: Callable[[], tuple[int, int]]
    """Between how many the platform scales by itself."""


class CapacityContract:
    """Each backend brings a `platform` that asks for one and scales between 1 and 2 by itself."""

    def test_it_asks_for_more_and_never_for_fewer(self, platform: Platform) -> None:
        """However often it is asked, and a higher number is left alone."""
        assert platform.capacity.look().asked == 1
        for least, before in ((2, 1), (2, 2), (1, 2)):
            assert platform.capacity.raise_to(least) == Raised(before=before)
            assert platform.capacity.look().asked == 2

    def test_what_scales_by_itself_takes_none_away(self, platform: Platform) -> None:
        """fails when the minimum stays below what was asked for, or the maximum does."""
        assert platform.bounds() == (1, 2)
        platform.capacity.raise_to(2)
        assert platform.bounds() == (2, 2)
        platform.capacity.raise_to(3)
        assert platform.bounds() == (3, 3)
        platform.capacity.raise_to(1)
        assert platform.bounds() == (3, 3)

    def test_it_tells_how_many_serve(self, platform: Platform) -> None:
        """Those that were asked for and do not serve yet do not count."""
        platform.capacity.raise_to(2)
        platform.serve(1)
        assert (platform.capacity.look().asked, platform.capacity.look().serve) == (2, 1)
        platform.serve(2)
        assert platform.capacity.look() == Found(asked=2, serve=2)

    def test_a_name_that_nothing_has_is_told(self, platform: Platform) -> None:
        """fails when a recovery goes on without what it was to scale."""
        with pytest.raises(NotFoundError):
            platform.ghost.look()
        with pytest.raises(NotFoundError):
            platform.ghost.raise_to(1)


def service(emulator: Emulator, name: str, *, asked: int, serve: int | None = None) -> None:
    """An ECS service of the emulator; `serve` of its tasks run."""
    ecs = emulator.client("ecs", REGION)
    ecs.create_cluster(clusterName="capacity-test")
    ecs.register_task_definition(family="capacity-test", containerDefinitions=[{"name": "a", "image": "a"}])
    ecs.create_service(cluster="capacity-test", serviceName=name, taskDefinition="capacity-test", desiredCount=asked)
    run(emulator, name, asked if serve is None else serve)


def run(emulator: Emulator, name: str, count: int) -> None:
    """Let so many tasks of a service run."""
    arn = f"arn:aws:ecs:{REGION}:{emulator.account}:service/capacity-test/{name}"
    emulator.client("ecs", REGION).tag_resource(resourceArn=arn, tags=[{"key": RUNNING_TAG, "value": str(count)}])


def of_ecs(emulator: Emulator, name: str, *, scales: bool = False) -> EcsService:
    scaling = emulator.client("application-autoscaling", REGION) if scales else None
    return EcsService(emulator.client("ecs", REGION), scaling, cluster="capacity-test", service=name)


class TestEcs(CapacityContract):
    """A service within the bounds of Application Auto Scaling, on the emulator."""

    @pytest.fixture
    def platform(self, emulator: Emulator, request: pytest.FixtureRequest) -> Platform:
        name = request.node.name.replace("_", "-")[:60]
        service(emulator, name, asked=1)
        scaling = emulator.client("application-autoscaling", REGION)
        target = f"service/capacity-test/{name}"
        scaling.register_scalable_target(
            ServiceNamespace="ecs",
            ResourceId=target,
            ScalableDimension="ecs:service:DesiredCount",
            MinCapacity=1,
            MaxCapacity=2,
        )

        def bounds() -> tuple[int, int]:
            (found,) = scaling.describe_scalable_targets(ServiceNamespace="ecs", ResourceIds=[target])[
                "ScalableTargets"
            ]
            return found["MinCapacity"], found["MaxCapacity"]

        return Platform(
            capacity=of_ecs(emulator, name, scales=True),
            ghost=of_ecs(emulator, f"{name}-ghost", scales=True),
            serve=lambda count: run(emulator, name, count),
            bounds=bounds,
        )

    def test_a_service_that_nobody_scales_is_only_asked(self, emulator: Emulator) -> None:
        """A vector store, or a service whose autoscaling was removed: nothing is registered for it."""
        service(emulator, "unbounded", asked=0)
        assert of_ecs(emulator, "unbounded", scales=True).raise_to(1) == Raised(before=0)
        assert of_ecs(emulator, "unbounded").look().asked == 1
        scaling = emulator.client("application-autoscaling", REGION)
        found = scaling.describe_scalable_targets(
            ServiceNamespace="ecs", ResourceIds=["service/capacity-test/unbounded"]
        )
        assert found["ScalableTargets"] == []

    def test_a_service_that_is_being_removed_is_none(self, emulator: Emulator) -> None:
        """fails when tasks are asked of a service that drains: none would start."""
        service(emulator, "leaving", asked=0)
        emulator.client("ecs", REGION).delete_service(cluster="capacity-test", service="leaving", force=True)
        with pytest.raises(NotFoundError):
            of_ecs(emulator, "leaving").raise_to(1)


def at(service: str, url: str | None) -> Any:
    """A client of a server that is not AWS's; without one, of moto."""
    config = Config(retries={"total_max_attempts": 1})
    return boto3.client(
        service,  # type: ignore[call-overload]
        region_name=REGION,
        endpoint_url=url,
        aws_access_key_id=KEY_ID,
        aws_secret_access_key=SECRET,
        config=config,
    )


class TestAutoScaling(CapacityContract):
    """A group of machines, whose own minimum and maximum are the bounds."""

    @pytest.fixture
    def autoscaling(self) -> Iterator[Any]:
        with mock_aws():
            yield at("autoscaling", None)

    @pytest.fixture
    def platform(self, autoscaling: Any) -> Platform:
        group = "agents"
        autoscaling.create_launch_configuration(
            LaunchConfigurationName=f"{group}-l", ImageId="ami-12c6146b", InstanceType="t3.micro"
        )
        autoscaling.create_auto_scaling_group(
            AutoScalingGroupName=group,
            LaunchConfigurationName=f"{group}-l",
            MinSize=1,
            MaxSize=2,
            DesiredCapacity=1,
            AvailabilityZones=[f"{REGION}a"],
        )

        def found() -> dict[str, Any]:
            groups = autoscaling.describe_auto_scaling_groups(AutoScalingGroupNames=[group])["AutoScalingGroups"]
            return dict(groups[0])

        def serve(count: int) -> None:
            for number, machine in enumerate(found()["Instances"]):
                status = "Healthy" if number < count else "Unhealthy"
                autoscaling.set_instance_health(InstanceId=machine["InstanceId"], HealthStatus=status)

        return Platform(
            capacity=AutoScalingGroup(autoscaling, group=group),
            ghost=AutoScalingGroup(autoscaling, group=f"{group}-ghost"),
            serve=serve,
            bounds=lambda: (found()["MinSize"], found()["MaxSize"]),
        )

    def test_a_group_that_may_not_start_machines_says_so(self, platform: Platform, autoscaling: Any) -> None:
        """Somebody has suspended it, which the wait for its machines must name."""
        autoscaling.suspend_processes(AutoScalingGroupName="agents", ScalingProcesses=["Launch"])
        assert platform.capacity.look().said == "the process Launch is suspended"


@pytest.fixture
def player() -> KubernetesPlayer:
    """A cluster with one Deployment, scaled by an autoscaler beside that of another."""
    return KubernetesPlayer(
        cluster="agents",
        key_id=KEY_ID,
        secret=SECRET,
        region=REGION,
        deployments={"agent": PlayedDeployment(), "other": PlayedDeployment()},
        scalers={
            "another": PlayedScaler(target="other"),
            "a-stateful-set's": PlayedScaler(target="agent", kind="StatefulSet"),
            "agent": PlayedScaler(target="agent", most=2),
        },
    )


def of_eks(eks: str, *, cluster: str = "agents", deployment: str = "agent", secret: str = SECRET) -> EksDeployment:
    """The Deployment, as a caller with the key sees it."""
    session = boto3.Session(aws_access_key_id=KEY_ID, aws_secret_access_key=secret, region_name=REGION)
    return EksDeployment(
        at("eks", eks),
        client("sts", REGION, session=session),
        cluster=cluster,
        namespace="default",
        deployment=deployment,
    )


@pytest.fixture(autouse=True)
def _no_endpoint(monkeypatch: pytest.MonkeyPatch) -> None:
    """The request to STS is signed for AWS's own address, and sent by nobody."""
    monkeypatch.delenv("AWS_ENDPOINT_URL", raising=False)


class TestEks(CapacityContract):
    """A Deployment and its HorizontalPodAutoscaler, through the cluster's own API."""

    @pytest.fixture
    def eks(self, player: KubernetesPlayer) -> Iterator[str]:
        with playing(player) as url:
            yield url

    @pytest.fixture
    def platform(self, player: KubernetesPlayer, eks: str) -> Platform:
        def serve(count: int) -> None:
            player.deployments["agent"].ready = lambda _: count

        def bounds() -> tuple[int, int]:
            return player.scalers["agent"].least, player.scalers["agent"].most

        return Platform(capacity=of_eks(eks), ghost=of_eks(eks, deployment="ghost"), serve=serve, bounds=bounds)

    def test_only_the_scale_and_the_autoscaler_of_the_one_deployment_are_changed(
        self, platform: Platform, player: KubernetesPlayer
    ) -> None:
        """Nothing of the Deployment itself, of another, or of what scales another kind of the same name."""
        platform.capacity.raise_to(2)
        assert player.patched() == [
            ("default/deployments/agent/scale", {"metadata": {"resourceVersion": "1"}, "spec": {"replicas": 2}}),
            (
                "default/horizontalpodautoscalers/agent",
                {"metadata": {"resourceVersion": "1"}, "spec": {"minReplicas": 2, "maxReplicas": 2}},
            ),
        ]

    def test_a_deployment_of_none_is_started(self, platform: Platform, player: KubernetesPlayer) -> None:
        """A cold standby's: Kubernetes leaves a number of none out of its answer."""
        player.deployments["agent"].replicas = 0
        assert platform.capacity.look() == Found(asked=0, serve=0)
        platform.capacity.raise_to(3)
        assert player.deployments["agent"].replicas == 3

    def test_a_change_in_between_is_looked_at(self, platform: Platform, player: KubernetesPlayer) -> None:
        """fails when an autoscaler that raised the number meanwhile is overwritten with fewer."""

        def another(cluster: KubernetesPlayer) -> None:
            cluster.before_patch = lambda _: None
            cluster.deployments["agent"].replicas, cluster.deployments["agent"].version = 5, 2

        player.before_patch = another
        platform.capacity.raise_to(2)
        assert player.deployments["agent"].replicas == 5

    def test_what_always_changes_is_given_up(self, platform: Platform, player: KubernetesPlayer) -> None:
        """It is tried again by whoever called, not for ever."""

        def always(cluster: KubernetesPlayer) -> None:
            cluster.deployments["agent"].version += 1

        player.before_patch = always
        with pytest.raises(UnavailableError, match="look what else scales it"):
            platform.capacity.raise_to(2)
        assert len(player.patched()) == 5

    def test_agents_start_also_where_the_autoscaler_may_not_be_looked_at(
        self, platform: Platform, player: KubernetesPlayer
    ) -> None:
        """fails when a right that is missing there keeps a recovery from its agents; a person is told."""
        player.forbidden = ("horizontalpodautoscalers",)
        warning = platform.capacity.raise_to(2).warning
        assert player.deployments["agent"].replicas == 2
        assert "403" in warning
        found = scale([Need(name="agents", capacity=platform.capacity, least=2)], clock=FakeClock())
        assert found["agents"]["warning"] == warning

    def test_what_the_documents_bind_is_what_it_needs(self, platform: Platform, player: KubernetesPlayer) -> None:
        """fails when a cluster that was prepared as docs/capacity.md says refuses a recovery, or is asked to allow
        more than a recovery does."""
        text = (Path(__file__).parents[2] / "docs" / "capacity.md").read_text()
        role, binding = yaml.safe_load_all(text.partition("```yaml\n")[2].partition("```")[0])
        assert binding["roleRef"]["name"] == role["metadata"]["name"]
        assert [(item["kind"], item["name"]) for item in binding["subjects"]] == [("Group", SCALERS)]
        player.rules = role["rules"]
        platform.capacity.look()
        assert platform.capacity.raise_to(2) == Raised(before=1)
        for rule in role["rules"]:
            for verb in rule["verbs"]:
                less = {**rule, "verbs": [item for item in rule["verbs"] if item != verb]}
                player.rules = [less if item is rule else item for item in role["rules"]]
                player.deployments["agent"].replicas, player.scalers["agent"].least = 1, 1
                try:
                    platform.capacity.look()
                    assert "403" in platform.capacity.raise_to(2).warning, (
                        f"{verb} of {rule['resources']} is not needed"
                    )
                except DeniedError:
                    pass

    def test_the_platforms_own_reason_is_told(self, platform: Platform, player: KubernetesPlayer) -> None:
        """A quota that is used up, an image that cannot be pulled: what the Deployment says of it."""
        player.deployments["agent"].conditions = [
            {"type": "Available", "status": "True", "message": "well"},
            {"type": "Progressing", "status": "False", "message": "has timed out progressing"},
            {"type": "ReplicaFailure", "status": "True", "message": "exceeded quota"},
        ]
        assert platform.capacity.look().said == "has timed out progressing; exceeded quota"

    def test_a_token_is_for_one_cluster_and_one_role(self, eks: str, player: KubernetesPlayer) -> None:
        """fails when a token would be taken by another cluster, or was signed by somebody else; it is shown nowhere."""
        player.cluster = "another"
        with pytest.raises(NotFoundError, match="No cluster found"):
            of_eks(eks).look()
        player.cluster = "agents"
        with pytest.raises(DeniedError, match="access entry") as caught:
            of_eks(eks, secret="another").look()
        assert "k8s-aws-v1" not in str(caught.value)
        assert "Signature" not in str(caught.value)
        assert isinstance(pickle.loads(pickle.dumps(caught.value)), DeniedError)
        of_eks(eks).look()

    def test_who_has_no_access_entry_is_told_what_to_make(self, eks: str, player: KubernetesPlayer) -> None:
        """And who has one, and no right in the cluster, which."""
        player.access = False
        with pytest.raises(DeniedError, match="give the role of the function an access entry"):
            of_eks(eks).raise_to(2)
        player.access, player.forbidden = True, ("/scale",)
        with pytest.raises(DeniedError, match=r"docs/capacity\.md"):
            of_eks(eks).raise_to(2)

    @pytest.mark.parametrize(
        ("status", "kind"),
        [
            *((status, UnavailableError) for status in (408, 429, 500, 503)),
            *((status, PermanentError) for status in (400, 422)),
            (404, NotFoundError),
        ],
    )
    def test_what_passes_is_told_from_what_does_not(
        self, eks: str, player: KubernetesPlayer, status: int, kind: type[RelightError]
    ) -> None:
        """A state machine tries again by the class."""
        player.failing = [status]
        with pytest.raises(kind) as caught:
            of_eks(eks).look()
        assert type(caught.value) is kind

    def test_a_cluster_that_is_being_made_has_no_api(self, eks: str, player: KubernetesPlayer) -> None:
        """It is worth another try."""
        player.status = "CREATING"
        with pytest.raises(UnavailableError, match="is CREATING, and has no API yet"):
            of_eks(eks).look()

    def test_a_token_goes_nowhere_else(self, eks: str, player: KubernetesPlayer) -> None:
        """fails when the client follows a redirect with the token in its hand."""
        other = KubernetesPlayer(cluster="agents", key_id=KEY_ID, secret=SECRET, deployments=player.deployments)
        with playing(other) as elsewhere:
            player.redirect = f"{elsewhere}/"
            with pytest.raises(PermanentError, match="307"):
                of_eks(eks).look()
        assert other.calls == []

    def test_a_server_of_another_authority_or_name_gets_no_token(self, player: KubernetesPlayer) -> None:
        """fails when somebody in between could take it."""
        with playing(player, names=("somebody.example",)) as eks, pytest.raises(UnavailableError, match="SSLError"):
            of_eks(eks).look()
        assert player.calls == []


# The state of the recovery, on services of the emulator


class Passing(FakeClock):
    """Time in which something happens: `then` is called at each look that is waited for."""

    def __init__(self, then: Callable[[], None] = lambda: None) -> None:
        super().__init__()
        self._then = then

    def sleep(self, seconds: float) -> None:
        super().sleep(seconds)
        self._then()


def test_a_recovery_waits_until_one_of_each_serves(emulator: Emulator) -> None:
    """All are asked first; what it did is told, and the second time nothing is changed."""
    for name in ("vector-a", "agents-a"):
        service(emulator, name, asked=0)
    needs = [
        Need(name=name, capacity=of_ecs(emulator, f"{name}-a"), least=least)
        for name, least in (("vector", 1), ("agents", 3))
    ]
    started = iter(["vector-a", "agents-a"])
    done = scale(needs, clock=Passing(lambda: run(emulator, next(started), 1)))
    assert done == {
        "vector": {"before": 0, "desired": 1, "serve": 1},
        "agents": {"before": 0, "desired": 3, "serve": 1},
    }
    assert scale(needs, clock=Passing(lambda: pytest.fail("nothing to wait for")))["agents"]["before"] == 3


def test_what_takes_longer_is_asked_for_again(emulator: Emulator) -> None:
    """It says for what it waits, and by then everything was asked for."""
    service(emulator, "vector-b", asked=0)
    service(emulator, "agents-b", asked=1)
    clock = Passing()
    needs = [Need(name=name, capacity=of_ecs(emulator, f"{name}-b"), least=2) for name in ("vector", "agents")]
    began = clock.monotonic()
    with pytest.raises(AgainLaterError, match="vector: 0 of 2 serve, and 1 must") as caught:
        scale(needs, clock=clock)
    assert "agents" not in caught.value.problem
    assert clock.monotonic() - began <= WAIT_S
    assert [need.capacity.look().asked for need in needs] == [2, 2]


def test_one_that_cannot_be_asked_keeps_no_other_from_it(emulator: Emulator) -> None:
    """fails when a service that was removed leaves the region without agents."""
    service(emulator, "agents-c", asked=0)
    needs = [Need(name=name, capacity=of_ecs(emulator, f"{name}-c"), least=1) for name in ("vector", "agents")]
    with pytest.raises(NotFoundError, match="there is no service 'vector-c'"):
        scale(needs, clock=Passing())
    assert needs[1].capacity.look().asked == 1


def test_who_may_not_scale_is_told(emulator: Emulator) -> None:
    """fails when a permission that is missing looks like anything else, which would be tried again in vain."""
    service(emulator, "forbidden", asked=0)
    iam = emulator.client("iam", REGION)
    trust = {
        "Effect": "Allow",
        "Principal": {"AWS": f"arn:aws:iam::{emulator.account}:root"},
        "Action": "sts:AssumeRole",
    }
    document = json.dumps({"Version": "2012-10-17", "Statement": [trust]})
    arn = iam.create_role(RoleName="capacity-test", AssumeRolePolicyDocument=document)["Role"]["Arn"]
    given = emulator.client("sts", REGION).assume_role(RoleArn=arn, RoleSessionName="test")["Credentials"]
    ecs = boto3.client(
        "ecs",
        region_name=REGION,
        endpoint_url=emulator.url,
        aws_access_key_id=given["AccessKeyId"],
        aws_secret_access_key=given["SecretAccessKey"],
        aws_session_token=given["SessionToken"],
    )
    with pytest.raises(DeniedError):
        EcsService(ecs, None, cluster="capacity-test", service="forbidden").raise_to(1)
