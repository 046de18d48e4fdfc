"""The gate: what a lost region would have to serve is denied, by every way in; the rest passes untouched."""

from __future__ import annotations

import asyncio
import hashlib
import io
import json
import resource
import urllib.error
import urllib.request
import zipfile
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import boto3
import psutil
import pytest
from aiohttp import web
from botocore.config import Config
from botocore.exceptions import ClientError, ConnectionClosedError, ReadTimeoutError

from relight_drill.network import Mode
from relight_drill.processes import free_port, wait_until
from relight_drill.wire import Gate, classify, darken, relight

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from relight_drill.emulator import Emulator
    from relight_drill.wire import Denial

EAST, WEST = "us-east-1", "us-west-2"
BUCKETS = {"wire-east": EAST, "wire-west": WEST}


@pytest.fixture(scope="module", autouse=True)
def buckets(emulator: Emulator) -> None:
    """A bucket in each region with an object in it."""
    for name, region in BUCKETS.items():
        where = {} if region == EAST else {"CreateBucketConfiguration": {"LocationConstraint": region}}
        s3 = emulator.client("s3", region)
        s3.create_bucket(Bucket=name, **where)
        s3.put_object(Bucket=name, Key="a key/ä+b", Body=b"body")


@asynccontextmanager
async def gated(emulator: Emulator) -> AsyncIterator[Gate]:
    """A gate with a side for each region."""
    gate = Gate(emulator, buckets=BUCKETS)
    await gate.add_side(EAST)
    await gate.add_side(WEST)
    try:
        yield gate
    finally:
        await gate.close()


def client(gate: Gate, service: str, region: str, side: str = WEST, read_timeout: float = 20, **config: Any) -> Any:
    """A client of `region` whose calls leave from `side`; it never tries twice."""
    return boto3.client(
        service,  # type: ignore[call-overload]
        region_name=region,
        endpoint_url=gate.url(side),
        aws_access_key_id="000000000000",
        aws_secret_access_key="test",
        config=Config(
            connect_timeout=5,
            read_timeout=read_timeout,
            retries={"total_max_attempts": 1},
            **{"signature_version": "s3v4", **config} if service == "s3" else config,
        ),
    )


def fetch(url: str, **headers: str) -> tuple[int, bytes]:
    try:
        with urllib.request.urlopen(urllib.request.Request(url, headers=headers), timeout=20) as response:
            return response.status, response.read()
    except urllib.error.HTTPError as exc:
        return exc.code, exc.read()


def copy(gate: Gate) -> Any:
    source = {"Bucket": "wire-east", "Key": "a key/ä+b"}
    return client(gate, "s3", WEST).copy_object(Bucket="wire-west", Key="copy", CopySource=source)


def presigned(gate: Gate, version: str) -> Any:
    s3 = client(gate, "s3", WEST if version == "s3" else EAST, signature_version=version)
    url = s3.generate_presigned_url("get_object", Params={"Bucket": "wire-east", "Key": "a key/ä+b"})
    assert ("AWSAccessKeyId" in url) == (version == "s3")
    status, body = fetch(url)
    assert (status, body) == (200, b"body")


WAYS: dict[str, tuple[Callable[[Gate], Any], str]] = {
    "scope": (lambda gate: client(gate, "secretsmanager", EAST).list_secrets(), "scope"),
    "scope of sts": (lambda gate: client(gate, "sts", EAST).get_caller_identity(), "scope"),
    "iam": (lambda gate: client(gate, "iam", WEST).list_roles(), "control plane"),
    "route 53": (lambda gate: client(gate, "route53", WEST).list_hosted_zones(), "control plane"),
    # Read to its end: an answer that is not was not given yet, and is denied too when its region is lost.
    "bucket": (
        lambda gate: client(gate, "s3", WEST).get_object(Bucket="wire-east", Key="a key/ä+b")["Body"].read(),
        "bucket",
    ),
    "copy source": (copy, "copy source"),
    "presigned v4": (lambda gate: presigned(gate, "s3v4"), "scope"),
    "presigned v2": (lambda gate: presigned(gate, "s3"), "bucket"),
    "bucket's making": (
        lambda gate: client(gate, "s3", WEST).put_bucket_versioning(
            Bucket="wire-west", VersioningConfiguration={"Status": "Enabled"}
        ),
        "control plane",
    ),
    "foreign resource": (
        lambda gate: client(gate, "lambda", WEST).list_tags(
            Resource=f"arn:aws:lambda:{EAST}:000000000000:function:wire"
        ),
        "resource",
    ),
    "foreign resource in a body": (
        lambda gate: client(gate, "secretsmanager", WEST).describe_secret(
            SecretId=f"arn:aws:secretsmanager:{EAST}:000000000000:secret:wire"
        ),
        "resource",
    ),
    "caller": (lambda gate: client(gate, "sts", WEST, side=EAST).get_caller_identity(), "caller"),
}


