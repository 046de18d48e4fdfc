"""Tasks that wait for something to happen: what they say that they wait for, and who lets them go on."""

from __future__ import annotations

import logging
import threading
from typing import TYPE_CHECKING, Protocol

from relight.clock import SystemClock
from relight.errors import AgainLaterError, RelightError
from relight.providers.spec import ANY_PROVIDER, provider_key

if TYPE_CHECKING:
    from collections.abc import Callable

    from relight.clock import Clock
    from relight.tasks.ledger import Ledger

_log = logging.getLogger(__name__)

# After the first time, for tasks that were about to be given back as the breaker closed, and for a database that was
# away.
_AGAIN_AFTER_S = (0.0, 2.0, 10.0)


class Closes(Protocol):
    """What tells when a provider's breaker closes: `relight.providers.board.Board`."""

    def on_close(self, hook: Callable[[str], None]) -> None:
        """Call `hook` with the provider's name when its breaker has closed."""
        ...


def wake_on_close(board: Closes, ledger: Ledger, *, clock: Clock | None = None) -> None:
    """Let the tasks go on that wait for a provider, as soon as its breaker closes.

    It is tried three times within 12 s, in a thread of its own, and what fails is logged: when they are due, they come
    by themselves. Where the region may not act, nothing happens.
    """
    time = clock or SystemClock()

    def closed(provider: str) -> None:
        keys = (provider_key(provider), ANY_PROVIDER)
        threading.Thread(target=_wake, args=(ledger, keys, time), name="relight-wake", daemon=True).start()

    board.on_close(closed)


def _wake(ledger: Ledger, keys: tuple[str, ...], clock: Clock) -> None:
    for pause_s in _AGAIN_AFTER_S:
        clock.sleep(pause_s)
        for key in keys:
            try:
                woken = ledger.wake(key)
            except RelightError as exc:
                _log.warning("tasks_not_woken", extra={"waits_for": key, "error": str(exc)})
                continue
            if woken:
                _log.info("tasks_woken", extra={"waits_for": key, "tasks": woken})


def causes(exc: Exception) -> list[Exception]:
    """What was raised: the error, or those of its group, because coroutines that work side by side fail in one."""
    if not isinstance(exc, ExceptionGroup):
        return [exc]
    return [cause for cause in leaves(exc) if isinstance(cause, Exception)]


def only_waits(exc: Exception) -> bool:
    """Whether nothing failed: all that was raised says when to come back."""
    return all(isinstance(cause, AgainLaterError) for cause in causes(exc))


def leaves(group: BaseExceptionGroup[BaseException]) -> list[BaseException]:
    """The errors of a group and of the groups in it."""
    found: list[BaseException] = []
    for exc in group.exceptions:
        found.extend(leaves(exc) if isinstance(exc, BaseExceptionGroup) else [exc])
    return found
