"""The applier: what the stacks say is what the emulator gets, and what it does not know it refuses."""

from __future__ import annotations

import asyncio
import io
import json
import uuid
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import boto3
import pytest
from botocore.exceptions import ClientError

from relight_drill.applier import apply
from relight_drill.emulator import Emulator
from relight_drill.processes import DrillError
from relight_drill.wire import Gate

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator
    from pathlib import Path

    from relight_drill.deployment import Deployment
    from relight_drill.processes import ProcessGroup

EAST, WEST = "us-east-1", "us-west-2"
VAULTS = {region: f"relight-demo-vault-000000000000-{region}" for region in (EAST, WEST)}
LEASE = f"relight-demo-lease-000000000000-{WEST}"

pytestmark = pytest.mark.servers


def write(out: Path, resources: dict[str, Any], **more: Any) -> Path:
    """A synthesized stack `one` in us-west-2, with a second provider `other` in us-east-1."""
    folder = out / "stacks" / "one"
    folder.mkdir(parents=True)
    providers = [{"region": WEST, "allowed_account_ids": ["000000000000"]}, {"alias": "other", "region": EAST}]
    document = {"provider": {"aws": providers}, "terraform": {}, "resource": resources, **more}
    (folder / "cdk.tf.json").write_text(json.dumps(document))
    entry = {"dependencies": [], "synthesizedStackPath": "stacks/one/cdk.tf.json"}
    (out / "manifest.json").write_text(json.dumps({"stacks": {"one": entry}}))
    return out


def bucket(name: str, **more: Any) -> dict[str, Any]:
    return {"bucket": f"applier-{name}-{uuid.uuid4().hex[:8]}", **more}


REFUSALS: dict[str, tuple[dict[str, Any], str]] = {
    "a type": (
        {"aws_dynamodb_table": {"t": {"name": "t"}}},
        r"one: the drill does not know the resource type aws_dynamodb_table",
    ),
    "an argument of what nothing acts on": (
        {"aws_vpc": {"v": {"cidr_block": "10.0.0.0/16", "instance_tenancy": "dedicated"}}},
        r"does not know the argument one: aws_vpc.v.instance_tenancy",
    ),
    "an attribute of what nothing acts on": (
        {"aws_vpc": {"v": {"cidr_block": "10.0.0.0/16"}}, "aws_sns_topic": {"t": {"name": "${aws_vpc.v.owner_id}"}}},
        r"aws_sns_topic.t uses \$\{aws_vpc.v.owner_id\}",
    ),
    "an argument": (
        {"aws_s3_bucket": {"b": bucket("x", acceleration="Enabled")}},
        r"does not know the argument one: aws_s3_bucket.b.acceleration",
    ),
    "a nested argument": (
        {
            "aws_s3_bucket": {"b": bucket("n")},
            "aws_s3_bucket_versioning": {
                "v": {
                    "bucket": "${aws_s3_bucket.b.id}",
                    "versioning_configuration": {"status": "Enabled", "mfa_delete": "Enabled"},
                }
            },
        },
        r"does not know the argument one: aws_s3_bucket_versioning.v.versioning_configuration.mfa_delete",
    ),
    "an attribute": (
        {
            "aws_s3_bucket": {"b": bucket("a")},
            "aws_sns_topic": {"t": {"name": "${aws_s3_bucket.b.website_domain}"}},
        },
        r"aws_sns_topic.t uses \$\{aws_s3_bucket.b.website_domain\}",
    ),
    "an expression": (
        {"aws_sns_topic": {"t": {"name": "${upper(var.name)}"}}},
        r"aws_sns_topic.t has the expression \$\{upper\(var.name\)\}",
    ),
    "a resource that is not there": (
        {"aws_sns_topic": {"t": {"name": "${aws_s3_bucket.gone.id}"}}},
        r"refers to aws_s3_bucket.gone",
    ),
    "a circle": (
        {"aws_sns_topic": {"a": {"name": "${aws_sns_topic.b.name}"}, "b": {"name": "${aws_sns_topic.a.name}"}}},
        r"in a circle",
    ),
    "a missing argument": ({"aws_s3_bucket": {"b": {}}}, r"aws_s3_bucket.b has no argument 'bucket'"),
    "what the emulator refuses": (
        {"aws_s3_bucket": {"b": {"bucket": "No_Bucket"}}},
        r"one: aws_s3_bucket.b was refused by the emulator: .*InvalidBucketName",
    ),
}


