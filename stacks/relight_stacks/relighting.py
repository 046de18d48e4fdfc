"""What watches the primary and relights the standby, composed from the environment."""

from __future__ import annotations

from typing import TYPE_CHECKING

from relight.providers.readiness import METRIC as PROVIDER_READY
from relight.recovery.metrics import NAMESPACE
from relight_constructs.access import grant_metrics
from relight_constructs.alarm import MetricAlarm
from relight_constructs.capacity import ClusterAccess, EksAgents, GroupAgents
from relight_constructs.props import ClusterAccessProps, MetricAlarmProps, RecoveryProps
from relight_constructs.recovery import Recovery
from relight_constructs.timeouts import Waits
from relight_stacks.environment import CapacityKind
from relight_stacks.functions import code_of
from relight_stacks.hydrating import grant_hydrate
from relight_stacks.tiers import StateKind

if TYPE_CHECKING:
    from pathlib import Path

    from relight.config import Settings
    from relight_constructs.grants import Scalable
    from relight_stacks.bundles import Bundles
    from relight_stacks.environment import Environment
    from relight_stacks.region import AgentStack

# How long a database takes to be promoted at most. A switch of Aurora takes about a minute, a replica of RDS is backed
# up and restarted, and a backup is restored into a new instance. An existing database is promoted by the function.
LONGEST_PROMOTION_S = {
    StateKind.AURORA_GLOBAL: 900.0,
    StateKind.RDS_REPLICA: 1800.0,
    StateKind.SNAPSHOTS: 3600.0,
    StateKind.EXISTING: 300.0,
}


def add_recovery(stack: AgentStack, bundles: Bundles) -> None:
    """Define everything that relights the standby. At run time it needs no control plane outside its own region."""
    environment = stack.environment
    grant_hydrate(stack, stack.work)
    recovery = Recovery(
        stack,
        "recovery",
        RecoveryProps(
            place=stack.home,
            name=stack.names.state_machine,
            environment=stack.settings.to_env(),
            code=stack.functions.bundle,
            key=stack.key,
            attachment=stack.network.attachment("functions"),
            vault=stack.own_vault,
            lease=stack.lease,
            signing=stack.signing,
            connections=stack.data.connections,
            topic=stack.incidents,
            rto_s=environment.objectives.rto_s,
            dead_letters=stack.dead_letters,
            capacity=(*_agents(stack), *stack.services.servers),
            scales_inside=environment.capacity.kind is CapacityKind.EKS,
            store=stack.services.vector,
            waits=waits_of(environment, stack.settings),
            work=stack.work,
        ),
    )

    if environment.capacity.kind is CapacityKind.EKS:
        access = ClusterAccessProps(cluster=environment.capacity.cluster, role_arn=recovery.functions["scale"].role_arn)
        ClusterAccess(stack, "agent-access", access)
    stack.data.grant_look(recovery.functions["assess"])
    stack.data.grant_promote(recovery.functions["promote"])

    if environment.providers:
        _watch_providers(stack, bundles.providers)


def _agents(stack: AgentStack) -> tuple[Scalable, ...]:
    """What runs the agents, and what keeps them within bounds."""
    capacity, services = stack.environment.capacity, stack.services
    if services.agent is not None and services.autoscaling is not None:
        return services.agent, services.autoscaling
    if capacity.kind is CapacityKind.EKS:
        return (EksAgents(place=stack.home, cluster=capacity.cluster),)
    return (GroupAgents(place=stack.home, group=capacity.group),)


def waits_of(environment: Environment, settings: Settings) -> Waits:
    """What a recovery of the environment waits for."""
    return Waits(
        lease_s=settings.lease_ttl_s + settings.lease_margin_s,
        promotion_s=LONGEST_PROMOTION_S[environment.shape.state],
        # Fargate's start and an image's pull, and once more where there was no room.
        capacity_s=max(300.0, environment.objectives.rto_s / 2),
        approval_s=settings.approval_s,
    )


def _watch_providers(stack: AgentStack, bundle: Path) -> None:
    """Try from here, before the day that it matters, whether the standby's agents could ask their LLM providers.

    In the network, because the agents are: a provider that only a function outside could reach is none, and a model
    on a server of the region's own can be reached from nowhere else.
    """
    providers = stack.functions.make(
        "providers", timeout_s=60, networked=True, code=code_of(stack, "providers-bundle", bundle)
    )
    stack.data.connections.grant_read(providers)
    stack.data.grant_provider_keys(providers)
    grant_metrics(providers)
    minutes = stack.environment.provider_check_minutes
    stack.functions.schedule(providers, rate=f"rate({minutes} minutes)", late_s=minutes * 60)
    for spec in stack.environment.providers:
        if spec.ca_file:  # it is in the agent's image, and the function has not got it: nothing is measured
            continue
        MetricAlarm(
            stack,
            f"provider-{spec.name}",
            MetricAlarmProps(
                name=stack.names.provider_alarm(spec.name),
                description=f"The standby cannot ask the LLM provider {spec.name}: `relight status` says why",
                namespace=NAMESPACE,
                metric=PROVIDER_READY,
                dimensions=stack.dimensions | {"provider": spec.name},
                # It is 1 while the provider can be asked. Twice in a row: one call that fails is no reason to wake
                # somebody. Where nothing is put, whoever tries has failed.
                statistic="Minimum",
                comparison="LessThanThreshold",
                period_s=minutes * 60,
                looks=2,
                missing_is_bad=True,
                topic=stack.incidents,
            ),
        )
