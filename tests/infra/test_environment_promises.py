"""The arithmetic of promises and costs: it adds up, grows with what it is made of, and says what it leaves out."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relight.config import Acknowledge, Role, Settings, StateKind
from relight.errors import ConfigError
from relight.memory.store import CollectionSpec
from relight.objectives import OBJECTIVES, Tier
from relight.recovery.run import WATCH_S
from relight_constructs.recovery import SENTINEL_RATE, SENTINEL_TIMEOUT_S, SENTINELS_AT_ONCE
from relight_constructs.recovery_machine import STATES
from relight_constructs.timeouts import Waits
from relight_stacks import costs
from relight_stacks.environment import Capacity, CapacityKind, Environment, Network, OtherStore, Queue
from relight_stacks.loading import examples_folder, load_environment, load_environments, load_named
from relight_stacks.promises import (
    PROMOTION,
    ROUTE53_ANSWER_S,
    ROUTE53_PROPAGATION_S,
    SCHEDULE_PRECISION_S,
    START,
    STATE_S,
    Basis,
    Part,
    Promise,
    Promises,
    keep_promises,
    promises,
    route53_detection_s,
)
from relight_stacks.tiers import SHAPES, Routing, Waiting

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

EXAMPLES = {environment.tier: environment for environment in load_environments(examples_folder())}
WITH_STANDBY = [Tier.CUSTOMER_FACING, Tier.INTERNAL, Tier.BATCH]
KINDS = list(StateKind)


def said(environment: Environment, **shape: Any) -> Environment:
    """The same environment, whose file says this of the tier's shape too."""
    return replace(environment, given={**environment.given, **shape})


environments = st.builds(
    lambda tier, kind, interval, threshold, timeout, checks, first, ttl, minutes, gib, approval, journalled, local: (
        replace(
            said(
                EXAMPLES[tier],
                state=kind,
                probe_interval_s=interval,
                probe_threshold=threshold,
                probe_timeout_s=timeout,
                check_interval_s=checks,
                primary_threshold=first,
                ttl_s=ttl,
                snapshot_minutes=minutes,
            ),
            vector=replace(EXAMPLES[tier].vector, storage_gib=gib),
            recovery=replace(EXAMPLES[tier].recovery, approval=approval is not None, approval_minutes=approval or 1),
            memory=replace(
                EXAMPLES[tier].memory,
                collections=(CollectionSpec(name="m", dimension=8, embedding_model="m", journalled=journalled),),
            ),
            confirming_given={"acknowledge": Acknowledge.LOCAL} if local else {},
        )
    ),
    st.sampled_from(list(Tier)),
    st.sampled_from(KINDS),
    st.floats(1, 20),
    st.integers(1, 10),
    st.floats(1, 20),
    st.sampled_from([10, 30]),
    st.integers(1, 10),
    st.integers(1, 300),
    st.integers(5, 1440),
    st.integers(1, 16_384),
    st.none() | st.integers(1, 1440),
    st.booleans(),
    st.booleans(),
)


@given(environments)
def test_a_sum_is_that_of_its_lines(environment: Environment) -> None:
    """What is not counted passes beside something that is, so the sum is never under any line of it."""
    found = promises(environment)
    for promise in (found.rto, *found.rpo):
        counted = [part.seconds for part in promise.parts if not part.beside]
        assert promise.seconds == pytest.approx(sum(counted))
        assert all(part.seconds >= 0 for part in promise.parts)
        assert all(promise.seconds >= part.seconds for part in promise.parts)
    assert found.rpo_s == max(promise.seconds for promise in found.rpo)
    assert found.detection_s <= found.rto.seconds


@pytest.mark.parametrize(("seconds", "kept"), [(59.0, True), (60.0, True), (60.5, False)])
def test_a_promise_is_kept_up_to_its_objective(seconds: float, kept: bool) -> None:
    """To the second, and by what is counted alone; a promise that is broken is named."""
    parts = (part(20.0), part(seconds - 20.0), part(59.0, beside=True))
    promise = Promise(name="RPO of state", objective_s=60.0, parts=parts)
    assert promise.kept is kept
    fine = Promise(name="RTO", objective_s=60.0, parts=(part(1.0),))
    found = Promises(detection_s=0.0, rto=fine, rpo=(promise,), not_covered=())
    assert [item.name for item in found.broken] == ([] if kept else ["RPO of state"])


def part(seconds: float, *, beside: bool = False) -> Part:
    return Part(what="something", seconds=seconds, basis=Basis.SET, why="said", beside=beside)


