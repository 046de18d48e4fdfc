"""The vaults: locked, replicated, cooled and ended as the ladder says, watched; and one alone in a foreign stack."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from synthesis import ENVIRONMENTS

from relight.clock import parse_time, point_id
from relight.config import Role
from relight.vault.retention import HeldPoint, plan_retention
from relight_constructs.access import VaultRef
from relight_constructs.lifecycle import COOL_DAYS, LEAST_END_DAYS, Ladder
from relight_constructs.props import Lock, Place, VaultProps
from relight_stacks.loading import examples_folder, load_environment, load_environments, load_named
from relight_stacks.promises import promises
from relight_stacks.settings import settings_for

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from synthesis import Synthesis

    from relight_constructs.policies import Statement

HALVES = ("primary", "standby")
EACH_HALF = pytest.mark.parametrize("half", HALVES)
EACH_ENVIRONMENT = pytest.mark.parametrize("name", ENVIRONMENTS)
REGION, AWAY = "eu-west-1", "eu-central-1"
ACCOUNT = "111122223333"
NOW = datetime(2026, 11, 23, 13, 7, tzinfo=UTC)


def block(value: Any) -> Any:
    """A nested block that may appear once."""
    return value[0] if isinstance(value, list) else value


def rules_of(resource: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """What a lifecycle does, by the ids of its rules; each is of one prefix and enabled."""
    for rule in resource["rule"]:
        assert rule["status"] == "Enabled"
        assert [*block(rule["filter"])] == ["prefix"]
    return {rule["id"]: rule for rule in resource["rule"]}


# Locks


@EACH_ENVIRONMENT
def test_every_object_is_locked_as_the_environment_says(syntheses: Mapping[str, Synthesis], name: str) -> None:
    """In both vaults, by the bucket itself; prunes are told for how long."""
    found, environment = syntheses[name], environment_of(name)
    locks = found.resources("aws_s3_bucket_object_lock_configuration")
    if name == "sandbox":
        assert (environment.vaults.lock, locks) == (Lock.NONE, {})
        assert {settings_for(environment, role).lock_days for role in Role} == {0}
        return
    assert {*locks} == {f"vault/{half}-vault/lock" for half in HALVES}
    for path, lock in locks.items():
        assert block(block(lock["rule"])["default_retention"]) == {
            "mode": environment.vaults.lock.name,
            "days": environment.vaults.lock_days,
        }
        versioning = path.replace("lock", "versioning")
        assert lock["depends_on"] == [found.address_of("aws_s3_bucket_versioning", versioning)]
    for role in Role:
        assert settings_for(environment, role).lock_days == environment.vaults.lock_days


def environment_of(name: str) -> Any:
    """An environment that is synthesized."""
    return (
        load_named(name) if name == "demo" else {item.name: item for item in load_environments(examples_folder())}[name]
    )


def test_who_goes_without_a_lock_is_told(syntheses: Mapping[str, Synthesis]) -> None:
    """`env check` says what is not covered then, and nothing of it elsewhere."""
    for name in syntheses:
        environment = environment_of(name)
        said = 'vault.lock = "none"' in " ".join(promises(environment).not_covered)
        assert said is (environment.vaults.lock is Lock.NONE), name


def test_a_lock_that_is_changed_later_replaces_no_bucket(syntheses: Mapping[str, Synthesis]) -> None:
    """fails when a bucket has its own switch for locks: Terraform would destroy and make it anew."""
    for found in syntheses.values():
        for bucket in found.resources("aws_s3_bucket", part="vault").values():
            assert {*bucket} - {"//", "provider", "depends_on"} == {"bucket"}


def test_no_key_is_destroyed_before_what_it_encrypts(synthesis: Synthesis) -> None:
    """fails when destroying the stack, which S3 refuses while there are points, schedules their key for deletion."""
    types = {"standby-vault": "aws_kms_key", "primary-vault": "aws_kms_replica_key", "lease": "aws_kms_key"}
    for path, type_ in types.items():
        key = synthesis.address_of(type_, f"vault/{'standby-vault' if path == 'lease' else path}/key/key")
        assert synthesis.one("aws_s3_bucket", f"vault/{path}/bucket/bucket")["depends_on"] == [key]


# What would end a lock, or destroy what it keeps. Object versions are a lifecycle's to end.
DANGEROUS = (
    *("s3:BypassGovernanceRetention", "s3:DeleteObjectVersion", "s3:PutObjectRetention", "s3:PutObjectLegalHold"),
    *("s3:PutBucketObjectLockConfiguration", "s3:PutBucketVersioning", "s3:PutLifecycleConfiguration"),
    *("s3:DeleteBucket", "s3:DeleteBucketPolicy", "s3:PutBucketPolicy", "s3:PutReplicationConfiguration"),
    *("kms:DisableKey", "kms:PutKeyPolicy", "kms:ScheduleKeyDeletion"),
)


@EACH_ENVIRONMENT
def test_no_role_may_end_a_lock_or_what_it_keeps(syntheses: Mapping[str, Synthesis], name: str) -> None:
    """Whoever takes over a function, or the agent, can hide a point and destroy none."""
    policies = syntheses[name].resources("aws_iam_role_policy")
    assert len(policies) > 50
    for path, item in policies.items():
        for statement in json.loads(item["policy"])["Statement"]:
            actions = set(statement["Action"])
            assert not actions & {*DANGEROUS}, path
            assert not {action for action in actions if "*" in action}, path


def test_access_is_by_grants_alone(syntheses: Mapping[str, Synthesis]) -> None:
    """No bucket's own policy allows anything; each refuses what comes without TLS."""
    for found in syntheses.values():
        policies = found.resources("aws_s3_bucket_policy", part="vault")
        assert len(policies) == len(found.resources("aws_s3_bucket", part="vault")) == 3
        for item in policies.values():
            effects = {statement["Effect"] for statement in json.loads(item["policy"])["Statement"]}
            assert effects == {"Deny"}


