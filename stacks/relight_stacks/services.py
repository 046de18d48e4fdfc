"""What runs in a region: the agents, their vector store and their queue."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from relight.config import MemoryStore, Role, StateKind
from relight_constructs.access import grant_metrics
from relight_constructs.balancer import Health
from relight_constructs.bindings import TerraformOutput
from relight_constructs.images import ReplicatedImages
from relight_constructs.nats import CLIENTS
from relight_constructs.network import HTTPS
from relight_constructs.props import (
    AutoscalingProps,
    ClusterProps,
    ImagesProps,
    OwnAgentsProps,
    QueueProps,
    ServiceProps,
    VolumeProps,
)
from relight_constructs.pull import repository_of
from relight_constructs.queue import NatsQueue
from relight_constructs.services import MACHINES, PODS, Autoscaling, Cluster, OwnAgents, Service
from relight_constructs.state import PORT as POSTGRES
from relight_stacks.counts import counts
from relight_stacks.environment import CapacityKind
from relight_stacks.naming import in_region
from relight_stacks.refs import vault_of
from relight_stacks.settings import AGENT_SERVICE, VECTOR_SERVICE

if TYPE_CHECKING:
    from collections.abc import Iterator

    from relight_constructs.policies import Grantee
    from relight_stacks.counts import Counts
    from relight_stacks.environment import Environment
    from relight_stacks.region import AgentStack

# Where the agent's container listens, and answers /health to the load balancer and /ready to Route 53. Its health is
# the load balancer's to judge, because an image need not hold a client to ask with.
AGENT_PORT = 8080


@dataclass(frozen=True, slots=True, kw_only=True)
class VectorServer:
    """How a store's own image is run: what it keeps is under `data`, on a volume that lives as long as its task.

    `folders` are others that it writes to. `secret` is the variable that it takes its password or API key from.
    `dsn` is how it is reached inside its network; the functions' and the agents' drivers take these forms.
    """

    port: int
    data: str
    folders: tuple[str, ...]
    environment: dict[str, str]
    secret: str
    dsn: str
    health_command: str


# Folders inside the containers; the images' own documentation names the variables.
VECTOR_SERVERS: dict[MemoryStore, VectorServer] = {
    MemoryStore.PGVECTOR: VectorServer(
        port=5432,
        data="/var/lib/postgresql",
        folders=("/var/run/postgresql", "/tmp"),  # noqa: S108
        environment={"POSTGRES_DB": "memory"},
        secret="POSTGRES_PASSWORD",  # noqa: S106 - a variable's name
        dsn="host={host} port=5432 dbname=memory user=postgres password={password}",
        health_command="pg_isready -q",
    ),
    MemoryStore.QDRANT: VectorServer(
        port=6333,
        # Snapshots beside what they are of: they are as large.
        data="/data",
        folders=("/tmp",),  # noqa: S108
        environment={
            "QDRANT__STORAGE__STORAGE_PATH": "/data/storage",
            "QDRANT__STORAGE__SNAPSHOTS_PATH": "/data/snapshots",
            "QDRANT__TELEMETRY_DISABLED": "true",
            # Else beside the program, on a root that is read-only.
            "QDRANT_INIT_FILE_PATH": "/data/.initialized",
        },
        secret="QDRANT__SERVICE__API_KEY",  # noqa: S106 - a variable's name
        # The image has neither curl nor wget.
        dsn="http://:{password}@{host}:6333",
        health_command="bash -c ': > /dev/tcp/127.0.0.1/6333'",
    ),
    MemoryStore.WEAVIATE: VectorServer(
        port=8080,
        data="/var/lib/weaviate",
        folders=("/tmp",),  # noqa: S108
        environment={
            "PERSISTENCE_DATA_PATH": "/var/lib/weaviate",
            "AUTHENTICATION_APIKEY_ENABLED": "true",
            "AUTHENTICATION_APIKEY_USERS": "relight",
            "AUTHENTICATION_ANONYMOUS_ACCESS_ENABLED": "false",
            "DEFAULT_VECTORIZER_MODULE": "none",
            "DISABLE_TELEMETRY": "true",
        },
        secret="AUTHENTICATION_APIKEY_ALLOWED_KEYS",  # noqa: S106 - a variable's name
        dsn="http://:{password}@{host}:8080",
        health_command="wget -q --spider http://127.0.0.1:8080/v1/.well-known/ready",
    ),
}


# What is used where the environment names none; the operator pushes it to the primary's registry like the others.
QUEUE_IMAGE = "nats:2.15-alpine"
_PORTS = {"http": 80, "https": HTTPS}


@dataclass(frozen=True, slots=True, kw_only=True)
class Services:
    """What runs in a region. Without `agent`, something of the user's own runs the agents; without `queue`, the queue
    is the user's own too."""

    agent: Service | None
    autoscaling: Autoscaling | None
    vector: Service
    queue: NatsQueue | None

    @property
    def servers(self) -> tuple[Service, ...]:
        """Those that the agents need, which are Relight's own."""
        return (self.vector, *(() if self.queue is None else self.queue.services))


