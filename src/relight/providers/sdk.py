"""What the adapters share: one call of an official SDK's client, and every way in which it can fail, as a `Fault`."""

from __future__ import annotations

import asyncio
import re
from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Any, Protocol

from relight.errors import ConfigError
from relight.providers.diagnosis import TOO_FEW_TOKENS, diagnose, from_error
from relight.providers.faults import Fault, FaultKind
from relight.providers.messages import Request, user
from relight.providers.wire import hearing

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Iterator

    import httpx2

    from relight.providers.messages import Delta
    from relight.providers.port import Completed
    from relight.providers.spec import ProviderSpec

# How long more is waited for once the answer is whole: the end, after which the connection can be used again, and the
# counts, which were asked for and which some servers give late; a server that gives none ends its stream at once.
_END_S = 0.5
_COUNTS_S = 2.0
_KEY = re.compile(r"[\x21-\x7e]*")


class EventStream(Protocol):
    """What an SDK gives for a request that streams."""

    @property
    def response(self) -> httpx2.Response:
        """The answer's head."""
        ...

    def __aiter__(self) -> AsyncIterator[Any]: ...

    async def close(self) -> None:
        """Ends the connection's use."""
        ...


class Reader(Protocol):
    """Reads the events of one answer."""

    @property
    def over(self) -> bool:
        """Whether the answer is whole, as far as can be told before the stream ends."""
        ...

    @property
    def counted(self) -> bool:
        """Whether no more counts are to come."""
        ...

    def feed(self, event: Any) -> Iterator[Delta]:
        """What an event adds."""
        ...

    def finish(self) -> Completed:
        """The whole answer; Fault where it is none."""
        ...


class SdkProvider(ABC):
    """A provider that is asked by its SDK; subclasses say how to ask and how to read."""

    def __init__(self, spec: ProviderSpec, key: str) -> None:
        if not _KEY.fullmatch(key):
            # It would be in the text of the error with which a header is refused.
            raise ConfigError(
                f"the key of provider {spec.name} holds white space or what is no ASCII",
                hint="store it as it was given, without a line end",
            )
        self._spec = spec
        self._key = key

    def __repr__(self) -> str:
        return f"{type(self).__name__}(name={self._spec.name!r}, model={self._spec.model!r})"

    @property
    def spec(self) -> ProviderSpec:
        """What it was made from."""
        return self._spec

    async def stream(self, request: Request, *, heard: Callable[[], None]) -> AsyncGenerator[Delta | Completed, None]:
        """Ask, and give what comes as it comes; see `Provider`."""
        stream: EventStream | None = None
        reader = self._reader()
        fault: Fault | None = None
        late: list[Delta] = []
        try:
            try:
                with hearing(heard):
                    stream = await self._ask(self._render(request))
                _check_type(stream.response)
                events = aiter(stream)
                ended = False
                while not ended:
                    ended = True
                    async for event in events:
                        self._refuse_error(event)
                        for delta in reader.feed(event):
                            yield delta
                        if reader.over:
                            ended = False
                            break
                    if not ended:
                        ended = await self._after(events, reader, late)
                        # It went on after all.
                        while late:
                            yield late.pop(0)
            finally:
                if stream is not None:
                    await stream.close()
        except Exception as exc:  # noqa: BLE001 - each becomes a fault, and none is shown
            fault = diagnose(exc, key=self._key, answering=stream is not None)
        if fault is not None and not reader.over:
            # Outside of the handler, so that it does not carry what was caught, whose text may hold the key.
            raise fault
        for delta in late:
            yield delta
        yield reader.finish()

    async def _after(self, events: AsyncIterator[Any], reader: Reader, late: list[Delta]) -> bool:
        """Read what follows a whole answer, into `late`; whether the stream has ended, rather than that it turned out
        not to be whole. What follows are counts at most, and an answer that is whole stands, whatever becomes of its
        stream's end: it is paid for."""
        loop = asyncio.get_running_loop()
        limit = _END_S if reader.counted else min(_COUNTS_S, max(_END_S, self._spec.silence_s / 2))
        async with asyncio.timeout(limit) as left:
            async for event in events:
                self._refuse_error(event)
                late += reader.feed(event)
                if not reader.over:
                    return False
                if reader.counted:
                    left.reschedule(loop.time() + _END_S)
        return True

    async def check(self, *, timeout_s: float) -> None:
        """Whether the provider would answer now; see `Provider`."""
        # A model that thinks cannot answer in one token, and some refuse to try.
        request = Request(messages=(user("Hello."),), max_tokens=16 if self._spec.thinks else 1)
        events = 0

        def heard() -> None:
            nonlocal events
            events += 1

        try:
            async with asyncio.timeout(timeout_s):
                async for _ in self.stream(request, heard=heard):
                    pass
        except TimeoutError:
            kind = FaultKind.STALLED if events else FaultKind.SILENCE
        except Fault as fault:
            if fault.kind is FaultKind.EMPTY or fault.detail.endswith(TOO_FEW_TOKENS):
                return
            raise
        else:
            return
        raise Fault(kind, f"no answer in {timeout_s:g} s")

    @abstractmethod
    async def close(self) -> None:
        """Close its connections; safe to call twice."""

    def _refuse_error(self, event: Any) -> None:
        error = _error_in(event)
        if error is not None:
            raise from_error(error, key=self._key)

    @abstractmethod
    def _reader(self) -> Reader:
        """What reads the events of one answer."""

    @abstractmethod
    def _render(self, request: Request) -> dict[str, Any]:
        """The body that the SDK sends for it; Fault where it cannot be sent."""

    @abstractmethod
    def _ask(self, body: dict[str, Any]) -> Awaitable[EventStream]:
        """Send that body."""


def _check_type(response: httpx2.Response) -> None:
    said = response.headers.get("content-type", "text/event-stream").split(";")[0].strip().lower()
    if said != "text/event-stream":
        shown = said if re.fullmatch(r"[\w.+-]{1,40}/[\w.+-]{1,40}", said) else "something else"
        raise Fault(FaultKind.MALFORMED, f"the answer is {shown}, not an event stream", status=response.status_code)


def _error_in(event: Any) -> Any:
    # No event of the SDKs has such a field, and asking a model of pydantic's for what it lacks takes microseconds.
    fields = event if isinstance(event, dict) else getattr(event, "__pydantic_extra__", None)
    found = fields.get("error") if fields else None
    return {"error": found} if found else None
