"""Calls the first LLM provider that can be asked, and the next when it fails.

All decisions are made here, on one event loop; `blocking.py` is a face of the same for code that has no loop. What
counts against a provider is in `faults.py`, when it is left alone in `breaker.py`.
"""

from __future__ import annotations

import asyncio
import dataclasses
import logging
import math
from contextlib import AsyncExitStack, aclosing
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, TypeVar

from relight.clock import SystemClock
from relight.errors import (
    ConfigError,
    IncapableError,
    ProvidersDownError,
    RequestRefusedError,
    StreamCutError,
    UnavailableError,
    WouldDegradeError,
)
from relight.providers.board import Board, Shut
from relight.providers.breaker import Abandoned, Cooled, Denied, Failed, Phase, Succeeded
from relight.providers.choose import lacks
from relight.providers.faults import Fault, FaultKind, consequence
from relight.providers.messages import Answer, Attempt, Finished, Restarted, Started, Usage
from relight.providers.port import Completed
from relight.providers.prompts import Prompt
from relight.providers.spec import ANY_PROVIDER, ProviderLimits, check_specs, provider_key

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable, Sequence
    from datetime import datetime

    from relight.clock import Clock
    from relight.providers.board import Permit
    from relight.providers.breaker import Outcome
    from relight.providers.incidents import Incidents
    from relight.providers.messages import Delta, Event, Request
    from relight.providers.port import Provider
    from relight.providers.prompts import Prompts
    from relight.providers.spec import ProviderSpec

_log = logging.getLogger(__name__)

_Value = TypeVar("_Value")

# How long to wait before a provider that has just failed, and is not left alone yet, is asked again.
AGAIN_S = 1.0


class OnCut(StrEnum):
    """What a stream does whose provider fails after the first piece was given out: end with an error, or announce with
    `Restarted` that another begins anew."""

    ERROR = "error"
    RESTART = "restart"


@dataclass(frozen=True, slots=True, kw_only=True)
class Degradation:
    """Answers have begun to come from a fallback, or (`degraded` is False) from the first choice again."""

    degraded: bool
    provider: str
    at: datetime


