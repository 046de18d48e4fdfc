"""The one tree of errors.

RelightError
├── ConfigError              the operator's input is wrong: nothing was done
├── TransientError           the same call may succeed later
│   ├── UnavailableError     a server did not answer, or broke the connection
│   │   └── QueueLostError   the queue is gone, or is not the one that was filled
│   ├── AgainLaterError      it says itself when
│   │   ├── ProvidersDownError   no LLM provider can be asked now
│   │   ├── WouldDegradeError    the first one cannot, and the caller would rather wait
│   │   └── ReadOnlyModeError    an operator wants nothing to be begun now
│   ├── StreamCutError       an LLM's answer ended in the middle, after its beginning was given out
│   └── UnconfirmedError     committed here, but not confirmed in the standby within the bound
├── PermanentError           the same call will fail again
│   ├── IntegrityError       bytes, counts or a schema are not what a manifest says
│   ├── DeniedError          a permission is missing
│   ├── NotFoundError        what was named does not exist
│   ├── RequestRefusedError  an LLM provider says that the request itself is wrong
│   └── IncapableError       no LLM provider that is configured can do what the request needs
└── ConflictError            somebody else was first
    ├── OvertakenError       another recovery was, with the epoch that this one was to take
    ├── StaleEpochError      a newer epoch exists
    └── LeaseLostError       this region does not hold a live lease

Retries read `retryable`, never the text.
"""

from __future__ import annotations

from typing import Any


class RelightError(Exception):
    """Base of everything Relight raises on purpose.

    The fields come first and the message is built from them: `problem` says what was got, `hint` says what to do next.
    Every error survives pickling, because step errors are stored.
    """

    retryable = False

    def __init__(self, problem: str, *, hint: str = "") -> None:
        super().__init__(problem)
        self.problem = problem
        self.hint = hint

    def __str__(self) -> str:
        return f"{self.problem}; {self.hint}" if self.hint else self.problem

    def __reduce__(self) -> tuple[Any, ...]:
        return _rebuild, (type(self), self.problem, self.hint)


def _rebuild(kind: type[RelightError], problem: str, hint: str) -> RelightError:
    return kind(problem, hint=hint)


class ConfigError(RelightError):
    """The operator's input is wrong; nothing was done."""


class TransientError(RelightError):
    """The same call may succeed later."""

    retryable = True


class UnavailableError(TransientError):
    """A server did not answer in time, refused, or broke the connection."""


class QueueLostError(UnavailableError):
    """The queue's store was lost or made again: what was published into it may be gone, and is published anew."""


class AgainLaterError(TransientError):
    """Worth another try in `wait_s` seconds, or once what `waits_for` names has happened, and not before."""

    def __init__(self, problem: str, *, hint: str = "", wait_s: float = 1.0, waits_for: str = "") -> None:
        super().__init__(problem, hint=hint)
        self.wait_s = wait_s
        self.waits_for = waits_for

    def __reduce__(self) -> tuple[Any, ...]:
        return (*super().__reduce__(), {"wait_s": self.wait_s, "waits_for": self.waits_for})


class ProvidersDownError(AgainLaterError):
    """No LLM provider can be asked now: each failed, cools down, or is left alone by its breaker."""


class WouldDegradeError(AgainLaterError):
    """The first LLM provider cannot be asked now, and the caller would rather wait than have another's answer."""


class ReadOnlyModeError(AgainLaterError):
    """An operator, or the environment, wants nothing to be begun now: reads are answered, and this was not one."""

    def __init__(
        self,
        problem: str,
        *,
        hint: str = "ask whoever switched it on; `relight read-only show` says since when",
        wait_s: float = 1.0,
        waits_for: str = "",
    ) -> None:
        super().__init__(problem, hint=hint, wait_s=wait_s, waits_for=waits_for)


class StreamCutError(TransientError):
    """An LLM's answer ended in the middle, after its beginning was given out: what came is no answer."""


class UnconfirmedError(TransientError):
    """The commit is durable here, and the standby did not confirm it within the bound: it is not acknowledged.

    `rows` is what the statement that was committed returned, where it was a single one.
    """

    rows: list[tuple[Any, ...]] | None = None


class PermanentError(RelightError):
    """The same call will fail again."""


class IntegrityError(PermanentError):
    """Bytes, counts or a schema are not what a manifest says."""


class DeniedError(PermanentError):
    """A permission is missing."""


class NotFoundError(PermanentError):
    """What was named does not exist."""


class RequestRefusedError(PermanentError):
    """An LLM provider says that the request itself is wrong; `status` is its HTTP status."""

    def __init__(self, problem: str, *, hint: str = "", status: int = 400) -> None:
        super().__init__(problem, hint=hint)
        self.status = status

    def __reduce__(self) -> tuple[Any, ...]:
        return (*super().__reduce__(), {"status": self.status})


class IncapableError(PermanentError):
    """No LLM provider that is configured can do what the request needs."""


class ConflictError(RelightError):
    """Somebody else was first."""


class OvertakenError(ConflictError):
    """Another recovery took the epoch that this one was to take: it goes on, and this one ends."""


class StaleEpochError(ConflictError):
    """A newer epoch exists: this region's time is over."""


class LeaseLostError(ConflictError):
    """This region does not hold a live lease."""