MORE: dict[str, Callable[[Environment, int], Environment]] = {
    "probe_interval_s": lambda e, n: said(e, probe_interval_s=e.shape.probe_interval_s + n),
    "probe_threshold": lambda e, n: said(e, probe_threshold=e.shape.probe_threshold + n),
    "probe_timeout_s": lambda e, n: said(e, probe_timeout_s=e.shape.probe_timeout_s + n),
    "check_interval_s": lambda e, n: said(e, check_interval_s=e.shape.check_interval_s + n),
    "primary_threshold": lambda e, n: said(e, primary_threshold=e.shape.primary_threshold + n),
    "standby_threshold": lambda e, n: said(e, standby_threshold=e.shape.standby_threshold + n),
    "ttl_s": lambda e, n: said(e, ttl_s=e.shape.ttl_s + n),
    "snapshot_minutes": lambda e, n: said(e, snapshot_minutes=e.shape.snapshot_minutes + n),
    "storage_gib": lambda e, n: replace(e, vector=replace(e.vector, storage_gib=e.vector.storage_gib + n)),
    "approval_minutes": lambda e, n: replace(
        e, recovery=replace(e.recovery, approval_minutes=e.recovery.approval_minutes + n)
    ),
}


@given(environments, st.sampled_from(sorted(MORE)), st.integers(1, 1000))
def test_more_of_anything_promises_no_less_time(environment: Environment, what: str, by: int) -> None:
    """RTO and RPO are monotone in each number."""
    before, after = promises(environment), promises(MORE[what](environment, by))
    assert after.rto.seconds >= before.rto.seconds
    assert after.rpo_s >= before.rpo_s


@given(environments)
def test_an_objective_out_of_reach_is_said_with_what_to_change(environment: Environment) -> None:
    """fails when a sum that does not fit is passed over, or refused without a key of the file."""
    broken = promises(environment).broken
    if not broken:
        keep_promises(environment, source="x")
        return
    with pytest.raises(ConfigError) as refused:
        keep_promises(environment, source="x")
    keys = {key for part in broken[0].parts for key in part.keys}
    assert any(key in refused.value.hint for key in keys)
    assert f"{broken[0].objective_s:.0f} s" in refused.value.problem


@pytest.mark.parametrize("tier", WITH_STANDBY)
def test_detection_by_route_53(tier: Tier) -> None:
    """Interval times threshold, one interval for the checkers' phases, an answer, propagation and the TTL."""
    shape = EXAMPLES[tier].shape
    expected = shape.check_interval_s * 3 + shape.check_interval_s + 6 + ROUTE53_PROPAGATION_S + shape.ttl_s
    assert ROUTE53_ANSWER_S == 6
    assert route53_detection_s(EXAMPLES[tier]) == expected


@pytest.mark.parametrize(("tier", "expected_s"), [(Tier.CUSTOMER_FACING, 22), (Tier.INTERNAL, 34), (Tier.BATCH, 34)])
def test_detection_by_the_sentinel(tier: Tier, expected_s: float) -> None:
    """Two witnesses begin to count at the same moment, and the later one counts: probes, or the lease."""
    defaults = Settings.__dataclass_fields__
    assert (defaults["lease_ttl_s"].default, defaults["lease_margin_s"].default) == (15, 2)
    assert promises(EXAMPLES[tier]).detection_s == expected_s


def test_a_slower_witness_counts_alone() -> None:
    """Probes that are quicker than the lease wait for it."""
    internal = EXAMPLES[Tier.INTERNAL]
    quick = promises(said(internal, probe_interval_s=2.0, probe_timeout_s=1.0)).rto
    assert {part.what: part.beside for part in quick.parts[:2]} == {
        "the sentinel's probes fail": True,
        "the lease runs out": False,
    }


def test_what_a_person_takes_counts() -> None:
    """Approval is part of the RTO, to the last minute."""
    internal = EXAMPLES[Tier.INTERNAL]
    none = replace(internal, recovery=replace(internal.recovery, approval=False))
    assert promises(internal).rto.seconds - promises(none).rto.seconds == 180


def test_a_cold_store_is_filled_to_the_brim() -> None:
    """What is counted is the whole volume at the measured rate, and a task's start where a function ends too early."""
    batch = EXAMPLES[Tier.BATCH]
    seconds = promises(batch).rto.seconds
    more = replace(batch, vector=replace(batch.vector, storage_gib=100))
    assert promises(more).rto.seconds - seconds == pytest.approx(50 * 1024**3 / 110e6)
    small = replace(batch, vector=replace(batch.vector, storage_gib=40))
    assert seconds - promises(small).rto.seconds == pytest.approx(10 * 1024**3 / 110e6 + 57)