class AsyncRouter:
    """Asks providers in the order given, on the event loop where it is first used.

    Raises ConfigError when made without providers, or with two of one name. `on_attempt` and `on_degraded` are called
    on the event loop and must not block; what they raise is logged and stops nothing.
    """

    def __init__(
        self,
        providers: Sequence[Provider],
        *,
        limits: ProviderLimits | None = None,
        board: Board | None = None,
        prompts: Prompts | None = None,
        incidents: Incidents | None = None,
        on_attempt: Callable[[Attempt], None] | None = None,
        on_degraded: Callable[[Degradation], None] | None = None,
        clock: Clock | None = None,
    ) -> None:
        check_specs([provider.spec for provider in providers])
        self.limits = limits or ProviderLimits()
        self._providers = tuple(providers)
        self._clock = clock or SystemClock()
        self.board = board or Board(
            [provider.spec.name for provider in providers], limits=self.limits, clock=self._clock
        )
        self._prompts = prompts
        self._incidents = incidents
        self._on_attempt = on_attempt
        self._on_degraded = on_degraded
        self._under_way: dict[str, set[_Patience]] = {provider.spec.name: set() for provider in providers}
        self._degraded = False
        self._closed = False
        self._loop: asyncio.AbstractEventLoop | None = None

    @property
    def specs(self) -> tuple[ProviderSpec, ...]:
        """The providers, in order of preference."""
        return tuple(provider.spec for provider in self._providers)

    async def complete(
        self, request: Request, *, deadline_s: float | None = None, degrade: bool = True, wait_s: float = 0.0
    ) -> Answer:
        """The whole answer of the first provider that gives one.

        A provider that fails in the middle is as if it had failed at once: the next one answers from the beginning.
        `deadline_s` is for the whole call, however many are tried (by default the limits'). With `degrade` False, only
        the first provider that could do the job is asked. When no one can be asked now, the call waits for up to
        `wait_s` until one can.

        Raises ProvidersDownError or WouldDegradeError, which say when to come back; UnavailableError when the deadline
        passed, or none gave a usable answer; RequestRefusedError when a provider says that the request is wrong;
        IncapableError when no provider could do what it needs; ConfigError for a prompt that does not fit.
        """
        call = self._call(request, deadline_s=deadline_s, degrade=degrade, wait_s=wait_s, on_cut=None)
        async with aclosing(call) as events:
            async for event in events:
                if isinstance(event, Finished):
                    return event.answer
        raise AssertionError("a call ends with an answer or an error")

    async def stream(
        self,
        request: Request,
        *,
        deadline_s: float | None = None,
        degrade: bool = True,
        wait_s: float = 0.0,
        on_cut: OnCut = OnCut.ERROR,
    ) -> AsyncGenerator[Event, None]:
        """The answer as it comes: `Started`, pieces, and `Finished` with the whole.

        A provider that fails before its first piece is not noticed. After it, `on_cut` decides: StreamCutError, or
        `Restarted` and another provider's answer from the beginning. A stream that did not end with `Finished` gave no
        answer, and raises. The other arguments and errors are those of `complete`. The time that the caller takes
        between pieces counts for the deadline alone.
        """
        call = self._call(request, deadline_s=deadline_s, degrade=degrade, wait_s=wait_s, on_cut=on_cut)
        async with aclosing(call) as events:
            async for event in events:
                yield event

    async def close(self) -> None:
        """Close the providers' connections; safe to call twice.

        Calls under way end with UnavailableError, which no provider is blamed for. A board and incidents that were
        given belong to whoever gave them. Every provider is closed, whatever another one raises.
        """
        self._closed = True
        async with AsyncExitStack() as ends:
            for provider in self._providers:
                ends.push_async_callback(provider.close)

    # -- one call

    async def _call(
        self, request: Request, *, deadline_s: float | None, degrade: bool, wait_s: float, on_cut: OnCut | None
    ) -> AsyncGenerator[Event, None]:
        """The events of a call; without `on_cut`, of an answer that is given out whole or not at all."""
        loop = self._bind()
        choices = self._capable(request)
        began = loop.time()
        deadline = began + (self.limits.deadline_s if deadline_s is None else deadline_s)
        tried: list[Attempt] = []
        cut = ""
        while True:
            first, faults, waits = choices[0], dict[str, Fault](), dict[str, Shut]()
            for provider in list(choices):
                if not degrade and provider is not choices[0]:
                    break
                name = provider.spec.name
                permit = await self.board.admitted(name, within_s=deadline - loop.time())
                if isinstance(permit, Shut):
                    waits[name] = permit
                    continue
                begun, degraded = False, provider is not choices[0]
                another = degrade and provider is not choices[-1]
                patience = _Patience(loop, provider.spec, deadline=deadline, another=another)
                pieces = self._ask(
                    provider, request, permit, patience, whole=on_cut is None, degraded=degraded, tried=tried
                )
                try:
                    async with aclosing(pieces):
                        async for piece in pieces:
                            if not begun:
                                begun = True
                                yield _beginning(provider.spec, degraded=degraded, cut=cut)
                            if isinstance(piece, Completed):
                                dropped = provider.dropped(request)
                                answer = _answer(piece, name, degraded=degraded, dropped=dropped, tried=tried)
                                self._answered(answer)
                                yield Finished(answer=answer)
                                return
                            yield piece
                except Fault as fault:
                    if not consequence(fault).falls_through:
                        raise _refused(name, fault) from fault
                    if begun and on_cut is OnCut.ERROR:
                        raise _cut_short(name, fault) from fault
                    if begun:
                        cut = f"{name}: {fault}"
                    faults[name] = fault
                    if fault.kind is FaultKind.TOO_LONG and len(choices) > 1:
                        # It could not do the job: the next one is the first choice then, and no fallback.
                        choices.remove(provider)
            mends = [_mends_in(fault, self.limits) for fault in faults.values()]
            wait = min([*(shut.wait_s for shut in waits.values()), *mends])
            if loop.time() + wait > min(began + wait_s, deadline):
                raise _nobody(first, faults, waits, wait=wait, degrade=degrade)
            await asyncio.sleep(wait)

    async def _ask(
        self,
        provider: Provider,
        request: Request,
        permit: Permit,
        patience: _Patience,
        *,
        whole: bool,
        degraded: bool,
        tried: list[Attempt],
    ) -> AsyncGenerator[Delta | Completed, None]:
        """One provider's answer, within its limits, or the last of its pieces where it is wanted `whole`.

        Settles the permit, whatever happens, and writes the attempt down.

        Raises Fault, or UnavailableError when it was the call's deadline that passed.
        """
        outcome: Outcome = Abandoned()
        said, detail, usage = "abandoned", "", Usage()
        under_way = self._under_way[provider.spec.name]
        under_way.add(patience)
        try:
            async with aclosing(provider.stream(self._for(provider, request), heard=patience.heard)) as pieces:
                while True:
                    piece = await patience.next(pieces, whole=whole)
                    if isinstance(piece, Completed):
                        # Told before it is given out: a consumer that has its answer need not come back.
                        outcome, said, usage = Succeeded(first_event_s=patience.first_event_s), "answered", piece.usage
                        break
                    yield piece
        except Fault as fault:
            if self._closed:
                # Its connection was taken from it.
                raise closed() from None
            outcome, said, detail = _outcome(fault), fault.kind.value, fault.detail
            if fault.kind is FaultKind.HURRIED and patience.silent_s >= self.limits.slow_least_s:
                outcome = Failed(reason=fault.kind.value)
            if consequence(fault).pages:
                self._denied(provider.spec.name, fault)
            raise
        except UnavailableError:
            # The caller's time is over, and so long a silence is the provider's fault all the same.
            if patience.silent_s >= self.limits.slow_least_s:
                outcome = Failed(reason=FaultKind.SILENCE)
            raise
        finally:
            patience.stop()
            under_way.discard(patience)
            self.board.settle(permit, outcome)
            if isinstance(outcome, Failed) and self.board.state(provider.spec.name).phase is Phase.OPEN:
                for other in under_way:
                    other.give_up()
            attempt = Attempt(
                provider=provider.spec.name,
                model=provider.spec.model,
                outcome=said,
                seconds=patience.seconds,
                first_event_s=patience.first_event_s,
                detail=detail,
                usage=usage,
                degraded=degraded,
            )
            tried.append(attempt)
            _run_hook(self._on_attempt, attempt)
        yield piece

    def _bind(self) -> asyncio.AbstractEventLoop:
        """Connections belong to the loop that they were opened on."""
        if self._closed:
            raise ConfigError("this router is closed", hint="make another one")
        loop = asyncio.get_running_loop()
        if self._loop is None:
            self._loop = loop
        elif self._loop is not loop:
            raise ConfigError(
                "this router is used on a second event loop", hint="make one AsyncRouter for each loop, or use Router"
            )
        return loop

    def _capable(self, request: Request) -> list[Provider]:
        reasons = [lacks(request, provider.spec) for provider in self._providers]
        found = [provider for provider, reason in zip(self._providers, reasons, strict=True) if not reason]
        if not found:
            names = (spec.name for spec in self.specs)
            said = "; ".join(f"{name} {reason}" for name, reason in zip(names, reasons, strict=True))
            raise IncapableError(f"no provider can do this: {said}", hint="ask for less, or configure one that can")
        return found

    def _for(self, provider: Provider, request: Request) -> Request:
        """The request with the system prompt in the provider's form."""
        if not isinstance(request.system, Prompt):
            return request
        if self._prompts is None:
            raise ConfigError(f"there is no prompt {request.system.name!r}", hint="give the router its prompts")
        text = self._prompts.render(request.system, provider=provider.spec.name)
        return dataclasses.replace(request, system=text)

    def _answered(self, answer: Answer) -> None:
        # An answer of another provider that was the first to have what it takes says nothing of how the first one is.
        tells = answer.degraded or answer.provider == self._providers[0].spec.name
        if self._incidents is not None:
            self._incidents.answered(answer.provider, degraded=answer.degraded if tells else None)
        if tells and answer.degraded is not self._degraded:
            self._degraded = answer.degraded
            change = Degradation(degraded=answer.degraded, provider=answer.provider, at=self._clock.now())
            _log.warning("llm_degraded", extra={"degraded": change.degraded, "provider": change.provider})
            _run_hook(self._on_degraded, change)

    def _denied(self, provider: str, fault: Fault) -> None:
        _log.error("llm_provider_denied", extra={"provider": provider, "detail": fault.detail})
        if self._incidents is not None:
            self._incidents.denied(provider, str(fault))


