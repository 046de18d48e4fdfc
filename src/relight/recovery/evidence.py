"""What the sentinel knows about the primary: probes of its public endpoint, and the age of its lease."""

from __future__ import annotations

import http.client
import json
import ssl
import threading
import urllib.error
import urllib.request
from dataclasses import asdict, dataclass, replace
from datetime import datetime
from queue import Empty, SimpleQueue
from typing import TYPE_CHECKING, Any

from relight.adapters import aws
from relight.errors import ConflictError, NotFoundError, UnavailableError

if TYPE_CHECKING:
    from collections.abc import Callable

    from relight.clock import Clock
    from relight.recovery.epoch import Lease

HISTORY_KEY = "sentinel.json"
# A gate's answer is far smaller.
_ANSWER_BYTES = 16 * 1024
# Two watches overlap for one look.
_TRIES = 5
_TIMES = ("failing_since", "paged_at", "started_at")


@dataclass(frozen=True, slots=True, kw_only=True)
class ProbeHistory:
    """The probes of one region that failed in a row, and what was done about it; kept across invocations.

    `watch` is the one that looks now: the last that began.
    """

    region: str = ""
    failures: int = 0
    failing_since: datetime | None = None
    last_error: str = ""
    ever_answered: bool = False
    paged_at: datetime | None = None
    started_at: datetime | None = None
    watch: str = ""

    def after(self, error: str, at: datetime, *, region: str) -> ProbeHistory:
        """The history with one more probe: `error` is empty when it was answered with 200.

        A probe of another region starts a new history.
        """
        if not error:
            return ProbeHistory(region=region, ever_answered=True, watch=self.watch)
        before = self if self.region == region else ProbeHistory()
        return ProbeHistory(
            region=region,
            failures=before.failures + 1,
            failing_since=before.failing_since or at,
            last_error=error,
            ever_answered=before.ever_answered,
            paged_at=before.paged_at,
            started_at=before.started_at,
            watch=self.watch,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Evidence:
    """All that `decide` looks at."""

    at: datetime
    probes: ProbeHistory
    lease: Lease | None


class HistoryStore:
    """Keeps the probe history in the lease bucket. Watches alone write it, of which two may overlap."""

    def __init__(self, s3: Any, bucket: str) -> None:
        self._s3 = s3
        self._bucket = bucket

    def read(self) -> ProbeHistory:
        """The history; an empty one when there is none yet."""
        return self._read()[0]

    def change(self, by: Callable[[ProbeHistory], ProbeHistory]) -> ProbeHistory:
        """Replace the history by what `by` makes of it, and return that; nothing is written where it stays the same.

        `by` is called again when somebody else wrote in between, so that nobody's change is lost.
        """
        for _ in range(_TRIES):
            before, tag = self._read()
            after = by(before)
            if after == before:
                return before
            condition = {"IfMatch": tag} if tag else {"IfNoneMatch": "*"}
            body = json.dumps(asdict(after), default=datetime.isoformat).encode()
            try:
                with aws.translating():
                    self._s3.put_object(Bucket=self._bucket, Key=HISTORY_KEY, Body=body, **condition)
            except ConflictError:
                continue
            return after
        raise UnavailableError(
            f"s3://{self._bucket}/{HISTORY_KEY} was written by somebody else {_TRIES} times in a row",
            hint="it is for the sentinel alone: see who else writes it",
        )

    def _read(self) -> tuple[ProbeHistory, str]:
        try:
            with aws.translating():
                answer = self._s3.get_object(Bucket=self._bucket, Key=HISTORY_KEY)
                value = json.loads(answer["Body"].read())
        except NotFoundError:
            return ProbeHistory(), ""
        times = {name: datetime.fromisoformat(value[name]) for name in _TIMES if value[name]}
        return ProbeHistory(**{**value, **times}), answer["ETag"]


def probe(url: str, *, timeout_s: float, must_work: bool = False) -> str:
    """Ask `url` once; return "" when it answered 200, else what was wrong, in a few words.

    With `must_work` the answer must be a gate's, in JSON, and say that the region works: in active-active one that
    serves reads alone answers 200, too. Bounded as a whole, because the socket's limit is for each read alone: an
    answer that comes byte by byte is none. Never raises on the endpoint's account.
    """
    answers: SimpleQueue[str] = SimpleQueue()
    threading.Thread(
        target=lambda: answers.put(_ask(url, timeout_s, must_work=must_work)), name="probe", daemon=True
    ).start()
    try:
        return answers.get(timeout=timeout_s + 1.0)
    except Empty:
        return f"no whole answer within {timeout_s + 1.0:g} s"


def _ask(url: str, timeout_s: float, *, must_work: bool) -> str:
    request = urllib.request.Request(url, headers={"User-Agent": "relight-sentinel"})  # noqa: S310 - the scheme is ours
    try:
        with urllib.request.urlopen(request, timeout=timeout_s, context=ssl.create_default_context()) as answer:  # noqa: S310
            if not must_work:
                answer.read(1)
                return ""
            return _does_not_work(answer.read(_ANSWER_BYTES))
    except urllib.error.HTTPError as exc:
        return f"answered {exc.code}"
    except urllib.error.URLError as exc:
        return str(exc.reason) or type(exc.reason).__name__
    except (OSError, http.client.HTTPException, ValueError) as exc:
        return str(exc) or type(exc).__name__


def _does_not_work(body: bytes) -> str:
    """What a gate that is open says against its region's working; empty when it works."""
    try:
        said = json.loads(body)
    except ValueError:
        said = None
    if not isinstance(said, dict) or not isinstance(said.get("works"), bool):
        return 'answered 200, and not {"works": true} or false'
    return "" if said["works"] else "serves reads alone, and works no tasks"


def gather(
    *,
    url: str,
    region: str,
    history: HistoryStore,
    lease: Lease | None,
    timeout_s: float,
    clock: Clock,
    watch: str,
    takes_over: bool,
    must_work: bool = False,
) -> Evidence | None:
    """Probe a region's `url` once, add it to the history, and return what is known now.

    A watch that `takes_over` looks from here on. None when another has since: it looks on, and counts what it sees.
    """
    at = clock.now()
    error = probe(url, timeout_s=timeout_s, must_work=must_work)

    def counted(before: ProbeHistory) -> ProbeHistory:
        if not takes_over and before.watch != watch:
            return before
        return replace(before.after(error, at, region=region), watch=watch)

    probes = history.change(counted)
    return Evidence(at=at, probes=probes, lease=lease) if probes.watch == watch else None
