"""The state database of a region, and the secrets that tell how to reach its servers.

Where Relight makes the database and the queue, it knows all that the connections hold, and writes them; else the
operator does.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING

from relight.config import OnStandbyAway, Role, StateKind
from relight_constructs import state as made
from relight_constructs.bindings import AwsProvider
from relight_constructs.nats import CLIENTS
from relight_constructs.nats import USER as QUEUE_USER
from relight_constructs.props import (
    LEAST_RPO_S,
    CopiedBackupsProps,
    GlobalClusterProps,
    InstanceProps,
    InstanceReplicaProps,
    Place,
    RestoreProps,
    SecondaryClusterProps,
    SecretProps,
    SecretReplica,
    StateFollowerProps,
    StatePrimaryProps,
    StateProps,
)
from relight_constructs.secret import Secret, read_back
from relight_stacks.services import VECTOR_SERVERS

if TYPE_CHECKING:
    from relight_constructs.policies import Grantee
    from relight_stacks.environment import Environment
    from relight_stacks.region import AgentStack

Follower = made.InstanceReplica | made.SecondaryCluster | made.RestoreGround


@dataclass(frozen=True, slots=True, kw_only=True)
class Data:
    """The secrets of a region, and its database where that is to be promoted."""

    connections: Secret
    vector_password: Secret
    queue_password: Secret | None
    """Without one, the queue is the operator's own."""
    provider_keys: Secret | None
    """Without one, the keys are in the connections."""
    follower: Follower | None

    def grant_provider_keys(self, grantee: Grantee) -> None:
        """Read the keys of LLM providers, wherever they are; the connections are granted apart."""
        if self.provider_keys is not None:
            self.provider_keys.grant_read(grantee)

    def grant_look(self, grantee: Grantee) -> None:
        """See how far the database has come that is to be promoted."""
        if self.follower is not None:
            self.follower.grant_look(grantee)

    def grant_promote(self, grantee: Grantee) -> None:
        """Promote the database; where it is restored, say in the connections where it is."""
        if self.follower is not None:
            self.follower.grant_promote(grantee)
        if isinstance(self.follower, made.RestoreGround):
            self.connections.grant_write(grantee)


def add_data(stack: AgentStack) -> Data:
    """Define the region's database, as far as it is Relight's to make, and its secrets."""
    environment, names = stack.environment, stack.names
    connections = _secret(
        stack, "connections", names.connections_secret, "How to reach this region's own databases and queue"
    )
    if environment.vaults.other:
        _secret(
            stack,
            "vault-keys",
            names.vault_keys_secret,
            'The keys of the vaults that are not in AWS: {"primary": "<id>:<secret>", "standby": "<id>:<secret>"}',
        )
    vector = _secret(
        stack,
        "vector-password",
        names.vector_password_secret,
        "The password that this region's vector database starts with",
    )
    queue = None
    if not environment.queue.existing:
        queue = _secret(
            stack,
            "queue-password",
            names.queue_password_secret,
            "The password of this region's own queue: letters, digits, - and _",
        )
    provider_keys, follower = None, None
    if environment.own_state:
        for who in ("agent", "functions"):
            stack.network.admit(who, to="state", port=made.PORT)
        primary = stack.role is Role.PRIMARY
        host, password, follower = _primary(stack) if primary else _follower(stack)
        if queue is not None:
            if environment.providers:
                provider_keys = _secret(
                    stack,
                    "provider-keys",
                    names.provider_keys_secret,
                    'The keys of LLM providers: {"<name of the provider>": "<key>"}',
                )
            version = environment.database.password_version
            connections.hold(
                json.dumps(
                    {
                        "state_dsn": _state_dsn(host, password),
                        "memory_dsn": VECTOR_SERVERS[environment.memory.store].dsn.format(
                            host=names.vector_host, password=vector.generate(version=version)
                        ),
                        "queue_url": f"nats://{QUEUE_USER}:{queue.generate(version=version)}"
                        f"@{names.queue_host}:{CLIENTS}",
                    }
                ),
                version=version,
            )
    return Data(
        connections=connections,
        vector_password=vector,
        queue_password=queue,
        provider_keys=provider_keys,
        follower=follower,
    )


