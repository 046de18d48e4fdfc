"""A region's two load balancers: the public one of its agents, and the inner one that gives its servers their names."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from relight_constructs.bindings import (
    Construct,
    Lb,
    LbAccessLogs,
    LbListener,
    LbListenerDefaultAction,
    LbTargetGroup,
    LbTargetGroupHealthCheck,
    Route53Record,
    Route53Zone,
    Route53ZoneVpc,
    VpcSecurityGroupIngressRule,
)

if TYPE_CHECKING:
    from relight_constructs.props import BalancerProps, InnerBalancerProps

HEALTH_PATH = "/health"
HTTPS = 443
# TLS 1.3 and 1.2, with forward secrecy only.
TLS_POLICY = "ELBSecurityPolicy-TLS13-1-2-Res-2021-06"
NAME_TTL_S = 10


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """A target group's ARN, and the container's port that it sends to; ECS registers with it once it has a
    `listener`."""

    arn: str
    port: int
    listener: LbListener


@dataclass(frozen=True, slots=True, kw_only=True)
class Health:
    """How a load balancer finds out whether a server answers: a connection to `port`, or `path` of it."""

    port: int
    path: str = ""


class LoadBalancer(Construct):
    """Define a public load balancer that takes 443 alone and sends to the agents' port."""

    def __init__(self, scope: Construct, id_: str, props: BalancerProps) -> None:
        super().__init__(scope, id_)
        network = props.network
        self._port = props.port
        VpcSecurityGroupIngressRule(
            self,
            "public",
            security_group_id=network.group_id("balancer"),
            description="Callers and health checks",
            ip_protocol="tcp",
            from_port=HTTPS,
            to_port=HTTPS,
            cidr_ipv4="0.0.0.0/0",
        )
        network.admit("balancer", to="agent", port=props.port)
        self._balancer = Lb(
            self,
            "balancer",
            name=props.place.prefix,
            load_balancer_type="application",
            internal=False,
            subnets=list(network.public_subnet_ids),
            security_groups=[network.group_id("balancer")],
            drop_invalid_header_fields=True,
            desync_mitigation_mode="defensive",
            enable_deletion_protection=True,
            access_logs=LbAccessLogs(bucket=props.access_logs_bucket, prefix=props.place.prefix, enabled=True)
            if props.access_logs_bucket
            else None,
        )
        self._targets = LbTargetGroup(
            self,
            "targets",
            name=props.place.prefix,
            vpc_id=network.vpc_id,
            target_type=props.target_type,
            protocol="HTTP",
            port=props.port,
            deregistration_delay="30",
            health_check=LbTargetGroupHealthCheck(
                path=HEALTH_PATH, interval=10, timeout=5, healthy_threshold=2, matcher="200"
            ),
        )
        self.listener = LbListener(
            self,
            "listener",
            load_balancer_arn=self._balancer.arn,
            port=HTTPS,
            protocol="HTTPS",
            ssl_policy=TLS_POLICY,
            certificate_arn=props.certificate_arn,
            default_action=[LbListenerDefaultAction(type="forward", target_group_arn=self._targets.arn)],
        )

    @property
    def dns_name(self) -> str:
        """A reference to its own name."""
        return self._balancer.dns_name

    @property
    def target(self) -> Target:
        """Where agents are registered."""
        return Target(arn=self._targets.arn, port=self._port, listener=self.listener)


class InnerBalancer(Construct):
    """Define a load balancer within the network, and a private zone with the names of the servers behind it.

    A server of ECS has a new address whenever it starts. Service discovery would write it to Route 53, whose control
    plane is in us-east-1 whatever the region, in the very minute of a recovery. Here the names never change, and a
    server is registered within its own region.
    """

    def __init__(self, scope: Construct, id_: str, props: InnerBalancerProps) -> None:
        super().__init__(scope, id_)
        self._props = props
        self._reached: set[tuple[str, int]] = set()
        network = props.network
        self._zone = Route53Zone(
            self,
            "zone",
            name=props.domain,
            comment="Made by Relight",
            vpc=[Route53ZoneVpc(vpc_id=network.vpc_id, vpc_region=props.place.region)],
        )
        self._balancer = Lb(
            self,
            "balancer",
            name=f"{props.place.prefix}-inner",
            load_balancer_type="network",
            internal=True,
            subnets=list(network.private_subnet_ids),
            security_groups=[network.group_id("inner")],
            enable_cross_zone_load_balancing=True,
            enable_deletion_protection=True,
        )

    def name(self, id_: str, host: str) -> None:
        """Give it a name in its zone."""
        Route53Record(
            self,
            f"{id_}-name",
            zone_id=self._zone.zone_id,
            name=host,
            type="CNAME",
            ttl=NAME_TTL_S,
            records=[self._balancer.dns_name],
        )

    def serve(
        self, id_: str, *, group: str, port: int, health: Health | None = None, listen: int | None = None
    ) -> Target:
        """Send what comes in on `listen`, which is `port` unless given, to `port` of members of one group of the
        network. Whoever is to reach it has to be admitted to the group `inner`."""
        health = health or Health(port=port)
        network = self._props.network
        for needed in {port: None, health.port: None}:
            if (group, needed) not in self._reached:
                self._reached.add((group, needed))
                network.admit("inner", to=group, port=needed)
        targets = LbTargetGroup(
            self,
            f"{id_}-targets",
            name=f"{self._props.place.prefix}-{id_}",
            vpc_id=network.vpc_id,
            target_type="ip",
            protocol="TCP",
            port=port,
            # A server may be its own client through here, which a preserved address would keep it from.
            preserve_client_ip="false",
            deregistration_delay="10",
            connection_termination=True,
            health_check=LbTargetGroupHealthCheck(
                protocol="HTTP" if health.path else "TCP",
                port=str(health.port),
                path=health.path or None,
                interval=5,
                timeout=4,
                healthy_threshold=2,
                # ECS replaces what is found unhealthy, and what it keeps goes with it: not for a busy minute.
                unhealthy_threshold=10,
            ),
        )
        listener = LbListener(
            self,
            f"{id_}-listener",
            load_balancer_arn=self._balancer.arn,
            port=listen or port,
            protocol="TCP",
            default_action=[LbListenerDefaultAction(type="forward", target_group_arn=targets.arn)],
        )
        return Target(arn=targets.arn, port=port, listener=listener)
