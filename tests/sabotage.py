"""Ways to break the library on purpose, so that it is seen that the kill sweep notices.

Each function is called in a worker's process before it begins to work.
"""

from __future__ import annotations

import threading
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from relight.tasks import effects, steps
from relight.tasks.effects import Answer, Effects
from relight.tasks.ledger import SQL, Ledger
from relight.tasks.worker import Worker

if TYPE_CHECKING:
    from collections.abc import Callable

    from relight.queue.port import Delivery
    from relight.tasks.ledger import Task


def send_again_unasked() -> None:
    """An open effect is sent again as if nothing had been sent."""
    effects._reconcile = lambda *_, **__: Answer.NOT_SENT


def guess_that_nothing_was_sent() -> None:
    """A tool that cannot tell is taken to have said no."""
    reconcile = effects._reconcile

    def guess(*args: Any, **named: Any) -> Any:
        try:
            return reconcile(*args, **named)
        except effects.UnknownEffectError:
            return Answer.NOT_SENT

    effects._reconcile = guess


def guess_that_it_was_done() -> None:
    """A tool that cannot tell is taken to have acted."""
    reconcile = effects._reconcile

    def guess(*args: Any, **named: Any) -> Any:
        try:
            return reconcile(*args, **named)
        except effects.UnknownEffectError:
            return {"receipt": 0}

    effects._reconcile = guess


def never_wait_for_the_tool() -> None:
    """A tool is asked while the earlier sending may still be on its way."""
    read = Effects._effect
    Effects._effect = lambda self, row: replace(read(self, row), final_in_s=0.0)  # type: ignore[method-assign]


def look_at_no_clock() -> None:
    """Whoever was stopped for long acts as if no time had passed."""

    class Always:
        def check(self, for_s: float = 0.0) -> None:
            pass

    perform = effects.perform

    def careless(*args: Any, **named: Any) -> Any:
        return perform(*args, **named | {"right": Always(), "begin_within_s": 1e6})

    steps.perform = careless  # type: ignore[attr-defined]


def acknowledge_before_the_commit() -> None:
    """A caller is told that its task is accepted, and the task is written in a moment."""
    start = Ledger.start_task

    def promise(self: Ledger, payload: Any, *, id_: str = "", **named: Any) -> Any:
        threading.Thread(target=start, args=(self, payload), kwargs={"id_": id_, **named}, daemon=True).start()

    Ledger.start_task = promise  # type: ignore[method-assign]


def remember_afterwards() -> None:
    """What a step learned is written in a transaction of its own, after the step's."""
    record = Ledger.record_step

    def apart(self: Ledger, task: Task, *, also: Callable[[Any, Any], None] | None = None, **named: Any) -> Any:
        again = record(self, task, **named)
        if also is not None:
            with self.database.transaction() as cur:
                also(cur, again)
        return again

    Ledger.record_step = apart  # type: ignore[method-assign]


def believe_that_it_was_published() -> None:
    """The ledger says that the queue has a task before the queue said so."""

    def mark_first(self: Ledger, publish: Callable[[list[Any]], None], *, incarnation: str, limit: int) -> int:
        with self.database.transaction() as cur:
            cur.execute(SQL["outbox"], {"limit": limit, "epoch": self._epoch()})
            rows = cur.fetchall()
            if rows:
                values = {"ids": [row[0] for row in rows], "incarnation": incarnation, "epoch": self.epoch}
                cur.execute(SQL["mark_queued"], values)
        if rows:
            publish([(row[0], row[1]) for row in rows])
        return len(rows)

    Ledger.publish_outbox = mark_first  # type: ignore[method-assign]


def write_without_a_claim() -> None:
    """A step is written over whatever is there, whoever holds the task."""
    before, after = SQL["record_step"].split("where exists", 1)
    SQL["record_step"] = before + after[after.index("on conflict") :].replace("where steps.finished_at is null", "")


def acknowledge_before_the_work() -> None:
    """A message is taken from the queue as soon as it arrives."""
    deliver = Worker._deliver

    async def eager(self: Worker, delivery: Delivery) -> None:
        await delivery.ack()
        await deliver(self, delivery)

    Worker._deliver = eager  # type: ignore[method-assign]


def forget_what_is_done() -> None:
    """A later life does not look at what the earlier ones did."""
    Ledger.steps = lambda *_: {}  # type: ignore[method-assign]
    SQL["record_step"] = SQL["record_step"].replace("where steps.finished_at is null", "")


def end_at_once() -> None:
    """A worker that ends by itself."""
    raise SystemExit(3)
