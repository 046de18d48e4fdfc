"""The sentinel: watch the primary for a while, and start the recovery when it is lost."""

from __future__ import annotations

import json
import logging
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from relight.adapters import aws
from relight.errors import ConflictError, RelightError, TransientError
from relight.recovery.decide import START_AGAIN_S, Decision, Policy, Verdict, decide
from relight.recovery.evidence import HistoryStore, ProbeHistory, gather
from relight.recovery.telling import News, Severity, key_of, tell

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from datetime import datetime

    from relight.clock import Clock
    from relight.recovery.epoch import LeaseStore
    from relight.recovery.evidence import Evidence

_log = logging.getLogger(__name__)

PAGE_AGAIN_S = 3600.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Watch:
    """How one invocation of the sentinel ended."""

    verdict: Verdict
    probes: int
    reasons: tuple[str, ...]
    run_id: str = ""
    is_over: bool = False


@dataclass(slots=True, kw_only=True)
class Sentinel:
    """One invocation's watch over the region that holds the lease.

    `name` is this one's alone. `recover` starts a recovery, and `runs` says whether one for an epoch runs. With
    `must_work`, for active-active, an answer counts only when it says that the region works: one that has lost its
    right to act may serve reads on.
    """

    name: str
    urls: Mapping[str, str]
    history: HistoryStore
    leases: LeaseStore
    policy: Policy
    recover: Callable[[str, Decision, datetime], None]
    runs: Callable[[int], bool]
    tell_people: Callable[[Decision], None]
    interval_s: float
    timeout_s: float
    clock: Clock
    start_again_s: float = START_AGAIN_S
    must_work: bool = False
    _looked: bool = field(default=False, init=False)

    def watch(self, *, for_s: float) -> Watch:
        """Look every `interval_s`, until another watch has begun, or for `for_s` seconds.

        Between the last look of a watch and the first of the one that took over, no more time passes than between any
        two: a watch looks on until the other has looked, and what both saw is counted once. Returns early when a
        recovery was started. A passing error of the lease's own store costs one look and not the watch.
        """
        began = self.clock.monotonic()
        count = 0
        while True:
            count += 1
            try:
                done = self.look(count)
            except TransientError as exc:
                _log.warning("look_failed", extra={"error": str(exc)})
                done = Watch(verdict=Verdict.HOLD, probes=count, reasons=("the lease could not be read",))
            next_at = count * self.interval_s
            if done.is_over or next_at >= for_s:
                return done
            self.clock.sleep(began + next_at - self.clock.monotonic())

    def look(self, count: int) -> Watch:
        """Look for the `count`th time, act on what is decided, and say how the watch would end with it."""
        found = self.leases.read()
        region = found[0].region if found else self.policy.primary_region
        evidence = gather(
            url=self.urls[region],
            region=region,
            history=self.history,
            lease=found[0] if found else None,
            timeout_s=self.timeout_s,
            clock=self.clock,
            watch=self.name,
            takes_over=not self._looked,
            must_work=self.must_work,
        )
        if evidence is None:
            return Watch(verdict=Verdict.HOLD, probes=count, reasons=("another watch has taken over",), is_over=True)
        self._looked = True
        decision = decide(evidence, self.policy)
        _log.info("decision", extra={"verdict": decision.verdict.value, "reasons": decision.reasons})
        run_id = ""
        if decision.verdict is Verdict.RECOVER:
            run_id = self.start(decision, evidence)
        if decision.verdict is Verdict.PAGE:
            self.page(decision, evidence)
        return Watch(
            verdict=decision.verdict, probes=count, reasons=decision.reasons, run_id=run_id, is_over=bool(run_id)
        )

    def start(self, decision: Decision, evidence: Evidence) -> str:
        """Start a recovery, and return its run; empty when none was started.

        Again it is only after a while, and not as long as one for the same epoch runs: it may try again what passes, or
        wait for a person.
        """
        at = evidence.at
        if not _is_over(evidence.probes.started_at, at, self.start_again_s) or self.runs(decision.next_epoch):
            return ""
        run_id = f"{run_prefix(decision.next_epoch)}{at:%Y%m%dT%H%M%SZ}"
        started = self._once(evidence, "started_at", self.start_again_s, lambda: self.recover(run_id, decision, at))
        return run_id if started else ""

    def page(self, decision: Decision, evidence: Evidence) -> None:
        """Tell people, and again about the same trouble only after a while."""
        self._once(evidence, "paged_at", PAGE_AGAIN_S, lambda: self.tell_people(decision))

    def _once(self, evidence: Evidence, noted: str, again_s: float, act: Callable[[], None]) -> bool:
        """Act unless it was done within `again_s`, and return whether it was done now.

        It is noted before it is done, because a watch that takes over in between would do it too.
        """
        at = evidence.at
        last: datetime | None = getattr(evidence.probes, noted)
        if not _is_over(last, at, again_s):
            return False
        now = self.history.change(lambda now: _noting(now, noted, at) if now.watch == self.name else now)
        if now.watch != self.name:
            return False
        try:
            act()
        except RelightError:
            self.history.change(lambda now: _noting(now, noted, last))
            raise
        return True


def _noting(history: ProbeHistory, noted: str, at: datetime | None) -> ProbeHistory:
    changes: dict[str, Any] = {noted: at}
    return replace(history, **changes)


def _is_over(moment: datetime | None, now: datetime, wait_s: float) -> bool:
    return moment is None or (now - moment).total_seconds() >= wait_s


def run_prefix(epoch: int) -> str:
    """What the ids of all runs begin with that are to take `epoch`."""
    return f"epoch-{epoch}-"


def running_executions(stepfunctions: Any, state_machine_arn: str) -> Callable[[int], bool]:
    """A `runs` that asks the state machine. One for another epoch does not count: it cannot fence any more."""

    def runs(epoch: int) -> bool:
        with aws.translating():
            found = stepfunctions.list_executions(stateMachineArn=state_machine_arn, statusFilter="RUNNING")
        names = [str(item["name"]) for item in found["executions"] if item["name"].startswith(run_prefix(epoch))]
        if names:
            _log.info("recovery_runs", extra={"run_id": names[0]})
        return bool(names)

    return runs


def start_execution(stepfunctions: Any, state_machine_arn: str) -> Callable[[str, Decision, datetime], None]:
    """A `recover` that starts the state machine; starting the same run twice starts it once."""

    def start(run_id: str, decision: Decision, at: datetime) -> None:
        event = {
            "run_id": run_id,
            "next_epoch": decision.next_epoch,
            "reason": "; ".join(decision.reasons),
            "at": at.isoformat(),
        }
        try:
            with aws.translating():
                stepfunctions.start_execution(stateMachineArn=state_machine_arn, name=run_id, input=json.dumps(event))
        except ConflictError:
            _log.info("recovery_already_started", extra={"run_id": run_id})

    return start


def publish_page(sns: Any, topic_arn: str, environment: str) -> Callable[[Decision], None]:
    """A `tell_people` that writes to the incidents topic."""

    def send(decision: Decision) -> None:
        tell(
            sns,
            topic_arn,
            News(
                subject=f"Relight {environment}: nobody is served, and no recovery was started",
                text="\n".join(decision.reasons),
                keys=(key_of(environment, "unserved"),),
                severity=Severity.CRITICAL,
            ),
        )

    return send
