"""What keeps a function awake that is not needed for weeks: it is called with an event that asks for nothing.

Lambda takes back what a function was given that nobody calls, and fails the call that would wake it.
"""

from __future__ import annotations

from functools import wraps
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

Context = TypeVar("Context")

# No run, no question and no event of AWS looks like it.
WAKE: Mapping[str, bool] = {"wake": True}


def wakes(handler: Callable[[dict[str, Any], Context], dict[str, Any]]) -> Callable[..., dict[str, Any]]:
    """The handler, which answers `WAKE` at once: before settings are read, and anything is opened or written."""

    @wraps(handler)
    def answer(event: dict[str, Any], context: Context) -> dict[str, Any]:
        return {"awake": True} if event == WAKE else handler(event, context)

    return answer
