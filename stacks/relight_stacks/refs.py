"""Vaults, signing key, lease and topic as stacks that did not make them know them. Pure: nothing here starts node."""

from __future__ import annotations

from typing import TYPE_CHECKING

from relight_constructs.access import LeaseRef, OtherVaultRef, SecretRef, SigningRef, TopicRef, VaultRef

if TYPE_CHECKING:
    from relight.config import Role
    from relight_stacks.environment import Environment


def vault_of(environment: Environment, role: Role, *, at: Role | None = None) -> VaultRef:
    """The vault of the region deployed as `role`, as it is used in the one deployed as `at`: in its own, if nothing is
    said."""
    names = environment.names
    region = names.region(role)
    if other := environment.vaults.other.get(role):
        keys = SecretRef(
            label="vault-keys",
            name=names.vault_keys_secret,
            region=names.region(at or role),
            account=environment.account,
            key_alias=names.operations_key_alias,
        )
        return OtherVaultRef(
            label=f"{role}-vault",
            bucket=other.bucket,
            region=region,
            account=environment.account,
            key_alias="",
            keys=keys,
        )
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


def standbys_topic(environment: Environment) -> TopicRef:
    """The topic of the standby that people are told by."""
    names = environment.names
    return TopicRef(
        name=names.incidents_topic,
        region=names.standby_region,
        account=environment.account,
        key_alias=names.operations_key_alias,
    )
