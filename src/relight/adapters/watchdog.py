"""Deadlines for calls that have none of their own: one thread watches over all of them."""

from __future__ import annotations

import logging
import math
import threading
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

log = logging.getLogger(__name__)


class Alarm:
    """One deadline; made by `Watchdog.arm`."""

    __slots__ = ("action", "at", "over", "rang")

    def __init__(self, at: float, action: Callable[[], None]) -> None:
        self.at = at
        self.action = action
        self.over = False
        self.rang = False


class Watchdog:
    """Runs the action of each alarm that is not disarmed in time, all on one daemon thread.

    Arming and disarming take microseconds. The thread starts with the first alarm, ends when it wakes and finds nothing
    armed, and never keeps the process alive. An action must not block: the others would be late. One that raises is
    logged and counts as run.
    """

    def __init__(self) -> None:
        self._changed = threading.Condition(threading.Lock())
        # As many as there are calls on their way, so that looking through all of them is cheaper than order.
        self._armed: set[Alarm] = set()
        self._wakes_at = -math.inf
        self._running = False

    def arm(self, seconds: float, action: Callable[[], None]) -> Alarm:
        """Run `action` once `seconds` have passed, unless it is disarmed before."""
        alarm = Alarm(time.monotonic() + seconds, action)
        with self._changed:
            self._armed.add(alarm)
            if not self._running:
                self._running = True
                self._wakes_at = -math.inf
                threading.Thread(target=self._run, name="relight-watchdog", daemon=True).start()
            elif alarm.at < self._wakes_at:
                self._changed.notify_all()
        return alarm

    def disarm(self, alarm: Alarm) -> bool:
        """Whether it came in time: the action has not run and never will. Else the action has ended on return."""
        with self._changed:
            if alarm in self._armed:
                self._armed.discard(alarm)
                alarm.over = True
            while not alarm.over:
                self._changed.wait()
            return not alarm.rang

    def close(self) -> None:
        """Let the thread end now, or with the last deadline that is armed."""
        with self._changed:
            self._changed.notify_all()

    @property
    def running(self) -> bool:
        """Whether there is a thread."""
        return self._running

    def _run(self) -> None:
        with self._changed:
            while self._armed:
                now = time.monotonic()
                due = [alarm for alarm in self._armed if alarm.at <= now]
                self._armed.difference_update(due)
                if due:
                    self._ring(due)
                    continue
                # An alarm that is armed later than this is looked at then; an earlier one wakes the thread.
                self._wakes_at = min(alarm.at for alarm in self._armed)
                self._changed.wait(self._wakes_at - now)
            self._running = False

    def _ring(self, due: list[Alarm]) -> None:
        for alarm in due:
            alarm.rang = True
        self._changed.release()
        try:
            for alarm in due:
                try:
                    alarm.action()
                except Exception:
                    log.exception("watchdog_action_failed")
        finally:
            self._changed.acquire()
            for alarm in due:
                alarm.over = True
            self._changed.notify_all()
