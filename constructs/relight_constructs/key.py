"""A customer-managed key with an alias."""

from __future__ import annotations

from typing import TYPE_CHECKING

from relight_constructs.bindings import Construct, KmsAlias, KmsKey
from relight_constructs.policies import key_policy

if TYPE_CHECKING:
    from relight_constructs.props import KeyProps


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
            policy=key_policy(account=props.place.account, logs_region=props.place.region if props.for_logs else None),
            provider=props.provider,
        )
        KmsAlias(self, "alias", name=props.alias, target_key_id=self._key.key_id, provider=props.provider)

    @property
    def arn(self) -> str:
        """A reference to its ARN."""
        return self._key.arn
