"""What an environment of each tier gets, in words, read from the synthesized JSON of its example."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest
from synthesis import ENVIRONMENTS

from relight_stacks.loading import examples_folder, load_environments

if TYPE_CHECKING:
    from collections.abc import Mapping

    from synthesis import Synthesis

CUSTOMER, INTERNAL, BATCH, SANDBOX = "customer-facing", "internal", "batch", "sandbox"
EXAMPLES = {environment.name: environment for environment in load_environments(examples_folder())}


def running(synthesis: Synthesis, part: str) -> dict[str, int]:
    """How many tasks of each service are started."""
    found = synthesis.resources("aws_ecs_service", part=part).values()
    return {service["name"]: service["desired_count"] for service in found}


def rates(synthesis: Synthesis, part: str) -> dict[str, str]:
    """The schedules of a stack, by what they call."""
    prefix = f"relight-{synthesis.environment}-"
    found = synthesis.resources("aws_scheduler_schedule", part=part).values()
    return {schedule["name"].removeprefix(prefix): schedule["schedule_expression"] for schedule in found}


def routing(synthesis: Synthesis) -> list[str]:
    """How the one name is answered."""
    kinds = ("failover", "latency", "weighted")
    found = synthesis.resources("aws_route53_record", part="dns").values()
    return sorted(kind for record in found for kind in kinds if f"{kind}_routing_policy" in record)


def types(synthesis: Synthesis, part: str) -> set[str]:
    return set(synthesis.stacks[part]["resource"])


def test_each_tier_has_its_stacks(syntheses: Mapping[str, Synthesis]) -> None:
    """Exactly those that it is said to have: a sandbox has no standby."""
    folder = syntheses["demo"].folder / "stacks"
    found = {path.name for path in folder.iterdir()}
    assert found == {f"{name}-{part}" for name, parts in ENVIRONMENTS.items() for part in parts}
    assert "sandbox-standby" not in found


def test_a_customer_facing_agent_runs_in_both_regions(syntheses: Mapping[str, Synthesis]) -> None:
    """As many agents and servers in the standby as in the primary; the state is one Aurora Global Database; callers are
    sent to the nearer region, whose gate Route 53 checks every ten seconds; a point every five minutes."""
    found = syntheses[CUSTOMER]
    everything = {"agent": 6, "vector": 1, "nats-0": 1, "nats-1": 1, "nats-2": 1}
    assert running(found, "primary") == running(found, "standby") == everything
    assert "aws_rds_global_cluster" in types(found, "primary")
    assert "aws_rds_cluster" in types(found, "standby")
    assert routing(found) == ["latency", "latency"]
    assert {check["request_interval"] for check in found.resources("aws_route53_health_check").values()} == {10}
    assert rates(found, "primary")["snapshot"] == "rate(5 minutes)"
    assert len(found.resources("aws_nat_gateway", part="standby")) == 3, "the loss of a zone is not that of a region"


def test_an_internal_agent_has_a_pilot_light(syntheses: Mapping[str, Synthesis]) -> None:
    """One agent, one vector store and one queue server wait in the standby; the state has a replica there; callers go
    to the primary until its gate closes; a point every five minutes."""
    found = syntheses[INTERNAL]
    assert running(found, "primary") == {"agent": 3, "vector": 1, "nats-0": 1, "nats-1": 1, "nats-2": 1}
    assert running(found, "standby") == {"agent": 1, "vector": 1, "nats-0": 1}
    (replica,) = found.resources("aws_db_instance", part="standby").values()
    assert replica["replicate_source_db"]
    assert routing(found) == ["failover", "failover"]
    assert rates(found, "primary")["snapshot"] == "rate(5 minutes)"


def test_a_batch_agent_has_nothing_running_in_the_standby(syntheses: Mapping[str, Synthesis]) -> None:
    """No replica of anything runs: services of no tasks, and no database, only copied backups; a point every hour. The
    functions and the machine that start all of it are there."""
    found = syntheses[BATCH]
    assert running(found, "primary")["agent"] == 4
    assert set(running(found, "standby").values()) == {0}
    assert not types(found, "standby") & {"aws_db_instance", "aws_rds_cluster"}
    assert "aws_db_instance_automated_backups_replication" in types(found, "primary")
    assert "aws_sfn_state_machine" in types(found, "standby")
    assert rates(found, "primary")["snapshot"] == "rate(60 minutes)"
    assert routing(found) == ["failover", "failover"]


def test_a_sandbox_has_its_points_elsewhere_and_nothing_else(syntheses: Mapping[str, Synthesis]) -> None:
    """No standby, no sentinel, no recovery machine, no health checks and one plain record; a point every day, in a
    vault of the other region too, and copied backups."""
    found = syntheses[SANDBOX]
    assert running(found, "primary") == {"agent": 1, "vector": 1, "nats-0": 1}
    everywhere = set[str]().union(*(types(found, part) for part in found.parts))
    assert not everywhere & {"aws_sfn_state_machine", "aws_route53_health_check"}
    assert routing(found) == []
    assert rates(found, "primary")["snapshot"] == "rate(1440 minutes)"
    assert not {"sentinel", "rehearse"} & set(rates(found, "primary"))
    buckets = {bucket["bucket"] for bucket in found.resources("aws_s3_bucket", part="vault").values()}
    assert {f"relight-sandbox-vault-444444444444-{region}" for region in ("us-east-1", "us-east-2")} <= buckets
    assert "aws_db_instance_automated_backups_replication" in types(found, "primary")


@pytest.mark.parametrize("tier", [CUSTOMER, INTERNAL, BATCH])
def test_what_has_a_standby_is_watched_and_rehearsed(syntheses: Mapping[str, Synthesis], tier: str) -> None:
    """The sentinel every minute, a recovery machine, a rehearsal on the environment's schedule."""
    found = syntheses[tier]
    schedules = rates(found, "standby")
    assert schedules["sentinel"] == "rate(1 minute)"
    every = {rate for part in found.parts for rate in rates(found, part).values()}
    assert EXAMPLES[tier].shape.rehearse in every
    assert len(found.resources("aws_sfn_state_machine", part="standby")) >= 1


