"""The stack of the names by which the agent is reached."""

from __future__ import annotations

from typing import TYPE_CHECKING

from relight.config import Role
from relight_constructs.failover import Failover
from relight_constructs.props import FailoverProps
from relight_stacks.stack import HomeStack

if TYPE_CHECKING:
    from relight_constructs.bindings import Construct
    from relight_stacks.environment import Environment


class DnsStack(HomeStack):
    """Define the zone and the failover between the endpoints that each region's stack makes for itself.

    Route 53's control plane is in us-east-1: everything here exists before a recovery, and none of it changes in one.
    """

    def __init__(self, scope: Construct, environment: Environment) -> None:
        names = environment.names
        super().__init__(scope, environment, "dns", names.standby_region)
        Failover(
            self,
            "failover",
            FailoverProps(
                domain=environment.domain,
                host=names.service_host,
                primary_host=names.endpoint_host(Role.PRIMARY),
                standby_host=names.endpoint_host(Role.STANDBY),
            ),
        )
