"""The state database of each kind, and what of it is secret: read from the synthesized JSON of every environment.

What a plan of Terraform would say of it, and what AWS does with it, is not shown here.
"""

from __future__ import annotations

import json
import re
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
from synthesis import ENVIRONMENTS, Synthesis

from relight.config import ConfirmBy, Connections, MemoryStore, Role, Settings, StateKind
from relight_constructs.props import GlobalClusterProps, InstanceProps, InstanceReplicaProps, StatePrimaryProps
from relight_stacks.app import synthesize
from relight_stacks.bundles import Bundles
from relight_stacks.loading import examples_folder, load_environments, load_named
from relight_stacks.settings import settings_for

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from relight_stacks.environment import Environment

OWN = ("customer-facing", "internal", "batch", "sandbox")
WITH_STANDBY = OWN[:-1]
PLACES = [(name, part) for name in OWN for part in ENVIRONMENTS[name] if part in ("primary", "standby")]
each_place = pytest.mark.parametrize(("name", "part"), PLACES, ids=["-".join(place) for place in PLACES])
DATABASES = ("aws_db_instance", "aws_rds_cluster")
EPHEMERAL = re.compile(r"\$\{ephemeral\.[a-z_]+\.[A-Za-z0-9_-]+\.[a-z_]+\}")
# Arguments that would put what they hold into the state.
KEPT = {"master_password", "password", "secret_binary", "secret_string"}
WRITE_ONLY = {"master_password_wo", "password_wo", "secret_string_wo"}


def environment_of(name: str) -> Environment:
    if name == "demo":
        return load_named(name)
    (found,) = [item for item in load_environments(examples_folder()) if item.name == name]
    return found


def of(syntheses: Mapping[str, Synthesis], name: str, part: str, *types: str) -> list[dict[str, Any]]:
    """The bodies of a stack's resources of these types."""
    resources = syntheses[name].stacks[part]["resource"]
    return [body for type_ in types for body in resources.get(type_, {}).values()]


def one(syntheses: Mapping[str, Synthesis], name: str, part: str, *types: str) -> dict[str, Any]:
    (found,) = of(syntheses, name, part, *types)
    return found


# -- what is secret


@pytest.mark.parametrize("name", ENVIRONMENTS)
def test_no_state_holds_a_secret(syntheses: Mapping[str, Synthesis], name: str) -> None:
    """A secret's value is in write-only arguments alone, each with its version, and is nowhere written out."""
    for part, _, path, body in syntheses[name].every():
        assert not KEPT & set(body), f"{part}/{path}"
        for argument in WRITE_ONLY & set(body):
            assert isinstance(body[f"{argument}_version"], int), f"{part}/{path}"
            assert EPHEMERAL.search(body[argument]), f"{part}/{path}"
    for part in ENVIRONMENTS[name]:
        stack = syntheses[name].stacks[part]
        assert not stack.get("output", {}).keys() & {"password"}
        for address, body in stack["resource"].items():
            others = {key: value for item in body.values() for key, value in item.items() if key not in WRITE_ONLY}
            assert "ephemeral." not in json.dumps(others), f"{part}/{address} takes one where the state has it"


@each_place
def test_each_password_is_made_once_and_read_back_from_its_secret(
    syntheses: Mapping[str, Synthesis], name: str, part: str
) -> None:
    """A secret takes a password that is made, and all that uses it takes what the secret holds: they cannot differ."""
    stack = syntheses[name].stacks[part]
    made = stack["ephemeral"]["aws_secretsmanager_random_password"]
    held = stack["ephemeral"]["aws_secretsmanager_secret_version"]
    versions = stack["resource"]["aws_secretsmanager_secret_version"]
    assert all(body == {"password_length": 40, "exclude_punctuation": True} for body in made.values())
    taking = json.dumps(stack["resource"])
    for id_ in made:
        assert taking.count(f"ephemeral.aws_secretsmanager_random_password.{id_}.random_password") == 1
    for id_, body in held.items():
        assert f"ephemeral.aws_secretsmanager_secret_version.{id_}.secret_string" in taking
        reference = re.fullmatch(r"\$\{aws_secretsmanager_secret_version\.(.+)\.secret_id\}", body["secret_id"])
        if reference:
            assert "random_password" in versions[reference[1]]["secret_string_wo"]
        else:
            assert part == "standby"
            assert body["secret_id"] == f"relight/{name}/state-password", "its own region's, by name"
    own = {"queue", "state", "vector"} if part == "primary" else {"queue", "vector"}
    assert {id_.partition("-password")[0] for id_ in made} == own


