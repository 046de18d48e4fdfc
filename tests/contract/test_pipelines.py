"""What pipelines run: the buckets of Terraform's state, plans, and what is applied of them.

On a server that does what S3 does, behind TLS, with the real Terraform where there is one.
"""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import ssl
import subprocess
import sys
import threading
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import aiohttp
import pytest
import trustme
from aiohttp import web
from servers import serving
from synthesis import ROOT

from relight.adapters import aws
from relight.errors import ConfigError
from relight_cli.console import DONE, USAGE
from relight_cli.main import main
from relight_drill.emulator import SECRET_KEY
from relight_stacks.bootstrap import carry_out, plan_buckets
from relight_stacks.loading import load_environment

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from relight_drill.emulator import Emulator
    from relight_stacks.environment import Environment

pytestmark = pytest.mark.servers

REGIONS = ("us-east-1", "eu-west-1")


@pytest.fixture(scope="module")
def front(emulator: Emulator, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, Path]]:
    """The emulator's address behind TLS, and the authority that vouches for it: a bucket may ask for TLS."""
    authority = trustme.CA()
    bundle = tmp_path_factory.mktemp("authority") / "ca.pem"
    authority.cert_pem.write_to_path(str(bundle))
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.issue_cert("127.0.0.1").configure_cert(context)
    ready, done = threading.Event(), threading.Event()
    port = 0

    async def serve() -> None:
        nonlocal port
        async with aiohttp.ClientSession(auto_decompress=False) as session:

            async def pass_on(request: web.Request) -> web.Response:
                headers = {**request.headers, "X-Forwarded-Proto": "https"}
                url = f"{emulator.url}{request.raw_path}"
                async with session.request(
                    request.method, url, headers=headers, data=await request.read(), allow_redirects=False
                ) as answer:
                    body = await answer.read()
                    kept = {key: value for key, value in answer.headers.items() if key.lower() != "transfer-encoding"}
                    return web.Response(status=answer.status, headers=kept, body=body or None)

            async with serving(pass_on, context) as port:
                ready.set()
                await asyncio.to_thread(done.wait)

    thread = threading.Thread(target=lambda: asyncio.run(serve()), daemon=True)
    thread.start()
    assert ready.wait(30)
    yield f"https://127.0.0.1:{port}", bundle
    done.set()
    thread.join(30)