def test_a_collection_that_is_not_journalled_may_lose_what_is_newer_than_its_point() -> None:
    """Its loss is the age of a point where it would be restored; of the others, that of the state."""
    batch = EXAMPLES[Tier.BATCH]
    plain = CollectionSpec(name="plain", dimension=8, embedding_model="m", journalled=False)
    both = replace(batch, memory=replace(batch.memory, collections=(*batch.memory.collections, plain)))
    losses = {promise.name: promise.seconds for promise in promises(both).rpo}
    assert losses["RPO of memory 'documents'"] == losses["RPO of state"] == losses["RPO of queue"] == 900
    assert losses["RPO of memory 'plain'"] == 3600 + 120 + 900
    # Of a tier whose points go to the standby first, nothing waits for replication.
    internal = EXAMPLES[Tier.INTERNAL]
    quick = replace(internal, memory=replace(internal.memory, collections=(plain,)))
    assert promises(quick).rpo_s == 300 + 120
    elsewhere = replace(both, vaults=replace(both.vaults, other={Role.STANDBY: OtherStore(endpoint="e", bucket="b")}))
    copied_s = 300 + batch.vector.storage_gib * 1024**3 / 50e6
    assert promises(elsewhere).rpo_s == pytest.approx(3600 + 120 + copied_s)


@pytest.mark.parametrize("kind", KINDS)
def test_acknowledged_here_is_lost_with_the_lag(kind: StateKind) -> None:
    """With `acknowledge = "local"` the loss is what the replica is behind, never nothing."""
    local = replace(said(EXAMPLES[Tier.BATCH], state=kind), confirming_given={"acknowledge": Acknowledge.LOCAL})
    assert promises(local).rpo_s > 0
    if kind is not StateKind.SNAPSHOTS:
        remote = replace(local, confirming_given={})
        assert promises(remote).rpo_s == 0


def test_the_customers_tier_has_its_two_minutes() -> None:
    """Callers in the other region's answers already: Route 53 is no part of the way to the open gate."""
    found = promises(EXAMPLES[Tier.CUSTOMER_FACING]).rto
    assert 60 < found.seconds <= 120
    counted = [part.what for part in found.parts if not part.beside]
    assert not [what for what in counted if "Route 53" in what]
    failover = promises(said(EXAMPLES[Tier.CUSTOMER_FACING], routing=Routing.FAILOVER)).rto
    assert failover.seconds > found.seconds


def test_a_sandbox_is_restored_by_hand() -> None:
    """No sentinel, no machine: a person notices, deploys and restores, and all day is there for it."""
    found = promises(EXAMPLES[Tier.SANDBOX])
    assert found.rto.kept
    whats = [part.what for part in found.rto.parts]
    assert whats[:2] == ["somebody notices", "the standby's stack is deployed"]
    assert not [what for what in whats if "sentinel" in what]
    left_out = " ".join(found.not_covered)
    for words in ("us-east-1", "images", "a host in the new network"):
        assert words in left_out
        assert words not in " ".join(promises(EXAMPLES[Tier.BATCH]).not_covered)


def test_how_long_an_answer_is_kept_follows_from_the_objective() -> None:
    """fails when a tier that has to be back sooner lets resolvers keep an answer for longer, for more than a twelfth of
    its RTO, or past Route 53's next look."""
    assert sorted(SHAPES) == sorted(Tier)
    shapes = [SHAPES[tier] for tier in sorted(Tier, key=lambda tier: OBJECTIVES[tier].rto_s)]
    assert [shape.ttl_s for shape in shapes] == sorted(shape.ttl_s for shape in shapes)
    assert all(12 * SHAPES[tier].ttl_s <= OBJECTIVES[tier].rto_s for tier in Tier)
    assert all(shape.ttl_s <= shape.check_interval_s for shape in shapes if shape.standby)


@pytest.mark.parametrize("kind", KINDS)
def test_the_pause_between_two_looks_counts(kind: StateKind) -> None:
    """fails when the machine looks again later than the sum says, or the sum forgets that it does not look all the
    time: at a promotion of AWS's, at agents and at a store that start."""
    pauses = {state.verb: state.later(Waits()).after_s for state in STATES if state.waits_for}
    parts = {part.what: part for part in promises(said(EXAMPLES[Tier.BATCH], state=kind)).rto.parts}
    own = kind is StateKind.EXISTING  # promoted in the one call
    assert parts["promote"].seconds == PROMOTION[kind][0] + (0 if own else pauses["promote"])
    assert parts["scale: agents start"].seconds == STATE_S + START[CapacityKind.ECS][0] + pauses["scale"]
    assert f" {pauses['hydrate']} + " in parts["hydrate: the vector store starts and is filled"].why