@pytest.mark.parametrize("name", OWN)
def test_the_password_is_in_the_standby_before_it_is_needed(syntheses: Mapping[str, Synthesis], name: str) -> None:
    """The password's secret is replicated, under a key that is there before either region's stack; no other is."""
    secrets = {body["name"]: body for body in of(syntheses, name, "primary", "aws_secretsmanager_secret")}
    standby = environment_of(name).regions.standby
    replicated = {secret: body["replica"] for secret, body in secrets.items() if body.get("replica")}
    assert replicated == {
        f"relight/{name}/state-password": [{"region": standby, "kms_key_id": f"alias/relight-{name}-vault"}]
    }
    aliases = [body["name"] for body in of(syntheses, name, "vault", "aws_kms_alias")]
    assert f"alias/relight-{name}-vault" in aliases
    assert all("kms_key_id" in body for body in secrets.values())


@each_place
def test_what_was_destroyed_can_be_made_again_at_once(syntheses: Mapping[str, Synthesis], name: str, part: str) -> None:
    """No name of a secret waits for a window of deletion, which a second deployment would be refused for."""
    secrets = of(syntheses, name, part, "aws_secretsmanager_secret")
    assert secrets
    assert {body["recovery_window_in_days"] for body in secrets} == {0}


@each_place
def test_the_connections_are_what_the_runtime_reads(syntheses: Mapping[str, Synthesis], name: str, part: str) -> None:
    """The value that is composed parses, asks for TLS, and names the region's own servers by names that stay."""
    (value,) = [
        body["secret_string_wo"]
        for body in of(syntheses, name, part, "aws_secretsmanager_secret_version")
        if "state_dsn" in body["secret_string_wo"]
    ]
    plain = EPHEMERAL.sub("Passw0rd", value)
    read = Connections.from_json(re.sub(r"\$\{[^}]+\}", "db.example", plain), source="test")
    assert "sslmode=require" in read.state_dsn
    assert "user=relight password=Passw0rd" in read.state_dsn
    assert read.queue_url == f"nats://relight:Passw0rd@nats.relight-{name}.internal:4222"
    assert f"vector.relight-{name}.internal" in read.memory_dsn
    host = re.findall(r"host=(\S+)", json.loads(value)["state_dsn"])[0]
    kind = environment_of(name).shape.state
    if (kind, part) == (StateKind.SNAPSHOTS, "standby"):
        assert host == f"relight-{name}-state.not-restored-yet.invalid"
    else:
        expected = {
            (StateKind.AURORA_GLOBAL, "primary"): r"\$\{aws_rds_cluster\.\w+\.endpoint\}",
            (StateKind.AURORA_GLOBAL, "standby"): r"\$\{aws_rds_cluster_instance\.[\w-]+\.endpoint\}",
        }.get((kind, part), r"\$\{aws_db_instance\.\w+\.address\}")
        assert re.fullmatch(expected, host)


def test_with_a_database_of_the_operators_nothing_is_made(syntheses: Mapping[str, Synthesis]) -> None:
    """An existing database brings no database, no password and no value of a secret."""
    for part in ("primary", "standby"):
        stack = syntheses["demo"].stacks[part]
        assert "ephemeral" not in stack
        assert not of(syntheses, "demo", part, *DATABASES, "aws_secretsmanager_secret_version", "aws_db_subnet_group")


# -- the databases


