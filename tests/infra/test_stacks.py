"""What `cdktf deploy` would deploy, read from the synthesized JSON.

What holds for every environment is in `test_bindings`, `test_assertions`, `test_permissions` and `test_stack_states`.
"""

from __future__ import annotations

import base64
import hashlib
import importlib
import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from synthesis import BUNDLE_BYTES, PARTS, ROOT, synthesize

from relight.config import Role, Settings
from relight.providers.readiness import METRIC, ProviderReadiness, publish_readiness
from relight.recovery.metrics import NAMESPACE, CloudWatchMetrics
from relight.wiring import Region
from relight_stacks.loading import load_named
from relight_stacks.settings import settings_for

if TYPE_CHECKING:
    from collections.abc import Mapping

    from synthesis import Synthesis

ADDRESSES = Path(__file__).parent / "addresses.txt"


def test_tokens_are_resolved(synthesis: Synthesis) -> None:
    """Nothing of cdktf's own placeholders is left in the JSON."""
    for part in PARTS:
        assert "TfToken" not in synthesis.text(part)


def test_resource_addresses_are_a_contract(syntheses: Mapping[str, Synthesis]) -> None:
    """Fails when an address changes, in `demo` or in an example: Terraform would destroy the old resource, be it a
    database, and make a new one.

    When that is meant, write the new list with RELIGHT_WRITE_ADDRESSES=1.
    """
    found = sorted(
        f"{name} {part} {type_}.{resource['//']['metadata']['uniqueId']}"
        for name, synthesis in syntheses.items()
        for part, type_, _, resource in synthesis.every()
    )
    if os.environ.get("RELIGHT_WRITE_ADDRESSES") == "1":
        ADDRESSES.write_text("".join(f"{line}\n" for line in found))
    assert found == ADDRESSES.read_text().splitlines()
    # What holds data, of every kind, is among them.
    pinned = {line.split()[2].partition(".")[0] for line in found}
    assert {"aws_db_instance", "aws_rds_cluster", "aws_rds_global_cluster", "aws_s3_bucket"} <= pinned


def test_a_synthesis_is_deterministic(synthesis: Synthesis, tmp_path: Path) -> None:
    """The same input writes the same bytes, in another process and into another folder."""
    bundle = tmp_path / "relight.zip"
    bundle.write_bytes(BUNDLE_BYTES)
    again = synthesize(tmp_path / "again", bundle, "--environment", "demo", "--examples")

    def files(folder: Path) -> dict[str, bytes]:
        return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}

    assert files(again) == files(synthesis.folder)


# Vault


@pytest.mark.parametrize("path", ["vault/primary-vault", "vault/standby-vault", "vault/lease"])
def test_buckets_are_private_encrypted_and_tls_only(synthesis: Synthesis, path: str) -> None:
    """No public access of any kind, the owner enforced, KMS with bucket keys, and nothing at all without TLS."""
    block = synthesis.one("aws_s3_bucket_public_access_block", f"{path}/bucket/public-access")
    switches = ("block_public_acls", "block_public_policy", "ignore_public_acls", "restrict_public_buckets")
    assert all(block[switch] is True for switch in switches)
    ownership = synthesis.one("aws_s3_bucket_ownership_controls", f"{path}/bucket/ownership")
    assert as_block(ownership["rule"])["object_ownership"] == "BucketOwnerEnforced"
    encryption = synthesis.one("aws_s3_bucket_server_side_encryption_configuration", f"{path}/bucket/encryption")
    (rule,) = encryption["rule"]
    assert rule["bucket_key_enabled"] is True
    assert as_block(rule["apply_server_side_encryption_by_default"])["sse_algorithm"] == "aws:kms"
    (statement,) = json.loads(synthesis.one("aws_s3_bucket_policy", f"{path}/bucket/policy")["policy"])["Statement"]
    name = synthesis.one("aws_s3_bucket", f"{path}/bucket/bucket")["bucket"]
    assert (statement["Effect"], statement["Action"], statement["Principal"]) == ("Deny", "s3:*", "*")
    assert statement["Resource"] == [f"arn:aws:s3:::{name}", f"arn:aws:s3:::{name}/*"]
    assert statement["Condition"] == {"Bool": {"aws:SecureTransport": "false"}}


