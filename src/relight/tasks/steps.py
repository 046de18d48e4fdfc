"""Durable steps: each runs once, and gives back its stored result when it had already run."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from relight.tasks.effects import perform

if TYPE_CHECKING:
    from collections.abc import Callable

    from psycopg2.extensions import cursor

    from relight.recovery.epoch import HeldLease
    from relight.tasks.effects import Tool
    from relight.tasks.ledger import Ledger, Task


class TaskRun:
    """One life of a task that this worker holds."""

    def __init__(self, ledger: Ledger, task: Task, *, lease: HeldLease, claim_s: float) -> None:
        self.task = task
        self._ledger = ledger
        self._lease = lease
        self._claim_s = claim_s

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
        self._ledger.extend(self.task, lease_s=self._claim_s)
        result = run()
        also = None if remember is None else lambda cur: remember(cur, result)
        self._ledger.record_step(self.task, key=key, name=name, result=result, also=also)
        return result

    def effect(self, tool: Tool, request: dict[str, Any]) -> Any:
        """Do something to the outside world at most once, and return the tool's response."""
        self._ledger.extend(self.task, lease_s=self._claim_s)
        return perform(self._ledger, self.task, tool, request, lease=self._lease)