@each_place
def test_every_database_is_encrypted_private_and_hard_to_delete(
    syntheses: Mapping[str, Synthesis], name: str, part: str
) -> None:
    """With the region's own key, in its private subnets and its group, and with a last copy wherever RDS makes one."""
    for body in of(syntheses, name, part, *DATABASES):
        assert body["storage_encrypted"] is True
        assert body["kms_key_id"].startswith("${aws_kms_key.key_")
        assert body["deletion_protection"] is True
        assert body["delete_automated_backups"] is False
        assert body["copy_tags_to_snapshot"] is True
        (group,) = body["vpc_security_group_ids"]
        assert "state-group" in group
        follows = "replicate_source_db" in body
        assert body["skip_final_snapshot"] is follows, "RDS refuses one of a replica"
        if not follows:
            # A second one of the same name would be refused, and the first is there for good.
            assert body["final_snapshot_identifier"] == f"relight-{name}-state-final-{group}"
    for body in of(syntheses, name, part, "aws_db_instance", "aws_rds_cluster_instance"):
        assert body["publicly_accessible"] is False
        assert body["performance_insights_kms_key_id"].startswith("${aws_kms_key.key_")
    for body in of(syntheses, name, part, "aws_rds_global_cluster"):
        assert body["storage_encrypted"] is True
        assert body["deletion_protection"] is True


@each_place
def test_connections_without_tls_are_refused(syntheses: Mapping[str, Synthesis], name: str, part: str) -> None:
    """Every database has parameters of its own that force TLS, also one that is restored."""
    groups = of(syntheses, name, part, "aws_db_parameter_group", "aws_rds_cluster_parameter_group")
    assert groups
    for body in groups:
        values = {item["name"]: item["value"] for item in body["parameter"]}
        assert values["rds.force_ssl"] == "1"
    for body in of(syntheses, name, part, *DATABASES):
        assert "parameters" in (body.get("parameter_group_name") or body["db_cluster_parameter_group_name"])


@each_place
def test_every_log_is_made_beforehand(syntheses: Mapping[str, Synthesis], name: str, part: str) -> None:
    """What a database exports goes into groups that are encrypted and end, not into those that RDS would make."""
    made = {body["name"]: body for body in of(syntheses, name, part, "aws_cloudwatch_log_group")}
    aurora = environment_of(name).shape.state is StateKind.AURORA_GLOBAL
    of_rds = {group for group in made if group.startswith("/aws/rds/")}
    where = f"/aws/rds/{'cluster' if aurora else 'instance'}/relight-{name}-state"
    assert of_rds == {f"{where}/{log}" for log in (("postgresql",) if aurora else ("postgresql", "upgrade"))}
    assert all(made[group]["kms_key_id"] and made[group]["retention_in_days"] == 365 for group in of_rds)
    for body in of(syntheses, name, part, *DATABASES):
        exported = {f"{where}/{log}" for log in body["enabled_cloudwatch_logs_exports"]}
        assert exported == of_rds
        assert len(body["depends_on"]) == len(exported)


@pytest.mark.parametrize("name", WITH_STANDBY)
def test_the_standby_knows_the_primary_by_computed_names_alone(syntheses: Mapping[str, Synthesis], name: str) -> None:
    """What a follower follows is text that no state and no API of the other region has to give."""
    environment = environment_of(name)
    for body in of(syntheses, name, "standby", *DATABASES):
        source = body.get("replicate_source_db") or body["global_cluster_identifier"]
        assert "${" not in source
        assert source in (
            f"relight-{name}-state",
            f"arn:aws:rds:{environment.regions.primary}:{environment.account}:db:relight-{name}-state",
        )
    providers = syntheses[name].stacks["standby"]["provider"]["aws"]
    assert {provider["region"] for provider in providers} == {environment.regions.standby}


@pytest.mark.parametrize("name", WITH_STANDBY)
def test_a_deployment_does_not_undo_a_promotion(syntheses: Mapping[str, Synthesis], name: str) -> None:
    """Whom a follower follows is not looked at any more once it exists, nor what its promotion changes beside."""
    for body in of(syntheses, name, "standby", *DATABASES):
        ignored = set(body["lifecycle"]["ignore_changes"])
        if "replicate_source_db" in body:
            assert ignored == {"allocated_storage", "backup_retention_period", "replicate_source_db"}
        else:
            assert ignored == {"global_cluster_identifier", "replication_source_identifier"}


