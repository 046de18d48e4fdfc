"""What runs agents and servers, as recoveries scale it: ECS services, Deployments of EKS, EC2 Auto Scaling groups."""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING, Any, TypeAlias

from relight.adapters import aws
from relight.adapters.kubernetes import Kubernetes, token_for
from relight.errors import ConflictError, DeniedError, NotFoundError, UnavailableError
from relight.recovery.capacity import Found, Raised

if TYPE_CHECKING:
    from collections.abc import Callable

# Of what is there: what to merge into it, None for nothing.
_Change: TypeAlias = "Callable[[dict[str, Any]], dict[str, Any] | None]"

# What is changed is compared first: somebody else's change in between is looked at, and not overwritten.
ATTEMPTS = 5
DIMENSION = "ecs:service:DesiredCount"


class EcsService:
    """See `Capacity`; `serve` are the tasks that run. Without `scaling` nothing scales it by itself."""

    def __init__(self, ecs: Any, scaling: Any | None, *, cluster: str, service: str) -> None:
        self._ecs = ecs
        self._scaling = scaling
        self._cluster = cluster
        self._service = service

    def look(self) -> Found:
        """See `Capacity.look`; NotFoundError also for a service that was deleted."""
        with aws.translating():
            answer = self._ecs.describe_services(cluster=self._cluster, services=[self._service])
        found = [item for item in answer["services"] if item["status"] == "ACTIVE"]
        if not found:
            raise NotFoundError(
                f"there is no service {self._service!r} in cluster {self._cluster!r}", hint="deploy the stacks"
            )
        asked, serve = int(found[0]["desiredCount"]), int(found[0]["runningCount"])
        events = found[0].get("events", [])
        said = str(events[0]["message"]) if events and serve < asked else ""
        return Found(asked=asked, serve=serve, said=said)

    def raise_to(self, least: int) -> Raised:
        """See `Capacity.raise_to`. The bounds come first: a number outside of them would be brought back at once."""
        before = self.look().asked
        if self._scaling is not None:
            self._raise_bounds(self._scaling, least)
        if before < least:
            with aws.translating():
                self._ecs.update_service(cluster=self._cluster, service=self._service, desiredCount=least)
        return Raised(before=before)

    def _raise_bounds(self, scaling: Any, least: int) -> None:
        target = {
            "ServiceNamespace": "ecs",
            "ResourceId": f"service/{self._cluster}/{self._service}",
            "ScalableDimension": DIMENSION,
        }
        with aws.translating():
            found = scaling.describe_scalable_targets(
                ServiceNamespace="ecs", ResourceIds=[target["ResourceId"]], ScalableDimension=DIMENSION
            )["ScalableTargets"]
            # A service that nobody has registered is scaled by nobody.
            if found and found[0]["MinCapacity"] < least:
                most = max(found[0]["MaxCapacity"], least)
                scaling.register_scalable_target(**target, MinCapacity=least, MaxCapacity=most)


class AutoScalingGroup:
    """See `Capacity`; `serve` are the machines in service that the group takes for healthy."""

    def __init__(self, autoscaling: Any, *, group: str) -> None:
        self._autoscaling = autoscaling
        self._group = group

    def look(self) -> Found:
        """See `Capacity.look`."""
        found = self._describe()
        instances = found.get("Instances", [])
        serve = [
            item for item in instances if (item["LifecycleState"], item["HealthStatus"]) == ("InService", "Healthy")
        ]
        suspended = [item["ProcessName"] for item in found.get("SuspendedProcesses", [])]
        said = "the process Launch is suspended" if "Launch" in suspended else ""
        return Found(asked=int(found["DesiredCapacity"]), serve=len(serve), said=said)

    def raise_to(self, least: int) -> Raised:
        """See `Capacity.raise_to`: with its minimum, no policy and no schedule takes one away."""
        found = self._describe()
        bounds = {name: int(found[name]) for name in ("MinSize", "DesiredCapacity", "MaxSize")}
        raised = {name: max(value, least) for name, value in bounds.items()}
        if raised != bounds:
            with aws.translating():
                self._autoscaling.update_auto_scaling_group(AutoScalingGroupName=self._group, **raised)
        return Raised(before=bounds["DesiredCapacity"])

    def _describe(self) -> dict[str, Any]:
        with aws.translating():
            found = self._autoscaling.describe_auto_scaling_groups(AutoScalingGroupNames=[self._group])
        groups: list[dict[str, Any]] = found["AutoScalingGroups"]
        if not groups:
            raise NotFoundError(
                f"there is no Auto Scaling group {self._group!r}", hint="make it in this region, or correct [capacity]"
            )
        return groups[0]