@pytest.mark.parametrize(("source", "target"), [("primary", "standby"), ("standby", "primary")])
def test_vaults_are_replicated_both_ways(synthesis: Synthesis, source: str, target: str) -> None:
    """Every object and no deletion, encrypted with the peer's key, with Replication Time Control of 15 minutes."""
    replication = synthesis.one("aws_s3_bucket_replication_configuration", f"vault/{source}-vault/replicate")
    (rule,) = replication["rule"]
    destination = as_block(rule["destination"])
    assert (rule["status"], rule["priority"], as_block(rule["filter"])) == ("Enabled", 1, {"prefix": ""})
    assert as_block(rule["delete_marker_replication"]) == {"status": "Disabled"}
    criteria = as_block(rule["source_selection_criteria"])
    assert as_block(criteria["sse_kms_encrypted_objects"]) == {"status": "Enabled"}
    time = as_block(destination["replication_time"])
    assert (time["status"], as_block(time["time"])) == ("Enabled", {"minutes": 15})
    metrics = as_block(destination["metrics"])
    assert (metrics["status"], as_block(metrics["event_threshold"])) == ("Enabled", {"minutes": 15})
    bucket = synthesis.address_of("aws_s3_bucket", f"vault/{target}-vault/bucket/bucket")
    key_type = {"standby": "aws_kms_key", "primary": "aws_kms_replica_key"}[target]
    key = synthesis.address_of(key_type, f"vault/{target}-vault/key/key")
    assert destination["bucket"] == f"${{{bucket}.arn}}"
    assert as_block(destination["encryption_configuration"]) == {"replica_kms_key_id": f"${{{key}.arn}}"}
    before = {synthesis.address_of("aws_s3_bucket_versioning", f"vault/{at}-vault/versioning") for at in HALVES}
    before |= {
        synthesis.address_of("aws_s3_bucket_object_lock_configuration", f"vault/{at}-vault/lock") for at in HALVES
    }
    assert set(replication["depends_on"]) == before


HALVES = ("primary", "standby")


def test_the_lease_is_in_the_standby_and_nowhere_else(synthesis: Synthesis) -> None:
    """One small bucket in the standby, neither replicated nor versioned."""
    bucket = synthesis.one("aws_s3_bucket", "vault/lease/bucket/bucket")
    assert bucket["bucket"] == "relight-demo-lease-000000000000-us-west-2"
    assert "provider" not in bucket
    for type_ in ("aws_s3_bucket_versioning", "aws_s3_bucket_replication_configuration"):
        assert not [path for path in synthesis.resources(type_) if "lease" in path]


def test_each_vault_is_in_its_own_region_with_its_own_key(synthesis: Synthesis) -> None:
    """Everything of the primary's vault goes through the primary's provider; the alias is the same in both."""
    for _, _, path, resource in synthesis.every():
        if path.startswith(("primary-vault/", "signing/replica")):
            assert resource["provider"] == "aws.primary", path
        else:
            assert "provider" not in resource, path
    aliases = synthesis.resources("aws_kms_alias", part="vault").values()
    assert {alias["name"] for alias in aliases} == {"alias/relight-demo-vault", "alias/relight-demo-signing"}


def test_keys_rotate(synthesis: Synthesis) -> None:
    """Every key that encrypts rotates by itself, and its replicas with it; each can be saved for 30 days. KMS rotates
    none that signs."""
    for path, key in synthesis.resources("aws_kms_key").items():
        assert key["deletion_window_in_days"] == 30
        assert key.get("enable_key_rotation", False) is (path != "vault/signing/key")
    for key in synthesis.resources("aws_kms_replica_key").values():
        assert key["deletion_window_in_days"] == 30


# Functions


def functions(synthesis: Synthesis) -> dict[str, dict[str, Any]]:
    """Each function of a region by its verb; of those that both regions have, the standby's."""
    found = [item for part in HALVES for item in synthesis.resources("aws_lambda_function", part=part).items()]
    return {path.split("/")[-2]: body for path, body in found}


def test_functions_run_on_arm_with_python_313(synthesis: Synthesis) -> None:
    """One runtime, one architecture, traced, and with memory enough for a quick start."""
    for verb, function in functions(synthesis).items():
        assert function["function_name"] == f"relight-demo-{verb}"
        assert (function["runtime"], function["architectures"]) == ("python3.13", ["arm64"])
        assert as_block(function["tracing_config"]) == {"mode": "Active"}
        assert function["memory_size"] == 1024
        assert 30 <= function["timeout"] <= 900


