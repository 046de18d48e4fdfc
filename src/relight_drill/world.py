"""Two regions on one machine: everything that a scenario needs, raised, destroyed and asked.

The infrastructure is what the synthesized stacks say. Servers, agents and load balancers are processes and sockets of
this machine; which of them are played is said in the modules that play them.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
from contextlib import AsyncExitStack, asynccontextmanager, closing
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from relight.adapters import postgres
from relight.clock import SystemClock
from relight.config import Connections, MemoryStore, Role
from relight.errors import RelightError
from relight.memory.api import Memory, Point
from relight.memory.hydrate import verify_memory
from relight.memory.stores import open_store
from relight.objectives import PATTERNS, Pattern
from relight.queue.queues import QueueKind
from relight.recovery.evidence import HistoryStore
from relight.recovery.timeline import Timeline
from relight.tasks.database import Database
from relight.vault.store import Vault
from relight_constructs.bundle import build_bundle, host_target
from relight_drill.applier import apply
from relight_drill.conditions import let_conditions_through
from relight_drill.corpus import Embedder, documents
from relight_drill.ecs import EcsPlayer
from relight_drill.emulator import Emulator
from relight_drill.models import Models
from relight_drill.nats import NatsServer
from relight_drill.network import Authority, Ingress, Internet, Link, Mode
from relight_drill.outbox import Outbox
from relight_drill.postgres import STANDBY_NAME, PostgresServer
from relight_drill.processes import DrillError, Process, ProcessGroup, free_port, last_words, wait_until
from relight_drill.qdrant import QdrantServer
from relight_drill.redis import RedisServer
from relight_drill.route53 import Crowd, HttpProbe, Resolver, Route53Player
from relight_drill.synthesis import synthesize
from relight_drill.tools import python_of
from relight_drill.wire import Gate, darken
from relight_drill.workload import Callers
from relight_stacks.settings import AGENT_SERVICE, VECTOR_SERVICE, settings_for
from relight_stacks.tiers import Waiting

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Coroutine, Mapping

    from relight.config import Settings
    from relight.memory.store import CollectionSpec, VectorStore
    from relight.recovery.timeline import Event
    from relight_drill.deployment import Deployment, Service
    from relight_drill.ecs import Task
    from relight_drill.network import Side
    from relight_drill.wire import Denial
    from relight_stacks.environment import Environment

OUTSIDE = "outside"
OUTBOX_HOST = "outbox.example"
CORPUS = 600
STARTED_S = 60.0
COMMAND_S = 180.0
_WELL = ("RUNNING", "SUCCEEDED")

# The ECS service of a region's queue, whatever the drill's queue is.
QUEUE_SERVICE = "nats-0"
# What the standby does while nothing is wrong.
WAITS = {
    Waiting.FULL: "answers questions too",
    Waiting.PILOT: "is a pilot light",
    Waiting.NONE: "is cold: nothing runs there",
}

# The vector stores that a region can have here.
PLAYED = (MemoryStore.PGVECTOR, MemoryStore.QDRANT)


class _AgentTask:
    """An agent, as ECS sees it."""

    def __init__(self, process: Process, ingress: Ingress, port: int) -> None:
        self.process = process
        self._ingress = ingress
        self._port = port

    def alive(self) -> bool:
        return self.process.alive

    @property
    def answers(self) -> bool:
        """Whether the load balancer lets requests through to it."""
        return self._port in self._ingress.healthy

    async def stop(self) -> None:
        self._ingress.deregister(self._port)
        await self.process.terminate()


@dataclass(frozen=True, slots=True, kw_only=True)
class _ServerTask:
    """A vector store or a queue, as ECS sees it: its volume is its task's, so a new task starts empty."""

    alive: Callable[[], bool]
    stop: Callable[[], Coroutine[Any, Any, None]]


def _vector_server(
    store: MemoryStore, group: ProcessGroup, folder: Path, *, name: str
) -> PostgresServer | QdrantServer:
    if store is MemoryStore.QDRANT:
        return QdrantServer(group, folder, name=name)
    return PostgresServer(group, folder, name=name, database="memory")


