"""Secrets whose values are in no state and no JSON.

A value that is made at deployment is ephemeral: Terraform holds it while it applies, and writes it nowhere. What takes
it are write-only arguments, which are sent when their version is another than before. cdktf 0.21 knows no ephemeral
blocks, so they are overrides; Terraform knows them from 1.11 on.
"""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING

from relight_constructs.access import ENCRYPT_ACTIONS
from relight_constructs.bindings import (
    Construct,
    SecretsmanagerSecret,
    SecretsmanagerSecretReplica,
    SecretsmanagerSecretVersion,
    TerraformStack,
)
from relight_constructs.policies import Statement

if TYPE_CHECKING:
    from relight_constructs.policies import Grantee
    from relight_constructs.props import SecretProps

READ_SECRET_ACTIONS = ("secretsmanager:GetSecretValue",)
WRITE_SECRET_ACTIONS = ("secretsmanager:PutSecretValue",)
# Letters and digits alone: such a password needs no quoting in a connection string, an address or a configuration.
PASSWORD_LENGTH = 40

_PASSWORD = "aws_secretsmanager_random_password"  # noqa: S105 - a type's name
_VALUE = "aws_secretsmanager_secret_version"


class Secret(Construct):
    """Define an encrypted secret; its value is put by whoever operates the environment, unless `make_up`,
    `generate` or `hold` is called, once. Destroyed, it is gone at once."""

    def __init__(self, scope: Construct, id_: str, props: SecretProps) -> None:
        super().__init__(scope, id_)
        self._key = props.key
        self._id = id_
        self._secret = SecretsmanagerSecret(
            self,
            "secret",
            name=props.name,
            description=props.description,
            kms_key_id=props.key.arn,
            # A window would keep the name from whoever deploys again, for as long as it is. What was made up is made up
            # again, and what was entered is known where it came from: at a provider, in a store, in a database.
            recovery_window_in_days=0,
            replica=None
            if props.replica is None
            else [SecretsmanagerSecretReplica(region=props.replica.region, kms_key_id=props.replica.key_alias)],
        )

    def make_up(self, *, version: int) -> None:
        """Fill it with a password that is made while it is deployed, and again whenever `version` is raised."""
        made = f"{self._secret.friendly_unique_id}_made"
        _ephemeral(self, _PASSWORD, made, {"password_length": PASSWORD_LENGTH, "exclude_punctuation": True})
        self.hold(f"${{ephemeral.{_PASSWORD}.{made}.random_password}}", version=version)

    def generate(self, *, version: int) -> str:
        """Make its value up, for write-only arguments of the same stack.

        Returns an expression of what the secret holds: it is read back from the secret, so that the secret and what
        takes its value cannot differ, also where an apply was cut off between the two.
        """
        self.make_up(version=version)
        return read_back(self, f"{self._secret.friendly_unique_id}_held", self._version.secret_id)

    def hold(self, value: str, *, version: int) -> None:
        """Fill it with `value`, an expression of ephemeral values; sent again whenever `version` is raised."""
        self._version = SecretsmanagerSecretVersion(
            self, "value", secret_id=self._secret.id, secret_string_wo=value, secret_string_wo_version=version
        )

    @cached_property
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

    def grant_write(self, grantee: Grantee) -> None:
        """Replace its value."""
        grantee.allow(
            f"write-{self._id}",
            Statement(actions=WRITE_SECRET_ACTIONS, resources=(self.arn,)),
            Statement(
                actions=ENCRYPT_ACTIONS,
                resources=(self._key.arn,),
                condition={"StringEquals": {"kms:EncryptionContext:SecretARN": self.arn}},
            ),
        )


def read_back(scope: Construct, id_: str, secret_id: str) -> str:
    """An expression of what the secret `secret_id` of the stack's own region holds, for write-only arguments."""
    _ephemeral(scope, _VALUE, id_, {"secret_id": secret_id})
    return f"${{ephemeral.{_VALUE}.{id_}.secret_string}}"


def _ephemeral(scope: Construct, type_: str, id_: str, body: dict[str, object]) -> None:
    TerraformStack.of(scope).add_override(f"ephemeral.{type_}.{id_}", body)
