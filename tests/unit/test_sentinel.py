"""The sentinel's watch."""

from __future__ import annotations

import http.server
import threading
from datetime import timedelta
from typing import TYPE_CHECKING

import pytest
from fakes import FakeClock

from relight.recovery.decide import Decision, Policy, Verdict
from relight.recovery.epoch import Lease
from relight.recovery.evidence import ProbeHistory, probe
from relight.recovery.sentinel import Watch, watch

if TYPE_CHECKING:
    from collections.abc import Iterator


class Kept:
    """A history and a lease, as the sentinel sees them."""

    def __init__(self, lease: Lease, history: ProbeHistory) -> None:
        self.lease = lease
        self.history = history

    def read(self) -> ProbeHistory:
        return self.history

    def write(self, history: ProbeHistory) -> None:
        self.history = history


class Leases:
    def __init__(self, kept: Kept) -> None:
        self.kept = kept

    def read(self) -> tuple[Lease, str]:
        return self.kept.lease, "tag"


def run(kept: Kept, clock: FakeClock, url: str) -> tuple[Watch, list[str], list[Decision]]:
    started: list[str] = []
    paged: list[Decision] = []
    policy = Policy(probe_threshold=3, primary_region="us-east-1", lease_margin_s=2)
    done = watch(
        url=url,
        history=kept,  # type: ignore[arg-type]
        leases=Leases(kept),  # type: ignore[arg-type]
        policy=policy,
        recover=lambda run_id, _decision, _at: started.append(run_id),
        page=paged.append,
        interval_s=10,
        timeout_s=1,
        for_s=60,
        clock=clock,
    )
    return done, started, paged


def lease(clock: FakeClock, live_s: float) -> Lease:
    return Lease(epoch=1, region="us-east-1", run_id="first", expires_at=clock.now() + timedelta(seconds=live_s))


DEAD = "http://127.0.0.1:1/ready"


@pytest.fixture
def alive() -> Iterator[str]:
    class Ready(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(503 if "busy" in self.path else 200)
            self.end_headers()

        def log_message(self, *args: object) -> None:
            """Be quiet."""

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Ready) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}/ready"
        server.shutdown()
        thread.join()


def test_a_primary_that_answers_is_left_alone(alive: str) -> None:
    """A minute of answers is six probes, no run and no page."""
    clock = FakeClock()
    done, started, paged = run(Kept(lease(clock, 1000), ProbeHistory()), clock, alive)
    assert (done.verdict, done.probes, started, paged) == (Verdict.HOLD, 6, [], [])


def test_a_lost_primary_is_recovered_once(alive: str) -> None:
    """The third failure in a row under a lease that ran out starts one run, named by epoch and minute."""
    clock = FakeClock()
    kept = Kept(lease(clock, 5), ProbeHistory(ever_answered=True))
    done, started, _ = run(kept, clock, DEAD)
    assert (done.verdict, done.probes) == (Verdict.RECOVER, 3)
    assert started == ["epoch-2-20260419T0200Z"]


def test_failures_count_across_invocations() -> None:
    """What an earlier minute saw is not forgotten by the next."""
    clock = FakeClock()
    seen = ProbeHistory(failures=2, failing_since=clock.now(), last_error="x", ever_answered=True)
    done, started, _ = run(Kept(lease(clock, -10), seen), clock, DEAD)
    assert (done.probes, len(started)) == (1, 1)


def test_a_live_lease_pages_a_person_once() -> None:
    """A primary that cannot be reached and renews its lease is reported once a minute's watch, and left alone."""
    clock = FakeClock()
    kept = Kept(lease(clock, 1000), ProbeHistory(ever_answered=True))
    done, started, paged = run(kept, clock, DEAD)
    assert (done.verdict, started, len(paged)) == (Verdict.PAGE, [], 1)


def test_a_probe_says_what_was_wrong(alive: str) -> None:
    """Only 200 counts as an answer."""
    assert probe(alive, timeout_s=2) == ""
    assert probe(alive.replace("ready", "busy"), timeout_s=2) == "answered 503"
    assert "refused" in probe(DEAD, timeout_s=2)
