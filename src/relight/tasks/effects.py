"""Side effects: intent → done, failed or unknown, and never blindly again."""

from __future__ import annotations

import hashlib
import json
from contextlib import suppress
from dataclasses import dataclass
from enum import Enum, StrEnum
from typing import TYPE_CHECKING, Any, Protocol

from relight.errors import (
    AgainLaterError,
    ConflictError,
    NotFoundError,
    PermanentError,
    RelightError,
    TransientError,
    UnconfirmedError,
)
from relight.tasks import results
from relight.tasks.confirm import Confirm
from relight.tasks.ledger import SQL, canonical, check_id, not_ours, printable
from relight.tasks.results import INLINE_BYTES, Stored, encode

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from relight.clock import Clock
    from relight.tasks.ledger import Ledger, Task

# A call begins this soon after its intent was written, or not at all. So from the intent on, this and the tool's own
# time limit are all that can pass before the tool has acted or never will.
BEGIN_WITHIN_S = 10.0
# The age of an intent is told by the clock of the database that has it now, which may not be the one that wrote it.
CLOCKS_APART_S = 300.0


class EffectStatus(StrEnum):
    """What is known of an effect. An `intent` may have happened; `failed` certainly did not."""

    INTENT = "intent"
    DONE = "done"
    FAILED = "failed"
    UNKNOWN = "unknown"


OPEN = (EffectStatus.INTENT, EffectStatus.UNKNOWN)


class Answer(Enum):
    """What a tool says when it is asked about an effect whose record is missing."""

    NOT_SENT = "not sent"
    CANNOT_TELL = "cannot tell"


# It may have happened, and is sent under its key again, under which the tool does it once.
_ONCE = object()


class Tool(Protocol):
    """Something that acts on the outside world."""

    name: str
    timeout_s: float
    """Seconds after the start of a `send` from which on it has acted or never will, whatever becomes of its caller."""
    honours_keys_s: float
    """For how many seconds a second `send` under one key does not act again and answers like the first; 0 for never."""

    def send(self, request: Any, *, key: str) -> Any:
        """Act, and return a JSON response; hand `key` on as the idempotency key.

        Raises NotSentError when it certainly did not act and may later, RefusedError when it certainly did not and
        never will. Whatever else is raised leaves open whether it acted.
        """
        ...

    def find(self, request: Any, *, key: str) -> Any | Answer:
        """The response of an earlier `send` of this request, or an Answer; asking changes nothing.

        Called no sooner than `timeout_s` after that `send` began, so that NOT_SENT is final.
        """
        ...


class NotSentError(TransientError):
    """The tool certainly did not act; sending again later is safe."""


class RefusedError(PermanentError):
    """The tool certainly did not act, and will not when it is sent the same again."""


class UnansweredError(TransientError):
    """The tool may have acted: it has to be asked before anything is sent again."""


class UnknownEffectError(ConflictError):
    """Nobody can tell whether the effect with this `key` happened: it waits for a person and is never retried
    blindly."""

    def __init__(self, problem: str, *, hint: str = "", key: str = "") -> None:
        super().__init__(problem, hint=hint)
        self.key = key

    def __reduce__(self) -> tuple[Any, ...]:
        return (*super().__reduce__(), {"key": self.key})


class ResponseLostError(UnknownEffectError):
    """The effect happened, and what the tool answered was not kept: it waits for a person who knows."""


class TooSoonError(AgainLaterError):
    """An earlier sending may still be on its way: its outcome is not final yet."""


