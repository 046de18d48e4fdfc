"""What the router asks of an adapter."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable

    from relight.providers.messages import Delta, Message, Request, Stop, Usage
    from relight.providers.spec import ProviderSpec


@dataclass(frozen=True, slots=True, kw_only=True)
class Completed:
    """The end of an answer that is whole: its content, why it stopped, and what it used."""

    message: Message
    stop: Stop
    usage: Usage
    model: str
    id: str = ""
    stop_sequence: str = ""


class Provider(Protocol):
    """Speaks to one provider about one model, on one event loop.

    It counts no failures, retries nothing and has no limits of its own beside `connect_s`: that is the router's. Its
    `repr` and every error that it raises are free of its key.
    """

    @property
    def spec(self) -> ProviderSpec:
        """What it was made from."""
        ...

    def dropped(self, request: Request) -> tuple[str, ...]:
        """The settings of `request` that this provider does not have, by their names in `Request`; pure."""
        ...

    def stream(self, request: Request, *, heard: Callable[[], None]) -> AsyncGenerator[Delta | Completed, None]:
        """Ask, and give what comes as it comes; the last thing is `Completed`, once.

        `heard` is called for every whole event on the wire, signs of life (pings, comments) included, and for nothing
        less: bytes that complete no event are silence. Raises `Fault` for all that goes wrong, with a stream that ended
        without a reason to stop among it, and nothing else. Closing the generator, or cancelling it, ends the
        connection's use. The request's `system` is text: the router has rendered it.
        """
        ...

    async def check(self, *, timeout_s: float) -> None:
        """Whether the provider would answer now: its key is taken, the model is there and warm, the quota is not used
        up. Asks for one token. Raises `Fault`."""
        ...

    async def close(self) -> None:
        """Close its connections; safe to call twice."""
        ...