def add_services(stack: AgentStack) -> Services:
    """Define the cluster and what runs in it, as much as the tier has waiting in this region."""
    environment, names = stack.environment, stack.names
    cluster = Cluster(stack, "cluster", ClusterProps(place=stack.home, name=names.cluster, logs_key=stack.key))
    count = counts(environment, stack.role)
    for who in ("agent", "functions"):
        for port in ports_out(environment, stack.role):
            stack.network.let_out(who, port=port)
        # Servers of the operator's own may join the groups that are made for ours.
        if environment.shape.state is StateKind.EXISTING:
            stack.network.admit(who, to="state", port=POSTGRES)
        if environment.queue.existing:
            stack.network.admit(who, to="queue", port=CLIENTS)
    agent, autoscaling = _agents(stack, cluster, count)
    vector = _vector(stack, cluster, count)
    queue = _queue(stack, cluster, count)
    if stack.role is Role.PRIMARY and environment.shape.standby and environment.replicate_images:
        repositories = tuple(dict.fromkeys(_repositories(environment)))
        if repositories:
            ReplicatedImages(
                stack,
                "images",
                ImagesProps(account=environment.account, region=names.region(Role.STANDBY), repositories=repositories),
            )
    return Services(agent=agent, autoscaling=autoscaling, vector=vector, queue=queue)


def ports_out(environment: Environment, role: Role) -> tuple[int, ...]:
    """The ports that agents and functions may reach anywhere: LLM providers', vaults' outside AWS, and those of servers
    that are not Relight's own."""
    urls = [urlsplit(spec.base_url) for spec in environment.providers if spec.base_url]
    urls += [urlsplit(other.endpoint) for other in environment.vaults.other.values()]
    found = {HTTPS, *environment.network(role).ports}
    found |= {url.port or _PORTS[url.scheme] for url in urls}
    if environment.shape.state is StateKind.EXISTING:
        found.add(POSTGRES)
    if environment.queue.existing:
        found.add(CLIENTS)
    return tuple(sorted(found))


def _agents(stack: AgentStack, cluster: Cluster, count: Counts) -> tuple[Service, Autoscaling] | tuple[None, None]:
    """The agents' service, or a role and what else agents of the user's own need to be attached."""
    environment, kind = stack.environment, stack.environment.capacity.kind
    if kind is not CapacityKind.ECS:
        trusted = PODS if kind is CapacityKind.EKS else MACHINES
        own = OwnAgents(stack, "agent", OwnAgentsProps(place=stack.home, service=trusted))
        _grant(stack, own)
        outputs = {
            "agent-target-group": stack.balancer.target.arn,
            "agent-security-group": stack.network.group_id("agent"),
            "agent-role": own.role_arn,
        }
        if own.profile_name is not None:
            outputs["agent-instance-profile"] = own.profile_name
        if kind is CapacityKind.EKS and stack.role is Role.STANDBY:
            # Whom the cluster's own group must let in, for its API.
            outputs["functions-security-group"] = stack.network.group_id("functions")
        for name, value in outputs.items():
            TerraformOutput(stack, name, value=value)
        return None, None
    agent = Service(
        stack,
        "agent",
        ServiceProps(
            place=stack.home,
            cluster=cluster,
            name=AGENT_SERVICE,
            family=stack.names.family(AGENT_SERVICE),
            image=in_region(environment.agent.image, stack.home.region),
            command=environment.agent.command,
            cpu=environment.agent.cpu,
            memory=environment.agent.memory,
            desired_count=count.agents,
            ports=(AGENT_PORT,),
            network=stack.network.attachment("agent"),
            logs_key=stack.key,
            environment=stack.settings.to_env(),
            targets=(stack.balancer.target,),
        ),
    )
    _grant(stack, agent)
    autoscaling = Autoscaling(
        stack,
        "agent-scaling",
        AutoscalingProps(service=agent, least=count.agents, most=environment.most_agents),
    )
    return agent, autoscaling


