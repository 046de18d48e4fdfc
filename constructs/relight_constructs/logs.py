"""A log group that ends its lines in time and encrypts them."""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING

from relight_constructs.bindings import CloudwatchLogGroup, Construct
from relight_constructs.policies import Statement

if TYPE_CHECKING:
    from relight_constructs.key import Key
    from relight_constructs.policies import Grantee
    from relight_constructs.props import Place

WRITE_LOG_ACTIONS = ("logs:CreateLogStream", "logs:PutLogEvents")


class LogGroup(Construct):
    """Define a log group, encrypted with `key`, whose lines end after `retention_days`."""

    def __init__(self, scope: Construct, id_: str, *, place: Place, name: str, key: Key, retention_days: int) -> None:
        super().__init__(scope, id_)
        self._computed_arn = f"arn:aws:logs:{place.region}:{place.account}:log-group:{name}"
        self._group = CloudwatchLogGroup(self, "group", name=name, retention_in_days=retention_days, kms_key_id=key.arn)

    @cached_property
    def name(self) -> str:
        """A reference to its name, so that it exists before what writes to it."""
        return self._group.name

    @cached_property
    def arn(self) -> str:
        """A reference to its ARN."""
        return self._group.arn

    @property
    def resource(self) -> CloudwatchLogGroup:
        """The group itself, for what must come after it."""
        return self._group

    def grant_write(self, grantee: Grantee) -> None:
        """Write to it."""
        grantee.allow("log", Statement(actions=WRITE_LOG_ACTIONS, resources=(f"{self._computed_arn}:*",)))
