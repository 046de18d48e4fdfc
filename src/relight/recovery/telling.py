"""How people are told: one message on the incidents topic, in the form that each way of reaching them takes."""

from __future__ import annotations

import json
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Any

from relight.adapters import aws

if TYPE_CHECKING:
    from collections.abc import Mapping

# A subject is at most 100 characters of ASCII. Source: Amazon SNS API reference, "Publish".
_SUBJECT = 100
# What a chat shows of a description. Source: Amazon Q Developer in chat applications, "Custom notifications".
_CHAT = 8000

# What goes with a message for programs, beside its text for people.
KEYS, SEVERITY, OVER = "keys", "severity", "over"


class Severity(StrEnum):
    """How much it matters."""

    CRITICAL = "critical"
    """Nobody is served, or a person has to act now."""
    ERROR = "error"
    WARNING = "warning"
    INFO = "info"


@dataclass(frozen=True, slots=True, kw_only=True)
class News:
    """What people are told. `keys` name what goes on, the same when it begins, goes on, and is `over`."""

    subject: str
    text: str
    keys: tuple[str, ...]
    severity: Severity
    over: bool = False


def key_of(environment: str, *what: str) -> str:
    """The name of something that goes on in an environment."""
    return "/".join(("relight", environment, *what))


def tell(sns: Any, topic_arn: str, news: News) -> None:
    """Publish `news`; UnavailableError or DeniedError.

    Emails, queues and functions get the text. A chat gets it in the only form that it shows of what is not AWS's own;
    SNS delivers to it by HTTPS.
    """
    message = {"default": news.text, "https": json.dumps(_for_chat(news))}
    with aws.translating():
        sns.publish(
            TopicArn=topic_arn,
            Subject=_subject(news),
            MessageStructure="json",
            Message=json.dumps(message),
            MessageAttributes={
                KEYS: _attribute(json.dumps(news.keys)),
                SEVERITY: _attribute(news.severity.value),
                OVER: _attribute(json.dumps(news.over)),
            },
        )


def _subject(news: News) -> str:
    return news.subject.encode("ascii", "replace").decode()[:_SUBJECT]


def _attribute(value: str) -> Mapping[str, str]:
    return {"DataType": "String", "StringValue": value}


def _for_chat(news: News) -> Mapping[str, Any]:
    text = news.text if len(news.text) <= _CHAT else f"{news.text[: _CHAT - 1]}…"
    return {
        "version": "1.0",
        "source": "custom",
        "content": {"textType": "client-markdown", "title": news.subject, "description": text},
        # What belongs together is a thread.
        "metadata": {"threadId": news.keys[0], "summary": news.subject},
    }