def test_people_are_asked_where_the_environment_says_so(syntheses: Mapping[str, Synthesis]) -> None:
    """The state that waits for an answer is in the machine of the one example that asks."""
    for tier in (CUSTOMER, INTERNAL, BATCH):
        machines = syntheses[tier].resources("aws_sfn_state_machine", part="standby")
        states = {state for machine in machines.values() for state in json.loads(machine["definition"])["States"]}
        assert ("approve" in states) is EXAMPLES[tier].recovery.approval


@pytest.mark.parametrize("name", sorted(ENVIRONMENTS))
def test_the_order_of_stacks_is_declared(syntheses: Mapping[str, Synthesis], name: str) -> None:
    """Regions follow the vault and the names; a standby follows the primary whose database it copies, and the place for
    rehearsals the standby whose topic it tells."""
    manifest = json.loads((syntheses[name].folder / "manifest.json").read_text())["stacks"]
    for part in syntheses[name].parts:
        needed = set(manifest[f"{name}-{part}"]["dependencies"])
        if part in ("vault", "dns"):
            assert needed == set()
            continue
        expected = {f"{name}-vault", f"{name}-standby"} if part == "rehearsal" else {f"{name}-vault", f"{name}-dns"}
        if part == "standby" and name != "demo":
            expected.add(f"{name}-primary")
        assert expected <= needed
        assert all(other.startswith(f"{name}-") for other in needed), "one environment deploys by itself"


def test_the_tiers_are_visibly_different(syntheses: Mapping[str, Synthesis]) -> None:
    """fails when two tiers come to the same infrastructure."""
    shapes = {
        tier: (
            tuple(sorted(running(found, "standby").items())) if "standby" in found.parts else (),
            tuple(routing(found)),
            rates(found, "primary")["snapshot"],
        )
        for tier, found in syntheses.items()
        if tier != "demo"
    }
    assert len(set(shapes.values())) == len(shapes) == 4