@pytest.mark.servers
@pytest.mark.parametrize("way", WAYS)
def test_no_way_leads_into_a_dead_region(way: str, emulator: Emulator) -> None:
    """A call that a living region answers is reset when us-east-1 is dead, and the denial says who, what and why."""
    call, why = WAYS[way]

    async def scenario() -> list[Denial]:
        async with gated(emulator) as gate:
            try:
                await asyncio.to_thread(call, gate)
            except ClientError as exc:
                assert "foreign" in way, exc  # the resource does not exist, and the emulator was asked
            assert not gate.denials
            gate.lose(EAST, Mode.DEAD)
            with pytest.raises((ConnectionClosedError, ConnectionResetError, urllib.error.URLError)):
                await asyncio.to_thread(call, gate)
            return list(gate.denials)

    denials = asyncio.run(scenario())
    assert len(denials) == 1, denials
    denial = denials[0]
    assert (denial.region, denial.why) == (EAST, why)
    assert denial.side == (EAST if way == "caller" else WEST)


@pytest.mark.servers
def test_a_silent_region_answers_nothing_until_it_is_back(emulator: Emulator) -> None:
    """A call into a silent region runs into its own timeout, also one that was in flight; others are answered."""

    async def scenario() -> None:
        async with gated(emulator) as gate:
            gate.lose(EAST, Mode.SILENT)
            east = client(gate, "s3", EAST, read_timeout=0.5)
            with pytest.raises(ReadTimeoutError):
                await asyncio.to_thread(east.get_object, Bucket="wire-east", Key="a key/ä+b")
            west = await asyncio.to_thread(client(gate, "s3", WEST).get_object, Bucket="wire-west", Key="a key/ä+b")
            assert west["ContentLength"] == 4
            patient = client(gate, "s3", EAST, read_timeout=60)
            waiting = asyncio.create_task(asyncio.to_thread(patient.list_objects_v2, Bucket="wire-east"))
            await wait_until(lambda: len(gate.denials) == 2, what="the second denial", timeout_s=20)
            gate.restore(EAST)
            with pytest.raises(ConnectionClosedError):
                await waiting
            assert (await asyncio.to_thread(patient.list_objects_v2, Bucket="wire-east"))["KeyCount"] == 1

    asyncio.run(scenario())


@pytest.mark.servers
def test_a_call_in_flight_is_cut_when_its_region_dies(emulator: Emulator) -> None:
    """A download that was running ends in an error, not in an orderly end."""

    async def scenario() -> None:
        async with gated(emulator) as gate:
            s3 = client(gate, "s3", EAST)
            size = 30 << 20
            root = emulator.client("s3", EAST)
            await asyncio.to_thread(root.put_object, Bucket="wire-east", Key="big", Body=bytes(size))
            answer = await asyncio.to_thread(s3.get_object, Bucket="wire-east", Key="big")
            await asyncio.to_thread(answer["Body"].read, 1000)
            gate.lose(EAST, Mode.DEAD)
            with pytest.raises(Exception, match=r"(?i)reset|broken|incomplete"):
                await asyncio.to_thread(answer["Body"].read)
            assert [denial.why for denial in gate.denials] == ["scope"]

    asyncio.run(scenario())


@pytest.mark.servers
def test_a_request_without_a_scope_is_refused(emulator: Emulator) -> None:
    """Nobody gets in unsigned, whatever is lost: the emulator would take it for root's."""

    async def scenario() -> None:
        async with gated(emulator) as gate:
            status, body = await asyncio.to_thread(fetch, gate.url(WEST) + "/wire-west/a%20key/%C3%A4%2Bb")
            assert status == 403
            assert b"not signed" in body
            status, _ = await asyncio.to_thread(fetch, gate.url(WEST) + "/_ministack/health")
            assert status == 403
            assert [denial.why for denial in gate.denials] == ["no scope", "no scope"]

    asyncio.run(scenario())


