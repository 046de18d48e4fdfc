"""The sentinel's watch."""

from __future__ import annotations

import contextlib
import http.server
import socket
import threading
import time
from datetime import datetime, timedelta
from itertools import pairwise
from typing import TYPE_CHECKING

import pytest
from fakes import FakeClock

from relight.errors import UnavailableError
from relight.recovery.decide import START_AGAIN_S, Decision, Policy, Verdict
from relight.recovery.epoch import Lease
from relight.recovery.evidence import ProbeHistory, probe
from relight.recovery.run import WATCH_S
from relight.recovery.sentinel import Sentinel, Watch

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


class Kept:
    """A history and a lease, as the sentinel sees them."""

    def __init__(self, lease: Lease, history: ProbeHistory) -> None:
        self.lease = lease
        self.history = history
        self.broken = 0
        self.meanwhile: Callable[[], object] | None = None
        self.counted: Callable[[], object] = lambda: None

    def read(self) -> ProbeHistory:
        return self.history

    def change(self, by: Callable[[ProbeHistory], ProbeHistory]) -> ProbeHistory:
        if self.meanwhile is not None:
            meanwhile, self.meanwhile = self.meanwhile, None
            meanwhile()
        before, self.history = self.history, by(self.history)
        if self.history.failures != before.failures:
            self.counted()
        return self.history


class Leases:
    def __init__(self, kept: Kept) -> None:
        self.kept = kept

    def read(self) -> tuple[Lease, str]:
        if self.kept.broken:
            self.kept.broken -= 1
            raise UnavailableError("the lease bucket does not answer")
        return self.kept.lease, "tag"


def run(
    kept: Kept,
    clock: FakeClock,
    url: str,
    *,
    name: str = "this",
    for_s: float = 60,
    interval_s: float = 10,
    refuses: int = 0,
    must_work: bool = False,
    start_again_s: float = START_AGAIN_S,
    running: tuple[int, ...] = (),
) -> tuple[Watch, list[str], list[Decision]]:
    started: list[str] = []
    paged: list[Decision] = []
    refused = [UnavailableError("throttled")] * refuses

    def recover(run_id: str, _decision: Decision, _at: datetime) -> None:
        if refused:
            raise refused.pop()
        started.append(run_id)

    policy = Policy(probe_threshold=3, recovery_s=20, primary_region="us-east-1", lease_margin_s=2)
    sentinel = Sentinel(
        name=name,
        urls={"us-east-1": url, "us-west-2": url},
        history=kept,  # type: ignore[arg-type]
        leases=Leases(kept),  # type: ignore[arg-type]
        policy=policy,
        recover=recover,
        runs=running.__contains__,
        tell_people=paged.append,
        interval_s=interval_s,
        timeout_s=1,
        clock=clock,
        must_work=must_work,
        start_again_s=start_again_s,
    )
    return sentinel.watch(for_s=for_s), started, paged


def lease(clock: FakeClock, live_s: float) -> Lease:
    return Lease(epoch=1, region="us-east-1", run_id="first", expires_at=clock.now() + timedelta(seconds=live_s))


SAID = {
    "works": b'{"ready": true, "works": true}',
    "reads": b'{"ready": true, "works": false}',
    "text": b"fine, thanks",
    "list": b"[true]",
    "number": b'{"works": 1}',
    "half": b'{"works": true',
}
DEAD = "http://127.0.0.1:1/ready"


@pytest.fixture
def alive() -> Iterator[str]:
    class Ready(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(503 if "busy" in self.path else 200)
            self.end_headers()
            self.wfile.write(SAID.get(self.path.rpartition("/")[2], b""))

        def log_message(self, *args: object) -> None:
            """Be quiet."""

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Ready) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}/ready"
        server.shutdown()
        thread.join()


class Minutes(FakeClock):
    """Time in which other watches begin, each within the sleep of the one before; what they begin with is given."""

    def __init__(self, begin_s: list[float], begin: Callable[[int], object]) -> None:
        super().__init__()
        self._due = [self.at + timedelta(seconds=seconds) for seconds in begin_s]
        self._begin = begin
        self._begun = 0

    def sleep(self, seconds: float) -> None:
        until = self.at + timedelta(seconds=max(seconds, 0.0))
        while self._begun < len(self._due) and self._due[self._begun] <= until:
            self.at = max(self.at, self._due[self._begun])
            self._begun += 1
            self._begin(self._begun)
        self.at = max(self.at, until)


