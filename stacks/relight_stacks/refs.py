"""Vaults, signing key, lease and topic as stacks that did not make them know them. Pure: nothing here starts node."""

from __future__ import annotations

from typing import TYPE_CHECKING

from relight_constructs.access import LeaseRef, SigningRef, TopicRef, VaultRef

if TYPE_CHECKING:
    from relight.config import Role
    from relight_stacks.environment import Environment


def vault_of(environment: Environment, role: Role) -> VaultRef:
    """The vault of the region deployed as `role`."""
    names = environment.names
    region = names.region(role)
    return VaultRef(
        label=f"{role}-vault",
        bucket=names.vault_bucket(region),
        region=region,
        account=environment.account,
        key_alias=names.vault_key_alias,
    )


def signing_of(environment: Environment, role: Role) -> SigningRef:
    """The key that signs recovery points, in the region deployed as `role`."""
    names = environment.names
    return SigningRef(alias=names.signing_key_alias, region=names.region(role), account=environment.account)


def lease_of(environment: Environment) -> LeaseRef:
    """The bucket of the epoch and the lease."""
    names = environment.names
    return LeaseRef(
        label="lease",
        bucket=names.lease_bucket,
        region=names.lease_region,
        account=environment.account,
        key_alias=names.vault_key_alias,
    )


def topic_of(environment: Environment) -> TopicRef:
    """The topic that people are told by."""
    names = environment.names
    return TopicRef(
        name=names.incidents_topic,
        region=names.standby_region,
        account=environment.account,
        key_alias=names.operations_key_alias,
    )
