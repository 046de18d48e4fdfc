"""What can go wrong with a provider, and what follows from it."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Any


class FaultKind(StrEnum):
    """What went wrong, in the order in which a call meets it."""

    DNS = "dns"
    REFUSED_CONNECTION = "connection_refused"
    CONNECTION = "connection"
    TLS = "tls"
    CONNECT_TIMEOUT = "connect_timeout"
    SILENCE = "silence"
    STALLED = "stalled"
    NO_PROGRESS = "no_progress"
    HURRIED = "hurried"
    SERVER_ERROR = "server_error"
    OVERLOADED = "overloaded"
    LIMITED = "rate_limited"
    DENIED = "denied"
    TOO_LONG = "too_long"
    CALLERS_FAULT = "callers_fault"
    MALFORMED = "malformed"
    TRUNCATED = "truncated"
    EMPTY = "empty_answer"
    BROKEN_CALL = "broken_tool_call"


class Fault(Exception):  # noqa: N818 - the router makes an error of it, or goes on
    """A provider did not answer. Raised by adapters, for the router alone.

    `detail` never holds a key or a part of one, nor anything of the request. `wait_s` is what the provider asked for.
    """

    def __init__(
        self, kind: FaultKind, detail: str = "", *, status: int | None = None, wait_s: float | None = None
    ) -> None:
        super().__init__(f"{kind}: {detail}" if detail else kind.value)
        self.kind = kind
        self.detail = detail
        self.status = status
        self.wait_s = wait_s

    def __reduce__(self) -> tuple[Any, ...]:
        return Fault, (self.kind, self.detail), {"status": self.status, "wait_s": self.wait_s}


@dataclass(frozen=True, slots=True, kw_only=True)
class Consequence:
    """What follows from a fault: whether it counts against the provider, whether the next one is tried, whether the
    provider is left alone for a while, and whether a person must look."""

    counts: bool
    falls_through: bool = True
    cools: bool = False
    pages: bool = False


# 4xx that are the caller's fault go back to the caller: another provider would be asked the same wrong thing. A model
# that answers nothing, or nonsense, is no outage: one strange conversation must not take a provider from all others.
CONSEQUENCES: dict[FaultKind, Consequence] = {
    FaultKind.DNS: Consequence(counts=True),
    FaultKind.REFUSED_CONNECTION: Consequence(counts=True),
    FaultKind.CONNECTION: Consequence(counts=True),
    FaultKind.TLS: Consequence(counts=True),
    FaultKind.CONNECT_TIMEOUT: Consequence(counts=True),
    FaultKind.SILENCE: Consequence(counts=True),
    FaultKind.STALLED: Consequence(counts=True),
    FaultKind.NO_PROGRESS: Consequence(counts=True),
    # Silent for a share of a call that has little time: the next is asked in time, and nobody is to blame.
    FaultKind.HURRIED: Consequence(counts=False),
    FaultKind.SERVER_ERROR: Consequence(counts=True),
    FaultKind.OVERLOADED: Consequence(counts=True),
    FaultKind.LIMITED: Consequence(counts=False, cools=True),
    FaultKind.DENIED: Consequence(counts=False, cools=True, pages=True),
    FaultKind.TOO_LONG: Consequence(counts=False),
    FaultKind.CALLERS_FAULT: Consequence(counts=False, falls_through=False),
    FaultKind.MALFORMED: Consequence(counts=True),
    FaultKind.TRUNCATED: Consequence(counts=True),
    FaultKind.EMPTY: Consequence(counts=False),
    FaultKind.BROKEN_CALL: Consequence(counts=False),
}


def consequence(fault: Fault) -> Consequence:
    """What follows from `fault`. A server error that says when to come back (503 with Retry-After) cools down, like a
    429, and does not count."""
    if fault.wait_s and fault.kind in (FaultKind.SERVER_ERROR, FaultKind.OVERLOADED):
        return CONSEQUENCES[FaultKind.LIMITED]
    return CONSEQUENCES[fault.kind]