class EksDeployment:
    """See `Capacity`; `serve` are the pods that are ready. Needs `eks:DescribeCluster`, and in the cluster the right to
    read the Deployment, to change its scale, and to change the minimum of its HorizontalPodAutoscaler.

    `sts` is a client of its own: what it presigns is for this cluster alone.
    """

    def __init__(self, eks: Any, sts: Any, *, cluster: str, namespace: str, deployment: str) -> None:
        self._eks = eks
        self._sts = sts
        self._cluster = cluster
        self._namespace = namespace
        self._deployment = deployment

    def look(self) -> Found:
        """See `Capacity.look`."""
        found = self._api.call("GET", *self._path)
        status = found.get("status", {})
        return Found(
            # One is what Kubernetes makes of a Deployment that says nothing.
            asked=int(found.get("spec", {}).get("replicas", 1)),
            serve=int(status.get("readyReplicas", 0)),
            said="; ".join(
                str(item.get("message", item.get("reason", "")))
                for item in status.get("conditions", [])
                if item.get("status") == ("True" if item.get("type") == "ReplicaFailure" else "False")
            ),
        )

    def raise_to(self, least: int) -> Raised:
        """See `Capacity.raise_to`. Agents start also where nobody may look at what scales them by itself."""
        found = self._raise((*self._path, "scale"), lambda found: _replicas(found, least))
        before = int(found.get("spec", {}).get("replicas", 0))
        try:
            self._raise_bounds(least)
        except DeniedError as exc:
            warning = f"what scales the Deployment by itself was not looked at: {exc.problem}"
            return Raised(before=before, warning=warning)
        return Raised(before=before)

    def _raise_bounds(self, least: int) -> None:
        folder = ("apis", "autoscaling", "v2", "namespaces", self._namespace, "horizontalpodautoscalers")
        for item in self._api.call("GET", *folder).get("items", []):
            target = item["spec"]["scaleTargetRef"]
            if (target.get("kind"), target.get("name")) == ("Deployment", self._deployment):
                self._raise((*folder, item["metadata"]["name"]), lambda found: _bounds(found["spec"], least))

    def _raise(self, path: tuple[str, ...], change: _Change) -> dict[str, Any]:
        """Make a change, unless what it is made of is another by then; return what was there before."""
        problem = ""
        for _ in range(ATTEMPTS):
            found = self._api.call("GET", *path)
            wanted = change(found)
            if wanted is None:
                return found
            version = {"metadata": {"resourceVersion": found["metadata"]["resourceVersion"]}}
            try:
                self._api.call("PATCH", *path, body=version | wanted)
            except ConflictError as exc:
                problem = exc.problem
            else:
                return found
        raise UnavailableError(
            problem,
            hint="look what else scales it (a HorizontalPodAutoscaler, a controller): the next try changes it again",
        )

    @property
    def _path(self) -> tuple[str, ...]:
        return ("apis", "apps", "v1", "namespaces", self._namespace, "deployments", self._deployment)

    @cached_property
    def _api(self) -> Kubernetes:
        with aws.translating():
            found = self._eks.describe_cluster(name=self._cluster)["cluster"]
        address, authority = found.get("endpoint"), found.get("certificateAuthority", {}).get("data")
        if not address or not authority:
            raise UnavailableError(
                f"the cluster {self._cluster!r} is {found.get('status')}, and has no API yet", hint="see its console"
            )
        return Kubernetes(address, authority=authority, token=token_for(self._sts, self._cluster))


def _replicas(found: dict[str, Any], least: int) -> dict[str, Any] | None:
    # A number of none is left out.
    return {"spec": {"replicas": least}} if int(found.get("spec", {}).get("replicas", 0)) < least else None


def _bounds(spec: dict[str, Any], least: int) -> dict[str, Any] | None:
    if int(spec.get("minReplicas", 1)) >= least:
        return None
    return {"spec": {"minReplicas": least, "maxReplicas": max(int(spec["maxReplicas"]), least)}}
