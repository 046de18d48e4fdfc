"""The policies of the role that deploys suffice to make every resource of `demo`, where IAM is enforced, and not less.

What makes them is the drill's applier: its calls are those that create something, and fewer than Terraform's.
"""

from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING, Any

import boto3
import pytest

from relight_drill.applier import apply
from relight_drill.emulator import Emulator, _apart
from relight_drill.processes import DrillError
from relight_stacks.deploy_policy import May, policies, read_stacks
from relight_stacks.loading import load_named

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from pathlib import Path

    from relight_drill.deployment import Deployment
    from relight_drill.processes import ProcessGroup

pytestmark = pytest.mark.servers

# The emulator asks about another resource than AWS does for these (Service Authorization Reference): about all of them,
# or about one that AWS has no ARN for. Everything else is asked about as in AWS.
EMULATORS_OWN = {
    "cloudwatch:PutDashboard": "about all, not the dashboard",
    "ecs:CreateCluster": "about all, not the cluster",
    "ecs:CreateService": "about the cluster, not the service",
    "ecs:RegisterTaskDefinition": "about all, not the family",
    "events:PutRule": "about rule/default/<name>; AWS has no bus in the ARN of a rule of the default one",
    "events:PutTargets": "the same",
    "kms:CreateAlias": "about all, not the alias and the key",
    "lambda:CreateFunction": "about all, not the function",
}
# Terraform sends a function's code with the call that makes it; the applier leaves it in a bucket.
APPLIERS_OWN = ("s3:CreateBucket", "s3:PutObject")


@pytest.fixture
def emulator(server_group: ProcessGroup, server_dir: Path) -> Iterator[Emulator]:
    """One that has nothing yet, and IAM enforced."""
    emulator = Emulator(server_group, server_dir / "deploying")
    asyncio.run(emulator.start())
    yield emulator
    asyncio.run(emulator.stop())


@pytest.fixture
def deploying(emulator: Emulator, server_group: ProcessGroup, server_dir: Path) -> Callable[..., Emulator]:
    """Who is allowed these policies, and what the emulator and the applier need beside."""

    def make(documents: Mapping[str, Mapping[str, Any]]) -> Emulator:
        iam = emulator.client("iam", "us-east-1")
        iam.create_user(UserName="deployer")
        for name, document in documents.items():
            arn = iam.create_policy(PolicyName=name, PolicyDocument=json.dumps(document))["Policy"]["Arn"]
            iam.attach_user_policy(UserName="deployer", PolicyArn=arn)
        beside = {"Effect": "Allow", "Action": [*EMULATORS_OWN, *APPLIERS_OWN], "Resource": "*"}
        document = {"Version": "2012-10-17", "Statement": [beside]}
        iam.put_user_policy(UserName="deployer", PolicyName="beside", PolicyDocument=json.dumps(document))
        key = iam.create_access_key(UserName="deployer")["AccessKey"]
        # The same server, by other credentials.
        made = Emulator(server_group, server_dir / "deploying", port=emulator.port)
        made._session = boto3.Session(
            aws_access_key_id=key["AccessKeyId"],
            aws_secret_access_key=key["SecretAccessKey"],
            botocore_session=_apart(),
        )
        return made

    return make


def test_every_resource_is_made(deploying: Callable[..., Emulator], demo_stacks: Path) -> None:
    """By the policies as they are written, within their resources."""
    written = policies(read_stacks(demo_stacks, "demo"), load_named("demo"), May.DEPLOY)
    deployment: Deployment = asyncio.run(apply(deploying(written), demo_stacks))
    stacks = read_stacks(demo_stacks, "demo").values()
    assert len(deployment.resources) >= sum(len(found) for stack in stacks for found in stack["resource"].values())


def test_fails_when_a_policy_is_missing(deploying: Callable[..., Emulator], demo_stacks: Path) -> None:
    """So it was the policies that allowed it."""
    written = policies(read_stacks(demo_stacks, "demo"), load_named("demo"), May.DEPLOY)
    of_roles = [name for name, body in written.items() if "iam:CreateRole" in json.dumps(body)]
    assert len(of_roles) == 1
    del written[of_roles[0]]
    with pytest.raises(DrillError, match=r"is not authorized to perform: \w+:\w+"):
        asyncio.run(apply(deploying(written), demo_stacks))


def test_who_plans_makes_nothing(deploying: Callable[..., Emulator], demo_stacks: Path) -> None:
    """The first thing that is to be made is refused."""
    written = policies(read_stacks(demo_stacks, "demo"), load_named("demo"), May.PLAN)
    with pytest.raises(DrillError, match=r"is not authorized to perform"):
        asyncio.run(apply(deploying(written), demo_stacks))