class RightToAct(Protocol):
    """What must be live while a tool acts: the region's lease, and the worker's claim."""

    def check(self, for_s: float = 0.0) -> None:
        """Return when it is live for `for_s` seconds more; LeaseLostError otherwise."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Effect:
    """One thing done to the outside world, known by what it is.

    `kept` says whether there is a response: of one that happened it may be lost. `final_in_s` counts down to when its
    last sending has happened or never will; `age_s` is since its first intent.
    """

    key: str
    task_id: str
    tool: str
    request: Any
    status: EffectStatus
    response: Any
    kept: bool
    error: str | None
    epoch: int
    sending: int
    final_in_s: float
    age_s: float


def effect_key(tool: str, request: Any, *, task_id: str = "", business_key: str = "") -> str:
    """The idempotency key of an action: what it is, and not where in the program it happened.

    The same request of another task is another action, unless the caller names the action itself with `business_key`
    (an invoice's number, say): then it is one whatever task does it, and whatever the request says.
    """
    # As a later life reads it, so that a tuple is a list in the first one too; and as JSON, whose parts do not run into
    # each other.
    what = (
        ["key", tool, business_key]
        if business_key
        else ["task", tool, task_id, json.loads(encode(request, what=f"the request to {tool}"))]
    )
    return hashlib.sha256(canonical(what).encode("utf-8", "surrogatepass")).hexdigest()


class Effects:
    """The ledger's record of side effects. An intent is always confirmed in the standby, whatever the environment
    trades."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger

    def get(self, key: str) -> Effect | None:
        """The effect with that key, or None."""
        rows = self._ledger.database.execute(SQL["read_effect"], {"key": key}).rows
        return self._effect(rows[0]) if rows else None

    def named(self, prefix: str) -> Effect:
        """The one effect whose key begins so; NotFoundError when there is none, or more than one."""
        rows = self._ledger.database.execute(SQL["keys_like"], {"prefix": f"{_hex(prefix)}%"}).rows
        found = self.get(rows[0][0]) if len(rows) == 1 else None
        if found is None:
            many = "more than one effect's key begins" if rows else "no effect's key begins"
            raise NotFoundError(f"{many} with {prefix!r}", hint="see `relight effects list`")
        return found

    def list(self, statuses: Iterable[EffectStatus] = OPEN, *, limit: int = 100) -> list[Effect]:
        """Effects in these statuses, oldest first."""
        values = {"statuses": [status.value for status in statuses], "limit": limit}
        return [self._effect(row) for row in self._ledger.database.execute(SQL["list_effects"], values).rows]

    def intend(self, task: Task, *, key: str, tool: str, request: Any, final_s: float) -> int | None:
        """Record a new intent, and return the number of its sending; None when the effect is known already.

        On return it is confirmed in the standby. LeaseLostError when the task is no longer this worker's. When it is
        not confirmed, it is known not to have been sent: UnconfirmedError.
        """
        values = self._values(task, key=key, final_s=final_s)
        values |= {
            "tool": check_id(tool),
            "request": encode(request, what=f"the request to {tool}", largest=INLINE_BYTES),
        }
        [(ours, sending)] = self._intend("intend_effect", values, sending_of=lambda rows: rows[0][1])
        if not ours:
            raise not_ours(task)
        return None if sending is None else int(sending)

    def intend_again(
        self, task: Task, effect: Effect, *, final_s: float, unsent: EffectStatus = EffectStatus.FAILED
    ) -> int:
        """Intend an effect once more that certainly did not happen, or that its tool does once only; ConflictError when
        somebody was faster. `unsent` is what is known of it when this sending is not made."""
        values = self._values(task, key=effect.key, final_s=final_s) | {"sending": effect.sending}
        rows = self._intend("intend_again", values, sending_of=lambda rows: rows[0][0] if rows else None, unsent=unsent)
        if not rows:
            self._ledger.check_claim(task)
            raise ConflictError(f"effect {effect.key[:12]} of {effect.tool} changed meanwhile", hint="look at it again")
        return int(rows[0][0])

    def settle(
        self, key: str, status: EffectStatus, *, sending: int, response: Any = None, error: str | None = None
    ) -> Any:
        """Record what became of a sending, and return the response as every later reader will get it.

        One that is done stays done, and what an earlier sending has to say of failure does not touch a later one.
        """
        values, again = self._settled(key, status, sending=sending, response=response, error=error)
        self._ledger.database.execute(SQL["settle_effect"], values, confirmed=Confirm.POLICY)
        return again

    def happened(self, key: str, *, sending: int, response: Any) -> Any:
        """Record that a sending happened, and return the response as every later reader will get it.

        That it happened is recorded too when its response cannot be kept; then the reason is raised.
        """
        try:
            values, again = self._settled(key, EffectStatus.DONE, sending=sending, response=response)
        except RelightError as exc:
            values = self._row(key, EffectStatus.DONE, Stored(), sending=sending, error=f"no response kept: {exc}")
            self._ledger.database.execute(SQL["settle_effect"], values, confirmed=Confirm.POLICY)
            raise
        self._ledger.database.execute(SQL["settle_effect"], values, confirmed=Confirm.POLICY)
        return again

    def resolve(self, effect: Effect, *, happened: bool, response: Any = None, who: str) -> None:
        """Record what a person found out about an effect that waits for it, and let all tasks go on that wait for it.

        ConflictError when the effect does not wait for anybody, or is not what the person saw.
        """
        lost = effect.status is EffectStatus.DONE and not effect.kept and happened
        if effect.status not in OPEN and not lost:
            raise ConflictError(f"effect {effect.key[:12]} is {effect.status}", hint="it waits for nobody")
        if effect.final_in_s > 0 and not lost:
            raise _too_soon(effect)
        status = EffectStatus.DONE if happened else EffectStatus.FAILED
        values, _ = self._settled(
            effect.key, status, sending=effect.sending, response=response, error=f"resolved by {who}"
        )
        with self._ledger.database.transaction(confirmed=Confirm.POLICY) as cur:
            cur.execute(SQL["resolve_effect"], values)
            if cur.rowcount == 0:
                raise ConflictError(f"effect {effect.key[:12]} changed meanwhile", hint="look at it again")
            self._ledger.resume_waiting(cur, effect.key)

    def _intend(
        self,
        name: str,
        values: dict[str, Any],
        *,
        sending_of: Callable[[Sequence[Any]], int | None],
        unsent: EffectStatus = EffectStatus.FAILED,
    ) -> Sequence[Any]:
        """Run a statement that intends, and wait for the standby. What it does not confirm is not sent, and said so: a
        tool that cannot tell would leave it to a person."""
        try:
            return self._ledger.database.execute(SQL[name], values, confirmed=Confirm.ALWAYS).rows
        except UnconfirmedError as exc:
            sending = sending_of(exc.rows) if exc.rows is not None else None
            if sending is not None:
                settled, _ = self._settled(
                    values["key"], unsent, sending=sending, error="not confirmed, and so not sent"
                )
                with suppress(RelightError):
                    self._ledger.database.execute(SQL["settle_effect"], settled)
            raise

    def _settled(
        self, key: str, status: EffectStatus, *, sending: int, response: Any = None, error: str | None = None
    ) -> tuple[dict[str, Any], Any]:
        """What a row says of it, and the response as every later reader will get it."""
        kept, again = results.store(self._ledger.results, response, what=f"the response to effect {key[:12]}")
        return self._row(key, status, kept, sending=sending, error=error), again

    def _row(self, key: str, status: EffectStatus, kept: Stored, *, sending: int, error: str | None) -> dict[str, Any]:
        return {
            "key": key,
            "status": status.value,
            "sending": sending,
            "epoch": self._ledger.epoch,
            "response": kept.inline,
            "response_object": kept.object,
            "error": error and printable(error),
        }

    def _values(self, task: Task, *, key: str, final_s: float) -> dict[str, Any]:
        return {
            "key": key,
            "task_id": task.id,
            "claim": task.claim,
            "epoch": self._ledger.epoch,
            "final_s": final_s,
        }

    def _effect(self, row: Sequence[Any]) -> Effect:
        key, task_id, tool, request, status, response, object_, kept, error, epoch, sending, final_in_s, age_s = row
        return Effect(
            key=key,
            task_id=task_id,
            tool=tool,
            request=request,
            status=EffectStatus(status),
            response=results.load(self._ledger.results, response, object_),
            kept=kept,
            error=error,
            epoch=epoch,
            sending=sending,
            final_in_s=float(final_in_s),
            age_s=float(age_s),
        )


def perform(
    effects: Effects,
    task: Task,
    tool: Tool,
    request: Any,
    *,
    right: RightToAct,
    business_key: str = "",
    clock: Clock,
    begin_within_s: float = BEGIN_WITHIN_S,
) -> Any:
    """Do `request` with `tool` at most once, across crashes and regions, and return its response.

    The intent is confirmed in the standby, and the right to act is live for longer than the call may take, before the
    tool is called. An effect that an earlier life left open is unknown: a tool that honours keys is sent the same once
    more under the same key, else it is asked, and where it cannot tell, UnknownEffectError is raised and nothing is
    sent. TooSoonError when the earlier sending may still be on its way.
    """
    key = effect_key(tool.name, request, task_id=task.id, business_key=business_key)
    final_s = begin_within_s + tool.timeout_s
    begun = clock.monotonic()
    sending = effects.intend(task, key=key, tool=tool.name, request=request, final_s=final_s)
    # What is known when this sending is not made. Where an earlier one is open, nothing is.
    unsent = EffectStatus.FAILED
    if sending is None:
        known = effects.get(key)
        if known is None:
            raise ConflictError(f"effect {key[:12]} of {tool.name} is gone", hint="do not delete from the ledger")
        if known.status is EffectStatus.DONE:
            return known.response if known.kept else _find_response(effects, known, tool)
        if known.status in OPEN:
            found = _reconcile(effects, known, tool, right=right, begin_within_s=begin_within_s)
            if found is _ONCE:
                unsent = EffectStatus.UNKNOWN
            elif found is not Answer.NOT_SENT:
                return effects.happened(key, sending=known.sending, response=found)
        begun = clock.monotonic()
        sending = effects.intend_again(task, known, final_s=final_s, unsent=unsent)
    try:
        right.check(tool.timeout_s)
        if clock.monotonic() - begun > begin_within_s:
            raise NotSentError(f"effect {key[:12]} of {tool.name} was held up after its intent", hint="try it again")
    except RelightError as exc:
        # Nothing was sent. Saying so spares the next life a question; a region that lost its lease may not say it.
        with suppress(RelightError):
            effects.settle(key, unsent, sending=sending, error=str(exc))
        raise
    return _send(effects, tool, request, key=key, sending=sending, unsent=unsent)


def _send(effects: Effects, tool: Tool, request: Any, *, key: str, sending: int, unsent: EffectStatus) -> Any:
    try:
        response = tool.send(request, key=key)
    except (NotSentError, RefusedError) as exc:
        effects.settle(key, unsent, sending=sending, error=str(exc))
        raise
    except Exception as exc:
        effects.settle(key, EffectStatus.UNKNOWN, sending=sending, error=f"{type(exc).__name__}: {exc}")
        raise UnansweredError(
            f"{tool.name} may or may not have acted on effect {key[:12]}: {type(exc).__name__}",
            hint="it is asked before anything is sent again",
        ) from exc
    return effects.happened(key, sending=sending, response=response)


def _find_response(effects: Effects, known: Effect, tool: Tool) -> Any:
    """The response to an effect that happened, from the tool: it could not be kept when it came."""
    found = tool.find(known.request, key=known.key)
    if isinstance(found, Answer):
        raise ResponseLostError(
            f"effect {known.key[:12]} of {tool.name} happened, and its response was not kept",
            hint=f"`relight effects resolve {known.key[:12]} --happened --response JSON`",
            key=known.key,
        )
    return effects.happened(known.key, sending=known.sending, response=found)


def _reconcile(
    effects: Effects, known: Effect, tool: Tool, *, right: RightToAct, begin_within_s: float
) -> Any | Answer:
    """What became of an open effect: its response, NOT_SENT for certain, or that its tool will do it once only."""
    if known.final_in_s > 0:
        raise _too_soon(known)
    right.check(tool.timeout_s)
    if known.age_s + begin_within_s + tool.timeout_s + CLOCKS_APART_S < tool.honours_keys_s:
        return _ONCE
    try:
        found = tool.find(known.request, key=known.key)
    except RelightError:
        effects.settle(known.key, EffectStatus.UNKNOWN, sending=known.sending, error="the tool could not be asked")
        raise
    if found is Answer.CANNOT_TELL:
        effects.settle(known.key, EffectStatus.UNKNOWN, sending=known.sending, error="the tool cannot tell")
        raise UnknownEffectError(
            f"effect {known.key[:12]} of {tool.name} may or may not have happened",
            hint=f"find out, then `relight effects resolve {known.key[:12]}`",
            key=known.key,
        )
    return found


def _too_soon(effect: Effect) -> TooSoonError:
    return TooSoonError(
        f"what became of effect {effect.key[:12]} of {effect.tool} is final in {effect.final_in_s:.1f} s",
        hint="nothing was sent; try again then",
        wait_s=effect.final_in_s,
    )


def _hex(prefix: str) -> str:
    if not prefix or not all(digit in "0123456789abcdef" for digit in prefix):
        raise NotFoundError(f"{prefix!r} is not the beginning of an effect's key", hint="see `relight effects list`")
    return prefix
