"""The stack of one region: the agent with its servers, and everything that saves it or relights it."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from relight.config import Role, StateKind
from relight_constructs.balancer import InnerBalancer, LoadBalancer
from relight_constructs.certificate import Certificate
from relight_constructs.deadletters import DeadLetters
from relight_constructs.failover import Endpoint
from relight_constructs.incidents import IncidentsTopic
from relight_constructs.key import Key
from relight_constructs.network import Network
from relight_constructs.props import (
    BalancerProps,
    CertificateProps,
    DeadLettersProps,
    EndpointProps,
    InnerBalancerProps,
    KeyProps,
    NetworkProps,
    TopicProps,
)
from relight_stacks.counts import services_called
from relight_stacks.data import add_data
from relight_stacks.environment import CapacityKind
from relight_stacks.eyes import add_eyes
from relight_stacks.functions import Functions
from relight_stacks.hydrating import hydrate_on_boot
from relight_stacks.keeping import keep_points
from relight_stacks.refs import lease_of, signing_of, vault_of
from relight_stacks.relighting import add_recovery
from relight_stacks.services import AGENT_PORT, add_services
from relight_stacks.settings import settings_for
from relight_stacks.stack import HomeStack
from relight_stacks.tiers import Waiting
from relight_stacks.vault import watch_replication
from relight_stacks.work import add_work

if TYPE_CHECKING:
    from relight_constructs.bindings import Construct
    from relight_stacks.bundles import Bundles
    from relight_stacks.environment import Environment


class AgentStack(HomeStack):
    """Define the region deployed as `role`. It needs nothing of the other but names.

    What follows in the constructor is the order in which things need each other; each part is a module of its own.
    """

    def __init__(self, scope: Construct, environment: Environment, role: Role, *, bundles: Bundles) -> None:
        names = environment.names
        super().__init__(scope, environment, str(role), names.region(role))
        self.role = role
        self.settings = settings_for(environment, role)
        self.own_vault = vault_of(environment, role)
        self.signing = signing_of(environment, role)
        self.lease = lease_of(environment)
        self.key = Key(
            self,
            "key",
            KeyProps(
                place=self.home,
                alias=names.operations_key_alias,
                description="Secrets, logs and messages of Relight",
                for_logs=True,
                for_alarms=True,
                for_rules=True,
            ),
        )
        # An alarm reaches only a topic of its own region, and what tells people from inside the network only this one
        # through an endpoint.
        self.incidents = IncidentsTopic(
            self, "incidents", TopicProps(place=self.home, name=names.incidents_topic, key=self.key)
        )
        self.network = self._make_network()
        if self.settings.state_kind is StateKind.SNAPSHOTS:
            # What is restored joins the group that the functions and the agents may reach.
            self.settings = replace(self.settings, state_group=self.network.group_id("state"))
        self.balancer = self._make_balancer()
        self.inner = InnerBalancer(
            self, "inner", InnerBalancerProps(place=self.home, network=self.network, domain=names.inner_domain)
        )
        self.dead_letters = DeadLetters(self, "dead-letters", DeadLettersProps(place=self.home, key=self.key))
        self.dead_letters.watch(self.incidents)
        self.functions = Functions(
            self,
            settings=self.settings,
            key=self.key,
            dead_letters=self.dead_letters,
            attachment=self.network.attachment("functions"),
            bundle=bundles.region,
        )
        self.data = add_data(self)
        self.services = add_services(self)
        Endpoint(
            self,
            "endpoint",
            EndpointProps(
                zone=environment.domain,
                host=names.endpoint_host(role),
                load_balancer_dns_name=self.balancer.dns_name,
                ttl_s=environment.shape.ttl_s,
            ),
        )
        self.work = add_work(self)
        keep_points(self)
        watch_replication(self)
        if role is Role.STANDBY:
            add_recovery(self, bundles)
        else:
            hydrate_on_boot(self)
        add_eyes(self)

    def _make_network(self) -> Network:
        environment, role = self.environment, self.role
        network = environment.network(role)
        return Network(
            self,
            "network",
            NetworkProps(
                place=self.home,
                logs_key=self.key,
                cidr=network.cidr,
                zones=network.zones,
                nat=network.nat,
                # Where both regions serve, the loss of a zone must not be that of a region.
                nat_per_zone=environment.shape.waiting is Waiting.FULL,
                vpc_id=network.vpc_id,
                private_subnet_ids=network.private_subnet_ids,
                public_subnet_ids=network.public_subnet_ids,
                route_table_ids=network.route_table_ids,
                endpoints=network.endpoints,
                services=services_called(environment, role),
                peer_region=self.names.region(role.other),
            ),
        )

    def _make_balancer(self) -> LoadBalancer:
        """It has a certificate of its own unless the environment names one."""
        network = self.environment.network(self.role)
        certificate_arn = network.certificate_arn
        if not certificate_arn:
            certificate_arn = Certificate(
                self, "certificate", CertificateProps(zone=self.environment.domain, host=self.names.service_host)
            ).arn
        return LoadBalancer(
            self,
            "balancer",
            BalancerProps(
                place=self.home,
                network=self.network,
                port=AGENT_PORT,
                certificate_arn=certificate_arn,
                target_type="instance" if self.environment.capacity.kind is CapacityKind.AUTO_SCALING else "ip",
                access_logs_bucket=network.access_logs_bucket,
            ),
        )
