"""Durable steps: each runs once, and gives back its stored result when it had already run."""

from __future__ import annotations

import random
import threading
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from relight.errors import (
    AgainLaterError,
    ConflictError,
    LeaseLostError,
    PermanentError,
    StaleEpochError,
    UnconfirmedError,
)
from relight.retry import delay_s
from relight.tasks.effects import (
    BEGIN_WITHIN_S,
    Effects,
    RefusedError,
    UnknownEffectError,
    effect_key,
    perform,
)
from relight.tasks.ledger import Step, check_id
from relight.tasks.results import UnstorableError, copied
from relight.tasks.waiting import only_waits

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from psycopg2.extensions import cursor

    from relight.clock import Clock
    from relight.recovery.epoch import HeldLease
    from relight.tasks.effects import Tool
    from relight.tasks.ledger import Ledger, Task

CLAIM_S = 30.0
# A claim is renewed when less than this part of it is left.
_RENEW_AT = 0.5


@dataclass(frozen=True, slots=True, kw_only=True)
class Retry:
    """How often a failing step is tried, in all lives of its task together, and how long is waited in between.

    A wait of up to `here_s` is waited for by the worker; for a longer one the task is given back.
    """

    attempts: int = 20
    first_s: float = 1.0
    factor: float = 2.0
    at_most_s: float = 300.0
    jitter: float = 0.2
    here_s: float = 2.0

    def after(self, failures: int, *, chance: random.Random) -> float:
        """Seconds to wait after that many failures."""
        return delay_s(
            failures,
            first_s=self.first_s,
            factor=self.factor,
            at_most_s=self.at_most_s,
            jitter=self.jitter,
            random=chance,
        )


class StepFailedError(PermanentError):
    """A step failed as often as its policy allows: its task cannot go on without a person."""


# What is certain to come again. Anything else is taken to be passing, because whoever was told that a task is accepted
# was told that it will be done: a store that is missing now may be hydrated in a minute.
HOPELESS = (RefusedError, StepFailedError, UnknownEffectError, UnstorableError)


@dataclass(slots=True, kw_only=True)
class OpenStep:
    """A step while it is open. `done` says whether an earlier life did it; if not, `save` its result before leaving."""

    name: str
    key: str
    done: bool
    result: Any = None
    _save: Callable[[Any], Any] = field(repr=False)

    def save(self, result: Any) -> Any:
        """Store the result, and return it as every later life will get it."""
        self.result = self._save(result)
        self.done = True
        return self.result


