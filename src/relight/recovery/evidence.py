"""What the sentinel knows about the primary: probes of its public endpoint, and the age of its lease."""

from __future__ import annotations

import json
import ssl
import urllib.error
import urllib.request
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any

from relight.adapters import aws
from relight.errors import NotFoundError

if TYPE_CHECKING:
    from relight.clock import Clock
    from relight.recovery.epoch import Lease

HISTORY_KEY = "sentinel.json"


@dataclass(frozen=True, slots=True, kw_only=True)
class ProbeHistory:
    """The probes in a row that failed, kept across invocations, so that a new minute does not start from nothing."""

    failures: int = 0
    failing_since: datetime | None = None
    last_error: str = ""
    ever_answered: bool = False

    def after(self, error: str, at: datetime) -> ProbeHistory:
        """The history with one more probe: `error` is empty when it was answered with 200."""
        if not error:
            return ProbeHistory(ever_answered=True)
        return ProbeHistory(
            failures=self.failures + 1,
            failing_since=self.failing_since or at,
            last_error=error,
            ever_answered=self.ever_answered,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Evidence:
    """All that `decide` looks at."""

    at: datetime
    probes: ProbeHistory
    lease: Lease | None


class HistoryStore:
    """Keeps the probe history in the lease bucket. Only the sentinel writes it, one at a time."""

    def __init__(self, s3: Any, bucket: str) -> None:
        self._s3 = s3
        self._bucket = bucket

    def read(self) -> ProbeHistory:
        """The history; an empty one when there is none yet."""
        try:
            with aws.translating():
                value = json.loads(self._s3.get_object(Bucket=self._bucket, Key=HISTORY_KEY)["Body"].read())
        except NotFoundError:
            return ProbeHistory()
        since = value.pop("failing_since")
        return ProbeHistory(**value, failing_since=datetime.fromisoformat(since) if since else None)

    def write(self, history: ProbeHistory) -> None:
        """Replace the history."""
        value = asdict(history)
        value["failing_since"] = history.failing_since.isoformat() if history.failing_since else None
        with aws.translating():
            self._s3.put_object(Bucket=self._bucket, Key=HISTORY_KEY, Body=json.dumps(value).encode())


def probe(url: str, *, timeout_s: float) -> str:
    """Ask `url` once; return "" when it answered 200, else what was wrong, in a few words."""
    request = urllib.request.Request(url, headers={"User-Agent": "relight-sentinel"})  # noqa: S310 - the scheme is ours
    try:
        with urllib.request.urlopen(request, timeout=timeout_s, context=ssl.create_default_context()) as answer:  # noqa: S310
            answer.read(1)
            return ""
    except urllib.error.HTTPError as exc:
        return f"answered {exc.code}"
    except urllib.error.URLError as exc:
        return str(exc.reason) or type(exc.reason).__name__
    except OSError as exc:
        return str(exc) or type(exc).__name__


def gather(*, url: str, history: HistoryStore, lease: Lease | None, timeout_s: float, clock: Clock) -> Evidence:
    """Probe once, add it to the history, and return what is known now."""
    at = clock.now()
    probes = history.read().after(probe(url, timeout_s=timeout_s), at)
    history.write(probes)
    return Evidence(at=at, probes=probes, lease=lease)
