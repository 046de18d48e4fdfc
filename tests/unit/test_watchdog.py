"""Deadlines on one thread."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from typing import TYPE_CHECKING

import pytest

from relight.adapters.watchdog import Watchdog

if TYPE_CHECKING:
    from collections.abc import Iterator

HOUR_S = 3600.0


@pytest.fixture
def watchdog() -> Iterator[Watchdog]:
    """Closed at the end."""
    watchdog = Watchdog()
    yield watchdog
    watchdog.close()


def watchers() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == "relight-watchdog"]


def ended(watchdog: Watchdog) -> bool:
    until = time.monotonic() + 10
    while watchdog.running and time.monotonic() < until:
        time.sleep(0.001)
    return not watchdog.running


def test_what_is_not_disarmed_rings(watchdog: Watchdog) -> None:
    """An action runs when its time has come, and disarming then says that it came too late."""
    rang = threading.Event()
    alarm = watchdog.arm(0.0, rang.set)
    assert rang.wait(10)
    assert not watchdog.disarm(alarm)
    assert not watchdog.disarm(alarm)


def test_what_is_disarmed_never_rings(watchdog: Watchdog) -> None:
    """Disarming in time says so, however often it is done."""
    rang = threading.Event()
    alarm = watchdog.arm(HOUR_S, rang.set)
    assert watchdog.disarm(alarm)
    assert watchdog.disarm(alarm)
    assert not rang.is_set()


def test_an_earlier_deadline_goes_before_a_later_one(watchdog: Watchdog) -> None:
    """An alarm that is armed while the thread sleeps towards a later one rings at its own time."""
    late, early = threading.Event(), threading.Event()
    watchdog.arm(HOUR_S, late.set)
    watchdog.arm(0.01, early.set)
    assert early.wait(10)
    assert not late.is_set()


def test_disarming_waits_for_an_action_that_has_begun(watchdog: Watchdog) -> None:
    """Once disarming returns, the action does nothing more: what it works on may be closed."""
    begun, go_on, done = threading.Event(), threading.Event(), threading.Event()

    def action() -> None:
        begun.set()
        go_on.wait(10)
        done.set()

    alarm = watchdog.arm(0.0, action)
    assert begun.wait(10)
    threading.Timer(0.05, go_on.set).start()
    assert not watchdog.disarm(alarm)
    assert done.is_set()


def test_an_action_that_raises_stops_nobody(watchdog: Watchdog, caplog: pytest.LogCaptureFixture) -> None:
    """fails when an action raises: it is logged, it counts as run, and the others ring."""

    begun, rang = threading.Event(), threading.Event()

    def broken() -> None:
        begun.set()
        raise RuntimeError("broken")

    first = watchdog.arm(0.0, broken)
    assert begun.wait(10)
    assert not watchdog.disarm(first)
    watchdog.arm(0.0, rang.set)
    assert rang.wait(10)
    assert [record.message for record in caplog.records] == ["watchdog_action_failed"]


def test_many_threads_share_one(watchdog: Watchdog) -> None:
    """Thousands of deadlines from many threads need one thread; those that are due ring, once each, and no other."""
    lock, rang = threading.Lock(), []

    def work(number: int) -> None:
        for turn in range(200):
            name = (number, turn)
            ring = turn % 50 == 0
            alarm = watchdog.arm(0.0 if ring else HOUR_S, lambda name=name: rang.append(name))  # type: ignore[misc]
            with lock:
                seen.add(len(watchers()) - before)
            if not ring:
                assert watchdog.disarm(alarm)
            else:
                alarms.append(alarm)

    before, seen, alarms = len(watchers()), set[int](), []  # type: ignore[var-annotated]
    threads = [threading.Thread(target=work, args=[number]) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    until = time.monotonic() + 10
    while len(rang) < len(alarms) and time.monotonic() < until:
        time.sleep(0.001)
    assert sorted(rang) == [(number, turn) for number in range(8) for turn in (0, 50, 100, 150)]
    assert max(seen) <= 1


def test_the_thread_ends(watchdog: Watchdog) -> None:
    """It ends on closing, with nothing armed; what is armed afterwards rings all the same."""
    watchdog.disarm(watchdog.arm(HOUR_S, lambda: None))
    assert watchdog.running
    watchdog.close()
    assert ended(watchdog)
    rang = threading.Event()
    watchdog.arm(0.0, rang.set)
    assert rang.wait(10)
    assert ended(watchdog)


def test_the_process_is_not_kept_alive() -> None:
    """A process ends though a deadline of an hour is armed."""
    code = f"from relight.adapters.watchdog import Watchdog; Watchdog().arm({HOUR_S}, print)"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
