"""The stack of the names by which the agent is reached."""

from __future__ import annotations

from typing import TYPE_CHECKING

from relight.config import Role
from relight_constructs.failover import ActiveActive, Failover, RoutingControls, Single, Zone
from relight_constructs.props import (
    ActiveActiveProps,
    PairProps,
    RoutingControlsProps,
    SingleProps,
    ZoneProps,
)
from relight_stacks.stack import HomeStack
from relight_stacks.tiers import Routing

if TYPE_CHECKING:
    from relight_constructs.bindings import Construct
    from relight_stacks.environment import Environment


class DnsStack(HomeStack):
    """Define the zone, and the name that leads to the endpoints which each region's stack makes for itself.

    Route 53's control plane is in us-east-1: everything here exists before a recovery, and none of it changes in one.
    The ids of what is below the zone differ by routing, because Route 53 mixes no two kinds of records under one name.
    """

    def __init__(self, scope: Construct, environment: Environment) -> None:
        names, shape = environment.names, environment.shape
        super().__init__(scope, environment, "dns", names.standby_region)
        zone = Zone(self, "zone", ZoneProps(domain=environment.domain))
        if shape.routing is Routing.SINGLE:
            endpoint = names.endpoint_host(Role.PRIMARY)
            Single(
                self,
                "single",
                SingleProps(zone=zone, host=names.service_host, endpoint_host=endpoint, ttl_s=shape.ttl_s),
            )
            return
        controls = None
        if environment.routing_controls:
            controls = RoutingControls(self, "controls", RoutingControlsProps(name=names.prefix))
        pair = PairProps(
            zone=zone,
            host=names.service_host,
            primary_host=names.endpoint_host(Role.PRIMARY),
            standby_host=names.endpoint_host(Role.STANDBY),
            interval_s=shape.check_interval_s,
            primary_threshold=shape.primary_threshold,
            standby_threshold=shape.standby_threshold,
            ttl_s=shape.ttl_s,
            controls=controls,
        )
        if shape.routing is Routing.FAILOVER:
            Failover(self, "failover", pair)
            return
        ActiveActive(
            self,
            str(shape.routing),
            ActiveActiveProps(
                pair=pair,
                primary_region=names.primary_region,
                standby_region=names.standby_region,
                weights=(1, 1) if shape.routing is Routing.WEIGHTED else None,
            ),
        )
