"""The sentinel: watch the primary for a while, and start the recovery when it is lost."""

from __future__ import annotations

import json
import logging
from dataclasses import dataclass, replace
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


def watch(
    *,
    name: str,
    urls: Mapping[str, str],
    history: HistoryStore,
    leases: LeaseStore,
    policy: Policy,
    recover: Callable[[str, Decision, datetime], None],
    runs: Callable[[int], bool],
    page: Callable[[Decision], None],
    interval_s: float,
    timeout_s: float,
    for_s: float,
    clock: Clock,
    start_again_s: float = START_AGAIN_S,
    must_work: bool = False,
) -> Watch:
    """Probe the region that holds the lease every `interval_s`, until another watch has begun, or for `for_s` seconds,
    and act on what is decided.

    Between the last look of a watch and the first of the one that took over, no more time passes than between any two:
    a watch looks on until the other has looked, and what both saw is counted once. `name` is this one's alone.

    With `must_work`, for active-active, an answer counts only when it says that the region works: one that has lost its
    right to act may serve reads on.

    Returns early when a recovery was started. Started again, or paged again about the same trouble, it is only after a
    while, and no recovery as long as one for the same epoch runs, which `runs` says: it may try again what passes, or
    wait for a person. A passing error of the lease's own store costs one look and not the watch.
    """
    looks = False

    def look() -> Watch:
        """Look once, act on what is decided, and say how the watch would end with it."""
        nonlocal looks
        found = leases.read()
        region = found[0].region if found else policy.primary_region
        evidence = gather(
            url=urls[region],
            region=region,
            history=history,
            lease=found[0] if found else None,
            timeout_s=timeout_s,
            clock=clock,
            watch=name,
            takes_over=not looks,
            must_work=must_work,
        )
        if evidence is None:
            return Watch(verdict=Verdict.HOLD, probes=count, reasons=("another watch has taken over",), is_over=True)
        looks = True
        decision = decide(evidence, policy)
        run_id = ""
        _log.info("decision", extra={"verdict": decision.verdict.value, "reasons": decision.reasons})
        if decision.verdict is Verdict.RECOVER and is_due(evidence.probes, evidence.at, decision.next_epoch):
            id_ = f"{run_of(decision.next_epoch)}{evidence.at:%Y%m%dT%H%M%SZ}"
            if once(
                evidence.probes, "started_at", evidence.at, start_again_s, lambda: recover(id_, decision, evidence.at)
            ):
                run_id = id_
        if decision.verdict is Verdict.PAGE:
            once(evidence.probes, "paged_at", evidence.at, PAGE_AGAIN_S, lambda: page(decision))
        return Watch(
            verdict=decision.verdict, probes=count, reasons=decision.reasons, run_id=run_id, is_over=bool(run_id)
        )

    def is_due(probes: ProbeHistory, at: datetime, epoch: int) -> bool:
        return _is_over(probes.started_at, at, start_again_s) and not runs(epoch)

    def once(probes: ProbeHistory, noted: str, at: datetime, again_s: float, act: Callable[[], None]) -> bool:
        """Act unless it was done within `again_s`, and return whether it was done now.

        It is noted before it is done, because a watch that takes over in between would do it too.
        """
        last: datetime | None = getattr(probes, noted)
        if not _is_over(last, at, again_s):
            return False
        now = history.change(lambda now: _noting(now, noted, at) if now.watch == name else now)
        if now.watch != name:
            return False
        try:
            act()
        except RelightError:
            history.change(lambda now: _noting(now, noted, last))
            raise
        return True

    began = clock.monotonic()
    count = 0
    while True:
        count += 1
        try:
            done = look()
        except TransientError as exc:
            _log.warning("look_failed", extra={"error": str(exc)})
            done = Watch(verdict=Verdict.HOLD, probes=count, reasons=("the lease could not be read",))
        next_at = count * interval_s
        if done.is_over or next_at >= for_s:
            return done
        clock.sleep(began + next_at - clock.monotonic())


def _noting(history: ProbeHistory, noted: str, at: datetime | None) -> ProbeHistory:
    changes: dict[str, Any] = {noted: at}
    return replace(history, **changes)


def _is_over(moment: datetime | None, now: datetime, wait_s: float) -> bool:
    return moment is None or (now - moment).total_seconds() >= wait_s


def run_of(epoch: int) -> str:
    """What the ids of all runs begin with that are to take `epoch`."""
    return f"epoch-{epoch}-"


def running_executions(stepfunctions: Any, state_machine_arn: str) -> Callable[[int], bool]:
    """A `runs` that asks the state machine. One for another epoch does not count: it cannot fence any more."""

    def runs(epoch: int) -> bool:
        with aws.translating():
            found = stepfunctions.list_executions(stateMachineArn=state_machine_arn, statusFilter="RUNNING")
        names = [str(item["name"]) for item in found["executions"] if item["name"].startswith(run_of(epoch))]
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
    """A `page` that writes to the incidents topic."""

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
