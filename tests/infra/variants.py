"""Environments like `demo` that differ in what an operator may choose, synthesized once for all of these tests."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
from synthesis import Synthesis

from relight.config import MemoryStore, Role
from relight_constructs.props import Lock
from relight_stacks.app import synthesize
from relight_stacks.bundles import Bundles
from relight_stacks.environment import (
    Agent,
    Capacity,
    CapacityKind,
    Environment,
    LargeWork,
    Network,
    OtherStore,
    Queue,
    Regions,
)
from relight_stacks.loading import load_named

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path


# None of AWS has a longer name. `test_the_longest_names_fit` asks botocore.
LONGEST_REGIONS = Regions(primary="ap-southeast-1", standby="ap-northeast-1")
ELSEWHERE = OtherStore(endpoint="https://0123456789abcdef.r2.cloudflarestorage.com", bucket="our-points", lock_days=7)


def _existing(environment: Environment) -> Environment:
    def network(region: str) -> Network:
        return Network(
            vpc_id="vpc-0123456789abcdef0",
            private_subnet_ids=("subnet-0aaaaaaaaaaaaaaa0", "subnet-0aaaaaaaaaaaaaaa1"),
            public_subnet_ids=("subnet-0bbbbbbbbbbbbbbb0", "subnet-0bbbbbbbbbbbbbbb1"),
            route_table_ids=("rtb-0123456789abcdef0",),
            certificate_arn=f"arn:aws:acm:{region}:000000000000:certificate/1",
            endpoints=False,
            ports=(6432,),
            access_logs_bucket="logs-of-load-balancers",
        )

    networks = {role: network(environment.names.region(role)) for role in Role}
    return replace(environment, name="existing", networks=networks, queue=Queue(existing=True))


def variations() -> list[Environment]:
    """Environments like `demo` that differ in one thing each."""
    demo = load_named("demo")
    private = {role: replace(network, nat=False) for role, network in demo.networks.items()}
    public = Queue(image="nats:2.15-alpine")
    pods = Capacity(kind=CapacityKind.EKS, cluster="agents", deployment="agent")
    work = LargeWork(image="000000000000.dkr.ecr.{region}.amazonaws.com/worker:1")
    machines = Capacity(kind=CapacityKind.AUTO_SCALING, group="agents")
    return [
        _existing(demo),
        replace(demo, name="private", networks=private, read_only=True, vector=replace(demo.vector, storage_gib=77)),
        replace(demo, name="public", queue=public, replicate_images=False),
        replace(demo, name="pods", capacity=pods, agent=Agent(replicas=2), large_work=work),
        replace(demo, name="machines", capacity=machines, agent=Agent(replicas=2), large_work=work),
        replace(demo, name="switches", routing_controls=True),
        replace(demo, name="of-sixteen-chars", regions=LONGEST_REGIONS),
        replace(demo, name="elsewhere", vaults=replace(demo.vaults, other={Role.STANDBY: ELSEWHERE})),
        replace(demo, name="open", vaults=replace(demo.vaults, lock=Lock.NONE)),
    ]


@pytest.fixture(scope="session")
def variants(tmp_path_factory: pytest.TempPathFactory, bundle_file: Path) -> Mapping[str, Synthesis]:
    """Environments like `demo` that differ in one thing each, by name."""
    bundles = Bundles(region=bundle_file, providers=bundle_file)
    found = variations()
    output = synthesize(found, bundles=dict.fromkeys(MemoryStore, bundles), output=tmp_path_factory.mktemp("variants"))
    return {item.name: Variant(output, item.name) for item in found}


class Variant(Synthesis):
    """The stacks of an environment that is no file."""

    @property
    def parts(self) -> tuple[str, ...]:
        parts = ("vault", "primary", "standby", "dns", "rehearsal")
        return tuple(part for part in parts if (self.folder / "stacks" / f"{self.environment}-{part}").is_dir())