@pytest.fixture(autouse=True)
def credentials(front: tuple[str, Path], emulator: Emulator, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Those of the emulator's account."""
    url, bundle = front
    monkeypatch.setenv("AWS_ENDPOINT_URL", url)
    monkeypatch.setenv("AWS_CA_BUNDLE", str(bundle))
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", emulator.account)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRET_KEY)
    aws._session.cache_clear()
    yield
    aws._session.cache_clear()


@pytest.fixture
def environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Environment:
    """An environment of its own, which `--environment mine` names too."""
    return write(tmp_path, "mine", monkeypatch)


def write(folder: Path, name: str, monkeypatch: pytest.MonkeyPatch, account: str = "000000000000") -> Environment:
    """A file of `folder`, where the command looks for environments too."""
    from relight_stacks import loading

    text = (loading.environments_folder() / "demo.toml").read_text()
    text = text.replace('account = "000000000000"', f'account = "{account}"').replace("us-west-2", REGIONS[1])
    (folder / f"{name}.toml").write_text(text)
    monkeypatch.setattr(loading, "environments_folder", lambda: folder)
    return load_environment(folder / f"{name}.toml")


def empty(emulator: Emulator, environment: Environment) -> None:
    """Remove the state buckets with all that is in them."""
    for region in REGIONS:
        s3, bucket = emulator.client("s3", region), environment.names.state_bucket(region)
        if bucket not in [item["Name"] for item in s3.list_buckets()["Buckets"]]:
            continue
        found = s3.list_object_versions(Bucket=bucket)
        for item in [*found.get("Versions", []), *found.get("DeleteMarkers", [])]:
            s3.delete_object(Bucket=bucket, Key=item["Key"], VersionId=item["VersionId"])
        s3.delete_bucket(Bucket=bucket)


def test_one_bucket_is_made_in_each_region(
    environment: Environment, emulator: Emulator, capsys: pytest.CaptureFixture[str]
) -> None:
    """Versioned, encrypted, private, over TLS alone; asked again, there is nothing left to do."""
    empty(emulator, environment)
    assert main(["bootstrap", "--environment", "mine", "--yes", "--json"]) == DONE
    made = json.loads(capsys.readouterr().out)
    assert made["buckets"] == {region: environment.names.state_bucket(region) for region in REGIONS}
    for region, bucket in made["buckets"].items():
        s3 = emulator.client("s3", region)
        assert (s3.get_bucket_location(Bucket=bucket)["LocationConstraint"] or "us-east-1") == region
        assert s3.get_bucket_versioning(Bucket=bucket)["Status"] == "Enabled"
        (rule,) = s3.get_bucket_encryption(Bucket=bucket)["ServerSideEncryptionConfiguration"]["Rules"]
        assert rule["ApplyServerSideEncryptionByDefault"]["SSEAlgorithm"] == "AES256"
        assert all(s3.get_public_access_block(Bucket=bucket)["PublicAccessBlockConfiguration"].values())
        (statement,) = json.loads(s3.get_bucket_policy(Bucket=bucket)["Policy"])["Statement"]
        assert (statement["Effect"], statement["Condition"]) == ("Deny", {"Bool": {"aws:SecureTransport": "false"}})
        (lifecycle,) = s3.get_bucket_lifecycle_configuration(Bucket=bucket)["Rules"]
        assert lifecycle["NoncurrentVersionExpiration"]["NoncurrentDays"] == 90
    assert plan_buckets(environment) == []
    assert main(["bootstrap", "--environment", "mine", "--json"]) == DONE  # nothing to ask
    assert json.loads(capsys.readouterr().out)["done"] == []


def test_a_dry_run_makes_nothing(
    environment: Environment, emulator: Emulator, capsys: pytest.CaptureFixture[str]
) -> None:
    """It says what it would do."""
    empty(emulator, environment)
    assert main(["bootstrap", "--environment", "mine", "--dry-run"]) == DONE
    out, err = capsys.readouterr()
    assert out == ""
    assert f"{environment.names.state_bucket('eu-west-1')}: make it; keep earlier versions; " in err
    assert "dry run: nothing was done" in err
    names = {bucket["Name"] for bucket in emulator.client("s3", "us-east-1").list_buckets()["Buckets"]}
    assert names.isdisjoint(environment.names.state_bucket(region) for region in REGIONS)


def test_only_what_is_missing_is_done(environment: Environment, emulator: Emulator) -> None:
    """What somebody set up further stays: their statements, their rules, their key."""
    empty(emulator, environment)
    region = "us-east-1"
    bucket, s3 = environment.names.state_bucket(region), emulator.client("s3", region)
    assert main(["bootstrap", "--environment", "mine", "--yes"]) == DONE
    theirs = {
        "Sid": "Theirs",
        "Effect": "Deny",
        "Principal": "*",
        "Action": "s3:DeleteBucket",
        "Resource": f"arn:aws:s3:::{bucket}",
    }
    s3.put_bucket_policy(Bucket=bucket, Policy=json.dumps({"Version": "2012-10-17", "Statement": [theirs]}))
    s3.put_bucket_versioning(Bucket=bucket, VersioningConfiguration={"Status": "Suspended"})
    rule = {"ID": "theirs", "Status": "Enabled", "Filter": {"Prefix": "x/"}, "Expiration": {"Days": 9}}
    s3.put_bucket_lifecycle_configuration(Bucket=bucket, LifecycleConfiguration={"Rules": [rule]})
    key: Any = {"ApplyServerSideEncryptionByDefault": {"SSEAlgorithm": "aws:kms", "KMSMasterKeyID": "alias/theirs"}}
    s3.put_bucket_encryption(Bucket=bucket, ServerSideEncryptionConfiguration={"Rules": [key]})
    assert [(step.bucket, step.call) for step in plan_buckets(environment)] == [
        (bucket, "put_bucket_versioning"),
        (bucket, "put_bucket_policy"),
        (bucket, "put_bucket_lifecycle_configuration"),
    ]
    assert main(["bootstrap", "--environment", "mine", "--yes"]) == DONE
    found = json.loads(s3.get_bucket_policy(Bucket=bucket)["Policy"])["Statement"]
    assert [item["Sid"] for item in found] == ["Theirs", "TlsOnly"]
    rules = s3.get_bucket_lifecycle_configuration(Bucket=bucket)["Rules"]
    assert {item["ID"] for item in rules} == {"theirs", "relight-state"}
    assert s3.get_bucket_versioning(Bucket=bucket)["Status"] == "Enabled"
    (kept,) = s3.get_bucket_encryption(Bucket=bucket)["ServerSideEncryptionConfiguration"]["Rules"]
    assert kept["ApplyServerSideEncryptionByDefault"]["SSEAlgorithm"] == "aws:kms"


def test_credentials_of_another_account_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, emulator: Emulator, capsys: pytest.CaptureFixture[str]
) -> None:
    """Before anything is looked at, so that no other account gets buckets of this name."""
    environment = write(tmp_path, "theirs", monkeypatch, account="111111111111")
    assert main(["bootstrap", "--environment", "theirs", "--yes"]) == USAGE
    assert (
        "the credentials are of account 000000000000, and theirs is of account 111111111111" in capsys.readouterr().err
    )
    names = {bucket["Name"] for bucket in emulator.client("s3", "us-east-1").list_buckets()["Buckets"]}
    assert names.isdisjoint(environment.names.state_bucket(region) for region in REGIONS)


