"""Who may pull an image. Pure: nothing here starts node."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from relight_constructs.policies import Statement

if TYPE_CHECKING:
    from relight_constructs.policies import Grantee

PULL_ACTIONS = ("ecr:BatchCheckLayerAvailability", "ecr:BatchGetImage", "ecr:GetDownloadUrlForLayer")

_ECR = re.compile(r"(?P<account>[0-9]{12})\.dkr\.ecr\.(?P<region>[a-z0-9-]+)\.amazonaws\.com/(?P<repository>[^:@]+)")


@dataclass(frozen=True, slots=True, kw_only=True)
class Repository:
    """A repository of an account's registry in a region."""

    account: str
    region: str
    name: str

    @property
    def arn(self) -> str:
        """Its ARN."""
        return f"arn:aws:ecr:{self.region}:{self.account}:repository/{self.name}"


def repository_of(image: str) -> Repository | None:
    """Where an image is, if in a registry of ECR that is private."""
    found = _ECR.match(image)
    return found and Repository(account=found["account"], region=found["region"], name=found["repository"])


def grant_pull(image: str, execution: Grantee) -> None:
    """An image of our own registry needs permission; any other is pulled without."""
    repository = repository_of(image)
    if repository is None:
        return
    execution.allow(
        "pull",
        Statement(actions=PULL_ACTIONS, resources=(repository.arn,)),
        Statement(actions=("ecr:GetAuthorizationToken",), resources=("*",)),
    )
