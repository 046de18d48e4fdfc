"""The names by which the agent is reached, and the checks that move traffic between them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from relight_constructs.bindings import (
    Construct,
    DataAwsRoute53Zone,
    Route53HealthCheck,
    Route53Record,
    Route53RecordFailoverRoutingPolicy,
    Route53RecordLatencyRoutingPolicy,
    Route53RecordWeightedRoutingPolicy,
    Route53RecoverycontrolconfigCluster,
    Route53RecoverycontrolconfigControlPanel,
    Route53RecoverycontrolconfigRoutingControl,
    Route53RecoverycontrolconfigSafetyRule,
    Route53RecoverycontrolconfigSafetyRuleRuleConfig,
    Route53Zone,
)

if TYPE_CHECKING:
    from relight_constructs.props import (
        ActiveActiveProps,
        EndpointProps,
        PairProps,
        RoutingControlsProps,
        SingleProps,
        ZoneProps,
    )

READY_PATH = "/ready"
# A change of a routing control counts once it has lasted so long; the least that ARC's examples use.
WAIT_MS = 5000
HALVES = ("primary", "standby")


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


class Zone(Construct):
    """Define the public zone that holds an environment's names. Each region's stack finds it by its name."""

    def __init__(self, scope: Construct, id_: str, props: ZoneProps) -> None:
        super().__init__(scope, id_)
        self._zone = Route53Zone(self, "zone", name=props.domain, comment="Made by Relight")

    @property
    def zone_id(self) -> str:
        """What records name it by."""
        return self._zone.zone_id


class RoutingControls(Construct):
    """Define a switch for each region on a cluster of ARC, and the rule that one of them stays on.

    A switch begins as off, and no deployment turns it: somebody does, at one of the cluster's five endpoints, which
    need no control plane. A region gets traffic only while its switch is on *and* its gate is open. With both
    switches off both regions would count as unhealthy, and Route 53 answers with all records when none is healthy:
    turning everything off turns everything on. Hence the rule, which refuses the change that would.
    """

    def __init__(self, scope: Construct, id_: str, props: RoutingControlsProps) -> None:
        super().__init__(scope, id_)
        cluster = Route53RecoverycontrolconfigCluster(self, "cluster", name=props.name)
        panel = Route53RecoverycontrolconfigControlPanel(self, "panel", name=props.name, cluster_arn=cluster.arn)
        self._controls = {
            half: Route53RecoverycontrolconfigRoutingControl(
                self,
                half,
                name=f"{props.name}-{half}",
                cluster_arn=cluster.arn,
                control_panel_arn=panel.arn,
            )
            for half in HALVES
        }
        Route53RecoverycontrolconfigSafetyRule(
            self,
            "one-stays-on",
            name=f"{props.name}-one-stays-on",
            control_panel_arn=panel.arn,
            asserted_controls=[control.arn for control in self._controls.values()],
            wait_period_ms=WAIT_MS,
            rule_config=Route53RecoverycontrolconfigSafetyRuleRuleConfig(type="ATLEAST", threshold=1, inverted=False),
        )

    def arn(self, half: str) -> str:
        """The switch of the primary or of the standby."""
        return self._controls[half].arn


class _Pair(Construct):
    """One name with a record for each region, and a health check on each region's gate."""

    def __init__(self, scope: Construct, id_: str, props: PairProps) -> None:
        super().__init__(scope, id_)
        sides = (
            ("primary", props.primary_host, props.primary_threshold),
            ("standby", props.standby_host, props.standby_threshold),
        )
        for half, host, threshold in sides:
            Route53Record(
                self,
                f"{half}-record",
                zone_id=props.zone.zone_id,
                name=props.host,
                type="CNAME",
                ttl=props.ttl_s,
                records=[host],
                set_identifier=half,
                health_check_id=self._check(props, half, host, threshold),
                **self._policy(half),
            )

    def _policy(self, half: str) -> dict[str, Any]:
        """How the record is chosen, as an argument of the record."""
        raise NotImplementedError

    def _check(self, props: PairProps, half: str, host: str, threshold: int) -> str:
        """The id of the check that says whether a region gets traffic."""
        gate = Route53HealthCheck(
            self,
            f"{half}-check",
            type="HTTPS",
            fqdn=host,
            port=443,
            resource_path=READY_PATH,
            request_interval=props.interval_s,
            failure_threshold=threshold,
            enable_sni=True,
        )
        if props.controls is None:
            return gate.id
        control = Route53HealthCheck(
            self, f"{half}-control-check", type="RECOVERY_CONTROL", routing_control_arn=props.controls.arn(half)
        )
        both = Route53HealthCheck(
            self,
            f"{half}-both-check",
            type="CALCULATED",
            child_healthchecks=[gate.id, control.id],
            child_health_threshold=2,
        )
        return both.id


class Failover(_Pair):
    """Define a name that leads to the primary while its gate is open, else to the standby."""

    def _policy(self, half: str) -> dict[str, Any]:
        kind = "PRIMARY" if half == "primary" else "SECONDARY"
        return {"failover_routing_policy": Route53RecordFailoverRoutingPolicy(type=kind)}


class ActiveActive(_Pair):
    """Define a name that leads to both regions, each as long as its gate is open: the nearer one, or by weight."""

    def __init__(self, scope: Construct, id_: str, props: ActiveActiveProps) -> None:
        self._regions = {"primary": props.primary_region, "standby": props.standby_region}
        self._weights = None if props.weights is None else dict(zip(HALVES, props.weights, strict=True))
        super().__init__(scope, id_, props.pair)

    def _policy(self, half: str) -> dict[str, Any]:
        if self._weights is None:
            return {"latency_routing_policy": Route53RecordLatencyRoutingPolicy(region=self._regions[half])}
        return {"weighted_routing_policy": Route53RecordWeightedRoutingPolicy(weight=self._weights[half])}


class Single(Construct):
    """Define a name that leads to one region, and that nobody checks: there is no other to move to."""

    def __init__(self, scope: Construct, id_: str, props: SingleProps) -> None:
        super().__init__(scope, id_)
        Route53Record(
            self,
            "record",
            zone_id=props.zone.zone_id,
            name=props.host,
            type="CNAME",
            ttl=props.ttl_s,
            records=[props.endpoint_host],
        )
