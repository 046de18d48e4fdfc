"""PagerDuty's Events API v2. Source: PagerDuty developer documentation, "Events API v2 overview"."""

from __future__ import annotations

import http.client
import json
import re
import ssl
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from relight.errors import ConfigError, PermanentError, RelightError, UnavailableError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from relight.clock import Clock
    from relight.recovery.pager import PagerEvent

PATH = "/v2/enqueue"
TIMEOUT_S = 5.0
# Whoever called the function calls it again, minutes later; these are for what passes within seconds.
PAUSES_S = (0.5, 1.0, 2.0, 4.0)
_KEY = re.compile(r"[A-Za-z0-9]{32}")
_ANSWER_BYTES = 4096


class PagerDuty:
    """A service of PagerDuty, by its routing key, which no error shows.

    An event is tried a few times over: what its dedup key names is one incident however often it arrives.
    """

    def __init__(self, *, url: str, key: str, source: str, clock: Clock) -> None:
        """`source` is where the key is from, for whoever has to correct it."""
        if not _KEY.fullmatch(key):
            raise ConfigError(
                f"the secret {source} does not hold a routing key of 32 letters and digits",
                hint="put the integration key of an Events API v2 integration there, and nothing else",
            )
        self._url = url
        self._key = key
        self._source = source
        self._clock = clock

    def send(self, event: PagerEvent) -> None:
        """See `Pager.send`. PermanentError when PagerDuty says that the event, or the key, is wrong."""
        body = json.dumps(self._body(event), default=str).encode()
        for pause_s in (*PAUSES_S, None):
            try:
                self._post(body)
                return
            except UnavailableError:
                if pause_s is None:
                    raise
                self._clock.sleep(pause_s)

    def _body(self, event: PagerEvent) -> Mapping[str, Any]:
        return {
            "routing_key": self._key,
            "event_action": "resolve" if event.over else "trigger",
            "dedup_key": event.key,
            "client": "Relight",
            "payload": {
                "summary": event.summary,
                "source": event.source,
                "severity": event.severity.value,
                "custom_details": dict(event.details),
            },
        }

    def _post(self, body: bytes) -> None:
        status, answer = self._exchange(body)
        if status == http.client.ACCEPTED:
            return
        raise self._error(status, answer)

    def _exchange(self, body: bytes) -> tuple[int, bytes]:
        parts = urlsplit(self._url)
        host = parts.hostname or ""
        connection = (
            http.client.HTTPSConnection(host, parts.port, timeout=TIMEOUT_S, context=ssl.create_default_context())
            if parts.scheme == "https"
            else http.client.HTTPConnection(host, parts.port, timeout=TIMEOUT_S)
        )
        try:
            connection.request("POST", PATH, body, {"Content-Type": "application/json"})
            answer = connection.getresponse()
            return answer.status, answer.read(_ANSWER_BYTES)
        except (OSError, http.client.HTTPException) as exc:
            raise UnavailableError(
                f"pagerduty at {host} was not reached: {type(exc).__name__}: {exc}", hint="it is tried again"
            ) from exc
        finally:
            connection.close()

    def _error(self, status: int, answer: bytes) -> RelightError:
        if status == http.client.TOO_MANY_REQUESTS or status >= 500:
            return UnavailableError(f"pagerduty answered {status}", hint="it is tried again")
        return PermanentError(
            f"pagerduty answered {status}: {self._said(answer)}",
            hint=f"see that the secret {self._source} holds the integration's own key",
        )

    def _said(self, answer: bytes) -> str:
        """What it objects to, without the key, should an answer repeat it."""
        try:
            found = json.loads(answer)
        except ValueError:
            return "no reason"
        errors = found.get("errors") if isinstance(found, dict) else None
        said = "; ".join(map(str, errors)) if isinstance(errors, list) else "no reason"
        return said.replace(self._key, "…")