@pytest.mark.servers
def test_a_tls_only_bucket_is_reachable_through_the_gate_only(emulator: Emulator) -> None:
    """The gate says that callers came over TLS, so that a policy that asks for it lets them in."""
    policy = {
        "Version": "2012-10-17",
        "Statement": [
            {
                "Effect": "Deny",
                "Principal": "*",
                "Action": "s3:*",
                "Resource": ["arn:aws:s3:::wire-tls", "arn:aws:s3:::wire-tls/*"],
                "Condition": {"Bool": {"aws:SecureTransport": "false"}},
            }
        ],
    }
    root = emulator.client("s3", EAST)
    root.create_bucket(Bucket="wire-tls")
    root.put_bucket_policy(Bucket="wire-tls", Policy=json.dumps(policy))

    async def scenario() -> None:
        async with gated(emulator) as gate:
            s3 = client(gate, "s3", EAST)
            await asyncio.to_thread(s3.put_object, Bucket="wire-tls", Key="k", Body=b"v")
            head = await asyncio.to_thread(s3.head_object, Bucket="wire-tls", Key="k")
            assert head["ContentLength"] == 1

    asyncio.run(scenario())


class Endless(io.RawIOBase):
    """A body of `size` bytes that is never held whole."""

    def __init__(self, size: int) -> None:
        self.left = size
        self.digest = hashlib.sha256()

    def read(self, size: int = -1) -> bytes:
        data = bytes(min(self.left, 1 << 16 if size < 0 else size))
        self.left -= len(data)
        self.digest.update(data)
        return data