def test_a_bucket_of_somebody_else_is_refused(environment: Environment, emulator: Emulator) -> None:
    """Its name is taken, and nothing of it is changed."""
    empty(emulator, environment)
    bucket = environment.names.state_bucket("us-east-1")

    async def forbidden(request: web.Request) -> web.Response:
        """S3's answer to whoever asks for a bucket that is another's."""
        found = request.path == f"/{bucket}" and request.headers.get("x-amz-expected-bucket-owner") == "000000000000"
        return web.Response(status=403 if found else 404)

    async def ask() -> None:
        async with serving(forbidden) as port:
            with pytest.MonkeyPatch.context() as patch:
                patch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{port}")
                with pytest.raises(ConfigError, match=f"the bucket {bucket} is another account's"):
                    await asyncio.to_thread(plan_buckets, environment)

    asyncio.run(ask())


needs_terraform = pytest.mark.skipif(shutil.which("terraform") is None, reason="there is no terraform on the PATH")
WHOLE = {"vault": [], "dns": [], "primary": ["vault", "dns"], "standby": ["vault", "dns", "primary"]}


@dataclass(frozen=True, slots=True, kw_only=True)
class Deployment:
    """An environment's stacks as a synthesis writes them, but of a resource that needs no provider."""

    environment: Environment
    folder: Path
    front: tuple[str, Path]

    @property
    def stacks(self) -> Path:
        """Where they are."""
        return self.folder / "cdktf.out"

    @property
    def plans(self) -> Path:
        """Where what is approved is."""
        return self.folder / "plans"

    def bucket(self, part: str) -> tuple[str, str]:
        """The bucket of a stack's state, and its region."""
        region = REGIONS[0] if part == "primary" else REGIONS[1]
        return self.environment.names.state_bucket(region), region

    def write(self, value: str) -> None:
        """The stacks; `value` is what they are to make."""
        url, bundle = self.front
        listed = {}
        for part, needs in WHOLE.items():
            name = self.environment.names.stack(part)
            folder = self.stacks / "stacks" / name
            folder.mkdir(parents=True, exist_ok=True)
            bucket, region = self.bucket(part)
            backend = {
                "bucket": bucket,
                "key": f"{name}.tfstate",
                "region": region,
                "encrypt": True,
                "use_lockfile": True,
                "endpoints": {"s3": url, "sts": url, "iam": url},
                "custom_ca_bundle": str(bundle),
                "use_path_style": True,
                "skip_region_validation": True,
                "skip_metadata_api_check": True,
            }
            text = {"terraform": {"backend": {"s3": backend}}, "resource": {"terraform_data": {"it": {"input": value}}}}
            (folder / "cdk.tf.json").write_text(json.dumps(text))
            listed[name] = {
                "dependencies": [self.environment.names.stack(need) for need in needs],
                "synthesizedStackPath": f"stacks/{name}/cdk.tf.json",
                "workingDirectory": f"stacks/{name}",
            }
        (self.stacks / "manifest.json").write_text(json.dumps({"stacks": listed}))

    def run(self, verb: str, *more: str) -> subprocess.CompletedProcess[str]:
        """The command that a pipeline runs."""
        folder = "--out" if verb == "plan" else "--approved"
        command = [str(ROOT / "scripts" / "deploy"), verb, "--environment", "mine", "--stacks", str(self.stacks)]
        env = {**os.environ, "PYTHON": sys.executable, "CHECKPOINT_DISABLE": "1"}
        return subprocess.run(
            [*command, folder, str(self.plans), *more],
            capture_output=True,
            text=True,
            check=False,
            env=env,
            timeout=280,
        )

    def states(self, emulator: Emulator) -> dict[str, str]:
        """What each stack made, by its part, as its state says."""
        found: dict[str, str] = {}
        for part in WHOLE:
            bucket, region = self.bucket(part)
            s3, key = emulator.client("s3", region), f"{self.environment.names.stack(part)}.tfstate"
            keys = [item["Key"] for item in s3.list_objects_v2(Bucket=bucket).get("Contents", [])]
            assert f"{key}.tflock" not in keys, "a lock was left behind"
            if key in keys:
                state = json.loads(s3.get_object(Bucket=bucket, Key=key)["Body"].read())
                (made,) = state["resources"]
                found[part] = made["instances"][0]["attributes"]["input"]["value"]
        return found


