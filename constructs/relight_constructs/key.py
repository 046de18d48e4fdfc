"""Customer-managed keys with an alias: one that encrypts, and one of both regions that signs."""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING

from relight_constructs.bindings import Construct, KmsAlias, KmsKey, KmsReplicaKey
from relight_constructs.policies import key_policy

if TYPE_CHECKING:
    from relight_constructs.props import KeyProps, ReplicaKeyProps, SigningKeyProps


class Key(Construct):
    """Define a key that rotates by itself and is known by its alias."""

    def __init__(self, scope: Construct, id_: str, props: KeyProps) -> None:
        super().__init__(scope, id_)
        self._key = KmsKey(
            self,
            "key",
            description=props.description,
            enable_key_rotation=True,
            deletion_window_in_days=30,
            multi_region=props.multi_region or None,
            policy=key_policy(
                account=props.place.account,
                logs_region=props.place.region if props.for_logs else None,
                alarms=props.for_alarms,
                rules_region=props.place.region if props.for_rules else None,
            ),
            provider=props.provider,
        )
        KmsAlias(self, "alias", name=props.alias, target_key_id=self._key.key_id, provider=props.provider)

    @cached_property
    def arn(self) -> str:
        """A reference to its ARN."""
        return self._key.arn

    @property
    def resource(self) -> KmsKey:
        """The key itself, for what it must outlast."""
        return self._key


class ReplicaKey(Construct):
    """Define a replica of a key of several regions, known by its own alias.

    It has the key's material and rotates with it. It works without the region of its source, and decrypts what was
    encrypted there. Who may use it is said here anew: a replica has a policy and an alias of its own.
    """

    def __init__(self, scope: Construct, id_: str, props: ReplicaKeyProps) -> None:
        super().__init__(scope, id_)
        self._key = KmsReplicaKey(
            self,
            "key",
            description=props.description,
            primary_key_arn=props.source.arn,
            deletion_window_in_days=30,
            policy=key_policy(account=props.place.account),
            provider=props.provider,
        )
        KmsAlias(self, "alias", name=props.alias, target_key_id=self._key.key_id, provider=props.provider)

    @cached_property
    def arn(self) -> str:
        """A reference to its ARN."""
        return self._key.arn

    @property
    def resource(self) -> KmsReplicaKey:
        """The key itself, for what it must outlast."""
        return self._key


class SigningKey(Construct):
    """Define the key that signs recovery points, and its replica in the other region, under the same alias in both.

    What one region signed the other verifies by itself: a replica works without the region of its primary. KMS rotates
    no asymmetric key.
    """

    def __init__(self, scope: Construct, id_: str, props: SigningKeyProps) -> None:
        super().__init__(scope, id_)
        key = KmsKey(
            self,
            "key",
            description="Signs the recovery points of Relight",
            customer_master_key_spec="ECC_NIST_P256",
            key_usage="SIGN_VERIFY",
            multi_region=True,
            deletion_window_in_days=30,
            policy=key_policy(account=props.place.account),
        )
        KmsAlias(self, "alias", name=props.alias, target_key_id=key.key_id)
        replica = KmsReplicaKey(
            self,
            "replica",
            description="Signs the recovery points of Relight",
            primary_key_arn=key.arn,
            deletion_window_in_days=30,
            policy=key_policy(account=props.place.account),
            provider=props.replica_provider,
        )
        KmsAlias(self, "replica-alias", name=props.alias, target_key_id=replica.key_id, provider=props.replica_provider)