@pytest.mark.parametrize("interval_s", [10.0, 20.0])
@pytest.mark.parametrize("late_s", [(0, 0, 0), (59.9, 59.9, 59.9), (0, 59.9, 0), (59.9, 0, 31)])
def test_between_two_watches_nothing_is_missed(late_s: tuple[float, ...], interval_s: float) -> None:
    """fails when a loss could fall between two watches, however late within its minute the next one begins."""
    looks: list[datetime] = []
    ended: dict[str, Watch] = {}

    def begin(number: int) -> None:
        name = f"watch {number}"
        ended[name] = run(kept, clock, DEAD, name=name, for_s=WATCH_S, interval_s=interval_s)[0]

    clock = Minutes([60 * (n + 1) + late for n, late in enumerate(late_s)], begin)
    kept = Kept(lease(clock, 10_000), ProbeHistory(region="us-east-1", ever_answered=True))
    kept.counted = lambda: looks.append(clock.at)
    begin(0)
    assert looks[-1] - looks[0] >= timedelta(seconds=60 * len(late_s))
    assert max(after - before for before, after in pairwise(looks)) <= timedelta(seconds=interval_s)
    assert kept.history.failures == len(looks), "what two saw at once is counted once"
    last = f"watch {len(late_s)}"
    assert [name for name, done in ended.items() if not done.is_over] == [last]


def test_a_watch_that_is_taken_over_from_acts_no_more() -> None:
    """fails when a second run is started because another watch took over between the decision and the start."""
    clock = FakeClock()
    lost = ProbeHistory(region="us-east-1", failures=2, failing_since=clock.now(), last_error="x", ever_answered=True)
    kept = Kept(lease(clock, -10), lost)

    def next_watch() -> None:
        begun.extend(run(kept, clock, DEAD, name="next")[1])

    begun: list[str] = []
    # The first change counts the look, the second is the claim.
    kept.meanwhile = lambda: setattr(kept, "meanwhile", next_watch)
    done, started, _ = run(kept, clock, DEAD)
    assert (len(begun), started, done.run_id) == (1, [], "")


def test_a_start_that_fails_is_tried_at_the_next_look() -> None:
    """A claim is taken back: nobody waits two minutes for a run that never began."""
    clock = FakeClock()
    lost = ProbeHistory(region="us-east-1", failures=2, failing_since=clock.now(), last_error="x", ever_answered=True)
    kept = Kept(lease(clock, -10), lost)
    done, started, _ = run(kept, clock, DEAD, refuses=1)
    assert (done.verdict, done.probes, started) == (Verdict.RECOVER, 2, [done.run_id])


def test_a_primary_that_answers_is_left_alone(alive: str) -> None:
    """A minute of answers is six probes, no run and no page."""
    clock = FakeClock()
    done, started, paged = run(Kept(lease(clock, 1000), ProbeHistory()), clock, alive)
    assert (done.verdict, done.probes, started, paged) == (Verdict.HOLD, 6, [], [])


def test_a_lost_primary_is_recovered_once(alive: str) -> None:
    """The third failure in a row under a lease that ran out starts one run, named by epoch and minute."""
    clock = FakeClock()
    kept = Kept(lease(clock, 5), ProbeHistory(region="us-east-1", ever_answered=True))
    done, started, _ = run(kept, clock, DEAD)
    assert (done.verdict, done.probes) == (Verdict.RECOVER, 3)
    assert started == ["epoch-2-20260419T020020Z"]


def test_failures_count_across_invocations() -> None:
    """What an earlier minute saw is not forgotten by the next."""
    clock = FakeClock()
    seen = ProbeHistory(region="us-east-1", failures=2, failing_since=clock.now(), last_error="x", ever_answered=True)
    done, started, _ = run(Kept(lease(clock, -10), seen), clock, DEAD)
    assert (done.probes, len(started)) == (1, 1)


def test_one_recovery_is_started_and_not_two() -> None:
    """Until the run that was started has fenced, the primary still looks lost: no second run follows at once."""
    clock = FakeClock()
    kept = Kept(lease(clock, -10), ProbeHistory(region="us-east-1", ever_answered=True))
    _, first, _ = run(kept, clock, DEAD)
    _, second, _ = run(kept, clock, DEAD)
    assert (len(first), second) == (1, [])
    clock.sleep(120)
    _, third, _ = run(kept, clock, DEAD)
    assert len(third) == 1


def test_no_other_run_is_started_while_one_runs() -> None:
    """Long past the time after which a run that failed is followed by another, one that tries again what passes is left
    alone, and the next is started as soon as it has ended; one for another epoch is none."""
    clock = FakeClock()
    kept = Kept(lease(clock, -10), ProbeHistory(region="us-east-1", ever_answered=True))
    assert len(run(kept, clock, DEAD)[1]) == 1
    clock.sleep(10 * START_AGAIN_S)
    done, started, paged = run(kept, clock, DEAD, running=(2,))
    assert (done.verdict, done.run_id, started, paged) == (Verdict.RECOVER, "", [], [])
    assert len(run(kept, clock, DEAD, running=(1, 3))[1]) == 1