def test_aurora_has_one_writer_in_two_regions(syntheses: Mapping[str, Synthesis]) -> None:
    """customer-facing: a global database whose primary has two instances, and a secondary with one, without a
    password of its own; the primary commits nothing while the other region is further behind than the objective."""
    whole = one(syntheses, "customer-facing", "primary", "aws_rds_global_cluster")
    assert whole["global_cluster_identifier"] == "relight-customer-facing-state"
    primary = one(syntheses, "customer-facing", "primary", "aws_rds_cluster")
    secondary = one(syntheses, "customer-facing", "standby", "aws_rds_cluster")
    assert "aws_rds_global_cluster" in primary["global_cluster_identifier"], "so that it is made after it"
    assert primary["master_username"] == "relight"
    assert not {"master_username", "master_password_wo", "database_name"} & set(secondary)
    assert primary["engine_version"] == secondary["engine_version"] == whole["engine_version"]
    assert len(of(syntheses, "customer-facing", "primary", "aws_rds_cluster_instance")) == 2
    assert len(of(syntheses, "customer-facing", "standby", "aws_rds_cluster_instance")) == 1
    parameters = one(syntheses, "customer-facing", "primary", "aws_rds_cluster_parameter_group")["parameter"]
    assert {item["name"]: item["value"] for item in parameters}["rds.global_db_rpo"] == "30"


def test_a_replica_is_of_another_region(syntheses: Mapping[str, Synthesis]) -> None:
    """internal: an instance in two zones with backups, and a replica of it in the standby, backed up once promoted."""
    primary = one(syntheses, "internal", "primary", "aws_db_instance")
    replica = one(syntheses, "internal", "standby", "aws_db_instance")
    assert primary["multi_az"] is True
    assert primary["backup_retention_period"] >= 7
    assert not {"username", "password_wo", "engine", "db_name"} & set(replica), "they are its source's"
    assert replica["backup_retention_period"] == 0
    assert replica["instance_class"] == primary["instance_class"]
    # The storage of a replica does not grow with its source's, and one that is full follows no more.
    assert replica["max_allocated_storage"] == primary["max_allocated_storage"] > primary["allocated_storage"]


def test_storage_may_grow_as_far_as_rds_lets_it(tmp_path: Path, bundle_file: Path) -> None:
    """fails when a fifth of RDS's most asks for more than that, which RDS refuses on the day of the deployment."""
    internal = environment_of("internal")
    large = replace(internal, database=replace(internal.database, storage_gib=20_000))
    bundles = Bundles(region=bundle_file, providers=bundle_file)
    output = synthesize([large], bundles=dict.fromkeys(MemoryStore, bundles), output=tmp_path)
    found = Synthesis(output, internal.name)
    for part in ("primary", "standby"):
        (instance,) = found.resources("aws_db_instance", part=part).values()
        assert instance["max_allocated_storage"] == 65_536


@pytest.mark.parametrize("name", ["batch", "sandbox"])
def test_backups_are_copied_by_the_primarys_stack(syntheses: Mapping[str, Synthesis], name: str) -> None:
    """batch and sandbox: copies are in the standby's region, under a key there, before anything else is; the standby
    has no database, and what a restored one stands on."""
    copies = one(syntheses, name, "primary", "aws_db_instance_automated_backups_replication")
    (key,) = [
        body
        for body in of(syntheses, name, "primary", "aws_kms_alias")
        if body["name"] == f"alias/relight-{name}-backups"
    ]
    assert copies["provider"] == key["provider"] == "aws.standby"
    assert "copied-backups_key" in copies["kms_key_id"]
    assert copies["retention_period"] == one(syntheses, name, "primary", "aws_db_instance")["backup_retention_period"]
    if name == "batch":
        assert not of(syntheses, name, "standby", *DATABASES)
        for type_ in ("aws_db_subnet_group", "aws_db_parameter_group"):
            assert one(syntheses, name, "standby", type_)["name"] == f"relight-{name}-state"


# -- who may promote


