"""Replay: rebuild the queue from the ledger."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from relight.tasks.ledger import THE_BEGINNING

if TYPE_CHECKING:
    from collections.abc import Callable
    from datetime import datetime

    from relight.queue.port import TaskQueue
    from relight.tasks.ledger import Ledger, Task


@dataclass(frozen=True, slots=True, kw_only=True)
class Replay:
    """What a replay found and published."""

    found: int
    published: int
    already_queued: int


async def replay(
    *,
    ledger: Ledger,
    queue: TaskQueue,
    epoch: int,
    since: datetime = THE_BEGINNING,
    progress: Callable[[Task], None] = lambda _: None,
) -> Replay:
    """Publish every unfinished task made since then, oldest first.

    Running it twice changes nothing: the queue drops a second message within its duplicate window, and after that the
    claim in the ledger makes a second delivery harmless.
    """
    await queue.ensure()
    tasks = ledger.unfinished(since)
    published = 0
    for task in tasks:
        published += await queue.publish(task.id, epoch=epoch)
        progress(task)
    return Replay(found=len(tasks), published=published, already_queued=len(tasks) - published)
