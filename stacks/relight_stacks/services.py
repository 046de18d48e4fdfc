"""What runs in a region: the agents, their vector store and their queue."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from relight.config import MemoryStore, Role
from relight_constructs.access import METRICS
from relight_constructs.props import ClusterProps, ServiceProps
from relight_constructs.services import Cluster, Service
from relight_stacks.refs import topic_of, vault_of
from relight_stacks.settings import AGENT_SERVICE, VECTOR_SERVICE
from relight_stacks.tiers import Waiting

if TYPE_CHECKING:
    from relight_stacks.region import AgentStack

# Where the agent's container listens, and answers /health to the load balancer and /ready to Route 53. Its health is
# the load balancer's to judge, because an image need not hold a client to ask with.
AGENT_PORT = 8080


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


@dataclass(frozen=True, slots=True, kw_only=True)
class Services:
    """The ECS services of a region."""

    agent: Service
    vector: Service


def add_services(stack: AgentStack) -> Services:
    """Define the cluster, the agents and the vector store, as many as the tier has waiting in this region."""
    environment, names = stack.environment, stack.names
    cluster = Cluster(stack, "cluster", ClusterProps(place=stack.home, name=names.cluster))
    agents, vectors = _counts(stack)
    agent = Service(
        stack,
        "agent",
        ServiceProps(
            place=stack.home,
            cluster=cluster,
            name=AGENT_SERVICE,
            family=names.family(AGENT_SERVICE),
            image=_image(environment.agent.image, stack.home.region),
            command=environment.agent.command,
            cpu=environment.agent.cpu,
            memory=environment.agent.memory,
            desired_count=agents,
            port=AGENT_PORT,
            network=stack.network.attachment("agent"),
            logs_key=stack.key,
            environment=stack.settings.to_env(),
            target_group_arn=stack.balancer.target_group_arn,
        ),
    )
    stack.data.connections.grant_read(agent)
    stack.lease.grant_hold(agent)
    # Its applier reads what the state database has let go of the journal, and says how far memory is behind.
    stack.own_vault.grant_bring_forward(agent)
    agent.allow_metrics(METRICS)
    if environment.providers:
        # It tells people when it has been on a fallback for long, or a key is refused.
        topic_of(environment).grant_publish(agent)
    for other in Role:
        vault_of(environment, other).grant_keep_results(agent)
    server = VECTOR_SERVERS[environment.memory.store]
    vector = Service(
        stack,
        "vector",
        ServiceProps(
            place=stack.home,
            cluster=cluster,
            name=VECTOR_SERVICE,
            family=names.family(VECTOR_SERVICE),
            image=_image(environment.vector.image, stack.home.region),
            cpu=environment.vector.cpu,
            memory=environment.vector.memory,
            desired_count=vectors,
            port=server.port,
            network=stack.network.attachment("vector"),
            logs_key=stack.key,
            health_command=server.health_command,
            environment=server.environment,
            secrets={server.secret: stack.data.vector_password},
            writable=server.folders,
        ),
    )
    for who in ("agent", "functions"):
        stack.network.admit(who, to="vector", port=server.port)
    return Services(agent=agent, vector=vector)


def _counts(stack: AgentStack) -> tuple[int, int]:
    """How many agents and vector stores run while nothing is wrong."""
    replicas = stack.environment.agent.replicas
    if stack.role is Role.PRIMARY:
        return replicas, 1
    return {Waiting.FULL: (replicas, 1), Waiting.PILOT: (1, 1), Waiting.NONE: (0, 0)}[stack.environment.shape.waiting]


def _image(image: str, region: str) -> str:
    return image.replace("{region}", region)
