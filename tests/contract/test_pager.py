"""Incidents on their way to a pager: over the topic as it delivers them, to a PagerDuty that is played at the wire."""

from __future__ import annotations

import json
import secrets
import threading
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any

import pytest
from fakes import FakeClock
from unit.test_config import SETTINGS

from relight.adapters import aws
from relight.adapters.pagerduty import PAUSES_S, PagerDuty
from relight.errors import ConfigError, PermanentError, UnavailableError
from relight.providers.incidents import Incident, Kind
from relight.providers.opening import publish_incident
from relight.recovery.pager import PagerEvent, events_of, page_people
from relight.recovery.telling import News, Severity, key_of, tell
from relight.wiring import Region
from relight_drill.processes import free_port
from relight_lambdas.notify import handler

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from relight_drill.emulator import Emulator

REGION = "us-west-2"
KEY = "0123456789abcdef0123456789ABCDEF"
SEVERITIES = {"critical", "error", "warning", "info"}


class PlayedPagerDuty:
    """Takes what the Events API v2 takes, and says of everything else what that says. `troubles` come first."""

    def __init__(self) -> None:
        self.events: list[dict[str, Any]] = []
        self.troubles: list[int] = []
        self.asked = 0
        played = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                played.asked += 1
                if played.troubles:
                    trouble = played.troubles.pop(0)
                    if not trouble:
                        self.connection.close()
                        return
                    self._answer(trouble, {"status": "trouble"})
                    return
                errors = played.errors(self.path, self.headers.get("Content-Type"), body)
                if errors:
                    self._answer(400, {"status": "invalid event", "message": "is invalid", "errors": errors})
                    return
                event = json.loads(body)
                played.events.append(event)
                self._answer(202, {"status": "success", "message": "Event processed", "dedup_key": event["dedup_key"]})

            def _answer(self, status: int, body: dict[str, Any]) -> None:
                content = json.dumps(body).encode()
                self.send_response(status)
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                self.wfile.write(content)

            def log_message(self, *_: object) -> None:
                """Quiet."""

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.server.serve_forever, daemon=True).start()
        self.url = f"http://127.0.0.1:{self.server.server_port}"

    def errors(self, path: str, content_type: str | None, body: bytes) -> list[str]:
        """What is wrong with a request."""
        event = json.loads(body)
        payload, key = event.get("payload", {}), event.get("routing_key", "")
        wrong = {
            f"unknown path {path}": path != "/v2/enqueue",
            f"content type {content_type}": content_type != "application/json",
            "Length of 'routing_key' is incorrect (should be 32 characters)": len(key) != 32,
            f"routing_key {key} is unknown": key != KEY,
            "'event_action' is invalid": event.get("event_action") not in ("trigger", "acknowledge", "resolve"),
            "'dedup_key' is missing": event.get("event_action") != "trigger" and not event.get("dedup_key"),
            "'dedup_key' is too long": len(event.get("dedup_key", "")) > 255,
            "'payload.summary' is missing or too long": not 0 < len(payload.get("summary", "")) <= 1024,
            "'payload.source' is missing or blank": not payload.get("source"),
            "'payload.severity' is invalid": payload.get("severity") not in SEVERITIES,
            "'payload.custom_details' is no object": not isinstance(payload.get("custom_details", {}), dict),
        }
        return [what for what, is_so in wrong.items() if is_so]

    @property
    def open(self) -> set[str]:
        """The incidents that are open, by their key."""
        found: set[str] = set()
        for event in self.events:
            (found.discard if event["event_action"] == "resolve" else found.add)(event["dedup_key"])
        return found


@pytest.fixture
def pagerduty() -> Iterator[PlayedPagerDuty]:
    """As it is when nothing is wrong."""
    played = PlayedPagerDuty()
    yield played
    played.server.shutdown()
    played.server.server_close()


def pager(played: PlayedPagerDuty, clock: FakeClock | None = None, key: str = KEY) -> PagerDuty:
    return PagerDuty(url=played.url, key=key, source="relight/demo/pagerduty", clock=clock or FakeClock())


EVENT = PagerEvent(key="relight/demo/unserved", summary="nobody is served", severity=Severity.CRITICAL, source="topic")


def test_what_begins_and_what_ends_is_one_incident(pagerduty: PlayedPagerDuty) -> None:
    """The key opens it, is the same when it is sent again, and closes it."""
    for event in (EVENT, EVENT):
        pager(pagerduty).send(event)
    assert pagerduty.open == {"relight/demo/unserved"}
    pager(pagerduty).send(replace(EVENT, over=True))
    assert pagerduty.open == set()
    assert {event["routing_key"] for event in pagerduty.events} == {KEY}
    assert pagerduty.events[0]["payload"]["severity"] == "critical"