@pytest.mark.parametrize(("region", "said_so"), [("us-east-1", True), ("eu-west-1", False)])
def test_what_a_deployment_of_the_standby_needs_is_said(region: str, said_so: bool) -> None:
    """The lost region may be that of Route 53's and IAM's control planes, without which no plan is made."""
    for tier in WITH_STANDBY:
        example = EXAMPLES[tier]
        moved = replace(example, regions=replace(example.regions, primary=region))
        assert ("a deployment while us-east-1" in " ".join(promises(moved).not_covered)) is said_so


def test_what_nobody_rehearses_is_said() -> None:
    """A sandbox never is, and others may say `never`."""
    never = said(EXAMPLES[Tier.INTERNAL], rehearse="")
    for environment, expected in ((EXAMPLES[Tier.SANDBOX], True), (never, True), (EXAMPLES[Tier.INTERNAL], False)):
        assert ("no restore is rehearsed" in " ".join(promises(environment).not_covered)) is expected


def test_a_provider_in_the_primarys_region_is_said() -> None:
    """fails when the standby's agents would ask a model in the region that is lost, and nobody says so."""
    internal = EXAMPLES[Tier.INTERNAL]
    own, *others = internal.providers
    for url, expected in (
        ("https://llm.eu-west-1.assistant.example.com/v1", True),
        ("https://models-eu-west-1.example.com/v1", True),
        ("https://llm.{region}.assistant.example.com/v1", False),
        ("https://llm.example.com/eu-west-1", False),
    ):
        environment = replace(internal, providers=(replace(own, base_url=url), *others))
        words = "the LLM provider own where eu-west-1 is lost: its base_url is in that region for both"
        assert (words in " ".join(promises(environment).not_covered)) is expected


def test_a_late_watch_costs_nothing() -> None:
    """fails when a watch may end before the next begins, as late as EventBridge Scheduler may call it."""
    assert SCHEDULE_PRECISION_S + 60 < WATCH_S < SENTINEL_TIMEOUT_S
    assert SENTINEL_RATE == "rate(1 minute)"
    assert SENTINELS_AT_ONCE == 2


def test_what_a_promotion_and_a_sleeping_function_may_cost_is_said() -> None:
    """A replica's first backup is counted, as a guess, and what it may take beyond is said; so is what a function takes
    to be woken, wherever a recovery calls any."""
    internal = promises(EXAMPLES[Tier.INTERNAL])
    (promote,) = (part for part in internal.rto.parts if part.what == "promote")
    assert (promote.basis, promote.beside) == (Basis.ASSUMED, False)
    assert "first backup" in promote.why
    assert "a first backup of the promoted database" in " ".join(internal.not_covered)
    for tier, environment in EXAMPLES.items():
        left_out = " ".join(promises(environment).not_covered)
        assert ("put to sleep" in left_out) is (tier in WITH_STANDBY)
        assert ("a first backup" in left_out) is (tier is Tier.INTERNAL)


def test_nobody_who_answers_is_not_counted_and_said() -> None:
    """fails when the sum has an answer in it, and nothing says what comes of none: a wait for nothing, and another."""
    internal = promises(EXAMPLES[Tier.INTERNAL])
    assert (
        "nobody answers within the 3 min of recovery.approval_minutes: nobody is served, and another run asks again 2 "
        "min later" in internal.not_covered
    )
    for tier in {*WITH_STANDBY} - {Tier.INTERNAL}:
        assert "nobody answers" not in " ".join(promises(EXAMPLES[tier]).not_covered)


def test_a_primary_without_a_replica_promises_nothing(tmp_path: Path) -> None:
    """On the way back its database has none for a while, which takes both words; what is lost with it is said."""
    text = (examples_folder() / "internal.toml").read_text()
    path = tmp_path / "mine.toml"
    path.write_text(text.replace("[regions]", 'acknowledge = "local"\nconfirm_replicas = 0\n[regions]', 1))
    left_out = " ".join(promises(load_environment(path)).not_covered)
    assert "confirm_replicas = 0 says that its database has no replica" in left_out
    for environment in EXAMPLES.values():
        assert "confirm_replicas" not in " ".join(promises(environment).not_covered)