def test_functions_run_the_bundle(synthesis: Synthesis) -> None:
    """The zip lies beside the stack's JSON under a path that is the same on every machine, and its hash is its own."""
    sha256 = base64.b64encode(hashlib.sha256(BUNDLE_BYTES).digest()).decode()
    for part in ("primary", "standby"):
        for function in synthesis.resources("aws_lambda_function", part=part).values():
            assert function["source_code_hash"] == sha256
            assert not Path(function["filename"]).is_absolute()
            assert (synthesis.folder / "stacks" / f"demo-{part}" / function["filename"]).read_bytes() == BUNDLE_BYTES


def test_what_asks_providers_runs_a_bundle_of_its_own(synthesis: Synthesis) -> None:
    """No recovery loads the SDKs: they are in the zip of the one function that calls them."""
    found = functions(synthesis)
    others = {found[verb]["filename"] for verb in found if verb not in ("providers", "prune", "verify-points")}
    assert found["providers"]["filename"] not in others


def test_the_variables_of_a_function_fit(synthesis: Synthesis) -> None:
    """fails when they are more than the 4 KB that Lambda takes, with room for an environment that says more."""
    for function in functions(synthesis).values():
        variables = as_block(function["environment"])["variables"]
        assert sum(len(name.encode()) + len(value.encode()) for name, value in variables.items()) < 3072


def test_every_handler_can_be_imported(synthesis: Synthesis) -> None:
    """Fails when a stack names a handler that is not there."""
    for function in functions(synthesis).values():
        module, _, name = function["handler"].rpartition(".")
        assert module.startswith("relight_lambdas.")
        assert callable(getattr(importlib.import_module(module), name))


@pytest.mark.parametrize("role", list(Role))
def test_functions_and_agents_are_told_the_same(synthesis: Synthesis, role: Role) -> None:
    """The environment of every function and of the agent is the region's settings; a function that may hand large work
    to a task is also told which."""
    settings = settings_for(load_named("demo"), role)
    handing = {"hydrate", "snapshot", "verify-points"}
    for path, function in synthesis.resources("aws_lambda_function", part=role).items():
        variables = as_block(function["environment"])["variables"]
        told = Settings.from_env(variables)
        large = {name: getattr(told, name) for name in ("large_bytes", "large_task", "large_subnets", "large_groups")}
        assert all(large.values()) if path.split("/")[-2] in handing else not any(large.values()), path
        assert told == replace(settings, **large)
        assert variables == told.to_env()
    assert container(synthesis, role, "agent")["environment"] == [
        {"name": name, "value": value} for name, value in sorted(settings.to_env().items())
    ]


def test_only_what_talks_to_servers_is_in_the_network(synthesis: Synthesis) -> None:
    """The sentinel and the functions that need AWS's own interfaces only stay outside any network."""
    inside = {verb for verb, function in functions(synthesis).items() if "vpc_config" in function}
    assert inside == {
        *("snapshot", "observe", "assess", "hydrate", "promote", "verify", "replay", "open-gate", "providers")
    }
    config = as_block(functions(synthesis)["hydrate"]["vpc_config"])
    private = [synthesis.address_of("aws_subnet", f"standby/network/private-{zone}") for zone in "ab"]
    group = synthesis.address_of("aws_security_group", "standby/network/functions-group")
    assert config["subnet_ids"] == [f"${{{subnet}.id}}" for subnet in private]
    assert config["security_group_ids"] == [f"${{{group}.id}}"]


def test_few_are_held_to_so_many_at_a_time(synthesis: Synthesis) -> None:
    """Reserved concurrency is for what must not run twice at once, and for the sentinel, of which two may overlap."""
    reserved = {verb: body.get("reserved_concurrent_executions") for verb, body in functions(synthesis).items()}
    assert {verb: count for verb, count in reserved.items() if count} == {"snapshot": 1, "sentinel": 2}


def test_a_function_may_join_the_network_before_it_is_made(synthesis: Synthesis) -> None:
    """Lambda refuses a function whose role may not yet make network interfaces."""
    policy = synthesis.address_of("aws_iam_role_policy", "standby/recovery/hydrate/role/join-network")
    assert policy in functions(synthesis)["hydrate"]["depends_on"]