@pytest.mark.parametrize("trouble", [429, 500, 503, 0])
def test_what_passes_is_waited_out(pagerduty: PlayedPagerDuty, trouble: int) -> None:
    """fails when one answer of 429 or 5xx, or a connection that is cut, loses an incident."""
    pagerduty.troubles = [trouble] * 3
    clock = FakeClock()
    began = clock.now()
    pager(pagerduty, clock).send(EVENT)
    assert (pagerduty.open, pagerduty.asked) == ({"relight/demo/unserved"}, 4)
    assert (clock.now() - began).total_seconds() == sum(PAUSES_S[:3])


def test_what_does_not_pass_is_a_failure_that_may_be_tried_again(pagerduty: PlayedPagerDuty) -> None:
    """fails when an incident that was never taken looks as if it was: whoever called then calls again."""
    pagerduty.troubles = [503] * 20
    with pytest.raises(UnavailableError, match="pagerduty answered 503"):
        pager(pagerduty).send(EVENT)
    assert pagerduty.asked == 1 + len(PAUSES_S)
    gone = PagerDuty(url=f"http://127.0.0.1:{free_port()}", key=KEY, source="s", clock=FakeClock())
    with pytest.raises(UnavailableError, match="was not reached"):
        gone.send(EVENT)


def test_a_refused_key_is_not_tried_again_nor_shown(pagerduty: PlayedPagerDuty) -> None:
    """fails when a wrong key is asked with for ever, or when the error repeats it as PagerDuty does."""
    wrong = "f" * 32
    with pytest.raises(PermanentError, match="routing_key … is unknown; see that the secret relight/demo/page") as got:
        pager(pagerduty, key=wrong).send(EVENT)
    assert pagerduty.asked == 1
    assert wrong not in str(got.value)


@pytest.mark.parametrize("value", ["", "short", KEY + "0", '{"routing_key": "x"}', "https://events.pagerduty.com"])
def test_a_secret_that_holds_no_key_says_so_without_showing_it(pagerduty: PlayedPagerDuty, value: str) -> None:
    """The error names the secret and what belongs there."""
    with pytest.raises(ConfigError, match="the secret relight/demo/pagerduty does not hold a routing key") as got:
        pager(pagerduty, key=value)
    assert not value or value not in str(got.value)


# -- over the topic


@pytest.fixture
def topic(emulator: Emulator, monkeypatch: pytest.MonkeyPatch) -> Callable[[], dict[str, Any]]:
    """What the topic's subscribers get, as SNS calls a function with it. `.arn` is the topic's."""
    monkeypatch.setenv("AWS_ENDPOINT_URL", emulator.url)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", emulator.account)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "test")
    aws._session.cache_clear()
    name = f"pager-{secrets.token_hex(4)}"
    sns, sqs = emulator.client("sns", REGION), emulator.client("sqs", REGION)
    arn = sns.create_topic(Name=name)["TopicArn"]
    queue = sqs.create_queue(QueueName=name)["QueueUrl"]
    queue_arn = sqs.get_queue_attributes(QueueUrl=queue, AttributeNames=["QueueArn"])["Attributes"]["QueueArn"]
    may = {"Effect": "Allow", "Principal": "*", "Action": "sqs:SendMessage", "Resource": queue_arn}
    policy = json.dumps({"Version": "2012-10-17", "Statement": [may]})
    sqs.set_queue_attributes(QueueUrl=queue, Attributes={"Policy": policy})
    sns.subscribe(TopicArn=arn, Protocol="sqs", Endpoint=queue_arn)

    def delivered() -> dict[str, Any]:
        found: list[dict[str, Any]] = []
        while got := sqs.receive_message(
            QueueUrl=queue, MaxNumberOfMessages=10, WaitTimeSeconds=0 if found else 10
        ).get("Messages"):
            found += [{"EventSource": "aws:sns", "Sns": json.loads(item["Body"])} for item in got]
            for item in got:
                sqs.delete_message(QueueUrl=queue, ReceiptHandle=item["ReceiptHandle"])
        return {"Records": sorted(found, key=lambda item: item["Sns"]["Timestamp"])}

    delivered.arn = arn  # type: ignore[attr-defined]
    return delivered


def arn_of(topic: Any) -> str:
    arn: str = topic.arn
    return arn


@pytest.mark.servers
def test_an_incident_goes_from_who_tells_it_to_the_pager(
    topic: Callable[[], dict[str, Any]], pagerduty: PlayedPagerDuty, emulator: Emulator
) -> None:
    """Opened when a key is refused, and closed when it is taken again; the handler finds the key in the secret."""
    name = f"relight/{secrets.token_hex(4)}/pagerduty"
    settings = replace(
        SETTINGS,
        region=REGION,
        incidents_topic_arn=arn_of(topic),
        pagerduty_secret=name,
        pagerduty_url=pagerduty.url,
    )
    denied = Incident(kind=Kind.DENIED, provider="anthropic", since=datetime.now(UTC), text="it refuses its key")
    with Region(settings) as region, environment(settings):
        publish_incident(region._incidents, settings)(denied)
        first = topic()
        assert first["Records"][0]["Sns"]["Message"].startswith("it refuses its key\n"), "people get the text alone"
        with pytest.raises(ConfigError, match=f"the secret {name} has no value yet"):
            handler(first, None)
        emulator.client("secretsmanager", REGION).create_secret(Name=name, SecretString=f"{KEY}\n")
        key = key_of("demo", "providers", "anthropic", "denied")
        assert handler(first, None) == {"sent": [{"key": key, "over": False}]}
        assert pagerduty.open == {key}
        publish_incident(region._incidents, settings)(replace(denied, kind=Kind.RECOVERED, ended=(Kind.DENIED,)))
        handler(topic(), None)
    assert pagerduty.open == set()
    assert pagerduty.events[0]["payload"]["summary"] == "Relight demo: LLM provider anthropic refuses its key"