def _queue_server(kind: QueueKind, group: ProcessGroup, folder: Path, *, region: str) -> NatsServer | RedisServer:
    if kind is QueueKind.REDIS:
        return RedisServer(group, folder / "redis", name=f"redis-{region}")
    return NatsServer(group, folder / "nats", name=f"nats-{region}")


class RegionPlay:
    """One region's servers, load balancer and players."""

    def __init__(
        self,
        settings: Settings,
        *,
        group: ProcessGroup,
        folder: Path,
        state: PostgresServer,
        queue: QueueKind,
        ingress: Ingress,
    ) -> None:
        folder.mkdir(mode=0o711)
        self.settings = settings
        self.name = settings.region
        self.folder = folder
        self.state = state
        self.ingress = ingress
        self.vector = _vector_server(settings.memory_store, group, folder / "vector", name=f"vector-{self.name}")
        self.queue = _queue_server(queue, group, folder, region=self.name)
        self.store = open_store(settings.memory_store, self.vector.dsn())
        self.ecs: EcsPlayer | None = None

    async def start_server(self, service: str) -> _ServerTask:
        """Start the server of an ECS service on a new volume; DrillError for a service that is not played."""
        if service == VECTOR_SERVICE:
            self.vector.destroy()
            await self.vector.create()
            return _ServerTask(alive=lambda: self.vector.running, stop=lambda: self.vector.stop(immediate=True))
        if service == QUEUE_SERVICE:
            self.queue.destroy()
            await self.queue.start()
            return _ServerTask(alive=lambda: self.queue.running, stop=self.queue.stop)
        raise DrillError(f"the drill does not play the service {service} of {self.name}", hint="teach world.py to")

    def connections(self, provider_keys: Mapping[str, str]) -> Connections:
        """What an operator puts into the region's secret."""
        return Connections(
            state_dsn=self.state.dsn(),
            memory_dsn=self.vector.dsn(),
            queue_url=self.queue.url(),
            provider_keys=provider_keys,
        )

    def troubles(self) -> str:
        """What ECS and its rules met with lately; empty when nothing went wrong."""
        return "; ".join(dict.fromkeys(self.ecs.errors[-3:])) if self.ecs is not None else ""

    @property
    def agents(self) -> list[_AgentTask]:
        """The agents that run."""
        running = self.ecs.running.get(AGENT_SERVICE, []) if self.ecs is not None else []
        return [task for task in running if isinstance(task, _AgentTask)]