class TaskRun:
    """One life of a task that this worker holds. Safe to use from several threads.

    The claim is renewed as it runs down, and what is left of it is known without asking the database: counted on the
    monotonic clock from before the renewal was sent. Results that earlier lives stored are read once, at the beginning;
    nobody else can add any while this worker holds the task.
    """

    def __init__(
        self,
        ledger: Ledger,
        task: Task,
        *,
        lease: HeldLease,
        clock: Clock,
        claim_s: float = CLAIM_S,
        claimed_at: float | None = None,
        retry: Retry | None = None,
        begin_within_s: float = BEGIN_WITHIN_S,
        chance: random.Random | None = None,
    ) -> None:
        """`claimed_at` is the monotonic time before the claim was asked for; without it the claim is renewed first."""
        self.task = task
        self._ledger = ledger
        self._effects = Effects(ledger)
        self._lease = lease
        self._claim_s = claim_s
        self._clock = clock
        self._claimed_until = float("-inf") if claimed_at is None else claimed_at + claim_s
        self._retry = retry or Retry()
        self._begin_within_s = begin_within_s
        self._chance = chance or random.Random()  # noqa: S311 - spreads retries
        self._lock = threading.RLock()
        # Of its own: a database that says nothing to a renewal must not stop who opens or leaves a step.
        self._renewing = threading.Lock()
        self._known: dict[str, Step] | None = {} if task.first else None
        self._open: set[str] = set()

    @property
    def epoch(self) -> int:
        """The epoch of the region's lease."""
        return self._lease.epoch

    def check(self, for_s: float = 0.0) -> None:
        """Return when both the region's lease and this worker's claim are live for `for_s` seconds more."""
        self._lease.check(for_s)
        left = self._claimed_until - self._clock.monotonic()
        if left <= for_s:
            raise LeaseLostError(
                f"the claim on task {self.task.id!r} is live for {max(0.0, left):.1f} s and {for_s:g} s are needed",
                hint="nothing was done; whoever claims it next goes on",
            )

    def heartbeat(self, for_s: float = 0.0) -> None:
        """Renew the claim where it has run down, or is shorter than `for_s`; to be called regularly while a step takes
        long.

        LeaseLostError when the task is no longer this worker's.
        """
        with self._renewing:
            before = self._clock.monotonic()
            if self._claimed_until - before > max(self._claim_s * _RENEW_AT, for_s):
                return
            claim_s = max(self._claim_s, for_s + self._claim_s * _RENEW_AT)
            self._ledger.extend(self.task, lease_s=claim_s)
            self._claimed_until = before + claim_s

    def run(
        self,
        name: str,
        fn: Callable[[], Any],
        *,
        key: str = "",
        retry: Retry | None = None,
        remember: Callable[[cursor, Any], None] | None = None,
    ) -> Any:
        """Run `fn` unless it is done, store its result, and return the result; it is JSON.

        `key` tells apart two steps of one name. What `remember` writes through the cursor it is given is committed
        together with the result, so that a finished step never lacks its memory. What `fn` raises is a failure, counted
        across lives: after a short wait it is tried again, for a longer one AgainLaterError is raised, and
        StepFailedError when it failed as often as `retry` allows. An AgainLaterError is no failure, and comes out as it
        is.
        """
        policy = retry or self._retry
        while True:
            with self.step(name, key=key, remember=remember) as step:
                if step.done:
                    return step.result
                try:
                    result = fn()
                except Exception as exc:  # noqa: BLE001 - a step may raise anything; its failure is recorded
                    wait_s = self.failed(name, key=key, exc=exc, retry=policy)
                else:
                    return step.save(result)
            self._clock.sleep(wait_s)

    @contextmanager
    def step(
        self, name: str, *, key: str = "", remember: Callable[[cursor, Any], None] | None = None
    ) -> Iterator[OpenStep]:
        """A step as a block: look at `done`, else compute and `save`. ConflictError when the step is open already."""
        key = check_id(key or name)
        check_id(name)
        with self._alone(key):
            known = self._steps().get(key)
            if known is not None and known.done:
                yield OpenStep(name=name, key=key, done=True, result=copied(known.result), _save=_refuse)
                return
            self.heartbeat()
            yield OpenStep(name=name, key=key, done=False, _save=lambda it: self._store(name, key, it, remember))

    def failed(self, name: str, *, key: str = "", exc: Exception, retry: Retry | None = None) -> float:
        """Record that a step failed, and return after how many seconds it is to be tried again, here.

        Raises AgainLaterError when that is too long to wait here, StepFailedError when it is over. Raises `exc` itself,
        and records nothing, when trying again is of no use, or not for this worker to do, or when nothing failed: an
        AgainLaterError says that it was not the time.
        """
        if isinstance(exc, (LeaseLostError, StaleEpochError, UnconfirmedError, *HOPELESS)) or only_waits(exc):
            raise exc
        key, policy = key or name, retry or self._retry
        text = f"{type(exc).__name__}: {exc}"
        failures = self._ledger.record_failure(self.task, key=key, name=name, error=text)
        if failures >= policy.attempts:
            raise StepFailedError(f"step {key!r} failed {failures} times, at last with {text}") from exc
        wait_s = policy.after(failures, chance=self._chance)
        if wait_s > policy.here_s:
            raise AgainLaterError(f"step {key!r} failed {failures} times, now with {text}", wait_s=wait_s) from exc
        return wait_s

    def effect(self, tool: Tool, request: Any, *, key: str = "") -> Any:
        """Do something to the outside world at most once, and return the tool's response.

        The same request again in this task is the same effect; `key` names the action itself, and is then the same
        effect in every task.
        """
        name = effect_key(tool.name, request, task_id=self.task.id, business_key=key)
        with self._alone(f"effect {name}"):
            self.heartbeat(self._begin_within_s + tool.timeout_s)
            return perform(
                self._effects,
                self.task,
                tool,
                request,
                right=self,
                business_key=key,
                clock=self._clock,
                begin_within_s=self._begin_within_s,
            )

    def finish(self, result: Any) -> Any:
        """Record that the task is done, and return its result as every reader will get it."""
        return self._ledger.finish(self.task, result)

    def _steps(self) -> dict[str, Step]:
        with self._lock:
            if self._known is None:
                self._known = self._ledger.steps(self.task)
            return self._known

    def _store(self, name: str, key: str, result: Any, remember: Callable[[cursor, Any], None] | None) -> Any:
        kept = self._ledger.record_step(self.task, key=key, name=name, result=result, also=remember)
        with self._lock:
            # What the caller does to its result is not seen by who asks again.
            self._steps()[key] = Step(done=True, result=copied(kept))
        return kept

    @contextmanager
    def _alone(self, name: str) -> Iterator[None]:
        with self._lock:
            if name in self._open:
                raise ConflictError(
                    f"{name!r} of task {self.task.id!r} is under way", hint="await it, or give it a key"
                )
            self._open.add(name)
        try:
            yield
        finally:
            with self._lock:
                self._open.discard(name)


def _refuse(result: Any) -> Any:  # noqa: ARG001 - what was to be saved does not matter
    raise ConflictError("the step was done in an earlier life", hint="look at `done` before saving")