# Keys


def test_one_key_is_in_both_regions(synthesis: Synthesis) -> None:
    """What a vault holds can be decrypted by the other region's key alone; the source is where a relit region is."""
    source = synthesis.one("aws_kms_key", "vault/standby-vault/key/key")
    assert (source["multi_region"], source["enable_key_rotation"]) == (True, True)
    assert "provider" not in source
    replica = synthesis.one("aws_kms_replica_key", "vault/primary-vault/key/key")
    address = synthesis.address_of("aws_kms_key", "vault/standby-vault/key/key")
    assert (replica["primary_key_arn"], replica["provider"]) == (f"${{{address}.arn}}", "aws.primary")
    assert replica["policy"] == source["policy"], "a replica has a policy of its own"
    types = {"standby": "aws_kms_key", "primary": "aws_kms_replica_key"}
    for half in HALVES:
        alias = synthesis.one("aws_kms_alias", f"vault/{half}-vault/key/alias")
        key = synthesis.address_of(types[half], f"vault/{half}-vault/key/key")
        assert (alias["name"], alias["target_key_id"]) == ("alias/relight-demo-vault", f"${{{key}.key_id}}")


# Lifecycle


@EACH_HALF
def test_vaults_are_versioned_and_tidied(synthesis: Synthesis, half: str) -> None:
    """What was deleted can be brought back for a week, and is then gone with its marker; unfinished uploads end after a
    day. Timelines of runs, findings and records of rehearsals never end."""
    versioning = synthesis.one("aws_s3_bucket_versioning", f"vault/{half}-vault/versioning")
    assert block(versioning["versioning_configuration"]) == {"status": "Enabled"}
    rules = rules_of(synthesis.one("aws_s3_bucket_lifecycle_configuration", f"vault/{half}-vault/lifecycle"))
    assert rules["unfinished-uploads"]["abort_incomplete_multipart_upload"] == [{"days_after_initiation": 1}]
    assert rules["earlier-versions"]["noncurrent_version_expiration"] == [{"noncurrent_days": 7}]
    assert rules["earlier-versions"]["expiration"] == [{"expired_object_delete_marker": True}]
    ending = {block(rule["filter"])["prefix"] for rule in rules.values() if "days" in block(rule.get("expiration", {}))}
    assert ending == {"points/", "journal/"}


