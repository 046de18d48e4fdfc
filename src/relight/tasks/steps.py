"""Durable steps: each runs once, and gives back its stored result when it had already run."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from relight.errors import LeaseLostError
from relight.tasks.effects import perform

if TYPE_CHECKING:
    from collections.abc import Callable

    from psycopg2.extensions import cursor

    from relight.clock import Clock
    from relight.recovery.epoch import HeldLease
    from relight.tasks.effects import Tool
    from relight.tasks.ledger import Ledger, Task


class TaskRun:
    """One life of a task that this worker holds.

    The claim is renewed before each step, and what is left of it is known without asking the database: counted on the
    monotonic clock from before the renewal was sent.
    """

    def __init__(self, ledger: Ledger, task: Task, *, lease: HeldLease, claim_s: float, clock: Clock) -> None:
        self.task = task
        self._ledger = ledger
        self._lease = lease
        self._claim_s = claim_s
        self._clock = clock
        self._claimed_until = float("-inf")

    @property
    def epoch(self) -> int:
        """The epoch of the region's lease."""
        return self._lease.epoch

    def check(self, for_s: float = 0.0) -> None:
        """Return when both the region's lease and this worker's claim are live for `for_s` seconds more."""
        self._lease.check(for_s)
        left = self._claimed_until - self._clock.monotonic()
        if left <= for_s:
            raise LeaseLostError(
                f"the claim on task {self.task.id!r} is live for {max(0.0, left):.1f} s and {for_s:g} s are needed",
                hint="nothing was done; whoever claims it next goes on",
            )

    def step(
        self,
        name: str,
        run: Callable[[], Any],
        *,
        key: str = "",
        remember: Callable[[cursor, Any], None] | None = None,
    ) -> Any:
        """Run `run` unless it is done, store its result, and return the result.

        The result is JSON. `key` tells apart two steps of one name. What `remember` writes through the cursor it is
        given is committed together with the result, so that a finished step never lacks its memory.
        """
        key = key or name
        done, stored = self._ledger.step_result(self.task, key)
        if done:
            return stored
        self._renew_claim()
        result = run()
        also = None if remember is None else lambda cur: remember(cur, result)
        self._ledger.record_step(self.task, key=key, name=name, result=result, also=also)
        return result

    def effect(self, tool: Tool, request: dict[str, Any]) -> Any:
        """Do something to the outside world at most once, and return the tool's response."""
        self._renew_claim()
        return perform(self._ledger, self.task, tool, request, lease=self)

    def _renew_claim(self) -> None:
        before = self._clock.monotonic()
        self._ledger.extend(self.task, lease_s=self._claim_s)
        self._claimed_until = before + self._claim_s