@pytest.mark.parametrize("case", REFUSALS)
def test_what_is_not_known_is_refused_by_name(case: str, emulator: Emulator, tmp_path: Path) -> None:
    """fails when a stack holds anything that the drill would silently leave out."""
    resources, message = REFUSALS[case]
    with pytest.raises(DrillError, match=message):
        asyncio.run(apply(emulator, write(tmp_path, resources)))


def test_other_sections_and_accounts_are_refused(emulator: Emulator, tmp_path: Path) -> None:
    """fails when a stack has outputs or variables, or is for an account that the emulator is not."""
    with pytest.raises(DrillError, match="sections output"):
        asyncio.run(apply(emulator, write(tmp_path / "a", {}, output={"o": {"value": "1"}})))
    provider = {"aws": [{"region": WEST, "allowed_account_ids": ["111111111111"]}]}
    with pytest.raises(DrillError, match="111111111111"):
        asyncio.run(apply(emulator, write(tmp_path / "b", {}, provider=provider)))
    with pytest.raises(DrillError, match="no stacks two"):
        asyncio.run(apply(emulator, write(tmp_path / "c", {}), stacks=["two"]))


def test_references_order_resources_and_regions_are_the_providers(emulator: Emulator, tmp_path: Path) -> None:
    """A reference is replaced by the attribute, alone or within text; `$${` is text; a provider decides the region."""
    made = bucket("order")
    resources = {
        "aws_sns_topic": {"t": {"name": "of-${aws_s3_bucket.b.id}"}},
        "aws_s3_bucket": {"b": {**made, "provider": "aws.other"}},
        "aws_iam_role": {
            "r": {"name": made["bucket"], "assume_role_policy": '{"Version":"2012-10-17","Statement":[]}'}
        },
        "aws_iam_role_policy": {
            "p": {
                "name": "p",
                "role": "${aws_iam_role.r.name}",
                "policy": '{"Version":"2012-10-17","Statement":[{"Effect":"Allow","Action":"s3:GetObject",'
                '"Resource":"${aws_s3_bucket.b.arn}/home/$${aws:username}"}]}',
            }
        },
    }
    deployment = asyncio.run(apply(emulator, write(tmp_path, resources)))
    assert deployment.buckets == {made["bucket"]: EAST}
    assert deployment.one("aws_sns_topic").region == WEST
    assert deployment.one("aws_sns_topic").attributes["name"] == f"of-{made['bucket']}"
    policy = deployment.one("aws_iam_role_policy").arguments["policy"]
    assert f"arn:aws:s3:::{made['bucket']}/home/${{aws:username}}" in policy
    with pytest.raises(DrillError, match="0 resources of type aws_kms_key"):
        deployment.one("aws_kms_key")


def test_what_nothing_acts_on_has_attributes_of_its_own(emulator: Emulator, tmp_path: Path) -> None:
    """They are made up, of the right form, the same in every run and others elsewhere; also those that are blocks."""
    proof = "tolist(aws_acm_certificate.c.domain_validation_options).0.resource_record_type"
    resources = {
        "aws_lb": {
            "a": {"name": "lb"},
            "b": {"name": "lb", "internal": True},
            "c": {"name": "lb", "provider": "aws.other"},
        },
        "aws_acm_certificate": {"c": {"domain_name": "agent.example"}},
        "aws_sns_topic": {"t": {"name": f"${{{proof}}}-${{aws_lb.a.id}}"}},
    }
    first = asyncio.run(apply(emulator, write(tmp_path / "1", resources)))
    again = asyncio.run(apply(emulator, write(tmp_path / "2", resources)))
    names = [lb.attributes["dns_name"] for lb in first.of("aws_lb")]
    assert names == [lb.attributes["dns_name"] for lb in again.of("aws_lb")]
    assert len(set(names)) == 3
    assert [first.balancer(WEST), first.balancer(EAST)] == [names[0], names[2]]
    assert first.balancer(EAST).endswith(f".{EAST}.elb.amazonaws.com")
    assert first.one("aws_sns_topic").attributes["name"] == f"CNAME-{first.of('aws_lb')[0].attributes['id']}"


def test_a_write_only_value_reaches_its_secret_alone(emulator: Emulator, tmp_path: Path) -> None:
    """An ephemeral password is written into the secret, and is no attribute of anything."""
    secret = f"applier-{uuid.uuid4().hex[:8]}"
    resources = {
        "aws_secretsmanager_secret": {"s": {"name": secret}},
        "aws_secretsmanager_secret_version": {
            "v": {
                "secret_id": "${aws_secretsmanager_secret.s.id}",
                "secret_string_wo": "${ephemeral.aws_secretsmanager_random_password.p.random_password}",
                "secret_string_wo_version": 1,
            }
        },
    }
    password = {"aws_secretsmanager_random_password": {"p": {"password_length": 40, "exclude_punctuation": True}}}
    deployment = asyncio.run(apply(emulator, write(tmp_path, resources, ephemeral=password)))
    value = emulator.client("secretsmanager", WEST).get_secret_value(SecretId=secret)["SecretString"]
    assert len(value) == 40
    assert value.isalnum()
    assert value not in json.dumps([dict(item.attributes) for item in deployment.resources if "." not in item.type])


