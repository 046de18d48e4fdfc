"""`relight bootstrap` makes the buckets of Terraform's state, on a server that does what S3 does, behind TLS."""

from __future__ import annotations

import asyncio
import json
import ssl
import threading
from typing import TYPE_CHECKING, Any

import aiohttp
import pytest
import trustme
from aiohttp import web
from servers import serving

from relight.adapters import aws
from relight.errors import ConfigError
from relight_cli.console import DONE, USAGE
from relight_cli.main import main
from relight_drill.emulator import SECRET_KEY
from relight_stacks.bootstrap import plan_buckets
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


def remove(emulator: Emulator, environment: Environment) -> None:
    """What another test made."""
    for region in REGIONS:
        s3 = emulator.client("s3", region)
        names = [bucket["Name"] for bucket in s3.list_buckets()["Buckets"]]
        if (bucket := environment.names.state_bucket(region)) in names:
            s3.delete_bucket(Bucket=bucket)


def test_one_bucket_is_made_in_each_region(
    environment: Environment, emulator: Emulator, capsys: pytest.CaptureFixture[str]
) -> None:
    """Versioned, encrypted, private, over TLS alone; asked again, there is nothing left to do."""
    remove(emulator, environment)
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
    remove(emulator, environment)
    assert main(["bootstrap", "--environment", "mine", "--dry-run"]) == DONE
    out, err = capsys.readouterr()
    assert out == ""
    assert f"{environment.names.state_bucket('eu-west-1')}: make it; keep earlier versions; " in err
    assert "dry run: nothing was done" in err
    names = {bucket["Name"] for bucket in emulator.client("s3", "us-east-1").list_buckets()["Buckets"]}
    assert names.isdisjoint(environment.names.state_bucket(region) for region in REGIONS)


def test_only_what_is_missing_is_done(environment: Environment, emulator: Emulator) -> None:
    """What somebody set up further stays: their statements, their rules, their key."""
    remove(emulator, environment)
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
    remove(emulator, environment)
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
