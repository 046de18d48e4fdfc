"""The played Application Auto Scaling: bounds are kept, by whoever may, and as AWS checks them."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import boto3
import pytest
from botocore.exceptions import ClientError

if TYPE_CHECKING:
    from relight_drill.emulator import Emulator

pytestmark = pytest.mark.servers

EAST, WEST = "us-east-1", "us-west-2"
TARGET = {
    "ServiceNamespace": "ecs",
    "ResourceId": "service/scaling-test/agent",
    "ScalableDimension": "ecs:service:DesiredCount",
}
TARGETS = f"arn:aws:application-autoscaling:{WEST}:000000000000:scalable-target/*"


def bounds(client: Any) -> list[tuple[int, int]]:
    found = client.describe_scalable_targets(ServiceNamespace="ecs", ResourceIds=[TARGET["ResourceId"]])
    return [(item["MinCapacity"], item["MaxCapacity"]) for item in found["ScalableTargets"]]


def test_bounds_are_kept_in_their_region(emulator: Emulator) -> None:
    """What is left out of a target that is there stays as it was; another region has none; bounds must make sense."""
    client = emulator.client("application-autoscaling", WEST)
    with pytest.raises(ClientError, match="has no minimum or no maximum"):
        client.register_scalable_target(**TARGET, MinCapacity=1)
    client.register_scalable_target(**TARGET, MinCapacity=0, MaxCapacity=4)
    client.register_scalable_target(**TARGET, MinCapacity=2)
    assert bounds(client) == [(2, 4)]
    with pytest.raises(ClientError, match="at least 5 and at most 4"):
        client.register_scalable_target(**TARGET, MinCapacity=5)
    assert bounds(client) == [(2, 4)]
    assert bounds(emulator.client("application-autoscaling", EAST)) == []
    with pytest.raises(ClientError, match="does not play DeregisterScalableTarget"):
        client.deregister_scalable_target(**TARGET)


def test_who_may_not_is_refused(emulator: Emulator) -> None:
    """fails when a role changes or lists targets without being allowed to, as recoveries are allowed by name."""
    iam = emulator.client("iam", WEST)
    trust = {"Effect": "Allow", "Principal": {"AWS": "arn:aws:iam::000000000000:root"}, "Action": "sts:AssumeRole"}
    document = {"Version": "2012-10-17", "Statement": [trust]}
    arn = iam.create_role(RoleName="scaling-test", AssumeRolePolicyDocument=json.dumps(document))["Role"]["Arn"]
    given = emulator.client("sts", WEST).assume_role(RoleArn=arn, RoleSessionName="test")["Credentials"]
    client = boto3.client(
        "application-autoscaling",
        region_name=WEST,
        endpoint_url=emulator.url,
        aws_access_key_id=given["AccessKeyId"],
        aws_secret_access_key=given["SecretAccessKey"],
        aws_session_token=given["SessionToken"],
    )

    def allow(action: str, resource: str) -> None:
        statement = {"Effect": "Allow", "Action": f"application-autoscaling:{action}", "Resource": resource}
        policy = json.dumps({"Version": "2012-10-17", "Statement": [statement]})
        iam.put_role_policy(RoleName="scaling-test", PolicyName="p", PolicyDocument=policy)

    allow("DescribeScalableTargets", TARGETS)  # which AWS knows of no resource for
    with pytest.raises(ClientError, match="AccessDenied"):
        bounds(client)
    with pytest.raises(ClientError, match="AccessDenied"):
        client.register_scalable_target(**TARGET, MinCapacity=0, MaxCapacity=9)
    allow("DescribeScalableTargets", "*")
    bounds(client)
    allow("RegisterScalableTarget", TARGETS)
    client.register_scalable_target(**TARGET, MinCapacity=1, MaxCapacity=4)
