"""A region's own servers and buckets, opened when first asked for, from the settings alone."""

from __future__ import annotations

import json
import os
from contextlib import ExitStack, closing
from dataclasses import replace
from datetime import timedelta
from functools import cached_property, partial
from typing import TYPE_CHECKING, Any, Self

from relight.adapters import aws, postgres
from relight.clock import SystemClock
from relight.config import CapacityKind, Connections, Role, Settings, StateKind
from relight.errors import ConfigError, NotFoundError
from relight.memory.segments import Archive
from relight.memory.stores import open_store
from relight.objectives import Pattern, uploads_to_standby_first
from relight.recovery.capacity import Need
from relight.recovery.epoch import LeaseKeeper, LeaseStore
from relight.recovery.evidence import HistoryStore
from relight.recovery.follow import Following, JournalEdges
from relight.recovery.metrics import CloudWatchMetrics
from relight.recovery.replica import PhysicalReplica
from relight.recovery.timeline import Timeline
from relight.tasks.database import Database
from relight.tasks.epochs import EpochLog
from relight.tasks.ledger import Ledger
from relight.tasks.results import VaultResults
from relight.vault.signing import open_signer
from relight.vault.store import Vault

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from relight.adapters.postgres import Connection
    from relight.clock import Clock
    from relight.memory.store import CollectionSpec, VectorStore
    from relight.providers.blocking import Router
    from relight.providers.incidents import Incident
    from relight.providers.opening import OpenedRouter
    from relight.providers.prompts import Prompts
    from relight.providers.router import Degradation
    from relight.recovery.capacity import Capacity
    from relight.recovery.large import EcsTasks
    from relight.recovery.pager import Pager
    from relight.recovery.replica import Replica
    from relight.vault.signing import Signer

# By which a recovery's timeline names the agents, whatever runs them.
AGENTS = "agents"

# One for breakers, and one for incidents.
_PROVIDER_CONNECTIONS = 2