class _Patience:
    """The time limits of one attempt: silence, no progress, and the call's deadline.

    Where there is `another` provider to ask, one that says nothing is left after half of the time that the call has, so
    that a call with little time has some for the next. The limits only ever move on, so one timer is enough, which
    looks anew when it rings: an event costs a note of the time.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, spec: ProviderSpec, *, deadline: float, another: bool) -> None:
        self.began = loop.time()
        self._loop = loop
        self._spec = spec
        self._deadline = deadline
        self._another = another
        self._half = self.began + (deadline - self.began) / 2 if another else math.inf
        self.first_event_s: float | None = None
        self._step_began = self._heard_at = self.began
        self._heard_anything = False
        self._scope: asyncio.Timeout | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._overdue: Fault | UnavailableError | None = None

    @property
    def seconds(self) -> float:
        """How long the attempt has taken until now."""
        return self._loop.time() - self.began

    @property
    def silent_s(self) -> float:
        """How long nothing at all has come; 0 once something has."""
        return 0.0 if self._heard_anything else self.seconds

    def heard(self) -> None:
        """A whole event has come over the wire."""
        self._heard_anything = True
        self._heard_at = self._loop.time()

    async def next(self, pieces: AsyncGenerator[Delta | Completed, None], *, whole: bool) -> Delta | Completed:
        """The next piece, or the last where `whole` is asked for; Fault when it does not come in time, UnavailableError
        when the call's time is over."""
        # What the caller took between two pieces is not the provider's silence.
        self._begin_step()
        if self._timer is None:
            self._timer = self._loop.call_at(self._until(), self._look)
        try:
            async with asyncio.timeout(None) as self._scope:
                async for piece in pieces:
                    if self.first_event_s is None:
                        self.first_event_s = self.seconds
                    if not whole or isinstance(piece, Completed):
                        return piece
                    self._begin_step()
        except TimeoutError:
            if self._overdue is None:
                raise
            raise self._overdue from None
        finally:
            self._scope = None
        raise Fault(FaultKind.TRUNCATED, "the stream ended without an answer")

    def give_up(self) -> None:
        """The provider's breaker has opened: where nothing has come yet, and another can be asked, nothing will."""
        if self._another and not self._heard_anything and self._scope is not None and self._overdue is None:
            self._overdue = Fault(FaultKind.SILENCE, "nothing until the breaker opened")
            self._scope.reschedule(self._loop.time())

    def stop(self) -> None:
        """Nothing is waited for any more."""
        if self._timer is not None:
            self._timer.cancel()

    def _begin_step(self) -> None:
        self._step_began = self._heard_at = self._loop.time()

    def _look(self) -> None:
        if self._overdue is not None:
            return
        until = self._until()
        if self._scope is None:
            self._timer = None  # the next step sets it
        elif until > self._loop.time():
            self._timer = self._loop.call_at(until, self._look)
        else:
            self._overdue = self._why(until)
            self._scope.reschedule(until)

    def _until(self) -> float:
        silence = self._heard_at + self._spec.silence_s
        until = min(silence, self._step_began + self._spec.progress_s, self._deadline)
        return until if self._heard_anything else min(until, self._half)

    def _why(self, until: float) -> Fault | UnavailableError:
        if until == self._deadline:
            problem = f"the call's deadline passed while {self._spec.name} was asked"
            return UnavailableError(problem, hint="give it more time, or ask for less")
        if until == self._step_began + self._spec.progress_s:
            return Fault(FaultKind.NO_PROGRESS, f"signs of life alone for {self._spec.progress_s:g} s")
        if until == self._half:
            return Fault(FaultKind.HURRIED, "nothing for half of the call's time")
        kind = FaultKind.STALLED if self._heard_anything else FaultKind.SILENCE
        return Fault(kind, f"nothing for {self._spec.silence_s:g} s")


