"""The functions of the standby that watch the primary and relight the region, and the machine that calls them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from relight.providers.readiness import METRIC as PROVIDER_READY
from relight_constructs.access import METRICS
from relight_constructs.alarm import ReadinessAlarm
from relight_constructs.machine import RecoveryMachine
from relight_constructs.props import BootRuleProps, ReadinessAlarmProps, RecoveryMachineProps, TopicProps
from relight_constructs.secret import IncidentsTopic
from relight_constructs.triggers import HydrateOnBoot
from relight_stacks.functions import LONGEST_S

if TYPE_CHECKING:
    from pathlib import Path

    from relight_stacks.functions import Bundles
    from relight_stacks.region import AgentStack

# EventBridge Scheduler's shortest rate; the sentinel probes several times within its minute.
SENTINEL_RATE = "rate(1 minute)"
SENTINEL_LATE_S = 60

REHEARSE_LATE_S = 3600


def relight(stack: AgentStack, bundles: Bundles) -> None:
    """Define everything that relights the standby. At run time it needs no control plane outside its own region.

    A function that talks to the region's servers joins its network; the others stay outside, so that they need no
    endpoints. Every permission of every function is one line here.
    """
    topic = IncidentsTopic(
        stack, "incidents", TopicProps(place=stack.home, name=stack.names.incidents_topic, key=stack.key)
    )

    stack.dead_letters.watch(topic)

    assess = stack.functions.make("assess", timeout_s=60, networked=True)
    stack.data.connections.grant_read(assess)
    stack.own_vault.grant_restore(assess)
    stack.signing.grant_check(assess)
    stack.lease.grant_read(assess)
    stack.own_vault.grant_record(assess)

    # It waits for the old lease to run out.
    fence = stack.functions.make("fence", timeout_s=120, networked=False)
    stack.lease.grant_hold(fence)
    stack.own_vault.grant_record(fence)

    promote = stack.functions.make("promote", timeout_s=300, networked=True)
    stack.data.connections.grant_read(promote)
    stack.lease.grant_read(promote)
    stack.own_vault.grant_record(promote)

    scale = stack.functions.make("scale", timeout_s=120, networked=False)
    if stack.services.agent is not None:
        stack.services.agent.grant_scale(scale)
    stack.own_vault.grant_record(scale)

    hydrate = stack.functions.make("hydrate", timeout_s=LONGEST_S, networked=True)
    stack.data.connections.grant_read(hydrate)
    stack.own_vault.grant_restore(hydrate)
    stack.own_vault.grant_bring_forward(hydrate)
    stack.signing.grant_check(hydrate)
    stack.own_vault.grant_record(hydrate)

    verify = stack.functions.make("verify", timeout_s=300, networked=True)
    stack.data.connections.grant_read(verify)
    stack.lease.grant_read(verify)
    stack.own_vault.grant_record(verify)

    replay = stack.functions.make("replay", timeout_s=LONGEST_S, networked=True)
    stack.data.connections.grant_read(replay)
    stack.lease.grant_read(replay)
    stack.own_vault.grant_record(replay)

    open_gate = stack.functions.make("open-gate", timeout_s=60, networked=True)
    stack.data.connections.grant_read(open_gate)
    stack.lease.grant_read(open_gate)
    stack.own_vault.grant_record(open_gate)

    announce = stack.functions.make("announce", timeout_s=60, networked=False)
    topic.grant_publish(announce)
    stack.own_vault.grant_review(announce)
    stack.own_vault.grant_record(announce)

    # Two sentinels at once would both count the same failures. One takes most of its minute.
    sentinel = stack.functions.make("sentinel", timeout_s=75, networked=False, at_once=1)
    stack.lease.grant_read(sentinel)
    stack.lease.grant_remember(sentinel)

    machine = RecoveryMachine(
        stack,
        "recovery",
        RecoveryMachineProps(
            place=stack.home,
            name=stack.names.state_machine,
            functions={
                "assess": assess,
                "fence": fence,
                "promote": promote,
                "scale": scale,
                "hydrate": hydrate,
                "verify": verify,
                "replay": replay,
                "open-gate": open_gate,
                "announce": announce,
            },
            logs_key=stack.key,
        ),
    )
    machine.grant_start(sentinel)
    topic.grant_publish(sentinel)
    stack.functions.schedule(sentinel, rate=SENTINEL_RATE, late_s=SENTINEL_LATE_S)

    # A backup that nobody restores is a hope: this restores one beside the memory, checks it and drops it again.
    rehearse = stack.functions.make("rehearse", timeout_s=LONGEST_S, networked=True)
    stack.data.connections.grant_read(rehearse)
    stack.own_vault.grant_restore(rehearse)
    stack.own_vault.grant_rehearse(rehearse)
    stack.signing.grant_check(rehearse)
    rehearse.allow_metrics(METRICS)
    stack.functions.schedule(rehearse, rate=stack.environment.shape.rehearse, late_s=REHEARSE_LATE_S)
    HydrateOnBoot(
        stack,
        "hydrate-on-boot",
        BootRuleProps(
            name=stack.names.boot_rule,
            service=stack.services.vector,
            function=hydrate,
            dead_letters=stack.dead_letters,
        ),
    )
    if stack.environment.providers:
        _watch_providers(stack, topic, bundles.providers)


def _watch_providers(stack: AgentStack, topic: IncidentsTopic, bundle: Path) -> None:
    """Try from here, before the day that it matters, whether the standby's agents could ask their LLM providers.

    In the network, because the agents are: a provider that only a function outside could reach is none, and a model
    on a server of the region's own can be reached from nowhere else.
    """
    providers = stack.functions.make(
        "providers", timeout_s=60, networked=True, code=stack.functions.code("providers-bundle", bundle)
    )
    stack.data.connections.grant_read(providers)
    providers.allow_metrics(METRICS)
    minutes = stack.environment.provider_check_minutes
    stack.functions.schedule(providers, rate=f"rate({minutes} minutes)", late_s=minutes * 60)
    for spec in stack.environment.providers:
        if spec.ca_file:  # it is in the agent's image, and the function has not got it: nothing is measured
            continue
        ReadinessAlarm(
            stack,
            f"provider-{spec.name}",
            ReadinessAlarmProps(
                name=stack.names.provider_alarm(spec.name),
                description=f"The standby cannot ask the LLM provider {spec.name}: `relight status` says why",
                namespace=METRICS,
                metric=PROVIDER_READY,
                dimensions={
                    "environment": stack.environment.name,
                    "region": stack.home.region,
                    "provider": spec.name,
                },
                every_s=minutes * 60,
                topic=topic,
            ),
        )