class Region:
    """What one region's handlers, workers and operators work with. Close it, or use it as a context manager."""

    def __init__(self, settings: Settings, *, clock: Clock | None = None) -> None:
        self.settings = settings
        self.clock = clock or SystemClock()
        self._open = ExitStack()

    @classmethod
    def from_env(cls, env: Mapping[str, str] | None = None) -> Self:
        """The region that the environment variables describe."""
        return cls(Settings.from_env(os.environ if env is None else env))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def close(self) -> None:
        """Close every connection that was opened."""
        self._open.close()

    def aws(self, service: str) -> Any:
        """A client of the region's own AWS."""
        return aws.client(service, self.settings.region)

    @cached_property
    def connections(self) -> Connections:
        """The region's connections secret; read once, so a rotated secret needs a new Region."""
        name = self.settings.connections_secret
        return Connections.from_json(self._secret(name), source=name)

    @cached_property
    def provider_connections(self) -> Connections:
        """The connections with the keys of LLM providers, also where these are in a secret of their own, which who asks
        no provider need not be allowed to read. ConfigError while nobody has put them there."""
        name = self.settings.provider_keys_secret
        if not name:
            return self.connections
        keys = self._secret_object(name, hint=f'put {{"<name of the provider>": "<key>"}} into the secret {name}')
        return replace(self.connections, provider_keys=keys)

    def _secret(self, name: str) -> str:
        with aws.translating():
            return str(self.aws("secretsmanager").get_secret_value(SecretId=name)["SecretString"])

    def _secret_from_people(self, name: str, *, hint: str) -> str:
        """The value of a secret that a deployment makes without one; ConfigError until somebody has put it there."""
        try:
            return self._secret(name)
        except NotFoundError:
            raise ConfigError(f"the secret {name} has no value yet", hint=hint) from None

    def _secret_object(self, name: str, *, hint: str) -> dict[str, Any]:
        """The same, of a JSON object; no error shows what the secret holds."""
        text = self._secret_from_people(name, hint=hint)
        try:
            found = json.loads(text)
        except ValueError:
            raise ConfigError(f"the secret {name} does not hold JSON", hint=hint) from None
        if not isinstance(found, dict):
            raise ConfigError(f"the secret {name} does not hold a JSON object", hint=hint)
        return found

    def rehearsal_dsn(self, address: str) -> str:
        """How to reach the store at `address`, which runs for rehearsals alone, by the password that it began with."""
        settings = self.settings
        return settings.rehearsal_form.format(host=address, password=self._secret(settings.rehearsal_secret))

    @cached_property
    def vault(self) -> Vault:
        """The region's own vault."""
        settings = self.settings
        if settings.vault_endpoint:
            return self._elsewhere(settings.vault_bucket, settings.region)
        return self._in_aws(settings.vault_bucket, settings.region)

    @cached_property
    def peer_vault(self) -> Vault:
        """The other region's vault."""
        settings = self.settings
        if settings.peer_vault_endpoint:
            return self._elsewhere(settings.peer_vault_bucket, settings.peer_region)
        return self._in_aws(settings.peer_vault_bucket, settings.peer_region)

    @property
    def restores_beside(self) -> Vault | None:
        """The vault whose points may be restored here, beside the own one: a standby must need nothing of the primary,
        and in the primary the other's has what nobody has replicated back yet."""
        return self.peer_vault if self.settings.role is Role.PRIMARY else None

    def _in_aws(self, bucket: str, region: str) -> Vault:
        return Vault(aws.client("s3", region), bucket, region=region, signer=self._signer)

    def _elsewhere(self, bucket: str, region: str) -> Vault:
        """A region's vault in another store. AWS's own credentials are never sent there."""
        settings = self.settings
        own = region == settings.region
        key_id, _, secret = self._vault_keys(region).partition(":")
        client = aws.elsewhere(
            settings.vault_endpoint if own else settings.peer_vault_endpoint,
            key_id=key_id,
            secret=secret,
            region=settings.vault_signs_for if own else settings.peer_vault_signs_for,
        )
        holds_for = timedelta(days=settings.vault_holds_days if own else 0)
        return Vault(client, bucket, region=region, signer=self._signer, elsewhere=True, holds_for=holds_for)

    def _vault_keys(self, region: str) -> str:
        """`ID:SECRET` of a region's vault; ConfigError, which shows neither, while nobody has put them there."""
        settings = self.settings
        name = settings.vault_keys_secret
        if not name:
            field = "vault_keys" if region == settings.region else "peer_vault_keys"
            source, keys = settings.connections_secret, getattr(self.connections, field)
        else:
            field = str(Role.PRIMARY if region == settings.primary_region else Role.STANDBY)
            source, keys = name, self._all_vault_keys.get(field, "")
        if not isinstance(keys, str) or not all(keys.partition(":")):
            raise ConfigError(
                f"the secret {source} has no keys of the vault of {region}, which is not in AWS",
                hint=f'put "{field}": "ID:SECRET" into its JSON object',
            )
        return keys

    @cached_property
    def _all_vault_keys(self) -> dict[str, Any]:
        name = self.settings.vault_keys_secret
        hint = f'put {{"primary": "ID:SECRET", "standby": "ID:SECRET"}} into the secret {name}, of those not in AWS'
        return self._secret_object(name, hint=hint)

    @cached_property
    def _signer(self) -> Signer | None:
        return open_signer(self.settings.signing_key, kms=lambda: self.aws("kms"))

    @cached_property
    def leases(self) -> LeaseStore:
        """The epoch and the lease, wherever they live."""
        # The keeper asks again every few seconds by itself; one answer that hangs must not use the lease up.
        client = aws.client("s3", self.settings.lease_region, connect_timeout_s=1, read_timeout_s=2, attempts=1)
        return LeaseStore(client, self.settings.lease_bucket)

    @cached_property
    def probe_history(self) -> HistoryStore:
        """The sentinel's memory."""
        return HistoryStore(aws.client("s3", self.settings.lease_region), self.settings.lease_bucket)

    def lease_keeper(self) -> LeaseKeeper:
        """A keeper of the region's lease; the caller runs it."""
        return LeaseKeeper(
            self.leases,
            region=self.settings.region,
            ttl_s=self.settings.lease_ttl_s,
            margin_s=self.settings.lease_margin_s,
            clock=self.clock,
            on_lost=self.settings.on_lease_lost,
        )

    @cached_property
    def database(self) -> Database:
        """The state database."""
        settings = self.settings
        database = Database(
            self.connections.state_dsn,
            confirm_timeout_s=settings.confirm_timeout_s,
            confirm_by=settings.confirm_by,
            confirm_replicas=settings.confirm_replicas,
            on_standby_away=settings.on_standby_away,
            read_only=settings.read_only,
            clock=self.clock,
        )
        self._open.callback(database.close)
        return database

    @cached_property
    def _provider_database(self) -> Database:
        """The same, for what workers know together about LLM providers: tasks that have all connections of the other
        must not keep them from it. Nothing of it is confirmed in the standby."""
        database = Database(self.connections.state_dsn, size=_PROVIDER_CONNECTIONS, clock=self.clock)
        self._open.callback(database.close)
        return database

    def state(self) -> closing[Connection]:
        """A connection of its own to the state database, for work that reads for long; closed on leaving the block."""
        return closing(postgres.connect(self.connections.state_dsn))

    @cached_property
    def epochs(self) -> EpochLog:
        """The epochs as the state database knows them."""
        return EpochLog(self.database)

    @cached_property
    def following(self) -> Following | None:
        """How far the region is behind the one that acts; None where only that one serves."""
        if self.settings.pattern is not Pattern.ACTIVE_ACTIVE:
            return None
        return Following(
            database=self.database, store=self.store, specs=self.specs, bound_s=self.settings.objectives.rpo_s
        )

    @cached_property
    def edges(self) -> JournalEdges:
        """Where the journal begins in the state database."""
        return JournalEdges(self.database)

    @property
    def archive(self) -> Archive:
        """The journal's archived segments, in this region's vault or the other's."""
        return Archive(self.vault, self.peer_vault)

    @cached_property
    def metrics(self) -> CloudWatchMetrics:
        """The region's metrics."""
        settings = self.settings
        return CloudWatchMetrics(self.aws("cloudwatch"), environment=settings.environment, region=settings.region)

    def router(
        self, *, prompts: Prompts | None = None, on_degraded: Callable[[Degradation], None] | None = None
    ) -> Router:
        """A router over the region's LLM providers, for code that blocks; see `open_router`. Closed with the region."""
        from relight.providers.blocking import Router

        router = Router(self._router_maker(prompts, on_degraded))
        self._open.callback(router.close)
        return router

    def async_router(
        self, *, prompts: Prompts | None = None, on_degraded: Callable[[Degradation], None] | None = None
    ) -> OpenedRouter:
        """The same for an event loop, on which it is to be closed; its threads end with the region at the latest."""
        router = self._router_maker(prompts, on_degraded)()
        self._open.callback(router.end)
        return router

    def _router_maker(
        self, prompts: Prompts | None, on_degraded: Callable[[Degradation], None] | None
    ) -> Callable[[], OpenedRouter]:
        # Late: only who asks LLM providers needs any of it.
        from relight.providers.opening import open_router

        settings = self.settings
        return partial(
            open_router,
            settings,
            self.provider_connections,
            clock=self.clock,
            database=self._provider_database,  # opened before the router, and so closed after it
            metrics=self.metrics,
            page=self.page if settings.incidents_topic_arn else None,
            prompts=prompts,
            on_degraded=on_degraded,
        )

    def page(self, incident: Incident) -> None:
        """Tell people of an incident of LLM providers; UnavailableError or DeniedError."""
        from relight.providers.opening import publish_incident

        publish_incident(self._incidents, self.settings)(incident)

    def _incidents(self) -> Any:
        """A client of where the topic of incidents is: the other region, for a primary."""
        return aws.client("sns", self.settings.incidents_topic_arn.split(":")[3])

    @cached_property
    def pager(self) -> Pager:
        """Who is paged of incidents; ConfigError while nobody has put a routing key into its secret."""
        # Late: one function alone pages.
        from relight.adapters.pagerduty import PagerDuty

        settings = self.settings
        name = settings.pagerduty_secret
        key = self._secret_from_people(name, hint="put the routing key of an Events API v2 integration there").strip()
        return PagerDuty(url=settings.pagerduty_url, key=key, source=name, clock=self.clock)

    def ledger(self, epoch: Callable[[], int]) -> Ledger:
        """The ledger, whose writes carry what `epoch` returns; what is too large for it goes into the vaults."""
        own, peer = self.vault, self.peer_vault
        # Where no store replicates, what a step gave back is in the standby as soon as the step is done.
        first_there = self.settings.copies_points or uploads_to_standby_first(self.settings.objectives)
        first = peer if self.settings.role is Role.PRIMARY and first_there else own
        vaults = (first, own if first is peer else peer)
        return Ledger(self.database, epoch=epoch, acknowledge=self.settings.acknowledge, results=VaultResults(vaults))

    @cached_property
    def replica(self) -> Replica:
        """The state database as something to promote."""
        settings, dsn = self.settings, self.connections.state_dsn
        if settings.state_kind is StateKind.EXISTING:
            return PhysicalReplica(dsn)
        # Late: only who promotes such a database asks RDS.
        from relight.adapters.rds import Rds
        from relight.recovery.replica_rds import AuroraSecondary, RdsReplica, RestoredBackup

        rds = Rds(self.aws("rds"))
        if settings.state_kind is StateKind.AURORA_GLOBAL:
            return AuroraSecondary(
                dsn,
                rds,
                region=settings.region,
                cluster=settings.state_id,
                global_cluster=settings.state_source,
                clock=self.clock,
            )
        if settings.state_kind is StateKind.RDS_REPLICA:
            return RdsReplica(
                dsn, rds, instance=settings.state_id, backup_days=settings.state_backup_days, clock=self.clock
            )
        return RestoredBackup(
            dsn,
            rds,
            instance=settings.state_id,
            source_arn=settings.state_source,
            group=settings.state_group,
            most_gib=settings.state_most_gib,
            point_at=self._point_state_at,
            clock=self.clock,
        )

    def _point_state_at(self, host: str) -> None:
        """Write another host of the state database into the connections; all else in them stays as it is."""
        name = self.settings.connections_secret
        text = self._secret(name)
        value = json.loads(text)
        value["state_dsn"] = postgres.with_host(Connections.from_json(text, source=name).state_dsn, host)
        with aws.translating():
            self.aws("secretsmanager").put_secret_value(SecretId=name, SecretString=json.dumps(value))

    @property
    def agents(self) -> Capacity:
        """What runs the region's agents."""
        # Late: only who scales needs any of it.
        from relight.recovery.capacities import AutoScalingGroup, EcsService, EksDeployment

        settings = self.settings
        if settings.capacity is CapacityKind.EKS:
            return EksDeployment(
                self.aws("eks"),
                self.aws("sts"),
                cluster=settings.eks_cluster,
                namespace=settings.eks_namespace,
                deployment=settings.eks_deployment,
            )
        if settings.capacity is CapacityKind.AUTO_SCALING:
            return AutoScalingGroup(self.aws("autoscaling"), group=settings.capacity_group)
        return EcsService(
            self.aws("ecs"),
            self.aws("application-autoscaling"),
            cluster=settings.cluster,
            service=settings.agent_service,
        )

    @property
    def needs(self) -> tuple[Need, ...]:
        """What must run before the region can serve; the servers, which the agents need, come first."""
        from relight.recovery.capacities import EcsService

        settings = self.settings
        ecs = self.aws("ecs")
        servers = [
            Need(name=name, capacity=EcsService(ecs, None, cluster=settings.cluster, service=name), least=1)
            for name in settings.server_services
        ]
        return (*servers, Need(name=AGENTS, capacity=self.agents, least=settings.agent_replicas))

    @cached_property
    def store(self) -> VectorStore:
        """The vector store."""
        store = open_store(self.settings.memory_store, self.connections.memory_dsn)
        self._open.callback(store.close)
        return store

    @property
    def tasks(self) -> EcsTasks:
        """Where work goes that is too large for a function."""
        from relight.recovery.large import EcsTasks

        settings = self.settings
        return EcsTasks(
            self.aws("ecs"),
            cluster=settings.cluster,
            family=settings.large_task,
            subnets=settings.large_subnets,
            groups=settings.large_groups,
        )

    @property
    def specs(self) -> tuple[CollectionSpec, ...]:
        """The collections that the agent remembers in."""
        return self.settings.collections

    def timeline(self, run_id: str) -> Timeline:
        """The timeline of one run, in this region's vault."""
        return Timeline(self.vault, run_id, clock=self.clock)
