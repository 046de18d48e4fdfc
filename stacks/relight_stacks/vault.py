"""The stack of what must outlive a region: a vault in each, replicated both ways, and the lease."""

from __future__ import annotations

from typing import TYPE_CHECKING

from relight.config import Role
from relight_constructs.bindings import AwsProvider
from relight_constructs.key import SigningKey
from relight_constructs.props import LeaseProps, Place, SigningKeyProps, VaultProps
from relight_constructs.vault import LeaseBucket, Vault
from relight_stacks.refs import lease_of, vault_of
from relight_stacks.stack import HomeStack

if TYPE_CHECKING:
    from relight_constructs.bindings import Construct
    from relight_stacks.environment import Environment


class VaultStack(HomeStack):
    """Define the vaults, the key that signs what is in them, and the lease bucket.

    Its home is the standby, where it is needed when the primary is gone.
    """

    def __init__(self, scope: Construct, environment: Environment) -> None:
        names = environment.names
        super().__init__(scope, environment, "vault", names.standby_region)
        away = Place(account=environment.account, region=names.primary_region, prefix=names.prefix)
        provider = AwsProvider(
            self,
            "aws-primary",
            alias="primary",
            region=names.primary_region,
            allowed_account_ids=[environment.account],
        )
        standby = Vault(self, "standby-vault", VaultProps(place=self.home, ref=vault_of(environment, Role.STANDBY)))
        primary = Vault(
            self,
            "primary-vault",
            VaultProps(place=away, ref=vault_of(environment, Role.PRIMARY), provider=provider),
        )
        standby.replicate_to(primary)
        primary.replicate_to(standby)
        SigningKey(
            self,
            "signing",
            SigningKeyProps(place=self.home, alias=names.signing_key_alias, replica_provider=provider),
        )
        LeaseBucket(self, "lease", LeaseProps(ref=lease_of(environment), key=standby.key))