def statements(syntheses: Mapping[str, Synthesis], name: str, policy: str) -> list[dict[str, Any]]:
    """Of the standby's policies of that name."""
    return [
        statement
        for path, body in syntheses[name].resources("aws_iam_role_policy", part="standby").items()
        if path.endswith(f"/{policy}")
        for statement in json.loads(body["policy"])["Statement"]
    ]


@pytest.mark.parametrize("name", WITH_STANDBY)
def test_only_the_recovery_may_promote_and_only_its_own_database(syntheses: Mapping[str, Synthesis], name: str) -> None:
    """Each kind gets what its promotion asks for, on what is called as its state; nobody else may call RDS."""
    environment = environment_of(name)
    allowed = {
        StateKind.RDS_REPLICA: {"rds:DescribeDBInstances", "rds:PromoteReadReplica"},
        StateKind.AURORA_GLOBAL: {"rds:DescribeGlobalClusters", "rds:RemoveFromGlobalCluster"},
        StateKind.SNAPSHOTS: {
            "rds:DescribeDBInstanceAutomatedBackups",
            "rds:DescribeDBInstances",
            "rds:RestoreDBInstanceToPointInTime",
        },
    }[environment.shape.state]
    found = statements(syntheses, name, "promote-state")
    actions = {action for statement in found for action in statement["Action"] if action.startswith("rds:")}
    assert actions == allowed
    for statement in found:
        if statement["Resource"] == ["*"]:
            assert all(action.partition(":")[2].startswith("Describe") for action in statement["Action"])
            continue
        for resource in statement["Resource"]:
            if resource.startswith("arn:aws:rds"):
                region = resource.split(":")[3]
                assert region in (environment.regions.standby, ""), "of no other region"
                assert resource.endswith((f":relight-{name}-state", ":auto-backup:*", ":og:default:*"))
            else:
                assert statement["Condition"]["ForAnyValue:StringEquals"]["kms:ResourceAliases"].endswith("-backups")
    others = {
        path
        for path, body in syntheses[name].resources("aws_iam_role_policy").items()
        if '"rds:' in body["policy"] and not path.endswith(("/promote-state", "/look-state"))
    }
    assert not others
    looks = statements(syntheses, name, "look-state")
    assert bool(looks) is (environment.shape.state is StateKind.SNAPSHOTS)


def test_rds_may_look_at_the_network_as_who_restores(syntheses: Mapping[str, Synthesis]) -> None:
    """batch: RDS asks EC2 about the subnets and the group in the name of the promoting function. It is allowed whatever
    deployments are, and nothing of it is denied to a service that asks on the function's behalf."""
    role = [
        statement
        for path, body in syntheses["batch"].resources("aws_iam_role_policy", part="standby").items()
        if "/promote/role/" in path
        for statement in json.loads(body["policy"])["Statement"]
    ]
    asked = {
        "ec2:DescribeAccountAttributes",
        "ec2:DescribeAvailabilityZones",
        "ec2:DescribeInternetGateways",
        "ec2:DescribeSecurityGroups",
        "ec2:DescribeSubnets",
        "ec2:DescribeVpcAttribute",
        "ec2:DescribeVpcs",
    }
    everywhere = [item["Action"] for item in role if item["Effect"] == "Allow" and item["Resource"] == ["*"]]
    assert asked <= {action for actions in everywhere for action in actions}
    denied = [item for item in role if item["Effect"] == "Deny"]
    assert denied
    assert all(item["Condition"]["Bool"] == {"aws:ViaAWSService": "false"} for item in denied)


def test_what_restores_may_say_where_it_is(syntheses: Mapping[str, Synthesis]) -> None:
    """batch: promote alone may replace the connections' value; nobody may where the address stays."""
    for name in WITH_STANDBY:
        writers = [
            path
            for path, body in syntheses[name].resources("aws_iam_role_policy").items()
            if "secretsmanager:PutSecretValue" in body["policy"]
        ]
        assert len(writers) == (1 if name == "batch" else 0)
        assert all("promote" in path for path in writers)