def _outcome(fault: Fault) -> Outcome:
    """What the provider's breaker is told."""
    follows = consequence(fault)
    if fault.kind is FaultKind.DENIED:
        return Denied()
    if follows.cools:
        return Cooled(wait_s=fault.wait_s)
    return Failed(reason=fault.kind.value) if follows.counts else Abandoned()


def _beginning(spec: ProviderSpec, *, degraded: bool, cut: str) -> Started | Restarted:
    if cut:
        return Restarted(provider=spec.name, model=spec.model, degraded=degraded, reason=cut)
    return Started(provider=spec.name, model=spec.model, degraded=degraded)


def _answer(
    done: Completed, provider: str, *, degraded: bool, dropped: tuple[str, ...], tried: Sequence[Attempt]
) -> Answer:
    return Answer(
        message=done.message,
        stop=done.stop,
        usage=done.usage,
        provider=provider,
        model=done.model,
        id=done.id,
        stop_sequence=done.stop_sequence,
        degraded=degraded,
        dropped=dropped,
        attempts=tuple(tried),
    )


def _mends_in(fault: Fault, limits: ProviderLimits) -> float:
    """After how long it may help to ask the same again; never, where it was answered with nonsense, or is too long."""
    if fault.kind in (FaultKind.EMPTY, FaultKind.BROKEN_CALL, FaultKind.TOO_LONG):
        return math.inf
    if fault.kind is FaultKind.DENIED:
        return limits.denied_s
    if consequence(fault).cools:
        return min(fault.wait_s or limits.cool_s, limits.cool_at_most_s)
    return AGAIN_S