class World:
    """The two regions of an environment. Entering raises them; leaving ends everything that was started."""

    def __init__(
        self,
        environment: Environment,
        *,
        folder: Path,
        group: ProcessGroup,
        seed: int,
        say: Callable[[str], None],
        queue: QueueKind = QueueKind.NATS,
    ) -> None:
        self.environment = environment
        self.tier = environment.tier
        self.seed = seed
        self.clock = SystemClock()
        self.outbox = Outbox()
        self.emulator = Emulator(group, folder / "emulator", account=environment.account)
        self.gate = Gate(self.emulator)
        self.lost: dict[Role, Mode] = {}
        self.corpus: dict[str, float] = {}
        """What was remembered before anybody called, and when it was acknowledged, on the drill's clock."""
        self._settings = {role: settings_for(environment, role) for role in Role}
        self._queue = queue
        self._folder = folder
        self._group = group
        self._say = say
        self._open = AsyncExitStack()
        self._wall_clock_offset_s = self.clock.now().timestamp() - self.clock.monotonic()
        self._authority = Authority(folder)
        self._internet = Internet()
        self.models = Models(
            [settings.providers for settings in self._settings.values()],
            internet=self._internet,
            authority=self._authority,
            seed=seed,
        )
        """The LLM providers; they live in neither region."""
        self._regions: dict[Role, RegionPlay] = {}
        self._deployment: Deployment | None = None
        self._dns: Route53Player | None = None
        self._agents_started = 0

    # -- raising

    async def __aenter__(self) -> Self:
        try:
            await self._raise()
        except BaseException:
            await self._open.aclose()
            raise
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self._open.aclose()

    async def _raise(self) -> None:
        self._say("raising two regions: servers, bundle, stacks")
        async with asyncio.TaskGroup() as group:
            stacks = group.create_task(self._synthesize())
            group.create_task(self._start_servers())
        await self._deploy(stacks.result())
        self._say("the operator's first day: secrets, schema, epoch")
        primary, standby = self._regions[Role.PRIMARY], self._regions[Role.STANDBY]
        for region in (primary, standby):
            await asyncio.to_thread(self._put_connections, region)
        self._play(primary)
        await self._until_servers_run(primary)
        await self.relight("init", "--yes", role=Role.PRIMARY)
        await asyncio.to_thread(self._load_corpus)
        point = await self.invoke("snapshot", role=Role.PRIMARY)
        self._say(f"recovery point {point['id']} of {len(self.corpus)} docstrings is sealed in {point['region']}")
        self._play(standby)
        if self.environment.shape.hydrates_on_boot:
            await self._until_standby_hydrated(standby)
        await asyncio.gather(*(self._until_agents_answer(region) for region in self._regions.values()))
        await self._until_primary_serves()
        waits = WAITS[self.environment.shape.waiting]
        self._say(f"{primary.name} serves with {len(primary.agents)} agents; {standby.name} {waits}")

    async def _synthesize(self) -> Path:
        bundles = Path.cwd() / ".relight" / "bundles"
        store = self.environment.memory.store
        bundle, asking = await asyncio.to_thread(
            lambda: (
                build_bundle(host_target(), bundles, store=store),
                build_bundle(host_target(), bundles, providers=True),
            )
        )
        return await synthesize(
            [
                *("--environment", self.environment.name, "--tier", self.tier, "--memory", store, "--bundle", bundle),
                *("--providers-bundle", asking),
            ],
            cache=Path.cwd() / ".relight" / "stacks",
            group=self._group,
            folder=self._folder,
        )

    async def _start_servers(self) -> None:
        """PostgreSQL with its replica, queues, the emulator behind its gate, and the network between them."""
        names = {role: self._settings[role].region for role in Role}
        settings = {"synchronous_standby_names": STANDBY_NAME}
        states = {
            Role.PRIMARY: PostgresServer(
                self._group, self._folder / "state-primary", name="state-primary", database="relight", settings=settings
            ),
            Role.STANDBY: PostgresServer(
                self._group, self._folder / "state-standby", name="state-standby", database="relight"
            ),
        }
        self.replication = Link(states[Role.PRIMARY].port)
        await self.replication.start()
        self._open.push_async_callback(self.replication.close)
        await self.outbox.start()
        self._open.push_async_callback(self.outbox.close)
        self._open.push_async_callback(self._internet.close)
        self._open.push_async_callback(self.gate.close)
        for side in (*names.values(), OUTSIDE):
            await self._internet.add_side(side, canonical=self._canonical)
            await self.gate.add_side(side)
        self._internet.publish(OUTBOX_HOST, 80, at=self.outbox.port)
        await self._open.enter_async_context(self.models)
        for role, name in names.items():
            host = self.environment.names
            ingress = Ingress(self._authority, [host.service_host, host.endpoint_host(role)])
            await ingress.start()
            self._open.push_async_callback(ingress.close)
            self._regions[role] = RegionPlay(
                self._settings[role],
                group=self._group,
                folder=self._folder / name,
                state=states[role],
                queue=self._queue,
                ingress=ingress,
            )
            self._open.callback(self._regions[role].store.close)

        async def state_pair() -> None:
            await states[Role.PRIMARY].create()
            await states[Role.STANDBY].base_backup(states[Role.PRIMARY], source_port=self.replication.port)
            await states[Role.STANDBY].start()

        async def emulator() -> None:
            python = await asyncio.to_thread(lambda: python_of("emulator", group=self._group, say=self._say))
            await self.emulator.start(python)

        async with asyncio.TaskGroup() as group:
            group.create_task(state_pair())
            group.create_task(emulator())
        self._open.push_async_callback(self._stop_everything)

    async def _deploy(self, stacks: Path) -> None:
        self._deployment = await apply(self.emulator, stacks, environment=lambda region, _: self._surroundings(region))
        self.gate.buckets.update(self._deployment.buckets)
        for region in self._regions.values():
            self._internet.publish(self._deployment.balancer(region.name), 443, at=region.ingress.port)
            if QUEUE_SERVICE not in self._deployment.services_of(region.name):
                await region.queue.start()  # the operator's own, which runs all along
        await asyncio.to_thread(self._let_ecs_in)
        await asyncio.to_thread(
            let_conditions_through, self.emulator, self._deployment, region=self.region(Role.PRIMARY)
        )
        probe = HttpProbe(self._internet.sides[OUTSIDE].url)
        self._open.push_async_callback(probe.close)
        self._dns = Route53Player(self._deployment.health_checks, self._deployment.records, probe=probe, seed=self.seed)
        self._open.push_async_callback(self._dns.close)
        self._dns.play()

    def _let_ecs_in(self) -> None:
        """Let the account itself take on task roles.

        On AWS they trust ECS on behalf of this account alone. The player is not that service and cannot present itself
        as such to the emulator; what the role may do stays as it was deployed.
        """
        assert self._deployment is not None  # noqa: S101 - deployed before
        iam = self.emulator.client("iam", self.region(Role.PRIMARY))
        root = {"AWS": f"arn:aws:iam::{self.environment.account}:root"}
        trust = {"Effect": "Allow", "Principal": root, "Action": "sts:AssumeRole"}
        for definition in self._deployment.of("aws_ecs_task_definition"):
            role = definition.arguments["task_role_arn"].rpartition("/")[2]
            document = iam.get_role(RoleName=role)["Role"]["AssumeRolePolicyDocument"]
            document["Statement"].append(trust)
            iam.update_assume_role_policy(RoleName=role, PolicyDocument=json.dumps(document))

    def _surroundings(self, side: str) -> dict[str, str]:
        """The variables by which a process finds the world that it is in; nothing else tells it."""
        proxy = self._internet.sides[side].url
        return {
            "AWS_ENDPOINT_URL": self.gate.url(side),
            "HTTPS_PROXY": proxy,
            "HTTP_PROXY": proxy,
            "https_proxy": proxy,
            "http_proxy": proxy,
            "NO_PROXY": "127.0.0.1,localhost",
            "SSL_CERT_FILE": str(self._authority.bundle),
        }

    def _canonical(self, name: str) -> str | None:
        return self._dns.canonical(name) if self._dns is not None else name

    def _put_connections(self, region: RegionPlay) -> None:
        self.emulator.client("secretsmanager", region.name).put_secret_value(
            SecretId=region.settings.connections_secret,
            SecretString=region.connections(self.models.keys()).to_json(),
        )

    def _play(self, region: RegionPlay) -> None:
        """Let ECS look after the region's services from now on."""
        assert self._deployment is not None  # noqa: S101 - deployed before

        async def start(
            service: Service, _definition: str, environment: Mapping[str, str], credentials: Mapping[str, str]
        ) -> Task:
            if service.name == AGENT_SERVICE:
                return self._start_agent(region, environment, credentials)
            return await region.start_server(service.name)

        region.ecs = EcsPlayer(self.emulator, region.name, self._deployment.services, start)
        self._open.push_async_callback(region.ecs.close)
        region.ecs.play()

    def _start_agent(
        self, region: RegionPlay, environment: Mapping[str, str], credentials: Mapping[str, str]
    ) -> _AgentTask:
        self._agents_started += 1
        port = free_port()
        process = self._group.start(
            f"agent-{region.name}-{self._agents_started}",
            [sys.executable, "-P", "-m", "relight_drill.agent"],
            log_path=region.folder / f"agent-{self._agents_started}.log",
            env={
                "PATH": os.defpath,
                "HOME": str(region.folder),
                "LANG": "C.UTF-8",
                # One thread each: several agents share the cores, and an embedding takes milliseconds.
                "OMP_NUM_THREADS": "1",
                "OPENBLAS_NUM_THREADS": "1",
                "TOKENIZERS_PARALLELISM": "false",
                "PORT": str(port),
                "SEED": str(self.seed * 100 + self._agents_started),
                **environment,
                **credentials,
                **self._surroundings(region.name),
            },
            cwd=region.folder,
        )
        region.ingress.register(port)
        return _AgentTask(process, region.ingress, port)

    async def _until_servers_run(self, region: RegionPlay) -> None:
        for what, server in (("vector store", region.vector), ("queue", region.queue)):
            try:
                await wait_until(
                    lambda server=server: server.running,
                    what=f"the {what} of {region.name} to run",
                    timeout_s=STARTED_S,
                )
            except DrillError as exc:
                raise DrillError(exc.problem, hint=region.troubles()) from None

    async def _until_standby_hydrated(self, region: RegionPlay) -> None:
        try:
            await self.until_memory_is_whole(Role.STANDBY, timeout_s=STARTED_S)
        except DrillError as exc:
            said = [exc.hint, *await asyncio.to_thread(self._failed_boots), region.troubles()]
            raise DrillError(exc.problem, hint="; ".join(filter(None, said))) from None

    async def _until_agents_answer(self, region: RegionPlay) -> None:
        """Until all that were deployed have come up, and the load balancer has seen it: before that it answers 503."""
        ecs = region.ecs
        assert ecs is not None  # noqa: S101 - played before

        async def answer() -> bool:
            return await ecs.is_steady() and all(agent.answers for agent in region.agents)

        try:
            await wait_until(answer, what=f"the agents of {region.name} to answer", timeout_s=STARTED_S)
        except DrillError as exc:
            raise DrillError(exc.problem, hint=region.troubles()) from None

    def _failed_boots(self) -> list[str]:
        """What the hydrations on boot said went wrong."""
        events = [event for run in self.runs("boot-") for event in self.events(run)]
        return [f"{event.state}: {event.detail.get('error', '')}" for event in events if event.status == "failed"]

    def _load_corpus(self) -> None:
        """Remember real text, through the journal, as an agent would have over the months before."""
        texts = documents(CORPUS, seed=self.seed)
        vectors = Embedder().embed([text.text for text in texts])
        region = self._regions[Role.PRIMARY]
        memory = Memory(store=region.store, spec=self._spec)
        database = Database(region.state.dsn())
        try:
            with database.transaction(confirmed=True) as cur:
                points = [
                    Point(id=f"doc/{text.name}", vector=vector, payload={"text": text.text})
                    for text, vector in zip(texts, vectors, strict=True)
                ]
                memory.upsert(cur, points, epoch=1)
        finally:
            database.close()
        self.corpus = dict.fromkeys((point.id for point in points), self.clock.monotonic())

    async def _until_primary_serves(self) -> None:
        dns = self._dns
        assert dns is not None  # noqa: S101 - deployed before
        checked = {role: self.environment.names.endpoint_host(role) for role in Role}
        async with self.callers() as callers:

            async def served() -> bool:
                return bool(callers.record.asks) and callers.record.asks[-1].answered

            try:
                await wait_until(served, what="the primary to serve its callers", timeout_s=STARTED_S)
            except DrillError as exc:
                told = [ask.error for ask in callers.record.asks[-1:]]
                said = [*told, self._regions[Role.PRIMARY].troubles()]
                raise DrillError(exc.problem, hint="; ".join(filter(None, said))) from None
        # The standby's check starts out as healthy, as Route 53's do, and must have seen whether it is.
        both = PATTERNS[self.tier] is Pattern.ACTIVE_ACTIVE
        await dns.until(
            lambda: dns.healthy(checked[Role.PRIMARY]) and dns.healthy(checked[Role.STANDBY]) is both,
            what="the health checks to see which regions serve",
            timeout_s=STARTED_S,
        )

    async def _stop_everything(self) -> None:
        for process in self._group.processes:
            process.kill()

    # -- destroying

    async def lose(self, role: Role, mode: Mode) -> None:
        """Lose a region: its processes die or fall silent, its AWS goes dark, its schedules and functions stop."""
        region = self._regions[role]
        self.lost[role] = mode
        self.gate.lose(region.name, mode)
        if region.ecs is not None:
            await region.ecs.lose()
        await asyncio.gather(
            self.replication.set_mode(mode),
            region.ingress.set_mode(mode),
            self._internet.set_mode(region.name, mode),
        )
        if mode is Mode.DEAD:
            for agent in region.agents:
                agent.process.kill()
            region.state.kill()
            region.vector.kill()
            region.queue.kill()
        await asyncio.to_thread(darken, self.emulator, region.name)

    async def lose_volume(self, role: Role) -> None:
        """The vector store's task dies, and its volume with it; ECS will start another."""
        await asyncio.to_thread(self._regions[role].vector.destroy)

    @asynccontextmanager
    async def autopsy(self, role: Role) -> AsyncIterator[str]:
        """The DSN of a lost region's database, which is started again where it was killed, and cut off from all."""
        server = self._regions[role].state
        started = not server.running
        if started:
            await server.start()
        try:
            yield server.dsn()
        finally:
            if started:
                await server.stop(immediate=True)

    # -- asking

    def settings(self, role: Role) -> Settings:
        """What everything in that region is told."""
        return self._settings[role]

    def region(self, role: Role) -> str:
        """The region's name."""
        return self._settings[role].region

    def play_of(self, role: Role) -> RegionPlay:
        """The region's servers."""
        return self._regions[role]

    @property
    def _spec(self) -> CollectionSpec:
        return self._settings[Role.PRIMARY].collections[0]

    @property
    def collection(self) -> str:
        """The collection that the agent remembers in."""
        return self._spec.name

    @property
    def denials(self) -> list[Denial]:
        """What the gate refused."""
        return list(self.gate.denials)

    def state_dsn(self, role: Role) -> str:
        """The region's state database."""
        return self._regions[role].state.dsn()

    def store(self, role: Role) -> VectorStore:
        """The region's vector store."""
        return self._regions[role].store

    def memory_lacks(self, role: Role) -> str:
        """What the region's vector store lacks of what the region's journal promises; empty when it is whole."""
        region = self._regions[role]
        try:
            with closing(postgres.connect(region.state.dsn())) as state:
                verify_memory(store=region.store, state=state, spec=self._spec)
        except RelightError as exc:
            return str(exc)
        return ""

    async def until_memory_is_whole(self, role: Role, *, timeout_s: float) -> None:
        """Wait until the region's vector store lacks nothing; DrillError that says what it lacks."""
        lacks = ""

        async def whole() -> bool:
            nonlocal lacks
            lacks = await asyncio.to_thread(self.memory_lacks, role)
            return not lacks

        try:
            what = f"the vector store of {self.region(role)} to be whole"
            await wait_until(whole, what=what, timeout_s=timeout_s, interval_s=0.2)
        except DrillError as exc:
            raise DrillError(exc.problem, hint=lacks) from None

    def vault(self, role: Role) -> Vault:
        """The region's vault, with an auditor's rights."""
        settings = self._settings[role]
        return Vault(self.emulator.client("s3", settings.region), settings.vault_bucket, region=settings.region)

    def sentinel_watches(self) -> bool:
        """Whether the sentinel has seen the primary answer."""
        settings = self._settings[Role.STANDBY]
        client = self.emulator.client("s3", settings.lease_region)
        return HistoryStore(client, settings.lease_bucket).read().ever_answered

    def watch_now(self) -> None:
        """Call the deployed sentinel once, under its own role, as its schedule does, which begins a minute after it was
        deployed; its answer is not waited for."""
        client: Any = self.emulator.client("lambda", self.region(Role.STANDBY))
        name = self.environment.names.function("sentinel")
        client.invoke(FunctionName=name, InvocationType="Event", Payload=b"{}")

    def side(self, role: Role) -> Side:
        """The region's way out."""
        return self._internet.sides[self.region(role)]

    def agents_said(self, role: Role) -> str:
        """What the region's agents wrote last, for whoever must find out why nothing happens."""
        region = self._regions[role]
        said = f"the agents of {region.name}: {last_words([agent.process for agent in region.agents])}"
        return "; ".join(filter(None, [said, region.troubles()]))

    def runs(self, prefix: str) -> list[str]:
        """The ids of the runs with a timeline in the standby's vault, oldest first."""
        keys = self.vault(Role.STANDBY).list_keys(f"runs/{prefix}")
        return sorted({key.split("/")[1] for key in keys})

    def events(self, run_id: str) -> list[Event]:
        """A run's timeline."""
        return Timeline(self.vault(Role.STANDBY), run_id, clock=self.clock).events()

    def recovery_gave_up(self) -> bool:
        """Whether the newest execution of the state machine failed; an older one may have, while a newer one runs."""
        return any(item["status"] not in _WELL for item in self._executions()[-1:])

    def recovery_failures(self) -> list[str]:
        """Every execution of the state machine that failed, and why."""
        client = self.emulator.client("stepfunctions", self.region(Role.STANDBY))
        found = []
        for item in self._executions():
            if item["status"] not in _WELL:
                said = client.describe_execution(executionArn=item["executionArn"])
                why = ": ".join(filter(None, [said.get("error"), said.get("cause")]))
                found.append(f"the recovery {item['name']} {item['status'].lower().replace('_', ' ')}: {why}")
        return found

    def _executions(self) -> list[dict[str, Any]]:
        client = self.emulator.client("stepfunctions", self.region(Role.STANDBY))
        arn = self._settings[Role.STANDBY].state_machine_arn
        found: list[dict[str, Any]] = client.list_executions(stateMachineArn=arn)["executions"]
        return sorted(found, key=lambda item: item["startDate"])

    def seconds(self, moment: Any) -> float:
        """A time of the wall clock on the drill's monotonic clock."""
        return float(moment.timestamp() - self._wall_clock_offset_s)

    def health_changes(self) -> list[tuple[float, str, bool]]:
        """When which endpoint's health check changed, and to what."""
        return [(item.at, item.fqdn, item.healthy) for item in self._dns.history] if self._dns else []

    @asynccontextmanager
    async def callers(self) -> AsyncIterator[Callers]:
        """Callers from outside, half of them near each region, with a DNS cache in each of the two places."""
        dns = self._dns
        assert dns is not None  # noqa: S101 - deployed before
        resolvers = [
            Resolver(dns, locate=lambda name: self._internet.locate(name, 443), near=self.region(role)) for role in Role
        ]
        callers = Callers(
            host=self.environment.names.service_host,
            names=Crowd(resolvers, seed=self.seed),
            trust=self._authority.client(),
            clock=self.clock,
            seed=self.seed,
        )
        await callers.start()
        try:
            yield callers
        finally:
            await callers.close()

    # -- operating

    def operator_env(self, role: Role) -> dict[str, str]:
        """The environment of an operator outside both regions who works on one of them."""
        return {
            "PATH": os.defpath,
            "HOME": str(self._folder),
            "LANG": "C.UTF-8",
            "AWS_ACCESS_KEY_ID": self.emulator.account,
            "AWS_SECRET_ACCESS_KEY": "test",
            **self._surroundings(OUTSIDE),
            **self._settings[role].to_env(),
        }

    async def relight(self, *arguments: str, role: Role) -> None:
        """Run the CLI as an operator; DrillError with its output when it fails."""
        await self._group.run(
            f"relight {arguments[0]}",
            [sys.executable, "-P", "-m", "relight_cli.main", *arguments],
            log_path=self._folder / "operator.log",
            timeout_s=COMMAND_S,
            env=self.operator_env(role),
            cwd=self._folder,
        )

    async def invoke(self, verb: str, *, role: Role, event: Mapping[str, Any] | None = None) -> dict[str, Any]:
        """Invoke a deployed function and return its answer; DrillError with the function's own error when it fails."""
        name = self.environment.names.function(verb)
        client = self.emulator.client("lambda", self.region(role))
        payload = json.dumps(event or {}).encode()
        answer = await asyncio.to_thread(client.invoke, FunctionName=name, Payload=payload)
        value = json.loads(await asyncio.to_thread(answer["Payload"].read) or b"null")
        if answer.get("FunctionError"):
            raise DrillError(f"the function {name} failed: {value.get('errorType')}: {value.get('errorMessage')}")
        found: dict[str, Any] = value
        return found