def test_logs_are_encrypted_and_end(synthesis: Synthesis) -> None:
    """Every log group has a key and a retention, and every function writes to its own."""
    groups = synthesis.resources("aws_cloudwatch_log_group")
    assert all(group["retention_in_days"] == 365 and group["kms_key_id"] for group in groups.values())
    for path, function in synthesis.resources("aws_lambda_function").items():
        group = synthesis.address_of("aws_cloudwatch_log_group", path.replace("/function", "/log/group"))
        assert as_block(function["logging_config"])["log_group"] == f"${{{group}.name}}"


# Triggers


@pytest.mark.parametrize(
    ("path", "rate", "verb", "region"),
    [
        ("primary/snapshot-schedule/schedule", "rate(5 minutes)", "snapshot", "us-east-1"),
        ("standby/recovery/sentinel-schedule/schedule", "rate(1 minute)", "sentinel", "us-west-2"),
        ("standby/providers-schedule/schedule", "rate(15 minutes)", "providers", "us-west-2"),
    ],
)
def test_schedules(synthesis: Synthesis, path: str, rate: str, verb: str, region: str) -> None:
    """A schedule calls its function on time, with an empty event, and gives up a call that comes too late to matter."""
    schedule = synthesis.one("aws_scheduler_schedule", path)
    target = as_block(schedule["target"])
    assert (schedule["name"], schedule["schedule_expression"]) == (f"relight-demo-{verb}", rate)
    assert as_block(schedule["flexible_time_window"]) == {"mode": "OFF"}
    letters = f"arn:aws:sqs:{region}:000000000000:relight-demo-dead-letters"
    assert as_block(target["dead_letter_config"]) == {"arn": letters}
    assert target["arn"] == f"arn:aws:lambda:{region}:000000000000:function:relight-demo-{verb}"
    assert target["input"] == "{}"
    late_s = as_block(target["retry_policy"])["maximum_event_age_in_seconds"]
    assert late_s <= (900 if verb == "providers" else 300)


@pytest.mark.parametrize("provider", ["anthropic", "openai"])
def test_people_are_told_when_the_standby_cannot_ask_a_provider(synthesis: Synthesis, provider: str) -> None:
    """Twice in a row not ready, or not measured: the alarm tells the topic, and again when it is over."""
    alarm = synthesis.one("aws_cloudwatch_metric_alarm", f"standby/provider-{provider}/alarm")
    assert alarm["alarm_name"] == f"relight-demo-provider-{provider}"
    assert (alarm["namespace"], alarm["metric_name"]) == (NAMESPACE, METRIC)
    assert alarm["dimensions"] == {"environment": "demo", "region": "us-west-2", "provider": provider}
    assert (alarm["comparison_operator"], alarm["threshold"], alarm["statistic"]) == ("LessThanThreshold", 1, "Minimum")
    assert (alarm["period"], alarm["evaluation_periods"], alarm["datapoints_to_alarm"]) == (900, 2, 2)
    assert alarm["treat_missing_data"] == "breaching"
    topic = f"${{{synthesis.address_of('aws_sns_topic', 'standby/incidents/topic')}.arn}}"
    assert alarm["alarm_actions"] == alarm["ok_actions"] == [topic]


def test_the_alarm_and_the_function_mean_the_same_metric(synthesis: Synthesis) -> None:
    """fails when what is published has other dimensions than what is watched."""
    sent: list[dict[str, Any]] = []

    class Client:
        def put_metric_data(self, **call: Any) -> None:
            sent.extend(call["MetricData"])

    found = ProviderReadiness(provider="openai", model="m", ready=False, seconds=0.0)
    with Region(settings_for(load_named("demo"), Role.STANDBY)) as region:
        publish_readiness(CloudWatchMetrics(Client(), environment="demo", region="us-west-2"), [found], region=region)
    [datum] = sent
    alarm = synthesis.one("aws_cloudwatch_metric_alarm", "standby/provider-openai/alarm")
    assert {item["Name"]: item["Value"] for item in datum["Dimensions"]} == alarm["dimensions"]
    assert (datum["MetricName"], datum["Values"], datum["Counts"]) == (alarm["metric_name"], [0.0], [1.0])


