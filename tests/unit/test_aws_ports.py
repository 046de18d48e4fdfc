"""The calls that Relight makes to AWS, in their shape; what must really happen is tested on the emulator."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import boto3
import pytest
from fakes import FakeClock
from moto import mock_aws
from unit.test_config import SETTINGS

from relight.adapters.aws import client
from relight.config import Connections
from relight.errors import ConfigError, ConflictError, NotFoundError, UnavailableError
from relight.recovery.epoch import Lease, LeaseStore
from relight.recovery.evidence import HISTORY_KEY, HistoryStore, ProbeHistory
from relight.recovery.states import announce
from relight.recovery.timeline import Timeline
from relight.vault.store import Vault
from relight.wiring import Region

if TYPE_CHECKING:
    from collections.abc import Iterator

NOW = datetime(2026, 4, 19, 2, 0, tzinfo=UTC)
REGION = "us-west-2"


@pytest.fixture
def aws(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "testing")
    monkeypatch.delenv("AWS_ENDPOINT_URL", raising=False)
    with mock_aws():
        yield


@pytest.fixture
def s3(aws: None) -> Any:
    client: Any = boto3.client("s3", region_name=REGION)
    client.create_bucket(Bucket="lease", CreateBucketConfiguration={"LocationConstraint": REGION})
    return client


def test_the_history_survives(s3: Any) -> None:
    """What the sentinel writes it reads again, and there is nothing before the first time."""
    store = HistoryStore(s3, "lease")
    assert store.read() == ProbeHistory()
    history = replace(ProbeHistory().after("timed out", NOW, region="us-east-1"), paged_at=NOW)
    assert store.change(lambda _: history) == history
    assert store.read() == history


def test_a_history_that_two_write_loses_neither(s3: Any) -> None:
    """fails when a change is made of what was there before somebody else wrote; what stays the same is not written."""
    store, other = HistoryStore(s3, "lease"), HistoryStore(s3, "lease")
    seen: list[ProbeHistory] = []

    def failed(before: ProbeHistory) -> ProbeHistory:
        seen.append(before)
        if len(seen) == 1:
            other.change(lambda now: now.after("timed out", NOW, region="us-east-1"))
        return before.after("refused", NOW, region="us-east-1")

    assert store.change(failed).failures == 2
    assert [before.failures for before in seen] == [0, 1]
    tag = s3.head_object(Bucket="lease", Key=HISTORY_KEY)["LastModified"]
    assert store.change(lambda now: now) == store.read()
    assert s3.head_object(Bucket="lease", Key=HISTORY_KEY)["LastModified"] == tag


def test_a_history_that_never_rests_is_an_error(s3: Any) -> None:
    """fails when a change that is overtaken each time is taken for written, or tried for ever."""
    store, other = HistoryStore(s3, "lease"), HistoryStore(s3, "lease")

    def overtaken(before: ProbeHistory) -> ProbeHistory:
        other.change(lambda now: now.after("timed out", NOW, region="us-east-1"))
        return replace(before, watch="mine")

    with pytest.raises(UnavailableError, match="5 times in a row"):
        store.change(overtaken)
    assert store.read().watch == ""


def test_a_lease_is_created_once(s3: Any) -> None:
    """The first lease is written only where there is none."""
    store = LeaseStore(s3, "lease")
    assert store.read() is None
    lease = Lease(epoch=1, region="us-east-1", run_id="first", expires_at=NOW)
    tag = store.write(lease, instead_of=None)
    assert store.read() == (lease, tag)
    with pytest.raises(ConflictError):
        store.write(lease, instead_of=None)


def test_an_announcement_tells_the_run(s3: Any) -> None:
    """One message with the outcome, the seconds and every state's end."""
    sns, sqs = boto3.client("sns", region_name=REGION), boto3.client("sqs", region_name=REGION)
    topic = sns.create_topic(Name="incidents")["TopicArn"]
    queue = sqs.create_queue(QueueName="q")["QueueUrl"]
    arn = sqs.get_queue_attributes(QueueUrl=queue, AttributeNames=["QueueArn"])["Attributes"]["QueueArn"]
    sns.subscribe(TopicArn=topic, Protocol="sqs", Endpoint=arn)
    timeline = Timeline(Vault(s3, "lease", region=REGION), "epoch-2", clock=FakeClock(step_s=1))
    with timeline.state("fence") as detail:
        detail["epoch"] = 2
    with pytest.raises(ConflictError), timeline.state("promote"):
        raise ConflictError("too late")
    told = announce(sns=sns, topic_arn=topic, timeline=timeline, environment="demo", failed=True)
    body = json.loads(sqs.receive_message(QueueUrl=queue)["Messages"][0]["Body"])
    message = json.loads(body["Message"])
    assert told == {"outcome": "FAILED", "seconds": 3.0}
    assert body["Subject"] == "Relight demo: recovery FAILED after 3 s"
    assert message["states"] == [
        {"state": "fence", "status": "done", "epoch": 2},
        {"state": "promote", "status": "failed", "error": "ConflictError: too late"},
    ]


def test_connections_come_from_the_secret(aws: None) -> None:
    """The region's secret is read once; one that was never given a value says so."""
    secrets = boto3.client("secretsmanager", region_name=REGION)
    connections = Connections(state_dsn="a", memory_dsn="b", queue_url="c")
    with Region(SETTINGS) as region, pytest.raises(NotFoundError):
        _ = region.connections
    secrets.create_secret(Name=SETTINGS.connections_secret, SecretString="{}")
    with Region(SETTINGS) as region, pytest.raises(ConfigError, match="relight/demo/connections"):
        _ = region.connections
    secrets.put_secret_value(SecretId=SETTINGS.connections_secret, SecretString=connections.to_json())
    with Region(SETTINGS) as region:
        assert region.connections == connections


@pytest.mark.parametrize("region", ["us-east-1", "us-west-2"])
def test_s3_is_addressed_by_its_region(region: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """fails when us-east-1 gets botocore's own default, an address of no region: no private endpoint answers for it."""
    monkeypatch.delenv("AWS_ENDPOINT_URL", raising=False)
    assert client("s3", region).meta.endpoint_url == f"https://s3.{region}.amazonaws.com"