def _nobody(
    first: Provider, faults: dict[str, Fault], waits: dict[str, Shut], *, wait: float, degrade: bool
) -> Exception:
    """The error for a call that nobody answered."""
    told = [f"{name}: {fault}" for name, fault in faults.items()]
    said = "; ".join([*told, *(f"{name}: {shut.reason}" for name, shut in waits.items())])
    if not waits and all(fault.kind is FaultKind.TOO_LONG for fault in faults.values()):
        return IncapableError(f"the request is too long: {said}", hint="shorten it, or configure a longer context")
    if math.isinf(wait):
        return UnavailableError(f"no provider gave a usable answer: {said}", hint="look at the request, and try again")
    hint = f"come back in {wait:.0f} s"
    if not degrade:
        return WouldDegradeError(
            f"the first provider cannot be asked: {said}",
            hint=hint,
            wait_s=wait,
            waits_for=provider_key(first.spec.name),
        )
    return ProvidersDownError(f"no provider can be asked: {said}", hint=hint, wait_s=wait, waits_for=ANY_PROVIDER)


def closed() -> UnavailableError:
    """What ends a call under way when its router is closed."""
    return UnavailableError("the router was closed during the call", hint="ask again elsewhere")


def _refused(provider: str, fault: Fault) -> RequestRefusedError:
    hint = "correct the request: another provider would be asked the same"
    return RequestRefusedError(f"{provider} refused the request: {fault.detail}", hint=hint, status=fault.status or 400)


def _cut_short(provider: str, fault: Fault) -> StreamCutError:
    return StreamCutError(f"{provider} broke off: {fault}", hint="what came is no answer; ask again")


def _run_hook(hook: Callable[[_Value], None] | None, value: _Value) -> None:
    if hook is None:
        return
    try:
        hook(value)
    except Exception:  # noqa: BLE001 - an answer is not lost for a hook's sake
        _log.exception("llm_hook_failed")
