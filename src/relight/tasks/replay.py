"""Replay: rebuild the queue from the ledger."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from relight.tasks.outbox import Relay

if TYPE_CHECKING:
    from relight.queue.port import TaskQueue
    from relight.tasks.ledger import Ledger


@dataclass(frozen=True, slots=True, kw_only=True)
class Replay:
    """What a replay published."""

    published: int


async def replay(*, ledger: Ledger, queue: TaskQueue) -> Replay:
    """Publish every unfinished task that nobody works on, oldest first. Running it twice changes nothing."""
    incarnation = await queue.ensure()
    ledger.return_lost(incarnation=incarnation)
    return Replay(published=await Relay(ledger).empty(queue, incarnation=incarnation))