@EACH_ENVIRONMENT
def test_points_cool_and_end_as_the_ladder_says(syntheses: Mapping[str, Synthesis], name: str) -> None:
    """Hourly and daily points stay where they are cheap to end, monthly ones move; only the bucket's end is by age."""
    environment = environment_of(name)
    memory = environment.memory
    ladder = Ladder(
        hourly=memory.keep_hourly,
        daily=memory.keep_daily,
        monthly=memory.keep_monthly,
        every_minutes=environment.shape.snapshot_minutes,
    )
    for half in HALVES:
        rules = rules_of(syntheses[name].one("aws_s3_bucket_lifecycle_configuration", f"vault/{half}-vault/lifecycle"))
        moved = [{"days": ladder.cool_days, "storage_class": "STANDARD_IA"}]
        assert rules["points"].get("transition", []) == ([] if ladder.cool_days is None else moved)
        assert rules["points"]["expiration"] == rules["journal"]["expiration"] == [{"days": ladder.end_days}]
        assert "transition" not in rules["journal"]


@pytest.mark.parametrize(
    ("ladder", "cool", "end"),
    [
        (Ladder(), 30, 402),
        (Ladder(hourly=0, daily=40), 41, 402),
        (Ladder(hourly=1000, daily=0), 43, 402),
        (Ladder(monthly=0), None, 400),
        (Ladder(monthly=2), None, 400),
        (Ladder(monthly=3), 30, 400),
        (Ladder(daily=90, monthly=4), None, 400),
        (Ladder(daily=500), None, 530),
        (Ladder(hourly=48, every_minutes=24 * 60), 49, 402),
        (Ladder(hourly=48, every_minutes=5), 30, 402),
    ],
)
def test_what_a_ladder_makes_of_days(ladder: Ladder, cool: int | None, end: int) -> None:
    """Nothing moves that would not stay for the 30 days which it is billed for."""
    assert (ladder.cool_days, ladder.end_days) == (cool, end)


@given(
    hourly=st.integers(0, 60),
    daily=st.integers(0, 45),
    monthly=st.integers(0, 12),
    every=st.sampled_from([1, 3, 24, 48]),
    days=st.integers(1, 420),
)
@settings(max_examples=60, deadline=None)
def test_the_lifecycle_agrees_with_retention(hourly: int, daily: int, monthly: int, every: int, days: int) -> None:
    """fails when a point is moved that prunes would still remove before it has paid, or ended that they would keep."""
    times = [NOW - timedelta(hours=hours) for hours in range(0, days * 24, every)]
    points = [HeldPoint(id=point_id(at), sealed=True, eligible=True, modified=at) for at in times]
    plan = plan_retention(points, keep_hourly=hourly, keep_daily=daily, keep_monthly=monthly, now=NOW)
    ladder = Ladder(hourly=hourly, daily=daily, monthly=monthly, every_minutes=60 * every)
    for point, rungs in plan.keep.items():
        age = (NOW - parse_time(point)).days
        assert age < ladder.end_days
        if ladder.cool_days is not None and age >= ladder.cool_days:
            assert {*rungs} <= {"monthly", "newest"}, (point, rungs)
    assert ladder.end_days >= LEAST_END_DAYS
    assert ladder.cool_days is None or ladder.cool_days >= COOL_DAYS


# Replication and its alarms


@EACH_ENVIRONMENT
def test_time_control_is_bought_where_the_environment_says(syntheses: Mapping[str, Synthesis], name: str) -> None:
    """Metrics are there in any case, because failures are told by them."""
    bought = environment_of(name).shape.replication_time_control
    assert bought is (name != "sandbox")
    for half in HALVES:
        path = f"vault/{half}-vault/replicate"
        (rule,) = syntheses[name].one("aws_s3_bucket_replication_configuration", path)["rule"]
        destination = block(rule["destination"])
        assert ("replication_time" in destination) is bought
        assert block(destination["metrics"])["status"] == "Enabled"
        assert ("event_threshold" in block(destination["metrics"])) is bought


