"""The stack of what must outlive a region: a vault in each, replicated both ways, and the lease. A vault that is in
another store is made there, by whoever owns it."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from relight.config import Role
from relight_constructs.bindings import AwsProvider
from relight_constructs.key import Key, SigningKey
from relight_constructs.props import KeyProps, LeaseProps, Place, ReplicationAlarmsProps, SigningKeyProps, VaultProps
from relight_constructs.vault import REPLICATION_TIME_MIN, LeaseBucket, ReplicationAlarms, Vault
from relight_stacks.refs import lease_of, vault_of
from relight_stacks.stack import HomeStack

if TYPE_CHECKING:
    from relight_constructs.bindings import Construct
    from relight_stacks.environment import Environment
    from relight_stacks.region import AgentStack


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
        elsewhere = environment.vaults.other
        standby = primary = None
        if Role.STANDBY not in elsewhere:
            standby = Vault(self, "standby-vault", vault_props(environment, Role.STANDBY, place=self.home))
        if Role.PRIMARY not in elsewhere:
            props = vault_props(environment, Role.PRIMARY, place=away)
            primary = Vault(self, "primary-vault", replace(props, provider=provider, key_of=standby))
        if standby is not None and primary is not None:
            time_control = environment.shape.replication_time_control
            standby.replicate_to(primary, time_control=time_control)
            primary.replicate_to(standby, time_control=time_control)
        SigningKey(
            self,
            "signing",
            SigningKeyProps(place=self.home, alias=names.signing_key_alias, replica_provider=provider),
        )
        # The lease is in AWS in any case: it is held by conditional writes that every reader sees at once.
        key = self._key(environment) if standby is None else standby.key
        LeaseBucket(self, "lease", LeaseProps(ref=lease_of(environment), key=key))

    def _key(self, environment: Environment) -> Key:
        """What a vault in the standby's region would have made: others find it by its alias."""
        return Key(
            self,
            "key",
            KeyProps(
                place=self.home,
                alias=environment.names.vault_key_alias,
                description="The lease of Relight, and what waits in the standby",
            ),
        )


def vault_props(environment: Environment, role: Role, *, place: Place) -> VaultProps:
    """What the environment says of the vault of `role`."""
    vaults = environment.vaults
    return VaultProps(
        place=place,
        ref=vault_of(environment, role),
        lock=vaults.lock,
        lock_days=vaults.lock_days,
        ladder=environment.ladder,
        results_days=vaults.results_days,
    )


def watch_replication(stack: AgentStack) -> None:
    """Tell the region's people when replication falls behind what was promised, or fails.

    Nothing is promised without Replication Time Control: half of the objective counts then. Where there is no standby,
    no topic is in its region, and only failures are told. Where no store replicates there is nothing to watch; see
    `relight_stacks.keeping`.
    """
    environment = stack.environment
    if environment.vaults.other:
        return
    promised = environment.shape.replication_time_control
    ReplicationAlarms(
        stack,
        "replication",
        ReplicationAlarmsProps(
            place=stack.home,
            own=stack.own_vault,
            peer=vault_of(environment, stack.role.other),
            late_s=REPLICATION_TIME_MIN * 60 if promised else int(environment.objectives.rpo_s / 2),
            topic=stack.incidents,
        ),
    )
