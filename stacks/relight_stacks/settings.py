"""What each region's functions, agent and CLI are told. Pure: nothing here starts node."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from relight.config import Role, Settings, StateKind
from relight_constructs.nats import node_name
from relight_constructs.props import Lock, most_storage_gib
from relight_stacks.counts import counts
from relight_stacks.naming import in_region

if TYPE_CHECKING:
    from relight_stacks.environment import Environment


# The ECS services of both regions.
AGENT_SERVICE = "agent"
VECTOR_SERVICE = "vector"


def settings_for(environment: Environment, role: Role) -> Settings:
    """The settings of everything that runs in the region deployed as `role`."""
    names = environment.names
    region = names.region(role)
    return Settings(
        environment=environment.name,
        tier=environment.tier,
        role=role,
        region=region,
        primary_region=names.primary_region,
        standby_region=names.standby_region,
        **_vaults(environment, role),
        lease_bucket=names.lease_bucket,
        lease_region=names.lease_region,
        connections_secret=names.connections_secret,
        service_url=f"https://{names.service_host}",
        primary_url=f"https://{names.endpoint_host(Role.PRIMARY)}",
        standby_url=f"https://{names.endpoint_host(Role.STANDBY)}",
        cluster=names.cluster,
        agent_service=AGENT_SERVICE,
        agent_replicas=environment.agent.replicas,
        state_machine_arn=names.state_machine_arn,
        incidents_topic_arn=names.incidents_topic_arn(region),
        memory_store=environment.memory.store,
        collections=environment.memory.collections,
        recall_floor=environment.memory.recall_floor,
        keep_hourly=environment.memory.keep_hourly,
        keep_daily=environment.memory.keep_daily,
        keep_monthly=environment.memory.keep_monthly,
        # A bucket of another store has the locks that its owner gave it.
        lock_days=0
        if environment.vaults.lock is Lock.NONE or role in environment.vaults.other
        else environment.vaults.lock_days,
        rehearsal_check=environment.memory.rehearsal_check,
        signing_key=names.signing_key_alias,
        acknowledge=environment.acknowledge,
        confirm_timeout_s=environment.confirm_timeout_s,
        confirm_by=environment.confirm_by,
        confirm_replicas=environment.confirm_replicas if role is Role.PRIMARY else environment.confirm_replicas_relit,
        on_standby_away=environment.on_standby_away,
        **_state(environment, role),
        rehearsal_machine_arn=names.rehearsal_machine_arn if environment.rehearsed and role is Role.STANDBY else "",
        on_lease_lost=environment.on_lease_lost,
        probe_interval_s=environment.shape.probe_interval_s,
        probe_timeout_s=environment.shape.probe_timeout_s,
        probe_threshold=environment.shape.probe_threshold,
        hold_timers_after_s=environment.hold_timers_after_s,
        hold_sends_after_s=environment.hold_sends_after_s,
        hold_credentials_after_s=environment.hold_credentials_after_s,
        providers=tuple(replace(spec, base_url=in_region(spec.base_url, region)) for spec in environment.providers),
        provider_limits=environment.provider_limits,
        read_only=environment.read_only,
        **_capacity(environment, role),
        approval_s=environment.recovery.approval_minutes * 60.0 if environment.recovery.approval else 0.0,
    )


def _capacity(environment: Environment, role: Role) -> dict[str, Any]:
    """What a recovery scales: the agents, and the servers that are Relight's own."""
    capacity = environment.capacity
    nodes = 0 if environment.queue.existing else counts(environment, role).nodes
    return {
        "capacity": capacity.kind,
        "capacity_group": capacity.group,
        "eks_cluster": capacity.cluster,
        "eks_namespace": capacity.namespace,
        "eks_deployment": capacity.deployment,
        "server_services": (VECTOR_SERVICE, *(node_name(number) for number in range(nodes))),
    }


def _vaults(environment: Environment, role: Role) -> dict[str, Any]:
    """Where the region's own vault is, and the other's."""
    names = environment.names
    found: dict[str, Any] = {}
    for whose, prefix in ((role, ""), (role.other, "peer_")):
        other = environment.vaults.other.get(whose)
        found[f"{prefix}vault_bucket"] = names.vault_bucket(names.region(whose)) if other is None else other.bucket
        if other is not None:
            found[f"{prefix}vault_endpoint"] = other.endpoint
            found[f"{prefix}vault_signs_for"] = other.region
            if whose is role:
                found["vault_holds_days"] = other.lock_days
            found["vault_keys_secret"] = names.vault_keys_secret
    return found


def _state(environment: Environment, role: Role) -> dict[str, Any]:
    """How the standby's database is promoted, where Relight makes it. A primary's is promoted already."""
    names, kind = environment.names, environment.shape.state
    found: dict[str, Any] = {}
    if environment.composes_connections and environment.providers:
        found["provider_keys_secret"] = names.provider_keys_secret
    if role is Role.STANDBY and environment.own_state:
        source = names.state if kind is StateKind.AURORA_GLOBAL else names.state_arn
        found |= {"state_kind": kind, "state_id": names.state, "state_source": source}
        found["state_backup_days"] = environment.database.backup_days
        if kind is StateKind.SNAPSHOTS:
            found["state_most_gib"] = most_storage_gib(environment.database.storage_gib)
    return found
