"""A role with one small policy for each grant."""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING

from relight_constructs.bindings import Construct, IamRole, IamRolePolicy
from relight_constructs.policies import policy

if TYPE_CHECKING:
    from relight_constructs.bindings import TerraformProvider
    from relight_constructs.policies import Statement


class Role(Construct):
    """Define a role that starts with no permission. It is a Grantee."""

    # Here and in what else is referred to often: each look at a resource's attribute asks node and waits for it, which
    # is most of what a synthesis does, and the answer never changes.

    def __init__(
        self, scope: Construct, id_: str, *, name: str, trust: str, provider: TerraformProvider | None = None
    ) -> None:
        super().__init__(scope, id_)
        self._provider = provider
        self._role = IamRole(self, "role", name=name, assume_role_policy=trust, provider=provider)
        self.policies: list[IamRolePolicy] = []
        self._given: dict[str, str] = {}

    @cached_property
    def name(self) -> str:
        """A reference to its name."""
        return self._role.name

    @cached_property
    def arn(self) -> str:
        """A reference to its ARN."""
        return self._role.arn

    def allow(self, name: str, *statements: Statement) -> None:
        """Add one policy; the same one again changes nothing, and a different one is a ValueError."""
        document = policy(*statements)
        given = self._given.get(name)
        if given == document:
            return
        if given is not None:
            raise ValueError(
                f"{self.node.path} has another policy {name!r} already, {given}, and cannot have {document} too; grant"
                " both at once, or call one of them otherwise"
            )
        self._given[name] = document
        self.policies.append(
            IamRolePolicy(self, name, name=name, role=self.name, policy=document, provider=self._provider)
        )
