"""Side effects: intent → done or unknown, and never blindly again."""

from __future__ import annotations

import hashlib
from enum import Enum
from typing import TYPE_CHECKING, Any, Protocol

from relight.errors import ConflictError
from relight.tasks.ledger import canonical

if TYPE_CHECKING:
    from relight.recovery.epoch import HeldLease
    from relight.tasks.ledger import Ledger, Task


class Answer(Enum):
    """What a tool says when it is asked about an effect whose record is missing."""

    NOT_SENT = "not sent"
    CANNOT_TELL = "cannot tell"


class Tool(Protocol):
    """Something that acts on the outside world."""

    name: str
    timeout_s: float

    def send(self, request: dict[str, Any], *, key: str) -> Any:
        """Act, within `timeout_s`, and return a JSON response; hand `key` on as the idempotency key."""
        ...

    def find(self, request: dict[str, Any], *, key: str) -> Any | Answer:
        """The response of an earlier `send` of this request, or an Answer; asking changes nothing.

        Called no sooner than `timeout_s` after that `send` began, so that NOT_SENT is final.
        """
        ...


class UnknownEffectError(ConflictError):
    """Nobody can tell whether the effect happened: it waits for a person and is never retried blindly."""


def effect_key(tool: str, request: dict[str, Any]) -> str:
    """The idempotency key of an action: what it is, and not where in the program it happened."""
    return hashlib.sha256(f"{tool}\n{canonical(request)}".encode()).hexdigest()


def perform(ledger: Ledger, task: Task, tool: Tool, request: dict[str, Any], *, lease: HeldLease) -> Any:
    """Do `request` with `tool` at most once, across crashes and regions, and return its response.

    The intent is confirmed in the standby, and the lease (and with it the worker's claim on the task) is live for
    longer than the call may take, before the tool is called. An intent that an earlier life left without a record is
    UNKNOWN: the tool is asked, and where it cannot tell, UnknownEffectError is raised and nothing is sent. Its answer
    is final because an earlier holder's call had to end before its lease and its claim did.
    """
    key = effect_key(tool.name, request)
    known = ledger.effect(key)
    if known is not None and known.status == "done":
        return known.response
    if known is not None:
        lease.check(tool.timeout_s)
        found = tool.find(request, key=key)
        if found is Answer.CANNOT_TELL:
            ledger.settle(key, status="unknown")
            raise UnknownEffectError(
                f"effect {key[:12]} of {tool.name} may or may not have happened", hint="look, then settle it by hand"
            )
        if found is not Answer.NOT_SENT:
            ledger.settle(key, status="done", response=found)
            return found
    ledger.intend(task, key=key, tool=tool.name, request=request)
    lease.check(tool.timeout_s)
    response = tool.send(request, key=key)
    ledger.settle(key, status="done", response=response)
    return response