@EACH_ENVIRONMENT
def test_people_are_told_of_replication_where_s3_tells_of_it(syntheses: Mapping[str, Synthesis], name: str) -> None:
    """Lateness where the objects go, failures where they come from, each to the region's own topic; by the names of the
    buckets and the rule that are deployed."""
    found, environment = syntheses[name], environment_of(name)
    buckets = {half: found.one("aws_s3_bucket", f"vault/{half}-vault/bucket/bucket")["bucket"] for half in HALVES}
    (rule,) = found.one("aws_s3_bucket_replication_configuration", "vault/primary-vault/replicate")["rule"]
    late_s = 900 if environment.shape.replication_time_control else environment.objectives.rpo_s / 2
    regions = [part for part in found.parts if part in HALVES]
    assert len(regions) == (1 if name == "sandbox" else 2)
    for own in regions:
        (peer,) = {*HALVES} - {own}
        path = f"{own}/replication"
        late = found.one("aws_cloudwatch_metric_alarm", f"{path}/late/alarm")
        assert (late["namespace"], late["metric_name"], late["statistic"]) == (
            "AWS/S3",
            "ReplicationLatency",
            "Maximum",
        )
        assert late["dimensions"] == {
            "SourceBucket": buckets[peer],
            "DestinationBucket": buckets[own],
            "RuleId": rule["id"],
        }
        assert (late["threshold"], late["treat_missing_data"]) == (late_s, "notBreaching")
        failed = found.one("aws_cloudwatch_metric_alarm", f"{path}/failed/alarm")
        assert (failed["metric_name"], failed["statistic"]) == ("OperationsFailedReplication", "Sum")
        assert failed["dimensions"] == {
            "SourceBucket": buckets[own],
            "DestinationBucket": buckets[peer],
            "RuleId": rule["id"],
        }
        topic = f"${{{found.address_of('aws_sns_topic', f'{own}/incidents/topic')}.arn}}"
        assert late["alarm_actions"] == failed["alarm_actions"] == [topic]


# Alone


class TheirRole:
    """Somebody who has a role of their own, as any Grantee."""

    def __init__(self) -> None:
        self.policies: dict[str, tuple[Statement, ...]] = {}

    def allow(self, name: str, *statements: Statement) -> None:
        """Remember the policy."""
        assert name not in self.policies
        self.policies[name] = statements


def ref(region: str) -> VaultRef:
    return VaultRef(
        label="vault", bucket=f"their-vault-{region}", region=region, account=ACCOUNT, key_alias="alias/their-vault"
    )


def place(region: str) -> Place:
    return Place(account=ACCOUNT, region=region, prefix="theirs")


def synthesized(folder: Path, **changes: Any) -> dict[str, dict[str, dict[str, Any]]]:
    """The resources of a stack of theirs that has one vault: by type, and by the path of their construct."""
    from relight_constructs.bindings import App, AwsProvider, TerraformStack
    from relight_constructs.vault import Vault

    app = App(outdir=str(folder))
    theirs = TerraformStack(app, "theirs")
    AwsProvider(theirs, "aws", region=REGION)
    Vault(theirs, "vault", VaultProps(place=place(REGION), ref=ref(REGION), **changes))
    app.synth()
    document = json.loads((folder / "stacks" / "theirs" / "cdk.tf.json").read_text())
    return {
        type_: {body["//"]["metadata"]["path"].removeprefix("theirs/"): body for body in resources.values()}
        for type_, resources in document["resource"].items()
    }


def test_a_vault_alone_needs_nothing_else_of_relight(tmp_path: Path) -> None:
    """A bucket with its settings and a key: no role, no function, no network, no other region, no data source."""
    stack = synthesized(tmp_path)
    assert {*stack} == {
        *("aws_kms_alias", "aws_kms_key", "aws_s3_bucket", "aws_s3_bucket_lifecycle_configuration"),
        *("aws_s3_bucket_object_lock_configuration", "aws_s3_bucket_ownership_controls", "aws_s3_bucket_policy"),
        *("aws_s3_bucket_public_access_block", "aws_s3_bucket_server_side_encryption_configuration"),
        "aws_s3_bucket_versioning",
    }
    assert all(len(resources) == 1 for resources in stack.values())
    assert stack["aws_s3_bucket"]["vault/bucket/bucket"]["bucket"] == f"their-vault-{REGION}"
    default = block(stack["aws_s3_bucket_object_lock_configuration"]["vault/lock"]["rule"])["default_retention"]
    assert block(default) == {"mode": "GOVERNANCE", "days": 7}


def test_their_own_role_is_granted_what_it_does(tmp_path: Path) -> None:
    """By verbs, with names alone: also where the vault is of another stack."""
    role = TheirRole()
    ref(REGION).grant_seal(role)
    ref(REGION).grant_restore(role)
    assert {*role.policies} == {"seal-vault", "restore-vault"}
    arn = f"arn:aws:s3:::their-vault-{REGION}"
    for statement in (item for statements in role.policies.values() for item in statements):
        own = (arn, f"arn:aws:kms:{REGION}:{ACCOUNT}:key/*")
        assert all(resource.startswith(own) for resource in statement.resources)


