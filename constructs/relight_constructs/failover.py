"""The names by which the agent is reached, and the checks that move traffic between them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from relight_constructs.bindings import (
    Construct,
    DataAwsRoute53Zone,
    Route53HealthCheck,
    Route53Record,
    Route53RecordFailoverRoutingPolicy,
    Route53Zone,
)

if TYPE_CHECKING:
    from relight_constructs.props import EndpointProps, FailoverProps

READY_PATH = "/ready"


class Endpoint(Construct):
    """Define a region's own record. It is a CNAME with a short TTL: an alias cannot carry one."""

    def __init__(self, scope: Construct, id_: str, props: EndpointProps) -> None:
        super().__init__(scope, id_)
        zone = DataAwsRoute53Zone(self, "zone", name=props.zone, private_zone=False)
        Route53Record(
            self,
            "record",
            zone_id=zone.zone_id,
            name=props.host,
            type="CNAME",
            ttl=props.ttl_s,
            records=[props.load_balancer_dns_name],
        )


class Failover(Construct):
    """Define the zone, a health check on each region's gate, and the pair of failover records."""

    def __init__(self, scope: Construct, id_: str, props: FailoverProps) -> None:
        super().__init__(scope, id_)
        zone = Route53Zone(self, "zone", name=props.domain, comment="Made by Relight")
        pair = (
            ("primary", props.primary_host, props.primary_threshold),
            ("standby", props.standby_host, props.standby_threshold),
        )
        for label, host, threshold in pair:
            check = Route53HealthCheck(
                self,
                f"{label}-check",
                type="HTTPS",
                fqdn=host,
                port=443,
                resource_path=READY_PATH,
                request_interval=props.interval_s,
                failure_threshold=threshold,
                enable_sni=True,
            )
            Route53Record(
                self,
                f"{label}-record",
                zone_id=zone.zone_id,
                name=props.host,
                type="CNAME",
                ttl=props.ttl_s,
                records=[host],
                set_identifier=label,
                health_check_id=check.id,
                failover_routing_policy=Route53RecordFailoverRoutingPolicy(
                    type="PRIMARY" if label == "primary" else "SECONDARY"
                ),
            )