@each_place
def test_who_asks_providers_reads_their_keys_apart(syntheses: Mapping[str, Synthesis], name: str, part: str) -> None:
    """Where Relight writes the connections, the operator's keys have a secret of their own, for those who need it."""
    environment = environment_of(name)
    named = [body["name"] for body in of(syntheses, name, part, "aws_secretsmanager_secret")]
    assert (f"relight/{name}/provider-keys" in named) is bool(environment.providers)
    readers = {
        path.split("/")[1]
        for path in syntheses[name].resources("aws_iam_role_policy", part=part)
        if path.endswith("/read-provider-keys")
    }
    expected = {"agent", "providers"} if part == "standby" else {"agent"}
    assert readers == (expected if environment.providers else set())


# -- what the runtime is told


@pytest.mark.parametrize("name", WITH_STANDBY)
def test_the_standby_is_told_how_its_database_is_promoted(name: str) -> None:
    """The settings name the kind, the database and what it follows; the primary's, which is promoted, names none."""
    environment = environment_of(name)
    kind = environment.shape.state
    told = settings_for(environment, Role.STANDBY)
    assert (told.state_kind, told.state_id) == (kind, f"relight-{name}-state")
    assert told.state_source == (told.state_id if kind is StateKind.AURORA_GLOBAL else environment.names.state_arn)
    assert told.state_most_gib == (5 * environment.database.storage_gib if kind is StateKind.SNAPSHOTS else 0)
    assert Settings.from_env(told.to_env()) == told
    assert settings_for(environment, Role.PRIMARY).state_kind is StateKind.EXISTING
    by = {
        StateKind.AURORA_GLOBAL: (ConfirmBy.AURORA, 1),
        StateKind.RDS_REPLICA: (ConfirmBy.POSITION, 1),
        StateKind.SNAPSHOTS: (ConfirmBy.POSITION, 0),
    }[kind]
    primary = settings_for(environment, Role.PRIMARY)
    assert (primary.confirm_by, primary.confirm_replicas) == by


def test_a_restored_database_joins_the_group_that_functions_reach(syntheses: Mapping[str, Synthesis]) -> None:
    """batch: the promoting function is told the security group, which only its own stack knows."""
    functions = {
        body["function_name"]: body["environment"]["variables"]
        for body in of(syntheses, "batch", "standby", "aws_lambda_function")
    }
    assert "state-group" in functions["relight-batch-promote"]["RELIGHT_STATE_GROUP"]


@each_place
def test_agents_and_functions_reach_the_database_and_nobody_else(
    syntheses: Mapping[str, Synthesis], name: str, part: str
) -> None:
    """The group of the database admits two groups, on PostgreSQL's port alone."""
    rules = [
        body
        for body in of(syntheses, name, part, "aws_vpc_security_group_ingress_rule")
        if "state-group" in body["security_group_id"]
    ]
    assert sorted(body["description"] for body in rules) == ["From agent", "From functions"]
    assert all(body["from_port"] == body["to_port"] == 5432 for body in rules)


def test_an_objective_that_aurora_cannot_hold_is_refused() -> None:
    """fails when fewer than 20 seconds are asked of rds.global_db_rpo: the value and the rule are named."""
    primary: Any = None
    primary = StatePrimaryProps(
        state=primary, instance_class="db.r6g.large", password="${x}", password_version=1, backup_days=7
    )
    with pytest.raises(ValueError, match=r"rpo_s=5; rds.global_db_rpo is 20 s at least"):
        GlobalClusterProps(primary=primary, rpo_s=5)
    assert GlobalClusterProps(primary=primary, rpo_s=20).rpo_s == 20


@pytest.mark.parametrize("gib", [0, 19, 65_536])
def test_storage_that_rds_would_refuse_is_refused(gib: int) -> None:
    """Before anything is deployed: too little, and so much that it could not grow."""
    anything: Any = None
    with pytest.raises(ValueError, match=rf"storage_gib={gib}; rds gives an instance that can grow 20 to"):
        InstanceProps(primary=anything, storage_gib=gib)
    with pytest.raises(ValueError, match="storage_gib=0; say its source's"):
        InstanceReplicaProps(follower=anything, storage_gib=0)