def test_bodies_stream_both_ways_in_bounded_memory() -> None:
    """50 MB go up and down through the gate, without the gate holding more than a few chunks of them."""
    size = 50 << 20
    seen: dict[str, Any] = {}

    async def bucket(request: web.Request) -> web.StreamResponse:
        if request.method == "PUT":
            digest, total = hashlib.sha256(), 0
            async for chunk in request.content.iter_any():
                digest.update(chunk)
                total += len(chunk)
                await asyncio.sleep(0)
            seen.update(digest=digest.hexdigest(), total=total, path=request.raw_path, host=request.host)
            return web.Response()
        response = web.StreamResponse(headers={"Content-Length": str(size)})
        await response.prepare(request)
        for _ in range(size // (1 << 16)):
            await response.write(bytes(1 << 16))
        return response

    class Played:
        url = ""

    async def scenario() -> None:
        app = web.Application()
        app.router.add_route("*", "/{path:.*}", bucket)
        runner = web.AppRunner(app, shutdown_timeout=0.1)
        await runner.setup()
        port = free_port()
        await web.TCPSite(runner, "127.0.0.1", port).start()
        played: Any = Played()
        played.url = f"http://127.0.0.1:{port}"
        gate = Gate(played)
        await gate.add_side(WEST)
        body = Endless(size)
        signed = "AWS4-HMAC-SHA256 Credential=AK/20260101/us-west-2/s3/aws4_request, SignedHeaders=host, Signature=x"
        try:
            before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
            await asyncio.to_thread(_put, gate.url(WEST) + "/b/k%20%2F", body, size, signed)
            got = await asyncio.to_thread(_get, gate.url(WEST) + "/b/k", signed)
            grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
        finally:
            await gate.close()
            await runner.cleanup()
        assert seen["total"] == size
        assert seen["digest"] == body.digest.hexdigest() == got
        assert seen["path"] == "/b/k%20%2F"
        assert seen["host"] == gate.url(WEST).removeprefix("http://")
        assert grown < 20_000, f"memory grew by {grown} kB"

    asyncio.run(scenario())


def _put(url: str, body: Endless, size: int, signed: str) -> None:
    headers = {"Authorization": signed, "Content-Length": str(size), "Content-Type": "application/octet-stream"}
    urllib.request.urlopen(urllib.request.Request(url, data=body, headers=headers, method="PUT"), timeout=60).close()


def _get(url: str, signed: str) -> str:
    digest = hashlib.sha256()
    with urllib.request.urlopen(urllib.request.Request(url, headers={"Authorization": signed}), timeout=60) as response:
        while chunk := response.read(1 << 16):
            digest.update(chunk)
    return digest.hexdigest()


@pytest.mark.servers
def test_multipart_uploads_and_odd_keys_pass_the_gate(emulator: Emulator) -> None:
    """What boto3 really sends (Expect, checksum trailers, ranges, odd keys, HEAD) arrives as it was sent."""

    async def scenario() -> None:
        async with gated(emulator) as gate:
            s3 = client(gate, "s3", WEST)
            key, body = "points/ä b+c%2F?&=x", bytes(range(256)) * 40_000
            await asyncio.to_thread(s3.upload_fileobj, io.BytesIO(body), "wire-west", key)
            assert (await asyncio.to_thread(s3.head_object, Bucket="wire-west", Key=key))["ContentLength"] == len(body)
            part = await asyncio.to_thread(s3.get_object, Bucket="wire-west", Key=key, Range="bytes=250-261")
            assert await asyncio.to_thread(part["Body"].read) == bytes([250, 251, 252, 253, 254, 255, 0, 1, 2, 3, 4, 5])
            with pytest.raises(ClientError, match="PreconditionFailed"):
                await asyncio.to_thread(s3.put_object, Bucket="wire-west", Key=key, Body=b"x", IfNoneMatch="*")
            listed = await asyncio.to_thread(s3.list_objects_v2, Bucket="wire-west", Prefix="points/ä ")
            assert [item["Key"] for item in listed["Contents"]] == [key]

    asyncio.run(scenario())


def test_sts_and_other_regional_services_belong_to_their_scope() -> None:
    """A regional call belongs to its scope's region alone; a bucket nobody knows, to the scope's."""
    headers = {"Authorization": "AWS4-HMAC-SHA256 Credential=A/20260101/eu-west-1/s3/aws4_request, SignedHeaders=h"}
    call = classify("GET", "/unknown/key", headers, buckets=BUCKETS)
    assert call is not None
    assert call.regions == {"eu-west-1": "scope"}
    call = classify("GET", "/", {**headers, "Host": "wire-east.s3.localhost:1"}, buckets=BUCKETS)
    assert call is not None
    assert call.regions == {"eu-west-1": "scope", EAST: "bucket"}
    copied = {**headers, "x-amz-copy-source": "%2Fwire-west%2Fk?versionId=1"}
    call = classify("PUT", "/wire-east/k", copied, buckets=BUCKETS)
    assert call is not None
    assert call.regions == {"eu-west-1": "scope", EAST: "bucket", WEST: "copy source"}
    assert classify("GET", "/unknown/k?AWSAccessKeyId=a&Signature=b&Expires=1", {}, buckets=BUCKETS) is None


@pytest.mark.servers
def test_a_darkened_region_does_nothing_by_itself(emulator: Emulator) -> None:
    """Schedules, rules and functions stop, the other region's go on, and all is as before when it is relit."""
    code = io.BytesIO()
    with zipfile.ZipFile(code, "w") as archive:
        archive.writestr("handler.py", "import os\ndef handler(event, context):\n    return os.getpid()\n")
    trusted = {"Effect": "Allow", "Principal": {"Service": "lambda.amazonaws.com"}, "Action": "sts:AssumeRole"}
    role = {"Version": "2012-10-17", "Statement": [trusted]}
    iam = emulator.client("iam", EAST)
    arn = iam.create_role(RoleName="wire", AssumeRolePolicyDocument=json.dumps(role))["Role"]["Arn"]
    for region in (EAST, WEST):
        lambdas = emulator.client("lambda", region)
        function = lambdas.create_function(
            FunctionName="wire",
            Runtime="python3.13",
            Role=arn,
            Handler="handler.handler",
            Code={"ZipFile": code.getvalue()},
        )
        emulator.client("events", region).put_rule(Name="wire", EventPattern='{"source": ["wire"]}')
        emulator.client("scheduler", region).create_schedule(
            Name="wire",
            ScheduleExpression="rate(1 minute)",
            FlexibleTimeWindow={"Mode": "OFF"},
            Target={"Arn": function["FunctionArn"], "RoleArn": arn, "Input": "{}"},
        )

    def call(region: str) -> int:
        return int(json.loads(emulator.client("lambda", region).invoke(FunctionName="wire")["Payload"].read()))

    def states(region: str) -> tuple[str, str]:
        schedule = emulator.client("scheduler", region).get_schedule(Name="wire")
        return schedule["State"], emulator.client("events", region).describe_rule(Name="wire")["State"]

    east, west = call(EAST), call(WEST)
    darkened = darken(emulator, EAST)
    assert states(EAST) == ("DISABLED", "DISABLED")
    assert states(WEST) == ("ENABLED", "ENABLED")
    assert psutil.pid_exists(west)
    assert not psutil.pid_exists(east) or psutil.Process(east).status() == psutil.STATUS_ZOMBIE
    with pytest.raises(ClientError, match=r"Rate Exceeded|TooManyRequests"):
        call(EAST)
    assert call(WEST) == west
    relight(emulator, darkened)
    assert states(EAST) == ("ENABLED", "ENABLED")
    assert call(EAST) != east
    assert emulator.client("scheduler", EAST).get_schedule(Name="wire")["Target"]["Input"] == "{}"