@pytest.mark.parametrize(
    ("part", "region", "rule_at", "function_at"),
    [
        ("primary", "us-east-1", "on-boot", "hydrate"),
        ("standby", "us-west-2", "recovery/on-boot", "recovery/hydrate"),
    ],
)
def test_a_vector_store_that_starts_is_noticed(
    synthesis: Synthesis, part: str, region: str, rule_at: str, function_at: str
) -> None:
    """In each region the rule matches a task of the vector service turning RUNNING, and hands its event to hydrate as
    it is; what cannot be delivered is a dead letter."""
    rule = synthesis.one("aws_cloudwatch_event_rule", f"{part}/{rule_at}/rule")
    assert rule["name"] == "relight-demo-hydrate-on-boot"
    assert json.loads(rule["event_pattern"]) == {
        "source": ["aws.ecs"],
        "detail-type": ["ECS Task State Change"],
        "detail": {
            "clusterArn": [f"arn:aws:ecs:{region}:000000000000:cluster/relight-demo"],
            "group": ["service:vector"],
            "lastStatus": ["RUNNING"],
        },
    }
    target = synthesis.one("aws_cloudwatch_event_target", f"{part}/{rule_at}/target")
    assert target["arn"] == f"arn:aws:lambda:{region}:000000000000:function:relight-demo-hydrate"
    letters = f"arn:aws:sqs:{region}:000000000000:relight-demo-dead-letters"
    assert as_block(target["dead_letter_config"])["arn"] == letters
    assert not {"input", "input_path", "input_transformer"} & set(target)
    permission = synthesis.one("aws_lambda_permission", f"{part}/{function_at}/on-boot")
    address = synthesis.address_of("aws_cloudwatch_event_rule", f"{part}/{rule_at}/rule")
    assert (permission["principal"], permission["source_arn"]) == ("events.amazonaws.com", f"${{{address}.arn}}")


# Names


def test_each_region_makes_its_own_record(synthesis: Synthesis) -> None:
    """It points at the region's own load balancer; `test_dns.py` has what leads to it."""
    for half in ("primary", "standby"):
        endpoint = synthesis.one("aws_route53_record", f"{half}/endpoint/record")
        balancer = synthesis.address_of("aws_lb", f"{half}/balancer/balancer")
        assert (endpoint["name"], endpoint["type"]) == (f"{half}.agent.demo.relight.example", "CNAME")
        assert endpoint["records"] == [f"${{{balancer}.dns_name}}"]
        assert endpoint["ttl"] == 10
        assert "alias" not in endpoint


# Containers


def container(synthesis: Synthesis, part: str, service: str) -> dict[str, Any]:
    task = synthesis.one("aws_ecs_task_definition", f"{part}/{service}/task")
    (only,) = json.loads(task["container_definitions"])
    assert isinstance(only, dict)
    return only


@pytest.mark.parametrize(("part", "agents"), [("primary", 2), ("standby", 1)])
def test_services_start_with_what_the_pattern_says(synthesis: Synthesis, part: str, agents: int) -> None:
    """All agents in the primary, a pilot light in the standby, a vector database in both."""
    agent = synthesis.one("aws_ecs_service", f"{part}/agent/service")
    vector = synthesis.one("aws_ecs_service", f"{part}/vector/service")
    assert (agent["name"], agent["desired_count"]) == ("agent", agents)
    assert (vector["name"], vector["desired_count"]) == ("vector", 1)
    for service in (agent, vector):
        assert service["launch_type"] == "FARGATE"
        assert as_block(service["network_configuration"])["assign_public_ip"] is False
        assert service["lifecycle"]["ignore_changes"] == ["desired_count"], "recovery scales, deployments do not"


@pytest.mark.parametrize("part", HALVES)
def test_an_agent_has_time_to_start(synthesis: Synthesis, part: str) -> None:
    """ECS ends no task on a load balancer's word in its first two minutes; a server is behind one too."""
    for service in ("agent", "vector"):
        assert synthesis.one("aws_ecs_service", f"{part}/{service}/service")["health_check_grace_period_seconds"] == 120


@pytest.mark.parametrize("part", HALVES)
def test_images_come_from_the_region_itself(synthesis: Synthesis, part: str) -> None:
    """A standby that pulls from the primary's registry dies with it."""
    region = {"primary": "us-east-1", "standby": "us-west-2"}[part]
    for service in ("agent", "vector"):
        assert f".{region}." in container(synthesis, part, service)["image"]


