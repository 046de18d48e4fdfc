"""The stack of the pilot light: one agent, the sentinel that watches, and everything that relights it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from relight.config import Role
from relight.providers.readiness import METRIC as PROVIDER_READY
from relight_constructs.access import METRICS
from relight_constructs.alarm import ReadinessAlarm
from relight_constructs.machine import RecoveryMachine
from relight_constructs.props import BootRuleProps, ReadinessAlarmProps, RecoveryMachineProps, TopicProps
from relight_constructs.secret import IncidentsTopic
from relight_constructs.triggers import HydrateOnBoot
from relight_stacks.region import LONGEST_S, RegionStack

if TYPE_CHECKING:
    from pathlib import Path

    from relight_constructs.bindings import Construct
    from relight_stacks.environment import Environment

# A pilot light: enough to be found alive, scaled to the environment's replicas by a recovery.
STANDBY_AGENTS = 1

# EventBridge Scheduler's shortest rate; the sentinel probes several times within its minute.
SENTINEL_RATE = "rate(1 minute)"
SENTINEL_LATE_S = 60

# At four in the morning of the first of each month.
REHEARSE_RATE = "cron(0 4 1 * ? *)"
REHEARSE_LATE_S = 3600


class StandbyStack(RegionStack):
    """Define the standby region. At run time it needs no control plane outside its own region.

    A function that talks to the region's servers joins its network; the others stay outside, so that they need no
    endpoints. Every permission of every function is one line here. `providers_bundle` is the zip of the function that
    asks LLM providers, by default `bundle`.
    """

    def __init__(
        self, scope: Construct, environment: Environment, *, bundle: Path, providers_bundle: Path | None = None
    ) -> None:
        super().__init__(scope, environment, Role.STANDBY, bundle=bundle, agents=STANDBY_AGENTS)
        topic = IncidentsTopic(
            self, "incidents", TopicProps(place=self.home, name=self.names.incidents_topic, key=self.key)
        )

        assess = self.function("assess", timeout_s=60, networked=True)
        self.connections.grant_read(assess)
        self.own_vault.grant_restore(assess)
        self.signing.grant_check(assess)
        self.lease.grant_read(assess)
        self.own_vault.grant_record(assess)

        # It waits for the old lease to run out.
        fence = self.function("fence", timeout_s=120, networked=False)
        self.lease.grant_hold(fence)
        self.own_vault.grant_record(fence)

        promote = self.function("promote", timeout_s=300, networked=True)
        self.connections.grant_read(promote)
        self.lease.grant_read(promote)
        self.own_vault.grant_record(promote)

        scale = self.function("scale", timeout_s=120, networked=False)
        self.agent.grant_scale(scale)
        self.own_vault.grant_record(scale)

        hydrate = self.function("hydrate", timeout_s=LONGEST_S, networked=True)
        self.connections.grant_read(hydrate)
        self.own_vault.grant_restore(hydrate)
        self.own_vault.grant_bring_forward(hydrate)
        self.signing.grant_check(hydrate)
        self.own_vault.grant_record(hydrate)

        verify = self.function("verify", timeout_s=300, networked=True)
        self.connections.grant_read(verify)
        self.lease.grant_read(verify)
        self.own_vault.grant_record(verify)

        replay = self.function("replay", timeout_s=LONGEST_S, networked=True)
        self.connections.grant_read(replay)
        self.lease.grant_read(replay)
        self.own_vault.grant_record(replay)

        open_gate = self.function("open-gate", timeout_s=60, networked=True)
        self.connections.grant_read(open_gate)
        self.lease.grant_read(open_gate)
        self.own_vault.grant_record(open_gate)

        announce = self.function("announce", timeout_s=60, networked=False)
        topic.grant_publish(announce)
        self.own_vault.grant_review(announce)
        self.own_vault.grant_record(announce)

        # Two sentinels at once would both count the same failures. One takes most of its minute.
        sentinel = self.function("sentinel", timeout_s=75, networked=False, at_once=1)
        self.lease.grant_read(sentinel)
        self.lease.grant_remember(sentinel)

        machine = RecoveryMachine(
            self,
            "recovery",
            RecoveryMachineProps(
                place=self.home,
                name=self.names.state_machine,
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
                logs_key=self.key,
            ),
        )
        machine.grant_start(sentinel)
        topic.grant_publish(sentinel)
        self.schedule(sentinel, rate=SENTINEL_RATE, late_s=SENTINEL_LATE_S)

        # A backup that nobody restores is a hope: this restores one beside the memory, checks it and drops it again.
        rehearse = self.function("rehearse", timeout_s=LONGEST_S, networked=True)
        self.connections.grant_read(rehearse)
        self.own_vault.grant_restore(rehearse)
        self.own_vault.grant_rehearse(rehearse)
        self.signing.grant_check(rehearse)
        rehearse.allow_metrics(METRICS)
        self.schedule(rehearse, rate=REHEARSE_RATE, late_s=REHEARSE_LATE_S)
        HydrateOnBoot(
            self,
            "hydrate-on-boot",
            BootRuleProps(name=self.names.boot_rule, service=self.vector, function=hydrate),
        )
        if environment.providers:
            self._watch_providers(topic, providers_bundle or bundle)

    def _watch_providers(self, topic: IncidentsTopic, bundle: Path) -> None:
        """Try from here, before the day that it matters, whether the standby's agents could ask their LLM providers.

        In the network, because the agents are: a provider that only a function outside could reach is none, and a model
        on a server of the region's own can be reached from nowhere else.
        """
        providers = self.function("providers", timeout_s=60, networked=True, code=self.code("providers-bundle", bundle))
        self.connections.grant_read(providers)
        providers.allow_metrics(METRICS)
        minutes = self.environment.provider_check_minutes
        self.schedule(providers, rate=f"rate({minutes} minutes)", late_s=minutes * 60)
        for spec in self.environment.providers:
            if spec.ca_file:  # it is in the agent's image, and the function has not got it: nothing is measured
                continue
            ReadinessAlarm(
                self,
                f"provider-{spec.name}",
                ReadinessAlarmProps(
                    name=self.names.provider_alarm(spec.name),
                    description=f"The standby cannot ask the LLM provider {spec.name}: `relight status` says why",
                    namespace=METRICS,
                    metric=PROVIDER_READY,
                    dimensions={
                        "environment": self.environment.name,
                        "region": self.home.region,
                        "provider": spec.name,
                    },
                    every_s=minutes * 60,
                    topic=topic,
                ),
            )
