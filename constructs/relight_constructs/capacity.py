"""What runs agents that are not Relight's own service, as a recovery scales it: each is one grant.

A cluster or a group is the user's, and known by its name, which is the same in both regions.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from relight_constructs.bindings import Construct, EksAccessEntry
from relight_constructs.policies import Statement

if TYPE_CHECKING:
    from relight_constructs.policies import Grantee
    from relight_constructs.props import ClusterAccessProps, Place

LOOK_AT_CLUSTER_ACTIONS = ("eks:DescribeCluster",)
LOOK_AT_GROUPS_ACTIONS = ("autoscaling:DescribeAutoScalingGroups",)
SCALE_GROUP_ACTIONS = ("autoscaling:UpdateAutoScalingGroup",)

# Whoever scales is in this group of Kubernetes, to which docs/capacity.md binds what it may do there.
SCALERS = "relight:scalers"


@dataclass(frozen=True, slots=True, kw_only=True)
class EksAgents:
    """Agents that run as a Deployment of an EKS cluster."""

    place: Place
    cluster: str

    def grant_scale(self, grantee: Grantee) -> None:
        """Find the cluster's API; what the caller may do there, the cluster decides."""
        arn = f"arn:aws:eks:{self.place.region}:{self.place.account}:cluster/{self.cluster}"
        grantee.allow("scale-agents", Statement(actions=LOOK_AT_CLUSTER_ACTIONS, resources=(arn,)))


@dataclass(frozen=True, slots=True, kw_only=True)
class GroupAgents:
    """Agents that run on the machines of an Auto Scaling group."""

    place: Place
    group: str

    def grant_scale(self, grantee: Grantee) -> None:
        """Change how many machines there are, and see how many serve. A group's id cannot be known beforehand."""
        groups = f"arn:aws:autoscaling:{self.place.region}:{self.place.account}:autoScalingGroup"
        grantee.allow(
            "scale-agents",
            Statement(actions=SCALE_GROUP_ACTIONS, resources=(f"{groups}:*:autoScalingGroupName/{self.group}",)),
            Statement(actions=LOOK_AT_GROUPS_ACTIONS, resources=("*",)),
        )


class ClusterAccess(Construct):
    """Define that a role comes into an EKS cluster as a member of `SCALERS`, with no right but what that group has."""

    def __init__(self, scope: Construct, id_: str, props: ClusterAccessProps) -> None:
        super().__init__(scope, id_)
        EksAccessEntry(
            self,
            "entry",
            cluster_name=props.cluster,
            principal_arn=props.role_arn,
            kubernetes_groups=[SCALERS],
            type="STANDARD",
        )