@pytest.mark.servers
def test_what_is_told_survives_its_form(topic: Callable[[], dict[str, Any]], emulator: Emulator) -> None:
    """Long, in other scripts, with quotes: what is told arrives, and the subject is what SNS takes."""
    text = json.dumps({"reason": 'a "quoted" 原因', "states": ["x" * 20_000]})
    news = News(subject="Ünserved " + "y" * 200, text=text, keys=("a", "b"), severity=Severity.CRITICAL)
    tell(emulator.client("sns", REGION), arn_of(topic), news)
    (record,) = topic()["Records"]
    assert record["Sns"]["Message"] == text
    found = list(events_of(record["Sns"]))
    assert [event.key for event in found] == ["a", "b"]
    assert found[0].details["reason"] == 'a "quoted" 原因'
    assert found[0].summary.startswith("?nserved yyy")


@contextmanager
def environment(settings: Any) -> Iterator[None]:
    """A function's variables."""
    with pytest.MonkeyPatch.context() as patch:
        for name, value in settings.to_env().items():
            patch.setenv(name, value)
        yield


# -- what messages mean


def alarm(state: str, **more: Any) -> dict[str, Any]:
    """A message as CloudWatch writes it; what is not used here is left out."""
    arn = "arn:aws:cloudwatch:us-west-2:000000000000:alarm:relight-demo-served"
    body = {
        "AlarmName": "relight-demo-served",
        "AlarmDescription": "Nobody is served",
        "NewStateValue": state,
        "NewStateReason": "Threshold Crossed: 1 datapoint was less than the threshold (1.0).",
        "StateChangeTime": "2026-04-19T02:00:00.000+0000",
        "Region": "US West (Oregon)",
        "AlarmArn": arn,
        "OldStateValue": "OK",
    } | more
    return {"MessageId": "m", "TopicArn": "arn:topic", "Subject": f"{state}: x", "Message": json.dumps(body)}


def test_an_alarm_begins_when_it_goes_off_and_ends_when_it_is_well(pagerduty: PlayedPagerDuty) -> None:
    """By its ARN, which tells regions apart; that it has no data says nothing."""
    page_people({"Records": [{"Sns": alarm("ALARM")}]}, pager=pager(pagerduty))
    [key] = pagerduty.open
    assert key == "arn:aws:cloudwatch:us-west-2:000000000000:alarm:relight-demo-served"
    assert pagerduty.events[0]["payload"]["summary"] == "relight-demo-served: Nobody is served"
    assert page_people({"Records": [{"Sns": alarm("INSUFFICIENT_DATA")}]}, pager=pager(pagerduty)) == {"sent": []}
    page_people({"Records": [{"Sns": alarm("OK")}]}, pager=pager(pagerduty))
    assert pagerduty.open == set()


@pytest.mark.parametrize("description", [None, ""])
def test_an_alarm_without_a_description_gives_its_reason(description: str | None) -> None:
    """Somebody else's alarm may publish to the topic, too."""
    [found] = events_of(alarm("ALARM", AlarmDescription=description))
    assert found.summary.startswith("relight-demo-served: Threshold Crossed")


@pytest.mark.parametrize("text", ["the disk is full\nand more", '["a", "list"]', "17", ""])
def test_anything_else_on_the_topic_begins_an_incident(pagerduty: PlayedPagerDuty, text: str) -> None:
    """fails when a message that nobody foresaw is dropped, or is taken for another one."""
    for number in range(2):
        message = {"MessageId": f"m{number}", "TopicArn": "arn:topic", "Message": text}
        page_people({"Records": [{"Sns": message}]}, pager=pager(pagerduty))
    assert pagerduty.open == {"m0", "m1"}


def test_a_chat_gets_the_only_form_that_it_shows() -> None:
    """With the title, the text within its limit, and what belongs together in one thread."""

    class Sns:
        def publish(self, **given: Any) -> None:
            self.given = given

    sns = Sns()
    news = News(subject="Relight demo: x", text="z" * 9000, keys=("relight/demo/x",), severity=Severity.INFO)
    tell(sns, "arn:topic", news)
    assert sns.given["MessageStructure"] == "json"
    chat = json.loads(json.loads(sns.given["Message"])["https"])
    assert (chat["version"], chat["source"]) == ("1.0", "custom")
    assert chat["content"]["title"] == "Relight demo: x"
    assert len(chat["content"]["description"]) == 8000
    assert chat["metadata"]["threadId"] == "relight/demo/x"
