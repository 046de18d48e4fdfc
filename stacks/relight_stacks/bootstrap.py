"""The buckets of Terraform's state: what has to exist before anything can be deployed. Pure: nothing here starts node.

One in each region, so that neither region's stacks need the other to be planned. Looking changes nothing, and what is
as it should be is left alone: doing it all again does nothing.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from botocore.exceptions import ClientError

from relight.adapters.aws import client, translating
from relight.config import Role
from relight.errors import ConfigError, DeniedError, NotFoundError, RelightError
from relight_constructs.policies import VERSION as POLICY_VERSION
from relight_constructs.policies import tls_only

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from relight_stacks.environment import Environment

# An earlier state is what a mistaken deployment is undone with. A lock leaves a version and a marker behind each time.
KEPT_VERSIONS = 50
KEPT_DAYS = 90
_RULE = "relight-state"
_PRIVATE = dict.fromkeys(("BlockPublicAcls", "IgnorePublicAcls", "BlockPublicPolicy", "RestrictPublicBuckets"), True)
# What S3 answers where nothing was ever set.
_UNSET = frozenset(
    {
        "NoSuchBucketPolicy",
        "NoSuchLifecycleConfiguration",
        "NoSuchPublicAccessBlockConfiguration",
        "OwnershipControlsNotFoundError",
        "ServerSideEncryptionConfigurationNotFoundError",
    }
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """One call to S3 that brings a bucket nearer to what it should be. `what` is for people."""

    bucket: str
    region: str
    what: str
    call: str
    arguments: Mapping[str, Any]


def check_account(environment: Environment) -> None:
    """The credentials are of the environment's account; ConfigError when they are of another."""
    with translating():
        found = client("sts", environment.regions.standby).get_caller_identity()["Account"]
    if found != environment.account:
        raise ConfigError(
            f"the credentials are of account {found}, and {environment.name} is of account {environment.account}",
            hint="use credentials of that account",
        )


def plan_buckets(environment: Environment) -> list[Step]:
    """What is still to be done, in order, for the state buckets of both regions; nothing when they are right.

    Raises ConfigError where a bucket of that name is somebody else's.
    """
    names = environment.names
    steps: list[Step] = []
    for role in (Role.STANDBY, Role.PRIMARY):
        region = names.region(role)
        steps += _bucket(names.state_bucket(region), region=region, account=environment.account)
    return steps


def carry_out(step: Step) -> None:
    """Do one step; doing it twice is as good as once."""
    s3 = client("s3", step.region)
    with translating():
        getattr(s3, step.call)(Bucket=step.bucket, **step.arguments)
        if step.call == "create_bucket":
            s3.get_waiter("bucket_exists").wait(Bucket=step.bucket)


def _bucket(bucket: str, *, region: str, account: str) -> Iterator[Step]:
    """The steps of one bucket."""
    s3 = client("s3", region)
    exists = _exists(s3, bucket, account=account)

    def step(what: str, call: str, **arguments: Any) -> Step:
        owner = {} if call == "create_bucket" else {"ExpectedBucketOwner": account}
        return Step(bucket=bucket, region=region, what=what, call=call, arguments=arguments | owner)

    def found(call: str) -> Any:
        """What is set now; empty where the bucket is not there yet, or it never was."""
        return _asked(getattr(s3, call), bucket, account=account) if exists else {}

    if not exists:
        # Of us-east-1 S3 takes no name.
        place = {} if region == "us-east-1" else {"CreateBucketConfiguration": {"LocationConstraint": region}}
        yield step("make it", "create_bucket", **place)
    if found("get_bucket_versioning").get("Status") != "Enabled":
        yield step(
            "keep earlier versions",
            "put_bucket_versioning",
            VersioningConfiguration={"Status": "Enabled"},
        )
    rules = found("get_bucket_encryption").get("ServerSideEncryptionConfiguration", {}).get("Rules", [])
    if not any(rule.get("ApplyServerSideEncryptionByDefault", {}).get("SSEAlgorithm") for rule in rules):
        # Terraform asks for this algorithm by itself; a key of one's own, set here by hand, is left as it is.
        default = {"ApplyServerSideEncryptionByDefault": {"SSEAlgorithm": "AES256"}}
        yield step(
            "encrypt what is put into it",
            "put_bucket_encryption",
            ServerSideEncryptionConfiguration={"Rules": [default]},
        )
    if found("get_public_access_block").get("PublicAccessBlockConfiguration") != _PRIVATE:
        yield step("let nobody make it public", "put_public_access_block", PublicAccessBlockConfiguration=_PRIVATE)
    owned = found("get_bucket_ownership_controls").get("OwnershipControls", {}).get("Rules", [])
    if owned != [{"ObjectOwnership": "BucketOwnerEnforced"}]:
        yield step(
            "own every object in it",
            "put_bucket_ownership_controls",
            OwnershipControls={"Rules": [{"ObjectOwnership": "BucketOwnerEnforced"}]},
        )
    now = json.loads(found("get_bucket_policy").get("Policy", "{}"))
    if (wanted := _with_tls(now, bucket)) != now:
        yield step("refuse whoever comes without TLS", "put_bucket_policy", Policy=json.dumps(wanted))
    kept = found("get_bucket_lifecycle_configuration").get("Rules", [])
    if all(rule.get("ID") != _RULE for rule in kept):
        yield step(
            f"remove versions that are {KEPT_DAYS} days old, but the newest {KEPT_VERSIONS}",
            "put_bucket_lifecycle_configuration",
            LifecycleConfiguration={"Rules": [*kept, _lifecycle()]},
        )


def _exists(s3: Any, bucket: str, *, account: str) -> bool:
    """Whether the bucket is there, and ours."""
    try:
        with translating():
            s3.head_bucket(Bucket=bucket, ExpectedBucketOwner=account)
    except NotFoundError:
        return False
    except DeniedError as exc:
        raise ConfigError(
            f"the bucket {bucket} is another account's, or these credentials may not look at it",
            hint=f"use credentials of account {account} that may, or give the environment another name",
        ) from exc
    return True


def _asked(call: Callable[..., Any], bucket: str, *, account: str) -> Any:
    """What S3 says of a bucket; empty where it was never told."""
    try:
        with translating():
            return call(Bucket=bucket, ExpectedBucketOwner=account)
    except RelightError as exc:
        said = exc.__cause__
        if isinstance(said, ClientError) and said.response["Error"]["Code"] in _UNSET:
            return {}
        raise


def _with_tls(policy: dict[str, Any], bucket: str) -> dict[str, Any]:
    """The bucket's policy with our statement in it; what else it says stays."""
    (ours,) = json.loads(tls_only(bucket))["Statement"]
    others = [item for item in policy.get("Statement", []) if item.get("Sid") != ours["Sid"]]
    return {"Version": POLICY_VERSION} | policy | {"Statement": [*others, ours]}


def _lifecycle() -> dict[str, Any]:
    return {
        "ID": _RULE,
        "Status": "Enabled",
        "Filter": {"Prefix": ""},
        "NoncurrentVersionExpiration": {"NoncurrentDays": KEPT_DAYS, "NewerNoncurrentVersions": KEPT_VERSIONS},
        "Expiration": {"ExpiredObjectDeleteMarker": True},
        "AbortIncompleteMultipartUpload": {"DaysAfterInitiation": 7},
    }
