"""What a task queue guarantees."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import datetime

    from relight.vault.manifest import QueuePosition

# A message that is not acknowledged, kept or given back for this long is handed out again.
ACK_WAIT_S = 20.0
# A message that was handed out this often and never acknowledged is a dead letter: what it names kills its workers.
MAX_DELIVERIES = 10
DEAD_REASON = "handed out too often without an acknowledgement"
MAX_AGE_S = 7 * 24 * 3600.0
# How long a queue remembers what was published. Shorter than some recoveries: this only spares deliveries, and what
# keeps a task from being done twice is its claim in the ledger.
DEDUPE_WINDOW_S = 600.0
# By how much the clocks of one queue's servers may differ.
_CLOCKS_S = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Ticket:
    """What is published: a task, to be done under an epoch.

    The `number` is the same each time that one publication is tried, and another for each new one of the task. It says
    nothing else: the ledger takes it from a time.
    """

    task_id: str
    epoch: int
    number: int = 0

    @property
    def dedupe_id(self) -> str:
        """Equal for equal tickets only."""
        return f"{self.task_id}.{self.epoch}.{self.number}"


@dataclass(frozen=True, slots=True, kw_only=True)
class DeadLetter:
    """A task whose message was handed out too often; `at` is when it was given up, by the server's clock."""

    task_id: str
    deliveries: int
    at: datetime
    reason: str


class Delivery(Protocol):
    """One message that was handed out and is not settled yet.

    It is this worker's until the ack wait is over, counted from its delivery or the last `in_progress`. The calls may
    be made in any order and repeated: one that comes too late takes nothing from whoever holds the message by then.
    """

    @property
    def task_id(self) -> str:
        """The task to be done."""
        ...

    @property
    def deliveries(self) -> int:
        """How often the message was handed out: 1 the first time."""
        ...

    async def ack(self) -> None:
        """Remove the message, whoever holds it: its task is done. On return the server has said so."""
        ...

    async def nak(self, delay_s: float) -> None:
        """Give it back, to be handed out again after `delay_s`."""
        ...

    async def in_progress(self) -> None:
        """Begin the ack wait anew."""
        ...


class TaskQueue(Protocol):
    """Hands out task ids at least once, each to one worker at a time.

    A queue holds nothing but ids and is rebuilt from the ledger. Its *incarnation* tells when that is needed: a string
    that changes whenever messages that were durable may have been lost with the store.

    Every call ends within some ten seconds beyond the time that it was given. Errors: UnavailableError when the server
    cannot be reached, refuses, or does not answer in time; QueueLostError, which is one, when the queue is not there or
    is another incarnation than the last `ensure` returned: call `ensure` and publish again what it must hold;
    DeniedError when it does not let this user in.
    """

    async def ensure(self) -> str:
        """Make the queue if it is not there, bring its configuration to what is promised here, return its incarnation.

        What an operator configured beyond that stays. Safe to be called by many at once, and again. Raises ConfigError
        for a queue that cannot be brought there.
        """
        ...

    async def incarnation(self) -> str:
        """The incarnation now, whatever `ensure` returned; makes and changes nothing, and costs one round trip."""
        ...

    async def publish(self, tickets: Sequence[Ticket]) -> int:
        """Store the tickets in order and return how many were not known within the duplicate window.

        On return all are durable in the incarnation that the last `ensure` returned. On an error some may be in the
        queue: publishing all again is harmless.
        """
        ...

    async def fetch(self, limit: int, *, timeout_s: float) -> Sequence[Delivery]:
        """Up to `limit` messages, as soon as there is one; an empty sequence when none came within `timeout_s`.

        A message that was handed out more than the allowed number of times becomes a dead letter instead, and a fetch
        that met only such ones is empty sooner.
        """
        ...

    async def dead_letters(self, limit: int = 100) -> Sequence[DeadLetter]:
        """What was given up, oldest first, at most one letter a task; they stay until they are discarded."""
        ...

    async def discard_dead(self, task_id: str) -> None:
        """Forget the dead letter of a task, if there is one."""
        ...

    async def position(self) -> QueuePosition:
        """How far the queue is: how many messages were ever put into it."""
        ...

    async def depth(self) -> int:
        """Messages that are not acknowledged yet, those that wait for their delay included, dead letters not."""
        ...

    async def age_s(self) -> float:
        """How long ago the oldest message that the queue has was first published; 0.0 when it has none.

        By the server's clock; what is handed out or waits for its delay counts like the rest. So a message that was
        published well before that and never acknowledged is not in the queue any more, though the store is the same:
        somebody removed it. Infinite when the server's clock went back, and does not tell.
        """
        ...

    async def close(self) -> None:
        """Leave the server; unsettled messages are handed out again when their ack wait is over."""
        ...


def age_of(oldest: float, *, newest: float, now: float) -> float:
    """The age of the oldest message; infinite when a message is from the future."""
    return math.inf if max(oldest, newest) > now + _CLOCKS_S else max(now - oldest, 0.0)