def test_one_record_may_be_made_by_two_stacks(emulator: Emulator, tmp_path: Path) -> None:
    """A record that may be overwritten is, any other is refused; those of a private zone are no names for callers."""
    zone = f"{uuid.uuid4().hex[:8]}.example"
    record = {"zone_id": "${aws_route53_zone.z.zone_id}", "name": f"a.{zone}", "type": "CNAME", "ttl": 5}
    twice = {name: {**record, "records": [f"{name}.example"], "allow_overwrite": True} for name in ("x", "y")}
    private = {**record, "zone_id": "${aws_route53_zone.p.zone_id}", "records": ["inside.example"]}
    resources = {
        "aws_route53_zone": {"z": {"name": zone}, "p": {"name": zone, "vpc": [{"vpc_id": "vpc-1"}]}},
        "aws_route53_record": {**twice, "p": private},
    }
    deployment = asyncio.run(apply(emulator, write(tmp_path / "1", resources)))
    assert {record.values for record in deployment.records} == {("x.example",), ("y.example",)}
    del twice["y"]["allow_overwrite"], twice["x"]["allow_overwrite"]
    with pytest.raises(DrillError, match="already exists"):
        asyncio.run(apply(emulator, write(tmp_path / "2", {**resources, "aws_route53_record": twice})))


@pytest.fixture(scope="module")
def applied(server_group: ProcessGroup, server_dir: Path, demo_stacks: Path) -> Iterator[tuple[Emulator, Deployment]]:
    """An emulator of its own with the whole environment `demo` applied."""
    emulator = Emulator(server_group, server_dir / "applied")

    async def start() -> Deployment:
        await emulator.start()
        return await apply(emulator, demo_stacks, environment=lambda region, name: {"TOLD": f"{region} {name}"})

    deployment = asyncio.run(start())
    yield emulator, deployment
    asyncio.run(emulator.stop())


def test_the_demo_stacks_are_applied_whole(applied: tuple[Emulator, Deployment]) -> None:
    """Names, environment, schedules, records and the state machine are those of the stacks, each in its region."""
    emulator, deployment = applied
    assert deployment.buckets == {VAULTS[EAST]: EAST, VAULTS[WEST]: WEST, LEASE: WEST}
    snapshot = emulator.client("lambda", EAST).get_function_configuration(FunctionName="relight-demo-snapshot")
    variables = snapshot["Environment"]["Variables"]
    assert variables["RELIGHT_VAULT_BUCKET"] == VAULTS[EAST]
    assert variables["TOLD"] == f"{EAST} relight-demo-snapshot"
    assert {"relight-demo-sentinel", "relight-demo-hydrate", "relight-demo-open-gate"} <= set(
        deployment.functions(WEST)
    )
    schedule = emulator.client("scheduler", EAST).get_schedule(Name="relight-demo-snapshot")
    assert schedule["ScheduleExpression"] == "rate(5 minutes)"
    assert schedule["Target"]["Arn"] == deployment.functions(EAST)["relight-demo-snapshot"]
    services = {(service.region, service.name) for service in deployment.services}
    live = {(region, name) for region in (EAST, WEST) for name in ("agent", "nats-0", "vector")}
    assert services == live | {(WEST, "scratch")}
    scaling = emulator.client("application-autoscaling", WEST).describe_scalable_targets(ServiceNamespace="ecs")
    (target,) = scaling["ScalableTargets"]
    assert target["ResourceId"] == "service/relight-demo/agent"
    primary = next(check for check in deployment.health_checks if check.fqdn.startswith("primary."))
    assert (primary.type, primary.port, primary.path) == ("HTTPS", 443, "/ready")
    endpoints = {record.name: record.values for record in deployment.records if record.name.count(".") == 4}
    for half, region in (("primary", EAST), ("standby", WEST)):
        assert endpoints[f"{half}.agent.demo.relight.example"] == (deployment.balancer(region),)
    failover = {record.failover: record for record in deployment.records if record.failover}
    assert failover["PRIMARY"].health_check == primary.id
    assert failover["PRIMARY"].ttl <= 10
    machine = deployment.one("aws_sfn_state_machine", name="relight-demo-recovery").attributes["arn"]
    definition = emulator.client("stepfunctions", WEST).describe_state_machine(stateMachineArn=machine)["definition"]
    assert json.loads(definition)["StartAt"] == "assess"
    role = deployment.one("aws_iam_role", name=snapshot["Role"].rpartition("/")[2])
    assert role.attributes["arn"] == snapshot["Role"]