@pytest.mark.parametrize("part", HALVES)
def test_the_vector_database_starts_with_its_password_and_a_volume_of_its_own(synthesis: Synthesis, part: str) -> None:
    """The password comes from the secret; the data folder is writable and lives as long as its task."""
    vector = container(synthesis, part, "vector")
    secret = synthesis.address_of("aws_secretsmanager_secret", f"{part}/vector-password/secret")
    assert vector["secrets"] == [{"name": "POSTGRES_PASSWORD", "valueFrom": f"${{{secret}.arn}}"}]
    assert "/var/lib/postgresql" in [mount["containerPath"] for mount in vector["mountPoints"]]
    assert vector["readonlyRootFilesystem"] is True


def test_no_secret_has_a_value(synthesis: Synthesis) -> None:
    """Values are put by whoever operates the environment: no state and no JSON holds one."""
    for part in PARTS:
        # A rehearsal's password is made up while it is deployed, and goes by a write-only argument.
        versions = synthesis.stacks[part]["resource"].get("aws_secretsmanager_secret_version", {})
        assert all("secret_string" not in version for version in versions.values())
        assert bool(versions) is (part == "rehearsal")
        assert "password" not in json.dumps(synthesis.stacks[part].get("output", {}))
    names = [secret["name"] for secret in synthesis.resources("aws_secretsmanager_secret").values()]
    own = ["connections", "queue-password", "rehearsal-password", "vector-password"]
    assert sorted(set(names)) == [f"relight/demo/{name}" for name in own]


# The command


def run_app(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-P", "-m", "relight_stacks.app", *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT, timeout=60)


def test_an_unknown_environment_is_refused_without_starting_node(tmp_path: Path) -> None:
    """The refusal is one line that shows those which exist."""
    done = run_app("--environment", "nope", "--output", str(tmp_path / "out"))
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("error: no environment 'nope'")
    assert "demo" in done.stderr
    assert not (tmp_path / "out").exists()


def test_a_missing_bundle_is_refused(tmp_path: Path) -> None:
    """The path that was given is named."""
    done = run_app("--bundle", str(tmp_path / "none.zip"), "--output", str(tmp_path / "out"))
    assert (done.returncode, done.stdout) == (1, "")
    assert "none.zip is not a file" in done.stderr


def test_the_pure_modules_do_not_start_node() -> None:
    """Props, names, settings and policies can be read by the CLI and the drill for nothing."""
    modules = (
        "relight_constructs.access, relight_constructs.bundle, relight_constructs.policies, relight_constructs.props,"
        "relight_constructs.recovery_machine, relight_stacks.app, relight_stacks.environment, relight_stacks.naming,"
        "relight_stacks.refs, relight_stacks.settings"
    )
    code = f"import sys, {modules}; sys.exit(any(name in sys.modules for name in ('jsii', 'cdktf', 'constructs')))"
    assert subprocess.run([sys.executable, "-P", "-c", code], check=False, timeout=60).returncode == 0


def as_block(value: Any) -> dict[str, Any]:
    """A nested block that may appear once: Terraform reads it as an object, or as a list of one."""
    if isinstance(value, list):
        (value,) = value
    assert isinstance(value, dict)
    return value


def test_the_key_that_signs_is_one_in_both_regions(synthesis: Synthesis) -> None:
    """A region verifies what the other signed without asking it: a multi-region key, under one alias in both."""
    key = synthesis.one("aws_kms_key", "vault/signing/key")
    assert (key["customer_master_key_spec"], key["key_usage"], key["multi_region"]) == (
        "ECC_NIST_P256",
        "SIGN_VERIFY",
        True,
    )
    replica = synthesis.one("aws_kms_replica_key", "vault/signing/replica")
    address = synthesis.address_of("aws_kms_key", "vault/signing/key")
    assert (replica["primary_key_arn"], replica["provider"]) == (f"${{{address}.arn}}", "aws.primary")
    aliases = [synthesis.one("aws_kms_alias", f"vault/signing/{name}") for name in ("alias", "replica-alias")]
    assert {item["name"] for item in aliases} == {"alias/relight-demo-signing"}
    assert aliases[1]["provider"] == "aws.primary"
    for part in ("primary", "standby"):
        for function in synthesis.resources("aws_lambda_function", part=part).values():
            assert function["environment"]["variables"]["RELIGHT_SIGNING_KEY"] == "alias/relight-demo-signing"