def _state_dsn(host: str, password: str) -> str:
    # RDS's certificates are signed by authorities of its own, which neither image nor bundle knows: docs/adr/0010.
    return f"host={host} port={made.PORT} dbname={made.DATABASE} user={made.USER} password={password} sslmode=require"


def _secret(stack: AgentStack, id_: str, name: str, description: str, replica: SecretReplica | None = None) -> Secret:
    return Secret(stack, id_, SecretProps(name=name, description=description, key=stack.key, replica=replica))


def _state(stack: AgentStack) -> StateProps:
    environment = stack.environment
    aurora = environment.shape.state is StateKind.AURORA_GLOBAL
    default = made.CLUSTER_VERSION if aurora else made.INSTANCE_VERSION
    return StateProps(
        place=stack.home,
        name=stack.names.state,
        network=stack.network,
        key=stack.key,
        version=environment.database.engine_version or default,
    )


def _primary(stack: AgentStack) -> tuple[str, str, None]:
    """The database that takes writes; where it is, its password, and that it follows nobody."""
    environment, names = stack.environment, stack.names
    database = environment.database
    # The standby's stack reads the password in its own region. The vault's key is there before either region's stack.
    password = _secret(
        stack,
        "state-password",
        names.state_password_secret,
        "The password of the state database's user relight",
        replica=SecretReplica(region=names.standby_region, key_alias=names.vault_key_alias),
    ).generate(version=database.password_version)
    aurora = environment.shape.state is StateKind.AURORA_GLOBAL
    primary = StatePrimaryProps(
        state=_state(stack),
        instance_class=database.instance_class,
        password=password,
        password_version=database.password_version,
        backup_days=database.backup_days,
    )
    if aurora:
        cluster = made.GlobalCluster(stack, "state", GlobalClusterProps(primary=primary, rpo_s=_rpo_s(environment)))
        return cluster.host, password, None
    instance = made.Instance(stack, "state", InstanceProps(primary=primary, storage_gib=database.storage_gib))
    if environment.shape.state is StateKind.SNAPSHOTS:
        away = Place(account=environment.account, region=names.standby_region, prefix=names.prefix)
        made.CopiedBackups(
            stack,
            "copied-backups",
            CopiedBackupsProps(
                place=away,
                source_arn=instance.arn,
                key_alias=names.backups_key_alias,
                days=database.backup_days,
                provider=AwsProvider(
                    stack,
                    "aws-standby",
                    alias="standby",
                    region=away.region,
                    allowed_account_ids=[environment.account],
                ),
            ),
        )
    return instance.host, password, None


def _rpo_s(environment: Environment) -> int | None:
    """How far behind every other region may be before the primary commits nothing; None where the environment would
    rather go on, or asks for less than Aurora can hold."""
    rpo_s = int(environment.objectives.rpo_s)
    waits = environment.on_standby_away is OnStandbyAway.WAIT
    return rpo_s if waits and rpo_s >= LEAST_RPO_S else None


def _follower(stack: AgentStack) -> tuple[str, str, Follower]:
    """The database that is to be promoted; where it is, its password, and itself."""
    environment, names = stack.environment, stack.names
    password = read_back(stack, "state-password", names.state_password_secret)
    state, database = _state(stack), environment.database
    kind = environment.shape.state
    if kind is StateKind.SNAPSHOTS:
        ground = made.RestoreGround(stack, "state", RestoreProps(state=state, key_alias=names.backups_key_alias))
        return ground.host, password, ground
    aurora = kind is StateKind.AURORA_GLOBAL
    follower = StateFollowerProps(
        state=state,
        source=names.state if aurora else names.state_arn,
        instance_class=database.instance_class,
    )
    if not aurora:
        replica = made.InstanceReplica(
            stack, "state", InstanceReplicaProps(follower=follower, storage_gib=database.storage_gib)
        )
        return replica.host, password, replica
    cluster = made.SecondaryCluster(
        stack,
        "state",
        SecondaryClusterProps(follower=follower, source_region=names.primary_region, backup_days=database.backup_days),
    )
    return cluster.host, password, cluster