def test_no_other_run_is_started_while_one_waits_for_a_person() -> None:
    """Until somebody has approved nothing is fenced, and the primary looks lost all the time."""
    clock = FakeClock()
    kept = Kept(lease(clock, -10), ProbeHistory(region="us-east-1", ever_answered=True))
    assert len(run(kept, clock, DEAD, start_again_s=1800 + START_AGAIN_S)[1]) == 1
    clock.sleep(1800)
    assert run(kept, clock, DEAD, start_again_s=1800 + START_AGAIN_S)[1] == []
    clock.sleep(START_AGAIN_S)
    assert len(run(kept, clock, DEAD, start_again_s=1800 + START_AGAIN_S)[1]) == 1


def test_a_standby_that_serves_nobody_pages() -> None:
    """After a recovery that did not end, somebody is told, and told once."""
    clock = FakeClock()
    held = Lease(epoch=2, region="us-west-2", run_id="r", expires_at=clock.now() + timedelta(seconds=1000))
    done, started, paged = run(Kept(held, ProbeHistory()), clock, DEAD)
    assert (done.verdict, started, len(paged)) == (Verdict.PAGE, [], 1)
    assert "nobody is served" in paged[0].reasons[1]


def test_a_passing_error_costs_one_look(alive: str) -> None:
    """fails when the lease cannot be read for a moment: the watch goes on."""
    clock = FakeClock()
    kept = Kept(lease(clock, 1000), ProbeHistory())
    kept.broken = 2
    done, _, _ = run(kept, clock, alive)
    assert (done.verdict, done.probes, kept.history.ever_answered) == (Verdict.HOLD, 6, True)


def test_a_live_lease_pages_a_person_once() -> None:
    """A primary that cannot be reached and renews its lease is reported once a minute's watch, and left alone."""
    clock = FakeClock()
    kept = Kept(lease(clock, 1000), ProbeHistory(region="us-east-1", ever_answered=True))
    done, started, paged = run(kept, clock, DEAD)
    assert (done.verdict, started, len(paged)) == (Verdict.PAGE, [], 1)


def test_a_probe_says_what_was_wrong(alive: str) -> None:
    """Only 200 counts as an answer."""
    assert probe(alive, timeout_s=2) == ""
    assert probe(alive.replace("ready", "busy"), timeout_s=2) == "answered 503"
    assert "refused" in probe(DEAD, timeout_s=2)


@pytest.mark.parametrize(
    ("bytes_", "pause_s", "says"),
    [
        (b"garbage\r\n\r\n", 0.0, "garbage"),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n", 0.0, "IncompleteRead"),
        (b"HTTP/1.1 200 OK\r\nX-Slow: " + b"x" * 40, 0.1, "no whole answer within 1.5 s"),
    ],
)
def test_a_half_dead_endpoint_is_a_failed_probe(bytes_: bytes, pause_s: float, says: str) -> None:
    """fails when the endpoint answers garbage, or a byte at a time: a reason, within the bound, and no exception."""
    with socket.create_server(("127.0.0.1", 0)) as server:

        def answer() -> None:
            connection, _ = server.accept()
            with connection, contextlib.suppress(OSError):
                connection.recv(4096)
                for byte in bytes_:
                    connection.send(bytes([byte]))
                    time.sleep(pause_s)

        thread = threading.Thread(target=answer, daemon=True)
        thread.start()
        assert says in probe(f"http://127.0.0.1:{server.getsockname()[1]}/ready", timeout_s=0.5)
        thread.join(10)


@pytest.mark.parametrize(
    ("path", "says"),
    [
        ("works", ""),
        ("reads", "serves reads alone, and works no tasks"),
        *((path, "answered 200, and not") for path in ("ready", "text", "list", "number", "half")),
        ("busy", "answered 503"),
    ],
)
def test_in_active_active_an_answer_must_say_that_the_region_works(alive: str, path: str, says: str) -> None:
    """fails when a region that serves reads alone passes for one that works; elsewhere every 200 is an answer."""
    url = alive.replace("ready", path)
    found = probe(url, timeout_s=2, must_work=True)
    assert found.startswith(says)
    assert bool(found) == bool(says)
    assert probe(url, timeout_s=2) == ("answered 503" if path == "busy" else "")


def test_a_primary_that_only_reads_is_lost(alive: str) -> None:
    """Its lease has run out, and it serves reads on: it is recovered in active-active, and there alone."""
    for must_work, verdict, runs in ((True, Verdict.RECOVER, 1), (False, Verdict.HOLD, 0)):
        clock = FakeClock()
        kept = Kept(lease(clock, -20), ProbeHistory(region="us-east-1", ever_answered=True))
        done, started, _ = run(kept, clock, alive.replace("ready", "reads"), must_work=must_work)
        assert (done.verdict, len(started)) == (verdict, runs)