def _grant(stack: AgentStack, agent: Grantee) -> None:
    """What agents may do, whatever runs them."""
    environment = stack.environment
    stack.data.connections.grant_read(agent)
    stack.data.grant_provider_keys(agent)
    stack.lease.grant_hold(agent)
    # Its applier reads what the state database has let go of the journal, and says how far memory is behind.
    stack.own_vault.grant_bring_forward(agent)
    grant_metrics(agent)
    if environment.providers:
        # It tells people when it has been on a fallback for long, or a key is refused.
        stack.incidents.grant_publish(agent)
    for other in Role:
        vault_of(environment, other, at=stack.role).grant_keep_results(agent)


def _vector(stack: AgentStack, cluster: Cluster, count: Counts) -> Service:
    environment, names = stack.environment, stack.names
    server = VECTOR_SERVERS[environment.memory.store]
    stack.inner.name("vector", names.vector_host)
    target = stack.inner.serve("vector", group="vector", port=server.port, health=Health(port=server.port))
    for who in ("agent", "functions"):
        stack.network.admit(who, to="inner", port=server.port)
    image = in_region(environment.vector.image, stack.home.region)
    if repository_of(image) is None:
        stack.network.let_out("vector", port=HTTPS)
    if own := environment.vaults.other.get(stack.role):
        # It may be told to fetch what it restores.
        stack.network.let_out("vector", port=urlsplit(own.endpoint).port or HTTPS)
    return Service(
        stack,
        "vector",
        ServiceProps(
            place=stack.home,
            cluster=cluster,
            name=VECTOR_SERVICE,
            family=names.family(VECTOR_SERVICE),
            image=image,
            cpu=environment.vector.cpu,
            memory=environment.vector.memory,
            desired_count=count.vectors,
            ports=(server.port,),
            network=stack.network.attachment("vector"),
            logs_key=stack.key,
            health_command=server.health_command,
            environment=server.environment,
            secrets={server.secret: stack.data.vector_password},
            writable=server.folders,
            volume=VolumeProps(path=server.data, size_gib=environment.vector.storage_gib, key=stack.key),
            targets=(target,),
            # Two would each hold a part of what is written in between.
            alone=True,
        ),
    )


def _queue(stack: AgentStack, cluster: Cluster, count: Counts) -> NatsQueue | None:
    password = stack.data.queue_password
    if password is None:
        return None
    queue = stack.environment.queue
    image = _queue_image(stack.environment, stack.home.region)
    if repository_of(image) is None:
        stack.network.let_out("queue", port=HTTPS)
    return NatsQueue(
        stack,
        "queue",
        QueueProps(
            place=stack.home,
            cluster=cluster,
            network=stack.network,
            inner=stack.inner,
            image=image,
            host=stack.names.queue_host,
            nodes=count.nodes,
            running=count.running_nodes,
            cpu=queue.cpu,
            memory=queue.memory,
            storage_gib=queue.storage_gib,
            key=stack.key,
            password=password,
        ),
    )


def _repositories(environment: Environment) -> Iterator[str]:
    """Those of the images that are in the primary's own registry."""
    region = environment.regions.primary
    images = [in_region(environment.vector.image, region), in_region(environment.work_image, region)]
    if environment.capacity.kind is CapacityKind.ECS:
        images.append(in_region(environment.agent.image, region))
    if not environment.queue.existing:
        images.append(_queue_image(environment, region))
    for image in images:
        repository = repository_of(image)
        if repository is not None and (repository.account, repository.region) == (environment.account, region):
            yield repository.name


def _queue_image(environment: Environment, region: str) -> str:
    own = f"{environment.account}.dkr.ecr.{{region}}.amazonaws.com/{QUEUE_IMAGE}"
    return in_region(environment.queue.image or own, region)