def test_what_is_a_guess_is_called_one() -> None:
    """How soon Route 53's name servers know of a check is documented nowhere."""
    for tier in (*WITH_STANDBY, Tier.SANDBOX):
        parts = [part for part in promises(EXAMPLES[tier]).rto.parts if "propagation" in part.why]
        assert parts
        assert {part.basis for part in parts} == {Basis.ASSUMED}


def test_every_figure_says_what_it_rests_on() -> None:
    """A number that follows from the file is `set`, names its keys, and shows its sum."""
    for environment in EXAMPLES.values():
        for promise in (promises(environment).rto, *promises(environment).rpo):
            for part in promise.parts:
                assert part.why
                assert part.basis is not Basis.SET or part.keys
    assert all(basis is not Basis.SET and why for _, basis, why in PROMOTION.values())


def test_what_is_ones_own_is_said_not_to_be_covered() -> None:
    """A database, a queue, a network and capacity that Relight does not make, and providers that nobody named."""
    demo = load_named("demo")
    ours = " ".join(promises(EXAMPLES[Tier.CUSTOMER_FACING]).not_covered)
    theirs = " ".join(
        promises(
            replace(
                demo,
                queue=Queue(existing=True),
                capacity=Capacity(kind=CapacityKind.EKS, cluster="c", deployment="d"),
                networks={role: Network(vpc_id="vpc-0e0a0000000000001") for role in Role},
                providers=(),
            )
        ).not_covered
    )
    for words in ("state database", "queue's servers", "eks starts agents", "network of your own", "none is named"):
        assert words in theirs
        assert words not in ours
    assert "both regions" in ours


# Costs


def test_a_month_is_the_sum_of_its_lines() -> None:
    """Each line is a quantity at a price, and the total is rounded to what an estimate is worth."""
    for environment in EXAMPLES.values():
        found = costs.estimate(environment)
        assert found.monthly == pytest.approx(sum(line.quantity * (line.price or 0) for line in found.lines))
        assert abs(found.rounded - found.monthly) <= found.monthly * 0.05 + 0.5
        assert not found.unknown
        assert all(line.quantity > 0 for line in found.lines)
        assert len({line.what for line in found.lines}) == len(found.lines)


def test_more_of_a_standby_costs_more() -> None:
    """The tiers' order is that of their prices."""
    months = [costs.estimate(EXAMPLES[tier]).monthly for tier in (*WITH_STANDBY, Tier.SANDBOX)]
    assert months == sorted(months, reverse=True)
    pilot = EXAMPLES[Tier.INTERNAL]
    full = said(pilot, waiting=Waiting.FULL)
    assert costs.estimate(full).monthly > costs.estimate(pilot).monthly
    assert costs.estimate(replace(full, routing_controls=True)).monthly > costs.estimate(full).monthly + 1800


def test_what_is_ones_own_costs_nothing_here() -> None:
    """Only what Relight makes is in the sum."""
    internal = EXAMPLES[Tier.INTERNAL]

    def whats(environment: Environment) -> str:
        return " ".join(line.what for line in costs.estimate(environment).lines)

    for words in ("state database", "NAT", "interface endpoints", "queue:", "agents:"):
        assert words in whats(internal)
    own = Network(vpc_id="v", private_subnet_ids=("a", "b"), endpoints=False)
    theirs = replace(
        said(internal, state=StateKind.EXISTING, rehearse=""),
        queue=Queue(existing=True),
        capacity=Capacity(kind=CapacityKind.AUTO_SCALING, group="g"),
        networks=dict.fromkeys(Role, own),
    )
    for words in ("state database", "NAT", "interface endpoints", "queue:", "agents:"):
        assert words not in whats(theirs)


def test_an_instance_that_the_table_lacks_has_no_price() -> None:
    """It is said, and not taken for free."""
    internal = EXAMPLES[Tier.INTERNAL]
    odd = replace(internal, database=replace(internal.database, instance_class="db.x2g.16xlarge"))
    found = costs.estimate(odd)
    assert found.unknown == ("state database: db.x2g.16xlarge",)
    lines: Any = costs.to_json(found)["lines"]
    assert [line["monthly"] for line in lines if "db.x2g" in line["what"]] == [None]


def test_an_estimate_says_that_it_is_one() -> None:
    """Its prices have a date and a place."""
    found = json.loads(json.dumps(costs.to_json(costs.estimate(EXAMPLES[Tier.INTERNAL]))))
    assert found["estimate"] is True
    assert (found["prices_of"], found["prices_in"], found["currency"]) == ("2026-11", "us-east-1", "USD")
