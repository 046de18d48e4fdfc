"""The one public thing of a region: a load balancer that speaks TLS, and its certificate."""

from __future__ import annotations

from typing import TYPE_CHECKING

from relight_constructs.bindings import (
    Construct,
    Lb,
    LbListener,
    LbListenerDefaultAction,
    LbTargetGroup,
    LbTargetGroupHealthCheck,
    VpcSecurityGroupIngressRule,
)

if TYPE_CHECKING:
    from relight_constructs.props import BalancerProps

HEALTH_PATH = "/health"


class LoadBalancer(Construct):
    """Define a public load balancer that takes 443 alone and sends to the agents' port."""

    def __init__(self, scope: Construct, id_: str, props: BalancerProps) -> None:
        super().__init__(scope, id_)
        network = props.network
        VpcSecurityGroupIngressRule(
            self,
            "public",
            security_group_id=network.group_id("balancer"),
            description="Callers and health checks",
            ip_protocol="tcp",
            from_port=443,
            to_port=443,
            cidr_ipv4="0.0.0.0/0",
        )
        network.admit("balancer", to="agent", port=props.port)
        self._balancer = Lb(
            self,
            "balancer",
            name=props.place.prefix,
            load_balancer_type="application",
            subnets=list(network.public_subnet_ids),
            security_groups=[network.group_id("balancer")],
            drop_invalid_header_fields=True,
            enable_deletion_protection=True,
        )
        self._targets = LbTargetGroup(
            self,
            "targets",
            name=props.place.prefix,
            vpc_id=network.vpc_id,
            target_type="ip",
            protocol="HTTP",
            port=props.port,
            deregistration_delay="30",
            health_check=LbTargetGroupHealthCheck(path=HEALTH_PATH, interval=10, timeout=5, matcher="200"),
        )
        self.listener = LbListener(
            self,
            "listener",
            load_balancer_arn=self._balancer.arn,
            port=443,
            protocol="HTTPS",
            ssl_policy="ELBSecurityPolicy-TLS13-1-2-2021-06",
            certificate_arn=props.certificate_arn,
            default_action=[LbListenerDefaultAction(type="forward", target_group_arn=self._targets.arn)],
        )

    @property
    def dns_name(self) -> str:
        """A reference to its own name."""
        return self._balancer.dns_name

    @property
    def target_group_arn(self) -> str:
        """A reference to where tasks are registered."""
        return self._targets.arn
