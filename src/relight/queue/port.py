"""What a task queue guarantees."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Sequence

    from relight.vault.manifest import QueuePosition


class Delivery(Protocol):
    """One message that was handed out and is not settled yet."""

    task_id: str

    async def ack(self) -> None:
        """Remove the message; on return the server has said so."""
        ...

    async def nak(self, delay_s: float) -> None:
        """Give it back, to be handed out again after `delay_s`."""
        ...

    async def in_progress(self) -> None:
        """Ask for more time before it is handed out to somebody else."""
        ...


class TaskQueue(Protocol):
    """Hands out task ids at least once, each to one worker at a time.

    The queue is rebuildable from the ledger and holds nothing but ids. Errors: UnavailableError when the server cannot
    be reached or does not answer in time.
    """

    async def ensure(self) -> None:
        """Make the queue if it is not there; leave one that is there as it is."""
        ...

    async def publish(self, task_id: str, *, epoch: int) -> bool:
        """Store the id durably; False when the server knew the same id and epoch within its duplicate window."""
        ...

    async def fetch(self, limit: int, *, timeout_s: float) -> Sequence[Delivery]:
        """Up to `limit` messages; an empty sequence when none came within `timeout_s`."""
        ...

    async def position(self) -> QueuePosition:
        """How far the queue is: the last message that was ever put into it."""
        ...

    async def depth(self) -> int:
        """Messages that are not acknowledged yet."""
        ...

    async def close(self) -> None:
        """Leave the server; unsettled messages are handed out again when their time is over."""
        ...