@pytest.fixture
def deployment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, emulator: Emulator, front: Any) -> Deployment:
    """With state buckets, and nothing in them."""
    environment = write(tmp_path, "mine", monkeypatch)
    empty(emulator, environment)
    for step in plan_buckets(environment):
        carry_out(step)
    made = Deployment(environment=environment, folder=tmp_path, front=front)
    made.write("one")
    return made


@needs_terraform
def test_a_first_deployment_goes_step_by_step(deployment: Deployment, emulator: Emulator) -> None:
    """Each run plans what can be planned, and applies it; then there is nothing left to do."""
    for there in (["vault", "dns"], ["primary"], ["standby"]):
        before = deployment.states(emulator)
        done = deployment.run("plan")
        assert done.returncode == 0, done.stderr
        approved = json.loads((deployment.plans / "approved.json").read_text())["stacks"]
        assert {name.rpartition("-")[2] for name, found in approved.items() if found["create"]} == set(there)
        assert deployment.states(emulator) == before, "a plan changes nothing"
        done = deployment.run("apply")
        assert done.returncode == 0, done.stderr
        assert deployment.states(emulator) == before | dict.fromkeys(there, "one")
    done = deployment.run("plan")
    assert "<details>" not in (deployment.plans / "plan.md").read_text(), "nothing is to be done"
    assert deployment.run("apply").stderr.count("nothing to do") == len(WHOLE)


@needs_terraform
def test_fails_when_it_would_do_something_else_than_what_was_approved(
    deployment: Deployment, emulator: Emulator
) -> None:
    """What was synthesized anew since, or what somebody else deployed meanwhile, is not applied."""
    assert deployment.run("plan").returncode == 0
    assert 'input  = "one"' in (deployment.plans / "plan.md").read_text()
    deployment.write("two")
    done = deployment.run("apply")
    assert done.returncode == 1
    assert "mine-dns: applying it would do something else than what was approved; plan again" in done.stderr
    assert deployment.states(emulator) == {}
    assert deployment.run("plan").returncode == 0
    assert deployment.run("apply").returncode == 0
    assert deployment.states(emulator) == {"vault": "two", "dns": "two"}
    again = deployment.run("apply")
    assert "plan again" in again.stderr, "what was approved was to create, and that is done"


@needs_terraform
def test_a_lock_keeps_others_out(deployment: Deployment, emulator: Emulator) -> None:
    """Who applies waits for it, and gives up; who plans does not need it."""
    assert deployment.run("plan", "--only", "mine-vault").returncode == 0
    bucket, region = deployment.bucket("vault")
    s3, key = emulator.client("s3", region), "mine-vault.tfstate.tflock"
    lock = {"ID": "6ba7b810-9dad-11d1-80b4-00c04fd430c8", "Operation": "OperationTypeApply", "Who": "somebody"}
    s3.put_object(Bucket=bucket, Key=key, Body=json.dumps(lock).encode())
    assert deployment.run("plan", "--only", "mine-vault").returncode == 0
    done = deployment.run("apply", "--only", "mine-vault", "--wait", "1s")
    assert done.returncode == 1
    assert "state lock" in done.stderr
    s3.delete_object(Bucket=bucket, Key=key)
    assert deployment.run("apply", "--only", "mine-vault").returncode == 0
    assert deployment.states(emulator) == {"vault": "one"}


@needs_terraform
def test_a_standby_is_deployed_without_the_primarys_region(deployment: Deployment, emulator: Emulator) -> None:
    """Its own state is all that is read, also when the bucket of the other region's is gone."""
    bucket, region = deployment.bucket("primary")
    emulator.client("s3", region).delete_bucket(Bucket=bucket)
    assert deployment.run("plan", "--only", "mine-primary").returncode == 1, "that region is needed for its own stack"
    assert deployment.run("plan", "--only", "mine-standby").returncode == 0
    done = deployment.run("apply", "--only", "mine-standby")
    assert done.returncode == 0, done.stderr
    bucket, region = deployment.bucket("standby")
    kept = emulator.client("s3", region).list_objects_v2(Bucket=bucket)["Contents"]
    assert [item["Key"] for item in kept] == ["mine-standby.tfstate"]


def test_what_cannot_be_planned_is_said(deployment: Deployment) -> None:
    """Which stacks there are, and what to do when there are none."""
    done = deployment.run("plan", "--only", "mine-odd")
    assert (done.returncode, done.stderr) == (
        1,
        "deploy: mine has no stack mine-odd; use some of mine-dns, mine-primary, mine-standby, mine-vault\n",
    )
    (deployment.stacks / "manifest.json").unlink()
    assert "synthesize first: python -P -m relight_stacks.app" in deployment.run("plan").stderr