def test_what_the_props_of_a_vault_say_is_done(tmp_path: Path) -> None:
    """A compliance lock, a longer undo, another ladder, an end of results."""
    stack = synthesized(
        tmp_path, lock=Lock.COMPLIANCE, lock_days=30, ladder=Ladder(hourly=1, daily=35, monthly=6), results_days=90
    )
    default = block(stack["aws_s3_bucket_object_lock_configuration"]["vault/lock"]["rule"])["default_retention"]
    assert block(default) == {"mode": "COMPLIANCE", "days": 30}
    rules = rules_of(stack["aws_s3_bucket_lifecycle_configuration"]["vault/lifecycle"])
    assert rules["earlier-versions"]["noncurrent_version_expiration"] == [{"noncurrent_days": 30}]
    assert rules["points"]["transition"] == [{"days": 36, "storage_class": "STANDARD_IA"}]
    assert (rules["results"]["filter"], rules["results"]["expiration"]) == ([{"prefix": "results/"}], [{"days": 90}])


def test_a_vault_may_go_without_a_lock(tmp_path: Path) -> None:
    """Its bucket is then locked by nothing, and a deletion can still be undone."""
    stack = synthesized(tmp_path, lock=Lock.NONE, lock_days=3)
    assert "aws_s3_bucket_object_lock_configuration" not in stack
    rules = rules_of(stack["aws_s3_bucket_lifecycle_configuration"]["vault/lifecycle"])
    assert rules["earlier-versions"]["noncurrent_version_expiration"] == [{"noncurrent_days": 3}]


def test_a_locked_vault_is_replicated_to_a_locked_one_only(tmp_path: Path) -> None:
    """S3 would take the configuration and fail every object."""
    from relight_constructs.bindings import App, AwsProvider, TerraformStack
    from relight_constructs.vault import Vault

    theirs = TerraformStack(App(outdir=str(tmp_path)), "theirs")
    AwsProvider(theirs, "aws", region=REGION)
    away = AwsProvider(theirs, "away", alias="away", region=AWAY)
    one = Vault(theirs, "one", VaultProps(place=place(REGION), ref=ref(REGION)))
    other = Vault(
        theirs, "other", VaultProps(place=place(AWAY), ref=ref(AWAY), provider=away, key_of=one, lock=Lock.NONE)
    )
    with pytest.raises(ValueError, match=rf"their-vault-{REGION} has lock=governance .* give both the same lock"):
        one.replicate_to(other)
    other.replicate_to(one)


def test_what_an_environment_says_of_its_vaults_reaches_them(tmp_path: Path) -> None:
    """Every key of [vault] and of the ladder, of either role."""
    from relight_stacks.vault import vault_props

    text = (examples_folder() / "internal.toml").read_text()
    head, mark, rest = text.partition("\n[vault]\n")
    assert mark
    _, _, after = rest.partition("\n[")
    said = '\n[vault]\nlock = "compliance"\nlock_days = 10\nresults_days = 45\nreplication_time_control = false\n'
    path = tmp_path / "prod.toml"
    path.write_text(f"{head}{said}\n[{after}")
    environment = load_environment(path)
    for role in Role:
        props = vault_props(environment, role, place=place(REGION))
        assert (props.lock, props.lock_days, props.results_days) == (Lock.COMPLIANCE, 10, 45)
        assert props.ladder.every_minutes == environment.shape.snapshot_minutes == 5
        assert settings_for(environment, role).lock_days == 10
    assert environment.shape.replication_time_control is False


@pytest.mark.parametrize(
    ("changes", "message"), [({"lock_days": 0}, "lock_days=0; .* use 1"), ({"results_days": -1}, "results_days=-1; ")]
)
def test_props_that_no_vault_could_have_are_refused(changes: dict[str, int], message: str) -> None:
    """Early, with the value and the rule."""
    with pytest.raises(ValueError, match=message):
        VaultProps(place=place(REGION), ref=ref(REGION), **changes)  # type: ignore[arg-type]