@pytest.mark.parametrize(("source", "target"), [(EAST, WEST), (WEST, EAST)])
def test_the_applied_vaults_replicate_both_ways(source: str, target: str, applied: tuple[Emulator, Deployment]) -> None:
    """What is put into one region's vault, in parts too, is readable in the other's, and is marked as a replica."""
    emulator, _ = applied
    body, key = bytes(range(256)) * 40_000, f"points/from-{source}"
    emulator.client("s3", source).upload_fileobj(io.BytesIO(body), VAULTS[source], key)
    got = emulator.client("s3", target).get_object(Bucket=VAULTS[target], Key=key)
    assert got["Body"].read() == body
    assert got["ReplicationStatus"] == "REPLICA"
    assert got["ServerSideEncryption"] == "aws:kms"


@asynccontextmanager
async def gate_for(
    emulator: Emulator, deployment: Deployment, functions: tuple[tuple[str, str], ...]
) -> AsyncIterator[Gate]:
    """A gate, and functions that reach AWS through it."""
    gate = Gate(emulator, buckets=deployment.buckets)
    for region in (EAST, WEST):
        await gate.add_side(region)
    for region, name in functions:
        lambdas = emulator.client("lambda", region)
        configuration = await asyncio.to_thread(lambdas.get_function_configuration, FunctionName=name)
        variables = {**configuration["Environment"]["Variables"], "AWS_ENDPOINT_URL": gate.url(region)}
        await asyncio.to_thread(
            lambdas.update_function_configuration, FunctionName=name, Environment={"Variables": variables}
        )
    try:
        yield gate
    finally:
        await gate.close()


def test_a_function_may_do_what_its_role_says_and_nothing_else(applied: tuple[Emulator, Deployment]) -> None:
    """The snapshot function seals points in the standby's vault; it reaches neither runs nor the lease nor IAM."""
    emulator, deployment = applied
    name = "relight-demo-snapshot"

    async def scenario() -> None:
        async with gate_for(emulator, deployment, ((EAST, name),)) as gate:

            async def run(service: str, call: str, **arguments: Any) -> str:
                event = {"service": service, "region": WEST, "call": call, "with": arguments}
                invoke = emulator.client("lambda", EAST).invoke
                answer = await asyncio.to_thread(invoke, FunctionName=name, Payload=json.dumps(event))
                return str(answer["Payload"].read().decode())

            assert "ETag" in await run("s3", "put_object", Bucket=VAULTS[WEST], Key="points/p/manifest.json", Body="{}")
            for service, call, arguments in (
                ("s3", "put_object", {"Bucket": VAULTS[WEST], "Key": "runs/r", "Body": "{}"}),
                ("s3", "put_object", {"Bucket": LEASE, "Key": "lease.json", "Body": "{}"}),
                ("s3", "delete_object", {"Bucket": VAULTS[WEST], "Key": "points/p/manifest.json"}),
                ("iam", "list_roles", {}),
                ("ecs", "list_clusters", {}),
            ):
                assert "denied" in (await run(service, call, **arguments)).lower(), (service, call)
            assert not gate.denials

    asyncio.run(scenario())


def test_a_vault_is_read_over_tls_only(applied: tuple[Emulator, Deployment]) -> None:
    """The applied bucket policy refuses a role's call past the gate, and allows the same call through it."""
    emulator, deployment = applied
    role = emulator.client("lambda", WEST).get_function_configuration(FunctionName="relight-demo-hydrate")["Role"]
    given = emulator.client("sts", WEST).assume_role(RoleArn=role, RoleSessionName="test")["Credentials"]

    def read(endpoint: str) -> None:
        boto3.client(
            "s3",
            region_name=WEST,
            endpoint_url=endpoint,
            aws_access_key_id=given["AccessKeyId"],
            aws_secret_access_key=given["SecretAccessKey"],
            aws_session_token=given["SessionToken"],
        ).list_objects_v2(Bucket=VAULTS[WEST], Prefix="points/")

    async def scenario() -> None:
        async with gate_for(emulator, deployment, ()) as gate:
            await asyncio.to_thread(read, gate.url(WEST))
            with pytest.raises(ClientError, match="AccessDenied"):
                await asyncio.to_thread(read, emulator.url)

    asyncio.run(scenario())
