"""What a server says of its standbys, and what is concluded from it."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any

import pytest
from fakes import FakeClock
from hypothesis import given
from hypothesis import strategies as st

from relight.config import ConfirmBy, OnStandbyAway
from relight.errors import UnavailableError
from relight.tasks.confirm import (
    LOOK_AWAY_EVERY_S,
    Mark,
    Positions,
    PromiseLog,
    Seen,
    Standing,
    Stopwatch,
    read_standbys,
)

if TYPE_CHECKING:
    from collections.abc import Callable


def row(
    *,
    replica: bool = False,
    names: str = "standby",
    unreadable: int = 0,
    synchronous: tuple[int, ...] = (),
    flushed: tuple[int, ...] = (),
) -> tuple[Any, ...]:
    return (replica, names, None if replica else 100, None if replica else 1, unreadable, [*synchronous], [*flushed])


def by_commit(**values: Any) -> Seen:
    return read_standbys(row(**values), by=ConfirmBy.COMMIT, replicas=1)


def by_position(replicas: int = 1, **values: Any) -> Seen:
    return read_standbys(row(**values), by=ConfirmBy.POSITION, replicas=replicas)


@pytest.mark.parametrize(
    ("names", "positions", "confirmed"),
    [
        ("standby", (90,), 90),
        ("a, b", (90,), 90),
        ("FIRST 2 (a, b, c)", (90, 70), 70),
        ("2 (a, b)", (90, 70), 70),
        ("2(a, b)", (90,), None),
        ("any 2 (a, b, c)", (70, 90, 80), 80),
        ("ANY 1 (*)", (70, 90), 90),
        ('"first 2"', (90,), 90),
        ("*", (), None),
    ],
)
def test_as_many_as_the_server_waits_for(names: str, positions: tuple[int, ...], confirmed: int | None) -> None:
    """A commit is confirmed as far as the last of those has come that `synchronous_standby_names` asks for."""
    assert by_commit(names=names, synchronous=positions).confirmed == confirmed


def test_every_replica_that_is_asked_for_must_have_it() -> None:
    """By position, the slowest of `confirm_replicas` counts, so that one nearby does not vouch for one far away."""
    assert by_position(2, flushed=(100, 40)).confirmed == 40
    assert by_position(1, flushed=(100, 40)).confirmed == 100
    lacking = by_position(2, flushed=(100,), synchronous=(100, 100))
    assert lacking.confirmed is None
    assert lacking.away == "1 of 2 replicas connected"


def test_nobody_is_told_from_somebody_who_is_away() -> None:
    """A database without a standby waits for nobody; one whose standby is away does."""
    assert by_commit(names=" ").nobody == "synchronous_standby_names is empty"
    assert by_position(0, flushed=(100,)).nobody == "confirm_replicas is 0"
    assert "is a replica" in by_commit(replica=True).nobody
    for away in (by_commit(), by_position()):
        assert not away.nobody
        assert away.confirmed is None


def test_what_a_user_may_not_see_is_not_called_away() -> None:
    """Without the right to see the standbys only a commit can tell, and by position nothing can."""
    commits = by_commit(unreadable=1)
    assert commits.blind
    assert "grant it pg_read_all_stats" in commits.away
    assert not by_position(unreadable=1).blind


def test_a_position_of_another_timeline_is_none() -> None:
    """What another history has, before or after a promotion, confirms nothing of this one."""
    found = Seen(written=Mark(100, 2), confirmed=100)
    assert found.has(Mark(100, 2))
    assert not found.has(Mark(101, 2))
    assert not found.has(Mark(50, 1))


class Server:
    """Answers with what it has been told; counts how often it was asked, and how many asked at once."""

    def __init__(self, *answers: Seen | UnavailableError) -> None:
        self.answers = [*answers]
        self.asked = 0
        self.at_once = 0
        self.most_at_once = 0
        self.resets = 0
        self.before: Callable[[], object] = lambda: None
        self._lock = threading.Lock()

    def ask(self) -> Seen:
        with self._lock:
            self.asked += 1
            self.at_once += 1
            self.most_at_once = max(self.most_at_once, self.at_once)
            answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        self.before()
        with self._lock:
            self.at_once -= 1
        if isinstance(answer, UnavailableError):
            raise answer
        return answer

    def reset(self) -> None:
        self.resets += 1


def at(confirmed: int | None, *, written: int = 100, timeline: int = 1) -> Seen:
    return Seen(written=Mark(written, timeline), confirmed=confirmed, away="away")


def positions(server: Server) -> Positions:
    return Positions(ask=server.ask, reset=server.reset)


def test_a_position_is_waited_for() -> None:
    """The wait ends with the first answer that has come so far."""
    server = Server(at(None), at(80), at(99), at(100), at(100))
    there, seen = positions(server).wait(Mark(100, 1), within_s=30)
    assert there
    assert seen.confirmed == 100
    assert server.asked == 4


def test_the_default_is_what_is_written_at_the_first_look() -> None:
    """Without a position, the one that the server has written when it is first asked is waited for, no later one."""
    server = Server(at(80, written=90), at(95, written=200))
    there, _ = positions(server).wait(None, within_s=30)
    assert there
    assert server.asked == 2


def test_many_that_wait_ask_once() -> None:
    """However many wait, one asks at a time, and its answer serves all of them."""
    server = Server(*[at(0)] * 20, at(100))
    shared = positions(server)
    found: list[bool] = []
    all_wait = threading.Barrier(20)

    def wait() -> None:
        all_wait.wait()
        found.append(shared.wait(Mark(100, 1), within_s=30)[0])

    threads = [threading.Thread(target=wait) for _ in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [True] * 20
    assert server.most_at_once == 1
    assert server.asked < 45


def test_one_that_is_not_there_in_time_is_told() -> None:
    """fails when the standbys do not come so far within the bound: the last that was seen says why."""
    server = Server(at(80))
    there, seen = positions(server).wait(Mark(100, 1), within_s=0.05)
    assert not there
    assert seen.away == "away"


def test_a_server_that_cannot_be_asked_is_asked_again() -> None:
    """One that answers again within the bound is believed; one that does not, raises what it said last."""
    server = Server(UnavailableError("refused"), at(100))
    assert positions(server).wait(Mark(100, 1), within_s=30)[0]
    with pytest.raises(UnavailableError, match="refused"):
        positions(Server(UnavailableError("refused"))).wait(Mark(100, 1), within_s=0.05)


def test_the_wrong_server_is_left() -> None:
    """When the answers come from another history than the commit, the connection is made anew."""
    server = Server(at(500, timeline=1), at(100, timeline=2))
    assert positions(server).wait(Mark(100, 2), within_s=30)[0]
    assert server.resets >= 1


def test_where_there_is_nobody_nothing_is_waited_for() -> None:
    """No standby, or none that may be seen, ends the wait with the first answer."""
    for seen in (Seen(written=Mark(1, 1), nobody="empty"), Seen(written=Mark(1, 1), blind=True)):
        assert positions(Server(seen)).wait(None, within_s=30) == (True, seen)


def test_a_change_of_the_promise_is_logged_once(caplog: pytest.LogCaptureFixture) -> None:
    """Each change is one event with its reason; what stays as it was keeps its beginning, and is not logged again."""
    clock = FakeClock(step_s=1)
    promise = PromiseLog(on_away=OnStandbyAway.PROCEED, clock=clock)
    with caplog.at_level("INFO"):
        promise.kept()
        first = promise.away("0 of 1 connected")
        assert promise.away("still") is first
        promise.kept()
        promise.kept()
    assert [(record.message, record.__dict__["state"], record.__dict__["reason"]) for record in caplog.records] == [
        ("promise_changed", "suspended", "0 of 1 connected"),
        ("promise_changed", "kept", ""),
    ]
    assert not first.kept


def test_what_is_away_depends_on_the_policy() -> None:
    """Where nothing is acknowledged meanwhile the promise stands; where it is, the promise is suspended."""
    waiting = PromiseLog(on_away=OnStandbyAway.WAIT, clock=FakeClock()).away("x")
    assert waiting.state is Standing.STALLED
    assert waiting.kept
    proceeding = PromiseLog(on_away=OnStandbyAway.PROCEED, clock=FakeClock()).away("x")
    assert proceeding.state is Standing.SUSPENDED
    assert not proceeding.kept


def test_a_standby_is_back_when_it_gets_on() -> None:
    """One that has all, or what it lacked when it was looked at before, is worth waiting for; a frozen one is not."""
    promise = PromiseLog(on_away=OnStandbyAway.PROCEED, clock=FakeClock())
    promise.away("x")
    assert not promise.is_back(at(None, written=100))
    assert not promise.is_back(at(99, written=200))
    assert promise.is_back(at(200, written=300))
    assert promise.is_back(at(400, written=400))
    assert promise.is_back(Seen(written=Mark(1, 1), nobody="empty"))


def test_one_in_a_while_looks() -> None:
    """While the standby is away, one caller looks in that time, and the others go on."""
    clock = FakeClock()
    promise = PromiseLog(on_away=OnStandbyAway.PROCEED, clock=clock)
    promise.away("x")
    assert [promise.is_due() for _ in range(3)] == [True, False, False]
    clock.sleep(LOOK_AWAY_EVERY_S)
    assert [promise.is_due() for _ in range(2)] == [True, False]


@given(st.lists(st.floats(min_value=0.0, max_value=100.0), min_size=1), st.floats(min_value=0.0, max_value=1.0))
def test_percentiles_are_as_good_as_the_buckets(times: list[float], share: float) -> None:
    """A percentile is never less than the true one, and never more than 1.42 times it, from 0.1 ms on."""
    stopwatch = Stopwatch()
    for seconds in times:
        stopwatch.confirmed(seconds)
    found = stopwatch.read()
    assert found.count == len(times)
    assert found.longest_s == max(times)
    assert found.mean_s == pytest.approx(sum(times) / len(times))
    needed = share * len(times)
    true = next(item for count, item in enumerate(sorted(times), start=1) if count >= needed - 1e-9)
    assert found.percentile_s(share) >= true * 0.999
    assert found.percentile_s(share) <= max(true * 1.42, 0.0001)


def test_no_confirmation_has_no_percentile() -> None:
    """Before the first, everything is 0."""
    found = Stopwatch().read()
    assert (found.count, found.mean_s, found.percentile_s(0.99), found.longest_s) == (0, 0.0, 0.0, 0.0)
