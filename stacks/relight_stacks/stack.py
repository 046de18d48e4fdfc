"""What every stack has: an account it refuses to leave, and its state in its own region."""

from __future__ import annotations

from typing import TYPE_CHECKING

from relight_constructs.bindings import AwsProvider, S3Backend, TerraformStack
from relight_constructs.props import Place

if TYPE_CHECKING:
    from relight_constructs.bindings import Construct
    from relight_stacks.environment import Environment


class HomeStack(TerraformStack):
    """Define a stack whose provider and whose state are in `region`, and need no other."""

    def __init__(self, scope: Construct, environment: Environment, part: str, region: str) -> None:
        names = environment.names
        id_ = names.stack(part)
        super().__init__(scope, id_)
        self.environment = environment
        self.names = names
        self.home = Place(account=environment.account, region=region, prefix=names.prefix)
        # What every metric of the environment carries that is of the region.
        self.dimensions = {"environment": environment.name, "region": region}
        AwsProvider(self, "aws", region=region, allowed_account_ids=[environment.account])
        S3Backend(
            self,
            bucket=names.state_bucket(region),
            key=f"{id_}.tfstate",
            region=region,
            encrypt=True,
        )
        # cdktf 0.21's S3Backend does not know S3's own locking, which needs no DynamoDB table.
        self.add_override("terraform.backend.s3.use_lockfile", True)
