"""What of the incidents topic becomes of a pager's incidents: which begins, which ends, and which are the same."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

from relight.recovery.telling import KEYS, OVER, SEVERITY, Severity

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

# Of a pager that is Events API v2. Source: PagerDuty developer documentation, "Send an alert event".
LONGEST_SUMMARY = 1024
LONGEST_KEY = 255


@dataclass(frozen=True, slots=True, kw_only=True)
class PagerEvent:
    """Something begins or goes on, or, when it is `over`, ends. Events with one `key` are one incident."""

    key: str
    summary: str
    severity: Severity
    source: str
    over: bool = False
    details: Mapping[str, Any] = field(default_factory=dict)


class Pager(Protocol):
    """Takes events."""

    def send(self, event: PagerEvent) -> None:
        """Hand `event` over; the same one twice is one. UnavailableError or PermanentError."""
        ...


def page_people(event: Mapping[str, Any], *, pager: Pager) -> dict[str, Any]:
    """Hand over what SNS calls a function with, in order; what was handed over."""
    sent = []
    for record in event["Records"]:
        for found in events_of(record["Sns"]):
            pager.send(found)
            sent.append({"key": found.key, "over": found.over})
    return {"sent": sent}


def events_of(message: Mapping[str, Any]) -> Iterator[PagerEvent]:
    """What one message of the topic means: Relight's own, a CloudWatch alarm, or anything else, which begins an
    incident of its own."""
    attributes = {name: item.get("Value", "") for name, item in message.get("MessageAttributes", {}).items()}
    details = _details(str(message.get("Message", "")))
    if KEYS in attributes:
        yield from _ours(message, attributes, details)
    elif "AlarmName" in details and "NewStateValue" in details:
        yield from _alarm(details)
    else:
        yield PagerEvent(
            key=str(message["MessageId"]),
            summary=_summary(message),
            severity=Severity.ERROR,
            source=str(message.get("TopicArn", "")),
            details=details,
        )


def _ours(
    message: Mapping[str, Any], attributes: Mapping[str, str], details: Mapping[str, Any]
) -> Iterator[PagerEvent]:
    for key in json.loads(attributes[KEYS]):
        yield PagerEvent(
            key=str(key)[:LONGEST_KEY],
            summary=_summary(message),
            severity=Severity(attributes[SEVERITY]),
            source=str(message.get("TopicArn", "")),
            over=attributes.get(OVER) == "true",
            details=details,
        )


def _alarm(details: Mapping[str, Any]) -> Iterator[PagerEvent]:
    """An alarm that went off begins, and one that is well again ends; what it does not know says nothing."""
    state = details["NewStateValue"]
    if state in ("ALARM", "OK"):
        arn = str(details.get("AlarmArn") or details["AlarmName"])
        yield PagerEvent(
            key=arn[:LONGEST_KEY],
            summary=f"{details['AlarmName']}: {details.get('AlarmDescription') or details.get('NewStateReason', '')}"[
                :LONGEST_SUMMARY
            ],
            severity=Severity.ERROR,
            source=arn,
            over=state == "OK",
            details={
                name: details[name]
                for name in ("AlarmDescription", "NewStateReason", "Region", "StateChangeTime")
                if details.get(name)
            },
        )


def _details(text: str) -> Mapping[str, Any]:
    try:
        found = json.loads(text)
    except ValueError:
        found = None
    return found if isinstance(found, dict) else {"message": text}


def _summary(message: Mapping[str, Any]) -> str:
    text = str(message.get("Subject") or "") or str(message.get("Message", "")).partition("\n")[0]
    return (text or "an incident without a text")[:LONGEST_SUMMARY]
