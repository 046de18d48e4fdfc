"""A secret whose value somebody else puts, and the topic that people are told by."""

from __future__ import annotations

from typing import TYPE_CHECKING

from relight_constructs.access import ENCRYPT_ACTIONS, PUBLISH_ACTIONS
from relight_constructs.bindings import Construct, SecretsmanagerSecret, SnsTopic
from relight_constructs.policies import Statement

if TYPE_CHECKING:
    from relight_constructs.policies import Grantee
    from relight_constructs.props import SecretProps, TopicProps

READ_SECRET_ACTIONS = ("secretsmanager:GetSecretValue",)


class Secret(Construct):
    """Define an encrypted secret without a value, so that no state and no JSON ever holds one."""

    def __init__(self, scope: Construct, id_: str, props: SecretProps) -> None:
        super().__init__(scope, id_)
        self._key = props.key
        self._id = id_
        self._secret = SecretsmanagerSecret(
            self, "secret", name=props.name, description=props.description, kms_key_id=props.key.arn
        )

    @property
    def arn(self) -> str:
        """A reference to its ARN, whose suffix only the service knows."""
        return self._secret.arn

    def grant_read(self, grantee: Grantee) -> None:
        """Read its value."""
        grantee.allow(
            f"read-{self._id}",
            Statement(actions=READ_SECRET_ACTIONS, resources=(self.arn,)),
            Statement(
                actions=("kms:Decrypt",),
                resources=(self._key.arn,),
                condition={"StringEquals": {"kms:EncryptionContext:SecretARN": self.arn}},
            ),
        )


class IncidentsTopic(Construct):
    """Define the encrypted topic of incidents; who is subscribed is the operator's choice."""

    def __init__(self, scope: Construct, id_: str, props: TopicProps) -> None:
        super().__init__(scope, id_)
        self._props = props
        self._topic = SnsTopic(self, "topic", name=props.name, kms_master_key_id=props.key.arn)

    @property
    def arn(self) -> str:
        """A reference to its ARN."""
        return self._topic.arn

    def grant_publish(self, grantee: Grantee) -> None:
        """Tell people."""
        grantee.allow(
            "publish",
            Statement(actions=PUBLISH_ACTIONS, resources=(self._topic.arn,)),
            Statement(actions=ENCRYPT_ACTIONS, resources=(self._props.key.arn,)),
        )
