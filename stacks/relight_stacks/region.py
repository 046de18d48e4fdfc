"""What both regions have: a key, secrets, a cluster with the agent and its vector database, and an endpoint."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from relight.config import MemoryStore, Role
from relight_constructs.access import METRICS
from relight_constructs.bindings import AssetType, TerraformAsset
from relight_constructs.bundle import content_hash
from relight_constructs.failover import Endpoint
from relight_constructs.function import Function
from relight_constructs.key import Key
from relight_constructs.props import (
    Attachment,
    ClusterProps,
    Code,
    EndpointProps,
    FunctionProps,
    KeyProps,
    ScheduleProps,
    SecretProps,
    ServiceProps,
)
from relight_constructs.secret import Secret
from relight_constructs.services import Cluster, Service
from relight_constructs.triggers import Schedule
from relight_stacks.refs import lease_of, signing_of, topic_of, vault_of
from relight_stacks.settings import AGENT_SERVICE, VECTOR_SERVICE, settings_for
from relight_stacks.stack import HomeStack

if TYPE_CHECKING:
    from pathlib import Path

    from relight_constructs.bindings import Construct
    from relight_stacks.environment import Environment

# Where the agent's container listens, and answers /health to the load balancer and /ready to Route 53. Its health is
# the load balancer's to judge, because an image need not hold a client to ask with.
AGENT_PORT = 8080

# Lambda's own limit.
LONGEST_S = 900
PRUNE_RATE = "rate(1 hour)"
VERIFY_RATE = "rate(15 minutes)"


@dataclass(frozen=True, slots=True, kw_only=True)
class VectorServer:
    """How a store's own image is run: its data is on a volume that lives as long as its task.

    `secret` is the variable that it takes its password or API key from.
    """

    port: int
    folders: tuple[str, ...]
    environment: dict[str, str]
    secret: str
    health_command: str | None


# Folders inside the containers; the images' own documentation names the variables.
VECTOR_SERVERS: dict[MemoryStore, VectorServer] = {
    MemoryStore.PGVECTOR: VectorServer(
        port=5432,
        folders=("/var/lib/postgresql", "/var/run/postgresql", "/tmp"),  # noqa: S108
        environment={"POSTGRES_DB": "memory"},
        secret="POSTGRES_PASSWORD",  # noqa: S106 - a variable's name
        health_command="pg_isready -q",
    ),
    MemoryStore.QDRANT: VectorServer(
        port=6333,
        folders=("/qdrant/storage", "/qdrant/snapshots", "/tmp"),  # noqa: S108
        environment={"QDRANT__STORAGE__SNAPSHOTS_PATH": "/qdrant/snapshots", "QDRANT__TELEMETRY_DISABLED": "true"},
        secret="QDRANT__SERVICE__API_KEY",  # noqa: S106 - a variable's name
        # The image has neither curl nor wget.
        health_command="bash -c ': > /dev/tcp/127.0.0.1/6333'",
    ),
    MemoryStore.WEAVIATE: VectorServer(
        port=8080,
        folders=("/var/lib/weaviate", "/tmp"),  # noqa: S108
        environment={
            "PERSISTENCE_DATA_PATH": "/var/lib/weaviate",
            "AUTHENTICATION_APIKEY_ENABLED": "true",
            "AUTHENTICATION_APIKEY_USERS": "relight",
            "AUTHENTICATION_ANONYMOUS_ACCESS_ENABLED": "false",
            "DEFAULT_VECTORIZER_MODULE": "none",
            "DISABLE_TELEMETRY": "true",
        },
        secret="AUTHENTICATION_APIKEY_ALLOWED_KEYS",  # noqa: S106 - a variable's name
        health_command="wget -q --spider http://127.0.0.1:8080/v1/.well-known/ready",
    ),
}


class RegionStack(HomeStack):
    """Define one region's services. `bundle` is the zip that its functions run."""

    def __init__(self, scope: Construct, environment: Environment, role: Role, *, bundle: Path, agents: int) -> None:
        names = environment.names
        super().__init__(scope, environment, str(role), names.region(role))
        network = environment.network(role)
        self.role = role
        self.settings = settings_for(environment, role)
        self.own_vault = vault_of(environment, role)
        self.signing = signing_of(environment, role)
        self.lease = lease_of(environment)
        self.network = Attachment(subnet_ids=network.subnet_ids, security_group_ids=network.security_group_ids)
        self._code = self.code("bundle", bundle)
        self.key = Key(
            self,
            "key",
            KeyProps(
                place=self.home,
                alias=names.operations_key_alias,
                description="Secrets, logs and messages of Relight",
                for_logs=True,
                for_alarms=role is Role.STANDBY,
            ),
        )
        self.connections = Secret(
            self,
            "connections",
            SecretProps(
                name=names.connections_secret,
                description="How to reach this region's own databases and queue",
                key=self.key,
            ),
        )
        password = Secret(
            self,
            "vector-password",
            SecretProps(
                name=names.vector_password_secret,
                description="The password that this region's vector database starts with",
                key=self.key,
            ),
        )
        cluster = Cluster(self, "cluster", ClusterProps(place=self.home, name=names.cluster))
        self.agent = Service(
            self,
            "agent",
            ServiceProps(
                place=self.home,
                cluster=cluster,
                name=AGENT_SERVICE,
                family=names.family(AGENT_SERVICE),
                image=_image(environment.agent.image, self.home.region),
                command=environment.agent.command,
                cpu=environment.agent.cpu,
                memory=environment.agent.memory,
                desired_count=agents,
                port=AGENT_PORT,
                network=self.network,
                logs_key=self.key,
                environment=self.settings.to_env(),
                target_group_arn=network.target_group_arn,
            ),
        )
        self.connections.grant_read(self.agent)
        self.lease.grant_hold(self.agent)
        # Its applier reads what the state database has let go of the journal, and says how far memory is behind.
        self.own_vault.grant_bring_forward(self.agent)
        self.agent.allow_metrics(METRICS)
        if environment.providers:
            # It tells people when it has been on a fallback for long, or a key is refused.
            topic_of(environment).grant_publish(self.agent)
        for other in Role:
            vault_of(environment, other).grant_keep_results(self.agent)
        server = VECTOR_SERVERS[environment.memory.store]
        self.vector = Service(
            self,
            "vector",
            ServiceProps(
                place=self.home,
                cluster=cluster,
                name=VECTOR_SERVICE,
                family=names.family(VECTOR_SERVICE),
                image=_image(environment.vector.image, self.home.region),
                cpu=environment.vector.cpu,
                memory=environment.vector.memory,
                desired_count=1,
                port=server.port,
                network=self.network,
                logs_key=self.key,
                health_command=server.health_command,
                environment=server.environment,
                secrets={server.secret: password},
                writable=server.folders,
            ),
        )
        Endpoint(
            self,
            "endpoint",
            EndpointProps(
                zone=environment.domain,
                host=names.endpoint_host(role),
                load_balancer_dns_name=network.load_balancer_dns_name,
            ),
        )
        self._look_after_vault()

    def _look_after_vault(self) -> None:
        """Keep the ladder of this region's vault, and read its points before they are needed.

        Whoever seals points cannot remove any. Nothing here talks to the region's servers.
        """
        prune = self.function("prune", timeout_s=300, networked=False)
        self.own_vault.grant_prune(prune)
        self.signing.grant_check(prune)
        verify = self.function("verify-points", timeout_s=LONGEST_S, networked=False)
        self.own_vault.grant_restore(verify)
        self.own_vault.grant_verify(verify)
        self.signing.grant_check(verify)
        for function, rate, late_s in ((prune, PRUNE_RATE, 3600), (verify, VERIFY_RATE, 900)):
            self.schedule(function, rate=rate, late_s=late_s)

    def schedule(self, function: Function, *, rate: str, late_s: int) -> None:
        """Call `function` at `rate`."""
        verb = function.node.id
        Schedule(
            self,
            f"{verb}-schedule",
            ScheduleProps(place=self.home, name=self.names.schedule(verb), rate=rate, function=function, late_s=late_s),
        )

    def code(self, id_: str, bundle: Path) -> Code:
        """The zip beside the stack's JSON."""
        asset = TerraformAsset(self, id_, path=str(bundle), type=AssetType.FILE)
        return Code(path=asset.path, sha256=content_hash(bundle))

    def function(
        self, verb: str, *, timeout_s: int, networked: bool, at_once: int | None = None, code: Code | None = None
    ) -> Function:
        """Add the function that does `verb`; `networked` when it talks to the region's own servers, or must see what
        the agent sees. `code` is the region's own bundle unless given."""
        return Function(
            self,
            verb,
            FunctionProps(
                place=self.home,
                name=self.names.function(verb),
                verb=verb,
                code=code or self._code,
                environment=self.settings.to_env(),
                timeout_s=timeout_s,
                logs_key=self.key,
                network=self.network if networked else None,
                at_once=at_once,
            ),
        )


def _image(image: str, region: str) -> str:
    return image.replace("{region}", region)
