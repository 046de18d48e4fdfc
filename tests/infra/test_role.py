"""A role has one policy for each grant."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from relight_constructs.bindings import App, TerraformStack
from relight_constructs.policies import Statement, trust_lambda
from relight_constructs.role import Role

if TYPE_CHECKING:
    from pathlib import Path


def test_fails_when_two_grants_are_called_the_same(tmp_path: Path) -> None:
    """The same one again changes nothing; another of that name would take the place of the first."""
    role = Role(TerraformStack(App(outdir=str(tmp_path)), "s"), "role", name="r", trust=trust_lambda())
    read = Statement(actions=("s3:GetObject",), resources=("arn:aws:s3:::a/*",))
    for _ in range(2):
        role.allow("read", read)
    assert len(role.policies) == 1
    with pytest.raises(ValueError, match=r"s/role has another policy 'read' already, .*GetObject.* grant both at once"):
        role.allow("read", Statement(actions=("s3:PutObject",), resources=("arn:aws:s3:::a/*",)))
    assert len(role.policies) == 1
